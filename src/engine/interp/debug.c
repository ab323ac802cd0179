/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debug.c - watched addresses.
 */
#include "engine/interp/debug.h"

enum { DR7_EXEC = 0, DR7_WRITE = 1, DR7_IO = 2, DR7_ACCESS = 3 };

static unsigned dr7_kind(const struct icpu *cpu, unsigned i)
{
	return cpu->dr[7] >> (16 + i * 4) & 3;
}

static unsigned dr7_length(const struct icpu *cpu, unsigned i)
{
	static const u8 length[4] = { 1, 2, 8, 4 };

	return length[cpu->dr[7] >> (18 + i * 4) & 3];
}

static bool dr7_enabled(const struct icpu *cpu, unsigned i)
{
	return cpu->dr[7] >> (i * 2) & 3;
}

bool debug_active(const struct icpu *cpu)
{
	return cpu->dr[7] & 0xff || cpu->point_count;
}

static bool overlaps(gva_t a, u64 alen, gva_t b, u64 blen)
{
	return a - b < blen || b - a < alen;
}

bool debug_page_watched_slow(const struct icpu *cpu, gva_t lin)
{
	gva_t page = lin & PAGE_MASK;

	for (unsigned i = 0; i < 4; i++)
		if (dr7_enabled(cpu, i) && dr7_kind(cpu, i) != DR7_EXEC &&
		    overlaps(page, PAGE_SIZE, cpu->dr[i], dr7_length(cpu, i)))
			return true;
	for (size_t i = 0; i < cpu->point_count; i++)
		if (cpu->points[i].kind != BREAK_EXEC &&
		    overlaps(page, PAGE_SIZE, cpu->points[i].address,
		             cpu->points[i].size))
			return true;
	return false;
}

void debug_access_slow(struct icpu *cpu, gva_t lin, unsigned size,
                       enum icpu_access access)
{
	for (unsigned i = 0; i < 4; i++) {
		unsigned kind = dr7_kind(cpu, i), len = dr7_length(cpu, i);

		if (!dr7_enabled(cpu, i) ||
		    !(kind == DR7_ACCESS ||
		      (kind == DR7_WRITE && access == ACCESS_WRITE)))
			continue;
		if (overlaps(lin, size, cpu->dr[i] & ~(u64)(len - 1), len))
			cpu->pending_db |= BIT(i);
	}
	for (size_t i = 0; i < cpu->point_count; i++) {
		const struct vcpu_breakpoint *p = &cpu->points[i];

		if (p->kind == BREAK_EXEC ||
		    (p->kind == BREAK_WRITE && access != ACCESS_WRITE))
			continue;
		if (overlaps(lin, size, p->address, p->size)) {
			cpu->debug_hit = true;
			cpu->debug_address = p->address;
		}
	}
}

void debug_io(struct icpu *cpu, u16 port, unsigned size)
{
	if (!(cpu->cr4 & CR4_DE))
		return;
	for (unsigned i = 0; i < 4; i++)
		if (dr7_enabled(cpu, i) && dr7_kind(cpu, i) == DR7_IO &&
		    overlaps(port, size, cpu->dr[i], dr7_length(cpu, i)))
			cpu->pending_db |= BIT(i);
}

bool debug_execute(struct icpu *cpu)
{
	gva_t lin = cpu->rip + cpu->csbase;
	u64 hit = 0;

	if (!icpu_code64(cpu))
		lin &= 0xffffffff;
	for (size_t i = 0; i < cpu->point_count; i++)
		if (cpu->points[i].kind == BREAK_EXEC &&
		    cpu->points[i].address == lin) {
			cpu->debug_address = lin;
			return true;
		}
	if (cpu->sysflags & RFLAGS_RF)
		return false;
	for (unsigned i = 0; i < 4; i++)
		if (dr7_enabled(cpu, i) && dr7_kind(cpu, i) == DR7_EXEC &&
		    cpu->dr[i] == lin)
			hit |= BIT(i);
	if (hit) {
		cpu->cur = NULL;
		cpu->dr[6] = (cpu->dr[6] & ~(u64)0xf) | hit;
		icpu_fault(cpu, VEC_DB);
	}
	return false;
}
