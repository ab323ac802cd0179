#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian put away and gone on with: suspend.py ATOLL DATA-FOLDER CPUS.

Booted under bt, resumed under interp and under bt again, and put back to a
snapshot; meanwhile it writes to its disk, counts seconds on each processor
and uses the network.
"""
import os
import re
import select
import subprocess
import sys
import tempfile
import time

ATOLL, DATA, CPUS = sys.argv[1:4]
WORK = tempfile.mkdtemp(prefix="su-")
ENV = dict(os.environ, XDG_DATA_HOME=DATA, ATOLL_STATE_DIR=WORK)
BOOT_S, STEP_S = 400, 200
PROMPT = rb"root@[\w-]+:~# "


class Machine:
    def __init__(self, *words):
        self.vm = subprocess.Popen(
            [ATOLL, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=ENV)
        self.seen = b""

    def expect(self, pattern, timeout=STEP_S):
        end = time.monotonic() + timeout
        while True:
            match = re.search(pattern, self.seen)
            if match:
                self.seen = self.seen[match.end():]
                return match
            left = end - time.monotonic()
            assert left > 0, (pattern, self.seen[-2000:])
            if select.select([self.vm.stdout], [], [], left)[0]:
                data = os.read(self.vm.stdout.fileno(), 65536)
                assert data, (pattern, self.seen[-2000:], "it ended")
                self.seen += data

    def say(self, line):
        self.vm.stdin.write(line.encode() + b"\n")
        self.vm.stdin.flush()

    def ask(self, line, pattern):
        """The pattern is not what the terminal echoes."""
        self.say(line)
        return self.expect(pattern)

    def end(self):
        """Reads on, so that nothing waits for its terminal."""
        self.vm.stdin.close()
        while os.read(self.vm.stdout.fileno(), 65536):
            pass
        return self.vm.wait()


def atoll(*words):
    done = subprocess.run([ATOLL, *words], env=ENV, capture_output=True,
                          text=True, timeout=STEP_S, check=False)
    print("atoll", *words, "->", done.stdout.strip(), done.stderr.strip(),
          flush=True)
    assert done.returncode == 0, (words, done.stderr)


def look(m, seconds):
    """It lives: time, disk, interrupts, network."""
    m.ask("echo is $((40 + 2))", rb"is 42")
    now = int(m.ask("cut -d. -f1 /proc/uptime", rb"\n(\d+)\r").group(1))
    assert seconds <= now < seconds + 300, (seconds, now)
    m.ask("for c in 0 1; do taskset -c $c dd if=/dev/urandom of=/root/f$c "
          "bs=64k count=64 conv=fsync 2>/dev/null; done; sync; echo 3 > "
          "/proc/sys/vm/drop_caches; md5sum /root/f? > /root/s; echo 3 > "
          "/proc/sys/vm/drop_caches; md5sum -c --quiet /root/s && sleep 1 && "
          "echo disk $((40 + 2))", rb"disk 42")
    m.ask("ping -c 3 -i 0.3 10.0.2.2 > /root/p; echo net $?", rb"net 0\r")
    bad = m.ask("dmesg | grep -icE 'stall|lockup|unstable|i/o error|BUG:|"
                "call trace'", rb"\n(\d+)\r").group(1)
    assert bad == b"0", m.ask("dmesg | tail -40; echo end $((1 + 1))",
                              rb"(?s).*end 2").group()
    return now


m = Machine("run", "--name", "su", "--engine", "bt", "--cpus", CPUS,
            "--interactive", "debian:12")
m.expect(PROMPT, BOOT_S)
m.say("stty -echo; PS1=; (while sleep 1; do date >> /root/log; done) &")
up = look(m, 0)
m.ask("echo old > /root/x; sync; echo wrote $((1 + 1))", rb"wrote 2")
atoll("snapshot", "create", "su", "clean")
m.ask("echo new > /root/x; sync; echo wrote $((1 + 2))", rb"wrote 3")
for engine, how in ("interp", []), ("bt", ["--fast"]):
    atoll("suspend", *how, "su")
    assert m.end() == 0
    m = Machine("resume", "su", "--engine", engine)
    up = look(m, up)
    print(engine, "goes on at", up, flush=True)
m.ask("cat /root/x", rb"new")
m.say("poweroff")
assert m.end() == 0
atoll("snapshot", "revert", "su", "clean")
m = Machine("resume", "su")
m.ask("cat /root/x", rb"old")
look(m, 0)
m.say("poweroff")
assert m.end() == 0
subprocess.run(["rm", "-rf", WORK], check=False)
print("1 passed, 0 failed")
