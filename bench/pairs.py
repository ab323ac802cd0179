# SPDX-License-Identifier: Apache-2.0
"""What a second processor gains: the group smp with one and with two."""
import os
import statistics
import subprocess
import sys

CPUS = (1, 2)


class Pairs:
    """Each program does as much work for each processor. So with two, work a
    second is worth twice the ratio of the times, and processor time per unit of
    work half of the ratio of the sums. Of times on the clock the least of all
    rounds counts, since what else the host does can only lengthen them."""

    def __init__(self, bench, machines):
        self.bench = bench
        self.names = [n for n in bench.chosen if bench.group[n] == "smp"]
        self.machines = machines
        self.host = sorted(os.sched_getaffinity(0))
        if self.names and len(self.host) < 2:
            print("smp is left out: this host has one processor")
            self.names = []
        self.seconds = {}
        self.cpu = {}

    def note(self, who, cpus, name, cpu, seconds, checksum):
        self.bench.check(who, name, checksum)
        key = who, name
        for figures, value in ((self.seconds, seconds), (self.cpu, cpu)):
            figures.setdefault(key, {}).setdefault(cpus, []).append(value)

    def native(self, cpus):
        for name in self.names:
            before = os.times()
            out = subprocess.run(
                [self.bench.program, name], check=True, text=True,
                stdout=subprocess.PIPE, preexec_fn=lambda:
                os.sched_setaffinity(0, self.host[:cpus])).stdout.split()
            after = os.times()
            self.note("native", cpus, name,
                      after.children_user - before.children_user +
                      after.children_system - before.children_system,
                      float(out[-2]), out[-1])

    def round(self):
        if not self.names:
            return
        for who in ["native", *self.machines]:
            for cpus in CPUS:
                print(f"smp: {who} with {cpus}", file=sys.stderr)
                if who == "native":
                    self.native(cpus)
                else:
                    self.machine(who, cpus)

    def machine(self, who, cpus):
        def note(_, name, *figures):
            self.note(who, cpus, name, *figures)

        self.bench.machine(who, self.bench.command(who, self.names, cpus),
                           note, system=True)

    def gain(self, who, name):
        """Of the second: work a second, and the cost of work."""
        one, two = (min(self.seconds[who, name][n]) for n in CPUS)
        cost, costs = (statistics.median(self.cpu[who, name][n])
                       for n in CPUS)
        return 2 * one / two, costs / cost / 2

    def figures(self):
        """For machines: who with how many, seconds and processor time."""
        found = {}
        for (who, name), seconds in self.seconds.items():
            for n in CPUS:
                found.setdefault(name, {})[f"{who} {n}"] = list(
                    zip(seconds[n], self.cpu[who, name][n]))
        return found

    def report(self):
        if not self.names:
            return
        whose = ["native", *self.machines]
        ours = self.machines[0]
        qemu = "qemu" in self.machines
        print("\n2 vCPUs over 1 in work a second, and in processor time per "
              "unit of work (in brackets)")
        print(f"{'':14}", *(f"{w:>13}" for w in whose),
              *([f"{ours + '/qemu':>12}", f"{'qemu s/' + ours:>14}"]
                if qemu else []))
        for name in self.names:
            gains = {w: self.gain(w, name) for w in whose}
            words = [f"{g:6.2f} ({c:4.2f})" for g, c in gains.values()]
            if qemu:
                both = [min(self.seconds[w, name][2]) for w in ("qemu", ours)]
                words += [f"{gains[ours][0] / gains['qemu'][0]:12.2f}",
                          f"{both[0] / both[1]:14.1f}"]
            print(f"{name:14}", *words)
