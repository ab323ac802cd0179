#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll disk against qemu-img: each reads, checks and compares what the other
made, in all combinations of options. Usage: interop_test.py ATOLL [all]"""
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ATOLL = os.path.abspath(sys.argv[1])
EVERYTHING = len(sys.argv) > 2 and sys.argv[2] == "all"
QEMU = shutil.which("qemu-img")
SIZE = 5 * 1024 * 1024 + 512


def run(*words, code=0):
    """Run a command; its exit code has to be as told. Returns its output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    if code is not None and done.returncode != code:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}, not "
                             f"{code}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def atoll(*words, code=0):
    return run(ATOLL, "disk", *words, code=code)


def qemu(*words, code=0):
    return run(QEMU, *words, code=code)


def make_data(path, seed, size=SIZE):
    """A file with data, zeroes, holes and repetition."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(24):
            length = rng.choice([512, 4096, 70000, 300000])
            at = rng.randrange(0, max(1, (size - length) // 512)) * 512
            length = min(length, size - at)
            kind = rng.randrange(3)
            f.seek(at)
            if kind == 0:
                f.write(rng.randbytes(length))
            elif kind == 1:
                f.write(bytes([rng.randrange(256)]) * length)
            else:
                words = b"atoll %d " % rng.randrange(99)
                f.write((words * (length // 8))[:length])


@unittest.skipUnless(QEMU, "qemu-img is not installed")
class Interop(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="atoll-interop-")
        self.addCleanup(self.dir.cleanup)
        self.home = os.getcwd()
        os.chdir(self.dir.name)
        self.addCleanup(os.chdir, self.home)

    def judge(self, image):
        """Both find no damage and no leak."""
        qemu("check", "-f", "qcow2", image)
        atoll("check", image)

    def same(self, raw, image, fmt="qcow2"):
        qemu("compare", "-f", "raw", "-F", fmt, raw, image)
        atoll("compare", raw, image)

    def test_data_file_itself(self):
        for more in ((), ("--force",)):
            for name in ("a.qcow2", "./a.qcow2", os.path.abspath("a.qcow2")):
                said = atoll("create", "a.qcow2", "1M", "--data-file", name,
                             *more, code=2)
                self.assertIn("is the image itself", said)
                self.assertEqual(os.listdir("."), [])
        atoll("create", "a.qcow2", "1M")
        said = atoll("create", "a.qcow2", "1M", "--data-file", "d.raw", code=4)
        self.assertIn("a.qcow2: File exists", said)
        self.assertEqual(os.listdir("."), ["a.qcow2"])
        os.mkdir("dir.raw")
        self.assertNotIn("--force", atoll("create", "dir.raw", "1M", code=4))
        self.assertIn("atoll disk convert",
                      atoll("create", "a.vmdk", "1M", code=2))
        atoll("convert", "none.vmdk", "b.qcow2", code=3)

    def test_interrupted(self):
        """A part of a copy is not left; what was to be replaced is."""
        with open("data.raw", "wb") as f:
            f.write(os.urandom(96 << 20))
        for more in ((), ("--force",)):
            if more:
                with open("part.qcow2", "w", encoding="ascii") as f:
                    f.write("old")
            written = 0
            convert = subprocess.Popen([ATOLL, "disk", "convert", "data.raw",
                                        "part.qcow2", "--compress", *more])
            while written < 300000 and convert.poll() is None:
                time.sleep(0.001)
                with open(f"/proc/{convert.pid}/io", encoding="ascii") as f:
                    written = int(f.read().split("wchar: ")[1].split()[0])
            convert.send_signal(signal.SIGTERM)
            self.assertEqual(convert.wait(), -signal.SIGTERM)
            self.assertEqual([n for n in os.listdir(".") if "part" in n],
                             ["part.qcow2"] if more else [])
        with open("part.qcow2", encoding="ascii") as f:
            self.assertEqual(f.read(), "old")

    def test_reads_what_qemu_makes(self):
        make_data("data.raw", 1)
        clusters = ["512", "4k", "64k", "2M"]
        refcounts = ["1", "4", "16", "64"]
        compat = [("1.1", "on"), ("1.1", "off"), ("0.10", "off")]
        methods = ["zlib", "zstd"]
        combinations = list(itertools.product(
            clusters, refcounts, compat, ["off", "on"], methods,
            [False, True]))
        if not EVERYTHING:
            combinations = random.Random(5).sample(combinations, 8)
        tried = 0
        for (cluster, bits, (version, lazy), extended, method,
                compress) in combinations:
            if version == "0.10" and (bits != "16" or extended == "on" or
                                      method == "zstd"):
                continue
            if extended == "on" and cluster in ("512", "4k"):
                continue
            if compress and bits == "1" and cluster != "512":
                continue
            options = (f"cluster_size={cluster},refcount_bits={bits},"
                       f"compat={version},lazy_refcounts={lazy}")
            if version == "1.1":
                options += (f",extended_l2={extended},"
                            f"compression_type={method}")
            with self.subTest(options=options, compress=compress):
                words = ["convert", "-f", "raw", "-O", "qcow2", "-o", options]
                if compress:
                    words.append("-c")
                qemu(*words, "data.raw", "q.qcow2")
                self.judge("q.qcow2")
                self.same("data.raw", "q.qcow2")
                atoll("convert", "--force", "q.qcow2", "back.raw")
                qemu("compare", "data.raw", "back.raw")
                tried += 1
        self.assertGreater(tried, 1)

    def test_makes_what_qemu_reads(self):
        make_data("data.raw", 2)
        combinations = list(itertools.product(
            ["512", "4K", "64K", "2M"], ["1", "2", "8", "16", "32", "64"],
            [[], ["--lazy-refcounts"], ["--extended-l2"]],
            [[], ["--compress"], ["--compress", "--compression", "zstd"]]))
        if not EVERYTHING:
            combinations = random.Random(6).sample(combinations, 8)
        for cluster, bits, feature, compress in combinations:
            if feature == ["--extended-l2"] and cluster in ("512", "4K"):
                continue
            with self.subTest(cluster=cluster, bits=bits, feature=feature,
                              compress=compress):
                atoll("convert", "--force", "--cluster-size", cluster,
                      "--refcount-bits", bits, *feature, *compress,
                      "data.raw", "a.qcow2")
                self.judge("a.qcow2")
                self.same("data.raw", "a.qcow2")

    def test_version_2(self):
        make_data("data.raw", 3)
        atoll("convert", "--qcow2-version", "2", "data.raw", "a.qcow2")
        self.judge("a.qcow2")
        self.same("data.raw", "a.qcow2")
        self.assertEqual(json.loads(atoll("info", "--json", "a.qcow2"))
                         ["qcow2_version"], 2)

    def test_preallocation(self):
        for how in ("off", "metadata", "falloc", "full"):
            with self.subTest(how=how):
                atoll("create", "--force", "--preallocation", how, "p.qcow2",
                      "4M")
                self.judge("p.qcow2")
                out = json.loads(atoll("check", "--json", "p.qcow2"))
                self.assertEqual(out["allocated"], 0 if how == "off" else 64)
                blocks = os.stat("p.qcow2").st_blocks * 512
                if how in ("falloc", "full"):
                    self.assertGreaterEqual(blocks, 4 << 20)
                else:
                    self.assertLess(blocks, 1 << 20)
                with open("zero.raw", "wb") as f:
                    f.truncate(4 << 20)
                self.same("zero.raw", "p.qcow2")
                qemu("create", "-f", "qcow2", "-o", f"preallocation={how}",
                     "q.qcow2", "4M")
                self.judge("q.qcow2")
                self.same("zero.raw", "q.qcow2")
                os.unlink("q.qcow2")

    def test_data_file(self):
        make_data("data.raw", 4)
        for raw in ("off", "on"):
            with self.subTest(raw=raw):
                qemu("convert", "-f", "raw", "-O", "qcow2", "-o",
                     f"data_file=ext{raw},data_file_raw={raw}", "data.raw",
                     f"q{raw}.qcow2")
                self.judge(f"q{raw}.qcow2")
                self.same("data.raw", f"q{raw}.qcow2")
                words = ["--data-file", f"ours{raw}"]
                if raw == "on":
                    words.append("--data-file-raw")
                atoll("convert", *words, "data.raw", f"a{raw}.qcow2")
                self.judge(f"a{raw}.qcow2")
                self.same("data.raw", f"a{raw}.qcow2")
        qemu("compare", "-f", "raw", "-F", "raw", "data.raw", "ourson")

    def test_chain(self):
        make_data("base.raw", 5)
        atoll("create", "--backing", "base.raw", "--backing-format", "raw",
              "mid.qcow2")
        atoll("create", "--backing", "mid.qcow2", "top.qcow2", "8M")
        self.assertEqual(json.loads(atoll("info", "--json", "top.qcow2"))
                         ["backing_format"], "qcow2")
        make_data("patch.raw", 6, 65536)
        with open("base.raw", "rb") as f:
            want = bytearray(f.read())
        qemu_io("top.qcow2", "write -P 7 1M 128k", "write -P 9 5M 256k",
                "write -z 2M 64k")
        want = want.ljust(8 << 20, b"\0")
        want[1 << 20:(1 << 20) + 131072] = b"\7" * 131072
        want[5 << 20:(5 << 20) + 262144] = b"\11" * 262144
        want[2 << 20:(2 << 20) + 65536] = bytes(65536)
        with open("want.raw", "wb") as f:
            f.write(want)
        self.judge("top.qcow2")
        self.same("want.raw", "top.qcow2")
        depths = {e["depth"] for e in json.loads(
            atoll("map", "--json", "top.qcow2"))}
        self.assertEqual(depths, {0, 2})

        # Rebase over nothing in between, then over nothing at all.
        shutil.copy("top.qcow2", "r.qcow2")
        atoll("rebase", "--backing", "base.raw", "r.qcow2")
        self.judge("r.qcow2")
        self.same("want.raw", "r.qcow2")
        atoll("rebase", "r.qcow2")
        self.judge("r.qcow2")
        self.same("want.raw", "r.qcow2")
        self.assertIsNone(json.loads(atoll("info", "--json", "r.qcow2"))
                          ["backing"])

        atoll("commit", "top.qcow2")
        self.judge("top.qcow2")
        self.judge("mid.qcow2")
        self.same("want.raw", "mid.qcow2")
        self.same("want.raw", "top.qcow2")
        out = json.loads(atoll("check", "--json", "top.qcow2"))
        self.assertEqual(out["allocated"], 0)

    def test_snapshots(self):
        make_data("one.raw", 7)
        atoll("convert", "one.raw", "a.qcow2")
        atoll("snapshot", "create", "a.qcow2", "first")
        qemu_io("a.qcow2", "write -P 3 0 1M")
        qemu("snapshot", "-c", "second", "a.qcow2")
        self.judge("a.qcow2")
        qemu_io("a.qcow2", "write -P 4 512k 1M")
        self.judge("a.qcow2")
        self.assertIn("first", qemu("snapshot", "-l", "a.qcow2"))
        self.assertIn("second", atoll("snapshot", "list", "a.qcow2"))
        qemu("convert", "-l", "first", "-O", "raw", "a.qcow2", "first.raw")
        qemu("compare", "one.raw", "first.raw")
        atoll("snapshot", "delete", "a.qcow2", "second")
        self.judge("a.qcow2")
        atoll("snapshot", "apply", "a.qcow2", "first")
        self.judge("a.qcow2")
        self.same("one.raw", "a.qcow2")
        atoll("snapshot", "delete", "a.qcow2", "first")
        self.judge("a.qcow2")
        self.same("one.raw", "a.qcow2")
        atoll("snapshot", "delete", "a.qcow2", "first", code=3)

    def test_bitmaps(self):
        qemu("create", "-f", "qcow2", "a.qcow2", "8M")
        atoll("bitmap", "create", "a.qcow2", "ours")
        qemu("bitmap", "--add", "-g", "32k", "a.qcow2", "theirs")
        self.judge("a.qcow2")
        qemu_io("a.qcow2", "write 1M 64k")
        self.judge("a.qcow2")
        listed = atoll("bitmap", "list", "a.qcow2")
        self.assertIn("ours", listed)
        self.assertIn("theirs", listed)
        self.assertNotIn("not stored", listed)
        atoll("resize", "a.qcow2", "16M")
        self.judge("a.qcow2")
        info = json.loads(qemu("info", "--output=json", "a.qcow2"))
        names = {b["name"]: b for b in
                 info["format-specific"]["data"]["bitmaps"]}
        self.assertEqual(set(names), {"ours", "theirs"})
        self.assertEqual(names["ours"]["flags"], ["auto"])
        atoll("bitmap", "delete", "a.qcow2", "theirs")
        atoll("bitmap", "disable", "a.qcow2", "ours")
        self.judge("a.qcow2")
        atoll("bitmap", "delete", "a.qcow2", "ours")
        self.judge("a.qcow2")

    def test_resize(self):
        make_data("data.raw", 8)
        atoll("convert", "--cluster-size", "512", "data.raw", "a.qcow2")
        atoll("resize", "a.qcow2", "+1G")
        self.judge("a.qcow2")
        os.truncate("data.raw", SIZE + (1 << 30))
        self.same("data.raw", "a.qcow2")
        atoll("resize", "a.qcow2", "1M", code=2)
        atoll("resize", "--shrink", "a.qcow2", "1M")
        self.judge("a.qcow2")
        os.truncate("data.raw", 1 << 20)
        self.same("data.raw", "a.qcow2")

    def test_damage(self):
        make_data("data.raw", 9)
        atoll("convert", "data.raw", "a.qcow2")
        shutil.copy("a.qcow2", "b.qcow2")
        # The first refcount block: every count one too high, then zero.
        with open("b.qcow2", "r+b") as f:
            f.seek(48)
            table = int.from_bytes(f.read(8), "big")
            f.seek(table)
            block = int.from_bytes(f.read(8), "big")
            f.seek(block + 2 * 8)
            f.write(b"\0\2" * 4 + b"\0\0" * 4)
        self.assertNotEqual(run(QEMU, "check", "b.qcow2", code=None), "")
        atoll("check", "b.qcow2", code=1)
        atoll("check", "--repair", "b.qcow2")
        self.judge("b.qcow2")
        self.same("data.raw", "b.qcow2")
        # Only leaks: exit 9, and they can be mended alone.
        shutil.copy("a.qcow2", "c.qcow2")
        with open("c.qcow2", "r+b") as f:
            f.seek(block + 2 * 1000)
            f.write(b"\0\1" * 4)
        atoll("check", "c.qcow2", code=9)
        atoll("check", "--repair-leaks", "c.qcow2")
        self.judge("c.qcow2")
        # An L2 table nowhere: reading says so, writing is refused.
        with open("a.qcow2", "r+b") as f:
            f.seek(40)
            l1 = int.from_bytes(f.read(8), "big")
            f.seek(l1)
            f.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
        atoll("check", "a.qcow2", code=1)
        atoll("compare", "data.raw", "a.qcow2", code=2)
        # Found while open for writing: marked, and no more writing.
        atoll("rebase", "a.qcow2", code=1)
        info = json.loads(qemu("info", "--output=json", "a.qcow2"))
        self.assertTrue(info["format-specific"]["data"]["corrupt"])
        self.assertIn("corrupt", atoll("resize", "a.qcow2", "8M", code=1))

    def test_unclosed(self):
        """A dirty bit: the counts are behind, and put right at open."""
        make_data("data.raw", 10)
        atoll("convert", "--lazy-refcounts", "data.raw", "a.qcow2")
        with open("a.qcow2", "r+b") as f:
            f.seek(48)
            table = int.from_bytes(f.read(8), "big")
            f.seek(table)
            block = int.from_bytes(f.read(8), "big")
            f.seek(block + 2 * 10)
            f.write(bytes(2 * 20))
            f.seek(72 + 7)
            f.write(b"\1")
        self.same("data.raw", "a.qcow2")
        atoll("resize", "a.qcow2", "+1M")
        self.judge("a.qcow2")
        os.truncate("data.raw", SIZE + (1 << 20))
        self.same("data.raw", "a.qcow2")

    def test_foreign(self):
        make_data("data.raw", 11)
        atoll("convert", "data.raw", "a.vmdk")
        atoll("convert", "a.vmdk", "a.qcow2")
        self.judge("a.qcow2")
        self.same("data.raw", "a.qcow2")

    def test_refusals(self):
        atoll("create", "a.qcow2", "1M")
        atoll("create", "a.qcow2", "1M", code=4)
        atoll("create", "b.qcow2", code=2)
        atoll("info", "none.qcow2", code=3)
        atoll("info", "a", code=2)
        atoll("create", "--cluster-size", "3K", "b.qcow2", "1M", code=2)
        self.assertFalse(os.path.exists("b.qcow2"))
        with open("b.qcow2", "wb") as f:
            f.write(b"no image" * 1000)
        self.assertIn("not a qcow2 image", atoll("info", "b.qcow2", code=2))
        # An unknown feature is named and refused.
        with open("a.qcow2", "r+b") as f:
            f.seek(72 + 6)
            f.write(b"\1")
        self.assertIn("feature", atoll("info", "a.qcow2", code=1))
        # A backing file without a format is not guessed at.
        qemu("create", "-f", "qcow2", "base.qcow2", "1M")
        qemu("create", "-f", "qcow2", "-u", "-b", "base.qcow2", "-F", "qcow2",
             "top.qcow2", "1M")
        with open("top.qcow2", "r+b") as f:
            data = bytearray(f.read(4096))
            at = data.find(bytes.fromhex("e2792aca"))
            data[at:at + 4] = bytes.fromhex("12345678")
            f.seek(0)
            f.write(data)
        self.assertIn("not stated", atoll("map", "top.qcow2", code=2))
        atoll("rebase", "--unsafe", "--backing-format", "qcow2", "top.qcow2")
        atoll("map", "top.qcow2")
        # A chain that is a loop ends.
        for a, b in (("x", "y"), ("y", "x")):
            qemu("create", "-f", "qcow2", "-u", "-b", f"{b}.qcow2", "-F",
                 "qcow2", f"{a}.qcow2", "1M")
        self.assertIn("longer than", atoll("map", "x.qcow2", code=1))

    def test_in_use(self):
        atoll("create", "a.qcow2", "1M")
        import fcntl
        import struct
        fd = os.open("a.qcow2", os.O_RDWR)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        fcntl.fcntl(fd, 37, lock)  # F_OFD_SETLK
        self.assertIn("in use", atoll("resize", "a.qcow2", "2M", code=4))
        self.assertIn("in use", atoll("create", "--force", "a.qcow2", "2M",
                                      code=4))
        atoll("info", "a.qcow2")
        os.close(fd)
        atoll("resize", "a.qcow2", "2M")


def qemu_io(image, *commands):
    words = []
    for c in commands:
        words += ["-c", c]
    run("qemu-io", "-f", "qcow2", *words, image)


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    unittest.main()
