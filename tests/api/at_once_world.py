# SPDX-License-Identifier: Apache-2.0
"""The daemon and the machines of at_once.py, and what must hold of them after
each round."""
import glob
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import harness
from at_once_asks import HANGS, judge_asks
from checks import any_failed, check
from disk_moment import moment_of
from live_guest import header_chain

SIZE = 8 << 20
SLOTS = 128
TAIL = 32 << 10
MOST = 3  # machines that stay


class Machine:
    """One that the daemon has, by its id."""

    SIZE = SIZE

    def __init__(self, world, vm):
        self.world, self.id, self.name = world, vm["id"], vm["name"]
        self.folder = f"{world.d.state}/machines/{self.id}"
        self.bitmap, self.grown, self.least, self.mark = None, 0, 0, 0
        self.snapshots, self.path, self.known = [], None, False
        self.pid = None

    def look(self, vm):
        self.name, self.state, self.pid = vm["name"], vm["state"], vm["pid"]
        self.vm = vm
        disks = vm["spec"]["disks"]
        if vm["spec"].get("image"):
            self.path = next((p for p in (self.folder + "/root.qcow2",
                                          self.folder + "/root.raw")
                              if os.path.exists(p)), None)
        else:
            self.path = disks[0]["path"]

    def chain(self):
        return header_chain(self.path) if self.path else []

    def pivots(self, world):
        """Where a disk that takes its disk's place may lie."""
        return os.path.dirname(self.path) if self.path else world.out

    def some_snapshot(self, dice):
        return dice.choice(sorted(self.snapshots) or ["none"])

    # -- what its guest says --

    def printed(self):
        """The number of the byte after the last one, and the last text."""
        logs = sorted(glob.glob(self.folder + "/console-*.log"))[-2:]
        text, end = b"", 0
        for path in logs:
            try:
                with open(path, "rb") as f:
                    text += f.read()
                    end = int(path[-24:-4]) + f.tell()
            except OSError:
                pass
        return end, text

    def rows(self, since=0):
        end, text = self.printed()
        text = text[-min(TAIL, max(end - since, 0)):] if end > since else b""
        # The first may be cut, or have begun before.
        return text.decode(errors="replace").split("\n")[1:-1]

    def flushed(self, since=0):
        """The last number that follows on another: one alone may be two that
        a revert or a reset has cut."""
        numbers = [int(r) for r in self.rows(since) if r.isdigit()]
        for a, b in zip(numbers[-2::-1], numbers[:0:-1]):
            if b == a + 1:
                return b
        return 0

    def complaints(self):
        return [r for r in self.rows() if not re.fullmatch(
            r"\d*|\d*slots \d+|\d*size \d+|s?l?o?t?s? ?\d*|s?i?z?e? ?\d*", r)]

    def opened(self):
        found = {}
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            at = f"/proc/{self.pid}/fd/{fd}"
            try:
                link, st = os.readlink(at), os.stat(at)
            except OSError:
                continue
            if re.search(r"\.(qcow2|raw|incoming)( \(deleted\))?$", link) or \
                    "/images/" in link and "disk" in link:
                found[st.st_dev, st.st_ino] = link
        return found


class World:
    def __init__(self, atolld, atoll, elf, turns, dice):
        self.atoll, self.elf, self.turns = atoll, elf, turns
        self.dice = dice
        self.d = harness.Daemon({"atolld": atolld, "atoll": atoll,
                                 "guest": elf})
        self.spec = harness.Spec()  # for what is asked; we ask much more
        self.work = str(self.d.work)
        self.out = self.work + "/out"
        self.extra = self.work + "/extra"
        self.base = self.work + "/base.qcow2"
        self.vms, self.kept, self.tars, self.gone = [], set(), [], set()
        self.images, self.backups, self.number = ["base:1"], [], 0
        self.client_env = dict(self.d.env)
        self.killed = set()  # of whom the daemon has to hear
        self.must = set()  # names of copies that were made

    def fresh(self):
        self.number += 1
        return self.number

    # -- beginning --

    def run(self, *words):
        return subprocess.run([self.atoll, *words], env=self.client_env,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=HANGS, check=False)

    def create(self, path):
        done = self.run("disk", "create", path, str(SIZE), "--format", "qcow2")
        assert done.returncode == 0, done

    def start_daemon(self):
        """Whom it starts are delayed, too."""
        env = self.d.env
        self.d.env = dict(
            env, LD_PRELOAD=self.turns,
            TURNS_OF=self.dice.choice(["atoll", "atoll", "atoll-hold"]),
            TURNS_SEED=str(self.dice.randrange(1, 1 << 32)),
            TURNS_MS=str(self.dice.choice([0, 3, 20, 40])))
        try:
            for _ in range(20):
                try:
                    self.d.start()
                    break
                except AssertionError:
                    # A command has started one first: that goes, too.
                    if "another atolld" not in self.d.log().splitlines()[-2]:
                        raise
                    self.d.process.wait()
                    self.end_others()
        finally:
            self.d.env = env

    def end_others(self):
        for pid in openers(f"{self.d.state}/lock"):
            if name_of(pid) == "atolld":
                os.kill(pid, signal.SIGKILL)

    def where(self):
        """Where the daemon is, if it hangs."""
        if not self.d.process:
            return
        for task in glob.glob(f"/proc/{self.d.process.pid}/task/*"):
            for name in ("wchan", "syscall", "stack"):
                try:
                    with open(f"{task}/{name}", encoding="ascii") as f:
                        print(os.path.basename(task), name, f.read())
                except OSError:
                    pass
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if parent(pid) == self.d.process.pid:
                print("child", pid, name_of(pid))
        if shutil.which("gdb"):
            subprocess.run(["gdb", "-batch", "-ex", "thread apply all bt",
                            "-p", str(self.d.process.pid)], check=False,
                           stdin=subprocess.DEVNULL, timeout=HANGS)

    def close(self):
        self.d.close()
        self.end_others()

    def definition(self, name):
        return {"name": name, "memory_bytes": 32 << 20, "engine": "bt",
                "devices": ["debug-exit"], "nics": [],
                "stop_timeout_s": 1}

    def new_machine(self):
        name = f"m{self.fresh()}"
        folder = f"{self.work}/{name}"
        os.mkdir(folder)
        self.create(folder + "/disk.qcow2")
        got = self.d.call("POST", "/v1/vms", {
            **self.definition(name), "boot": {"kernel": self.elf},
            "disks": [{"path": folder + "/disk.qcow2", "format": "qcow2"}]})
        assert got.status == 201, got.body
        self.d.do("POST", f"/v1/vms/{name}/start")

    def up(self):
        os.mkdir(self.out)
        os.mkdir(self.extra)
        self.start_daemon()
        self.create(self.base)
        self.import_base()
        self.new_machine()
        self.settle()
        self.find()
        self.all_go_on([])

    def import_base(self):
        done = self.run("image", "import", self.base, "--name", "base:1",
                        "--kernel", self.elf)
        assert done.returncode == 0, done
        self.images = ["base:1"]

    def some_image(self, dice):
        return dice.choice(self.images)

    def some_backup(self, dice):
        return dice.choice(self.backups or ["none"])

    def begin_round(self):
        self.killed = set()
        for m in self.vms:
            m.least = m.flushed()

    # -- somebody dies --

    def kill(self, what, dice):
        if what == "daemon":
            self.d.kill()
            time.sleep(dice.choice([0, 0, 0.05, 0.3]))
            self.start_daemon()
            return what
        m = dice.choice(self.vms[:2])
        pid = {"vm": lambda: m.pid, "holder": lambda: parent(m.pid),
               "worker": self.worker}[what]()
        if not pid:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        if what != "worker":
            self.killed = {m.pid}
        return f"{what} of {m.name}" if what != "worker" else what

    def worker(self):
        """A process of the daemon's that does somebody's work."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if parent(pid) == self.d.process.pid and \
                        name_of(pid) == "atoll":
                    return int(pid)
            time.sleep(0.005)
        return None

    # -- what was made --

    def raw_of(self, image, fmt="qcow2"):
        raw = self.work + "/whole.raw"
        done = self.run("disk", "convert", "--force", "--from", fmt, "--to",
                        "raw", image, raw)
        assert done.returncode == 0, done
        return raw

    def is_moment(self, what, ask, image, fmt):
        least = 0 if self.any_reverts else ask.least
        n = moment_of(self.raw_of(image, fmt), SLOTS, least, self.boots)
        check(f"{what} holds one moment", n is not None,
              (least, self.boots, str(ask)))

    def snapshot_made(self, ask, name):
        disk = f"{ask.vm.folder}/snapshots/{name}/disk0"
        if os.path.exists(disk):  # else it may be deleted again
            with open(disk, "rb") as f:
                fmt = "qcow2" if f.read(3) == b"QFI" else "raw"
            self.is_moment("a snapshot", ask, disk, fmt)

    def expect(self, name, count, rm):
        if not rm:
            self.must |= {f"{name}-{i + 1}" for i in range(count)}

    def has_image(self, ask, name):
        got = self.d.call("GET", f"/v1/images/{name}")
        check("an image that was made is there", got.status == 200, ask)

    def verify_backups(self, ask):
        for b in self.d.call("GET", "/v1/backups").json["backups"][:2]:
            got = self.d.call("POST", f"/v1/backups/{b['id']}/verify")
            check("a backup is whole", got.status != 200 or
                  got.json["whole"], (got.body, str(ask)))

    # -- after a round --

    def settle(self):
        def quiet():
            busy[:] = [t for s in ("queued", "running") for t in self.d.call(
                "GET", f"/v1/tasks?state={s}").json["tasks"]]
            vms = self.d.call("GET", "/v1/vms").json["vms"]
            return not busy and all(
                v["task"] is None and v["state"] != "starting" and
                v["pid"] not in self.killed and not (
                    # It is about to vanish.
                    v["state"] == "stopped" and v["spec"]["disposable"])
                for v in vms)
        busy = []
        try:
            harness.wait_for(quiet, HANGS, step=0.05)
        except AssertionError:
            check("tasks end", False, busy)

    def find(self):
        """The machines there are, in the order in which they came."""
        vms = {v["id"]: v for v in self.d.call("GET", "/v1/vms").json["vms"]}
        self.vms = [m for m in self.vms if m.id in vms] + [
            Machine(self, v) for i, v in vms.items()
            if i not in {m.id for m in self.vms}]
        for m in self.vms:
            m.look(vms[m.id])
        self.images = [i["name"] for i in self.d.call(
            "GET", "/v1/images").json["images"]]
        self.backups = [b["id"] for b in self.d.call(
            "GET", "/v1/backups").json["backups"]]

    def judge(self, asks, kill, dice):
        said = [str(a) for a in asks] + [str(kill)]
        for m in self.vms:
            self.d.call("DELETE", f"/v1/vms/{m.id}/backup-schedule")
        self.settle()
        if any_failed():
            return
        # More than were asked for: a daemon's next one may begin again.
        self.boots = 2 * sum(a.boots for a in asks) + 1
        self.any_reverts = any(a.reverts for a in asks)
        self.gone, self.must = set(), set()
        before = {m.id for m in self.vms}
        rm = {m.id for m in self.vms if m.vm["spec"]["disposable"]}
        self.find()
        judge_asks(self, asks, kill)
        there = {m.id for m in self.vms}
        check("what was deleted is gone", not self.gone & there, said)
        check("no machine is lost", kill or before - rm <= there or any(
            "DELETE" in s or " delete " in s for s in said), said)
        self.copies_are_there(asks, kill, said)
        self.stopped(asks, kill, said)
        if not any_failed():
            self.find()
            self.all_go_on(said)
            if kill:
                self.take_turns()
            self.agree(said)
            self.litter(said, kill)
            self.registry(said)
        self.thin_out(dice)

    def copies_are_there(self, asks, kill, said):
        names = {m.name for m in self.vms}
        touched = kill or any(a.ends or "rename" in s or "PATCH" in s
                              for a, s in zip(asks, said))
        check("copies are there", touched or self.must <= names,
              (self.must - names, said))

    def stopped(self, asks, kill, said):
        """Those that don't run are looked at, and started again."""
        for m in self.vms:
            if m.state == "paused":
                self.d.do("POST", f"/v1/vms/{m.id}/resume")
            if m.state != "stopped" or not m.path:
                continue
            mine = [a for a in asks if a.vm is m]
            check("it ended for a reason", not m.known or kill or any(
                a.ends for a in mine), (m.name, m.vm["last_end"], said))
            self.on_disk(m, said, kill)
            start = f"/v1/vms/{m.id}/start"
            t = self.d.task(self.d.call("POST", start))
            if t["state"] != "succeeded" and "has other disks now" in \
                    t["error"]["words"]:
                t = self.d.task(self.d.call("POST", start, {"discard": True}))
            if t["state"] != "succeeded" and "not there yet" in \
                    t["error"]["words"]:
                self.d.do("DELETE", f"/v1/vms/{m.id}?force=true")
                continue
            check("it starts again", t["state"] == "succeeded",
                  (m.name, t, said))
        for m in [m for m in self.vms if not m.path]:
            self.d.do("DELETE", f"/v1/vms/{m.id}?force=true")

    def on_disk(self, m, said, kill):
        """All that was flushed is there, and each image is clean."""
        for image in m.chain():
            if not image.endswith("qcow2"):
                continue
            done = self.run("disk", "check", image)
            check("an image is clean", done.returncode == 0 or
                  "in use" in done.stderr or kill or
                  done.returncode == 3, (image, done, said))
        with open(m.path, "rb") as f:
            fmt = "qcow2" if f.read(3) == b"QFI" else "raw"
        least = 0 if self.any_reverts else m.least
        n = moment_of(self.raw_of(m.path, fmt), SLOTS, least, self.boots)
        check("all that was flushed is there", n is not None,
              (m.name, least, self.boots, said))

    def all_go_on(self, said, vms=None):
        vms = self.vms if vms is None else vms
        for m in vms:
            m.mark = m.printed()[0]
        for m in vms:
            try:
                # Nothing of an earlier run is on its disk any more.
                harness.wait_for(lambda m=m: m.flushed(m.mark) > SLOTS + 2 or
                                 m.complaints() or not parent(m.pid), HANGS,
                                 step=0.05)
                good = parent(m.pid)
            except AssertionError:
                good = False
            check("it goes on", good, (m.name, m.rows()[-3:], m.vm, said))
            check("it finds what it wrote", not m.complaints(),
                  (m.name, m.complaints()[:4], said))
            m.known = True

    def take_turns(self):
        """A copy that was killed before it asked its machine has left its
        overlay at the disk's path: whoever has the next turn puts that right,
        also if it is refused then."""
        for m in self.vms:
            done = self.run("disk", "rebase", m.name + ":vda", "--layer", "60")
            check("there is no such layer", done.returncode, (m.name, done))

    def agree(self, said):
        """Headers name what machines have open, and no more."""
        for m in self.vms:
            seen = ()

            def same(m=m):
                nonlocal seen
                m.look(self.d.vm(m.id))
                if not m.pid:
                    seen = (m.vm,)
                    return False
                chain, opened = m.chain(), m.opened()
                for disk in m.vm["spec"]["disks"][0 if m.vm["spec"].get(
                        "image") else 1:]:
                    chain += header_chain(disk["path"])
                seen = (chain, opened)
                files = {(os.stat(p).st_dev, os.stat(p).st_ino)
                         for p in chain}
                if m.vm["restart_needed"]:
                    return files & set(opened)
                return files == set(opened)
            try:
                harness.wait_for(same, 10, step=0.05)
            except AssertionError:
                check("headers name what a machine has open", False,
                      (m.name, seen, said))
            else:
                check("headers name what a machine has open", True)

    def litter(self, said, kill):
        """Folders have what the registry says, and no more."""
        def found():
            left = [str(p) for p in self.d.work.rglob("*")
                    if p.name.endswith((".incoming", ".importing",
                                        ".exporting"))
                    or p.name.startswith(".atoll-part-")
                    or p.name in ("fork.json", "saving.state",
                                  "resuming.state", "suspended.state")]
            left += [p for p in os.listdir(f"{self.d.state}/machines")
                     if p not in {m.id for m in self.vms}]
            for m in self.vms:
                m.snapshots = [s["name"] for s in self.d.call(
                    "GET", f"/v1/vms/{m.id}/snapshots").json["snapshots"]]
                at = m.folder + "/snapshots"
                left += [f"{at}/{n}" for n in (
                    os.listdir(at) if os.path.isdir(at) else [])
                    if os.path.isdir(f"{at}/{n}") and n not in m.snapshots]
            running = [m.pid for m in self.vms]
            left += [f"{n} {p}" for p, n in self.d.processes().items()
                     if n == "atoll-vm" and p not in running]
            holders = list(self.d.processes().values()).count("atoll-hold")
            if holders != len(running):
                left.append(f"{holders} holders of {len(running)}")
            return left
        end = time.monotonic() + 20
        while (left := found()) and time.monotonic() < end:
            time.sleep(0.05)
        if kill:
            # What was killed with its hands full; the next one tidies up.
            for path in [p for p in left if ".atoll-part-" in p or
                         p.endswith((".incoming", ".importing", ".exporting"))]:
                left.remove(path)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
        check("nothing is left over", not left, (left, said))
        for n in os.listdir(self.out):
            if f"{self.out}/{n}" not in self.kept:
                os.unlink(f"{self.out}/{n}")

    def registry(self, said):
        files = glob.glob(f"{self.d.state}/*.db") + \
            glob.glob(f"{self.d.state}/*.sqlite*")
        for path in [f for f in files if f.endswith((".db", ".sqlite"))]:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            row = db.execute("PRAGMA integrity_check").fetchone()
            db.close()
            check("the registry is whole", row == ("ok",), (row, said))

    def thin_out(self, dice):
        """Not more than some, and one to begin with."""
        if any_failed():
            return
        before = {m.id: m.vm["restart_needed"] for m in self.vms}
        for m in [m for m in self.vms if m.vm["restart_needed"]]:
            self.restart(m)
        while len(self.vms) > MOST:
            m = self.vms.pop(dice.randrange(len(self.vms)))
            self.d.do("DELETE", f"/v1/vms/{m.id}?force=true")
        if dice.random() < 0.05 and self.vms:
            self.d.do("DELETE", f"/v1/vms/{self.vms.pop(0).id}?force=true")
        if not self.vms:
            self.new_machine()
        if "base:1" not in self.images:
            self.import_base()
        for name in [i for i in self.images if i != "base:1"][3:]:
            self.d.call("DELETE", f"/v1/images/{name}")
        for b in self.backups[6:]:
            self.d.call("DELETE", f"/v1/backups/{b}")
        for path in self.tars[:-2]:
            self.tars.remove(path)
            self.kept.discard(path)
        self.settle()
        self.find()
        self.all_go_on([], [m for m in self.vms
                            if before.get(m.id) is not False])

    def restart(self, m):
        """By its new definition: only such can be copied."""
        self.d.do("POST", f"/v1/vms/{m.id}/restart",
                  {"force": True, "timeout_s": 1})

    def bury(self):
        for m in list(self.vms):
            at = m.flushed()
            m.look(self.d.vm(m.id))
            if m.vm["spec"]["disposable"]:
                continue
            self.d.do("POST", f"/v1/vms/{m.id}/kill")
            m.least, self.any_reverts, self.boots = at, False, 0
            self.on_disk(m, ["at the end"], True)
        for m in self.vms:
            self.d.call("DELETE", f"/v1/vms/{m.id}?force=true")
        self.settle()
        self.vms = []
        self.litter(["at the end"], False)


def openers(path):
    """Whoever has a file open."""
    found = []
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(fd).removesuffix(" (deleted)") == path:
                found.append(int(fd.split("/")[2]))
        except OSError:
            pass
    return found


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii",
                  errors="replace") as f:
            return int(f.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii",
                  errors="replace") as f:
            return f.read().strip()
    except OSError:
        return None
