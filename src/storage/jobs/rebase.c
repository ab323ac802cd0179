/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebase - a disk's image gets another one below it, or none.
 *
 * What the guest has not written to would look different then: that is first
 * written into the image itself. So it holds the same at every moment, whatever
 * its header names, and the images that it lay on are changed by nobody.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/core/chain.h"
#include "storage/image.h"
#include "storage/jobs/internal.h"

/* A granule of what is shown now, and of what would be. */
struct views {
	u8 *now, *then;
};

/* Of the granule at offset, is anything shown by images that go? */
static int is_foreign(struct job *j, u64 offset, u64 length, bool *foreign,
                      struct error *err)
{
	*foreign = false;
	while (length > 0 && !*foreign) {
		struct block_extent e;
		int rc = block_map(j->live->under, offset, length, &e);

		if (rc < 0)
			return job_failed(err, rc, "the map", offset);
		/* What is below them stays below. */
		*foreign = e.depth == 0 ? !(e.flags & BLOCK_EXTENT_DATA)
		                        : !j->from || e.depth < j->from;
		offset += e.length;
		length -= e.length;
	}
	return 0;
}

static struct block *next_base(const struct job *j)
{
	struct block *b = j->from ? j->live->under : j->target;

	for (unsigned n = j->from; n > 0; n--)
		b = chain_backing(b);
	return b;
}

static int read_then(struct job *j, u64 offset, u8 *buf, u64 length,
                     struct error *err)
{
	struct block *b = next_base(j);
	u64 size = b ? block_size(b) : 0, n = 0;
	int rc = 0;

	if (offset < size)
		n = MIN(length, size - offset);
	if (n)
		rc = block_sync(b, BLOCK_READ, offset, buf, n);
	memset(buf + n, 0, length - n);
	return rc < 0 ? job_failed(err, rc, "reading the image below", offset)
	              : 0;
}

static bool is_zero(const u8 *p, u64 length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

/* 1: it differs. */
static int look(struct job *j, const struct views *v, u64 offset, u64 length,
                struct error *err)
{
	bool foreign;
	int rc = is_foreign(j, offset, length, &foreign, err);

	if (rc < 0 || !foreign)
		return rc;
	rc = block_sync(j->live->under, BLOCK_READ, offset, v->now, length);
	if (rc < 0)
		return job_failed(err, rc, "reading", offset);
	rc = read_then(j, offset, v->then, length, err);
	if (rc < 0)
		return rc;
	return memcmp(v->now, v->then, length) != 0;
}

/* Paused. What the guest has written since is its image's own. */
static int take(struct job *j, const struct views *v, u64 offset, u64 length,
                struct error *err)
{
	bool zero;
	int rc = look(j, v, offset, length, err);

	if (rc <= 0)
		return rc;
	zero = is_zero(v->now, length);
	rc = block_sync(j->live->under, zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
	                offset, zero ? NULL : v->now, length);
	return rc < 0 ? job_failed(err, rc, "writing", offset) : 0;
}

static int take_all(struct job *j, struct error *err)
{
	const struct views v = { j->buf, j->buf + GRANULE };
	u64 size = block_size(&j->live->block), n;
	int rc = 0;

	job_set_total(j, size);
	for (u64 at = 0; at < size && rc == 0; at += n) {
		n = MIN(GRANULE, size - at);
		rc = look(j, &v, at, n, err);
		if (rc > 0) {
			live_pause(j->live);
			rc = take(j, &v, at, n, err);
			live_resume(j->live);
		}
		j->cost += n;
		if (rc == 0)
			rc = job_step(j, n);
	}
	return rc;
}

static int flush(struct job *j, struct error *err)
{
	int rc = block_sync(j->live->under, BLOCK_FLUSH, 0, NULL, 0);

	return rc < 0 ? job_failed(err, rc, "flushing", 0) : 0;
}

/* Paused: all is durable before the header says so. */
static int change(struct job *j, struct block **unused, struct error *err)
{
	struct block *top = j->live->under, *last = top, *base = j->target;
	int rc = flush(j, err);

	if (rc == 0)
		rc = image_set_backing(top, j->base.name, j->base.format, err);
	if (rc < 0)
		return rc;
	for (unsigned n = 1; n < j->from; n++)
		last = chain_backing(last);
	if (j->from)
		base = chain_swap_backing(last, NULL);
	*unused = chain_swap_backing(top, base);
	j->target = NULL;
	return 0;
}

static int rebase(struct job *j, struct error *err)
{
	struct block *unused = NULL;
	int rc = take_all(j, err);

	/* Most of it while the guest goes on. */
	if (rc == 0)
		rc = flush(j, err);
	if (rc == 0)
		rc = job_finish(j);
	if (rc < 0)
		return rc;
	live_pause(j->live);
	rc = change(j, &unused, err);
	live_resume(j->live);
	block_close(unused);
	return rc;
}

static int check(struct live *l, const struct job_rebase *how,
                 struct error *err)
{
	struct block *b = l->under;

	if (l->block.info.readonly)
		return error_set(err, -EROFS, "the disk is read-only");
	if (how->layer == 1)
		return error_set(err, -EINVAL, "the disk lies on that");
	if (!chain_backing(b))
		return error_set(err, -EINVAL,
		                 "the disk lies on no other image");
	if ((how->layer || how->backing) && (!how->name || !how->format))
		return error_set(err, -EINVAL,
		                 "the image below needs a name and a format");
	if (how->backing && !how->backing->info.readonly)
		return error_set(err, -EINVAL,
		                 "the image below is open for writing");
	if (how->backing && how->backing->info.sector > l->block.info.sector)
		return error_set(err, -EINVAL,
		                 "the sectors of the image below are larger");
	if (image_without_snapshots(b, err) < 0)
		return err->code;
	for (unsigned n = how->layer; b && n > 0; n--)
		b = chain_backing(b);
	return b ? 0 : error_set(err, -EINVAL, "the chain is not that long");
}

int job_rebase(struct job **out, struct block *live,
               const struct job_rebase *how, const struct job_options *options,
               struct error *err)
{
	struct live *l;
	struct job *j;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	rc = check(l, how, err);
	if (rc < 0) {
		live_release(l);
		return rc;
	}
	j = job_make("rebase", l, options);
	j->from = how->layer;
	j->target = how->backing;
	if (how->layer || how->backing) {
		j->base.name = xstrdup(how->name);
		j->base.format = xstrdup(how->format);
	}
	j->run = rebase;
	j->fini = job_close_target;
	rc = job_start(out, j, err);
	if (rc < 0) {
		live_release(l);
		job_free(j);
	}
	return rc;
}
