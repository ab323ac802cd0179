# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel and its modules, without root."""

import lzma
import os
import re
import shutil
import subprocess

KERNEL = "linux-image-cloud-amd64"


def output_of(command):
    return subprocess.run(command, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


class Apt:
    """apt without root: the host's lists, or lists of our own when the
    host's are missing or too old."""

    def __init__(self, cache):
        self.cache = cache
        self.options = ["-o", "APT::Sandbox::User=root"]

    def own_lists(self):
        lists = os.path.join(self.cache, "apt")
        os.makedirs(os.path.join(lists, "lists", "partial"), exist_ok=True)
        self.options += ["-o", f"Dir::State={lists}",
                         "-o", "Dir::State::status=/var/lib/dpkg/status",
                         "-o", f"Dir::Cache={lists}"]
        subprocess.run(["apt-get", *self.options, "-qq", "update"],
                       check=True)

    def concrete(self, package):
        """The package that holds the kernel, of the one that only names it."""
        text = output_of(["apt-cache", *self.options, "depends", package])
        names = re.findall(r"Depends: (linux-image-[0-9]\S+)", text)
        if not names:
            raise LookupError(f"{package} depends on no kernel")
        return names[0]

    def download(self, package, where):
        name = self.concrete(package)
        tree = os.path.join(where, name)
        if os.path.isdir(tree):
            return tree
        part = tree + ".part"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        subprocess.run(["apt-get", *self.options, "-qq", "download", name],
                       check=True, cwd=part)
        deb = [f for f in os.listdir(part) if f.endswith(".deb")][0]
        subprocess.run(["dpkg-deb", "-x", os.path.join(part, deb), part],
                       check=True)
        os.unlink(os.path.join(part, deb))
        os.rename(part, tree)
        return tree


def kernel_tree(cache, kernel=KERNEL):
    os.makedirs(cache, exist_ok=True)
    apt = Apt(cache)
    for attempt in ("host", "own"):
        try:
            if attempt == "own":
                apt.own_lists()
            return apt.download(kernel, cache)
        except (OSError, LookupError, subprocess.CalledProcessError) as e:
            problem = e
    # Without the network, an older download serves.
    for name in sorted(os.listdir(cache), reverse=True):
        if name.startswith("linux-image-") and not name.endswith(".part"):
            return os.path.join(cache, name)
    raise LookupError(f"cannot get {kernel}: {problem}")


def module_files(tree):
    found = {}
    for folder, _, names in os.walk(os.path.join(tree, "lib", "modules")):
        for name in names:
            m = re.fullmatch(r"(.+)\.ko(\.xz)?", name)
            if m:
                found[m.group(1).replace("-", "_")] = os.path.join(folder,
                                                                   name)
    return found


def module_bytes(path):
    with open(path, "rb") as f:
        data = f.read()
    return lzma.decompress(data) if path.endswith(".xz") else data


def modules_in_order(tree, wanted):
    """The wanted modules after all that they depend on."""
    files, order = module_files(tree), {}

    def add(name):
        name = name.replace("-", "_")
        if name in order:
            return
        if name not in files:
            raise LookupError(f"the kernel has no module {name}")
        data = module_bytes(files[name])
        for dep in re.findall(rb"\0depends=([^\0]*)\0", data):
            for one in filter(None, dep.decode().split(",")):
                add(one)
        order[name] = data

    for name in wanted:
        add(name)
    return order


def kernel_image(tree):
    boot = os.path.join(tree, "boot")
    return os.path.join(boot, [n for n in os.listdir(boot)
                               if n.startswith("vmlinuz-")][0])
