#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever changes a machine's disks, at the same time, in rounds that follow
from a seed: at_once.py ATOLL TURNS GUEST_ELF SECONDS [SEED [ROUND]].

A machine never stops writing. Each round two to four commands want something of
it, its disk, its snapshots and its copies at once; each waits now and then
before a call that matters (turns.c), some are killed before one, sometimes the
machine is, or who started it. Then each of them is done or has refused, what
was made is a whole moment of the disk, what was refused has left nothing, the
images' headers say what the machine has open, and all that was flushed is
there. A seed says what is done, not how its steps fall: where one fails, try
it again.
"""
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from disk_moment import moment_of, words_of
from live_guest import (Guest, end_with_us, header_chain, processes_of,
                        wait_until)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, any_failed, sum_up  # noqa: E402

atoll, turns, elf = (os.path.abspath(p) for p in sys.argv[1:4])
seconds = float(sys.argv[4])
seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 32)
only = int(sys.argv[6]) if len(sys.argv) > 6 else None
# In memory: who comes first is the matter here, not how long a flush takes.
work = tempfile.mkdtemp(prefix="ao-", dir="/dev/shm" if os.access(
    "/dev/shm", os.W_OK) else None)
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r",
           XDG_DATA_HOME=work + "/data")
out = work + "/out"
foreign = shutil.which("qemu-img")
HANGS = 150
SAID = 16 << 10  # of a copy's last words, which never ends to speak
SIZE = 8 << 20


def run(*words):
    return subprocess.run([atoll, *words], env=env, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=HANGS,
                          check=False)


# ---- what an image holds ----

def raw_of(image, fmt="qcow2"):
    """All of it as one raw file. (Copies may read what it lies on, which
    qemu-img takes for somebody who writes.)"""
    raw = f"{work}/whole.raw"
    done = run("disk", "convert", "--force", "--from", fmt, "--to", "raw",
               image, raw)
    assert done.returncode == 0, done
    return raw


# ---- the machine ----

class Again(Guest):
    """One that goes on from where it was saved."""

    def __init__(self, name):
        self.begin([atoll, "resume", name], env)


class Life:
    """A machine with a disk of its own, until one of both is lost."""

    def __init__(self, number):
        self.folder = f"{work}/d{number}"
        self.name = f"m{number}"
        self.path = self.folder + "/disk.qcow2"
        self.saved = f"{work}/s/named/{self.name}"
        os.mkdir(self.folder)
        made = run("disk", "create", self.path, str(SIZE), "--format", "qcow2")
        assert made.returncode == 0, made
        self.guest = Guest(atoll, elf, env, self.path + ",format=qcow2",
                           self.name, "--memory", "32M")
        self.guest.wait(lambda: self.guest.flushed > 3)
        self.slots = self.guest.slots
        self.least = 0     # of a guest that has not said anything yet
        self.copies = []
        self.snaps = {}    # of memory and disk: name, digest of its disk
        self.number = 0
        self.bitmap = None  # the last backup with it

    def fresh(self):
        self.number += 1
        return self.number

    def flushed(self):
        return max(self.guest.flushed, self.least)

    def opened(self):
        """The files that its process has open in the disk's folder."""
        pid = self.guest.worker()
        found = set()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if link.startswith(work) and "/d" in link and "qcow2" in link:
                st = os.stat(f"/proc/{pid}/fd/{fd}")
                found.add((st.st_dev, st.st_ino, link))
        return found


class Copy:
    def __init__(self, name):
        self.name = name
        self.folder = f"{work}/s/named/{name}"
        self.sock = f"{work}/r/named/{name}.sock"

    def alive(self):
        return os.path.exists(self.sock)

    def said(self):
        """What it complains of."""
        try:
            with open(self.folder + "/console.log", "rb") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - SAID))
                text = f.read().decode()
        except OSError:
            return []
        # The first row may be cut, or have begun before it was copied; with a
        # complaint its guest ends.
        rows = text.split("\n")[1:-1]
        return [r for r in rows if not re.fullmatch(
            r"\d*|slots \d+|size \d+", r)]

    def end(self):
        try:
            with open(self.folder + "/console.in", "w", encoding="ascii") as f:
                f.write("q")
        except OSError:
            pass
        return wait_until(lambda: not self.alive())


# ---- what is asked ----

class Ask:
    """One command. judge(ask) looks at what it did, when all have ended."""

    def __init__(self, words, judge=None, makes=(), kill=False):
        self.words, self.judge, self.makes = words, judge, makes
        self.kill, self.process = kill, None

    def start(self, life, dice):
        self.least = life.flushed()
        more = dict(env, LD_PRELOAD=turns,
                    TURNS_SEED=str(dice.randrange(1, 1 << 32)),
                    TURNS_MS=str(dice.choice([0, 3, 20, 60])))
        if self.kill:
            more["TURNS_KILL"] = str(dice.randrange(1, 60))
        self.out = tempfile.TemporaryFile()
        self.err = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [atoll, *self.words], env=more, stdin=subprocess.DEVNULL,
            stdout=self.out, stderr=self.err)

    def end(self):
        try:
            self.code = self.process.wait(HANGS)
        except subprocess.TimeoutExpired:
            self.code = None
            self.process.kill()
            self.process.wait()
        for f, name in (self.out, "stdout"), (self.err, "stderr"):
            f.seek(0)
            setattr(self, name, f.read().decode(errors="replace"))
            f.close()

    def __str__(self):
        return (" ".join(str(w) for w in self.words).replace(work, "") +
                f" -> {self.code}" + (" (killed)" if self.kill else "") +
                (": " + self.stderr.strip().replace("\n", " | ")[-300:]
                 if self.code else ""))


def disk_snapshot(life, dice):
    name = f"k{life.fresh()}"
    if dice.random() < 0.15:
        name = f"k{max(life.number - 1, 1)}"
    return Ask(["disk", "snapshot", life.name + ":vda", "--name", name],
               makes=[f"{life.folder}/disk.{name}.qcow2"])


def disk_commit(life, dice):
    how = dice.choice([[], ["--all"], ["--layer", "1"], ["--layer", "2"],
                       ["--layer", "1", "--count", "2"], ["--rate", "1G"]])
    return Ask(["disk", "commit", life.name + ":vda", "--force", *how])


def disk_rebase(life, dice):
    how = dice.choice([[], ["--layer", "2"], ["--layer", "2"],
                       ["--layer", "3"]])
    return Ask(["disk", "rebase", life.name + ":vda", *how])


def is_moment(what, life, ask, image, fmt):
    n = moment_of(raw_of(image, fmt), life.slots, ask.least)
    check(f"{what} holds one moment from {ask.least} on", n is not None,
          f"{ask}: {sorted(w >> 16 for s in words_of(work + '/whole.raw') for w in s)[-3:]}")


def disk_mirror(life, dice):
    fmt = dice.choice(["raw", "qcow2"])
    to = f"{out}/m{life.name}-{life.fresh()}.{fmt}"

    def judge(ask):
        is_moment("a mirror", life, ask, to, fmt)
        os.unlink(to)
    return Ask(["disk", "mirror", life.name + ":vda", to], judge, [to])


def disk_pivot(life, dice):
    to = f"{life.folder}/p{life.fresh()}.qcow2"
    return Ask(["disk", "mirror", life.name + ":vda", to, "--pivot"],
               makes=[to])


def disk_backup(life, dice):
    to = f"{out}/b{life.name}-{life.fresh()}.qcow2"
    words = ["disk", "backup", life.name + ":vda", to]

    def judge(ask):
        is_moment("a backup", life, ask, to, "qcow2")
        if not ask.words[4:]:
            os.unlink(to)
        else:
            life.bitmap = to
    if dice.random() < 0.5:
        words += ["--bitmap", "b"]
        if life.bitmap:
            words += ["--base", life.bitmap]
    return Ask(words, judge, [to])


def disk_set(life, dice):
    what = dice.randrange(5)
    if what == 0:
        return Ask(["disk", "resize", life.name + ":vda", "+64K"])
    if what == 1:
        return Ask(["disk", "throttle", life.name + ":vda", "--iops",
                    str(dice.choice([0, 500, 5000]))])
    if what == 2:
        return Ask(["disk", "bitmap", dice.choice(["create", "delete"]),
                    life.name + ":vda", "x"])
    if what == 3:
        return Ask(["disk", "info", life.name + ":vda"])
    return Ask(["disk", "jobs", life.name + ":vda", "--job",
                str(dice.randrange(1, life.number + 3)), "--cancel"])


def snapshot_create(life, dice):
    name = f"s{life.fresh()}"

    def judge(ask):
        folder = f"{life.saved}/snapshots/{name}"
        is_moment("a snapshot", life, ask, folder + "/disk0", "qcow2")
        life.snaps[name] = digest(folder)
    return Ask(["snapshot", "create", life.name, name], judge,
               [f"{life.saved}/snapshots/{name}"])


def digest(folder):
    return {n: hashlib.sha256(open(f"{folder}/{n}", "rb").read()).hexdigest()
            for n in ("state", "disk0")}


def snapshot_delete(life, dice):
    name = dice.choice(sorted(life.snaps) or ["none"])

    def judge(ask):
        life.snaps.pop(name, None)
    return Ask(["snapshot", "delete", "--yes", life.name, name], judge)


def snapshot_look(life, dice):
    if dice.random() < 0.5 and len(life.snaps) > 1:
        return Ask(["snapshot", "diff", life.name,
                    *dice.sample(sorted(life.snaps), 2)])
    return Ask(["snapshot", "list", "--tree", life.name])


def snapshot_revert(life, dice):
    return Ask(["snapshot", "revert", life.name,
                dice.choice(sorted(life.snaps) or ["none"])])


def fork(life, dice):
    name = f"f{life.name}-{life.fresh()}"
    of = dice.choice([life.name] * 3 + [c.name for c in life.copies])
    count = dice.choice([1, 1, 2])
    more = ["--rm"] if dice.random() < 0.6 else []

    def judge(ask):
        life.copies += [Copy(f"{name}-{i + 1}") for i in range(count)]
    return Ask(["fork", *more, "--count", str(count), "--name", name, of],
               judge)


def suspend(life, dice):
    return Ask(["suspend", life.name])


def suspend_copy(life, dice):
    name = dice.choice([c.name for c in life.copies] or [life.name])
    return Ask(["suspend", name])


def held(life, dice):
    return Ask(["pause", life.name])


def offline(life, dice):
    """What is not for a disk in use is refused, or does no harm."""
    path = dice.choice(header_chain(life.path))
    what = dice.randrange(4)
    if what == 0:
        return Ask(["disk", "check", path])
    if what == 1:
        return Ask(["disk", "commit", path])
    if what == 2:
        return Ask(["disk", "convert", path, f"{out}/c{life.fresh()}.raw"])
    return Ask(["image", "import", path, "--name", f"i{life.fresh()}:1",
                "--kernel", elf])


VERBS = [disk_snapshot] * 4 + [disk_commit] * 4 + [disk_rebase] * 3 + [
    disk_mirror, disk_pivot, disk_pivot, disk_backup, disk_backup, disk_set,
    disk_set, snapshot_create, snapshot_create, snapshot_create,
    snapshot_delete, snapshot_look, fork, fork, fork, fork, suspend, held,
    suspend_copy, offline, snapshot_revert]


# ---- after each round ----

def judge_asks(life, asks, lost):
    made = [m for a in asks if a.code == 0 for m in a.makes]
    for a in asks:
        if a.code is None:
            check("nothing hangs", False, a)
        elif a.code and a.kill:
            pass
        elif a.code == 0:
            if a.judge:
                a.judge(a)
        else:
            check("refused in words", "error:" in a.stderr and a.code > 0 and
                  "fault of Atoll" not in a.stderr or a.words[:2] ==
                  ["disk", "check"], a)
            if not lost and "exists" not in a.stderr:
                left = [m for m in a.makes if os.path.exists(m) and
                        m not in made]
                check("what was refused left nothing", not left, (str(a), left))


def litter(life, asks):
    killed = any(a.kill for a in asks)
    names = [n for folder in (life.folder, out) for n in os.listdir(folder)
             if n.endswith(".incoming") or n.startswith(".atoll-part-")]
    if not killed:
        check("nothing made ready is left", not names,
              (names, [str(a) for a in asks]))
    for folder in (life.folder, out):
        for n in os.listdir(folder):
            if n in names:
                os.unlink(f"{folder}/{n}")


def agrees(life, asks, killed):
    """The headers name what the machine has open, and no more."""
    def all_over():
        told = run("disk", "jobs", life.name + ":vda", "--json")
        return told.returncode or not [
            j for j in json.loads(told.stdout) if j["state"] in
            ("running", "ready")]
    check("jobs end", wait_until(all_over))
    # A copy that was killed before it asked has left its overlay at the path:
    # whoever has the next turn puts that right.
    if killed:
        run("disk", "bitmap", "list", life.name + ":vda")
    seen = ()

    def same():
        nonlocal seen
        chain = header_chain(life.path)
        files = {(os.stat(p).st_dev, os.stat(p).st_ino) for p in chain}
        opened = life.opened()
        seen = (chain, sorted(opened))
        return files == {o[:2] for o in opened}
    end = time.monotonic() + 10
    while not (good := same()) and time.monotonic() < end:
        time.sleep(0.05)
    check("the headers name what the machine has open", good,
          (seen, [str(a) for a in asks]))
    return good


def on_disk(life, what, asks, was_killed):
    """All that was flushed is there, and each image is clean."""
    chain = header_chain(life.path)
    judged = tempfile.mkdtemp(dir=work)
    for image in chain:  # qemu-img takes copies that read them for writers
        subprocess.run(["cp", "--sparse=always", image, judged], check=True)
    for image in chain:
        done = subprocess.run(
            ["qemu-img", "check", os.path.basename(image)] if foreign else
            [atoll, "disk", "check", os.path.basename(image)], cwd=judged,
            capture_output=True, text=True, check=False)
        check(f"{what}: {os.path.basename(image)} is clean",
              done.returncode == 0 or (done.returncode == 3 and was_killed),
              (done, [str(a) for a in asks]))
    shutil.rmtree(judged)
    n = moment_of(raw_of(life.path), life.slots, life.flushed())
    check(f"{what}: all that was flushed is there", n is not None and
          (was_killed or n <= life.flushed() + 1),
          (n, life.flushed(), [str(a) for a in asks]))
    return n


def snapshots_agree(life, asks):
    told = run("snapshot", "list", "--json", life.name)
    if told.returncode:
        return
    names = set(json.loads(told.stdout)["snapshots"])
    killed = any(a.code for a in asks)
    check("the list has what was made", names >= set(life.snaps) if killed
          else names == set(life.snaps), (names, sorted(life.snaps),
                                          [str(a) for a in asks]))
    for name, was in list(life.snaps.items()):
        if name not in names:
            del life.snaps[name]
            continue
        check("a snapshot stays as it is", digest(
            f"{life.saved}/snapshots/{name}") == was,
            (name, [str(a) for a in asks]))
    for name in names - set(life.snaps):
        life.snaps[name] = digest(f"{life.saved}/snapshots/{name}")


def resume(life, asks):
    """Goes on with one that was put away; False: it did not."""
    last = life.flushed()
    life.guest = Again(life.name)
    life.least = 0
    if not life.guest.wait(lambda: life.guest.flushed > 0):
        check("it goes on", False, (life.guest.done(), life.guest.errors,
                                    last, [str(a) for a in asks]))
        return False
    return True


def copies_look(life, dice, asks):
    for c in list(life.copies):
        said = c.said()
        check("a copy finds what it wrote", not said,
              (c.name, said, [str(a) for a in asks]))
        if not c.alive() or dice.random() < 0.3:
            if c.alive():
                check("a copy ends", c.end())
            life.copies.remove(c)
            run("snapshot", "list", c.name)
            shutil.rmtree(c.folder, ignore_errors=True)


def round_of(life, number):
    """Whether the machine may go on as it is."""
    dice = random.Random(f"{seed}:{number}")
    asks = [dice.choice(VERBS)(life, dice)
            for _ in range(dice.choice([2, 2, 3, 3, 4]))]
    if dice.random() < 0.2:
        asks[dice.randrange(len(asks))].kill = True
    end = dice.choice(["vm", "starter"]) if dice.random() < 0.12 else None
    ended = None
    for a in asks:
        a.start(life, dice)
        time.sleep(dice.random() * 0.03)
    if end:
        time.sleep(dice.random() ** 2 * 0.5)
        ended = life.guest.kill(starter=end == "starter")
    for a in asks:
        a.end()
    print(f"round {number} {life.name} {life.flushed()}"
          f"{' kill ' + end if end else ''}:", *(f"\n    {a}" for a in asks),
          flush=True)
    gone = end or life.guest.vm.poll() is not None
    killed = any(a.kill for a in asks)
    put_away = any(a.words[0] == "suspend" and a.words[1] == life.name and
                   a.code == 0 for a in asks)
    if put_away and not end:
        life.guest.done()
        gone = True
    check("what it read was right", not life.guest.said,
          (life.guest.said, [str(a) for a in asks]))
    judge_asks(life, asks, gone)
    litter(life, asks)
    snapshots_agree(life, asks)
    copies_look(life, dice, asks)
    if gone:
        life.guest.done()
        reverted = any(a.words[:2] == ["snapshot", "revert"] and a.code == 0
                       for a in asks)
        if not reverted:
            on_disk(life, "ended", asks, bool(end))
        state = f"{life.saved}/suspended.state"
        if not os.path.exists(state) or not os.path.getsize(state):
            check("it is put away", end or not put_away or killed,
                  [str(a) for a in asks])
            return False
        return resume(life, asks)
    run("resume", life.name)
    run("disk", "throttle", life.name + ":vda", "--iops", "0")
    check("it goes on", life.guest.goes_on(10),
          (life.guest.said, [str(a) for a in asks]))
    good = agrees(life, asks, killed)
    if killed:
        return False
    if dice.random() < 0.3 or not good:
        return restart(life, dice, asks)
    return True


def restart(life, dice, asks):
    """Put away, looked at, perhaps put back to a snapshot, and on it goes."""
    done = run("suspend", life.name)
    check("suspend", done.returncode == 0, (done, [str(a) for a in asks]))
    life.guest.done()
    if done.returncode:
        return False
    on_disk(life, "put away", asks, False)
    if life.snaps and dice.random() < 0.5:
        name = dice.choice(sorted(life.snaps))
        done = run("snapshot", "revert", life.name, name)
        check("revert", done.returncode == 0, done)
        life.least = 0
        life.guest.flushed = 0
        life.bitmap = None
        image = raw_of(life.path)
        check("a revert brings the snapshot's disk", moment_of(
            image, life.slots, 0) == moment_of(raw_of(
                f"{life.saved}/snapshots/{name}/disk0"), life.slots, 0))
    return resume(life, asks)


def bury(life):
    for c in life.copies:
        if c.alive():
            c.end()
    if life.guest.vm.poll() is None:
        code = life.guest.end()
        check("the guest is content", code == 1 and not life.guest.said,
              (code, life.guest.said, life.guest.errors))
        on_disk(life, "at the end", [], False)
    shutil.rmtree(life.folder)
    shutil.rmtree(life.saved, ignore_errors=True)


def main():
    os.mkdir(out)
    print("seed", seed, flush=True)
    until = time.monotonic() + seconds
    number, lives, life = only or 0, 0, None
    while time.monotonic() < until and not any_failed():
        if not life:
            lives += 1
            life = Life(f"{lives}")
        try:
            stays = round_of(life, number)
        except subprocess.TimeoutExpired as e:
            stays = check("nothing hangs", False, e)
        number += 1
        if only is not None and number > only:
            break
        if not stays and not any_failed():
            bury(life)
            life = None
    if not any_failed():
        if life:
            bury(life)
        check("no process is left", wait_until(lambda: not processes_of(
            work + "/s")), processes_of(work + "/s"))
    print(f"{number} rounds of {lives} machines; seed {seed}")
    if not any_failed():
        shutil.rmtree(work)


end_with_us(work + "/s")
main()
sum_up()
