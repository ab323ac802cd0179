#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks through the page cache, past it, and unsafe: disk_cache.py ATOLL ELF.

The guest never stops writing and reads what it wrote. What --disk asked for is
looked for in the flags of the open file, and what was flushed in the image.
"""
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile

from live_guest import LIMIT, Guest, whole, wrong_slots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
# Beside the build: file systems in memory know no O_DIRECT.
work = tempfile.mkdtemp(prefix="cache-", dir=os.path.dirname(elf))
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s",
           ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]


def flags(pid, wanted):
    """Of the descriptor that the machine has of such a file."""
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if wanted(fd):
                info = pathlib.Path(f"/proc/{pid}/fdinfo/{fd.name}")
                return int(info.read_text().split("flags:")[1].split()[0], 8)
        except OSError:
            pass
    return None


def direct_works():
    path = work + "/try"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        return True
    except OSError:
        return False


def direct_as_asked(what, cache, pid, wanted):
    has = flags(pid, wanted)
    check(f"{what}: O_DIRECT or not",
          has is not None and bool(has & os.O_DIRECT) == (cache == "none"),
          has)


def atoll_does(what, *words):
    done = subprocess.run([atoll, *words], env=env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, check=False)
    check(what, done.returncode == 0, done)
    return done.stdout


def what_follows(what, cache, guest, name, path):
    """Images that take the disk's place, and those of copies."""
    def is_disk(fd):
        return fd.stat().st_ino == os.stat(path).st_ino

    atoll_does(f"{what}: snapshot", "disk", "snapshot", name + ":vda")
    direct_as_asked(f"{what}: snapshot", cache, guest.worker(), is_disk)
    check(f"{what}: it goes on", guest.goes_on(), guest.said)
    atoll_does(f"{what}: merge", "disk", "commit", name + ":vda")
    direct_as_asked(f"{what}: merge", cache, guest.worker(), is_disk)
    said = atoll_does(f"{what}: fork", "fork", "--rm", "--json", "--name",
                      name + "-copy", name)
    pid = json.loads(said)["copies"][0]["pid"]
    direct_as_asked(f"{what}: fork", cache, guest.worker(), is_disk)
    direct_as_asked(f"{what}: copy", cache, pid, lambda fd: re.search(
        r"/overlay\.\d+ \(deleted\)$", os.readlink(fd)))
    # Until it has ended, it holds locks of the images that both lie on.
    watch = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    check(f"{what}: the copy ends", select.select([watch], [], [], LIMIT)[0])
    os.close(watch)
    check(f"{what}: it still goes on", guest.goes_on(), guest.said)


def one(fmt, cache):
    what = f"{fmt}, {cache}"
    path = f"{work}/{cache}.{fmt}"
    subprocess.run([atoll, "disk", "create", path, "64M", "--format", fmt],
                   check=True, capture_output=True, env=env)
    guest = Guest(atoll, elf, env, f"{path},format={fmt},cache={cache}",
                  f"{cache}-{fmt}")
    check(f"{what}: it writes", guest.goes_on(), guest.said)
    direct_as_asked(what, cache, guest.worker(),
                    lambda fd: fd.stat().st_ino == os.stat(path).st_ino)
    if fmt == "qcow2":
        what_follows(what, cache, guest, f"{cache}-{fmt}", path)
    code = guest.end()
    check(f"{what}: what it read was right", code == 1,
          (code, guest.said, guest.errors))
    wrong = wrong_slots(whole(path, fmt, work, tool), guest.slots,
                        guest.flushed)
    check(f"{what}: all is there", not wrong, wrong[:4])


try:
    modes = ["writeback", "unsafe"]
    if direct_works():
        modes.append("none")
    else:
        print("no O_DIRECT on this file system: cache=none is not tried")
    for kind in ("raw", "qcow2"):
        for mode in modes:
            one(kind, mode)
    bad = subprocess.run(
        [atoll, "run", "--kernel", elf, "--disk", f"{work}/none.raw,cache=x"],
        env=env, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL)
    check("no such cache", bad.returncode and "cache" in bad.stderr, bad)
finally:
    shutil.rmtree(work, ignore_errors=True)
sum_up()
