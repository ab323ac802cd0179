/* SPDX-License-Identifier: Apache-2.0 */
/* What decides over a host's processors and memory: pure functions, held
 * against their promises on random hosts. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "daemon/limits/limits.h"
#include "daemon/watch/watch.h"

enum { GUESTS = 12, ROUNDS = 20000 };

/* xorshift: the same hosts each time. */
static u64 seed = 0x9e3779b97f4a7c15;

static u64 below(u64 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

/* ---- memory ---- */

static size_t random_guests(struct memory_guest *g)
{
	size_t n = below(GUESTS + 1);

	for (size_t i = 0; i < n; i++) {
		g[i] = (struct memory_guest){
			.size = (1 + below(2048)) * MIB,
			.balloon = below(4) != 0,
			.idle = below(2) == 0,
		};
		g[i].reservation = below(3) ? 0 : below(g[i].size);
		g[i].limit = below(4) ? g[i].size : below(g[i].size);
		g[i].now = below(g[i].size + 1) & ~(u64)4095;
		g[i].now = MAX(g[i].now, g[i].reservation);
		g[i].used = below(g[i].size);
	}
	return n;
}

static void test_memory_promises(void **state)
{
	struct memory_guest g[GUESTS];
	unsigned took = 0, gave = 0;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		struct memory_host h = {
			.total = 16 * GIB,
			.available = below(16 * GIB),
			.headroom = below(2 * GIB),
			.some = (int)below(4000) - 1,
		};
		size_t n = random_guests(g);
		bool idle_left = false, idle_gave = false, busy_gave = false;
		u64 given = 0, taken = 0;

		memory_plan(&h, g, n);
		for (size_t i = 0; i < n; i++) {
			u64 most = MAX(MIN(g[i].limit, g[i].size),
			               MIN(g[i].reservation, g[i].size));
			u64 start = MIN(g[i].now, most);

			assert_true(g[i].target <= most);
			/* Never below the reservation, nor what it uses. */
			if (g[i].target < start) {
				assert_true(g[i].target >= g[i].reservation);
				assert_true(g[i].target >=
				            MIN(g[i].used, most));
				assert_true(g[i].balloon);
				assert_true(start - g[i].target <=
				            g[i].size / 8);
				taken += start - g[i].target;
				busy_gave |= !g[i].idle;
				idle_gave |= g[i].idle;
				took++;
			} else if (g[i].target > start) {
				assert_true(g[i].balloon);
				given += g[i].target - start;
				gave++;
			}
			if (g[i].balloon && g[i].idle && g[i].target == start &&
			    start > MAX(MAX(g[i].used + g[i].used / 10,
			                    g[i].reservation),
			                64 * MIB) +
			                4096)
				idle_left = true;
		}
		/* Nobody gives and takes in one round. */
		assert_true(!given || !taken);
		/* A busy one gives only when no idle one can. */
		assert_false(busy_gave && (idle_left || idle_gave));
		if (given)
			assert_true(h.some < 100 && h.available > h.headroom);
	}
	/* The hosts above are not all alike. */
	assert_true(took > 1000 && gave > 1000);
}

/* Pressed long enough every guest ends at what it can't do without; calm long
 * enough it has everything back. */
static void test_memory_course(void **state)
{
	struct memory_guest g[3] = {
		{ .size = 1024 * MIB, .used = 100 * MIB, .idle = true },
		{ .size = 1024 * MIB,
		  .used = 100 * MIB,
		  .reservation = 512 * MIB },
		{ .size = 1024 * MIB, .used = 900 * MIB },
	};
	struct memory_host h = { .total = 8 * GIB,
		                 .available = 100 * MIB,
		                 .headroom = 1 * GIB };

	(void)state;
	for (int i = 0; i < 3; i++) {
		g[i].balloon = true;
		g[i].limit = g[i].now = g[i].size;
	}
	for (int round = 0; round < 50; round++) {
		memory_plan(&h, g, 3);
		for (int i = 0; i < 3; i++) {
			assert_true(g[i].target <= g[i].now);
			g[i].now = g[i].target;
		}
	}
	assert_in_range(g[0].now, 110 * MIB, 111 * MIB);
	assert_int_equal(g[1].now, 512 * MIB);
	assert_in_range(g[2].now, 990 * MIB, 991 * MIB);
	h.available = 6 * GIB;
	for (int round = 0; round < 50; round++) {
		memory_plan(&h, g, 3);
		for (int i = 0; i < 3; i++)
			g[i].now = g[i].target;
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(g[i].now, g[i].size);
}

/* A guest that lends is not one that uses: what it can't do without is the same
 * at every size of its balloon, whichever way it counts. */
static void test_memory_needed(void **state)
{
	const u64 size = 512 * MIB, kernel = 40 * MIB, uses = 30 * MIB;

	(void)state;
	for (u64 lent = 0; lent <= 384 * MIB; lent += 64 * MIB)
		for (int counts = 0; counts < 2; counts++) {
			u64 has = size - kernel - lent;
			struct vm_rates r = {
				.balloon_bytes = lent,
				.lent_bytes = counts ? lent : 0,
				.guest_total_bytes =
				    (s64)(has + (counts ? lent : 0)),
				.guest_available_bytes = (s64)(has - uses),
				.guest_resident_bytes = 99 * MIB,
			};

			assert_int_equal(watch_used_bytes(&r), uses);
			assert_int_equal(watch_needed_bytes(&r, size),
			                 uses + kernel);
			r.guest_total_bytes = -1;
			assert_int_equal(watch_used_bytes(&r), 99 * MIB);
			assert_int_equal(watch_needed_bytes(&r, size),
			                 99 * MIB);
		}
}

/* ---- processors ---- */

static void test_shares(void **state)
{
	struct share s[GUESTS];

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		unsigned processors = 1 + (unsigned)below(16);
		size_t n = 1 + below(GUESTS);
		double sum = 0, reserved = 0;

		for (size_t i = 0; i < n; i++) {
			u64 left = (u64)(100.0 * processors - reserved);

			s[i] = (struct share){ .weight = 1 + below(1000) };
			if (below(3) == 0)
				s[i].reservation = below(left / (n + 1) + 1);
			reserved += (double)s[i].reservation;
		}
		shares_settle(s, n, processors);
		for (size_t i = 0; i < n; i++) {
			assert_in_range(s[i].effective, 1, 10000);
			sum += (double)s[i].effective;
		}
		for (size_t i = 0; i < n; i++) {
			double got =
			    (double)s[i].effective / sum * 100 * processors;

			/* Rounded to whole weights. */
			assert_true(got + got * 0.01 +
			                100.0 * processors / sum + 0.5 >=
			            (double)s[i].reservation);
			for (size_t k = 0; k < n; k++)
				if (!s[i].reservation && !s[k].reservation &&
				    s[i].weight >= s[k].weight)
					assert_true(s[i].effective >=
					            s[k].effective);
		}
	}
}

static void test_shares_examples(void **state)
{
	struct share s[3] = { { .weight = 100 },
		              { .weight = 200 },
		              { .weight = 400 } };

	(void)state;
	shares_settle(s, 3, 2);
	assert_int_equal(s[2].effective, 10000);
	assert_in_range(s[1].effective, 4999, 5001);
	assert_in_range(s[0].effective, 2499, 2501);
	/* The light one has one of two processors reserved. */
	s[0].reservation = 100;
	shares_settle(s, 3, 2);
	assert_in_range(s[0].effective, 9999, 10000);
	assert_in_range(s[1].effective + s[2].effective, 9999, 10001);
}

/* ---- where vCPUs stand ---- */

static double load_of(const struct spread_vcpu *v, size_t n, unsigned cpu)
{
	double load = 0;

	for (size_t i = 0; i < n; i++)
		if (v[i].on == cpu)
			load += v[i].weight;
	return load;
}

/* Does the step, as the kernel does it. */
static void take_step(struct spread_vcpu *v, size_t n,
                      const struct spread_step *s)
{
	unsigned from = v[s->first].on, to = s->to;
	double before = MAX(load_of(v, n, from), load_of(v, n, to)), after;

	assert_true(s->first < n && v[s->first].stays && from != to);
	assert_true(v[s->first].allowed[0] & BIT(to));
	v[s->first].on = to;
	if (s->second != SPREAD_NONE) {
		assert_true(s->second < n && v[s->second].stays);
		assert_int_equal(v[s->second].on, to);
		assert_true(v[s->second].allowed[0] & BIT(from));
		v[s->second].on = from;
	}
	after = MAX(load_of(v, n, from), load_of(v, n, to));
	assert_true(after <= before * 0.9 + 1e-9);
}

static void test_spread(void **state)
{
	enum { CPUS = 8, VCPUS = 24 };
	struct spread_vcpu v[VCPUS];
	struct spread_step step;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		unsigned cpus = 1 + (unsigned)below(CPUS), steps = 0;
		size_t n = below(VCPUS + 1);
		bool pinned[VCPUS];

		for (size_t i = 0; i < n; i++) {
			pinned[i] = below(4) == 0;
			v[i] = (struct spread_vcpu){
				.weight = (double)(1 + below(1000)),
				.on = (unsigned)below(cpus),
				.stays = below(5) != 0,
				.allowed = { BIT(cpus) - 1 },
			};
			if (pinned[i])
				v[i].allowed[0] = BIT(v[i].on);
		}
		/* Each makes it more even: it comes to an end. */
		while (spread_choose(v, n, &step)) {
			take_step(v, n, &step);
			assert_true(!pinned[step.first]);
			assert_true(++steps < 1000);
		}
	}
}

static void test_spread_examples(void **state)
{
	enum { ONE = 0, TWO = 2 };
	struct spread_vcpu v[] = {
		{ .weight = 50, .stays = true, .allowed = { 3 } },
		{ .weight = 50, .stays = true, .allowed = { 3 } },
		{ .weight = 100, .stays = true, .allowed = { 3 } },
		{ .weight = 100, .stays = true, .allowed = { 3 }, .on = 1 },
	};
	struct spread_step step;

	(void)state;
	/* Both of the light one's on a processor: one goes. */
	assert_true(spread_choose(v, 4, &step));
	assert_int_equal(step.to, 1);
	assert_in_range(step.first, ONE, ONE + 1);
	assert_true(step.second == SPREAD_NONE);
	/* Each machine on a processor of its own: they exchange one. */
	v[TWO].on = 1;
	assert_true(spread_choose(v, 4, &step));
	assert_in_range(step.first, TWO, TWO + 1);
	assert_in_range(step.second, ONE, ONE + 1);
	/* Even: nothing. */
	v[ONE].on = 1;
	v[TWO].on = 0;
	assert_false(spread_choose(v, 4, &step));
	/* A processor on which none of them stands has other work: not there.
	 */
	v[ONE].on = v[TWO + 1].on = 0;
	assert_false(spread_choose(v, 4, &step));
}

/* ---- admission ---- */

static void test_admission(void **state)
{
	struct host_policy p = { .headroom_bytes = GIB, .overcommit = 100 };
	struct demand running = { .memory = 2 * GIB };
	struct demand wanted = { .memory = GIB };
	struct error err;

	(void)state;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err), 0);
	wanted.memory++;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err),
	                 -ENOSPC);
	p.overcommit = 150;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err), 0);
	/* What is reserved can't be promised twice. */
	running.memory_reservation = 2 * GIB;
	wanted.memory_reservation = GIB + 1;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err),
	                 -ENOSPC);
	wanted.memory_reservation = 0;
	running.cpu_reservation = 150;
	wanted.cpu_reservation = 50;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err), 0);
	wanted.cpu_reservation = 51;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err),
	                 -ENOSPC);
	wanted.cpu_reservation = 0;
	assert_int_equal(admit(&p, 4 * GIB, 1, &running, &wanted, &err), 0);
	/* Headroom above all there is: nothing starts. */
	p.headroom_bytes = 8 * GIB;
	assert_int_equal(admit(&p, 4 * GIB, 2, &running, &wanted, &err),
	                 -ENOSPC);
}

static void test_lists(void **state)
{
	u64 set[16];

	(void)state;
	assert_int_equal(cpu_list_parse("0-2,5,64", set, NULL), 0);
	assert_int_equal(set[0], 0x27);
	assert_int_equal(set[1], 1);
	assert_int_equal(cpu_list_parse("", set, NULL), 0);
	assert_int_equal(set[0], 0);
	assert_int_equal(cpu_list_parse("1,", set, NULL), -EINVAL);
	assert_int_equal(cpu_list_parse("3-1", set, NULL), -EINVAL);
	assert_int_equal(cpu_list_parse("-1", set, NULL), -EINVAL);
	assert_int_equal(cpu_list_parse("1024", set, NULL), -EINVAL);
	/* One that is there will do; none means all. */
	assert_int_equal(cpu_list_meets("1-5", "0-1", NULL), 0);
	assert_int_equal(cpu_list_meets("", "0-1", NULL), 0);
	assert_int_equal(cpu_list_meets("2-5,900", "0-1", NULL), -ENOSPC);
	assert_int_equal(cpu_list_parse("1 2", set, NULL), -EINVAL);
	assert_int_equal(cpu_list_parse("99999999999999999999", set, NULL),
	                 -EINVAL);
}

/* ---- watching ---- */

static void test_pressure_text(void **state)
{
	static const char text[] =
	    "some avg10=12.34 avg60=1.00 avg300=0.00 total=5\n"
	    "full avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";

	(void)state;
	assert_int_equal(psi_parse(text, "some"), 1234);
	assert_int_equal(psi_parse(text, "full"), 50);
	assert_int_equal(psi_parse("", "some"), -1);
	assert_int_equal(psi_parse("some avg10=x", "some"), -1);
	assert_int_equal(psi_parse("some avg10=-4", "some"), -1);
}

static void test_alarm(void **state)
{
	struct alarm_state s = { 0 };
	const u64 second = NSEC_PER_SEC;

	(void)state;
	assert_int_equal(alarm_step(&s, true, 10 * second, 5 * second),
	                 ALARM_SAME);
	assert_int_equal(alarm_step(&s, false, 12 * second, 5 * second),
	                 ALARM_SAME);
	/* The time is counted anew. */
	assert_int_equal(alarm_step(&s, true, 13 * second, 5 * second),
	                 ALARM_SAME);
	assert_int_equal(alarm_step(&s, true, 17 * second, 5 * second),
	                 ALARM_SAME);
	assert_int_equal(alarm_step(&s, true, 18 * second, 5 * second),
	                 ALARM_RAISED);
	assert_int_equal(alarm_step(&s, true, 30 * second, 5 * second),
	                 ALARM_SAME);
	assert_int_equal(alarm_step(&s, false, 31 * second, 5 * second),
	                 ALARM_CLEARED);
	assert_int_equal(alarm_step(&s, true, 32 * second, 0), ALARM_RAISED);
}

static void test_advice(void **state)
{
	struct usage u = { .points = 100,
		           .cpu_max = 3900,
		           .used_max = 3 * GIB };
	struct sizing s = sizing_advice(&u, 4, 4 * GIB);

	(void)state;
	/* Too early to say. */
	assert_int_equal(s.cpus, 4);
	assert_true(s.words[0]);
	u.points = 4000;
	s = sizing_advice(&u, 4, 4 * GIB);
	assert_int_equal(s.cpus, 6);
	assert_int_equal(s.memory_bytes, 4 * GIB);
	u.cpu_max = 300;
	u.used_max = 500 * MIB;
	s = sizing_advice(&u, 4, 4 * GIB);
	assert_int_equal(s.cpus, 1);
	assert_int_equal(s.memory_bytes, 640 * MIB);
	u.cpu_max = 2900;
	u.used_max = 3 * GIB;
	s = sizing_advice(&u, 4, 4 * GIB);
	assert_int_equal(s.cpus, 4);
	assert_string_equal(s.words, "");
}

static void test_history(void **state)
{
	char path[] = "/tmp/atoll-history-XXXXXX";
	u64 values[METRIC_COUNT] = { 0 };
	struct history *h = NULL;
	struct error err = { 0 };
	struct usage u;
	json_t *points;
	const s64 start = 1700000400; /* a whole hour */
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(history_open(&h, path, &err), 0);
	for (s64 t = 0; t < 7200; t += 10) {
		values[METRIC_CPU] = t % 300 == 0 ? 2000 : 100;
		values[METRIC_USED] = (u64)t;
		history_begin(h);
		history_add(h, "a", start + t, values);
		history_end(h, start + t);
	}
	points = history_points(h, "a", start, start + 600, &err);
	assert_int_equal(json_array_size(json_object_get(points, "points")),
	                 61);
	json_decref(points);
	/* Over more than six hours: five minutes each, means and most. */
	points = history_points(h, "a", start, start + 86400, &err);
	assert_int_equal(json_integer_value(json_object_get(points, "step_s")),
	                 300);
	assert_int_equal(json_array_size(json_object_get(points, "points")),
	                 23);
	{
		json_t *first =
		    json_array_get(json_object_get(points, "points"), 0);

		assert_int_equal(json_integer_value(json_array_get(first, 0)),
		                 start);
		assert_int_equal(json_integer_value(json_array_get(first, 1)),
		                 (2000 + 29 * 100) / 30);
		assert_int_equal(
		    json_integer_value(json_array_get(first, 1 + METRIC_COUNT)),
		    2000);
	}
	json_decref(points);
	history_usage(h, "a", start, &u);
	assert_int_equal(u.points, 23);
	assert_int_equal(u.used_max, 23 * 300 - 10);
	/* Much later the fine points are gone, the coarse ones are not. */
	history_begin(h);
	history_add(h, "a", start + 86400, values);
	history_end(h, start + 86400);
	points = history_points(h, "a", start, start + 3600, &err);
	assert_int_equal(json_array_size(json_object_get(points, "points")), 0);
	json_decref(points);
	points = history_points(h, "a", start, start + 86400 * 2, &err);
	assert_true(json_array_size(json_object_get(points, "points")) >= 24);
	json_decref(points);
	history_forget(h, "a");
	points = history_points(h, "a", start, start + 86400 * 2, &err);
	assert_int_equal(json_array_size(json_object_get(points, "points")), 0);
	json_decref(points);
	history_close(h);
	close(fd);
	remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_promises),
		cmocka_unit_test(test_memory_course),
		cmocka_unit_test(test_memory_needed),
		cmocka_unit_test(test_shares),
		cmocka_unit_test(test_shares_examples),
		cmocka_unit_test(test_spread),
		cmocka_unit_test(test_spread_examples),
		cmocka_unit_test(test_admission),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_pressure_text),
		cmocka_unit_test(test_alarm),
		cmocka_unit_test(test_advice),
		cmocka_unit_test(test_history),
	};

	return cmocka_run_group_tests_name("policies", tests, NULL, NULL);
}
