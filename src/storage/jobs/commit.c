/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit - images of a chain go down into the one below them.
 *
 * While it runs the base changes only where an image above it hides that. So
 * the chain holds the same at every moment, and a crash, a failure or a cancel
 * leaves it as it was to look at.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/core/chain.h"
#include "storage/image.h"
#include "storage/jobs/copy.h"
#include "storage/jobs/internal.h"

/* The nth image of the chain; the top is 0. */
static struct block *image_at(const struct live *l, unsigned n)
{
	struct block *b = l->under;

	while (b && n-- > 0)
		b = chain_backing(b);
	return b;
}

static struct block *lowest(const struct job *j)
{
	return image_at(j->live, j->from + j->count - 1);
}

/* The base opened for writing; it has to be what the old one was. */
static int check_base(const struct job *j, struct block *old,
                      struct block *base, struct error *err)
{
	u64 size = block_size(image_at(j->live, j->from));

	if (base->driver != old->driver || base->info.readonly ||
	    block_size(base) != block_size(old) || chain_backing(base))
		return error_set(err, -EINVAL,
		                 "this is not the image below them");
	if (base->info.sector > j->live->block.info.sector)
		return error_set(err, -EINVAL,
		                 "the sectors of the image below are larger");
	if (block_size(base) > size)
		return error_set(err, -EINVAL,
		                 "the image below is larger than what would be "
		                 "merged into it");
	return block_size(base) < size ? block_resize(base, size, err) : 0;
}

/* Paused: the reader of the base makes way for a writer. */
static int exchange_base(struct job *j, struct block **old, struct error *err)
{
	struct block *reader = chain_backing(lowest(j)), *base = NULL;
	int rc = chain_unlock(reader);

	if (rc < 0)
		return error_set(err, rc, "the image below: %s", strerror(-rc));
	rc = j->base.open(j->base.ctx, &base, err);
	if (rc == 0)
		rc = check_base(j, reader, base, err);
	if (rc < 0) {
		block_close(base);
		(void)chain_lock_shared(reader);
		return rc;
	}
	if (chain_backing(reader))
		(void)chain_swap_backing(base,
		                         chain_swap_backing(reader, NULL));
	*old = chain_swap_backing(lowest(j), base);
	j->target = base;
	return 0;
}

/* Paused: the base is the disk now. */
static int become_base(struct job *j, const struct job_copy *c,
                       struct block **unused, struct error *err)
{
	const struct live_record *record = &j->options.record;
	struct block *base = j->target;
	int rc = job_follow_last(j, c, err);

	if (rc == 0)
		rc = live_move_bitmaps(j->live->under, base, err);
	if (rc == 0)
		rc = job_flush(j, base, err);
	if (rc < 0)
		return rc;
	rc = record->record ? record->record(record->ctx) : 0;
	if (rc < 0)
		return error_set(err, rc, "the change was not recorded: %s",
		                 strerror(-rc));
	(void)chain_swap_backing(lowest(j), NULL);
	*unused = live_replace(j->live, base);
	job_untrack(j);
	j->target = NULL;
	return 0;
}

/* Paused: the image above, which is only read, says in its header what it lies
 * on. A crash finds the one header or the other, and both are true. */
static int rename_below(struct job *j, struct block *above, struct error *err)
{
	struct block *writer = NULL;
	int rc = chain_unlock(above);

	if (rc < 0)
		return error_set(err, rc, "the image above: %s", strerror(-rc));
	rc = j->base.open_above(j->base.ctx, &writer, err);
	if (rc == 0 && (writer->driver != above->driver ||
	                block_size(writer) != block_size(above)))
		rc =
		    error_set(err, -EINVAL, "this is not the image above them");
	if (rc == 0)
		rc = image_set_backing(writer, j->base.name, j->base.format,
		                       err);
	block_close(writer);
	(void)chain_lock_shared(above);
	return rc;
}

/* Paused: what was above those that went down lies on the base now. */
static int skip_merged(struct job *j, struct block **unused, struct error *err)
{
	struct block *above = image_at(j->live, j->from - 1);
	int rc = j->from == 1 ? image_set_backing(above, j->base.name,
	                                          j->base.format, err)
	                      : rename_below(j, above, err);

	if (rc < 0)
		return rc;
	(void)chain_swap_backing(lowest(j), NULL);
	*unused = chain_swap_backing(above, j->target);
	return 0;
}

/* Nobody writes to those that go down. */
static int copy_below(struct job *j, const struct job_copy *c,
                      struct error *err)
{
	int rc = job_copy_all(j, c, err);

	if (rc == 0)
		rc = job_flush(j, c->to, err);
	return rc == 0 ? job_finish(j) : rc;
}

static int commit(struct job *j, struct error *err)
{
	struct job_copy c = { .levels = j->count };
	struct block *unused = NULL;
	int rc;

	live_pause(j->live);
	rc = exchange_base(j, &unused, err);
	live_resume(j->live);
	block_close(unused);
	unused = NULL;
	if (rc < 0)
		return rc;
	c.from = image_at(j->live, j->from);
	c.to = j->target;
	rc = j->from == 0 ? job_follow(j, &c, err) : copy_below(j, &c, err);
	if (rc < 0)
		return rc;
	live_pause(j->live);
	rc = j->from == 0 ? become_base(j, &c, &unused, err)
	                  : skip_merged(j, &unused, err);
	live_resume(j->live);
	block_close(unused);
	return rc;
}

/* The base is only read again, unless it has become the disk. */
static void commit_fini(struct job *j, bool ok)
{
	struct error err;

	(void)ok;
	if (!j->target)
		return;
	live_pause(j->live);
	(void)chain_freeze(j->target, &err);
	live_resume(j->live);
	j->target = NULL;
}

static int check(struct live *l, unsigned from, unsigned count,
                 const struct job_base *base, struct error *err)
{
	if (l->block.info.readonly)
		return error_set(err, -EROFS, "the disk is read-only");
	if (count < 1 || count > 64 || from > 64 || !image_at(l, from + count))
		return error_set(err, -EINVAL, "the chain is not that long");
	/* They would go with the image. */
	for (unsigned n = from; n < from + count; n++)
		if (image_without_snapshots(image_at(l, n), err) < 0)
			return err->code;
	if (from > 0 && (!base->name || !base->format))
		return error_set(err, -EINVAL,
		                 "the base needs a name and a format");
	if (from > 1 && !base->open_above)
		return error_set(err, -EINVAL,
		                 "the image above is needed, too");
	return 0;
}

int job_commit(struct job **out, struct block *live, unsigned from,
               unsigned count, const struct job_base *base,
               const struct job_options *options, struct error *err)
{
	struct live *l;
	struct job *j;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	rc = check(l, from, count, base, err);
	if (rc < 0) {
		live_release(l);
		return rc;
	}
	j = job_make("commit", l, options);
	j->from = from;
	j->count = count;
	j->base = *base;
	j->base.name = base->name ? xstrdup(base->name) : NULL;
	j->base.format = base->format ? xstrdup(base->format) : NULL;
	j->run = commit;
	j->fini = commit_fini;
	rc = job_start(out, j, err);
	if (rc < 0) {
		live_release(l);
		job_free(j);
	}
	return rc;
}
