/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 against the model: every shape of image, with and without snapshots,
 * cuts of the power, and I/O errors. An argument multiplies the work.
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "support.h"

static unsigned factor = 1;
static u32 first_seed = 1;

struct shape {
	const char *name;
	struct model_options o;
};

#define SIZE (3 * MIB + 7 * 512)

static const struct shape shapes[] = {
	{ "64k", { .image = { .size = SIZE } } },
	{ "512",
	  { .image = { .size = MIB, .cluster_bytes = 512 },
	    .snapshots = true } },
	{ "4k, refcount 1",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 4096,
	               .refcount_bits = 1 } } },
	{ "2k, refcount 64, snapshots",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 2048,
	               .refcount_bits = 64 },
	    .snapshots = true,
	    .bitmaps = true } },
	{ "64k, snapshots, backing",
	  { .image = { .size = SIZE },
	    .backing_bytes = 2 * MIB - 512,
	    .snapshots = true } },
	{ "4k, backing larger, resize",
	  { .image = { .size = MIB, .cluster_bytes = 4096, .refcount_bits = 8 },
	    .backing_bytes = 4 * MIB,
	    .resizes = true,
	    .bitmaps = true } },
	{ "lazy refcounts",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 4096,
	               .lazy_refcounts = true },
	    .snapshots = true } },
	{ "extended L2",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 16384,
	               .extended_l2 = true },
	    .snapshots = true } },
	{ "extended L2, backing",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 32768,
	               .extended_l2 = true },
	    .backing_bytes = MIB + 512,
	    .resizes = true,
	    .bitmaps = true } },
	{ "version 2", { .image = { .size = SIZE, .version = 2 } } },
	{ "version 2, backing",
	  { .image = { .size = SIZE, .version = 2, .cluster_bytes = 4096 },
	    .backing_bytes = MIB } },
	{ "2M",
	  { .image = { .size = 9 * MIB, .cluster_bytes = 2 * MIB },
	    .snapshots = true } },
	{ "everything",
	  { .image = { .size = SIZE,
	               .cluster_bytes = 1024,
	               .refcount_bits = 4 },
	    .backing_bytes = MIB,
	    .snapshots = true,
	    .resizes = true,
	    .bitmaps = true } },
};

static void run(struct model_options o, unsigned steps, unsigned seeds)
{
	struct model_figures sum = { 0 };

	/* Enough to go through everything once; test-long goes on. */
	o.steps = factor > 1 ? steps : steps / 3;
	for (unsigned i = 0; i < seeds * factor; i++) {
		o.seed = first_seed + i;
		model_run(&o, &sum);
	}
	print_message("%llu requests, %llu cuts, %llu snapshots, %llu judged by"
	              " qemu-img\n",
	              (unsigned long long)sum.requests,
	              (unsigned long long)sum.crashes,
	              (unsigned long long)sum.snapshots,
	              (unsigned long long)sum.oracle_checks);
}

static void test_calm(void **state)
{
	const struct shape *s = *state;
	struct model_options o = s->o;

	o.oracle = model_have_oracle();
	run(o, 150, 1);
}

static void test_cuts(void **state)
{
	const struct shape *s = *state;
	struct model_options o = s->o;

	/* Version 2 has no dirty bit to cover a snapshot cut short. */
	o.crashes = true;
	o.oracle = model_have_oracle();
	run(o, 150, 1);
}

static void test_errors(void **state)
{
	const struct shape *s = *state;
	struct model_options o = s->o;

	o.fail_one_in = 60;
	o.oracle = model_have_oracle();
	run(o, 100, 1);
}

int main(int argc, char **argv)
{
	enum { SHAPES = ARRAY_SIZE(shapes) };
	struct CMUnitTest tests[SHAPES * 3];
	static const struct {
		const char *name;
		CMUnitTestFunction fn;
	} kinds[] = { { "calm", test_calm },
		      { "cuts", test_cuts },
		      { "errors", test_errors } };
	static char names[SHAPES * 3][64];
	size_t n = 0;

	if (getenv("STORAGE_TEST_DEBUG"))
		log_set_level(LOG_DEBUG);
	if (argc > 1)
		factor = (unsigned)atoi(argv[1]);
	if (argc > 2)
		first_seed = (u32)atoi(argv[2]);
	if (argc > 3)
		cmocka_set_test_filter(argv[3]);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < SHAPES; i++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s: %s",
			         kinds[k].name, shapes[i].name);
			tests[n] = (struct CMUnitTest){
				names[n], kinds[k].fn, NULL, NULL,
				(void *)(uintptr_t)&shapes[i]
			};
		}
	return cmocka_run_group_tests_name("qcow2 model", tests, NULL, NULL);
}
