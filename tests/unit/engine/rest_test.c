/* SPDX-License-Identifier: Apache-2.0 */
/* When a vCPU that rests hands back what it made, by clocks of our own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/types.h"
#include "engine/interp/rest.h"

#define HOUR ((u64)3600)

struct life {
	struct rest rest;
	struct rest_now now;
	u64 made;         /* of host code, since the beginning */
	unsigned emptied; /* times */
};

static void begin(struct life *l)
{
	*l = (struct life){ 0 };
	rest_begin(&l->rest, &l->now);
}

static void make(struct life *l, u64 ops, u64 host)
{
	l->now.ops += ops;
	l->now.decoded += ops;
	l->now.host += host;
	l->made += host;
}

/* Runs so many thousandths of a second of the next one. */
static enum rest_verdict second(struct life *l, unsigned ran_ms)
{
	enum rest_verdict v;

	l->now.ns += NSEC_PER_SEC;
	l->now.cpu_ns += ran_ms * NSEC_PER_MSEC;
	assert_true(rest_is_due(&l->rest, &l->now));
	v = rest_look(&l->rest, &l->now);
	if (v != REST_KEEP)
		l->now.ops = l->now.decoded = 0;
	if (v == REST_ALL) {
		l->now.host = l->now.blocks = 0;
		l->emptied++;
	}
	return v;
}

/* Seconds until everything went, or most. */
static u64 until_empty(struct life *l, unsigned ran_ms, u64 most)
{
	u64 n = 1;

	while (second(l, ran_ms) != REST_ALL && n < most)
		n++;
	return n;
}

static void test_the_more_the_longer(void **state)
{
	u64 little, much;
	struct life l;

	(void)state;
	begin(&l);
	make(&l, MIB, MIB);
	little = until_empty(&l, 5, HOUR);
	assert_in_range(little, 1, 3);
	begin(&l);
	make(&l, 16 * MIB, 30 * MIB);
	much = until_empty(&l, 5, HOUR);
	assert_in_range(much, 10 * little, 60);
	/* More than there is credit for, too. */
	begin(&l);
	make(&l, 64 * MIB, 1024 * MIB);
	assert_in_range(until_empty(&l, 5, HOUR), much, 60);
}

static void test_busy(void **state)
{
	struct life l;

	(void)state;
	begin(&l);
	make(&l, 16 * MIB, 4 * MIB);
	for (u64 n = 0; n < HOUR; n++)
		assert_int_not_equal(second(&l, 50), REST_ALL);
	/* Now and then it is as good as a lot. */
	begin(&l);
	make(&l, 0, 4 * MIB);
	for (u64 n = 0; n < HOUR; n++)
		assert_int_equal(second(&l, n % 3 ? 0 : 500), REST_KEEP);
}

static void test_little_stays(void **state)
{
	struct life l;

	(void)state;
	begin(&l);
	make(&l, MIB / 2, MIB / 4);
	for (u64 n = 0; n < HOUR; n++)
		assert_int_equal(second(&l, 0), REST_KEEP);
	assert_int_equal(rest_until_ns(&l.rest, &l.now), 0);
}

/* Each time it wakes it makes what it needs, if that is not there any more. */
static void test_periodic(void **state)
{
	const u64 host = 2 * MIB;
	struct life l;

	(void)state;
	for (u64 period = 2; period <= 60; period *= 2) {
		begin(&l);
		for (u64 n = 0; n < HOUR; n++) {
			if (n % period == 0 && !l.now.host)
				make(&l, 4 * MIB, host);
			second(&l, n % period ? 2 : 30);
		}
		/* Less than a hundredth of a processor: 70 MiB take 4 s. */
		assert_in_range(l.made, host, 140 * MIB);
	}
}

/* Asleep without a timer of its own it is woken once, when it is time. */
static void test_asleep(void **state)
{
	struct life l;
	u64 wait;

	(void)state;
	begin(&l);
	make(&l, 0, 8 * MIB);
	assert_int_equal(second(&l, 900), REST_KEEP);
	wait = rest_until_ns(&l.rest, &l.now);
	assert_true(wait > NSEC_PER_SEC);
	l.now.ns += wait;
	assert_int_equal(rest_look(&l.rest, &l.now), REST_ALL);
	/* Without credit: when there is enough of it again. */
	for (unsigned n = 0; n < 4; n++) {
		make(&l, 0, 30 * MIB);
		wait = rest_until_ns(&l.rest, &l.now);
		l.now.ns += wait;
		(void)rest_look(&l.rest, &l.now);
		wait = rest_until_ns(&l.rest, &l.now);
	}
	assert_true(wait > 60 * NSEC_PER_SEC);
	l.now.ns += wait;
	assert_int_equal(rest_look(&l.rest, &l.now), REST_ALL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_more_the_longer),
		cmocka_unit_test(test_busy),
		cmocka_unit_test(test_little_stays),
		cmocka_unit_test(test_periodic),
		cmocka_unit_test(test_asleep),
	};

	return cmocka_run_group_tests_name("engine rest", tests, NULL, NULL);
}
