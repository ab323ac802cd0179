/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/state/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/thread.h"

struct work {
	parallel_fn *fn;
	void *ctx;
	u64 count;
	_Atomic u64 next;
	_Atomic int result;
};

struct worker {
	struct work *work;
	unsigned index;
	pthread_t thread;
};

static void *run(void *ctx)
{
	struct worker *w = ctx;
	struct work *work = w->work;
	u64 i;

	while (!atomic_load(&work->result) &&
	       (i = atomic_fetch_add(&work->next, 1)) < work->count) {
		int rc = work->fn(work->ctx, w->index, i);

		if (rc)
			atomic_store(&work->result, rc);
	}
	return NULL;
}

unsigned parallel_threads(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)MIN(MAX(CPU_COUNT(&set), 1), PARALLEL_MAX);
}

int parallel_some(unsigned threads, u64 count, parallel_fn *fn, void *ctx)
{
	struct work work = { .fn = fn, .ctx = ctx, .count = count };
	struct worker workers[PARALLEL_MAX];
	unsigned started = 1;

	threads = (unsigned)MIN((u64)threads, count);
	workers[0] = (struct worker){ .work = &work };
	/* Fewer threads than wished for do the same work. */
	for (; started < threads; started++) {
		workers[started] =
		    (struct worker){ .work = &work, .index = started };
		if (thread_start(&workers[started].thread, 0, run,
		                 &workers[started]))
			break;
	}
	run(&workers[0]);
	for (unsigned i = 1; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	return work.result;
}

int parallel_for(u64 count, parallel_fn *fn, void *ctx)
{
	return parallel_some(parallel_threads(), count, fn, ctx);
}
