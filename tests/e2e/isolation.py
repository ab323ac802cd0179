# SPDX-License-Identifier: Apache-2.0
"""What a machine's process can reach, from inside: isolation.py ATOLL ELF.

A child of this test enters the namespaces of one machine's process, with more
rights there than the machine has left, and looks for the other machine and
for the host. As root, and as an ordinary user.
"""
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import any_failed, check, sum_up  # noqa: E402

ATOLL, ELF = (os.path.abspath(p) for p in sys.argv[1:3])
PATIENCE = 200
NOBODY = 65534
PR_SET_DUMPABLE = 4
SKIPPED = 77
KINDS = {"user": 0x10000000, "mnt": 0x00020000, "net": 0x40000000,
         "pid": 0x20000000, "ipc": 0x08000000, "uts": 0x04000000}
LIBC = ctypes.CDLL(None, use_errno=True)


class Machine:
    """atoll run, and the machine's process below it."""

    def __init__(self, work, name):
        self.disk = os.path.join(work, name + ".raw")
        with open(self.disk, "wb") as f:
            f.truncate(1 << 20)
        env = dict(os.environ, ATOLL_STATE_DIR=work + "/s",
                   ATOLL_RUNTIME_DIR=work + "/r", HOME=work)
        self.run = subprocess.Popen(
            [ATOLL, "run", "--name", name, "--engine", "bt", "--memory",
             "32M", "--kernel", ELF, "--device", "debug-exit", "--net",
             "user", "--disk", self.disk, "--timeout", "800"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self.first = self.run.stdout.readline()
        assert self.first, "it did not start"
        self.pid = self.process()
        self.control = os.path.join(work, "r", name)

    def process(self):
        tasks = f"/proc/{self.run.pid}/task/{self.run.pid}/children"
        for pid in pathlib.Path(tasks).read_text().split():
            if pathlib.Path(f"/proc/{pid}/comm").read_text() == "atoll-vm\n":
                return int(pid)
        raise AssertionError("no atoll-vm below atoll")

    def status(self, key):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return text.partition(f"\n{key}:")[2].partition("\n")[0].split()

    def namespace(self, kind):
        return os.stat(f"/proc/{self.pid}/ns/{kind}").st_ino

    def has_own_users(self):
        """Those of one in our own namespace a user may not even look at."""
        try:
            return self.namespace("user") != \
                os.stat("/proc/self/ns/user").st_ino
        except PermissionError:
            return False

    def end(self):
        self.run.send_signal(signal.SIGTERM)
        self.run.wait(PATIENCE)
        self.run.stdout.close()
        self.run.stdin.close()


def refused(attempt, *errors):
    """Nothing came of it, for one of these reasons."""
    try:
        attempt()
    except OSError as e:
        return not errors or isinstance(e, errors)
    return False


def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(PATIENCE)
        s.connect(address)


def look_around(other, listening):
    """In the namespaces; a list of what went wrong."""
    wrong = []

    def must_fail(what, attempt, *errors):
        if not refused(attempt, *errors):
            wrong.append(what)

    names = sorted(os.listdir("/"))
    if not set(names) <= {"dev", "proc"} or \
            not set(os.listdir("/dev")) <= {"kvm"} or \
            os.listdir("/proc") != ["self"]:
        wrong.append(f"its root has {names}")
    for path in (other.disk, other.control, "/etc/passwd", f"/proc/{other.pid}",
                 ELF, "/run/atoll", "/tmp"):
        must_fail(path, lambda p=path: os.stat(p), FileNotFoundError)
    must_fail("a new file", lambda: open("/new", "w"), OSError)
    must_fail("the other machine's process",
              lambda: os.kill(other.pid, 0), ProcessLookupError)
    must_fail("our process", lambda: os.kill(other.run.pid, 0),
              ProcessLookupError)
    must_fail("a port of the host",
              lambda: connect(socket.AF_INET, ("127.0.0.1", listening)))
    must_fail("an abstract socket of the host",
              lambda: connect(socket.AF_UNIX, f"\0atoll-{listening}"))
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        wrong.append(f"its network has {names}")
    return wrong


def inside(machine, other, listening):
    """What look_around() says there; system calls only until it does."""
    flags = sum(KINDS.values())
    back, front = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = "?"
        try:
            target = os.pidfd_open(machine.pid)
            if LIBC.setns(target, flags) < 0:
                raise OSError(ctypes.get_errno(), "setns")
            if os.getuid() != 0:  # the namespace's
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
            child = os.fork()  # in the process namespace are its children
            if child:
                os.waitpid(child, 0)
                os._exit(0)
            words = ", ".join(look_around(other, listening)) or "nothing"
        except BaseException as e:  # told, whatever it is
            words = repr(e)
        os.write(front, words.encode())
        os._exit(0)
    os.close(front)
    with os.fdopen(back) as f:
        words = f.read()
    os.waitpid(pid, 0)
    return words


def from_outside(machine, other, who):
    for kind in KINDS:
        ours = os.stat(f"/proc/self/ns/{kind}").st_ino
        check(f"{who}: its own {kind} namespace",
              len({machine.namespace(kind), other.namespace(kind), ours}) == 3)
    check(f"{who}: first in its namespace",
          machine.status("NSpid")[-1] == "1", machine.status("NSpid"))
    check(f"{who}: no capabilities",
          all(int(machine.status(k)[0], 16) == 0
              for k in ("CapInh", "CapPrm", "CapEff", "CapAmb")))
    check(f"{who}: no new privileges", machine.status("NoNewPrivs") == ["1"])
    check(f"{who}: seccomp", machine.status("Seccomp") == ["2"])


def uids(machine, other, who):
    mine, theirs = machine.status("Uid"), other.status("Uid")
    if os.geteuid():
        check(f"{who}: the user's id", mine == [str(os.geteuid())] * 4, mine)
        return
    check(f"{who}: a user id of its own",
          len(set(mine)) == 1 and mine[0] != theirs[0] and
          "0" not in (mine[0], theirs[0]), (mine, theirs))
    check(f"{who}: no groups of root's",
          machine.status("Gid") == mine and machine.status("Groups") == [])
    path = pathlib.Path("/run/atoll/uids") / mine[0]
    check(f"{who}: written down", path.stat().st_uid == 0 and
          stat.S_IMODE(path.stat().st_mode) == 0o600)


def listeners():
    """A port and an abstract socket that the host's processes reach."""
    port = socket.create_server(("127.0.0.1", 0))
    number = port.getsockname()[1]
    local = socket.socket(socket.AF_UNIX)
    local.bind(f"\0atoll-{number}")
    local.listen()
    connect(socket.AF_INET, ("127.0.0.1", number))
    connect(socket.AF_UNIX, f"\0atoll-{number}")
    return number, (port, local)


def one_user(who):
    work = tempfile.mkdtemp(prefix="iso-")
    machines = []
    try:
        machines += [Machine(work, "first"), Machine(work, "second")]
        first, second = machines
        uids(first, second, who)
        if not first.has_own_users():
            print(f"{who}: this host refuses user namespaces; not tested")
            return
        from_outside(first, second, who)
        number, kept = listeners()
        for machine, other in ((first, second), (second, first)):
            found = inside(machine, other, number)
            check(f"{who}: nothing of the host in sight", found == "nothing",
                  found)
        for s in kept:
            s.close()
        before = first.status("Uid")
        first.end()
        machines.remove(first)
        again = Machine(work, "first")
        machines.append(again)
        check(f"{who}: the same user id again", again.status("Uid") == before)
        dies_with_us(again, who)
        machines.remove(again)
    finally:
        for machine in machines:
            machine.end()
        shutil.rmtree(work)


def dies_with_us(machine, who):
    watch = os.pidfd_open(machine.pid)
    machine.run.kill()
    machine.run.wait()
    end = time.monotonic() + PATIENCE
    gone = False
    while not gone and time.monotonic() < end:
        try:
            signal.pidfd_send_signal(watch, 0)
            time.sleep(0.02)
        except ProcessLookupError:
            gone = True
    check(f"{who}: it dies with atoll", gone)
    os.close(watch)
    machine.run.stdout.close()
    machine.run.stdin.close()


def without_user_namespaces():
    """In a child: a host that has no more of them. False: this one has none."""
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(up[1])
        if os.read(up[0], 1) == b"x":
            for kind in ("uid", "gid"):
                with open(f"/proc/{pid}/{kind}_map", "w") as f:
                    f.write("0 0 4294967295")
        os.write(down[1], b"x")
        return pid
    try:
        if LIBC.unshare(KINDS["user"]) < 0:
            os._exit(SKIPPED)
        os.write(up[1], b"x")
        os.read(down[0], 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as f:
            f.write("0")
        os._exit(refusing_host())
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def refusing_host():
    """Root still gives a user id, and the other namespaces."""
    work = tempfile.mkdtemp(prefix="iso-")
    machine = Machine(work, "third")
    try:
        check("refused: a user id of its own", "0" not in machine.status("Uid"))
        check("refused: the other namespaces",
              all(machine.namespace(k) != os.stat(f"/proc/self/ns/{k}").st_ino
                  for k in KINDS if k != "user"))
        check("refused: a root of its own",
              set(os.listdir(f"/proc/{machine.pid}/root")) <= {"dev", "proc"})
        check("refused: no capabilities",
              int(machine.status("CapPrm")[0], 16) == 0)
        sys.stdout.flush()
    finally:
        machine.end()
        shutil.rmtree(work)
    return any_failed()


def copy_programs(folder):
    """To where any user sees them: the paths of two."""
    room = pathlib.Path(ATOLL).parent.parent
    os.chmod(folder, 0o755)
    for path in (ATOLL, ELF, room / "vm/atoll-vm", room / "net/atoll-net"):
        copy = pathlib.Path(folder) / pathlib.Path(path).name
        shutil.copy(path, copy)
        copy.chmod(0o755)
    return (f"{folder}/{pathlib.Path(p).name}" for p in (ATOLL, ELF))


def as_nobody():
    """The same in a child that is an ordinary user."""
    global ATOLL, ELF
    here = ATOLL, ELF
    folder = tempfile.mkdtemp(prefix="iso-programs-")
    try:
        ATOLL, ELF = copy_programs(folder)
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            os.chdir("/")
            code = 1
            try:
                one_user("user")
                code = any_failed()
            finally:
                sys.stdout.flush()
                os._exit(code)
        check("as a user", os.waitpid(pid, 0)[1] == 0)
    finally:
        ATOLL, ELF = here
        shutil.rmtree(folder)


one_user("root" if os.geteuid() == 0 else "user")
if os.geteuid() == 0:
    as_nobody()
    sys.stdout.flush()
    code = os.waitstatus_to_exitcode(os.waitpid(without_user_namespaces(), 0)[1])
    check("a host that refuses", code in (0, SKIPPED), code)
sum_up()
