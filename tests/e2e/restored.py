#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Linux and its neighbours learn when a machine goes on from where it was
saved: the time that has passed, that it is one of several, that it is back.

Usage: restored.py ATOLLD ATOLL CACHE
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402
from harness import wait_for  # noqa: E402

ATOLLD, ATOLL, CACHE = (os.path.abspath(p) for p in sys.argv[1:4])
# The cloud kernel has no driver for the generation (CONFIG_VMGENID).
KERNEL = "linux-image-amd64"
SLOW = 300  # seconds, on a machine with much else to do
AT = "/v1/vms/one"
RESEEDED = "crng reseeded due to virtual machine fork"


class Restored(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="atoll-re-")
        kernel, initrd = small_guest.build(CACHE, cls.work, kernel=KERNEL)
        cls.d = harness.Daemon({"atolld": ATOLLD}).start()
        cls.atoll("net", "create", "lan")
        r = cls.d.call("POST", "/v1/vms", {
            "name": "one", "memory_bytes": 128 << 20, "engine": "bt",
            "boot": {"kernel": kernel, "initrd": initrd,
                     "cmdline": "console=ttyS0 quiet random.trust_cpu=on "
                                "small.dhcp"},
            "nics": [{"type": "network", "network": "lan"}]})
        assert r.status == 201, r.body
        cls.d.do("POST", AT + "/start")
        wait_for(lambda: cls.d.shown("one", b"GUEST-READY"), SLOW)

    @classmethod
    def tearDownClass(cls):
        cls.d.close()
        shutil.rmtree(cls.work, ignore_errors=True)

    @classmethod
    def atoll(cls, *argv):
        r = subprocess.run([ATOLL, *argv], env=cls.d.env, text=True,
                           capture_output=True, timeout=SLOW, check=False)
        assert r.returncode == 0, (argv, r.returncode, r.stdout, r.stderr)
        return r.stdout

    def run_in(self, name, command):
        return self.d.run_in(name, command, SLOW)

    def reseeds(self, name):
        return int(self.run_in(name, f"dmesg | grep -c '{RESEEDED}'"))

    def clock_is_right(self, name):
        """Its hardware clock's second is one of the host's as it was asked."""
        begin = int(time.time())
        said = int(self.run_in(name, "cat /sys/class/rtc/rtc0/since_epoch"))
        self.assertTrue(begin - 1 <= said <= time.time(), (begin, said))

    def announced(self, what):
        """what() has the guest tell its neighbours where it is."""
        path = pathlib.Path(tempfile.mkdtemp(dir=self.work), "lan.pcap")
        looked_for = small_guest.announcement(
            self.d.vm("one")["spec"]["nics"][0]["mac"],
            self.run_in("one", "ip -4 -o addr show dev eth0 | "
                        "awk '{print $4}' | cut -d/ -f1"))
        wait_for(lambda: not self.captures())  # the last one's end
        with subprocess.Popen([ATOLL, "net", "capture", "lan", "--output",
                               str(path)], env=self.d.env) as p:
            try:
                wait_for(self.captures)
                what()
                wait_for(lambda: looked_for in path.read_bytes(), SLOW)
            finally:
                p.terminate()
                p.wait(SLOW)

    def captures(self):
        return self.d.call("GET", "/v1/networks/lan/status").json["captures"]

    def seconds_pass(self):
        """A clock that stood still with its machine would show it."""
        end = int(time.time()) + 3
        wait_for(lambda: time.time() > end, step=0.1)

    def test_1_suspended(self):
        """It goes on as the only one: what it knows of itself stays."""
        self.clock_is_right("one")

        def away():
            self.d.do("POST", AT + "/suspend")
            self.seconds_pass()
            self.d.do("POST", AT + "/start")
        self.announced(away)
        self.clock_is_right("one")
        self.assertEqual(self.reseeds("one"), 0)

    def test_2_reverted(self):
        """Who went on from there before drew the same random numbers."""
        self.d.do("POST", AT + "/snapshots", {"name": "then"})
        drawn = {self.run_in("one", "head -c 16 /dev/urandom | xxd -p")}

        def back():
            self.d.do("POST", AT + "/kill")
            self.d.do("POST", AT + "/snapshots/then/revert")
            self.d.do("POST", AT + "/start")
        for again in 1, 2:
            self.announced(back)
            wait_for(lambda: self.reseeds("one") == 1, SLOW)
            drawn.add(self.run_in("one", "head -c 16 /dev/urandom | xxd -p"))
            self.assertEqual(len(drawn), again + 1, drawn)
            self.clock_is_right("one")

    def test_3_copied(self):
        before = self.reseeds("one")
        self.atoll("fork", "--count", "2", "--name", "new", "one")
        names, drawn = ("new-1", "new-2"), set()
        for name in names:
            wait_for(lambda n=name: self.reseeds(n) == before + 1, SLOW)
            drawn.add(self.run_in(name, "head -c 16 /dev/urandom | xxd -p"))
            self.clock_is_right(name)
        self.assertEqual(self.reseeds("one"), before)
        drawn.add(self.run_in("one", "head -c 16 /dev/urandom | xxd -p"))
        self.assertEqual(len(drawn), 3, drawn)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
