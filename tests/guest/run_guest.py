#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run one guest program under one engine: run_guest.py ATOLL ENGINE CPUS ELF.

Exit 77 (skipped) when the host can't run the engine.
"""
import subprocess
import sys

GOOD = 1  # debug-exit of 0: (0 << 1) | 1
TRIPLE_FAULT = 16

atoll, engine, cpus, elf = sys.argv[1:5]
run = subprocess.run(
    [atoll, "run", "--engine", engine, "--cpus", cpus, "--memory", "64M",
     "--kernel", elf, "--device", "debug-exit", "--net", "none",
     "--serial", "stdio", "--timeout", "60"],
    stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
    check=False)
print(run.stdout, run.stderr, sep="")
if engine == "kvm" and "kvm" in run.stderr and run.returncode == 1 and \
        "hello" not in run.stdout and "error:" in run.stderr:
    print("no usable /dev/kvm here; tests/nested runs this list under kvm")
    sys.exit(77)
want = TRIPLE_FAULT if elf.endswith("triple.elf") else GOOD
if run.returncode != want:
    print(f"exit code {run.returncode}, not {want}")
    sys.exit(1)
