# SPDX-License-Identifier: Apache-2.0
"""The image's disk, beneath a layer that goes with the machine; under the
image's own kernel or another one."""
import json
import pathlib
import subprocess
import tempfile

from person import PROMPT, Console, environment, need_image

BOOT_S = 900


def image_folder(atoll, data):
    need_image(atoll, data)
    got = subprocess.run([atoll, "image", "inspect", "debian:12"],
                         env=environment(data), capture_output=True,
                         check=True)
    return (pathlib.Path(data) / "atoll" / "images" /
            json.loads(got.stdout)["id"])


class Guest(Console):
    def __init__(self, atoll, data, engine, cpus, *more, kernel=None,
                 initrd=None):
        image = image_folder(atoll, data)
        env = environment(data)
        self.folder = tempfile.TemporaryDirectory(dir=data)
        layer = f"{self.folder.name}/layer.qcow2"
        subprocess.run([atoll, "disk", "create", layer, "--backing",
                        image / "disk.raw", "--backing-format", "raw"],
                       env=env, check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads((image / "manifest.json").read_text())
        super().__init__(
            [str(atoll), "run", "--engine", engine, "--cpus", str(cpus),
             "--memory", "1G", "--disk", layer + ",format=qcow2",
             "--kernel", str(kernel or image / "vmlinuz"),
             "--initrd", str(initrd or image / "initrd"),
             "--append", manifest["cmdline"], *more], env, b"\x1dq")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.folder.cleanup()

    def login(self):
        self.expect(PROMPT, BOOT_S)

    def power_off(self):
        self.type("poweroff\r")
        code = self.end(300)
        assert code == 0, (code, self.seen[-2000:])
