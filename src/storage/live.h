/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live.h - a disk that can be changed below its user.
 *
 * A filter in front of a disk in use. It can hold requests back for a moment,
 * and meanwhile put another image in the place of the present one; it can
 * keep the contents of one point in time while writing goes on. jobs.h does
 * the long work on it.
 *
 * Calls here block (not from a completion), any thread; one at a time a disk,
 * -EBUSY if a job has it.
 */
#pragma once

#include "storage/block.h"

/* Takes over b: closing the live disk closes it, and all that jobs put in its
 * place. Jobs and points must be gone by then. */
struct block *live_open(struct block *b);

/* The image that is the disk now, for image.h's calls; borrowed, until the
 * next change. */
struct block *live_image(struct block *live);

/* How many files the disk's image lies on, data files included. No more than
 * so many: who starts the machine again has to open them all. */
enum { LIVE_BELOW_MAX = 32 };
unsigned live_below(struct block *live);

/* A larger size; requests wait meanwhile. */
int live_grow(struct block *live, u64 size, struct error *err) MUST_CHECK;

/* fn works on the image while the disk stands still, as calls of image.h
 * need it. Returns what fn does. */
int live_with_image(struct block *live,
                    int (*fn)(struct block *image, void *ctx,
                              struct error *err),
                    void *ctx, struct error *err) MUST_CHECK;

/*
 * Called while the disk stands still, when both the old and the new image are
 * durable and hold the same: whoever starts this machine again must from now
 * on open the new one, so that has to be on stable storage when this returns.
 * Negative: the change does not happen. May be NULL.
 */
struct live_record {
	int (*record)(void *ctx);
	void *ctx;
};

/*
 * External snapshot: overlay becomes the disk, what was the disk its backing
 * image, which nobody writes any more. overlay is a new qcow2 image of the
 * same size, open for writing with IMAGE_OPEN_NO_BACKING, whose header names
 * the present image. Taken over, and closed, if this succeeds; else it stays
 * the caller's. -E2BIG: there would be too many files below. Bitmaps that
 * record go on in the overlay,
 * as they do in whatever qcow2 image a job puts in the disk's place.
 */
int live_snapshot(struct block *live, struct block *overlay,
                  const struct live_record *record,
                  struct error *err) MUST_CHECK;

/*
 * The contents as they are now to an empty file, at once, where that and the
 * disk, a raw file, lie on a file system that can let both share what they
 * hold; the disk stands still meanwhile. -EOPNOTSUPP: it can't be.
 */
int live_share(struct block *live, int to, struct error *err) MUST_CHECK;

/*
 * The contents as they are now, as a read-only disk. What the guest
 * overwrites is first copied to scratch: an empty regular file, open for
 * reading and writing, taken over; it is sparse and may be unlinked already.
 * If scratch has no room the point is lost (-EIO from then on), never the
 * guest's write. To be closed before the live disk.
 */
int point_open(struct block **out, struct block *live, int scratch,
               struct error *err) MUST_CHECK;
