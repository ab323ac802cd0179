#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every route of api/openapi.yaml and every answer that it documents, asked of
a running daemon and held against the file.

Usage: routes.py ATOLLD ATOLL GUEST
"""
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import unittest

import harness
from harness import at_once, wait_for
from route_moments import MomentRoutes

PROGRAMS = harness.programs(sys.argv[1:4])
SPEC = harness.Spec()
D = harness.Daemon(PROGRAMS, SPEC)
ACTIONS = ("start", "stop", "restart", "kill", "pause", "resume", "reset",
           "powerdown")


def get(path, **how):
    return D.call("GET", path, **how)


def post(path, body=None, **how):
    return D.call("POST", path, body, **how)


class Routes(MomentRoutes, unittest.TestCase):
    D = D

    def refused(self, answer, status, code, words=""):
        self.assertEqual((answer.status, answer.code), (status, code),
                         answer.body)
        self.assertIn(words, answer.json["error"]["words"])

    def test_10_root_host_metrics(self):
        root = get("/v1").json
        self.assertEqual((root["product"], root["role"]),
                         ("atoll", "administrator"))
        self.assertEqual(get("/v1/host").json["state_dir"], str(D.state))
        text = get("/metrics").body.decode()
        self.assertRegex(text, r"(?m)^atoll_vms 0$")

    def test_20_define_get_list(self):
        made = D.define("one", tags={"tier": "web"})
        self.assertEqual(made.status, 201)
        self.assertEqual(made.headers["etag"], '"1"')
        self.assertEqual(made.headers["location"],
                         "/v1/vms/" + made.json["id"])
        self.assertEqual(D.vm(made.json["id"]), D.vm("one"))
        self.assertEqual(D.vm("one")["spec"]["stop_timeout_s"], 60)
        for query, count in (("", 1), ("?tag=tier", 1), ("?tag=tier=w*", 1),
                             ("?tag=tier=db", 0), ("?state=running", 0),
                             ("?state=stopped&tag=tier", 1)):
            found = get("/v1/vms" + query).json["vms"]
            self.assertEqual(len(found), count, query)
        self.assertEqual(get("/v1/vms").json["vms"], [D.vm("one")])
        brief = get("/v1/vms?view=brief").json["vms"][0]
        self.assertEqual((brief["name"], brief["spec"]["tags"],
                          "boot" in brief["spec"]),
                         ("one", {"tier": "web"}, False))
        self.refused(get("/v1/vms?colour=red"), 400, "bad-request", "colour")
        self.refused(D.define("one"), 409, "conflict", "already")
        same = get("/v1/vms/one", headers={"If-None-Match": '"1"'})
        self.assertEqual(same.status, 304)
        self.refused(get("/v1/vms/two"), 404, "not-found", "two")

    def test_21_bad_definitions(self):
        for change, words in (
                ({"name": "../x"}, "name"), ({"name": "a\nb"}, "control"),
                ({"name": ""}, "name"), ({"name": "x" * 64}, "long"),
                ({"name": 5}, "string"), ({"name": "-x"}, "name"),
                ({"name": "c3475ef1-8024-4d47-815b-5eef25f2bf61"}, "name"),
                ({"cpus": 0}, "cpus"), ({"cpus": 65}, "cpus"),
                ({"cpus": "2"}, "cpus"), ({"cpus": 1.5}, "cpus"),
                ({"memory_bytes": 4096}, "memory_bytes"),
                ({"memory_bytes": (32 << 20) + 1}, "pages"),
                ({"memory_bytes": 1 << 62}, "memory_bytes"),
                ({"engine": "steam"}, "engine"), ({"colour": "red"}, "colour"),
                ({"boot": {}}, "kernel"), ({"boot": []}, "boot"),
                ({"boot": {"kernel": "relative"}}, "boot.kernel"),
                ({"boot": {"kernel": "/k", "x": 1}}, "boot.x"),
                ({"disks": {}}, "array"), ({"disks": [1]}, "disks[0]"),
                ({"disks": [{}]}, "disks[0].path"),
                ({"disks": [{"path": "/x", "format": "vmdk"}]}, "format"),
                ({"disks": [{"path": "/x.vmdk"}]}, "convert it"),
                ({"disks": [{"path": "/x"}] * 16}, "too many"),
                ({"nics": [{"mac": "01:00:00:00:00:00"}]}, "mac"),
                ({"nics": [{"type": "tap"}]}, "tap"),
                ({"nics": [{"type": "tap", "tap": "../x"}]}, "tap"),
                ({"nics": [{"publish": ["; rm"]}]}, "publish"),
                ({"devices": ["gpu"]}, "devices"),
                ({"image": "../../etc"}, "image"),
                ({"tags": {"a b": "c"}}, "tags"), ({"tags": {"a": 1}}, "tags"),
                ({"restart": {"policy": "never"}}, "restart.policy"),
                ({"autostart": {"order": -1}}, "autostart.order"),
                ({"stop_timeout_s": 0}, "stop_timeout_s")):
            with self.subTest(change=change):
                change = dict(change)
                name = change.pop("name", "bad")
                self.refused(D.define(name, **change), 400, "bad-request",
                             words)
        self.assertEqual(len(get("/v1/vms").json["vms"]), 1)

    def test_22_bad_bodies(self):
        def send(body, kind="application/json"):
            return post("/v1/vms", body, headers={"Content-Type": kind})

        self.refused(send(b"{"), 400, "bad-request", "JSON")
        self.refused(send(b"[]"), 400, "bad-request", "object")
        self.refused(send(b'{"name":"a","name":"b"}'), 400, "bad-request")
        self.refused(send(b'{"name":"\xff"}'), 400, "bad-request")
        self.refused(send(b'{"name":"a\\u0000b"}'), 400, "bad-request")
        self.refused(send(b"[" * 100000), 400, "bad-request")
        self.refused(post("/v1/vms"), 400, "bad-request", "missing")
        self.refused(send(b"{}", "text/plain"), 415, "unsupported-type")
        self.refused(send(b"x" * ((1 << 20) + 1)), 413, "too-large")
        # Whatever else comes in, the next one is answered.
        for raw in (b"\0" * 4096, b"GET / HTTP/9.9\r\n\r\n",
                    b"POST /v1/vms HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
                    b"POST /v1/vms HTTP/1.1\r\ncontent-length: 9\r\n\r\nab",
                    b"GET /v1/vms/%00 HTTP/1.1\r\nhost: x\r\n\r\n",
                    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n"):
            c = harness.UnixConnection(D.socket, 0.5)
            c.connect()
            try:
                c.sock.sendall(raw)
                c.sock.shutdown(socket.SHUT_WR)
                c.sock.recv(4096)
            except OSError:
                pass
            c.close()
            self.assertEqual(get("/v1").status, 200)

    def test_221_bodies_in_chunks(self):
        def send(pieces, path="/v1/vms", method="POST", **more):
            head = {"content-type": "application/json",
                    "transfer-encoding": "chunked", "host": "x", **more}
            c = harness.UnixConnection(D.socket, 20)
            c.connect()
            c.sock.sendall((f"{method} {path} HTTP/1.1\r\n" + "".join(
                f"{k}: {v}\r\n" for k, v in head.items())).encode() + b"\r\n")
            for piece in pieces:
                try:
                    c.sock.sendall(piece)
                except OSError:  # it knows enough
                    break
            answer = harness.http.client.HTTPResponse(c.sock, method=method)
            answer.begin()
            body = json.loads(answer.read())
            # What came behind was no other request.
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(c.sock.recv(1), b"")
            c.close()
            return answer.status, body

        end = b"0\r\n\r\n"
        spec = json.dumps({"name": "pieces", "boot": {"kernel": "/k"}}).encode()
        cut = [b"%X\r\n%s\r\n" % (len(spec[i:i + 9]), spec[i:i + 9])
               for i in range(0, len(spec), 9)]
        other = b"DELETE /v1/vms/pieces HTTP/1.1\r\nhost: x\r\n\r\n"
        status, made = send([*cut, end + other])
        self.assertEqual((status, made["spec"]["name"]), (201, "pieces"), made)
        patch = b'f;x="1"\r\n{"tags":{"a":"b\r\n3\r\n"}}\r\n'
        everything = patch + b"0\r\nX: 1\r\nY: 2\r\n\r\n"
        status, made = send([everything[i:i + 1]
                             for i in range(len(everything))],
                            "/v1/vms/pieces", "PATCH")
        self.assertEqual((status, made["spec"]["tags"]), (200, {"a": "b"}))
        for bad in (b"x\r\n", b"\r\n", b"-1\r\n", b"2\n{}\n0\n\n",
                    b"2\r\n{}0\r\n\r\n", b"fffffffff\r\n", b"2 x" * 2000,
                    b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 2000):
            status, said = send([bad])
            self.assertEqual((status, said["error"]["code"]),
                             (400, "bad-request"), bad[:20])
        for method, more in (("GET", {}), ("POST", {"content-length": "2"}),
                             ("POST", {"transfer-encoding": "gzip"})):
            status, said = send([b"2\r\n{}\r\n" + end], method=method, **more)
            self.assertEqual((status, said["error"]["code"]),
                             (400, "bad-request"), (method, more))
        self.assertIn("missing", send([end])[1]["error"]["words"])
        mib = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        self.assertEqual(send([mib, b"2\r\n{}\r\n", end])[0], 413)
        self.assertEqual(send([mib] * 20)[0], 413)
        D.do("DELETE", "/v1/vms/pieces")

    def test_23_paths(self):
        for path in ("/", "/v2", "/v1/vms/", "/v1/none",
                     "/v1/vms/one/none", "/v1/vms/%2e%2e/start"):
            self.refused(get(path), 404, "not-found")
        self.refused(D.call("PUT", "/v1/vms", {}), 405, "not-allowed")
        wrong = D.call("DELETE", "/v1/vms")
        self.assertEqual(wrong.headers["allow"], "GET, POST")
        self.refused(get("/v1/vms/one", headers={"If-None-Match": "x" * 300}),
                     400, "bad-request", "header")

    def test_30_patch(self):
        def patch(change, **headers):
            return D.call("PATCH", "/v1/vms/one", change, headers={
                k.replace("_", "-"): v for k, v in headers.items()})

        D.define("other")
        got = patch({"cpus": 2}, If_Match='"1"')
        self.assertEqual((got.status, got.headers["etag"]), (200, '"2"'))
        self.assertEqual(D.vm("one")["spec"]["cpus"], 2)
        self.refused(patch({"cpus": 3}, If_Match='"1"'), 412, "precondition")
        self.refused(patch({"cpus": 0}), 400, "bad-request", "cpus")
        self.refused(patch({"name": "other"}), 409, "conflict")
        self.refused(patch({"image": "x"}), 400, "bad-request", "image")
        got = patch({"tags": {"tier": None, "new": "1"}, "cpus": None})
        self.assertEqual(got.json["spec"]["tags"], {"new": "1"})
        self.assertEqual(got.json["spec"]["cpus"], 1)
        got = D.call("PATCH", "/v1/vms/other", json.dumps({"name": "aaa"}),
                     headers={"Content-Type": "application/merge-patch+json"})
        self.assertEqual(got.status, 200)
        # What a list showed before is not what it shows now.
        self.assertEqual(get("/v1/vms").json["vms"],
                         [D.vm("aaa"), D.vm("one")])
        names = [v["name"] for v in get("/v1/vms?view=brief").json["vms"]]
        self.assertEqual(names, ["aaa", "one"])
        self.refused(D.call("PATCH", "/v1/vms/none", {}), 404, "not-found")

    def network_up(self, name):
        wait_for(lambda: get(f"/v1/networks/{name}").json["state"]
                 == "running")

    def test_35_networks(self):
        made = post("/v1/networks", {"name": "lan"})
        self.assertEqual(made.status, 201)
        self.assertEqual(made.headers["location"],
                         "/v1/networks/" + made.json["id"])
        self.assertRegex(made.json["spec"]["cidr"], r"^10\.77\.\d+\.0/24$")
        self.refused(post("/v1/networks", {"name": "lan"}), 409, "conflict")
        for change, words in (
                ({"name": "../x"}, "name"), ({"name": "a.b"}, "name"),
                ({"name": "user"}, "meaning"), ({"name": 5}, "name"),
                ({"cidr": "10.0.0.0"}, "cidr"), ({"cidr": "10.0.0.1/24"},
                                                 "cidr"),
                ({"cidr": "10.0.0.0/8"}, "cidr"), ({"mtu": 1}, "mtu"),
                ({"cidr": "10.0.0.0/29"}, "cidr"), ({"x": 1}, "x"),
                ({"isolated": "yes"}, "isolated"),
                ({"bridge": "a/b"}, "bridge"), ({"tags": []}, "tags"),
                ({"bridge": "br0", "isolated": True}, "bridge")):
            with self.subTest(change=change):
                self.refused(post("/v1/networks", {"name": "n", **change}),
                             400, "bad-request", words)
        other = post("/v1/networks", {"name": "inside", "isolated": True})
        self.assertNotEqual(other.json["spec"]["cidr"],
                            made.json["spec"]["cidr"])
        self.network_up("lan")
        self.assertEqual([n["name"] for n in
                          get("/v1/networks").json["networks"]],
                         ["inside", "lan"])
        self.assertEqual(get("/v1/networks/lan/status").json["ports"], [])
        for path in ("", "/status", "/capture"):
            self.refused(get("/v1/networks/none" + path), 404, "not-found")
        self.refused(get("/v1/networks/lan/capture?frames=-1"), 400,
                     "bad-request")

    def test_36_cards_in_networks(self):
        def card(**more):
            return [{"type": "network", "network": "lan", **more}]

        for nics, words in (
                ([{"type": "network"}], "network"),
                ([{"type": "user", "network": "lan"}], "type"),
                (card(address="1.2.3"), "address"),
                (card(limits={"x": 1}), "limits"),
                (card(network="inside", publish=["1:2"]), "uplink")):
            with self.subTest(nics=nics):
                self.refused(D.define("carded", nics=nics), 400,
                             "bad-request", words)
        self.refused(D.define("carded", nics=card(network="none")), 404,
                     "not-found", "no network none")
        made = D.define("carded", nics=card(address="10.77.0.77"))
        self.assertEqual(made.status, 201, made.body)
        self.refused(D.call("DELETE", "/v1/networks/lan"), 409, "conflict",
                     "carded")
        self.network_up("lan")
        D.do("POST", "/v1/vms/carded/start")
        status = get("/v1/networks/lan/status").json
        self.assertEqual([(p["machine"], p["address"])
                          for p in status["ports"]],
                         [("carded", made.json["spec"]["nics"][0]["address"])])
        D.do("DELETE", "/v1/vms/carded?force=true")
        wait_for(lambda: not get("/v1/networks/lan/status").json["ports"])

    def test_37_capture(self):
        self.network_up("lan")
        D.define("talks", nics=[{"type": "network", "network": "lan"}])
        # Nothing passes: only the answer's head comes, then silence.
        c = harness.UnixConnection(D.socket)
        c.connect()
        sock = c.sock
        c.request("GET", "/v1/networks/lan/capture?frames=1")
        r = c.getresponse()
        self.assertEqual(r.status, 200)
        head = r.read(24)
        SPEC.check("GET", "/v1/networks/lan/capture", 200,
                   r.getheader("content-type"), head)
        self.assertEqual(head[:4], bytes.fromhex("4d3cb2a1"))
        sock.settimeout(1)
        with self.assertRaises(TimeoutError):
            r.read(1)
        c.close()
        D.do("DELETE", "/v1/vms/talks")

    def test_38_switch_gone(self):
        if os.path.exists("/sys/class/net"):
            for bridge in ("no-such-br", "lo", ".."):
                self.refused(post("/v1/networks", {
                    "name": "broken", "bridge": bridge}), 404, "not-found",
                    f"no bridge {bridge}")
        # The folder that it is to have one in is none.
        folders = D.state / "networks"
        folders.rename(D.state / "networks.away")
        folders.write_text("")
        post("/v1/networks", {"name": "broken"})
        wait_for(lambda: get("/v1/networks/broken").json["state"] == "failed")
        why = get("/v1/networks/broken").json["error"]
        self.assertTrue(why["message"])
        self.refused(get("/v1/networks/broken/status"), 409, "conflict")
        self.refused(get("/v1/networks/broken/capture"), 409, "conflict")
        folders.unlink()
        (D.state / "networks.away").rename(folders)
        for name in ("broken", "inside", "lan"):
            self.assertEqual(D.call("DELETE", f"/v1/networks/{name}").status,
                             204)
        self.refused(D.call("DELETE", "/v1/networks/lan"), 404, "not-found")
        wait_for(lambda: "atoll-net" not in D.processes().values())

    def test_39_backups(self):
        """What a disk holds in one is tests/e2e/backup.py's."""
        path = "/v1/vms/one/backups"
        self.refused(post(path, {"kind": "half"}), 400, "bad-request", "kind")
        self.refused(post("/v1/vms/none/backups"), 404, "not-found", "none")
        first = D.do("POST", path)["params"]["backup"]
        listed = get("/v1/backups?vm=one").json["backups"]
        self.assertEqual([b["id"] for b in listed], [first])
        self.assertEqual(get("/v1/backups?vm=two").json["backups"], [])
        at = f"/v1/backups/{first}"
        one = get(at).json
        self.assertEqual((one["kind"], one["live"], one["parent"]),
                         ("full", False, None))
        t = D.task(post(path, {"kind": "incremental"}))
        self.assertIn("does not run", t["error"]["words"])
        self.assertEqual(post(at + "/verify").json["whole"], True)
        self.refused(post(at + "/restore", {"name": "../x"}), 400,
                     "bad-request", "name")
        self.refused(post(at + "/restore", {"name": "one"}), 409, "conflict",
                     "already")
        again = post(at + "/restore", {"name": "again"})
        self.assertEqual(again.status, 201)
        wait_for(lambda: get(f"/v1/tasks/{again.json['task']}").json[
            "state"] == "succeeded")
        self.assertEqual(D.vm("again")["spec"]["boot"],
                         D.vm("one")["spec"]["boot"])
        D.do("DELETE", "/v1/vms/again")
        for method, tail, body in (("GET", "", None), ("DELETE", "", None),
                                   ("POST", "/restore", {"name": "x"}),
                                   ("POST", "/verify", None)):
            self.refused(D.call(method, "/v1/backups/none" + tail, body),
                         404, "not-found", "none")
        (D.state / "backups" / first).rename(
            D.state / "backups" / (first[:-1] + "x"))
        self.refused(get(at), 404, "not-found", first)
        (D.state / "backups" / (first[:-1] + "x")).rename(
            D.state / "backups" / first)
        head = D.state / "backups" / first / "backup.json"
        child = D.state / "backups" / ("0" * 8 + first[8:])
        child.mkdir()
        (child / "backup.json").write_text(head.read_text().replace(
            first, child.name).replace('"parent": null',
                                       f'"parent": "{first}"'))
        self.refused(D.call("DELETE", at), 409, "conflict", "builds on it")
        self.assertEqual(D.call("DELETE", f"/v1/backups/{child.name}").status,
                         204)
        self.assertEqual(D.call("DELETE", at).status, 204)

    def test_39_backup_schedules(self):
        """What they do is schedule.py's."""
        path = "/v1/vms/one/backup-schedule"
        self.refused(get(path), 404, "not-found", "by itself")
        self.refused(D.call("DELETE", path), 404, "not-found", "by itself")
        self.refused(D.call("PUT", path, {"every_s": 5, "at": "02:00"}), 400,
                     "bad-request", "every_s")
        self.refused(D.call("PUT", path.replace("one", "none"),
                            {"every_s": 5}), 404, "not-found", "none")
        made = D.call("PUT", path, {"at": "02:00", "keep": {"daily": 7}})
        self.assertEqual(made.status, 200, made.body)
        self.assertEqual(get(path).json, made.json)
        self.assertEqual(get("/v1/backup-schedules").json["schedules"],
                         [made.json])
        self.assertEqual(D.call("DELETE", path).status, 204)

    def test_40_life(self):
        first = post("/v1/vms/one/start")
        self.assertRegex(first.headers["location"], "^/v1/tasks/[0-9]+$")
        self.assertEqual(D.task(first)["result"], {"state": "running"})
        self.assertEqual(D.vm("one")["wanted"], "running")
        D.console("one", b"resident is up")
        self.assertTrue(D.do("POST", "/v1/vms/one/start")["result"]["already"])
        status = get("/v1/vms/one/status").json
        self.assertEqual(status["state"], "running")
        self.assertIn(b"atoll_vm_up", get("/metrics").body)
        D.call("PATCH", "/v1/vms/one", {"resources": {"cpu_weight": 200},
                                        "description": "goes by it at once"})
        self.assertFalse(D.vm("one")["restart_needed"])
        D.call("PATCH", "/v1/vms/one", {"cpus": 2})
        self.assertTrue(D.vm("one")["restart_needed"])
        self.refused(D.call("DELETE", "/v1/vms/one"), 409, "conflict", "runs")
        D.do("POST", "/v1/vms/one/pause")
        self.assertEqual(D.vm("one")["state"], "paused")
        D.do("POST", "/v1/vms/one/resume")
        self.assertEqual(D.vm("one")["state"], "running")
        D.do("POST", "/v1/vms/one/reset")
        wait_for(lambda: get("/v1/vms/one/console").body.count(
            b"resident is up") == 2)
        self.assertEqual(get("/v1/vms/one/log").status, 200)
        done = D.do("POST", "/v1/vms/one/restart", {"timeout_s": 60})
        self.assertEqual(done["result"]["state"], "running")
        self.assertFalse(D.vm("one")["restart_needed"])
        done = D.do("POST", "/v1/vms/one/stop")
        self.assertFalse(done["result"]["forced"])
        end = D.vm("one")["last_end"]
        self.assertEqual((end["cause"], end["code"]), ("power-off", 0))
        self.assertFalse(D.vm("one")["restart_needed"])
        ups = D.shown("one", b"resident is up")
        D.do("POST", "/v1/vms/one/start")
        D.console("one", b"resident is up", ups)
        D.do("POST", "/v1/vms/one/powerdown")
        wait_for(lambda: D.vm("one")["state"] == "stopped")
        D.do("POST", "/v1/vms/one/start")
        D.do("POST", "/v1/vms/one/kill")
        self.assertEqual(D.vm("one")["last_end"]["cause"], "killed")
        for action in ("pause", "resume", "reset", "powerdown"):
            t = D.task(post(f"/v1/vms/one/{action}"))
            self.assertEqual((t["state"], t["error"]["code"]),
                             ("failed", "conflict"))
        for action in ACTIONS:
            self.refused(post(f"/v1/vms/none/{action}"), 404, "not-found")
            self.refused(post(f"/v1/vms/one/{action}",
                              headers={"If-Match": '"999"'}), 412,
                         "precondition")
        for body in ({"force": 1}, {"timeout_s": 0}, {"x": 1},
                     {"timeout_s": "5"}):
            for action in ("stop", "restart"):
                self.refused(post(f"/v1/vms/one/{action}", body), 400,
                             "bad-request")

    def test_41_deaf_guest(self):
        ups = D.shown("one", b"resident is up")
        D.do("POST", "/v1/vms/one/start")
        D.console("one", b"resident is up", ups)
        post("/v1/vms/one/console", b"d")
        D.console("one", b"[100]")
        t = D.task(post("/v1/vms/one/stop", {"timeout_s": 1}))
        self.assertEqual((t["state"], t["error"]["code"]),
                         ("failed", "timeout"))
        self.assertEqual(D.vm("one")["state"], "running")
        # The queue keeps its order; a cancelled one has no turn.
        slow = post("/v1/vms/one/stop", {"timeout_s": 600})
        behind = post("/v1/vms/one/start")
        self.assertEqual(behind.json["state"], "queued")
        self.assertEqual(
            post(f"/v1/tasks/{behind.json['id']}/cancel").status, 202)
        self.assertEqual(D.task(behind)["state"], "cancelled")
        post(f"/v1/tasks/{slow.json['id']}/cancel")
        self.assertEqual(D.task(slow)["state"], "cancelled")
        self.refused(post(f"/v1/tasks/{slow.json['id']}/cancel"), 409,
                     "conflict")
        # A kill does not wait behind it.
        slow = post("/v1/vms/one/stop", {"timeout_s": 600})
        D.do("POST", "/v1/vms/one/kill")
        self.assertEqual(D.task(slow)["state"], "cancelled")
        ups, deaf = D.shown("one", b"resident is up"), D.shown("one", b"[100]")
        D.do("POST", "/v1/vms/one/start")
        D.console("one", b"resident is up", ups)
        post("/v1/vms/one/console", b"d")
        D.console("one", b"[100]", deaf)
        done = D.do("POST", "/v1/vms/one/stop",
                    {"timeout_s": 1, "force": True})
        self.assertTrue(done["result"]["forced"])

    def test_42_failures_to_start(self):
        D.define("broken", boot={"kernel": "/nonexistent/kernel"})
        t = D.task(post("/v1/vms/broken/start"))
        self.assertEqual((t["state"], t["error"]["code"]),
                         ("failed", "start-failed"))
        self.assertIn("/nonexistent/kernel", t["error"]["words"])
        self.assertEqual(D.vm("broken")["state"], "stopped")
        bad = D.define("imageless", image="none:1")
        self.refused(bad, 404, "not-found", "no image none:1")
        # One that can be seen, and has no disk.
        folder = D.work / "data/atoll/images/diskless"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(
            {"id": "cd" * 32, "cmdline": ""}))
        names = folder.parent / "names"
        names.mkdir(exist_ok=True)
        (names / "diskless:1").symlink_to(folder)
        D.define("imageless", image="diskless:1")
        t = D.task(post("/v1/vms/imageless/start"))
        self.assertEqual(t["error"]["code"], "conflict")
        for name in ("broken", "imageless"):
            D.do("DELETE", f"/v1/vms/{name}")
        (names / "diskless:1").unlink()

    def test_43_image(self):
        store = D.work / "data/atoll/images"
        folder = store / ("ab" * 32)
        folder.mkdir(parents=True)
        (store / "names").mkdir(exist_ok=True)
        (store / "names/tiny:1").symlink_to(folder)
        kernel = pathlib.Path(PROGRAMS["guest"]).read_bytes()
        (folder / "vmlinuz").write_bytes(kernel)
        (folder / "initrd").write_bytes(b"initrd")
        (folder / "manifest.json").write_text(
            json.dumps({"id": "ab" * 32, "cmdline": "quiet"}))
        with open(folder / "disk.raw", "wb") as f:
            f.truncate(64 << 20)
            f.seek(8 << 20)
            f.write(b"middle")
        made = D.define("copied", image="tiny:1", boot={})
        self.assertEqual(made.status, 201)
        self.assertIsInstance(made.json["task"], int)
        D.do("POST", "/v1/vms/copied/start")
        D.console("copied", b"resident is up")
        mine = D.state / "machines" / made.json["id"]
        self.assertTrue((folder / "disk.raw").samefile(mine / "image.raw"))
        self.assertLess((mine / "root.qcow2").stat().st_size, 1 << 20)
        self.assertFalse((mine / "root.raw").exists())
        self.assertFalse((mine / "image.raw").stat().st_mode & 0o222)
        t = D.task(post("/v1/vms/copied/disks/vda/commit", {"all": True}))
        self.assertEqual(t["state"], "failed")
        shown = get("/v1/vms/copied/disks").json["disks"]
        self.assertEqual(shown[0]["path"], str(mine / "root.qcow2"))
        D.do("DELETE", "/v1/vms/copied?force=true")
        wait_for(lambda: not mine.exists())
        wait_for(lambda: not list((D.state / "trash").iterdir()))
        self.assertEqual((folder / "disk.raw").stat().st_nlink, 1)

        made = D.define("whole", image="tiny:1", boot={}, full_copy=True)
        D.do("POST", "/v1/vms/whole/start")
        D.console("whole", b"resident is up")
        mine = D.state / "machines" / made.json["id"]
        with open(mine / "root.raw", "rb") as f:
            f.seek(8 << 20)
            self.assertEqual(f.read(6), b"middle")
        self.assertLess((mine / "root.raw").stat().st_blocks * 512, 4 << 20)
        D.do("DELETE", "/v1/vms/whole?force=true")

    def test_44_images(self):
        names = [i["name"] for i in get("/v1/images").json["images"]]
        self.assertIn("tiny:1", names)
        self.assertEqual(get("/v1/images/tiny:1").json["name"], "tiny:1")
        self.refused(get("/v1/images/none:1"), 404, "not-found", "none:1")
        self.refused(get("/v1/images/..%2f..%2fetc"), 404, "not-found")

    def limits(self, name, disk=0):
        """How fast a machine that runs lets a disk be."""
        found = get(f"/v1/vms/{name}/disks").json["disks"][disk]["limits"]
        return [found[k] for k in ("iops", "iops_burst", "bytes_per_s",
                                   "bytes_burst")]

    def test_46_limits(self):
        files = [D.work / f"limit-{n}.qcow2" for n in "abc"]
        for f in files:
            subprocess.run([PROGRAMS["atoll"], "disk", "create", f, "1M"],
                           check=True)
        a, b, c = ({"path": str(f)} for f in files)
        at, disks = "/v1/vms/slow", "/v1/vms/slow/disks"
        for bad, words in (({"iops": -1}, "iops"),
                           ({"iops": 1.5}, "whole number"),
                           ({"bytes_per_s": "8M"}, "bytes_per_s"),
                           ({"bytes_burst": 2 ** 53 + 1}, "bytes_burst")):
            self.refused(D.define("slow", disks=[dict(a, **bad)]), 400,
                         "bad-request", words)
        self.refused(D.define("slow", image_disk={"iops": 1}), 400,
                     "bad-request", "image")
        D.define("slow", disks=[dict(a, iops=70, bytes_burst=9000), b])
        # One that does not run has them from its start on.
        self.assertEqual(post(f"{disks}/vdb/throttle",
                              {"bytes_per_s": 5000}).status, 204)
        self.refused(post(f"{disks}/vdc/throttle", {"iops": 1}), 404,
                     "not-found", "no such disk")
        D.do("POST", f"{at}/start")
        self.assertEqual(self.limits("slow", 0), [70, 0, 0, 9000])
        self.assertEqual(self.limits("slow", 1), [0, 0, 5000, 0])
        # Of one that runs both are others at once, by either way.
        self.assertEqual(post(f"{disks}/vda/throttle",
                              {"iops": 0, "iops_burst": 30}).status, 204)
        vm = get(at).json
        self.assertEqual((vm["spec"]["disks"][0]["iops_burst"],
                          vm["restart_needed"]), (30, False))
        self.assertEqual(self.limits("slow", 0), [0, 30, 0, 9000])
        vm["spec"]["disks"][1]["iops"] = 44
        del vm["spec"]["disks"][0]["bytes_burst"]
        vm = D.call("PATCH", at, {"disks": vm["spec"]["disks"]}).json
        self.assertFalse(vm["restart_needed"])
        self.assertEqual([self.limits("slow", n) for n in (0, 1)],
                         [[0, 30, 0, 0], [44, 0, 5000, 0]])
        self.refused(post(f"{disks}/vda/throttle", {"iops": 1},
                          headers={"If-Match": '"1"'}), 412, "precondition")
        # A copy begins with them.
        D.do("POST", f"{at}/fork", {"name": "slow-too"})
        self.assertEqual([self.limits("slow-too-1", n) for n in (0, 1)],
                         [[0, 30, 0, 0], [44, 0, 5000, 0]])
        # What was saved goes on with those that are wanted now.
        D.do("POST", f"{at}/suspend")
        self.assertEqual(post(f"{disks}/vda/throttle",
                              {"iops": 99}).status, 204)
        D.do("POST", f"{at}/start")
        self.assertEqual(self.limits("slow", 0), [99, 30, 0, 0])
        # vdb of the definition is no longer that of the machine.
        vm = D.call("PATCH", at, {"disks": [vm["spec"]["disks"][0], c]}).json
        self.assertTrue(vm["restart_needed"])
        self.refused(post(f"{disks}/vdb/throttle", {"iops": 7}), 409,
                     "conflict", "from the next start")
        self.assertEqual(self.limits("slow", 1), [44, 0, 5000, 0])
        self.assertEqual(post(f"{disks}/vda/throttle",
                              {"iops": 98}).status, 204)
        self.assertEqual(self.limits("slow", 0)[0], 98)
        D.do("POST", f"{at}/kill")
        D.do("POST", f"{at}/start")
        self.assertEqual([self.limits("slow", n)[0] for n in (0, 1)], [98, 7])
        # The disk of an image is none of the list.
        D.define("slow-image", image="tiny:1", boot={},
                 image_disk={"iops": 60})
        D.do("POST", "/v1/vms/slow-image/start")
        self.assertEqual(self.limits("slow-image"), [60, 0, 0, 0])
        self.assertEqual(post("/v1/vms/slow-image/disks/vda/throttle",
                              {"bytes_per_s": 80}).status, 204)
        self.assertEqual(self.limits("slow-image"), [60, 0, 80, 0])
        vm = D.call("PATCH", "/v1/vms/slow-image", {"image_disk": None}).json
        self.assertFalse("image_disk" in vm["spec"] or vm["restart_needed"])
        self.assertEqual(self.limits("slow-image"), [0, 0, 0, 0])
        for name in ("slow", "slow-too-1", "slow-image"):
            D.do("DELETE", f"/v1/vms/{name}?force=true")

    def test_45_disks(self):
        disk = D.work / "disk.qcow2"
        tool = PROGRAMS["atoll"]
        subprocess.run([tool, "disk", "create", disk, "32M"], check=True)
        # A name that ends so needs no format; what it says holds.
        spec = D.define("disky", disks=[
            {"path": str(disk)}, {"path": "/x.QCOW2", "format": "raw"},
            {"path": "/x"}]).json["spec"]
        self.assertEqual([d["format"] for d in spec["disks"]],
                         ["qcow2", "raw", "raw"])
        D.call("PATCH", "/v1/vms/disky", {"disks": spec["disks"][:1]})
        at = "/v1/vms/disky/disks"
        big = {"path": str(D.work / "m.qcow2")}
        self.refused(get(at), 409, "conflict", "run")
        for verb, body in (("resize", {"bytes": 1}),
                           ("snapshot", {}), ("commit", {}), ("mirror", big),
                           ("rebase", {}), ("backup", big)):
            self.refused(post(f"{at}/vda/{verb}", body), 409, "conflict")
        self.refused(post("/v1/vms/disky/jobs/1/cancel"), 409, "conflict")
        D.do("POST", "/v1/vms/disky/start")
        for verb, body in (("throttle", {"iops": 1}), ("resize", {"bytes": 1}),
                           ("snapshot", {}), ("commit", {}), ("mirror", big),
                           ("rebase", {}), ("backup", big)):
            self.refused(post(f"{at}/sda/{verb}", body), 404, "not-found")
            self.refused(post(f"/v1/vms/none/disks/vda/{verb}", body), 404,
                         "not-found")
            self.refused(post(f"{at}/vda/{verb}", {"colour": 1}), 400,
                         "bad-request")
        self.refused(get("/v1/vms/none/disks"), 404, "not-found")
        self.refused(post("/v1/vms/disky/jobs/99/cancel"), 404, "not-found")
        self.refused(post(f"{at}/vda/throttle", {"iops": -1}), 400,
                     "bad-request")
        self.refused(post(f"{at}/vda/mirror", {"path": "relative"}), 400,
                     "bad-request", "path")
        self.refused(post(f"{at}/vda/snapshot", {"name": "../x"}), 400,
                     "bad-request", "name")
        self.refused(post(f"{at}/vda/resize", {"bytes": 512}), 400,
                     "bad-request", "smaller")
        found = get(at).json
        self.assertEqual([(d["bytes"], d["format"]) for d in found["disks"]],
                         [(32 << 20, "qcow2")])
        self.assertEqual(found["jobs"], [])
        self.assertEqual(post(f"{at}/vda/throttle", {"iops": 500}).status, 204)
        self.assertEqual(post(f"{at}/vda/resize",
                              {"bytes": 48 << 20}).status, 204)
        now = get(at).json["disks"][0]
        self.assertEqual((now["limits"]["iops"], now["bytes"]),
                         (500, 48 << 20))
        D.do("POST", f"{at}/vda/snapshot", {"name": "old"})
        self.assertTrue((D.work / "disk.old.qcow2").exists())
        t = D.task(post(f"{at}/vda/snapshot", {"name": "old"}))
        self.assertEqual(t["state"], "failed", t)
        self.assertIn("exists", t["error"]["words"])
        D.do("POST", f"{at}/vda/backup", {"path": str(D.work / "b.qcow2"),
                                          "bitmap": "nightly"})
        D.do("POST", f"{at}/vda/mirror", {"path": str(D.work / "m.raw")})
        self.assertEqual((D.work / "m.raw").stat().st_size, 48 << 20)
        t = D.task(post(f"{at}/vda/mirror", {"path": str(D.work / "m.raw")}))
        self.assertIn("File exists", t["error"]["words"])
        self.assertIn("another name", t["error"]["hint"])
        t = D.task(post(f"{at}/vda/backup", {"path": str(D.work / "c.qcow2"),
                                             "bitmap": "nightly"}))
        self.assertIn("--base", t["error"]["hint"])
        # It starts again from the disk and what that lies on.
        D.do("POST", "/v1/vms/disky/kill")
        D.do("POST", "/v1/vms/disky/start")
        D.do("POST", f"{at}/vda/commit", {"all": True})
        self.assertFalse((D.work / "disk.old.qcow2").exists())
        for name in ("one", "two"):
            D.do("POST", f"{at}/vda/snapshot", {"name": name})
        self.refused(post(f"{at}/vda/rebase", {"layer": "two"}), 400,
                     "bad-request", "layer")
        t = D.task(post(f"{at}/vda/rebase", {"layer": 3}))
        self.assertIn("3 images", t["error"]["words"])
        D.do("POST", f"{at}/vda/rebase", {"layer": 2})
        (D.work / "disk.two.qcow2").unlink()
        D.do("POST", "/v1/vms/disky/kill")
        D.do("POST", "/v1/vms/disky/start")
        D.do("POST", f"{at}/vda/rebase")
        (D.work / "disk.one.qcow2").unlink()
        D.do("POST", "/v1/vms/disky/kill")
        D.do("POST", "/v1/vms/disky/start")
        slow = post(f"{at}/vda/mirror", {"path": str(D.work / "s.raw"),
                                         "rate": 1000}).json["id"]
        running = wait_for(lambda: [j for j in get(at).json["jobs"]
                                    if j["state"] == "running"])
        # What is short does not wait for it; what goes by the disks does.
        for verb in ("pause", "resume", "reset", "pause", "resume"):
            self.assertEqual(D.do("POST", f"/v1/vms/disky/{verb}")["state"],
                             "succeeded")
        waits = post(f"{at}/vda/snapshot", {"name": "later"}).json["id"]
        D.do("POST", "/v1/vms/disky/pause")
        D.do("POST", "/v1/vms/disky/resume")
        self.assertEqual(get(f"/v1/tasks/{waits}").json["state"], "queued")
        self.assertEqual(get(f"/v1/tasks/{slow}").json["state"], "running")
        self.assertEqual(post(f"/v1/tasks/{waits}/cancel").status, 202)
        self.assertEqual(post(f"/v1/tasks/{slow}/cancel").status, 202)
        t = wait_for(lambda: D.ended(slow))
        self.assertEqual(t["state"], "cancelled", t)
        self.assertFalse((D.work / "s.raw").exists())
        job = running[0]["job"]
        self.assertEqual(post(f"/v1/vms/disky/jobs/{job}/cancel").status, 204)
        # Nor does what ends the machine, which ends them too.
        two = [post(f"{at}/vda/mirror", {"path": str(D.work / f"{n}.raw"),
                                         "rate": 1000}).json["id"]
               for n in (1, 2)]
        start = post("/v1/vms/disky/start").json["id"]
        D.do("POST", "/v1/vms/disky/kill")
        for n in two:
            self.assertEqual(wait_for(lambda n=n: D.ended(n))["state"],
                             "cancelled")
        self.assertEqual(D.ended(start)["state"], "cancelled")
        self.assertEqual(D.vm("disky")["state"], "stopped")
        D.do("DELETE", "/v1/vms/disky")

    def test_50_console(self):
        path = "/v1/vms/one/console"
        ups = D.shown("one", b"resident is up")
        D.do("POST", "/v1/vms/one/start")
        D.console("one", b"resident is up", ups)
        before = get(path).body
        c = harness.UnixConnection(D.socket)
        c.request("GET", path + f"?follow=run&offset={len(before)}")
        stream = c.getresponse()
        self.assertEqual(stream.getheader("atoll-console-offset"),
                         str(len(before)))
        self.assertEqual(post(path, b"ac").status, 204)
        self.assertEqual(
            post(path + "/size", {"columns": 80, "rows": 25}).status, 204)
        for body in ({"columns": 0, "rows": 5}, {"columns": 1}, {"x": 1}):
            self.refused(post(path + "/size", body), 400, "bad-request")
        self.refused(post(path, b"x" * 32769), 413, "too-large")
        D.console("one", b"[99]")
        D.do("POST", "/v1/vms/one/stop")
        seen = stream.read()  # it ends with the run
        c.close()
        after = get(path).body
        self.assertEqual(before + seen, after)
        lines = re.findall(rb"line (\d+) of", seen)
        self.assertEqual(lines, [b"%d" % i for i in range(2000)])
        self.assertEqual(get(path + "?tail=12").body, after[-12:])
        self.assertEqual(get(path + "?offset=3&limit=5").body, after[3:8])
        self.assertEqual(get(path + "?offset=99999999").body, b"")
        for query in ("offset=-1", "limit=99999999", "follow=no", "tail=x"):
            self.refused(get(path + "?" + query), 400, "bad-request")
        self.refused(post(path, b"a"), 409, "conflict")
        self.refused(post(path + "/size", {"columns": 8, "rows": 2}), 409,
                     "conflict")
        self.refused(get("/v1/vms/one/status"), 409, "conflict")
        for tail in ("", "/size"):
            self.refused(post(f"/v1/vms/none/console{tail}", {
                "columns": 1, "rows": 1}), 404, "not-found")
        for tail in ("console", "status", "log"):
            self.refused(get(f"/v1/vms/none/{tail}"), 404, "not-found")

    def test_60_tasks_events(self):
        tasks = get("/v1/tasks?limit=3&vm=one").json["tasks"]
        self.assertEqual(len(tasks), 3)
        self.assertGreater(tasks[0]["id"], tasks[2]["id"])
        older = get(f"/v1/tasks?before={tasks[2]['id']}&limit=1").json
        self.assertLess(older["tasks"][0]["id"], tasks[2]["id"])
        self.assertTrue(get("/v1/tasks?state=failed").json["tasks"])
        for path in ("/v1/tasks?limit=0", "/v1/tasks/1?wait=61",
                     "/v1/events?limit=x", "/v1/events?after=-2",
                     "/v1/tasks?state=idle", "/v1/vms?state=idle",
                     "/v1/vms?view=none", "/v1/vms?expired=1",
                     "/v1/events?newest=yes", "/v1/audit?newest=yes"):
            self.refused(get(path), 400, "bad-request")
        for path in ("/v1/tasks/999999", "/v1/tasks/x"):
            self.refused(get(path), 404, "not-found")
        self.refused(post("/v1/tasks/999999/cancel"), 404, "not-found")
        events = get("/v1/events?limit=1000").json
        for path, key in (("/v1/events", "events"), ("/v1/audit", "records")):
            newest = get(path + "?limit=3&newest=true").json[key]
            numbers = [n["id"] for n in newest]
            self.assertEqual(numbers, sorted(numbers))
            self.assertEqual(len(numbers), 3)
            self.assertEqual(
                get(f"{path}?after={numbers[0]}").json[key][:2], newest[1:])
            self.assertLess(get(path + "?limit=1&newest=false").json[key][0]
                            ["id"], numbers[0])
            self.refused(get(path + "?newest=perhaps"), 400, "bad-request",
                         "newest")
        kinds = {e["type"] for e in events["events"]}
        self.assertLessEqual({"daemon.started", "vm.created", "vm.changed",
                              "vm.state", "vm.ended", "vm.deleted",
                              "task.state"}, kinds)
        numbers = [e["id"] for e in events["events"]]
        self.assertEqual(numbers, sorted(numbers))
        newest = get("/v1/events?limit=2&newest=true").json
        self.assertEqual([e["id"] for e in newest["events"]],
                         [newest["last"] - 1, newest["last"]])

    def test_61_event_stream(self):
        last = get("/v1/events").json["last"]
        c = harness.UnixConnection(D.socket)
        c.request("GET", "/v1/events", headers={
            "Accept": "text/event-stream", "Last-Event-ID": str(last)})
        stream = c.getresponse()
        self.assertEqual(stream.getheader("content-type"),
                         "text/event-stream")
        made = threading.Thread(target=D.define, args=("streamed",))
        made.start()
        data = b""
        while b"vm.created" not in data:
            data += stream.read1(4096)
        made.join()
        line = next(l for l in data.split(b"\n") if l.startswith(b"data: "))
        event = json.loads(line[6:])
        self.assertEqual((event["type"], event["vm"]["name"]),
                         ("vm.created", "streamed"))
        SPEC.validate(line[6:], {"$ref": "#/components/schemas/Event"})
        c.close()
        D.do("DELETE", "/v1/vms/streamed")

    def test_62_idempotency(self):
        key = {"Idempotency-Key": "k1"}
        body = {"name": "twice", "boot": {"kernel": "/k"}}
        first = post("/v1/vms", body, headers=key)
        again = post("/v1/vms", body, headers=key)
        self.assertEqual((first.status, first.body, first.headers["etag"]),
                         (again.status, again.body, again.headers["etag"]))
        self.refused(post("/v1/vms", dict(body, cpus=2), headers=key), 422,
                     "key-reuse")
        one = post("/v1/vms/twice/stop", headers={"Idempotency-Key": "k2"})
        two = post("/v1/vms/twice/stop", headers={"Idempotency-Key": "k2"})
        self.assertEqual(one.json["id"], two.json["id"])

    def test_70_delete(self):
        self.refused(D.call("DELETE", "/v1/vms/twice",
                            headers={"If-Match": '"7"'}), 412, "precondition")
        self.refused(D.call("DELETE", "/v1/vms/twice?force=yes"), 400,
                     "bad-request")
        D.do("DELETE", "/v1/vms/twice", headers={"If-Match": '"1"'})
        self.refused(D.call("DELETE", "/v1/vms/twice"), 404, "not-found")

    def test_80_tokens_roles_audit(self):
        made = {}
        for role in ("administrator", "operator", "user", "auditor",
                     "viewer"):
            got = post("/v1/tokens", {"name": f"t-{role}", "role": role,
                                      "expires_s": 3600})
            self.assertEqual(got.status, 201)
            made[role] = {"Authorization": f"Bearer {got.json['token']}"}
        listed = get("/v1/tokens").json["tokens"]
        self.assertNotIn("token", listed[0])
        self.refused(post("/v1/tokens", {"name": "x", "role": "king"}), 404,
                     "not-found", "no role king")
        for body in ({"name": "a/b", "role": "user"}, {"role": "user"},
                     {"name": "x", "role": "user", "expires_s": 0},
                     {"name": "x", "role": "user", "y": 1}):
            self.refused(post("/v1/tokens", body), 400, "bad-request")
        self.refused(post("/v1/tokens", {"name": "t-user", "role": "user"}),
                     409, "conflict")
        # Which role may what: a route each.
        calls = {
            "read": lambda h: get("/v1/vms", headers=h),
            "operate": lambda h: post("/v1/vms/one/stop", headers=h),
            "define": lambda h: D.call("PATCH", "/v1/vms/imaged",
                                       {"cpus": 1}, headers=h),
            "host": lambda h: post("/v1/vms", {"name": "h", "boot": {
                "kernel": "/etc/shadow"}}, headers=h),
            "host-patch": lambda h: D.call(
                "PATCH", "/v1/vms/imaged",
                {"disks": [{"path": "/" + h["Authorization"][-9:]}]},
                headers=h),
            "tokens": lambda h: get("/v1/tokens", headers=h),
            "new-token": lambda h: post("/v1/tokens", {
                "name": "z", "role": "user"}, headers=h),
            "old-token": lambda h: D.call("DELETE", "/v1/tokens/z",
                                          headers=h),
            "networks": lambda h: get("/v1/networks", headers=h),
            "network": lambda h: post("/v1/networks", {
                "name": "y" + h["Authorization"][-9:]}, headers=h),
            "bridge": lambda h: post("/v1/networks", {
                "name": "x" + h["Authorization"][-9:], "bridge": "none0"},
                headers=h),
            "network-delete": lambda h: D.call(
                "DELETE", "/v1/networks/y" + h["Authorization"][-9:],
                headers=h),
            "audit": lambda h: get("/v1/audit", headers=h),
            "verify": lambda h: get("/v1/audit/verify", headers=h),
            "harden": lambda h: get("/v1/host/audit", headers=h),
        }
        may = {"administrator": set(calls), "operator": {
            "read", "operate", "define", "networks", "network",
            "network-delete"}, "user": {"read", "operate", "networks"},
            "auditor": {
                "read", "audit", "verify", "harden", "networks"},
            "viewer": {"read", "networks"}}
        post("/v1/vms", {"name": "imaged", "image": "tiny:1"})
        for role, headers in made.items():
            for name, call in calls.items():
                with self.subTest(role=role, call=name):
                    answer = call(headers)
                    if name in may[role]:
                        self.assertTrue(answer.status < 400 or (
                            name == "bridge" and answer.status == 404),
                            answer.body)
                    else:
                        self.refused(answer, 403, "denied")
        self.refused(get("/v1/networks/lan/capture",
                         headers=made["operator"]), 403, "denied")
        for wrong in ("Bearer nonsense", "Basic YTpi", "Bearer "):
            self.refused(get("/v1/vms", headers={"Authorization": wrong}),
                         401, "unauthorized")
        self.assertEqual(D.call("DELETE", "/v1/tokens/t-viewer").status, 204)
        self.refused(D.call("DELETE", "/v1/tokens/t-viewer"), 404,
                     "not-found")
        self.refused(get("/v1/vms", headers=made["viewer"]), 401,
                     "unauthorized")
        self.refused(get("/v1/audit?limit=0"), 400, "bad-request")
        records = get("/v1/audit?limit=1000").json["records"]
        self.assertIn(("token t-viewer", "403"),
                      {(r["caller"], r["outcome"]) for r in records})
        found = get("/v1/audit/verify").json
        self.assertTrue(found["valid"])
        self.assertEqual(found["records"], len(records))

    def test_845_hardening(self):
        before = get("/v1/host/audit").json
        by_name = {c["name"]: c for c in before["checks"]}
        self.assertEqual(len(by_name), len(before["checks"]))
        states = [c["state"] for c in before["checks"]]
        for count, state in (("passed", "pass"), ("failed", "fail"),
                             ("not_applicable", "not-applicable")):
            self.assertEqual(before[count], states.count(state))
        for c in before["checks"]:
            self.assertTrue(c["reason"] and c["title"])
            self.assertEqual(bool(c["hint"]), c["state"] == "fail", c)
        self.assertEqual(by_name["daemon-user"]["state"],
                         "fail" if os.geteuid() == 0 else "pass")
        self.assertEqual(by_name["audit-log"]["state"], "pass")
        self.assertEqual(by_name["overcommit"]["state"], "pass")
        # What machines, tokens and the policy are makes the difference.
        self.assertEqual(post("/v1/networks", {"name": "hard"}).status, 201)
        self.assertEqual(D.define("loose", nics=[
            {"type": "network", "network": "hard", "trusted": True}]).status,
            201)
        post("/v1/tokens", {"name": "t-endless", "role": "viewer"})
        D.call("PATCH", "/v1/vms/loose", {"share_memory": True})
        post("/v1/users", {"name": "idle"})
        post("/v1/users", {"name": "boss"})
        post("/v1/users/boss/grants", {"role": "administrator"})
        D.call("PATCH", "/v1/host/policy", {"overcommit_percent": 150})
        after = {c["name"]: c for c in get("/v1/host/audit").json["checks"]}
        for name, word in (("anti-spoofing", "loose"), ("owners", ""),
                           ("network-limits", ""), ("devices", ""),
                           ("token-expiry", ""), ("overcommit", "150"),
                           ("memory-sharing", "loose"),
                           ("users-without-rights", "idle"),
                           ("administrator-certificates", "boss")):
            self.assertEqual(after[name]["state"], "fail", after[name])
            self.assertIn(word, after[name]["reason"])
        D.call("PATCH", "/v1/host/policy", {"overcommit_percent": 100})
        self.assertIn("boss", after["host-administrators"]["reason"])
        D.call("DELETE", "/v1/tokens/t-endless")
        D.call("DELETE", "/v1/users/idle")
        D.call("DELETE", "/v1/users/boss")
        D.do("DELETE", "/v1/vms/loose")
        D.call("DELETE", "/v1/networks/hard")

    def test_81_projects(self):
        made = post("/v1/projects", {"name": "shop", "description": "web",
                                     "quotas": {"machines": 2, "vcpus": 3}})
        self.assertEqual(made.status, 201, made.body)
        self.assertEqual(made.headers["location"], "/v1/projects/shop")
        self.assertEqual(get("/v1/projects/shop").json, made.json)
        self.assertEqual([p["name"] for p in
                          get("/v1/projects").json["projects"]],
                         ["default", "shop"])
        self.refused(post("/v1/projects", {"name": "shop"}), 409, "conflict")
        for wrong in ({"name": "a/b"}, {"name": "x", "y": 1},
                      {"name": "x", "quotas": []},
                      {"name": "x", "quotas": {"luck": 1}},
                      {"name": "x", "quotas": {"vcpus": -1}},
                      {"name": "x", "quotas": {"vcpus": 1.5}},
                      {"name": "x", "description": "a\nb"}):
            self.refused(post("/v1/projects", wrong), 400, "bad-request")
        for method in ("GET", "PATCH", "DELETE"):
            self.refused(D.call(method, "/v1/projects/none",
                                {} if method == "PATCH" else None),
                         404, "not-found")
        got = D.call("PATCH", "/v1/projects/shop", {
            "quotas": {"vcpus": None, "memory_bytes": 96 << 20}})
        self.assertEqual(got.json["quotas"],
                         {"machines": 2, "memory_bytes": 96 << 20})
        self.assertEqual(got.json["description"], "web")
        self.refused(D.call("PATCH", "/v1/projects/shop", {"x": 1}), 400,
                     "bad-request")
        self.refused(D.define("lost", project="none"), 404, "not-found",
                     "there is no project none")
        self.assertEqual(D.define("shop-1", project="shop").status, 201)
        self.refused(D.call("DELETE", "/v1/projects/shop"), 409, "conflict",
                     "machines")
        self.refused(D.call("DELETE", "/v1/projects/default"), 409,
                     "conflict")
        D.do("DELETE", "/v1/vms/shop-1")
        events = [e["type"] for e in
                  get("/v1/events?limit=1000").json["events"]
                  if e["project"] == "shop"]
        self.assertEqual(events[-1], "task.state")

    def test_82_users_and_roles(self):
        roles = {r["name"]: r for r in get("/v1/roles").json["roles"]}
        self.assertEqual(roles["viewer"]["rights"], ["read"])
        made = post("/v1/roles", {"name": "starter", "rights": ["operate"]})
        self.assertEqual((made.status, made.json["rights"]),
                         (201, ["read", "operate"]))
        self.refused(post("/v1/roles", {"name": "starter",
                                        "rights": ["read"]}), 409, "conflict")
        self.refused(post("/v1/roles", {"name": "viewer",
                                        "rights": ["read"]}), 409, "conflict")
        for wrong in ({"name": "x"}, {"name": "x", "rights": ["rule"]},
                      {"name": "x", "rights": []}, {"rights": ["read"]},
                      {"name": "x", "rights": ["read"], "y": 1}):
            self.refused(post("/v1/roles", wrong), 400, "bad-request")
        for name, status, code in (("viewer", 409, "conflict"),
                                   ("none", 404, "not-found")):
            self.refused(D.call("PATCH", f"/v1/roles/{name}",
                                {"rights": ["read"]}), status, code)
            self.refused(D.call("DELETE", f"/v1/roles/{name}"), status, code)
        self.refused(D.call("PATCH", "/v1/roles/starter", {"rights": 5}),
                     400, "bad-request")

        made = post("/v1/users", {"name": "anna", "uid": 4294967294,
                                  "certificate": "anna.example"})
        self.assertEqual((made.status, made.json["grants"]), (201, []))
        self.refused(post("/v1/users", {"name": "anna"}), 409, "conflict")
        self.refused(post("/v1/users", {"name": "b", "uid": 4294967294}),
                     409, "conflict")
        for wrong in ({"name": "a b"}, {"name": "x", "uid": -1},
                      {"name": "x", "uid": "5"}, {"name": "x", "y": 1},
                      {"name": "x", "certificate": "a\u0000b"},
                      {"name": "x", "certificate": "c" * 65}):
            self.refused(post("/v1/users", wrong), 400, "bad-request")
        grants = "/v1/users/anna/grants"
        for body in ({"role": "starter", "project": "shop"},
                     {"role": "starter", "project": "shop"},
                     {"role": "viewer"}):
            self.assertEqual(post(grants, body).status, 204)
        self.refused(post(grants, {"role": "king"}), 404, "not-found")
        self.refused(post(grants, {"role": 5}), 400, "bad-request")
        self.refused(post(grants, {"role": "viewer", "project": "none"}),
                     404, "not-found", "no project none")
        self.refused(post("/v1/users/none/grants", {"role": "viewer"}), 404,
                     "not-found")
        self.assertEqual(get("/v1/users/anna").json["grants"],
                         [{"role": "viewer", "project": None},
                          {"role": "starter", "project": "shop"}])
        self.assertEqual(get("/v1/users").json["users"],
                         [get("/v1/users/anna").json])
        self.refused(D.call("DELETE", "/v1/roles/starter"), 409, "conflict")

        # A user's token has what the user has, from one call to the next.
        token = post("/v1/tokens", {"name": "annas", "user": "anna"})
        self.assertEqual(token.status, 201, token.body)
        anna = {"Authorization": "Bearer " + token.json["token"]}
        D.define("shop-2", project="shop")
        root = get("/v1", headers=anna).json
        self.assertEqual((root["caller"], root["role"]),
                         ("user anna, token annas", "viewer"))
        self.assertEqual(root["grants"],
                         [{"project": None, "rights": ["read"]},
                          {"project": "shop", "rights": ["read", "operate"]}])
        kill = "/v1/vms/shop-2/kill"
        self.assertEqual(post(kill, headers=anna).status, 202)
        self.assertEqual(D.call("PATCH", "/v1/roles/starter",
                                {"rights": ["audit"]}).status, 200)
        self.refused(post(kill, headers=anna), 403, "denied")
        self.refused(post("/v1/roles", {"name": "x", "rights": ["read"]},
                          headers=anna), 403, "denied")
        self.assertEqual(D.call(
            "DELETE", grants + "?role=starter&project=shop").status, 204)
        self.refused(D.call("DELETE", grants + "?role=starter&project=shop"),
                     404, "not-found")
        self.refused(D.call("DELETE", grants), 400, "bad-request")
        self.refused(post("/v1/tokens", {"name": "x", "user": "none"}), 404,
                     "not-found", "no such user")
        self.refused(post("/v1/tokens", {"name": "x", "user": "anna",
                                         "role": "viewer"}), 400,
                     "bad-request")

        # Somebody looks on, and is shut out.
        c = harness.UnixConnection(D.socket)
        c.request("GET", "/v1/events", headers={
            **anna, "Accept": "text/event-stream"})
        stream = c.getresponse()
        self.assertEqual(stream.status, 200)
        changed = D.call("PATCH", "/v1/users/anna", {"disabled": True,
                                                     "uid": None})
        self.assertEqual((changed.status, changed.json["uid"]), (200, None))
        self.assertIn(b": hello", stream.read())  # it has ended
        c.close()
        self.refused(get("/v1", headers=anna), 401, "unauthorized")
        self.refused(D.call("PATCH", "/v1/users/anna", {"disabled": 1}), 400,
                     "bad-request")
        post("/v1/users", {"name": "bert", "certificate": "bert.example"})
        self.refused(D.call("PATCH", "/v1/users/anna",
                            {"certificate": "bert.example"}), 409, "conflict")
        for method in ("GET", "PATCH", "DELETE"):
            self.refused(D.call(method, "/v1/users/none",
                                {} if method == "PATCH" else None), 404,
                         "not-found")
        for name in ("anna", "bert"):
            self.assertEqual(D.call("DELETE", f"/v1/users/{name}").status,
                             204)
        self.assertNotIn("annas", [t["name"] for t in
                                   get("/v1/tokens").json["tokens"]])
        self.assertEqual(D.call("DELETE", "/v1/roles/starter").status, 204)
        D.do("DELETE", "/v1/vms/shop-2")

    def test_83_access_taken_back(self):
        """What is for a role in a project alone; and what goes on, ends."""
        D.define("shop-3", project="shop")
        token = post("/v1/tokens", {"name": "shopper", "role": "operator",
                                    "project": "shop"}).json
        self.assertEqual(token["project"], "shop")
        shopper = {"Authorization": "Bearer " + token["token"]}
        self.assertEqual([v["name"] for v in
                          get("/v1/vms", headers=shopper).json["vms"]],
                         ["shop-3"])
        self.assertIsNone(get("/v1/figures", headers=shopper).json["host"])
        self.assertNotIn(b"atoll_host", get("/metrics",
                                            headers=shopper).body)
        # It can't leave the project, nor name the host's files there.
        self.refused(D.call("PATCH", "/v1/vms/shop-3",
                            {"project": "default"}, headers=shopper), 404,
                     "not-found", "no project default")
        self.refused(D.call("PATCH", "/v1/vms/shop-3", {"disks": [
            {"path": "/etc/shadow"}]}, headers=shopper), 403, "denied")
        c = harness.UnixConnection(D.socket)
        c.request("GET", "/v1/vms/shop-3/console?follow=always",
                  headers=shopper)
        stream = c.getresponse()
        # The machine goes to where the caller has nothing to look for.
        self.assertEqual(D.call("PATCH", "/v1/vms/shop-3",
                                {"project": "default"}).status, 200)
        self.assertEqual(stream.read(), b"")
        c.close()
        self.refused(get("/v1/vms/shop-3", headers=shopper), 404,
                     "not-found", "there is no machine shop-3")
        D.do("DELETE", "/v1/vms/shop-3")
        brief = post("/v1/tokens", {"name": "brief", "role": "viewer",
                                    "expires_s": 1}).json
        wait_for(lambda: get("/v1", headers={
            "Authorization": "Bearer " + brief["token"]}).status == 401)
        # The project goes, and with it what was given in it.
        self.assertEqual(D.call("DELETE", "/v1/projects/shop").status, 204)
        self.refused(get("/v1", headers=shopper), 401, "unauthorized")

    def test_84_quotas(self):
        post("/v1/projects", {"name": "small", "quotas": {
            "machines": 5, "vcpus": 12, "memory_bytes": 512 << 20}})
        # Forty at once: five places.
        answers = at_once(lambda i: D.define(f"s{i}", project="small"),
                          range(40))
        made = [a.json["name"] for a in answers if a.status == 201]
        self.assertEqual(len(made), 5)
        for a in answers:
            if a.status != 201:
                self.refused(a, 409, "quota", "project small: the quota of "
                             "machines is 5; it has 5, and 1 more was asked "
                             "for")
        self.assertEqual(get("/v1/projects/small").json["used"],
                         {"machines": 5, "vcpus": 5, "snapshots": 0,
                          "memory_bytes": 160 << 20, "disk_bytes": 0,
                          "backup_bytes": 0})
        # Grown at once, each by three: 5 of 12 are used.
        at = [f"/v1/vms/{name}" for name in made]
        answers = at_once(lambda p: D.call("PATCH", p, {"cpus": 4}), at)
        self.assertEqual(sorted(a.status for a in answers),
                         [200, 200, 409, 409, 409])
        # What is beyond a quota that came later may get smaller, not larger.
        self.assertEqual(D.call("PATCH", "/v1/projects/small", {
            "quotas": {"vcpus": 2}}).status, 200)
        big = [p for p in at if get(p).json["spec"]["cpus"] == 4]
        self.refused(D.call("PATCH", big[0], {"cpus": 5}), 409, "quota",
                     "vCPUs is 2; it has 11, and 1 more")
        self.assertEqual(D.call("PATCH", big[0], {"cpus": 3}).status, 200)
        self.refused(D.call("PATCH", at[0], {"memory_max_bytes": 1 << 30}),
                     409, "quota", "memory is 512 MiB; it has 160 MiB")
        # From another project it counts as new.
        D.define("outside")
        self.refused(D.call("PATCH", "/v1/vms/outside",
                            {"project": "small"}), 409, "quota", "machines")
        D.do("DELETE", "/v1/vms/outside")
        for path in at:
            D.do("DELETE", path)
        self.disk_and_snapshot_quotas()
        self.assertEqual(D.call("DELETE", "/v1/projects/small").status, 204)

    def disk_and_snapshot_quotas(self):
        self.assertEqual(D.call("PATCH", "/v1/projects/small", {"quotas": {
            "vcpus": None, "disk_bytes": 100 << 20,
            "snapshots": 1}}).status, 200)
        made = D.define("imaged-1", project="small", image="tiny:1", boot={})
        self.assertEqual(made.status, 201, made.body)
        # It counts before it is copied.
        self.refused(D.define("imaged-2", project="small", image="tiny:1",
                              boot={}), 409, "quota",
                     "disk is 100 MiB; it has 64 MiB, and 64 MiB more")
        D.do("POST", "/v1/vms/imaged-1/start")
        grow = "/v1/vms/imaged-1/disks/vda/resize"
        self.refused(post(grow, {"bytes": 101 << 20}), 409, "quota")
        self.assertEqual(post(grow, {"bytes": 96 << 20}).status, 204)
        self.assertEqual(get("/v1/projects/small").json["used"]["disk_bytes"],
                         96 << 20)
        D.do("DELETE", "/v1/vms/imaged-1?force=true")
        disk = D.work / "counted.qcow2"
        subprocess.run([PROGRAMS["atoll"], "disk", "create", disk, "8M"],
                       check=True)
        D.define("layered", project="small",
                 disks=[{"path": str(disk), "format": "qcow2"}])
        D.do("POST", "/v1/vms/layered/start")
        take = "/v1/vms/layered/disks/vda/snapshot"
        answers = at_once(lambda n: post(take, {"name": f"n{n}"}), range(4))
        self.assertEqual(sorted(a.status for a in answers),
                         [202, 409, 409, 409])
        for a in answers:
            if a.status == 202:
                D.task(a)
        self.refused(post(take, {"name": "late"}), 409, "quota",
                     "snapshots is 1; it has 1")
        D.do("POST", "/v1/vms/layered/disks/vda/commit", {"all": True})
        D.do("POST", take, {"name": "again"})
        D.do("DELETE", "/v1/vms/layered?force=true")

    def test_841_images_of_projects(self):
        post("/v1/projects", {"name": "art"})
        self.assertIsNone(get("/v1/images/tiny:1").json["project"])
        for wrong in ({}, {"project": 5}):
            self.refused(D.call("PATCH", "/v1/images/tiny:1", wrong), 400,
                         "bad-request")
        self.refused(D.call("PATCH", "/v1/images/tiny:1", {"project": "none"}),
                     404, "not-found", "no project none")
        self.refused(D.call("PATCH", "/v1/images/none:1",
                            {"project": None}), 404, "not-found")
        for project in ("art", None):
            got = D.call("PATCH", "/v1/images/tiny:1", {"project": project})
            self.assertEqual((got.status, got.json["project"]),
                             (200, project))
            self.assertEqual(get("/v1/images/tiny:1").json, got.json)
        D.call("PATCH", "/v1/images/tiny:1", {"project": "art"})
        self.refused(D.call("DELETE", "/v1/projects/art"), 409, "conflict",
                     "images")
        D.call("PATCH", "/v1/images/tiny:1", {"project": None})
        token = post("/v1/tokens", {"name": "t-art", "role": "administrator",
                                    "project": "art"}).json
        art = {"Authorization": "Bearer " + token["token"]}
        for method, path in (
                ("PATCH", "/v1/images/tiny:1"), ("POST", "/v1/projects"),
                ("DELETE", "/v1/projects/art"), ("POST", "/v1/users"),
                ("PATCH", "/v1/users/x"), ("DELETE", "/v1/users/x"),
                ("DELETE", "/v1/roles/x"), ("PATCH", "/v1/roles/x")):
            self.refused(D.call(method, path, {} if method != "DELETE"
                                else None, headers=art), 403, "denied")
        self.refused(D.call("PATCH", "/v1/projects/art", {"quotas": {}},
                            headers=art), 403, "denied")
        self.refused(post("/v1/users/x/grants", {"role": "viewer"},
                          headers=art), 403, "denied")
        self.refused(D.call("DELETE", "/v1/users/x/grants?role=viewer",
                            headers=art), 403, "denied")
        token = post("/v1/tokens", {"name": "t-watch", "role": "viewer"}).json
        watch = {"Authorization": "Bearer " + token["token"]}
        for path in ("/v1/users", "/v1/users/x"):
            self.refused(get(path, headers=watch), 403, "denied")
        self.refused(post("/v1/projects", {"name": "y"}, headers=watch), 403,
                     "denied")
        many = "/v1/users/many/grants"
        post("/v1/users", {"name": "many"})
        for n in range(64):
            post("/v1/projects", {"name": f"p{n}"})
            self.assertEqual(post(many, {"role": "viewer",
                                         "project": f"p{n}"}).status, 204)
        self.refused(post(many, {"role": "viewer", "project": "art"}), 409,
                     "conflict", "64")

    def test_85_watching(self):
        self.assertEqual(D.define("watched", owner="me", memory_max_bytes=64 << 20).status,
                         201)
        D.do("POST", "/v1/vms/watched/start")

        def seen():
            for vm in get("/v1/figures").json["vms"]:
                if vm["name"] == "watched" and "cpu" in vm:
                    return vm
            return None
        figures = wait_for(seen)
        self.assertEqual(len(figures["cpu"]["vcpus"]), 1)
        self.assertGreater(figures["memory"]["resident_bytes"], 1 << 20)
        points = wait_for(lambda: get("/v1/vms/watched/metrics").json["points"])
        names = get("/v1/vms/watched/metrics").json["metrics"]
        self.assertEqual(len(points[0]), 1 + 2 * len(names))
        for query in ("since=x", "since=5&until=4", "since=-1"):
            self.refused(get("/v1/vms/watched/metrics?" + query), 400,
                         "bad-request")
        self.refused(get("/v1/vms/nobody/metrics"), 404, "not-found")
        vcpu, = figures["cpu"]["vcpus"]
        self.assertAlmostEqual(vcpu["run"] + vcpu["ready"] + vcpu["wait"], 1,
                               places=5)
        self.assertEqual(figures["cpu"]["wait"], vcpu["wait"])
        text = get("/metrics").body.decode()
        self.is_exposition(text)
        for of in ("run", "ready", "wait", "steal"):
            self.assertIn('\natoll_vm_vcpu_ratio{vm="watched",vcpu="0",'
                          f'of="{of}"}} ', text)
        self.assertRegex(text, r'(?m)^atoll_vm_ready_ratio\{vm="watched"\} \d')
        self.assertRegex(text, r'(?m)^atoll_host_cpu_ratio \d')
        advice = {v["name"]: v for v in
                  get("/v1/reports/sizing").json["vms"]}
        self.assertEqual(advice["watched"]["words"], "less than a day was seen")
        self.assertEqual(D.define("old", expires="2020-01-01").status, 201)
        sprawl = {v["name"]: v["reasons"] for v in
                  get("/v1/reports/sprawl").json["vms"]}
        self.assertNotIn("watched", sprawl)
        for query, names in (("expired=true", ["old"]),
                             ("owner=me", ["watched"]),
                             ("expired=true&owner=me", []),
                             ("project=none", [])):
            found = get("/v1/vms?" + query).json["vms"]
            self.assertEqual([v["name"] for v in found], names, query)
        self.assertEqual(sprawl["old"],
                         ["expired on 2020-01-01", "has no owner"])
        D.do("POST", "/v1/vms/watched/kill")

    def is_exposition(self, text):
        """Prometheus's text format, version 0.0.4: of each metric HELP, TYPE
        and then its samples, none twice."""
        self.assertTrue(text.endswith("\n"))
        known, seen, kind = set(), set(), None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name, words = line[7:].split(" ", 1)
                self.assertNotIn(name, known)
                self.assertNotIn("\\", words)
                known.add(name)
                kind = None
            elif line.startswith("# TYPE "):
                self.assertEqual(line.split(" ")[2], name)
                kind = line.split(" ")[3]
                self.assertIn(kind, ("gauge", "counter"))
                self.assertEqual(name.endswith("_total"), kind == "counter")
            else:
                m = re.fullmatch(
                    r'([a-z_:][a-z0-9_:]*)(\{[a-z_]+="[^"\\]*"'
                    r'(?:,[a-z_]+="[^"\\]*")*\})? (\S+)', line)
                self.assertTrue(m, line)
                self.assertEqual((m[1], bool(kind)), (name, True), line)
                self.assertNotIn(m[1] + (m[2] or ""), seen)
                seen.add(m[1] + (m[2] or ""))
                float(m[3])
        self.assertTrue(seen)

    def test_86_alarms(self):
        rule = {"name": "busy", "metric": "resident", "threshold": 1,
                "vm": "alarm*", "action": "kill", "duration_s": 0}
        for change in ({"metric": "luck"}, {"when": "at"}, {"threshold": -1},
                       {"action": "sing"}, {"name": "a/b"}, {"vm": 5},
                       {"duration_s": 86401}, {"colour": 1}):
            self.refused(post("/v1/alarms", {**rule, **change}), 400,
                         "bad-request")
        made = post("/v1/alarms", rule)
        self.assertEqual(made.status, 201, made.body)
        self.refused(post("/v1/alarms", rule), 409, "conflict")
        self.assertEqual([a["name"] for a in get("/v1/alarms").json["alarms"]],
                         ["busy"])
        D.define("alarmed")
        last = get("/v1/events?limit=1").json["last"]
        D.do("POST", "/v1/vms/alarmed/start")
        wait_for(lambda: D.vm("alarmed")["state"] == "stopped")
        kinds = wait_for(lambda: [
            e["type"] for e in
            get(f"/v1/events?after={last}&limit=1000").json["events"]
            if e["type"].startswith("alarm")])
        self.assertEqual(kinds[0], "alarm.raised")
        self.assertIn("alarm busy", [r["caller"] for r in get(
            "/v1/audit?limit=1000").json["records"]])
        self.assertEqual(D.call("DELETE", "/v1/alarms/busy").status, 204)
        self.refused(D.call("DELETE", "/v1/alarms/busy"), 404, "not-found")
        # What is under way is waited for: the action is taken behind it.
        D.do("POST", "/v1/vms/alarmed/start")
        D.console("alarmed", b"resident is up", 1)
        D.call("POST", "/v1/vms/alarmed/console", "d",
               {"Content-Type": "application/octet-stream"})
        D.console("alarmed", b"[100]")
        waits = post("/v1/vms/alarmed/stop").json["id"]
        self.assertEqual(post("/v1/alarms", rule).status, 201)
        wait_for(lambda: get("/v1/alarms").json["alarms"][0]["machines"] ==
                 ["alarmed"])
        wait_for(lambda: D.vm("alarmed")["task"])
        post(f"/v1/tasks/{waits}/cancel")
        wait_for(lambda: D.vm("alarmed")["state"] == "stopped")
        self.assertEqual(D.vm("alarmed")["last_end"]["cause"], "killed")
        self.assertEqual(D.call("DELETE", "/v1/alarms/busy").status, 204)
        token = post("/v1/tokens", {"name": "t-look", "role": "viewer"}).json
        look = {"Authorization": "Bearer " + token["token"]}
        self.refused(post("/v1/alarms", rule, headers=look), 403, "denied")
        self.refused(D.call("PATCH", "/v1/host/policy", {}, headers=look),
                     403, "denied")

    def test_88_agent(self):
        """Without an agent: what an agent would do is refused in words. What
        a guest's own does is tests/e2e/agent.py's."""
        D.define("mute")
        self.assertIsNone(D.vm("mute")["agent"])
        self.assertFalse(get("/v1/vms/mute/agent").json["connected"])
        self.refused(get("/v1/vms/none/agent"), 404, "not-found")
        calls = {"freeze": None, "thaw": None, "exec": {"command": ["ls"]},
                 "read": {"path": "/x"}, "write": {"path": "/x", "data": ""}}
        for name, body in calls.items():
            self.refused(post(f"/v1/vms/none/agent/{name}", body), 404,
                         "not-found")
            self.refused(post(f"/v1/vms/mute/agent/{name}", body), 409,
                         "conflict", "does not run")
        self.refused(get("/v1/vms/none/agent/exec/1"), 404, "not-found")
        D.do("POST", "/v1/vms/mute/start")
        for name, body in calls.items():
            self.refused(post(f"/v1/vms/mute/agent/{name}", body), 409,
                         "conflict", "agent")
        self.refused(get("/v1/vms/mute/agent/exec/1"), 409, "conflict")
        self.refused(get("/v1/vms/mute/agent/exec/x"), 404, "not-found")
        for name, body in (
                ("exec", {"command": []}), ("exec", {"command": [1]}),
                ("exec", {"command": ["a"], "input": "?"}),
                ("exec", {"command": ["a"], "env": "b"}),
                ("exec", {"command": ["a\u0000b"]}),
                ("read", {"path": ""}), ("read", {"path": "/x", "size": -1}),
                ("read", {"path": "/x", "size": 1 << 20}),
                ("read", {"path": "/x\u0000y"}),
                ("write", {"path": "/x", "data": "=="}),
                ("write", {"path": "/x", "data": "A" * (400 << 10)}),
                ("write", {"path": "/x", "data": "", "mode": "w"})):
            self.refused(post(f"/v1/vms/mute/agent/{name}", body), 400,
                         "bad-request")
        self.refused(post("/v1/vms/mute/agent/exec", calls["exec"],
                          headers={"Idempotency-Key": "k"}), 400,
                     "bad-request")
        token = post("/v1/tokens", {"name": "t-eye", "role": "viewer"}).json
        self.refused(post("/v1/vms/mute/agent/exec", calls["exec"], headers={
            "Authorization": "Bearer " + token["token"]}), 403, "denied")
        D.do("POST", "/v1/vms/mute/kill")

    def test_87_limits(self):
        before = get("/v1/host/policy").json
        self.assertEqual(before["overcommit_percent"], 100)
        for wrong in ({"overcommit_percent": 99}, {"headroom_bytes": -1},
                      {"headroom_bytes": "1"}, {"x": 1}):
            self.refused(D.call("PATCH", "/v1/host/policy", wrong), 400,
                         "bad-request")
        for wrong in ({"cpu_weight": 0}, {"cpu_pin": "a"}, {"cpu_pin": "1-"},
                      {"memory_limit_bytes": -1}, {"luck": 1}):
            self.refused(D.define("limited", resources=wrong), 400,
                         "bad-request")
        D.define("limited", resources={"cpu_weight": 200, "cpu_pin": "0"})
        # No room: all of the host is kept for itself.
        self.assertEqual(D.call("PATCH", "/v1/host/policy", {
            "headroom_bytes": 1 << 50}).status, 200)
        task = D.task(post("/v1/vms/limited/start"))
        self.assertEqual(task["error"]["code"], "no-capacity")
        self.assertEqual(D.call("PATCH", "/v1/host/policy", {
            "headroom_bytes": before["headroom_bytes"]}).json, before)
        D.do("POST", "/v1/vms/limited/start")
        # What it is promised while it runs fits the host, too.
        D.call("PATCH", "/v1/host/policy", {"headroom_bytes": 1 << 50})
        for more in ({"cpu_reservation": 6400}, {"cpu_pin": "1023"},
                     {"memory_reservation_bytes": 16 << 20}):
            self.refused(D.call("PATCH", "/v1/vms/limited",
                                {"resources": more}), 507, "no-capacity")
        for less in ({"cpu_weight": 300}, {"memory_reservation_bytes": 0},
                     {"memory_target_bytes": 16 << 20}):
            self.assertEqual(D.call("PATCH", "/v1/vms/limited", {
                "resources": less}).status, 200, less)
        self.assertEqual(D.call("PATCH", "/v1/host/policy", {
            "headroom_bytes": before["headroom_bytes"]}).json, before)
        D.do("POST", "/v1/vms/limited/kill")
        D.call("PATCH", "/v1/vms/limited", {"resources": {"cpu_pin": "1023"}})
        task = D.task(post("/v1/vms/limited/start"))
        self.assertEqual(task["error"]["code"], "no-capacity")
        self.assertIn("none of these processors", task["error"]["words"])

    def test_90_many_at_once(self):
        def work(i):
            c = harness.UnixConnection(D.socket)
            for n in range(20):
                a = D.call("GET", "/v1/vms", connection=c)
                assert a.status == 200
                a = D.call("POST", "/v1/vms/one/stop", connection=c)
                assert a.status == 202, (i, n, a.body)
            c.close()

        at_once(work, range(8))
        wait_for(lambda: D.vm("one")["task"] is None)

    def test_99_all_was_met(self):
        # What takes an agent in a guest is met by tests/e2e/agent.py.
        elsewhere = {(m, p, s) for m, p, s in SPEC.documented()
                     if "/agent/" in p and s == "200"}
        missing = sorted(SPEC.documented() - SPEC.met - elsewhere)
        self.assertEqual(missing, [], "documented, and never met")
        print(f"{len(SPEC.documented())} documented answers of "
              f"{len(list(SPEC.operations()))} operations met")


if __name__ == "__main__":
    os.umask(0o022)
    try:
        D.start()
        unittest.main(argv=sys.argv[:1] + sys.argv[4:])
    finally:
        D.close()
