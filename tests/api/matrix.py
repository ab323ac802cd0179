#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Authorization: every operation of api/openapi.yaml, by every role, in the
caller's own project, in a foreign one, and for what is not there.

What is expected is worked out here from x-right and x-scope of the file, not
by the daemon's code; an operation without them, or a route of the daemon that
the file does not have, fails.

Usage: matrix.py ATOLLD ATOLL GUEST ROUTE_TABLE
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

import harness

# Thousands of denials are written down one by one: not on a disk here.
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"
PROGRAMS = harness.programs(sys.argv[1:4])
ROUTE_TABLE = sys.argv[4]
SPEC = harness.Spec()
D = harness.Daemon(PROGRAMS, SPEC)

RIGHTS = ("read", "operate", "define", "host", "access", "audit")
ROLES = {
    "administrator": set(RIGHTS),
    "operator": {"read", "operate", "define"},
    "user": {"read", "operate"},
    "auditor": {"read", "audit"},
    "viewer": {"read"},
    # Of one's own: one right each, and reading with it.
    **{f"only-{right}": {"read", right} for right in RIGHTS},
}
# Kinds of things that paths name, and who they are in each project.
KINDS = ("vm", "network", "image", "alarm", "project", "token", "task",
         "backup")
PROJECTS = ("own", "foreign")


class Caller:
    """A token of a role, in the project "own" or everywhere."""

    def __init__(self, name, rights, everywhere, headers):
        self.name = name
        self.headers = headers
        self.everywhere = everywhere
        self.host = set(rights) if everywhere else set()
        # The host's files are never a project's to name.
        self.own = set(rights) if everywhere else set(rights) - {"host"}

    def may(self, right, scope, belongs):
        """The status that decides, or None: it is let through."""
        if scope == "any":
            return None
        if scope == "host":
            return None if right in self.host else 403
        if right not in self.own | self.host:
            return 403
        if scope == "some":
            return None
        here = {"own": self.own, "foreign": self.host}.get(belongs, set())
        if "read" not in here:
            return 404
        return None if right in here else 403


def make_image(name):
    store = D.work / "data/atoll/images"
    folder = store / name
    (store / "names").mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    (store / "names" / name).symlink_to(folder)
    (folder / "manifest.json").write_text(
        json.dumps({"id": name, "cmdline": "quiet"}))


class Matrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.connection = harness.UnixConnection(D.socket)
        cls.things = {kind: {"missing": "none"} for kind in KINDS}
        cls.things["task"]["missing"] = "999999"
        for role, rights in ROLES.items():
            if role.startswith("only-"):
                cls.done(cls.call("POST", "/v1/roles", {
                    "name": role, "rights": sorted(rights - {"read"})
                    or ["read"]}))
        for project in PROJECTS:
            cls.fill(project)
        cls.callers = []
        for role, rights in ROLES.items():
            for project in ("own", None):
                name = f"{role}-{project or 'all'}"
                token = cls.done(cls.call("POST", "/v1/tokens", {
                    "name": name, "role": role, "project": project}))
                cls.callers.append(Caller(name, rights, project is None, {
                    "Authorization": f"Bearer {token.json['token']}"}))
        cls.done(cls.call("POST", "/v1/users", {"name": "nobody-yet"}))
        token = cls.done(cls.call("POST", "/v1/tokens", {
            "name": "of-nobody", "user": "nobody-yet"}))
        cls.callers.append(Caller("of-nobody", (), False, {
            "Authorization": f"Bearer {token.json['token']}"}))

    @classmethod
    def fill(cls, project):
        """One of each kind, by the name of its project and kind."""
        things = cls.things
        things["project"][project] = project
        cls.done(cls.call("POST", "/v1/projects", {"name": project}))
        for kind in ("vm", "network", "image", "alarm", "token"):
            things[kind][project] = f"{kind}-of-{project}"
        vm = cls.done(D.define(things["vm"][project], project=project))
        cls.done(cls.call("POST", "/v1/networks", {
            "name": things["network"][project], "project": project,
            "isolated": True}))
        cls.done(cls.call("POST", "/v1/alarms", {
            "name": things["alarm"][project], "project": project,
            "metric": "cpu", "threshold": 10 ** 9}))
        cls.done(cls.call("POST", "/v1/tokens", {
            "name": things["token"][project], "project": project,
            "role": "viewer"}))
        make_image(things["image"][project])
        cls.done(cls.call("PATCH",
                          f"/v1/images/{things['image'][project]}",
                          {"project": project}))
        task = cls.done(cls.call("POST",
                                 f"/v1/vms/{vm.json['id']}/kill"))
        things["task"][project] = str(task.json["id"])
        D.task(task)
        task = cls.done(cls.call("POST", f"/v1/vms/{vm.json['id']}/backups"))
        things["backup"][project] = task.json["params"]["backup"]
        D.task(task)

    @classmethod
    def call(cls, *args, **how):
        # The shapes of answers are judged by routes.py.
        return D.call(*args, connection=cls.connection, check=False, **how)

    @staticmethod
    def done(answer):
        assert answer.status < 300, answer.body
        return answer

    def rule(self, method, path, op):
        right, scope = op.get("x-right"), op.get("x-scope")
        self.assertIn(right, RIGHTS + ("none",), f"{method} {path}: x-right")
        self.assertIn(scope, ("any", "some", "thing", "host"),
                      f"{method} {path}: x-scope")
        return right, scope

    def test_1_all_routes_are_ruled(self):
        routes = set(subprocess.run([ROUTE_TABLE], check=True, text=True,
                                    stdout=subprocess.PIPE)
                     .stdout.splitlines())
        described = {f"{m} {p}" for m, p, _ in SPEC.operations()}
        self.assertEqual(routes, described)
        for method, path, op in SPEC.operations():
            right, scope = self.rule(method, path, op)
            first = (re.findall(r"\{(\w+)\}", path) or [None])[0]
            if scope == "thing":
                self.assertIn(first, KINDS, path)
            # Whoever adds a path below these has to say so on purpose.
            if path.startswith(("/v1/vms/", "/v1/networks/", "/v1/tasks/")):
                self.assertEqual(scope, "thing", path)
            if right == "none":
                self.assertEqual(path, "/v1")

    def ask(self, caller, method, path):
        """With a query that no operation knows: who is let through is told
        so, and nothing is done."""
        return self.call(method, path + "?colour=red", headers=caller.headers)

    def judge(self, caller, method, path, rule, belongs):
        got = self.ask(caller, method, path)
        wanted = caller.may(*rule, belongs) or 400
        where = f"{caller.name}: {method} {path} ({belongs})"
        self.assertEqual(got.status, wanted, f"{where}: {got.body}")
        if wanted == 400:
            self.assertIn("colour", got.json["error"]["words"], where)
        return got

    def test_2_every_route_role_and_project(self):
        asked = 0
        for method, path, op in SPEC.operations():
            rule = self.rule(method, path, op)
            first = (re.findall(r"\{(\w+)\}", path) or [None])[0]
            names = self.things[first] if rule[1] == "thing" else \
                {"own": "x"}
            for caller in self.callers:
                answers = {}
                for belongs, name in names.items():
                    at = re.sub(r"\{\w+\}", name, path, count=1)
                    at = re.sub(r"\{\w+\}", "1", at)
                    got = self.judge(caller, method, at, rule, belongs)
                    answers[belongs] = (got.status,
                                        got.body.decode().replace(name, "N"))
                    asked += 1
                # Byte by byte: nothing tells a foreign thing from none.
                if rule[1] == "thing" and not caller.everywhere:
                    self.assertEqual(answers["foreign"], answers["missing"],
                                     f"{caller.name}: {method} {path}")
        print(f"{asked} calls by {len(self.callers)} callers")

    def test_3_lists_show_what_may_be_seen(self):
        """What a list shows of the two projects: by names in what it says."""
        lists = [(p, op) for m, p, op in SPEC.operations()
                 if m == "GET" and op["x-scope"] == "some" and "{" not in p]
        self.assertGreater(len(lists), 10)
        told = set()
        for path, op in lists:
            for caller in self.callers:
                if caller.may(op["x-right"], "some", None):
                    continue
                text = self.call("GET", path, headers=caller.headers) \
                    .body.decode()
                where = f"{caller.name}: {path}: {text}"
                if not caller.everywhere:
                    self.assertNotIn("of-foreign", text, where)
                    self.assertNotIn('"foreign"', text, where)
                told |= {path for _ in re.findall("of-own", text)}
        # They do show what is the caller's.
        self.assertLessEqual(
            {"/v1/vms", "/v1/networks", "/v1/images", "/v1/tasks",
             "/v1/events", "/v1/alarms", "/v1/tokens", "/v1/audit",
             "/v1/backups", "/metrics", "/v1/reports/sizing", "/v1/reports/sprawl"}, told)

    def test_4_making_things_elsewhere(self):
        """POSTs that make a thing in a project that the body names."""
        bodies = {
            "/v1/vms": {"image": "image-of-own", "boot": {}},
            "/v1/networks": {"isolated": True},
            "/v1/alarms": {"metric": "cpu", "threshold": 10 ** 9},
            "/v1/tokens": {"role": "viewer"},
        }
        paths = {p for m, p, op in SPEC.operations()
                 if m == "POST" and op["x-scope"] == "some"}
        self.assertEqual(paths - set(bodies), {"/v1/users/{user}/grants"})
        for n, (path, body) in enumerate(bodies.items()):
            right = SPEC.doc["paths"][path]["post"]["x-right"]
            need = {right} | ({"operate"} if path == "/v1/alarms" else set())
            for caller in self.callers:
                for project in ("own", "foreign", "missing"):
                    name = f"m{n}-{caller.name}-{project}"[:63]
                    got = self.call("POST", path, {
                        "name": name, "project": project, **body},
                        headers=caller.headers)
                    here = {"own": caller.own, "foreign": caller.host,
                            "missing": set()}[project]
                    where = f"{caller.name} {path} {project}: {got.body}"
                    if right not in caller.own:
                        self.assertEqual(got.status, 403, where)
                    elif "read" not in here:
                        self.assertEqual(got.status, 404, where)
                        self.assertEqual(
                            got.json["error"]["words"],
                            f"there is no project {project}")
                    else:
                        self.assertEqual(got.status,
                                         201 if need <= here else 403, where)
                    if got.status == 201:
                        self.done(self.call("DELETE", f"{path}/{name}"))

    def test_5_no_right_is_made_of_nothing(self):
        """Nobody gives, in any way, what he does not have himself."""
        user = {"name": "climber"}
        self.done(self.call("POST", "/v1/users", user))
        self.done(self.call("POST", "/v1/users", {
            "name": "chief", "certificate": "chief.example"}))
        self.done(self.call("POST", "/v1/users/chief/grants",
                            {"role": "administrator"}))
        for caller in self.callers:
            for role in ("administrator", "operator", "viewer", "only-host",
                         "only-access"):
                rights = ROLES[role]
                for project in ("own", "foreign", None):
                    has = caller.own if project == "own" else caller.host
                    given = rights - {"host"} if project else rights
                    may = "access" in has and given <= has
                    where = f"{caller.name} gives {role} in {project}"
                    body = {"role": role, "project": project}
                    got = self.call("POST", "/v1/users/climber/grants", body,
                                    headers=caller.headers)
                    self.assertEqual(got.status < 300, may, where)
                    if may:
                        at = f"?role={role}" + (
                            f"&project={project}" if project else "")
                        self.done(self.call(
                            "DELETE", "/v1/users/climber/grants" + at,
                            headers=caller.headers))
                    name = f"t5-{caller.name}-{role}"[:63]
                    got = self.call("POST", "/v1/tokens",
                                    {"name": name, **body},
                                    headers=caller.headers)
                    self.assertEqual(got.status < 300, may, where)
                    if may:
                        self.done(self.call("DELETE", f"/v1/tokens/{name}"))
            everything = caller.host == set(RIGHTS)
            for attempt in (
                    ("PATCH", "/v1/users/chief", {"certificate": "me"}),
                    ("POST", "/v1/tokens", {"name": "t-chief",
                                            "user": "chief"}),
                    ("POST", "/v1/roles", {"name": "all-" + caller.name,
                                           "rights": list(RIGHTS)}),
                    ("PATCH", "/v1/roles/only-access",
                     {"rights": list(RIGHTS)})):
                got = self.call(*attempt, headers=caller.headers)
                self.assertEqual(got.status < 300, everything,
                                 f"{caller.name} {attempt}: {got.body}")
            if everything:
                self.done(self.call("PATCH", "/v1/roles/only-access",
                                    {"rights": ["access"]}))
                self.done(self.call("DELETE", "/v1/tokens/t-chief"))
        # Quotas are the host's to set.
        for caller in self.callers:
            got = self.call("PATCH", "/v1/projects/own",
                            {"quotas": {"machines": None}},
                            headers=caller.headers)
            self.assertEqual(got.status, 200 if "access" in caller.host
                             else 403, caller.name)

    def test_6_networks_and_images_of_others(self):
        operator = next(c for c in self.callers if c.name == "operator-own")
        for foreign, missing in (
                ({"image": "image-of-foreign"}, {"image": "none"}),
                ({"image": "image-of-own", "nics": [
                    {"type": "network", "network": "network-of-foreign"}]},
                 {"image": "image-of-own", "nics": [
                     {"type": "network", "network": "none"}]})):
            answers = []
            for body in (foreign, missing):
                got = self.call("POST", "/v1/vms", {
                    "name": "m6", "project": "own", "boot": {}, **body},
                    headers=operator.headers)
                name = body.get("nics", [{"network": body["image"]}])[0]
                answers.append((got.status, got.body.decode().replace(
                    name["network"], "N")))
            self.assertEqual(answers[0], answers[1])
            self.assertEqual(answers[0][0], 404)
        # An administrator lends a network; then its owner may change the rest.
        self.done(self.call("PATCH", "/v1/vms/vm-of-own", {"nics": [
            {"type": "network", "network": "network-of-foreign"}]}))
        got = self.call("PATCH", "/v1/vms/vm-of-own", {"description": "x"},
                        headers=operator.headers)
        self.assertEqual(got.status, 200, got.body)
        got = self.call("PATCH", "/v1/vms/vm-of-own", {"project": "foreign"},
                        headers=operator.headers)
        self.assertEqual((got.status, got.json["error"]["words"]),
                         (404, "there is no project foreign"))

    def test_7_denials_are_written_down(self):
        last = self.call("GET", "/v1/audit?limit=1000").json["records"]
        while last and (more := self.call(
                "GET", f"/v1/audit?limit=1000&after={last[-1]['id']}")
                .json["records"]):
            last = last + more
        seen = {(r["caller"], r["action"], r["target"], r["outcome"],
                 r["project"]) for r in last}
        # A right that is nowhere; a thing that is another's; one's own.
        for record in (
                ("token viewer-own", "GET /v1/host", "", "403", None),
                ("token viewer-own", "POST /v1/vms/{vm}/kill", "vm-of-foreign",
                 "403", "foreign"),
                ("token operator-own", "POST /v1/vms/{vm}/kill",
                 "vm-of-foreign", "404", "foreign"),
                ("token only-audit-own", "DELETE /v1/vms/{vm}", "vm-of-own",
                 "403", "own")):
            self.assertIn(record, seen)
        self.assertTrue(self.call("GET", "/v1/audit/verify").json["valid"])


if __name__ == "__main__":
    os.umask(0o022)
    try:
        D.start()
        unittest.main(argv=sys.argv[:1] + sys.argv[5:])
    finally:
        D.close()
