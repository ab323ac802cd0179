/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage_bench - what the formats cost over a plain file.
 *
 * Each row is one pattern on one disk, all in one run, so that the ratios mean
 * something on a noisy host. Files lie in the current directory.
 */
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"

#define DISK (256 * MIB)
enum { DEPTH_MAX = 32 };

struct pattern {
	const char *name;
	enum block_op op;
	u32 bytes;
	unsigned depth, flush_every; /* 0: never */
	bool random;
	unsigned requests;
	bool at_once; /* as a guest's disk asks: over when submit returns, if it
	               * can; depth is 1 */
};

static const struct pattern patterns[] = {
	{ "4k random read, at once", BLOCK_READ, 4096, 1, 0, true, 200000,
	  true },
	{ "4k random write, at once", BLOCK_WRITE, 4096, 1, 0, true, 100000,
	  true },
	{ "64k random read, at once", BLOCK_READ, 65536, 1, 0, true, 20000,
	  true },
	{ "4k random read, depth 1", BLOCK_READ, 4096, 1, 0, true, 20000 },
	{ "4k random read, depth 32", BLOCK_READ, 4096, 32, 0, true, 60000 },
	{ "4k random write, depth 1", BLOCK_WRITE, 4096, 1, 0, true, 20000 },
	{ "4k random write, depth 32", BLOCK_WRITE, 4096, 32, 0, true, 60000 },
	{ "1M sequential read", BLOCK_READ, MIB, 4, 0, false, 1000 },
	{ "1M sequential write", BLOCK_WRITE, MIB, 4, 0, false, 500 },
	{ "4k write and flush", BLOCK_WRITE, 4096, 1, 1, true, 100 },
};

struct slot {
	struct block_request req;
	struct iovec iov;
	struct run *run;
};

struct run {
	struct block *b;
	const struct pattern *p;
	_Atomic unsigned next, left;
	_Atomic int error;
	sem_t done;
	struct slot slots[DEPTH_MAX];
};

static u64 scramble(u64 x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15u;
	return x ^ x >> 29;
}

static void go(struct slot *s);

static void slot_done(struct block_request *req, int result)
{
	struct slot *s = req->ctx;
	struct run *r = s->run;

	if (result < 0)
		atomic_store(&r->error, result);
	if (r->p->at_once || atomic_fetch_sub(&r->left, 1) == 1)
		sem_post(&r->done);
	else
		go(s);
}

static void go(struct slot *s)
{
	struct run *r = s->run;
	const struct pattern *p = r->p;
	unsigned i = atomic_fetch_add(&r->next, 1);
	u64 units = DISK / p->bytes;

	if (i >= p->requests)
		return;
	s->req.op = p->op;
	s->req.flags = p->flush_every ? BLOCK_REQ_FUA
	               : p->at_once   ? BLOCK_REQ_INLINE
	                              : 0;
	s->req.offset =
	    (p->random ? scramble(i) % units : i % units) * p->bytes;
	s->req.length = p->bytes;
	block_submit(r->b, &s->req);
}

static double seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double run(struct block *b, const struct pattern *p, double *cpu)
{
	struct run *r = xalloc(sizeof(*r));
	double start, used;

	r->b = b;
	r->p = p;
	atomic_store(&r->left, p->requests);
	sem_init(&r->done, 0, 0);
	for (unsigned i = 0; i < p->depth; i++) {
		struct slot *s = &r->slots[i];

		s->run = r;
		s->iov.iov_base = aligned_alloc(4096, p->bytes);
		s->iov.iov_len = p->bytes;
		memset(s->iov.iov_base, (int)i + 1, p->bytes);
		s->req.iov = &s->iov;
		s->req.iov_count = 1;
		s->req.done = slot_done;
		s->req.ctx = s;
	}
	start = seconds(CLOCK_MONOTONIC);
	used = seconds(CLOCK_PROCESS_CPUTIME_ID);
	for (unsigned i = 0; i < (p->at_once ? p->requests : p->depth); i++) {
		go(&r->slots[p->at_once ? 0 : i]);
		if (p->at_once)
			sem_wait(&r->done);
	}
	if (!p->at_once)
		sem_wait(&r->done);
	block_drain(b);
	*cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
	start = seconds(CLOCK_MONOTONIC) - start;
	if (r->error)
		printf("error %d\n", r->error);
	for (unsigned i = 0; i < p->depth; i++)
		free(r->slots[i].iov.iov_base);
	sem_destroy(&r->done);
	free(r);
	return start;
}

static struct block *make(const char *path, const char *format, unsigned flags)
{
	struct image_create how = {
		.path = path, .format = format, .size = DISK, .replace = true
	};
	struct block_open open = {
		.path = path, .fd = -1, .format = format, .flags = flags
	};
	struct error err;
	struct block *b;
	u8 *data = aligned_alloc(4096, MIB);

	memset(data, 0x33, MIB);
	if (image_create(&how, &err) < 0 || block_open(&b, &open, &err) < 0) {
		fprintf(stderr, "error: %s\n", err.text);
		exit(1);
	}
	for (u64 at = 0; at < DISK; at += MIB)
		(void)block_sync(b, BLOCK_WRITE, at, data, MIB);
	(void)block_sync(b, BLOCK_FLUSH, 0, NULL, 0);
	free(data);
	return b;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name, *format;
		unsigned flags;
	} disks[] = {
		{ "raw", "raw", BLOCK_OPEN_THREADS },
		{ "qcow2", "qcow2", BLOCK_OPEN_THREADS },
		{ "raw, io_uring", "raw", BLOCK_OPEN_URING },
		{ "qcow2, io_uring", "qcow2", BLOCK_OPEN_URING },
	};
	struct block *b[ARRAY_SIZE(disks)];
	char path[ARRAY_SIZE(disks)][64];

	for (size_t i = 0; i < ARRAY_SIZE(disks); i++) {
		snprintf(path[i], sizeof(path[i]), "storage-bench-%d-%zu",
		         (int)getpid(), i);
		b[i] = make(path[i], disks[i].format, disks[i].flags);
		unlink(path[i]);
	}
	printf("%-28s", "requests per second");
	for (size_t i = 0; i < ARRAY_SIZE(disks); i++)
		printf(" %15s", disks[i].name);
	printf("  qcow2/raw  cpu\n");
	for (size_t k = 0; k < ARRAY_SIZE(patterns); k++) {
		const struct pattern *p = &patterns[k];
		double rate[ARRAY_SIZE(disks)] = { 0 };
		double used[ARRAY_SIZE(disks)] = { 0 };

		if (argc > 1 && !strstr(p->name, argv[1]))
			continue;
		/* The best of three, the disks by turns. */
		for (int round = 0; round < 3; round++)
			for (size_t i = 0; i < ARRAY_SIZE(disks); i++) {
				double cpu, t = run(b[i], p, &cpu);

				rate[i] = MAX(rate[i], p->requests / t);
				used[i] += cpu;
			}
		printf("%-28s", p->name);
		for (size_t i = 0; i < ARRAY_SIZE(disks); i++)
			printf(" %15.0f", rate[i]);
		printf("  %8.2f  %4.2f\n", rate[1] / rate[0],
		       used[1] / used[0]);
		fflush(stdout);
	}
	for (size_t i = 0; i < ARRAY_SIZE(disks); i++)
		block_close(b[i]);
	return 0;
}
