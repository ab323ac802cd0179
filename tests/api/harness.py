# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own in a scratch folder, a client, and api/openapi.yaml
as the judge of every answer."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 180  # seconds, on a machine with much else to do


def _ended(number, frame):
    sys.exit(128 + number)


# Who runs out of time is told to end: what it started goes with it.
signal.signal(signal.SIGTERM, _ended)


def wait_for(what, seconds=PATIENCE, step=0.02):
    """What what() gives once it is true."""
    end = time.monotonic() + seconds
    while not (got := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(step)
    return got


def free_port():
    """One of 127.0.0.1 that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def at_once(what, each):
    """What what(x) gives for each x, all asked at the same time, in order."""
    each = list(each)
    with concurrent.futures.ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(what, each))


def nullable(schema):
    """OpenAPI 3.0's nullable, as JSON Schema says it."""
    if isinstance(schema, list):
        return [nullable(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: nullable(v) for k, v in schema.items() if k != "nullable"}
    if schema.get("nullable") is True:
        return {"anyOf": [out, {"type": "null"}]}
    return out


class Spec:
    """api/openapi.yaml, and which of it has been met."""

    def __init__(self):
        text = (ROOT / "api/openapi.yaml").read_text()
        self.raw = yaml.safe_load(text)
        self.doc = nullable(self.raw)
        self.met = set()
        self.patterns = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$"), path)
            for path in self.doc["paths"]]

    def resolve(self, node):
        while "$ref" in node:
            where = self.doc
            for part in node["$ref"].removeprefix("#/").split("/"):
                where = where[part]
            node = where
        return node

    def operations(self):
        for path, item in self.doc["paths"].items():
            for method in ("get", "post", "patch", "delete", "put"):
                if method in item:
                    yield method.upper(), path, item[method]

    def documented(self):
        """All that a test must have met."""
        return {(m, p, s) for m, p, op in self.operations()
                for s in op["responses"] if s != "default"}

    def check(self, method, path, status, kind, body):
        path = path.partition("?")[0]
        known = [p for pattern, p in self.patterns if pattern.match(path)]
        exact = [p for p in known if p == path]
        name = (exact or known or [None])[0]
        operation = name and self.doc["paths"][name].get(method.lower())
        if not operation:
            schema = self.resolve({"$ref": "#/components/schemas/Error"})
            self.validate(body, schema)
            return
        responses = operation["responses"]
        self.met.add((method, name, str(status)))
        response = self.resolve(responses.get(str(status),
                                              responses["default"]))
        assert str(status) in responses or status >= 400, (
            f"{method} {name}: {status} is not documented")
        content = response.get("content")
        if not content:
            assert not body, (method, name, status, body)
            return
        plain = kind.partition(";")[0]
        assert plain in content, (method, name, status, kind)
        if plain == "application/json":
            self.validate(body, content[plain]["schema"])

    def validate(self, body, schema):
        jsonschema.validate(
            json.loads(body), schema,
            resolver=jsonschema.RefResolver("", self.doc))


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json["error"]["code"]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=PATIENCE):
        super().__init__("atoll", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # By its folder a path of any length fits.
        folder = os.open(os.path.dirname(self.path), os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/"
                              + os.path.basename(self.path))
        except OSError:
            self.sock.close()
            raise
        finally:
            os.close(folder)


class Daemon:
    """atolld and all that it started."""

    def __init__(self, programs, spec=None):
        self.programs = programs
        self.spec = spec
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="atoll-api-"))
        self.state = self.work / "state"
        self.socket = str(self.state / "run/atolld.sock")
        self.process = None
        self.env = dict(os.environ, ATOLL_STATE_DIR=str(self.state),
                        XDG_DATA_HOME=str(self.work / "data"))
        self.env.pop("ATOLL_RUNTIME_DIR", None)

    def start(self, *options, before=None):
        ready, end = os.pipe()
        with open(self.work / "atolld.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.programs["atolld"], "--ready-fd", str(end), *options],
                env=self.env, pass_fds=[end], stderr=log, stdout=log,
                stdin=subprocess.DEVNULL, preexec_fn=before)
        os.close(end)
        with os.fdopen(ready, "rb") as f:
            assert f.read(1) == b"\0", self.log()
        return self

    def log(self):
        return (self.work / "atolld.log").read_text(errors="replace")

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def call(self, method, path, body=None, headers=None, check=True,
             connection=None):
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        if body is None and method != "GET":
            headers.setdefault("Content-Length", "0")
        c = connection or UnixConnection(self.socket)
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            answer = Answer(r.status, {k.lower(): v for k, v in
                                       r.getheaders()}, r.read())
        finally:
            if not connection:
                c.close()
        if check and self.spec:
            self.spec.check(method, path, answer.status,
                            answer.headers.get("content-type", ""),
                            answer.body)
        return answer

    def task(self, answer):
        """The task of an answer, when it has ended."""
        assert answer.status == 202, answer.body
        number = answer.json["id"]
        return wait_for(lambda: self.ended(number), step=0)

    def ended(self, number):
        t = self.call("GET", f"/v1/tasks/{number}?wait=10").json
        return t if t["state"] not in ("queued", "running") else None

    def do(self, method, path, *args, **kwargs):
        t = self.task(self.call(method, path, *args, **kwargs))
        assert t["state"] == "succeeded", t
        return t

    def vm(self, name):
        return self.call("GET", f"/v1/vms/{name}").json

    def define(self, name, **more):
        spec = {"name": name, "memory_bytes": 32 << 20, "engine": "bt",
                "devices": ["debug-exit"],
                "boot": {"kernel": self.programs["guest"]}}
        spec.update(more)
        return self.call("POST", "/v1/vms", spec)

    def shown(self, name, text):
        """How often the console has shown text, in all of its runs."""
        return self.call("GET", f"/v1/vms/{name}/console").body.count(text)

    def console(self, name, text, before=0):
        """Wait until the console has shown text, once more than before."""
        return wait_for(lambda: self.shown(name, text) > before, PATIENCE)

    def run_in(self, name, command, seconds=PATIENCE):
        """What a guest of small_guest.py says to a command."""
        path = f"/v1/vms/{name}/console"
        before = len(self.call("GET", path).body)
        self.call("POST", path, command.encode() + b"\n")
        m = wait_for(lambda: re.search(
            rb"(?s)(.*)=\d+=", self.call("GET", path).body[before:]), seconds)
        return m[1].decode(errors="replace").replace("\r", "").strip()

    def processes(self):
        """Processes of this daemon's machines: pid -> command line."""
        mark = f"ATOLL_STATE_DIR={self.state}".encode()
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                name = pathlib.Path(
                    command.split(b"\0")[0].decode()).name
                if name in ("atoll-hold", "atoll-vm", "atoll-net") and \
                        mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = name
            except (OSError, UnicodeDecodeError):
                continue
        return found

    def remove_groups(self):
        """The control groups that who is killed leaves behind."""
        number = 2166136261
        for byte in str(self.state).encode():
            number = (number ^ byte) * 16777619 & 0xffffffff
        name = f"atoll-{number:08x}"
        # Those of others come and go meanwhile, which os.walk() bears.
        groups = [os.path.join(at, name) for at, names, _ in
                  os.walk("/sys/fs/cgroup") if name in names]
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass  # another's, or not empty yet

    def close(self):
        if self.process:
            self.kill()
        for _ in range(100):
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not left:
                break
            time.sleep(0.02)
        self.remove_groups()
        shutil.rmtree(self.work, ignore_errors=True)


def programs(argv):
    names = ("atolld", "atoll", "guest")
    return {n: os.path.abspath(p) for n, p in zip(names, argv)}


