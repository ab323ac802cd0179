#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vCPUs that come while a machine runs: hotplug.py ATOLL ATOLLD GUEST_ELF CACHE

Under each engine a guest (tests/guest/hotplug.c) that looks at the registers,
put away and taken up again between one that comes and the next. Then, by the
daemon, Linux: it is told, it sees them, it runs on them; a reset keeps them.
"""
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, atolld, elf, cache = sys.argv[1:5]
work = tempfile.mkdtemp(prefix="hp-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s",
           ATOLL_RUNTIME_DIR=work + "/r")
LIMIT = 300
SLOW = 400


def start(*words):
    return subprocess.Popen([atoll, *words], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=env)


def request(name, message):
    """As src/control/control.h has it."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(LIMIT)
        path = harness.wait_for(lambda: next(
            pathlib.Path(work).glob(f"r/**/{name}.sock"), None))
        harness.wait_for(lambda: s.connect_ex(str(path)) == 0)
        data = json.dumps(message).encode()
        s.sendall(struct.pack("<II", len(data), 0) + data)
        with s.makefile("rb") as f:
            size, _ = struct.unpack("<II", f.read(8))
            return json.loads(f.read(size))


def bare(engine):
    common = ["--engine", engine, "--device", "debug-exit", "--net", "none",
              "--timeout", "900"]
    vm = start("run", "--name", "cpus", "--memory", "64M", "--kernel", elf,
               "--cpus", "1", "--max-cpus", "4", *common)
    check(f"{engine}: what is not there does not start",
          vm.stdout.readline() == b"alone\n")
    answer = request("cpus", {"op": "cpus", "count": 5})
    check(f"{engine}: no more than was said", not answer["ok"] and
          "can have 4" in answer["words"], answer)
    check(f"{engine}: one comes",
          request("cpus", {"op": "cpus", "count": 2})["ok"])
    line = vm.stdout.readline()
    check(f"{engine}: it runs", line == b"there are 2\n", line)
    figures = request("cpus", {"op": "figures"})["figures"]
    check(f"{engine}: it is counted", len(figures["cpus"]) == 2 and
          figures["cpus_max"] == 4, figures["cpus"])
    away = subprocess.run([atoll, "suspend", "cpus"], env=env, check=False,
                          capture_output=True, timeout=LIMIT)
    check(f"{engine}: put away", vm.wait(LIMIT) == 0 and
          away.returncode == 0, away.stderr)
    vm = start("resume", "cpus", "--engine",
               "interp" if engine == "bt" else "bt")
    figures = request("cpus", {"op": "figures"})["figures"]
    check(f"{engine}: those that had come are there again",
          len(figures["cpus"]) == 2, figures["cpus"])
    check(f"{engine}: another comes",
          request("cpus", {"op": "cpus", "count": 3})["ok"])
    out, err = vm.communicate(timeout=LIMIT)
    check(f"{engine}: both go on", vm.returncode == 1 and
          b"there are 3\n" in out and b"done\n" in out,
          (vm.returncode, out, err))


class Linux:
    def __init__(self, daemon, kernel, initrd):
        self.daemon = daemon
        answer = daemon.call("POST", "/v1/vms", {
            "name": "web", "memory_bytes": 128 << 20, "engine": "bt",
            "cpus": 1, "max_cpus": 3, "nics": [],
            "boot": {"kernel": kernel, "initrd": initrd,
                     "cmdline": "console=ttyS0 quiet"}})
        assert answer.status == 201, answer.body

    def ready(self, times):
        harness.wait_for(lambda: self.daemon.call(
            "GET", "/v1/vms/web/console").body.count(b"GUEST-READY") == times,
            SLOW)

    def says(self, command):
        path = "/v1/vms/web/console"
        before = len(self.daemon.call("GET", path).body)
        self.daemon.call("POST", path, command.encode() + b"\n")
        found = harness.wait_for(lambda: re.search(
            rb"(?s)(.*)=\d+=", self.daemon.call("GET", path).body[before:]),
            SLOW)
        return found[1].decode().strip()

    def vcpus(self):
        vms = self.daemon.call("GET", "/v1/figures").json["vms"]
        return len(vms[0].get("cpu", {}).get("vcpus", []))


def linux(daemon, kernel, initrd):
    vm = Linux(daemon, kernel, initrd)
    daemon.do("POST", "/v1/vms/web/start")
    vm.ready(1)
    cpus = "cat /sys/devices/system/cpu/"
    check("Linux knows that two may come",
          vm.says(cpus + "possible") == "0-2" and
          vm.says(cpus + "present") == "0", vm.says(cpus + "possible"))
    done = subprocess.run(
        [atoll, "vm", "set", "web", "--cpus", "3", "--remote",
         "unix:" + daemon.socket], capture_output=True, text=True, check=False)
    check("atoll vm set --cpus 3", done.returncode == 0, done.stderr)
    check("no restart is needed", not daemon.vm("web")["restart_needed"] and
          "restart" not in done.stderr, done.stderr)
    harness.wait_for(lambda: vm.vcpus() == 3, SLOW)
    harness.wait_for(lambda: vm.says(cpus + "present") == "0-2", SLOW)
    check("Linux was told, and sees them", True)
    got = vm.says("for n in 1 2; do echo 1 > /sys/devices/system/cpu/cpu$n/"
                  "online; done; cat /sys/devices/system/cpu/online")
    check("they come on line", got == "0-2", got)
    got = vm.says("for n in 0 1 2; do taskset $((1 << n)) sh -c "
                  "'i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; "
                  "cut -d\" \" -f39 /proc/self/stat'; done")
    check("each of them runs a program", got.split() == ["0", "1", "2"], got)
    events = [e for e in daemon.call("GET", "/v1/events?limit=1000").json[
        "events"] if e["type"] == "vm.cpus"]
    check("an event says so", len(events) == 1 and
          events[0]["data"]["cpus"] == 3, events)
    daemon.call("PATCH", "/v1/vms/web", {"cpus": 5})
    check("more than there is room for waits for a restart",
          daemon.vm("web")["restart_needed"])
    daemon.call("PATCH", "/v1/vms/web", {"cpus": 3})
    daemon.do("POST", "/v1/vms/web/reset")
    vm.ready(2)
    got = vm.says(cpus + "online")
    check("a reset keeps them", got == "0-2", got)


def main():
    for engine in ("interp", "bt"):
        bare(engine)
    if not shutil.which("busybox"):
        print("SKIP: there is no busybox")
        return
    folder = tempfile.mkdtemp(prefix="cpus-")
    daemon = harness.Daemon({"atolld": atolld})
    try:
        daemon.start()
        linux(daemon, *small_guest.build(cache, folder))
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)


main()
shutil.rmtree(work, ignore_errors=True)
sum_up()
