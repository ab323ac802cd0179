# SPDX-License-Identifier: Apache-2.0
"""What at_once.py asks: each a request of one client, and how to judge what
came of it."""
import http.client
import os
import shutil
import signal
import subprocess
import threading
import time

from checks import check

HANGS = 150
CUT = (OSError, http.client.HTTPException)


class Ask:
    """One request. judge(ask) looks at what it did when all have ended; `ends`
    says that its machine may be stopped by it; `makes` what a refusal leaves
    none of."""

    def __init__(self, world, vm, words, judge=None, makes=(), ends=False,
                 boots=False, reverts=False):
        self.world, self.vm, self.words = world, vm, words
        self.judge, self.makes = judge, makes
        self.ends, self.boots, self.reverts = ends, boots, reverts
        self.done = self.refused = self.cut = False
        self.said = ""

    def start(self, dice):
        self.least = self.vm.flushed() if self.vm else 0
        self.dice = dice.randrange(1, 1 << 32), dice.choice([0, 3, 20, 60])
        self.thread = threading.Thread(target=self.run_it, daemon=True)
        self.thread.start()

    def run_it(self):
        try:
            self.run()
        except Exception as e:  # for whoever judges
            self.said = f"{type(e).__name__}: {e}"

    def end(self):
        self.thread.join(HANGS * 2)
        check("nothing hangs", not self.thread.is_alive(), self)

    def __str__(self):
        how = "done" if self.done else "cut" if self.cut else "refused"
        words = " ".join(str(w) for w in self.words)
        return f"{words} -> {how} {self.said}".replace(
            str(self.world.work), "")


class Rest(Ask):
    """Words: method, path, body; a task is waited for."""

    def run(self):
        d = self.world.d
        method, path, body = (*self.words, None)[:3]
        try:
            got = d.call(method, path, body)
        except CUT as e:
            self.cut, self.said = True, repr(e)
            return
        self.world.spec.check(method, path, got.status,
                              got.headers.get("content-type", ""), got.body)
        if got.status >= 400:
            self.refused = True
            error = got.json["error"]
            self.said = f"{got.status} {error['code']}: {error['words']}"
            return
        if got.status != 202:
            self.done = True
            self.answer = got.json if got.body else None
            return
        self.wait_for(got.json["id"])

    def wait_for(self, number):
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            try:
                t = self.world.d.call("GET", f"/v1/tasks/{number}?wait=10").json
            except CUT:
                time.sleep(0.05)  # the next daemon goes on with it
                continue
            if t.get("state") in ("queued", "running"):
                continue
            self.task = t
            self.done = t["state"] == "succeeded"
            self.refused = not self.done
            if not self.done:
                self.said = (f"{t['state']} {t['error']['code']}: "
                             f"{t['error']['words']}") if t.get("error") \
                    else f"{t}"
            return
        self.said = f"task {number} does not end: {t}"


class Cli(Ask):
    """Words of atoll."""

    def run(self):
        env = dict(self.world.d.env, TURNS_SEED=str(self.dice[0]),
                   TURNS_MS=str(self.dice[1]), LD_PRELOAD=self.world.turns)
        try:
            p = subprocess.run(
                [self.world.atoll, *self.words], env=env, text=True,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=HANGS,
                check=False)
        except subprocess.TimeoutExpired:
            self.said = "does not end"
            return
        self.done, self.refused = p.returncode == 0, p.returncode > 0
        self.said = "" if self.done else \
            f"{p.returncode} {p.stderr.strip()[-200:]!r}"
        self.in_words = "error:" in p.stderr and \
            "fault of Atoll" not in p.stderr


class Export(Ask):
    """Over NBD: what a disk holds at a moment."""

    def run(self):
        at, to = self.words[-1], self.makes[0]
        p = subprocess.Popen(
            [self.world.atoll, *self.words], env=self.world.d.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + HANGS
        while not os.path.exists(at) and p.poll() is None and \
                time.monotonic() < end:
            time.sleep(0.01)
        if p.poll() is None:
            got = subprocess.run(
                ["qemu-img", "convert", "-O", "raw",
                 f"nbd+unix:///disk?socket={at}", to], text=True,
                capture_output=True, check=False, timeout=HANGS)
            self.done = got.returncode == 0
            self.cut = not self.done
            self.said = got.stderr.strip()[-160:]
            if self.cut and os.path.exists(to):
                os.unlink(to)
        p.send_signal(signal.SIGTERM)
        try:
            err = p.communicate(timeout=HANGS)[1]
        except subprocess.TimeoutExpired:
            p.kill()
            self.cut, self.said = False, "does not end"
            return
        if not self.done and not self.cut:
            self.refused, self.in_words = True, "error:" in err
            self.said = f"{p.returncode} {err.strip()[-200:]!r}"


# ---- the verbs ----

def at(vm, *more):
    return "/".join([f"/v1/vms/{vm.name}", *more])


def either(world, dice, vm, rest, cli, **how):
    """By REST or by the command line."""
    if dice.random() < 0.5:
        return Rest(world, vm, rest, **how)
    return Cli(world, vm, cli, **how)


def disk_snapshot(world, vm, dice):
    name = f"k{world.fresh()}"
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/snapshot"),
                                    {"name": name}],
                  ["disk", "snapshot", vm.name + ":vda", "--name", name])


def disk_commit(world, vm, dice):
    how = dice.choice([{}, {"all": True}, {"layer": 1}, {"layer": 2},
                       {"layer": 1, "count": 2}])
    words = [w for k, v in how.items()
             for w in ([f"--{k}"] if v is True else [f"--{k}", str(v)])]
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/commit"), how],
                  ["disk", "commit", vm.name + ":vda", *words])


def disk_rebase(world, vm, dice):
    how = dice.choice([{}, {"layer": 2}, {"layer": 3}])
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/rebase"), how],
                  ["disk", "rebase", vm.name + ":vda", *(
                      ["--layer", str(how["layer"])] if how else [])])


def copy_is_whole(world, to, fmt):
    def judge(ask):
        world.is_moment("a copy", ask, to, fmt)
        os.unlink(to)
    return judge


def disk_mirror(world, vm, dice):
    fmt = dice.choice(["raw", "qcow2"])
    to = f"{world.out}/m{world.fresh()}.{fmt}"
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/mirror"),
                                    {"path": to}],
                  ["disk", "mirror", vm.name + ":vda", to],
                  judge=copy_is_whole(world, to, fmt), makes=[to])


def disk_pivot(world, vm, dice):
    to = f"{vm.pivots(world)}/p{world.fresh()}.qcow2"
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/mirror"),
                                    {"path": to, "pivot": True}],
                  ["disk", "mirror", vm.name + ":vda", to, "--pivot"],
                  makes=[to])


def disk_backup(world, vm, dice):
    to = f"{world.out}/b{world.fresh()}.qcow2"
    body = {"path": to}
    words = ["disk", "backup", vm.name + ":vda", to]
    kept = dice.random() < 0.5
    if kept:
        body["bitmap"] = "b"
        words += ["--bitmap", "b"]
        if vm.bitmap and os.path.exists(vm.bitmap):
            body["base"] = vm.bitmap
            words += ["--base", vm.bitmap]

    def judge(ask):
        world.is_moment("a backup", ask, to, "qcow2")
        if kept:
            vm.bitmap = to
            world.kept.add(to)
        else:
            os.unlink(to)
    return either(world, dice, vm, ["POST", at(vm, "disks/vda/backup"), body],
                  words, judge=judge, makes=[to])


def disk_export(world, vm, dice):
    n = world.fresh()
    to = f"{world.out}/e{n}.raw"
    if not shutil.which("qemu-img"):
        return disk_mirror(world, vm, dice)
    return Export(world, vm, ["disk", "export", vm.name + ":vda", "--socket",
                              f"{world.out}/e{n}.sock"],
                  judge=copy_is_whole(world, to, "raw"), makes=[to])


def disk_set(world, vm, dice):
    what = dice.randrange(5)
    if what == 0 and vm.grown < 12:
        vm.grown += 1
        # Less than a slot together.
        return either(world, dice, vm, [
            "POST", at(vm, "disks/vda/resize"),
            {"bytes": vm.SIZE + vm.grown * 4096}],
            ["disk", "resize", vm.name + ":vda",
             f"{vm.SIZE // 1024 + vm.grown * 4}K"])
    if what == 1:
        return Rest(world, vm, ["POST", at(vm, "disks/vda/throttle"),
                                {"iops": dice.choice([0, 500, 5000])}])
    if what == 2:
        return Cli(world, vm, ["disk", "bitmap",
                               dice.choice(["create", "delete"]),
                               vm.name + ":vda", "x"])
    if what == 3:
        return Rest(world, vm, ["GET", at(vm, "disks")])
    return Rest(world, vm, ["POST", at(vm, "jobs", str(dice.randrange(
        1, 12)), "cancel")])


def cancel(world, vm, dice):
    """The last task that there is, whosever."""
    return CancelLast(world, vm, ["cancel", "last"])


class CancelLast(Rest):
    def run(self):
        time.sleep(self.dice[1] / 500)
        try:
            tasks = self.world.d.call("GET", "/v1/tasks?limit=3").json["tasks"]
        except CUT as e:
            self.cut, self.said = True, repr(e)
            return
        number = tasks[self.dice[0] % len(tasks)]["id"]
        self.words = ["POST", f"/v1/tasks/{number}/cancel"]
        super().run()
        if self.refused and getattr(self, "task", None):
            self.done, self.refused = True, False


def snapshot_create(world, vm, dice):
    name = f"s{world.fresh()}"
    fast = dice.random() < 0.3
    return either(world, dice, vm, ["POST", at(vm, "snapshots"),
                                    {"name": name, "fast": fast}],
                  ["snapshot", "create", vm.name, name, *(
                      ["--fast"] if fast else [])],
                  judge=lambda ask: world.snapshot_made(ask, name))


def snapshot_delete(world, vm, dice):
    name = vm.some_snapshot(dice)
    return either(world, dice, vm, ["DELETE", at(vm, "snapshots", name)],
                  ["snapshot", "delete", "--yes", vm.name, name])


def snapshot_revert(world, vm, dice):
    name = vm.some_snapshot(dice)
    start = dice.random() < 0.7
    force = dice.random() < 0.9
    return either(world, dice, vm, [
        "POST", at(vm, "snapshots", name, "revert"),
        {"force": force, "start": start}],
        ["snapshot", "revert", *(["--force"] if force else []),
         *(["--start"] if start else []), vm.name, name],
        ends=True, reverts=True)


def snapshot_look(world, vm, dice):
    if len(vm.snapshots) > 1:
        a, b = dice.sample(sorted(vm.snapshots), 2)
        return Rest(world, vm, ["GET", at(vm, "snapshots", a,
                                          f"diff?with={b}")])
    return Cli(world, vm, ["snapshot", "list", "--tree", vm.name])


def fork(world, vm, dice):
    name = f"f{world.fresh()}"
    count = dice.choice([1, 1, 2])
    rm = dice.random() < 0.4
    return either(world, dice, vm, [
        "POST", at(vm, "fork"), {"name": name, "count": count,
                                 "disposable": rm}],
        ["fork", *(["--rm"] if rm else []), "--count", str(count), "--name",
         name, vm.name],
        judge=lambda ask: world.expect(name, count, rm))


def suspend(world, vm, dice):
    return either(world, dice, vm, ["POST", at(vm, "suspend"),
                                    {"fast": dice.random() < 0.5}],
                  ["suspend", vm.name], ends=True)


def power(world, vm, dice):
    verb = dice.choice(["start", "start", "stop", "restart", "kill", "reset",
                        "reset", "pause", "resume"])
    body = {"force": True, "timeout_s": 1} if verb in (
        "stop", "restart") else None
    words = ["POST", at(vm, verb), body]
    ends = verb in ("stop", "restart", "kill")
    if body is None:
        return either(world, dice, vm, words, [*(
            ["vm", verb] if verb == "reset" else [verb]), vm.name], ends=ends,
            boots=verb in ("start", "reset"))
    return Rest(world, vm, words, ends=ends, boots=True)


def delete(world, vm, dice):
    """Of a copy, of one that is somebody's copy, or of what it came of."""
    return either(world, dice, vm, ["DELETE", at(vm) + "?force=true"],
                  ["vm", "delete", "--force", "--yes", vm.name], ends=True,
                  judge=lambda ask: world.gone.add(vm.id))


def rename(world, vm, dice):
    new = f"r{world.fresh()}"
    return either(world, dice, vm, ["PATCH", at(vm), {"name": new}],
                  ["vm", "rename", vm.name, new])


def attach(world, vm, dice):
    path = f"{world.extra}/x{world.fresh()}.qcow2"
    world.create(path)
    if dice.random() < 0.5:
        return Cli(world, vm, ["vm", "detach", vm.name, "vdb"])
    return Cli(world, vm, ["vm", "attach", vm.name, "--disk",
                           path + ",format=qcow2"])


def image_export(world, vm, dice):
    to = f"{world.out}/i{world.fresh()}.tar"

    def judge(ask):
        with open(to, "rb") as f:
            check("an exported image is there", f.read(1), ask)
        world.tars.append(to)
        world.kept.add(to)
    return either(world, dice, None, [
        "POST", f"/v1/images/{world.some_image(dice)}/export", {"path": to}],
        ["image", "export", world.some_image(dice), to],
        judge=judge, makes=[to])


def image_import(world, vm, dice):
    name = f"i{world.fresh()}:1"
    if world.tars and dice.random() < 0.6:
        body = {"name": name, "path": dice.choice(world.tars)}
    else:
        body = {"name": name, "path": world.base, "kernel": world.elf}
    words = ["image", "import", body["path"], "--name", name]
    if "kernel" in body:
        words += ["--kernel", body["kernel"]]
    return either(world, dice, None, ["POST", "/v1/images", body], words,
                  judge=lambda ask: world.has_image(ask, name))


def image_delete(world, vm, dice):
    name = world.some_image(dice)
    return either(world, dice, None, ["DELETE", f"/v1/images/{name}"],
                  ["image", "delete", "--yes", name])


def image_tag(world, vm, dice):
    name = f"t{world.fresh()}:1"
    return either(world, dice, None, [
        "POST", f"/v1/images/{world.some_image(dice)}/tag", {"name": name}],
        ["image", "tag", world.some_image(dice), name])


def clone(world, vm, dice):
    """A machine that lies on an image, or has a copy of it."""
    name = f"c{world.fresh()}"
    body = world.definition(name)
    body["image"] = world.some_image(dice)
    body["boot"] = {}
    if dice.random() < 0.5:
        body["full_copy"] = True
    return Rest(world, None, ["POST", "/v1/vms", body])


def backup(world, vm, dice):
    how = dice.choice([{}, {"kind": "full"}, {"kind": "incremental"}])

    def judge(ask):
        world.verify_backups(ask)
    return Rest(world, vm, ["POST", at(vm, "backups"), how], judge=judge)


def backup_use(world, vm, dice):
    one = world.some_backup(dice)
    what = dice.randrange(3)
    if what == 0:
        return Rest(world, None, ["POST", f"/v1/backups/{one}/restore",
                                  {"name": f"b{world.fresh()}"}])
    if what == 1:
        return Rest(world, None, ["DELETE", f"/v1/backups/{one}"])
    return Rest(world, None, ["POST", f"/v1/backups/{one}/verify"])


def schedule(world, vm, dice):
    if dice.random() < 0.4:
        return Rest(world, vm, ["DELETE", at(vm, "backup-schedule")])
    return Rest(world, vm, ["PUT", at(vm, "backup-schedule"),
                            {"every_s": 1, "keep": {"last": 2}}])


def offline(world, vm, dice):
    """What is not for a disk in use is refused, or does no harm."""
    chain = vm.chain()
    path = dice.choice(chain) if chain else world.base
    what = dice.randrange(3)
    if what == 0:
        return Cli(world, None, ["disk", "check", path])
    if what == 1:
        return Cli(world, None, ["disk", "commit", path])
    to = f"{world.out}/c{world.fresh()}.raw"
    return Cli(world, None, ["disk", "convert", path, to], makes=[to],
               judge=lambda ask: os.unlink(to))


VERBS = [disk_snapshot] * 4 + [disk_commit] * 4 + [disk_rebase] * 3 + [
    disk_mirror, disk_pivot, disk_pivot, disk_backup, disk_backup,
    disk_export, disk_set, disk_set, cancel, cancel, snapshot_create,
    snapshot_create, snapshot_create, snapshot_delete, snapshot_revert,
    snapshot_revert, snapshot_look, fork, fork, fork, fork, suspend, suspend,
    power, power, power, power, delete, delete, rename, attach, image_export,
    image_import, image_delete, image_tag, clone, clone, backup, backup,
    backup_use, backup_use, schedule, offline]


def some_ask(world, dice):
    """Mostly of one machine: those of others don't meet."""
    vms = world.vms
    vm = vms[0] if dice.random() < 0.7 else dice.choice(vms)
    ask = dice.choice(VERBS)(world, vm, dice)
    ask.vm = ask.vm or None
    return ask


def judge_asks(world, asks, kill):
    for a in asks:
        check("it is done or refused", a.done or a.refused or (a.cut and kill),
              a)
        if a.refused and isinstance(a, Rest):
            check("refused in words", a.said.partition(": ")[2] and not any(
                w in a.said for w in ("500 ", "503 ", "internal")), a)
        elif a.refused and a.words[:2] != ["disk", "check"]:
            check("refused in words", a.in_words or kill, a)
        if a.done and a.judge:
            a.judge(a)
        elif a.refused and not kill and "exists" not in a.said:
            left = [m for m in a.makes if os.path.exists(m)]
            check("what was refused left nothing", not left, (str(a), left))
