#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two commands on one disk, one of which comes in the middle of the other:
turns.py ATOLL TURNS GUEST_ELF.

The first is held before a certain call (turns.c) until the second is done, or
waits for its turn. at_once.py has found what is tried here.
"""
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from live_guest import (LIMIT, Guest, ask, end_with_us, wait_until, whole,
                        wrong_moment, wrong_slots)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, turns, elf = (os.path.abspath(p) for p in sys.argv[1:4])
# In memory: who comes first is the matter here, not how long a flush takes.
work = tempfile.mkdtemp(prefix="tu-", dir="/dev/shm" if os.access(
    "/dev/shm", os.W_OK) else None)
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
F_OFD_SETLK = 37
SOON = 1.0  # what need not wait is over by then, most likely


def run(*words):
    return subprocess.run([atoll, *words], env=env, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def done(what, result):
    return check(what, result.returncode == 0, result)


class Asked:
    """A command, perhaps one that stops before a call."""

    def __init__(self, *words, stop=None, after=0):
        more = {} if stop is None else {
            "LD_PRELOAD": turns, "TURNS_STOP": stop, "TURNS_AFTER": str(after)}
        self.words = words
        self.process = subprocess.Popen(
            [atoll, *words], env=dict(env, **more), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.held = None

    def holds(self):
        """Whether it, or what it has started to do the work, stands still."""
        def stopped():
            for pid in [self.process.pid, *children(self.process.pid)]:
                if state(pid) == "T":
                    self.held = pid
            return self.held or self.process.poll() is not None
        wait_until(stopped)
        return check(" ".join(self.words[:2]) + " is held", self.held,
                     self.process.poll())

    def go_on(self):
        if self.held:
            os.kill(self.held, signal.SIGCONT)
        self.out, self.err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode

    def over(self):
        """Whether it did not have to wait."""
        try:
            self.process.wait(SOON)
        except subprocess.TimeoutExpired:
            return False
        return True


    def then(self):
        """It has its turn now, unless it came while there was work."""
        if self.go_on() == 4 and "another job" in self.err:
            self.err = str(run(*self.words))
        check("and then it is taken", self.process.returncode == 0 or
              "returncode=0" in self.err, self.err)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


class Held(Guest):
    """A machine whose starter stops before a call."""

    def __init__(self, command, stop, after=0):
        self.begin(command, dict(env, LD_PRELOAD=turns, TURNS_STOP=stop,
                                 TURNS_AFTER=str(after)))


def boot_words(name, path, *more):
    return [atoll, "run", "--kernel", elf, "--disk", path, "--name", name,
            "--engine", "bt", "--memory", "32M", "--device", "debug-exit",
            "--net", "none", "--timeout", "900", *more]


def make(name, fmt="qcow2", size="16M"):
    folder = f"{work}/{name}"
    os.mkdir(folder)
    path = f"{folder}/disk.{fmt}"
    done("create", run("disk", "create", path, size, "--format", fmt))
    return path


def boot(name, path, fmt="qcow2"):
    guest = Guest(atoll, elf, env, f"{path},format={fmt}", name, "--memory",
                  "32M")
    check(name + " runs", guest.goes_on(5), guest.said)
    return guest


def finish(guest, path, fmt="qcow2"):
    """From its path all that it wrote is found."""
    code = guest.end()
    check("the guest is content", code == 1 and not guest.said,
          (code, guest.said, guest.errors))
    wrong = wrong_slots(whole(path, fmt, work, tool), guest.slots,
                        guest.flushed)
    check("all is there", not wrong, wrong[:4])


def layers(name):
    return [os.path.basename(layer["path"]) for layer in json.loads(
        run("disk", "info", name + ":vda").stdout)["layers"]]


def a_rebase_and_a_snapshot():
    """What a rebase has counted stays counted until it has asked."""
    path = make("a")
    guest = boot("a", path)
    for name in "one", "two":
        done("snapshot", run("disk", "snapshot", "a:vda", "--name", name))
        guest.goes_on(300 if name == "one" else 20)
    # After its turn was asked for.
    rebase = Asked("disk", "rebase", "a:vda", "--layer", "2", stop="sendmsg:",
                   after=1)
    rebase.holds()
    late = Asked("disk", "snapshot", "a:vda", "--name", "late")
    check("a snapshot waits for its turn", not late.over())
    check("rebased", rebase.go_on() == 0, rebase.err)
    late.then()
    check("each lies on what it should", layers("a") == [
        "disk.qcow2", "disk.late.qcow2", "disk.one.qcow2"], layers("a"))
    guest.goes_on(20)
    finish(guest, path)


def a_commit_and_a_commit():
    path = make("b")
    guest = boot("b", path)
    for name in "one", "two", "three":
        done("snapshot", run("disk", "snapshot", "b:vda", "--name", name))
        guest.goes_on(100)
    first = Asked("disk", "commit", "b:vda", "--layer", "1", stop="sendmsg:",
                  after=1)
    first.holds()
    second = Asked("disk", "commit", "b:vda", "--layer", "2")
    check("a commit waits for its turn", not second.over())
    check("merged", first.go_on() == 0, first.err)
    check("both, or it is refused", second.go_on() in (0, 4), second.err)
    guest.goes_on(20)
    finish(guest, path)


def a_copy_and_a_snapshot():
    """A copy gives the disk's path to an overlay: by then no snapshot has."""
    path = make("c")
    guest = boot("c", path)
    # The second one is for the machine; the first made a file for the copy.
    copy = Asked("fork", "--rm", "--name", "cc", "c", stop="renameat:disk.qcow2")
    copy.holds()
    late = Asked("disk", "snapshot", "c:vda", "--name", "late")
    check("a snapshot waits for its turn", not late.over())
    check("copied", copy.go_on() == 0, copy.err)
    late.then()
    guest.goes_on(300)
    end_copy("cc-1")
    finish(guest, path)


def end_copy(name):
    with open(f"{work}/s/named/{name}/console.in", "w",
              encoding="ascii") as f:
        f.write("q")
    check("the copy ends", wait_until(
        lambda: not os.path.exists(f"{work}/r/named/{name}.sock")))


def killed_before_it_asks(name, path):
    """A copy that has given the disk's path to its overlay, and ends there."""
    # It asked for its turn, for the machine's state and its disks, and whether
    # the path is the machine's; what comes now is the moment.
    before = set(os.listdir(os.path.dirname(path)))
    own = os.stat(path).st_ino
    copy = Asked("fork", "--rm", "--name", name + "c", name,
                 stop="sendmsg:", after=4)
    copy.holds()
    os.kill(copy.held, signal.SIGKILL)
    check("it was killed", copy.go_on() != 0, copy.err)
    kept = [n for n in os.listdir(os.path.dirname(path))
            if ".fork-" in n and n not in before]
    check("the path is another file", os.stat(path).st_ino != own and
          len(kept) == 1, kept)
    return own, os.path.join(os.path.dirname(path), kept[0])


def a_copy_that_is_killed():
    """Who has the next turn puts the disk's path right, and that is all."""
    path = make("m")
    guest = boot("m", path)
    guest.goes_on(50)
    for words in (["disk", "snapshot", "m:vda", "--name", "one"],
                  ["fork", "--rm", "--name", "mm", "m"],
                  ["disk", "commit", "m:vda"],
                  ["disk", "bitmap", "list", "m:vda"]):
        own, kept = killed_before_it_asks("m", path)
        check("that is empty", os.stat(path).st_size < 1 << 20)
        done(" ".join(words), run(*words))
        if words[0] == "fork":
            end_copy("mm-1")
        check("no name too many", not os.path.exists(kept), kept)
        if words[1] == "bitmap":
            check("the path is the machine's", os.stat(path).st_ino == own)
        check("it goes on", guest.goes_on(50), guest.said)
    finish(guest, path)


def a_disk_that_somebody_replaced():
    """What a person has put at the path stays, whatever it looks like."""
    path = make("n")
    guest = boot("n", path)
    own, kept = killed_before_it_asks("n", path)
    made = open(path, "rb").read()
    for what in ("one byte is not as it was made", "longer", "in use",
                 "on another file", "a file that is not the machine's",
                 "a link"):
        data, holder = bytearray(made), None
        if what.startswith("one byte"):
            data[-1] ^= 1
        elif what == "longer":
            data += b"more"
        elif what == "on another file":
            at = bytes(data).index(b".fork-")
            data[at + 6] = ord("0") + (data[at + 6] == ord("0"))
        os.unlink(path)
        if what == "a link":
            os.rename(kept, kept + ".x")
            os.symlink(kept + ".x", kept)
        elif what.startswith("a file"):
            os.rename(kept, kept + ".x")
            shutil.copy(kept + ".x", kept)
        with open(path, "wb") as f:
            f.write(data)
        if what == "in use":
            holder = open(path, "r+b")
            fcntl.fcntl(holder, F_OFD_SETLK, struct.pack(
                "hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        inode = os.stat(path).st_ino
        for words in (["disk", "snapshot", "n:vda"],
                      ["disk", "mirror", "n:vda", work + "/n/m.qcow2",
                       "--pivot"],
                      ["fork", "--rm", "--name", "nn", "n"]):
            result = run(*words)
            check(what + ": refused", result.returncode != 0 and
                  "put that back" in result.stderr, result)
        with open(path, "rb") as f:
            check(what + ": it stays", f.read() == data and
                  os.stat(path).st_ino == inode)
        done(what + ": a copy that needs no name", run(
            "disk", "mirror", "n:vda", work + "/n/m.qcow2"))
        os.unlink(work + "/n/m.qcow2")
        if holder:
            holder.close()
        if os.path.exists(kept + ".x"):
            os.unlink(kept)
            os.rename(kept + ".x", kept)
    left = sorted(os.listdir(work + "/n"))
    check("nothing else is left", [n for n in left if not n.endswith(
        ".incoming")] == sorted([os.path.basename(path),
                                 os.path.basename(kept)]), left)
    # In the last moment, too; and it is the machine's that waits there then.
    with open(path, "wb") as f:
        f.write(made)
    late = Asked("disk", "snapshot", "n:vda", stop="renameat2:")
    late.holds()
    os.unlink(path)
    with open(path, "wb") as f:
        f.write(b"mine")
    check("refused", late.go_on() != 0 and "put that back" in late.err,
          late.err)
    with open(path, "rb") as f:
        check("mine is there", f.read() == b"mine")
    check("and the machine's", os.stat(kept).st_ino == own)
    # As the words say.
    os.rename(kept, path)
    done("put back", run("disk", "snapshot", "n:vda", "--name", "one"))
    check("it goes on", guest.goes_on(50), guest.said)
    finish(guest, path)


def a_name_that_is_anothers():
    """What was merged is deleted, and not what has got its name since."""
    path = make("d")
    guest = boot("d", path)
    for name in "one", "two":
        done("snapshot", run("disk", "snapshot", "d:vda", "--name", name))
        guest.goes_on(300)
    merge = Asked("disk", "commit", "d:vda", "--layer", "1", "--rate", "4M")
    check("it merges", wait_until(lambda: "commit" in run(
        "disk", "jobs", "d:vda").stdout))
    name = f"{work}/d/disk.two.qcow2"
    os.rename(name, name + ".merged")
    with open(name, "w", encoding="ascii") as f:
        f.write("mine")
    check("merged", merge.go_on() == 0, merge.err)
    with open(name, encoding="ascii") as f:
        check("mine is there", f.read() == "mine")
    finish(guest, path)


def a_reset_and_a_snapshot():
    """The machine's loop waits for its disks, while the disk waits for who
    started it."""
    path = make("e")
    guest = Held(boot_words("e", path + ",format=qcow2"),
                 "renameat:disk.qcow2")
    check("it runs", guest.goes_on(5), guest.said)
    snapshot = Asked("disk", "snapshot", "e:vda", "--name", "one")
    check("its starter is held", wait_until(
        lambda: state(guest.vm.pid) == "T"), state(guest.vm.pid))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(work + "/r/named/e.sock")
    guest.slots = 0
    said = []
    thread = threading.Thread(
        target=lambda: said.append(ask(sock, {"op": "reset"})), daemon=True)
    thread.start()
    time.sleep(SOON)
    os.kill(guest.vm.pid, signal.SIGCONT)
    check("the snapshot is taken", snapshot.go_on() == 0, snapshot.err)
    check("it begins anew", guest.wait(lambda: guest.slots > 0), guest.said)
    thread.join(LIMIT)
    check("answered", said and said[0]["ok"], said)
    sock.close()
    guest.flushed = 0
    guest.goes_on(300)
    finish(guest, path)


def the_end_and_a_snapshot():
    """The same at the guest's own end."""
    path = make("f")
    guest = Held(boot_words("f", path + ",format=qcow2"),
                 "renameat:disk.qcow2")
    check("it runs", guest.goes_on(5), guest.said)
    snapshot = Asked("disk", "snapshot", "f:vda", "--name", "one")
    check("its starter is held", wait_until(
        lambda: state(guest.vm.pid) == "T"), state(guest.vm.pid))
    worker = guest.worker()
    os.kill(worker, signal.SIGTERM)
    time.sleep(SOON)
    os.kill(guest.vm.pid, signal.SIGCONT)
    check("it ends", guest.done() == 19, guest.errors)
    snapshot.go_on()
    raw = whole(path, "qcow2", work, tool)
    wrong = wrong_moment(raw, guest.slots, guest.flushed)
    check("all is there", not wrong, wrong[:4])


def put_away_before_it_is_known_to_run():
    """The state that a machine goes on from is used up when it runs; one that
    stands at its place by then is another."""
    path = make("g")
    guest = boot("g", path)
    done("suspend", run("suspend", "g"))
    guest.done()
    again = Held([atoll, "resume", "g"], "rename:suspended.state")
    check("its starter is held", wait_until(
        lambda: state(again.vm.pid) == "T"), state(again.vm.pid))
    twice = run("suspend", "g")
    done("suspended again", twice)
    os.kill(again.vm.pid, signal.SIGCONT)
    check("it is away", again.done() == 0, again.errors)
    left = [n for n in os.listdir(work + "/s/named/g") if "state" in n]
    check("and can be gone on from", left == ["suspended.state"], left)
    last = Held([atoll, "resume", "g"], "none:")
    check("it goes on", last.goes_on(5), last.said)
    finish(last, path)


def started_before_its_name_is_free():
    """A machine has ended when its process has; its starter needs a moment
    more. Who starts it again at once is not told that it runs."""
    path = make("l")
    guest = Held(boot_words("l", path + ",format=qcow2"), "unlink:l.disks",
                 after=1)
    check("it runs", guest.goes_on(5), guest.said)
    second = run(*boot_words("l", make("l-2") + ",format=qcow2")[1:])
    check("one that runs is refused", second.returncode == 1 and
          "runs already" in second.stderr, second)
    done("suspend", run("suspend", "l"))
    check("its starter is held", wait_until(
        lambda: state(guest.vm.pid) == "T"), state(guest.vm.pid))
    again = Held([atoll, "resume", "l"], "none:")
    time.sleep(SOON)
    check("the next waits", again.vm.poll() is None and not again.flushed,
          again.vm.poll())
    os.kill(guest.vm.pid, signal.SIGCONT)
    check("it is away", guest.done() == 0, guest.errors)
    check("and the next goes on", again.goes_on(5), again.said)
    finish(again, path)


def started_while_it_is_put_back():
    """Who has opened the disk that a revert replaces does not run with it."""
    path = make("h")
    guest = boot("h", path)
    done("a snapshot", run("snapshot", "create", "h", "then"))
    check("it writes", guest.goes_on(5), guest.said)
    done("another", run("snapshot", "create", "h", "later"))
    finish(guest, path)
    words = boot_words("h", path + ",format=qcow2")[1:]
    late = Asked(*words, stop="open:disk.elf")
    late.holds()
    refused = run("snapshot", "revert", "h", "then")
    check("not put back while it starts", refused.returncode == 4 and
          "runs already" in refused.stderr, refused)
    late.process.kill()
    late.go_on()
    at = words.index("--name")
    late = Asked(*words[:at], *words[at + 2:], stop="open:disk.elf")
    late.holds()
    done("put back", run("snapshot", "revert", "h", "then"))
    check("not with the old disk", late.go_on() == 1 and
          "replaced just now" in late.err, late.err)
    done("put back", run("snapshot", "revert", "h", "then"))
    late = Asked("resume", "h", stop="flock:")
    late.holds()
    done("put back", run("snapshot", "revert", "h", "later"))
    check("nor with the old state", late.go_on() == 1 and
          "just now" in late.err, late.err)
    again = Held([atoll, "resume", "h"], "none:")
    check("it goes on", again.goes_on(5), again.said)
    finish(again, path)


def put_back_under_another():
    """A raw disk that a machine of another name has by now stays there."""
    path = make("i", "raw")
    guest = boot("i", path, "raw")
    done("a snapshot", run("snapshot", "create", "i", "then"))
    finish(guest, path, "raw")
    guest = boot("j", path, "raw")
    inode = os.stat(path).st_ino
    refused = run("snapshot", "revert", "i", "then")
    check("refused", refused.returncode == 4 and "in use" in refused.stderr,
          refused)
    check("it has its disk", os.stat(path).st_ino == inode)
    finish(guest, path, "raw")


def work_while_saving():
    """No image takes a disk's place while the machine's moment is written."""
    path = make("k")
    guest = boot("k", path)
    scratch = [tempfile.TemporaryFile(dir=work) for _ in range(3)]
    scratch[1].truncate(16 << 20)
    sock = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for s in sock:
        s.connect(work + "/r/named/k.sock")
    # Both lie in its socket when the machine looks: one after the other.
    os.kill(guest.worker(), signal.SIGSTOP)
    answers = {}

    def say(i, message, *fds):
        answers[i] = ask(sock[i], message, *fds)
    threads = [threading.Thread(target=say, daemon=True, args=(
        0, {"op": "snapshot", "file": 0, "memory": "packed", "disks": [
            {"disk": 0, "target": 1, "scratch": 2}]},
        *[f.fileno() for f in scratch]))]
    threads[0].start()
    time.sleep(0.2)
    threads.append(threading.Thread(target=say, daemon=True, args=(
        1, {"op": "disk-claim", "disk": 0})))
    threads[1].start()
    time.sleep(0.2)
    os.kill(guest.worker(), signal.SIGCONT)
    for t in threads:
        t.join(LIMIT)
    check("saved", answers.get(0, {}).get("ok"), answers)
    check("no work on its disk meanwhile", not answers[1]["ok"] and
          "being saved" in answers[1]["words"], answers)
    for s in sock:
        s.close()
    finish(guest, path)


end_with_us(work + "/s")
a_rebase_and_a_snapshot()
a_commit_and_a_commit()
a_copy_and_a_snapshot()
a_copy_that_is_killed()
a_disk_that_somebody_replaced()
a_name_that_is_anothers()
a_reset_and_a_snapshot()
the_end_and_a_snapshot()
put_away_before_it_is_known_to_run()
started_before_its_name_is_free()
started_while_it_is_put_back()
put_back_under_another()
work_while_saving()
shutil.rmtree(work)
sum_up()
