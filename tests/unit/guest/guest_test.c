/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, buses, lines, clock, state chunks, reset state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>
#include <errno.h>

#include "base/error.h"
#include "guest/bus.h"
#include "guest/clock.h"
#include "guest/cpu.h"
#include "guest/irq.h"
#include "guest/memory.h"
#include "guest/state.h"

/* ---- memory ---- */

static unsigned code_calls;
static gpa_t code_gpa;

static void code_written(void *ctx, gpa_t gpa, u64 len)
{
	(void)ctx;
	(void)len;
	code_calls++;
	code_gpa = gpa;
}

static struct memory *two_slots(void)
{
	struct memory *mem;

	assert_int_equal(memory_create(&mem, NULL), 0);
	assert_int_equal(
	    memory_add(mem, 0x10000, 0x2000, MEMORY_RAM, "high", NULL), 0);
	assert_int_equal(memory_add(mem, 0, 0x10000, MEMORY_RAM, "low", NULL),
	                 0);
	assert_int_equal(
	    memory_add(mem, 0xff000, 0x1000, MEMORY_ROM, "rom", NULL), 0);
	return mem;
}

static void memory_spans_and_bounds(void **state)
{
	struct memory *mem = two_slots();
	u8 out[16], in[16] = "0123456789abcde";
	struct error err;

	(void)state;
	assert_true(memory_write(mem, 0xfff8, in, 16));
	assert_true(memory_read(mem, 0xfff8, out, 16));
	assert_memory_equal(in, out, 16);
	assert_null(memory_ptr(mem, 0xfff8, 16)); /* two slots */
	assert_non_null(memory_ptr(mem, 0xfff0, 16));
	assert_null(memory_ptr(mem, 0xfff0, UINT64_MAX));
	assert_false(memory_read(mem, 0x11ff8, out, 16)); /* past the end */
	assert_false(memory_write(mem, 0x11ff8, in, 16));
	assert_false(memory_read(mem, UINT64_MAX - 3, out, 16));
	assert_null(memory_find(mem, 0x12000));
	assert_int_equal(
	    memory_add(mem, 0x11000, 0x2000, MEMORY_RAM, "x", &err), -EEXIST);
	assert_int_equal(memory_ram_bytes(mem), 0x12000);
	memory_destroy(mem);
}

static void memory_rom_and_flags(void **state)
{
	struct memory *mem = two_slots();
	u8 byte = 0xaa;

	(void)state;
	assert_true(memory_write(mem, 0xff000, &byte, 1));
	assert_int_equal(*(u8 *)memory_ptr(mem, 0xff000, 1), 0);
	assert_null(memory_ptr_rw(mem, 0xff000, 1));

	memory_set_code_watch(mem, code_written, NULL);
	code_calls = 0;
	memory_write(mem, 0x3004, &byte, 1);
	assert_int_equal(*memory_page_flags(mem, 0x3000), PAGE_DIRTY);
	assert_int_equal(code_calls, 0);
	atomic_fetch_or(memory_page_flags(mem, 0x4000), PAGE_CODE);
	memory_written(mem, 0x3ffc, 8);
	assert_int_equal(code_calls, 1);
	assert_int_equal(code_gpa, 0x4000);
	memory_destroy(mem);
}

static void memory_aliases_share(void **state)
{
	struct memory *mem = two_slots();
	u8 byte = 0x5a;

	(void)state;
	assert_int_equal(memory_alias(mem, 0x200000, 0x4000, 0x1000, NULL), 0);
	assert_true(memory_write(mem, 0x200010, &byte, 1));
	assert_int_equal(*(u8 *)memory_ptr(mem, 0x4010, 1), 0x5a);
	assert_ptr_equal(memory_page_flags(mem, 0x4000),
	                 memory_page_flags(mem, 0x200000));
	assert_int_equal(memory_ram_bytes(mem), 0x12000);
	memory_destroy(mem);
}

/* ---- bus ---- */

struct chip {
	u8 regs[16];
	unsigned last_size, reads, writes;
};

static u64 chip_read(void *ctx, u64 off, unsigned size)
{
	struct chip *c = ctx;
	u64 v = 0;

	c->reads++;
	c->last_size = size;
	memcpy(&v, c->regs + off, size);
	return v;
}

static void chip_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct chip *c = ctx;

	c->writes++;
	c->last_size = size;
	memcpy(c->regs + off, &value, size);
}

static void bus_splits_and_widens(void **state)
{
	static const struct bus_ops dword = { chip_read, chip_write, 4, 4 };
	struct chip c = { .regs = { 0, 1, 2, 3, 4, 5, 6, 7 } };
	struct bus_region r = { .base = 0x100,
		                .size = 16,
		                .ops = &dword,
		                .ctx = &c,
		                .notify_fd = -1 };
	struct bus *bus;
	u64 v;

	(void)state;
	assert_int_equal(bus_create(&bus, 0x10000), 0);
	assert_false(bus_read(bus, 0x100, 4, &v));
	assert_int_equal(v, 0xffffffff);
	bus_map(bus, &r);
	assert_true(bus_read(bus, 0x101, 1, &v));
	assert_int_equal(v, 1);
	assert_int_equal(c.last_size, 4);
	assert_true(bus_read(bus, 0x100, 8, &v));
	assert_true(v == 0x0706050403020100);
	assert_true(bus_write(bus, 0x102, 2, 0xbbaa));
	assert_true(bus_read(bus, 0x100, 4, &v));
	assert_int_equal(v, 0xbbaa0100);
	/* Half inside: what nobody claims reads as ones. */
	assert_true(bus_read(bus, 0x10e, 4, &v));
	assert_int_equal(v, 0xffff0000);
	bus_unmap(bus, &r);
	assert_false(bus_write(bus, 0x100, 4, 1));
	bus_destroy(bus);
}

static u64 bells[4];
static unsigned bell_count;

static void note_bell(void *ctx, u64 addr, int fd, bool on)
{
	assert_ptr_equal(ctx, bells);
	assert_true(bell_count + 2 <= ARRAY_SIZE(bells));
	bells[bell_count++] = addr | (u64)on << 63;
	bells[bell_count++] = (u64)fd;
}

/* Whoever asked hears where doorbells come and go, and of nothing else. */
static void bus_tells_of_doorbells(void **state)
{
	struct chip c = { 0 };
	static const struct bus_ops bytes = { chip_read, chip_write, 1, 4 };
	struct bus_region quiet = { .base = 0x100,
		                    .size = 16,
		                    .ops = &bytes,
		                    .ctx = &c,
		                    .notify_fd = -1 };
	struct bus_region bell = quiet;
	struct bus *bus;
	u64 times = 0;

	(void)state;
	bell.base = 0x204;
	bell.notify_off = 4;
	bell.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(bell.notify_fd >= 0);
	assert_int_equal(bus_create(&bus, 0x10000), 0);
	bus_set_doorbells(bus, note_bell, bells);
	bus_map(bus, &quiet);
	bus_map(bus, &bell);
	assert_int_equal(bell_count, 2);
	assert_true(bells[0] == (0x208 | (u64)1 << 63));
	assert_int_equal(bells[1], bell.notify_fd);
	/* A write that comes this way rings too, and does no more. */
	assert_true(bus_write(bus, 0x208, 2, 7));
	assert_true(bus_write(bus, 0x204, 2, 7));
	assert_int_equal(c.writes, 1);
	assert_int_equal(read(bell.notify_fd, &times, sizeof(times)),
	                 sizeof(times));
	assert_int_equal(times, 1);
	bus_unmap(bus, &quiet);
	bus_unmap(bus, &bell);
	assert_int_equal(bell_count, 4);
	assert_int_equal(bells[2], 0x208);
	close(bell.notify_fd);
	bus_destroy(bus);
}

/* ---- lines ---- */

static int level[24];

static void record_gsi(void *ctx, unsigned gsi, bool high)
{
	(void)ctx;
	level[gsi] = high ? level[gsi] + 10 : level[gsi] - 9;
}

static void record_msi(void *ctx, u64 addr, u32 data)
{
	(void)ctx;
	(void)addr;
	(void)data;
}

static void lines_are_ored(void **state)
{
	const struct irq_sink sink = { NULL, record_gsi, record_msi };
	struct irq_line a, b;
	struct irq_hub *hub;

	(void)state;
	assert_int_equal(irq_hub_create(&hub, &sink), 0);
	irq_line_init(&a, hub, 5);
	irq_line_init(&b, hub, 5);
	irq_line_set(&a, true);
	irq_line_set(&b, true);
	irq_line_set(&a, true);
	assert_int_equal(level[5], 10); /* told once */
	irq_line_set(&a, false);
	assert_int_equal(level[5], 10);
	irq_line_set(&b, false);
	assert_int_equal(level[5], 1);
	irq_hub_destroy(hub);
}

/* ---- clock ---- */

struct ticking {
	struct loop *loop;
	struct clock *clock;
	u64 at;
};

static void tick(void *ctx)
{
	struct ticking *t = ctx;

	t->at = clock_now_ns(t->clock);
	loop_quit(t->loop, 0);
}

static void clock_stands_while_stopped(void **state)
{
	struct ticking t = { 0 };
	struct clock_timer timer;

	(void)state;
	assert_int_equal(loop_create(&t.loop, NULL), 0);
	assert_int_equal(clock_create(&t.clock, t.loop), 0);
	assert_int_equal(clock_now_ns(t.clock), 0);
	clock_set_ns(t.clock, 5 * NSEC_PER_SEC);
	clock_timer_init(&timer, t.clock, NULL, tick, &t);
	clock_timer_arm(&timer, 5 * NSEC_PER_SEC + 2 * NSEC_PER_MSEC);
	assert_int_equal(clock_now_ns(t.clock), 5 * NSEC_PER_SEC);
	clock_start(t.clock);
	loop_run(t.loop);
	assert_true(t.at >= 5 * NSEC_PER_SEC + 2 * NSEC_PER_MSEC);
	clock_stop(t.clock);
	assert_int_equal(clock_now_ns(t.clock), clock_now_ns(t.clock));
	clock_timer_fini(&timer);
	clock_destroy(t.clock);
	loop_destroy(t.loop);
}

/* ---- state ---- */

struct thing {
	u32 a;
	u16 many[3];
	u8 blob[5];
};
static const struct field thing_fields[] = {
	FIELD_VALUE(struct thing, a),
	FIELD_ARRAY(struct thing, many),
	FIELD_BLOB(struct thing, blob),
	FIELD_LAST,
};
static const struct field old_fields[] = {
	FIELD_VALUE(struct thing, a),
	FIELD_LAST,
};

static void state_round_trip(void **state)
{
	const struct thing from = { 77, { 1, 2, 3 }, "abcd" };
	struct thing to = { 0 }, old = { 0 };
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err;

	(void)state;
	state_save(&w, "other", "0", 1, 0, old_fields, &from);
	state_save(&w, "thing", "0", 1, 1, thing_fields, &from);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, "thing", "0", 1, thing_fields, &to, &err), 0);
	assert_memory_equal(&from, &to, sizeof(to));
	/* A reader that knows fewer fields skips the rest. */
	assert_int_equal(
	    state_load(&r, "thing", "0", 1, old_fields, &old, &err), 0);
	assert_int_equal(old.a, 77);
	assert_int_equal(
	    state_load(&r, "thing", "1", 1, old_fields, &old, &err), -ENOENT);
	assert_int_equal(
	    state_load(&r, "thing", "0", 0, old_fields, &old, &err), -EPROTO);
	state_writer_fini(&w);
}

static void state_cut_anywhere(void **state)
{
	const struct thing from = { 77, { 1, 2, 3 }, "abcd" };
	struct state_writer w = { 0 };
	struct error err;

	(void)state;
	state_save(&w, "thing", "0", 1, 1, thing_fields, &from);
	for (size_t n = 0; n < w.used; n++) {
		struct thing to = { .a = 5 };
		struct state_reader r = { w.data, n, 0 };

		assert_true(state_load(&r, "thing", "0", 1, thing_fields, &to,
		                       &err) < 0);
		assert_int_equal(to.a, 5);
	}
	state_writer_fini(&w);
}

static void reset_state(void **state)
{
	struct cpu_state cpu;
	char text[2048];

	(void)state;
	cpu_state_reset(&cpu, true, 0xa00f11);
	assert_int_equal(cpu.seg[SEG_CS].base + cpu.rip, 0xfffffff0);
	assert_int_equal(cpu.gpr[GPR_RDX], 0xa00f11);
	assert_int_equal(cpu_state_cpl(&cpu), 0);
	cpu_state_init(&cpu, 1);
	assert_int_equal(cpu.mp_state, CPU_WAIT_SIPI);
	cpu_state_sipi(&cpu, 0x9a);
	assert_int_equal(cpu.seg[SEG_CS].base + cpu.rip, 0x9a000);
	cpu_state_print(&cpu, text, sizeof(text));
	assert_non_null(strstr(text, "cs 9a00"));
	cpu_state_print(&cpu, text, 10);
	assert_true(strlen(text) < 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_spans_and_bounds),
		cmocka_unit_test(memory_rom_and_flags),
		cmocka_unit_test(memory_aliases_share),
		cmocka_unit_test(bus_splits_and_widens),
		cmocka_unit_test(bus_tells_of_doorbells),
		cmocka_unit_test(lines_are_ored),
		cmocka_unit_test(clock_stands_while_stopped),
		cmocka_unit_test(state_round_trip),
		cmocka_unit_test(state_cut_anywhere),
		cmocka_unit_test(reset_state),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
