/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_harness.h - a small machine around the kvm engine, for its tests.
 *
 * Memory: RAM in [0, 512 KiB), ROM filled with 0xa5 at 0xf0000, MMIO in
 * between. Code begins at CODE in real mode with flat zero segments. OUT to
 * port STOP kicks the vCPU out of its own run; IN from WAITS sets waits.
 */
#pragma once

#include <stdatomic.h>

#include "base/error.h"
#include "engine/engine.h"
#include "guest/memory.h"

enum {
	CODE = 0x1000,
	STACK = 0x8000,
	RAM_SIZE = 0x80000,
	ROM_BASE = 0xf0000,
	ROM_SIZE = 0x10000,
	HOLE = 0xd0000,
	STOP = 0xf4,
	WAITS = 0x90,
	KNOWN_MSR = 0x4b564dfe, /* the harness's own */
	LOG_MAX = 64,
};

struct access {
	enum {
		PIO_READ,
		PIO_WRITE,
		MMIO_READ,
		MMIO_WRITE,
		MSR_READ,
		MSR_WRITE
	} kind;
	u64 address, value;
	unsigned size;
};

struct harness {
	struct memory *memory;
	struct cpuid_model *cpuid;
	struct engine *engine;
	struct vcpu *vcpus[2];
	struct access log[LOG_MAX];
	size_t logged;
	u64 answer; /* what reads give, and 1 more each time */
	atomic_bool waits;
	bool stale; /* the vCPUs were made with a wrong rate of the TSC */
};

extern const struct engine_type *const kvm;

/* Machine code from assembler text, between name and name_end. */
#define GUEST(bits, name, text)                                                \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text      \
	        "\n" #name "_end:\n.code64\n.popsection\n");                   \
	extern const u8 name[], name##_end[]

/* cmocka's fixtures: *state is a struct harness with one vCPU, or two. */
int harness_create(void **state);
int harness_create_smp(void **state);
/* One vCPU, whose TSC the kernel believes to be 1 % slower than it is, or
 * faster, where this kernel can be told so (stale). */
int harness_create_slow(void **state);
int harness_create_fast(void **state);
int harness_destroy(void **state);

void harness_load(struct harness *h, gpa_t at, const u8 *code, const u8 *end);
#define LOAD(h, at, name) harness_load(h, at, name, name##_end)

/* Sets the vCPU to begin at CODE in real mode. */
void harness_start(struct harness *h, unsigned index);
/* Runs to an exit; a guest that runs for 10 s fails the test. */
enum vcpu_exit_reason harness_run(struct harness *h, unsigned index,
                                  struct vcpu_exit *exit);
/* LOAD at CODE, start, run: EXIT_KICK is expected (OUT to STOP). */
void harness_run_code(struct harness *h, const u8 *code, const u8 *end);
#define RUN(h, name) harness_run_code(h, name, name##_end)

/* Under QEMU's TCG some of nested virtualization is missing. */
bool host_is_tcg(void);

void expect_access(const struct harness *h, size_t i, int kind, u64 address,
                   u64 value, unsigned size);
