/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c - a snippet in an engine: a machine of one processor and a kernel
 * of one instruction, HLT, at the end of every exception's way.
 *
 * The snippet runs at privilege level 3 with paging, and ends with INT3 or
 * with the exception that it causes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/x86/cpuid.h"
#include "guest/memory.h"
#include "tests/isa/isa.h"

/* Guest physical layout. */
enum {
	P_PML4 = 0x1000,
	P_PDPT = 0x2000,
	P_PD = 0x3000,
	P_PT = 0x4000,
	P_CODE = 0x10000,
	P_DATA = 0x20000,
	P_KERNEL = 0x30000,
	P_SIZE = 0x100000,
};
/* Offsets in the kernel's pages. */
enum {
	K_GDT = 0x0,
	K_IDT = 0x1000,
	K_TSS = 0x2000,
	K_HANDLERS = 0x3000, /* 16 bytes a vector */
	K_STACK_TOP = 0x5000,
	K_PAGES = 5,
	VECTORS = 32,
};
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_AD = 0x60 };

struct isa_machine {
	const struct engine_type *type;
	struct memory *memory;
	struct engine *engine;
	struct vcpu *vcpu;
	struct cpuid_model *cpuid;
	u8 *ram;
	struct cpu_state base;
};

static u64 no_pio_read(void *ctx, u16 port, unsigned size)
{
	(void)ctx;
	(void)port;
	(void)size;
	return ~(u64)0;
}

static void no_pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	(void)ctx;
	(void)port;
	(void)value;
	(void)size;
}

static u64 no_mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	(void)ctx;
	(void)gpa;
	(void)size;
	return ~(u64)0;
}

static void no_mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	(void)ctx;
	(void)gpa;
	(void)value;
	(void)size;
}

static bool no_msr_read(void *ctx, u32 msr, u64 *value)
{
	(void)ctx;
	(void)msr;
	(void)value;
	return false;
}

static bool no_msr_write(void *ctx, u32 msr, u64 value)
{
	(void)ctx;
	(void)msr;
	(void)value;
	return false;
}

static bool no_irq_pending(void *ctx)
{
	(void)ctx;
	return false;
}

static int no_irq_ack(void *ctx)
{
	(void)ctx;
	return -1;
}

static u8 no_tpr_get(void *ctx)
{
	(void)ctx;
	return 0;
}

static void no_tpr_set(void *ctx, u8 tpr)
{
	(void)ctx;
	(void)tpr;
}

static void put64(u8 *p, u64 v)
{
	memcpy(p, &v, sizeof(v));
}

static void map_page(u8 *ram, u64 linear, u64 physical, u64 flags)
{
	put64(ram + P_PT + (linear >> 12 & 511) * 8,
	      physical | flags | PTE_P | PTE_AD);
}

static void build_paging(u8 *ram)
{
	u64 i, table = PTE_P | PTE_W | PTE_U | PTE_AD;

	put64(ram + P_PML4, P_PDPT | table);
	put64(ram + P_PDPT, P_PD | table);
	put64(ram + P_PD + (ISA_CODE >> 21 & 511) * 8, P_PT | table);
	for (i = 0; i < ISA_CODE_SIZE; i += 4096)
		map_page(ram, ISA_CODE + i, P_CODE + i, PTE_U);
	for (i = 0; i < ISA_DATA_SIZE; i += 4096)
		map_page(ram, ISA_DATA + i, P_DATA + i,
		         PTE_U | (i < ISA_DATA_WRITABLE ? PTE_W : 0));
	for (i = 0; i < K_PAGES; i++)
		map_page(ram, ISA_KERNEL + i * 4096, P_KERNEL + i * 4096,
		         PTE_W);
}

static void build_kernel(u8 *k)
{
	u64 tss = ISA_KERNEL + K_TSS;
	unsigned i;

	put64(k + K_GDT + 0x10, 0x00af9b000000ffff); /* kernel code */
	put64(k + K_GDT + 0x18, 0x00cf93000000ffff);
	put64(k + K_GDT + 0x20, 0x00cffb000000ffff); /* 32-bit user code */
	put64(k + K_GDT + 0x28, 0x00cff3000000ffff); /* user data */
	put64(k + K_GDT + 0x30, 0x00affb000000ffff); /* 64-bit user code */
	put64(k + K_GDT + 0x40, 0x67 | (tss & 0xffffff) << 16 |
	                            (u64)0x8b << 40 | (tss >> 24 & 0xff) << 56);
	put64(k + K_GDT + 0x48, tss >> 32);
	put64(k + K_TSS + 4, ISA_KERNEL + K_STACK_TOP); /* RSP0 */
	k[K_TSS + 0x66] = 0x68;                         /* no I/O bitmap */
	for (i = 0; i < VECTORS; i++) {
		u64 at = ISA_KERNEL + K_HANDLERS + i * 16;
		u64 dpl = i == VEC_BP || i == VEC_OF ? 3 : 0;

		put64(k + K_IDT + i * 16, (at & 0xffff) | 0x10 << 16 |
		                              (0x8e | dpl << 5) << 40 |
		                              (at >> 16 & 0xffff) << 48);
		put64(k + K_IDT + i * 16 + 8, at >> 32);
		k[K_HANDLERS + i * 16] = 0xf4; /* hlt */
	}
}

static struct cpu_segment flat(u16 selector, u16 attr)
{
	return (struct cpu_segment){ .limit = 0xffffffff,
		                     .selector = selector,
		                     .attr = attr };
}

static void base_state(struct cpu_state *s)
{
	const u16 data = 3 | SEG_ATTR_S | SEG_ATTR_DPL | SEG_ATTR_P |
	                 SEG_ATTR_DB | SEG_ATTR_G;

	cpu_state_reset(s, true, 0);
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE |
	         CR4_FSGSBASE | CR4_PGE | CR4_DE;
	s->cr3 = P_PML4;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_ES] = flat(0x2b, data);
	memset(&s->seg[SEG_FS], 0, sizeof(s->seg[SEG_FS]));
	memset(&s->seg[SEG_GS], 0, sizeof(s->seg[SEG_GS]));
	s->gdtr.base = ISA_KERNEL + K_GDT;
	s->gdtr.limit = 0x4f;
	s->idtr.base = ISA_KERNEL + K_IDT;
	s->idtr.limit = VECTORS * 16 - 1;
	s->tr.base = ISA_KERNEL + K_TSS;
	s->tr.limit = 0x67;
	s->tr.selector = 0x40;
	s->tr.attr = 11 | SEG_ATTR_P;
	memset(&s->ldtr, 0, sizeof(s->ldtr));
	s->mp_state = CPU_RUNNING;
}

static int build(struct isa_machine *m, const char *options, struct error *err)
{
	static const struct vcpu_host host = {
		.pio_read = no_pio_read,
		.pio_write = no_pio_write,
		.mmio_read = no_mmio_read,
		.mmio_write = no_mmio_write,
		.msr_read = no_msr_read,
		.msr_write = no_msr_write,
		.irq_pending = no_irq_pending,
		.irq_ack = no_irq_ack,
		.tpr_get = no_tpr_get,
		.tpr_set = no_tpr_set,
	};
	struct cpuid_config cpuid = { .cpus = 1, .tsc_hz = 1000000000 };
	struct engine_config config = { .cpus = 1, .options = options };
	int r;

	r = memory_create(&m->memory, err);
	if (r)
		return r;
	r = memory_add(m->memory, 0, P_SIZE, MEMORY_RAM, "ram", err);
	if (r)
		return r;
	m->ram = memory_ptr(m->memory, 0, P_SIZE);
	build_paging(m->ram);
	build_kernel(m->ram + P_KERNEL);
	m->cpuid = cpuid_model_create(&cpuid);
	config.memory = m->memory;
	config.cpuid = m->cpuid;
	r = m->type->create(&m->engine, &config, err);
	if (r)
		return r;
	return m->type->vcpu_create(m->engine, 0, &host, &m->vcpu, err);
}

struct isa_machine *isa_machine_create(const char *engine, const char *options)
{
	struct isa_machine *m = calloc(1, sizeof(*m));
	struct error err = { 0 };

	m->type = engine_find(engine);
	if (!m->type) {
		fprintf(stderr, "isa: no engine %s in this build\n", engine);
		free(m);
		return NULL;
	}
	if (build(m, options, &err)) {
		fprintf(stderr, "isa: %s\n", err.text);
		isa_machine_destroy(m);
		return NULL;
	}
	base_state(&m->base);
	return m;
}

void isa_machine_destroy(struct isa_machine *m)
{
	if (!m)
		return;
	if (m->vcpu)
		m->type->vcpu_destroy(m->vcpu);
	if (m->engine)
		m->type->destroy(m->engine);
	cpuid_model_destroy(m->cpuid);
	memory_destroy(m->memory);
	free(m);
}

u8 *isa_machine_data(struct isa_machine *m)
{
	return m->ram + P_DATA;
}

static void write_code(struct isa_machine *m, const struct isa_snippet *s)
{
	u8 *code = m->ram + P_CODE;

	memset(code, 0xcc, ISA_CODE_SIZE);
	memcpy(code + (s->start - ISA_CODE), s->bytes, s->length);
	memory_written(m->memory, P_CODE, ISA_CODE_SIZE);
}

static void set_state(struct isa_machine *m, const struct isa_snippet *s,
                      const struct isa_state *in)
{
	const u16 user =
	    11 | SEG_ATTR_S | SEG_ATTR_DPL | SEG_ATTR_P | SEG_ATTR_G;
	struct cpu_state *c = &m->base;
	struct error err = { 0 };

	memcpy(c->xsave, in->xsave, sizeof(c->xsave));
	memcpy(c->gpr, in->gpr, sizeof(c->gpr));
	c->rip = s->start;
	c->rflags = in->rflags | RFLAGS_FIXED | RFLAGS_IF;
	c->seg[SEG_GS].base = in->gs_base;
	c->seg[SEG_CS] = s->mode32 ? flat(0x23, user | SEG_ATTR_DB)
	                           : flat(0x33, user | SEG_ATTR_L);
	c->cr2 = 0;
	if (m->type->vcpu_set(m->vcpu, c, &err)) {
		fprintf(stderr, "isa: %s\n", err.text);
		exit(1);
	}
}

static bool has_error(int vector)
{
	switch (vector) {
	case VEC_DF:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
	case VEC_PF:
	case VEC_AC:
		return true;
	default:
		return false;
	}
}

/* The state at the exception, from the frame that it pushed. */
static void take_state(struct isa_machine *m, const struct isa_snippet *s,
                       const struct cpu_state *c, struct isa_state *out)
{
	u64 handler = c->rip - 1 - (ISA_KERNEL + K_HANDLERS), frame[6];

	memcpy(out->xsave, c->xsave, sizeof(out->xsave));
	memcpy(out->gpr, c->gpr, sizeof(out->gpr));
	out->gs_base = c->seg[SEG_GS].base;
	out->cr2 = c->cr2;
	out->vector = (int)(handler / 16);
	memcpy(frame, m->ram + P_KERNEL + K_STACK_TOP - sizeof(frame),
	       sizeof(frame));
	if (has_error(out->vector))
		out->error = (u32)frame[0];
	out->rip = frame[1];
	out->rflags = frame[3];
	out->gpr[GPR_RSP] = frame[4];
	if (out->vector == VEC_BP && out->rip == s->start + s->length + 1) {
		out->vector = ISA_NO_VECTOR;
		out->rip--;
	}
}

void isa_machine_run(struct isa_machine *m, const struct isa_snippet *snippet,
                     const struct isa_state *in, struct isa_state *out)
{
	struct cpu_state c;
	struct vcpu_exit e;

	write_code(m, snippet);
	memory_written(m->memory, P_DATA, ISA_DATA_WRITABLE);
	set_state(m, snippet, in);
	m->type->vcpu_run(m->vcpu, &e);
	memset(out, 0, sizeof(*out));
	m->type->vcpu_get(m->vcpu, &c);
	if (e.reason != EXIT_HALT) {
		fprintf(stderr, "isa: exit %d (%s) at %#" PRIx64 "\n",
		        (int)e.reason, e.words ? e.words : "", c.rip);
		out->vector = 256 + (int)e.reason;
		out->rip = c.rip;
		return;
	}
	take_state(m, snippet, &c, out);
}

void isa_machine_base(struct isa_machine *m, struct cpu_state *cpu)
{
	*cpu = m->base;
}

void isa_machine_run_wild(struct isa_machine *m, const u8 *bytes, size_t n,
                          const struct cpu_state *cpu, unsigned steps)
{
	struct error err = { 0 };
	struct vcpu_exit e;

	/* Such code may have changed anything. */
	memset(m->ram, 0, P_SIZE);
	memcpy(m->ram, bytes, MIN(n, (size_t)P_PML4));
	build_paging(m->ram);
	build_kernel(m->ram + P_KERNEL);
	memcpy(m->ram + P_CODE, bytes, MIN(n, (size_t)ISA_CODE_SIZE));
	memory_written(m->memory, 0, P_SIZE);
	if (m->type->vcpu_set(m->vcpu, cpu, &err))
		return;
	m->type->vcpu_debug(m->vcpu, NULL, 0, true);
	while (steps--) {
		m->type->vcpu_run(m->vcpu, &e);
		if (e.reason != EXIT_DEBUG)
			break;
	}
	m->type->vcpu_debug(m->vcpu, NULL, 0, false);
}
