#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies killed at random moments: copy_kill.py ATOLL ATOLL_HOLD ELF TIMES
[SEED].

Nothing is left of one that was killed, and what was there before is as it was.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from live_guest import LIMIT, Guest, wait_until, whole, wrong_moment

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, hold, elf = (os.path.abspath(p) for p in sys.argv[1:4])
times = int(sys.argv[4])
seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 32)
dice = random.Random(seed)
work = tempfile.mkdtemp(prefix="ck-")
env = dict(os.environ, XDG_DATA_HOME=work + "/data",
           ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
images = work + "/data/atoll/images"
out = work + "/out"
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
         "stderr": subprocess.DEVNULL}


def start(*words):
    return subprocess.Popen([atoll, *words], env=env, start_new_session=True,
                            **QUIET)


def run(*words):
    done = subprocess.run([atoll, *words], env=env, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)
    assert done.returncode == 0, done
    return done.stdout


def read(path):
    with open(path, "rb") as f:
        return f.read()


def all_of(folder):
    """Every name below it, with what that holds."""
    return {os.path.join(at, n): read(os.path.join(at, n))
            for at, _, names in os.walk(folder) for n in names
            if not os.path.islink(os.path.join(at, n))}


def took(*words):
    begin = time.monotonic()
    run(*words)
    return time.monotonic() - begin


def killed(words, most):
    """Whether it was, rather than ended."""
    process = start(*words)
    time.sleep(dice.random() * most)
    process.kill()
    return process.wait(LIMIT) == -signal.SIGKILL


def copies(what, words, target):
    """To a new file, and in place of one that is there."""
    new = f"{out}/new{target}"
    most = took(*words(new)) * 1.1
    os.unlink(new)
    old = f"{out}/old{target}"
    with open(old, "wb") as f:
        f.write(b"old" * 1000)
    count = 0
    for n in range(times):
        # The first one may have read what it copies from a slow disk.
        most *= 1 if count or not n else 0.6
        path = dice.choice([new, old])
        before = all_of(out)
        if killed(words(path, *(["--force"] if path == old else [])), most):
            count += 1
            # Between its two last calls it has a name of ours, for the next.
            run("disk", "create", out + "/x.raw", "1M")
            os.unlink(out + "/x.raw")
            after = all_of(out)
            if path in after and after.get(path) == before.get(path):
                check(f"{what} {n}: what was there is", after == before,
                      (seed, sorted(after)))
            elif path not in after:
                check(f"{what} {n}: nothing is left", after == before,
                      (seed, sorted(after)))
        # It ended, or was killed when it was whole.
        if os.path.exists(new):
            os.unlink(new)
        with open(old, "wb") as f:
            f.write(b"old" * 1000)
    check(f"{what}: {count} of {times} were killed", count > 0)
    os.unlink(old)


def store():
    """All but the lock; the next command has looked at it."""
    run("image", "list")
    return {name: size for name, size in (
        (n, len(d)) for n, d in all_of(images).items())
            if not name.endswith("/.lock")}


def imports(raw):
    def words(name):
        return ["image", "import", raw, "--kernel", elf, "--name", name,
                "--cmdline", name]

    most = took(*words("a:1"))
    before, count = store(), 0
    for n in range(times):
        most *= 1 if count or not n else 0.6
        if not killed(words("b:1"), most):
            run("image", "delete", "b:1", "--yes")
            continue
        count += 1
        work_folder = images + "/.importing/disk.raw"
        check(f"import {n}: its disk has no name while it is a part",
              not os.path.exists(work_folder) or
              read(work_folder) == read(raw))
        after = store()
        if "b:1" in run("image", "list"):
            run("image", "delete", "b:1", "--yes")
        else:
            check(f"import {n}: nothing is left", after == before or len(
                after) == 2 * len(before), (seed, sorted(after)))
            shutil.rmtree(images)
            run(*words("a:1"))
    check(f"imports: {count} of {times} were killed", count > 0)


def full_copies():
    """A machine's own copy of an image, as the daemon has it made."""
    image = json.loads(run("image", "inspect", "a:1"))["folder"]
    disk, count, most = read(image + "/disk.raw"), 0, 0.04
    for n in range(times):
        most *= 1 if count or not n else 0.6
        folder = f"{work}/machine{n}"
        os.mkdir(folder)
        process = subprocess.Popen([hold, "--prepare", image, folder, "--full"],
                                   env=env, **QUIET)
        time.sleep(dice.random() * most)
        process.kill()
        count += process.wait(LIMIT) == -signal.SIGKILL
        check(f"full copy {n}: whole or not there", all(
            name in ("vmlinuz", "initrd", "manifest.json", "root.raw")
            for name in os.listdir(folder)) and (
                not os.path.exists(folder + "/root.raw") or
                read(folder + "/root.raw") == disk), os.listdir(folder))
        shutil.rmtree(folder)
    check(f"full copies: {count} of {times} were killed", count > 0)


def others_of(process):
    """The processes with the same words that it has left."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(entry) != process.pid and read(
                    f"/proc/{entry}/cmdline") == cmdline:
                found.append(int(entry))
        except OSError:
            continue
    return found


def last_job():
    jobs = json.loads(run("disk", "jobs", "k:vda", "--json"))
    return jobs[-1] if jobs else {"state": "none"}


def live(verb, guest, end):
    """A copy of a disk in use whose command is killed."""
    global cmdline
    path = f"{out}/{verb}.{end}.qcow2"
    least = guest.flushed
    first = start("disk", verb, "k:vda", path, "--rate", "16M")
    cmdline = b"\0".join(w.encode() for w in first.args) + b"\0"
    wait_until(lambda: last_job()["state"] == "running" and others_of(first))
    time.sleep(dice.random() * 0.3)
    check(f"{verb}: it has no name", not os.listdir(out), os.listdir(out))
    if end == "all":
        for pid in others_of(first):
            os.kill(pid, signal.SIGKILL)
    if end == "machine":
        guest.kill()
    else:
        first.kill()
    first.wait(LIMIT)
    if end == "all":
        wait_until(lambda: last_job()["state"] == "done")
        check(f"{verb}: of one with nobody to see it through nothing is left",
              not os.listdir(out), os.listdir(out))
    elif end == "machine":
        check(f"{verb}: nor of one that lost its machine", not os.listdir(out),
              os.listdir(out))
    else:
        check(f"{verb}: another sees it through", wait_until(
            lambda: os.listdir(out) == [os.path.basename(path)]),
              os.listdir(out))
        wrong = wrong_moment(whole(path, "qcow2", work, tool), guest.slots,
                             least)
        check(f"{verb}: it holds one moment", not wrong, wrong[:4])
        os.unlink(path)
    check(f"{verb}: and that one goes", wait_until(
        lambda: not others_of(first)))


def boot(disk):
    guest = Guest(atoll, elf, env, disk + ",format=qcow2", "k")
    guest.wait(lambda: guest.flushed >= 20)
    return guest


def main():
    os.mkdir(out)
    raw, qcow2 = work + "/from.raw", work + "/from.qcow2"
    with open(raw, "wb") as f:
        f.truncate(64 << 20)
        f.write(os.urandom(24 << 20))
    run("disk", "convert", raw, qcow2)
    copies("convert", lambda to, *more: [
        "disk", "convert", qcow2, to, *more], ".raw")
    copies("compressed", lambda to, *more: [
        "disk", "convert", "--compress", raw, to, *more], ".qcow2")
    copies("preallocated", lambda to, *more: [
        "disk", "create", to, "24M", "--preallocation", "full", *more],
           ".qcow2")
    imports(raw)
    copies("export", lambda to, *more: [
        "image", "export", "a:1", to, *more], ".tar")
    full_copies()
    store()
    check("nothing of them is in the store", not [
        n for n in os.listdir(images) if n.startswith(".") and n != ".lock"],
          os.listdir(images))
    run("disk", "create", work + "/k.qcow2", "16M")
    guest = boot(work + "/k.qcow2")
    guest.goes_on(300)  # all over the disk: what holds nothing is no work
    for verb in ("mirror", "backup"):
        for end in ("command", "all"):
            live(verb, guest, end)
    for verb in ("mirror", "backup"):
        live(verb, guest, "machine")
        guest = boot(work + "/k.qcow2")
    guest.kill()


try:
    main()
finally:
    shutil.rmtree(work, ignore_errors=True)
sum_up()
