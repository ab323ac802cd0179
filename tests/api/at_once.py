#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever a daemon is asked for its machines, at the same time, in rounds
that follow from a seed:
at_once.py ATOLLD ATOLL GUEST TURNS SECONDS [SEED [FOLDER]].

Machines never stop writing (tests/guest/disk.c). Each round two to four
clients want something of them, their disks, snapshots, copies and images at
once, by REST or by the command line, each delayed at its own calls (turns.c);
now and then the daemon is killed and started again, or a machine, its holder,
or who does the work. Then each request is done or was refused in words, no
task is left, what was made is a whole moment of the disk, folders, registry
and processes tell the same, images' headers name what machines have open, all
that was flushed is there, and all machines go on. A seed says what is done,
not how its steps fall: where one fails, try it again.
"""
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from checks import check, any_failed, sum_up  # noqa: E402
from at_once_asks import some_ask  # noqa: E402
from at_once_world import World  # noqa: E402

SECONDS = float(sys.argv[5])
SEED = int(sys.argv[6]) if len(sys.argv) > 6 else random.randrange(1 << 32)
# In memory: who comes first is the matter here, not how long a flush takes.
FOLDER = sys.argv[7] if len(sys.argv) > 7 else (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def killing(world, dice):
    """Who is killed in the middle, if anybody."""
    what = dice.random()
    if what < 0.14:
        return "daemon"
    if what < 0.19:
        return "vm"
    if what < 0.22:
        return "holder"
    if what < 0.32:
        return "worker"
    return None


def round_of(world, number):
    dice = random.Random(f"{SEED}:{number}")
    world.begin_round()
    asks = [some_ask(world, dice) for _ in range(dice.choice([2, 2, 3, 3, 4]))]
    kill = killing(world, dice)
    for a in asks:
        a.start(dice)
        time.sleep(dice.random() * 0.03)
    if kill:
        time.sleep(dice.random() ** 2 * 0.5)
        kill = world.kill(kill, dice)
    for a in asks:
        a.end()
    print(f"round {number}{' kill ' + kill if kill else ''}:",
          *(f"\n    {a}" for a in asks), flush=True)
    world.judge(asks, kill, dice)


def main():
    tempfile.tempdir = FOLDER
    world = World(*(os.path.abspath(p) for p in sys.argv[1:5]),
                  random.Random(SEED))
    print("seed", SEED, "in", world.work, flush=True)
    number = 0
    until = time.monotonic() + SECONDS
    try:
        world.up()
        while time.monotonic() < until and not any_failed():
            round_of(world, number)
            number += 1
        if not any_failed():
            world.bury()
    finally:
        print(f"{number} rounds; seed {SEED}")
        if any_failed() or sys.exc_info()[0]:
            print(world.d.log()[-3000:], flush=True)
            world.where()
            keep = os.environ.get("AT_ONCE_KEEP")
            if keep:
                shutil.copytree(
                    world.work, keep, symlinks=True, dirs_exist_ok=True,
                    ignore=lambda at, names: [
                        n for n in names if n == "run" or n.endswith(".raw")])
        world.close()


main()
sum_up()
