#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll host check: its JSON, its table, its exit codes."""

import json
import subprocess
import sys

ATOLL = sys.argv[1]
EXPECTED = {"cpu", "kvm", "engine", "memory", "huge-pages", "swap", "ksm",
            "clock", "io_uring", "userfaultfd", "tun", "cgroups",
            "user-namespaces", "landlock", "seccomp"}
passed, failed = 0, 0


def check(what, ok):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED: {what}")


def atoll(*args):
    return subprocess.run([ATOLL, "host", *args], text=True, timeout=120,
                          capture_output=True, check=False)


answer = atoll("check", "--output", "json")
found = json.loads(answer.stdout)
checks = {c["name"]: c for c in found["checks"]}
failures = [c for c in checks.values() if c["state"] == "failure"]
check("every check is there, once",
      set(checks) == EXPECTED and len(found["checks"]) == len(EXPECTED))
check("states are of three kinds",
      {c["state"] for c in checks.values()} <= {"ok", "warning", "failure"})
check("each says something", all(c["text"] for c in checks.values()))
check("kvm: a figure in nanoseconds, or why not",
      "ns an instruction" in checks["kvm"]["text"]
      or checks["kvm"]["state"] != "ok")
check("kvm: usable agrees with its state",
      checks["kvm"]["facts"]["usable"] == (checks["kvm"]["state"] == "ok"))
check("auto takes kvm exactly where it is usable",
      (found["engine"] == "kvm") == checks["kvm"]["facts"]["usable"])
check("exit code", answer.returncode == (1 if failures else 0))

table = atoll("check")
check("the table has a line for each",
      all(any(line.startswith(name + " ")
              for line in table.stdout.splitlines()) for name in EXPECTED))
check("the table's exit code", table.returncode == answer.returncode)
check("no colours without a terminal", "\033" not in table.stdout)

for bad in (["check", "--output", "xml"], ["chek"], ["check", "more"], []):
    answer = atoll(*bad)
    check(f"{bad} is refused with 2", answer.returncode == 2)
print(f"{passed} passed, {failed} failed")
sys.exit(failed != 0)
