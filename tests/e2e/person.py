# SPDX-License-Identifier: Apache-2.0
"""A person at the console of a Debian guest: types, reads, waits."""
import fcntl
import hashlib
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time

PROMPT = rb"root@[\w-]+:~# "


def environment(data):
    return dict(os.environ, XDG_DATA_HOME=str(data), TERM="xterm")


def need_image(atoll, data):
    """debian:12 below the folder; built when absent."""
    env = environment(data)
    os.makedirs(data, exist_ok=True)
    with open(pathlib.Path(data) / "test.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        have = subprocess.run([atoll, "image", "inspect", "debian:12"],
                              env=env, capture_output=True, check=False)
        if have.returncode:
            start = time.monotonic()
            subprocess.run([atoll, "image", "build", "debian:12"], env=env,
                           check=True)
            print(f"image built in {time.monotonic() - start:.0f} s")


class Console:
    """A program on a pseudo-terminal. quit_keys end it when it is stuck; the
    log, if any, is all that it wrote."""

    def __init__(self, args, env, quit_keys=b"", log=os.devnull):
        self.quit_keys = quit_keys
        self.log = open(log, "wb", buffering=0)
        self.pid, self.tty = pty.fork()
        if self.pid == 0:
            try:
                os.execve(args[0], args, env)
            finally:
                os._exit(127)
        self.seen = b""

    def read(self):
        data = os.read(self.tty, 65536)
        self.log.write(data)
        self.seen += data

    def expect(self, pattern, timeout):
        end = time.monotonic() + timeout
        while not (match := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.tty], [], [], left)[0]:
                os.write(self.tty, self.quit_keys)
                raise AssertionError(f"no {pattern}: {self.seen[-3000:]}")
            try:
                self.read()
            except OSError as gone:
                raise AssertionError(
                    f"ended, no {pattern}: {self.seen[-3000:]}") from gone
        self.seen = self.seen[match.end():]
        return match

    def type(self, text):
        os.write(self.tty, text.encode())

    def command(self, line, timeout=120):
        """Its output; it must succeed."""
        self.type(line + "; echo =\"\"$?=\r")
        self.expect(rb"\r\n", 30)  # the echo
        # Terminals in a row each add a carriage return.
        match = self.expect(rb"(?s)(.*)=(\d+)=\r+\n", timeout)
        assert match[2] == b"0", (line, match[0])
        self.expect(PROMPT, 60)
        return match[1].decode(errors="replace")

    def end(self, timeout):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if select.select([self.tty], [], [], 0.1)[0]:
                try:
                    self.read()
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.seen[-3000:]}")

    def kill(self):
        """Whatever is left of it."""
        try:
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


class TestDisk:
    """A second disk of random bytes, with the serial number "test", which the
    guest reads and writes."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.blob = os.urandom(1 << 20) * 16
        self.path.write_bytes(self.blob)

    def use(self, console):
        assert "test" in console.command("cat /sys/block/vdb/serial")
        got = console.command("sha256sum /dev/vdb")
        assert hashlib.sha256(self.blob).hexdigest() in got, got
        console.command("dd if=/dev/zero of=/dev/vdb bs=1M count=1 seek=3 "
                        "conv=fsync,notrunc status=none")

    def bytes_after(self):
        return self.blob[:3 << 20] + bytes(1 << 20) + self.blob[4 << 20:]


def use_apt(console, timeout=1200):
    """apt-get update from the sources that the host has."""
    # The prompt may be there before the network is.
    console.command("until grep nameserver /etc/resolv.conf; do sleep 1; done")
    start = time.monotonic()
    got = console.command("apt-get -q update", timeout)
    assert "Err:" not in got, got
    print(f"apt-get update in {time.monotonic() - start:.1f} s", flush=True)
