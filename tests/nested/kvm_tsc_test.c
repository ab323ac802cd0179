/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's time stamp counter, as it reads it itself and as the engine
 * does. Nothing here relies on how fast that is: a guest reads its counter as
 * often as it takes to be far enough.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kvm/kvm.h"
#include "kvm_harness.h"
#include "kvm_tests.h"

enum {
	ANSWER = 0x2000,
	/* More than passes between a set and the guest's next reading, less
	 * than one would wait for: some 10 ms. */
	FAR = 30000000,
	/* Each lets the guest run for 100,000 instructions. */
	RUNS_MAX = 200000,
};

/* Reads first and spins after: the counter of a guest whose host calls its own
 * counter unstable may go on only while it runs. */
GUEST(16, tsc_code,
      "1: rdtsc; mov %eax, (0x2000); mov %edx, (0x2004); out %al, $0xf4\n"
      "mov $50000, %ecx; 2: dec %ecx; jnz 2b; jmp 1b\n");

static u64 read_tsc(struct harness *h)
{
	struct vcpu_exit exit;
	u64 tsc = 0;

	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	assert_true(memory_read(h->memory, ANSWER, &tsc, sizeof(tsc)));
	return tsc;
}

/* The guest's first reading of limit or more. */
static u64 run_until(struct harness *h, u64 limit)
{
	u64 tsc = read_tsc(h);

	for (unsigned i = 0; tsc < limit && i < RUNS_MAX; i++) {
		u64 next = read_tsc(h);

		assert_true(next > tsc);
		tsc = next;
	}
	if (tsc < limit)
		fail_msg("the guest's TSC is %#llx after %u runs, not %#llx",
		         (unsigned long long)tsc, RUNS_MAX,
		         (unsigned long long)limit);
	return tsc;
}

static void start(struct harness *h)
{
	LOAD(h, CODE, tsc_code);
	harness_start(h, 0);
}

/* The engine's TSC, which lies between two readings of the guest's. */
static u64 compare(struct harness *h)
{
	u64 before = read_tsc(h);
	struct cpu_state cpu;

	kvm->vcpu_get(h->vcpus[0], &cpu);
	if (cpu.tsc < before)
		fail_msg("the engine's TSC is %#llx after the guest's was "
		         "%#llx",
		         (unsigned long long)cpu.tsc,
		         (unsigned long long)before);
	run_until(h, cpu.tsc + 1);
	return cpu.tsc;
}

static void test_tsc_is_one(void **state)
{
	struct harness *h = *state;
	u64 first;

	start(h);
	first = compare(h);
	run_until(h, first + FAR);
	assert_true(compare(h) > first + FAR);
}

/* A kernel with a wrong idea of the rate: the same. */
static void test_tsc_stale_rate(void **state)
{
	struct harness *h = *state;

	if (!h->stale) {
		print_message("this kernel's machines have no rate to set\n");
		skip();
	}
	test_tsc_is_one(state);
}

/*
 * A debugger that writes a register back does not turn the clock back. The
 * kernel takes a counter that is given less than a second late for one that
 * shall go on, so the state is older than that.
 */
static void test_tsc_goes_on(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	struct cpu_state cpu;
	u64 before, second;

	start(h);
	second = (u64)kvm_call_value(h->vcpus[0]->fd, KVM_GET_TSC_KHZ, 0);
	second *= 1000;
	read_tsc(h);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	usleep(1100000);
	before = run_until(h, cpu.tsc + second + FAR);
	cpu.gpr[GPR_RBX] = 7;
	assert_int_equal(kvm->vcpu_set(h->vcpus[0], &cpu, &err), 0);
	assert_true(read_tsc(h) > before);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	assert_int_equal(cpu.gpr[GPR_RBX], 7);
}

/* One that is given another TSC has it. */
static void test_tsc_set(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	const u64 far = (u64)1 << 60;
	struct cpu_state cpu;

	start(h);
	read_tsc(h);
	kvm->vcpu_get(h->vcpus[0], &cpu);
	cpu.tsc = far;
	assert_int_equal(kvm->vcpu_set(h->vcpus[0], &cpu, &err), 0);
	assert_true(read_tsc(h) > far);
	assert_true(compare(h) > far);
	assert_true(compare(h) < far * 2);
}

int kvm_tsc_tests(void)
{
#define MADE(test, create)                                                     \
	cmocka_unit_test_setup_teardown(test, create, harness_destroy)
	const struct CMUnitTest tests[] = {
		MADE(test_tsc_is_one, harness_create),
		MADE(test_tsc_stale_rate, harness_create_slow),
		MADE(test_tsc_stale_rate, harness_create_fast),
		MADE(test_tsc_goes_on, harness_create),
		MADE(test_tsc_set, harness_create),
	};

	return cmocka_run_group_tests_name("kvm-tsc", tests, NULL, NULL);
}
