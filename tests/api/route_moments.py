# SPDX-License-Identifier: Apache-2.0
"""The routes of snapshots and of machines put away: a part of routes.py."""
import fcntl
import subprocess

from harness import at_once, free_port, wait_for

AT = "/v1/vms/kept"
ALL = AT + "/snapshots"


class MomentRoutes:
    def post(self, path, body=None, **how):
        return self.D.call("POST", path, body, **how)

    def get(self, path, **how):
        return self.D.call("GET", path, **how)

    def count(self, name, wanted):
        """What the guest remembers, in its memory."""
        shown = b"n came %d times" % wanted
        before = self.D.shown(name, shown)
        self.post(f"/v1/vms/{name}/console", b"n")
        self.D.console(name, shown, before)

    def make_kept(self):
        self.disk = self.D.work / "kept.raw"
        self.disk.write_bytes(b"first" + bytes((4 << 20) - 5))
        made = self.D.define("kept", disks=[{"path": str(self.disk)}])
        self.assertEqual(made.status, 201)
        self.refused(self.post(ALL), 409, "conflict", "does not run")
        self.D.do("POST", AT + "/start")
        self.D.console("kept", b"resident is up")
        self.count("kept", 1)

    def moment_refusals(self):
        for body, words in (
                ({"name": "../x"}, "name"), ({"name": "a\nb"}, "name"),
                ({"name": "-x"}, "name"), ({"name": ""}, "name"),
                ({"name": "x" * 64}, "name"), ({"name": 5}, "name"),
                ({"name": "a.b"}, "name"), ({"colour": 1}, "colour"),
                ({"fast": "yes"}, "fast"), ({"description": 5}, "description"),
                ({"description": "x" * 5000}, "description")):
            with self.subTest(body=body):
                self.refused(self.post(ALL, body), 400, "bad-request", words)
        for path in (ALL, ALL + "/x/revert", AT + "/suspend", AT + "/start"):
            path = path.replace("kept", "none")
            self.refused(self.post(path), 404, "not-found", "none")
        for method, path in (("GET", ""), ("GET", "/x"), ("DELETE", "/x"),
                             ("GET", "/x/diff?with=y")):
            at = ALL.replace("kept", "none") + path
            self.refused(self.D.call(method, at), 404, "not-found", "none")
            if path:
                self.refused(self.D.call(method, ALL + path), 404,
                             "not-found", "no snapshot x")
        self.refused(self.post(ALL + "/x/revert"), 404, "not-found")
        for old in (ALL, ALL + "/first/revert", AT + "/suspend",
                    AT + "/start"):
            self.refused(self.post(old, headers={"If-Match": '"999"'}), 412,
                         "precondition")
        self.refused(self.post(ALL + "/first/revert", {"force": 1}), 400,
                     "bad-request", "force")
        self.refused(self.post(AT + "/suspend", {"x": 1}), 400, "bad-request")
        for body in ({"discard": 1}, {"x": True}):
            self.refused(self.post(AT + "/start", body), 400, "bad-request")
        self.refused(self.get(ALL + "/first/diff"), 400, "bad-request",
                     "with which")
        self.refused(self.get(ALL + "/first/diff?with=none"), 404,
                     "not-found", "none")

    def test_460_snapshots(self):
        self.make_kept()
        self.assertEqual(self.get(ALL).json,
                         {"current": None, "snapshots": []})
        key = {"Idempotency-Key": "snap"}
        body = {"name": "first", "description": "as it was"}
        made = self.post(ALL, body, headers=key)
        again = self.post(ALL, body, headers=key)
        self.assertEqual(made.json["id"], again.json["id"])
        # Its name is taken from now on.
        self.refused(self.post(ALL, body), 409, "conflict", "already")
        task = self.D.task(made)
        self.assertEqual((task["state"], task["result"]),
                         ("succeeded", {"snapshot": "first"}))
        self.refused(self.post(ALL, body), 409, "conflict", "already")
        self.moment_refusals()
        self.count("kept", 2)
        self.D.do("POST", ALL, {"name": "second", "fast": True})
        listed = self.get(ALL).json
        self.assertEqual(listed["current"], "second")
        self.assertEqual([(s["name"], s["parent"], s["description"])
                          for s in listed["snapshots"]],
                         [("first", None, "as it was"),
                          ("second", "first", "")])
        one = self.get(ALL + "/first").json
        self.assertEqual(one["spec"], self.D.vm("kept")["spec"])
        self.assertGreater(one["bytes"], one["memory_bytes"])
        self.assertGreater(one["pause_us"], 0)
        differs = self.get(ALL + "/first/diff?with=second").json
        self.assertGreater(differs["memory"]["differing_bytes"], 0)
        self.assertEqual(differs["disks"][0]["differing_bytes"], 0)
        (self.folder("kept") / "snapshots/second/state").rename(
            self.D.work / "state-of-second")
        self.refused(self.get(ALL + "/first/diff?with=second"), 409,
                     "conflict", "state")
        (self.D.work / "state-of-second").rename(
            self.folder("kept") / "snapshots/second/state")

    def folder(self, name):
        return self.D.state / "machines" / self.D.vm(name)["id"]

    def test_461_revert(self):
        self.refused(self.post(ALL + "/first/revert"), 409, "conflict",
                     "runs")
        # Of what waits in the queue nobody knows yet.
        self.D.do("POST", AT + "/kill")
        self.disk = self.D.work / "kept.raw"
        with open(self.disk, "r+b") as f:
            f.write(b"later")
        self.D.do("POST", ALL + "/first/revert")
        self.assertEqual(self.disk.read_bytes()[:5], b"first")
        vm = self.D.vm("kept")
        self.assertEqual((vm["state"], vm["saved"]), ("stopped", True))
        self.assertEqual(self.get(ALL).json["current"], "first")
        self.D.do("POST", AT + "/start")
        self.assertFalse(self.D.vm("kept")["saved"])
        # It remembers what it did before the first one, and no more.
        self.count("kept", 2)
        self.assertFalse((self.folder("kept") / "resuming.state").exists())
        self.D.do("POST", ALL + "/second/revert",
                  {"force": True, "start": True})
        self.assertEqual(self.D.vm("kept")["state"], "running")
        self.count("kept", 3)
        self.D.do("POST", ALL, {"name": "third"})
        # Those below it stay when it goes.
        self.D.do("DELETE", ALL + "/second")
        left = {s["name"]: s["parent"]
                for s in self.get(ALL).json["snapshots"]}
        self.assertEqual(left, {"first": None, "third": "first"})
        self.refused(self.post(ALL + "/second/revert"), 404, "not-found")

    def test_462_what_was_taken_away_stays_so(self):
        self.D.do("POST", AT + "/kill")
        self.assertEqual(self.D.call("PATCH", AT, {"disks": []}).status, 200)
        self.refused(self.post(ALL + "/third/revert"), 409, "conflict",
                     "other disks")
        disks = self.get(ALL + "/third").json["spec"]["disks"]
        self.D.call("PATCH", AT, {"disks": disks, "description": "new"})
        self.D.do("POST", ALL + "/third/revert", {"start": True})
        vm = self.D.vm("kept")
        # It is what it was; what it is to be comes with its next boot.
        self.assertTrue(vm["restart_needed"])
        self.assertEqual(vm["spec"]["description"], "new")
        self.D.do("POST", AT + "/suspend")
        self.D.call("PATCH", AT, {"memory_bytes": 64 << 20, "cpus": 2})
        self.D.do("POST", AT + "/start")
        self.count("kept", 4)
        self.D.do("POST", AT + "/suspend")
        self.D.call("PATCH", AT, {"cpus": 1, "nics": [{"type": "user"}]})
        task = self.D.task(self.post(AT + "/start"))
        self.assertEqual(task["error"]["code"], "conflict")
        self.assertIn("other nics", task["error"]["words"])
        self.D.call("PATCH", AT, {"nics": []})
        ups = self.D.shown("kept", b"resident is up")
        self.D.do("POST", AT + "/start", {"discard": True})
        self.D.console("kept", b"resident is up", ups)
        self.assertFalse(self.D.vm("kept")["restart_needed"])
        self.count("kept", 1)

    def test_463_suspend(self):
        self.D.do("POST", AT + "/suspend", {"fast": True})
        vm = self.D.vm("kept")
        self.assertEqual((vm["state"], vm["saved"], vm["wanted"],
                          vm["last_end"]["cause"]),
                         ("stopped", True, "stopped", "suspended"))
        task = self.D.task(self.post(AT + "/suspend"))
        self.assertEqual(task["state"], "succeeded")
        self.D.do("POST", AT + "/start")
        self.count("kept", 2)
        self.D.do("POST", AT + "/kill")
        task = self.D.task(self.post(AT + "/suspend"))
        self.assertEqual(task["error"]["code"], "conflict")
        # A state that does not fit is tried again, or dropped.
        self.D.do("POST", ALL + "/third/revert")
        state = self.folder("kept") / "suspended.state"
        whole = state.read_bytes()
        state.unlink()
        state.write_bytes(whole[:-1])
        task = self.D.task(self.post(AT + "/start"))
        self.assertEqual(task["error"]["code"], "start-failed", task)
        self.assertIn("--discard", task["error"]["hint"])
        self.assertTrue(self.D.vm("kept")["saved"])
        self.D.do("POST", AT + "/start", {"discard": True})
        self.assertFalse(state.exists())
        folder = self.folder("kept")
        self.D.do("DELETE", AT + "?force=true")
        wait_for(lambda: not folder.exists())

    def test_842_names_of_images(self):
        at = "/v1/images/tiny:1"
        for body, words in (({}, "name"), ({"name": "../x"}, "name"),
                            ({"name": "a\nb"}, "name"), ({"name": 5}, "name"),
                            ({"name": ".x"}, "name"), ({"name": "x", "y": 1},
                                                       "y"),
                            ({"name": "x", "force": 1}, "force")):
            with self.subTest(body=body):
                self.refused(self.post(at + "/tag", body), 400, "bad-request",
                             words)
        self.refused(self.post("/v1/images/none/tag", {"name": "x"}), 404,
                     "not-found")
        self.post("/v1/projects", {"name": "prints"})
        self.D.call("PATCH", at, {"project": "prints"})
        made = self.post(at + "/tag", {"name": "tiny:other"})
        self.assertEqual((made.status, made.json["project"]), (201, "prints"))
        self.assertEqual(made.json["id"], self.get(at).json["id"])
        self.refused(self.post(at + "/tag", {"name": "tiny:other"}), 409,
                     "conflict", "already")
        self.assertEqual(self.post(at + "/tag", {
            "name": "tiny:other", "force": True}).status, 201)
        # Another project's name is not to be had.
        token = self.post("/v1/tokens", {
            "name": "t-prints", "role": "operator", "project": "prints"}).json
        own = {"Authorization": "Bearer " + token["token"]}
        self.D.call("PATCH", "/v1/images/tiny:other", {"project": None})
        self.refused(self.post(at + "/tag", {
            "name": "tiny:other", "force": True}, headers=own), 409,
            "conflict")
        self.refused(self.D.call("DELETE", "/v1/images/tiny:other",
                                 headers=own), 403, "denied")
        self.D.call("PATCH", at, {"project": None})
        self.assertEqual(self.D.call(
            "DELETE", "/v1/images/tiny:other").status, 204)
        self.refused(self.D.call("DELETE", "/v1/images/tiny:other"), 404,
                     "not-found")
        self.assertEqual(self.get(at).status, 200)
        # The last name of one: in use it stays, else it goes.
        store = self.D.work / "data/atoll/images"
        folder = store / ("cd" * 32)
        folder.mkdir()
        for name in ("vmlinuz", "initrd", "disk.raw"):
            (folder / name).write_bytes(b"x")
        (folder / "manifest.json").write_text(
            '{"id": "' + "cd" * 32 + '", "cmdline": ""}')
        (store / "names/brief:1").symlink_to(folder)
        lock = open(store / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.refused(self.D.call("DELETE", "/v1/images/brief:1"), 409,
                     "conflict", "another command")
        self.refused(self.post(at + "/tag", {"name": "x"}), 409, "conflict")
        lock.close()
        (folder / "clones").mkdir()
        disk = self.D.work / "clone.qcow2"
        subprocess.run([self.D.programs["atoll"], "disk", "create",
                        "--backing", folder / "disk.raw", "--backing-format",
                        "raw", disk, "1M"], check=True)
        (folder / "clones/1").symlink_to(disk)
        self.refused(self.D.call("DELETE", "/v1/images/brief:1"), 409,
                     "conflict", "in use")
        disk.unlink()
        self.assertEqual(self.D.call("DELETE",
                                     "/v1/images/brief:1").status, 204)
        self.assertFalse(folder.exists())
        self.D.call("DELETE", "/v1/projects/prints")

    def test_8421_images_made(self):
        disk = self.D.work / "made.raw"
        disk.write_bytes(b"made" + bytes((8 << 20) - 4))
        good = {"name": "made:1", "path": str(disk),
                "kernel": self.D.programs["guest"]}
        for change, words in (
                ({"name": "../x"}, "name"), ({"name": None}, "name"),
                ({"path": "relative"}, "path"), ({"path": "/a\nb"}, "path"),
                ({"path": None}, "path"), ({"kernel": 5}, "kernel"),
                ({"build": True}, "path"), ({"build": 1}, "build"),
                ({"force": 1}, "force"), ({"colour": "red"}, "colour"),
                ({"cmdline": ""}, "cmdline")):
            with self.subTest(change=change):
                body = {k: v for k, v in {**good, **change}.items()
                        if v is not None}
                self.refused(self.post("/v1/images", body), 400,
                             "bad-request", words)
        self.refused(self.post("/v1/images", {"name": "made:1",
                                              "path": str(disk)}), 400,
                     "bad-request", "kernel")
        self.refused(self.post("/v1/images", {**good, "project": "none"}),
                     404, "not-found", "no project none")
        self.post("/v1/projects", {"name": "makers"})
        key = {"Idempotency-Key": "image"}
        made = self.post("/v1/images", {**good, "project": "makers"},
                         headers=key)
        self.assertEqual(made.json["id"], self.post(
            "/v1/images", {**good, "project": "makers"},
            headers=key).json["id"])
        task = self.D.task(made)
        self.assertEqual((task["state"], task["vm"], task["result"]),
                         ("succeeded", None, {"image": "made:1"}), task)
        self.assertEqual(self.get("/v1/images/made:1").json["project"],
                         "makers")
        self.refused(self.post("/v1/images", good), 409, "conflict",
                     "already")
        tar = self.D.work / "made.tar"
        at = "/v1/images/made:1/export"
        for body in ({}, {"path": "x.tar"}, {"path": str(tar), "x": 1}):
            self.refused(self.post(at, body), 400, "bad-request")
        self.refused(self.post("/v1/images/none:1/export",
                               {"path": str(tar)}), 404, "not-found")
        self.assertEqual(self.D.do("POST", at, {"path": str(tar)})[
            "project"], "makers")
        inode = tar.stat().st_ino
        task = self.D.task(self.post(at, {"path": str(tar)}))
        self.assertEqual((task["state"], task["error"]["code"],
                          tar.stat().st_ino), ("failed", "conflict", inode))
        self.assertIn("already", task["error"]["words"])
        self.assertEqual(task["error"]["hint"], "--force replaces it")
        self.D.do("POST", at, {"path": str(tar), "force": True})
        self.assertNotEqual(tar.stat().st_ino, inode)
        # As it was, it would be made:1 with another name.
        self.D.do("POST", "/v1/images", {"name": "again:1", "path": str(tar),
                                         "cmdline": "again"})
        for body, words in (
                ({"name": "bad:1", "path": str(self.D.work / "none.tar")},
                 "none.tar"),
                ({**good, "name": "bad:1", "kernel": "/nonexistent"},
                 "/nonexistent"),
                ({"name": "bad:1", "build": True}, "no recipe")):
            task = self.D.task(self.post("/v1/images", body))
            self.assertEqual(task["state"], "failed", task)
            self.assertIn(words, task["error"]["words"])
        self.refused(self.get("/v1/images/bad:1"), 404, "not-found")
        viewer = self.post("/v1/tokens", {
            "name": "t-maker", "role": "administrator",
            "project": "makers"}).json
        own = {"Authorization": "Bearer " + viewer["token"]}
        self.refused(self.post("/v1/images", good, headers=own), 403,
                     "denied")
        self.refused(self.post(at, {"path": str(tar)}, headers=own), 403,
                     "denied")
        # It made a machine, and goes before that, if that does not run.
        self.D.define("of-made", image="again:1", boot={})
        self.D.do("POST", "/v1/vms/of-made/start")
        self.D.console("of-made", b"resident is up")
        used = self.D.call("DELETE", "/v1/images/again:1")
        self.refused(used, 409, "conflict", "in use")
        self.assertEqual(used.json["error"]["hint"], "end that first")
        self.D.do("POST", "/v1/vms/of-made/kill")
        for name in ("again:1", "made:1"):
            got = self.D.call("DELETE", f"/v1/images/{name}")
            self.assertEqual(got.status, 204, got.body)
        self.D.do("POST", "/v1/vms/of-made/start")
        self.D.do("DELETE", "/v1/vms/of-made?force=true")
        self.images_by_the_command_line(good)
        self.D.call("DELETE", "/v1/projects/makers")

    def images_by_the_command_line(self, good):
        def atoll(*words):
            return subprocess.run(
                [self.D.programs["atoll"], "image", *words, "--remote",
                 "unix:" + self.D.socket], env=self.D.env, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        done = atoll("import", good["path"], "--name", "far:1", "--kernel",
                     good["kernel"])
        self.assertEqual(done.returncode, 0, done.stderr)
        done = atoll("import", good["path"], "--name", "far:1", "--kernel",
                     good["kernel"])
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertEqual(atoll("tag", "far:1", "far:2").returncode, 0)
        names = atoll("list", "--format", "name").stdout.split()
        self.assertLessEqual({"far:1", "far:2"}, set(names))
        tar = str(self.D.work / "far.tar")
        self.assertEqual(atoll("export", "far:2", tar).returncode, 0)
        done = atoll("export", "far:2", tar)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertRegex(done.stderr, "^error: .* already\nhint: --force")
        self.assertEqual(atoll("delete", "far:1", "far:2").returncode, 0)
        self.assertEqual(atoll("inspect", "far:1").returncode, 3)

    def test_843_quotas_of_snapshots(self):
        self.D.call("POST", "/v1/projects", {"name": "few", "quotas": {
            "snapshots": 1}})
        self.D.define("counted", project="few")
        self.D.do("POST", "/v1/vms/counted/start")
        at = "/v1/vms/counted/snapshots"
        answers = at_once(lambda n: self.post(at, {"name": f"n{n}"}), range(4))
        self.assertEqual(sorted(a.status for a in answers),
                         [202, 409, 409, 409])
        name = [self.D.task(a) for a in answers
                if a.status == 202][0]["params"]["snapshot"]
        self.refused(self.post(at, {"name": "late"}), 409, "quota",
                     "snapshots is 1; it has 1")
        used = self.get("/v1/projects/few").json["used"]
        self.assertEqual((used["snapshots"], used["disk_bytes"]),
                         (1, self.get(f"{at}/{name}").json["bytes"]))
        self.D.do("DELETE", f"{at}/{name}")
        # Before it is there it counts by what it may take.
        self.D.call("PATCH", "/v1/projects/few", {"quotas": {
            "disk_bytes": (32 << 20) - 1}})
        self.refused(self.post(at), 409, "quota", "32 MiB more")
        self.D.call("PATCH", "/v1/projects/few", {"quotas": {
            "disk_bytes": 32 << 20}})
        self.D.do("POST", at)
        self.D.do("DELETE", "/v1/vms/counted?force=true")
        self.D.call("DELETE", "/v1/projects/few")

    def fork_refusals(self, at):
        for body, words in (
                ({"count": 0}, "count"), ({"count": 257}, "count"),
                ({"count": "1"}, "count"), ({"name": "../x"}, "name"),
                ({"name": "a\nb"}, "name"), ({"name": 5}, "name"),
                ({"names": []}, "names"), ({"names": "x"}, "names"),
                ({"names": ["a/b"]}, "name"), ({"names": [5]}, "name"),
                ({"names": ["a"], "count": 1}, "names"),
                ({"disposable": 1}, "disposable"), ({"x": 1}, "x"),
                ({"name": "x" * 62}, "name")):
            with self.subTest(body=body):
                self.refused(self.post(at, body), 400, "bad-request", words)
        self.refused(self.post(at, {"names": ["one"]}), 409, "conflict",
                     "already")
        self.refused(self.post(at, {"names": ["a", "a"]}), 409, "conflict",
                     "twice")
        self.refused(self.post("/v1/vms/none/fork"), 404, "not-found")
        self.refused(self.post(at, headers={"If-Match": '"9"'}), 412,
                     "precondition")

    def test_465_forks(self):
        at = "/v1/vms/origin/fork"
        self.D.define("origin", image="tiny:1", boot={},
                      nics=[{"type": "user", "publish": [
                          f"127.0.0.1:{free_port()}:1"]}])
        wait_for(lambda: self.D.vm("origin")["task"] is None)
        self.refused(self.post(at), 409, "conflict", "does not run")
        self.D.do("POST", "/v1/vms/origin/start")
        self.D.console("origin", b"resident is up")
        self.fork_refusals(at)
        self.count("origin", 1)
        key = {"Idempotency-Key": "forks"}
        made = self.post(at, {"count": 2}, headers=key)
        self.assertEqual(made.json["id"], self.post(
            at, {"count": 2}, headers=key).json["id"])
        self.assertEqual([c["name"] for c in made.json["params"]["copies"]],
                         ["origin-1", "origin-2"])
        task = self.D.task(made)
        self.assertEqual(task["state"], "succeeded", task)
        self.assertGreater(task["result"]["pause_us"], 0)
        copies = [self.D.vm(f"origin-{n}") for n in (1, 2)]
        macs = {v["spec"]["nics"][0]["mac"]
                for v in copies + [self.D.vm("origin")]}
        self.assertEqual(len(macs), 3)
        for vm in copies:
            self.assertEqual(vm["state"], "running")
            self.assertEqual(vm["spec"]["nics"][0]["publish"], [])
            self.assertFalse(vm["restart_needed"])
        # Each remembers what was, and goes its own way.
        self.count("origin-1", 2)
        self.count("origin-1", 3)
        self.count("origin-2", 2)
        self.count("origin", 2)
        # A chain that became long is made short.
        for name in ("origin", "origin-2"):
            self.D.do("POST", f"/v1/vms/{name}/disks/vda/rebase", {"layer": 2})
        # They are machines as others: stopped, started, forked, saved.
        self.D.do("POST", "/v1/vms/origin-1/snapshots", {"name": "s"})
        self.D.do("POST", "/v1/vms/origin-1/fork", {"names": ["grandchild"]})
        self.count("grandchild", 4)
        folder = self.folder("origin-1")
        for name in ("origin", "origin-1"):
            self.D.do("DELETE", f"/v1/vms/{name}?force=true")
        wait_for(lambda: not folder.exists())
        for name in ("origin-2", "grandchild"):
            self.D.do("POST", f"/v1/vms/{name}/stop")
            ups = self.D.shown(name, b"resident is up")
            self.D.do("POST", f"/v1/vms/{name}/start")
            self.D.console(name, b"resident is up", ups)
            t = self.D.task(self.post(f"/v1/vms/{name}/disks/vda/commit",
                                      {"all": True}))
            self.assertEqual(t["state"], "failed", t)
            self.D.do("DELETE", f"/v1/vms/{name}?force=true")

    def test_466_disposable_forks(self):
        self.D.define("spring", image="tiny:1", boot={})
        self.D.do("POST", "/v1/vms/spring/start")
        self.D.console("spring", b"resident is up")
        done = subprocess.run(
            [self.D.programs["atoll"], "fork", "--count", "3", "--name", "mug",
             "--rm", "spring"], env=self.D.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stdout),
                         (0, "mug-1\nmug-2\nmug-3\n"), done.stderr)
        self.assertRegex(done.stderr, "stood still for .* ms a copy")
        self.refused(self.post("/v1/vms/mug-1/suspend"), 409, "conflict",
                     "disposable")
        folders = [self.folder(f"mug-{n}") for n in (1, 2, 3)]
        self.D.do("POST", "/v1/vms/mug-1/kill")
        self.D.do("POST", "/v1/vms/mug-2/stop")
        self.post("/v1/vms/mug-3/console", b"x")
        wait_for(lambda: [v["name"] for v in self.get(
            "/v1/vms?view=brief").json["vms"]
            if v["name"].startswith("mug")] == [])
        wait_for(lambda: not any(f.exists() for f in folders))
        # By an older definition it would be another machine.
        self.D.call("PATCH", "/v1/vms/spring", {"memory_bytes": 64 << 20})
        task = self.D.task(self.post("/v1/vms/spring/fork"))
        self.assertIn("was changed", task["error"]["words"])
        wait_for(lambda: self.get("/v1/vms/spring-1", check=False).status
                 == 404)
        self.D.do("DELETE", "/v1/vms/spring?force=true")

    def test_844_quotas_of_forks(self):
        self.D.call("POST", "/v1/projects", {"name": "fork", "quotas": {
            "machines": 3}})
        self.D.define("parent", project="fork", image="tiny:1", boot={})
        self.D.do("POST", "/v1/vms/parent/start")
        self.D.console("parent", b"resident is up")
        at = "/v1/vms/parent/fork"
        self.refused(self.post(at, {"count": 3}), 409, "quota", "3 more")
        answers = at_once(lambda n: self.post(at, {"name": f"p{n}"}), range(4))
        self.assertEqual(sorted(a.status for a in answers),
                         [202, 202, 409, 409])
        for a in answers:
            if a.status == 202:
                task = self.D.task(a)
                self.assertEqual(task["state"], "succeeded", task)
        # Their disks are as large as its own.
        grow = "/v1/vms/parent/disks/vda/resize"
        self.assertEqual(self.post(grow, {"bytes": 96 << 20}).status, 204)
        self.D.call("PATCH", "/v1/projects/fork", {"quotas": {
            "machines": None, "disk_bytes": 319 << 20}})
        self.refused(self.post(at, {"name": "big"}), 409, "quota",
                     "96 MiB more")
        for vm in self.get("/v1/vms?project=fork&view=brief").json["vms"]:
            self.D.do("DELETE", f"/v1/vms/{vm['name']}?force=true")
        self.D.call("DELETE", "/v1/projects/fork")

    def test_464_snapshots_of_images(self):
        """One whose disk lies on an image, by the command line's words."""
        self.D.define("cloned", image="tiny:1", boot={})
        self.D.do("POST", "/v1/vms/cloned/start")
        self.D.console("cloned", b"resident is up")

        def atoll(*words):
            return subprocess.run(
                [self.D.programs["atoll"], *words], env=self.D.env,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        done = atoll("snapshot", "create", "cloned", "a", "--description",
                     "of an image")
        self.assertEqual((done.returncode, done.stdout), (0, "a\n"),
                         done.stderr)
        self.assertIn("cloned stood still for", done.stderr)
        self.assertEqual(atoll("snapshot", "create", "cloned",
                               "b").returncode, 0)
        lines = atoll("snapshot", "list", "--tree",
                      "cloned").stdout.splitlines()
        self.assertRegex(lines[0], r"^  a +\d{4}-.* of an image$")
        self.assertRegex(lines[1], r"^  \* b ")
        done = atoll("snapshot", "diff", "cloned", "a", "b")
        self.assertIn("disk 0", done.stdout, done.stderr)
        done = atoll("snapshot", "revert", "cloned", "a")
        self.assertEqual(done.returncode, 4, done.stderr)
        done = atoll("snapshot", "revert", "--force", "cloned", "a")
        self.assertEqual((done.returncode, done.stdout),
                         (0, "atoll start cloned\n"), done.stderr)
        self.assertEqual(atoll("resume", "cloned").returncode, 0)
        self.assertEqual(self.D.vm("cloned")["state"], "running")
        self.assertEqual(atoll("suspend", "cloned").returncode, 0)
        self.assertEqual(atoll("vm", "start", "--discard",
                               "cloned").returncode, 0)
        self.assertEqual(atoll("pause", "cloned").returncode, 0)
        self.assertEqual(self.D.vm("cloned")["state"], "paused")
        self.assertEqual(atoll("resume", "cloned").returncode, 0)
        self.assertEqual(atoll("snapshot", "delete", "cloned",
                               "a").returncode, 0)
        self.assertEqual(atoll("snapshot", "delete", "cloned",
                               "a").returncode, 3)
        self.assertEqual(atoll("snapshot", "list", "nobody").returncode, 3)
        self.D.do("DELETE", "/v1/vms/cloned?force=true")
