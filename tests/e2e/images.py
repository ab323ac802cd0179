#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images come and go, and machines lie on them: images.py ATOLL GUEST_ELF."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from live_guest import LIMIT, Guest, whole, wrong_moment, wrong_slots

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import check, sum_up  # noqa: E402

atoll, elf = sys.argv[1:3]
work = tempfile.mkdtemp(prefix="im-")
env = dict(os.environ, XDG_DATA_HOME=work + "/data",
           ATOLL_STATE_DIR=work + "/s", ATOLL_RUNTIME_DIR=work + "/r")
images = work + "/data/atoll/images"
disks = work + "/data/atoll/disks"
tool = ["qemu-img"] if shutil.which("qemu-img") else [atoll, "disk"]


def command(*words):
    return subprocess.run([atoll, *words], stdin=subprocess.DEVNULL, env=env,
                          capture_output=True, text=True, timeout=LIMIT,
                          check=False)


def done(what, result):
    check(what, result.returncode == 0, result)
    return result.stdout


def refused(what, result, code, words):
    check(what, result.returncode == code and words in result.stderr and
          "error:" in result.stderr, result)


class Clone(Guest):
    """A machine of an image, its disk being the first."""
    def __init__(self, image, name, *more):
        self.image = image
        super().__init__(atoll, None, env, None, name, *more)

    def words(self, elf, disk):
        return [self.image]


def data_of(image):
    folder = json.loads(command("image", "inspect", image).stdout)["folder"]
    with open(folder + "/disk.raw", "rb") as f:
        return f.read()


def exports_over(tar):
    """A file that is there is replaced when that is said, and by a whole one."""
    before = open(tar, "rb").read()
    names = sorted(os.listdir(work))
    refused("not a name that an import takes", command(
        "image", "export", "c:latest", tar + ".gz"), 2, "end in .tar")
    refused("a file is there", command("image", "export", "c:latest", tar), 4,
            "--force")
    kernel = json.loads(command("image", "inspect", "c:latest").stdout)[
        "folder"] + "/vmlinuz"
    os.rename(kernel, kernel + ".away")
    refused("it fails", command("image", "export", "c:latest", tar, "--force"),
            3, "vmlinuz")
    os.rename(kernel + ".away", kernel)
    check("the old one is whole", open(tar, "rb").read() == before)
    check("nothing is beside it", sorted(os.listdir(work)) == names,
          os.listdir(work))
    with open(tar, "w", encoding="ascii") as f:
        f.write("old")
    done("replace it", command("image", "export", "c:latest", tar, "--force"))
    check("as large", os.path.getsize(tar) == len(before), os.path.getsize(tar))


def come_and_go():
    raw = work + "/first.raw"
    with open(raw, "wb") as f:
        f.truncate(16 << 20)
        f.seek(5 << 20)
        f.write(os.urandom(1 << 20))
    first = open(raw, "rb").read()
    refused("no kernel", command("image", "import", raw, "--name", "a:1"), 2,
            "what does it boot")
    refused("no name", command("image", "import", raw, "--kernel", elf), 2,
            "--name")
    refused("no such kernel", command("image", "import", raw, "--name", "a:1",
                                      "--kernel", "/none"), 3, "kernel /none")
    refused("a kernel that is none", command(
        "image", "import", raw, "--name", "a:1", "--kernel", "/dev/zero"), 1,
            "not a file")
    refused("no such export", command("image", "import", work + "/none.tar",
                                      "--name", "a:1"), 3, "none.tar")
    refused("a name that is none", command(
        "image", "import", raw, "--name", "a/1", "--kernel", elf), 2, "a/1")
    done("import", command("image", "import", raw, "--name", "a:1", "--kernel",
                           elf))
    check("it holds the disk", data_of("a:1") == first)
    qcow2 = work + "/first.qcow2"
    done("convert", command("disk", "convert", raw, qcow2))
    done("import qcow2", command("image", "import", qcow2, "--name", "b:1",
                                 "--kernel", elf, "--cmdline", "one two"))
    check("the same disk", data_of("b:1") == first)
    refused("a foreign format", command("image", "import", raw, "--format",
                                        "vmdk", "--name", "v:1", "--kernel",
                                        elf), 1, "vmdk")
    done("tag", command("image", "tag", "b:1", "c:latest"))
    listed = done("list", command("image", "list"))
    check("three names", all(n in listed for n in ("a:1", "b:1", "c:latest")),
          listed)
    tar = work + "/b:1.tar"
    done("export", command("image", "export", "c:latest", tar))
    exports_over(tar)
    check("small", os.path.getsize(tar) < 3 << 20, os.path.getsize(tar))
    done("delete", command("image", "delete", "b:1"))
    refused("both names are gone", command("image", "inspect", "c:latest"), 3,
            "no image")
    done("import what was exported", command("image", "import", tar, "--name",
                                             "d:1"))
    check("the same disk again", data_of("d:1") == first)
    info = json.loads(command("image", "inspect", "d:1").stdout)
    check("its command line, too", info["cmdline"] == "one two", info)
    left = [f for f in os.listdir(images) if f.startswith(".") and
            f != ".lock"]
    check("nothing half done is left", not left, left)


def told_apart():
    """What differs in anything is another image, and what is the same, however
    it is stored, is one."""
    def image(name, size, at, *more, data=b"A", zeroes=False):
        path = f"{work}/{name}.raw"
        with open(path, "wb") as f:
            f.truncate(size)
            if zeroes:
                f.write(bytes(size))
            f.seek(at)
            f.write(data)
        done("import " + name, command("image", "import", path, "--kernel", elf,
                                       "--name", name + ":1", *more))
        return json.loads(command("image", "inspect", name + ":1").stdout)

    one = image("p", 4 << 20, 0)
    others = [image("q", 8 << 20, 0), image("r", 4 << 20, 1 << 20),
              image("s", 4 << 20, 0, "--cmdline", "other"),
              image("t", 4 << 20, 0, "--initrd", work + "/p.raw"),
              image("u", 4 << 20, 0, data=b"B")]
    check("all others are", len({i["id"] for i in [one, *others]}) == 6, others)
    check("with their command line", others[2]["cmdline"] == "other", others[2])
    check("and disk", data_of("r:1")[:1] == b"\0" and
          data_of("r:1")[1 << 20:][:1] == b"A")
    same = image("v", 4 << 20, 0, zeroes=True)
    check("zeroes are holes", same["id"] == one["id"], (same, one))
    tar = work + "/p.tar"
    done("export", command("image", "export", "p:1", tar))
    back = [done("import it", command("image", "import", tar, "--name", "w:1")),
            done("and otherwise", command("image", "import", tar, "--name",
                                          "x:1", "--cmdline", "third"))]
    shown = [json.loads(command("image", "inspect", n).stdout)
             for n in ("w:1", "x:1")]
    check("it is the same", shown[0]["id"] == one["id"], back)
    check("but for what was said", shown[1]["id"] != one["id"] and
          shown[1]["cmdline"] == "third", shown)
    for name in "pqrstux":
        done("delete " + name, command("image", "delete", name + ":1"))


def hostile():
    """An archive that was made to reach outside."""
    box = work + "/box"
    secret = work + "/secret.raw"
    with open(secret, "wb") as f:
        f.write(b"secret" * 1024 + bytes(1 << 20))
    for what in ("link", "backing", "missing", "text"):
        shutil.rmtree(box, ignore_errors=True)
        os.mkdir(box)
        with open(box + "/manifest.json", "w") as f:
            json.dump({"id": "x", "cmdline": "c"}, f)
        shutil.copy(elf, box + "/vmlinuz")
        open(box + "/initrd", "w").close()
        if what == "link":
            os.unlink(box + "/vmlinuz")
            os.symlink("/etc/hostname", box + "/vmlinuz")
        base = ["--backing", secret, "--backing-format", "raw"] \
            if what == "backing" else ["1M"]
        done("create", command("disk", "create", box + "/disk.qcow2", *base))
        if what == "missing":
            os.unlink(box + "/initrd")
        if what == "text":
            with open(box + "/disk.qcow2", "w") as f:
                f.write("no image at all")
        tar = f"{work}/{what}.tar"
        subprocess.run(["tar", "-C", box, "-cf", tar, *os.listdir(box)],
                       check=True)
        result = command("image", "import", tar, "--name", "evil:1")
        check("refused: " + what, result.returncode != 0 and
              "error:" in result.stderr, result)
    refused("and not there", command("image", "inspect", "evil:1"), 3,
            "no image")


def clones():
    one, two = Clone("a:1", "one"), Clone("a:1", "two")
    check("two on one image", one.goes_on(5) and two.goes_on(5),
          one.said + two.said)
    refused("in use", command("image", "delete", "a:1"), 4, "in use")
    refused("no path", command("disk", "snapshot", "one:vda"), 2, "no path")
    before = one.flushed
    done("but a copy", command("disk", "mirror", "one:vda", work + "/o.raw"))
    wrong = wrong_moment(work + "/o.raw", one.slots, before)
    check("of what it holds", not wrong, wrong[:3])
    check("both end well", one.end() == 1 and two.end() == 1,
          one.said + two.said)
    check("nothing is left", os.listdir(disks) == [], os.listdir(disks))
    kept = Clone("a:1", "kept", "--keep")
    check("kept runs", kept.goes_on(5), kept.said)
    refused("its template is not written", command("disk", "commit",
                                                   "kept:vda"), 5,
            "write-protected")
    check("it ends", kept.end() == 1, kept.said)
    path = kept.errors.split()[1]
    check("its path is said", os.path.exists(path), kept.errors)
    wrong = wrong_slots(whole(path, "qcow2", work, tool), kept.slots,
                        kept.flushed)
    check("all is there", not wrong, wrong[:3])
    holds = os.stat(path).st_blocks * 512
    # A cluster for each of what it wrote.
    check("it is small", holds < (kept.flushed + 32 << 16) + (1 << 20),
          (holds, kept.flushed))
    refused("it lies on the image", command("image", "delete", "a:1"), 4,
            os.path.basename(path))
    refused("not by hand, either", command("disk", "commit", path), 5,
            "write-protected")
    done("rebase", command("disk", "rebase", path))
    whole_clone = Clone("a:1", "full", "--full", "--keep")
    check("a full copy runs", whole_clone.goes_on(5), whole_clone.said)
    check("it ends", whole_clone.end() == 1)
    check("a copy is raw", os.path.getsize(whole_clone.errors.split()[1]) ==
          16 << 20)
    done("delete: nobody needs it any more", command("image", "delete", "a:1"))
    wrong = wrong_slots(whole(path, "qcow2", work, tool), kept.slots,
                        kept.flushed)
    check("the clone that became independent holds all", not wrong, wrong[:3])


def disposable():
    path = work + "/mine.raw"
    with open(path, "wb") as f:
        f.truncate(16 << 20)
    guest = Guest(atoll, elf, env, path, "gone", "--rm")
    check("it runs", guest.goes_on(20), guest.said)
    refused("no suspend", command("suspend", "gone"), 4, "leave nothing")
    refused("no snapshot", command("snapshot", "create", "gone", "s"), 4,
            "leave nothing")
    check("it ends well", guest.end() == 1, guest.said)
    check("nothing was written", open(path, "rb").read() == bytes(16 << 20))
    left = os.listdir(work + "/s/disks") + \
        (os.listdir(work + "/s/named") if os.path.isdir(work + "/s/named")
         else [])
    check("nothing is left", left == [], left)


def seeds():
    """What cloud-init would find."""
    if not shutil.which("xorriso"):
        print("skipped: seeds, there is no xorriso")
        return
    key, data, iso = work + "/key.pub", work + "/user", work + "/seed.iso"
    with open(key, "w") as f:
        f.write("# mine\nssh-ed25519 AAAAC3Nza joe@host\n")
    with open(data, "w") as f:
        f.write("#cloud-config\npackages: [vim]\n")
    done("seed", command("image", "seed", iso, "--hostname", "web", "--user",
                         "joe", "--ssh-key", key, "--user-data", data))
    with open(iso, "rb") as f:
        f.seek(16 * 2048)
        volume = f.read(2048)
    check("labelled", volume[1:6] == b"CD001" and
          volume[40:72].strip() == b"cidata", volume[:80])
    out = work + "/seed"
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract",
                    "/", out], check=True, capture_output=True)
    files = {n: open(f"{out}/{n}").read() for n in os.listdir(out)}
    check("three files", sorted(files) ==
          ["meta-data", "user-data", "vendor-data"], files)
    check("user data as it is", files["user-data"] == open(data).read())
    check("host name", "local-hostname: web\n" in files["meta-data"] and
          "instance-id: i-" in files["meta-data"], files)
    vendor = files["vendor-data"]
    check("user and key", vendor.startswith("#cloud-config\n") and
          "name: joe\n" in vendor and "'ssh-ed25519 AAAAC3Nza joe@host'"
          in vendor, vendor)
    refused("a name that is none", command("image", "seed", work + "/x.iso",
                                           "--user", "a: b"), 2, "name")
    with open(key, "w") as f:
        f.write("it's no key'\n")
    refused("a key that is none", command("image", "seed", work + "/x.iso",
                                          "--ssh-key", key), 2, "public key")
    check("no file", not os.path.exists(work + "/x.iso"))
    path = work + "/s.raw"
    with open(path, "wb") as f:
        f.truncate(16 << 20)
    guest = Guest(atoll, elf, env, path, "seeded", "--hostname", "web")
    check("a machine has it", guest.goes_on(3), guest.said)
    info = json.loads(command("disk", "info", "seeded:vdb").stdout)
    check("as its second disk", info["serial"] == "cidata" and
          info["readonly"], info)
    check("it ends well", guest.end() == 1, guest.said)


come_and_go()
told_apart()
hostile()
clones()
disposable()
seeds()
subprocess.run(["rm", "-rf", work], check=False)
sum_up()
