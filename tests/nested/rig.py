#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs in a machine that has real (emulated) nested virtualization.

QEMU's TCG emulates an AMD processor with SVM. Debian's own kernel boots in it
with kvm-amd.ko, and the tests run there as on a host with hardware
virtualization: tests/nested/README.md.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import debian
import initramfs

SKIP = 77
DISK_BYTES = 4 << 20
GUEST_MODULES = ["virtio_pci", "virtio_blk"]


def guest_files(work, tree, args):
    """What the guest inside boots from: kernel, initrd, and a disk of known
    content. The names they have in the machine, and the disk's hash."""
    initrd, disk = os.path.join(work, "initrd"), os.path.join(work, "disk")
    initramfs.build(initrd, tag="guest", tree=tree, init=args.init,
                    modules=GUEST_MODULES, programs=args.guest_program,
                    files=args.guest_file, tests=args.guest_test)
    data = random.randbytes(DISK_BYTES)
    with open(disk, "wb") as f:
        f.write(data)
    files = [f"{debian.kernel_image(tree)}=/guest/vmlinuz",
             f"{initrd}=/guest/initrd", f"{disk}=/guest/disk"]
    return files, hashlib.sha256(data).hexdigest()


def machine_command(qemu, kernel, initrd, args):
    # No -icount, which counts instructions: each time its count ran out, the
    # interrupt that a nested guest got last could come again (README.md).
    return [
        qemu, "-nodefaults", "-no-user-config", "-display", "none",
        "-accel", "tcg", "-cpu", args.cpu,
        "-machine", "q35", "-smp", str(args.cpus), "-m", args.memory,
        "-no-reboot", "-serial", "stdio", "-kernel", kernel,
        "-initrd", initrd, "-append",
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr " + args.append,
    ]


class Outcome:
    """What the lines of the console say."""

    def __init__(self, wanted):
        self.wanted = dict.fromkeys(wanted, 0)
        self.passed, self.failed, self.ended = 0, [], False

    def see(self, line):
        for text in self.wanted:
            self.wanted[text] += text in line
        # The console may hold part of another line before it.
        m = re.search(r"(nested|guest): (pass|fail|error|end)\b", line)
        if not m:
            return
        if m.group(2) in ("fail", "error"):
            self.failed.append(line)
        elif m.group(0) == "nested: end":
            self.ended = True
        elif m.group(0) == "nested: pass":
            self.passed += 1

    def close(self, tests):
        """Whether all is well; the words where it is not."""
        if not self.ended:
            self.failed.append("the machine did not come to its end")
        elif self.passed + len(self.failed) < len(tests):
            self.failed.append("a test said nothing")
        self.failed += [f"the console never showed {text!r}"
                        for text, seen in self.wanted.items() if not seen]
        for words in self.failed:
            print(f"rig: {words}")
        return not self.failed


def run_machine(command, outcome, timeout):
    begin = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          errors="replace") as machine:
        watchdog = threading.Timer(timeout, machine.kill)
        watchdog.start()
        for line in machine.stdout:
            line = line.rstrip()
            # The model has features that TCG has not: known, and no matter.
            if "TCG doesn't support requested feature" in line:
                continue
            print(f"[{time.monotonic() - begin:6.2f}] {line}", flush=True)
            outcome.see(line)
        watchdog.cancel()


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__)
    add = p.add_argument
    add("--cache", required=True,
        help="folder for Debian's kernel; kept between runs")
    add("--init", required=True, help="the static init")
    add("--program", action="append", default=[], metavar="FILE[=NAME]",
        help="a program to put in, with its libraries")
    add("--file", action="append", default=[], metavar="FILE[=NAME]")
    add("--test", action="append", default=[],
        metavar="'NAME SECONDS PROGRAM ARGUMENT...'")
    add("--guest-program", action="append", default=[], metavar="FILE[=NAME]",
        help="the same for the guest inside the machine")
    add("--guest-file", action="append", default=[], metavar="FILE[=NAME]")
    add("--guest-test", action="append", default=[])
    add("--expect", action="append", default=[], metavar="TEXT",
        help="a text that the console must show; SHA256 stands for the hash "
             "of the guest's disk")
    add("--setting", action="append", default=[], metavar="'PATH VALUE'",
        help="what to write into the machine's /sys or /proc first")
    add("--kvm", default="kvm_amd", metavar="'kvm_amd [OPTION]...'")
    add("--cpu", default="EPYC,+svm,+npt", help="QEMU's processor model")
    # More than one: README.md says why not.
    add("--cpus", type=int, default=1)
    add("--memory", default="1G")
    add("--append", default="", help="more of the kernel's command line")
    add("--timeout", type=float, default=1150, help="seconds")
    return p.parse_args()


def main():
    args = parse_arguments()
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        print("rig: skipped: qemu-system-x86_64 is not installed")
        return SKIP
    tree = debian.kernel_tree(args.cache)
    with tempfile.TemporaryDirectory(dir=args.cache) as work:
        files, sha256 = [], ""
        if args.guest_test:
            files, sha256 = guest_files(work, tree, args)
        initrd = os.path.join(work, "initramfs")
        initramfs.build(initrd, tag="nested", tree=tree, init=args.init,
                        modules=[args.kvm], programs=args.program,
                        files=args.file + files, tests=args.test,
                        settings=args.setting)
        command = machine_command(qemu, debian.kernel_image(tree), initrd,
                                  args)
        wanted = [t.replace("SHA256", sha256) for t in args.expect]
        outcome = Outcome(wanted)
        run_machine(command, outcome, args.timeout)
    well = outcome.close(args.test)
    print(f"{outcome.passed} passed, {len(outcome.failed)} failed")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
