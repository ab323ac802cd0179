/* SPDX-License-Identifier: Apache-2.0 */
/* Whose turn it is in a machine's queue, held against its promises on random
 * courses: tasks come, end and are cancelled in any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/daemon.h"

enum { COURSES = 3000, STEPS = 60, WAITING_MAX = 12 };

static const struct {
	const char *kind;
	bool slow;   /* hours, perhaps */
	bool passes; /* need not wait for those */
} kinds[] = {
	{ "start", false, false },       { "restart", false, false },
	{ "suspend", false, false },     { "snapshot-create", false, false },
	{ "delete", false, false },      { "stop", false, true },
	{ "kill", false, true },         { "pause", false, true },
	{ "resume", false, true },       { "reset", false, true },
	{ "powerdown", false, true },    { "backup", true, false },
	{ "disk-mirror", true, false },  { "disk-commit", true, false },
	{ "disk-snapshot", true, false }
};

/* xorshift: the same courses each time. */
static u64 seed = 0x9e3779b97f4a7c15;

static size_t below(size_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

struct course {
	struct vm vm;
	s64 last;
	unsigned came, ran, cancelled, overtook;
};

static size_t kind_of(const struct task *t)
{
	size_t i = 0;

	while (strcmp(kinds[i].kind, t->kind))
		i++;
	return i;
}

static bool slow(const struct task *t)
{
	return kinds[kind_of(t)].slow;
}

static bool passes(const struct task *t)
{
	return kinds[kind_of(t)].passes;
}

static size_t count(const struct course *c, enum task_state state)
{
	size_t n = 0;

	for (const struct task *t = c->vm.queue; t; t = t->next)
		n += t->state == state;
	return n;
}

static void come(struct course *c)
{
	struct task *t = xalloc(sizeof(*t)), **at = &c->vm.queue;

	t->vm = &c->vm;
	t->id = ++c->last;
	t->kind = xstrdup(kinds[below(ARRAY_SIZE(kinds))].kind);
	while (*at)
		at = &(*at)->next;
	*at = t;
	c->came++;
}

/* One of those in that state, any. */
static void leave(struct course *c, enum task_state state)
{
	size_t n = count(c, state), which = n ? below(n) : 0;
	struct task **at = &c->vm.queue, *t;

	if (!n)
		return;
	while ((*at)->state != state || which--)
		at = &(*at)->next;
	t = *at;
	*at = t->next;
	free(t->kind);
	free(t);
}

/* Nobody is overtaken but what is slow, by what need not wait for it. */
static void check_turn(struct course *c, const struct task *turn)
{
	assert_int_equal(turn->state, TASK_QUEUED);
	for (const struct task *t = c->vm.queue; t != turn; t = t->next) {
		assert_true(slow(t));
		assert_true(passes(turn));
		c->overtook++;
	}
}

/* One slow one at a time, one other, and beside a slow one only what may be. */
static void check_running(const struct course *c)
{
	unsigned slow_ones = 0, others = 0, waits = 0;

	for (const struct task *t = c->vm.queue; t; t = t->next) {
		if (t->state != TASK_RUNNING)
			continue;
		slow_ones += slow(t);
		others += !slow(t);
		waits += !slow(t) && !passes(t);
	}
	assert_true(slow_ones <= 1 && others <= 1);
	assert_true(!slow_ones || !waits);
}

static void turns(struct course *c)
{
	struct task *t;

	while ((t = task_next_to_run(&c->vm))) {
		check_turn(c, t);
		t->state = TASK_RUNNING;
		c->ran++;
		check_running(c);
	}
	/* Where something waits something runs. */
	assert_true(!c->vm.queue || count(c, TASK_RUNNING));
}

static void test_courses(void **state)
{
	unsigned overtook = 0;

	(void)state;
	for (int i = 0; i < COURSES; i++) {
		struct course c = { .last = 0 };

		for (int step = 0; step < STEPS; step++) {
			size_t what = below(10);

			if (what < 5 && count(&c, TASK_QUEUED) < WAITING_MAX) {
				come(&c);
			} else if (what < 9) {
				leave(&c, TASK_RUNNING);
			} else if (count(&c, TASK_QUEUED)) {
				leave(&c, TASK_QUEUED);
				c.cancelled++;
			}
			turns(&c);
		}
		/* Each has its turn in the end, and only one. */
		while (c.vm.queue) {
			leave(&c, TASK_RUNNING);
			turns(&c);
		}
		assert_int_equal(c.ran + c.cancelled, c.came);
		overtook += c.overtook;
	}
	/* The courses are not all alike. */
	assert_true(overtook > COURSES);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_courses) };

	return cmocka_run_group_tests_name("task queue", tests, NULL, NULL);
}
