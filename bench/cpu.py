# SPDX-License-Identifier: Apache-2.0
"""The time that processes have had of the processor."""
import os
import pathlib

TICK = os.sysconf("SC_CLK_TCK")


def processes(pid):
    """pid and its descendants."""
    found = [pid]
    for p in found:
        for task in pathlib.Path(f"/proc/{p}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                pass
    return found


def cpu_seconds(pid, system=False):
    """User time, or with system time, of pid and its descendants so far."""
    total = 0
    for p in processes(pid):
        try:
            text = pathlib.Path(f"/proc/{p}/stat").read_text()
        except OSError:
            continue
        words = text.rpartition(")")[2].split()
        total += int(words[11]) + (int(words[12]) if system else 0)
    return total / TICK
