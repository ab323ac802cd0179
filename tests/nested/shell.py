#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Debian shell through `atoll run --engine auto` in the machine with nested
virtualization: typed at its console, which is that of the guest inside.

Usage: shell.py CACHE DATA-FOLDER INIT CPUS ATOLL ATOLL-VM ATOLL-NET
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import debian
import initramfs
import rig

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
from person import (PROMPT, Console, TestDisk, environment,  # noqa: E402
                    need_image, use_apt)

CACHE, DATA, INIT, CPUS, ATOLL, ATOLL_VM, ATOLL_NET = sys.argv[1:8]
# Many times what an idle machine takes.
BOOT_S = 2400
LIMIT_S = 5000
CPU = "EPYC,+svm,+npt,-avx,-avx2,-fma,-f16c"
MODULES = ["kvm_amd", "virtio_pci", "virtio_blk", "virtio_net"]

# noxsave: README.md. The rest: each byte on the console and each barrier costs
# much where a processor is emulated twice.
WORDS = "noxsave quiet mitigations=off systemd.show_status=no"
SCRIPT = f"""set -eu
/bin/busybox --install -s /bin
mkdir -p /data /etc
mount -t ext4 /dev/vda /data
ifconfig lo up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
echo nameserver 10.0.2.3 >/etc/resolv.conf
export XDG_DATA_HOME=/data TERM=xterm
code=0
atoll run --engine auto --cpus {CPUS} --append "{WORDS}" \\
	--report json:/data/report --disk /data/disk,serial=test debian:12 ||
	code=$?
cat /data/report
echo
sha256sum /data/disk
umount /data
exit $code
"""


def data_disk(work):
    """A file system with the image, as `atoll image build` left it, and a
    second disk for the guest."""
    root, disk = os.path.join(work, "root"), os.path.join(work, "disk")
    os.makedirs(os.path.join(root, "atoll"))
    second = TestDisk(os.path.join(root, "disk"))
    # Files of images are never written: links are as good as copies.
    shutil.copytree(os.path.join(DATA, "atoll", "images"),
                    os.path.join(root, "atoll", "images"), symlinks=True,
                    copy_function=os.link)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, "12G"],
                   check=True, env=dict(os.environ, PATH=os.environ["PATH"] +
                                        ":/usr/sbin:/sbin"))
    return disk, second


def machine(qemu, work, disk):
    tree = debian.kernel_tree(CACHE)
    initrd, script = os.path.join(work, "initrd"), os.path.join(work, "script")
    pathlib.Path(script).write_text(SCRIPT, encoding="ascii")
    busybox = shutil.which("busybox")
    initramfs.build(initrd, tag="nested", tree=tree, init=INIT,
                    modules=MODULES, files=[f"{script}=/script"],
                    programs=[f"{ATOLL}=/bin/atoll",
                              f"{ATOLL_VM}=/bin/atoll-vm",
                              f"{ATOLL_NET}=/bin/atoll-net",
                              f"{busybox}=/bin/busybox"],
                    tests=[f"debian {LIMIT_S} /bin/busybox sh /script"],
                    settings=["/sys/kernel/mm/transparent_hugepage/"
                              "shmem_enabled always"])
    how = argparse.Namespace(cpu=CPU, cpus=1, memory="2G", append="")
    return [*rig.machine_command(qemu, debian.kernel_image(tree), initrd, how),
            "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe",
            "-netdev", "user,id=net",
            "-device", "virtio-net-pci,netdev=net,romfile="]


def use(console, second):
    start = time.monotonic()
    console.expect(PROMPT, BOOT_S)
    print(f"prompt after {time.monotonic() - start:.1f} s", flush=True)
    assert console.command("nproc").split()[-1] == CPUS
    got = console.command("systemd-detect-virt; cat /sys/class/dmi/id/"
                          "sys_vendor 2>/dev/null; uname -srm")
    print(got.strip(), flush=True)
    second.use(console)
    use_apt(console, 2400)
    console.type("poweroff\r")
    console.expect(rb'"engine": *"kvm"', 300)
    want = hashlib.sha256(second.bytes_after()).hexdigest()
    console.expect(want.encode() + rb"  /data/disk", 60)
    console.expect(rb"nested: pass debian", 60)
    assert console.end(60) == 0


def main():
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        print("shell: skipped: qemu-system-x86_64 is not installed")
        return rig.SKIP
    need_image(ATOLL, DATA)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        disk, second = data_disk(work)
        console = Console(machine(qemu, work, disk), environment(DATA),
                          log=os.path.join(DATA, f"console-kvm-{CPUS}"))
        try:
            use(console, second)
        finally:
            console.kill()
    print("1 passed, 0 failed")
    return 0


sys.exit(main())
