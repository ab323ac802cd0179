/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs against the model: each kind of work, to its end, cancelled, and with
 * a cut of the power. Arguments: how many times the work, the first seed.
 */
#include "jobs_model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* A rate holds a job back; lifting it and a cancel take effect at once. */
static void test_rate(void **state)
{
	char *from = scratch_file(".raw", 8 * MIB);
	char *to = scratch_file(".raw", 8 * MIB);
	const struct job_options options = { .rate = 4 * MIB };
	struct block *live;
	double start = seconds();
	struct job_status s;
	struct error err;
	struct job *j;

	(void)state;
	live = live_open(open_raw(from));
	assert_int_equal(
	    job_mirror(&j, live, open_raw(to), false, &options, &err), 0);
	assert_int_equal(job_wait(j, 300), JOB_RUNNING);
	job_status(j, &s);
	assert_true(s.done < 8 * MIB && s.total == 8 * MIB);
	assert_true((double)s.done <= (seconds() - start + 1) * 4.4 * MIB);
	job_set_rate(j, 0);
	assert_int_equal(job_wait(j, 60000), JOB_READY);
	assert_int_equal(job_complete(j, false), 0);
	assert_int_equal(job_wait_end(j, 60000), JOB_DONE);
	job_destroy(j);
	block_close(live);
	unlink(from);
	unlink(to);
	free(from);
	free(to);
}

int main(int argc, char **argv)
{
	static enum jobs_work kinds[WORKS];
	static char names[WORKS * 3][64];
	struct CMUnitTest tests[WORKS * 3 + 1];
	size_t n = 0;
	static const struct {
		const char *name;
		CMUnitTestFunction fn;
	} ways[] = { { "whole", test_whole },
		     { "cancelled", test_cancel },
		     { "cut", test_cut } };

	if (argc > 1)
		factor = (unsigned)atoi(argv[1]);
	if (argc > 2)
		first_seed = (u32)atoi(argv[2]);
	if (argc > 3)
		cmocka_set_test_filter(argv[3]);
	for (int w = 0; w < WORKS; w++)
		kinds[w] = (enum jobs_work)w;
	for (size_t k = 0; k < ARRAY_SIZE(ways); k++)
		for (int w = 0; w < WORKS; w++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s: %s",
			         ways[k].name, works[w]);
			tests[n] = (struct CMUnitTest){ names[n], ways[k].fn,
				                        NULL, NULL, &kinds[w] };
		}
	tests[n] = (struct CMUnitTest)cmocka_unit_test(test_rate);
	return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
