#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian, as a person runs it: built when absent, booted, used, powered off.

Usage: debian.py ATOLL DATA-FOLDER ENGINE CPUS [report|shell|apt]...

  report  standard input is no terminal: the guest says who it is and ends
  shell   on a terminal: a prompt, disks, the network, poweroff
  apt     in the shell also: apt-get update
"""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

from person import (PROMPT, Console, TestDisk, environment, need_image,
                    use_apt)

ATOLL, DATA, ENGINE, CPUS = sys.argv[1:5]
PARTS = sys.argv[5:]
BOOT_S = 900
ENV = environment(DATA)


def options(*more):
    return [ATOLL, "run", "--engine", ENGINE, "--cpus", CPUS, *more,
            "debian:12"]


def report():
    figures = pathlib.Path(DATA) / f"report-{ENGINE}-{CPUS}.json"
    got = subprocess.run(
        options("--timeout", str(BOOT_S), "--report", f"json:{figures}"),
        env=ENV, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = got.stdout.decode(errors="replace")
    assert got.returncode == 0, (got.returncode, text[-3000:], got.stderr)
    for words in (r"guest: Debian GNU/Linux 12 .*, Linux 6\.1",
                  rf"cpus: {CPUS} x ", r"memory: 4\d{5} kB",
                  r"disk: vda, 4096 MiB", r"network: \w+ 10\.0\.2\.15/24",
                  r"gateway: 10\.0\.2\.2"):
        match = re.search(words, text)
        assert match, (words, text[-3000:])
        print(match.group())
    print({k: v for k, v in json.loads(figures.read_text()).items()
           if k in ("engine", "run_ms", "user_s", "instructions",
                    "first_output_ms", "overhead_bytes")})


def answer(server, text):
    conn, _ = server.accept()
    conn.sendall(text)
    conn.close()


def shell():
    disk = TestDisk(pathlib.Path(DATA) / f"disk-{ENGINE}-{CPUS}")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    threading.Thread(target=answer, args=(server, b"hello guest\n"),
                     daemon=True).start()

    start = time.monotonic()
    console = Console(options("--disk", f"{disk.path},serial=test"), ENV,
                      b"\x1dq")
    console.expect(PROMPT, BOOT_S)
    print(f"prompt after {time.monotonic() - start:.1f} s")
    assert console.command("nproc").split()[-1] == CPUS
    disk.use(console)
    got = console.command(f"cat </dev/tcp/10.0.2.2/{port}")
    assert "hello guest" in got, got
    console.command("ping -c 1 -W 5 10.0.2.2")
    if "apt" in PARTS:
        use_apt(console)
    console.type("poweroff\r")
    code = console.end(180)
    assert code == 0, (code, console.seen[-2000:])
    assert disk.path.read_bytes() == disk.bytes_after(), \
        "the disk differs from what was written"
    disk.path.unlink()


need_image(ATOLL, DATA)
if "report" in PARTS:
    report()
if "shell" in PARTS:
    shell()
print("1 passed, 0 failed")
