#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's own agent, balloon and steal time, through a daemon: addresses,
programs, files, frozen file systems, memory that goes and comes, a shutdown.

Usage: agent.py ATOLL ATOLLD DATA-FOLDER
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

ATOLL, ATOLLD, DATA = sys.argv[1:4]
WORK = pathlib.Path(tempfile.mkdtemp(prefix="atoll-agent-"))
ENV = dict(os.environ, XDG_DATA_HOME=DATA, ATOLL_STATE_DIR=str(WORK / "state"))
PATIENCE = 600


def atoll(*words, code=0, **how):
    got = subprocess.run([ATOLL, *words], env=ENV, capture_output=True,
                         check=False, timeout=PATIENCE, **how)
    assert code is None or got.returncode == code, (words, got)
    return got


def shown(name):
    return json.loads(atoll("vm", "show", name, "--format", "json").stdout)


def figures(name):
    top = atoll("top", "--batch", "--count", "1", "--format", "json")
    for vm in json.loads(top.stdout)["vms"]:
        if vm["name"] == name and "memory" in vm:
            return vm
    return None


def wait_for(what):
    end = time.monotonic() + PATIENCE
    while not (got := what()):
        assert time.monotonic() < end, f"not in {PATIENCE} s: {what}"
        time.sleep(1)
    return got


class Agent(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        atoll("launch", "debian:12", "guest", "--max-cpus", "3")
        wait_for(lambda: (shown("guest")["agent"] or {}).get("os"))

    def test_1_says_who_it_is(self):
        def with_address():
            agent = shown("guest")["agent"]
            return agent if any(
                a.startswith("10.0.2.15/") for i in agent["interfaces"]
                for a in i["addresses"]) else None
        agent = wait_for(with_address)
        self.assertEqual(agent["hostname"], "guest")
        self.assertIn("Debian", agent["os"])

    def test_2_programs(self):
        got = atoll("exec", "guest", "--", "sh", "-c",
                    "echo out; echo err >&2; exit 7", code=7)
        self.assertEqual((got.stdout, got.stderr), (b"out\n", b"err\n"))
        got = atoll("exec", "guest", "--input", "--", "sha256sum",
                    input=b"x" * 100000)
        same = subprocess.run(["sha256sum"], input=b"x" * 100000,
                              capture_output=True, check=True)
        self.assertEqual(got.stdout, same.stdout)
        got = atoll("exec", "guest", "--", "sh", "-c", "kill -9 $$", code=137)
        got = atoll("exec", "guest", "--", "head", "-c", "3000000",
                    "/dev/zero")
        self.assertEqual(got.stdout, bytes(3000000))
        got = atoll("exec", "guest", "--", "/no/such", code=None)
        self.assertNotEqual(got.returncode, 0)
        self.assertIn(b"agent", got.stderr)

    def test_3_files(self):
        data = os.urandom(700001)
        for size in (0, 1, 131072, len(data)):
            with self.subTest(size=size):
                (WORK / "in").write_bytes(data[:size])
                atoll("cp", str(WORK / "in"), "guest:/root/copy")
                atoll("cp", "guest:/root/copy", str(WORK / "out"))
                self.assertEqual((WORK / "out").read_bytes(), data[:size])
        got = atoll("cp", "guest:/none", str(WORK / "out"), code=None)
        self.assertNotEqual(got.returncode, 0)

    def test_4_freeze(self):
        path = "/v1/vms/guest/agent/"
        socket = str(WORK / "state/run/atolld.sock")
        for verb in ("freeze", "thaw"):
            got = subprocess.run(
                ["curl", "-sS", "-X", "POST", "--unix-socket", socket,
                 "http://atoll" + path + verb], capture_output=True,
                check=True)
            self.assertGreaterEqual(json.loads(got.stdout)["filesystems"], 1)
        atoll("exec", "guest", "--", "touch", "/root/after")
        # And by the daemon, as a backup and a snapshot begin.
        atoll("backup", "create", "guest", "--freeze")
        atoll("exec", "guest", "--", "touch", "/root/after-backup")
        atoll("disk", "snapshot", "guest:vda", "--freeze")
        atoll("exec", "guest", "--", "touch", "/root/after-snapshot")

    def test_5_memory(self):
        before = wait_for(lambda: (f := figures("guest")) and
                          f["memory"]["guest_total_bytes"] and f)
        self.assertTrue(before["memory"]["balloon"]["driver"])
        self.assertGreater(before["memory"]["balloon"]["reported_bytes"], 0)
        atoll("vm", "set", "guest", "--memory-target", "384M")
        wait_for(lambda: figures("guest")["memory"]["balloon"]
                 ["actual_bytes"] == 128 << 20)
        # A balloon that deflates for a guest in need counts as used there.
        left = before["memory"]["guest_available_bytes"] - (64 << 20)
        wait_for(lambda: figures("guest")["memory"]
                 ["guest_available_bytes"] < left)
        atoll("vm", "set", "guest", "--memory-target", "0")
        wait_for(lambda: figures("guest")["memory"]["balloon"]
                 ["actual_bytes"] == 0)

    def test_5_processors(self):
        """One more while it runs: the agent has the guest use it, and is in
        nobody's way where a rule of udev does."""
        def at_work():
            got = atoll("exec", "guest", "--", "nproc")
            return int(got.stdout)
        self.assertEqual(at_work(), 1)
        atoll("exec", "guest", "--", "rm", "-f",
              "/etc/udev/rules.d/80-added-cpu.rules")
        atoll("exec", "guest", "--", "udevadm", "control", "--reload")
        atoll("vm", "set", "guest", "--cpus", "2")
        wait_for(lambda: at_work() == 2)
        (WORK / "rule").write_text('ACTION=="add", SUBSYSTEM=="cpu", '
                                   'ATTR{online}=="0", ATTR{online}="1"\n')
        atoll("cp", str(WORK / "rule"),
              "guest:/etc/udev/rules.d/80-added-cpu.rules")
        atoll("exec", "guest", "--", "udevadm", "control", "--reload")
        atoll("vm", "set", "guest", "--cpus", "3")
        wait_for(lambda: at_work() == 3)

    def test_6_copies(self):
        """A copy has a host name and a card's address of its own, and asks
        for a lease with it; the first keeps what it has."""
        def said(name, *words):
            return atoll("exec", name, "--", *words).stdout.decode().split()

        def mac(name):
            return shown(name)["spec"]["nics"][0]["mac"]

        def who(name):
            """Its one card's address, and its name."""
            return said(name, "sh", "-c",
                        "cat /sys/class/net/e*/address /etc/hostname")
        was = who("guest")
        atoll("fork", "--name", "copy", "--rm", "guest")
        wait_for(lambda: (shown("copy-1")["agent"] or {}).get("connected"))
        wait_for(lambda: said("copy-1", "uname", "-n") == ["copy-1"])
        wait_for(lambda: who("copy-1") == [mac("copy-1"), "copy-1"])
        self.assertNotEqual(mac("copy-1"), mac("guest"))
        wait_for(lambda: "routable" in said(
            "copy-1", "networkctl", "--no-legend", "list", "e*"))
        self.assertIn("copy-1", said("copy-1", "hostnamectl", "--static"))
        self.assertEqual(who("guest"), was)
        atoll("stop", "--force", "copy-1")

    def test_6_steal(self):
        """Two that are busy on the one processor that the guest may use: it
        is told that it did not get what it wanted."""
        def steal():
            line = atoll("exec", "guest", "--", "head", "-1", "/proc/stat")
            return int(line.stdout.split()[8])
        cpu = min(os.sched_getaffinity(0))
        atoll("vm", "set", "guest", "--cpu-pin", str(cpu))
        before = steal()
        busy = [subprocess.Popen(
            ["sh", "-c", "while :; do :; done"], preexec_fn=lambda:
            os.sched_setaffinity(0, {cpu})) for _ in range(2)]
        try:
            atoll("exec", "guest", "--", "sh", "-c",
                  "end=$(($(date +%s) + 6)); "
                  "while [ $(date +%s) -lt $end ]; do :; done")
        finally:
            for one in busy:
                one.kill()
                one.wait()
        self.assertGreater(steal() - before, 100)
        atoll("vm", "set", "guest", "--cpu-pin", "")

    def test_7_daemon_restarts(self):
        DAEMON.stop()
        DAEMON.start()
        wait_for(lambda: (shown("guest")["agent"] or {}).get("interfaces"))
        atoll("exec", "guest", "--", "true")

    def test_8_shutdown(self):
        # With a guest that does not listen to ACPI's button, the agent alone
        # can do it.
        atoll("exec", "guest", "--", "sh", "-c",
              "mkdir -p /run/systemd/logind.conf.d && printf "
              "'[Login]\nHandlePowerKey=ignore\n' "
              "> /run/systemd/logind.conf.d/key.conf && "
              "systemctl restart systemd-logind")
        atoll("stop", "guest", "--timeout", "300")
        self.assertEqual(shown("guest")["last_end"]["cause"], "power-off")


class Daemon:
    process = None

    def start(self):
        ready, end = os.pipe()
        self.process = subprocess.Popen(
            [ATOLLD, "--ready-fd", str(end)], env=ENV, pass_fds=[end],
            stdin=subprocess.DEVNULL)
        os.close(end)
        with os.fdopen(ready, "rb") as f:
            assert f.read(1) == b"\0"

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


if __name__ == "__main__":
    have = subprocess.run([ATOLL, "image", "inspect", "debian:12"], env=ENV,
                          capture_output=True, check=False)
    if have.returncode:
        subprocess.run([ATOLL, "image", "build", "debian:12"], env=ENV,
                       check=True)
    DAEMON = Daemon()
    DAEMON.start()
    try:
        unittest.main(argv=sys.argv[:1] + sys.argv[4:])
    finally:
        atoll("kill", "guest", code=None)
        DAEMON.stop()
        shutil.rmtree(WORK, ignore_errors=True)
