/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.c - delivering exceptions and interrupts, by mode:
 *
 *	real	the vector table: FLAGS, CS, IP on the stack
 *	legacy	16- and 32-bit gates, an inner stack from the TSS, task gates
 *	V86	the same with ES..GS pushed too; VME may redirect INT n
 *	long	64-bit gates, IST
 */
#include "engine/x86/event.h"

#include "engine/x86/segment.h"
#include "engine/x86/stack.h"
#include "engine/x86/task.h"

struct event {
	u8 vector;
	enum event_kind kind;
	bool has_error;
	u32 error;
	u64 rip;
	u32 rflags; /* as pushed */
};

static bool soft(const struct event *e)
{
	return e->kind == EVENT_SOFT || e->kind == EVENT_INTN;
}

/* Error code for a bad gate: SDM vol. 3 6.13. */
static NORETURN void gate_fault(struct icpu *cpu, const struct event *e, u8 vec)
{
	icpu_fault_error(cpu, vec, e->vector * 8u + 2 + cpu->external);
}

static void deliver_real(struct icpu *cpu, const struct event *e)
{
	struct stack s;
	u32 entry;

	if (e->vector * 4u + 3 > cpu->idtr.limit)
		icpu_fault_error(cpu, VEC_GP, e->vector * 8u + 2);
	entry =
	    (u32)icpu_load(cpu, cpu->idtr.base + e->vector * 4u, 4, PRIV_SUPER);
	stack_current(cpu, &s);
	stack_push(cpu, &s, 2, e->rflags & 0xffff);
	stack_push(cpu, &s, 2, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &s, 2, e->rip & 0xffff);
	stack_commit(cpu, &s);
	cpu->seg[SEG_CS].selector = (u16)(entry >> 16);
	cpu->seg[SEG_CS].base = (u64)(entry >> 16) << 4;
	cpu->rip = entry & 0xffff;
	cpu->sysflags &= ~(u32)(RFLAGS_IF | RFLAGS_TF | RFLAGS_RF | RFLAGS_AC);
	icpu_update(cpu);
}

/* VME: an INT n that the bitmap sends to the V86 program's own vector. */
static bool redirected(struct icpu *cpu, const struct event *e)
{
	u16 map;

	if (e->kind != EVENT_INTN || !icpu_v86(cpu) || !(cpu->cr4 & CR4_VME))
		return false;
	if (cpu->tr.limit < 0x67)
		return false;
	map = (u16)icpu_load(cpu, cpu->tr.base + 0x66, 2, PRIV_SUPER);
	if (map < 32 || map - 32u + e->vector / 8 > cpu->tr.limit)
		return false;
	return !(icpu_load(cpu, cpu->tr.base + map - 32 + e->vector / 8, 1,
	                   PRIV_SUPER) >>
	             (e->vector & 7) &
	         1);
}

static void deliver_redirected(struct icpu *cpu, const struct event *e)
{
	u32 fl = e->rflags, entry;
	struct stack s;

	if (icpu_iopl(cpu) < 3) {
		/* The program sees its virtual IF, and IOPL 3. */
		fl = (fl & ~(u32)RFLAGS_IF) | RFLAGS_IOPL |
		     (fl & RFLAGS_VIF ? (u32)RFLAGS_IF : 0);
	}
	entry = (u32)icpu_load(cpu, e->vector * 4u, 4, PRIV_USER);
	stack_current(cpu, &s);
	stack_push(cpu, &s, 2, fl & 0xffff);
	stack_push(cpu, &s, 2, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &s, 2, e->rip & 0xffff);
	stack_commit(cpu, &s);
	segment_set_real(cpu, SEG_CS, (u16)(entry >> 16));
	cpu->rip = entry & 0xffff;
	cpu->sysflags &= icpu_iopl(cpu) < 3 ? ~(u32)(RFLAGS_VIF | RFLAGS_TF)
	                                    : ~(u32)(RFLAGS_IF | RFLAGS_TF);
	icpu_update(cpu);
}

/* The code segment a gate leads to; its CPL comes back. */
static unsigned gate_target(struct icpu *cpu, u16 selector,
                            struct cpu_segment *cs)
{
	struct descriptor d;
	unsigned cpl;

	if (!(selector & 0xfffc))
		segment_fault(cpu, VEC_GP, 0);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (!desc_code(&d) || desc_dpl(&d) > cpu->cpl)
		segment_fault(cpu, VEC_GP, selector);
	if (icpu_long(cpu) &&
	    (!(d.hi & 0x200000) || d.hi & 0x400000)) /* L and not D */
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	cpl = desc_conforming(&d) ? cpu->cpl : desc_dpl(&d);
	if (icpu_v86(cpu) && cpl != 0)
		segment_fault(cpu, VEC_GP, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(cs, (u16)((selector & 0xfffc) | cpl), &d);
	return cpl;
}

static void enter_handler(struct icpu *cpu, const struct cpu_segment *cs,
                          unsigned cpl, u64 rip, bool interrupt_gate)
{
	cpu->seg[SEG_CS] = *cs;
	cpu->cpl = (u8)cpl;
	cpu->rip = rip;
	cpu->sysflags &= ~(u32)(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
	if (interrupt_gate)
		cpu->sysflags &= ~(u32)RFLAGS_IF;
	icpu_update(cpu);
}

static void deliver_long(struct icpu *cpu, const struct event *e)
{
	struct cpu_segment cs;
	struct stack s;
	u64 lo, hi, rip, rsp;
	u32 word;
	unsigned type, ist, cpl;

	if (e->vector * 16u + 15 > cpu->idtr.limit)
		gate_fault(cpu, e, VEC_GP);
	lo = icpu_load(cpu, cpu->idtr.base + e->vector * 16u, 8, PRIV_SUPER);
	hi =
	    icpu_load(cpu, cpu->idtr.base + e->vector * 16u + 8, 8, PRIV_SUPER);
	word = (u32)(lo >> 32);
	type = word >> 8 & 0x1f;
	if (type != DESC_INT32 && type != DESC_TRAP32)
		gate_fault(cpu, e, VEC_GP);
	if (soft(e) && (word >> 13 & 3) < cpu->cpl)
		gate_fault(cpu, e, VEC_GP);
	if (!(word & 0x8000))
		gate_fault(cpu, e, VEC_NP);
	rip = (lo & 0xffff) | (word & 0xffff0000) | hi << 32;
	ist = word & 7;
	cpl = gate_target(cpu, (u16)(lo >> 16), &cs);
	if (ist)
		rsp = task_stack64(cpu, ist + 6);
	else if (cpl < cpu->cpl)
		rsp = task_stack64(cpu, cpl);
	else
		rsp = cpu->gpr[GPR_RSP];
	if (!icpu_canonical(rip))
		icpu_fault_error(cpu, VEC_GP, cpu->external);

	stack_flat64(&s, rsp & ~(u64)0xf, cpl);
	stack_push(cpu, &s, 8, cpu->seg[SEG_SS].selector);
	stack_push(cpu, &s, 8, cpu->gpr[GPR_RSP]);
	stack_push(cpu, &s, 8, e->rflags);
	stack_push(cpu, &s, 8, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &s, 8, e->rip);
	if (e->has_error)
		stack_push(cpu, &s, 8, e->error);
	cpu->gpr[GPR_RSP] = s.sp;
	if (cpl < cpu->cpl) {
		segment_null(&cpu->seg[SEG_SS]);
		cpu->seg[SEG_SS].selector = (u16)cpl;
		cpu->seg[SEG_SS].attr = (u16)(cpl << SEG_ATTR_DPL_SHIFT);
	}
	enter_handler(cpu, &cs, cpl, rip, type == DESC_INT32);
}

static void push_v86_segments(struct icpu *cpu, struct stack *s, unsigned size)
{
	stack_push(cpu, s, size, cpu->seg[SEG_GS].selector);
	stack_push(cpu, s, size, cpu->seg[SEG_FS].selector);
	stack_push(cpu, s, size, cpu->seg[SEG_DS].selector);
	stack_push(cpu, s, size, cpu->seg[SEG_ES].selector);
}

static void deliver_gate(struct icpu *cpu, const struct event *e, u64 gate)
{
	u32 word = (u32)(gate >> 32);
	unsigned type = word >> 8 & 0x1f, cpl;
	unsigned size = type & 8 ? 4 : 2;
	u64 rip = (gate & 0xffff) | (size == 4 ? word & 0xffff0000 : 0);
	bool v86 = icpu_v86(cpu), inner;
	struct cpu_segment cs, ss = cpu->seg[SEG_SS];
	struct stack s;

	cpl = gate_target(cpu, (u16)(gate >> 16), &cs);
	inner = cpl < cpu->cpl;
	if (inner) {
		u16 sel;
		u32 sp;

		task_stack(cpu, cpl, &sel, &sp);
		segment_check_stack(cpu, sel, cpl, VEC_TS, &ss);
		stack_of(&s, &ss, sp, cpl);
	} else {
		stack_current(cpu, &s);
	}
	s.ext = cpu->external;
	if ((u32)rip > cs.limit)
		icpu_fault_error(cpu, VEC_GP, cpu->external);
	if (inner) {
		if (v86)
			push_v86_segments(cpu, &s, size);
		stack_push(cpu, &s, size, cpu->seg[SEG_SS].selector);
		stack_push(cpu, &s, size, cpu->gpr[GPR_RSP]);
	}
	stack_push(cpu, &s, size, e->rflags);
	stack_push(cpu, &s, size, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &s, size, e->rip);
	if (e->has_error)
		stack_push(cpu, &s, size, e->error);
	if (v86) {
		segment_null(&cpu->seg[SEG_GS]);
		segment_null(&cpu->seg[SEG_FS]);
		segment_null(&cpu->seg[SEG_DS]);
		segment_null(&cpu->seg[SEG_ES]);
	}
	if (inner) {
		cpu->seg[SEG_SS] = ss;
		cpu->gpr[GPR_RSP] = s.sp;
	} else {
		stack_commit(cpu, &s);
	}
	enter_handler(cpu, &cs, cpl, rip,
	              type == DESC_INT32 || type == DESC_INT16);
}

static void deliver_task(struct icpu *cpu, const struct event *e, u16 selector)
{
	struct descriptor d;

	if (!(selector & 0xfffc) || selector & 4)
		segment_fault(cpu, VEC_GP, selector);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (!desc_system(&d) ||
	    (desc_type(&d) != DESC_TSS16 && desc_type(&d) != DESC_TSS32))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	task_switch(cpu, selector, &d, TASK_CALL, e->rip, e->rflags);
	if (e->has_error) {
		struct stack s;

		stack_current(cpu, &s);
		stack_push(cpu, &s, desc_type(&d) & 8 ? 4 : 2, e->error);
		stack_commit(cpu, &s);
	}
}

static void deliver_legacy(struct icpu *cpu, const struct event *e)
{
	u64 gate;
	u32 word;

	if (e->vector * 8u + 7 > cpu->idtr.limit)
		gate_fault(cpu, e, VEC_GP);
	gate = icpu_load(cpu, cpu->idtr.base + e->vector * 8u, 8, PRIV_SUPER);
	word = (u32)(gate >> 32);
	switch (word >> 8 & 0x1f) {
	case DESC_TASK:
	case DESC_INT16:
	case DESC_TRAP16:
	case DESC_INT32:
	case DESC_TRAP32:
		break;
	default:
		gate_fault(cpu, e, VEC_GP);
	}
	if (soft(e) && (word >> 13 & 3) < cpu->cpl)
		gate_fault(cpu, e, VEC_GP);
	if (!(word & 0x8000))
		gate_fault(cpu, e, VEC_NP);
	if ((word >> 8 & 0x1f) == DESC_TASK)
		deliver_task(cpu, e, (u16)(gate >> 16));
	else
		deliver_gate(cpu, e, gate);
}

void event_deliver(struct icpu *cpu, u8 vector, enum event_kind kind,
                   bool has_error, u32 error, u64 return_rip)
{
	struct event e = {
		.vector = vector,
		.kind = kind,
		.has_error = has_error,
		.error = error,
		.rip = return_rip,
		.rflags = (u32)icpu_rflags(cpu) & ~(u32)RFLAGS_RF,
	};

	/* SDM vol. 3 17.3.1.1: a fault's image has RF set. */
	if (kind == EVENT_EXCEPTION && vector != VEC_DB)
		e.rflags |= RFLAGS_RF;
	cpu->external = kind == EVENT_EXCEPTION || kind == EVENT_INTERRUPT ||
	                kind == EVENT_INT1;
	if (!icpu_protected(cpu))
		deliver_real(cpu, &e);
	else if (icpu_long(cpu))
		deliver_long(cpu, &e);
	else if (redirected(cpu, &e))
		deliver_redirected(cpu, &e);
	else if (kind == EVENT_INTN && icpu_v86(cpu) && icpu_iopl(cpu) < 3)
		icpu_gp(cpu);
	else
		deliver_legacy(cpu, &e);
	cpu->external = false;
	cpu->skip_trap = true;
}

static bool contributory(int v)
{
	return v == VEC_DE || (v >= VEC_TS && v <= VEC_GP);
}

bool event_combine(int first, struct icpu_fault *second)
{
	bool bad = contributory(second->vector) || second->vector == VEC_PF;

	if (first == VEC_DF && bad)
		return false;
	if ((contributory(first) && contributory(second->vector)) ||
	    (first == VEC_PF && bad))
		*second =
		    (struct icpu_fault){ .vector = VEC_DF, .has_error = true };
	return true;
}
