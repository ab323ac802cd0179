#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll disk as a person meets it: progress, JSON, what is empty stays empty,
what is unknown in a header stays there: tools_test.py ATOLL. Needs no other
program."""
import filecmp
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
                      ("compare", "data.raw", "a.qcow2"),
                      ("check", "a.qcow2")):
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

        run("snapshot", "create", "a.qcow2", "one")
        run("bitmap", "create", "a.qcow2", "two")
        one = json.loads(run("snapshot", "list", "--json", "a.qcow2").stdout)
        two = json.loads(run("bitmap", "list", "--json", "a.qcow2").stdout)
        info = json.loads(run("info", "--json", "a.qcow2").stdout)
        self.assertEqual((one, two), (info["snapshots"], info["bitmaps"]))
        self.assertEqual((one[0]["name"], two[0]["name"]), ("one", "two"))
        same = json.loads(run("compare", "--json", "data.raw",
                              "a.qcow2").stdout)
        self.assertEqual((same["same"], same["differ_at"]), (True, None))
        run("create", "empty.raw", "1G")
        other = json.loads(run("compare", "--json", "a.qcow2", "empty.raw",
                               code=1).stdout)
        self.assertEqual((other["same"], other["differ_at"]), (False, 0))

    def test_sizes(self):
        """All of +, - and plain; what is none is a wrong use."""
        run("create", "a.qcow2", "1.5M")
        for size, want in (("+512K", 2 * MIB), ("-1M", MIB), ("3MiB", 3 * MIB)):
            run("resize", "--shrink", "a.qcow2", size)
            info = json.loads(run("info", "--json", "a.qcow2").stdout)
            self.assertEqual(info["size"], want)
        self.assertIn("--shrink", run("resize", "a.qcow2", "-1M",
                                      code=2).stderr)
        self.assertIn("smaller than that", run(
            "resize", "--shrink", "a.qcow2", "-1G", code=2).stderr)
        for size in ("-5", "much", "999999999P"):
            self.assertIn(f"'{size}'", run("create", "b.qcow2", size,
                                           code=2).stderr)
        run("create", "b.qcow2", "1M", "--qcow2-version", "4", code=2)
        self.assertFalse(os.path.exists("b.qcow2"))

    def test_raw_is_only_a_size(self):
        """An option that can't be kept is refused, not forgotten."""
        for words in (("--lazy-refcounts",), ("--cluster-size", "4K"),
                      ("--refcount-bits", "8"), ("--compression", "zstd"),
                      ("--extended-l2",), ("--qcow2-version", "3"),
                      ("--preallocation", "metadata")):
            run("create", "b.raw", "1M", *words, code=2)
            run("convert", "data.raw", "b.raw", *words, code=2)
        self.assertFalse(os.path.exists("b.raw"))
        run("create", "b.qcow2", "1M", "--data-file", "b.data",
            "--preallocation", "metadata")

    def test_no_file_to_wait_for(self):
        """A pipe that nobody writes is refused as a directory is."""
        os.mkfifo("pipe.qcow2")
        os.mkdir("dir.qcow2")
        for name in ("pipe.qcow2", "dir.qcow2"):
            self.assertIn("not a disk image", run("info", name, code=2).stderr)
            run("create", "--force", name, "1M", code=2 if name[0] == "p"
                else 1)

    def test_itself(self):
        run("convert", "data.raw", "a.qcow2")
        os.symlink("a.qcow2", "b.qcow2")
        for words in (("convert", "--force", "a.qcow2", "b.qcow2"),
                      ("convert", "--force", "data.raw", "./data.raw")):
            self.assertIn("the same file", run(*words, code=2).stderr)
        self.assertIn("lie on itself", run(
            "rebase", "a.qcow2", "--backing", "b.qcow2", code=2).stderr)
        run("create", "--backing", "a.qcow2", "c.qcow2")
        self.assertIn("that lies on it", run(
            "rebase", "a.qcow2", "--backing", "c.qcow2", code=4).stderr)
        run("compare", "data.raw", "c.qcow2")

    def test_which_option_says_it(self):
        os.link("data.raw", "data")
        for option, words in (("from", ("convert", "data", "b.raw")),
                              ("to", ("convert", "data.raw", "b")),
                              ("backing-format",
                               ("create", "--backing", "data", "b.qcow2")),
                              ("second-format",
                               ("compare", "data.raw", "data"))):
            self.assertIn(f"--{option} raw", run(*words, code=2).stderr)

    def test_a_source_that_is_broken(self):
        """It is named, and no part of a copy is left that looks like one."""
        run("convert", "data.raw", "a.qcow2")
        with open("a.qcow2", "r+b") as f:
            f.seek(40)
            f.seek(struct.unpack(">Q", f.read(8))[0])
            f.write(struct.pack(">Q", 1 << 63 | 1 << 40))
        for force in ((), ("--force",)):
            names = os.listdir(".")
            said = run("convert", *force, "a.qcow2", "b.raw", code=1).stderr
            self.assertIn("a.qcow2 to b.raw: reading", said)
            self.assertIn("hint: atoll disk check a.qcow2", said)
            self.assertEqual(os.listdir("."), names)
            shutil.copy("data.raw", "b.raw")
        self.assertTrue(filecmp.cmp("data.raw", "b.raw", shallow=False))
        # No answer is neither yes nor no.
        run("compare", "data.raw", "a.qcow2", code=2)
        said = run("check", "a.qcow2", code=1)
        self.assertIn("1 corruption\n", said.stdout)
        self.assertIn("hint: atoll disk check --repair a.qcow2", said.stderr)

    def test_what_a_foreign_program_is_told(self):
        """All that was asked for, and names as names."""
        with open("qemu-img", "w", encoding="ascii") as f:
            f.write("#!/bin/sh\nfor w in \"$@\"; do echo \"$w\"; done >told\n")
        os.chmod("qemu-img", 0o755)
        env = {"PATH": f"{self.folder}:/bin:/usr/bin"}
        run("convert", "--cluster-size", "4K", "--sync",
            "--backing", "a,b.raw", "nbd:c.vmdk", "d.qcow2", env=env)
        with open("told", encoding="ascii") as f:
            told = f.read().split()
        self.assertEqual(told[:-1], [
            "convert", "-t", "writeback", "-o", "cluster_size=4096,"
            "backing_file=a,,b.raw,backing_fmt=raw", "-f", "vmdk", "-O", "qcow2",
            "./nbd:c.vmdk"])
        # Beside what it lies on, and not yet by its name.
        self.assertRegex(told[-1], r"^\./\.atoll-part-[0-9a-f]{16}$")
        self.assertFalse(os.path.exists(told[-1]))
        self.assertTrue(os.path.exists("d.qcow2"))
        # What writes its name into itself gets a file that is called so.
        run("convert", "data.raw", "e.vmdk", code=3, env=env)
        with open("told", encoding="ascii") as f:
            self.assertRegex(f.read().split()[-1], "/e.vmdk$")
        self.assertEqual([n for n in os.listdir(".") if "part" in n], [])
        self.assertIn("without such options", run(
            "convert", "--cluster-size", "4K", "data.raw", "d.vmdk", code=2,
            env=env).stderr)

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
