/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_state - machines saved in the middle of what they do and gone on with:
 * in either form of memory, under another engine, as a copy; the processor
 * model and memory on their own; and any bytes instead of a state.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/cpuid_leaves.h"
#include "engine/x86/cpuid_state.h"
#include "guest/memory.h"
#include "kernels.h"
#include "machine/generation.h"
#include "machine/internal.h"
#include "machine/machine.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"
#include "two_slots.h"

/*
 * A multiboot guest: counts in memory at 8 MiB without end. When COM1 has a
 * byte it says whether the count is one more than the copy beside it, as it
 * is between any two rounds, and ends.
 */
extern const u8 guest_count[], guest_count_end[];
__asm__(".pushsection .rodata\n.code32\nguest_count:\n"
        "mov $0x800000, %ebx\nmovl $1, (%ebx)\n"
        "1: incl (%ebx)\nincl 4(%ebx)\n"
        "mov $0x3fd, %edx\nin %dx, %al\ntest $1, %al\njz 1b\n"
        "mov (%ebx), %eax\nsub 4(%ebx), %eax\n"
        "cmpl $1000, (%ebx)\njb 2f\ncmp $1, %eax\njne 2f\n"
        "mov $0xf4, %edx\nmov $21, %eax\nout %eax, %dx\n"
        "2: mov $0xf4, %edx\nmov $22, %eax\nout %eax, %dx\n"
        "3: hlt\njmp 3b\n"
        "guest_count_end:\n.code64\n.popsection\n");
enum { GOOD = 21 << 1 | 1 };

struct run {
	struct machine_config config;
	struct machine *machine;
	struct loop *loop;
	struct loop_timer timer;
	int in[2], out, state_fd;
	enum machine_memory_form form;
	u8 generation[GENERATION_SIZE];
	u64 clock_ns;
};

static int make_kernel(void)
{
	size_t size;
	u8 *data = kernel_make(KERNEL_MULTIBOOT_FLAT, &size);
	int fd;

	memcpy(data + 4096 + 64, guest_count,
	       (size_t)(guest_count_end - guest_count));
	fd = kernel_file(data, size);
	free(data);
	return fd;
}

static void begin(struct run *r, const char *engine, int restore_fd)
{
	struct error err = { 0 };

	*r = (struct run){ .state_fd = memfd_create("state", MFD_CLOEXEC) };
	assert_int_equal(pipe2(r->in, O_CLOEXEC), 0);
	r->out = open("/dev/null", O_WRONLY | O_CLOEXEC);
	r->config = (struct machine_config){
		.name = "test",
		.engine = engine,
		.cpus = 1,
		.memory_bytes = 64 * MIB,
		.kernel_fd = make_kernel(),
		.initrd_fd = -1,
		.kernel_path = "kernel",
		.gdb_fd = -1,
		.serials = { { r->in[0], r->out } },
		.serial_count = 1,
		.debug_exit = true,
		.rng = true,
		.restore = restore_fd >= 0,
		.restore_fd = restore_fd,
		.timeout_ns = 30 * NSEC_PER_SEC,
	};
	assert_int_equal(loop_create(&r->loop, &err), 0);
}

static void create(struct run *r)
{
	struct error err = { 0 };

	if (machine_create(&r->machine, &r->config, r->loop, &err) < 0)
		fail_msg("%s", err.text);
}

static void end(struct run *r)
{
	machine_destroy(r->machine);
	loop_destroy(r->loop);
	close(r->config.kernel_fd);
	close(r->in[0]);
	close(r->in[1]);
	close(r->out);
	if (r->state_fd >= 0)
		close(r->state_fd);
}

static void saved(void *ctx, const struct machine_moment_result *result)
{
	struct run *r = ctx;

	if (result->rc < 0)
		fail_msg("%s", result->err->text);
	assert_true(result->saved.zero > 10000 &&
	            result->saved.zero < result->saved.pages);
	assert_true(r->clock_ns == clock_now_ns(r->machine->host.clock));
	machine_quit(r->machine, END_QUIT, "saved", "");
	machine_thaw(r->machine);
}

/* On the loop's thread, while the guest runs. */
static void save_and_quit(void *ctx)
{
	struct run *r = ctx;
	struct machine_moment_config how = { .fd = fcntl(r->state_fd,
		                                         F_DUPFD_CLOEXEC, 3),
		                             .form = r->form,
		                             .still = true,
		                             .sync = true,
		                             .done = saved,
		                             .ctx = r };
	struct error err = { 0 };
	const u32 *count =
	    memory_ptr(r->machine->memory, 0x800000, sizeof(*count));

	/* A busy host may not have let it run yet. */
	assert_non_null(count);
	if (__atomic_load_n(count, __ATOMIC_RELAXED) < 2000) {
		close(how.fd);
		loop_timer_arm(&r->timer, loop_now_ns() + 20 * NSEC_PER_MSEC);
		return;
	}
	machine_freeze(r->machine);
	r->clock_ns = clock_now_ns(r->machine->host.clock);
	memory_read(r->machine->memory, GENERATION_BASE, r->generation,
	            GENERATION_SIZE);
	if (machine_moment(r->machine, &how, &err) < 0)
		fail_msg("%s", err.text);
}

/* A state to go on from, in r->state_fd. */
static void run_and_save(struct run *r, const char *engine, int from,
                         enum machine_memory_form form)
{
	struct machine_outcome outcome;

	begin(r, engine, from);
	r->form = form;
	create(r);
	loop_timer_init(&r->timer, r->loop, save_and_quit, r);
	loop_timer_arm(&r->timer, loop_now_ns() + 100 * NSEC_PER_MSEC);
	machine_run(r->machine, &outcome);
	assert_string_equal(outcome.cause, "saved");
	loop_timer_fini(&r->timer);
}

static void finish(const char *engine, int from)
{
	struct machine_outcome outcome;
	struct run r;

	begin(&r, engine, from);
	create(&r);
	assert_int_equal(write(r.in[1], "g", 1), 1);
	machine_run(r.machine, &outcome);
	assert_string_equal(outcome.cause, "guest-exit");
	assert_int_equal(outcome.code, GOOD);
	end(&r);
}

static void goes_on_under_each_engine(void **state)
{
	struct run a, b;

	(void)state;
	run_and_save(&a, "interp", -1, MACHINE_MEMORY_PACKED);
	run_and_save(&b, "bt", a.state_fd, MACHINE_MEMORY_PLAIN);
	assert_true(b.clock_ns > a.clock_ns);
	assert_memory_equal(a.generation, b.generation, GENERATION_SIZE);
	finish("interp", b.state_fd);
	finish("bt", b.state_fd);
	finish("bt", a.state_fd);
	end(&a);
	end(&b);
}

static void a_copy_is_told_so(void **state)
{
	u8 now[GENERATION_SIZE];
	struct run a, b;
	u64 gpe;

	(void)state;
	run_and_save(&a, "bt", -1, MACHINE_MEMORY_PACKED);
	begin(&b, "bt", a.state_fd);
	b.config.restore_copy = true;
	create(&b);
	assert_true(
	    memory_read(b.machine->memory, GENERATION_BASE, now, sizeof(now)));
	assert_memory_not_equal(now, a.generation, sizeof(now));
	/* GPE0 status: the edge that the notification hangs on. */
	assert_true(bus_read(b.machine->host.pio, 0x620, 1, &gpe));
	assert_true(gpe & BIT(GENERATION_GPE));
	/* Time stands where it stood until it runs. */
	assert_int_equal(clock_now_ns(b.machine->host.clock), a.clock_ns);
	end(&b);
	end(&a);
}

/* No byte of the file may be wrong without a word about it. */
static void altered_states_are_refused(void **state)
{
	struct run a, b;
	u32 random = 1;
	off_t size;

	(void)state;
	run_and_save(&a, "interp", -1, MACHINE_MEMORY_PACKED);
	size = lseek(a.state_fd, 0, SEEK_END);
	for (int i = 0; i < 40; i++) {
		struct error err = { 0 };
		off_t at;
		u8 byte, bad;

		random = random * 1664525 + 1013904223;
		at = i < 20 ? i * 11 : (off_t)(random >> 4) % size;
		assert_int_equal(pread(a.state_fd, &byte, 1, at), 1);
		bad = byte ^ (u8)(1 + (random >> 24) % 255);
		assert_int_equal(pwrite(a.state_fd, &bad, 1, at), 1);
		begin(&b, "interp", a.state_fd);
		/* The padding between sections is nobody's. */
		if (machine_create(&b.machine, &b.config, b.loop, &err) < 0)
			assert_true(strlen(err.text) > 10);
		else
			assert_true(at >= 4096);
		end(&b);
		assert_int_equal(pwrite(a.state_fd, &byte, 1, at), 1);
	}
	end(&a);
}

/* Chunks with sums that are right may still say anything. */
static void any_chunks_do_no_harm(void **state)
{
	struct run a, b;
	struct state_file file;
	struct error err = { 0 };
	u8 *chunks, *about;
	size_t size, about_size;
	u32 random = 7;

	(void)state;
	run_and_save(&a, "interp", -1, MACHINE_MEMORY_PACKED);
	assert_int_equal(state_file_open(&file, a.state_fd, &err), 0);
	assert_int_equal(
	    state_file_read(&file, "state", 1 << 26, &chunks, &size, &err), 0);
	assert_int_equal(
	    state_file_read(&file, "about", 1 << 26, &about, &about_size, &err),
	    0);
	for (int i = 0; i < 60; i++) {
		int fd = memfd_create("bad", MFD_CLOEXEC);
		u8 old[16];
		size_t at;
		u32 map[64 * MIB / PAGE_SIZE] = { 0 };

		random = random * 1664525 + 1013904223;
		at = random % (size - sizeof(old));
		memcpy(old, chunks + at, sizeof(old));
		for (size_t k = 0; k < sizeof(old); k++)
			chunks[at + k] ^= (u8)(random >> (k % 4 * 8));
		assert_int_equal(state_file_begin(&file, fd, &err), 0);
		assert_int_equal(
		    state_file_add(&file, "about", 0, about, about_size, &err),
		    0);
		assert_int_equal(
		    state_file_add(&file, "state", 0, chunks, size, &err), 0);
		state_file_added(&file, "packed", 0, 0);
		assert_int_equal(
		    state_file_add(&file, "blocks", 0, map, 0, &err), 0);
		assert_int_equal(
		    state_file_add(&file, "map", 0, map, sizeof(map), &err), 0);
		assert_int_equal(state_file_finish(&file, false, &err), 0);
		begin(&b, "interp", fd);
		if (machine_create(&b.machine, &b.config, b.loop, &err) < 0)
			assert_true(strlen(err.text) > 10);
		end(&b);
		memcpy(chunks + at, old, sizeof(old));
		close(fd);
	}
	free(chunks);
	free(about);
	end(&a);
}

static void missing_features_are_named(void **state)
{
	const struct cpuid_config config = { .cpus = 1, .tsc_hz = 1000000000 };
	struct cpuid_model *m = cpuid_model_create(&config), *back;
	struct state_writer w = { 0 };
	struct state_reader r;
	struct error err = { 0 };

	(void)state;
	/* One that no processor of ours has. */
	m->has[FEATURE_MISALIGNSSE] = true;
	cpuid_model_save(m, &w);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_true(cpuid_model_load(&back, &r, &config, &err) < 0);
	assert_non_null(strstr(err.text, "misalignsse"));
	state_writer_fini(&w);

	m->has[FEATURE_MISALIGNSSE] = false;
	m->has[FEATURE_SSE42] = false; /* fewer than here: as it was */
	w = (struct state_writer){ 0 };
	cpuid_model_save(m, &w);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(cpuid_model_load(&back, &r, &config, &err), 0);
	assert_memory_equal(back, m, sizeof(*m));
	cpuid_model_destroy(back);
	cpuid_model_destroy(m);
	state_writer_fini(&w);
}

/* A host that has all but SSE4.2 and what AVX brings. */
static bool all_but_two(void *ctx, u32 leaf, u32 subleaf,
                        struct cpuid_regs *out)
{
	(void)ctx;
	(void)subleaf;
	memset(out, 0xff, sizeof(*out));
	if (leaf == 1)
		out->ecx = ~(u32)(BIT(20) | BIT(28));
	return true;
}

static void an_engine_shows_less(void **state)
{
	const struct cpuid_config config = { .cpus = 1, .tsc_hz = 1000000000 };
	struct cpuid_model *m = cpuid_model_create(&config);
	struct error err = { 0 };

	(void)state;
	m->has[FEATURE_SSE42] = m->has[FEATURE_AVX] = true;
	m->has[FEATURE_XSAVE] = m->has[FEATURE_AVX2] = true;
	assert_int_equal(cpuid_model_limit(m, all_but_two, NULL, true, &err),
	                 -ENOTSUP);
	assert_non_null(strstr(err.text, "sse4_2, avx"));
	/* A guest that has not seen it yet is shown what there is. */
	m->has[FEATURE_SSE42] = true;
	assert_int_equal(cpuid_model_limit(m, all_but_two, NULL, false, &err),
	                 0);
	assert_false(m->has[FEATURE_SSE42]);
	assert_false(m->has[FEATURE_AVX2]); /* built on AVX */
	assert_true(m->has[FEATURE_LM]);
	cpuid_model_destroy(m);
}

static void fill(struct memory *mem)
{
	u8 page[PAGE_SIZE];

	for (unsigned i = 0; i < 600; i++) {
		memset(page, (int)(i % 3), sizeof(page));
		if (i % 5 == 0)
			memcpy(page, &i, sizeof(i));
		memory_write(mem, i * 3ull * PAGE_SIZE, page, sizeof(page));
	}
	memory_write(mem, 4 * GIB + 5, "high", 4);
}

static void memory_comes_back(void **state)
{
	struct memory *from = make_memory();

	(void)state;
	fill(from);
	for (int form = PAGES_PACKED; form <= PAGES_PLAIN; form++) {
		int fd = memfd_create("pages", MFD_CLOEXEC);
		struct memory *to = make_memory();
		struct pages_figures figures;
		struct pages_work work = { .stop = true };
		struct state_file f;
		struct error err = { 0 };
		struct memory_view view;
		struct pages_source *source;

		assert_int_equal(memory_freeze(from, &view, &err), 0);
		assert_int_equal(state_file_begin(&f, fd, &err), 0);
		assert_int_equal(pages_save(&f, &view, (enum pages_form)form,
		                            &work, &figures, &err),
		                 -ECANCELED);
		assert_string_equal(err.text, "the saving was cancelled");
		assert_true(work.done == 0 && work.total >= 18 * MIB);
		atomic_store(&work.stop, false);
		assert_int_equal(state_file_begin(&f, fd, &err), 0);
		assert_int_equal(pages_save(&f, &view, (enum pages_form)form,
		                            &work, &figures, &err),
		                 0);
		/* Each contents once if they are packed. */
		assert_true(work.done == work.total &&
		            (form == PAGES_PLAIN) == (work.total == 18 * MIB));
		memory_view_fini(&view);
		memory_unview(from);
		assert_int_equal(state_file_finish(&f, false, &err), 0);
		/* 160 of 600 are zeroes, 120 like no other. */
		assert_int_equal(figures.pages, 18 * MIB / PAGE_SIZE);
		assert_true(figures.zero > 4000);
		if (form == PAGES_PACKED)
			assert_true(figures.duplicate > 300 &&
			            figures.stored_bytes < 20000);
		assert_int_equal(state_file_open(&f, fd, &err), 0);
		assert_int_equal(pages_verify(&f, &err), 0);
		assert_int_equal(
		    pages_load(&f, to, NULL, 0, PAGES_NOW, &source, &err), 0);
		assert_null(source);
		for (unsigned i = 0; i < 2; i++)
			assert_memory_equal(memory_slot_at(to, i)->host,
			                    memory_slot_at(from, i)->host,
			                    memory_slot_at(from, i)->size);
		memory_destroy(to);
		close(fd);
	}
	memory_destroy(from);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_comes_back),
		cmocka_unit_test(missing_features_are_named),
		cmocka_unit_test(an_engine_shows_less),
		cmocka_unit_test(goes_on_under_each_engine),
		cmocka_unit_test(a_copy_is_told_so),
		cmocka_unit_test(altered_states_are_refused),
		cmocka_unit_test(any_chunks_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
