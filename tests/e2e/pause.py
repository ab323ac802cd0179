#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a machine stands still for a snapshot when all of its memory is in
use and written to all the time, and whether what was saved is one moment of it:
pause.py ATOLL GUEST_ELF.

The guest (tests/guest/dirty.c) knows a mixture of two moments when it sees one.
What counts is the best of some tries, and where others use this processor, too,
they get their share: a standstill takes as many times longer.
"""
import atexit
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from live_guest import LIMIT, ask

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="pa-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
TRIES = 5


class Machine:
    def __init__(self, *words):
        self.vm = subprocess.Popen(
            [atoll, "run", "--timeout", "900", *words], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=env)
        atexit.register(self.vm.kill)
        self.news = threading.Condition()
        self.pages, self.wrong, self.ended = 0, None, False
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.vm.stdout:
            with self.news:
                if line.strip().isdigit():
                    self.pages += int(line)
                elif b"wrong" in line:
                    self.wrong = int(line.split()[0])
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_for(self, what):
        with self.news:
            return self.news.wait_for(lambda: self.ended or what(), LIMIT)

    def writes(self, pages):
        until = self.pages + pages
        return self.wait_for(lambda: self.pages > until)

    def same(self):
        """Is its memory that of one moment?"""
        self.vm.stdin.write(b"v")
        self.vm.stdin.flush()
        self.wait_for(lambda: self.wrong is not None)
        return self.wrong == 0

    def end(self):
        self.vm.stdin.write(b"q")
        self.vm.stdin.flush()
        self.vm.wait(LIMIT)


def boot(engine, memory):
    vm = Machine("--name", "m", "--engine", engine, "--cpus", "2", "--memory",
                 memory, "--kernel", elf, "--device", "debug-exit", "--net",
                 "none")
    vm.writes(1000)
    return vm


def snapshot(memory, path=work + "/one"):
    """Milliseconds of standstill."""
    with socket.socket(socket.AF_UNIX) as sock, open(path, "w+b") as f:
        sock.connect(work + "/r/named/m.sock")
        answer = ask(sock, {"op": "snapshot", "file": 0, "memory": memory,
                            "disks": []}, f.fileno())
    assert answer["ok"], answer
    return answer["pause_us"] / 1000


def restored(form):
    vm = Machine("--name", "then", "--restore", work + "/one")
    vm.writes(1)
    # Of a packed one, memory is still being read.
    end_copy(copy_of("early", "then")[0])
    check(f"{form}: what was saved is one moment", vm.same(), vm.wrong)
    vm.end()


def best(most, pause, before=lambda: None):
    """Of some tries, as long as none was good enough."""
    pauses = []
    while len(pauses) < TRIES and (not pauses or min(pauses) > most):
        before()
        pauses.append(pause())
    return pauses


def limit():
    """100 ms of a processor's time."""
    return 100 * max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def short_enough(what, pauses):
    check(f"{what}: at most 100 ms", min(pauses) <= limit(),
          (pauses, limit()))
    print(f"{what}: {', '.join(f'{p:.1f}' for p in pauses)} ms")


def end_copy(pid):
    try:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


def copy_of(name, of="m"):
    """Its process, which stands still, and milliseconds of standstill."""
    made = subprocess.run(
        [atoll, "fork", "--json", "--rm", "--name", name, of], env=env,
        check=True, capture_output=True, timeout=LIMIT)
    said = json.loads(made.stdout)
    pid = said["copies"][0]["pid"]
    # Not even a test that fails leaves it running.
    atexit.register(end_copy, pid)
    os.kill(pid, signal.SIGSTOP)
    return pid, said["pause_us"] / 1000


def copied_again(names=iter(range(99))):
    """Another copy while one lives."""
    pid, pause = copy_of(f"again{next(names)}")
    end_copy(pid)
    return pause


def sizes(engine):
    """The first standstill is as short with much memory as with little."""
    def first(memory):
        vm = boot(engine, memory)
        pause = snapshot("plain")
        vm.end()
        return pause
    little = best(1, lambda: first("64M"))
    much = best(8, lambda: first("512M"))
    check(f"{engine}: it does not grow with the size",
          min(much) <= 8 + 2 * min(little), (little, much))
    print(f"{engine}: stood still for {min(little):.1f} ms with 64 MiB, "
          f"{min(much):.1f} with 512")


def again(engine, mib):
    """What it wrote since the last one, most of its memory, does not count."""
    vm = boot(engine, f"{mib}M")
    most = mib * 200
    for form in "packed", "plain":
        short_enough(f"{engine}, {form}", best(
            100, lambda: snapshot(form), lambda: vm.writes(most)))
        restored(form)
    copy = copy_of("copy")[0]
    vm.writes(most)
    short_enough(f"{engine}, with a copy", best(
        100, lambda: snapshot("plain"), lambda: vm.writes(most)))
    restored("with a copy")
    short_enough(f"{engine}, another copy", best(
        100, copied_again, lambda: vm.writes(most)))
    end_copy(copy)
    vm.writes(most)
    snapshot("plain")
    restored("without it")
    check(f"{engine}: it is the same machine", vm.same(), vm.wrong)
    vm.end()


for one, size in ("bt", 256), ("interp", 128):
    sizes(one)
    again(one, size)
shutil.rmtree(work)
sum_up()
