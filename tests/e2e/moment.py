#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A snapshot, a suspend, a revert that take a while: how far they are, and what
is left of them when nobody wants them any more: moment.py ATOLL GUEST_ELF.

The guest (tests/guest/state.c) checks that it is still the same machine.
"""
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from live_guest import LIMIT, ask

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="mo-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
SIZE = 160 << 20
TRIES = 20


def make_disk():
    with open(work + "/disk.raw", "wb") as f:
        for _ in range(SIZE >> 20):
            f.write(os.urandom(1 << 20))


def boot(engine="bt", memory="64M", *more):
    vm = subprocess.Popen(
        [atoll, "run", "--name", "m", "--engine", engine,
         "--memory", memory, "--kernel", elf,
         "--device", "debug-exit", "--net", "none", "--timeout", "900", "--disk",
         work + "/disk.raw", *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=env)
    check("it runs", vm.stdout.readline() == b"ready\n")
    return vm


def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(work + "/r/named/m.sock")
    return sock


class Saving:
    """A snapshot that is asked for; its files have no names."""

    def __init__(self, memory):
        self.sock = connect()
        self.files = [tempfile.TemporaryFile(dir=work) for _ in range(3)]
        self.files[1].truncate(SIZE)
        self.answer = None
        self.thread = threading.Thread(target=self.wait, args=(memory,))
        self.thread.start()

    def wait(self, memory):
        try:
            self.answer = ask(self.sock, {
                "op": "snapshot", "file": 0, "memory": memory, "disks": [
                    {"disk": 0, "target": 1, "scratch": 2}]},
                *[f.fileno() for f in self.files])
        except OSError:
            pass

    def stored(self):
        return os.fstat(self.files[1].fileno()).st_blocks * 512

    def close(self):
        self.thread.join(LIMIT)
        self.sock.close()
        for f in self.files:
            f.close()


def progress(other):
    return ask(other, {"op": "snapshot-progress"})


def wait_until(what):
    end = time.monotonic() + LIMIT
    while not what() and time.monotonic() < end:
        time.sleep(0.01)


def ended(other):
    wait_until(lambda: not progress(other)["total"])


def whole(other, memory):
    """Bytes are told, and more of them each time: whoever asks twice before
    all is written sees that."""
    most = 0
    for _ in range(TRIES):
        seen = []
        saving = Saving(memory)
        while saving.thread.is_alive():
            told = progress(other)
            if told["total"]:
                seen.append((told["done"], told["total"]))
        saving.close()
        counted = [done for done, total in seen if done <= total and
                   SIZE <= total <= SIZE + (66 << 20)]
        most = len(set(counted))
        if not saving.answer or not saving.answer["ok"] or most > 1 or \
                counted != sorted(counted) or len(counted) < len(seen):
            break
    check(memory + ": it is saved", saving.answer and saving.answer["ok"],
          saving.answer)
    check(memory + ": progress", len(counted) == len(seen) and
          counted == sorted(counted) and most > 1, seen)


def cut(what, other, stop):
    """Once at least it comes before all is written."""
    for _ in range(TRIES):
        saving = Saving("packed")
        while saving.thread.is_alive() and not progress(other)["total"]:
            continue
        stop(saving)
        ended(other)
        stored = saving.stored()
        saving.close()
        if stored < SIZE:
            check(what, True)
            return saving.answer
    check(what, False, "all was written each time")
    return None


def stands_still(engine):
    """Not for long, whatever its size; the best of some, and of more where
    others use this processor, too."""
    vm = boot(engine, "512M")
    pauses = []
    while len(pauses) < 5 or (min(pauses) > 100 and len(pauses) < 40):
        saving = Saving("packed")
        saving.thread.join(LIMIT)
        pauses.append(saving.answer["pause_us"] / 1000)
        saving.close()
    check(f"{engine}: it stands still for at most 100 ms", min(pauses) <= 100,
          pauses)
    print(f"{engine}: stood still for {min(pauses):.1f} to "
          f"{max(pauses):.1f} ms")
    end(vm)


def end(vm):
    out, err = vm.communicate(b"g", LIMIT)
    check("the machine is the same", vm.returncode == 1 and
          b"same after" in out, (out, err))


def hang_up(saving):
    saving.sock.shutdown(socket.SHUT_RDWR)


def commands(other):
    """The command itself, killed in it: nothing stays, and it can be done."""
    def command(*words):
        return subprocess.run([atoll, "snapshot", *words], env=env, text=True,
                              capture_output=True, timeout=LIMIT, check=False)
    folder = work + "/s/named/m/snapshots"
    maker = subprocess.Popen([atoll, "snapshot", "create", "m", "half"],
                             env=env, stderr=subprocess.DEVNULL)
    while maker.poll() is None and not progress(other)["total"]:
        continue
    maker.send_signal(signal.SIGINT)
    maker.wait(LIMIT)
    ended(other)
    shown = command("list", "m").stdout
    there = "half" in shown  # it may have been, when the signal came
    check("killed: all of it or nothing", there or maker.returncode != 0,
          shown)
    made = command("create", "m", "next")
    check("the next one", made.returncode == 0 and made.stdout == "next\n",
          made)
    left = set(os.listdir(folder)) - {"current.json", "next", "then", "lock"}
    check("nothing else is there", left == ({"half"} if there else set()),
          left)


class Shown:
    """A command whose progress is shown on a terminal."""

    def __init__(self, *words):
        self.ours, theirs = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [atoll, *words], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)

    def read(self):
        try:
            data = os.read(self.ours, 4096).decode()
        except OSError:  # nobody has the other end
            data = ""
        self.text += data
        return data

    def percents(self):
        return [int(n) for n in re.findall(r"\] +(\d+)% of", self.text)]

    def interrupt(self):
        """As Ctrl-C, as soon as it shows that it is on its way."""
        while not [n for n in self.percents() if n > 0] and self.read():
            continue
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        while self.read():
            continue
        os.close(self.ours)
        return self.process.wait(LIMIT)


def resumed():
    vm = subprocess.Popen([atoll, "resume", "m"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=env)
    wait_until(lambda: os.path.exists(work + "/r/named/m.sock"))
    return vm


def still_there():
    """It goes on; it may have been put away as that was given up."""
    try:
        other = connect()
        ended(other)
        other.close()
    except OSError:
        return False
    return True


def given_up(vm):
    """A suspend that was caught on its way; one that was over before that is
    followed by a resume."""
    for _ in range(TRIES):
        shown = Shown("suspend", "m")
        code = shown.interrupt()
        if code and still_there():
            break
        vm.wait(LIMIT)
        vm = resumed()
    # All may be written, and not yet on stable storage.
    check("suspend given up", code == -signal.SIGINT and
          0 < shown.percents()[-1] <= 100, shown.text)
    return vm


def cancelled_by_another(other):
    """What they were told: who saves, and one who wanted to, too."""
    with tempfile.TemporaryFile(dir=work) as f:
        asker, answers = connect(), []
        thread = threading.Thread(target=lambda: answers.append(
            ask(asker, {"op": "save", "file": 0, "stay": True}, f.fileno())))
        thread.start()
        while thread.is_alive() and not progress(other)["done"]:
            continue
        twice = ask(other, {"op": "save", "file": 0}, f.fileno())
        ask(other, {"op": "snapshot-cancel"})
        thread.join(LIMIT)
        asker.close()
    return answers[0], twice


def named_too_early(folder):
    """Who saves dies between the state's name and the machine's end: it goes
    on, and nothing is there to go back to, which would be old memory over
    newer disks."""
    path = folder + "/suspended.state"
    saver, other = connect(), connect()
    with open(folder + "/half", "w+b") as f:
        saved = ask(saver, {"op": "save", "file": 0, "stay": True}, f.fileno())
        whole = os.fstat(f.fileno()).st_size
    os.rename(folder + "/half", path)
    check("saved, and named", saved["ok"] and whole > 1 << 20, (saved, whole))
    saver.close()
    wait_until(lambda: os.stat(path).st_size == 0)
    check("it goes on without it", os.stat(path).st_size == 0 and
          ask(other, {"op": "status"})["state"] == "running")
    # What is there is in no one's way.
    ask(other, {"op": "pause"})
    done = subprocess.run([atoll, "resume", "m"], env=env, check=False,
                          capture_output=True, text=True, timeout=LIMIT)
    check("a held one goes on", done.returncode == 0 and
          ask(other, {"op": "status"})["state"] == "running", done.stderr)
    check("and it is gone", not os.path.exists(path))
    other.close()


def killed_savers(vm, folder):
    """Killed at any time: the machine goes on, or it is whole as it was."""
    path = folder + "/suspended.state"
    for n in range(8):
        maker = subprocess.Popen([atoll, "suspend", "m"], env=env,
                                 stdout=subprocess.DEVNULL)
        time.sleep(0.06 * n)
        maker.kill()
        maker.wait(LIMIT)
        try:
            other = connect()
            ended(other)
            runs = ask(other, {"op": "status"})["state"] == "running"
        except OSError:  # it was on its way out
            runs = False
        if runs:
            wait_until(lambda: not os.path.exists(path) or
                       os.stat(path).st_size == 0)
            left = os.path.exists(path) and os.stat(path).st_size
            check(f"killed {n}: it goes on alone", not left, left)
            other.close()
        else:
            check(f"killed {n}: suspended", vm.wait(LIMIT) == 0 and
                  os.stat(path).st_size)
            vm = resumed()
    return vm


def suspends():
    """Given up half way, the machine goes on; then it is done."""
    folder = work + "/s/named/m"
    vm = boot("bt", "512M", "--initrd", work + "/disk.raw")
    for _ in range(3):
        vm = given_up(vm)
        other = connect()
        ended(other)
        check("it goes on", vm.poll() is None and
              ask(other, {"op": "status"})["state"] == "running")
        # Given up just as it had its name, it is empty: see below.
        left = [n for n in os.listdir(folder) if "state" in n and
                os.stat(f"{folder}/{n}").st_size]
        check("nothing is there", not left, left)
        other.close()
    named_too_early(folder)
    vm = killed_savers(vm, folder)
    other = connect()
    for _ in range(TRIES):
        first, twice = cancelled_by_another(other)
        if not first["ok"]:
            break
    other.close()
    check("one at a time", not twice["ok"] and "already" in twice["words"],
          twice)
    check("saving cancelled by another", not first["ok"] and
          first["words"] == "the saving was cancelled", first)
    whole_one = Shown("suspend", "m")
    check("suspended", whole_one.end() == 0 and vm.wait(LIMIT) == 0,
          whole_one.text)
    seen = whole_one.percents()
    check("its progress was shown", seen == sorted(seen) and
          seen[-1] == 100 and re.search(r"of \d{3} MiB", whole_one.text),
          whole_one.text)
    end(resumed())


def reverts():
    """Given up half way, disk and state are as they were; then it is done."""
    def command(*words):
        return subprocess.run([atoll, "snapshot", *words], env=env, text=True,
                              capture_output=True, timeout=LIMIT, check=False)

    def files():
        return sorted(n for n in os.listdir(work) + os.listdir(
            work + "/s/named/m") if not n.endswith(".log"))
    vm = boot()
    check("a snapshot", command("create", "m", "then").returncode == 0)
    end(vm)
    before, inode = files(), os.stat(work + "/disk.raw").st_ino
    for _ in range(TRIES):
        given_up = Shown("snapshot", "revert", "m", "then")
        code = given_up.interrupt()
        if code:
            break
        inode, before = os.stat(work + "/disk.raw").st_ino, files()
    check("revert given up", code == -signal.SIGINT and "putting back" in
          given_up.text, given_up.text)
    check("all is as it was", files() == before and
          os.stat(work + "/disk.raw").st_ino == inode, files())
    done = Shown("snapshot", "revert", "m", "then")
    check("reverted", done.end() == 0 and done.percents()[-1] == 100 and
          "of 160" in done.text, done.text)
    check("to another file", os.stat(work + "/disk.raw").st_ino != inode)
    # All of its memory is in the new one, also what it has not read yet.
    vm = resumed()
    check("saved at once", command("create", "m", "again").returncode == 0)
    end(vm)
    check("put back", command("revert", "m", "again").returncode == 0)
    end(resumed())
    check("not wanted", command("delete", "m", "again").returncode == 0)


make_disk()
suspends()
reverts()
machine = boot()
watcher = connect()
check("none is being written", progress(watcher)["total"] == 0)
check("nothing to cancel", ask(watcher, {"op": "snapshot-cancel"})["ok"])
for form in "packed", "plain":
    whole(watcher, form)
answer = cut("cancelled", watcher,
             lambda saving: ask(watcher, {"op": "snapshot-cancel"}))
check("and says so", answer and not answer["ok"] and
      answer["words"] == "the saving was cancelled", answer)
cut("who asked has gone", watcher, hang_up)
commands(watcher)
watcher.close()
end(machine)
for one in "bt", "interp":
    stands_still(one)
shutil.rmtree(work)
sum_up()
