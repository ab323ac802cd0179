#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Work in a Debian guest: workloads.py ATOLL DATA-FOLDER ENGINE CPUS [PART]...

  apt      a package over the network, installed and run
  stress   stress-ng with every answer verified
  gcc      a C program compiled and run
  openssl  answers that are known, or found in two ways; its speed test
  python   parts of Python's own test suite

Without a registry that the guest reaches the test is skipped.
"""
import base64
import sys
import time

from debian_guest import Guest
from person import use_apt

ATOLL, DATA, ENGINE, CPUS = sys.argv[1:5]
PARTS = sys.argv[5:] or ["apt", "stress", "gcc", "openssl", "python"]
SKIP = 77
INSTALL_S = 1800
PROGRAM = r"""#include <math.h>
#include <stdio.h>
int main(void)
{
	double s = 0;
	for (int i = 1; i <= 1000000; i++)
		s += 1.0 / i / i;
	printf("%.6f\n", sqrt(6 * s));
}
"""


def install(guest, *packages):
    guest.command("DEBIAN_FRONTEND=noninteractive apt-get -q -y install "
                  "--no-install-recommends " + " ".join(packages), INSTALL_S)


def apt(guest):
    install(guest, "hello")
    assert "Hello, world!" in guest.command("hello")


def stress(guest):
    install(guest, "stress-ng")
    got = guest.command("stress-ng --cpu 2 --vm 1 --vm-bytes 128M --fork 2 "
                        "--switch 2 --timeout 60 --verify", 600)
    assert "successful run completed" in got, got


def gcc(guest):
    install(guest, "gcc", "libc6-dev")
    text = base64.b64encode(PROGRAM.encode()).decode()
    guest.command(f"echo {text} | base64 -d >/tmp/sum.c")
    guest.command("gcc -O2 -Wall -o /tmp/sum /tmp/sum.c -lm", 300)
    assert "3.141592" in guest.command("/tmp/sum")


PLAIN = "OPENSSL_ia32cap=0:0 "  # no instruction that is not everywhere


def openssl(guest):
    """Known answers, then the processor's instructions for ciphers against
    none of them, a signature, and the speeds."""
    install(guest, "openssl")
    got = guest.command("printf abc | openssl dgst -sha256")
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" \
        in got, got
    guest.command("head -c 3000001 /dev/urandom >/tmp/r")
    digests = [f"openssl dgst -{name} /tmp/r"
               for name in ("md5", "sha1", "sha256", "sha512", "sha3-256",
                            "blake2b512")]
    ciphers = [f"openssl enc -{name} -K {'5a' * bits} -iv {'a5' * 16} "
               "-in /tmp/r | openssl dgst -sha256"
               for name, bits in (("aes-128-cbc", 16), ("aes-256-ctr", 32),
                                  ("camellia-128-cbc", 16),
                                  ("chacha20", 32))]
    for line in digests + ciphers:
        plain = line.replace("openssl", PLAIN + "openssl")
        guest.command(f'test "$({line})" = "$({plain})"', 300)
    guest.command("openssl genrsa -out /tmp/k 2048 && "
                  "openssl dgst -sha256 -sign /tmp/k -out /tmp/s /tmp/r && "
                  "openssl rsa -in /tmp/k -pubout -out /tmp/p && "
                  "openssl dgst -sha256 -verify /tmp/p -signature /tmp/s "
                  "/tmp/r", 300)
    for name in ("-evp sha256", "-evp aes-256-gcm", "-evp chacha20-poly1305",
                 "rsa2048 ecdsap256"):
        guest.command(f"openssl speed -seconds 1 {name}", 300)


def python(guest):
    install(guest, "python3", "libpython3.11-testsuite")
    guest.command("python3 -m test test_math test_json test_re "
                  "test_threading", 3600)


def main():
    with Guest(ATOLL, DATA, ENGINE, CPUS, "--net", "user") as guest:
        guest.login()
        try:
            use_apt(guest)
        except AssertionError as e:
            if "Err:" not in str(e):
                raise
            print("skipped: the guest reaches no registry")
            return SKIP
        for part in PARTS:
            start = time.monotonic()
            globals()[part](guest)
            print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
        guest.power_off()
    print(f"{len(PARTS)} passed, 0 failed")
    return 0


sys.exit(main())
