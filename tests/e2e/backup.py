#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Backups of a machine that never stops writing: backup.py ATOLLD ATOLL ELF

The guest (tests/guest/disk.c) says how far it has flushed, so that what a
backup must hold is known. A whole one, then what has changed; one on a daemon
that is killed; machines made of them.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import live_guest  # noqa: E402
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atolld, atoll, elf = (os.path.abspath(p) for p in sys.argv[1:4])
work = tempfile.mkdtemp(prefix="backup-")
TOOL = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]
CONVERT = (lambda image: live_guest.whole(image, "qcow2", work, TOOL)) \
    if shutil.which("qemu-img") else None


def raw(image):
    if CONVERT:
        return CONVERT(str(image))
    out = work + "/whole.raw"
    subprocess.run([atoll, "disk", "convert", "--from", "qcow2", "--to",
                    "raw", "--force", image, out], check=True,
                   capture_output=True)
    return out


class Machine:
    def __init__(self, daemon):
        self.d = daemon
        self.disk = work + "/disk.qcow2"
        self.slots = 0
        subprocess.run([atoll, "disk", "create", self.disk, "64M"],
                       check=True, stdout=subprocess.DEVNULL)
        answer = daemon.call("POST", "/v1/vms", {
            "name": "one", "memory_bytes": 64 << 20, "engine": "bt",
            "devices": ["debug-exit"], "nics": [], "boot": {"kernel": elf},
            "disks": [{"path": self.disk, "format": "qcow2"}]})
        assert answer.status == 201, answer.body

    def words(self):
        text = self.d.call("GET", "/v1/vms/one/console").body
        return [line.split() for line in text.decode().splitlines(True)
                if line.endswith("\n")]

    def flushed(self):
        numbers = [w[0] for w in self.words()
                   if len(w) == 1 and w[0].isdigit()]
        return int(numbers[-1]) if numbers else 0

    def look_for_slots(self):
        """Said once, which a console that is written to fast forgets."""
        self.slots = next((int(w[1]) for w in self.words()
                           if w[:1] == ["slots"]), 0)
        return self.slots

    def goes_on(self, writes=40):
        until = self.flushed() + writes
        harness.wait_for(lambda: self.flushed() >= until, step=0.2)

    def cli(self, *words):
        return subprocess.run(
            [atoll, "backup", *words, "--remote", "unix:" + self.d.socket],
            capture_output=True, text=True, check=False)

    def backup(self, *words):
        """Its head, and a write that was flushed before."""
        least = self.flushed()
        done = self.cli("create", "one", *words)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return self.d.call("GET", f"/v1/backups/{done.stdout.strip()}").json, \
            least

    def file(self, head):
        return self.d.state / "backups" / head["id"] / "0.qcow2"

    def holds(self, head, least):
        return live_guest.wrong_moment(raw(self.file(head)), self.slots,
                                       least)


def live(m):
    m.d.do("POST", "/v1/vms/one/start")
    harness.wait_for(m.look_for_slots)
    harness.wait_for(lambda: m.flushed() > 100, step=0.2)
    first = m.backup()
    check("the first one is whole", first[0]["kind"] == "full" and
          first[0]["live"] and not first[0]["parent"], first[0])
    m.goes_on()
    second = m.backup()
    check("the second holds what has changed",
          second[0]["kind"] == "incremental" and
          second[0]["parent"] == first[0]["id"], second[0])
    m.goes_on()
    third = m.backup("--incremental")
    print("    ", *(f"{b[0]['kind']} {b[0]['bytes'] >> 10} KiB"
                    for b in (first, second, third)))
    for n, b in enumerate((first, second, third), 1):
        wrong = m.holds(*b)
        check(f"number {n} holds one moment's disk", not wrong, wrong[:3])
    m.goes_on()
    check("the guest goes on", True)
    return first[0], second[0], third[0]


def refusals(m, first, third):
    done = m.cli("delete", first["id"])
    check("one that others build on stays", done.returncode == 4 and
          "builds on it" in done.stderr, done.stderr)
    done = m.cli("verify", third["id"])
    check("verify", done.returncode == 0 and "3 images" in done.stdout,
          done.stdout + done.stderr)
    with open(m.file(first), "r+b") as f:
        f.seek(0x20)
        before = f.read(64)
        f.seek(0x20)
        f.write(b"\xff" * 64)
    done = m.cli("verify", third["id"])
    check("verify finds damage two below", done.returncode == 1 and
          "damaged" in done.stdout, done.stdout + done.stderr)
    with open(m.file(first), "r+b") as f:
        f.seek(0x20)
        f.write(before)


def killed(m):
    m.goes_on()
    m.d.call("POST", "/v1/vms/one/backups")
    m.d.kill()
    m.d.start()
    harness.wait_for(lambda: m.d.vm("one")["state"] == "running")
    left = [p.name for p in (m.d.state / "backups").iterdir()
            if "partial" in p.name]
    check("nothing half is left by a daemon that was killed", not left, left)
    harness.wait_for(lambda: not m.d.call(
        "GET", "/v1/vms/one/disks").json["jobs"] or all(
            j["state"] != "running" for j in m.d.call(
                "GET", "/v1/vms/one/disks").json["jobs"]))
    done = m.backup()
    check("the next one is right", not m.holds(*done), m.holds(*done)[:3])
    full = m.backup("--full")[0]
    m.d.do("POST", "/v1/vms/one/kill")
    got = subprocess.run([atoll, "disk", "bitmap", "list", m.disk],
                         capture_output=True, text=True, check=False).stdout
    names = re.findall("backup-[0-9a-f]{8}", got)
    check("only the last one's changes are recorded",
          names == ["backup-" + full["id"][:8]], got)


def machines_of(m, third):
    image = open(raw(m.file(third)), "rb").read()
    done = m.cli("restore", third["id"], "again")
    check("restore", done.returncode == 0, done.stderr)
    spec = m.d.vm("again")["spec"]
    path = spec["disks"][0]["path"]
    check("it has a disk of its own", path != m.disk and
          path.startswith(str(m.d.state)), path)
    check("which holds the same", open(raw(path), "rb").read() == image)
    m.d.do("POST", "/v1/vms/again/start")
    m.d.console("again", b"slots")
    check("it boots", True)
    m.d.do("POST", "/v1/vms/again/kill")
    still = m.backup()[0]
    check("one that stands still is copied whole", still["kind"] == "full"
          and not still["live"], still)
    backups = m.d.call("GET", "/v1/backups").json["backups"]
    check("all are listed, the newest first", backups[0]["id"] == still["id"]
          and len(backups) == 6, [b["id"] for b in backups])
    done = m.cli("delete", *(b["id"] for b in backups))
    check("deleted from the newest on", done.returncode == 0 and not
          m.d.call("GET", "/v1/backups").json["backups"], done.stderr)


def of_a_raw_disk(m, d):
    """Whatever the disk was, what is restored is a qcow2 image, and used as
    one."""
    path = work + "/plain.raw"
    with open(path, "wb") as f:
        f.truncate(8 << 20)
        f.write(b"plain" * 1000)
    d.call("POST", "/v1/vms", {
        "name": "plain", "memory_bytes": 64 << 20, "engine": "bt", "nics": [],
        "boot": {"kernel": elf}, "disks": [{"path": path, "format": "raw"}]})
    done = d.task(d.call("POST", "/v1/vms/plain/backups"))
    check("a raw disk's backup", done["state"] == "succeeded", done)
    done = m.cli("restore", done["result"]["backup"], "plain-2")
    check("is restored", done.returncode == 0, done.stderr)
    disk = d.vm("plain-2")["spec"]["disks"][0]
    check("as what it is called", disk["format"] == "qcow2" and
          open(disk["path"], "rb").read(4) == b"QFI\xfb", disk)
    check("and holds that", open(raw(disk["path"]), "rb").read(5) == b"plain")


def main():
    daemon = harness.Daemon({"atolld": atolld})
    try:
        m = Machine(daemon.start())
        first, _, third = live(m)
        refusals(m, first, third)
        killed(m)
        machines_of(m, third)
        of_a_raw_disk(m, daemon)
    finally:
        daemon.close()
        shutil.rmtree(work, ignore_errors=True)


main()
sum_up()
