#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest's file systems stand still as a copy of its disk begins, and go on at
once: snapshots of disks and backups, by an agent of a few lines. A guest that
stood still itself is told the time.

Usage: still.py ATOLLD ATOLL CACHE
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_agent  # noqa: E402
from harness import wait_for  # noqa: E402

ATOLLD, ATOLL, CACHE = (os.path.abspath(p) for p in sys.argv[1:4])
SLOW = 120  # seconds


class Still(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="atoll-still-")
        cls.kernel, cls.initrd = small_agent.build(
            CACHE, cls.work, ["virtio_pci", "virtio_blk"])
        cls.d = harness.Daemon({"atolld": ATOLLD}, harness.Spec()).start()
        disks = [cls.path(f"{n}.qcow2") for n in ("one", "two")]
        for disk in disks:
            cls.atoll("disk", "create", disk, "64M")
        r = cls.d.call("POST", "/v1/vms", {
            "name": "guest", "memory_bytes": 96 << 20, "engine": "bt",
            "boot": {"kernel": cls.kernel, "initrd": cls.initrd,
                     "cmdline": "console=ttyS0 quiet"}, "nics": [],
            "disks": [{"path": d, "format": "qcow2"} for d in disks]})
        assert r.status == 201, r.body
        cls.d.do("POST", "/v1/vms/guest/start")
        cls.d.console("guest", b"GUEST-READY")

    @classmethod
    def tearDownClass(cls):
        cls.d.close()
        shutil.rmtree(cls.work, ignore_errors=True)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.work, name)

    @classmethod
    def atoll(cls, *argv, code=0):
        r = subprocess.run([ATOLL, *argv], env=cls.d.env, text=True,
                           capture_output=True, timeout=SLOW, check=False)
        assert r.returncode == code, (argv, r.returncode, r.stdout, r.stderr)
        return r.stdout + r.stderr

    def run_in(self, command):
        path = "/v1/vms/guest/console"
        before = len(self.d.call("GET", path).body)
        self.d.call("POST", path, command.encode() + b"\n",
                    {"Content-Type": "application/octet-stream"})
        m = wait_for(lambda: re.search(
            rb"(?s)(.*)=\d+=", self.d.call("GET", path).body[before:]), SLOW)
        return m[1].decode(errors="replace").replace("\r", "").strip()

    def stood_still(self):
        """What its agent was told since, once it goes on."""
        def said():
            words = self.run_in("cat /ran/still").split()
            return [words] if len(words) % 2 == 0 else None
        words, = wait_for(said, SLOW)
        self.run_in("rm -f /ran/still; touch /ran/still")
        return words

    def held(self, name):
        raw = self.path("raw")
        self.atoll("disk", "convert", self.path(name), raw, "--to", "raw")
        with open(raw, "rb") as f:
            said = f.read(4096).rstrip(b"\0\n").decode()
        os.remove(raw)
        return said

    def files(self):
        return sorted(n for n in os.listdir(self.work) if "qcow2" in n)

    def test_1_nobody_to_ask(self):
        before = self.files()
        said = self.atoll("disk", "snapshot", "guest:vda", "--freeze", code=4)
        self.assertIn("no agent", said)
        self.assertIn("qemu-guest-agent", said)
        self.assertIn("no agent", self.atoll(
            "backup", "create", "guest", "--freeze", code=4))
        self.assertIn("no agent", self.atoll(
            "disk", "backup", "guest:vda", self.path("copy.qcow2"),
            "--freeze", code=4))
        self.assertEqual(self.files(), before)
        self.assertEqual(self.d.call("GET", "/v1/backups").json["backups"],
                         [])

    def test_2_disks(self):
        self.run_in("/agent >/dev/null 2>&1 &")
        wait_for(lambda: (self.d.vm("guest")["agent"] or {}).get("connected"),
                 SLOW)
        # A disk says which of the two came last.
        self.run_in("mkdir -p /ran; touch /ran/still; echo 'echo $1 | "
                    "dd of=/dev/vda bs=4k conv=sync,fsync 2>/dev/null' "
                    "> /ran/hook")
        self.atoll("disk", "snapshot", "guest:vda", "--name", "a")
        self.assertEqual(self.stood_still(), [])
        self.atoll("disk", "snapshot", "guest:vda", "--name", "b", "--freeze")
        self.assertEqual(self.stood_still(), ["freeze", "thaw"])
        self.assertEqual(self.held("one.b.qcow2"), "freeze")
        self.atoll("disk", "backup", "guest:vda", self.path("copy.qcow2"),
                   "--freeze")
        self.assertEqual(self.stood_still(), ["freeze", "thaw"])
        self.assertEqual(self.held("copy.qcow2"), "freeze")
        self.assertEqual(self.run_in("dd if=/dev/vda bs=16 count=1 2>/dev/null"
                                     " | tr -d '\\0'"), "thaw")
        # What fails after it stood still lets it go on, too.
        self.atoll("disk", "snapshot", "guest:vda", "--name", "b", "--freeze",
                   code=4)
        self.assertEqual(self.stood_still(), ["freeze", "thaw"])

    def test_3_backups(self):
        self.atoll("backup", "create", "guest", "--freeze")
        self.assertEqual(self.stood_still(), 2 * ["freeze", "thaw"])
        self.atoll("backup", "create", "guest")
        self.assertEqual(self.stood_still(), [])
        kinds = [b["kind"] for b in self.d.call(
            "GET", "/v1/backups").json["backups"]]
        self.assertEqual(sorted(kinds), ["full", "incremental"])
        self.assertFalse(any("freeze" in json.dumps(b) for b in self.d.call(
            "GET", "/v1/backups").json["backups"]))

    def test_4_schedule(self):
        self.atoll("backup", "schedule", "guest", "--every", "1s", "--freeze")
        wait_for(lambda: "thaw" in self.run_in("cat /ran/still"), SLOW)
        self.atoll("backup", "schedule", "guest", "--off")
        wait_for(lambda: not self.d.vm("guest")["task"], SLOW)
        self.assertIn("freeze", self.stood_still())

    def late(self):
        """Seconds that its clock is behind the host's, at least."""
        return int(time.time()) - int(self.run_in("date +%s")) - 1

    def away(self, go, come_back):
        self.d.do("POST", f"/v1/vms/guest/{go}")
        end = time.time() + 5
        wait_for(lambda: time.time() > end, step=0.1)
        self.d.do("POST", f"/v1/vms/guest/{come_back}")

    def test_5_clock(self):
        """Who stood still is told the time; who is ahead means it."""
        self.run_in("date -u -s @$(cat /sys/class/rtc/rtc0/since_epoch)")
        for go, come_back in ("suspend", "start"), ("pause", "resume"):
            self.away(go, come_back)
            wait_for(lambda: self.late() <= 1, SLOW)
        self.run_in("date -u -s @$(($(date +%s) + 3600)); >/ran/asked")
        self.away("pause", "resume")
        wait_for(lambda: self.run_in("cat /ran/asked"), SLOW)
        self.assertLess(self.late(), -3000)

    def test_6_stopped(self):
        """One that does not run needs nobody to stand still."""
        self.d.do("POST", "/v1/vms/guest/kill")
        self.atoll("backup", "create", "guest", "--freeze")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
