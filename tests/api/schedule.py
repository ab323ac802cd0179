# SPDX-License-Identifier: Apache-2.0
"""Machines that are backed up by themselves: schedule.py ATOLLD ATOLL ELF.

Short periods; what was missed; which are kept; what fails, and a quota.
"""
import os
import pathlib
import sqlite3
import subprocess
import sys

import harness

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import any_failed, check, sum_up  # noqa: E402

P = harness.programs(sys.argv[1:4])
D = harness.Daemon(P, harness.Spec())
VM = "/v1/vms/web"
WHEN = f"{VM}/backup-schedule"


def backups():
    return D.call("GET", "/v1/backups").json["backups"]


def tasks():
    """All that was made by itself, the newest first."""
    got = D.call("GET", "/v1/tasks?limit=1000").json["tasks"]
    return [t for t in got if t["kind"] == "backup" and
            t["caller"] == "schedule"]


def done():
    return [t for t in tasks() if t["state"] not in ("queued", "running")]


def events(kind):
    got = D.call("GET", "/v1/events?limit=1000").json["events"]
    return [e for e in got if e["type"] == kind]


def cli(*words):
    return subprocess.run([P["atoll"], "backup", "schedule", *words],
                          env=D.env, capture_output=True, text=True,
                          check=False)


def make_machine():
    disk = str(D.work / "web.qcow2")
    subprocess.run([P["atoll"], "disk", "create", disk, "8M"], check=True,
                   stdout=subprocess.DEVNULL)
    answer = D.define("web", disks=[{"path": disk, "format": "qcow2"}])
    assert answer.status == 201, answer.body
    D.do("POST", f"{VM}/start")
    D.console("web", b"resident is up")
    return disk


def refusals():
    check("there is none", D.call("GET", WHEN).status == 404 and
          D.call("DELETE", WHEN).status == 404)
    for body in ({}, {"every_s": 60, "at": "02:00"}, {"every_s": 0},
                 {"at": "25:00"}, {"at": "02:00", "days": []},
                 {"at": "02:00", "keep": {"yearly": 2}},
                 {"every_s": 60, "x": 1}):
        check(f"refused: {body}", D.call("PUT", WHEN, body).status == 400)
    check("nor a machine that is not there", D.call(
        "PUT", "/v1/vms/none/backup-schedule", {"every_s": 5}).status == 404)


def goes_by_itself():
    hand = D.do("POST", f"{VM}/backups")["params"]["backup"]
    got = D.call("PUT", WHEN, {"every_s": 1, "keep": {"last": 2},
                               "full_every": 3})
    check("made", got.status == 200 and got.json["keep"] == {
        "last": 2, "daily": 0, "weekly": 0}, got.body)
    harness.wait_for(lambda: len(done()) >= 8)
    check("deleted", D.call("DELETE", WHEN).status == 204 and
          D.call("GET", WHEN).status == 404)
    harness.wait_for(lambda: len(done()) == len(tasks()))
    made = len(done())
    check("all were good", all(t["state"] == "succeeded" for t in done()))
    left = backups()
    by_hand = [b for b in left if not b["scheduled"]]
    # The last two, and at most two more that they build on; and what the one
    # by hand builds on, which is nothing.
    check("the last are left, and what they need", len(by_hand) == 1 and
          by_hand[0]["id"] == hand and 2 <= len(left) - 1 <= 4,
          [(b["id"], b["kind"]) for b in left])
    ids = {b["id"] for b in left}
    check("no chain is broken", all(b["parent"] is None or b["parent"] in ids
                                    for b in left))
    kinds = [b["kind"] for b in left]
    check("some are whole, some are not", "incremental" in kinds and
          kinds.count("full") >= 2, kinds)
    for b in left:
        got = D.call("POST", f"/v1/backups/{b['id']}/verify").json
        check("it is whole", got["whole"], got)
    check("what went is told", len(events("backup.deleted")) == made + 1 -
          len(left), len(events("backup.deleted")))
    audit = D.call("GET", "/v1/audit?limit=1000").json["records"]
    check("and written down", sum(a["caller"] == "schedule" and a["action"] ==
                                  "delete backup" for a in audit) ==
          made + 1 - len(left))
    check("none comes any more", len(tasks()) == made)


def registry(sql):
    with sqlite3.connect(D.state / "registry.db", timeout=harness.PATIENCE) as db:
        db.execute(sql)
    db.close()


def catches_up():
    """A hundred times pass while no daemon is there."""
    D.call("PUT", WHEN, {"every_s": 3600})
    before = len(tasks())
    D.kill()
    registry("UPDATE backup_schedules SET last = last - 360000,"
             " since = since - 360001")
    D.start()
    harness.wait_for(lambda: len(done()) > before)
    D.call("GET", WHEN)
    check("what was missed is caught up once", len(tasks()) == before + 1)
    D.kill()
    D.start()
    harness.wait_for(lambda: D.vm("web")["state"] == "running")
    check("and not again", len(tasks()) == before + 1)


def fails(disk):
    D.do("POST", f"{VM}/kill")
    harness.wait_for(lambda: D.vm("web")["state"] == "stopped")
    os.rename(disk, disk + ".away")
    D.call("PUT", WHEN, {"every_s": 1})
    got = harness.wait_for(lambda: (s := D.call("GET", WHEN).json)[
        "failures"] >= 2 and s)
    check("why it fails is kept", got["error"], got)
    check("it is told each time, alarmed once", len(
        events("backup.failed")) >= 2 and len(events("alarm.raised")) == 1,
        events("alarm.raised"))
    shown = cli().stdout
    check("the command shows it", "web" in shown and "every 1 s" in shown,
          shown)
    os.rename(disk + ".away", disk)
    harness.wait_for(lambda: D.call("GET", WHEN).json["failures"] == 0)
    check("the alarm ends with the first good one",
          len(events("alarm.cleared")) == 1)


def quota():
    default = "/v1/projects/default"
    D.call("DELETE", WHEN)
    harness.wait_for(lambda: len(done()) == len(tasks()))
    used = D.call("GET", default).json["used"]["backup_bytes"]
    total = sum(b["bytes"] for b in backups())
    check("what backups take is known", used == total > 0, (used, total))
    D.call("PATCH", default, {"quotas": {"backup_bytes": used}})
    got = D.call("POST", f"{VM}/backups")
    check("no more than the quota", got.status == 409 and got.code == "quota"
          and "backups" in got.json["error"]["words"], got.body)
    before = backups()
    D.call("PUT", WHEN, {"every_s": 1})
    got = harness.wait_for(lambda: D.call("GET", WHEN).json["error"])
    check("nor by itself", "quota" in got and backups() == before, got)
    D.call("DELETE", WHEN)
    D.call("PATCH", default, {"quotas": {"backup_bytes": used + 4096}})
    got = D.task(D.call("POST", f"{VM}/backups"))
    check("one that gets too large is given up", got["state"] == "failed" and
          got["error"]["code"] == "quota", got)
    left = [p.name for p in (D.state / "backups").iterdir()
            if "partial" in p.name]
    check("and leaves nothing", backups() == before and not left, left)
    D.call("PATCH", default, {"quotas": {"backup_bytes": None}})
    check("without it there is room",
          D.do("POST", f"{VM}/backups")["state"] == "succeeded")


def by_command():
    for words, code in ((["web", "--every", "6h", "--keep", "4",
                          "--keep-daily", "7"], 0),
                        (["web", "--at", "02:30", "--days", "mon,friday",
                          "--keep-weekly", "8", "--full-every", "0"], 0),
                        (["web", "--at", "2"], 2), (["--every", "5m"], 2),
                        (["web", "--every", "6h", "--off"], 2),
                        (["none", "--every", "6h"], 3)):
        got = cli(*words)
        check(f"atoll backup schedule {' '.join(words)}: {code}",
              got.returncode == code, got.stderr)
    got = D.call("GET", WHEN).json
    check("it says what was asked", got["at"] == "02:30" and got["days"] ==
          ["monday", "friday"] and got["keep"] == {
              "last": 0, "daily": 0, "weekly": 8} and got["full_every"] == 0,
          got)
    shown = cli("web").stdout
    check("and shows it", "at 02:30 mon,fri" in shown and "8 weeks" in shown,
          shown)
    check("off", cli("web", "--off").returncode == 0 and
          cli("web").returncode == 3)


def gone():
    D.call("PUT", WHEN, {"every_s": 3600})
    D.do("DELETE", VM)
    check("it goes with its machine",
          D.call("GET", "/v1/backup-schedules").json["schedules"] == [])
    check("the backups stay", len(backups()) > 0)


def main():
    try:
        D.start()
        disk = make_machine()
        refusals()
        goes_by_itself()
        catches_up()
        fails(disk)
        quota()
        by_command()
        gone()
    finally:
        if any_failed():
            print(D.log())
        D.close()
    sum_up()


main()
