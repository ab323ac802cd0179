/* SPDX-License-Identifier: Apache-2.0 */
/* Loop, timers, units, errors. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/kernel_file.h"
#include "base/loop.h"
#include "base/units.h"

static void sizes(void **state)
{
	struct error err;
	u64 v = 7;
	char buf[32];

	(void)state;
	assert_int_equal(parse_size("512M", 1, &v, &err), 0);
	assert_int_equal(v, 512 * MIB);
	assert_int_equal(parse_size("1.5GiB", 1, &v, &err), 0);
	assert_int_equal(v, 3 * GIB / 2);
	assert_int_equal(parse_size("512", MIB, &v, &err), 0);
	assert_int_equal(v, 512 * MIB);
	assert_int_equal(parse_size("10B", MIB, &v, &err), 0);
	assert_int_equal(v, 10);
	v = 7;
	static const char *const bad[] = { "",    "-1", "x",   "1Q",  "1MM",
		                           "inf", " 5", "0x5", "9E99" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(parse_size(bad[i], 1, &v, &err) < 0);
		assert_true(strlen(err.text) > 0);
	}
	assert_int_equal(v, 7);
	assert_string_equal(format_size(3 * GIB / 2, buf, sizeof(buf)),
	                    "1.5 GiB");
}

static void numbers(void **state)
{
	u64 v = 0;

	(void)state;
	assert_int_equal(parse_u64("64", 1, 64, &v, NULL), 0);
	assert_int_equal(v, 64);
	assert_int_equal(parse_u64("0x10", 1, 64, &v, NULL), 0);
	assert_int_equal(v, 16);
	assert_true(parse_u64("65", 1, 64, &v, NULL) < 0);
	assert_true(parse_u64("-1", 0, UINT64_MAX, &v, NULL) < 0);
	assert_true(parse_u64("1x", 0, 9, &v, NULL) < 0);
	assert_int_equal(parse_duration("250ms", &v, NULL), 0);
	assert_int_equal(v, 250 * NSEC_PER_MSEC);
	assert_true(parse_duration("5y", &v, NULL) < 0);
}

struct order {
	struct loop *loop;
	char seen[16];
	size_t n;
	struct loop_timer a, b, c;
};

static void fire_a(void *ctx)
{
	struct order *o = ctx;

	o->seen[o->n++] = 'a';
	loop_quit(o->loop, 42);
}

static void fire_b(void *ctx)
{
	struct order *o = ctx;

	o->seen[o->n++] = 'b';
	loop_timer_cancel(&o->c);
}

static void fire_c(void *ctx)
{
	struct order *o = ctx;

	o->seen[o->n++] = 'c';
}

static void timers_fire_in_order(void **state)
{
	struct order o = { 0 };
	u64 now = loop_now_ns();

	(void)state;
	assert_int_equal(loop_create(&o.loop, NULL), 0);
	loop_timer_init(&o.a, o.loop, fire_a, &o);
	loop_timer_init(&o.b, o.loop, fire_b, &o);
	loop_timer_init(&o.c, o.loop, fire_c, &o);
	loop_timer_arm(&o.a, now + 6 * NSEC_PER_MSEC);
	loop_timer_arm(&o.c, now + 4 * NSEC_PER_MSEC);
	loop_timer_arm(&o.b, now + 2 * NSEC_PER_MSEC);
	assert_int_equal(loop_run(o.loop), 42);
	assert_string_equal(o.seen, "ba");
	loop_timer_fini(&o.a);
	loop_timer_fini(&o.b);
	loop_timer_fini(&o.c);
	loop_destroy(o.loop);
}

struct pipes {
	struct loop *loop;
	struct loop_fd *watch;
	int fd[2];
	unsigned events;
	char got;
};

static void pipe_event(void *ctx, unsigned events)
{
	struct pipes *p = ctx;

	if (events & LOOP_READ && read(p->fd[0], &p->got, 1) == 1)
		return;
	p->events |= events;
	loop_fd_remove(p->watch);
	loop_quit(p->loop, 0);
}

static void *writer(void *ctx)
{
	struct pipes *p = ctx;

	assert_int_equal(write(p->fd[1], "x", 1), 1);
	close(p->fd[1]);
	return NULL;
}

static void descriptors_and_hangup(void **state)
{
	struct pipes p = { 0 };
	pthread_t thread;

	(void)state;
	assert_int_equal(loop_create(&p.loop, NULL), 0);
	assert_int_equal(pipe(p.fd), 0);
	p.watch = loop_fd_add(p.loop, p.fd[0], LOOP_READ, pipe_event, &p);
	pthread_create(&thread, NULL, writer, &p);
	loop_run(p.loop);
	pthread_join(thread, NULL);
	assert_int_equal(p.got, 'x');
	assert_true(p.events & LOOP_HANGUP);
	close(p.fd[0]);
	loop_destroy(p.loop);
}

static void errors_carry_words(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(error_set(&err, -5, "disk %d is bad", 3), -5);
	error_hint(&err, "try another");
	assert_int_equal(error_prefix(&err, "machine '%s'", "m"), -5);
	assert_string_equal(err.text, "machine 'm': disk 3 is bad");
	assert_string_equal(err.hint, "try another");
	assert_int_equal(error_set(NULL, -7, "nobody reads this"), -7);
	assert_int_equal(error_no_room("x: No space left on device"), -ENOSPC);
	assert_int_equal(error_no_room("File too large: x"), -EFBIG);
	assert_int_equal(error_no_room("x: Input/output error"), 0);
}

/* A thread's name is such a file: what is written is read, as much as fits. */
static void kernel_files(void **state)
{
	static const char path[] = "/proc/thread-self/comm";
	char text[16], few[4];

	(void)state;
	assert_int_equal(kernel_file_write(AT_FDCWD, path, "reader"), 0);
	assert_true(kernel_file_read(AT_FDCWD, path, text, sizeof(text)));
	assert_string_equal(text, "reader\n");
	assert_true(kernel_file_read(AT_FDCWD, path, few, sizeof(few)));
	assert_string_equal(few, "rea");
	assert_false(
	    kernel_file_read(AT_FDCWD, "/proc/self/none", text, sizeof(text)));
	assert_string_equal(text, "");
	assert_int_equal(kernel_file_write(AT_FDCWD, "/proc/self/none", ""),
	                 -ENOENT);
}

static bool is_zero(const u8 *p, size_t size)
{
	return size == 0 || (p[0] == 0 && memcmp(p, p + 1, size - 1) == 0);
}

static unsigned pages_in_memory(u8 *p, size_t size)
{
	u8 *from = (u8 *)ALIGN_UP((uintptr_t)p, (uintptr_t)4096);
	unsigned char there[64] = { 0 };
	unsigned n = 0;

	assert_int_equal(mincore(from, size - 4096, there), 0);
	for (unsigned i = 0; i < sizeof(there); i++)
		n += there[i] & 1;
	return n;
}

/* What was used and freed before is zeroes, and large ones are given back
 * to the host: all of them, and none but them. */
static void memory_is_cleared(void **state)
{
	static const size_t sizes[] = { 1, 100, 16383, 16384, 20000, 61000 };
	enum { LARGE = 32 * 4096 };
	u8 *p;

	(void)state;
	mallopt(M_MMAP_THRESHOLD, 1 << 20);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		p = malloc(sizes[i]);
		assert_non_null(p);
		memset(p, 0xee, sizes[i]);
		free(p);
		p = i % 2 ? xalloc(sizes[i]) : try_alloc(1, sizes[i]);
		assert_true(is_zero(p, sizes[i]));
		free(p);
	}
	assert_null(try_alloc(SIZE_MAX / 2, 3));
	p = malloc(LARGE + 1000);
	memset(p, 0xee, LARGE + 1000);
	assert_int_equal(pages_in_memory(p + 8, LARGE), 31);
	alloc_clear(p + 8, LARGE);
	assert_int_equal(pages_in_memory(p + 8, LARGE), 0);
	assert_true(is_zero(p + 8, LARGE));
	assert_int_equal(p[7], 0xee);
	assert_int_equal(p[8 + LARGE], 0xee);
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(numbers),
		cmocka_unit_test(timers_fire_in_order),
		cmocka_unit_test(descriptors_and_hangup),
		cmocka_unit_test(errors_carry_words),
		cmocka_unit_test(kernel_files),
		cmocka_unit_test(memory_is_cleared),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
