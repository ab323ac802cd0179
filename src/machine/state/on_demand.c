/* SPDX-License-Identifier: Apache-2.0 */
/*
 * on_demand - packed memory that is read while the machine runs: the block of a
 * page that is asked for at once, by who asks, and all others behind its back.
 *
 * A block is read once, and all pages that have its contents are filled then.
 * Contents of many pages would be a long wait for who wants one of them: they
 * are kept, and go where they are asked for, and by and by to all. PAGE_MISSING
 * keeps everybody from a page until it is there, so that nothing is stored to
 * it before. Under an engine that does not ask, the kernel does (faults.h), and
 * then nobody sees half of a page either; those who ask still do.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "machine/state/faults.h"
#include "machine/state/layout.h"
#include "machine/state/parallel.h"
#include "machine/state/unpack.h"

enum {
	ROOMS = 4,
	MANY = 16, /* pages with the same contents */
};

enum block_state { BLOCK_THERE, BLOCK_BEING_READ, BLOCK_READ };

struct pages_source {
	struct memory *memory;
	struct faults *faults; /* NULL: who looks at a page asks for it */
	struct layout layout;
	struct unpack u;
	_Atomic u8 *state; /* enum block_state, of each block */
	u8 **kept;         /* of contents that many have, once they are read */
	pthread_mutex_t lock; /* rooms; pages of what is kept */
	pthread_cond_t read;  /* some block was */
	struct state_room rooms[ROOMS];
	bool room_used[ROOMS];
	_Atomic unsigned inside; /* threads in fetch() */
	_Atomic bool done, stop;
	_Atomic u64 whole_ns;
	_Atomic int failed; /* before there was somebody to tell */
	_Atomic(pages_lost_fn *) lost;
	void *lost_ctx;
	pthread_t thread;
	bool threaded;
};

/* There is nothing to go on with. Before the machine runs it will not be run
 * (pages_source_check()); later, this does not return. */
static void lose(struct pages_source *s, int rc)
{
	struct error err = { 0 };
	pages_lost_fn *lost;

	atomic_store(&s->failed, rc);
	lost = atomic_load(&s->lost);
	if (!lost)
		return;
	state_packed_failed(rc, &err);
	lost(s->lost_ctx, err.text);
}

/* ---- a block ---- */

static int fill(struct pages_source *s, u64 page, const u8 *contents)
{
	u8 *host = layout_page(&s->layout, page);
	int rc = 0;

	if (s->faults)
		rc = faults_put(s->faults, host, contents);
	else
		memcpy(host, contents, PAGE_SIZE);
	if (rc == 0)
		atomic_fetch_and(layout_flags(&s->layout, page),
		                 (u8)~PAGE_MISSING);
	return rc;
}

static bool is_many(const struct pages_source *s, u64 contents)
{
	return s->u.start[contents + 1] - s->u.start[contents] > MANY;
}

/* One page of what is kept, unless it was filled already. */
static void fill_one(struct pages_source *s, u64 page, u64 contents)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (s->kept[contents] &&
	    atomic_load(layout_flags(&s->layout, page)) & PAGE_MISSING)
		rc = fill(s, page, s->kept[contents]);
	pthread_mutex_unlock(&s->lock);
	if (rc < 0)
		lose(s, rc);
}

static int keep(struct pages_source *s, u64 contents, const u8 *bytes)
{
	s->kept[contents] = malloc(PAGE_SIZE);
	if (!s->kept[contents])
		return -ENOMEM;
	memcpy(s->kept[contents], bytes, PAGE_SIZE);
	return 0;
}

static int fill_block(struct pages_source *s, u64 block,
                      const struct state_room *room)
{
	u64 c, end = state_packed_range(&s->u.file, block, &c);
	int rc = 0;

	for (; rc == 0 && c < end; c++) {
		if (is_many(s, c)) {
			rc = keep(s, c, state_contents(room, c));
			continue;
		}
		for (u32 k = s->u.start[c]; rc == 0 && k < s->u.start[c + 1];
		     k++)
			rc = fill(s, s->u.page[k], state_contents(room, c));
	}
	return rc;
}

static struct state_room *take_room(struct pages_source *s)
{
	struct state_room *room = NULL;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; !room && i < ROOMS; i++)
		if (!s->room_used[i]) {
			s->room_used[i] = true;
			room = &s->rooms[i];
		}
	pthread_mutex_unlock(&s->lock);
	return room;
}

static void give_room(struct pages_source *s, const struct state_room *room)
{
	pthread_mutex_lock(&s->lock);
	s->room_used[room - s->rooms] = false;
	pthread_mutex_unlock(&s->lock);
}

static int read_block(struct pages_source *s, u64 block)
{
	struct state_room own = { 0 }, *room = take_room(s);
	struct state_room *use = room ? room : &own;
	int rc = state_packed_read(&s->u.file, block, use);

	if (rc == 0)
		rc = fill_block(s, block, use);
	if (room)
		give_room(s, room);
	state_room_fini(&own);
	return rc;
}

/* A block that is being read by another is waited for. */
static void bring(struct pages_source *s, u64 block)
{
	u8 was = BLOCK_THERE;
	int rc;

	if (!atomic_compare_exchange_strong(&s->state[block], &was,
	                                    BLOCK_BEING_READ)) {
		pthread_mutex_lock(&s->lock);
		while (atomic_load(&s->state[block]) != BLOCK_READ)
			pthread_cond_wait(&s->read, &s->lock);
		pthread_mutex_unlock(&s->lock);
		return;
	}
	rc = read_block(s, block);
	if (rc < 0)
		lose(s, rc);
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->state[block], BLOCK_READ);
	pthread_cond_broadcast(&s->read);
	pthread_mutex_unlock(&s->lock);
}

/* ---- who asks ---- */

static void fetch(void *ctx, u8 *host)
{
	struct pages_source *s = ctx;

	atomic_fetch_add(&s->inside, 1);
	/* Else its map is gone, or about to go. */
	if (!atomic_load(&s->done)) {
		u64 page = layout_number(&s->layout, host);
		u64 contents = s->u.file.map[page] - 1;

		bring(s, state_block_of(contents));
		if (is_many(s, contents))
			fill_one(s, page, contents);
	}
	atomic_fetch_sub(&s->inside, 1);
}

static void mark(struct pages_source *s)
{
	for (u64 page = 0; page < s->u.file.pages; page++)
		if (s->u.file.map[page])
			atomic_fetch_or(layout_flags(&s->layout, page),
			                PAGE_MISSING);
}

/* It was touched by who did not ask. */
static void touched(void *ctx, u8 *host)
{
	struct pages_source *s = ctx;
	u64 page = layout_number(&s->layout, host);

	if (atomic_load(layout_flags(&s->layout, page)) & PAGE_MISSING)
		fetch(s, host);
}

int on_demand_begin(struct pages_source **out, const struct state_file *f,
                    struct memory *mem, const struct layout *l,
                    struct faults *faults, struct error *err)
{
	struct pages_source *s = xalloc(sizeof(*s));
	int rc = unpack_open(&s->u, f, l->pages, err);

	s->memory = mem;
	s->faults = faults;
	s->layout = *l;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->read, NULL);
	*out = s;
	s->u.file.fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	if (rc < 0)
		return rc;
	if (s->u.file.fd < 0)
		return state_packed_failed(-errno, err);
	s->state = try_alloc(MAX(s->u.file.count, (u64)1), sizeof(*s->state));
	s->kept = try_alloc(MAX(s->u.file.contents, (u64)1), sizeof(*s->kept));
	if (!s->state || !s->kept)
		return state_packed_failed(-ENOMEM, err);
	mark(s);
	memory_set_source(mem, fetch, s);
	return faults ? faults_answer(faults, touched, s, err) : 0;
}

int pages_source_check(const struct pages_source *s, struct error *err)
{
	int rc = atomic_load(&s->failed);

	return rc < 0 ? state_packed_failed(rc, err) : 0;
}

/* ---- the rest ---- */

static int bring_whole(void *ctx, unsigned worker, u64 block)
{
	struct pages_source *s = ctx;
	u64 c, end = state_packed_range(&s->u.file, block, &c);

	(void)worker;
	bring(s, block);
	for (; c < end; c++)
		for (u32 k = s->u.start[c];
		     is_many(s, c) && k < s->u.start[c + 1]; k++) {
			if (atomic_load(&s->stop))
				return -ECANCELED;
			fill_one(s, s->u.page[k], c);
		}
	return atomic_load(&s->stop) ? -ECANCELED : 0;
}

/* Nobody looks at what is let go here: who asks from now on hears that all is
 * there, and who asked before is waited for. */
static void finish(struct pages_source *s)
{
	memory_set_source(s->memory, NULL, NULL);
	atomic_store(&s->done, true);
	while (atomic_load(&s->inside))
		sched_yield();
	faults_close(s->faults);
	s->faults = NULL;
	close(s->u.file.fd);
	for (u64 c = 0; s->kept && c < s->u.file.contents; c++)
		free(s->kept[c]);
	free(s->kept);
	s->kept = NULL;
	unpack_close(&s->u);
	for (unsigned i = 0; i < ROOMS; i++)
		state_room_fini(&s->rooms[i]);
}

/* Half of the processors: vCPUs have work, too. */
static void *read_ahead(void *ctx)
{
	struct pages_source *s = ctx;

	if (parallel_some(parallel_threads() / 2, s->u.file.count, bring_whole,
	                  s) == 0) {
		log_debug("state", "all of memory was read");
		atomic_store(&s->whole_ns, loop_now_ns());
		finish(s);
	}
	return NULL;
}

void pages_source_tell(struct pages_source *s, pages_lost_fn *fn, void *ctx)
{
	s->lost_ctx = ctx;
	atomic_store(&s->lost, fn);
	if (atomic_load(&s->failed) < 0)
		lose(s, atomic_load(&s->failed));
}

void pages_source_run(struct pages_source *s)
{
	s->threaded = thread_start(&s->thread, 0, read_ahead, s) == 0;
	if (!s->threaded)
		read_ahead(s);
}

u64 pages_source_whole_ns(const struct pages_source *s)
{
	return s ? atomic_load(&s->whole_ns) : 0;
}

bool pages_source_done(const struct pages_source *s)
{
	return !s || atomic_load(&s->done);
}

void pages_source_destroy(struct pages_source *s)
{
	if (!s)
		return;
	atomic_store(&s->stop, true);
	if (s->threaded)
		pthread_join(s->thread, NULL);
	if (!atomic_load(&s->done))
		finish(s);
	free((void *)(uintptr_t)s->state);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->read);
	free(s);
}
