# SPDX-License-Identifier: Apache-2.0
"""A machine of tests/guest/disk.c, which never stops writing, and what has to
be found in its image: for live.py and live_kill.py."""
import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

LIMIT = 240
SLOT = 64 << 10


def wait_until(what):
    end = time.monotonic() + LIMIT
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


class Guest:
    def __init__(self, atoll, elf, env, disk, name, *more):
        self.begin(
            [atoll, "run", *self.words(elf, disk), "--name", name, "--engine",
             "bt", "--memory", "64M", "--device", "debug-exit", "--net",
             "none", "--timeout", "1800", *more], env)

    def begin(self, command, env):
        self.vm = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=env)
        # Not even a test that fails leaves it running.
        atexit.register(self.vm.kill)
        self.flushed, self.slots, self.sizes, self.said = 0, 0, [], []
        # One that goes on may be in the middle of a number.
        self.begun = "resume" not in command and "--restore" not in command
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def words(self, elf, disk):
        """What it boots, and its disk."""
        return ["--kernel", elf, "--disk", disk]

    def read(self):
        for line in self.vm.stdout:
            with self.news:
                word = line.decode().split()
                if not line.endswith(b"\n"):
                    break  # cut short: it never said that
                begun, self.begun = self.begun, True
                if not begun and (not word or word[0].isdigit()):
                    continue
                if len(word) == 1 and word[0].isdigit():
                    self.flushed = int(word[0])
                elif word[:1] == ["slots"]:
                    self.slots = int(word[1])
                elif word[:1] == ["size"]:
                    self.sizes.append(int(word[1]))
                else:
                    self.said.append(line.decode().strip())
                self.news.notify_all()

    def wait(self, what):
        """Until it holds, or the guest has ended, or no more patience."""
        end = time.monotonic() + LIMIT
        with self.news:
            while not what() and time.monotonic() < end and \
                    self.reader.is_alive():
                self.news.wait(0.2)
            return what()

    def goes_on(self, writes=20):
        until = self.flushed + writes
        return self.wait(lambda: self.flushed >= until)

    def worker(self):
        """The process that is the machine."""
        path = f"/proc/{self.vm.pid}/task/{self.vm.pid}/children"
        for pid in open(path).read().split():
            name = open(f"/proc/{pid}/comm").read().strip()
            if name == "atoll-vm":
                return int(pid)
        return None

    def end(self):
        """By itself: its exit code says whether all it read was right."""
        self.vm.stdin.write(b"q")
        self.vm.stdin.flush()
        return self.done()

    def kill(self, starter=False):
        pid = self.worker()
        if not pid:
            return self.done()
        watch = os.pidfd_open(pid)
        if starter:
            self.vm.kill()
        else:
            os.kill(pid, signal.SIGKILL)
        select.select([watch], [], [], LIMIT)
        os.close(watch)
        return self.done()

    def done(self):
        try:
            code = self.vm.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.vm.kill()
            code = self.vm.wait()
        self.reader.join(LIMIT)
        self.errors = self.vm.stderr.read().decode()
        return code


def last_write(slot, slots, n):
    """The number of the last of the first n writes that went to slot; the nth
    goes to slot 37 n."""
    m = n - (n - slot * pow(37, -1, slots)) % slots
    return max(m, 0)


def wrong_slots(raw, slots, least, most=None):
    """Slots that hold neither what flush `least` had, nor a later one."""
    wrong = []
    most = least if most is None else most
    with open(raw, "rb") as f:
        for slot in range(slots):
            good = {last_write(slot, slots, n)
                    for n in range(least, most + 1)}
            if not last_write(slot, slots, least):
                continue
            f.seek(slot * SLOT)
            words = set(struct.unpack("<512Q", f.read(4096)))
            if not words <= {m << 16 | slot for m in good}:
                wrong.append((slot, sorted(words)[:3], sorted(good)[:3]))
    return wrong


def newest(raw, slots, least):
    """The last write of those that follow on `least` without a gap. (The disk may
    hold what an earlier guest wrote, with the same numbers.)"""
    with open(raw, "rb") as f:
        while True:
            slot = (least + 1) * 37 % slots
            f.seek(slot * SLOT)
            words = set(struct.unpack("<512Q", f.read(4096)))
            if words != {(least + 1) << 16 | slot}:
                return least
            least += 1


def is_moment(raw, slots, least):
    """Does it hold one moment, from `least` on? What a machine or its starter
    that is killed had not passed on is not known, and may be more writes than
    there are slots, so that newest() finds no way to the last one."""
    found = set()
    with open(raw, "rb") as f:
        for slot in range(slots):
            f.seek(slot * SLOT)
            found.add(struct.unpack("<Q", f.read(8))[0] >> 16)
    return any(not wrong_slots(raw, slots, n, n + 1)
               for n in sorted(found, reverse=True)
               if least <= n < least + 64 * slots)


def last_of(raw, slots):
    """The last write that has begun, of a guest that had the disk alone. What
    was there before it looks like none of its writes."""
    last = 0
    with open(raw, "rb") as f:
        for slot in range(slots):
            f.seek(slot * SLOT)
            for word in set(struct.unpack("<512Q", f.read(4096))):
                n = word >> 16
                if word & 0xffff == slot and n * 37 % slots == slot and \
                        n < 1 << 32:
                    last = max(last, n)
    return last


def wrong_moment(raw, slots, least):
    """Slots that do not fit one moment, that of a write from `least` on, which
    may have been under way. How far the guest has said that it is does not
    bound it from above: its words may be on their way to us yet."""
    last = last_of(raw, slots)
    if last < least:
        return [f"write {least} is missing, {last} is the last one"]
    return wrong_slots(raw, slots, max(last - 1, least), last)


def whole(image, fmt, work, tool):
    """The image as one raw file, by qemu-img if it is there."""
    raw = work + "/whole.raw"
    if os.path.exists(raw):
        os.unlink(raw)
    done = subprocess.run([*tool, "convert", "-f", fmt, "-O", "raw", image,
                           raw], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return raw


def header_chain(path):
    """The files that the headers name, from the top."""
    found = []
    while path:
        path = os.path.realpath(path)
        found.append(path)
        with open(path, "rb") as f:
            head = f.read(65536)
        if head[:4] != b"QFI\xfb":
            break
        at, size = struct.unpack(">QI", head[8:20])
        name = head[at:at + size].decode() if at else ""
        path = os.path.join(os.path.dirname(path), name) if name else None
    return found


def processes_of(state):
    """Those that have this state folder: copies outlive who made them."""
    mark = f"ATOLL_STATE_DIR={state}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark in f.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def end_with_us(state):
    """However the test ends, none of them is left."""
    def end():
        for pid in processes_of(state):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    atexit.register(end)


def ask(sock, message, *fds):
    """One request over a machine's socket; None: it hung up."""
    body = json.dumps(message).encode()
    socket.send_fds(sock, [struct.pack("<II", len(body), len(fds))], fds)
    sock.sendall(body)
    while True:
        head = b""
        while len(head) < 8:  # descriptors, which are dropped, end a read
            piece = sock.recv(8 - len(head))
            if not piece:
                return None
            head += piece
        size = struct.unpack("<II", head)[0]
        answer = json.loads(sock.recv(size, socket.MSG_WAITALL))
        if "ok" in answer:
            return answer
