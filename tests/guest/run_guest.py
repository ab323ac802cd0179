#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run one guest program under one engine:
run_guest.py ATOLL ENGINE CPUS ELF [OPTION]...

Options are atoll run's; DISK is the name of a disk of 1 MiB, which must have
that size afterwards. Exit 77 (skipped) when the host can't run the engine.
"""
import os
import subprocess
import sys
import tempfile

GOOD = 1  # debug-exit of 0: (0 << 1) | 1
TRIPLE_FAULT = 16
# A sanitizer makes all of it slower: tools/run-tests says how much.
LIMIT = 200 * int(os.environ.get("ATOLL_SLOWER", "1"))

atoll, engine, cpus, elf = sys.argv[1:5]
disk = tempfile.NamedTemporaryFile()
disk.truncate(1 << 20)
options = [o if o != "DISK" else disk.name for o in sys.argv[5:]]
run = subprocess.run(
    [atoll, "run", "--engine", engine, "--cpus", cpus, "--memory", "64M",
     "--kernel", elf, "--device", "debug-exit", "--serial", "stdio",
     "--timeout", str(LIMIT), *(options or ["--net", "none"])],
    stdin=subprocess.DEVNULL, capture_output=True, text=True,
    timeout=LIMIT + 30, check=False)
print(run.stdout, run.stderr, sep="")
if engine == "kvm" and "kvm" in run.stderr and run.returncode == 1 and \
        "hello" not in run.stdout and "error:" in run.stderr:
    print("no usable /dev/kvm here; tests/nested runs this list under kvm")
    sys.exit(77)
want = TRIPLE_FAULT if elf.endswith("triple.elf") else GOOD
# An error of atoll's own is 1, too.
if run.returncode == GOOD and "error:" in run.stderr:
    print("it did not run")
    sys.exit(1)
if run.returncode != want:
    print(f"exit code {run.returncode}, not {want}")
    sys.exit(1)
if os.path.getsize(disk.name) != 1 << 20:
    print("the disk has another size")
    sys.exit(1)
