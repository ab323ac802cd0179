/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker for each processor that may be used, each with the same work: what
 * a second processor gains is seen when the same runs with two.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

enum { MOST = 64 };

static unsigned workers(void)
{
	cpu_set_t set;
	int n;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	n = CPU_COUNT(&set);
	return n < MOST ? (unsigned)n : MOST;
}

/* ---- processes that share nothing ---- */

static uint64_t copies(void)
{
	unsigned n = workers();
	pid_t child[MOST];
	uint64_t sum = 0;
	int pipes[2];

	if (pipe(pipes))
		return 0;
	for (unsigned i = 0; i < n; i++) {
		child[i] = fork();
		if (child[i] == 0) {
			sum = core_mix();
			_exit(write(pipes[1], &sum, sizeof(sum)) !=
			      sizeof(sum));
		}
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t one = 0;

		if (read(pipes[0], &one, sizeof(one)) != sizeof(one) ||
		    (i && one != sum))
			return 0;
		sum = one;
	}
	for (unsigned i = 0; i < n; i++)
		waitpid(child[i], NULL, 0);
	close(pipes[0]);
	close(pipes[1]);
	return sum;
}

/* ---- threads that want the same lines ---- */

/* What is contended, and what a lock protects, each on lines of its own. */
struct shared {
	_Alignas(128) int spin;
	_Alignas(128) pthread_mutex_t mutex;
	_Alignas(128) uint64_t count;
	uint64_t ring[8];
	_Alignas(128) unsigned long total;
};

struct job {
	struct shared *shared;
	void (*step)(struct shared *);
	unsigned steps;
};

static void touch(struct shared *s)
{
	uint64_t n = s->count++;

	s->ring[n % 8] += n;
}

static void *job_run(void *arg)
{
	struct job *j = arg;

	for (unsigned i = 0; i < j->steps; i++)
		j->step(j->shared);
	return NULL;
}

/* 0 unless each step of each worker was counted once. */
static uint64_t together(void (*step)(struct shared *), unsigned steps)
{
	struct shared s = { .mutex = PTHREAD_MUTEX_INITIALIZER };
	struct job job = { &s, step, steps };
	unsigned n = workers();
	pthread_t thread[MOST];
	uint64_t sum = 0, all = (uint64_t)n * steps;

	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&thread[i], NULL, job_run, &job))
			exit(1);
	for (unsigned i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	for (unsigned i = 0; i < 8; i++)
		sum += s.ring[i];
	if (s.count + s.total != all || sum != s.count * (s.count - 1) / 2)
		return 0;
	return steps;
}

static void add(struct shared *s)
{
	__atomic_fetch_add(&s->total, 1, __ATOMIC_SEQ_CST);
}

static void under_spinlock(struct shared *s)
{
	while (__atomic_exchange_n(&s->spin, 1, __ATOMIC_ACQUIRE))
		while (__atomic_load_n(&s->spin, __ATOMIC_RELAXED))
			__builtin_ia32_pause();
	touch(s);
	__atomic_store_n(&s->spin, 0, __ATOMIC_RELEASE);
}

static void under_mutex(struct shared *s)
{
	pthread_mutex_lock(&s->mutex);
	touch(s);
	pthread_mutex_unlock(&s->mutex);
}

static uint64_t atomic_add(void)
{
	return together(add, 60000000);
}

static uint64_t spinlock(void)
{
	return together(under_spinlock, 20000000);
}

static uint64_t mutex(void)
{
	return together(under_mutex, 10000000);
}

const struct bench benches_smp[] = {
	{ "copies", "smp", copies },
	{ "atomic-add", "smp", atomic_add },
	{ "spinlock", "smp", spinlock },
	{ "mutex", "smp", mutex },
	{ 0 },
};
