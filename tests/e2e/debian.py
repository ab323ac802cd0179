#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian, as a person runs it: built when absent, booted, used, powered off.

Usage: debian.py ATOLL DATA-FOLDER ENGINE CPUS [report|shell|apt]...

  report  standard input is no terminal: the guest says who it is and ends
  shell   on a terminal: a prompt, disks, the network, poweroff
  apt     in the shell also: apt-get update
"""
import fcntl
import hashlib
import json
import os
import pathlib
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time

ATOLL, DATA, ENGINE, CPUS = sys.argv[1:5]
PARTS = sys.argv[5:]
BOOT_S = 400
PROMPT = rb"root@[\w-]+:~# "
ENV = dict(os.environ, XDG_DATA_HOME=DATA, TERM="xterm")


def need_image():
    os.makedirs(DATA, exist_ok=True)
    with open(pathlib.Path(DATA) / "test.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        have = subprocess.run([ATOLL, "image", "inspect", "debian:12"],
                              env=ENV, capture_output=True, check=False)
        if have.returncode:
            start = time.monotonic()
            subprocess.run([ATOLL, "image", "build", "debian:12"], env=ENV,
                           check=True)
            print(f"image built in {time.monotonic() - start:.0f} s")


def options(*more):
    return [ATOLL, "run", "--engine", ENGINE, "--cpus", CPUS, *more,
            "debian:12"]


def report():
    figures = pathlib.Path(DATA) / f"report-{ENGINE}-{CPUS}.json"
    got = subprocess.run(
        options("--timeout", str(BOOT_S), "--report", f"json:{figures}"),
        env=ENV, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = got.stdout.decode(errors="replace")
    assert got.returncode == 0, (got.returncode, text[-3000:], got.stderr)
    for words in (r"guest: Debian GNU/Linux 12 .*, Linux 6\.1",
                  rf"cpus: {CPUS} x ", r"memory: 4\d{5} kB",
                  r"disk: vda, 4096 MiB", r"network: \w+ 10\.0\.2\.15/24",
                  r"gateway: 10\.0\.2\.2"):
        match = re.search(words, text)
        assert match, (words, text[-3000:])
        print(match.group())
    print({k: v for k, v in json.loads(figures.read_text()).items()
           if k in ("engine", "run_ms", "user_s", "instructions",
                    "first_output_ms", "overhead_bytes")})


class Console:
    def __init__(self, args):
        self.pid, self.tty = pty.fork()
        if self.pid == 0:
            try:
                os.execve(args[0], args, ENV)
            finally:
                os._exit(127)
        self.seen = b""

    def expect(self, pattern, timeout):
        end = time.monotonic() + timeout
        while not (match := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.tty], [], [], left)[0]:
                os.write(self.tty, b"\x1dq")
                raise AssertionError(f"no {pattern}: {self.seen[-3000:]}")
            try:
                self.seen += os.read(self.tty, 65536)
            except OSError as gone:
                raise AssertionError(
                    f"ended, no {pattern}: {self.seen[-3000:]}") from gone
        self.seen = self.seen[match.end():]
        return match

    def command(self, line, timeout=120):
        """Its output; it must succeed."""
        os.write(self.tty, line.encode() + b"; echo =\"\"$?=\r")
        self.expect(rb"\r\n", 30)  # the echo
        match = self.expect(rb"(?s)(.*)=(\d+)=\r\n", timeout)
        assert match[2] == b"0", (line, match[0])
        self.expect(PROMPT, 60)
        return match[1].decode(errors="replace")

    def end(self, timeout):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if select.select([self.tty], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.tty, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.seen[-3000:]}")


def answer(server, text):
    conn, _ = server.accept()
    conn.sendall(text)
    conn.close()


def shell():
    disk = pathlib.Path(DATA) / f"disk-{ENGINE}-{CPUS}"
    blob = os.urandom(1 << 20) * 16
    disk.write_bytes(blob)
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    threading.Thread(target=answer, args=(server, b"hello guest\n"),
                     daemon=True).start()

    start = time.monotonic()
    console = Console(options("--disk", f"{disk},serial=test"))
    console.expect(PROMPT, BOOT_S)
    print(f"prompt after {time.monotonic() - start:.1f} s")
    assert console.command("nproc").split()[-1] == CPUS
    assert "test" in console.command("cat /sys/block/vdb/serial")
    got = console.command("sha256sum /dev/vdb")
    assert hashlib.sha256(blob).hexdigest() in got, got
    console.command("dd if=/dev/zero of=/dev/vdb bs=1M count=1 seek=3 "
                    "conv=fsync,notrunc status=none")
    got = console.command(f"cat </dev/tcp/10.0.2.2/{port}")
    assert "hello guest" in got, got
    console.command("ping -c 1 -W 5 10.0.2.2")
    if "apt" in PARTS:
        start = time.monotonic()
        got = console.command("apt-get -q update", 600)
        assert "Err:" not in got, got
        print(f"apt-get update in {time.monotonic() - start:.1f} s")
    os.write(console.tty, b"poweroff\r")
    code = console.end(180)
    assert code == 0, (code, console.seen[-2000:])
    want = blob[:3 << 20] + bytes(1 << 20) + blob[4 << 20:]
    assert disk.read_bytes() == want, "the disk differs from what was written"
    disk.unlink()


need_image()
if "report" in PARTS:
    report()
if "shell" in PARTS:
    shell()
print("1 passed, 0 failed")
