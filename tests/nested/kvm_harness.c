/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm_harness.h"

#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "engine/kvm/kvm.h"
#include "engine/x86/cpuid.h"

const struct engine_type *const kvm = &kvm_engine;

static u64 note(struct harness *h, int kind, u64 address, u64 value,
                unsigned size)
{
	if (h->logged < LOG_MAX)
		h->log[h->logged++] = (struct access){ .kind = kind,
			                               .address = address,
			                               .value = value,
			                               .size = size };
	return value;
}

static u64 on_pio_read(void *ctx, u16 port, unsigned size)
{
	struct harness *h = ctx;

	if (port == WAITS)
		atomic_store(&h->waits, true);
	return note(h, PIO_READ, port, h->answer++, size);
}

static void on_pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	struct harness *h = ctx;

	if (port == STOP)
		kvm->vcpu_kick(h->vcpus[0]);
	else
		note(h, PIO_WRITE, port, value, size);
}

static u64 on_mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	struct harness *h = ctx;

	return note(h, MMIO_READ, gpa, h->answer++, size);
}

static void on_mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	note(ctx, MMIO_WRITE, gpa, value, size);
}

static bool on_msr_read(void *ctx, u32 msr, u64 *value)
{
	struct harness *h = ctx;

	*value = note(h, MSR_READ, msr, h->answer, 8);
	return msr == KNOWN_MSR;
}

static bool on_msr_write(void *ctx, u32 msr, u64 value)
{
	note(ctx, MSR_WRITE, msr, value, 8);
	return msr == KNOWN_MSR;
}

/*
 * As a kernel does that has measured its counter since kvm was loaded: vCPUs
 * of this machine begin with a rate that is not the host's.
 */
static void make_rate_stale(struct harness *h, int percent)
{
	int khz = kvm_call_value(h->engine->vm, KVM_GET_TSC_KHZ, 0);

	h->stale = khz > 0 &&
	           kvm_call_value(h->engine->vm, KVM_SET_TSC_KHZ,
	                          (unsigned long)(khz / 100 * percent)) == 0;
}

/* percent: the TSC's rate when the vCPUs are made, of the host's. */
static int create(void **state, unsigned cpus, int percent)
{
	struct harness *h = xalloc(sizeof(*h));
	const struct cpuid_config cpuid = { .cpus = cpus, .kvm_leaves = true };
	struct vcpu_host host = {
		.ctx = h,
		.pio_read = on_pio_read,
		.pio_write = on_pio_write,
		.mmio_read = on_mmio_read,
		.mmio_write = on_mmio_write,
		.msr_read = on_msr_read,
		.msr_write = on_msr_write,
	};
	struct engine_config config = { .cpus = cpus };
	struct error err = { 0 };
	int r = memory_create(&h->memory, &err);

	if (r == 0)
		r = memory_add(h->memory, 0, RAM_SIZE, MEMORY_RAM, "ram", &err);
	if (r == 0)
		r = memory_add(h->memory, ROM_BASE, ROM_SIZE, MEMORY_ROM, "rom",
		               &err);
	h->cpuid = cpuid_model_create(&cpuid);
	config.memory = h->memory;
	config.cpuid = h->cpuid;
	if (r == 0)
		r = kvm->create(&h->engine, &config, &err);
	if (r == 0 && percent != 100)
		make_rate_stale(h, percent);
	for (unsigned i = 0; r == 0 && i < cpus; i++)
		r = kvm->vcpu_create(h->engine, i, &host, &h->vcpus[i], &err);
	if (r)
		print_error("%s\n", err.text);
	else
		memset(memory_ptr(h->memory, ROM_BASE, ROM_SIZE), 0xa5,
		       ROM_SIZE);
	*state = h;
	return r;
}

int harness_create(void **state)
{
	return create(state, 1, 100);
}

int harness_create_smp(void **state)
{
	return create(state, 2, 100);
}

int harness_create_slow(void **state)
{
	return create(state, 1, 99);
}

int harness_create_fast(void **state)
{
	return create(state, 1, 101);
}

int harness_destroy(void **state)
{
	struct harness *h = *state;

	kvm->vcpu_destroy(h->vcpus[1]);
	kvm->vcpu_destroy(h->vcpus[0]);
	kvm->destroy(h->engine);
	cpuid_model_destroy(h->cpuid);
	memory_destroy(h->memory);
	free(h);
	return 0;
}

void harness_load(struct harness *h, gpa_t at, const u8 *code, const u8 *end)
{
	assert_true(memory_write(h->memory, at, code, (u64)(end - code)));
}

void harness_start(struct harness *h, unsigned index)
{
	struct cpu_state cpu;
	struct error err = { 0 };

	cpu_state_reset(&cpu, true, 0);
	cpu.seg[SEG_CS].selector = 0;
	cpu.seg[SEG_CS].base = 0;
	cpu.rip = CODE;
	cpu.gpr[GPR_RSP] = STACK;
	if (kvm->vcpu_set(h->vcpus[index], &cpu, &err))
		fail_msg("%s", err.text);
}

enum vcpu_exit_reason harness_run(struct harness *h, unsigned index,
                                  struct vcpu_exit *exit)
{
	alarm(100); /* ends the program: a hang is a failure */
	kvm->vcpu_run(h->vcpus[index], exit);
	alarm(0);
	if (exit->reason == EXIT_ERROR)
		print_error("%s\n", exit->words);
	return exit->reason;
}

void harness_run_code(struct harness *h, const u8 *code, const u8 *end)
{
	struct vcpu_exit exit;

	harness_load(h, CODE, code, end);
	harness_start(h, 0);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
}

bool host_is_tcg(void)
{
	u32 eax, ebx, ecx, edx;

	__cpuid(0x40000000, eax, ebx, ecx, edx);
	return ebx == 0x54474354; /* "TCGT" */
}

void expect_access(const struct harness *h, size_t i, int kind, u64 address,
                   u64 value, unsigned size)
{
	assert_true(i < h->logged);
	assert_int_equal(h->log[i].kind, kind);
	assert_int_equal(h->log[i].address, address);
	assert_int_equal(h->log[i].value, value);
	assert_int_equal(h->log[i].size, size);
}
