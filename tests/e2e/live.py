#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks of a machine that never stops writing: snapshot, merge, mirror,
backup, export, resize, limits: live.py ATOLL GUEST_ELF.

The guest checks what it reads; the images are judged by qemu-img if it is
there, else by atoll disk.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from live_guest import (LIMIT, Guest, ask, is_moment, last_of, wait_until, whole,
                        wrong_moment, wrong_slots)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="lv-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def disk(verb, *words):
    return command("disk", verb, *words)


def done(what, result):
    return check(what, result.returncode == 0, result)


def refused(what, result, code, words):
    check(what, result.returncode == code and words in result.stderr and
          "error:" in result.stderr, result)


def make(name, size="64M", fmt="qcow2"):
    path = f"{work}/{name}"
    done("create " + name, disk("create", path, size, "--format", fmt))
    return path


def clean(image):
    result = subprocess.run([*tool, "check", image], capture_output=True,
                            text=True, check=False)
    check("clean: " + os.path.basename(image), result.returncode == 0, result)


def boot(path, name, fmt="qcow2"):
    guest = Guest(atoll, elf, env, f"{path},format={fmt}", name)
    check(name + " runs", guest.goes_on(5), guest.said)
    return guest


def finish(guest, path, fmt="qcow2"):
    """The guest saw what it wrote, and it is all in the image."""
    code = guest.end()
    check("the guest is content", code == 1 and not guest.said,
          (code, guest.said, guest.errors))
    clean(path) if fmt == "qcow2" else None
    wrong = wrong_slots(whole(path, fmt, work, tool), guest.slots, guest.flushed)
    check("all is there", not wrong, wrong[:4])


def layers(name):
    info = json.loads(disk("info", name + ":vda").stdout)
    return [os.path.basename(layer["path"]) for layer in info["layers"]]


def chains():
    """Longer and shorter, from the top and in the middle."""
    path = make("c.qcow2")
    guest = boot(path, "c")
    for name in "one", "two", "three", "four":
        result = disk("snapshot", "c:vda", "--name", name)
        done("snapshot " + name, result)
        check("says which file stays",
              result.stdout.strip() == f"{work}/c.{name}.qcow2", result)
        at = guest.flushed
        guest.goes_on(10)
    check("five layers", layers("c") == [
        "c.qcow2", "c.four.qcow2", "c.three.qcow2", "c.two.qcow2",
        "c.one.qcow2"], layers("c"))
    refused("the same name again", disk("snapshot", "c:vda", "--name", "one"),
            4, "exists")
    done("commit --layer 2", disk("commit", "c:vda", "--layer", "2"))
    check("three went into two", layers("c") == [
        "c.qcow2", "c.four.qcow2", "c.two.qcow2", "c.one.qcow2"], layers("c"))
    guest.goes_on(10)
    done("commit --layer 1 --count 2",
         disk("commit", "c:vda", "--layer", "1", "--count", "2"))
    check("both went into one", layers("c") == ["c.qcow2", "c.one.qcow2"],
          layers("c"))
    guest.goes_on(10)
    done("commit", disk("commit", "c:vda"))
    check("one layer", layers("c") == ["c.qcow2"], layers("c"))
    check("what was merged takes no room", not held(guest), held(guest))
    left = sorted(f for f in os.listdir(work) if f.startswith("c."))
    check("one file", left == ["c.qcow2"], left)
    refused("nothing below", disk("commit", "c:vda"), 2, "no other image")
    guest.goes_on()
    done("snapshot without a name", disk("snapshot", "c:vda"))
    finish(guest, path)
    guest = boot(path, "c")
    done("commit after a new start", disk("commit", "c:vda", "--all"))
    finish(guest, path)


def longest_chain():
    """No longer than who starts the machine again can open; what is refused
    leaves nothing, and the way out is there."""
    path = make("l.qcow2")
    guest = boot(path, "l")
    for n in range(32):
        result = disk("snapshot", "l:vda", "--name", str(n))
        if result.returncode:
            break
    check("it lies on 32 files", len(layers("l")) == 33, (n, result))
    before = set(os.listdir(work))
    refused("one more", disk("snapshot", "l:vda"), 1, "32 files already")
    refused("a copy", command("fork", "--rm", "l"), 1, "lies on 32 files")
    left = set(os.listdir(work)) ^ before
    check("no file is left", left <= {"s"}, left)
    check("it goes on", guest.goes_on(10), guest.said)
    finish(guest, path)
    guest = boot(path, "l")
    done("commit of all", disk("commit", "l:vda", "--all"))
    check("it lies on none", layers("l") == ["l.qcow2"], layers("l"))
    finish(guest, path)


def held(guest):
    """Files that its process has open, and that have no name any more."""
    folder = f"/proc/{guest.worker()}/fd"
    links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return [x for x in links if x.startswith(work) and "(deleted)" in x]


def rebases():
    """Onto an image further down, onto another one, and onto none, while it
    writes; what it lay on is as it was."""
    path = make("rb.qcow2")
    guest = boot(path, "rb")
    for name in "one", "two", "three":
        done("snapshot " + name, disk("snapshot", "rb:vda", "--name", name))
        guest.goes_on(20)
    below = {name: open(f"{work}/rb.{name}.qcow2", "rb").read()
             for name in ("one", "two", "three")}
    refused("onto what it lies on", disk(
        "rebase", "rb:vda", "--backing", work + "/rb.three.qcow2"), 2,
        "lies on")
    refused("onto itself", disk("rebase", "rb:vda", "--backing", path), 2,
            "is the disk itself")
    refused("no such layer", disk("rebase", "rb:vda", "--layer", "4"), 2,
            "4 images")
    refused("three went down", disk("commit", "rb:vda", "--layer", "9"), 2,
            "4 images")
    refused("two wishes", disk("rebase", "rb:vda", "--layer", "2", "--backing",
                               path), 2, "not both")
    done("rebase --layer 3", disk("rebase", "rb:vda", "--layer", "3"))
    check("two are left out", layers("rb") == ["rb.qcow2", "rb.one.qcow2"],
          layers("rb"))
    guest.goes_on(20)
    other = work + "/other.raw"
    with open(other, "wb") as f:
        f.write(b"another" * 100000)
    over = work + "/over.qcow2"
    done("an overlay of the disk", disk("create", over, "64M"))
    done("by name", disk("rebase", "--unsafe", "--backing", path, over))
    refused("onto what lies on it", disk("rebase", "rb:vda", "--backing",
                                         over), 2, "lies on the disk itself")
    done("rebase --backing", disk("rebase", "rb:vda", "--backing", other,
                                  "--rate", "64M"))
    check("it lies on that", layers("rb") == ["rb.qcow2", "other.raw"],
          layers("rb"))
    guest.goes_on(20)
    done("rebase onto none", disk("rebase", "rb:vda"))
    check("it lies on none", layers("rb") == ["rb.qcow2"], layers("rb"))
    refused("there is none", disk("rebase", "rb:vda"), 2, "no other image")
    check("it goes on", guest.goes_on(20), guest.said)
    check("nobody wrote below", all(
        open(f"{work}/rb.{name}.qcow2", "rb").read() == data
        for name, data in below.items()))
    for name in below:
        os.unlink(f"{work}/rb.{name}.qcow2")
    os.unlink(other)
    os.unlink(over)
    check("none is held open", not held(guest), held(guest))
    finish(guest, path)


def a_snapshot_stays():
    """What a snapshot left behind is that moment, bit for bit."""
    path = make("s.qcow2")
    guest = boot(path, "s")
    guest.goes_on(30)
    before = guest.flushed
    done("snapshot", disk("snapshot", "s:vda", "--name", "old"))
    old = work + "/s.old.qcow2"
    raw = whole_copy(old)
    guest.goes_on(40)
    check("it does not change", whole_copy(old) == raw)
    with open(work + "/old.raw", "wb") as f:
        f.write(raw)
    wrong = wrong_moment(work + "/old.raw", guest.slots, before)
    check("it is that moment", not wrong, wrong[:4])
    finish(guest, path)


def whole_copy(image):
    """Contents of an image that a machine has open for reading."""
    to = work + "/copy.raw"
    subprocess.run([atoll, "disk", "convert", image, to, "--to", "raw",
                    "--quiet", "--force"], check=False, capture_output=True)
    with open(to, "rb") as f:
        data = f.read()
    os.unlink(to)
    return data


def at_once():
    """Several that want the same disk: one has it, and what the others had
    made ready is gone. So is that of work that nobody waits for."""
    path = make("o.qcow2")
    guest = boot(path, "o")
    for n in range(3):
        several = [subprocess.Popen(
            [atoll, "disk", "snapshot", "o:vda", "--name", f"s{n}{k}"], env=env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for k in range(4)]
        said = [p.communicate(timeout=LIMIT) for p in several]
        for p, (_, error) in zip(several, said):
            check("one after the other, or refused", p.returncode == 0 or (
                p.returncode == 4 and "hint: a" in error), error)
        check("only those that were made are there", sorted(
            out.strip() for out, _ in said if out) == sorted(
                f"{work}/{f}" for f in os.listdir(work)
                if f.startswith(f"o.s{n}")), said)
    # What was overtaken would have lain on an image that is not the disk's.
    lies = layers("o")
    check("each lies on the one before", len(lies) == 1 + len([
        f for f in os.listdir(work) if f.startswith("o.s")]), lies)
    job = disk("commit", "o:vda", "--rate", "1", "--detach").stdout.split()[1]
    refused("one job a disk", disk("resize", "o:vda", "+1M"), 4, "another job")
    done("cancel", disk("jobs", "o:vda", "--job", job, "--cancel"))
    check("what it had made ready is gone", wait_until(lambda: not [
        f for f in os.listdir(work) if f.endswith(".incoming")]))
    done("merged by itself", disk("commit", "o:vda", "--all", "--detach"))
    check("what was merged is gone", wait_until(lambda: [
        f for f in os.listdir(work) if f.startswith("o.")] == ["o.qcow2"]),
        (os.listdir(work), disk("jobs", "o:vda", "--json").stdout))
    refused("too large", disk("resize", "o:vda", "9000T"), 2, "at most 8 PiB")
    finish(guest, path)


def mirrors():
    path = make("m.qcow2")
    guest = boot(path, "m")
    before = guest.flushed
    done("mirror to raw", disk("mirror", "m:vda", work + "/m.raw"))
    wrong = wrong_moment(work + "/m.raw", guest.slots, before)
    check("the mirror holds it", not wrong, wrong[:4])
    refused("a mirror over a file", disk("mirror", "m:vda", work + "/m.raw"),
            4, "exists")
    refused("another format can't take over",
            disk("mirror", "m:vda", work + "/p.raw", "--pivot"), 2, "raw")
    os.mkdir(work + "/far")
    target = work + "/far/moved.qcow2"
    done("mirror --pivot", disk("mirror", "m:vda", target, "--pivot"))
    check("the path leads there", os.path.realpath(path) == target)
    guest.goes_on()
    done("snapshot there", disk("snapshot", "m:vda", "--name", "x"))
    check("beside it", sorted(os.listdir(work + "/far")) ==
          ["moved.qcow2", "moved.x.qcow2"])
    guest.goes_on()
    done("commit there", disk("commit", "m:vda"))
    finish(guest, path)


def parts(folder):
    return [n for n in os.listdir(folder) if n.startswith(".atoll-part-")]


def parts_go(guest):
    """Of a copy that was given up nothing is left, whoever gave it up; what
    somebody else has put in its place is not ours."""
    def last_job():
        return json.loads(disk("jobs", "r:vda", "--json").stdout)[-1]

    def cancel():
        return disk("jobs", "r:vda", "--job", str(last_job()["job"]),
                    "--cancel")

    for verb in ("mirror", "backup"):
        path = f"{work}/r.{verb}.qcow2"
        waiting = subprocess.Popen(
            [atoll, "disk", verb, "r:vda", path, "--rate", "1M"], env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        check("it begins", wait_until(
            lambda: last_job()["state"] == "running"))
        check(f"{verb}: a part has no name", not os.path.exists(path))
        if verb == "mirror":  # nobody waits any more
            waiting.send_signal(signal.SIGINT)
            check("left", waiting.wait(60) == 0)
        done("cancel", cancel())
        check("it is over", wait_until(
            lambda: last_job()["state"] == "cancelled"), last_job())
        waiting.wait(60)
        check(f"{verb}: a part is not left", not os.path.exists(path) and not
              parts(work), os.listdir(work))
    path = work + "/r.taken.qcow2"
    disk("mirror", "r:vda", path, "--rate", "1M", "--detach")
    os.rename(path, path + ".mine")
    with open(path, "w", encoding="ascii") as f:
        f.write("somebody's")
    done("cancel", cancel())
    check("it is over", wait_until(
        lambda: last_job()["state"] == "cancelled"), last_job())
    there = work + "/r.there.raw"
    with open(there, "w", encoding="ascii") as f:
        f.write("somebody's")
    refused("a mirror over a file", disk("mirror", "r:vda", there), 4,
            "another name")
    refused("a backup on nothing", disk(
        "backup", "r:vda", work + "/r.on.qcow2", "--bitmap", "x", "--base",
        work + "/none.qcow2"), 2, "no bitmap x")
    done("a bitmap", disk("bitmap", "create", "r:vda", "x"))
    refused("a backup on nothing", disk(
        "backup", "r:vda", work + "/r.on.qcow2", "--bitmap", "x", "--base",
        work + "/none.qcow2"), 3, "--base: " + work + "/none.qcow2")
    check("nothing is made", not os.path.exists(work + "/r.on.qcow2"))
    refused("both", disk("mirror", "r:vda", work + "/r.on.qcow2", "--stay",
                         "--pivot"), 2, "--pivot")
    refused("which", disk("jobs", "r:vda", "--cancel"), 2, "--job")
    refused("no name", disk("snapshot", "r:vda", "--name", ""), 2, "--name")
    refused("no such disk", disk("info", "r:vdb"), 3, "r has no disk vdb")
    refused("no such disk", disk("info", "r:vdz"), 2, "NAME:vda")
    stay = disk("mirror", "r:vda", work + "/r.stay.raw", "--stay")
    job = stay.stdout.split()[1]
    check("it is the same", wait_until(
        lambda: json.loads(disk("jobs", "r:vda", "--json").stdout)[-1]["state"]
        == "ready"))
    done("cancel", disk("jobs", "r:vda", "--job", job, "--cancel"))
    check("one that stayed goes, too", wait_until(
        lambda: not os.path.exists(work + "/r.stay.raw")))
    for name in (path, there):
        check("what was there stays", open(name, encoding="ascii").read()
              == "somebody's")


def rates():
    """A bound on the rate, progress, and an end before the end."""
    path = make("r.qcow2")
    guest = boot(path, "r")
    guest.goes_on(300)
    begin = time.monotonic()
    started = disk("mirror", "r:vda", work + "/r.out.qcow2", "--rate", "1M",
                   "--detach")
    done("detached", started)
    job = started.stdout.split()[1]
    seen = []
    for _ in range(6):
        jobs = json.loads(disk("jobs", "r:vda", "--json").stdout)
        seen.append(jobs[-1])
        time.sleep(0.2)
    check("it goes on", all(j["state"] == "running" for j in seen), seen)
    check("progress", seen[0]["done"] <= seen[-1]["done"] < seen[-1]["total"],
          seen)
    least = (seen[-1]["done"] - (4 << 20)) / (1 << 20)  # seconds
    check("no faster than said", least < time.monotonic() - begin, seen[-1])
    refused("one job a disk", disk("snapshot", "r:vda"), 4, "another job")
    refused("no suspend meanwhile", command("suspend", "r"), 4, "job works")
    done("cancel", disk("jobs", "r:vda", "--job", job, "--cancel"))
    refused("cancelled", disk("jobs", "r:vda", "--job", job, "--wait"), 1,
            "cancelled")
    check("a part is not left", wait_until(
        lambda: not os.path.exists(work + "/r.out.qcow2")), os.listdir(work))
    parts_go(guest)
    again = disk("mirror", "r:vda", work + "/r2.qcow2", "--rate", "1M",
                 "--detach").stdout.split()[1]
    done("faster", disk("jobs", "r:vda", "--job", again, "--rate", "1G",
                        "--wait"))
    lines = disk("mirror", "r:vda", work + "/r3.qcow2", "--rate", "40M",
                 "--progress-lines").stderr
    check("lines of progress", lines.count("progress ") >= 2, lines)
    stay = disk("mirror", "r:vda", work + "/r4.raw", "--stay").stdout.split()[1]
    guest.goes_on(60)
    before = guest.flushed
    done("finish", disk("jobs", "r:vda", "--job", stay, "--finish"))
    wrong = wrong_moment(work + "/r4.raw", guest.slots, before)
    check("it kept up", not wrong, wrong[:4])
    finish(guest, path)


def jobs_of(name):
    return json.loads(disk("jobs", name + ":vda", "--json").stdout)


def follow(name, job):
    """What is said of a job until it is over."""
    seen = [jobs_of(name)[-1]]
    end = time.monotonic() + LIMIT
    while seen[-1]["state"] in ("running", "ready") and time.monotonic() < end:
        time.sleep(0.02)
        seen.append(jobs_of(name)[-1])
    check("it is that job", {j["job"] for j in seen} == {int(job)}, seen[-1])
    return seen


def writes_faster(guest, name, what, *words):
    """It writes all over the disk in less time than the work may take to copy
    half of it, all the time. Judged by how much was copied: how long that takes
    is the rate's matter."""
    job = disk(*words, "--rate", "6M", "--detach").stdout.split()[1]
    seen = follow(name, job)
    check(what + " ends", seen[-1]["state"] == "done", seen[-1])
    check("writes went to both", any(j["both"] for j in seen) and
          not seen[-1]["both"], seen[-1])
    check("it has copied three times the disk at most",
          seen[-1]["done"] == seen[-1]["total"] <= 3 * (16 << 20), seen[-1])
    check("what is done is part of all, and never less", all(
        a["done"] <= b["done"] <= b["total"] for a, b in
        zip(seen, seen[1:])), [(j["done"], j["total"]) for j in seen])
    check("it goes on", guest.goes_on(300), guest.said)


def never_caught_up():
    """Merged and mirrored at a rate below that of its writes; cancelled and
    failing just when writes go to both; killed then."""
    path = make("y.qcow2", "16M")
    # It is to be quick where flushes are slow, too.
    guest = boot(path, "y", "qcow2,cache=unsafe")
    for name in "one", "two":
        guest.goes_on(300)
        done("snapshot", disk("snapshot", "y:vda", "--name", name))
    guest.goes_on(300)
    writes_faster(guest, "y", "a merge", "commit", "y:vda")
    check("it went into two", layers("y") == ["y.qcow2", "y.one.qcow2"],
          layers("y"))
    writes_faster(guest, "y", "a mirror", "mirror", "y:vda",
                  work + "/y2.qcow2", "--pivot")
    check("the path leads there", os.path.realpath(path) == work + "/y2.qcow2")
    done("snapshot", disk("snapshot", "y:vda", "--name", "three"))
    guest.goes_on(300)  # what holds nothing is merged at once
    job = to_both("y", "commit", "y:vda")
    check("it is said", "(writes go to both)" in
          disk("jobs", "y:vda").stdout, disk("jobs", "y:vda"))
    done("cancel", disk("jobs", "y:vda", "--job", job, "--cancel"))
    check("it is over", follow("y", job)[-1]["state"] == "cancelled")
    check("it goes on", guest.goes_on(300), guest.said)
    to_both("y", "commit", "y:vda")
    guest.goes_on(50)
    guest.kill()
    raw = whole(path, "qcow2", work, tool)
    check("all that was flushed is there",
          is_moment(raw, guest.slots, guest.flushed), guest.flushed)
    guest = boot(path, "y")
    done("a merge at any rate", disk("commit", "y:vda"))
    finish(guest, path)


def to_both(name, *words):
    """A job that has begun to let writes go to both, and is far from its end."""
    job = disk(*words, "--rate", "6M", "--detach").stdout.split()[1]
    check("writes go to both", wait_until(
        lambda: jobs_of(name)[-1]["both"] or
        jobs_of(name)[-1]["state"] == "done") and jobs_of(name)[-1]["both"],
        jobs_of(name)[-1])
    done("slower", disk("jobs", name + ":vda", "--job", job, "--rate", "64K"))
    return job


def backups():
    path = make("b.qcow2")
    guest = boot(path, "b")
    guest.goes_on(60)
    was, before = None, guest.flushed
    for i in range(4):
        to = f"{work}/b{i}.qcow2"
        more = ["--base", was] if was else []
        since, before = before, guest.flushed
        done(f"backup {i}", disk("backup", "b:vda", to, "--bitmap", "nightly",
                                 *more))
        clean(to)
        copied = json.loads(disk("jobs", "b:vda", "--json").stdout)[-1]["done"]
        raw = whole(to, "qcow2", work, tool)
        most = last_of(raw, guest.slots) + 1 - since
        check("no more than has changed", copied == 64 << 20 if not was else
              copied <= most * (64 << 10), (copied, most))
        wrong = wrong_moment(raw, guest.slots, before)
        check(f"backup {i} is that moment", not wrong, wrong[:4])
        was = to
        guest.goes_on(12)
    refused("a base is needed", disk("backup", "b:vda", work + "/b9.qcow2",
                                     "--bitmap", "nightly"), 2, "build")
    bitmaps = json.loads(disk("bitmap", "list", "b:vda").stdout)
    check("the bitmap is there", [b["name"] for b in bitmaps] == ["nightly"],
          bitmaps)
    before = guest.flushed
    done("whole, without a bitmap", disk("backup", "b:vda", work + "/all.raw"))
    wrong = wrong_moment(work + "/all.raw", guest.slots, before)
    check("it is that moment", not wrong, wrong[:4])
    done("delete the bitmap", disk("bitmap", "delete", "b:vda", "nightly"))
    finish(guest, path)


def exports():
    path = make("x.qcow2")
    guest = boot(path, "x")
    guest.goes_on(40)
    at = work + "/nbd.sock"
    before = guest.flushed
    server = subprocess.Popen([atoll, "disk", "export", "x:vda", "--socket",
                               at], env=env, stdout=subprocess.PIPE, text=True)
    uri = server.stdout.readline().strip()
    check("a URI", uri == f"nbd+unix:///disk?socket={at}", uri)
    guest.goes_on(60)
    if tool[0] == "qemu-img":
        for i in range(2):
            raw = f"{work}/x{i}.raw"
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw",
                            uri, raw], check=True)
            wrong = wrong_moment(raw, guest.slots, before)
            check(f"reading {i} is that moment", not wrong, wrong[:4])
            guest.goes_on(30)
        same = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw",
                               work + "/x0.raw", work + "/x1.raw"],
                              capture_output=True, check=False)
        check("both readings hold the same", same.returncode == 0, same)
    server.send_signal(signal.SIGTERM)
    check("ends when told", server.wait(LIMIT) == 0 and not os.path.exists(at))
    jobs = json.loads(disk("jobs", "x:vda", "--json").stdout)
    check("over", jobs[-1]["state"] == "cancelled", jobs)
    server = subprocess.Popen([atoll, "disk", "export", "x:vda", "--socket",
                               at], env=env, stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    refused("where one listens", disk("export", "x:vda", "--socket", at), 4,
            "another --socket")
    server.kill()
    server.wait()
    end = time.monotonic() + LIMIT
    state = "running"
    while state == "running" and time.monotonic() < end:
        state = json.loads(disk("jobs", "x:vda", "--json").stdout)[-1]["state"]
    check("gone with who asked for it", state == "cancelled", state)
    server = subprocess.Popen([atoll, "disk", "export", "x:vda", "--socket",
                               at], env=env, stdout=subprocess.PIPE, text=True)
    check("where one was killed another listens", server.stdout.readline())
    server.terminate()
    server.wait()
    refused("where a file lies", disk("export", "x:vda", "--socket", path), 4,
            "is there already")
    finish(guest, path)


def settings():
    path = make("z.qcow2", "16M")
    guest = boot(path, "z")
    done("resize", disk("resize", "z:vda", "+16M"))
    check("the guest sees it", guest.wait(lambda: 32 << 20 in guest.sizes),
          guest.sizes)
    refused("smaller", disk("resize", "z:vda", "8M"), 2, "smaller")
    done("throttle", disk("throttle", "z:vda", "--iops", "30",
                          "--iops-burst", "1"))
    limits = json.loads(disk("info", "z:vda").stdout)["limits"]
    check("it is said", limits["iops"] == 30, limits)
    rates_seen = []
    while not rates_seen or (rates_seen[-1] >= 35 and len(rates_seen) < 5):
        # What it said before may come all at once, late.
        guest.goes_on(2)
        start, was = time.monotonic(), guest.flushed
        guest.goes_on(30)
        rates_seen.append((guest.flushed - was) / (time.monotonic() - start))
    check("and kept", rates_seen[-1] < 35, rates_seen)
    done("no limit", disk("throttle", "z:vda", "--iops", "0"))
    done("snapshot", disk("snapshot", "z:vda", "--name", "small"))
    done("resize above it", disk("resize", "z:vda", "48M"))
    check("the guest sees that", guest.wait(lambda: 48 << 20 in guest.sizes),
          guest.sizes)
    done("merge into the smaller one", disk("commit", "z:vda"))
    finish(guest, path)
    size = json.loads(disk("info", path, "--json").stdout)
    check("its size stays", "50331648" in json.dumps(size), size)


def refusals():
    path = make("w.raw", fmt="raw")
    guest = boot(path, "w", "raw")
    refused("a raw disk", disk("snapshot", "w:vda"), 2, "raw image")
    refused("no such disk", disk("snapshot", "w:vdb"), 3, "no disk vdb")
    refused("no such machine", disk("snapshot", "nobody:vda"), 3, "nobody")
    refused("no place for the copy",
            disk("mirror", "w:vda", work + "/none/w.raw"), 3, "none")
    refused("not a bitmap's image",
            disk("backup", "w:vda", work + "/w.qcow2", "--bitmap", "b"), 1, "")
    check("nothing left", not os.path.exists(work + "/w.qcow2"))
    done("a backup without one", disk("backup", "w:vda", work + "/w2.raw"))
    done("a mirror that takes over",
         disk("mirror", "w:vda", work + "/w3.raw", "--pivot"))
    finish(guest, path, "raw")


def hostile():
    """Whoever may ask can't break the machine, whatever they ask."""
    path = make("h.qcow2", "16M")
    guest = boot(path, "h")
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(work + "/r/named/h.sock")
    junk = os.open(elf, os.O_RDONLY)
    odd = [-1, 1 << 52, (1 << 53) + 1, "vda", None, [], {}, True, 1.5, "x" * 70000]
    bad = []
    for op in ("disk-throttle", "disk-resize", "disk-bitmap", "disk-snapshot",
               "disk-commit", "disk-rebase", "disk-mirror", "disk-backup", "disk-export",
               "job", "job-cancel", "job-rate", "job-complete"):
        keys = ("disk", "iops", "bytes", "action", "name", "file", "path",
                "format", "from", "count", "above", "rate", "record", "then",
                "bitmap", "scratch", "listener", "job", "first", "blank",
                "layer", "files")
        for i, key in enumerate(keys):
            message = {"op": op, "disk": 0, "file": 0, "scratch": 0,
                       "listener": 0, "above": 0, "format": "qcow2",
                       "bytes": 1 << 24, "job": 77, key: odd[i % len(odd)]}
            answer = ask(sock, message, junk)
            if answer is None or (answer["ok"] and op != "disk-throttle" and
                                  op != "disk-resize"):
                bad.append((message, answer))
    check("refused, all of it", not bad, bad[:3])
    for name in "../h.qcow2", "h.qcow2", "other.0123456789abcdef.incoming":
        over = work + "/over.qcow2"
        disk("create", over, "16M")
        disk("rebase", over, "--unsafe", "--backing", path)
        fd = os.open(over, os.O_RDWR)
        answer = ask(sock, {"op": "disk-snapshot", "disk": 0, "file": 0,
                            "path": over, "record": name}, fd)
        os.close(fd)
        if answer["ok"]:
            result = disk("jobs", "h:vda", "--job", str(answer["job"]),
                          "--wait")
            check("not recorded as " + name, result.returncode == 1 and
                  "not recorded" in result.stderr, result)
        os.unlink(over)
    check("nobody else's answer",
          not ask(sock, {"op": "recorded", "record": 1, "result": 0})["ok"])
    ask(sock, {"op": "disk-throttle", "disk": 0, "iops": 0, "bytes_per_s": 0})
    os.close(junk)
    sock.close()
    check("it goes on", guest.goes_on())
    finish(guest, path)


chains()
longest_chain()
rebases()
a_snapshot_stays()
at_once()
mirrors()
rates()
never_caught_up()
backups()
exports()
settings()
refusals()
hostile()
shutil.rmtree(work)
sum_up()
