/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/shorten.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/log.h"
#include "storage/jobs.h"
#include "vm/config.h"
#include "vm/works.h"

enum {
	IMAGES_MAX = 8,   /* so many are left alone */
	IMAGES_LEAST = 4, /* so many go at least, then */
	SOON_MS = 1000,   /* those who copy often do so at once */
	BUSY_MS = 10000,
	RATE = 64 << 20,
};

static u64 stored(const struct vm_disk_chain *c, unsigned i)
{
	struct stat st;

	return fstat(c->file[i].fd, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
}

/*
 * The image that it is to lie on. Not always the lowest: one that holds as
 * much as all above it is left as it is, or each time all that was ever
 * written would be copied again. So what is copied each time doubles.
 */
static unsigned next_layer(const struct vm_disk_chain *c)
{
	unsigned to = IMAGES_LEAST + 1;
	u64 sum = 0;

	for (unsigned i = 1; i < to; i++)
		sum += stored(c, i);
	while (to < c->count - 1 && stored(c, to) < sum)
		sum += stored(c, to++);
	return to;
}

/* false: once more, later. */
static bool shorten(struct shorten *s, unsigned disk)
{
	const struct vm_disk_chain *c = &s->config->chains[disk];
	struct job_options options;
	struct job_rebase how = { .layer = next_layer(c) };
	struct error err = { 0 };
	struct work *work;
	int rc;

	if (works_busy(s->works, disk))
		return false;
	work = works_add(s->works, disk, "rebase", NULL);
	if (!work)
		return false;
	how.name = c->file[how.layer].path;
	how.format = c->file[how.layer].format;
	work->rate = RATE;
	work->layer = how.layer;
	work->rebases = work->yields = true;
	options = work_options(work);
	rc = job_rebase(&work->job, work->live, &how, &options, &err);
	if (rc < 0) {
		log_debug("vm", "disk %u: %s", disk, err.text);
		works_drop(work);
		return rc != -EBUSY;
	}
	work_begun(work);
	return true;
}

static bool is_long(const struct shorten *s, unsigned disk)
{
	return s->config->disk_private[disk] &&
	       !s->config->machine.disks[disk].readonly &&
	       s->config->chains[disk].count > IMAGES_MAX;
}

static void look(void *ctx)
{
	struct shorten *s = ctx;
	bool all = true;

	for (unsigned i = 0; i < s->config->machine.disk_count; i++)
		if (is_long(s, i) && (!s->may(s->ctx) || !shorten(s, i)))
			all = false;
	if (!all)
		loop_timer_arm(&s->timer,
		               loop_now_ns() + BUSY_MS * NSEC_PER_MSEC);
}

void shorten_soon(struct shorten *s)
{
	loop_timer_arm(&s->timer, loop_now_ns() + SOON_MS * NSEC_PER_MSEC);
}

void shorten_init(struct shorten *s)
{
	loop_timer_init(&s->timer, s->loop, look, s);
	shorten_soon(s);
}

void shorten_fini(struct shorten *s)
{
	loop_timer_fini(&s->timer);
}
