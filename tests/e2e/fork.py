#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies of a running machine: fork.py ATOLL GUEST_ELF [COUNT], with COUNT so
many at once of one with 512 MiB, and no more than that.

Each has memory, an address and a generation of its own (tests/guest/fork.c);
neither what one writes nor its sudden death is noticed by another.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

atoll, elf = sys.argv[1:3]
many = int(sys.argv[3]) if len(sys.argv) > 3 else 0
work = tempfile.mkdtemp(prefix="fk-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
LIMIT = 100
passed = failed = 0


def check(what, good, more=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("ok  " if good else "FAIL", what, "" if good else more, flush=True)


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


class First:
    """The machine in the foreground that is copied."""

    def __init__(self, name, *more, memory="128M"):
        self.name = name
        self.vm = subprocess.Popen(
            [atoll, "run", "--name", name, "--memory", memory, "--kernel",
             elf, "--device", "debug-exit", "--timeout", "200", *more], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        assert self.vm.stdout.readline() == b"ready\n", self.vm.stderr.read()

    def ask(self, what):
        self.vm.stdin.write(what.encode())
        self.vm.stdin.flush()
        return self.vm.stdout.readline().decode().strip()

    def end(self):
        self.vm.stdin.write(b"q")
        self.vm.stdin.flush()
        self.vm.stdin.close()
        return self.vm.wait(LIMIT)


class Copy:
    def __init__(self, found):
        self.name, self.pid = found["name"], found["pid"]
        self.folder = f"{work}/s/named/{self.name}"
        self.seen = 0

    def ask(self, what):
        with open(self.folder + "/console.in", "w") as f:
            f.write(what)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            lines = open(self.folder + "/console.log").read().split("\n")
            if len(lines) > self.seen + 1:
                self.seen += 1
                return lines[self.seen - 1]
            time.sleep(0.01)
        return "nothing"

    def gone(self):
        """Its name is free again."""
        path = f"{work}/r/named/{self.name}.sock"
        end = time.monotonic() + LIMIT
        while os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.02)
        return not os.path.exists(path)

    def end(self):
        with open(self.folder + "/console.in", "w") as f:
            f.write("q")
        return self.gone()


def fork(name, *more):
    done = command("fork", "--json", *more, name)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [Copy(c) for c in found["copies"]], found["pause_us"]


def apart(engine):
    first = First("one", "--engine", engine)
    first.ask("w1")
    copies, pause = fork("one", "--count", "3", "--name", "a")
    print(f"{engine}: stood still for {pause / 1000} ms")
    check("names", [c.name for c in copies] == ["a-1", "a-2", "a-3"])
    check("all have what it had", {c.ask("r") for c in copies} == {"31"})
    for i, c in enumerate(copies):
        check("writes", c.ask(f"w{chr(65 + i)}") == "written")
    check("each its own", [c.ask("r") for c in copies] == ["41", "42", "43"])
    check("the first its own", first.ask("r") == "31")
    check("the first writes", first.ask("w2") == "written")
    check("no copy sees that", [c.ask("r") for c in copies] ==
          ["41", "42", "43"])
    for what, name in ("m", "addresses"), ("v", "generations"):
        said = [x.ask(what) for x in [first, *copies]]
        check(name, len(set(said)) == 4 and "" not in said, said)
    # A moment later, and of a copy.
    later, _ = fork("one", "--name", "b")
    deeper, _ = fork("a-2", "--name", "c", "--count", "2")
    check("of a later moment", later[0].ask("r") == "32")
    check("copies of a copy", [c.ask("r") for c in deeper] == ["42", "42"])
    deeper[0].ask("wZ")
    os.kill(copies[1].pid, signal.SIGKILL)
    check("one is killed", copies[1].gone())
    check("its copies go on", [c.ask("r") for c in deeper] == ["5a", "42"])
    check("and the others", [c.ask("r") for c in (copies[0], copies[2])] ==
          ["41", "43"] and first.ask("r") == "32")
    again, _ = fork("one", "--name", "d")
    check("once more", again[0].ask("r") == "32")
    os.kill(first.vm.pid, signal.SIGKILL)
    first.vm.wait()
    alive = [copies[0], copies[2], *later, *deeper, *again]
    check("without the first", [c.ask("r") for c in alive] ==
          ["41", "43", "32", "5a", "42", "32"])
    for c in alive:
        check("ends", c.end())
    check("its console stays", os.path.exists(copies[0].folder +
                                              "/console.log"))


def disposable():
    first = First("two", "--net", "none")
    copies, _ = fork("two", "--rm", "--count", "2")
    done = command("snapshot", "create", copies[0].name, "s")
    check("a snapshot of one", done.returncode == 0, done.stderr)
    taken = command("fork", "two")
    check("a name that is taken", taken.returncode == 1 and
          "runs already" in taken.stderr, taken.stderr)
    check("and nothing else happened", first.ask("r") == "30")
    for c in copies:
        check("ends", c.end())
    end = time.monotonic() + LIMIT
    while os.path.exists(copies[0].folder) and time.monotonic() < end:
        time.sleep(0.02)
    check("nothing is left", not os.path.exists(copies[0].folder))
    gone = command("fork", "nobody")
    check("of none", gone.returncode == 1 and "no machine named" in
          gone.stderr, gone.stderr)
    first.end()


def put_away():
    """A copy is suspended, and goes on, as any machine."""
    first = First("three", "--net", "none")
    copies, _ = fork("three")
    copies[0].ask("w5")
    done = command("suspend", copies[0].name)
    check("suspend one", done.returncode == 0 and copies[0].gone(),
          done.stderr)
    vm = subprocess.Popen([atoll, "resume", copies[0].name],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=env)
    vm.stdin.write(b"r")
    vm.stdin.flush()
    check("it goes on", vm.stdout.readline() == b"35\n")
    vm.stdin.write(b"q")
    vm.stdin.close()
    vm.wait(LIMIT)
    first.end()


def has_path():
    """A disk that the machine writes to and that has a name stays its own."""
    disk = work + "/disk.raw"
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    first = First("four", "--net", "none", "--disk", disk)
    done = command("fork", "four")
    check("a disk with a name", done.returncode == 1 and
          "which has a name" in done.stderr, done.stderr)
    check("it goes on", first.ask("r") == "30")
    first.end()


def private(pid):
    """MiB that it has for itself."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        for row in f:
            if row.startswith("Private_Dirty:"):
                return int(row.split()[1]) / 1024
    return 0


def at_once(count):
    """They are there, each its own; and what they cost."""
    first = First("one", "--net", "none", memory="512M")
    begin = time.monotonic()
    copies, pause = fork("one", "--rm", "--count", str(count))
    took = (time.monotonic() - begin) * 1000
    check("as many as were wanted", len(copies) == count)
    own = sorted(private(c.pid) for c in copies)
    print(f"{count} copies of 512 MiB: {took:.0f} ms, {took / count:.1f} ms "
          f"each; stood still for {pause / 1000:.1f} ms; private MiB each: "
          f"median {own[count // 2]:.1f}, most {own[-1]:.1f}")
    check("they share its memory", own[count // 2] < 6, own)
    said = [f"{ord('0') + i % 64:02x}" for i in range(count)]
    check("all write", {c.ask("w" + chr(ord("0") + i % 64))
                        for i, c in enumerate(copies)} == {"written"})
    check("each its own", [c.ask("r") for c in copies] == said)
    check("the first its own", first.ask("r") == "30")
    check("all end", all([c.end() for c in copies]))
    first.end()


if many:
    at_once(many)
else:
    apart("bt")
    apart("interp")
    disposable()
    put_away()
    has_path()
subprocess.run(["rm", "-rf", work], check=False)
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
