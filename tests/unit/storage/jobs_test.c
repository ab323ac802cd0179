/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs against the model: each kind of work, to its end, cancelled, and with
 * a cut of the power. Arguments: how many times the work, the first seed.
 */
#include "jobs_model.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "storage/image.h"
#include "support.h"

static unsigned factor = 1;
static u32 first_seed = 1;

static const char *const works[WORKS] = {
	"snapshot",
	"commit below the top",
	"commit the top",
	"commit all",
	"mirror",
	"backup",
	"incremental backup",
	"rebase onto a layer",
	"rebase onto another",
	"rebase onto nothing",
};

static void run(enum jobs_work work, bool cut, bool cancel, unsigned times)
{
	struct jobs_figures sum = { 0 };

	for (u32 i = 0; i < times * factor; i++) {
		const struct jobs_options o = { .work = work,
			                        .seed = first_seed + i,
			                        .raw_base = i & 1,
			                        .cut = cut,
			                        .cancel = cancel };

		jobs_model_run(&o, &sum);
	}
	print_message(
	    "%llu requests, %llu done, %llu cancelled, %llu cuts\n",
	    (unsigned long long)sum.requests, (unsigned long long)sum.done,
	    (unsigned long long)sum.cancelled, (unsigned long long)sum.cuts);
}

/* Jobs that follow a guest which is quicker than they may be. */
static void run_busy(const void *work, struct jobs_options o)
{
	struct jobs_figures sum = { 0 };

	o.work = *(const enum jobs_work *)work;
	o.busy = true;
	for (u32 i = 0; i < 4 * factor; i++) {
		o.seed = first_seed + i * 2 + (o.cut && i & 1);
		o.raw_base = i & 2;
		jobs_model_run(&o, &sum);
	}
	print_message(
	    "%llu requests, %llu done, %llu cancelled, %llu failed, "
	    "%llu cuts; both in %llu\n",
	    (unsigned long long)sum.requests, (unsigned long long)sum.done,
	    (unsigned long long)sum.cancelled, (unsigned long long)sum.failed,
	    (unsigned long long)sum.cuts, (unsigned long long)sum.both);
	assert_true(sum.both > 0);
	if (!o.cut && !o.cancel && !o.fail)
		assert_int_equal(sum.done, 4 * factor);
	if (o.fail)
		assert_true(sum.failed > 0);
}

static void test_busy(void **state)
{
	run_busy(*state, (struct jobs_options){ .cut = false });
}

static void test_busy_cancel(void **state)
{
	run_busy(*state, (struct jobs_options){ .cancel = true });
}

static void test_busy_cut(void **state)
{
	run_busy(*state, (struct jobs_options){ .cut = true });
}

static void test_busy_fail(void **state)
{
	run_busy(*state, (struct jobs_options){ .fail = true });
}

static void test_whole(void **state)
{
	run(*(const enum jobs_work *)*state, false, false, 2);
}

static void test_cancel(void **state)
{
	run(*(const enum jobs_work *)*state, false, true, 2);
}

static void test_cut(void **state)
{
	run(*(const enum jobs_work *)*state, true, false, 3);
}

static struct block *open_raw(const char *path)
{
	const struct block_open how = { .path = path, .fd = -1 };
	struct error err;
	struct block *b;

	assert_int_equal(block_open(&b, &how, &err), 0);
	return b;
}

static double seconds(void)
{
	return (double)loop_now_ns() / NSEC_PER_SEC;
}

/* A raw file of that size, of which the first bytes hold something. */
static char *filled_file(u64 size, u64 filled)
{
	char *path = scratch_file(".raw", size);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	u8 *data = xalloc(filled);

	memset(data, 0x5a, filled);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, filled), filled);
	close(fd);
	free(data);
	return path;
}

static void drop_file(char *path)
{
	unlink(path);
	free(path);
}

static struct job *begin_mirror(struct block **live, const char *from,
                                const char *to, bool blank, u64 rate)
{
	const struct job_options options = { .rate = rate };
	struct error err;
	struct job *j;

	*live = live_open(open_raw(from));
	assert_int_equal(
	    job_mirror(&j, *live, open_raw(to), blank, &options, &err), 0);
	return j;
}

static void end_mirror(struct job *j, struct block *live)
{
	assert_int_equal(job_complete(j, false), 0);
	assert_int_equal(job_wait_end(j, 60000), JOB_DONE);
	job_destroy(j);
	block_close(live);
}

/* A disk that holds little is copied as quickly as that little. */
static void test_rate_thin(void **state)
{
	char *from = filled_file(1024 * MIB, MIB);
	char *to = scratch_file(".raw", 1024 * MIB);
	double start = seconds();
	struct block *live;
	struct job *j = begin_mirror(&live, from, to, true, 16 * MIB);

	(void)state;
	assert_int_equal(job_wait(j, 120000), JOB_READY);
	/* What is passed over is not for nothing: 4 MiB of the 1024. */
	assert_true(seconds() - start > 0.1);
	assert_true(seconds() - start < 32);
	end_mirror(j, live);
	drop_file(from);
	drop_file(to);
}

/* A rate holds a job back; lifting it and a cancel take effect at once. */
static void test_rate(void **state)
{
	char *from = filled_file(8 * MIB, 8 * MIB);
	char *to = scratch_file(".raw", 8 * MIB);
	double start = seconds();
	struct block *live;
	struct job *j = begin_mirror(&live, from, to, false, 4 * MIB);
	struct job_status s;

	(void)state;
	assert_int_equal(job_wait(j, 300), JOB_RUNNING);
	job_status(j, &s);
	assert_true(s.done < 8 * MIB && s.total == 8 * MIB);
	assert_true((double)s.done <= (seconds() - start + 1) * 4.4 * MIB);
	job_set_rate(j, 0);
	assert_int_equal(job_wait(j, 60000), JOB_READY);
	end_mirror(j, live);
	drop_file(from);
	drop_file(to);
}

/* ---- writes that overlap, from several threads ---- */

/* It would find what is meant. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
enum { SHARED = !__has_feature(thread_sanitizer) };

enum { WRITERS = 3, AREA = 4 * MIB };

struct writer {
	struct block *live;
	u32 random;
	u8 *data; /* all have the same, and change it while others write it */
	_Atomic bool *stop;
	u64 count;
	pthread_t thread;
};

static void *writer_run(void *arg)
{
	struct writer *w = arg;

	while (!atomic_load(w->stop)) {
		u64 offset = random_next(&w->random) % (AREA / 512 - 64) * 512;
		u64 length = 512 * (1 + random_next(&w->random) % 64);
		bool zero = random_next(&w->random) % 16 == 0;

		memset(w->data, (int)random_next(&w->random), 64 * 512);
		assert_int_equal(
		    block_sync(w->live, zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
		               offset, zero ? NULL : w->data, length),
		    0);
		w->count++;
	}
	return NULL;
}

/* Which of two writes at once is the last nobody says, nor what is in memory
 * that changes: but it is the same in both. */
static void test_overlap(void **state)
{
	char *from = filled_file(AREA, AREA), *to = scratch_file(".raw", AREA);
	const struct job_options options = { .rate = 8 * MIB };
	struct block *live = live_open(open_raw(from)), *copy;
	u8 *memory = xalloc(WRITERS * 64 * 512), *a = xalloc(AREA),
	   *b = xalloc(AREA);
	struct writer w[WRITERS];
	_Atomic bool stop = false;
	struct job_status s;
	struct error err;
	struct job *j;

	(void)state;
	for (u32 i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){
			.live = live,
			.random = i * 2 + 1,
			.data = memory + (SHARED ? 0 : i * 64 * 512),
			.stop = &stop,
		};
		assert_int_equal(
		    pthread_create(&w[i].thread, NULL, writer_run, &w[i]), 0);
	}
	assert_int_equal(
	    job_mirror(&j, live, open_raw(to), false, &options, &err), 0);
	assert_int_equal(job_wait(j, 60000), JOB_READY);
	usleep(100000);
	job_status(j, &s);
	assert_true(s.both && s.done <= s.total);
	stop = true;
	for (u32 i = 0; i < WRITERS; i++)
		pthread_join(w[i].thread, NULL);
	assert_int_equal(job_complete(j, false), 0);
	assert_int_equal(job_wait_end(j, 60000), JOB_DONE);
	job_status(j, &s);
	assert_true(s.done == s.total && !s.both);
	job_destroy(j);
	assert_int_equal(block_sync(live, BLOCK_READ, 0, a, AREA), 0);
	block_close(live);
	copy = open_raw(to);
	assert_int_equal(block_sync(copy, BLOCK_READ, 0, b, AREA), 0);
	block_close(copy);
	assert_memory_equal(a, b, AREA);
	free(a);
	free(b);
	free(memory);
	drop_file(from);
	drop_file(to);
}

/* What a qcow2 image let go of it uses again, also while it is copied to. */
static void test_room(void **state)
{
	char *from = scratch_file(".raw", AREA), *to = scratch_path(".qcow2");
	const struct image_create how = {
		.path = to, .format = "qcow2", .size = AREA, .replace = true
	};
	const struct block_open open = { .path = to,
		                         .fd = -1,
		                         .format = "qcow2" };
	const struct job_options options = { .rate = 8 * MIB };
	struct block *live = live_open(open_raw(from)), *copy;
	u8 *data = xalloc(AREA);
	struct job_status s;
	struct stat st;
	struct error err;
	struct job *j;

	(void)state;
	assert_int_equal(image_create(&how, &err), 0);
	assert_int_equal(block_open(&copy, &open, &err), 0);
	assert_int_equal(job_mirror(&j, live, copy, true, &options, &err), 0);
	memset(data, 7, AREA);
	do {
		assert_int_equal(block_sync(live, BLOCK_WRITE, 0, data, AREA),
		                 0);
		job_status(j, &s);
	} while (!s.both);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(
		    block_sync(live, BLOCK_WRITE_ZEROES, 0, NULL, AREA), 0);
		assert_int_equal(block_sync(live, BLOCK_WRITE, 0, data, AREA),
		                 0);
	}
	assert_int_equal(job_wait(j, 60000), JOB_READY);
	assert_int_equal(stat(to, &st), 0);
	assert_true((u64)st.st_size < 100 * MIB);
	job_destroy(j);
	block_close(live);
	free(data);
	drop_file(from);
	drop_file(to);
}

int main(int argc, char **argv)
{
	/* Any work three ways, those that follow the guest in four more. */
	enum { FOLLOW = 3, TESTS = WORKS * 3 + FOLLOW * 4 };
	static enum jobs_work kinds[WORKS];
	static char names[TESTS][64];
	struct CMUnitTest tests[TESTS + 4];
	size_t n = 0;
	static const struct {
		const char *name;
		CMUnitTestFunction fn;
		bool busy;
	} ways[] = { { "whole", test_whole, false },
		     { "cancelled", test_cancel, false },
		     { "cut", test_cut, false },
		     { "busy", test_busy, true },
		     { "busy, cancelled", test_busy_cancel, true },
		     { "busy, cut", test_busy_cut, true },
		     { "busy, failing", test_busy_fail, true } };

	if (argc > 1)
		factor = (unsigned)atoi(argv[1]);
	if (argc > 2)
		first_seed = (u32)atoi(argv[2]);
	if (argc > 3)
		cmocka_set_test_filter(argv[3]);
	for (int w = 0; w < WORKS; w++)
		kinds[w] = (enum jobs_work)w;
	for (size_t k = 0; k < ARRAY_SIZE(ways); k++)
		for (int w = 0; w < WORKS; w++) {
			if (ways[k].busy && w != WORK_COMMIT_TOP &&
			    w != WORK_COMMIT_ALL && w != WORK_MIRROR)
				continue;
			snprintf(names[n], sizeof(names[n]), "%s: %s",
			         ways[k].name, works[w]);
			tests[n] = (struct CMUnitTest){ names[n], ways[k].fn,
				                        NULL, NULL, &kinds[w] };
			n++;
		}
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_rate);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_rate_thin);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_overlap);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_room);
	assert_int_equal(n, ARRAY_SIZE(tests));
	return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
