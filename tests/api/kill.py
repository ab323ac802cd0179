#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon killed at random moments of many mixed operations: no machine or
network lost or made up, no process left over, no disk half made, the registry
whole, every answer that was given true.

Usage: kill.py ATOLLD ATOLL GUEST OPERATIONS [SEED]
"""
import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import harness
from harness import wait_for

PROGRAMS = harness.programs(sys.argv[1:4])
OPERATIONS = int(sys.argv[4])
SEED = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 32)
NAMES = [f"m{i}" for i in range(8)]
NETWORKS = [f"n{i}" for i in range(3)]
VERBS = ("start", "stop", "kill", "restart", "pause", "resume", "reset",
         "suspend")
CUT = (OSError, http.client.HTTPException, ValueError)


class Ledger:
    """What answers promised: True there, False not there, None either."""

    def __init__(self):
        self.there = {name: False for name in NAMES + NETWORKS}
        self.disks = 0  # that were looked at


def make_image(d):
    """That machines lie on, or copy: what is on its disk."""
    store = d.work / "data/atoll/images"
    folder = store / ("ab" * 32)
    folder.mkdir(parents=True)
    (store / "names").mkdir()
    (store / "names/tiny:1").symlink_to(folder)
    shutil.copy(PROGRAMS["guest"], folder / "vmlinuz")
    (folder / "initrd").write_bytes(b"initrd")
    (folder / "manifest.json").write_text(
        json.dumps({"id": "ab" * 32, "cmdline": ""}))
    content = bytes(range(256)) * (16 << 10)
    (folder / "disk.raw").write_bytes(content)
    return content


def operate_network(d, ledger, random_):
    name = random_.choice(NETWORKS)
    was, ledger.there[name] = ledger.there[name], None
    if random_.random() < 0.6:
        got = d.call("POST", "/v1/networks", {"name": name, "isolated": True})
        assert got.status in (201, 409), got.body
        ledger.there[name] = True if got.status == 201 else was
    else:
        got = d.call("DELETE", f"/v1/networks/{name}")
        assert got.status in (204, 404), got.body
        ledger.there[name] = False


def operate(d, ledger, random_):
    name = random_.choice(NAMES)
    what = random_.random()
    if what < 0.06:
        operate_network(d, ledger, random_)
    elif what < 0.3:
        was, ledger.there[name] = ledger.there[name], None
        disk = {"image": "tiny:1", "boot": {}} if what < 0.18 else {}
        if what < 0.12:
            disk["full_copy"] = True
        got = d.define(name, stop_timeout_s=2, **disk)
        assert got.status in (201, 409), got.body
        # 409 may be of one whose deletion waits for its turn.
        ledger.there[name] = True if got.status == 201 else was
    elif what < 0.4:
        ledger.there[name] = None
        got = d.call("DELETE", f"/v1/vms/{name}?force=true")
        assert got.status in (202, 404), got.body
        if got.status == 404:
            ledger.there[name] = False
    elif what < 0.5:
        got = d.call("PATCH", f"/v1/vms/{name}",
                     {"description": str(random_.random())})
        assert got.status in (200, 404), got.body
    elif what < 0.56:
        got = d.call("POST", f"/v1/vms/{name}/snapshots",
                     {"name": f"s{random_.randrange(4)}"})
        assert got.status in (202, 404, 409), got.body
    elif what < 0.6:
        got = d.call("POST", f"/v1/vms/{name}/fork",
                     {"disposable": random_.random() < 0.5})
        assert got.status in (202, 404, 409), got.body
    else:
        verb = random_.choice(VERBS)
        body = {"force": True} if verb in ("stop", "restart") else None
        got = d.call("POST", f"/v1/vms/{name}/{verb}", body)
        assert got.status in (202, 404), got.body


def settle(d):
    """Until every queue is empty."""
    wait_for(lambda: all(v["task"] is None and v["state"] != "starting"
                         for v in d.call("GET", "/v1/vms").json["vms"]))


def check_disk(d, vm, content):
    """Of a machine of the image that does not run: whole, or none at all, and
    there if the task said so. How many it has."""
    folder = d.state / "machines" / vm["id"]
    layer, copy = folder / "root.qcow2", folder / "root.raw"
    if copy.exists():
        assert copy.read_bytes() == content, copy
    if layer.exists():
        subprocess.run([PROGRAMS["atoll"], "disk", "check", layer],
                       check=True, stdout=subprocess.DEVNULL)
    tasks = d.call("GET", f"/v1/tasks?vm={vm['id']}&limit=1000").json["tasks"]
    if any(t["kind"] == "prepare" and t["state"] == "succeeded"
           for t in tasks):
        assert layer.exists() or copy.exists(), sorted(folder.iterdir())
    return layer.exists() + copy.exists()


def check(d, ledger, content):
    vms = {v["name"]: v for v in d.call("GET", "/v1/vms").json["vms"]}
    networks = {n["name"] for n in
                d.call("GET", "/v1/networks").json["networks"]}
    for name, there in ledger.there.items():
        is_there = name in vms or name in networks
        if there is not None:
            assert is_there == there, (name, there, sorted(vms), networks)
        ledger.there[name] = is_there
    for vm in vms.values():
        if vm["spec"].get("image") and vm["state"] == "stopped":
            ledger.disks += check_disk(d, vm, content)
    running = {v["pid"] for v in vms.values() if v["state"] != "stopped"}
    wait_for(lambda: {p for p, n in d.processes().items()
                      if n == "atoll-vm"} == running)
    # A holder goes after its machine; a network has one, and a switch.
    wait_for(lambda: list(d.processes().values()).count("atoll-hold")
             == len(running) + len(networks))
    wait_for(lambda: list(d.processes().values()).count("atoll-net")
             == len(networks))
    left = d.call("GET", "/v1/tasks?state=running").json["tasks"]
    assert not left, left
    folders = wait_for(lambda: not list((d.state / "trash").glob("*"))
                       if (d.state / "trash").exists() else True)
    assert folders
    ids = {v["id"] for v in vms.values()}
    machines = d.state / "machines"
    found = {p.name for p in machines.iterdir()} if machines.exists() else set()
    assert found <= ids, (found, ids)
    assert d.call("GET", "/v1/audit/verify").json["valid"]
    check_queues(d)


def check_queues(d):
    """A machine's tasks ran one at a time, in the order they were asked for;
    those that go before all others aside."""
    by_machine = {}
    for t in d.call("GET", "/v1/tasks?limit=1000").json["tasks"]:
        if t["started"] and t["ended"]:
            by_machine.setdefault(t["vm"]["id"], []).append(t)
    for tasks in by_machine.values():
        tasks.sort(key=lambda t: (t["started"], t["ended"], t["id"]))
        for a, b in zip(tasks, tasks[1:]):
            assert a["ended"] <= b["started"], (a, b)
        usual = [t for t in tasks if t["kind"] not in ("kill", "delete")]
        for a, b in zip(usual, usual[1:]):
            assert a["id"] < b["id"] or a["started"] == b["started"], (a, b)


def check_registry(d):
    db = sqlite3.connect(d.state / "registry.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def run(d, random_):
    ledger = Ledger()
    content = make_image(d)
    d.start()
    done = kills = 0
    while done < OPERATIONS:
        victim = d.process
        delay = random_.uniform(0.0, 0.4)
        killer = threading.Timer(delay, victim.send_signal, [signal.SIGKILL])
        killer.start()
        try:
            while True:
                operate(d, ledger, random_)
                done += 1
                time.sleep(random_.choice((0, 0, 0.01)))
        except CUT:
            pass
        killer.join()
        victim.wait()
        kills += 1
        if kills % 4 == 0:
            check_registry(d)
        d.start()
        if kills % 4 == 0:
            settle(d)
            check(d, ledger, content)
    settle(d)
    check(d, ledger, content)
    for vm in d.call("GET", "/v1/vms").json["vms"]:
        got = d.call("DELETE", f"/v1/vms/{vm['id']}?force=true")
        if got.status == 202:
            d.task(got)
    for name in NETWORKS:
        d.call("DELETE", f"/v1/networks/{name}")
    wait_for(lambda: d.processes() == {})
    d.kill(signal.SIGTERM)
    check_registry(d)
    print(f"{done} operations, {kills} daemons killed, nothing lost, "
          f"{ledger.disks} disks whole")


def main():
    print(f"seed {SEED}")
    d = harness.Daemon(PROGRAMS)
    try:
        run(d, random.Random(SEED))
    except BaseException:
        print(d.log()[-4000:])
        raise
    finally:
        d.close()


if __name__ == "__main__":
    os.environ.pop("ATOLL_RUNTIME_DIR", None)
    main()
