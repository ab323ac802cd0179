# SPDX-License-Identifier: Apache-2.0
"""A small guest that talks on a network: Debian's kernel, busybox, and an init
that asks for an address and then does what its console says, line by line."""
import os
import pathlib
import shutil
import struct
import sys

NESTED = pathlib.Path(__file__).resolve().parent.parent / "nested"
sys.path.insert(0, str(NESTED))
import debian  # noqa: E402
import initramfs  # noqa: E402

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
MODULES = ["virtio_pci", "virtio_net"]

# Does what the console says, line by line, and tells how each line went.
OBEY = """echo GUEST-READY
while read -r line; do
	case $line in off) poweroff -f ;; esac
	eval "$line" 2>&1
	echo "=$?="
done
poweroff -f
"""

# What was typed is not echoed, so that only answers are on the console.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for m in $(cat /modules); do insmod $m; done
stty -echo 2>/dev/null
echo 1 > /proc/sys/kernel/printk
ip link set lo up
ip link set eth0 up
for word in $(cat /proc/cmdline); do
	case $word in
	small.address=*) ip addr add ${word#*=} dev eth0 ;;
	small.dhcp) udhcpc -q -t 20 -T 1 -i eth0 -s /udhcpc >/dev/null 2>&1 ;;
	small.web=*) mkdir -p /web; echo "${word#*=}" > /web/index.html
		httpd -p 80 -h /web ;;
	esac
done
echo "ADDRESS $(ip -4 -o addr show dev eth0 | awk '{print $4}')"
""" + OBEY

UDHCPC = """#!/bin/busybox sh
case $1 in
bound|renew)
	ip addr flush dev $interface
	ip addr add $ip/$mask dev $interface
	[ -z "$mtu" ] || ip link set $interface mtu $mtu
	[ -z "$router" ] || ip route add default via $router
	: > /etc/resolv.conf
	[ -z "$domain" ] || echo "search $domain" >> /etc/resolv.conf
	for d in $dns; do echo "nameserver $d" >> /etc/resolv.conf; done
	;;
esac
"""


def announcement(mac, address):
    """A gratuitous ARP request: who has the address that is mine?"""
    mac = bytes.fromhex(mac.replace(":", ""))
    ip = bytes(int(b) for b in address.split("."))
    return struct.pack(">6s6sHHHBBH6s4s6s4s", b"\xff" * 6, mac, 0x806, 1, 0x800,
                       6, 4, 1, mac, ip, bytes(6), ip)


def big_file(mib):
    """What to type for /big on its web server; it says BIG-FILE then, and how
    many bytes it has."""
    return (f"dd if=/dev/zero of=/web/big bs=1M count={mib} 2>/dev/null; "
            "echo BIG-FI''LE $(stat -c %s /web/big)")


def build(cache, folder, modules=None, files=None, kernel=debian.KERNEL):
    """Kernel and initial file system: their paths. files: what else is in it,
    name: file. kernel: another of Debian's packages, with a cache of its
    own."""
    tree = debian.kernel_tree(str(cache), kernel)
    path = os.path.join(folder, "small.cpio")
    cpio = initramfs.Cpio(path)
    cpio.console()
    for name in ("proc", "sys", "etc", "tmp", "web"):
        cpio.folder(name)
    cpio.add("init", INIT.encode())
    cpio.add("udhcpc", UDHCPC.encode())
    cpio.add_file(BUSYBOX, "bin/busybox")
    for name, source in (files or {}).items():
        cpio.add_file(source, name)
    names = []
    for name, data in debian.modules_in_order(
            tree, modules or MODULES).items():
        cpio.add(f"lib/{name}.ko", data)
        names.append(f"/lib/{name}.ko")
    cpio.add("modules", "\n".join(names).encode() + b"\n")
    cpio.close()
    return debian.kernel_image(tree), path
