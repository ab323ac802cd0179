/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror - a second image that holds the same, and may take the first one's
 * place.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "storage/jobs/copy.h"
#include "storage/jobs/internal.h"

/* Paused: the last difference, and the change. */
static int finish(struct job *j, const struct job_copy *c,
                  struct block **unused, struct error *err)
{
	const struct live_record *record = &j->options.record;
	int rc = job_follow_last(j, c, err);

	if (rc == 0 && j->pivot)
		rc = live_move_bitmaps(j->live->under, c->to, err);
	if (rc == 0)
		rc = job_flush(j, c->to, err);
	if (rc < 0 || !j->pivot)
		return rc;
	rc = record->record ? record->record(record->ctx) : 0;
	if (rc < 0)
		return error_set(err, rc, "the change was not recorded: %s",
		                 strerror(-rc));
	*unused = live_replace(j->live, j->target);
	job_untrack(j);
	j->target = NULL;
	return 0;
}

static int mirror(struct job *j, struct error *err)
{
	struct job_copy c = { .from = j->live->under,
		              .to = j->target,
		              .blank = j->blank,
		              .levels = UINT32_MAX };
	struct block *unused = NULL;
	int rc = job_follow(j, &c, err);

	if (rc < 0)
		return rc;
	live_pause(j->live);
	rc = finish(j, &c, &unused, err);
	live_resume(j->live);
	block_close(unused);
	return rc;
}

int job_mirror(struct job **out, struct block *live, struct block *target,
               bool blank, const struct job_options *options, struct error *err)
{
	struct live *l;
	struct job *j;
	int rc = live_claim(live, &l, err);

	if (rc < 0)
		return rc;
	if (target->info.readonly)
		rc = error_set(err, -EROFS, "the target is read-only");
	else if (block_size(target) != block_size(live) ||
	         target->info.sector > live->info.sector)
		rc = error_set(err, -EINVAL,
		               "the target is of another size than the disk");
	if (rc < 0) {
		live_release(l);
		return rc;
	}
	j = job_make("mirror", l, options);
	j->target = target;
	j->blank = blank;
	j->run = mirror;
	j->fini = job_close_target;
	rc = job_start(out, j, err);
	if (rc < 0) {
		live_release(l);
		job_free(j);
	}
	return rc;
}
