#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A snapshot in the middle of a tree is deleted, and the command killed before
each system call that changes anything: the tree is whole every time, and the
next try ends the work. snapshot_kill.py ATOLL"""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

atoll = sys.argv[1]
work = tempfile.mkdtemp(prefix="sk-")
folder = work + "/named/m/snapshots"
env = dict(os.environ, ATOLL_STATE_DIR=work, ATOLL_RUNTIME_DIR=work + "/r")
PARENTS = {"s1": None, "s2": "s1", "s3": "s2", "s4": "s2", "s5": "s3"}
WHOLE = {"s1": None, "s3": "s1", "s4": "s1", "s5": "s3"}
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                        ctypes.c_void_p]
TRACEME, PEEKUSER, SYSCALL, SETOPTIONS = 0, 3, 24, 0x4200
SYSGOOD_EXITKILL = 1 | 1 << 20
ORIG_RAX = 15 * 8
# write, fsync, ftruncate, rename, mkdir, rmdir, unlink, openat, unlinkat,
# renameat2 (x86-64)
CHANGES = {1, 74, 77, 82, 83, 84, 87, 257, 263, 316}


def make():
    shutil.rmtree(folder, ignore_errors=True)
    for time, (name, parent) in enumerate(PARENTS.items()):
        os.makedirs(f"{folder}/{name}")
        for part in "state", "disk0":
            with open(f"{folder}/{name}/{part}", "w", encoding="utf-8") as f:
                f.write(name + part)
        with open(f"{folder}/{name}/snapshot.json", "w",
                  encoding="utf-8") as f:
            json.dump({"name": name, "parent": parent, "time": time,
                       "disks": []}, f)
    with open(folder + "/current.json", "w", encoding="utf-8") as f:
        json.dump({"name": "s2"}, f)


def delete(kill_before):
    """The nth change is not done; None when it came to its end before."""
    pid = os.fork()
    if pid == 0:
        libc.ptrace(TRACEME, 0, None, None)
        os.execve(atoll, [atoll, "snapshot", "delete", "m", "s2"], env)
    os.waitpid(pid, 0)
    libc.ptrace(SETOPTIONS, pid, None, SYSGOOD_EXITKILL)
    entering, changes = True, 0
    while True:
        libc.ptrace(SYSCALL, pid, None, None)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return status
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            continue
        if entering and libc.ptrace(PEEKUSER, pid, ORIG_RAX, None) in CHANGES:
            changes += 1
            if changes == kill_before:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
        entering = not entering


def listed():
    done = subprocess.run([atoll, "snapshot", "list", "--json", "m"], env=env,
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def parents(all_of):
    return {n: s["parent"] for n, s in all_of["snapshots"].items()}


def look(n):
    """What is wrong, or nothing."""
    now = listed()
    tree = parents(now)
    missing = set(WHOLE) - set(tree)
    if missing:
        return f"{n}: {missing} gone"
    for name, parent in tree.items():
        if parent is not None and parent not in tree:
            return f"{n}: {name} hangs on {parent}, which is gone"
        for part in "state", "disk0":
            path = f"{folder}/{name}/{part}"
            with open(path, encoding="utf-8") as f:
                if f.read() != name + part:
                    return f"{n}: {path} is another"
    if now["current"] not in tree:
        return f"{n}: goes on from {now['current']}, which is gone"
    subprocess.run([atoll, "snapshot", "delete", "m", "s2"], env=env,
                   capture_output=True, check=False)
    after = listed()
    if parents(after) != WHOLE or after["current"] != "s1":
        return f"{n}: afterwards {after}"
    left = set(os.listdir(folder)) - set(WHOLE) - {"current.json"}
    return f"{n}: {left} left" if left else None


def main():
    n, bad = 1, []
    while True:
        make()
        ended = delete(n)
        wrong = look(n)
        if wrong:
            bad.append(wrong)
            print("FAIL", wrong)
        if ended is not None:
            break
        n += 1
    if ended != 0:
        bad.append("it failed")
    shutil.rmtree(work)
    print(f"killed before {n - 1} changes: {n - len(bad)} passed, "
          f"{len(bad)} failed")
    # Fewer would say that it was never traced.
    return bool(bad) or n < 15


sys.exit(main())
