/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.c - far jumps, calls and returns, IRET, and the fast system calls.
 */
#include "engine/x86/transfer.h"

#include "engine/x86/segment.h"
#include "engine/x86/stack.h"
#include "engine/x86/task.h"

/* ---- where a transfer leads ---- */

static void check_target(struct icpu *cpu, const struct cpu_segment *cs,
                         u64 rip)
{
	if (icpu_long(cpu) && cs->attr & SEG_ATTR_L) {
		if (!icpu_canonical(rip))
			icpu_gp(cpu);
	} else if (rip > cs->limit) {
		icpu_gp(cpu);
	}
}

/* A code segment for a direct far JMP or CALL: no change of privilege. */
static void direct_target(struct icpu *cpu, u16 selector, struct descriptor *d,
                          struct cpu_segment *cs)
{
	bool bad;

	if (desc_conforming(d))
		bad = desc_dpl(d) > cpu->cpl;
	else
		bad = (selector & 3) > cpu->cpl || desc_dpl(d) != cpu->cpl;
	/* L and D together is reserved. */
	if (icpu_long(cpu) && (d->hi & 0x600000) == 0x600000)
		bad = true;
	if (bad)
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(d))
		segment_fault(cpu, VEC_NP, selector);
	descriptor_set_accessed(cpu, d);
	segment_from_descriptor(cs, (u16)((selector & 0xfffc) | cpu->cpl), d);
}

static void go(struct icpu *cpu, const struct cpu_segment *cs, unsigned cpl,
               u64 rip)
{
	cpu->seg[SEG_CS] = *cs;
	cpu->cpl = (u8)cpl;
	cpu->rip = rip;
	icpu_update(cpu);
}

static void real_target(struct icpu *cpu, u16 selector, u64 offset)
{
	u32 limit = icpu_v86(cpu) ? 0xffff : cpu->seg[SEG_CS].limit;

	if (offset > limit)
		icpu_gp(cpu);
	cpu->seg[SEG_CS].selector = selector;
	cpu->seg[SEG_CS].base = (u64)selector << 4;
	cpu->rip = offset;
	icpu_update(cpu);
}

struct gate {
	u16 selector;
	u64 offset;
	unsigned size, count; /* bytes, parameters to copy */
};

static void read_gate(struct icpu *cpu, u16 selector, struct descriptor *d,
                      struct gate *g)
{
	unsigned dpl = desc_dpl(d);

	if (dpl < cpu->cpl || dpl < (selector & 3u))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(d))
		segment_fault(cpu, VEC_NP, selector);
	g->selector = (u16)(d->lo >> 16);
	g->offset = d->lo & 0xffff;
	g->count = d->hi & 31;
	g->size = desc_type(d) == DESC_CALL32 ? 4 : 2;
	if (g->size == 4)
		g->offset |= d->hi & 0xffff0000;
	if (icpu_long(cpu)) {
		descriptor_read_upper(cpu, selector, VEC_GP, d);
		g->offset |= d->upper << 32;
		g->size = 8;
	}
}

static void gate_code(struct icpu *cpu, const struct gate *g,
                      struct descriptor *d)
{
	if (!(g->selector & 0xfffc))
		segment_fault(cpu, VEC_GP, 0);
	descriptor_read(cpu, g->selector, VEC_GP, d);
	if (!desc_code(d) || desc_dpl(d) > cpu->cpl)
		segment_fault(cpu, VEC_GP, g->selector);
	if (icpu_long(cpu) && (d->hi & 0x600000) != 0x200000)
		segment_fault(cpu, VEC_GP, g->selector);
	if (!desc_present(d))
		segment_fault(cpu, VEC_NP, g->selector);
}

static void jump_gate(struct icpu *cpu, u16 selector, struct descriptor *d)
{
	struct descriptor code;
	struct cpu_segment cs;
	struct gate g;

	read_gate(cpu, selector, d, &g);
	gate_code(cpu, &g, &code);
	if (!desc_conforming(&code) && desc_dpl(&code) != cpu->cpl)
		segment_fault(cpu, VEC_GP, g.selector);
	descriptor_set_accessed(cpu, &code);
	segment_from_descriptor(&cs, (u16)((g.selector & 0xfffc) | cpu->cpl),
	                        &code);
	check_target(cpu, &cs, g.offset);
	go(cpu, &cs, cpu->cpl, g.offset);
}

/* A far transfer to a system descriptor: a TSS, or a task gate to one. */
static void to_task(struct icpu *cpu, u16 selector, struct descriptor *d,
                    enum task_reason reason, u64 next)
{
	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (selector & 3u))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(d))
		segment_fault(cpu, VEC_NP, selector);
	if (desc_type(d) == DESC_TASK) {
		selector = (u16)(d->lo >> 16);
		if (selector & 4)
			segment_fault(cpu, VEC_GP, selector);
		descriptor_read(cpu, selector, VEC_GP, d);
		if (!desc_system(d) ||
		    (desc_type(d) != DESC_TSS16 && desc_type(d) != DESC_TSS32))
			segment_fault(cpu, VEC_GP, selector);
		if (!desc_present(d))
			segment_fault(cpu, VEC_NP, selector);
	} else if (selector & 4) {
		segment_fault(cpu, VEC_GP, selector);
	}
	task_switch(cpu, selector, d, reason, next, (u32)icpu_rflags(cpu));
}

static bool is_task(const struct icpu *cpu, const struct descriptor *d)
{
	return !icpu_long(cpu) &&
	       (desc_type(d) == DESC_TSS16 || desc_type(d) == DESC_TSS32 ||
	        desc_type(d) == DESC_TASK);
}

static bool is_call_gate(const struct icpu *cpu, const struct descriptor *d)
{
	return desc_type(d) == DESC_CALL32 ||
	       (desc_type(d) == DESC_CALL16 && !icpu_long(cpu));
}

void transfer_jump(struct icpu *cpu, u16 selector, u64 offset, unsigned size,
                   u64 next)
{
	struct descriptor d;
	struct cpu_segment cs;

	(void)size;
	if (icpu_real_or_v86(cpu)) {
		real_target(cpu, selector, offset);
		return;
	}
	if (!(selector & 0xfffc))
		icpu_gp(cpu);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (desc_code(&d)) {
		direct_target(cpu, selector, &d, &cs);
		check_target(cpu, &cs, offset);
		go(cpu, &cs, cpu->cpl, offset);
	} else if (desc_system(&d) && is_call_gate(cpu, &d)) {
		jump_gate(cpu, selector, &d);
	} else if (desc_system(&d) && is_task(cpu, &d)) {
		to_task(cpu, selector, &d, TASK_JMP, next);
	} else {
		segment_fault(cpu, VEC_GP, selector);
	}
}

/* ---- far calls ---- */

static void push_return(struct icpu *cpu, struct stack *s, unsigned size,
                        u64 next)
{
	stack_push(cpu, s, size, cpu->seg[SEG_CS].selector);
	stack_push(cpu, s, size, next);
}

/* Through a gate to an inner level: a new stack, parameters copied. */
static void call_inner(struct icpu *cpu, const struct gate *g,
                       struct descriptor *code, u64 next)
{
	unsigned cpl = desc_dpl(code);
	struct cpu_segment cs, ss;
	struct stack s, old;
	u64 params[31];

	if (icpu_long(cpu)) {
		stack_flat64(&s, task_stack64(cpu, cpl), cpl);
		segment_null(&ss);
		ss.selector = (u16)cpl;
		ss.attr = (u16)(cpl << SEG_ATTR_DPL_SHIFT);
	} else {
		u16 sel;
		u32 sp;

		task_stack(cpu, cpl, &sel, &sp);
		segment_check_stack(cpu, sel, cpl, VEC_TS, &ss);
		stack_of(&s, &ss, sp, cpl);
		stack_current(cpu, &old);
		for (unsigned i = 0; i < g->count; i++)
			params[i] = stack_pop(cpu, &old, g->size);
	}
	descriptor_set_accessed(cpu, code);
	segment_from_descriptor(&cs, (u16)((g->selector & 0xfffc) | cpl), code);
	check_target(cpu, &cs, g->offset);
	stack_push(cpu, &s, g->size, cpu->seg[SEG_SS].selector);
	stack_push(cpu, &s, g->size, cpu->gpr[GPR_RSP]);
	if (!icpu_long(cpu))
		for (unsigned i = g->count; i-- > 0;)
			stack_push(cpu, &s, g->size, params[i]);
	push_return(cpu, &s, g->size, next);
	cpu->seg[SEG_SS] = ss;
	cpu->gpr[GPR_RSP] = s.sp;
	go(cpu, &cs, cpl, g->offset);
}

static void call_gate(struct icpu *cpu, u16 selector, struct descriptor *d,
                      u64 next)
{
	struct descriptor code;
	struct cpu_segment cs;
	struct stack s;
	struct gate g;

	read_gate(cpu, selector, d, &g);
	gate_code(cpu, &g, &code);
	if (!desc_conforming(&code) && desc_dpl(&code) < cpu->cpl) {
		call_inner(cpu, &g, &code, next);
		return;
	}
	descriptor_set_accessed(cpu, &code);
	segment_from_descriptor(&cs, (u16)((g.selector & 0xfffc) | cpu->cpl),
	                        &code);
	check_target(cpu, &cs, g.offset);
	stack_current(cpu, &s);
	push_return(cpu, &s, g.size, next);
	stack_commit(cpu, &s);
	go(cpu, &cs, cpu->cpl, g.offset);
}

void transfer_call(struct icpu *cpu, u16 selector, u64 offset, unsigned size,
                   u64 next)
{
	struct descriptor d;
	struct cpu_segment cs;
	struct stack s;

	if (icpu_real_or_v86(cpu)) {
		u32 limit = icpu_v86(cpu) ? 0xffff : cpu->seg[SEG_CS].limit;

		if (offset > limit)
			icpu_gp(cpu);
		stack_current(cpu, &s);
		push_return(cpu, &s, size, next);
		stack_commit(cpu, &s);
		real_target(cpu, selector, offset);
		return;
	}
	if (!(selector & 0xfffc))
		icpu_gp(cpu);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (desc_code(&d)) {
		direct_target(cpu, selector, &d, &cs);
		check_target(cpu, &cs, offset);
		stack_current(cpu, &s);
		push_return(cpu, &s, size, next);
		stack_commit(cpu, &s);
		go(cpu, &cs, cpu->cpl, offset);
	} else if (desc_system(&d) && is_call_gate(cpu, &d)) {
		call_gate(cpu, selector, &d, next);
	} else if (desc_system(&d) && is_task(cpu, &d)) {
		to_task(cpu, selector, &d, TASK_CALL, next);
	} else {
		segment_fault(cpu, VEC_GP, selector);
	}
}

/* ---- returns ---- */

/* CS of a far return or IRET; its RPL is the new CPL. */
static void return_code(struct icpu *cpu, u16 selector, struct cpu_segment *cs)
{
	unsigned rpl = selector & 3;
	struct descriptor d;

	if (!(selector & 0xfffc))
		segment_fault(cpu, VEC_GP, 0);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (!desc_code(&d) || rpl < cpu->cpl ||
	    (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl) ||
	    (icpu_long(cpu) && (d.hi & 0x600000) == 0x600000))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(cs, selector, &d);
}

/* SS of a return outward, or of any IRETQ. */
static void return_stack(struct icpu *cpu, u16 selector,
                         const struct cpu_segment *cs, struct cpu_segment *ss)
{
	unsigned cpl = cs->selector & 3;

	if (!(selector & 0xfffc) && icpu_long(cpu) && cs->attr & SEG_ATTR_L &&
	    cpl != 3 && (selector & 3) == cpl) {
		segment_null(ss);
		ss->selector = selector;
		ss->attr = (u16)(cpl << SEG_ATTR_DPL_SHIFT);
		return;
	}
	segment_check_stack(cpu, selector, cpl, VEC_GP, ss);
}

/* SP by the width that the new stack has. */
static void set_sp(struct icpu *cpu, const struct cpu_segment *cs,
                   const struct cpu_segment *ss, u64 sp)
{
	if (icpu_long(cpu) && cs->attr & SEG_ATTR_L)
		cpu->gpr[GPR_RSP] = sp;
	else if (ss->attr & SEG_ATTR_DB)
		cpu->gpr[GPR_RSP] = (u32)sp;
	else
		cpu->gpr[GPR_RSP] =
		    (cpu->gpr[GPR_RSP] & ~(u64)0xffff) | (sp & 0xffff);
}

void transfer_return(struct icpu *cpu, unsigned size, u16 release)
{
	struct cpu_segment cs, ss;
	struct stack s;
	u64 rip, sp;
	u16 selector;

	stack_current(cpu, &s);
	rip = stack_pop(cpu, &s, size);
	selector = (u16)stack_pop(cpu, &s, size);
	if (icpu_real_or_v86(cpu)) {
		if (rip > 0xffff && rip > cpu->seg[SEG_CS].limit)
			icpu_gp(cpu);
		s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask);
		stack_commit(cpu, &s);
		real_target(cpu, selector, rip);
		return;
	}
	return_code(cpu, selector, &cs);
	check_target(cpu, &cs, rip);
	s.sp = (s.sp & ~s.mask) | ((s.sp + release) & s.mask);
	if ((selector & 3) == cpu->cpl) {
		stack_commit(cpu, &s);
		go(cpu, &cs, cpu->cpl, rip);
		return;
	}
	sp = stack_pop(cpu, &s, size);
	return_stack(cpu, (u16)stack_pop(cpu, &s, size), &cs, &ss);
	cpu->seg[SEG_SS] = ss;
	set_sp(cpu, &cs, &ss, sp + release);
	segment_drop_privileged(cpu, selector & 3);
	go(cpu, &cs, selector & 3, rip);
}

/* RFLAGS as IRET at this CPL may change them. */
static void iret_flags(struct icpu *cpu, u64 image, unsigned size, unsigned cpl,
                       unsigned iopl)
{
	u64 mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

	if (size > 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (cpl <= iopl)
		mask |= RFLAGS_IF;
	if (cpl == 0) {
		mask |= RFLAGS_IOPL;
		if (size > 2)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	icpu_set_rflags(cpu, (icpu_rflags(cpu) & ~mask) | (image & mask));
}

static void iret_real(struct icpu *cpu, unsigned size)
{
	struct stack s;
	u64 rip, cs, fl, mask;

	stack_current(cpu, &s);
	rip = stack_pop(cpu, &s, size);
	cs = stack_pop(cpu, &s, size);
	fl = stack_pop(cpu, &s, size);
	if (rip > 0xffff && rip > cpu->seg[SEG_CS].limit)
		icpu_gp(cpu);
	mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_IF;
	if (!icpu_v86(cpu))
		mask |= RFLAGS_IOPL;
	if (size > 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	stack_commit(cpu, &s);
	icpu_set_rflags(cpu, (icpu_rflags(cpu) & ~mask) | (fl & mask));
	real_target(cpu, (u16)cs, rip);
}

/* IRET in V86 mode with VME and IOPL below 3: SDM vol. 3 20.3. */
static void iret_vme(struct icpu *cpu, unsigned size)
{
	struct stack s;
	u64 rip, cs, fl, now;

	if (size != 2)
		icpu_gp(cpu);
	stack_current(cpu, &s);
	rip = stack_pop(cpu, &s, 2);
	cs = stack_pop(cpu, &s, 2);
	fl = stack_pop(cpu, &s, 2);
	now = icpu_rflags(cpu);
	if ((fl & RFLAGS_IF && now & RFLAGS_VIP) || fl & RFLAGS_TF)
		icpu_gp(cpu);
	stack_commit(cpu, &s);
	now &= ~(u64)(RFLAGS_STATUS | RFLAGS_DF | RFLAGS_NT | RFLAGS_VIF);
	now |= fl & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_NT);
	if (fl & RFLAGS_IF)
		now |= RFLAGS_VIF;
	icpu_set_rflags(cpu, now);
	real_target(cpu, (u16)cs, rip);
}

/* From CPL 0 into V86 mode: ESP, SS, ES, DS, FS, GS follow. */
static void iret_to_v86(struct icpu *cpu, struct stack *s, u64 rip, u16 cs,
                        u64 fl)
{
	u32 esp = (u32)stack_pop(cpu, s, 4);
	u16 sel[SEG_COUNT];

	sel[SEG_CS] = cs;
	sel[SEG_SS] = (u16)stack_pop(cpu, s, 4);
	sel[SEG_ES] = (u16)stack_pop(cpu, s, 4);
	sel[SEG_DS] = (u16)stack_pop(cpu, s, 4);
	sel[SEG_FS] = (u16)stack_pop(cpu, s, 4);
	sel[SEG_GS] = (u16)stack_pop(cpu, s, 4);
	icpu_set_rflags(cpu, fl);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_set_real(cpu, i, sel[i]);
	cpu->cpl = 3;
	cpu->gpr[GPR_RSP] = esp;
	cpu->rip = rip & 0xffff;
	icpu_update(cpu);
}

static void iret_task(struct icpu *cpu, u64 next)
{
	u16 link = (u16)icpu_load(cpu, cpu->tr.base, 2, PRIV_SUPER);
	struct descriptor d;

	if (link & 4)
		segment_fault(cpu, VEC_TS, link);
	descriptor_read(cpu, link, VEC_TS, &d);
	if (!desc_system(&d) || (desc_type(&d) != DESC_TSS16_BUSY &&
	                         desc_type(&d) != DESC_TSS32_BUSY))
		segment_fault(cpu, VEC_TS, link);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, link);
	task_switch(cpu, link, &d, TASK_IRET, next, (u32)icpu_rflags(cpu));
}

static void iret_protected(struct icpu *cpu, unsigned size)
{
	struct cpu_segment cs, ss = cpu->seg[SEG_SS];
	unsigned cpl, old = cpu->cpl, iopl = icpu_iopl(cpu);
	bool long_mode = icpu_long(cpu), pop_ss;
	struct stack s;
	u64 rip, fl, sp = 0;
	u16 selector;

	stack_current(cpu, &s);
	rip = stack_pop(cpu, &s, size);
	selector = (u16)stack_pop(cpu, &s, size);
	fl = stack_pop(cpu, &s, size);
	if (fl & RFLAGS_VM && old == 0 && size == 4 && !long_mode) {
		iret_to_v86(cpu, &s, rip, selector, fl);
		return;
	}
	return_code(cpu, selector, &cs);
	cpl = selector & 3;
	pop_ss = cpl != old || icpu_code64(cpu);
	if (pop_ss) {
		sp = stack_pop(cpu, &s, size);
		return_stack(cpu, (u16)stack_pop(cpu, &s, size), &cs, &ss);
	}
	check_target(cpu, &cs, rip);
	iret_flags(cpu, fl, size, old, iopl);
	if (pop_ss) {
		cpu->seg[SEG_SS] = ss;
		set_sp(cpu, &cs, &ss, sp);
		if (cpl != old)
			segment_drop_privileged(cpu, cpl);
	} else {
		stack_commit(cpu, &s);
	}
	go(cpu, &cs, cpl, rip);
}

void transfer_iret(struct icpu *cpu, unsigned size, u64 next)
{
	if (!icpu_protected(cpu)) {
		iret_real(cpu, size);
	} else if (icpu_v86(cpu)) {
		if (icpu_iopl(cpu) == 3)
			iret_real(cpu, size);
		else if (cpu->cr4 & CR4_VME)
			iret_vme(cpu, size);
		else
			icpu_gp(cpu);
	} else if (cpu->sysflags & RFLAGS_NT) {
		if (icpu_long(cpu))
			icpu_gp(cpu);
		iret_task(cpu, next);
	} else {
		iret_protected(cpu, size);
	}
	/* NMIs are let in again, whatever the IRET returned from. */
	if (cpu->nmi_masked) {
		cpu->nmi_masked = false;
		if (cpu->events.nmi_pending)
			icpu_attend(cpu, ATTEND_NMI);
	}
}

/* ---- fast system calls: segments by fiat ---- */

static struct cpu_segment flat_code(u16 selector, unsigned dpl, bool long64)
{
	return (struct cpu_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.attr = (u16)(SEG_ATTR_G | SEG_ATTR_P | SEG_ATTR_S | TYPE_CODE |
		              TYPE_RW | TYPE_A | dpl << SEG_ATTR_DPL_SHIFT |
		              (long64 ? SEG_ATTR_L : SEG_ATTR_DB)),
	};
}

static struct cpu_segment flat_data(u16 selector, unsigned dpl)
{
	return (struct cpu_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.attr =
		    (u16)(SEG_ATTR_G | SEG_ATTR_DB | SEG_ATTR_P | SEG_ATTR_S |
		          TYPE_RW | TYPE_A | dpl << SEG_ATTR_DPL_SHIFT),
	};
}

void transfer_syscall(struct icpu *cpu, u64 next)
{
	struct cpu_segment cs;
	u16 selector = (u16)(cpu->star >> 32) & 0xfffc;
	u64 rip;

	if (!(cpu->efer & EFER_SCE) || !icpu_protected(cpu) || icpu_v86(cpu))
		icpu_ud(cpu);
	if (icpu_long(cpu)) {
		u64 fl = icpu_rflags(cpu) & ~(u64)RFLAGS_RF;

		rip = icpu_code64(cpu) ? cpu->lstar : cpu->cstar;
		cpu->gpr[GPR_RCX] = next;
		cpu->gpr[GPR_R11] = fl;
		icpu_set_rflags(cpu, fl & ~cpu->sfmask);
		cpu->skip_trap = cpu->sfmask & RFLAGS_TF;
		cs = flat_code(selector, 0, true);
	} else {
		if (!cpu->amd)
			icpu_ud(cpu);
		rip = cpu->star & 0xffffffff;
		cpu->gpr[GPR_RCX] = (u32)next;
		icpu_set_rflags(cpu,
		                icpu_rflags(cpu) &
		                    ~(u64)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
		cs = flat_code(selector, 0, false);
	}
	cpu->seg[SEG_SS] = flat_data((u16)(selector + 8), 0);
	go(cpu, &cs, 0, rip);
}

void transfer_sysret(struct icpu *cpu, unsigned size)
{
	u16 selector = (u16)(cpu->star >> 48) | 3;
	struct cpu_segment cs;
	u64 rip;

	if (!(cpu->efer & EFER_SCE) || !icpu_protected(cpu) || icpu_v86(cpu) ||
	    (!cpu->amd && !icpu_long(cpu)))
		icpu_ud(cpu);
	if (cpu->cpl != 0)
		icpu_gp(cpu);
	if (size == 8) {
		rip = cpu->gpr[GPR_RCX];
		/* Intel faults here, AMD at the target. */
		if (!cpu->amd && !icpu_canonical(rip))
			icpu_gp(cpu);
		cs = flat_code((u16)(selector + 16), 3, true);
	} else {
		rip = (u32)cpu->gpr[GPR_RCX];
		cs = flat_code(selector, 3, false);
	}
	if (cpu->amd) {
		/* AMD leaves the hidden part of SS as it is. */
		cpu->seg[SEG_SS].selector = (u16)(selector + 8);
		cpu->seg[SEG_SS].attr |= SEG_ATTR_DPL;
	} else {
		cpu->seg[SEG_SS] = flat_data((u16)(selector + 8), 3);
	}
	if (icpu_long(cpu))
		icpu_set_rflags(cpu, cpu->gpr[GPR_R11] & 0x3c7fd7);
	else
		icpu_set_rflags(cpu, icpu_rflags(cpu) | RFLAGS_IF);
	/* The trap goes by TF as SYSRET leaves it. */
	if (cpu->sysflags & RFLAGS_TF)
		cpu->pending_db |= BIT(14);
	cpu->skip_trap = true;
	go(cpu, &cs, 3, rip);
}

void transfer_sysenter(struct icpu *cpu)
{
	u16 selector = (u16)cpu->sysenter_cs & 0xfffc;
	struct cpu_segment cs;
	bool lm = icpu_long(cpu);

	/* AMD has it in legacy mode only. */
	if (cpu->amd && lm)
		icpu_ud(cpu);
	if (!icpu_protected(cpu) || !selector)
		icpu_gp(cpu);
	cs = flat_code(selector, 0, lm);
	cpu->seg[SEG_SS] = flat_data((u16)(selector + 8), 0);
	icpu_set_rflags(cpu, icpu_rflags(cpu) &
	                         ~(u64)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
	cpu->gpr[GPR_RSP] = lm ? cpu->sysenter_esp : (u32)cpu->sysenter_esp;
	go(cpu, &cs, 0, lm ? cpu->sysenter_eip : (u32)cpu->sysenter_eip);
}

void transfer_sysexit(struct icpu *cpu, unsigned size)
{
	u16 selector = (u16)cpu->sysenter_cs & 0xfffc;
	u64 rip = cpu->gpr[GPR_RDX], rsp = cpu->gpr[GPR_RCX];
	struct cpu_segment cs;
	bool wide = size == 8;

	if (cpu->amd && icpu_long(cpu))
		icpu_ud(cpu);
	if (!icpu_protected(cpu) || !selector || cpu->cpl != 0)
		icpu_gp(cpu);
	if (wide && (!icpu_canonical(rip) || !icpu_canonical(rsp)))
		icpu_gp(cpu);
	selector = (u16)((selector + (wide ? 32 : 16)) | 3);
	cs = flat_code(selector, 3, wide);
	cpu->seg[SEG_SS] = flat_data((u16)(selector + 8), 3);
	cpu->gpr[GPR_RSP] = wide ? rsp : (u32)rsp;
	go(cpu, &cs, 3, wide ? rip : (u32)rip);
}
