# SPDX-License-Identifier: Apache-2.0
"""What make install puts into a system, used from there: install.py BUILD
GUEST

Programs find each other, a new version takes over from the old one while
machines run, the units are sound, the one for the host's shutdown shuts
machines down, and each noun has its manual page and completion.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from datetime import datetime

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
from harness import wait_for  # noqa: E402

BUILD, GUEST = (os.path.abspath(p) for p in sys.argv[1:3])
WORK = pathlib.Path(tempfile.mkdtemp(prefix="atoll-install-"))


def install(name):
    """A tree of its own; where its prefix is."""
    root = WORK / name
    subprocess.run(["meson", "install", "--no-rebuild", "-C", BUILD,
                    "--destdir", str(root)], check=True,
                   stdout=subprocess.DEVNULL)
    return next(root.rglob("bin/atolld")).parent.parent


def programs(prefix):
    return {"atolld": str(prefix / "bin/atolld"),
            "atoll": str(prefix / "bin/atoll"), "guest": GUEST}


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.prefix = install("first")
        cls.d = harness.Daemon(programs(cls.prefix))

    @classmethod
    def tearDownClass(cls):
        cls.d.close()

    def atoll(self, *args):
        got = subprocess.run([self.d.programs["atoll"], *args], check=False,
                             env=self.d.env, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, timeout=harness.PATIENCE)
        self.assertEqual(got.returncode, 0, got.stderr)
        return got.stdout

    def test_1_files(self):
        for path in ("libexec/atoll/atoll-vm", "libexec/atoll/atoll-hold",
                     "libexec/atoll/atoll-net", "libexec/atoll/atoll-helper",
                     "lib/systemd/system/atolld.socket",
                     "lib/systemd/user/atolld.socket",
                     "lib/sysusers.d/atoll.conf"):
            self.assertTrue((self.prefix / path).is_file(), path)

    def test_2_pages_and_completions(self):
        man = self.prefix / "share/man/man1"
        help_ = self.atoll("--help")
        verbs = re.findall(r"(?m)^  ([a-z]+) ", help_[:help_.index("Topics")])
        self.assertGreater(len(verbs), 30)
        for verb in verbs:
            if verb not in ("help",):
                self.assertTrue((man / f"atoll-{verb}.1").exists(), verb)
        for program in ("atolld", "atoll-vm", "atoll-net", "atoll-hold",
                        "atoll-helper"):
            self.assertTrue((self.prefix / f"share/man/man8/{program}.8")
                            .is_file(), program)
        share = self.prefix / "share"
        for path in ("bash-completion/completions/atoll",
                     "zsh/site-functions/_atoll",
                     "fish/vendor_completions.d/atoll.fish"):
            text = (share / path).read_text()
            for noun in ("vm", "image", "disk", "snapshot", "backup", "net",
                         "host", "project", "quota", "user", "role", "token",
                         "task", "event", "metrics"):
                self.assertRegex(text, rf"\b{noun}\b", (path, noun))

    def test_3_units(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze")
        units = sorted((self.prefix / "lib/systemd").rglob("*.*"))
        self.assertEqual(len(units), 5)
        for unit in units:
            # As installed, programs are below the scratch folder.
            text = unit.read_text()
            for path in re.findall(r"(?m)^Exec\w+=(/\S+/atoll\w*)", text):
                self.assertTrue(
                    (self.prefix / "bin" / os.path.basename(path)).is_file())
                text = text.replace(path, "/bin/true")
            folder = WORK / unit.parent.name
            folder.mkdir(exist_ok=True)
            (folder / unit.name).write_text(text)
        for kind in ("system", "user"):
            got = subprocess.run(
                ["systemd-analyze", *(["--user"] if kind == "user" else []),
                 "--man=no", "--generators=no", "verify",
                 *sorted(map(str, (WORK / kind).iterdir()))],
                capture_output=True, text=True, check=False,
                env=dict(os.environ, SYSTEMD_UNIT_PATH=f"{WORK / kind}:"))
            said = [line for line in got.stderr.splitlines()
                    if "atoll" in line]
            self.assertEqual(said, [], got.stderr)

    def test_4_a_new_version(self):
        """The old one's files are gone while its machines run."""
        d = self.d.start()
        d.define("old")
        d.do("POST", "/v1/vms/old/start")
        d.console("old", b"resident is up")
        d.call("POST", "/v1/vms/old/console", "c" * 14)  # 28,000 lines
        pid, since = (d.vm("old")[key] for key in ("pid", "since"))
        d.kill(harness.signal.SIGTERM)
        second = install("second")
        shutil.rmtree(self.prefix.parent)
        type(self).prefix = second
        d.programs.update(programs(second))
        d.start()
        wait_for(lambda: d.vm("old")["state"] == "running")
        self.assertEqual(d.vm("old")["pid"], pid)
        # Seconds, as its holder counts them.
        times = [datetime.fromisoformat(t[:19]) for t in
                 (since, d.vm("old")["since"])]
        self.assertLessEqual(abs((times[1] - times[0]).total_seconds()), 1)
        d.define("new")
        d.do("POST", "/v1/vms/new/start")
        d.console("new", b"resident is up")
        # No gap: all lines are there, one after the other.
        wait_for(lambda: d.shown("old", b"[99]") >= 14)
        numbers = [int(n) for n in re.findall(
            rb"line (\d+) of", d.call("GET", "/v1/vms/old/console").body)]
        self.assertEqual(numbers, list(range(2000)) * 14)

    def test_5_shutdown_of_the_host(self):
        unit = (self.prefix / "lib/systemd/system/atoll-machines.service")
        stop = re.search(r"(?m)^ExecStop=\S+/atoll (.*)$", unit.read_text())
        d = self.d
        d.define("kept", autostart={"enabled": True, "order": 1})
        d.do("POST", "/v1/vms/kept/start")
        d.define("deaf", stop_timeout_s=1)
        d.do("POST", "/v1/vms/deaf/start")
        for name in ("kept", "deaf"):
            d.console(name, b"resident is up")
        d.call("POST", "/v1/vms/deaf/console", "d")
        d.console("deaf", b"[100]")
        args = stop[1].replace("--timeout 60", "--timeout 20").split()
        self.atoll(*args)
        states = {v["name"]: v for v in d.call("GET", "/v1/vms").json["vms"]}
        self.assertEqual({v["state"] for v in states.values()}, {"stopped"})
        causes = {n: v["last_end"]["cause"] for n, v in states.items()}
        self.assertEqual(causes, {"old": "power-off", "new": "power-off",
                                  "kept": "power-off", "deaf": "quit"})
        self.assertEqual(d.processes(), {})


if __name__ == "__main__":
    try:
        result = unittest.main(argv=["install"], exit=False).result
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(not result.wasSuccessful())
