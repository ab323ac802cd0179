#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll's command line with a stand-in for the machine (fake_vm.py): options,
files, exit codes, the console and its menu, whatever ends it.

Usage: cli.py ATOLL ATOLL_NET
"""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

ATOLL, ATOLL_NET = (os.path.abspath(p) for p in sys.argv[1:3])
HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path(tempfile.mkdtemp(prefix="atoll-cli-"))
# abort() in the first process of a namespace ends as a fault.
ABORTED = rb"signal (6|11) "
KERNEL = WORK / "kernel"
PATIENCE = 120  # seconds, on a machine with much else to do
# In a sanitizer build: faults end the process as without it, and leaks are not
# looked for where the system call filter forbids that.
ENV = dict(os.environ, ATOLL_LIBEXECDIR=str(WORK), HOME=str(WORK),
           XDG_DATA_HOME=str(WORK / "data"), ATOLL_STATE_DIR=str(WORK / "state"),
           ATOLL_RUNTIME_DIR=str(WORK / "run"),
           ASAN_OPTIONS="handle_segv=0:detect_leaks=0")
ESCAPE = b"\x1d"


def set_up():
    KERNEL.write_bytes(b"not really a kernel")
    (WORK / "atoll-vm").symlink_to(HERE / "fake_vm.py")
    (WORK / "atoll-net").symlink_to(ATOLL_NET)


def atoll(*args, stdin=subprocess.DEVNULL, data=None, timeout=PATIENCE):
    kind = {"input": data} if data is not None else {"stdin": stdin}
    return subprocess.run([ATOLL, *map(str, args)], env=ENV, timeout=timeout,
                          capture_output=True, check=False, **kind)


def run(acts, *options, **how):
    return atoll("run", "--net", "none", "--kernel", KERNEL, "--append", acts,
                 *options, **how)


class Errors(unittest.TestCase):
    def refused(self, code, words, *args, hint=None):
        got = atoll(*args)
        text = got.stderr.decode()
        self.assertEqual(got.returncode, code, text)
        self.assertTrue(text.startswith("error: "), text)
        self.assertIn(words, text)
        self.assertNotIn(": : ", text)
        if hint:
            self.assertIn("\nhint: ", text)
            self.assertIn(hint, text)

    def test_usage(self):
        run_it = ("run", "--kernel", KERNEL)
        cases = [
            (("rnu",), "no verb rnu", "run"),
            (("run",), "nothing to run", "image build"),
            ((*run_it, "--kernl", "x"), "no option --kernl", "--kernel"),
            ((*run_it, "-m", "1G"), "no option --m", None),
            ((*run_it, "--cpus"), "--cpus needs a value", None),
            ((*run_it, "--cpus", "0"), "--cpus", None),
            ((*run_it, "--cpus", "65"), "--cpus", None),
            ((*run_it, "--cpus", "two"), "--cpus", None),
            ((*run_it, "--memory", "512"), "at least", "512M"),
            ((*run_it, "--memory", "16M"), "at least 32 MiB", None),
            ((*run_it, "--memory", "much"), "--memory", None),
            ((*run_it, "--engine", "steam"), "no engine steam", "interp"),
            ((*run_it, "--disk", ""), "needs a file", None),
            ((*run_it, "--disk", "f,fmt=raw"), "no option fmt=raw",
             "readonly"),
            ((*run_it, "--disk", "f,rate-burst=0"), "no rate", None),
            ((*run_it, "--disk", "f.vmdk"), "no machine can use a vmdk disk",
             "atoll disk convert f.vmdk"),
            ((*run_it, "--disk", "f,format=cow"), "cow disk", None),
            ((*run_it, "--disk", "f,serial=" + "x" * 21), "20", None),
            ((*run_it, "--net", "tap"), "not user", None),
            ((*run_it, "--net", "tap:"), "not user", None),
            ((*run_it, "--net", "tap:" + "x" * 20), "not the name", None),
            ((*run_it, "--net", "none", "--publish", "1:1"),
             "--publish needs", None),
            ((*run_it, "--publish", "99999:1"), "--publish", "2222:22"),
            ((*run_it, "--serial", "file:"), "not stdio", None),
            ((*run_it, "--serial", "stdio", "--serial", "stdio"),
             "only one", None),
            ((*run_it, "--timeout", "soon"), "--timeout", None),
            ((*run_it, "--report", "out.json"), "json:FILE",
             "json:out.json"),
            ((*run_it, "--device", "toaster"), "no device toaster", None),
            ((*run_it, "--gdb", "nowhere"), "--gdb", None),
            ((*run_it, "--name", "a b"), "--name", None),
            ((*run_it, "--keep"), "--keep needs an image", None),
            ((*run_it, "--keep=yes"), "takes no value", None),
            ((*run_it, "--mtu", "20"), "--mtu", None),
            (("run", "one", "two"), "one image at a time", None),
            (("image", "bild"), "no verb bild", "build"),
            (("image", "build", "plan9:4"), "no recipe", "debian:12"),
            (("image", "build", "--size", "1", "debian:12"), "--size", None),
            (("help", "everything"), "no verb or topic", None),
        ]
        for args, words, hint in cases:
            with self.subTest(args=args[1:]):
                self.refused(2, words, *args, hint=hint)

    def test_files(self):
        empty = WORK / "empty"
        empty.touch()
        with_disk = ("run", "--net", "none", "--kernel", KERNEL, "--disk")
        cases = [
            (("run", "--kernel", "/no/such"), "No such file"),
            (("run", "--kernel", WORK), "is a directory"),
            (("run", "--kernel", "/dev/null"), "is a device"),
            (("run", "--kernel", empty), "is empty"),
            (("run", "--kernel", KERNEL, "--initrd", "/no/such"), "initrd"),
            (("run", "--kernel", KERNEL, "--module", "/no/such"), "module"),
            ((*with_disk, "/no/such"), "No such file"),
            ((*with_disk, WORK), "is a directory"),
            ((*with_disk, f"{WORK},readonly"), "is a directory"),
            ((*with_disk, "/dev/zero"), "is a device"),
            (("run", "--kernel", KERNEL, "--report", "json:/no/such/r"),
             "cannot open the report"),
            (("run", "--kernel", KERNEL, "--serial", "file:/no/such/s"),
             "cannot open the serial log"),
            (("run", "no-such-image"), "no image no-such-image"),
        ]
        for args, words in cases:
            with self.subTest(args=args):
                self.refused(1, words, *args)
        self.refused(3, "no image", "image", "delete", "no-such-image")
        self.refused(3, "no image", "image", "inspect", "../../etc")

    def test_unreadable_disk(self):
        if os.geteuid() == 0:
            self.skipTest("root may read everything")
        disk = WORK / "secret"
        disk.write_bytes(bytes(512))
        disk.chmod(0)
        self.refused(1, "Permission denied", "run", "--kernel", KERNEL,
                     "--disk", disk)

    def test_locked_disk(self):
        disk = WORK / "locked"
        disk.write_bytes(bytes(4096))
        with open(disk, "r+b") as holder:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            fcntl.fcntl(holder, fcntl.F_OFD_SETLK, lock)
            self.refused(1, "in use by another process", "run", "--kernel",
                         KERNEL, "--disk", disk, hint="readonly")
        self.assertEqual(run("say=fine", "--disk", disk).returncode, 0)

    def test_missing_programs(self):
        lonely = WORK / "lonely"
        lonely.mkdir()
        copy = lonely / "atoll"
        copy.write_bytes(pathlib.Path(ATOLL).read_bytes())
        copy.chmod(0o755)
        got = subprocess.run(
            [copy, "run", "--net", "none", "--kernel", KERNEL],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
            env={"HOME": str(WORK)})
        if b"atoll-vm is missing" not in got.stderr:
            self.skipTest("Atoll is installed on this machine")
        self.assertEqual(got.returncode, 1)

    def test_port_in_use(self):
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        self.refused(1, "in use", "run", "--kernel", KERNEL, "--publish",
                     f"{port}:22")
        self.refused(1, "cannot listen", "run", "--kernel", KERNEL, "--net",
                     "none", "--gdb", f":{port}")
        taken.close()


class Help(unittest.TestCase):
    def test_texts(self):
        for args in (("--help",), ("help",), ("help", "codes"),
                     ("help", "console"), ("help", "engines"),
                     ("help", "run"), ("run", "--help"),
                     ("image", "--help"), ("image", "build", "--help"),
                     ("help", "image"), ("help", "host")):
            got = atoll(*args)
            self.assertEqual(got.returncode, 0, args)
            self.assertGreater(len(got.stdout), 40, args)
            for line in got.stdout.decode().splitlines():
                self.assertLessEqual(len(line), 80, args)
        self.assertRegex(atoll("--version").stdout.decode(),
                         r"^atoll \d+\.\d+")
        self.assertEqual(atoll().returncode, 2)

    def test_manual_has_all_options(self):
        for page, args in (("atoll-run.1", ("run", "--help")),
                           ("atoll-image.1", ("image", "build", "--help"))):
            manual = (HERE / "../../docs/man" / page).read_text()
            text = atoll(*args).stdout.decode()
            for name in re.findall(r"^  --([a-z-]+)", text, re.M):
                self.assertIn(f"Fl -{name}", manual)


class Ends(unittest.TestCase):
    def test_codes(self):
        self.assertEqual(run("exit=0:power-off").returncode, 0)
        got = run("exit=7:guest-exit")
        self.assertEqual((got.returncode, got.stderr), (7, b""))
        for code in (16, 17, 18, 19):
            got = run(f"exit={code}:cause-{code}")
            self.assertEqual(got.returncode, code)
            self.assertIn(f"error: the guest ended: cause-{code}\nhint: ",
                          got.stderr.decode())

    def test_worker_crash(self):
        got = run("say=last-words stderr=oops crash")
        self.assertEqual(got.returncode, 20)
        self.assertEqual(got.stdout, b"last-words\r\n")
        self.assertIn(b"oops", got.stderr)
        self.assertRegex(got.stderr, ABORTED)

    def test_worker_that_hangs(self):
        start = time.monotonic()
        got = run("hang", "--timeout", "1")
        self.assertEqual(got.returncode, 18)
        self.assertLess(time.monotonic() - start, PATIENCE)

    def test_signal(self):
        child = subprocess.Popen(
            [ATOLL, "run", "--net", "none", "--kernel", KERNEL, "--append",
             "say=up requests=9"], env=ENV, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(child.stdout.readline(), b"up\r\n")
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=PATIENCE)
        self.assertEqual(child.returncode, 19)
        self.assertIn(b'"op": "quit"', out)
        self.assertIn(b"error: ", err)


class Bytes(unittest.TestCase):
    def test_input_and_its_end(self):
        got = run("echo=1000000", data=b"typed\x1dq\x03\x04 text")
        self.assertEqual(got.returncode, 0)
        self.assertEqual(got.stdout, b"typed\x1dq\x03\x04 text<end>")

    def test_much_input(self):
        blob = os.urandom(1 << 20)
        got = run(f"echo={len(blob)}", data=blob)
        self.assertEqual(got.stdout, blob)

    def test_input_from_a_file(self):
        with open(KERNEL, "rb") as file:
            got = run("echo=1000", stdin=file)
        self.assertEqual(got.stdout, KERNEL.read_bytes() + b"<end>")

    def test_fast_guest_slow_reader(self):
        child = subprocess.Popen(
            [ATOLL, "run", "--net", "none", "--kernel", KERNEL, "--append",
             "lines=60000"], env=ENV, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE)
        got = b""
        time.sleep(1)
        while piece := child.stdout.read1(8192):
            got += piece
            if len(got) < 200000:
                time.sleep(0.02)
        self.assertEqual(child.wait(PATIENCE), 0)
        child.stdout.close()
        self.assertEqual(got, b"".join(
            b"line %d of a fast guest\r\n" % i for i in range(60000)))

    def test_reader_that_leaves(self):
        child = subprocess.Popen(
            [ATOLL, "run", "--net", "none", "--kernel", KERNEL, "--append",
             "lines=60000 exit=7:guest-exit"], env=ENV,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        child.stdout.read1(100)
        child.stdout.close()
        self.assertEqual(child.wait(PATIENCE), 7)

    def test_serial_to_file(self):
        log = WORK / "serial.log"
        log.write_bytes(b"old contents that are longer than the new ones")
        got = run("say=kept", "--serial", f"file:{log}")
        self.assertEqual((got.returncode, got.stdout), (0, b""))
        self.assertEqual(log.read_bytes(), b"kept\r\n")


class MachineFile(unittest.TestCase):
    def machine(self, *options):
        report = WORK / "report.json"
        got = run("say=hello", "--report", f"json:{report}", *options)
        self.assertEqual(got.returncode, 0, got.stderr)
        return json.loads(report.read_text())["machine"]

    def test_contents(self):
        disk = WORK / "disk"
        disk.write_bytes(bytes(4096))
        m = self.machine(
            "--cpus", "3", "--memory", "1.5G", "--engine", "bt,a=1",
            "--code-cache", "64M", "--perf-map", "--name", "alpha",
            "--disk", f"{disk},serial=abc", "--initrd", KERNEL, "--device",
            "debug-exit", "--timeout", "1.5m", "--mtu", "9000", "--module",
            KERNEL, "--console", "virtio")
        self.assertEqual(m["cpus"], 3)
        self.assertEqual(m["memory_bytes"], 3 << 29)
        self.assertEqual(m["engine"], "bt")
        self.assertEqual(m["engine_options"], "a=1,code-cache=64M,perf-map")
        self.assertEqual(m["name"], "alpha")
        self.assertEqual(m["timeout_s"], 90)
        self.assertEqual(m["devices"], ["debug-exit"])
        self.assertTrue(m["virtio_console"])
        (only,) = m["disks"]
        self.assertEqual((only["path"], only["format"], only["serial"],
                          only["readonly"]), (str(disk), "raw", "abc", False))
        self.assertEqual(len(m["boot"]["modules"]), 1)
        self.assertIn("initrd", m["boot"])
        fds = [m["boot"]["kernel"], m["boot"]["initrd"], only["fd"],
               m["report"], *m["boot"]["modules"], *m["serials"][0].values()]
        self.assertEqual(len(set(fds)), len(fds))

    def test_chain(self):
        """Every file below an image comes along, in order, with its format."""
        base, middle, top, data = (WORK / f"chain-{n}" for n in (
            "base.raw", "middle.qcow2", "top.qcow2", "data.raw"))
        for words in ((base, "4M"),
                      (middle, "--backing", base.name,
                       "--backing-format", "raw"),
                      (top, "--backing", middle, "--backing-format", "qcow2",
                       "--data-file", data.name)):
            got = atoll("disk", "create", *words)
            self.assertEqual(got.returncode, 0, got.stderr)
        (disk,) = self.machine("--disk", f"{top},iops=300,iops-burst=900,"
                               "rate=8M")["disks"]
        self.assertEqual([(f["path"], f["format"]) for f in disk["chain"]],
                         [(str(data), "raw"), (str(middle), "qcow2"),
                          (str(base), "raw")])
        self.assertEqual((disk["format"], disk["iops"], disk["iops_burst"],
                          disk["bytes_per_s"], disk["bytes_burst"]),
                         ("qcow2", 300, 900, 8 << 20, 0))
        fds = [disk["fd"], *(f["fd"] for f in disk["chain"])]
        self.assertEqual(len(set(fds)), len(fds))
        base.unlink()
        got = run("say=hello", "--disk", f"{top},format=qcow2")
        self.assertNotEqual(got.returncode, 0)
        self.assertIn(str(middle), got.stderr.decode())

    def test_export(self):
        """A disk that any NBD client reads, until the last one has left."""
        disk, at, copy = (WORK / f"export{n}" for n in (".raw", ".sock",
                                                        ".copy"))
        disk.write_bytes(os.urandom(1 << 20))
        for words, code in (((disk,), 2), ((disk, "--socket", at, "--name",
                                            "a b"), 2),
                            ((WORK / "none.raw", "--socket", at), 3)):
            self.assertEqual(atoll("disk", "export", *words).returncode, code)
        if not shutil.which("qemu-img"):
            self.skipTest("no qemu-img")
        with subprocess.Popen([ATOLL, "disk", "export", disk, "--socket", at,
                               "--name", "d", "--once"],
                              stdout=subprocess.PIPE, text=True) as server:
            self.assertEqual(server.stdout.readline(),
                             f"nbd+unix:///d?socket={at}\n")
            self.assertEqual(at.stat().st_mode & 0o777, 0o600)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw",
                            f"nbd:unix:{at}:exportname=d", copy], check=True,
                           timeout=PATIENCE)
            self.assertEqual(server.wait(PATIENCE), 0)
        self.assertEqual(copy.read_bytes(), disk.read_bytes())
        self.assertFalse(at.exists())

    def test_user_network(self):
        report = WORK / "net.json"
        got = atoll("run", "--kernel", KERNEL, "--append", "say=hi",
                    "--report", f"json:{report}")
        self.assertEqual(got.returncode, 0, got.stderr)
        (nic,) = json.loads(report.read_text())["machine"]["nics"]
        self.assertEqual(nic["type"], "socket")
        self.assertRegex(nic["mac"], r"^[0-9a-f][26ae](:[0-9a-f]{2}){5}$")


class Terminal(unittest.TestCase):
    """atoll on a pseudo-terminal."""

    tty = -1

    def start(self, acts, *options):
        self.clean()
        self.pid, self.tty = pty.fork()
        if self.pid == 0:
            try:
                os.execve(ATOLL, [ATOLL, "run", "--net", "none", "--kernel",
                                  str(KERNEL), "--append", acts, *options],
                          ENV)
            finally:
                os._exit(127)
        self.seen = b""
        self.status = None
        self.addCleanup(self.clean)

    def clean(self):
        if self.tty < 0:
            return
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.tty)
        self.tty = -1

    def expect(self, pattern):
        end = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            self.assertGreater(left, 0, f"no {pattern} in {self.seen}")
            if select.select([self.tty], [], [], left)[0]:
                try:
                    self.seen += os.read(self.tty, 65536)
                except OSError:
                    self.fail(f"ended without {pattern}: {self.seen}")
        self.seen = self.seen[match.end():]
        return match

    def type(self, data):
        os.write(self.tty, data)

    def is_raw(self):
        return not termios.tcgetattr(self.tty)[3] & termios.ICANON

    def wait_raw(self, raw):
        end = time.monotonic() + PATIENCE
        while self.is_raw() != raw and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(self.is_raw(), raw)

    def end(self):
        """The exit code; the terminal must be as it was."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if select.select([self.tty], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.tty, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                self.wait_raw(False)
                return os.waitstatus_to_exitcode(status)
        self.fail(f"it does not end: {self.seen}")

    def test_raw_and_back(self):
        self.start("say=ready echo=3 say=done")
        self.expect(rb"ready\r\n")
        self.wait_raw(True)
        self.type(b"\x03\x1a\x0d")
        self.expect(rb"\x03\x1a\x0ddone")
        self.assertEqual(self.end(), 0)

    def test_menu_requests(self):
        self.start("say=ready requests=9")
        self.expect(rb"ready")
        self.type(ESCAPE + b"?")
        self.expect(rb"q quit.*p power button.*r reset.*s pause")
        self.expect(rb"power button: the guest shuts down")
        for key, op in ((b"r", b"reset"), (b"s", b"pause"),
                        (b"s", b"resume")):
            self.type(ESCAPE + key)
            self.expect(rb'"op": "' + op)
        self.type(ESCAPE + b"x")
        self.expect(rb"back")
        self.type(ESCAPE + b"p")
        self.expect(rb'"op": "powerdown"')
        self.assertEqual(self.end(), 0)

    def test_menu_quit(self):
        self.start("say=ready requests=9")
        self.expect(rb"ready")
        self.type(ESCAPE)
        self.type(b"q")
        self.assertEqual(self.end(), 19)

    def test_quit_twice_ends_a_hung_worker(self):
        self.start("say=ready hang")
        self.expect(rb"ready")
        self.type(ESCAPE + b"q" + ESCAPE + b"q")
        self.assertEqual(self.end(), 19)

    def test_escape_to_the_guest(self):
        self.start("say=ready echo=2 say=done")
        self.expect(rb"ready\r\n")
        self.type(ESCAPE + ESCAPE + b"a")
        self.expect(rb"\x1dadone")
        self.assertEqual(self.end(), 0)

    def test_window_size(self):
        self.start("say=ready requests=9")
        self.expect(rb"ready")
        fcntl.ioctl(self.tty, termios.TIOCSWINSZ,
                    struct.pack("HHHH", 33, 111, 0, 0))
        self.expect(rb'"op": "resize", "columns": 111, "rows": 33')
        self.type(ESCAPE + b"q")
        self.assertEqual(self.end(), 19)

    def test_restored_after_signals(self):
        for sig, code in ((signal.SIGTERM, 19), (signal.SIGHUP, 19),
                          (signal.SIGKILL, -signal.SIGKILL),
                          (signal.SIGSEGV, -signal.SIGSEGV)):
            with self.subTest(signal=sig):
                self.start("say=ready requests=9")
                self.expect(rb"ready")
                self.wait_raw(True)
                os.kill(self.pid, sig)
                self.assertEqual(self.end(), code)

    def test_restored_after_worker_crash(self):
        self.start("say=ready echo=1 crash")
        self.expect(rb"ready")
        self.wait_raw(True)
        self.type(b"x")
        self.expect(ABORTED)
        self.assertEqual(self.end(), 20)

    def test_messages_begin_at_the_left(self):
        self.start("stderr=one stderr=two echo=1")
        self.expect(rb"one\r\ntwo\r\n")
        self.type(b"x")
        self.assertEqual(self.end(), 0)

    def test_stop_and_continue(self):
        self.start("say=ready echo=1 say=done")
        self.expect(rb"ready")
        self.wait_raw(True)
        os.kill(self.pid, signal.SIGTSTP)
        # Once it stands: what tells it to go on before that is lost.
        status = os.waitpid(self.pid, os.WUNTRACED)[1]
        self.assertTrue(os.WIFSTOPPED(status), status)
        self.wait_raw(False)
        os.kill(self.pid, signal.SIGCONT)
        self.wait_raw(True)
        self.type(b"x")
        self.expect(rb"xdone")
        self.assertEqual(self.end(), 0)


class Images(unittest.TestCase):
    def make(self, name, ident):
        store = WORK / "data/atoll/images"
        folder = store / ident
        (store / "names").mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        (folder / "vmlinuz").write_bytes(b"kernel")
        (folder / "initrd").write_bytes(b"initrd")
        with open(folder / "disk.raw", "wb") as disk:
            disk.write(b"pristine")
            disk.truncate(1 << 30)
            disk.seek(1 << 29)
            disk.write(b"middle")
        (folder / "manifest.json").write_text(json.dumps(
            {"id": ident, "cmdline": "say=from-image", "packages": [],
             "kernel_version": "6.1", "files": {
                 "vmlinuz": {"bytes": 6}, "initrd": {"bytes": 6},
                 "disk.raw": {"bytes": 1 << 30}}}))
        (store / "names" / name).symlink_to(f"../{ident}")
        return folder

    def test_life(self):
        ident = "0123456789abcdef" * 4
        folder = self.make("tiny:1", ident)
        self.assertIn("tiny:1", atoll("image", "list").stdout.decode())
        shown = json.loads(atoll("image", "inspect", "tiny:1").stdout)
        self.assertEqual(shown["id"], ident)

        got = atoll("run", "--net", "none", "tiny:1")
        self.assertEqual(got.returncode, 0, got.stderr)
        self.assertEqual(got.stdout, b"from-image\r\n")
        self.assertEqual(list((WORK / "data/atoll/disks").iterdir()), [])
        got = atoll("run", "--net", "none", ident[:8], "--keep", "--full")
        self.assertEqual(got.returncode, 0, got.stderr)
        (kept,) = (WORK / "data/atoll/disks").iterdir()
        self.assertLess(kept.stat().st_blocks, 1000)
        with open(kept, "rb") as disk:
            self.assertEqual(disk.read(8), b"pristine")
            disk.seek(1 << 29)
            self.assertEqual(disk.read(6), b"middle")
        self.assertEqual(kept.stat().st_size, 1 << 30)

        kept.unlink()
        got = atoll("run", "--net", "none", "tiny:1", "--keep")
        self.assertEqual(got.returncode, 0, got.stderr)
        (clone,) = (WORK / "data/atoll/disks").iterdir()
        self.assertIn(str(folder / "disk.raw").encode(), clone.read_bytes())
        self.assertEqual(atoll("image", "delete", "tiny:1").returncode, 4)
        clone.unlink()

        for name in ("vmlinuz", "initrd", "disk.raw"):
            whole = (folder / name).read_bytes()[:6]
            size = (folder / name).stat().st_size
            os.truncate(folder / name, 5)
            got = atoll("run", "--net", "none", "tiny:1")
            self.assertEqual(got.returncode, 1)
            self.assertIn(f"damaged: {name} has 5 bytes, not {size}",
                          got.stderr.decode())
            (folder / name).write_bytes(whole)
            os.truncate(folder / name, size)
        (folder / "initrd").rename(folder / "away")
        got = atoll("run", "--net", "none", "tiny:1")
        self.assertIn(b"damaged: initrd: No such file", got.stderr)
        (folder / "away").rename(folder / "initrd")
        self.assertEqual(
            atoll("run", "--net", "none", "tiny:1").returncode, 0)

        (folder / "manifest.json").write_text("{")
        got = atoll("run", "tiny:1")
        self.assertEqual(got.returncode, 1)
        self.assertIn(b"damaged", got.stderr)
        self.assertEqual(atoll("image", "delete", "tiny:1").returncode, 0)
        self.assertFalse(folder.exists())
        self.assertNotIn("tiny:1", atoll("image", "list").stdout.decode())


if __name__ == "__main__":
    set_up()
    try:
        unittest.main(argv=sys.argv[:1] + sys.argv[3:])
    finally:
        subprocess.run(["rm", "-rf", WORK], check=False)
