#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel with protection keys: keys.py ATOLL DATA-FOLDER INIT.

INIT is the only program of the guest (keys_init.c).
"""
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "nested"))
ATOLL, DATA, INIT = sys.argv[1:4]
LIMIT_S = 240

from initramfs import Cpio  # noqa: E402
from debian_guest import image_folder  # noqa: E402

KERNEL = image_folder(ATOLL, DATA) / "vmlinuz"
FAILED = 0
with tempfile.NamedTemporaryFile() as archive:
    cpio = Cpio(archive.name)
    cpio.console()
    cpio.add_file(INIT, "init")
    cpio.close()
    for engine, cpus in (("bt", 1), ("bt", 2), ("interp", 1)):
        run = subprocess.run(
            [ATOLL, "run", "--engine", engine, "--cpus", str(cpus),
             "--cpu", "max", "--memory", "256M", "--kernel", str(KERNEL),
             "--initrd", archive.name, "--append", "console=ttyS0 quiet",
             "--net", "none", "--timeout", str(LIMIT_S)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LIMIT_S + 30, check=False)
        good = "keys: 0 failed" in run.stdout
        FAILED += not good
        print(f"{'ok  ' if good else 'FAIL'} {engine}, {cpus} vCPUs")
        if not good:
            print(run.stdout, run.stderr)
print(f"{3 - FAILED} passed, {FAILED} failed")
sys.exit(1 if FAILED else 0)
