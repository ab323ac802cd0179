#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/quickstart.md, done: the commands of its transcript, and the output
that it shows.

Usage: quickstart.py ATOLLD ATOLL small CACHE | debian DATA

In a transcript "$ " begins a command, "root@NAME:~# " a line typed into the
console that the command before opened, "..." stands for anything. With small
the machines are a kernel and busybox in place of Debian.
"""
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402

import yaml  # noqa: E402

HEADING = "## Three machines that talk to each other"
COMMANDS_MAX = 9
BOOT = 600  # seconds: Debian on a machine with much else to do


def transcript():
    """[(command, [(line typed, [lines shown])], [lines shown])]"""
    text = (ROOT / "docs/quickstart.md").read_text()
    part = text.partition(HEADING)[2].partition("\n## ")[0]
    steps = []
    for block in re.findall(r"```\n(.*?)```", part, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], [], []))
            elif m := re.match(r"root@\w+:~# (.+)", line):
                steps[-1][1].append((m[1], []))
            elif steps[-1][1]:
                steps[-1][1][-1][1].append(line)
            else:
                steps[-1][2].append(line)
    return steps


def pattern(lines):
    """What is shown, with room for what differs from run to run."""
    out = ""
    for line in lines:
        if line.strip() == "...":
            out += r"(?:.*\n)*?"
            continue
        words = [r"[^\n]*".join(re.sub(r"10\\\.77\\\.\d+", r"10\\.77\\.\\d+",
                                       re.escape(p))
                                for p in w.split("..."))
                 for w in line.split()]
        out += r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t\r]*\n"
    return out


class Console:
    """atoll console NAME with its ends in our hands."""

    def __init__(self, argv, env):
        self.process = subprocess.Popen(
            argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        self.text = b""
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.text += piece

    def plain(self):
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "",
                      self.text.decode(errors="replace"))
        return text.replace("\r", "") + "\n"

    def wait(self, regex, seconds, after=0):
        end = time.monotonic() + seconds
        while not (m := re.search(regex, self.plain()[after:])):
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(
                    f"never seen: {regex}\n{self.plain()[-3000:]}")
            time.sleep(0.05)
        return m

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()


class Run:
    def __init__(self, daemon, atoll, folder):
        self.d = daemon
        self.folder = folder
        self.env = dict(daemon.env)
        bin_ = daemon.work / "bin"
        bin_.mkdir()
        (bin_ / "atoll").symlink_to(atoll)
        self.env["PATH"] = f"{bin_}:{self.env['PATH']}"

    def console(self, command, typed):
        c = Console(command.split("#")[0].split(), self.env)
        try:
            c.wait(r"root@\w+:~#|GUEST-READY", BOOT)
            for line, shown in typed:
                before = len(c.plain())
                c.type(line)
                c.wait(pattern(shown), BOOT, before - 1)
                print(f"ok: in the guest: {line}", flush=True)
        finally:
            c.close()

    def command(self, command, typed, shown):
        if typed:
            self.console(command, typed)
            return
        r = subprocess.run(command, shell=True, env=self.env, text=True,
                           cwd=self.folder, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=BOOT,
                           check=False)
        assert r.returncode == 0, (command, r.stdout)
        assert re.fullmatch(pattern(shown), r.stdout), (
            f"{command}\nshows\n{r.stdout}\nand not\n" + "\n".join(shown))
        print(f"ok: {command}", flush=True)


def small_stack(folder, cache):
    """docs/shop.yaml with other machines, in a folder of its own."""
    kernel, initrd = small_guest.build(cache, folder)
    doc = yaml.safe_load((ROOT / "docs/shop.yaml").read_text())
    for m in doc["machines"]:
        del m["image"]
        m["memory"] = "128M"
        m["engine"] = "bt"
        m["boot"] = {"kernel": kernel, "initrd": initrd,
                     "cmdline": "console=ttyS0 quiet small.dhcp"}
    return doc


def main():
    atolld, atoll, mode, where = sys.argv[1:5]
    steps = transcript()
    once = ("make", "build/src/cli/atoll image build", "alias")
    assert len(steps) <= COMMANDS_MAX, "more commands than were promised"
    d = harness.Daemon({"atolld": os.path.abspath(atolld)})
    folder = d.work / "clone"
    (folder / "docs").mkdir(parents=True)
    if mode == "small":
        doc = small_stack(str(d.work), where)
    else:
        doc = yaml.safe_load((ROOT / "docs/shop.yaml").read_text())
        d.env["XDG_DATA_HOME"] = os.path.abspath(where)
    # The port of the document may be in use where the test runs.
    doc["machines"][2]["nics"][0]["publish"] = [f"{harness.free_port()}:80"]
    (folder / "docs/shop.yaml").write_text(yaml.safe_dump(doc))
    d.start()
    try:
        run = Run(d, os.path.abspath(atoll), folder)
        if mode == "debian":
            subprocess.run([atoll, "image", "build", "debian:12"],
                           env=run.env, check=True, timeout=900)
        for command, typed, shown in steps:
            if not command.startswith(once):
                run.command(command, typed, shown)
        assert d.call("GET", "/v1/vms").json["vms"] == []
        assert d.call("GET", "/v1/networks").json["networks"] == []
    finally:
        d.close()
    print(f"{len(steps)} commands")


if __name__ == "__main__":
    main()
