/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code_fuzz - any bytes as code of two vCPUs under the translator, at any
 * privilege, in any mode, with tables that are mostly but not quite in order,
 * and interrupts at any time.
 *
 * Nothing is compared (tests/isa/programs does that): the engine must come
 * back when it is kicked, without an error of its own, with a state that
 * a processor can have. Input: struct header, then code, which fills the pages
 * for it over and over. Gates lead into that code, too.
 *
 *	0x00000  PML4, PDPT, PD, and two page tables for 4 MiB
 *	0x08000  GDT, IDT, TSS
 *	0x10000  code
 *	0x20000  data and stacks
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/loop.h"
#include "engine/engine.h"
#include "engine/interp/hostop.h"
#include "engine/x86/cpuid.h"
#include "guest/memory.h"
#include "tests/isa/isa.h"

enum {
	RAM = 0x40000,
	PML4 = 0x1000,
	PDPT = 0x2000,
	PD = 0x3000,
	PT = 0x4000,
	TABLES_END = 0x8000,
	GDT = 0x8000,
	IDT = 0x9000,
	TSS = 0xa000,
	CODE = 0x10000,
	CODE_SIZE = 0x10000,
	DATA = 0x20000,
	CPUS = 2,
	VECTORS = 256,
	RUN_US = 1500,
};
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40 };
enum { PTE_KEY_SHIFT = 59 };
enum { PTE_LARGE = 0x80, PTE_USUAL = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D };

struct header {
	u64 seed;
	u8 mode; /* 0: real, 1: 16, 2: 32, 3: 64 bits, 4: 32 with paging */
	u8 cpl;
	u16 flags;
	u32 cr0, cr4;
	u8 pause_us; /* between interrupts */
	u8 broken;   /* of 256 table entries */
};

struct cpu {
	struct vcpu *vcpu;
	pthread_t thread;
	struct isa_rng rng;
	_Atomic bool irq;
	const char *error;
};

static struct {
	const struct engine_type *type;
	struct engine *engine;
	struct memory *memory;
	struct cpuid_model *cpuid;
	u8 *ram;
	struct cpu cpu[CPUS];
	pthread_barrier_t barrier;
	_Atomic bool over;
} all;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* ---- what is around the vCPUs ---- */

static u64 pio_read(void *ctx, u16 port, unsigned size)
{
	(void)ctx;
	(void)size;
	return port * 0x9e3779b9u;
}

static void pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	(void)ctx;
	(void)port;
	(void)value;
	(void)size;
}

static u64 mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	(void)ctx;
	(void)size;
	return gpa * 0x9e3779b97f4a7c15u;
}

static void mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	(void)ctx;
	(void)gpa;
	(void)value;
	(void)size;
}

static bool irq_pending(void *ctx)
{
	return ((struct cpu *)ctx)->irq;
}

static int irq_ack(void *ctx)
{
	struct cpu *c = ctx;

	return atomic_exchange(&c->irq, false)
	           ? (int)(32 + isa_below(&c->rng, VECTORS - 32))
	           : -1;
}

/* ---- running ---- */

static void check(struct cpu *c)
{
	struct cpu_state s;

	all.type->vcpu_get(c->vcpu, &s);
	if (!(s.rflags & RFLAGS_FIXED) ||
	    (s.cr0 & CR0_PG && !(s.cr0 & CR0_PE)) ||
	    (s.efer & EFER_LMA && !(s.cr0 & CR0_PG)) ||
	    (s.seg[SEG_CS].attr & SEG_ATTR_L && s.efer & EFER_LMA &&
	     s.seg[SEG_CS].attr & SEG_ATTR_DB))
		c->error = "a state that no processor has";
}

static void run(struct cpu *c)
{
	struct vcpu_exit e = { 0 };

	while (!all.over && e.reason != EXIT_SHUTDOWN && !c->error) {
		all.type->vcpu_run(c->vcpu, &e);
		if (e.reason == EXIT_ERROR)
			c->error = e.words;
	}
	check(c);
}

static void *second(void *ctx)
{
	for (;;) {
		pthread_barrier_wait(&all.barrier);
		run(ctx);
		pthread_barrier_wait(&all.barrier);
	}
	return NULL;
}

/* Interrupts, and the end of it. */
static void *disturb(void *ctx)
{
	const struct header *h = ctx;
	u64 end = loop_now_ns() + RUN_US * 1000;
	struct timespec pause = { .tv_nsec = (1 + h->pause_us) * 1000 };
	struct isa_rng rng;

	isa_seed(&rng, ~h->seed);
	while (loop_now_ns() < end) {
		struct cpu *c = &all.cpu[isa_below(&rng, CPUS)];

		if (isa_once_in(&rng, 8)) {
			all.type->vcpu_nmi(c->vcpu);
		} else {
			c->irq = true;
			all.type->vcpu_attention(c->vcpu);
		}
		nanosleep(&pause, NULL);
	}
	all.over = true;
	for (unsigned i = 0; i < CPUS; i++)
		all.type->vcpu_kick(all.cpu[i].vcpu);
	return NULL;
}

/* ---- a guest ---- */

static void put64(u32 at, u64 value)
{
	memcpy(all.ram + at, &value, 8);
}

/* Usual, or with some bits wrong. */
static u64 entry(const struct header *h, struct isa_rng *rng, u64 usual)
{
	if (isa_below(rng, 256) >= h->broken)
		return usual;
	return isa_once_in(rng, 4) ? isa_random(rng)
	                           : usual ^ (u64)1 << isa_below(rng, 64);
}

static void page_tables(const struct header *h, struct isa_rng *rng)
{
	bool large = isa_once_in(rng, 4), two = h->mode % 5 == 4;

	memset(all.ram, 0, TABLES_END);
	if (two) { /* 32-bit paging: entries of 4 bytes */
		for (u32 i = 0; i < 1024; i++) {
			u32 pte = (u32)entry(
			    h, rng, (u64)i % (RAM >> 12) << 12 | PTE_USUAL);

			memcpy(all.ram + PT + i * 4, &pte, 4);
		}
		put64(PML4, PT | PTE_USUAL);
		return;
	}
	put64(PML4, PDPT | PTE_USUAL);
	put64(PML4 + 0xff8, PDPT | PTE_USUAL);
	put64(PDPT, PD | PTE_USUAL);
	put64(PD, large ? PTE_LARGE | PTE_USUAL : PT | PTE_USUAL);
	put64(PD + 8, (PT + 0x1000) | PTE_USUAL);
	for (u32 i = 0; i < 1024; i++)
		put64(PT + i * 8, entry(h, rng,
		                        (u64)i % (RAM >> 12) << 12 | PTE_USUAL |
		                            (u64)i % 16 << PTE_KEY_SHIFT));
}

static void descriptors(const struct header *h, struct isa_rng *rng)
{
	static const u64 gdt[] = {
		0,
		0,
		0x00af9b000000ffff,
		0x00cf93000000ffff,
		0x00affb000000ffff,
		0x00cff3000000ffff,
		0x00cffb000000ffff,
		0x00cf9b000000ffff,
		0x00008900a0000067,
		0,
		0x00009b000000ffff,
		0x000093000000ffff,
	};
	bool wide = h->mode % 5 == 3;

	for (u32 i = 0; i < ARRAY_SIZE(gdt); i++)
		put64(GDT + i * 8, entry(h, rng, gdt[i]));
	for (u32 i = 0; i < VECTORS; i++) {
		u32 to = CODE + (u32)isa_below(rng, CODE_SIZE);
		u64 gate = (to & 0xffff) | (u64)(to & 0xffff0000) << 32 |
		           (wide ? 0x10 : 0x38) << 16 |
		           (isa_once_in(rng, 2) ? 0xee00ull : 0x8f00ull) << 32 |
		           (wide ? isa_below(rng, 3) : 0) << 32;

		put64(IDT + i * (wide ? 16 : 8), entry(h, rng, gate));
		if (wide)
			put64(IDT + i * 16 + 8, 0);
	}
	memset(all.ram + TSS, 0, 0x80);
	for (u32 i = 4; i < 0x60; i += 8)
		put64(TSS + i, DATA + 0x8000 + i * 64);
}

static struct cpu_segment segment(const struct header *h, bool code)
{
	unsigned mode = h->mode % 5;
	u16 dpl = (u16)(h->cpl & 3);
	u16 attr = SEG_ATTR_S | SEG_ATTR_P | (code ? 11 : 3) |
	           (u16)(dpl << SEG_ATTR_DPL_SHIFT);

	if (mode >= 2)
		attr |=
		    SEG_ATTR_G | (mode == 3 && code ? SEG_ATTR_L : SEG_ATTR_DB);
	return (struct cpu_segment){
		.limit = mode < 2 ? 0xffff : 0xffffffff,
		.base = mode == 0 ? CODE : 0,
		.selector = mode == 0 ? CODE >> 4
		            : code    ? (mode == 3 ? 0x10 : 0x38) | dpl
		                      : 0x18 | dpl,
		.attr = attr,
	};
}

static void control(struct cpu_state *s, const struct header *h)
{
	unsigned mode = h->mode % 5;

	s->cr0 =
	    CR0_ET |
	    (h->cr0 & (CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM));
	s->cr4 =
	    h->cr4 & (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE |
	              CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE |
	              CR4_OSXSAVE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS);
	s->efer = 0;
	if (mode)
		s->cr0 |= CR0_PE;
	if (mode >= 3)
		s->cr0 |= CR0_PG;
	if (mode == 3) {
		s->cr4 |= CR4_PAE;
		s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	}
	s->cr3 = PML4;
}

static void set_cpu(struct cpu *c, const struct header *h, struct isa_rng *rng)
{
	struct cpu_state s;
	struct error err;

	cpu_state_reset(&s, true, 0);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s.gpr[i] =
		    isa_once_in(rng, 3) ? isa_random(rng) : isa_below(rng, RAM);
	s.gpr[GPR_RSP] = DATA + 0x4000 + isa_below(rng, 64) * 8;
	control(&s, h);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s.seg[i] = segment(h, i == SEG_CS);
	s.gdtr.base = GDT;
	s.gdtr.limit = 0x5f;
	s.idtr.base = IDT;
	s.idtr.limit = 0xfff;
	s.tr = (struct cpu_segment){ .base = TSS,
		                     .limit = 0x67,
		                     .selector = 0x40,
		                     .attr = 11 | SEG_ATTR_P };
	s.xcr0 = XCR0_X87 | XCR0_SSE;
	if (cpuid_has(all.cpuid, FEATURE_AVX))
		s.xcr0 |= XCR0_AVX;
	if (cpuid_has(all.cpuid, FEATURE_PKU))
		s.xcr0 |= XCR0_PKRU;
	if (isa_once_in(rng, 4))
		s.pkru = (u32)isa_random(rng) & (u32)isa_random(rng);
	if (isa_once_in(rng, 4))
		s.pkrs = (u32)isa_random(rng) & (u32)isa_random(rng);
	s.star = (u64)0x23 << 48 | (u64)0x10 << 32;
	s.lstar = CODE + isa_below(rng, CODE_SIZE);
	s.rflags = RFLAGS_FIXED | (h->flags & 0x257fd5);
	s.rip = h->mode % 5 == 0 ? 0 : CODE;
	s.mp_state = CPU_RUNNING;
	isa_seed(&c->rng, isa_random(rng));
	c->irq = false;
	c->error = NULL;
	if (all.type->vcpu_set(c->vcpu, &s, &err) < 0)
		abort();
}

static void lay_out(const struct header *h, const u8 *code, size_t size)
{
	struct isa_rng rng;

	isa_seed(&rng, h->seed);
	page_tables(h, &rng);
	descriptors(h, &rng);
	for (size_t i = 0; i < CODE_SIZE; i++)
		all.ram[CODE + i] = code[i % size];
	for (u32 i = DATA; i < RAM; i += 8)
		put64(i, isa_random(&rng));
	memory_written(all.memory, 0, RAM);
	for (unsigned i = 0; i < CPUS; i++)
		set_cpu(&all.cpu[i], h, &rng);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct header h;
	pthread_t hand;

	if (size <= sizeof(h))
		return -1;
	memcpy(&h, data, sizeof(h));
	lay_out(&h, data + sizeof(h), size - sizeof(h));
	all.over = false;
	if (pthread_create(&hand, NULL, disturb, &h))
		abort();
	pthread_barrier_wait(&all.barrier);
	run(&all.cpu[0]);
	pthread_barrier_wait(&all.barrier);
	pthread_join(hand, NULL);
	for (unsigned i = 0; i < CPUS; i++)
		if (all.cpu[i].error) {
			fprintf(stderr, "vCPU %u: %s\n", i, all.cpu[i].error);
			abort();
		}
	return 0;
}

static int build(struct error *err)
{
	struct cpuid_config cpuid = { .cpus = CPUS,
		                      .tsc_hz = 1000000000,
		                      .emulated = true };
	struct engine_config config = { .cpus = CPUS,
		                        .options = "hot=1",
		                        .code_cache_bytes = 4 << 20 };
	int rc = memory_create(&all.memory, err);

	if (rc == 0)
		rc = memory_add(all.memory, 0, RAM, MEMORY_RAM, "ram", err);
	if (rc < 0)
		return rc;
	all.ram = memory_ptr(all.memory, 0, RAM);
	config.memory = all.memory;
	config.cpuid = all.cpuid = cpuid_model_create(&cpuid);
	all.type = engine_find("bt");
	rc = all.type->create(&all.engine, &config, err);
	for (unsigned i = 0; rc == 0 && i < CPUS; i++) {
		struct vcpu_host host = { .ctx = &all.cpu[i],
			                  .pio_read = pio_read,
			                  .pio_write = pio_write,
			                  .mmio_read = mmio_read,
			                  .mmio_write = mmio_write,
			                  .irq_pending = irq_pending,
			                  .irq_ack = irq_ack };

		rc = all.type->vcpu_create(all.engine, i, &host,
		                           &all.cpu[i].vcpu, err);
	}
	return rc;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = { 0 };

	(void)argc;
	(void)argv;
	if (hostop_install_signals(&err) < 0 || build(&err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	pthread_barrier_init(&all.barrier, NULL, CPUS);
	return pthread_create(&all.cpu[1].thread, NULL, second, &all.cpu[1]);
}
