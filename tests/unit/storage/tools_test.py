#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll disk as a person meets it: progress, JSON, what is empty stays empty,
what is unknown in a header stays there: tools_test.py ATOLL. Needs no other
program."""
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ATOLL = os.path.abspath(sys.argv[1])
MIB = 1 << 20


def run(*words, code=0, env=None):
    done = subprocess.run([ATOLL, "disk", *words], capture_output=True,
                          text=True, env=env, check=False)
    assert done.returncode == code, (words, done)
    return done


def used(path):
    return os.stat(path).st_blocks * 512


def in_terminal(*words):
    """What it prints when standard error is a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen([ATOLL, "disk", *words], stderr=theirs,
                            stdout=subprocess.DEVNULL)
    os.close(theirs)
    text = b""
    try:
        while True:
            part = os.read(ours, 4096)
            if not part:
                break
            text += part
    except OSError:
        pass
    os.close(ours)
    assert done.wait() == 0, text
    return text.decode()


class Tools(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dt-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        # 1 GiB with three islands; one of them of zeroes.
        with open("data.raw", "wb") as f:
            f.truncate(1 << 30)
            for at, data in ((0, os.urandom(MIB)), (300 * MIB, bytes(MIB)),
                             ((1 << 30) - MIB, os.urandom(MIB))):
                f.seek(at)
                f.write(data)

    def test_progress(self):
        for words in (("convert", "--force", "data.raw", "a.qcow2"),
                      ("compare", "data.raw", "a.qcow2")):
            self.assertEqual(run(*words).stderr, "")
            shown = in_terminal(*words)
            self.assertIn("100%", shown)
            self.assertIn("\r", shown)
            self.assertEqual(in_terminal(*words, "--quiet"), "")

    def test_sparse(self):
        run("convert", "data.raw", "a.qcow2")
        self.assertLess(used("a.qcow2"), 4 * MIB)
        run("convert", "a.qcow2", "b.raw")
        self.assertEqual(os.path.getsize("b.raw"), 1 << 30)
        self.assertLess(used("b.raw"), 4 * MIB)
        run("compare", "data.raw", "b.raw")
        run("create", "--backing", "a.qcow2", "over.qcow2")
        run("commit", "over.qcow2")
        run("rebase", "over.qcow2")
        self.assertLess(used("over.qcow2"), 4 * MIB)
        run("compare", "data.raw", "over.qcow2")
        with open("b.raw", "r+b") as f:
            f.seek(17 * MIB)
            f.write(b"x")
        differ = run("compare", "data.raw", "b.raw", code=1)
        self.assertIn(str(17 * MIB), differ.stdout + differ.stderr)

    def test_json(self):
        run("convert", "data.raw", "a.qcow2")
        info = json.loads(run("info", "--json", "a.qcow2").stdout)
        self.assertEqual((info["format"], info["size"]), ("qcow2", 1 << 30))
        found = json.loads(run("check", "--json", "a.qcow2").stdout)
        self.assertEqual((found["corruptions"], found["leaks"]), (0, 0))
        pieces = json.loads(run("map", "--json", "a.qcow2").stdout)
        self.assertEqual(sum(p["length"] for p in pieces), 1 << 30)
        self.assertEqual([(p["start"], p["length"]) for p in pieces
                          if p["data"]],
                         [(0, MIB), ((1 << 30) - MIB, MIB)])

    def test_foreign_without_its_program(self):
        for words in (("data.raw", "a.vmdk"), ("b.vhdx", "b.qcow2"),
                      ("--from", "vdi", "c", "c.raw")):
            said = run("convert", *words, code=1,
                       env={"PATH": self.folder}).stderr
            self.assertIn("a format of other programs", said)
            self.assertIn("hint: install qemu-img", said)

    def test_unknown_bits(self):
        """Of a header: compatible ones stay, autoclear ones go as the image is
        opened for writing, and extensions stay."""
        run("create", "a.qcow2", "8M")
        with open("a.qcow2", "r+b") as f:
            head = bytearray(f.read(4096))
            struct.pack_into(">Q", head, 80, 1 << 40)  # compatible
            struct.pack_into(">Q", head, 88, 1 << 41)  # autoclear
            length = struct.unpack_from(">I", head, 100)[0]
            mine = struct.pack(">II", 0x41544c4c, 5) + b"extra\0\0\0"
            head[length + len(mine):] = head[length:4096 - len(mine)]
            head[length:length + len(mine)] = mine
            f.seek(0)
            f.write(head)
        run("info", "a.qcow2")
        self.assertEqual(self.bits(), (1 << 40, 1 << 41))
        run("resize", "a.qcow2", "16M")
        self.assertEqual(self.bits(), (1 << 40, 0))
        run("create", "base.qcow2", "16M")
        run("rebase", "--backing", "base.qcow2", "a.qcow2")
        with open("a.qcow2", "rb") as f:
            self.assertIn(mine, f.read(4096))
        self.assertEqual(self.bits(), (1 << 40, 0))
        run("check", "a.qcow2")

    def bits(self):
        with open("a.qcow2", "rb") as f:
            return struct.unpack(">QQ", f.read(96)[80:])

    def test_snapshots_inside(self):
        """They show what the image lies on: that is not changed."""
        run("convert", "data.raw", "a.qcow2")
        run("create", "--backing", "a.qcow2", "b.qcow2")
        run("snapshot", "create", "b.qcow2", "s")
        for words in (("rebase", "b.qcow2"), ("commit", "b.qcow2")):
            said = run(*words, code=2).stderr
            self.assertIn("has snapshots inside", said)
            self.assertIn("hint: delete them first", said)
        run("compare", "data.raw", "b.qcow2")
        run("snapshot", "delete", "b.qcow2", "s")
        run("rebase", "b.qcow2")
        run("compare", "data.raw", "b.qcow2")

    def test_no_image_of_a_newer_version(self):
        run("create", "a.qcow2", "8M")
        with open("a.qcow2", "r+b") as f:
            f.seek(4)
            f.write(struct.pack(">I", 4))
        self.assertIn("version 4", run("info", "a.qcow2", code=1).stderr)


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    unittest.main()
