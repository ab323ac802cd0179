#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Machines that share the pages that are equal: share.py ATOLLD ATOLL CACHE

Two of them do, and one beside them does not. Where the host's kernel has no
KSM, or we may not turn it on, nothing can be seen, and it is skipped.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "api"))
import harness  # noqa: E402
import small_guest  # noqa: E402
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atolld, atoll, cache = sys.argv[1:4]
KSM = pathlib.Path("/sys/kernel/mm/ksm")
SLOW = 240


def skip(why):
    print("SKIP:", why)
    sys.exit(77)


def merged(daemon):
    return {v["name"]: v["memory"]["merged_bytes"] for v in daemon.call(
        "GET", "/v1/figures").json["vms"] if "memory" in v}


def look(daemon, kernel, initrd):
    for name, shares in ("one", True), ("two", True), ("alone", False):
        answer = daemon.call("POST", "/v1/vms", {
            "name": name, "memory_bytes": 96 << 20, "engine": "bt",
            "share_memory": shares, "nics": [],
            "boot": {"kernel": kernel, "initrd": initrd,
                     "cmdline": "console=ttyS0 quiet"}})
        assert answer.status == 201, answer.body
        daemon.do("POST", f"/v1/vms/{name}/start")
    for name in "one", "two", "alone":
        daemon.console(name, b"GUEST-READY")
    got = harness.wait_for(
        lambda: (m := merged(daemon)) and min(
            m.get("one") or 0, m.get("two") or 0) > 8 << 20 and m, SLOW, 0.5)
    print("    ", {k: v and f"{v >> 20} MiB" for k, v in got.items()})
    check("two share what is equal", True)
    check("one that was not asked for does not", got["alone"] is None, got)
    host = daemon.call("GET", "/v1/figures").json["host"]["merged_bytes"]
    check("the host is spared memory", host > 8 << 20, host)
    text = daemon.call("GET", "/metrics").body
    check("metrics have it", b'atoll_vm_merged_bytes{vm="one"}' in text and
          b"atoll_host_merged_bytes" in text)
    shown = subprocess.run(
        [atoll, "vm", "show", "one", "--remote", "unix:" + daemon.socket],
        capture_output=True, text=True, check=False).stdout
    check("vm show has it", "share_memory" in shown, shown)
    for name in "one", "two", "alone":
        daemon.call("POST", f"/v1/vms/{name}/console", b"echo still-$((40+2))\n")
        daemon.console(name, b"still-42")
    check("all of them go on", True)


def main():
    if not (KSM / "run").exists():
        skip("the host's kernel has no KSM")
    if not os.access(KSM / "run", os.W_OK):
        skip("only root turns KSM on")
    if not shutil.which("busybox"):
        skip("there is no busybox")
    before = {name: (KSM / name).read_text() for name in
              ("run", "pages_to_scan", "sleep_millisecs")}
    folder = tempfile.mkdtemp(prefix="share-")
    daemon = harness.Daemon({"atolld": atolld})
    try:
        try:
            (KSM / "run").write_text("1")
        except OSError as e:
            skip(f"KSM can't be turned on: {e.strerror}")
        (KSM / "pages_to_scan").write_text("20000")
        (KSM / "sleep_millisecs").write_text("50")
        daemon.start()
        look(daemon, *small_guest.build(cache, folder))
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            try:
                (KSM / name).write_text(value)
            except OSError:
                pass


main()
sum_up()
