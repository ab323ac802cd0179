# SPDX-License-Identifier: Apache-2.0
"""What a test that is one long story says as it goes, and how it ends."""
import sys

passed = failed = 0


def check(what, good, more=""):
    """A line for each; more says what was found when it is not good."""
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print("ok  " if good else "FAIL", what, "" if good else more, flush=True)
    return good


def any_failed():
    return failed != 0


def sum_up():
    print(f"{passed} passed, {failed} failed")
    sys.exit(any_failed())
