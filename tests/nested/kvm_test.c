/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_test - the kvm engine on a working KVM: exits, kicks, memory, debugging.
 * What belongs to state and interrupts is in kvm_state_test.c and
 * kvm_irq_test.c.
 */
#include "kvm_harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm_tests.h"

GUEST(16, pio_code,
      "mov $0x11, %al; out %al, $0x80\n"
      "mov $0x2222, %ax; out %ax, $0x82\n"
      "mov $0x33333333, %eax; out %eax, $0x84\n"
      "in $0x90, %al; out %al, $0x81\n"
      "mov $0x1234, %dx; in %dx, %eax; out %eax, $0x84\n"
      "mov $0x2000, %si; mov $3, %cx; mov $0x3f8, %dx; cld; rep outsb\n"
      "mov $0x3000, %di; mov $4, %cx; mov $0x1f0, %dx; rep insw\n"
      "out %al, $0xf4; hlt\n");

static void test_pio(void **state)
{
	struct harness *h = *state;
	const u16 words[4] = { 0x4b, 0x4c, 0x4d, 0x4e };
	u16 got[4];

	h->answer = 0x49;
	memory_write(h->memory, 0x2000, "abc", 3);
	RUN(h, pio_code);
	assert_int_equal(h->logged, 14);
	expect_access(h, 0, PIO_WRITE, 0x80, 0x11, 1);
	expect_access(h, 1, PIO_WRITE, 0x82, 0x2222, 2);
	expect_access(h, 2, PIO_WRITE, 0x84, 0x33333333, 4);
	expect_access(h, 3, PIO_READ, 0x90, 0x49, 1);
	expect_access(h, 4, PIO_WRITE, 0x81, 0x49, 1);
	expect_access(h, 5, PIO_READ, 0x1234, 0x4a, 4);
	expect_access(h, 6, PIO_WRITE, 0x84, 0x4a, 4);
	for (unsigned i = 0; i < 3; i++)
		expect_access(h, 7 + i, PIO_WRITE, 0x3f8, 'a' + i, 1);
	for (unsigned i = 0; i < 4; i++)
		expect_access(h, 10 + i, PIO_READ, 0x1f0, words[i], 2);
	assert_true(memory_read(h->memory, 0x3000, got, sizeof(got)));
	assert_memory_equal(got, words, sizeof(got));
	assert_true(kvm->vcpu_stat(h->vcpus[0], STAT_PIO) >= 9);
}

GUEST(16, mmio_code,
      "mov $0xd000, %ax; mov %ax, %ds\n"
      "movb $0x11, (0x10); movw $0x2222, (0x12); movl $0x33333333, (0x14)\n"
      "mov (0x20), %eax; mov %eax, (0x24)\n"
      "movl $0x44332211, (0xffd)\n" /* crosses a page */
      "mov $0xf000, %ax; mov %ax, %ds\n"
      "movb $0x77, (0x10); mov (0x10), %al; out %al, $0x80\n"
      "out %al, $0xf4; hlt\n");

static void test_mmio(void **state)
{
	struct harness *h = *state;

	h->answer = 0xfeed;
	RUN(h, mmio_code);
	expect_access(h, 0, MMIO_WRITE, HOLE + 0x10, 0x11, 1);
	expect_access(h, 1, MMIO_WRITE, HOLE + 0x12, 0x2222, 2);
	expect_access(h, 2, MMIO_WRITE, HOLE + 0x14, 0x33333333, 4);
	expect_access(h, 3, MMIO_READ, HOLE + 0x20, 0xfeed, 4);
	expect_access(h, 4, MMIO_WRITE, HOLE + 0x24, 0xfeed, 4);
	/* Three bytes before the border, in accesses of 2 and 1. */
	expect_access(h, 5, MMIO_WRITE, HOLE + 0xffd, 0x2211, 2);
	expect_access(h, 6, MMIO_WRITE, HOLE + 0xfff, 0x33, 1);
	expect_access(h, 7, MMIO_WRITE, HOLE + 0x1000, 0x44, 1);
	/* ROM keeps what it holds, and nobody hears of the write. */
	expect_access(h, 8, PIO_WRITE, 0x80, 0xa5, 1);
	assert_int_equal(h->logged, 9);
}

/* The handler of #GP says so on port 0x81 and skips the two bytes. */
GUEST(16, msr_code,
      "movw $handler - msr_code + 0x1000, (13 * 4); movw $0, (13 * 4 + 2)\n"
      "mov $0x4b564dfe, %ecx; rdmsr; out %eax, $0x84\n"
      "mov $5, %eax; xor %edx, %edx; wrmsr\n"
      "mov $0x4b564dfd, %ecx; rdmsr; wrmsr\n"
      "out %al, $0xf4; hlt\n"
      "handler: out %al, $0x81; push %bp; mov %sp, %bp; addw $2, 2(%bp)\n"
      "pop %bp; iret\n");

static void test_msr(void **state)
{
	struct harness *h = *state;

	h->answer = 0x77;
	RUN(h, msr_code);
	expect_access(h, 0, MSR_READ, KNOWN_MSR, 0x77, 8);
	expect_access(h, 1, PIO_WRITE, 0x84, 0x77, 4);
	expect_access(h, 2, MSR_WRITE, KNOWN_MSR, 5, 8);
	expect_access(h, 3, MSR_READ, KNOWN_MSR - 1, 0x77, 8);
	expect_access(h, 4, PIO_WRITE, 0x81, 5, 1);
	expect_access(h, 5, MSR_WRITE, KNOWN_MSR - 1, 5, 8);
	expect_access(h, 6, PIO_WRITE, 0x81, 5, 1);
}

GUEST(16, triple_code, "lidt %cs:(0x2000); int3; hlt\n");

static void test_triple_fault(void **state)
{
	struct harness *h = *state;
	struct vcpu_exit exit;

	LOAD(h, CODE, triple_code);
	harness_start(h, 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_SHUTDOWN);
	assert_non_null(exit.words);
}

GUEST(16, stop_code, "out %al, $0xf4; mov $1, %bl; out %al, $0xf4; hlt\n");

/* A kick from within a callback: the access is whole when run returns. */
static void test_kick_self(void **state)
{
	struct harness *h = *state;
	struct cpu_state cpu;
	struct vcpu_exit exit;

	RUN(h, stop_code);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	assert_int_equal(cpu.rip, CODE + 2);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	assert_int_equal(cpu.gpr[GPR_RBX] & 0xff, 1);
}

GUEST(16, spin_code, "1: inc %ebx; jmp 1b\n");

static void test_kick_sticky(void **state)
{
	struct harness *h = *state;
	struct vcpu_exit exit;

	LOAD(h, CODE, spin_code);
	harness_start(h, 0);
	kvm->vcpu_kick(h->vcpus[0]);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	kvm->vcpu_kick(h->vcpus[0]);
	kvm->vcpu_kick(h->vcpus[0]);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	assert_int_equal(kvm->vcpu_stat(h->vcpus[0], STAT_KICK), 2);
}

enum { KICKS = 400 };

struct runner {
	struct harness *h;
	atomic_uint done;
	bool wrong;
};

static void *run_to_kicks(void *arg)
{
	struct runner *r = arg;
	struct vcpu_exit exit;

	for (unsigned i = 0; i < KICKS; i++) {
		kvm->vcpu_run(r->h->vcpus[0], &exit);
		if (exit.reason != EXIT_KICK)
			r->wrong = true;
		atomic_store(&r->done, i + 1);
	}
	return NULL;
}

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

/* Each kick at another moment of the vCPU's way in; none may be lost. */
static void test_kick_race(void **state)
{
	struct harness *h = *state;
	struct runner runner = { .h = h };
	double total = 0, worst = 0;
	pthread_t thread;

	LOAD(h, CODE, spin_code);
	harness_start(h, 0);
	alarm(600);
	pthread_create(&thread, NULL, run_to_kicks, &runner);
	for (unsigned i = 0; i < KICKS; i++) {
		double begin, took;

		for (volatile unsigned n = 0; n < i * 7 % 5000; n++)
			;
		begin = now_us();
		kvm->vcpu_kick(h->vcpus[0]);
		while (atomic_load(&runner.done) <= i)
			sched_yield();
		took = now_us() - begin;
		total += took;
		worst = took > worst ? took : worst;
	}
	pthread_join(thread, NULL);
	alarm(0);
	assert_false(runner.wrong);
	print_message("kick: mean %.1f us, worst %.1f us\n", total / KICKS,
	              worst);
	/* Two threads share one emulated processor here, on a busy host. */
	assert_true(total / KICKS < 250e3);
	assert_true(worst < 5e6);
}

GUEST(16, dirty_code,
      "mov $0x1000, %ax; mov %ax, %ds\n"
      "movb $1, (0x0000); movb $1, (0x2fff); movb $1, (0x5000)\n"
      "out %al, $0xf4\n"
      "movb $1, (0x2000)\n"
      "out %al, $0xf4\n");

static unsigned dirty_pages(struct harness *h, bool clear)
{
	unsigned set = 0;

	kvm->dirty_sync(h->engine);
	for (unsigned i = 0; i < 16; i++) {
		_Atomic u8 *flags =
		    memory_page_flags(h->memory, 0x10000 + i * 0x1000);

		if (*flags & PAGE_DIRTY)
			set |= 1u << i;
		if (clear)
			atomic_fetch_and(flags, (u8)~PAGE_DIRTY);
	}
	return set;
}

static void test_dirty_log(void **state)
{
	struct harness *h = *state;
	struct vcpu_exit exit;

	assert_int_equal(kvm->dirty_start(h->engine), 0);
	dirty_pages(h, true);
	RUN(h, dirty_code);
	assert_int_equal(dirty_pages(h, true), 1 << 0 | 1 << 2 | 1 << 5);
	assert_int_equal(dirty_pages(h, false), 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	assert_int_equal(dirty_pages(h, false), 1 << 2);
	kvm->dirty_stop(h->engine);
}

GUEST(16, debug_code,
      "nop; nop; mov $5, %bl; movb $1, (0x2000); nop; mov (0x2004), %eax\n"
      "out %al, $0xf4\n");

static void test_debug_step(void **state)
{
	static const u16 rips[] = { 1, 2, 4, 9, 10 };
	struct harness *h = *state;
	struct cpu_state cpu;
	struct vcpu_exit exit;

	LOAD(h, CODE, debug_code);
	harness_start(h, 0);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], NULL, 0, true), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rips); i++) {
		assert_int_equal(harness_run(h, 0, &exit), EXIT_DEBUG);
		assert_true(exit.debug.step);
		kvm->vcpu_get(h->vcpus[0], &cpu);
		assert_int_equal(cpu.rip, CODE + rips[i]);
		assert_false(cpu.rflags & RFLAGS_TF);
	}
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], NULL, 0, false), 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
}

static void test_debug_points(void **state)
{
	const struct vcpu_breakpoint points[] = {
		{ BREAK_EXEC, CODE + 2, 1 },
		{ BREAK_WRITE, 0x2000, 4 },
		{ BREAK_ACCESS, 0x2004, 4 },
	};
	const struct vcpu_breakpoint odd = { BREAK_WRITE, 0x2001, 4 };
	struct vcpu_breakpoint many[5] = { 0 };
	struct harness *h = *state;
	struct vcpu_exit exit;

	LOAD(h, CODE, debug_code);
	harness_start(h, 0);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], &odd, 1, false), -EINVAL);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], many, 5, false), -ENOSPC);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], points, 3, false), 0);
	if (host_is_tcg()) {
		/* 7.2 does not load the debug registers of a nested guest. */
		print_message("QEMU's TCG has no nested debug registers\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
		assert_int_equal(harness_run(h, 0, &exit), EXIT_DEBUG);
		assert_false(exit.debug.step);
		assert_int_equal(exit.debug.address, points[i].address);
		/* An execution breakpoint would hit again at once. */
		if (i == 0)
			kvm->vcpu_debug(h->vcpus[0], points + 1, 2, false);
	}
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
}

GUEST(16, watched_code, "mov %cr4, %eax; mov %eax, %cr4; out %al, $0xf4\n");

/*
 * A processor without decode assists leaves a MOV to CR4 to the kernel, which
 * looks itself whether a breakpoint is there: this one hits even where nested
 * guests have no debug registers.
 */
static void test_debug_emulated(void **state)
{
	const struct vcpu_breakpoint point = { BREAK_EXEC, CODE + 3, 1 };
	struct harness *h = *state;
	struct cpu_state cpu;
	struct vcpu_exit exit;

	LOAD(h, CODE, watched_code);
	harness_start(h, 0);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], &point, 1, false), 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_DEBUG);
	assert_false(exit.debug.step);
	assert_int_equal(exit.debug.address, point.address);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	assert_int_equal(cpu.rip, point.address);
	assert_int_equal(kvm->vcpu_debug(h->vcpus[0], NULL, 0, false), 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
}

static void test_probe(void **state)
{
	struct error err = { 0 };
	double begin = now_us();
	int r = kvm->probe(&err);

	(void)state;
	print_message("probe: %s, in %.1f ms\n", err.text,
	              (now_us() - begin) / 1000);
	assert_int_equal(r, 0);
}

#define WITH_MACHINE(test)                                                     \
	cmocka_unit_test_setup_teardown(test, harness_create, harness_destroy)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		WITH_MACHINE(test_pio),
		WITH_MACHINE(test_mmio),
		WITH_MACHINE(test_msr),
		WITH_MACHINE(test_triple_fault),
		WITH_MACHINE(test_kick_self),
		WITH_MACHINE(test_kick_sticky),
		WITH_MACHINE(test_kick_race),
		WITH_MACHINE(test_dirty_log),
		WITH_MACHINE(test_debug_step),
		WITH_MACHINE(test_debug_points),
		WITH_MACHINE(test_debug_emulated),
	};
	int failed = cmocka_run_group_tests_name("kvm", tests, NULL, NULL);

	failed += kvm_state_tests();
	failed += kvm_tsc_tests();
	failed += kvm_irq_tests();
	return failed != 0;
}
