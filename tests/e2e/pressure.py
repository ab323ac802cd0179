# SPDX-License-Identifier: Apache-2.0
"""A host that runs short of memory, with machines of real guests: who gives
what, in which order, and that all go on. pressure.py ATOLLD ATOLL CACHE

Once the host is short by what it keeps for itself: more than is available. And
once all run in a control group with a limit, as in a container, which another
process in there fills.
"""
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

SLOW = 180  # seconds
SIZE = 192 << 20
IDLE = 0.02  # processors
PERIOD = 2  # seconds, of the daemon's figures
LIMIT = 1 << 30
HEADROOM = 128 << 20
NAMES = ("idle", "kept", "busy")


def available():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) << 10


class Host:
    def __init__(self, daemon, kernel, initrd):
        self.daemon = daemon
        self.boot = {"kernel": kernel, "initrd": initrd,
                     "cmdline": "console=ttyS0 quiet"}

    def start(self, name, **resources):
        answer = self.daemon.call("POST", "/v1/vms", {
            "name": name, "memory_bytes": SIZE, "engine": "bt",
            "boot": self.boot, "nics": [], "resources": resources})
        assert answer.status == 201, answer.body
        self.daemon.do("POST", f"/v1/vms/{name}/start")

    def run_in(self, name, command):
        path = f"/v1/vms/{name}/console"
        before = len(self.daemon.call("GET", path).body)
        self.daemon.call("POST", path, command.encode() + b"\n")
        return harness.wait_for(lambda: re.search(
            rb"(?s)(.*)=(\d+)=",
            self.daemon.call("GET", path).body[before:]), SLOW)

    def figures(self):
        """By name, once all say what they have."""
        def all_of_them():
            vms = self.daemon.call("GET", "/v1/figures").json["vms"]
            found = {v["name"]: v["memory"] for v in vms if "memory" in v}
            if set(found) == set(NAMES) and all(
                    m["balloon"]["driver"] and m["guest_total_bytes"]
                    for m in found.values()):
                return found
            return None
        return harness.wait_for(all_of_them, SLOW)

    def run(self):
        """Processors that each one uses, by name."""
        return {v["name"]: v["cpu"]["run"] for v in self.daemon.call(
            "GET", "/v1/figures").json["vms"] if "cpu" in v}

    def available(self):
        return self.daemon.call(
            "GET", "/v1/figures").json["host"]["memory_available_bytes"]

    def given(self):
        return {n: m["balloon"]["actual_bytes"]
                for n, m in self.figures().items()}

    def keep(self, size):
        answer = self.daemon.call("PATCH", "/v1/host/policy",
                                  {"headroom_bytes": size})
        assert answer.status == 200, answer.body

    def events(self):
        return [e for e in self.daemon.call(
            "GET", "/v1/events?limit=1000").json["events"]
            if e["type"] == "vm.memory"]


def short_of_memory(host):
    usual = host.daemon.call("GET", "/v1/host/policy").json["headroom_bytes"]
    before = host.given()
    check("nobody has given anything", not any(before.values()), before)
    harness.wait_for(lambda: (r := host.run())["busy"] > 0.2 and
                     r["idle"] < IDLE and r["kept"] < IDLE, SLOW)
    host.keep(available() + (2 << 30))
    harness.wait_for(lambda: host.given()["idle"] > 0, SLOW)
    given = harness.wait_for(lambda: (g := host.given())["busy"] and g, SLOW)
    check("idle ones gave before the busy one", given["idle"] > given["busy"],
          given)
    order = [e["vm"]["name"] for e in host.events()]
    check("the busy one was asked when the others had no more",
          order.index("busy") > 2 and order[:2] == ["idle", "kept"], order)
    time.sleep(10)  # all that will be taken is taken
    memory = host.figures()
    check("nobody is below what it was promised",
          SIZE - memory["kept"]["balloon"]["actual_bytes"] >= 160 << 20,
          memory["kept"])
    for name, m in memory.items():
        left = SIZE - m["balloon"]["actual_bytes"]
        print(f"     {name}: {m['balloon']['actual_bytes'] >> 20} MiB given, "
              f"{left >> 20} MiB left, {m['swap_bytes'] >> 20} MiB in swap")
        kernel = SIZE - m["guest_total_bytes"]
        check(f"{name} keeps what its guest uses",
              left >= kernel + m["used_bytes"], m)
        check(f"{name} is not said to use what it lends",
              m["used_bytes"] < 64 << 20, m)
        check(f"{name} gives what it does not use",
              name == "kept" or left < 96 << 20, m)
    check("the figures say who gave what",
          all(e["data"]["target_bytes"] != e["data"]["before_bytes"]
              for e in host.events()))
    for name in NAMES:
        said = host.run_in(name, "echo ALI''VE")
        check(f"{name} goes on", b"ALIVE" in said[1] and
              host.daemon.vm(name)["state"] == "running")
    host.keep(usual)
    harness.wait_for(lambda: not any(host.given().values()), SLOW)
    check("all have it back", True)


class Container:
    """A memory control group below ours, with a limit."""

    def __init__(self, limit):
        self.path = None
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            mount = "/sys/fs/cgroup" + ("/memory" if names == "memory" else "")
            group = pathlib.Path(f"{mount}{path}/atoll-press-{os.getpid()}")
            file = "limit_in_bytes" if names == "memory" else "max"
            if names not in ("memory", ""):
                continue
            try:
                group.mkdir()
                self.path = group
                (group / f"memory.{file}").write_text(str(limit))
                return
            except OSError:
                self.remove()

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        """Once the last in there has ended."""
        if self.path:
            harness.wait_for(self.is_removed)
        self.path = None

    def is_removed(self):
        for folder, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                return False
        return True


class Filler:
    """Processes in there, each with so much."""

    def __init__(self, container):
        self.container, self.pids = container, []

    def add(self, size):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.container.enter()
            kept = bytearray(size)
            kept[::4096] = b"x" * len(kept[::4096])
            os.write(told, b"x")
            signal.pause()
            os._exit(0)
        self.pids.append(pid)
        os.close(told)
        assert os.read(ready, 1) == b"x"
        os.close(ready)

    def end(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids = []


def fill(filler, host, left):
    """Until no more than that is available, or machines give: guests that have
    just booted go on giving free pages back for a while, and figures are two
    seconds old."""
    def more():
        if any(host.given().values()):
            return 0
        return host.available() - left
    while (size := more()) > 0:
        filler.add(size)
        time.sleep(2 * PERIOD)


def full_container(host, container, limit):
    def seen():
        return host.daemon.call("GET", "/v1/figures").json["host"]

    check("the host is as large as the container",
          harness.wait_for(lambda: seen().get("memory_bytes")) == limit,
          seen())
    host.keep(HEADROOM)
    answer = host.daemon.call("POST", "/v1/vms", {
        "name": "large", "memory_bytes": limit, "engine": "bt",
        "boot": host.boot})
    assert answer.status == 201, answer.body
    answer = host.daemon.call("POST", "/v1/vms/large/start")
    check("what does not fit in there does not start", answer.status == 507 or
          host.daemon.task(answer)["state"] == "failed", answer.body)
    before = host.given()
    check("nobody has given anything", not any(before.values()), before)
    filler = Filler(container)
    try:
        fill(filler, host, HEADROOM * 3 // 4)
        machines_give(host)
    finally:
        filler.end()
    harness.wait_for(lambda: not any(host.given().values()), SLOW)
    check("all have it back", True)


def machines_give(host):
    harness.wait_for(lambda: host.given()["idle"] > 0, SLOW)
    given = host.given()
    check("machines give when it is full", given["idle"] > 0, given)
    for name in NAMES:
        check(f"{name} goes on",
              b"ALIVE" in host.run_in(name, "echo ALI''VE")[1] and
              host.daemon.vm(name)["state"] == "running")


def start_all(daemon, kernel, initrd):
    host = Host(daemon, kernel, initrd)
    host.start("idle")
    host.start("kept", memory_reservation_bytes=160 << 20)
    host.start("busy", cpu_weight=1000)
    for name in NAMES:
        daemon.console(name, b"GUEST-READY")
    host.run_in("busy", "while :; do :; done &")
    return host


def main():
    work = tempfile.mkdtemp(prefix="atoll-pressure-")
    kernel, initrd = small_guest.build(os.path.abspath(sys.argv[3]), work,
                                       ["virtio_pci", "virtio_balloon"])
    programs = harness.programs(sys.argv[1:3])
    container = Container(LIMIT)
    daemon = harness.Daemon(programs)
    try:
        daemon.start()
        short_of_memory(start_all(daemon, kernel, initrd))
        daemon.close()
        if container.path:
            daemon = harness.Daemon(programs).start(before=container.enter)
            full_container(start_all(daemon, kernel, initrd), container, LIMIT)
        else:
            print("no control group can be made here: not tested")
    finally:
        daemon.close()
        container.remove()
        shutil.rmtree(work, ignore_errors=True)
    sum_up()


main()
