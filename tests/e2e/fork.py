#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Copies of a running machine: fork.py ATOLL GUEST_ELF DISK_ELF [COUNT], with
COUNT so many at once of one with 512 MiB, and no more than that.

Each has memory, an address and a generation of its own (tests/guest/fork.c);
neither what one writes nor its sudden death is noticed by another.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from live_guest import Guest, wait_until, wrong_moment, wrong_slots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf, disk_elf = sys.argv[1:4]
many = int(sys.argv[4]) if len(sys.argv) > 4 else 0
work = tempfile.mkdtemp(prefix="fk-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r",
           XDG_DATA_HOME=work + "/data")
LIMIT = 300


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
             elf, "--device", "debug-exit", "--timeout", "900", *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
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

    def stored_to(self):
        """MiB of its guest's memory that are not those of the first."""
        kib, here = 0, False
        for line in open(f"/proc/{self.pid}/smaps"):
            if line[:1] in "0123456789abcdef":
                here = "memfd:" in line
            elif here and line.startswith("Anonymous:"):
                kib += int(line.split()[1])
        return kib / 1024

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
    # Something new, and again what it had: once it idles it has none of that
    # for itself.
    same, _ = fork("one", "--name", "s")
    check("writes", same[0].ask("wQ") == "written")
    check("in memory of its own", same[0].stored_to() > 7,
          same[0].stored_to())
    check("writes what it had", same[0].ask("w2") == "written")
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
    check("which it gives back", wait_until(
        lambda: same[0].stored_to() < 2), same[0].stored_to())
    check("and still has what it had", same[0].ask("r") == "32")
    check("ends", same[0].end())
    # What it wrote and nobody looks at is kept small, and is there for who
    # asks, of a copy of it, too.
    check("what is its own is small", wait_until(
        lambda: copies[0].stored_to() < 2), copies[0].stored_to())
    small, _ = fork("a-1", "--name", "e")
    check("a copy of what was small", small[0].ask("r") == "41")
    check("writes all over it", small[0].ask("w7") == "written")
    check("which is its own", small[0].ask("r") == "37" and
          copies[0].ask("r") == "41")
    check("ends", small[0].end())
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
    check("a name that is taken", taken.returncode == 4 and
          "runs already" in taken.stderr, taken.stderr)
    check("and nothing else happened", first.ask("r") == "30")
    for c in copies:
        check("ends", c.end())
    end = time.monotonic() + LIMIT
    while os.path.exists(copies[0].folder) and time.monotonic() < end:
        time.sleep(0.02)
    check("nothing is left", not os.path.exists(copies[0].folder))
    gone = command("fork", "nobody")
    check("of none", gone.returncode == 3 and "no machine named" in
          gone.stderr, gone.stderr)
    first.end()


def put_away():
    """A copy is suspended, and goes on, as any machine."""
    first = First("three", "--net", "none")
    copies, _ = fork("three")
    copies[0].ask("w5")
    check("what it wrote is kept small", wait_until(
        lambda: copies[0].stored_to() < 2), copies[0].stored_to())
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


class Again(First):
    """One that goes on from where it was saved."""

    def __init__(self, name):
        self.vm = subprocess.Popen(
            [atoll, "resume", name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def gone_back_to():
    """Put away and gone on with, a machine is who it was; each that goes on
    from a snapshot is another."""
    first = First("twelve", "--net", "none")
    was = first.ask("v")
    made = command("snapshot", "create", "twelve", "s")
    check("a snapshot", made.returncode == 0, made)
    check("its own generation stays", first.ask("v") == was, was)
    done = command("suspend", "twelve")
    first.vm.stdin.close()
    first.vm.wait(LIMIT)
    check("suspend", done.returncode == 0, done)
    again = Again("twelve")
    check("resumed, the generation stays", again.ask("v") == was, was)
    again.end()
    seen = [was]
    for _ in range(2):
        done = command("snapshot", "revert", "twelve", "s")
        check("revert", done.returncode == 0, done)
        again = Again("twelve")
        seen.append(again.ask("v"))
        again.end()
    check("gone back to, a new one each time", len(set(seen)) == 3 and
          {len(s) for s in seen} == {32}, seen)


def refuses_disks():
    """Those whose file can't become another's ground: a raw one where files
    can share nothing, as in memory (reflink.py has the others)."""
    folder = tempfile.mkdtemp(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else work)
    disk = folder + "/disk.raw"
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    first = First("four", "--net", "none", "--disk", disk)
    done = command("fork", "four")
    check("a raw disk", done.returncode == 1 and
          "not a qcow2 image" in done.stderr and "convert" in done.stderr and
          "btrfs" in done.stderr, done.stderr)
    check("it goes on", first.ask("r") == "30")
    check("nothing else is there", os.listdir(folder) == ["disk.raw"],
          os.listdir(folder))
    first.end()
    shutil.rmtree(folder)


def written(copy):
    """How many writes it has said that are flushed; and what else it said.
    A copy made while a line was on its way begins within it: with digits, or,
    when only the end of the line was left to say, with an empty row."""
    text = open(copy.folder + "/console.log", encoding="ascii").read()
    rows = text.removeprefix("\n").split("\n")[:-1]
    return ([0] + [int(r) for r in rows if r.isdigit()])[-1], \
        [r for r in rows if not r.isdigit() and r.split()[:1] not in (
            ["slots"], ["size"])]


def disk_files():
    return sorted(n for n in os.listdir(work + "/d"))


def judge(what, path, slots, flushed, killed=False):
    """One that was killed may have had more on its way, and lost clusters."""
    clean = command("disk", "check", path)
    check(what + " is clean", clean.returncode in ((0, 9) if killed else (0,)),
          clean)
    done = command("disk", "convert", "--from", "qcow2", "--to", "raw",
                   path, work + "/whole.raw")
    assert done.returncode == 0, done
    wrong = (wrong_moment if killed else wrong_slots)(
        work + "/whole.raw", slots, flushed)
    os.unlink(work + "/whole.raw")
    check(what + " holds what was written", not wrong, wrong[:4])


def refused_by_machine(guest, path):
    """What was made ready for it goes away again."""
    names, inode = disk_files(), os.stat(path).st_ino
    mirror = subprocess.Popen(
        [atoll, "disk", "mirror", "five:vda", work + "/mirror.raw", "--rate",
         "1M"],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    check("a job works on the disk", wait_until(
        lambda: "mirror" in command("disk", "jobs", "five:vda").stdout))
    done = command("fork", "--rm", "--name", "nine", "five")
    check("then it is not copied", done.returncode == 4 and "job" in
          done.stderr, done)
    check("and its files are as they were", disk_files() == names and
          os.stat(path).st_ino == inode, disk_files())
    mirror.send_signal(signal.SIGINT)
    mirror.wait(LIMIT)
    check("it goes on", guest.goes_on(5), guest.said)


def disks_with_paths():
    """A guest that never stops writing, and finds what it wrote; its copies,
    too: each has the disk of that moment, and then one of its own."""
    os.mkdir(work + "/d")
    path = work + "/d/disk.qcow2"
    command("disk", "create", path, "64M", "--format", "qcow2")
    guest = Guest(atoll, disk_elf, env, f"{path},format=qcow2", "five")
    check("it writes", guest.goes_on(20), guest.said)
    command("disk", "throttle", "five:vda", "--iops", "1000000")
    copies, _ = fork("five", "--count", "2", "--rm")
    info = json.loads(command("disk", "info", copies[0].name + ":vda").stdout)
    check("as fast as that", info["limits"]["iops"] == 1000000, info)
    kept = [f"{work}/d/{n}" for n in disk_files() if n.startswith("disk.fork-")]
    check("the file has a second name", len(kept) == 1, disk_files())
    kept = kept[0]
    at_moment = open(kept, "rb").read()
    begun = [written(c)[0] for c in copies]
    check("all go on", guest.goes_on(50) and all(
        wait_until(lambda i=i, c=c: written(c)[0] >= begun[i] + 50)
        for i, c in enumerate(copies)))
    said = [guest.said] + [written(c)[1] for c in copies]
    check("none misses what it wrote", not any(said), said)
    merge = command("disk", "commit", "five:vda")
    check("what copies lie on is not written", merge.returncode == 1 and
          "in use" in merge.stderr, merge)
    os.kill(copies[0].pid, signal.SIGKILL)
    check("one is killed", copies[0].gone())
    deeper, _ = fork("five", "--rm", "--name", "six")
    third, _ = fork(copies[1].name, "--rm", "--name", "seven")
    for c in deeper + third:
        check("a later one writes", wait_until(lambda c=c: written(c)[0] > 50))
        check("and reads what it should", not written(c)[1], written(c)[1])
    for c in [copies[1], *deeper, *third]:
        os.kill(c.pid, signal.SIGTERM)
        check("ends", c.gone())
        check("nothing is left", wait_until(
            lambda c=c: not os.path.exists(c.folder)))
    check("nobody wrote below", open(kept, "rb").read() == at_moment)
    check("no file but the machine's", len(disk_files()) == 3, disk_files())
    refused_by_machine(guest, path)
    code = guest.end()
    check("the first is content", code == 1 and not guest.said, (code, guest.said))
    judge("the disk", path, guest.slots, guest.flushed)
    merge = command("disk", "commit", path)
    check("its layers can be merged", merge.returncode == 0, merge)


def disk_replaced():
    """Another file stands at the disk's path: no overlay is put on that, and
    nothing is changed."""
    os.mkdir(work + "/replaced")
    path = f"{work}/replaced/disk.qcow2"
    command("disk", "create", path, "64M")
    guest = Guest(atoll, disk_elf, env, path, "nine")
    check("it writes", guest.goes_on(20), guest.said)
    os.rename(path, path + ".old")
    command("disk", "create", path, "64M")
    inode = os.stat(path).st_ino
    done = command("fork", "--name", "none", "nine")
    check("another file at its path", done.returncode == 4 and
          "not the file that the machine has" in done.stderr, done.stderr)
    check("stays there", os.stat(path).st_ino == inode and
          set(os.listdir(work + "/replaced")) ==
          {"disk.qcow2", "disk.qcow2.old"}, os.listdir(work + "/replaced"))
    check("it goes on", guest.goes_on(20), guest.said)
    code = guest.end()
    check("content", code == 1 and not guest.said, (code, guest.said))


class Resumed(Guest):
    """A machine that was put away."""

    def __init__(self, name):
        self.begin([atoll, "resume", name], env)

    def is_content(self, what):
        check(what, self.wait(lambda: self.flushed > 0) and self.goes_on(50)
              and not self.said, self.said)


def disks_put_away():
    """What a copy wrote to disks that the first has at a path is its own, also
    when it is put away, twice, and gone back to."""
    os.mkdir(work + "/e")
    paths = [f"{work}/e/{n}.qcow2" for n in ("disk", "other")]
    for path in paths:
        command("disk", "create", path, "64M")
    guest = Guest(atoll, disk_elf, env, paths[0], "ten", "--disk", paths[1])
    check("it writes", guest.goes_on(20), guest.said)
    (copy,), _ = fork("ten", "--name", "eleven")
    check("so does its copy", wait_until(lambda: written(copy)[0] > 50))
    saved = command("snapshot", "create", copy.name, "then")
    check("a moment of the copy", saved.returncode == 0, saved.stderr)
    done = command("suspend", copy.name)
    check("it is suspended", done.returncode == 0 and copy.gone(), done.stderr)
    check("with its disks", {"suspended.state.disk0", "suspended.state.disk1"}
          <= set(os.listdir(copy.folder)), os.listdir(copy.folder))
    check("the first goes on", guest.goes_on(50), guest.said)
    again = Resumed(copy.name)
    again.is_content("it finds what it wrote")
    twice = command("suspend", copy.name)
    check("it is suspended again", twice.returncode == 0, twice.stderr)
    again.done()
    # The first is away, so that nothing keeps its disk from being taken.
    code = guest.end()
    check("the first is content", code == 1 and not guest.said,
          (code, guest.said))
    again = Resumed(copy.name)
    again.is_content("it finds that again")
    code = again.end()
    check("it is content", code == 1 and not again.said, (code, again.said))
    check("and leaves no disk", not [n for n in os.listdir(copy.folder)
                                     if n.startswith("suspended")])
    back = command("snapshot", "revert", copy.name, "then")
    check("it is put back", back.returncode == 0, back.stderr)
    again = Resumed(copy.name)
    again.is_content("and finds what it had then")
    code = again.end()
    check("content, too", code == 1 and not again.said, (code, again.said))
    judge("the first's disk", paths[0], guest.slots, guest.flushed)


class Clone(Guest):
    """Of an image that was imported."""

    def words(self, elf, disk):
        return ["im:1"]


def layers(name):
    info = json.loads(command("disk", "info", name + ":vda").stdout)
    return [x["path"] for x in info["layers"]]


def ends(copies, but=None):
    """Those that are left: a slow host has enough to do with the last."""
    for c in copies:
        if c.name != but:
            check("finds what it wrote", not written(c)[1], written(c)[1])
            os.kill(c.pid, signal.SIGTERM)
            check("ends", c.gone())
    return [c for c in copies if c.name == but]


def disks_made_short():
    """Copied so often that nobody needs to say so; while that work goes on,
    copies and snapshots are made as ever."""
    first = Clone(atoll, disk_elf, env, None, "nine")
    check("it writes", first.goes_on(20), first.said)
    copies = []
    for n in range(10):
        copies = ends(copies) + fork("nine", "--rm", "--name", f"at{n}")[0]
        check("it goes on", first.goes_on(5), first.said)
    check("made short by itself", wait_until(
        lambda: len(layers("nine")) <= 8), layers("nine"))
    done = json.loads(command("disk", "jobs", "nine:vda", "--json").stdout)
    check("as a job", "done" in [j["state"] for j in done
                                 if j["kind"] == "rebase"], done)
    deep = copies[-1].name
    check("the last copy's, too", wait_until(
        lambda: len(layers(deep)) <= 8), layers(deep))
    for n in range(10):
        copies = ends(copies, deep) + fork(deep, "--rm", "--name",
                                           f"in{n}")[0]
        time.sleep(0.15 * n)
    made = command("snapshot", "create", deep, "s")
    check("a snapshot meanwhile", made.returncode == 0, made)
    check("again", wait_until(lambda: len(layers(deep)) <= 8), layers(deep))
    begun = [written(c)[0] for c in copies]
    check("all go on", first.goes_on(20) and all(
        wait_until(lambda i=i, c=c: written(c)[0] >= begun[i] + 20)
        for i, c in enumerate(copies)))
    said = [first.said] + [written(c)[1] for c in copies]
    check("none misses what it wrote", not any(said), said)
    ends(copies)
    code = first.end()
    check("the first is content", code == 1 and not first.said,
          (code, first.said))


def disks_without_paths():
    """The disk of an image: a longer chain with each copy, which is made
    short while it runs; the copies lie on what it was."""
    raw = work + "/image.raw"
    with open(raw, "wb") as f:
        f.truncate(16 << 20)
    made = command("image", "import", raw, "--name", "im:1", "--kernel",
                   disk_elf)
    check("an image", made.returncode == 0, made.stderr)

    first = Clone(atoll, disk_elf, env, None, "eight")
    check("it writes", first.goes_on(20), first.said)
    copies = []
    for n in range(3):
        copies += fork("eight", "--rm", "--name", f"of{n}")[0]
        check("it goes on", first.goes_on(20), first.said)

    before = layers("eight")
    check("a layer for each", len(before) == 5, before)
    done = command("disk", "rebase", "eight:vda", "--layer", "4")
    check("made short", done.returncode == 0 and
          layers("eight") == [before[0], before[4]], (done, layers("eight")))
    check("it goes on", first.goes_on(20), first.said)
    copies += fork("eight", "--rm", "--name", "later")[0]
    check("copied again", len(layers("eight")) == 3, layers("eight"))
    done = command("disk", "rebase", "later-1:vda")
    check("a copy alone", done.returncode == 0 and
          len(layers("later-1")) == 1, (done, layers("later-1")))
    copies += fork("later-1", "--rm", "--name", "last")[0]
    begun = [written(c)[0] for c in copies]
    check("all go on", first.goes_on(50) and all(
        wait_until(lambda i=i, c=c: written(c)[0] >= begun[i] + 50)
        for i, c in enumerate(copies)))
    said = [first.said] + [written(c)[1] for c in copies]
    check("none misses what it wrote", not any(said), said)
    ends(copies)
    code = first.end()
    check("the first is content", code == 1 and not first.said,
          (code, first.said))


def end_process(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_holder(start):
    """The child that stays when the command returns. Its copies end with it."""
    try:
        children = pathlib.Path(
            f"/proc/{start.pid}/task/{start.pid}/children").read_text()
    except OSError:
        return
    for pid in children.split():
        end_process(int(pid))


def runs(name):
    return "no machine named" not in command("pause", name).stderr


def killed_forks(rounds):
    """The command killed at any moment: the disk is whole, and the machine's."""
    path = work + "/d/killed.qcow2"
    command("disk", "create", path, "64M", "--format", "qcow2")
    guest = Guest(atoll, disk_elf, env, f"{path},format=qcow2", "eight")
    check("it writes", guest.goes_on(20), guest.said)
    for i in range(rounds):
        start = subprocess.Popen(
            [atoll, "fork", "--rm", "--json", "--name", f"k{i}", "eight"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL)
        time.sleep(0.01 * (i + 1))
        kill_holder(start)
        out = start.communicate(timeout=LIMIT)[0]
        for copy in json.loads(out)["copies"] if start.returncode == 0 else []:
            end_process(copy["pid"])
        check("it goes on", guest.goes_on(5), guest.said)
        check("its copy does not", wait_until(lambda i=i: not runs(f"k{i}-1")))
    guest.kill()
    check("it found all it wrote", not guest.said, guest.said)
    judge("the disk of one that was killed", path, guest.slots, guest.flushed,
          killed=True)


def end_all():
    """Whatever runs from here, if a test failed: holders take their machines
    with them, and commands theirs."""
    mark = f"ATOLL_STATE_DIR={work}/s".encode()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in \
                    (entry / "environ").read_bytes().split(b"\0"):
                end_process(int(entry.name))
        except OSError:
            pass


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


try:
    if many:
        at_once(many)
    else:
        apart("bt")
        apart("interp")
        disposable()
        put_away()
        gone_back_to()
        refuses_disks()
        disks_with_paths()
        disk_replaced()
        disks_put_away()
        disks_without_paths()
        disks_made_short()
        killed_forks(8)
finally:
    end_all()
subprocess.run(["rm", "-rf", work], check=False)
sum_up()
