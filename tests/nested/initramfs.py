# SPDX-License-Identifier: Apache-2.0
"""Initial file systems: an archive, an init, modules, programs, tests."""

import os
import re
import shlex
import stat
import subprocess

from debian import modules_in_order


def libraries_of(program):
    """What the dynamic loader needs, itself included; none if static."""
    r = subprocess.run(["ldd", program], text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, check=False)
    return re.findall(r"(/\S+) \(0x", r.stdout) if r.returncode == 0 else []


class Cpio:
    """A "newc" archive: Documentation/driver-api/early-userspace."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.names = set()

    def _entry(self, name, mode, data, device=(0, 0)):
        self.names.add(name)
        raw = name.encode() + b"\0"
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0,
                  *device, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.file.write(head + bytes(-len(head) % 4))
        self.file.write(data + bytes(-len(data) % 4))

    def folder(self, name):
        if name and name not in self.names:
            self.folder(os.path.dirname(name))
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def add(self, name, data, mode=0o755):
        name = name.lstrip("/")
        if name in self.names:
            return
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, data)

    def add_file(self, path, name=None):
        with open(path, "rb") as f:
            self.add(name or path, f.read())

    def add_program(self, path, name=None):
        self.add_file(path, name)
        for library in libraries_of(path):
            self.add_file(library)

    def console(self):
        self.folder("dev")
        self._entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))

    def close(self):
        self._entry("TRAILER!!!", 0, b"")
        self.file.close()


def parts(spec):
    """FILE or FILE=NAME: what to read, and its name inside."""
    source, _, target = spec.partition("=")
    return source, target or None


def build(path, *, tag, tree, init, modules, programs, files, tests,
          settings=()):
    """The tag begins what init says; each test is NAME SECONDS PROGRAM
    ARGUMENT..., as a shell would split it."""
    cpio = Cpio(path)
    cpio.console()
    cpio.add_file(init, "init")
    cpio.add("tag", f"{tag}\n".encode())
    options = dict(m.partition(" ")[::2] for m in modules)
    loaded = modules_in_order(tree, options)
    for name, data in loaded.items():
        cpio.add(f"lib/modules/{name}.ko", data)
    cpio.add("modules", "".join(
        f"/lib/modules/{name}.ko {options.get(name, '')}".rstrip() + "\n"
        for name in loaded).encode())
    cpio.add("settings", "".join(f"{s}\n" for s in settings).encode())
    for spec in programs:
        cpio.add_program(*parts(spec))
    for spec in files:
        cpio.add_file(*parts(spec))
    cpio.add("tests", "".join("\t".join(shlex.split(t)) + "\n"
                              for t in tests).encode())
    cpio.close()
