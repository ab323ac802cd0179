/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backup - the contents of one moment, whole or what a bitmap says has
 * changed, while the guest goes on.
 *
 * The bitmap is cleared in the moment that the point is made. Until the copy
 * is complete it is only lent: what was taken is marked again if it fails. A
 * crash leaves the bitmap marked as in use on disk, so that nobody trusts it.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/jobs/copy.h"
#include "storage/jobs/internal.h"

static bool is_wanted(const struct job *j, u64 granule)
{
	return !j->wanted ||
	       (atomic_load(&j->wanted[granule / 64]) >> (granule % 64) & 1);
}

static void want(struct job *j, u64 offset, u64 length)
{
	for (u64 g = offset / GRANULE; g * GRANULE < offset + length; g++)
		atomic_fetch_or(&j->wanted[g / 64], BIT(g % 64));
}

/* The next run of granules alike. */
static u64 run_from(const struct job *j, u64 granule, bool *wanted)
{
	u64 g = granule;

	*wanted = is_wanted(j, g);
	while (g < j->granules && is_wanted(j, g) == *wanted)
		g++;
	return g - granule;
}

static int copy_wanted(struct job *j, const struct job_copy *c,
                       struct error *err)
{
	u64 size = block_size(c->from), total = 0, n;
	bool wanted;
	int rc = 0;

	for (u64 g = 0; g < j->granules; g++)
		total += is_wanted(j, g) ? MIN(GRANULE, size - g * GRANULE) : 0;
	job_set_total(j, total);
	for (u64 g = 0; g < j->granules && rc == 0; g += n) {
		u64 at = g * GRANULE, bytes;

		n = MIN(run_from(j, g, &wanted), JOB_BUFFER / GRANULE);
		bytes = MIN(n * GRANULE, size - at);
		if (!wanted)
			continue;
		rc = job_copy_range(j, c, at, bytes, err);
		if (rc < 0)
			break;
		point_release(j->point, at, bytes);
		rc = job_step(j, bytes);
	}
	return rc;
}

static int backup(struct job *j, struct error *err)
{
	const struct job_copy c = { .from = j->point,
		                    .to = j->target,
		                    .blank = j->blank,
		                    .levels = UINT_MAX };
	int rc = copy_wanted(j, &c, err);

	if (rc == 0) {
		rc = block_sync(j->target, BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			job_failed(err, rc, "flushing", 0);
	}
	return rc == 0 ? job_finish(j) : rc;
}

static void give_back(struct job *j)
{
	u64 size = block_size(&j->live->block), n;
	struct error err;
	bool wanted;
	int rc = 0;

	/* It fails only when the image itself does: then the bitmap is not
	 * stored as good, either. */
	for (u64 g = 0; g < j->granules && rc == 0; g += n) {
		u64 at = g * GRANULE;

		n = run_from(j, g, &wanted);
		if (wanted)
			rc = image_bitmap_mark(j->live->under, j->bitmap, at,
			                       MIN(n * GRANULE, size - at),
			                       &err);
	}
}

static void backup_fini(struct job *j, bool ok)
{
	block_close(j->point);
	j->point = NULL;
	if (!ok && j->wanted)
		give_back(j);
	job_close_target(j, ok);
}

/* Paused. */
static int take_bitmap(struct job *j, struct error *err)
{
	u64 size = block_size(&j->live->block), length;
	int rc = 0;

	for (u64 at = 0; at < size && rc == 0; at += length) {
		bool dirty = false;

		rc = image_bitmap_next(j->live->under, j->bitmap, at, &dirty,
		                       &length, err);
		if (rc == 0 && dirty)
			want(j, at, length);
	}
	return rc == 0 ? image_bitmap_clear(j->live->under, j->bitmap, err)
	               : rc;
}

static void leave_out(struct job *j)
{
	bool wanted;
	u64 n;

	for (u64 g = 0; g < j->granules; g += n) {
		n = run_from(j, g, &wanted);
		if (!wanted)
			point_release(j->point, g * GRANULE, n * GRANULE);
	}
}

static int begin(struct job *j, int scratch, struct error *err)
{
	int rc;

	live_pause(j->live);
	rc = point_open_paused(&j->point, j->live, scratch, err);
	if (rc == 0 && j->bitmap)
		rc = take_bitmap(j, err);
	if (rc == 0)
		leave_out(j);
	live_resume(j->live);
	return rc;
}

int job_backup(struct job **out, struct block *live, struct block *target,
               bool blank, const char *bitmap, int scratch,
               const struct job_options *options, struct error *err)
{
	struct live *l;
	struct job *j;
	int rc = live_claim(live, &l, err);

	if (rc == 0 &&
	    (target->info.readonly || block_size(target) < block_size(live))) {
		rc = error_set(err, -EINVAL, "the target is %s",
		               target->info.readonly ? "read-only"
		                                     : "smaller than the disk");
		live_release(l);
	}
	if (rc < 0) {
		if (scratch >= 0)
			close(scratch);
		return rc;
	}
	j = job_make("backup", l, options);
	j->target = target;
	j->blank = blank && !bitmap;
	j->granules = (block_size(live) + GRANULE - 1) / GRANULE;
	j->bitmap = bitmap ? xstrdup(bitmap) : NULL;
	if (bitmap)
		j->wanted = xalloc((j->granules / 64 + 1) * 8);
	j->run = backup;
	j->fini = backup_fini;
	rc = begin(j, scratch, err);
	if (rc == 0)
		rc = job_start(out, j, err);
	if (rc < 0) {
		j->target = NULL; /* still the caller's */
		if (j->point)
			backup_fini(j, false);
		live_release(l);
		job_free(j);
	}
	return rc;
}
