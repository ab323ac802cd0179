# SPDX-License-Identifier: Apache-2.0
"""atolld --user with atoll-helper beside it: helper.py ATOLLD ATOLL ELF.

What works with a daemon that is not root: machines with user ids of their
own, their control groups, bridges; and what a hostile one may not do with the
helper. For root; skipped (77) for others.
"""
import ctypes
import fcntl
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

import harness

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

USER = "nobody"
REQUEST = struct.Struct("=IIiI64sQQQQQQ256s")
ANSWER = struct.Struct("=iiIII512s256s512s512s512s")
VERSION = 3
HELLO, BRIDGE, MAP, OPEN, WEIGH, APPLY, REMOVE = range(7)
FUZZ = 3000


def request(op, name=b"", pid=0, mtu=1500, weight=100, percent=0, low=0,
            high=0, most=0, io=100, pin=b"", version=VERSION):
    return REQUEST.pack(version, op, pid, mtu, name, weight, percent, low,
                        high, most, io, pin)


class Helper:
    """One connection. Messages are answered or the connection ends."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(harness.PATIENCE)
        self.sock.connect(path)

    def ask(self, message):
        self.sock.send(message)
        data, fds, _, _ = socket.recv_fds(self.sock, ANSWER.size + 1, 4)
        if not data:
            return None, "", []
        assert len(data) == ANSWER.size, len(data)
        fields = ANSWER.unpack(data)
        return fields[0], fields[5].split(b"\0")[0].decode(), fds

    def close(self):
        self.sock.close()


def status(pid, key):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return text.partition(f"\n{key}:")[2].partition("\n")[0].split()


def copy_programs(folder):
    """To where that user sees them, all in one folder."""
    room = pathlib.Path(sys.argv[1]).absolute().parent.parent
    os.chmod(folder, 0o755)
    for name in ("daemon/atolld", "daemon/atoll-hold", "cli/atoll",
                 "vm/atoll-vm", "net/atoll-net", "helper/atoll-helper"):
        shutil.copy(room / name, folder)
    shutil.copy(sys.argv[3], f"{folder}/guest")
    for entry in pathlib.Path(folder).iterdir():
        entry.chmod(0o755)
    return {n: f"{folder}/{n}" for n in ("atolld", "atoll", "guest")}


def helper_of(daemon):
    """The pid of the one whose socket is the daemon's."""
    user = str(pwd.getpwnam(USER).pw_uid)
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"atoll-helper" and words[4].decode() == user and \
                    os.getsid(int(entry.name)) == int(entry.name) and \
                    os.readlink(entry / "exe").startswith(daemon.folder):
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    return None


def as_user(what):
    """In a child that is the daemon's user; what went wrong, or ''."""
    back, front = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = ""
        try:
            user = pwd.getpwnam(USER)
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            what()
        except BaseException as e:  # told, whatever it is
            words = repr(e)
        os.write(front, words.encode())
        os._exit(0)
    os.close(front)
    with os.fdopen(back) as f:
        words = f.read()
    os.waitpid(pid, 0)
    return words


def new_user_namespace():
    if ctypes.CDLL(None).unshare(0x10000000) < 0:
        raise OSError("refused")


# ---- what works ----

def machines(daemon):
    user = [str(pwd.getpwnam(USER).pw_uid)] * 4
    check("the daemon is that user", status(daemon.process.pid, "Uid") == user)
    check("it has no capabilities",
          int(status(daemon.process.pid, "CapPrm")[0], 16) == 0)
    for name in ("one", "two"):
        answer = daemon.define(name)
        assert answer.status == 201, answer.body
        daemon.do("POST", f"/v1/vms/{name}/start")
        daemon.console(name, b"resident is up")
    by_name = {}
    for pid, name in daemon.processes().items():
        by_name.setdefault(name, []).append(status(pid, "Uid"))
    check("holders are that user",
          by_name["atoll-hold"] == [user] * 2, by_name)
    ids = {u[0] for u in by_name["atoll-vm"]}
    if as_user(new_user_namespace):
        print("this host refuses user namespaces: machines have no user ids")
        check("machines are the daemon's user", ids == {user[0]}, by_name)
    else:
        check("machines have user ids of their own",
              len(ids) == 2 and all(int(i) >= 1900000000 for i in ids),
              by_name)
    daemon.do("POST", "/v1/vms/one/pause")
    daemon.do("POST", "/v1/vms/one/resume")
    daemon.do("POST", "/v1/vms/one/kill")
    harness.wait_for(lambda: daemon.vm("one")["state"] == "stopped")
    check("one is killed, the other goes on",
          daemon.vm("two")["state"] == "running")
    daemon.do("POST", "/v1/vms/one/start")
    check("figures are read",
          harness.wait_for(lambda: daemon.vm("two").get("pid")) > 0)


def group_of(pid):
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if "cpu" in names.split(",") or (number == "0" and "atoll-" in path):
            if "atoll-" in path:
                return path
    return ""


def groups(daemon):
    kind = daemon.call("GET", "/v1/host").json["limits"]["cgroup"]
    if kind == "none":
        print("no control groups on this host: not tested")
        return
    vm = daemon.vm("two")
    check("a machine is in its control group",
          harness.wait_for(lambda: vm["id"] in group_of(vm["pid"])))
    daemon.call("PATCH", "/v1/vms/two", {"resources": {"cpu_weight": 300}})


def bridges(daemon):
    bridge = f"atb{os.getpid() % 100000}"
    made = subprocess.run(["ip", "link", "add", bridge, "type", "bridge"],
                          check=False, capture_output=True)
    if made.returncode:
        print("no bridge can be made here: not tested")
        return
    try:
        answer = daemon.call("POST", "/v1/networks",
                             {"name": "lan", "bridge": bridge})
        assert answer.status in (201, 202), answer.body
        ports = pathlib.Path(f"/sys/class/net/{bridge}/brif")
        check("a network is on a bridge of the host",
              harness.wait_for(lambda: len(list(ports.iterdir())) == 1))
    finally:
        subprocess.run(["ip", "link", "del", bridge], check=False)


# ---- what it may do itself, and that it comes back ----

def worker_of(keeper):
    """The one process that the helper's first keeps; None: between two."""
    children = pathlib.Path(f"/proc/{keeper}/task/{keeper}/children")
    pids = children.read_text().split()
    return int(pids[0]) if pids else None


def is_held(uid):
    with open(f"/run/atoll/uids/{uid}", "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def verdict(daemon):
    checks = daemon.call("GET", "/v1/host/audit").json["checks"]
    return next(c for c in checks if c["name"] == "helper")["state"]


def filtered(keeper):
    for pid in (keeper, worker_of(keeper)):
        check(f"process {pid} of the helper is filtered",
              status(pid, "Seccomp") == ["2"] and
              status(pid, "NoNewPrivs") == ["1"])
        check("it has six capabilities",
              int(status(pid, "CapPrm")[0], 16).bit_count() == 6 and
              int(status(pid, "CapBnd")[0], 16) > 0)


def comes_back(daemon, path, keeper):
    check("the host's checklist passes it", verdict(daemon) == "pass")
    uid = int(status(daemon.vm("two")["pid"], "Uid")[0])
    own = uid >= 1900000000
    for _ in range(4):
        worker = worker_of(keeper)
        os.kill(worker, signal.SIGKILL)
        check("a dead helper is started again", harness.wait_for(
            lambda: worker_of(keeper) not in (None, worker)))
        wrong = as_user(lambda: answers(path))
        check("it answers", wrong == "", wrong)
        if own:
            check("a machine's user id is nobody else's", is_held(uid))
    check("the daemon finds it again",
          harness.wait_for(lambda: verdict(daemon) == "pass"))
    filtered(keeper)
    daemon.do("POST", "/v1/vms/one/kill")
    harness.wait_for(lambda: daemon.vm("one")["state"] == "stopped")
    daemon.do("POST", "/v1/vms/one/start")
    pid = harness.wait_for(lambda: daemon.vm("one").get("pid"))
    other = int(status(pid, "Uid")[0])
    check("a machine gets a user id from the new one",
          not own or (other >= 1900000000 and other != uid), (uid, other))
    groups(daemon)
    daemon.do("POST", "/v1/vms/two/kill")
    check("an id is given back when its machine ends",
          not own or harness.wait_for(lambda: not is_held(uid)))
    daemon.do("POST", "/v1/vms/two/start")
    harness.wait_for(lambda: daemon.vm("two").get("pid"))


def answers(path):
    helper = Helper(path)
    rc, words, _ = helper.ask(request(HELLO))
    helper.close()
    assert rc == 0, words


# ---- what a hostile one may not do ----

def is_refused(path, message, words):
    helper = Helper(path)
    rc, said, fds = helper.ask(message)
    helper.close()
    assert rc is not None and rc < 0 and not fds and words in said, (rc, said)


def hostile(daemon, path):
    vm = daemon.vm("two")["pid"]
    stranger = subprocess.Popen(["sleep", "600"])
    cases = [
        ("another version", request(HELLO, version=9), "version"),
        ("a request cut short", request(HELLO)[:-1], "not a request"),
        ("a long one", request(HELLO) + b"x", "not a request"),
        ("nothing known", request(77), "no sense"),
        ("a name that is a path", request(REMOVE, b"../../x"), "no sense"),
        ("a name without an end", request(REMOVE, b"x" * 64), "no sense"),
        ("an empty name", request(OPEN), "no sense"),
        ("a bridge that is none", request(BRIDGE, b"lo"), "no bridge"),
        ("a bridge that is a path", request(BRIDGE, b"../lo"), "no sense"),
        ("an MTU of nothing", request(BRIDGE, b"br0", mtu=1), "no sense"),
        ("the map of init", request(MAP, b"x", pid=1), "no sense"),
        ("the map of a process of root's",
         request(MAP, b"x", pid=stranger.pid), "not one of"),
        ("the map of our own namespace",
         request(MAP, b"x", pid=os.getpid()), "not one of"),
        ("the map of one in our own namespace", request(
            MAP, b"x", pid=daemon.process.pid), "not one of"),
        ("a second map", request(MAP, b"x", pid=vm), ""),
        ("the group of a process of root's",
         request(APPLY, b"x", pid=stranger.pid), "not one of"),
        ("a weight of nothing", request(APPLY, b"x", pid=vm, weight=0),
         "no sense"),
        ("a weight at disks of nothing", request(APPLY, b"x", pid=vm, io=0),
         "no sense"),
        ("processors in words", request(APPLY, b"x", pid=vm, pin=b"all\n"),
         "no sense"),
    ]
    for what, message, words in cases:
        wrong = as_user(lambda: is_refused(path, message, words))
        check(f"refused: {what}", wrong == "", wrong)
    try:
        is_refused(path, request(OPEN, b"x"), "root")
        wrong = ""
    except AssertionError as e:
        wrong = repr(e)
    check("refused: anything but hello from root", wrong == "", wrong)
    stranger.kill()
    stranger.wait()


def noise(path):
    """Random bytes, and requests with a byte changed; it goes on."""
    random.seed(5)
    helper = Helper(path)
    for i in range(FUZZ):
        if i % 3 == 0:
            message = random.randbytes(random.choice(
                [1, 16, REQUEST.size, REQUEST.size + 1, 4096]))
        else:
            data = bytearray(request(random.choice((HELLO, MAP, APPLY, 99)),
                                     b"m", pid=random.choice((0, 1, -1))))
            for _ in range(random.randrange(4)):
                data[random.randrange(len(data))] = random.randrange(256)
            message = bytes(data)
        rc, _, fds = helper.ask(message)
        for fd in fds:
            os.close(fd)
        if rc is None:
            helper.close()
            helper = Helper(path)
    rc, _, _ = helper.ask(request(HELLO))
    helper.close()
    assert rc == 0, rc


def strangers(path):
    """Somebody else's connection is closed without a word."""
    os.chmod(path, 0o666)  # as if its folder did not keep them out
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setresuid(1, 1, 1)
            rc, _, _ = Helper(path).ask(request(HELLO))
            code = 0 if rc is None else 2
        except OSError:
            code = 0
        finally:
            os._exit(code)
    check("a connection of somebody else's is refused",
          os.waitpid(pid, 0)[1] == 0)


def main():
    if os.geteuid():
        print("only root can give up being root")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="atoll-helper-")
    daemon = harness.Daemon(copy_programs(folder))
    daemon.folder = folder
    os.chmod(daemon.work, 0o755)
    path = str(daemon.state / "run/helper.sock")
    try:
        daemon.start("--user", USER)
        helper = helper_of(daemon)
        check("the helper is root's", status(helper, "Uid") == ["0"] * 4)
        machines(daemon)
        groups(daemon)
        bridges(daemon)
        hostile(daemon, path)
        words = as_user(lambda: noise(path))
        check(f"{FUZZ} messages of noise", words == "", words)
        strangers(path)
        comes_back(daemon, path, helper)
        daemon.kill(signal.SIGKILL)
        daemon.start("--user", USER)
        check("the next daemon finds machines and helper",
              harness.wait_for(lambda: daemon.vm("two")["state"] == "running")
              and helper_of(daemon) == helper)
        daemon.do("POST", "/v1/vms/two/kill")
        daemon.do("POST", "/v1/vms/one/kill")
        daemon.kill(signal.SIGTERM)
        check("the helper leaves when nobody is left",
              harness.wait_for(lambda: helper_of(daemon) is None))
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)
    sum_up()


main()
