#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines outlive their daemon; a machine that dies is noticed; what must be
refused is refused in words.

Usage: survive.py ATOLLD ATOLL GUEST
"""
import ctypes
import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import unittest

import harness
from harness import wait_for

PROGRAMS = harness.programs(sys.argv[1:4])


class Base(unittest.TestCase):
    def setUp(self):
        self.d = harness.Daemon(PROGRAMS)
        self.addCleanup(self.d.close)

    def up(self, name, **more):
        self.assertEqual(self.d.define(name, **more).status, 201)
        self.d.do("POST", f"/v1/vms/{name}/start")
        self.d.console(name, b"resident is up")

    def events(self):
        return [e["type"] for e in
                self.d.call("GET", "/v1/events?limit=1000").json["events"]]


class Survive(Base):
    def test_daemon_killed(self):
        d = self.d.start()
        self.up("m")
        pid = d.vm("m")["pid"]
        for sig in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            before = d.call("GET", "/v1/vms/m/console").body
            d.call("POST", "/v1/vms/m/console", b"c")
            d.kill(sig)
            time.sleep(0.1)
            d.start()
            wait_for(lambda: d.vm("m")["state"] == "running")
            self.assertEqual(d.vm("m")["pid"], pid)
            # What came before ends like it: only what is new counts.
            log = wait_for(lambda: (new := d.call(
                "GET", f"/v1/vms/m/console?offset={len(before)}").body)
                .rstrip().endswith(b"[99]") and new)
            lines = re.findall(rb"line (\d+) of", log)
            self.assertEqual(lines, [b"%d" % i for i in range(2000)])
        d.do("POST", "/v1/vms/m/stop")
        self.assertEqual(d.processes(), {})

    def test_disks_of_an_older_definition(self):
        """A machine has the disks that it was started with, whatever its
        definition says by now: work on them is work on those files."""
        d = self.d.start()
        mine, other = d.work / "mine.qcow2", d.work / "other.qcow2"
        for path in (mine, other):
            subprocess.run([PROGRAMS["atoll"], "disk", "create", path,
                            "1M"], check=True, stdout=subprocess.DEVNULL)
        self.up("m", disks=[{"path": str(mine)}])
        self.assertEqual(d.call("PATCH", "/v1/vms/m", {"disks": [
            {"path": str(other)}, {"path": str(mine)}]}).status, 200)
        for name in ("one", "two"):
            d.do("POST", "/v1/vms/m/disks/vda/snapshot", {"name": name})
            self.assertTrue((d.work / f"mine.{name}.qcow2").exists())
            self.assertFalse((d.work / f"other.{name}.qcow2").exists())
            kept = d.do("POST", "/v1/vms/m/backups")["result"]["backup"]
            kept = d.call("GET", f"/v1/backups/{kept}").json
            self.assertEqual([n["disk"] for n in kept["disks"]], [0])
            # So does a daemon that has only just found it.
            d.kill()
            d.start()
            wait_for(lambda: d.vm("m")["state"] == "running")
        d.do("POST", "/v1/vms/m/kill")

    def test_machine_outlives_its_holder_for_a_moment(self):
        """It has not ended before its disks are free."""
        d = self.d.start()
        disk = d.work / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        self.up("m", disks=[{"path": str(disk)}])
        pid = d.vm("m")["pid"]
        hold = next(p for p, n in d.processes().items() if n == "atoll-hold")
        c = ctypes.CDLL(None, use_errno=True)
        seize, detach, exits = 0x4206, 17, ctypes.c_void_p(0x40)
        if c.ptrace(seize, pid, None, exits) < 0:
            self.skipTest("nobody may be traced here")
        os.kill(hold, signal.SIGKILL)
        os.waitpid(pid, 0x40000000)  # on its way out, with all open
        wait_for(lambda: not pathlib.Path(f"/proc/{hold}").exists())
        for _ in range(50):
            self.assertEqual(d.vm("m")["state"], "running")
            time.sleep(0.01)
        c.ptrace(detach, pid, None, None)
        vm = wait_for(lambda: (v := d.vm("m"))["state"] == "stopped" and v)
        self.assertEqual(vm["last_end"]["cause"], "died")
        d.do("POST", "/v1/vms/m/start")

    def test_ended_by_several(self):
        """What ends a machine is not given up for another such."""
        d = self.d.start()
        self.up("m")
        for verb in ("kill", "delete"):
            hold = next(p for p, n in d.processes().items()
                        if n == "atoll-hold")
            os.kill(hold, signal.SIGSTOP)
            asked = [d.call("POST", "/v1/vms/m/kill") if verb == "kill" else
                     d.call("DELETE", "/v1/vms/m?force=true")
                     for _ in range(3)]
            os.kill(hold, signal.SIGCONT)
            ended = [d.task(a) for a in asked]
            self.assertEqual([t["state"] for t in ended], [
                "succeeded", "cancelled", "succeeded"] if verb == "kill" else
                ["succeeded", "cancelled", "failed"], ended)
            if verb == "kill":
                d.do("POST", "/v1/vms/m/start")
        self.assertEqual(d.call("GET", "/v1/vms").json["vms"], [])

    def test_slow_reader_of_a_console(self):
        d = self.d.start()
        self.up("m")
        c = harness.UnixConnection(d.socket)
        c.request("GET", "/v1/vms/m/console?follow=run&offset=0")
        stream = c.getresponse()
        for i in range(1, 16):
            d.call("POST", "/v1/vms/m/console", b"c")
            wait_for(lambda: d.call("GET", "/v1/vms/m/console").body.count(
                b"[99]") == i)
        d.do("POST", "/v1/vms/m/stop")
        # Nobody waited for it; and it misses nothing.
        seen = stream.read()
        c.close()
        self.assertGreater(len(seen), 900000)
        self.assertEqual(seen, d.call("GET", "/v1/vms/m/console").body)
        # Of a machine that is stopped there is nothing to wait for.
        again = d.call("GET", "/v1/vms/m/console?follow=run")
        self.assertEqual(again.body, seen)

    def test_paused_and_network_found_again(self):
        d = self.d.start()
        self.up("m", nics=[{"type": "user"}])
        mac = d.vm("m")["spec"]["nics"][0]["mac"]
        self.assertRegex(mac, "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
        self.assertEqual(sorted(set(d.processes().values())),
                         ["atoll-hold", "atoll-net", "atoll-vm"])
        d.do("POST", "/v1/vms/m/pause")
        d.kill()
        d.start()
        wait_for(lambda: d.vm("m")["state"] == "paused")
        d.do("POST", "/v1/vms/m/resume")
        d.do("DELETE", "/v1/vms/m?force=true")
        wait_for(lambda: d.processes() == {})
        self.assertEqual(d.call("GET", "/v1/vms").json["vms"], [])

    def test_ended_while_no_daemon_was_there(self):
        d = self.d.start()
        self.up("off")
        self.up("bad", restart={"policy": "on-failure"})
        d.call("POST", "/v1/vms/off/console", b"d")
        d.kill()
        for pid, name in d.processes().items():
            if name == "atoll-vm":
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: d.processes() == {})
        d.start()
        self.assertEqual(d.vm("off")["last_end"]["cause"], "died")
        self.assertIn("signal 9", d.vm("off")["last_end"]["words"])
        self.assertEqual(d.vm("off")["wanted"], "stopped")
        wait_for(lambda: d.vm("bad")["state"] == "running")
        self.assertEqual(d.vm("bad")["restarts"], 1)

    def test_holder_killed(self):
        d = self.d.start()
        self.up("m")
        for pid, name in d.processes().items():
            if name == "atoll-hold":
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: d.vm("m")["state"] == "stopped")
        self.assertEqual(d.vm("m")["last_end"]["cause"], "died")
        wait_for(lambda: d.processes() == {})  # the machine went with it
        d.do("POST", "/v1/vms/m/start")

    def test_restart_behind_a_task(self):
        """It dies while a copy of its disk is being made."""
        d = self.d.start()
        disk = d.work / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        self.up("m", restart={"policy": "always"},
                disks=[{"path": str(disk), "format": "raw"}])
        slow = d.call("POST", "/v1/vms/m/disks/vda/mirror",
                      {"path": str(d.work / "copy.raw"),
                       "rate": 1000}).json
        wait_for(lambda: d.call("GET", f"/v1/tasks/{slow['id']}")
                 .json["state"] == "running")
        pid = d.vm("m")["pid"]
        os.kill(pid, signal.SIGKILL)
        again = wait_for(lambda: (vm := d.vm("m"))["state"] == "running"
                         and vm["pid"] not in (pid, None) and vm)
        self.assertEqual(again["restarts"], 1)
        self.assertEqual(d.call("GET", f"/v1/tasks/{slow['id']}")
                         .json["state"], "failed")

    def test_restart_policy(self):
        d = self.d.start()
        self.up("m", restart={"policy": "always", "max_attempts": 2})
        run = 1
        for _ in range(2):
            pid = d.vm("m")["pid"]
            os.kill(pid, signal.SIGKILL)
            run += 1
            again = wait_for(lambda: (vm := d.vm("m"))["state"] == "running"
                             and vm["pid"] not in (pid, None) and vm)
            self.assertEqual(again["restarts"], run - 1)
        d.console("m", b"resident is up")
        d.call("POST", "/v1/vms/m/console", b"x")
        wait_for(lambda: d.vm("m")["state"] == "stopped")
        end = d.vm("m")["last_end"]
        self.assertEqual((end["cause"], end["code"]), ("guest-exit", 7))
        wait_for(lambda: "vm.restart-given-up" in self.events())
        self.assertEqual(d.vm("m")["wanted"], "stopped")
        planned = [e["data"]["in_ms"] for e in d.call(
            "GET", "/v1/events?limit=1000").json["events"]
            if e["type"] == "vm.restart-planned"]
        self.assertEqual(planned, [1000, 2000])

    def test_autostart_with_the_host(self):
        d = self.d.start()
        for name, order in (("late", 2), ("early", 1)):
            d.define(name, autostart={"enabled": True, "order": order})
        d.define("not")
        d.kill(signal.SIGTERM)
        # As if the host had been started again since.
        db = sqlite3.connect(d.state / "registry.db")
        db.execute("UPDATE meta SET value = 'x' WHERE key = 'boot_id'")
        db.commit()
        db.close()
        d.start()
        wait_for(lambda: all(d.vm(n)["state"] == "running"
                             for n in ("late", "early")))
        self.assertEqual(d.vm("not")["state"], "stopped")
        first = [t["vm"]["name"] for t in
                 d.call("GET", "/v1/tasks").json["tasks"]]
        self.assertEqual(first, ["late", "early"])


class Refusals(Base):
    def run_daemon(self, before=None):
        return subprocess.run([PROGRAMS["atolld"]], env=self.d.env,
                              capture_output=True, timeout=harness.PATIENCE, check=False,
                              text=True, preexec_fn=before)

    def test_second_daemon(self):
        self.d.start()
        self.up("m")
        got = self.run_daemon()
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, "^error: another atolld keeps .*\nhint:")
        self.assertEqual(self.d.vm("m")["state"], "running")

    def test_after_one_that_is_not_gone_yet(self):
        """A child of a killed one has its lock for a moment more."""
        self.d.state.mkdir(parents=True)
        with open(self.d.state / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            late = threading.Timer(0.4, fcntl.flock, (lock, fcntl.LOCK_UN))
            begun = time.monotonic()
            late.start()
            self.d.start()
            self.assertGreater(time.monotonic() - begun, 0.39)
            late.join()

    def test_not_a_registry(self):
        self.d.state.mkdir(parents=True)
        file = self.d.state / "registry.db"
        file.write_bytes(b"not SQLite at all" * 1000)
        got = self.run_daemon()
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, "^error: .*registry.db")
        self.assertEqual(file.read_bytes()[:10], b"not SQLite")
        file.unlink()
        db = sqlite3.connect(file)
        db.execute("PRAGMA user_version = 99")
        db.commit()
        db.close()
        self.assertIn("newer", self.run_daemon().stderr)

    def test_state_is_a_file(self):
        self.d.state.write_text("")
        got = self.run_daemon()
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, "^error: ")

    def test_read_only_state(self):
        # In a changed root, or a container, even root may not.
        if subprocess.run(["unshare", "-m", "true"], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("needs to mount in a namespace of its own")
        script = ('mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" '
                  '&& exec "$2"')

        def refused():
            got = subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", self.d.state,
                 PROGRAMS["atolld"]], env=self.d.env, capture_output=True,
                timeout=harness.PATIENCE, check=False, text=True)
            self.assertEqual(got.returncode, 1)
            self.assertRegex(got.stderr, "^error: .*Read-only file system")

        self.d.state.mkdir(parents=True)
        refused()
        d = self.d.start()
        d.define("kept")
        d.kill(signal.SIGTERM)
        refused()
        d.start()
        self.assertEqual(d.vm("kept")["state"], "stopped")

    def test_full_disk(self):
        limit = 1 << 20

        def small():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        d = self.d.start(before=small)
        d.define("kept")
        made = []
        for i in range(300):
            got = d.define(f"m{i}", description="x" * 4000)
            if got.status != 201:
                break
            made.append(f"m{i}")
        self.assertEqual((got.status, got.code), (507, "storage"), got.body)
        self.assertEqual(d.call("GET", "/v1/vms/kept").status, 200)
        shown = {v["name"] for v in d.call("GET", "/v1/vms").json["vms"]}
        self.assertEqual(shown, {"kept", *made})
        d.kill()
        d.start()
        again = {v["name"] for v in d.call("GET", "/v1/vms").json["vms"]}
        self.assertEqual(again, shown)
        self.assertEqual(d.define("more").status, 201)

    def test_audit_altered(self):
        d = self.d.start()
        for i in range(5):
            d.define(f"m{i}")
        d.kill(signal.SIGTERM)
        db = sqlite3.connect(d.state / "registry.db")
        for words in ("UPDATE audit SET caller = 'nobody' WHERE id = 3",
                      "DELETE FROM audit WHERE id = 5",
                      "INSERT INTO audit(id, at, caller, action, target,"
                      " outcome, hash) VALUES(0, '', '', '', '', '', '')"):
            with self.assertRaisesRegex(sqlite3.IntegrityError,
                                        "only added to"):
                db.execute(words)
        # Who has the file takes that away, and is found out all the same.
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE"
                                  " type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE audit SET caller = 'nobody' WHERE id = 3")
        db.commit()
        db.close()
        d.start()
        found = d.call("GET", "/v1/audit/verify").json
        self.assertEqual((found["valid"], found["broken_at"]), (False, 3))

    def test_other_users(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to be somebody else")
        d = self.d.start()
        os.chmod(d.work, 0o755)
        os.chmod(d.state, 0o755)
        os.chmod(d.state / "run", 0o755)
        code = ("import os, socket, sys\nos.setuid(65534)\n"
                "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n"
                "s.sendall(b'GET /v1/vms HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')\n"
                "s.settimeout(150)\nd = b''\n"
                "while b'}}' not in d: d += s.recv(4096) or b'}}'\n"
                "print(d.decode())")
        got = subprocess.run(
            [sys.executable, "-c", code, "", str(d.state / "run/atolld.sock")],
            capture_output=True, text=True, check=False, timeout=harness.PATIENCE)
        self.assertIn("401", got.stdout + got.stderr)
        self.assertIn("unauthorized", got.stdout)

    def test_tls(self):
        d = self.d
        cert, key = d.work / "cert.pem", d.work / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
             "-keyout", key, "-out", cert, "-days", "2", "-subj",
             "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True)
        port = harness.free_port()
        d.start("--listen", f"127.0.0.1:{port}", "--certificate", str(cert),
                "--key", str(key))
        token = d.call("POST", "/v1/tokens", {
            "name": "far", "role": "operator"}).json["token"]

        def far(*args, **env):
            return subprocess.run(
                [PROGRAMS["atoll"], *args, "--remote",
                 f"https://127.0.0.1:{port}"], capture_output=True, text=True,
                env=dict(d.env, ATOLL_CA=str(cert), **env), timeout=harness.PATIENCE,
                check=False)

        got = far("vm", "list", ATOLL_TOKEN=token)
        self.assertEqual((got.returncode, got.stdout[:4]), (0, "NAME"),
                         got.stderr)
        self.assertEqual(far("vm", "list").returncode, 5)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            with socket.create_connection(("127.0.0.1", port)) as s:
                old.wrap_socket(s, server_hostname="127.0.0.1").recv(1)
        # Not TLS at all: no answer, and no harm.
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            try:
                s.sendall(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
                s.shutdown(socket.SHUT_WR)
                self.assertNotIn(b"atoll", s.recv(4096))
            except OSError:
                pass
        for _ in range(10):
            got = far("vm", "list", ATOLL_TOKEN="wrong")
            self.assertEqual(got.returncode, 5)
        self.assertIn("too many", far("vm", "list",
                                      ATOLL_TOKEN=token).stderr)
        self.assertEqual(d.call("GET", "/v1").status, 200)

    def test_tls_needs_a_certificate(self):
        for options, words in (
                (["--listen", "127.0.0.1:0"], "needs --certificate"),
                (["--listen", "x", "--certificate", "/no", "--key", "/no"],
                 "ADDRESS:PORT"),
                (["--listen", "127.0.0.1:0", "--certificate", "/no", "--key",
                  "/no"], "/no"),
                (["--colour"], "--colour")):
            got = subprocess.run([PROGRAMS["atolld"], *options],
                                 env=self.d.env, capture_output=True,
                                 text=True, timeout=harness.PATIENCE, check=False)
            self.assertIn(got.returncode, (1, 2))
            self.assertIn(words, got.stderr)

    def test_socket_activation(self):
        d = self.d
        path = d.work / "activated.sock"
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
            s.listen(8)
            env = dict(d.env, LISTEN_FDS="1")
            code = ("import os, sys\nfd = int(sys.argv[1])\n"
                    "os.dup2(fd, 3)\nos.environ['LISTEN_PID'] = "
                    "str(os.getpid())\nos.execv(sys.argv[2], "
                    "[sys.argv[2]])")
            d.process = subprocess.Popen(
                [sys.executable, "-c", code, str(s.fileno()),
                 PROGRAMS["atolld"]], env=env, pass_fds=[s.fileno()],
                stderr=subprocess.DEVNULL)
            d.socket = str(path)
            self.assertEqual(d.call("GET", "/v1").status, 200)

    def speak(self, *pieces, half=False):
        s = socket.socket(socket.AF_UNIX)
        self.addCleanup(s.close)
        s.settimeout(harness.PATIENCE)
        s.connect(str(self.d.socket))
        for piece in pieces:
            s.sendall(piece)
            time.sleep(0.2)
        if half:
            s.shutdown(socket.SHUT_WR)
        return s

    def cpu_of(self):
        stat = pathlib.Path(f"/proc/{self.d.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # libwebsockets waits for input that it has no use for yet.
    def test_early_bytes(self):
        d = self.d.start()
        head = b" HTTP/1.1\r\nHost: a\r\n"
        root = b"GET /v1" + head + b"\r\n"
        events = (b"GET /v1/events" + head +
                  b"Accept: text/event-stream\r\n\r\n")
        held = [self.speak(events, b"x"), self.speak(events, root),
                self.speak(root + events), self.speak(events, half=True),
                self.speak(root + events + root)]
        held.pop().close()
        before = self.cpu_of()
        time.sleep(3)
        self.assertLess(self.cpu_of() - before, 0.3)
        # What was early is answered in its turn, and in order.
        body = (b"POST /v1/vms" + head + b"Content-Length: 2\r\n"
                b"Content-Type: application/json\r\n\r\n{}")
        s = self.speak(body + root + root + root)
        said = b""
        while said.count(b"HTTP/1.1 ") < 4:
            more = s.recv(65536)
            self.assertTrue(more, said)
            said += more
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d+)", said),
                         [b"400", b"200", b"200", b"200"])
        # Two bodies and more in one piece: it must not be stuck in that.
        s = self.speak(body + body + b"x")
        self.assertEqual(d.call("GET", "/v1").status, 200)
        self.assertEqual(s.recv(65536).split()[1], b"400")

    def test_many_machines_listed(self):
        d = self.d.start()
        for i in range(200):
            self.assertEqual(d.define(f"m{i:04}").status, 201)
        start = time.monotonic()
        got = d.call("GET", "/v1/vms")
        took = time.monotonic() - start
        self.assertEqual(len(got.json["vms"]), 200)
        print(f"200 machines listed in {took * 1000:.1f} ms, "
              f"{len(got.body)} bytes")
        self.assertEqual(json.loads(got.body)["vms"][7]["name"], "m0007")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
