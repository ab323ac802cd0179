#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A machine suspended and resumed, under one engine and the next; and what
happens to a saved one that is damaged: state.py ATOLL GUEST_ELF.

The guest (tests/guest/state.c) checks that it is still the same machine.
"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="st-")
env = dict(os.environ, ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
LIMIT = 300


def start(*words):
    return subprocess.Popen([atoll, *words], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=env)


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def boot(engine, name, *more):
    vm = start("run", "--name", name, "--engine", engine, "--memory", "64M",
               "--kernel", elf, "--device", "debug-exit", "--net", "none",
               "--timeout", "900", *more)
    vm.ready = vm.stdout.readline()
    if vm.ready != b"ready\n":
        print(vm.ready, vm.stderr.read())
    return vm


def suspend(name, *more):
    return when_there("suspend", *more, name)


def when_there(*words):
    """It may not have its socket yet."""
    end = time.monotonic() + LIMIT
    while True:
        done = command(*words)
        if done.returncode == 0 or "no machine named" not in done.stderr or \
                time.monotonic() > end:
            return done
        time.sleep(0.05)


def put_away(vm, name, *more):
    done = suspend(name, *more)
    vm.stdin.close()
    code = vm.wait(LIMIT)
    check(f"suspend {' '.join(more)}", done.returncode == 0 and code == 0,
          done.stderr)
    return done.stdout


def finish(vm, what, says=b"same after"):
    try:
        out, err = vm.communicate(b"g", LIMIT)
    except subprocess.TimeoutExpired:
        vm.kill()
        out, err = vm.communicate()
    check(what, vm.returncode == 1 and says in out, (out, err))


def round_trip():
    vm = boot("bt", "one", "--cpu", "max")
    print(put_away(vm, "one").strip())
    disk = work + "/s/named/one/suspended.state.disk"
    open(disk, "w").close()
    other = command("resume", "one", "--cpus", "2")
    check("one that can't go on stays as it was", other.returncode == 1 and
          os.path.exists(disk) and os.path.exists(disk[:-5]), other.stderr)
    vm = start("resume", "one", "--engine", "interp")
    put_away(vm, "one", "--fast")
    vm = start("resume", "one", "--engine", "bt")
    finish(vm, "bt, interp, bt", b"with keys, same after")
    left = os.listdir(work + "/s/named/one")
    check("nothing is left", left == [], left)


def hold():
    vm = boot("bt", "held")
    check("pause", command("pause", "held").returncode == 0)
    again = command("run", "--name", "held", "--kernel", elf, "--net", "none")
    check("one of each name", again.returncode == 1 and
          "runs already" in again.stderr, again.stderr)
    check("resume", command("resume", "held").returncode == 0)
    finish(vm, "goes on")
    gone = command("pause", "held")
    check("gone", gone.returncode != 0 and "no machine" in gone.stderr)


def altered(path, change):
    data = bytearray(open(path, "rb").read())
    data = change(data) or data
    name = path + ".bad"
    with open(name, "wb") as f:
        f.write(data)
    return name


def flip(at):
    def change(data):
        data[at] ^= 0x10
    return change


def refused(what, path, words, *more):
    done = command("run", "--restore", path, "--timeout", "100", *more)
    check(what, done.returncode in (1, 2) and words in done.stderr and
          "error:" in done.stderr, (done.returncode, done.stderr))


def lost_on_the_way(path):
    """What is read while it runs is seen by nobody if it is not what was
    saved: it ends in words. Before it runs, it does not begin."""
    for engine in "bt", "interp":
        vm = start("run", "--restore", path, "--engine", engine)
        try:
            out, err = vm.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            vm.kill()
            out, err = vm.communicate()
        check(f"altered memory of {engine} ends it", vm.returncode in (1, 22)
              and b"damaged" in err and b"hint:" in err and b"same" not in out,
              (vm.returncode, out, err))


def sections(path):
    """name -> (offset, size), as docs/state-file.md says."""
    head = open(path, "rb").read(4096)
    found = {}
    for i in range(struct.unpack_from("<I", head, 12)[0]):
        name, at, size = struct.unpack_from("<16sQQ", head, 64 + 64 * i)
        found[name.rstrip(b"\0").decode()] = (at, size)
    return found


def damage():
    file, fast = work + "/a.state", work + "/b.state"
    vm = boot("interp", "two")
    put_away(vm, "two", "--to", file)
    vm = boot("bt", "three")
    again = command("suspend", "three", "--to", file)
    check("nothing is overwritten", again.returncode == 4 and
          "exists already" in again.stderr, again.stderr)
    finish(vm, "goes on")
    for copy in 1, 2:
        vm = start("run", "--restore", file, "--engine", "bt", "--name",
                   f"c{copy}")
        finish(vm, f"copy {copy}")
    where = sections(file)
    for name, (at, size) in where.items():
        refused("altered " + name, altered(file, flip(at + size // 2)),
                "damaged", "--verify")
        if name != "packed":
            refused("altered " + name + ", not looked through",
                    altered(file, flip(at + size // 2)), "damaged")
    at, size = where["packed"]
    lost_on_the_way(altered(file, flip(at + size // 2)))
    refused("altered header", altered(file, flip(80)), "damaged")
    size = os.path.getsize(file)
    for part in 10, 4096, size // 2, size - 4096:
        refused(f"cut to {part}", altered(file, lambda d, p=part: d[:p]),
                "d")
    def newer(data):
        data[8] = 9
    refused("newer", altered(file, newer), "newer Atoll")
    refused("no state", elf, "not a saved machine")
    refused("never finished",
            altered(file, lambda d: bytes(4096) + d[4096:]), "never finished")
    refused("other memory", file, "64 MiB", "--memory", "96M")
    refused("other CPUs", file, "1 vCPUs", "--cpus", "2")
    refused("more devices", file, "without the device", "--device", "testdev")
    vm = start("run", "--restore", file, "--engine", "bt", "--name", "d")
    put_away(vm, "d", "--fast", "--to", fast)
    at, size = sections(fast)["plain"]
    refused("altered plain memory", altered(fast, flip(at + (17 << 20))),
            "damaged", "--verify")
    at, size = sections(fast)["sums"]
    refused("altered sums", altered(fast, flip(at + size // 2)), "damaged",
            "--verify")
    for name in sections(fast).keys() - {"plain", "sums"}:
        at, size = sections(fast)[name]
        refused("mapped, altered " + name, altered(fast, flip(at + size // 2)),
                "damaged")
    refused("mapped, altered header", altered(fast, flip(80)), "damaged")
    refused("mapped, newer", altered(fast, newer), "newer Atoll")
    size = os.path.getsize(fast)
    for part in 10, 4096, size // 2, size - 4096:
        refused(f"mapped, cut to {part}",
                altered(fast, lambda d, p=part: d[:p]), "d")
    vm = start("run", "--restore", fast, "--engine", "interp")
    finish(vm, "mapped")


def lost():
    """The file that memory is mapped from: another one in its place does
    nothing; cut short, the machine ends in words."""
    for engine in "bt", "interp":
        file = f"{work}/lost-{engine}.state"
        vm = boot(engine, "lost")
        put_away(vm, "lost", "--fast", "--to", file)
        vm = start("run", "--restore", file, "--engine", engine, "--name",
                   "lost")
        when_there("pause", "lost")
        with open(file + ".new", "wb") as f:
            f.write(bytes(1 << 20))
        os.link(file, file + ".old")
        os.rename(file + ".new", file)
        command("resume", "lost")
        finish(vm, "another file in its place")
        vm = start("run", "--restore", file + ".old", "--engine", engine,
                   "--name", "lost")
        when_there("pause", "lost")
        command("resume", "lost")
        os.truncate(file + ".old", 20 << 20)
        try:
            out, err = vm.communicate(b"g", LIMIT)
        except subprocess.TimeoutExpired:
            vm.kill()
            out, err = vm.communicate()
        check(f"cut short under {engine}", vm.returncode == 22 and
              b"cut short while this one ran" in err, (vm.returncode, err))


def overwritten():
    """...and written to, as well; a second name for it changes nothing."""
    file = work + "/over.state"
    vm = boot("bt", "over")
    put_away(vm, "over", "--fast", "--to", file)
    vm = start("run", "--restore", file, "--engine", "bt", "--name", "over")
    when_there("pause", "over")
    os.link(file, file + ".link")
    os.unlink(file + ".link")
    time.sleep(1.2)
    check("its names are nothing", vm.poll() is None, vm.poll())
    with open(file, "r+b") as f:
        f.seek(10 << 20)
        f.write(b"not what it was")
    try:
        err = vm.communicate(b"", LIMIT)[1]
    except subprocess.TimeoutExpired:
        vm.kill()
        err = vm.communicate()[1]
    check("overwritten", vm.returncode == 22 and
          b"was written to while this one ran" in err, (vm.returncode, err))


def killed():
    """Whoever asks is killed at any moment: no half file, and the machine
    goes on, or is there to be resumed."""
    vm = boot("bt", "hit")
    folder = work + "/s/named/hit"
    for i in range(12):
        asker = start("suspend", "hit")
        time.sleep(0.004 * i)
        asker.kill()
        asker.wait()
        if vm.poll() is not None:
            break
    left = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    # One that is whole may have been about to get its name.
    check("no half file", left <= {"suspended.state",
                                   "suspended.state.XXXXXX"}, left)
    if left:
        command("suspend", "hit")
        vm.communicate(b"g", LIMIT)
        vm = start("resume", "hit")
    finish(vm, "goes on whoever is killed")


def full():
    """A place without room: words, and the machine goes on."""
    vm = boot("bt", "full")
    done = command("suspend", "--to", "/dev/full/x", "full")
    check("no such place", done.returncode == 1 and "cannot write" in
          done.stderr, done.stderr)
    finish(vm, "goes on after a failure")


def snapshot(*words):
    return command("snapshot", *words)


def snapshots():
    """A tree of two branches; a disk and memory go back together."""
    disk = work + "/disk.raw"

    def write(text):
        with open(disk, "r+b") as f:
            f.write(text.ljust(4096))

    with open(disk, "wb") as f:
        f.truncate(4 << 20)
    write(b"one")
    vm = boot("bt", "tree", "--disk", disk)
    done = snapshot("create", "tree", "s1", "--description", "the first")
    check("create", done.returncode == 0 and done.stdout == "s1\n",
          done.stderr)
    write(b"two")
    done = snapshot("create", "tree", "s2", "--fast")
    check("create from it", done.returncode == 0, done.stderr)
    check("no name twice", "already" in
          snapshot("create", "tree", "s2").stderr)
    check("not while it runs", "runs already" in
          snapshot("revert", "tree", "s1").stderr)
    write(b"three")
    finish(vm, "goes on after snapshots")
    for name, text in ("s1", b"one"), ("s2", b"two"), ("s1", b"one"):
        done = snapshot("revert", "tree", name)
        check("revert " + name, done.returncode == 0 and
              open(disk, "rb").read(5).rstrip() == text, done.stderr)
        vm = start("resume", "tree")
        if name == "s1" and "s3" not in snapshot("list", "tree").stdout:
            while snapshot("create", "tree", "s3").returncode:
                time.sleep(0.05)
        finish(vm, "goes on from " + name)
    lines = snapshot("list", "--tree", "tree").stdout.splitlines()
    depth = {x.replace("*", " ").split()[0]:
             len(x.replace("*", " ")) - len(x.replace("*", " ").lstrip())
             for x in lines}
    check("tree", len(lines) == 3 and depth["s2"] == depth["s3"] ==
          depth["s1"] + 2, lines)
    check("where it is", [x for x in lines if "*" in x and "s1" in x], lines)
    check("delete the root", snapshot("delete", "tree", "s1").returncode == 0)
    listed = json.loads(snapshot("list", "--json", "tree").stdout)
    check("its children stay", sorted(listed["snapshots"]) == ["s2", "s3"] and
          listed["snapshots"]["s3"]["parent"] is None, listed)
    diff = json.loads(snapshot("diff", "--json", "tree", "s2", "s3").stdout)
    disk0 = diff["disks"][0]
    check("diff of disks", disk0["differing_bytes"] == 65536 and
          disk0["ranges"] == [{"offset": 0, "length": 65536}] and
          disk0["bytes_a"] == 4 << 20, diff)
    memory = diff["memory"]
    check("diff of memory", memory["bytes"] >= 64 << 20 and
          0 < memory["differing_bytes"] < 4 << 20 and memory["ranges"], diff)
    check("diff of the machine", [x["what"] for x in diff["configuration"]]
          in ([], ["engine"]), diff)
    same = json.loads(snapshot("diff", "--json", "tree", "s2", "s2").stdout)
    check("no diff", same["memory"]["ranges"] == [] and
          same["disks"][0]["ranges"] == [] and same["configuration"] == [],
          same)
    table = snapshot("diff", "tree", "s2", "s3").stdout
    check("diff as a table", "memory" in table and "disk 0" in table and
          "64 KiB of 4.0 MiB" in table, table)
    check("unknown", "no snapshot" in
          snapshot("revert", "tree", "s1").stderr)
    done = snapshot("revert", "tree", "s3")
    check("revert to a child", done.returncode == 0, done.stderr)
    fresh = command("run", "--name", "tree", "--kernel", elf, "--net", "none")
    check("none is overwritten", "is suspended" in fresh.stderr, fresh.stderr)
    finish(start("resume", "tree"), "goes on from a child")


round_trip()
hold()
snapshots()
damage()
lost()
overwritten()
killed()
full()
subprocess.run(["rm", "-rf", work], check=False)
sum_up()
