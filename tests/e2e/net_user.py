#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll-net from a guest's side: a real Linux TCP/IP stack on a tap device in
a network namespace, bridged to the cable with all offloads on.

Usage: net_user.py ATOLL_NET
"""
import array
import ctypes
import fcntl
import hashlib
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
TUNSETVNETHDRSZ = 0x400454D8
TUNSETOFFLOAD = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
HEADER = 12
FRAME_MAX = 65536 + 64
PATIENCE = 60  # seconds, on a machine with much else to do

passed = failed = skipped = 0


def check(name, ok, why=""):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
    print(f"{'ok' if ok else 'FAILED'}: {name}{': ' + why if why else ''}",
          flush=True)


def skip(name, why):
    global skipped
    skipped += 1
    print(f"skipped: {name}: {why}", flush=True)


def start_net(program, *options):
    """(process, our end of the cable, what it said when it was ready)"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    net = subprocess.Popen(
        [program, "--link-fd", str(theirs.fileno()), "--ready-fd",
         str(writer), *options], pass_fds=[theirs.fileno(), writer],
        # A sanitizer's search for leaks needs calls that the filter forbids.
        env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
    theirs.close()
    os.close(writer)
    said = b""
    while piece := os.read(reader, 4096):
        said += piece
    os.close(reader)
    return net, ours, said.decode()


def internet_checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(source, target, sport, dport, payload,
              mac=b"\xff\xff\xff\xff\xff\xff"):
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17,
                       0, socket.inet_aton(source), socket.inet_aton(target))
    head = head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
    return mac + b"\x02\0\0\0\0\1" + b"\x08\0" + head + udp


def dhcp_discover():
    options = b"\x63\x82\x53\x63" + b"\x35\x01\x01" + b"\xff"
    bootp = struct.pack("!BBBBIHH4s4s4s4s16s64s128s", 1, 1, 6, 0, 0x1234, 0,
                        0, b"", b"", b"", b"", b"\x02\0\0\0\0\1", b"", b"")
    return udp_frame("0.0.0.0", "255.255.255.255", 68, 67, bootp + options)


def receive(cable, timeout=PATIENCE):
    if not select.select([cable], [], [], timeout)[0]:
        return None
    return cable.recv(HEADER + FRAME_MAX)


def test_dhcp(program):
    net, cable, said = start_net(program)
    check("ready", said == "ok\n", repr(said))
    cable.send(bytes(HEADER) + dhcp_discover())
    frame = receive(cable)
    offered = frame and socket.inet_ntoa(frame[HEADER + 58:HEADER + 62])
    check("DHCP offers 10.0.2.15", offered == "10.0.2.15", str(offered))
    # Garbage of every length, with every kind of header, is survived.
    noise = os.urandom(3000)
    for n in range(600):
        head = bytes([n & 3, n % 7]) + noise[n:n + 10]
        cable.send(head + noise[:n * 2])
        cable.send(head + dhcp_discover()[:n])
    while receive(cable, 0.2):
        pass
    cable.send(bytes(HEADER) + dhcp_discover())
    check("garbage frames are survived", receive(cable) is not None)
    status = open(f"/proc/{net.pid}/status").read()
    check("no new privileges, seccomp filter",
          "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status)
    cable.close()
    check("ends with the cable", net.wait(PATIENCE) == 0)


def test_bad_options(program):
    for spec in ("1:2:3:4", "0:22", "70000:22", "x:22", "1.2.3:2:22",
                 "2222:22/sctp", "", "22"):
        net, cable, said = start_net(program, "--publish", spec)
        check(f"publish {spec!r} is refused",
              net.wait(PATIENCE) == 2 and said.startswith("2\n"), said.strip())
        cable.close()
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    net, cable, said = start_net(program, "--publish", f"{port}:22")
    check("a port in use is refused",
          net.wait(PATIENCE) == 1 and "in use" in said, said.strip())
    cable.close()


class Guest:
    """A network namespace with a tap bridged to the cable; run() is in it."""

    def __init__(self, cable):
        self.cable = cable
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.libc = libc
        try:
            self.tap = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self.tap, TUNSETIFF, struct.pack(
                "16sH22x", b"tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
            fcntl.ioctl(self.tap, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
            fcntl.ioctl(self.tap, TUNSETOFFLOAD,
                        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
            for command in ("ip link set lo up", "ip link set tap0 up",
                            "ip addr add 10.0.2.15/24 dev tap0",
                            "ip route add default via 10.0.2.2"):
                subprocess.run(command.split(), check=True)
        finally:
            libc.setns(home, 0)
            os.close(home)
        threading.Thread(target=self.pump, args=(
            self.tap, lambda b: self.cable.send(b)), daemon=True).start()
        threading.Thread(target=self.pump, args=(
            self.cable.fileno(), lambda b: os.write(self.tap, b)),
            daemon=True).start()

    def pump(self, source, sink):
        self.largest = 0
        while True:
            try:
                frame = os.read(source, HEADER + FRAME_MAX)
                if not frame:
                    return
                if source == self.tap:
                    self.largest = max(self.largest, len(frame))
                sink(frame)
            except OSError:
                return

    def socket(self, *kind):
        """A socket made inside belongs there wherever it is used."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.libc.setns(self.namespace, 0)
        try:
            return socket.socket(*kind)
        finally:
            self.libc.setns(home, 0)
            os.close(home)


def send_all_and_close(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def receive_all(sock):
    parts = []
    while piece := sock.recv(1 << 16):
        parts.append(piece)
    return b"".join(parts)


def test_transfers(guest, published):
    blob = os.urandom(1 << 20) * 16
    server = socket.create_server(("127.0.0.1", 0))
    inside = guest.socket()
    inside.settimeout(PATIENCE)
    inside.connect(("10.0.2.2", server.getsockname()[1]))
    host, _ = server.accept()
    host.settimeout(PATIENCE)

    start = time.monotonic()
    threading.Thread(target=send_all_and_close, args=(inside, blob)).start()
    got = receive_all(host)
    up = time.monotonic() - start
    check("16 MiB out of the guest", got == blob,
          f"{len(blob) / up / 1e6:.0f} MB/s, largest frame {guest.largest}")
    # How large is the sender's choice, by how soon the answers come.
    check("frames larger than the MTU cross whole", guest.largest > 2000)
    start = time.monotonic()
    threading.Thread(target=send_all_and_close, args=(host, blob)).start()
    got = receive_all(inside)
    down = time.monotonic() - start
    check("16 MiB into the guest", got == blob,
          f"{len(blob) / down / 1e6:.0f} MB/s")

    listener = guest.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", 22))
    listener.listen()
    outside = socket.create_connection(("127.0.0.1", published),
                                       PATIENCE)
    listener.settimeout(PATIENCE)
    conn, _ = listener.accept()
    outside.sendall(b"hello")
    check("a published TCP port", conn.recv(5) == b"hello")

    receiver = guest.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 53))
    receiver.settimeout(PATIENCE)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.settimeout(PATIENCE)
    sender.sendto(b"question", ("127.0.0.1", published))
    data, peer = receiver.recvfrom(100)
    receiver.sendto(b"answer", peer)
    check("a published UDP port, both ways",
          data == b"question" and sender.recv(100) == b"answer")

    ping = guest.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    ping.settimeout(PATIENCE)
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    echo = echo[:2] + struct.pack("!H", internet_checksum(echo)) + echo[4:]
    ping.sendto(echo, ("10.0.2.2", 0))
    check("the router answers an echo", ping.recv(100)[20] == 0)


def free_port():
    """A port free for both TCP and UDP."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(("127.0.0.1", port))
            return port
        except OSError:
            continue
        finally:
            tcp.close()
            udp.close()


def main():
    program = sys.argv[1]
    test_dhcp(program)
    test_bad_options(program)
    port = free_port()
    net, cable, said = start_net(
        program, "--publish", f"127.0.0.1:{port}:22", "--publish",
        f"{port}:53/udp")
    try:
        guest = Guest(cable)
    except OSError as why:
        skip("transfers through a tap", str(why))
    else:
        test_transfers(guest, port)
    cable.shutdown(socket.SHUT_RDWR)
    cable.close()
    check("ends with the cable", net.wait(PATIENCE) == 0)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed != 0)


main()
