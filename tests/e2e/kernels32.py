#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""32-bit code at work: kernels32.py ATOLL DATA-FOLDER ENGINE CPUS...

Debian's kernels for i386, with and without PAE, and its kernel for amd64, each
with a busybox of i386 that computes what is known, and powers off. Only the
first two run 32-bit code in ring 0; the last one's programs are in
compatibility mode.

Without a registry that has the packages the test is skipped.
"""
import hashlib
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "nested"))
ATOLL, DATA, ENGINE = sys.argv[1:4]
EACH = sys.argv[4:]
SKIP, LIMIT_S = 77, 600
KERNELS = {"linux-image-686": "i686", "linux-image-686-pae": "i686",
           "linux-image-cloud-amd64": "x86_64"}
BLOCKS, BLOCK = 64, b"0123456789abcdef" * 1024

import debian as packages  # noqa: E402 tests/nested's
from initramfs import Cpio  # noqa: E402

# Strings and numbers, processes and pipes, files, and a page fault that kills.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo 1 > /proc/sys/kernel/printk
echo "MACHINE $(uname -m) $(grep -c ^processor /proc/cpuinfo)"
i=0
while [ $i -lt 64 ]; do cat /block; i=$((i + 1)); done > /tmp/file
echo "SHA $(sha256sum < /tmp/file)"
echo "GZIP $(gzip < /tmp/file | gunzip | md5sum)"
echo "AWK $(awk 'BEGIN { for (i = 1; i <= 20000; i++) s += 1 / i;
	printf "%.9f", s }')"
echo "SORT $(seq 3000 -1 1 | sort -n | md5sum)"
n=0
for i in $(seq 100); do n=$(expr $n + $i); done
echo "SUM $n"
find /bin | xargs ls -l > /dev/null && echo LIST
yes | head -n 100000 | wc -l
sh -c 'kill -SEGV $$'
echo "KILLED $?"
poweroff -f
"""


class I386(packages.Apt):
    """None of the host's architectures: lists of our own."""

    def __init__(self, cache):
        super().__init__(cache)
        self.options += ["-o", "APT::Architecture=i386",
                         "-o", "APT::Architectures::=i386"]
        try:
            self.own_lists()
        except subprocess.CalledProcessError:
            pass  # those of an earlier time may do

    def busybox(self):
        tree = os.path.join(self.cache, "busybox")
        if not os.path.isdir(tree):
            os.makedirs(tree + ".part", exist_ok=True)
            subprocess.run(["apt-get", *self.options, "-qq", "download",
                            "busybox-static"], check=True, cwd=tree + ".part")
            deb = next(pathlib.Path(tree + ".part").glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", deb, tree + ".part"],
                           check=True)
            os.rename(tree + ".part", tree)
        return os.path.join(tree, "bin", "busybox")


def everything():
    """Kernels by package, and the busybox."""
    cache = os.path.join(DATA, "kernels", "i386")
    os.makedirs(cache, exist_ok=True)
    try:
        apt = I386(cache)
        trees = {name: packages.kernel_tree(os.path.join(DATA, "kernels"))
                 if name == packages.KERNEL else apt.download(name, cache)
                 for name in KERNELS}
        return trees, apt.busybox()
    except (OSError, LookupError, subprocess.CalledProcessError) as e:
        print(f"skipped: cannot get the packages: {e}")
        sys.exit(SKIP)


def initrd(busybox, path):
    cpio = Cpio(path)
    cpio.console()
    for folder in ("proc", "tmp"):
        cpio.folder(folder)
    cpio.add("init", INIT.encode())
    cpio.add("block", BLOCK)
    cpio.add_file(busybox, "bin/busybox")
    cpio.close()


def answers(machine, cpus):
    data = BLOCK * BLOCKS
    total = sum(1 / i for i in range(1, 20001))
    lines = "".join(f"{i}\n" for i in range(1, 3001)).encode()
    return [f"MACHINE {machine} {cpus}",
            f"SHA {hashlib.sha256(data).hexdigest()}",
            f"GZIP {hashlib.md5(data).hexdigest()}",
            f"AWK {total:.9f}",
            f"SORT {hashlib.md5(lines).hexdigest()}",
            "SUM 5050", "LIST", "\n100000", "KILLED 139"]


def boot(name, tree, first, cpus):
    run = subprocess.run(
        [ATOLL, "run", "--engine", ENGINE, "--cpus", cpus, "--memory", "512M",
         "--net", "none", "--serial", "stdio", "--timeout", str(LIMIT_S),
         "--kernel", packages.kernel_image(tree), "--initrd", first,
         "--append", "console=ttyS0 quiet panic=-1"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
        timeout=LIMIT_S + 60)
    said = run.stdout.decode(errors="replace").replace("\r", "")
    missing = [a for a in answers(KERNELS[name], cpus) if a not in said]
    if run.returncode or missing:
        print(said, run.stderr.decode(errors="replace"), sep="")
        print(f"{name}, {cpus} vCPUs: status {run.returncode}, without "
              f"{missing}")
        return False
    print(f"{name}, {cpus} vCPUs: passed", flush=True)
    return True


TREES, BUSYBOX = everything()
FIRST = os.path.join(DATA, "kernels", "i386", "first.cpio")
initrd(BUSYBOX, FIRST)
RESULTS = [boot(name, tree, FIRST, number)
           for name, tree in TREES.items() for number in EACH]
print(f"{RESULTS.count(True)} passed, {RESULTS.count(False)} failed")
sys.exit(not all(RESULTS))
