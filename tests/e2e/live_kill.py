#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A machine that never stops writing, killed in the middle of work on its
disk: live_kill.py ATOLL GUEST_ELF TIMES [SEED].

Every time: the path leads to an image that is whole, and it holds all that the
guest had flushed. Then the machine starts again from it.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from live_guest import (Guest, header_chain, is_moment, newest, whole,
                        wrong_slots)

atoll, elf, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 32)
work = tempfile.mkdtemp(prefix="lk-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
path = work + "/k.qcow2"
dice = random.Random(seed)
passed = failed = 0


def check(what, good, more=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print("FAIL", what, more, flush=True)
    return good


def disk(verb, *words, wait=False):
    run = subprocess.run if wait else subprocess.Popen
    return run([atoll, "disk", verb, "k:vda", *words], env=env,
               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
               stderr=subprocess.DEVNULL)


def jobs(n):
    """What is under way when it is killed; and what was before."""
    def snapshot():
        return disk("snapshot", "--name", f"n{n}")

    def commit():
        disk("snapshot", "--name", f"n{n}", wait=True)
        return disk("commit", "--all")

    def slow_commit():
        disk("snapshot", "--name", f"n{n}", wait=True)
        time.sleep(0.3)  # it has something to merge then
        return disk("commit", "--rate", "8M")

    def middle():
        disk("snapshot", "--name", f"n{n}a", wait=True)
        disk("snapshot", "--name", f"n{n}b", wait=True)
        return disk("commit", "--layer", "1")

    def mirror():
        return disk("mirror", f"{work}/m{n}.qcow2", "--pivot")

    def backup():
        return disk("backup", f"{work}/b{n}.qcow2")

    def rebase():
        disk("snapshot", "--name", f"n{n}a", wait=True)
        disk("snapshot", "--name", f"n{n}b", wait=True)
        return disk("rebase", *dice.choice([["--layer", "2"], []]),
                    *dice.choice([["--rate", "32M"], []]))

    return dice.choice([snapshot, commit, slow_commit, middle, mirror, backup,
                        rebase])


def inspect(what, guest, least):
    """All that was flushed is there, and perhaps the write under way. The guest
    may have gone on after what its terminal said last: each write was flushed
    before the next; by far, if who had not passed that on yet was killed."""
    for image in header_chain(path):
        result = subprocess.run([*tool, "check", image], text=True,
                                capture_output=True, check=False)
        # 3: clusters that nobody needs. They cost room, no more.
        check(f"{what}: clean {image}", result.returncode in (0, 3), result)
    raw = whole(path, "qcow2", work, tool)
    if guest.slots:
        last = newest(raw, guest.slots, least)
        wrong = wrong_slots(raw, guest.slots, last, last + 1)
        if wrong and is_moment(raw, guest.slots, least):
            wrong = []
        check(f"{what}: all {least} flushed are there", not wrong, wrong[:4])
    os.unlink(raw)


def round_of(n):
    guest = Guest(atoll, elf, env, path + ",format=qcow2", "k")
    if not check("it starts", guest.wait(lambda: guest.flushed >= 5),
                 guest.said):
        guest.kill()
        print(guest.errors)
        return
    job = jobs(n)
    asker = job()
    time.sleep(dice.random() ** 2 * 0.4)
    guest.kill(starter=dice.random() < 0.25)
    asker.wait()
    check("what it read was right", not guest.said, guest.said)
    inspect(f"{n} {job.__name__}", guest, guest.flushed)
    if len(header_chain(path)) > 8 or dice.random() < 0.1:
        fresh()


def fresh():
    """A new image, and nothing of the old ones."""
    for name in os.listdir(work):
        if os.path.isfile(f"{work}/{name}") or os.path.islink(f"{work}/{name}"):
            os.unlink(f"{work}/{name}")
    subprocess.run([atoll, "disk", "create", path, "16M"], check=True)


fresh()
for i in range(times):
    round_of(i)
shutil.rmtree(work)
print(f"seed {seed}\n{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
