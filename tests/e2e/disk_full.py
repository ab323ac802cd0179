#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No more room for what a machine writes: its disk, a copy of it, or the
machine itself: disk_full.py ATOLL GUEST_ELF.

Room is what its process may make of a file (RLIMIT_FSIZE).
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from live_guest import LIMIT, Guest, whole, wrong_slots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="df-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
LITTLE = 512 << 10


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def room(guest, size):
    """By whoever the machine's process belongs to: of others' processes even
    root needs a capability that it may lack."""
    pid = guest.worker()
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    owner = {key: int(re.search(rf"^{key}:\t(\d+)", status, re.M)[1])
             for key in ("Uid", "Gid")}
    who = {}
    if os.geteuid() == 0 and owner["Uid"] != 0:
        who = {"user": owner["Uid"], "group": owner["Gid"],
               "extra_groups": []}
    subprocess.run(["prlimit", f"--pid={pid}",
                    f"--fsize={'unlimited' if size is None else size}:"],
                   check=True, **who)


def boot(name, fmt):
    path = f"{work}/{name}.{fmt}"
    made = command("disk", "create", path, "64M", "--format", fmt)
    assert made.returncode == 0, made
    # Slow enough to be met before it has been everywhere.
    guest = Guest(atoll, elf, env, f"{path},format={fmt},iops=500", name)
    check(f"{name} runs", guest.goes_on(20), guest.said)
    return guest, path


def disk_full(fmt):
    """The guest sees errors; what it had flushed is there."""
    guest, path = boot("full-" + fmt, fmt)
    room(guest, os.path.getsize(path) if fmt == "qcow2" else LITTLE)
    code = guest.done()  # by itself, once a write fails
    check(f"{fmt}: the guest saw it", "WRITE" in " ".join(guest.said),
          (code, guest.said))
    check(f"{fmt}: and ended it", code == 3, (code, guest.errors))
    check(f"{fmt}: so did who runs it", guest.errors.count(
        "disk 1: a write failed, and the guest was told: File too large") == 1,
        guest.errors)
    if fmt == "qcow2":
        judged = subprocess.run([*tool, "check", path], text=True,
                                capture_output=True, check=False)
        check("the image is clean", judged.returncode in (0, 3, 9), judged)
    # It counts the one that failed as well.
    wrong = wrong_slots(whole(path, fmt, work, tool), guest.slots,
                        guest.flushed - 1)
    check(f"{fmt}: what was flushed is there", not wrong, wrong[:4])


def refused(what, result, words):
    check(what, result.returncode not in (0, None) and words in
          result.stderr and "error:" in result.stderr, result)


def copies_full():
    """Saved, suspended or copied to where there is no room: words, nothing is
    left, and the machine goes on."""
    guest, path = boot("copied", "raw")
    command("pause", "copied")
    room(guest, LITTLE)
    refused("snapshot", command("snapshot", "create", "copied", "s", "--fast"),
            "File too large")
    refused("suspend", command("suspend", "--fast", "copied"),
            "cannot write the saved machine: File too large")
    for verb in ("mirror", "backup"):
        result = command("disk", verb, "copied:vda", work + "/to.raw")
        refused(verb, result, f"copied:vda to {work}/to.raw: writing"
                if verb == "mirror" else "for what is overwritten meanwhile")
        check("for want of room", result.returncode == 6 and
              "File too large" in result.stderr, result)
        check("no part is left", not os.path.exists(work + "/to.raw"))
    room(guest, None)
    command("resume", "copied")
    check("it goes on", guest.goes_on(20), guest.said)
    listed = command("snapshot", "list", "copied")
    check("there is no snapshot", listed.stdout == "", listed)
    folder = work + "/s/named/copied"
    left = [os.path.join(at, n) for at, _, names in os.walk(folder)
            for n in names if n not in ("lock", "current.json")]
    check("nothing is left", left == [], left)
    made = command("snapshot", "create", "copied", "s")
    check("then it is saved", made.returncode == 0, made)
    code = guest.end()
    check("it ends well", code == 1 and not guest.said, (code, guest.said))
    wrong = wrong_slots(path, guest.slots, guest.flushed)
    check("all is there", not wrong, wrong[:4])


try:
    disk_full("raw")
    disk_full("qcow2")
    copies_full()
finally:
    shutil.rmtree(work, ignore_errors=True)
sum_up()
