/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c - the task-state segment: inner stacks, the I/O map, and hardware
 * task switches.
 *
 *	16-bit TSS		32-bit TSS
 *	0x00 link		0x00 link
 *	0x02 SP0 SS0 ...	0x04 ESP0 SS0 ...
 *				0x1c CR3
 *	0x0e IP FLAGS		0x20 EIP EFLAGS
 *	0x12 AX..DI		0x28 EAX..EDI
 *	0x22 ES CS SS DS	0x48 ES CS SS DS FS GS
 *	0x2a LDT		0x60 LDT
 *				0x64 T, I/O map base
 */
#include "engine/x86/task.h"

#include "engine/x86/control.h"
#include "engine/x86/segment.h"

static bool tss32(const struct icpu *cpu)
{
	return cpu->tr.attr & 8;
}

void task_stack(struct icpu *cpu, unsigned cpl, u16 *ss, u32 *esp)
{
	if (tss32(cpu)) {
		u32 at = 4 + cpl * 8;

		if (at + 5 > cpu->tr.limit)
			segment_fault(cpu, VEC_TS, cpu->tr.selector);
		*esp = (u32)icpu_load(cpu, cpu->tr.base + at, 4, PRIV_SUPER);
		*ss = (u16)icpu_load(cpu, cpu->tr.base + at + 4, 2, PRIV_SUPER);
	} else {
		u32 at = 2 + cpl * 4;

		if (at + 3 > cpu->tr.limit)
			segment_fault(cpu, VEC_TS, cpu->tr.selector);
		*esp = (u32)icpu_load(cpu, cpu->tr.base + at, 2, PRIV_SUPER);
		*ss = (u16)icpu_load(cpu, cpu->tr.base + at + 2, 2, PRIV_SUPER);
	}
}

u64 task_stack64(struct icpu *cpu, unsigned index)
{
	/* RSP0-2 at 4, 12, 20; IST1-7 at 36 on. */
	u32 at = index < 7 ? 4 + index * 8 : 36 + (index - 7) * 8;
	u64 rsp;

	if (at + 7 > cpu->tr.limit)
		segment_fault(cpu, VEC_TS, cpu->tr.selector);
	rsp = icpu_load(cpu, cpu->tr.base + at, 8, PRIV_SUPER);
	if (!icpu_canonical(rsp))
		icpu_fault_error(cpu, VEC_SS, cpu->external);
	return rsp;
}

bool task_io_allowed(struct icpu *cpu, u16 port, unsigned size)
{
	u32 map, at;
	u16 bits;

	if (!(cpu->tr.attr & SEG_ATTR_P) || !tss32(cpu) || cpu->tr.limit < 0x67)
		return false;
	map = (u32)icpu_load(cpu, cpu->tr.base + 0x66, 2, PRIV_SUPER);
	at = map + port / 8;
	if (at + 1 > cpu->tr.limit)
		return false;
	bits = (u16)icpu_load(cpu, cpu->tr.base + at, 2, PRIV_SUPER);
	return !(bits >> (port & 7) & ((1u << size) - 1));
}

static const u8 gpr_order[8] = { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX,
	                         GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI };

static void save32(struct icpu *cpu, u64 rip, u32 rflags)
{
	u32 image[16] = { (u32)rip, rflags };

	for (unsigned i = 0; i < 8; i++)
		image[2 + i] = (u32)cpu->gpr[gpr_order[i]];
	for (unsigned i = 0; i < 6; i++)
		image[10 + i] = cpu->seg[i].selector;
	/* EIP..EDI are 40 bytes, then six selectors of 4. */
	icpu_write(cpu, cpu->tr.base + 0x20, image, sizeof(image), PRIV_SUPER);
}

static void save16(struct icpu *cpu, u64 rip, u32 rflags)
{
	u16 image[14] = { (u16)rip, (u16)rflags };

	for (unsigned i = 0; i < 8; i++)
		image[2 + i] = (u16)cpu->gpr[gpr_order[i]];
	for (unsigned i = 0; i < 4; i++)
		image[10 + i] = cpu->seg[i].selector;
	icpu_write(cpu, cpu->tr.base + 0x0e, image, sizeof(image), PRIV_SUPER);
}

struct image {
	u32 cr3, eip, eflags, gpr[8];
	u16 seg[6], ldt;
	bool trap;
};

static void read_image(struct icpu *cpu, gva_t base, bool wide, struct image *t)
{
	if (wide) {
		u32 w[0x68 / 4];

		icpu_read(cpu, base, w, sizeof(w), PRIV_SUPER);
		t->cr3 = w[7];
		t->eip = w[8];
		t->eflags = w[9];
		for (unsigned i = 0; i < 8; i++)
			t->gpr[i] = w[10 + i];
		for (unsigned i = 0; i < 6; i++)
			t->seg[i] = (u16)w[18 + i];
		t->ldt = (u16)w[24];
		t->trap = w[25] & 1;
	} else {
		u16 w[0x2c / 2];

		icpu_read(cpu, base, w, sizeof(w), PRIV_SUPER);
		*t = (struct image){ .eip = w[7], .eflags = w[8] };
		for (unsigned i = 0; i < 8; i++)
			t->gpr[i] = w[9 + i];
		for (unsigned i = 0; i < 4; i++)
			t->seg[i] = w[17 + i];
		t->ldt = w[21];
	}
}

static void set_busy(struct icpu *cpu, u16 selector, bool busy)
{
	gva_t at = cpu->gdtr.base + (selector & 0xfff8) + 5;
	u8 b = (u8)icpu_load(cpu, at, 1, PRIV_SUPER);

	icpu_store(cpu, at, busy ? b | 2 : b & ~2u, 1, PRIV_SUPER);
}

/* From here on faults belong to the new task. */
static void load_ldt(struct icpu *cpu, u16 selector)
{
	struct descriptor d;

	segment_null(&cpu->ldtr);
	cpu->ldtr.selector = selector;
	if (!(selector & 0xfffc))
		return;
	if (selector & 4 || !descriptor_find(cpu, selector, &d) ||
	    !desc_system(&d) || desc_type(&d) != DESC_LDT || !desc_present(&d))
		segment_fault(cpu, VEC_TS, selector);
	segment_from_descriptor(&cpu->ldtr, selector, &d);
}

static void load_cs(struct icpu *cpu, u16 selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (!(selector & 0xfffc))
		segment_fault(cpu, VEC_TS, selector);
	descriptor_read(cpu, selector, VEC_TS, &d);
	if (!desc_code(&d) ||
	    (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		segment_fault(cpu, VEC_TS, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(&cpu->seg[SEG_CS], selector, &d);
}

static void load_data(struct icpu *cpu, unsigned seg, u16 selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (!(selector & 0xfffc))
		return;
	descriptor_read(cpu, selector, VEC_TS, &d);
	if (desc_system(&d) || (desc_code(&d) && !(desc_type(&d) & TYPE_RW)) ||
	    (!desc_conforming(&d) &&
	     (rpl > desc_dpl(&d) || cpu->cpl > desc_dpl(&d))))
		segment_fault(cpu, VEC_TS, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(&cpu->seg[seg], selector, &d);
}

static void load_segments(struct icpu *cpu, const struct image *t)
{
	load_ldt(cpu, t->ldt);
	if (icpu_v86(cpu)) {
		for (unsigned i = 0; i < SEG_COUNT; i++)
			segment_set_real(cpu, i, t->seg[i]);
		return;
	}
	load_cs(cpu, t->seg[SEG_CS]);
	icpu_update(cpu);
	segment_check_stack(cpu, t->seg[SEG_SS], cpu->cpl, VEC_TS,
	                    &cpu->seg[SEG_SS]);
	load_data(cpu, SEG_DS, t->seg[SEG_DS]);
	load_data(cpu, SEG_ES, t->seg[SEG_ES]);
	load_data(cpu, SEG_FS, t->seg[SEG_FS]);
	load_data(cpu, SEG_GS, t->seg[SEG_GS]);
}

void task_switch(struct icpu *cpu, u16 selector, struct descriptor *d,
                 enum task_reason reason, u64 rip, u32 rflags)
{
	bool wide = desc_type(d) & 8;
	u16 old = cpu->tr.selector;
	struct cpu_segment tr;
	struct image t;

	segment_from_descriptor(&tr, selector, d);
	if (tr.limit < (wide ? 0x67u : 0x2bu))
		segment_fault(cpu, VEC_TS, selector);
	read_image(cpu, tr.base, wide, &t);
	/* The new TSS is written for a link and the busy bit: can it be? */
	icpu_probe(cpu, cpu->tr.base, tss32(cpu) ? 0x68 : 0x2c, ACCESS_WRITE,
	           PRIV_SUPER);
	if (reason == TASK_CALL)
		icpu_probe(cpu, tr.base, 2, ACCESS_WRITE, PRIV_SUPER);

	if (reason == TASK_IRET)
		rflags &= ~(u32)RFLAGS_NT;
	if (tss32(cpu))
		save32(cpu, rip, rflags);
	else
		save16(cpu, rip, rflags);
	if (reason != TASK_CALL)
		set_busy(cpu, old, false);
	if (reason == TASK_CALL) {
		icpu_store(cpu, tr.base, old, 2, PRIV_SUPER);
		t.eflags |= RFLAGS_NT;
	}
	if (reason != TASK_IRET)
		set_busy(cpu, selector, true);

	/* Committed: the rest happens in the new task. */
	cpu->cur = NULL;
	cpu->tr = tr;
	cpu->tr.attr |= 2;
	cpu->cr0 |= CR0_TS;
	if (wide && cpu->cr0 & CR0_PG && !control_task_cr3(cpu, t.cr3))
		icpu_fault_error(cpu, VEC_TS, sel_error(selector));
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[gpr_order[i]] =
		    wide ? t.gpr[i] : t.gpr[i] | 0xffff0000;
	cpu->rip = t.eip;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		segment_null(&cpu->seg[i]);
		cpu->seg[i].selector = t.seg[i];
	}
	icpu_set_rflags(cpu, t.eflags);
	if (icpu_v86(cpu))
		cpu->cpl = 3;
	else
		cpu->cpl = t.seg[SEG_CS] & 3;
	cpu->dr[7] &= ~(u64)0x155; /* local breakpoints */
	icpu_update(cpu);
	load_segments(cpu, &t);
	icpu_update(cpu);
	if ((u32)cpu->rip > cpu->seg[SEG_CS].limit)
		icpu_fault_error(cpu, VEC_GP, cpu->external);
	if (t.trap) {
		cpu->pending_db |= BIT(15); /* DR6.BT */
		icpu_update(cpu);
	}
}
