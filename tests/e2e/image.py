#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""atoll image build twice, each from nothing: the same packages give the same
ID, and the same bytes.

Usage: image.py ATOLL FOLDER
"""
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

from person import environment

ATOLL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
FILES = ("vmlinuz", "initrd", "disk.raw")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def build(name):
    data = FOLDER / name
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    try:
        subprocess.run([ATOLL, "image", "build", "debian:12"], check=True,
                       env=environment(data))
        folder = (data / "atoll/images/names/debian:12").resolve()
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["id"] == folder.name
        for file in ("vmlinuz", "initrd"):
            assert manifest["files"][file]["sha256"] == sha256(folder / file)
        return manifest["id"], {f: sha256(folder / f) for f in FILES}
    finally:
        shutil.rmtree(data)


one, two = build("one"), build("two")
if one[0] != two[0]:
    # The mirror got a new package in between: only now it is what it is.
    print("the packages changed meanwhile; once more")
    one = build("one")
print(one[0])
for file in FILES:
    print(f"{file}: {one[1][file]}"
          f"{'' if one[1][file] == two[1][file] else ' and ' + two[1][file]}")
assert one == two, "the same packages gave different images"
print("1 passed, 0 failed")
