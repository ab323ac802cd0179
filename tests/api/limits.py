# SPDX-License-Identifier: Apache-2.0
"""Hard limits of memory and weights at disks, as the kernel has them:
limits.py ATOLLD ATOLL ELF. Skipped (77) where there are no control groups."""
import os
import pathlib
import re
import sys
import time
import unittest

import harness

MIB = 1 << 20
TOUCHED = 128 * MIB  # by the guest, on "m"
D = harness.Daemon(harness.programs(sys.argv[1:4]), harness.Spec())


def group_files(name):
    """The files of its control groups: name: path. The first of that name."""
    found = {}
    pid = D.vm(name)["pid"]
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for mount in ([f"/sys/fs/cgroup/{names}"] if names else
                      ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]):
            folder = pathlib.Path(mount + path)
            if os.path.basename(path) == D.vm(name)["id"] and folder.is_dir():
                for file in folder.iterdir():
                    found.setdefault(file.name, file)
    return found


def limit_of(name):
    files = group_files(name)
    file = files.get("memory.max") or files.get("memory.limit_in_bytes")
    return file and file.read_text().strip()


def hard_limit(name, mib):
    answer = D.call("PATCH", f"/v1/vms/{name}",
                    {"resources": {"memory_hard_limit_bytes": mib * MIB}})
    assert answer.status == 200, answer.body


class Limits(unittest.TestCase):
    def start(self, name, **resources):
        answer = D.define(name, memory_bytes=192 * MIB, resources=resources)
        self.assertEqual(answer.status, 201, answer.body)
        D.do("POST", f"/v1/vms/{name}/start")
        D.console(name, b"resident is up")

    def use_memory(self, name):
        D.call("POST", f"/v1/vms/{name}/console", "m",
               {"Content-Type": "application/octet-stream"})

    def test_1_refused(self):
        for wrong in ({"memory_hard_limit_bytes": MIB},
                      {"memory_hard_limit_bytes": -1},
                      {"memory_hard_limit_bytes": 64 * MIB,
                       "memory_reservation_bytes": 65 * MIB},
                      {"io_weight": 0}, {"io_weight": 10001}):
            answer = D.define("wrong", resources=wrong)
            self.assertEqual((answer.status, answer.code),
                             (400, "bad-request"), wrong)

    def test_2_ended_above_it(self):
        self.start("held", memory_hard_limit_bytes=112 * MIB)
        self.assertEqual(limit_of("held"), str(112 * MIB))
        self.use_memory("held")
        if not re.search(r"SwapTotal: +0 kB",
                         pathlib.Path("/proc/meminfo").read_text()):
            self.skipTest("what is above goes to this host's swap")
        harness.wait_for(lambda: D.vm("held")["state"] == "stopped")
        end = D.vm("held")["last_end"]
        self.assertEqual(end["cause"], "died")
        self.assertIn("hard limit of 112 MiB", end["words"])
        self.assertIn("--memory-hard-limit", end["hint"])
        # With room enough the same guest goes on.
        hard_limit("held", 512)
        D.do("POST", "/v1/vms/held/start")
        D.console("held", b"resident is up", 1)
        self.use_memory("held")
        D.console("held", b"all of it is used")
        D.do("POST", "/v1/vms/held/kill")

    def test_3_set_below_what_it_holds(self):
        self.start("large")
        self.use_memory("large")
        D.console("large", b"all of it is used")
        self.assertNotEqual(limit_of("large"), str(64 * MIB))
        hard_limit("large", 64)
        harness.wait_for(lambda: "holds more memory" in D.log())
        time.sleep(3)  # rounds in which it is tried again
        self.assertEqual(D.vm("large")["state"], "running")
        self.assertEqual(D.log().count("holds more memory"), 1)
        hard_limit("large", 300)
        harness.wait_for(lambda: limit_of("large") == str(300 * MIB))
        hard_limit("large", 0)
        harness.wait_for(lambda: limit_of("large") != str(300 * MIB))
        D.do("POST", "/v1/vms/large/kill")

    def test_4_weights_at_disks(self):
        if not D.call("GET", "/v1/host").json["limits"]["io"]:
            self.skipTest("this host weighs no disks")
        self.start("heavy", io_weight=1090)
        files = group_files("heavy")
        got = {name: files[name].read_text().strip() for name in
               ("io.weight", "io.bfq.weight", "blkio.weight",
                "blkio.bfq.weight") if name in files}
        self.assertTrue(got)
        for name, value in got.items():
            # 100 + 990 is 100 + 90 where the scale ends at 1000.
            wanted = {"io.weight": "1090", "blkio.weight": "1000"}.get(
                name, "190")
            self.assertEqual(value.split()[-1], wanted, name)
        D.call("PATCH", "/v1/vms/heavy", {"resources": {"io_weight": 50}})
        file = files[sorted(got)[0]]
        harness.wait_for(lambda: file.read_text().split()[-1] in
                         ("50", "250"))
        D.do("POST", "/v1/vms/heavy/kill")


if __name__ == "__main__":
    try:
        D.start()
        limits = D.call("GET", "/v1/host").json["limits"]
        if not limits["memory"]:
            print("no control group with memory here")
            sys.exit(77)
        print(f"control groups {limits['cgroup']}, io {limits['io']}")
        result = unittest.main(argv=["limits"], exit=False).result
    finally:
        D.close()
    sys.exit(not result.wasSuccessful())
