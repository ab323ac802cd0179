#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines saved and put back while the daemon, the process that does it, or
the machine itself is killed: whatever was promised is there, nothing else is.

Usage: moments.py ATOLLD ATOLL GUEST
"""
import contextlib
import os
import pathlib
import resource
import signal
import subprocess
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
        marks = [f"--machine-{what}={self.d.state}".encode()
                 for what in ("folder", "document")]
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                line = entry.name.isdigit() and \
                    (entry / "cmdline").read_bytes()
                if line and any(m in line for m in marks):
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

    def over(self, number):
        task = self.d.call("GET", f"/v1/tasks/{number}").json
        return task["state"] not in ("queued", "running")

    def worker(self, number):
        """The process of a task, unless it is through already."""
        found = wait_for(lambda: self.workers() or self.over(number),
                         step=0.001)
        return None if found is True else found[0]

    def kill_worker(self, number):
        pid = self.worker(number)
        try:
            os.kill(pid or 0x7fffffff, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def slowed(self, pid, number, runs=0.02):
        """Until the task is over a process has a fifth of the time, or less."""
        while not self.over(number):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.08)
            os.kill(pid, signal.SIGCONT)
            time.sleep(runs)

    def test_how_far_it_is(self):
        d = self.d.start()
        self.up()
        told = []
        for n in range(10):
            made = d.call("POST", ALL, {"name": f"s{n}"}).json["id"]
            self.slowed(d.vm("m")["pid"], made)
            self.assertEqual(d.ended(made)["state"], "succeeded")
            told = [e["data"]["progress"] for e in d.call(
                "GET", "/v1/events?limit=1000").json["events"]
                if e["task"] == made]
            self.assertEqual(told, sorted(told))
            self.assertEqual(told[-1], 100)
            self.assertLess(max(told[:-1]), 100)
            # A host may be through between two looks.
            if any(1 < percent < 99 for percent in told):
                return
        self.fail(f"nothing between its begin and its end: {told}")

    def test_how_far_a_revert_is(self):
        d = self.d.start()
        self.disk.write_bytes(os.urandom(48 << 20))
        self.up()
        d.do("POST", ALL, {"name": "old"})
        d.do("POST", AT + "/kill")
        for _ in range(10):
            asked = d.call("POST", ALL + "/old/revert").json["id"]
            pid = self.worker(asked)
            try:
                self.slowed(pid or 0x7fffffff, asked, 0.003)
            except ProcessLookupError:  # it was through before
                pass
            self.assertEqual(d.ended(asked)["state"], "succeeded")
            told = [e["data"] for e in d.call(
                "GET", "/v1/events?limit=1000").json["events"]
                if e["task"] == asked]
            percents = [t["progress"] for t in told]
            self.assertEqual(percents, sorted(percents))
            self.assertEqual(percents[-1], 100)
            if any(30 < p < 90 for p in percents):
                return
        self.fail(f"nothing between its begin and its end: {percents}")

    def test_its_process_killed(self):
        d = self.d.start()
        self.up()
        for verb, body in ((ALL, {"name": "half"}), (AT + "/suspend", None)):
            asked = d.call("POST", verb, body)
            self.kill_worker(asked.json["id"])
            task = wait_for(lambda: d.ended(asked.json["id"]))
            if task["state"] == "succeeded":  # it was through
                if d.vm("m")["saved"]:
                    d.do("POST", AT + "/start")
                else:
                    d.do("DELETE", ALL + "/half")
                continue
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
        self.worker(asked.json["id"])
        os.kill(d.vm("m")["pid"], signal.SIGKILL)
        task = wait_for(lambda: d.ended(asked.json["id"]))
        vm = wait_for(lambda: (v := d.vm("m"))["state"] == "stopped" and v)
        self.assertEqual(vm["last_end"]["cause"], "died")
        self.assertFalse(vm["saved"])
        self.assertEqual(task["state"] == "succeeded",
                         "last" in self.listed())
        d.do("POST", AT + "/start")
        pid = d.vm("m")["pid"]
        asked = d.call("POST", AT + "/suspend")
        self.worker(asked.json["id"])
        # It may be away by now.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
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

    # ---- images ----

    def importers(self):
        """Processes that read what an image is to be made of."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                line = entry.name.isdigit() and \
                    (entry / "cmdline").read_bytes()
                if line and str(self.disk).encode() in line and \
                        b"import" in line:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def test_daemon_killed_while_importing(self):
        d = self.d.start()
        self.disk.write_bytes(os.urandom(1 << 20) * 48)
        body = {"path": str(self.disk), "kernel": PROGRAMS["guest"]}
        for n, delay in enumerate(DELAYS):
            asked = d.call("POST", "/v1/images", {**body, "name": f"i:{n}"})
            self.restart(delay)
            task = wait_for(lambda: d.ended(asked.json["id"]))
            self.assertEqual(task["state"], "succeeded", task)
        asked = d.call("POST", "/v1/images", {**body, "name": "cut:1"})
        behind = d.call("POST", "/v1/images", {**body, "name": "cut:2"})
        d.call("POST", f"/v1/tasks/{behind.json['id']}/cancel")
        d.call("POST", f"/v1/tasks/{asked.json['id']}/cancel")
        task = wait_for(lambda: d.ended(asked.json["id"]))
        self.assertEqual(d.ended(behind.json["id"])["state"], "cancelled")
        names = {i["name"] for i in d.call("GET", "/v1/images").json["images"]}
        self.assertEqual(names - {f"i:{n}" for n in range(len(DELAYS))},
                         {"cut:1"} if task["state"] == "succeeded" else set())
        wait_for(lambda: self.importers() == [])

    # ---- forks ----

    def up_on_qcow2(self):
        disk = self.d.work / "disk.qcow2"
        subprocess.run([PROGRAMS["atoll"], "disk", "create", disk, "32M"],
                       check=True)
        got = self.d.define("m", disks=[{"path": str(disk),
                                         "format": "qcow2"}])
        self.assertEqual(got.status, 201, got.body)
        self.d.do("POST", AT + "/start")
        self.d.console("m", b"resident is up")

    def machines(self):
        return {v["name"]: v for v in self.d.call("GET", "/v1/vms").json[
            "vms"]}

    def whole(self):
        """Nothing is there but what the registry says; all of that runs."""
        def settled():
            vms = self.machines()
            names = sorted(self.d.processes().values())
            folders = {p.name for p in (self.d.state / "machines").iterdir()}
            return all(v["task"] is None and v["state"] == "running"
                       for v in vms.values()) and \
                names == sorted(["atoll-hold", "atoll-vm"] * len(vms)) and \
                folders == {v["id"] for v in vms.values()} and \
                self.workers() == [] and \
                not list((self.d.state / "machines").glob("*/fork.json"))
        wait_for(settled)
        return set(self.machines())

    def test_daemon_killed_while_forking(self):
        d = self.d.start()
        self.up_on_qcow2()
        for n, delay in enumerate(DELAYS):
            self.count(n + 1)
            asked = d.call("POST", AT + "/fork", {"count": 3,
                                                  "name": f"f{n}"})
            self.restart(delay)
            task = self.settled(asked.json["id"])
            left = self.whole()
            if task["state"] == "succeeded":
                self.assertLessEqual({f"f{n}-{i}" for i in (1, 2, 3)}, left)
            else:
                self.assertEqual(task["error"]["code"], "interrupted", task)
            for name in left - {"m"}:
                shown = b"n came %d times" % (n + 2)
                d.call("POST", f"/v1/vms/{name}/console", b"n")
                d.console(name, shown)
                d.do("DELETE", f"/v1/vms/{name}?force=true")
        self.count(len(DELAYS) + 1)
        self.assertEqual(self.whole(), {"m"})

    def test_forks_found_again(self):
        d = self.d.start()
        self.up_on_qcow2()
        d.do("POST", AT + "/fork", {"count": 2, "disposable": True})
        before = {n: v["pid"] for n, v in self.machines().items()}
        d.kill()
        for pid, name in list(d.processes().items()):
            if name == "atoll-vm" and pid == before["m-1"]:
                os.kill(pid, signal.SIGKILL)
        d.start()
        # One ended while nobody was there: nothing is left of it.
        wait_for(lambda: set(self.machines()) == {"m", "m-2"})
        wait_for(lambda: self.machines()["m-2"]["state"] == "running")
        after = {n: v["pid"] for n, v in self.machines().items()}
        self.assertEqual(after, {n: before[n] for n in ("m", "m-2")})
        self.assertEqual(self.whole(), {"m", "m-2"})
        d.call("POST", "/v1/vms/m-2/console", b"n")
        d.console("m-2", b"n came 1 times")

    def test_forks_that_fail(self):
        d = self.d.start()
        self.up_on_qcow2()
        # The process that makes them; what they are made of; a change of mind.
        asked = d.call("POST", AT + "/fork", {"count": 3})
        self.kill_worker(asked.json["id"])
        task = wait_for(lambda: d.ended(asked.json["id"]))
        left = self.whole()
        self.assertEqual(left - {"m"}, set() if task["state"] == "failed"
                         else {"m-1", "m-2", "m-3"}, task)
        self.count(1)
        asked = d.call("POST", AT + "/fork", {"count": 3, "name": "c"})
        d.call("POST", f"/v1/tasks/{asked.json['id']}/cancel")
        task = wait_for(lambda: d.ended(asked.json["id"]))
        left = {n for n in self.whole() if n.startswith("c")}
        self.assertEqual(left, set() if task["state"] == "cancelled"
                         else {"c-1", "c-2", "c-3"}, task)
        d.call("PATCH", "/v1/host/policy", {"headroom_bytes": 1 << 50})
        task = d.task(d.call("POST", AT + "/fork", {"name": "r"}))
        self.assertEqual(task["error"]["code"], "no-capacity", task)
        d.call("PATCH", "/v1/host/policy", {"headroom_bytes": 0})
        self.assertNotIn("r-1", self.whole())
        asked = d.call("POST", AT + "/fork", {"name": "k"})
        self.worker(asked.json["id"])
        os.kill(d.vm("m")["pid"], signal.SIGKILL)
        task = wait_for(lambda: d.ended(asked.json["id"]))
        wait_for(lambda: d.vm("m")["state"] == "stopped")
        wait_for(lambda: ("k-1" in self.machines())
                 == (task["state"] == "succeeded"))
        # The disk is whole whatever became of it: the machine starts again.
        d.do("POST", AT + "/start")
        # Behind a stop that takes long, and it is gone before their turn.
        d.console("m", b"resident is up", 1)
        d.call("POST", AT + "/console", b"d")
        d.console("m", b"[100]")
        d.call("POST", AT + "/stop", {"timeout_s": 600})
        asked = d.call("POST", AT + "/fork", {"name": "late"})
        self.assertIn("late-1", self.machines())
        d.do("DELETE", AT + "?force=true")
        task = wait_for(lambda: d.ended(asked.json["id"]))
        self.assertNotEqual(task["state"], "succeeded")
        wait_for(lambda: "late-1" not in self.machines())

    def test_fork_of_a_raw_disk(self):
        d = self.d.start()
        self.up()
        task = d.task(d.call("POST", AT + "/fork"))
        if task["state"] == "succeeded":
            self.skipTest("files can share what they hold here")
        self.assertIn("not a qcow2 image", task["error"]["words"])
        self.assertIn("btrfs", task["error"]["hint"])
        self.assertEqual(self.whole(), {"m"})
        self.count(1)


if __name__ == "__main__":
    os.umask(0o022)
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
