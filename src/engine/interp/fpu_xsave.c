/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu_xsave.c - the XSAVE family: standard and compacted areas.
 *
 * Intel SDM vol. 1 ch. 13.7 to 13.12. Of the components x87, SSE, AVX and PKRU
 * exist here. In a compacted area PKRU comes next after what is there.
 *
 *	512 XSTATE_BV  520 XCOMP_BV  528-575 reserved  576 upper halves of YMM
 */
#include <string.h>

#include "engine/interp/fpu_internal.h"
#include "guest/cpu.h"

enum {
	AT_ST = 32,
	AT_XSTATE_BV = CPU_XSAVE_HEADER,
	AT_XCOMP_BV = CPU_XSAVE_HEADER + 8,
	AT_RESERVED = CPU_XSAVE_HEADER + 16,
	YMMH_SIZE = CPU_XSAVE_SIZE - CPU_XSAVE_YMMH,
	PKRU_SIZE = 8,
};
#define COMPACTED BIT(63)

static u64 get64(const u8 *p)
{
	u64 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void put64(u8 *p, u64 v)
{
	memcpy(p, &v, sizeof(v));
}

static u32 get_mxcsr(const u8 *p)
{
	u32 v;

	memcpy(&v, p + CPU_XSAVE_MXCSR, sizeof(v));
	return v;
}

static void put_mxcsr(u8 *p, u32 v)
{
	memcpy(p + CPU_XSAVE_MXCSR, &v, sizeof(v));
}

static u16 vector_bytes(struct fpu_mode mode)
{
	return mode.long_mode ? 256 : 128;
}

static bool is_compact(enum fpu_xsave_kind kind)
{
	return kind == FPU_XSAVEC || kind == FPU_XSAVES;
}

/* comp: what is in the area, if it is compacted. */
static unsigned pkru_at(struct fpu_pkru pkru, bool compacted, u64 comp)
{
	if (!compacted)
		return pkru.at;
	return CPU_XSAVE_YMMH + (comp & XCR0_AVX ? YMMH_SIZE : 0);
}

struct ranges {
	struct fpu_range *at;
	size_t n;
};

static void add(struct ranges *r, unsigned offset, unsigned size)
{
	r->at[r->n].offset = (u16)offset;
	r->at[r->n].size = (u16)size;
	r->n++;
}

/* Which components are to be written, bit 1 meaning XMM alone. */
static u64 to_write(enum fpu_xsave_kind kind, u64 rfbm, u64 used)
{
	return kind == FPU_XSAVE ? rfbm : rfbm & used;
}

size_t fpu_xsave(const u8 *xsave, struct fpu_pkru pkru, struct fpu_mode mode,
                 enum fpu_xsave_kind kind, u64 rfbm, u8 *area,
                 struct fpu_range ranges[FPU_RANGES])
{
	struct ranges r = { ranges, 0 };
	u64 used = fpu_in_use(xsave, pkru.value), parts;
	u32 mxcsr = get_mxcsr(xsave), mask = FPU_MXCSR_MASK;
	u16 vector = vector_bytes(mode);
	bool write_mxcsr;

	/* In a compacted area MXCSR is one of the SSE state's registers. */
	if (is_compact(kind) && mxcsr != FPU_MXCSR_INIT)
		used |= XCR0_SSE;
	parts = to_write(kind, rfbm, used);
	write_mxcsr = is_compact(kind) ? (parts & XCR0_SSE) != 0
	                               : (rfbm & (XCR0_SSE | XCR0_AVX)) != 0;
	if (parts & XCR0_X87) {
		fpu_x87_store(xsave, mode, area);
		add(&r, 0, CPU_XSAVE_MXCSR);
	}
	if (write_mxcsr) {
		put_mxcsr(area, mxcsr);
		memcpy(area + CPU_XSAVE_MXCSR + 4, &mask, sizeof(mask));
		add(&r, CPU_XSAVE_MXCSR, 8);
	}
	if (parts & XCR0_X87)
		add(&r, AT_ST, CPU_XSAVE_XMM - AT_ST);
	if (parts & XCR0_SSE) {
		memcpy(area + CPU_XSAVE_XMM, xsave + CPU_XSAVE_XMM, vector);
		add(&r, CPU_XSAVE_XMM, vector);
	}
	if (is_compact(kind)) {
		put64(area + AT_XSTATE_BV, rfbm & used);
		put64(area + AT_XCOMP_BV, rfbm | COMPACTED);
		add(&r, AT_XSTATE_BV, 16);
	} else {
		put64(area + AT_XSTATE_BV,
		      (get64(area + AT_XSTATE_BV) & ~rfbm) | (rfbm & used));
		add(&r, AT_XSTATE_BV, 8);
	}
	if (parts & XCR0_AVX) {
		memcpy(area + CPU_XSAVE_YMMH, xsave + CPU_XSAVE_YMMH, vector);
		add(&r, CPU_XSAVE_YMMH, vector);
	}
	if (parts & XCR0_PKRU) {
		unsigned at = pkru_at(pkru, is_compact(kind), rfbm);

		put64(area + at, pkru.value);
		add(&r, at, PKRU_SIZE);
	}
	return r.n;
}

size_t fpu_xsave_extent(struct fpu_pkru pkru, enum fpu_xsave_kind kind,
                        u64 rfbm)
{
	if (rfbm & XCR0_PKRU)
		return pkru_at(pkru, is_compact(kind), rfbm) + PKRU_SIZE;
	return rfbm & XCR0_AVX ? CPU_XSAVE_SIZE : FPU_HEADER_END;
}

/* Of a header that nobody has looked at yet. */
static unsigned pkru_in(struct fpu_pkru pkru, const u8 *area)
{
	u64 comp = get64(area + AT_XCOMP_BV);

	return pkru_at(pkru, comp & COMPACTED, comp);
}

size_t fpu_xrstor_ranges(struct fpu_pkru pkru, const u8 *area, u64 rfbm,
                         struct fpu_range ranges[FPU_RANGES])
{
	struct ranges r = { ranges, 0 };
	u64 parts = rfbm & get64(area + AT_XSTATE_BV);

	if (parts & XCR0_AVX)
		add(&r, CPU_XSAVE_YMMH, YMMH_SIZE);
	if (parts & XCR0_PKRU)
		add(&r, pkru_in(pkru, area), PKRU_SIZE);
	return r.n;
}

static bool zero(const u8 *p, size_t n)
{
	while (n) {
		if (p[--n])
			return false;
	}
	return true;
}

static bool header_valid(const u8 *area, bool supervisor, bool compact,
                         u64 enabled)
{
	u64 bv = get64(area + AT_XSTATE_BV), comp = get64(area + AT_XCOMP_BV);

	if (!(comp & COMPACTED)) {
		/* 13.8.1: bytes 8 to 23 of the header. */
		return !supervisor && !(bv & ~enabled) && comp == 0 &&
		       get64(area + AT_RESERVED) == 0;
	}
	if (!compact && !supervisor)
		return false;
	return !(comp & ~COMPACTED & ~enabled) && !(bv & ~comp) &&
	       !(bv & COMPACTED) && zero(area + AT_RESERVED, 48);
}

static void restore(u8 *xsave, size_t offset, bool from, const u8 *area,
                    u16 size)
{
	if (from)
		memcpy(xsave + offset, area + offset, size);
	else
		memset(xsave + offset, 0, size);
}

bool fpu_xrstor(u8 *xsave, struct fpu_pkru *pkru, struct fpu_mode mode,
                bool supervisor, bool compact, u64 rfbm, u64 enabled,
                const u8 *area)
{
	u64 bv = get64(area + AT_XSTATE_BV);
	bool compacted = get64(area + AT_XCOMP_BV) & COMPACTED;
	u16 vector = vector_bytes(mode);
	u32 mxcsr = get_mxcsr(xsave);

	if (!header_valid(area, supervisor, compact, enabled))
		return false;
	if (compacted ? (rfbm & bv & XCR0_SSE) : (rfbm & (XCR0_SSE | XCR0_AVX)))
		mxcsr = get_mxcsr(area);
	else if (compacted && (rfbm & XCR0_SSE))
		mxcsr = FPU_MXCSR_INIT;
	if (!fpu_mxcsr_valid(mxcsr))
		return false;
	put_mxcsr(xsave, mxcsr);
	if (rfbm & XCR0_X87) {
		if (bv & XCR0_X87)
			fpu_x87_load(xsave, mode.rex_w, area);
		else
			fpu_x87_reset(xsave);
	}
	if (rfbm & XCR0_SSE)
		restore(xsave, CPU_XSAVE_XMM, bv & XCR0_SSE, area, vector);
	if (rfbm & XCR0_AVX)
		restore(xsave, CPU_XSAVE_YMMH, bv & XCR0_AVX, area, vector);
	if (rfbm & XCR0_PKRU)
		pkru->value = bv & XCR0_PKRU
		                  ? (u32)get64(area + pkru_in(*pkru, area))
		                  : 0;
	return true;
}
