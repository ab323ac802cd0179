#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Control groups of version 2, as a host of today has them: cgroup2.py ATOLL
ATOLLD HOLD VM SPINNER RESIDENT CACHE [SECONDS]

The host is a guest itself, Debian's kernel with two processors under bt, and
the daemon runs in it with three machines of its own under interp: whatever
this host has for control groups. Weights, limits, pinning and memory are looked
at where they are set and, of processors, in what the machines then use. Then a
daemon of a user's, in a group that was delegated to him, and in none.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "nested"))
import debian  # noqa: E402
import initramfs  # noqa: E402
from small_guest import BUSYBOX, OBEY  # noqa: E402

atoll, atolld, hold, vm, spinner, resident, cache = sys.argv[1:8]
SECONDS = int(sys.argv[8]) if len(sys.argv) > 8 else 40
GROUPS = "/sys/fs/cgroup"
SLOW = 300
WITHIN = 0.05
passed = failed = 0

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
export PATH=/usr/bin:/bin HOME=/root
stty -echo 2>/dev/null
echo 1 > /proc/sys/kernel/printk
ip link set lo up
""" + OBEY


def check(what, good, more=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("ok  " if good else "FAIL", what, more, flush=True)


def build(folder):
    tree = debian.kernel_tree(str(cache))
    path = os.path.join(folder, "host.cpio")
    cpio = initramfs.Cpio(path)
    cpio.console()
    for name in ("proc", "sys", "etc", "tmp", "run"):
        cpio.folder(name)
    cpio.add("init", INIT.encode())
    cpio.add("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"
             b"some:x:1000:1000::/tmp:/bin/sh\n")
    cpio.add("etc/group", b"root:x:0:\nsome:x:1000:\n")
    cpio.add_file(BUSYBOX, "bin/busybox")
    for program in (atoll, atolld, hold, vm):
        cpio.add_program(program, "usr/bin/" + os.path.basename(program))
    cpio.add_file(spinner, "spinner.elf")
    cpio.add_file(resident, "resident.elf")
    cpio.close()
    return debian.kernel_image(tree), path


class Host:
    def __init__(self, folder):
        kernel, initrd = build(folder)
        self.log = bytearray()
        self.vm = subprocess.Popen(
            [atoll, "run", "--engine", "bt", "--cpus", "2", "--memory", "1G",
             "--kernel", kernel, "--initrd", initrd, "--append",
             "console=ttyS0 quiet", "--net", "none", "--interactive",
             "--timeout", "1500"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.vm.stdout.fileno(), False)

    def expect(self, pattern, patience=SLOW):
        end = time.monotonic() + patience
        while not (match := re.search(pattern, bytes(self.log))):
            data = self.vm.stdout.read()
            self.log += data or b""
            if time.monotonic() > end or data == b"":
                raise AssertionError((pattern, bytes(self.log[-3000:])))
            time.sleep(0.05)
        del self.log[:match.end()]
        return match

    def says(self, command, patience=SLOW):
        self.vm.stdin.write(command.encode() + b"\n")
        self.vm.stdin.flush()
        match = self.expect(rb"(?s)(.*?)=(\d+)=\r?\n", patience)
        return match[1].decode(errors="replace").replace("\r", "").strip()

    def group(self):
        return self.says(f"ls -d {GROUPS}/atoll-[0-9a-f]*")

    def folder(self, name):
        number = self.says(f"atoll vm show {name} --format json | "
                           "tr ',' '\\n' | sed -n 's/.*\"id\": *\"\\(.*\\)\".*/"
                           "\\1/p' | head -1")
        return f"{self.group()}/{number}"


def used(host, folders):
    """Seconds of processor time of each by the second, over a while."""
    read = "sed 's/^/at /' /proc/uptime; " + "; ".join(
        f"grep usage_usec {f}/cpu.stat" for f in folders.values())
    got = host.says(f"{read}; sleep {SECONDS}; {read}", SLOW + 4 * SECONDS)
    numbers = [int(n) for n in re.findall(r"usage_usec (\d+)", got)]
    half = len(folders)
    begin, end = (float(n) for n in re.findall(r"at (\S+)", got))
    assert len(numbers) == 2 * half, got
    return {n: (numbers[half + i] - numbers[i]) / 1e6 / (end - begin)
            for i, n in enumerate(folders)}


def start(host, name, options, kernel="/spinner.elf"):
    got = host.says(
        f"atoll vm create {name} --kernel {kernel} --engine interp --cpus 2 "
        f"--memory 32M --net none --device debug-exit {options} && "
        f"atoll start {name} && echo started")
    assert "started" in got, got
    host.says(f"until atoll console {name} --no-follow | grep -q ^up; do "
              "sleep 1; done")
    host.says(f"until atoll console {name} --no-follow | grep -q told; do "
              f"(printf s; sleep 3) | timeout 9 atoll console {name}; done")


def shown(parts):
    return " ".join(f"{n} {p:.3f}" for n, p in parts.items())


def read(host, path):
    return host.says(f"cat {path}")


def weights(host):
    weight_of = {"one": 100, "two": 200, "four": 400}
    for name, weight in weight_of.items():
        # On one processor: this host's own scheduler has its say on two.
        start(host, name, f"--cpu-weight {weight} --cpu-pin 1")
    folders = {name: host.folder(name) for name in weight_of}
    got = {n: read(host, f + "/cpu.weight") for n, f in folders.items()}
    check("cpu.weight", int(got["two"]) == 2 * int(got["one"]) and
          int(got["four"]) == 4 * int(got["one"]), got)
    seconds = used(host, folders)
    total = sum(seconds.values())
    parts = {n: t / total for n, t in seconds.items()}
    check("weights 1:2:4 within 5 %", all(
        abs(parts[n] / (w / 700) - 1) <= WITHIN for n, w in weight_of.items()),
        f"{shown(parts)}, of {total:.2f} processors")
    return folders


def limits(host, folders):
    host.says("atoll vm set four --cpu-limit 25 "
              "--memory-reservation 16M --memory-limit 24M "
              "--memory-hard-limit 200M --io-weight 300")
    four = folders["four"]
    host.says(f"until grep -q ^25000 {four}/cpu.max; do sleep 1; done")
    check("cpu.max of one that runs", read(host, four + "/cpu.max") ==
          "25000 100000")
    got = {name: read(host, f"{four}/{name}") for name in
           ("cpuset.cpus", "memory.min", "memory.high", "memory.max")}
    check("cpuset.cpus, memory.min, memory.high, memory.max", got == {
        "cpuset.cpus": "1", "memory.min": str(16 << 20),
        "memory.high": str(24 << 20), "memory.max": str(200 << 20)}, got)
    got = host.says(f"cat {four}/io.weight {four}/io.bfq.weight 2>/dev/null")
    if '"io": true' in host.says("atoll host policy --format json"):
        check("weight at disks", re.search(r"\b(300|118)\b", got), got)
    else:
        print("     this kernel weighs no disks")
    above = read(host, os.path.dirname(four) + "/memory.min")
    check("what is protected is protected above too", above == "max", above)
    seconds = used(host, folders)
    check("it has a quarter of a processor",
          seconds["four"] <= 0.25 * 1.05, f"{seconds['four']:.3f}")
    check("the rest goes to the others, 1:2", abs(
        seconds["two"] / seconds["one"] / 2 - 1) <= 2 * WITHIN,
        shown(seconds))
    for name in folders:
        host.says(f"atoll kill {name}")
    gone = host.says(f"ls {host.group()} | grep -c - ; true")
    check("nothing is left of them", gone == "0", gone)


def ended_above(host):
    """Of a guest of 192 MiB, which touches 128 of them."""
    got = host.says(
        "atoll vm create tight --kernel /resident.elf --engine interp "
        "--memory 192M --net none --memory-hard-limit 96M && "
        "atoll start tight && echo started")
    assert "started" in got, got
    host.says("until atoll console tight --no-follow | grep -q 'is up'; do "
              "sleep 1; done")
    host.says("until atoll vm show tight --format json | "
              "grep -q '\"state\": *\"stopped\"'; do "
              "(printf m; sleep 3) | timeout 9 atoll console tight; done")
    got = host.says("atoll vm show tight --format json")
    check("what takes more than its hard limit is ended, in words",
          "at its hard limit of 96 MiB" in got, got[-300:])
    host.says("atoll vm delete tight --yes")


def of_a_user(host):
    """Who has a group, and who has none."""
    host.says("kill $(pidof atolld); sleep 2; chmod 1777 /tmp /run")
    as_some = "su some -c "
    environment = ("PATH=/usr/bin:/bin XDG_RUNTIME_DIR=/tmp/some "
                   "XDG_DATA_HOME=/tmp/some XDG_STATE_HOME=/tmp/some")
    host.says(f"{as_some} 'mkdir -p /tmp/some'")
    host.says(f"{as_some} '{environment} atolld >/tmp/some/log 2>&1 &'; "
              "sleep 5")
    got = host.says(f"{as_some} '{environment} atoll host policy'")
    check("a user without a group is told", "delegated" in got and
          "niceness" in got, got)
    host.says("kill $(pidof atolld); sleep 2")
    mine = f"{GROUPS}/some"
    host.says(f"for c in cpu memory cpuset; do echo +$c > "
              f"{GROUPS}/cgroup.subtree_control; done; "
              f"mkdir -p {mine}/shell; chown some {mine} {mine}/shell "
              f"{mine}/cgroup.procs {mine}/cgroup.subtree_control "
              f"{mine}/shell/cgroup.procs")
    host.says(f"sh -c 'echo $$ > {mine}/shell/cgroup.procs; exec {as_some} "
              f"\"{environment} atolld >/tmp/some/log2 2>&1 &\"'; sleep 5")
    got = host.says(f"{as_some} '{environment} atoll host policy'")
    check("a user with one has limits", "v2" in got and "delegated" not in got,
          got)
    got = host.says(f"ls -d {mine}/atoll-*")
    check("below what was given to him", mine in got, got)


def main():
    if not shutil.which("busybox"):
        print("SKIP: there is no busybox")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="cgroup2-")
    host = Host(folder)
    try:
        host.expect(rb"GUEST-READY")
        host.says("atolld >/tmp/log 2>&1 & sleep 5")
        got = host.says("atoll host policy")
        check("version 2, with memory", "v2" in got, got)
        limits(host, weights(host))
        ended_above(host)
        of_a_user(host)
    finally:
        host.vm.kill()
        host.vm.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
print(f"{passed} ok, {failed} failed")
sys.exit(failed != 0)
