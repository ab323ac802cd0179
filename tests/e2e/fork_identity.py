#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A copy of a machine on a network knows who it is: its host name, its card's
address, its lease. Linux with an agent of a few lines.

Usage: fork_identity.py ATOLLD ATOLL CACHE
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_agent  # noqa: E402
import small_guest  # noqa: E402
from harness import wait_for  # noqa: E402

ATOLLD, ATOLL, CACHE = (os.path.abspath(p) for p in sys.argv[1:4])
SLOW = 120  # seconds


class Identity(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="atoll-id-")
        cls.kernel, cls.initrd = small_agent.build(
            CACHE, cls.work, small_guest.MODULES)
        cls.d = harness.Daemon({"atolld": ATOLLD}).start()
        cls.atoll("net", "create", "lan")
        for name in ("old", "mute", "loud"):
            r = cls.d.call("POST", "/v1/vms", {
                "name": name, "memory_bytes": 96 << 20, "engine": "bt",
                "boot": {"kernel": cls.kernel, "initrd": cls.initrd,
                         "cmdline": "console=ttyS0 quiet small.dhcp"},
                "nics": [{"type": "network", "network": "lan"}]})
            assert r.status == 201, r.body
            cls.d.do("POST", f"/v1/vms/{name}/start")
            cls.d.console(name, b"GUEST-READY")

    @classmethod
    def tearDownClass(cls):
        cls.d.close()
        shutil.rmtree(cls.work, ignore_errors=True)

    @classmethod
    def atoll(cls, *argv, code=0):
        r = subprocess.run([ATOLL, *argv], env=cls.d.env, text=True,
                           capture_output=True, timeout=SLOW, check=False)
        assert r.returncode == code, (argv, r.returncode, r.stdout, r.stderr)
        return r.stdout

    def run_in(self, name, command):
        return self.d.run_in(name, command, SLOW)

    def mac_of(self, name):
        return self.d.vm(name)["spec"]["nics"][0]["mac"]

    def pending(self, name):
        return (pathlib.Path(self.d.state) / "machines" /
                self.d.vm(name)["id"] / "identity.new").exists()

    def test_copies_with_an_agent(self):
        self.run_in("old", "hostname old; printf '127.0.1.1\\told.x old\\n' "
                    "> /etc/hosts; echo old > /etc/hostname")
        self.run_in("old", "/agent >/dev/null 2>&1 &")
        wait_for(lambda: self.d.vm("old")["agent"] and
                 self.d.vm("old")["agent"]["connected"], SLOW)
        self.assertFalse(self.pending("old"))
        self.atoll("fork", "--count", "2", "--name", "new", "old")
        names = ("new-1", "new-2")
        wait_for(lambda: not any(self.pending(n) for n in names), SLOW)
        for name in names:
            mac = self.mac_of(name)
            self.assertEqual(self.run_in(name, "hostname"), name)
            self.assertEqual(self.run_in(
                name, "cat /sys/class/net/eth0/address"), mac)
            self.assertEqual(self.run_in(name, "cat /etc/hostname"), name)
            self.assertEqual(self.run_in(name, "cat /etc/hosts").split(),
                             ["127.0.1.1", name + ".x", name])
            self.run_in(name, "udhcpc -q -t 20 -T 1 -i eth0 -s /udhcpc "
                        ">/dev/null 2>&1")
        leases = {n: self.run_in(n, "ip -4 -o addr show dev eth0 | "
                                 "awk '{print $4}'") for n in (*names, "old")}
        self.assertEqual(len(set(leases.values())), 3, leases)
        self.assertEqual(self.run_in("old", "hostname"), "old")
        self.assertEqual(self.run_in(
            "old", "cat /sys/class/net/eth0/address"), self.mac_of("old"))
        # Only once: what its people do with it later is theirs.
        self.run_in("new-1", "hostname mine; rm -f /ran/code")
        self.d.kill()
        self.d.start()
        wait_for(lambda: self.d.vm("new-1")["agent"] and
                 self.d.vm("new-1")["agent"]["connected"], SLOW)
        self.assertEqual(self.run_in("new-1", "hostname; ls -1 /ran"),
                         "mine\nout\nwords")

    def lease_of(self, name):
        return self.run_in(name, "ip -4 -o addr show dev eth0 | "
                           "awk '{print $4}' | cut -d/ -f1")

    def captures(self):
        return self.d.call("GET", "/v1/networks/lan/status").json["captures"]

    def refused(self, name):
        ports = self.d.call("GET", "/v1/networks/lan/status").json["ports"]
        return next(p for p in ports if p["machine"] == name)["refused"]

    def test_copies_announce_themselves(self):
        """A guest that tells its neighbours of each change of its card's
        address (arp_notify) says as a copy that the first's address is with
        it, as it still thinks: that reaches nobody. Its own does, when its card
        asks it to say where it is."""
        self.run_in("loud", "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify")
        self.run_in("loud", "/agent >/dev/null 2>&1 &")
        wait_for(lambda: (self.d.vm("loud")["agent"] or {}).get("connected"),
                 SLOW)
        path = pathlib.Path(self.work, "lan.pcap")
        with subprocess.Popen([ATOLL, "net", "capture", "lan", "--output",
                               str(path)], env=self.d.env) as p:
            try:
                wait_for(self.captures)
                self.atoll("fork", "--name", "told", "loud")
                wait_for(lambda: not self.pending("told-1"), SLOW)
                mac, old = self.mac_of("told-1"), self.lease_of("told-1")
                self.assertEqual(old, self.lease_of("loud"))
                wait_for(lambda: self.refused("told-1").get("arp"), SLOW)
                self.run_in("told-1", "udhcpc -q -t 20 -T 1 -i eth0 -s /udhcpc "
                            ">/dev/null 2>&1")
                own = self.lease_of("told-1")
                self.assertNotEqual(own, old)
                for verb in "suspend", "start":
                    self.d.do("POST", f"/v1/vms/told-1/{verb}")
                said = small_guest.announcement(mac, own)
                wait_for(lambda: said in path.read_bytes(), SLOW)
            finally:
                p.terminate()
                p.wait(SLOW)
        seen = path.read_bytes()
        for whose in mac, self.mac_of("loud"):
            self.assertNotIn(small_guest.announcement(whose, old), seen)

    def test_copies_without_one(self):
        """The link goes and comes again; the rest waits for an agent."""
        before = self.run_in("mute", "cat /sys/class/net/eth0/carrier_changes")
        self.atoll("fork", "--name", "dumb", "mute")
        wait_for(lambda: int(self.run_in(
            "dumb-1", "cat /sys/class/net/eth0/carrier_changes")) ==
            int(before) + 2, SLOW)
        self.assertTrue(self.pending("dumb-1"))
        self.assertEqual(self.run_in(
            "mute", "cat /sys/class/net/eth0/carrier_changes"), before)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
