# SPDX-License-Identifier: Apache-2.0
"""What the bt engine's options do, and how its process is shut in:
bt.py ATOLL CHAINS-ELF CROWD-ELF STATE-ELF. The first is quickly done, the second
has more code than fits a small code cache, the third runs until it is told to
end."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ATOLL, CHAINS, CROWD, STATE = (os.path.abspath(p) for p in sys.argv[1:5])
GOOD = 1  # debug-exit of 0
PATIENCE = 400
SECCOMP_FILTER = "2"
MIB = 1 << 20
FIELDS = ("blocks", "guest_bytes", "host_bytes", "probes", "slot_misses",
          "links", "target_misses", "entries", "traces", "deaths", "flushes",
          "context_switches", "slot_clears", "translation_us")
CAUSES = ("instruction", "probe", "link", "target")


def check(what, good, more=""):
    print(what, flush=True)
    if not good:
        sys.exit(f"no: {more}")


class Work:
    def __init__(self, folder):
        self.folder = folder
        self.env = dict(os.environ, ATOLL_STATE_DIR=folder + "/s",
                        ATOLL_RUNTIME_DIR=folder + "/r", HOME=folder)

    def line(self, elf, engine, *more):
        return [ATOLL, "run", "--engine", engine, "--memory", "64M",
                "--kernel", elf, "--device", "debug-exit", "--net", "none",
                "--timeout", str(PATIENCE), *more]

    def run(self, elf, engine, *more, before=()):
        return subprocess.run(
            [*before, *self.line(elf, engine, *more)], env=self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False)

    def figures(self, elf, engine, *more):
        """The exit code, and the figures of its one vCPU."""
        report = self.folder + "/report.json"
        code = self.run(elf, engine, "--report", "json:" + report,
                        *more).returncode
        text = pathlib.Path(report).read_text()
        return code, json.loads(text)["engine_stats"]["vcpus"]


def look_at_stats(work):
    code, vcpus = work.figures(CHAINS, "bt,hot=4,stats")
    one = vcpus[0]
    check("a guest under bt,stats", code == GOOD and len(vcpus) == 1, code)
    wrong = [f for f in FIELDS if not isinstance(one.get(f), int)]
    check("all figures are there", not wrong, wrong)
    zero = [f for f in ("blocks", "probes", "slot_misses", "links",
                        "target_misses", "entries", "translation_us")
            if not one[f]]
    check("and what must have happened is counted", not zero, zero)
    left = one["fallbacks"]
    check("fallbacks have their causes", set(left) == set(CAUSES), left)
    check("and instructions their names",
          sum(one["fallback_instructions"].values()) == left["instruction"],
          one)
    code, vcpus = work.figures(CHAINS, "bt,hot=4,tier=0")
    check("tier=0 translates nothing", code == GOOD and not vcpus, vcpus)
    code, vcpus = work.figures(CHAINS, "bt,hot=2,tier=1")
    check("tier=1 makes no traces",
          code == GOOD and vcpus[0]["traces"] == 0, vcpus)
    code, vcpus = work.figures(CHAINS, "bt,hot=2,tier=2,eager")
    check("tier=2 makes some", code == GOOD and vcpus[0]["traces"], vcpus)


def look_at_bound(work):
    """Every flush gives all of the host code up, so what was made in all is
    what one more than the flushes can have held."""
    code, vcpus = work.figures(CROWD, "bt,hot=4", "--code-cache", "2M")
    small = vcpus[0]
    check("a guest with more code than the code cache holds",
          code == GOOD and small["host_bytes"] > 4 * MIB, small)
    check("the cache was emptied as often as that takes",
          (small["flushes"] + 1) * 2 * MIB >= small["host_bytes"], small)
    code, vcpus = work.figures(CROWD, "bt,hot=4", "--code-cache", "64M")
    check("and less often if it is larger",
          code == GOOD and vcpus[0]["flushes"] < small["flushes"],
          (small, vcpus))
    for engine, more, words in (
            ("bt,nonsense", (), "no option 'nonsense'"),
            ("bt,hot=0", (), "hot=N"),
            ("bt", ("--code-cache", "much"), "is not a size"),
            ("bt", ("--code-cache", "1000T"), "code cache")):
        got = work.run(CROWD, engine, *more)
        check(f"{engine} {' '.join(more)} is refused",
              got.returncode == 1 and "error:" in got.stderr and
              words in got.stderr, (got.returncode, got.stderr))


def look_at_lockstep(work):
    code, vcpus = work.figures(CHAINS, "bt,hot=4,exact,lockstep=strict")
    figures = vcpus[0].get("lockstep", {})
    check("each block compared with the interpreter",
          code == GOOD and figures.get("compared"), (code, figures))
    got = work.run(CHAINS, "bt,lockstep", "--cpus", "2")
    check("but not of two vCPUs", "one vCPU, not 2" in got.stderr, got.stderr)


def maps():
    """Each with when it was made: a process may have the number of one that
    is long gone."""
    return {(path, path.stat().st_mtime_ns)
            for path in pathlib.Path("/tmp").glob("perf-*.map")}


def look_at_perf(work):
    before = maps()
    try:
        use_perf(work)
    finally:
        for path, _ in maps() - before:
            pid = re.search(r"perf-(\d+)\.map", path.name)[1]
            if not os.path.exists(f"/proc/{pid}"):
                path.unlink()


def use_perf(work):
    before = maps()
    got = work.run(CROWD, "bt,hot=4", "--perf-map", "--name", "mapped")
    check("a guest with a perf map", got.returncode == GOOD, got.stderr)
    names = [path.read_text() for path, _ in maps() - before
             if os.access(path, os.R_OK)]
    check("it names blocks", any(
        re.search(r"^[0-9a-f]+ [0-9a-f]+ guest_kernel_0x[0-9a-f]+$", n, re.M)
        for n in names), [n[:200] for n in names])
    perf = shutil.which("perf")
    data = work.folder + "/perf.data"
    record = [perf, "record", "-q", "-e", "cpu-clock", "-F", "997", "-o", data,
              "--"]
    if not perf or subprocess.run([*record, "true"], capture_output=True,
                                  check=False).returncode:
        print("skip: no perf that may be used here")
        return
    got = work.run(CROWD, "bt,hot=4", "--perf-map", before=record)
    check("a guest under perf", got.returncode == GOOD, got.stderr)
    named = subprocess.run([perf, "report", "-q", "--stdio", "-i", data,
                            "--sort", "symbol"], capture_output=True,
                           text=True, check=True).stdout
    check("perf names the guest's code",
          re.search(r"guest_kernel_0x[0-9a-f]+", named), named[:2000])


def task_ids(pid):
    return [int(p.name) for p in pathlib.Path(f"/proc/{pid}/task").iterdir()]


def rights_of(pid):
    """Of its mappings, once the translator has its own."""
    end = time.monotonic() + PATIENCE
    while True:
        rights = [line.split()[1] for line in
                  pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()]
        if "r-xs" in rights or time.monotonic() > end:
            return rights
        time.sleep(0.05)


def look_inside(work):
    run = subprocess.Popen(work.line(STATE, "bt,hot=4"), env=work.env,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        check("a guest that goes on", b"ready" in run.stdout.readline())
        text = pathlib.Path(
            f"/proc/{run.pid}/task/{run.pid}/children").read_text()
        pid = next(int(p) for p in text.split() if pathlib.Path(
            f"/proc/{p}/comm").read_text() == "atoll-vm\n")
        rights = rights_of(pid)
        check("no memory is written and run by one mapping",
              not [r for r in rights if "w" in r and "x" in r], rights)
        check("what runs translated code is there",
              [r for r in rights if r == "r-xs"], rights)
        check("what writes it is another mapping",
              [r for r in rights if r == "rw-s"], rights)
        for key, want in (("Seccomp", SECCOMP_FILTER), ("NoNewPrivs", "1")):
            has = {re.search(rf"^{key}:\s*(\S+)", pathlib.Path(
                f"/proc/{pid}/task/{t}/status").read_text(), re.M)[1]
                   for t in task_ids(pid)}
            check(f"{key} of all threads", has == {want}, has)
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=PATIENCE)


def look_at_auto(work):
    """Where kvm says that it can't be used, it is bt."""
    kvm = work.run(CHAINS, "kvm")
    report = work.folder + "/auto.json"
    got = work.run(CHAINS, "auto", "--report", "json:" + report)
    engine = json.loads(pathlib.Path(report).read_text())["engine"]
    check("auto takes kvm or bt, as the host has it",
          got.returncode == GOOD and
          engine == ("bt" if "error:" in kvm.stderr else "kvm"),
          (engine, kvm.stderr))


with tempfile.TemporaryDirectory() as place:
    for look in (look_at_stats, look_at_bound, look_at_lockstep, look_at_perf,
                 look_inside, look_at_auto):
        look(Work(place))
print("1 passed, 0 failed")
