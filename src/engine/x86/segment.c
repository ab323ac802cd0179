/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment.c - descriptors and segment registers.
 */
#include "engine/x86/segment.h"

void segment_fault(struct icpu *cpu, u8 vector, u16 selector)
{
	icpu_fault_error(cpu, vector, sel_error(selector) | cpu->external);
}

bool descriptor_find(struct icpu *cpu, u16 selector, struct descriptor *d)
{
	u64 base = cpu->gdtr.base;
	u32 limit = cpu->gdtr.limit;
	u64 raw;

	if (selector & 4) {
		if (!(cpu->ldtr.attr & SEG_ATTR_P))
			return false;
		base = cpu->ldtr.base;
		limit = cpu->ldtr.limit;
	} else if (!(selector & 0xfffc)) {
		return false;
	}
	if ((selector & 0xfff8u) + 7 > limit)
		return false;
	d->where = base + (selector & 0xfff8);
	if (!icpu_long(cpu))
		d->where &= 0xffffffff;
	raw = icpu_load(cpu, d->where, 8, PRIV_SUPER);
	d->lo = (u32)raw;
	d->hi = (u32)(raw >> 32);
	d->upper = 0;
	return true;
}

void descriptor_read(struct icpu *cpu, u16 selector, u8 vector,
                     struct descriptor *d)
{
	if (!descriptor_find(cpu, selector, d))
		segment_fault(cpu, vector, selector);
}

void descriptor_read_upper(struct icpu *cpu, u16 selector, u8 vector,
                           struct descriptor *d)
{
	u32 limit = selector & 4 ? cpu->ldtr.limit : cpu->gdtr.limit;

	if ((selector & 0xfff8u) + 15 > limit)
		segment_fault(cpu, vector, selector);
	d->upper = icpu_load(cpu, d->where + 8, 8, PRIV_SUPER);
	if (d->upper >> 40 & 0x1f)
		segment_fault(cpu, vector, selector);
}

void descriptor_set_accessed(struct icpu *cpu, struct descriptor *d)
{
	u8 *p;

	if (d->hi & 0x100)
		return;
	d->hi |= 0x100;
	p = icpu_host(cpu, d->where + 5, ACCESS_WRITE, PRIV_SUPER);
	if (p)
		atomic_fetch_or((_Atomic u8 *)p, 1);
	else
		icpu_store(cpu, d->where + 5, d->hi >> 8 & 0xff, 1, PRIV_SUPER);
}

void segment_from_descriptor(struct cpu_segment *seg, u16 selector,
                             const struct descriptor *d)
{
	u32 limit = (d->lo & 0xffff) | (d->hi & 0xf0000);

	if (d->hi & 0x800000)
		limit = limit << 12 | 0xfff;
	*seg = (struct cpu_segment){
		.base = d->lo >> 16 | (d->hi & 0xff) << 16 |
		        (d->hi & 0xff000000) | d->upper << 32,
		.limit = limit,
		.selector = selector,
		.attr = d->hi >> 8 & 0xf0ff,
	};
}

void segment_null(struct cpu_segment *seg)
{
	*seg = (struct cpu_segment){ 0 };
}

void segment_set_real(struct icpu *cpu, unsigned seg, u16 selector)
{
	struct cpu_segment *s = &cpu->seg[seg];

	s->selector = selector;
	s->base = (u64)selector << 4;
	if (icpu_v86(cpu)) {
		s->limit = 0xffff;
		s->attr =
		    SEG_ATTR_P | SEG_ATTR_S | TYPE_RW | TYPE_A | SEG_ATTR_DPL;
	} else if (!(s->attr & SEG_ATTR_P)) {
		/* Null since protected mode: real mode can use it. */
		s->attr = SEG_ATTR_P | SEG_ATTR_S | TYPE_RW | TYPE_A;
	}
}

void segment_check_stack(struct icpu *cpu, u16 selector, unsigned cpl,
                         u8 vector, struct cpu_segment *out)
{
	struct descriptor d;

	if (!(selector & 0xfffc))
		segment_fault(cpu, vector, 0);
	descriptor_read(cpu, selector, vector, &d);
	if ((selector & 3) != cpl || desc_dpl(&d) != cpl || desc_system(&d) ||
	    desc_code(&d) || !(desc_type(&d) & TYPE_RW))
		segment_fault(cpu, vector, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_SS, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(out, selector, &d);
}

static void load_null(struct icpu *cpu, unsigned seg, u16 selector)
{
	u64 base = cpu->seg[seg].base;

	/* A null SS is good in 64-bit mode below CPL 3 only. */
	if (seg == SEG_SS &&
	    (!icpu_code64(cpu) || cpu->cpl == 3 || (selector & 3) != cpu->cpl))
		icpu_gp(cpu);
	segment_null(&cpu->seg[seg]);
	cpu->seg[seg].selector = selector;
	/* AMD keeps the base of a null FS or GS; so does everyone's SS DPL. */
	if (cpu->amd && icpu_long(cpu))
		cpu->seg[seg].base = base;
	if (seg == SEG_SS)
		cpu->seg[seg].attr = (u16)(cpu->cpl << SEG_ATTR_DPL_SHIFT);
}

void segment_load(struct icpu *cpu, unsigned seg, u16 selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (icpu_real_or_v86(cpu)) {
		segment_set_real(cpu, seg, selector);
		icpu_update(cpu);
		return;
	}
	if (!(selector & 0xfffc)) {
		load_null(cpu, seg, selector);
		icpu_update(cpu);
		return;
	}
	if (seg == SEG_SS) {
		segment_check_stack(cpu, selector, cpu->cpl, VEC_GP,
		                    &cpu->seg[seg]);
		icpu_update(cpu);
		return;
	}
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (desc_system(&d) || (desc_code(&d) && !(desc_type(&d) & TYPE_RW)))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_conforming(&d) &&
	    (rpl > desc_dpl(&d) || cpu->cpl > desc_dpl(&d)))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	descriptor_set_accessed(cpu, &d);
	segment_from_descriptor(&cpu->seg[seg], selector, &d);
	icpu_update(cpu);
}

void segment_drop_privileged(struct icpu *cpu, unsigned cpl)
{
	static const u8 segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (size_t i = 0; i < ARRAY_SIZE(segs); i++) {
		struct cpu_segment *s = &cpu->seg[segs[i]];
		unsigned dpl = s->attr >> SEG_ATTR_DPL_SHIFT & 3;
		bool conforming =
		    (s->attr & (TYPE_CODE | TYPE_CE)) == (TYPE_CODE | TYPE_CE);
		u64 base = s->base;

		if (s->attr & SEG_ATTR_P && !conforming && dpl < cpl) {
			segment_null(s);
			if (icpu_long(cpu))
				s->base = base;
		} else if (!(s->attr & SEG_ATTR_P)) {
			s->selector = 0;
		}
	}
}

void segment_load_ldt(struct icpu *cpu, u16 selector)
{
	struct descriptor d;

	if (!(selector & 0xfffc)) {
		segment_null(&cpu->ldtr);
		cpu->ldtr.selector = selector;
		return;
	}
	if (selector & 4)
		segment_fault(cpu, VEC_GP, selector);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (!desc_system(&d) || desc_type(&d) != DESC_LDT)
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	if (icpu_code64(cpu)) {
		descriptor_read_upper(cpu, selector, VEC_GP, &d);
		if (!icpu_canonical(d.upper << 32 | (d.hi & 0xff000000)))
			segment_fault(cpu, VEC_GP, selector);
	}
	segment_from_descriptor(&cpu->ldtr, selector, &d);
}

void segment_load_tr(struct icpu *cpu, u16 selector)
{
	struct descriptor d;

	if (!(selector & 0xfffc) || selector & 4)
		segment_fault(cpu, VEC_GP, selector);
	descriptor_read(cpu, selector, VEC_GP, &d);
	if (!desc_system(&d) ||
	    (desc_type(&d) != DESC_TSS32 &&
	     (icpu_long(cpu) || desc_type(&d) != DESC_TSS16)))
		segment_fault(cpu, VEC_GP, selector);
	if (!desc_present(&d))
		segment_fault(cpu, VEC_NP, selector);
	if (icpu_code64(cpu)) {
		descriptor_read_upper(cpu, selector, VEC_GP, &d);
		if (!icpu_canonical(d.upper << 32 | (d.hi & 0xff000000)))
			segment_fault(cpu, VEC_GP, selector);
	}
	d.hi |= 0x200; /* busy */
	icpu_store(cpu, d.where + 5, d.hi >> 8 & 0xff, 1, PRIV_SUPER);
	segment_from_descriptor(&cpu->tr, selector, &d);
}

/* ---- data accesses ---- */

static NORETURN void access_fault(struct icpu *cpu, unsigned seg)
{
	icpu_fault_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

static bool type_allows(const struct icpu *cpu, const struct cpu_segment *s,
                        enum icpu_access access)
{
	if (icpu_real_or_v86(cpu))
		return true;
	if (access == ACCESS_WRITE)
		return (s->attr & (TYPE_CODE | TYPE_RW)) == TYPE_RW;
	return !(s->attr & TYPE_CODE) || s->attr & TYPE_RW;
}

static bool in_limit(const struct cpu_segment *s, u32 off, unsigned size)
{
	u64 last = (u64)off + size - 1;

	if ((s->attr & (TYPE_CODE | TYPE_CE)) == TYPE_CE) /* expand-down */
		return off > s->limit &&
		       last <= (s->attr & SEG_ATTR_DB ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

gva_t icpu_linear(struct icpu *cpu, unsigned seg, u64 off, unsigned size,
                  enum icpu_access access)
{
	const struct cpu_segment *s = &cpu->seg[seg];
	gva_t lin;

	if (icpu_code64(cpu)) {
		lin = seg >= SEG_FS ? off + s->base : off;
	} else {
		if (!(s->attr & SEG_ATTR_P) || !type_allows(cpu, s, access) ||
		    !in_limit(s, (u32)off, size ? size : 1))
			access_fault(cpu, seg);
		lin = (u32)(s->base + off);
	}
	if (unlikely(cpu->key & KEY_ALIGN) && size <= 8 && lin & (size - 1)) {
		/* The worse fault first. */
		if (icpu_code64(cpu) && !icpu_canonical(lin))
			access_fault(cpu, seg);
		icpu_fault_error(cpu, VEC_AC, 0);
	}
	return lin;
}
