#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The image of a running machine cut short, deleted, replaced or closed to
everybody: disk_lost.py ATOLL GUEST_ELF.

The guest never stops writing, reads what it wrote, and ends at the first I/O
error. Raw and qcow2.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from live_guest import Guest, whole, wrong_slots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="lost-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s",
           ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
LOST_WRITES = 21


def content(path):
    with open(path, "rb") as f:
        return f.read()


def boot(what, fmt):
    """A guest that has written for a while, and its image."""
    path = f"{work}/{what}.{fmt}"
    subprocess.run([atoll, "disk", "create", path, "64M", "--format", fmt],
                   check=True, capture_output=True, env=env)
    guest = Guest(atoll, elf, env, f"{path},format={fmt}", f"{what}-{fmt}")
    check(f"{fmt}, {what}: it runs", guest.goes_on(), guest.said)
    return guest, path


def ended(what, guest, code, got, words):
    more = (got, guest.said, guest.errors)
    check(f"{what}: the end", got == code, more)
    check(f"{what}: in words", words in guest.errors, more)


def cut_short(fmt):
    # A write whose look at the length was just before may still come after.
    for last in False, False, False, True:
        guest, path = boot("cut-short", fmt)
        os.truncate(path, 200 << 10)
        code = guest.done()  # by itself
        if last or os.path.getsize(path) == 200 << 10:
            break
        os.unlink(path)
    check(f"{fmt}, cut short: the guest sees an error", guest.said, code)
    ended(f"{fmt}, cut short", guest, LOST_WRITES, code,
          "disk 1: its file was cut short")
    check(f"{fmt}, cut short: it did not grow again",
          os.path.getsize(path) == 200 << 10, os.path.getsize(path))


def replaced(fmt):
    guest, path = boot("replaced", fmt)
    other = os.urandom(1 << 20)
    with open(path + ".new", "wb") as f:
        f.write(other)
    os.rename(path + ".new", path)
    check(f"{fmt}, replaced: the guest goes on", guest.goes_on(), guest.said)
    ended(f"{fmt}, replaced", guest, LOST_WRITES, guest.end(),
          "disk 1: its file was deleted, and with it all that was written")
    check(f"{fmt}, replaced: the other file is as it was",
          content(path) == other)


def deleted(fmt):
    guest, path = boot("deleted", fmt)
    os.unlink(path)
    check(f"{fmt}, deleted: the guest goes on", guest.goes_on(), guest.said)
    ended(f"{fmt}, deleted", guest, LOST_WRITES, guest.end(),
          "disk 1: its file was deleted, and with it all that was written")
    check(f"{fmt}, deleted: nothing is in its place",
          not os.path.exists(path))


def closed(fmt):
    """No harm: the machine has it open already. Nor has moving it."""
    guest, path = boot("closed", fmt)
    os.chmod(path, 0)
    os.rename(path, path + ".moved")
    check(f"{fmt}, closed: the guest goes on", guest.goes_on(), guest.said)
    code = guest.end()
    check(f"{fmt}, closed: the end", code == 1 and "disk 1" not in
          guest.errors, (code, guest.said, guest.errors))
    os.chmod(path + ".moved", 0o600)
    wrong = wrong_slots(whole(path + ".moved", fmt, work, tool), guest.slots,
                        guest.flushed)
    check(f"{fmt}, closed: all is there", not wrong, wrong[:4])


try:
    for kind in ("raw", "qcow2"):
        cut_short(kind)
        replaced(kind)
        deleted(kind)
        closed(kind)
finally:
    shutil.rmtree(work, ignore_errors=True)
sum_up()
