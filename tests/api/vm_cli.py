#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line's verbs on machines that a daemon keeps: a daemon started on
demand, tables, JSON, exit codes, the console on a terminal.

Usage: vm_cli.py ATOLLD ATOLL GUEST
"""
import calendar
import csv
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import unittest

import yaml

import harness
from harness import wait_for

PROGRAMS = harness.programs(sys.argv[1:4])
D = harness.Daemon(PROGRAMS)
TINY = ("--kernel", PROGRAMS["guest"], "--memory", "32M", "--engine", "bt",
        "--net", "none", "--device", "debug-exit")


def atoll(*args, **how):
    how.setdefault("stdin", subprocess.DEVNULL)
    how.setdefault("env", D.env)
    return subprocess.run([PROGRAMS["atoll"], *map(str, args)], timeout=harness.PATIENCE,
                          capture_output=True, text=True, check=False, **how)


class Cli(unittest.TestCase):
    def good(self, *args, **how):
        got = atoll(*args, **how)
        self.assertEqual(got.returncode, 0, got.stderr)
        return got.stdout

    def bad(self, code, words, *args, **how):
        got = atoll(*args, **how)
        self.assertEqual(got.returncode, code, got.stdout + got.stderr)
        self.assertRegex(got.stderr, "^error: ")
        self.assertIn(words, got.stderr)
        self.assertNotIn(": : ", got.stderr)

    def test_00_no_daemon(self):
        self.bad(8, "cannot reach atolld", "vm", "list",
                 env=dict(D.env, ATOLL_NO_START="1"))
        self.bad(8, "No such file", "vm", "list", "--remote",
                 "unix:/nonexistent")
        (D.work / "no.sock").touch()
        self.bad(8, "Connection refused", "vm", "list", "--remote",
                 f"unix:{D.work}/no.sock")
        self.bad(2, "neither", "vm", "list", "--remote", "ftp://x")

    def test_02_daemon_that_can_not_be_started(self):
        # What is in the way is said, and not blamed on the program.
        def fails(words, state):
            self.bad(8, words, "vm", "list", env=dict(
                D.env, ATOLL_STATE_DIR=str(state)))

        (D.work / "logless/atolld.log").mkdir(parents=True)
        fails("atolld.log: Is a directory", D.work / "logless")
        (D.work / "plain").touch()
        fails(str(D.work / "plain"), D.work / "plain")

    def test_01_started_on_demand(self):
        two = [subprocess.Popen([PROGRAMS["atoll"], "vm", "list"], env=D.env,
                                stdout=subprocess.PIPE, text=True)
               for _ in range(2)]
        for p in two:
            self.assertRegex(p.communicate(timeout=harness.PATIENCE)[0], "^NAME ")
            self.assertEqual(p.returncode, 0)

    def test_10_create_and_see(self):
        self.assertEqual(self.good("vm", "create", "web1", *TINY, "--tag",
                                   "tier=web", "--cpus", "2",
                                   "--description", "first"), "web1\n")
        self.good("vm", "create", "web2", *TINY, "--quiet")
        self.good("vm", "create", "db", *TINY)
        table = self.good("vm", "list").splitlines()
        self.assertRegex(table[0],
                         r"^NAME +STATE +SINCE +CPUS +MEMORY +IMAGE$")
        self.assertEqual([l.split()[0] for l in table[1:]],
                         ["db", "web1", "web2"])
        self.assertEqual(self.good("vm", "list", "--format", "name", "--tag",
                                   "tier"), "web1\n")
        whole = json.loads(self.good("vm", "list", "--format", "json"))
        self.assertEqual(len(whole["vms"]), 3)
        lines = self.good("vm", "list", "--format", "jsonl").splitlines()
        self.assertEqual(json.loads(lines[0])["name"], "db")
        shown = json.loads(self.good("vm", "show", "web1", "--format",
                                     "json"))
        self.assertEqual((shown["spec"]["cpus"], shown["spec"]["tags"]),
                         (2, {"tier": "web"}))
        self.assertIn("32 MiB", self.good("vm", "show", "web1"))

    def test_11_exit_codes(self):
        self.bad(4, "already", "vm", "create", "db", *TINY)
        self.bad(2, "name", "vm", "create", "../x", *TINY)
        self.bad(2, "takes one name", "vm", "create", *TINY)
        self.bad(2, "--memory", "vm", "create", "x", "--memory", "much")
        self.bad(2, "memory_bytes", "vm", "create", "x", *TINY, "--memory",
                 "1M")
        self.bad(2, "empty", "vm", "show", "")
        self.bad(2, "empty", "fork", "")
        self.bad(2, "--count", "fork", "x", "--count", "0")
        self.bad(3, "No such file", "vm", "create", "x", "--kernel", "/no/k")
        self.bad(3, "no machine nope", "start", "nope")
        self.bad(3, "no machine nope", "vm", "show", "nope")
        self.bad(2, "no verb strat", "vm", "strat")
        self.bad(2, "which machine", "vm", "start")
        self.bad(2, "no option --colour", "vm", "list", "--colour", "red")
        self.bad(2, "--format", "vm", "list", "--format", "xml")
        self.bad(4, "does not run", "vm", "pause", "db")
        self.bad(4, "changed", "vm", "set", "db", "--cpus", "2", "--if-rev",
                 "7")
        self.bad(3, "no task", "task", "wait", "99999")
        self.assertEqual(atoll("vm").returncode, 2)
        for args in (("vm",), ("vm", "stop"), ("task",), ("launch",),
                     ("token", "create"), ("console",)):
            self.assertIn("usage: ", self.good(*args, "--help"))
            if args != ("console",):  # which is a topic, too
                self.assertEqual(self.good("help", *args),
                                 self.good(*args, "--help"))

    def test_12_choosing(self):
        """Columns, filters, order, and the formats of all lists."""
        def names(*args):
            return self.good("vm", "list", *args, "-o", "name").split()

        self.assertEqual(names("--sort", "-name"), ["web2", "web1", "db"])
        self.assertEqual(names("--sort", "cpus")[-1], "web1")
        self.assertEqual(names("--sort", "-spec.cpus")[0], "web1")
        self.assertEqual(names("--filter", "name=web*"), ["web1", "web2"])
        self.assertEqual(names("--filter", "name!=web*"), ["db"])
        self.assertEqual(names("--filter", "tag=tier"), ["web1"])
        self.assertEqual(names("--filter", "tag=tier=d*"), [])
        self.assertEqual(names("--filter", "description=first",
                               "--filter", "spec.cpus=2"), ["web1"])
        self.assertEqual(names("--filter", "description=first",
                               "--filter", "state=running"), [])
        table = self.good("vm", "list", "--columns", "name,spec.cpus,Memory",
                          "--sort", "name").splitlines()
        self.assertEqual(table[0].split(), ["NAME", "spec.cpus", "MEMORY"])
        self.assertEqual(table[2].split(), ["web1", "2", "32", "MiB"])
        self.assertIn("PROJECT", self.good("vm", "list", "-owide"))
        rows = list(csv.DictReader(self.good(
            "vm", "list", "-o", "csv", "--columns",
            "name,memory,image,spec.tags").splitlines()))
        self.assertEqual(rows[1], {"NAME": "web1", "MEMORY": str(32 << 20),
                                   "IMAGE": "",
                                   "spec.tags": '{"tier":"web"}'})
        for args in (("vm", "list"), ("vm", "show", "web1"),
                     ("event", "list"), ("role", "list")):
            self.assertEqual(
                yaml.safe_load(self.good(*args, "--format", "yaml")),
                json.loads(self.good(*args, "--format", "json")), args)
        self.assertIn("spec.tags.tier,web", self.good(
            "vm", "show", "web1", "--format", "csv").splitlines())
        chosen = json.loads(self.good("vm", "list", "--filter", "name=db",
                                      "-o", "json"))
        self.assertEqual([v["name"] for v in chosen["vms"]], ["db"])
        self.bad(2, "not as KEY=GLOB", "vm", "list", "--filter", "name")
        self.bad(2, "empty name", "vm", "list", "--columns", "name,,cpus")
        self.bad(2, "needs a value", "vm", "list", "-o")
        self.bad(2, "no option --x", "vm", "list", "-x")

    def test_13_what_would_be_done(self):
        self.assertEqual(
            self.good("start", "web*", "--dry-run").splitlines(),
            ["POST /v1/vms/web1/start", "POST /v1/vms/web2/start"])
        self.assertEqual(
            self.good("start", "--filter", "tag=tier", "--dry-run"),
            "POST /v1/vms/web1/start\n")
        self.assertEqual(self.good("vm", "delete", "db", "--dry-run"),
                         "DELETE /v1/vms/db\n")
        self.assertEqual(self.good("vm", "set", "db", "--cpus", "2",
                                   "--dry-run"),
                         'PATCH /v1/vms/db {"cpus":2}\n')
        self.assertIn('"name":"more"', self.good(
            "vm", "create", "more", *TINY, "--dry-run"))
        self.assertEqual(self.good("net", "create", "n", "--dry-run"),
                         'POST /v1/networks {"name":"n"}\n')
        self.assertEqual(json.loads(self.good(
            "vm", "list", "-o", "json", "--columns", "x"))["vms"][0]["state"],
            "stopped")
        self.assertEqual(self.good("vm", "list", "-o", "name").split(),
                         ["db", "web1", "web2"])
        self.assertNotIn("\nn ", self.good("net", "list"))

    def test_14_options_before_the_verb(self):
        as_json = self.good("vm", "list", "-o", "json")
        for args in (("-o", "json", "vm", "list"), ("vm", "-ojson", "list"),
                     ("--format=json", "--quiet", "vm", "list"),
                     ("-o", "json", "vm", "--quiet", "list")):
            self.assertEqual(self.good(*args), as_json, args)
        self.assertEqual(self.good("--dry-run", "start", "web1"),
                         "POST /v1/vms/web1/start\n")
        self.assertEqual(self.good("--project", "none", "-oname", "vm",
                                   "list"), "")
        self.bad(2, "no verb comes after", "--colour", "vm", "list")
        self.bad(2, "no verb comes after", "-o", "json")
        self.bad(2, "before no verb", "-o", "json", "vm")
        self.bad(2, "there is no option --yes", "--yes", "vm", "list")
        self.bad(8, "cannot reach", "--remote", "unix:/nonexistent", "vm",
                 "list")

    def test_15_said_to_programs(self):
        for args, code, exit_code in (
                (("vm", "show", "nope"), "not-found", 3),
                (("start", "nope*"), "not-found", 3),
                (("vm", "set", "db", "--cpus", "2", "--if-rev", "7"),
                 "precondition", 4),
                (("vm", "list", "--remote", "unix:/nonexistent"),
                 "unavailable", 8)):
            got = atoll("-o", "json", *args)
            self.assertEqual(got.returncode, exit_code, got)
            self.assertEqual(json.loads(got.stderr)["error"]["code"], code)
        got = json.loads(self.good("image", "list", "-o", "json"))
        self.assertEqual(got, {"images": []})
        self.assertEqual(self.good("image", "list", "--columns", "name"),
                         "NAME\n")
        got = json.loads(atoll("host", "check", "-o", "json").stdout)
        self.assertIn("checks", got)

    def test_16_what_is_refused(self):
        self.bad(3, "no machine matches x*", "start", "web1", "x*")
        self.assertEqual(D.vm("web1")["state"], "stopped")
        self.assertEqual(self.good("start", "--filter", "name=x*"), "")
        self.bad(2, "none of stopped, starting, running, paused", "vm", "list",
                 "--state", "idle")
        self.bad(2, "none of queued", "task", "list", "--state", "idle")
        self.bad(2, "none of running, paused, stopped", "vm", "wait", "web1",
                 "--for", "idle")
        self.bad(3, "no image none:1", "launch", "none:1", "new")
        self.bad(3, "no image none:1", "launch", "none:1", "new", "--async",
                 "--timeout", "5")
        self.bad(3, "no machine new", "vm", "show", "new")
        # A verb has those options that do something to it.
        for verb, option in (("stop", "--discard"), ("start", "--force"),
                             ("kill", "--yes"), ("start", "--fast")):
            self.bad(2, f"no option {option}", "vm", verb, "web1", option)
        self.bad(2, "no option --prune", "stack", "diff", "x.yaml", "--prune")

    def test_17_expiry(self):
        def expires(*args):
            self.good("vm", "set", "web1", *args)
            return D.vm("web1")["spec"].get("expires")

        def from_now(text):
            return calendar.timegm(time.strptime(
                text, "%Y-%m-%dT%H:%M:%SZ")) - time.time()

        self.assertAlmostEqual(from_now(expires("--expires", "30d")),
                               30 * 86400, delta=300)
        self.assertAlmostEqual(from_now(expires("--expires", "12h")),
                               12 * 3600, delta=300)
        self.assertEqual(expires("--expires", "2031-12-31"), "2031-12-31")
        self.assertEqual(expires("--expires", "2031-12-31T12:00:00Z"),
                         "2031-12-31T12:00:00Z")
        self.assertIsNone(expires("--expires", "never"))
        for text in ("30", "soon", "2031-13-01", "2031-12-31T12", ""):
            self.bad(2, "is no time", "vm", "set", "web1", "--expires", text)
        self.good("token", "create", "short", "--expires", "2031-12-31")
        self.assertRegex(self.good("token", "show", "short"),
                         r"short +user +\S+ +2031-12-3")
        self.bad(2, "over already", "token", "create", "x", "--expires",
                 "2020-01-01")
        self.bad(2, "is no time", "token", "create", "x", "--expires", "3600")
        self.good("token", "delete", "short")
        self.bad(3, "no token short", "token", "show", "short")

    def test_18_seen(self):
        self.assertRegex(self.good("host", "show"),
                         r"^NAME +CPUS +MEMORY +FREE +GIVEN +MACHINES")
        self.assertIn("state_dir", self.good("host", "show", "-o", "json"))
        self.assertRegex(self.good("host", "policy"), r"^OVERCOMMIT% +HEAD")
        self.assertRegex(self.good("role", "show", "operator"),
                         r"operator +read, operate, define")
        self.bad(3, "no role nobody", "role", "show", "nobody")
        self.good("vm", "rename", "web1", "web9")
        self.bad(4, "already", "vm", "rename", "web9", "db")
        self.bad(2, "not a name", "vm", "rename", "web9", "../db")
        self.good("vm", "rename", "web9", "web1", "--quiet")
        # The newest, in their order; and from a number on.
        last = [int(l.split()[0]) for l in self.good(
            "event", "list", "--limit", "3").splitlines()[1:]]
        self.assertEqual(last, sorted(last))
        self.assertGreater(last[0], 3)
        self.assertRegex(self.good("event", "list", "--after", "0", "--limit",
                                   "1"), r"(?m)^1 .*daemon.started")
        self.assertIn("web9", self.good("audit", "list", "--limit", "2"))
        self.assertRegex(self.good("audit", "list", "--after", "0", "--limit",
                                   "1"), r"(?m)^1 ")
        # What is too wide stands above its words, and these below each other.
        lines = self.good("vm", "create", "--help").splitlines()[4:]
        wide = [i for i, l in enumerate(lines) if not l[28:29].isspace()]
        self.assertTrue(wide)
        for i in wide:
            self.assertEqual(lines[i + 1][:29], " " * 29, lines[i])
            self.assertNotIn("  ", lines[i].strip())

    def test_185_attached(self):
        def spec():
            return D.vm("web1")["spec"]

        disks = [D.work / f"at{i}.qcow2" for i in (1, 2)]
        for disk in disks:
            self.good("disk", "create", disk, "1M")
            self.good("vm", "attach", "web1", "--disk",
                      f"{disk},format=qcow2,serial=s{disk.stem}")
        self.good("net", "create", "attached", "--isolated")
        self.good("vm", "attach", "web1", "--net", "attached", "--net", "user")
        self.assertEqual([d["path"] for d in spec()["disks"]],
                         [str(d) for d in disks])
        self.assertEqual([n["type"] for n in spec()["nics"]],
                         ["network", "user"])
        self.bad(3, "no disk and no card vdc", "vm", "detach", "web1", "vda",
                 "vdc")
        self.assertEqual(len(spec()["disks"]), 2)
        self.bad(4, "changed", "vm", "detach", "web1", "vda", "--if-rev", "1")
        self.bad(2, "what is to be attached", "vm", "attach", "web1")
        self.bad(3, "no machine nope", "vm", "detach", "nope", "vda")
        self.bad(3, "no disk and no card", "vm", "detach", "web1", "")
        self.bad(2, "takes a machine and its", "vm", "detach", "web1")
        mac = spec()["nics"][1]["mac"]
        self.good("vm", "detach", "web1", "vda", mac)
        self.assertEqual([d["serial"] for d in spec()["disks"]], ["sat2"])
        self.good("vm", "detach", "web1", "at2.qcow2", "attached")
        self.assertEqual((spec()["disks"], spec()["nics"]), ([], []))
        self.assertTrue(all(d.exists() for d in disks))
        self.good("net", "delete", "attached", "--yes")

    def test_19_asked_before_it_is_deleted(self):
        def answer(text, *words):
            pid, tty = pty.fork()
            if pid == 0:
                os.execve(PROGRAMS["atoll"], ["atoll", *words], D.env)
            said = b""
            try:
                while b"[y/N] " not in said:
                    said += os.read(tty, 4096)
                os.write(tty, text)
                while True:
                    said += os.read(tty, 4096)
            except OSError:
                pass  # it ended
            os.close(tty)
            return (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
                    said.decode())

        self.good("net", "create", "asked", "--isolated")
        self.good("vm", "create", "asked", *TINY)
        code, said = answer(b"n\n", "net", "delete", "asked")
        self.assertEqual(code, 1, said)
        self.assertIn("Delete the network asked? [y/N]", said)
        self.assertIn("asked", self.good("net", "list"))
        code, said = answer(b"\n", "vm", "delete", "asked")
        self.assertEqual(code, 1, said)
        self.assertIn("Delete the machine asked and its data?", said)
        code, said = answer(b"y\n", "vm", "delete", "asked")
        self.assertEqual(code, 0, said)
        code, said = answer(b"y\n", "net", "delete", "asked")
        self.assertEqual(code, 0, said)
        self.bad(3, "no network", "net", "delete", "asked", "--yes")
        for noun in ("user", "role", "token", "project", "alarm", "backup"):
            self.assertEqual(atoll(noun, "delete", "nope",
                                   "--yes").returncode, 3, noun)

    def test_20_life(self):
        self.good("start", "web*")
        wait_for(lambda: "resident is up" in self.good("console", "web1",
                                                       "--no-follow"))
        got = atoll("start", "web1", "nope")
        self.assertEqual(got.returncode, 9)
        self.good("vm", "pause", "web1")
        self.assertIn("paused", self.good("vm", "list"))
        self.good("vm", "resume", "web1")
        self.good("vm", "set", "web1", "--cpus", "1")
        self.good("vm", "restart", "web1")
        self.assertEqual(self.good("stop", "web1"), "")
        self.assertRegex(self.good("vm", "list"),
                         r"web1 +stopped \(power-off\)")
        self.good("vm", "wait", "web2", "--for", "running")
        self.bad(7, "is running, not stopped", "vm", "wait", "web2",
                 "--timeout", "1")
        top = self.good("top", "--batch", "--count", "2", "--delay", "100ms")
        self.assertEqual(len(re.findall(r"(?m)^\S+  host: CPU", top)), 2)
        self.assertRegex(top, r"(?m)^NAME +STATE +CPU% READY% +WAIT% STEAL% +RES +"
                         r"SIZE +BALLN +SHARED +SWAP READ/s WRIT/s +R-ms +"
                         r"W-ms +TX/s +RX/s$")
        self.assertRegex(top, r"(?m)^web2 +running +\d")
        wait_for(lambda: re.search(r"(?m)^  vcpu 0( +\d+\.\d){4}$", self.good(
            "top", "--batch", "--count", "1", "--vcpus")))
        self.top_fits_its_screen()
        figures = [json.loads(line) for line in self.good(
            "top", "--batch", "--count", "1", "-o", "json").splitlines()]
        self.assertIn("web2", {v["name"] for v in figures[0]["vms"]})
        self.good("kill", "web2")
        self.good("vm", "set", "web2", "--name", "web3")
        self.assertIn("web3", self.good("vm", "list"))
        self.bad(9, "nope", "vm", "delete", "web3", "nope", "--yes")
        self.good("vm", "create", "web3", *TINY)

    def test_19_shown(self):
        """What a machine gets of the host, as it was said and is shown."""
        self.good("vm", "create", "shown", *TINY, "--cpu-weight", "300",
                  "--cpu-limit", "150", "--memory-max", "64M", "--max-cpus",
                  "3", "--tag", "tier=web", "--restart", "on-failure",
                  "--expires", "30d")
        shown = self.good("vm", "show", "shown")
        for line in (r"cpu_weight +300", r"cpu_limit +150 %",
                     r"memory_max +64 MiB", r"spec.cpus +1, 3 at most",
                     r"spec.tag +tier=web", r"spec.restart +on-failure"):
            self.assertRegex(shown, f"(?m)^{line}$")
        self.assertNotIn("io_weight", shown)
        ends = time.mktime(time.strptime(
            re.search(r"spec.expires +(\S+)", shown)[1],
            "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        self.assertAlmostEqual(ends, time.time() + 30 * 86400, delta=600)
        self.good("vm", "set", "shown", "--expires", "none",
                  "--cpu-weight", "100")
        self.assertNotRegex(self.good("vm", "show", "shown"),
                            "expires|cpu_weight")
        self.good("net", "create", "wire", "--isolated", "--cidr",
                  "10.91.0.0/24")
        self.good("vm", "set", "shown", "--net",
                  "wire,address=10.91.0.9,send=1M,frames=100,trusted")
        nic, = json.loads(self.good("vm", "show", "shown", "-o", "json")
                          )["spec"]["nics"]
        self.assertEqual((nic["network"], nic["address"], nic["trusted"],
                          nic["limits"]), ("wire", "10.91.0.9", True, {
                              "send_bytes_per_s": 1 << 20,
                              "receive_bytes_per_s": 0,
                              "send_frames_per_s": 100}))
        self.bad(2, "--net: color=red is none of", "vm", "set", "shown",
                 "--net", "wire,color=red")
        self.bad(2, "--cpu-limit: '-5' is not a number", "vm", "set",
                 "shown", "--cpu-limit", "-5")
        self.bad(2, "--memory-limit: 'x' is not a size", "vm", "set",
                 "shown", "--memory-limit", "x")
        self.good("vm", "delete", "shown", "--yes")
        self.good("net", "delete", "wire")

    def top_fits_its_screen(self):
        """Nothing wraps or scrolls, and a screen of another size is drawn
        anew at once."""
        pid, tty = pty.fork()
        if pid == 0:
            os.execve(PROGRAMS["atoll"], [PROGRAMS["atoll"], "top", "--delay",
                                          "1000s"], D.env)

        def screen(rows, columns):
            fcntl.ioctl(tty, termios.TIOCSWINSZ,
                        struct.pack("4H", rows, columns, 0, 0))
            # The first may have been drawn before.
            wait_for(lambda: f"\033[{rows};1H" in drawn(0.1))
            return text[text.rindex("\033[H"):]

        text = ""

        def drawn(seconds):
            nonlocal text
            while select.select([tty], [], [], seconds)[0]:
                text += os.read(tty, 4096).decode()
            return text

        try:
            for rows, columns in ((30, 150), (4, 40), (12, 70)):
                lines = [re.sub(r"\033\[[0-9;]*[A-Za-z]", "", line).rstrip("\r")
                         for line in re.split(r"\n|\033\[\d+;1H", screen(
                             rows, columns))]
                self.assertLessEqual(len(lines), rows + 1)
                self.assertIn("host: CPU", lines[0])
                self.assertTrue(lines[-1], lines)
                for line in lines:
                    self.assertLessEqual(len(line), columns)
            os.write(tty, b"q")
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
            pid = 0
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(tty)

    def test_21_stop_timeouts(self):
        self.good("start", "web3")
        wait_for(lambda: "resident" in self.good("console", "web3",
                                                 "--no-follow"))
        D.call("POST", "/v1/vms/web3/console", b"d")
        wait_for(lambda: "[100]" in self.good("console", "web3",
                                              "--no-follow"))
        self.bad(7, "did not shut down", "stop", "web3", "--timeout", "1")
        number = self.good("stop", "web3", "--timeout", "300",
                           "--async").strip()
        self.bad(7, "goes on", "task", "wait", number, "--timeout", "1")
        # The list knows as much of it as the task itself.
        self.assertRegex(self.good("task", "list", "--state", "running"),
                         rf"(?m)^{number} +stop +web3 +running [1-9]\d*%.*"
                         "power button")
        self.good("task", "cancel", number)
        self.bad(1, "cancelled", "task", "wait", number)
        self.good("stop", "web3", "--timeout", "1", "--force")
        self.assertRegex(self.good("task", "list", "--vm", "web3"),
                         r"(?m)^\d+ +stop +web3 +succeeded")
        shown = json.loads(self.good("task", "show", number, "--format",
                                     "json"))
        self.assertEqual(shown["state"], "cancelled")

    def test_30_events(self):
        self.assertIn("vm.created", self.good("event", "list", "--limit",
                                              "1000"))
        last = json.loads(self.good("event", "list", "--limit", "1",
                                    "-o", "json"))["events"]
        everything = json.loads(self.good("event", "list", "--after", "0",
                                          "--limit", "1000", "-o", "json"))
        self.assertEqual(last, everything["events"][-1:])
        follow = subprocess.Popen(
            [PROGRAMS["atoll"], "event", "list", "--follow", "--format",
             "jsonl", "--after", "0"], env=D.env, stdout=subprocess.PIPE,
            text=True)
        first = json.loads(follow.stdout.readline())
        follow.terminate()
        follow.communicate()
        self.assertEqual(first["type"], "daemon.started")
        follow = subprocess.Popen(
            [PROGRAMS["atoll"], "event", "list", "--follow", "--format",
             "jsonl", "--after", "0", "--filter", "type=vm.created"],
            env=D.env, stdout=subprocess.PIPE, text=True)
        first = json.loads(follow.stdout.readline())
        follow.terminate()
        follow.communicate()
        self.assertEqual(first["type"], "vm.created")

    def test_305_copied_into_a_folder(self):
        (D.work / "some.txt").write_text("some")
        for to, path in (("/tmp/", "/tmp/some.txt"), ("/tmp/x", "/tmp/x")):
            self.assertIn(f'"path":"{path}"', self.good(
                "cp", D.work / "some.txt", f"db:{to}", "--dry-run"))

    def test_31_tokens_audit(self):
        secret = self.good("token", "create", "ci", "--role", "viewer",
                           "--expires", "1h").strip()
        self.assertRegex(secret, "^atoll_[0-9a-f]{64}$")
        self.assertRegex(self.good("token", "list"), r"ci +viewer")
        as_ci = dict(D.env, ATOLL_TOKEN=secret)
        self.good("vm", "list", env=as_ci)
        self.bad(5, "role", "start", "db", env=as_ci)
        self.bad(5, "role", "audit", "list", env=as_ci)
        self.bad(5, "not known", "vm", "list",
                 env=dict(D.env, ATOLL_TOKEN="wrong"))
        self.assertRegex(self.good("audit", "list", "--limit", "1000"),
                         r"token ci +POST /v1/vms/\{vm\}/start +db +403")
        self.assertIn("none altered", self.good("audit", "verify"))
        self.good("token", "delete", "ci")
        self.bad(5, "not known", "vm", "list", env=as_ci)

    def test_32_projects_users_roles(self):
        self.good("project", "create", "shop", "--description", "the shop",
                  "--machines", "1", "--memory", "64M")
        self.assertRegex(self.good("project", "list"),
                         r"(?m)^shop +0 +0 +0 B +0 B +the shop")
        self.good("vm", "create", "till", *TINY, "--memory", "32M",
                  "--project", "shop", "--owner", "anna", "--expires",
                  "2020-02-03")
        self.bad(6, "quota of machines is 1; it has 1, and 1 more", "vm",
                 "create", "till2", *TINY, "--project", "shop")
        self.good("quota", "set", "shop", "--machines", "none", "--vcpus",
                  "2")
        self.assertRegex(
            self.good("quota", "show", "shop"),
            r"(?m)^shop +1 / any +1 / 2 +32 MiB / 64 MiB +0 B / any +0 / any")
        self.assertRegex(self.good("vm", "list", "--expired"),
                         r"till +stopped +2020-02-03 +anna +shop\n$")
        self.assertEqual(self.good("vm", "list", "--project", "shop",
                                   "--format", "name"), "till\n")
        self.assertEqual(self.good("vm", "list", "--owner", "bert",
                                   "--format", "name"), "")
        self.good("user", "create", "anna", "--uid", "54321", "--certificate",
                  "anna.example")
        self.bad(2, "--project, or --everywhere", "user", "grant", "anna",
                 "--role", "viewer")
        self.good("role", "create", "starter", "--right", "operate")
        self.assertRegex(self.good("role", "list"),
                         r"starter +read, ?operate")
        self.good("user", "grant", "anna", "--role", "starter", "--project",
                  "shop")
        self.good("user", "grant", "anna", "--role", "auditor",
                  "--everywhere")
        self.assertRegex(
            self.good("user", "show", "anna"),
            r"anna +54321 +anna.example +enabled +auditor everywhere, "
            r"starter in shop")
        secret = self.good("token", "create", "annas", "--user",
                           "anna").strip()
        as_anna = dict(D.env, ATOLL_TOKEN=secret)
        self.good("audit", "list", env=as_anna)
        self.good("kill", "till", env=as_anna)
        self.bad(5, "role", "kill", "db", env=as_anna)
        self.good("role", "set", "starter", "--right", "read")
        self.bad(5, "role", "kill", "till", env=as_anna)
        self.good("user", "revoke", "anna", "--role", "auditor",
                  "--everywhere")
        self.bad(3, "no machine db", "vm", "show", "db", env=as_anna)
        self.good("user", "set", "anna", "--disable", "--uid", "none")
        self.bad(5, "not known", "vm", "list", env=as_anna)
        secret = self.good("token", "create", "shops", "--role", "operator",
                           "--project", "shop").strip()
        self.assertRegex(self.good("token", "list"),
                         r"(?s)annas +as anna .*shops +operator in shop")
        as_shop = dict(D.env, ATOLL_TOKEN=secret)
        self.good("net", "create", "shopnet", "--project", "shop",
                  "--isolated", env=as_shop)
        self.good("alarm", "create", "warm", "--project", "shop", "--metric",
                  "cpu", "--above", "900", env=as_shop)
        for wrong, words in (((), "--metric"),
                             (("--metric", "cpu"), "--above N"),
                             (("--metric", "luck", "--above", "1"),
                              "memory_used"),
                             (("--metric", "cpu", "--above", "x%"), "x")):
            self.bad(2, words, "alarm", "create", "wrong", *wrong)
        self.good("alarm", "create", "share", "--project", "shop",
                  "--metric", "cpu", "--above", "80%", env=as_shop)
        self.assertRegex(self.good("alarm", "list"),
                         r"(?m)^share .* above +800 ")
        self.good("alarm", "delete", "share", env=as_shop)
        for of, names in (("shop", "shopnet\n"), ("default", "")):
            self.assertEqual(self.good("--project", of, "net", "list", "-o",
                                       "name"), names)
        self.assertEqual(self.good("alarm", "list", "--project", "shop", "-o",
                                   "name"), "warm\n")
        self.assertEqual(self.good("token", "list", "--project", "shop", "-o",
                                   "name"), "shops\n")
        self.assertEqual({json.loads(line)["project"] for line in self.good(
            "task", "list", "--project", "shop", "-o", "jsonl").splitlines()},
            {"shop"})
        self.bad(5, "name one", "alarm", "create", "hot", "--metric", "cpu",
                 "--above", "1", env=as_shop)
        self.bad(4, "has machines", "project", "delete", "shop")
        self.good("alarm", "delete", "warm", env=as_shop)
        self.good("net", "delete", "shopnet", env=as_shop)
        self.good("vm", "delete", "till", "--yes", env=as_shop)
        self.good("project", "set", "shop", "--description", "closed")
        self.good("project", "delete", "shop")
        self.good("user", "delete", "anna")
        self.good("role", "delete", "starter")
        self.bad(2, "what is to be changed", "user", "set", "anna")

    def test_40_console_on_a_terminal(self):
        self.good("start", "db")
        self.on_terminal(("console", "db"), (
            (None, rb"resident is up"), (b"a", rb"\[97\]"),
            (b"\x1d?", rb"q leave"), (b"\x1d\x1d", rb"\[29\]")))
        # What a dry run shows is what is there; "b" reaches nobody. Another
        # console's "c" comes after it.
        said = self.on_terminal(("console", "db", "--dry-run"), (
            (None, rb"not sent.*\[29\]"), (b"b", None),
            (b"\x1dp\x1d?", rb"q leave"), (None, lambda: D.call(
                "POST", "/v1/vms/db/console", b"c",
                {"Content-Type": "application/octet-stream"})),
            (None, rb"\[99\]")))
        self.assertNotIn(b"[98]", said)
        self.assertNotIn("[98]", self.good("console", "db", "--no-follow"))
        self.assertEqual(D.vm("db")["state"], "running")
        self.good("vm", "delete", "db", "--force", "--yes")

    def on_terminal(self, words, talk):
        """What is typed and then waited for, or done, in turn; all it said."""
        pid, tty = pty.fork()
        if pid == 0:
            os.execve(PROGRAMS["atoll"], ["atoll", *words], D.env)
        seen = said = b""

        def expect(pattern):
            nonlocal seen, said
            end = time.monotonic() + harness.PATIENCE
            while not re.search(pattern, seen, re.S):
                self.assertLess(time.monotonic(), end, seen)
                if select.select([tty], [], [], 1)[0]:
                    seen += os.read(tty, 65536)
            said += seen
            seen = b""

        try:
            for typed, awaited in talk:
                if typed:
                    os.write(tty, typed)
                if callable(awaited):
                    awaited()
                elif awaited:
                    expect(awaited)
            os.write(tty, b"\x1dq")
            self.assertEqual(
                os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        finally:
            os.close(tty)
        return said

    def test_45_completion(self):
        def complete(*words):
            script = ('source "$1"; shift; COMP_WORDS=("$@"); '
                      'COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; _atoll; '
                      'printf "%s\\n" "${COMPREPLY[@]}"')
            got = subprocess.run(
                ["bash", "-c", script, "bash",
                 harness.ROOT / "data/completion/atoll.bash",
                 PROGRAMS["atoll"], *words], env=D.env, capture_output=True,
                text=True, check=True, timeout=harness.PATIENCE)
            return got.stdout.split()

        self.good("vm", "create", "completed", *TINY)
        self.assertIn("vm", complete(""))
        self.assertEqual(complete("lau"), ["launch"])
        self.assertEqual(complete("vm", "cons"), ["console"])
        self.assertEqual(complete("stop", "comp"), ["completed"])
        self.assertEqual(complete("vm", "show", "comp"), ["completed"])
        self.assertEqual(complete("vm", "list", "--ta"), ["--tag"])
        self.assertEqual(complete("launch", "--eng"), ["--engine"])
        self.assertEqual(complete("task", "ca"), ["cancel"])
        self.good("net", "create", "wired", "--isolated")
        self.assertEqual(complete("net", "insp"), ["inspect"])
        self.assertEqual(complete("net", "delete", "wi"), ["wired"])
        self.assertEqual(complete("launch", "--net", "wi"), ["wired"])
        self.assertEqual(complete("quota", "set", "def"), ["default"])
        self.assertEqual(complete("host", "au"), ["audit"])
        self.assertEqual(complete("disk", "conv"), ["convert"])
        self.assertEqual(complete("image", "sh"), ["show"])
        self.assertEqual(complete("backup", "create", "comp"), ["completed"])
        self.assertEqual(complete("vm", "list", "--col"), ["--columns"])
        self.assertEqual(complete("vm", "list", "--project", "def"),
                         ["default"])
        self.assertEqual(complete("user", "grant", "x", "--role", "view"),
                         ["viewer"])
        self.assertEqual(complete("suspend", "comp"), ["completed"])
        self.assertEqual(complete("snapshot", "rev"), ["revert"])
        self.good("vm", "start", "completed")
        self.good("snapshot", "create", "completed", "early")
        self.assertEqual(complete("snapshot", "revert", "comp"),
                         ["completed"])
        self.assertEqual(complete("snapshot", "revert", "completed", "ea"),
                         ["early"])
        self.assertEqual(complete("snapshot", "revert", "--fo"), ["--force"])
        self.assertEqual(complete("-o", "js"), ["json", "jsonl"])
        self.assertEqual(complete("vm", "list", "--format=yam"), ["yaml"])
        self.assertEqual(complete("--remote", "unix:/x", "-o", "json", "vm",
                                  "susp"), ["suspend"])
        self.assertEqual(complete("vm", "list", "--state", "ru"), ["running"])
        self.assertEqual(complete("task", "list", "--state", "ru"),
                         ["running"])
        self.assertEqual(complete("vm", "list", "comp"), [])
        self.assertEqual(complete("cp", "comp"), ["completed:"])
        self.assertEqual(complete("disk", "info", "comp"), ["completed:vda"])
        self.assertEqual(complete("vm", "revert", "completed", "ea"),
                         ["early"])
        self.assertEqual(complete("help", "cod"), ["codes"])
        self.assertIn("1", complete("task", "show", ""))
        self.assertEqual(complete("role", "show", "view"), ["viewer"])
        names = D.work / "data/atoll/images/names"
        names.mkdir(parents=True, exist_ok=True)
        (names.parent / "bare").mkdir(exist_ok=True)
        (names / "bare:12").symlink_to(names.parent / "bare")
        # To bash "bare:1" is three words, of which it replaces the last.
        self.assertEqual(complete("launch", "bare:1"), ["12"])
        self.assertEqual(complete("vm", "create", "x", "--image", "ba"),
                         ["bare:12"])
        self.check_zsh()
        self.check_fish()
        (names / "bare:12").unlink()
        self.good("vm", "kill", "completed")
        self.good("net", "delete", "wired")
        self.good("vm", "delete", "completed", "--yes")

    def check_zsh(self):
        """The function with compadd as an echo, where there is a zsh."""
        if not shutil.which("zsh"):
            return
        script = ("compadd() { shift; print -l -- ${(P)1} }; _files() { }; "
                  "compdef() { }; compset() { }; words=(${@:2}); CURRENT=$#words; . $1")

        def complete(*words):
            got = subprocess.run(
                ["zsh", "-fc", script, "zsh",
                 harness.ROOT / "data/completion/_atoll", PROGRAMS["atoll"],
                 *words], env=D.env, capture_output=True, text=True,
                check=True, timeout=harness.PATIENCE)
            return got.stdout.split()

        self.assertIn("net", complete("n"))
        self.assertIn("completed", complete("stop", "c"))
        self.assertIn("wired", complete("net", "delete", "w"))
        self.assertIn("wired", complete("launch", "--net", "w"))
        self.assertIn("--memory", complete("launch", "--m"))
        self.assertIn("audit", complete("host", "a"))
        self.assertIn("completed", complete("backup", "create", "c"))
        self.assertIn("jsonl", complete("-o", "js"))
        self.assertIn("yaml", complete("vm", "list", "--format=y"))
        self.assertIn("suspend", complete("-o", "json", "vm", "s"))
        self.assertIn("bare:12", complete("launch", "bare:1"))
        self.assertEqual(complete("vm", "list", "c"), [])

    def check_fish(self):
        if not shutil.which("fish"):
            return
        bin_ = os.path.dirname(PROGRAMS["atoll"])

        def complete(line):
            got = subprocess.run(
                ["fish", "--no-config", "-c",
                 "set -x PATH $argv[1] $PATH; source $argv[2]; "
                 "complete -C $argv[3]", bin_,
                 harness.ROOT / "data/completion/atoll.fish", line],
                env=dict(D.env, HOME=str(D.work)), capture_output=True,
                text=True, check=True, timeout=harness.PATIENCE)
            return [x.split("\t")[0] for x in got.stdout.splitlines()]

        self.assertIn("net", complete("atoll n"))
        self.assertIn("completed", complete("atoll stop c"))
        self.assertIn("wired", complete("atoll net delete w"))
        self.assertIn("wired", complete("atoll launch --net w"))
        self.assertIn("audit", complete("atoll host a"))
        self.assertIn("completed", complete("atoll backup create c"))
        self.assertEqual(complete("atoll -o js"), ["json", "jsonl"])
        self.assertEqual(complete("atoll vm list --format=ya"),
                         ["--format=yaml"])
        self.assertEqual(complete("atoll -o json vm susp"), ["suspend"])
        self.assertEqual(complete("atoll launch bare:"), ["bare:12"])
        self.assertIn("/dev/null", complete("atoll vm create x --kernel "
                                            "/dev/nul"))

    def test_50_stack(self):
        file = D.work / "shop.yaml"
        (D.work / "kernel.elf").symlink_to(PROGRAMS["guest"])
        machine = ("  - &base\n    name: {0}\n    engine: bt\n"
                   "    memory: 32M\n    boot: {{kernel: kernel.elf}}\n"
                   "    nics: [{{type: user}}]\n"
                   "    devices: [debug-exit]\n")

        def write(*names, more=""):
            file.write_text("stack: shop\nmachines:\n" + "".join(
                machine.format(n).replace("&base", "") for n in names) + more)

        write("s-web", "s-app", "s-db")
        self.assertEqual(atoll("stack", "diff", file).stdout,
                         "+ s-web\n+ s-app\n+ s-db\n")
        out = self.good("stack", "apply", file)
        self.assertEqual(out.count("created"), 3)
        self.assertEqual(out.count("started"), 3)
        self.assertEqual(self.good("stack", "apply", file), "")
        self.assertEqual(self.good("stack", "diff", file), "")
        mac = D.vm("s-web")["spec"]["nics"][0]["mac"]
        write("s-web", "s-app", more="    cpus: 2\n")
        got = atoll("stack", "diff", file)
        self.assertEqual((got.returncode, got.stdout),
                         (1, "~ s-app cpus\n- s-db\n"))
        self.assertEqual(self.good("stack", "apply", file, "--prune"),
                         "changed s-app\ndeleted s-db\n")
        self.assertEqual(D.vm("s-web")["spec"]["nics"][0]["mac"], mac)
        # A machine that is somebody else's is left alone.
        self.good("vm", "create", "s-mine", *TINY)
        write("s-web", "s-app", "s-mine")
        self.bad(4, "already", "stack", "apply", file)
        self.assertEqual(self.good("stack", "delete", file, "--yes"),
                         "deleted s-app\ndeleted s-web\n")
        for text, words in (("", "empty"), ("a: [", "line"),
                            ("stack: x", "machines"),
                            ("stack: x\nmachines: []\ncolour: red",
                             "colour"),
                            ("stack: x\nmachines: [{cpus: 1}]", "name"),
                            ("stack: x\nmachines: &a [*a]", "too deep"),
                            ("stack: x\nstack: y", "twice"),
                            ("stack: x\nmachines: [{name: y, memory: lots}]",
                             "memory")):
            file.write_text(text)
            self.bad(2, words, "stack", "apply", file)
        file.write_text("stack: x\nmachines: [{name: s-odd, image: none:1}]")
        self.bad(3, "s-odd: there is no image none:1", "stack", "apply", file)
        self.bad(3, "No such file", "stack", "apply", "/nonexistent")

    def test_51_stack_with_disks(self):
        file, disk = D.work / "stored.yaml", D.work / "stored.qcow2"
        raw = D.work / "stored.raw"
        text = ("stack: stored\ndisks:\n  - {path: stored.qcow2, size: 8M}\n"
                "  - {path: stored.raw, size: 1M}\nmachines:\n"
                "  - name: st-db\n    engine: bt\n    memory: 32M\n"
                "    boot: {kernel: kernel.elf}\n"
                "    disks: [{path: stored.qcow2}, {path: stored.raw}]\n")
        (D.work / "kernel.elf").unlink(missing_ok=True)
        (D.work / "kernel.elf").symlink_to(PROGRAMS["guest"])
        file.write_text(text)
        self.assertIn("make the disk", self.good("stack", "apply", file,
                                                 "--dry-run"))
        self.assertFalse(disk.exists())
        got = atoll("stack", "diff", file)
        self.assertEqual((got.returncode, got.stdout),
                         (1, f"+ disk {disk}\n+ disk {raw}\n+ st-db\n"))
        # Somebody else's file is neither taken nor deleted.
        raw.write_bytes(b"mine")
        self.bad(4, "is there already", "stack", "apply", file)
        self.assertEqual(raw.read_bytes(), b"mine")
        self.assertFalse(disk.exists())
        raw.unlink()
        # Nor is one left of a machine that could not be defined.
        file.write_text(text.replace("memory: 32M", "memory: 1M"))
        self.bad(2, "memory_bytes", "stack", "apply", file)
        self.assertFalse(disk.exists() or raw.exists())
        file.write_text(text)
        self.assertEqual(self.good("stack", "apply", file),
                         f"created disk {disk}\ncreated disk {raw}\n"
                         "created st-db\nstarted st-db\n")
        self.assertEqual([d["format"] for d in D.vm("st-db")["spec"]["disks"]],
                         ["qcow2", "raw"])
        self.assertEqual(raw.stat().st_size, 1 << 20)
        self.assertEqual(self.good("stack", "apply", file), "")
        self.assertEqual(self.good("stack", "diff", file), "")
        self.assertEqual(self.good("stack", "delete", file, "--yes"),
                         f"deleted st-db\ndeleted disk {disk}\n"
                         f"deleted disk {raw}\n")
        self.assertFalse(disk.exists() or raw.exists())
        for old, new, words in (
                ("size: 8M", "size: much", "not a size"),
                (", size: 8M", "", "a size"), ("stored.qcow2, s", "x.raw, s",
                                               "no machine has"),
                ("stored.raw, s", "stored.qcow2, s", "twice"),
                ("8M}", "8M, format: vmdk}", "neither raw nor qcow2"),
                ("8M}", "8M, colour: red}", "colour")):
            file.write_text(text.replace(old, new, 1))
            self.bad(2, words, "stack", "apply", file)
        file.write_text(text)
        self.bad(2, "on the daemon's host", "stack", "apply", file,
                 "--remote", "https://127.0.0.1:1")

    def test_90_all(self):
        self.good("vm", "delete", "--all", "--force", "--yes")
        self.assertEqual(self.good("vm", "list", "--format", "name"), "")

    def test_80_disks(self):
        disk = D.work / "c.qcow2"
        self.good("disk", "create", disk, "16M")
        self.bad(3, "no machine", "disk", "info", "nobody:vda")
        self.good("vm", "create", "disky", *TINY, "--disk", disk)
        self.bad(4, "does not run", "disk", "snapshot", "disky:vda")
        self.good("disk", "throttle", "disky:vda", "--bytes-per-s", "8M")
        self.assertIn(f"{disk}, rate 8.0 MiB", self.good("vm", "show", "disky"))
        self.bad(3, "no such disk", "disk", "throttle", "disky:vdb", "--iops",
                 "1")
        self.bad(3, "no machine nobody", "disk", "throttle", "nobody:vda",
                 "--iops", "1")
        more = D.work / "more.raw"
        more.write_bytes(bytes(1 << 20))
        self.bad(2, "iops-burst=", "vm", "attach", "disky", "--disk",
                 f"{more},iop=1")
        self.bad(2, "iops=x", "vm", "attach", "disky", "--disk",
                 f"{more},iops=x")
        self.good("vm", "attach", "disky", "--disk",
                  f"{more},iops=5,rate=1M,rate-burst=2M")
        self.assertIn(f"{more}, iops 5, rate 1.0 MiB, rate-burst 2.0 MiB",
                      self.good("vm", "show", "disky"))
        self.bad(2, "no image", "vm", "set", "disky", "--image-disk",
                 "iops=5")
        self.bad(2, "none of iops=N", "vm", "set", "disky", "--image-disk",
                 "cache=none")
        self.good("vm", "detach", "disky", "vdb")
        self.good("vm", "start", "disky")
        self.good("disk", "snapshot", "disky:vda", "--name", "one", "--quiet")
        self.assertTrue((D.work / "c.one.qcow2").exists())
        self.good("disk", "resize", "disky:vda", "32M")
        self.good("disk", "throttle", "disky:vda", "--iops", "100")
        info = json.loads(self.good("disk", "info", "disky:vda"))
        self.assertEqual((info["bytes"], info["limits"]["iops"],
                          info["limits"]["bytes_per_s"]),
                         (32 << 20, 100, 8 << 20))
        self.bad(2, "no other file", "disk", "rebase", "disky:vda",
                 "--backing", disk)
        self.good("disk", "snapshot", "disky:vda", "--name", "two", "--quiet")
        self.good("disk", "rebase", "disky:vda", "--layer", "2", "--quiet")
        self.good("disk", "commit", "disky:vda", "--quiet")
        self.assertFalse((D.work / "c.one.qcow2").exists())
        self.good("disk", "backup", "disky:vda", "b.raw", "--quiet",
                  cwd=D.work)
        self.assertEqual((D.work / "b.raw").stat().st_size, 32 << 20)
        self.good("disk", "mirror", "disky:vda", D.work / "m.qcow2",
                  "--pivot", "--quiet")
        self.assertEqual(os.path.realpath(disk), str(D.work / "m.qcow2"))
        jobs = json.loads(self.good("disk", "jobs", "disky:vda"))
        self.assertEqual([j["kind"] for j in jobs],
                         ["snapshot", "snapshot", "rebase", "commit", "backup",
                          "mirror"])
        self.bad(3, "no job", "disk", "jobs", "disky:vda", "--job", "99",
                 "--cancel")
        self.good("vm", "kill", "disky")
        self.good("vm", "delete", "disky", "--yes")


def end_daemon():
    """That which was started on demand."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                ours = f"ATOLL_STATE_DIR={D.state}".encode() in f.read()
            with open(f"/proc/{pid}/comm", encoding="ascii") as f:
                if ours and f.read() == "atolld\n":
                    os.kill(pid, signal.SIGTERM)
        except OSError:
            continue


if __name__ == "__main__":
    try:
        unittest.main(argv=sys.argv[:1] + sys.argv[4:])
    finally:
        end_daemon()
        D.close()
