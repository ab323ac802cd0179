#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A network with real guests: addresses, names, TCP in and out of it, lies,
captures, and the death of everything that keeps it.

Usage: network.py ATOLLD ATOLL CACHE
"""
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402
from harness import free_port, wait_for  # noqa: E402

ATOLLD, ATOLL, CACHE = (os.path.abspath(p) for p in sys.argv[1:4])
SLOW = 300  # seconds, on a machine with much else to do


class Network(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = tempfile.mkdtemp(prefix="atoll-net-")
        cls.kernel, cls.initrd = small_guest.build(CACHE, cls.work)
        cls.d = harness.Daemon({"atolld": ATOLLD}).start()
        cls.port = free_port()
        cls.atoll("net", "create", "lan")
        cls.define("web", publish=[f"127.0.0.1:{cls.port}:80"])
        cls.define("db")
        for name in ("web", "db"):
            cls.d.do("POST", f"/v1/vms/{name}/start")
        for name in ("web", "db"):
            cls.booted(name)

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

    @classmethod
    def define(cls, name, network="lan", **nic):
        r = cls.d.call("POST", "/v1/vms", {
            "name": name, "memory_bytes": 96 << 20, "engine": "bt",
            "boot": {"kernel": cls.kernel, "initrd": cls.initrd,
                     "cmdline": "console=ttyS0 quiet small.dhcp "
                                f"small.web={name}"},
            "nics": [{"type": "network", "network": network, **nic}]})
        assert r.status == 201, r.body

    @classmethod
    def booted(cls, name):
        wait_for(lambda: cls.d.shown(name, b"GUEST-READY"), SLOW)

    def run_in(self, name, command):
        """What the guest says to a command, and its code."""
        path = f"/v1/vms/{name}/console"
        before = len(self.d.call("GET", path).body)
        self.d.call("POST", path, command.encode() + b"\n")
        m = wait_for(lambda: re.search(
            rb"(?s)(.*)=(\d+)=", self.d.call("GET", path).body[before:]), SLOW)
        return m[1].decode(errors="replace"), int(m[2])

    def reaches(self, name, other):
        """Soon, whatever has just died."""
        wait_for(lambda: self.run_in(name, f"ping -c 1 -W 2 {other}")[1] == 0,
                 SLOW)

    def status(self, name="lan"):
        return self.d.call("GET", f"/v1/networks/{name}/status").json

    def switch(self):
        return wait_for(lambda: self.d.call(
            "GET", "/v1/networks/lan").json["pid"])

    def since(self):
        return self.d.call("GET", "/v1/networks/lan").json["since"]

    def addresses(self):
        return {p["machine"]: p["address"] for p in self.status()["ports"]}

    def test_10_names_and_tcp(self):
        self.reaches("web", "db")
        self.reaches("db", "web.lan.internal")
        said, code = self.run_in("db", "wget -q -O - http://web/")
        self.assertEqual((said.strip(), code), ("web", 0))
        self.assertNotEqual(self.run_in("db", "nslookup nobody")[1], 0)
        self.assertEqual(len(set(self.addresses().values())), 2)

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), SLOW).close()
            return True
        except ConnectionRefusedError:
            return False

    def test_11_published(self):
        url = f"http://127.0.0.1:{self.port}/"
        with urllib.request.urlopen(url, timeout=SLOW) as r:
            self.assertEqual(r.read().strip(), b"web")
        # Taken: who publishes it, too, does not start, and is told why.
        self.define("also", publish=[f"127.0.0.1:{self.port}:80"])
        t = self.d.task(self.d.call("POST", "/v1/vms/also/start"))
        self.assertEqual(t["state"], "failed")
        self.assertIn(str(self.port), t["error"]["words"])
        self.d.do("DELETE", "/v1/vms/also")

    def test_12_lies(self):
        def refused(why):
            return sum(p["refused"].get(why, 0)
                       for p in self.status()["ports"])

        for command, why in (
                ("ip addr add 10.77.250.9/32 dev eth0; ping -c 1 -W 1 "
                 "-I 10.77.250.9 web; ip addr del 10.77.250.9/32 dev eth0",
                 "ip"),
                ("arping -c 1 -w 1 -U -I eth0 -s 10.77.250.9 10.77.250.9; "
                 "ip addr add 10.77.250.9/24 dev eth0; "
                 "arping -c 1 -w 1 -U -I eth0 10.77.250.9; "
                 "ip addr del 10.77.250.9/24 dev eth0", "arp"),
                ("ip link set eth0 down; "
                 "ip link set eth0 address 02:00:00:00:00:77; "
                 "ip link set eth0 up; ping -c 1 -W 1 web", "mac")):
            before = refused(why)
            mac = [p["mac"] for p in self.status()["ports"]
                   if p["machine"] == "db"][0]
            self.run_in("db", command)
            wait_for(lambda: refused(why) > before)
        self.run_in("db", "ip link set eth0 down; "
                    f"ip link set eth0 address {mac}; ip link set eth0 up; "
                    "udhcpc -q -n -t 60 -T 1 -i eth0 -s /udhcpc")
        self.reaches("db", "web")

    def test_13_capture(self):
        path = os.path.join(self.work, "lan.pcap")
        with subprocess.Popen([ATOLL, "net", "capture", "lan", "--machine",
                               "db", "--count", "4", "--output", path],
                              env=self.d.env) as p:
            wait_for(lambda: self.status()["captures"])
            self.run_in("db", "ping -c 3 web")
            self.assertEqual(p.wait(SLOW), 0)
        data = pathlib.Path(path).read_bytes()
        magic, *_, kind = struct.unpack("=IHHiIII", data[:24])
        self.assertEqual((magic, kind), (0xa1b23c4d, 1))
        at, sizes = 24, []
        while at < len(data):
            size = struct.unpack("=4I", data[at:at + 16])[2]
            sizes.append(size)
            at += 16 + size
        self.assertEqual((len(sizes), at), (4, len(data)))

    def test_20_daemon_dies(self):
        pid, known, since = self.switch(), self.addresses(), self.since()
        self.d.kill()
        time.sleep(1.1)  # another second
        self.d.start()
        self.assertEqual(self.switch(), pid)
        self.assertEqual(self.since(), since)
        self.assertEqual(self.addresses(), known)
        self.reaches("web", "db")

    def test_21_switch_dies(self):
        pid, known = self.switch(), self.addresses()
        since = self.since()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.switch() not in (pid, None))
        self.assertGreater(self.since(), since)
        self.reaches("web", "db")
        self.assertEqual(self.addresses(), known)
        wait_for(self.listens)
        self.test_11_published()

    def test_22_keeper_dies(self):
        keepers = [p for p, n in self.d.processes().items()
                   if n == "atoll-hold" and b"--network" in
                   pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        pid, known = self.switch(), self.addresses()
        os.kill(keepers[0], signal.SIGKILL)
        wait_for(lambda: self.switch() not in (pid, None))
        self.reaches("web", "db")
        self.assertEqual(self.addresses(), known)

    def test_23_uplink_dies(self):
        def stacks():
            return [p for p, n in self.d.processes().items()
                    if n == "atoll-net" and b"--link-fd" in
                    pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]

        before = stacks()
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: stacks() and stacks() != before)
        wait_for(lambda: self.status()["uplink"])
        self.reaches("web", "db")
        self.reaches("web", "$(ip route | awk '/default/ {print $3}')")

    def test_30_isolated(self):
        self.atoll("net", "create", "inside", "--isolated")
        self.define("alone", "inside")
        self.d.do("POST", "/v1/vms/alone/start")
        self.booted("alone")
        self.assertNotIn("default", self.run_in("alone", "ip route")[0])
        self.assertNotEqual(
            self.run_in("alone", "nslookup example.com")[1], 0)
        self.d.do("DELETE", "/v1/vms/alone?force=true")
        self.atoll("net", "delete", "inside")
        self.atoll("net", "inspect", "inside", code=3)
        self.atoll("net", "delete", "lan", code=4)

    def test_31_run(self):
        """atoll run plugs in, too."""
        with subprocess.Popen(
                [ATOLL, "run", "--name", "visitor", "--net", "lan",
                 "--engine", "bt", "--memory", "96M", "--kernel", self.kernel,
                 "--initrd", self.initrd, "--append",
                 "console=ttyS0 quiet small.dhcp"],
                env=self.d.env, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE) as p:
            try:
                wait_for(lambda: "visitor" in self.addresses(), SLOW)
                self.reaches("web", "visitor")
                p.stdin.write(b"off\n")
                p.stdin.flush()
                self.assertEqual(p.wait(SLOW), 0)
            finally:
                p.kill()
        wait_for(lambda: "visitor" not in self.addresses())

    def test_40_confined(self):
        for pid, name in self.d.processes().items():
            if name != "atoll-net":
                continue
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            self.assertIn("NoNewPrivs:\t1", status)
            self.assertIn("Seccomp:\t2", status)

    def test_41_apart(self):
        """A switch has no network of the host's, and neither it nor its
        uplink a file that has nothing to do with it."""
        may = subprocess.run(["unshare", "--mount", "--user", "true"],
                             check=False, capture_output=True).returncode == 0
        if not may:
            self.skipTest("this host refuses namespaces")
        seen = set()
        for pid, name in self.d.processes().items():
            if name != "atoll-net":
                continue
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            switch = b"--switch" in words
            seen.add(switch)
            for kind in ("mnt", "ipc", "uts"):
                self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/{kind}"),
                                    os.readlink(f"/proc/self/ns/{kind}"))
            self.assertEqual(os.readlink(f"/proc/{pid}/ns/net") ==
                             os.readlink("/proc/self/ns/net"), not switch)
            there = set(os.listdir(f"/proc/{pid}/root"))
            self.assertLessEqual(there, set() if switch else {"etc", "run"})
            self.assertEqual("etc" in there, not switch)
        self.assertEqual(seen, {True, False})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
