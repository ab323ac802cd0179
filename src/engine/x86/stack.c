/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack.c - pushing on a stack that may not be the current one yet.
 */
#include "engine/x86/stack.h"

#include "engine/x86/segment.h"

void stack_current(struct icpu *cpu, struct stack *s)
{
	if (icpu_code64(cpu)) {
		stack_flat64(s, cpu->gpr[GPR_RSP], cpu->cpl);
	} else {
		stack_of(s, &cpu->seg[SEG_SS], cpu->gpr[GPR_RSP], cpu->cpl);
	}
	s->priv = cpu->priv; /* AC may lift SMAP here */
}

static u8 priv_of(unsigned cpl)
{
	return cpl == 3 ? PRIV_USER : PRIV_SUPER;
}

void stack_of(struct stack *s, const struct cpu_segment *ss, u64 sp,
              unsigned cpl)
{
	*s = (struct stack){
		.ss = *ss,
		.sp = sp,
		.mask = ss->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff,
		.priv = priv_of(cpl),
	};
}

void stack_flat64(struct stack *s, u64 sp, unsigned cpl)
{
	*s = (struct stack){
		.sp = sp,
		.mask = ~(u64)0,
		.flat = true,
		.priv = priv_of(cpl),
	};
}

static gva_t aligned(struct icpu *cpu, const struct stack *s, gva_t lin,
                     unsigned size)
{
	if (unlikely(cpu->key & KEY_ALIGN) && s->priv == PRIV_USER &&
	    lin & (size - 1))
		icpu_fault_error(cpu, VEC_AC, 0);
	return lin;
}

static gva_t address(struct icpu *cpu, const struct stack *s, u64 sp,
                     unsigned size)
{
	u32 off = (u32)sp;
	u64 last = (u64)off + size - 1;
	bool down, ok;

	if (unlikely(cpu->key & KEY_ALIGN) && s->priv == PRIV_USER &&
	    sp & (size - 1))
		icpu_fault_error(cpu, VEC_AC, s->ext);
	if (s->flat) {
		if (!icpu_canonical(sp) || !icpu_canonical(sp + size - 1))
			icpu_fault_error(cpu, VEC_SS, s->ext);
		return aligned(cpu, s, sp, size);
	}
	down = (s->ss.attr & (TYPE_CODE | TYPE_CE)) == TYPE_CE;
	ok = down ? off > s->ss.limit && last <= s->mask : last <= s->ss.limit;
	if (!ok)
		icpu_fault_error(cpu, VEC_SS, s->ext);
	return aligned(cpu, s, (u32)(s->ss.base + off), size);
}

void stack_push(struct icpu *cpu, struct stack *s, unsigned size, u64 v)
{
	u64 sp = (s->sp - size) & s->mask;

	icpu_store(cpu, address(cpu, s, sp, size), v, size, s->priv);
	s->sp = (s->sp & ~s->mask) | sp;
}

u64 stack_pop(struct icpu *cpu, struct stack *s, unsigned size)
{
	u64 sp = s->sp & s->mask;
	u64 v = icpu_load(cpu, address(cpu, s, sp, size), size, s->priv);

	s->sp = (s->sp & ~s->mask) | ((sp + size) & s->mask);
	return v;
}

void stack_commit(struct icpu *cpu, const struct stack *s)
{
	u64 *rsp = &cpu->gpr[GPR_RSP];

	*rsp = (*rsp & ~s->mask) | (s->sp & s->mask);
	if (s->mask == 0xffffffff)
		*rsp &= 0xffffffff;
}
