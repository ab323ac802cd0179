#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Raw disks on a file system that lets files share what they hold:
reflink.py ATOLLD ATOLL DISK_ELF [btrfs|xfs]

Copies and snapshots of machines that never stop writing to one, and copies of
files. Skipped (77) where no such file system can be mounted.
"""
import array
import fcntl
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

from live_guest import LIMIT, Guest, wait_until, wrong_moment, wrong_slots

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
sys.path.insert(0, str(HERE.parent))
from checks import check, sum_up  # noqa: E402

atolld, atoll, elf = (os.path.abspath(p) for p in sys.argv[1:4])
kinds = sys.argv[4:] or ["btrfs", "xfs"]
outside = tempfile.mkdtemp(prefix="rf-")
work = outside + "/fs"
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s",
           ATOLL_RUNTIME_DIR=outside + "/r", XDG_DATA_HOME=work + "/data")


def mount():
    """What is mounted; None: none can be here."""
    os.mkdir(work)
    for kind in kinds:
        image = outside + "/" + kind
        with open(image, "wb") as f:
            f.truncate(400 << 20)
        if os.geteuid() == 0 and shutil.which("mkfs." + kind) and all(
                subprocess.run(words, check=False, capture_output=True)
                .returncode == 0 for words in (
                    ["mkfs." + kind, "-q", image],
                    ["mount", "-o", "loop", image, work])):
            return kind
    return None


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def done(what, result):
    check(what, result.returncode == 0, result)
    return result.stdout


def shared(path):
    """How many of its bytes lie in blocks that others have, too (FIEMAP)."""
    with open(path, "rb") as f:
        os.fsync(f.fileno()) if os.access(path, os.W_OK) else None
        head = struct.pack("=QQLLLL", 0, 1 << 62, 0, 0, 1024, 0)
        buf = array.array("B", head + bytes(56 * 1024))
        fcntl.ioctl(f, 0xc020660b, buf)
    count = struct.unpack_from("=L", buf, 20)[0]
    extents = [struct.unpack_from("=QQQQQLLLL", buf, 32 + 56 * i)
               for i in range(count)]
    return sum(e[2] for e in extents if e[5] & 0x2000)


def make(name):
    path = f"{work}/{name}"
    with open(path, "wb") as f:
        f.truncate(64 << 20)
        f.write(os.urandom(16 << 20))
    return path


def files():
    source = make("files.raw")
    done("convert", command("disk", "convert", source, work + "/copy.raw"))
    check("it shares all", shared(work + "/copy.raw") == 16 << 20)
    check("and is the same", command(
        "disk", "compare", source, work + "/copy.raw").returncode == 0)
    done("one with room of its own", command(
        "disk", "convert", source, work + "/own.raw", "--preallocation",
        "falloc"))
    check("shares nothing", shared(work + "/own.raw") == 0)
    done("another format", command("disk", "convert", source,
                                   work + "/copy.qcow2"))
    done("back", command("disk", "convert", work + "/copy.qcow2",
                         work + "/copy.raw", "--force"))
    check("is the same", command(
        "disk", "compare", source, work + "/copy.raw").returncode == 0)
    done("import", command("image", "import", source, "--kernel", elf,
                           "--name", "f:1"))
    folder = json.loads(command("image", "inspect", "f:1").stdout)["folder"]
    check("shares all", shared(folder + "/disk.raw") == 16 << 20)


class Copy:
    """A copy in the background, known by its console."""

    def __init__(self, found):
        self.name, self.pid = found["name"], found["pid"]
        self.folder = f"{env['ATOLL_STATE_DIR']}/named/{self.name}"

    def written(self):
        text = open(self.folder + "/console.log", encoding="ascii").read()
        rows = text.removeprefix("\n").split("\n")[:-1]
        return ([0] + [int(r) for r in rows if r.isdigit()])[-1], \
            [r for r in rows if not r.isdigit() and r.split()[:1] not in (
                ["slots"], ["size"])]

    def goes_on(self):
        begun = self.written()[0]
        return wait_until(lambda: self.written()[0] >= begun + 40)

    def gone(self):
        path = f"{env['ATOLL_RUNTIME_DIR']}/named/{self.name}.sock"
        return wait_until(lambda: not os.path.exists(path))

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        return self.gone()


class Resumed(Guest):
    def __init__(self, name):
        self.begin([atoll, "resume", name], env)


def fork(name, *more):
    result = command("fork", "--json", *more, name)
    done(f"copies of {name}", result)
    found = json.loads(result.stdout)
    print("     stood still for", found["pause_us"] / 1000, "ms")
    return [Copy(c) for c in found["copies"]]


def forks():
    os.mkdir(work + "/d")
    path = work + "/d/disk.raw"
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    guest = Guest(atoll, elf, env, path, "one")
    check("it writes", guest.goes_on(30), guest.said)
    copies = fork("one", "--count", "3")
    check("nothing lies beside it", os.listdir(work + "/d") == ["disk.raw"],
          os.listdir(work + "/d"))
    check("all go on", guest.goes_on(40) and all(c.goes_on() for c in copies))
    (deeper,) = fork(copies[0].name, "--name", "deep")
    check("a copy's copy goes on", deeper.goes_on())
    check("none misses what it wrote", not guest.said and not any(
        c.written()[1] for c in [*copies, deeper]))
    done("one is put away", command("suspend", copies[1].name))
    check("it has ended", copies[1].gone())
    again = Resumed(copies[1].name)
    check("it finds what it wrote", again.wait(lambda: again.flushed > 0) and
          again.goes_on(40) and not again.said,
          again.said or again.vm.poll() and again.vm.stderr.read())
    check("and is content", again.end() == 1 and not again.said, again.said)
    check("the others end", all(c.end() for c in (
        copies[0], copies[2], deeper)))
    code = guest.end()
    check("the first is content", code == 1 and not guest.said,
          (code, guest.said))
    wrong = wrong_slots(path, guest.slots, guest.flushed)
    check("its disk has no copy's writes", not wrong, wrong[:4])
    check("and nothing is left", os.listdir(work + "/d") == ["disk.raw"],
          os.listdir(work + "/d"))


def snapshots():
    path = work + "/snap.raw"
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    guest = Guest(atoll, elf, env, path, "two")
    check("it writes", guest.goes_on(60), guest.said)
    least = guest.flushed
    # Where to share took long when it was tried, it is copied.
    for last in False, False, True:
        said = done("a snapshot", command("snapshot", "create", "two", "then"))
        print("    ", said.strip())
        disk = next(pathlib.Path(env["ATOLL_STATE_DIR"]).rglob("disk0"))
        holds = os.stat(disk).st_blocks * 512
        if last or shared(disk):
            break
        done("once more", command("snapshot", "delete", "two", "then"))
        least = guest.flushed
    check("shares what the disk holds", holds > 60 * 4096 and
          shared(disk) >= holds * 3 // 4, (shared(disk), holds))
    check("the guest goes on", guest.goes_on(40), guest.said)
    wrong = wrong_moment(str(disk), guest.slots, least)
    check("it holds one moment", not wrong, wrong[:4])
    guest.kill()
    done("back to it", command("snapshot", "revert", "two", "then"))
    again = Resumed("two")
    check("it finds that", again.wait(lambda: again.flushed > 0) and
          again.goes_on(40) and not again.said, again.said)
    code = again.end()
    check("content", code == 1 and not again.said, (code, again.said))


def machine_of(daemon, name, path):
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    answer = daemon.call("POST", "/v1/vms", {
        "name": name, "memory_bytes": 64 << 20, "engine": "bt",
        "devices": ["debug-exit"], "nics": [], "boot": {"kernel": elf},
        "disks": [{"path": path, "format": "raw"}]})
    assert answer.status == 201, answer.body
    daemon.do("POST", f"/v1/vms/{name}/start")
    daemon.console(name, b"slots")


def of_the_daemon():
    tempfile.tempdir = work
    daemon = harness.Daemon({"atolld": atolld})
    tempfile.tempdir = None
    folder = tempfile.mkdtemp(dir=work)
    try:
        daemon.start()
        machine_of(daemon, "kept", folder + "/disk.raw")
        task = daemon.task(daemon.call("POST", "/v1/vms/kept/fork",
                                       {"count": 2}))
        check("copies", task["state"] == "succeeded", task)
        for name in ("kept-1", "kept-2"):
            daemon.console(name, b"\n")
        own = [daemon.state / "machines" / daemon.vm(n)["id"]
               for n in ("kept-1", "kept-2")]
        check("their disks are what they are called", all(
            daemon.vm(n)["spec"]["disks"][0]["format"] == "qcow2"
            for n in ("kept-1", "kept-2")))
        check("what they lie on is one file", os.path.samefile(
            *(f / "base-0.raw" for f in own)))
        for name in ("kept-1", "kept-2"):
            daemon.do("POST", f"/v1/vms/{name}/kill")
            daemon.do("POST", f"/v1/vms/{name}/start")
            daemon.console(name, b"slots")
        deep = daemon.task(daemon.call("POST", "/v1/vms/kept-1/fork"))
        check("a copy's copy", deep["state"] == "succeeded", deep)
        daemon.console("kept-1-1", b"\n")
        for name in ("kept-1", "kept-1-1", "kept-2"):
            daemon.do("DELETE", f"/v1/vms/{name}?force=true")
        check("nothing is left of them", wait_until(
            lambda: not any(f.exists() for f in own)))
        check("nor beside the disk", os.listdir(folder) == ["disk.raw"],
              os.listdir(folder))
        machine_of(daemon, "far", outside + "/far.raw")
        task = daemon.task(daemon.call("POST", "/v1/vms/far/fork"))
        check("a disk on another file system", task["state"] == "failed" and
              "can share nothing" in task["error"]["words"] and
              "btrfs" in task["error"]["hint"] and
              "convert" in task["error"]["hint"], task)
    finally:
        daemon.close()


def end_all():
    """Not even a test that fails leaves copies, or their machine, behind."""
    mark = f"ATOLL_STATE_DIR={work}/s".encode()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (
                    entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGTERM)
        except OSError:
            continue


kind = mount()
if not kind:
    shutil.rmtree(outside)
    print("skipped: no file system with reflinks can be mounted here")
    sys.exit(77)
try:
    print("on", kind)
    files()
    forks()
    snapshots()
    of_the_daemon()
finally:
    end_all()
    subprocess.run(["umount", "-l", work], check=False)
    shutil.rmtree(outside, ignore_errors=True)
sum_up()
