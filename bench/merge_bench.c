/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge_bench - how long a merge takes that may copy a tenth of what its guest
 * writes, and what that costs the guest: merge_bench [PART].
 *
 * The guest writes as fast as it can, one request after the other, to a part
 * of its disk (PART: 4 is a quarter; else some by turns). Files lie in the
 * current directory.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "storage/image.h"
#include "storage/jobs.h"

#define DISK (256 * MIB)
enum { SECONDS = 2, PATIENCE = 90 };

static const struct kind {
	const char *name;
	u32 bytes;
	bool random;
} kinds[] = {
	{ "4k random", 4096, true },
	{ "1M in order", MIB, false },
};

struct guest {
	struct block *b;
	const struct kind *kind;
	u64 area, at;
	u8 *data;
	_Atomic bool stop;
	_Atomic u64 bytes, longest; /* longest: ns, of one write */
	pthread_t thread;
};

static void must(int rc, const struct error *err)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "error: %s\n", err->text);
	exit(1);
}

static void *guest_run(void *arg)
{
	struct guest *g = arg;

	while (!g->stop) {
		u64 start = loop_now_ns(), n;

		if (g->kind->random)
			g->at =
			    g->at * 6364136223846793005u + 1442695040888963407u;
		else
			g->at++;
		n = (g->kind->random ? g->at >> 20 : g->at) %
		    (g->area / g->kind->bytes);
		(void)block_sync(g->b, BLOCK_WRITE, n * g->kind->bytes, g->data,
		                 g->kind->bytes);
		n = loop_now_ns() - start;
		g->bytes += g->kind->bytes;
		if (n > g->longest)
			g->longest = n;
	}
	return NULL;
}

static char *name(const char *what)
{
	static char path[2][64];
	char *p = path[what[0] == 'b'];

	snprintf(p, sizeof(path[0]), "merge-bench-%d-%s", (int)getpid(), what);
	return p;
}

static struct block *open_one(const char *what, struct error *err)
{
	const struct block_open how = { .path = name(what),
		                        .fd = -1,
		                        .format = "qcow2",
		                        .flags = BLOCK_OPEN_THREADS,
		                        .opener = &block_opener_paths };
	struct block *b = NULL;

	must(block_open(&b, &how, err), err);
	return b;
}

static int open_base(void *ctx, struct block **out, struct error *err)
{
	(void)ctx;
	*out = open_one("base", err);
	return 0;
}

/* An overlay of an image, both full. */
static struct block *make_chain(void)
{
	struct image_create how = { .path = name("base"),
		                    .format = "qcow2",
		                    .size = DISK };
	u8 *data = xalloc(MIB);
	struct block *b = NULL;
	struct error err;

	memset(data, 0x5a, MIB);
	for (int i = 0; i < 2; i++) {
		must(image_create(&how, &err), &err);
		b = open_one(i ? "top" : "base", &err);
		for (u64 at = 0; at < DISK; at += MIB)
			(void)block_sync(b, BLOCK_WRITE, at, data, MIB);
		if (i == 0)
			block_close(b);
		how.backing = name("base");
		how.backing_format = "qcow2";
		how.path = name("top");
	}
	free(data);
	return live_open(b);
}

/* Bytes a second of the guest for so long, or while the job is in a state. */
struct phase {
	u64 bytes, start_ns, ns;
};

static void begin(struct phase *p, struct guest *g)
{
	p->bytes = g->bytes;
	p->start_ns = loop_now_ns();
}

static double end(struct phase *p, struct guest *g)
{
	p->ns = loop_now_ns() - p->start_ns;
	return p->ns ? (double)(g->bytes - p->bytes) * 1e9 / (double)p->ns / MIB
	             : 0;
}

static void merge(struct guest *g, double alone)
{
	const struct job_options options = { .rate = (u64)(alone * MIB / 10) };
	const struct job_base base = { .open = open_base };
	struct phase whole = { 0 }, behind = { 0 }, both = { 0 };
	double slow = 0, fast = 0;
	struct job_status s;
	struct error err;
	struct job *j;

	g->longest = 0;
	begin(&whole, g);
	begin(&behind, g);
	must(job_commit(&j, g->b, 0, 1, &base, &options, &err), &err);
	do {
		usleep(1000);
		job_status(j, &s);
		if (s.both && !both.start_ns) {
			fast = end(&behind, g);
			begin(&both, g);
		}
		if (s.state == JOB_READY)
			(void)job_complete(j, true);
	} while (s.state < JOB_DONE && end(&whole, g) >= 0 &&
	         whole.ns < PATIENCE * (u64)NSEC_PER_SEC);
	if (both.start_ns)
		slow = end(&both, g);
	else
		fast = end(&behind, g);
	printf("%8.1f %8.1f %9.1f %9.1f %9.1f %9.1f %9.0f  %s\n", alone,
	       (double)options.rate / MIB, (double)whole.ns / 1e9, fast,
	       (double)both.ns / 1e9, slow, (double)g->longest / 1e6,
	       s.state == JOB_DONE ? "" : "did not end");
	fflush(stdout);
	job_destroy(j);
}

static void try(const struct kind *kind, unsigned part)
{
	struct guest g = { .b = make_chain(),
		           .kind = kind,
		           .area = DISK / part,
		           .data = xalloc(kind->bytes) };
	struct phase p;

	pthread_create(&g.thread, NULL, guest_run, &g);
	begin(&p, &g);
	sleep(SECONDS);
	printf("%-12s 1/%-3u", kind->name, part);
	merge(&g, end(&p, &g));
	g.stop = true;
	pthread_join(g.thread, NULL);
	block_close(g.b);
	free(g.data);
	unlink(name("base"));
	unlink(name("top"));
}

int main(int argc, char **argv)
{
	static const unsigned parts[] = { 1, 4, 32 };

	printf("MiB/s, s, longest write in ms\n%-12s %-5s%8s %8s %9s %9s %9s "
	       "%9s %9s\n",
	       "writes", "to", "alone", "rate", "takes", "behind", "both for",
	       "both", "longest");
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		for (size_t k = 0; k < ARRAY_SIZE(parts); k++)
			if (argc < 2 || (unsigned)atoi(argv[1]) == parts[k])
				try(&kinds[i], parts[k]);
	return 0;
}
