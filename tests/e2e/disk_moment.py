# SPDX-License-Identifier: Apache-2.0
"""Which moment of a disk an image holds that a guest of tests/guest/disk.c
never stops writing to: for at_once.py, here and in tests/api."""
import os
import struct

from live_guest import SLOT, last_write


def words_of(raw):
    """What each slot has: of one whole write, one word for each place."""
    found = []
    size = os.path.getsize(raw)
    with open(raw, "rb") as f:
        for slot in range(size // SLOT):
            f.seek(slot * SLOT)
            found.append(set(struct.unpack("<512Q", f.read(4096))))
    return found


def word(slot, slots, n):
    last = last_write(slot, slots, n)
    return last << 16 | slot if last else 0


def moment_of(raw, slots, least, boots=0):
    """The write whose moment it is, from `least` on; None: it is none.

    A guest that boots counts from 1 again, over what was there: with `boots`
    the newest so many of them may lie over such a moment."""
    found = words_of(raw)[:slots]
    if len(found) < slots:
        return None
    return search(dict(enumerate(found)), slots, least, boots)


def search(found, slots, least, boots):
    numbers = {w >> 16 for s in found.values() for w in s}
    for n in sorted({n for n in numbers if n >= least} | {least},
                    reverse=True):
        # The next one may have been on its way.
        if all(s <= {word(i, slots, n), word(i, slots, n + 1)}
               for i, s in found.items()):
            return n
    if not boots:
        return None
    for n in sorted(numbers - {0}, reverse=True):
        below = {}
        for i, s in found.items():
            written = last_write(i, slots, n)
            under_way = {(n + 1) << 16 | i} if last_write(
                i, slots, n + 1) == n + 1 else set()
            if not written:
                below[i] = s - under_way or s
            elif not s <= {written << 16 | i} | under_way:
                break
        else:
            if search(below, slots, least, boots - 1) is not None:
                return n
    return None
