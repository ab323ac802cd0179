/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.c - a machine with nothing in it but memory, for engine tests.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "guest.h"

static u64 pio_read(void *ctx, u16 port, unsigned size)
{
	struct guest *g = ctx;

	(void)port;
	(void)size;
	return g->in++;
}

static void pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	struct guest *g = ctx;

	(void)size;
	if (g->outs < ARRAY_SIZE(g->out)) {
		g->out[g->outs] = (u32)value;
		g->out_port[g->outs++] = port;
	}
}

static u64 mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	struct guest *g = ctx;
	u64 v = ~(u64)0;

	g->mmio_reads++;
	if (gpa - GUEST_MMIO <= sizeof(g->mmio) - size) {
		v = 0;
		memcpy(&v, g->mmio + (gpa - GUEST_MMIO), size);
	}
	return v;
}

static void mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	struct guest *g = ctx;

	g->mmio_writes++;
	if (gpa - GUEST_MMIO <= sizeof(g->mmio) - size)
		memcpy(g->mmio + (gpa - GUEST_MMIO), &value, size);
}

static bool msr_read(void *ctx, u32 msr, u64 *value)
{
	*value = ((const struct guest *)ctx)->apic_base;
	return msr == MSR_APIC_BASE;
}

static bool msr_write(void *ctx, u32 msr, u64 value)
{
	(void)ctx;
	(void)value;
	return msr == MSR_APIC_BASE;
}

static bool irq_pending(void *ctx)
{
	const struct guest *g = ctx;

	return g->irq >= 0 && g->irq >> 4 > g->tpr;
}

static int irq_ack(void *ctx)
{
	struct guest *g = ctx;
	int irq = g->irq;

	g->irq = -1;
	return irq;
}

static u8 tpr_get(void *ctx)
{
	return ((struct guest *)ctx)->tpr;
}

static void tpr_set(void *ctx, u8 tpr)
{
	((struct guest *)ctx)->tpr = tpr;
}

static s64 hypercall(void *ctx, u64 number, const u64 arg[HYPERCALL_ARGS],
                     bool code64)
{
	struct guest *g = ctx;

	assert_true(code64);
	g->hypercall[0] = number;
	memcpy(g->hypercall + 1, arg, HYPERCALL_ARGS * sizeof(*arg));
	return -22;
}

int guest_setup(void **state)
{
	struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), (size_t)64));
	struct cpuid_config cpuid = { .cpus = 1, .tsc_hz = 1000000000 };
	struct engine_config config = { .cpus = 1 };
	struct vcpu_host host = {
		.ctx = g,
		.pio_read = pio_read,
		.pio_write = pio_write,
		.mmio_read = mmio_read,
		.mmio_write = mmio_write,
		.msr_read = msr_read,
		.msr_write = msr_write,
		.irq_pending = irq_pending,
		.irq_ack = irq_ack,
		.tpr_get = tpr_get,
		.tpr_set = tpr_set,
		.hypercall = hypercall,
	};
	struct error err;

	assert_non_null(g);
	memset(g, 0, sizeof(*g));
	g->irq = -1;
	g->apic_base = 0x1234;
	g->type = engine_find(getenv("ATOLL_TEST_ENGINE")
	                          ? getenv("ATOLL_TEST_ENGINE")
	                          : "interp");
	assert_non_null(g->type);
	g->cpuid = cpuid_model_create(&cpuid);
	assert_int_equal(memory_create(&g->memory, &err), 0);
	assert_int_equal(
	    memory_add(g->memory, 0, GUEST_RAM, MEMORY_RAM, "ram", &err), 0);
	config.memory = g->memory;
	config.cpuid = g->cpuid;
	assert_int_equal(g->type->create(&g->engine, &config, &err), 0);
	assert_int_equal(
	    g->type->vcpu_create(g->engine, 0, &host, &g->vcpu, &err), 0);
	g->ram = memory_ptr(g->memory, 0, GUEST_RAM);
	cpu_state_reset(&g->s, true, 0x600);
	*state = g;
	return 0;
}

int guest_teardown(void **state)
{
	struct guest *g = *state;

	g->type->vcpu_destroy(g->vcpu);
	g->type->destroy(g->engine);
	memory_destroy(g->memory);
	cpuid_model_destroy(g->cpuid);
	free(g);
	return 0;
}

void guest_poke(struct guest *g, u64 at, const void *data, size_t size)
{
	assert_true(memory_write(g->memory, at, data, size));
}

u64 guest_peek(struct guest *g, u64 at, unsigned size)
{
	u64 v = 0;

	assert_true(memory_read(g->memory, at, &v, size));
	return v;
}

static void poke64(struct guest *g, u64 at, u64 v)
{
	guest_poke(g, at, &v, 8);
}

void guest_code(struct guest *g, const void *code, size_t size)
{
	guest_poke(g, GUEST_CODE, code, size);
}

u64 *guest_pte(struct guest *g, u64 lin)
{
	return (u64 *)(void *)(g->ram + GUEST_TABLES + 0x3000 +
	                       (lin >> 12) * 8);
}

void guest_real(struct guest *g)
{
	cpu_state_reset(&g->s, true, 0x600);
	for (int i = 0; i < SEG_COUNT; i++) {
		g->s.seg[i].selector = 0;
		g->s.seg[i].base = 0;
	}
	g->s.gpr[GPR_RSP] = GUEST_STACK;
	g->s.rip = GUEST_CODE;
}

static struct cpu_segment segment(u16 selector, u16 attr)
{
	return (struct cpu_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.attr = attr,
	};
}

/* Handlers: OUT imm8 = vector to port 0x80 | ..., then HLT. */
static void make_handlers(struct guest *g)
{
	for (unsigned v = 0; v < 256; v++) {
		/* mov $v, %al; out %al, $0xe0; hlt */
		u8 code[] = { 0xb0, (u8)v, 0xe6, 0xe0, 0xf4 };

		guest_poke(g, GUEST_HANDLERS + v * 16, code, sizeof(code));
	}
}

static void make_gdt(struct guest *g, bool long_mode)
{
	static const u64 gdt[] = {
		0,
		0x00cf9b000000ffff, /* code 0 */
		0x00cf93000000ffff, /* data 0 */
		0x00cffb000000ffff, /* code 3 */
		0x00cff3000000ffff, /* data 3 */
	};

	guest_poke(g, GUEST_GDT, gdt, sizeof(gdt));
	if (long_mode) {
		poke64(g, GUEST_GDT + 0x08, 0x00af9b000000ffff);
		poke64(g, GUEST_GDT + 0x18, 0x00affb000000ffff);
	}
	/* Busy, for it is loaded. */
	poke64(g, GUEST_GDT + SEL_TSS,
	       0x00008b0000000000 | (u64)GUEST_TSS << 16 | 0xfff);
	poke64(g, GUEST_GDT + SEL_CODE32, 0x00cf9b000000ffff);
	poke64(g, GUEST_GDT + SEL_TSS2,
	       0x0000890000000000 | (u64)(GUEST_TSS + 0x800) << 16 | 0x67);
	poke64(g, GUEST_GDT + SEL_CODE16, 0x00009b000000ffff);
	poke64(g, GUEST_GDT + SEL_DATA16, 0x000093000000ffff);
	g->s.gdtr = (struct cpu_table){ .base = GUEST_GDT, .limit = 0x5f };
}

static void make_tables(struct guest *g, bool pae)
{
	u64 t = GUEST_TABLES;

	assert_true(pae);
	poke64(g, t, (t + 0x1000) | 7);
	poke64(g, t + 0x1000, (t + 0x2000) | 7);
	poke64(g, t + 0x1000 + 3 * 8, (t + 0x4000) | 7);
	poke64(g, t + 0x2000, (t + 0x3000) | 7);
	for (u64 i = 1; i < 8; i++)
		poke64(g, t + 0x2000 + i * 8, i << 21 | 0x83);
	for (u64 i = 0; i < 512; i++) {
		u64 page = i << 12;
		bool user = page >= GUEST_USER && page < GUEST_USER + 0x10000;

		poke64(g, t + 0x3000 + i * 8, page | (user ? 7 : 3));
	}
	poke64(g, t + 0x4000 + 0x1f7 * 8, 0xfee00000 | 0x83);
}

static void common(struct guest *g)
{
	cpu_state_reset(&g->s, true, 0x600);
	make_handlers(g);
	g->s.seg[SEG_CS] = segment(SEL_CODE0, 0xc09b);
	g->s.seg[SEG_SS] = segment(SEL_DATA0, 0xc093);
	g->s.seg[SEG_DS] = segment(SEL_DATA0, 0xc093);
	g->s.seg[SEG_ES] = segment(SEL_DATA0, 0xc093);
	g->s.seg[SEG_FS] = segment(SEL_DATA0, 0xc093);
	g->s.seg[SEG_GS] = segment(SEL_DATA0, 0xc093);
	g->s.tr = segment(SEL_TSS, 0x008b);
	g->s.tr.base = GUEST_TSS;
	g->s.tr.limit = 0xfff;
	g->s.gpr[GPR_RSP] = GUEST_STACK;
	g->s.rip = GUEST_CODE;
	g->s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_MP;
	g->s.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
}

void guest_flat32(struct guest *g, bool paging)
{
	common(g);
	make_gdt(g, false);
	for (unsigned v = 0; v < 256; v++) {
		u32 to = GUEST_HANDLERS + v * 16;
		unsigned dpl = v == 3 || v == 4 || v >= 0x80 ? 3 : 0;

		poke64(g, GUEST_IDT + v * 8,
		       (to & 0xffff) | (u64)SEL_CODE0 << 16 |
		           (u64)(0x8e00 | dpl << 13) << 32);
	}
	g->s.idtr = (struct cpu_table){ .base = GUEST_IDT, .limit = 0x7ff };
	poke64(g, GUEST_TSS + 4, GUEST_STACK0 | (u64)SEL_DATA0 << 32);
	/* I/O map beyond the limit. */
	guest_poke(g, GUEST_TSS + 0x66, &(u16){ 0x1000 }, 2);
	g->s.cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (paging) {
		make_tables(g, true);
		/* PAE: four entries of the PDPT are the top. */
		for (u64 i = 0; i < 4; i++) {
			u64 e = guest_peek(g, GUEST_TABLES + 0x1000 + i * 8, 8);

			poke64(g, GUEST_TABLES + 0x1000 + i * 8,
			       e ? (e & ~(u64)6) : 0);
		}
		g->s.cr3 = GUEST_TABLES + 0x1000;
		g->s.cr4 |= CR4_PAE;
		g->s.cr0 |= CR0_PG | CR0_WP;
	}
}

void guest_long(struct guest *g)
{
	common(g);
	make_gdt(g, true);
	make_tables(g, true);
	for (unsigned v = 0; v < 256; v++) {
		u32 to = GUEST_HANDLERS + v * 16;
		unsigned dpl = v == 3 || v == 4 || v >= 0x80 ? 3 : 0;

		poke64(g, GUEST_IDT + v * 16,
		       (to & 0xffff) | (u64)SEL_CODE0 << 16 |
		           (u64)(0x8e00 | dpl << 13) << 32);
		poke64(g, GUEST_IDT + v * 16 + 8, 0);
	}
	g->s.idtr = (struct cpu_table){ .base = GUEST_IDT, .limit = 0xfff };
	poke64(g, GUEST_TSS + 4, GUEST_STACK0);
	poke64(g, GUEST_TSS + 36, GUEST_STACK0 - 0x800);
	guest_poke(g, GUEST_TSS + 0x66, &(u16){ 0x1000 }, 2);
	g->s.seg[SEG_CS].attr = 0xa09b;
	g->s.cr3 = GUEST_TABLES;
	g->s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	g->s.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	g->s.cr0 |= CR0_PG | CR0_WP;
}

void guest_run(struct guest *g)
{
	struct error err;

	g->s.mp_state = CPU_RUNNING; /* it may have halted last time */
	assert_int_equal(g->type->vcpu_set(g->vcpu, &g->s, &err), 0);
	g->type->vcpu_run(g->vcpu, &g->exit);
	g->type->vcpu_get(g->vcpu, &g->s);
	if (g->exit.reason == EXIT_SHUTDOWN || g->exit.reason == EXIT_ERROR)
		print_message("exit: %s\n", g->exit.words);
}

void guest_run_to_halt(struct guest *g)
{
	g->outs = 0;
	guest_run(g);
	assert_int_equal(g->exit.reason, EXIT_HALT);
}

void guest_expect_fault(struct guest *g, u8 vector, s64 error, u64 rip)
{
	unsigned size = g->s.efer & EFER_LMA ? 8 : 4;
	u64 sp;

	guest_run_to_halt(g);
	sp = g->s.gpr[GPR_RSP];
	assert_true(g->outs > 0);
	assert_int_equal(g->out_port[g->outs - 1], 0xe0);
	assert_int_equal(g->out[g->outs - 1], vector);
	if (error >= 0) {
		assert_int_equal(guest_peek(g, sp, size), error);
		sp += size;
	}
	assert_int_equal(guest_peek(g, sp, size), rip);
}
