#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's other kernels: kernels.py ATOLL DATA-FOLDER ENGINE KERNEL CPUS...

KERNEL is a package, with "@backports" behind it if it is from there. It gets
an initial file system with the modules that the disk needs, and boots the disk
of the image that debian.py built, to the prompt of a login and off again.

Without a registry that has the package the test is skipped.
"""
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "nested"))
ATOLL, DATA, ENGINE, KERNEL = sys.argv[1:5]
EACH = sys.argv[5:]
SKIP = 77

import debian as packages  # noqa: E402 tests/nested's, before its namesake
from initramfs import Cpio  # noqa: E402
from debian_guest import BOOT_S, Guest, image_folder  # noqa: E402

MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "virtio_net", "ext4")
BUSYBOX = "/bin/busybox"
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for m in $(/bin/busybox cat /modules); do /bin/busybox insmod $m; done
for i in 1 2 3 4 5 6 7 8 9 10; do
	[ -b /dev/vda ] && break
	/bin/busybox sleep 1
done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""


class Backports(packages.Apt):
    """The suite is none of the host's: lists of our own, from where the
    host's come."""

    def __init__(self, cache):
        super().__init__(cache)
        text = packages.output_of(
            ["apt-get", "indextargets", "--format",
             "$(CREATED_BY) $(CODENAME) $(REPO_URI)"])
        archives = {line.split()[2] for line in text.splitlines()
                    if line.split()[:2] == ["Packages", "bookworm"]}
        if not archives:
            raise LookupError("the host's apt knows no archive of bookworm")
        listed = os.path.join(cache, "backports.list")
        with open(listed, "w", encoding="ascii") as f:
            for uri in sorted(archives):
                f.write(f"deb {uri} bookworm-backports main\n")
        self.options += ["-o", f"Dir::Etc::sourcelist={listed}",
                         "-o", "Dir::Etc::sourceparts=-"]
        self.own_lists()


def kernel_tree():
    cache = os.path.join(DATA, "kernels")
    os.makedirs(cache, exist_ok=True)
    name, _, suite = KERNEL.partition("@")
    cache = os.path.join(cache, suite or "stable")
    os.makedirs(cache, exist_ok=True)
    try:
        apt = Backports(cache) if suite else packages.Apt(cache)
        return apt.download(name, cache)
    except (OSError, LookupError, subprocess.CalledProcessError) as e:
        print(f"skipped: cannot get {KERNEL}: {e}")
        sys.exit(SKIP)


def initrd(tree, path):
    cpio = Cpio(path)
    cpio.console()
    for folder in ("root", "proc", "dev"):
        cpio.folder(folder)
    cpio.add("init", INIT.encode())
    cpio.add_file(BUSYBOX, "bin/busybox")
    # What is not a module is in the kernel itself.
    wanted = [m for m in MODULES if m in packages.module_files(tree)]
    loaded = packages.modules_in_order(tree, wanted)
    for name, data in loaded.items():
        cpio.add(f"lib/modules/{name}.ko", data)
    cpio.add("modules", "".join(f"/lib/modules/{name}.ko\n"
                                for name in loaded).encode())
    cpio.close()


def boot(tree, first, cpus):
    vmlinuz = next(pathlib.Path(tree, "boot").glob("vmlinuz-*"))
    release = vmlinuz.name.removeprefix("vmlinuz-")
    with Guest(ATOLL, DATA, ENGINE, cpus, kernel=vmlinuz,
               initrd=first) as guest:
        start = time.monotonic()
        guest.login()
        assert release in guest.command("uname -r")
        assert guest.command("nproc").split()[-1] == cpus
        state = guest.command("systemctl is-system-running --wait; true",
                              BOOT_S)
        print(f"{release}, {cpus} vCPUs: prompt after "
              f"{time.monotonic() - start:.0f} s, system {state.strip()}",
              flush=True)
        guest.power_off()


image_folder(ATOLL, DATA)
TREE = kernel_tree()
FIRST = os.path.join(DATA, "kernels", KERNEL + ".cpio")
initrd(TREE, FIRST)
for number in EACH:
    boot(TREE, FIRST, number)
print(f"{len(EACH)} passed, 0 failed")
