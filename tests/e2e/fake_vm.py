#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for atoll-vm: speaks the control protocol, and plays a guest
that the kernel command line describes, one word an act:

  say=TEXT  lines=N  echo=N  exit=CODE:CAUSE  crash  hang  requests=N  stderr=TEXT
"""
import json
import os
import select
import socket
import struct
import sys
import time


def exactly(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def receive(sock):
    head, fds, _, _ = socket.recv_fds(sock, 1, 128)
    if not head:
        return None, []
    head += exactly(sock, 7)
    length, count = struct.unpack("<II", head)
    assert count == len(fds), (count, fds)
    return json.loads(exactly(sock, length)), fds


def send(sock, message):
    data = json.dumps(message).encode()
    sock.sendall(struct.pack("<II", len(data), 0) + data)


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


def stop(sock, code, cause):
    send(sock, {"event": "stopped", "cause": cause, "code": code,
                "words": f"the guest ended: {cause}" if code else "",
                "hint": "look closer" if code else ""})
    os._exit(0)


def main():
    sock = socket.socket(fileno=int(sys.argv[sys.argv.index(
        "--control-fd") + 1]))
    message, fds = receive(sock)
    machine = message["machine"]
    port = machine["serials"][0] if machine["serials"] else {}
    tty_in = fds[port["in"]] if "in" in port else -1
    tty_out = fds[port["out"]] if "out" in port else -1
    send(sock, {"event": "started"})
    if "report" in machine:
        write_all(fds[machine["report"]], json.dumps(
            {"engine": machine["engine"], "machine": machine}).encode())
    for word in machine["boot"].get("cmdline", "").split():
        act, _, value = word.partition("=")
        if act == "say":
            write_all(tty_out, value.encode() + b"\r\n")
        elif act == "lines":
            for i in range(int(value)):
                write_all(tty_out, b"line %d of a fast guest\r\n" % i)
        elif act == "echo":
            left = int(value)
            while left > 0:
                data = os.read(tty_in, left)
                if not data:
                    write_all(tty_out, b"<end>")
                    break
                write_all(tty_out, data)
                left -= len(data)
        elif act == "stderr":
            os.write(2, value.encode() + b"\n")
        elif act == "requests":
            for _ in range(int(value)):
                message, _ = receive(sock)
                if message is None:
                    os._exit(3)
                write_all(tty_out, json.dumps(message).encode() + b"\r\n")
                if message["op"] == "quit":
                    stop(sock, 19, "quit")
                if message["op"] == "powerdown":
                    stop(sock, 0, "power-off")
        elif act == "crash":
            os.abort()
        elif act == "hang":
            time.sleep(3600)
        elif act == "exit":
            code, _, cause = value.partition(":")
            stop(sock, int(code), cause)
    stop(sock, 0, "power-off")


main()
