#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines saved and put back while the daemon, the process that does it, or
the machine itself is killed: whatever was promised is there, nothing else is.

Usage: moments.py ATOLLD ATOLL GUEST
"""
import os
import pathlib
import resource
import signal
import sys
import time
import unittest

import harness
from harness import wait_for

PROGRAMS = harness.programs(sys.argv[1:4])
AT = "/v1/vms/m"
ALL = AT + "/snapshots"
DELAYS = (0, 0.005, 0.02, 0.05, 0.1, 0.2)


class Moments(unittest.TestCase):
    def setUp(self):
        self.d = harness.Daemon(PROGRAMS)
        self.addCleanup(self.d.close)
        self.disk = self.d.work / "disk.raw"

    def up(self, **more):
        # Large enough that a copy takes a while.
        self.disk.write_bytes(os.urandom(1 << 20) * 48)
        got = self.d.define("m", disks=[{"path": str(self.disk)}], **more)
        self.assertEqual(got.status, 201, got.body)
        self.d.do("POST", AT + "/start")
        self.d.console("m", b"resident is up")

    def folder(self):
        return self.d.state / "machines" / self.d.vm("m")["id"]

    def count(self, wanted):
        shown = b"n came %d times" % wanted
        before = self.d.shown("m", shown)
        self.d.call("POST", AT + "/console", b"n")
        self.d.console("m", shown, before)

    def workers(self):
        """Processes that the daemon started for its tasks."""
        mark = f"--machine-folder={self.d.state}".encode()
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in \
                        (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def restart(self, delay):
        time.sleep(delay)
        self.d.kill()
        self.d.start()

    def listed(self):
        return {s["name"]: s for s in self.d.call("GET", ALL).json[
            "snapshots"]}

    def settled(self, number):
        """A task that a daemon died in, and what is left of the work."""
        task = wait_for(lambda: self.d.ended(number))
        wait_for(lambda: self.workers() == [])
        return task

    def test_daemon_killed_while_saving(self):
        d = self.d.start()
        self.up()
        pid = d.vm("m")["pid"]
        for n, delay in enumerate(DELAYS):
            made = d.call("POST", ALL, {"name": f"s{n}"})
            self.restart(delay)
            task = self.settled(made.json["id"])
            self.assertEqual(task["state"], "succeeded", task)
            self.assertEqual(d.vm("m")["pid"], pid)
            one = d.call("GET", f"{ALL}/s{n}").json
            self.assertGreater(one["bytes"], 48 << 20)
        self.assertEqual(sorted(p.name for p in
                                (self.folder() / "snapshots").iterdir()
                                if p.is_dir()),
                         [f"s{n}" for n in range(len(DELAYS))])
        self.count(1)

    def test_daemon_killed_while_reverting(self):
        d = self.d.start()
        self.up()
        self.count(1)
        d.do("POST", ALL, {"name": "old"})
        then = self.disk.read_bytes()
        for n, delay in enumerate(DELAYS):
            self.count(2)
            asked = d.call("POST", ALL + "/old/revert",
                           {"force": True, "start": n % 2 == 0})
            self.restart(delay)
            task = self.settled(asked.json["id"])
            self.assertEqual(task["state"], "succeeded", task)
            self.assertEqual(self.disk.read_bytes(), then)
            if n % 2:
                self.assertTrue(d.vm("m")["saved"])
                d.do("POST", AT + "/start")
            self.assertEqual(d.vm("m")["state"], "running")
        self.count(2)
        self.assertEqual(len(d.processes()), 2)

    def test_daemon_killed_while_suspending(self):
        d = self.d.start()
        self.up()
        for n, delay in enumerate(DELAYS):
            self.count(n + 1)
            asked = d.call("POST", AT + "/suspend", {"fast": n % 2 == 0})
            self.restart(delay)
            task = self.settled(asked.json["id"])
            self.assertEqual(task["state"], "succeeded", task)
            vm = d.vm("m")
            self.assertEqual((vm["state"], vm["saved"]), ("stopped", True))
            wait_for(lambda: d.processes() == {})
            d.do("POST", AT + "/start")
        self.count(len(DELAYS) + 1)

    def worker(self):
        return wait_for(self.workers, step=0.001)[0]

    def test_its_process_killed(self):
        d = self.d.start()
        self.up()
        for verb, body in ((ALL, {"name": "half"}), (AT + "/suspend", None)):
            asked = d.call("POST", verb, body)
            os.kill(self.worker(), signal.SIGKILL)
            task = wait_for(lambda: d.ended(asked.json["id"]))
            if task["state"] == "succeeded":
                continue  # it was through
            self.assertEqual(task["error"]["code"], "conflict", task)
            self.assertEqual(d.vm("m")["wanted"], "running")
        self.assertFalse(d.vm("m")["saved"])
        self.assertEqual(self.listed(), {})
        wait_for(lambda: not (self.folder() / "snapshots/half").exists())
        # It goes on, and can be saved.
        self.count(1)
        wait_for(lambda: d.task(d.call("POST", ALL, {"name": "half"}))[
            "state"] == "succeeded")

    def test_cancelled(self):
        d = self.d.start()
        self.up()
        d.do("POST", ALL, {"name": "old"})
        for path, body in ((ALL, {"name": "new"}), (AT + "/suspend", None)):
            asked = d.call("POST", path, body)
            d.call("POST", f"/v1/tasks/{asked.json['id']}/cancel")
            task = wait_for(lambda: d.ended(asked.json["id"]))
            self.assertIn(task["state"], ("cancelled", "succeeded"), task)
            if d.vm("m")["saved"]:
                d.do("POST", AT + "/start")
        self.assertEqual(d.vm("m")["state"], "running")
        d.do("POST", AT + "/kill")
        self.disk.write_bytes(b"new" + bytes((48 << 20) - 3))
        asked = d.call("POST", ALL + "/old/revert")
        d.call("POST", f"/v1/tasks/{asked.json['id']}/cancel")
        task = wait_for(lambda: d.ended(asked.json["id"]))
        self.assertIn(task["state"], ("cancelled", "succeeded"), task)
        # All of it or nothing.
        self.assertEqual(self.disk.read_bytes()[:3] == b"new",
                         task["state"] == "cancelled")
        self.assertEqual(d.vm("m")["saved"], task["state"] == "succeeded")

    def test_machine_dies_in_it(self):
        d = self.d.start()
        self.up()
        asked = d.call("POST", ALL, {"name": "last"})
        self.worker()
        os.kill(d.vm("m")["pid"], signal.SIGKILL)
        task = wait_for(lambda: d.ended(asked.json["id"]))
        vm = wait_for(lambda: (v := d.vm("m"))["state"] == "stopped" and v)
        self.assertEqual(vm["last_end"]["cause"], "died")
        self.assertFalse(vm["saved"])
        self.assertEqual(task["state"] == "succeeded",
                         "last" in self.listed())
        d.do("POST", AT + "/start")
        asked = d.call("POST", AT + "/suspend")
        self.worker()
        os.kill(d.vm("m")["pid"], signal.SIGKILL)
        task = wait_for(lambda: d.ended(asked.json["id"]))
        wait_for(lambda: d.vm("m")["state"] == "stopped")
        self.assertEqual(task["state"] == "succeeded", d.vm("m")["saved"])

    def test_resumed_once(self):
        """What a guest did after its state was saved is not done again."""
        d = self.d.start()
        self.up()
        self.count(1)
        d.do("POST", AT + "/suspend")
        d.do("POST", AT + "/start")
        for pid, name in d.processes().items():
            if name == "atoll-hold":
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: d.vm("m")["state"] == "stopped")
        self.assertFalse(d.vm("m")["saved"])
        ups = d.shown("m", b"resident is up")
        d.do("POST", AT + "/start")
        d.console("m", b"resident is up", ups)

    def test_full_disk(self):
        d = self.d.start(before=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (40 << 20, 40 << 20)))
        self.up()
        task = d.task(d.call("POST", ALL, {"name": "large"}))
        self.assertEqual(task["state"], "failed", task)
        self.assertEqual(task["error"]["code"], "storage", task)
        self.assertIn("cannot make the copy", task["error"]["words"])
        self.assertEqual(self.listed(), {})
        wait_for(lambda: not (self.folder() / "snapshots/large").exists())
        self.count(1)
        self.assertEqual(d.vm("m")["state"], "running")


if __name__ == "__main__":
    os.umask(0o022)
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
