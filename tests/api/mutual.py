#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS: whose certificates are taken, who their bearers are, and what
becomes of those who are not known.

Usage: mutual.py ATOLLD ATOLL GUEST
"""
import http.client
import os
import socket
import ssl
import subprocess
import sys
import unittest

import harness

PROGRAMS = harness.programs(sys.argv[1:4])


class Authority:
    """Certificates, by openssl(1)."""

    def __init__(self, folder, name):
        self.folder = folder
        self.name = name
        self.cert = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key,
                 "-out", self.cert, "-days", "2", "-subj", f"/CN={name}")
        self.count = 0

    @staticmethod
    def run(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    def sign(self, subject, usage="clientAuth", days="2", extra=""):
        self.count += 1
        stem = self.folder / f"{self.name}-{self.count}"
        cert, key, asks = (stem.with_suffix(s) for s in
                           (".pem", ".key", ".csr"))
        more = stem.with_suffix(".ext")
        more.write_text(f"extendedKeyUsage={usage}\n{extra}")
        self.run("req", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                 asks, "-subj", subject, "-multivalue-rdn")
        self.run("x509", "-req", "-in", asks, "-CA", self.cert, "-CAkey",
                 self.key, "-out", cert, "-days", days, "-extfile", more,
                 "-set_serial", str(self.count + 1))
        return cert, key


class Mutual(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = d = harness.Daemon(PROGRAMS)
        cls.ours = Authority(d.work, "ours")
        cls.others = Authority(d.work, "others")
        cls.alice = cls.ours.sign("/CN=alice.example")
        cls.server = cls.ours.sign("/CN=localhost", "serverAuth",
                                   extra="subjectAltName=IP:127.0.0.1\n")
        cls.port = harness.free_port()
        d.start("--listen", f"127.0.0.1:{cls.port}", "--certificate",
                str(cls.server[0]), "--key", str(cls.server[1]),
                "--client-ca", str(cls.ours.cert))
        d.call("POST", "/v1/users", {"name": "alice",
                                     "certificate": "alice.example"})
        d.call("POST", "/v1/users/alice/grants", {"role": "viewer",
                                                  "project": "default"})
        cls.token = d.call("POST", "/v1/tokens", {
            "name": "far", "role": "operator"}).json["token"]

    @classmethod
    def tearDownClass(cls):
        cls.d.close()

    def connection(self, pair, newest=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ours.cert)
        if pair:
            context.load_cert_chain(*pair)
        if newest:
            context.maximum_version = newest
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=harness.PATIENCE)

    def get(self, pair, path="/v1", token=None, connection=None):
        c = connection or self.connection(pair)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self.d.call("GET", path, headers=headers, connection=c,
                               check=False)
        finally:
            if not connection:
                c.close()

    def no_way_in(self, pair, **how):
        """Not one byte of an answer."""
        c = self.connection(pair, **how)
        with self.assertRaises((ssl.SSLError, ConnectionError,
                                http.client.BadStatusLine)):
            c.request("GET", "/v1")
            c.getresponse()
        c.close()

    def test_1_a_user_by_certificate(self):
        c = self.connection(self.alice)
        root = self.get(None, connection=c)
        self.assertEqual((root.json["caller"], root.json["role"]),
                         ("user alice", "viewer"))
        self.assertEqual(c.sock.version(), "TLSv1.3")
        self.assertEqual(self.get(None, "/v1/vms", connection=c).status, 200)
        self.assertEqual(self.get(None, "/v1/host", connection=c).status, 403)
        # A token goes before it.
        self.assertEqual(self.get(None, token=self.token,
                                  connection=c).json["caller"], "token far")
        # From the next call on, on the same connection.
        self.d.call("PATCH", "/v1/users/alice", {"disabled": True})
        self.assertEqual(self.get(None, connection=c).status, 401)
        self.d.call("PATCH", "/v1/users/alice", {"disabled": False})
        self.assertEqual(self.get(None, connection=c).status, 200)
        c.close()

    def test_2_who_gets_no_connection(self):
        self.no_way_in(None)
        self.no_way_in(self.alice, newest=ssl.TLSVersion.TLSv1_2)
        for pair in (self.others.sign("/CN=alice.example"),
                     (self.others.cert, self.others.key),
                     self.ours.sign("/CN=alice.example", "serverAuth"),
                     self.ours.sign("/CN=alice.example", days="-1"),
                     # What the daemon shows is not for callers.
                     self.server):
            self.no_way_in(pair)

    def test_3_names_that_only_look_alike(self):
        for subject in ("/CN=alice.example.", "/CN=Alice.example",
                        "/O=x\\/CN=alice.example/CN=mallory",
                        "/CN=mallory/O=x\\/CN=alice.example",
                        "/CN=alice.example/CN=mallory",
                        "/CN=mallory/CN=alice.example", "/O=alice.example"):
            with self.subTest(subject=subject):
                got = self.get(self.ours.sign(subject))
                self.assertIn(got.status, (401, 429), got.body)

    def test_4_lockout(self):
        mallory = self.ours.sign("/CN=mallory")
        last = [self.get(mallory).status for _ in range(12)][-1]
        self.assertEqual(last, 429)
        # Others at that address who are known are not kept out ...
        self.assertEqual(self.get(self.alice).status, 200)
        # ... but nobody guesses tokens from there, nor learns that one fits.
        for token in ("wrong", self.token):
            got = self.get(self.alice, token=token)
            self.assertEqual((got.status, got.code), (429, "locked-out"))
        self.assertEqual(self.d.call("GET", "/v1").status, 200)
        records = self.d.call("GET", "/v1/audit?limit=1000").json["records"]
        locked = [r for r in records if r["action"] == "lockout"]
        self.assertEqual([(r["target"], r["outcome"]) for r in locked],
                         [("127.0.0.1", "429")])
        # Ten are written down, and that it waits; not all that come after.
        unknown = [r for r in records if r["outcome"] == "401"
                   and r["id"] < locked[0]["id"]]
        self.assertGreaterEqual(len(unknown), 9)
        self.assertFalse([r for r in records if r["outcome"] == "429"
                          and r["action"] != "lockout"])

    def test_5_command_line(self):
        cert, key = self.alice
        env = dict(self.d.env, ATOLL_CA=str(self.ours.cert),
                   ATOLL_CERTIFICATE=str(cert), ATOLL_KEY=str(key))

        def listed(**without):
            return subprocess.run(
                [PROGRAMS["atoll"], "vm", "list", "--remote",
                 f"https://127.0.0.1:{self.port}"], capture_output=True,
                text=True, env=dict(env, **without), check=False,
                timeout=harness.PATIENCE)

        got = listed()
        self.assertEqual((got.returncode, got.stdout[:4]), (0, "NAME"),
                         got.stderr)
        got = listed(ATOLL_CERTIFICATE="", ATOLL_KEY="")
        self.assertEqual(got.returncode, 8, got.stderr)
        got = listed(ATOLL_CA="")
        self.assertEqual(got.returncode, 8, got.stderr)
        self.assertIn("hint: ATOLL_CA", got.stderr)

    def test_6_files_that_are_none(self):
        for file in ("/no", str(self.ours.key), "/dev/null"):
            env = dict(self.d.env, ATOLL_STATE_DIR=str(self.d.work / "more"))
            got = subprocess.run(
                [PROGRAMS["atolld"], "--listen", "127.0.0.1:0",
                 "--certificate", str(self.server[0]), "--key",
                 str(self.server[1]), "--client-ca", file], env=env,
                capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
            self.assertEqual(got.returncode, 1, got.stderr)
            self.assertIn(f"{file} holds no certificates", got.stderr)

    def test_7_revoked(self):
        """A list that grows, is old, is another's, is none; and a connection
        that was there before."""
        ours = self.ours
        crl, db = self.d.work / "ours.crl", self.d.work / "index"
        conf = self.d.work / "ca.conf"
        db.write_text("")
        conf.write_text(f"[ca]\ndefault_ca=x\n[x]\ndatabase={db}\n"
                        "default_md=sha256\n")

        def written(authority, *more):
            new = crl.with_suffix(".new")
            authority.run("ca", "-config", conf, "-gencrl", "-cert",
                          authority.cert, "-keyfile", authority.key, "-out",
                          new, *(more or ("-crldays", "2")))
            os.rename(new, crl)

        def revoke(pair):
            ours.run("ca", "-config", conf, "-revoke", pair[0], "-cert",
                     ours.cert, "-keyfile", ours.key)
            written(ours)

        bob = ours.sign("/CN=alice.example")
        written(ours)
        first = self.d
        second = harness.Daemon(PROGRAMS)
        port = harness.free_port()
        try:
            second.start("--listen", f"127.0.0.1:{port}", "--certificate",
                         str(self.server[0]), "--key", str(self.server[1]),
                         "--client-ca", str(ours.cert), "--client-crl",
                         str(crl))
            second.call("POST", "/v1/users", {"name": "alice",
                                              "certificate": "alice.example"})
            second.call("POST", "/v1/users/alice/grants", {
                "role": "viewer", "project": "default"})
            self.d, self.port, was = second, port, self.port
            kept = self.connection(bob)
            self.assertEqual(self.get(None, connection=kept).status, 200)
            self.assertEqual(self.get(self.alice).status, 200)
            revoke(bob)
            self.no_way_in(bob)
            self.assertEqual(self.get(None, connection=kept).status, 401)
            kept.close()
            self.assertEqual(self.get(self.alice).status, 200)
            for what in (lambda: written(ours, "-crl_lastupdate",
                                         "200101000000Z", "-crl_nextupdate",
                                         "200102000000Z"),
                         lambda: written(self.others),
                         lambda: crl.write_text("none\n"), crl.unlink):
                what()
                self.no_way_in(self.alice)
            written(ours)
            self.assertEqual(self.get(self.alice).status, 200)
            self.no_way_in(bob)
        finally:
            self.d, self.port = first, was
            second.close()
        env = dict(first.env, ATOLL_STATE_DIR=str(first.work / "more"))
        got = subprocess.run(
            [PROGRAMS["atolld"], "--listen", "127.0.0.1:0", "--certificate",
             str(self.server[0]), "--key", str(self.server[1]), "--client-ca",
             str(ours.cert), "--client-crl", str(ours.cert)], env=env,
            capture_output=True, text=True, timeout=harness.PATIENCE, check=False)
        self.assertEqual(got.returncode, 1)
        self.assertIn("holds no list", got.stderr)


if __name__ == "__main__":
    os.umask(0o022)
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
