# SPDX-License-Identifier: Apache-2.0
"""Who gets how much of two processors: fairness.py ATOLLD ATOLL ELF [SECONDS].

Three machines of weights 1, 2 and 4 that use all they can get; one of them
idle; and one with a reservation beside a neighbour of a hundred times its
weight. What counts is each one's part of what they have together, so that
other work on the host changes nothing. Skipped (77) where there are no control
groups.
"""
import os
import pathlib
import sys
import time

import harness

SECONDS = int(sys.argv[4]) if len(sys.argv) > 4 else 30
WITHIN = 0.05  # of what it should be
WINDOWS = 4
TICK = os.sysconf("SC_CLK_TCK")
passed = failed = 0


def check(what, good, more=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("ok  " if good else "FAIL", what, more, flush=True)


class Host:
    def __init__(self, daemon):
        self.daemon = daemon
        online = sorted(os.sched_getaffinity(0))
        self.pin = ",".join(map(str, online[:2]))

    def define(self, name, **resources):
        answer = self.daemon.define(
            name, cpus=2, memory_bytes=32 << 20,
            resources={"cpu_pin": self.pin, **resources})
        assert answer.status == 201, answer.body
        self.daemon.do("POST", f"/v1/vms/{name}/start")
        self.daemon.console(name, b"up\n")
        self.tell(name, "s")

    def tell(self, name, key):
        answer = f"told {key}".encode()
        before = self.daemon.shown(name, answer)
        self.daemon.call("POST", f"/v1/vms/{name}/console", key,
                         {"Content-Type": "application/octet-stream"})
        self.daemon.console(name, answer, before)

    @staticmethod
    def used(files):
        """Seconds of processor time so far, of all at one moment: this
        process has to wait for its turn as well."""
        now = time.monotonic()
        texts = {name: os.pread(fd, 4096, 0) for name, fd in files.items()}
        fields = {n: t.rpartition(b")")[2].split() for n, t in texts.items()}
        return now, {n: (int(f[11]) + int(f[12])) / TICK
                     for n, f in fields.items()}

    def set_apart(self, name):
        """The group of all machines gets nearly all of the host: it is what
        happens within that is looked at, whatever else runs here."""
        pid = self.daemon.vm(name)["pid"]
        for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            group = os.path.dirname(path)
            for mount in (f"/sys/fs/cgroup/{names}", "/sys/fs/cgroup",
                          "/sys/fs/cgroup/unified"):
                for file, most in (("cpu.shares", "262144"),
                                   ("cpu.weight", "10000")):
                    try:
                        (pathlib.Path(mount + group) / file).write_text(most)
                    except OSError:
                        continue

    def window(self, files):
        begin, before = self.used(files)
        time.sleep(SECONDS / WINDOWS)
        end, after = self.used(files)
        return {n: after[n] - before[n] for n in files}, end - begin

    def parts(self, names):
        """What each used in a while, of what all of them used; and that."""
        time.sleep(4)  # until the groups are set and the guests busy
        self.set_apart(names[0])
        files = {n: os.open(f"/proc/{self.daemon.vm(n)['pid']}/stat",
                            os.O_RDONLY) for n in names}
        windows = [self.window(files) for _ in range(WINDOWS)]
        for fd in files.values():
            os.close(fd)
        for used, took in windows:
            print("    " + " ".join(f"{n} {t / took:.3f}"
                                    for n, t in used.items()), flush=True)
        sums = {n: sum(used[n] for used, _ in windows) for n in names}
        total = sum(sums.values())
        return ({n: sums[n] / total for n in names},
                total / sum(took for _, took in windows))

    def remove(self, *names):
        for name in names:
            self.daemon.do("POST", f"/v1/vms/{name}/kill")
            self.daemon.do("DELETE", f"/v1/vms/{name}")


def near(part, wanted):
    return abs(part / wanted - 1) <= WITHIN


def shown(parts, processors):
    return " ".join(f"{n} {p:.4f}" for n, p in parts.items()) + \
        f", of {processors:.2f} processors"


def weights(host):
    weight_of = {"one": 100, "two": 200, "four": 400}
    names = list(weight_of)
    for name, weight in weight_of.items():
        host.define(name, cpu_weight=weight)
    parts, processors = host.parts(names)
    check("weights 1:2:4", all(near(parts[n], w / 700)
                               for n, w in weight_of.items()),
          shown(parts, processors))
    host.tell("four", "i")
    parts, more = host.parts(names)
    rest = parts["one"] + parts["two"]
    check("an idle one's share goes to the others, 1:2",
          parts["four"] < 0.05 and near(parts["one"] / rest, 1 / 3) and
          more > processors * 0.8, shown(parts, more))
    host.tell("four", "s")
    parts, processors = host.parts(names)
    check("it has it back when it wants it", near(parts["four"], 4 / 7),
          shown(parts, processors))
    host.remove(*names)


def reservation(host):
    host.define("small", cpu_weight=100, cpu_reservation=100)
    host.define("noisy", cpu_weight=10000)
    parts, processors = host.parts(("small", "noisy"))
    check("a reservation of half of it holds beside a neighbour of 100 times "
          "the weight", parts["small"] >= 0.5 * (1 - WITHIN),
          shown(parts, processors))
    host.remove("small", "noisy")


def main():
    daemon = harness.Daemon(harness.programs(sys.argv[1:]))
    try:
        daemon.start()
        kind = daemon.call("GET", "/v1/host").json["limits"]["cgroup"]
        if kind == "none":
            print("no control groups here")
            sys.exit(77)
        if len(os.sched_getaffinity(0)) < 2:
            print("two processors are needed")
            sys.exit(77)
        print(f"control groups {kind}, {SECONDS} s each")
        host = Host(daemon)
        weights(host)
        reservation(host)
    finally:
        daemon.close()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
