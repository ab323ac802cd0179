/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu.c - the x87 part: environments in their four layouts, FNINIT, FXSAVE.
 *
 * The canonical area's first 160 bytes are as FXSAVE64 has them:
 *
 *	0 FCW  2 FSW  4 FTW, a bit a register  6 FOP  8 FIP  16 FDP
 *	24 MXCSR  28 MXCSR_MASK  32 + 16 i ST(i)
 */
#include "engine/interp/fpu.h"

#include <string.h>

#include "engine/interp/fpu_internal.h"
#include "guest/cpu.h"

enum {
	AT_FCW = 0,
	AT_FSW = 2,
	AT_FTW = 4,
	AT_FOP = 6,
	AT_FIP = 8,
	AT_FDP = 16,
	AT_MXCSR = CPU_XSAVE_MXCSR,
	AT_MXCSR_MASK = 28,
	AT_ST = 32,
	ST_SIZE = 10,
	ST_STRIDE = 16,
};
enum {
	FCW_INIT = 0x37f,
	FCW_KEPT = 0x1f3f,
	FCW_ONE = 0x40, /* reads as one */
	EXCEPTIONS = 0x3f,
	FSW_ES = 0x80,
	FSW_B = 0x8000,
	FSW_TOP = 0x3800,
	FOP_MASK = 0x7ff,
};

static u16 get16(const u8 *p)
{
	u16 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static u32 get32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static u64 get64(const u8 *p)
{
	u64 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void put16(u8 *p, u16 v)
{
	memcpy(p, &v, sizeof(v));
}

static void put32(u8 *p, u32 v)
{
	memcpy(p, &v, sizeof(v));
}

static void put64(u8 *p, u64 v)
{
	memcpy(p, &v, sizeof(v));
}

bool fpu_pending(const u8 *xsave)
{
	return (get16(xsave + AT_FSW) & ~get16(xsave + AT_FCW) & EXCEPTIONS) !=
	       0;
}

/* Control and status as the registers can hold them: ES and B follow. */
static void set_control(u8 *xsave, u16 fcw, u16 fsw)
{
	fcw = (fcw & FCW_KEPT) | FCW_ONE;
	fsw &= (u16) ~(FSW_ES | FSW_B);
	if (fsw & ~fcw & EXCEPTIONS)
		fsw |= FSW_ES | FSW_B;
	put16(xsave + AT_FCW, fcw);
	put16(xsave + AT_FSW, fsw);
}

static unsigned top_of(u16 fsw)
{
	return (fsw >> 11) & 7;
}

/*
 * The area holds registers by their distance from the top of the stack, but
 * whoever moves only the top leaves them where they are.
 */
static void move_top(u8 *xsave, unsigned to)
{
	unsigned by = (to - top_of(get16(xsave + AT_FSW))) & 7, i;
	u8 old[8 * ST_STRIDE];

	if (by == 0)
		return;
	memcpy(old, xsave + AT_ST, sizeof(old));
	for (i = 0; i < 8; i++)
		memcpy(xsave + AT_ST + i * ST_STRIDE,
		       old + ((i + by) & 7) * ST_STRIDE, ST_STRIDE);
}

void fpu_mmx_enter(u8 *xsave)
{
	u16 fsw = get16(xsave + AT_FSW);

	move_top(xsave, 0);
	put16(xsave + AT_FSW, fsw & (u16)~FSW_TOP);
	put16(xsave + AT_FTW, 0xff);
}

void fpu_init(u8 *xsave)
{
	move_top(xsave, 0);
	set_control(xsave, FCW_INIT, 0);
	put16(xsave + AT_FTW, 0);
	put16(xsave + AT_FOP, 0);
	put64(xsave + AT_FIP, 0);
	put64(xsave + AT_FDP, 0);
}

void fpu_record(u8 *xsave, u64 fip, u16 fop)
{
	put64(xsave + AT_FIP, fip);
	put16(xsave + AT_FOP, fop & FOP_MASK);
}

void fpu_record_data(u8 *xsave, u64 fdp)
{
	put64(xsave + AT_FDP, fdp);
}

static void init_x87(u8 *xsave)
{
	fpu_init(xsave);
	memset(xsave + AT_ST, 0, 8 * ST_STRIDE);
}

static bool all_zero(const u8 *p, size_t n)
{
	while (n) {
		if (p[--n])
			return false;
	}
	return true;
}

u64 fpu_in_use(const u8 *xsave, u32 pkru)
{
	u64 used = 0;

	if (get16(xsave + AT_FCW) != FCW_INIT ||
	    !all_zero(xsave + AT_FSW, CPU_XSAVE_MXCSR - AT_FSW) ||
	    !all_zero(xsave + AT_ST, 8 * ST_STRIDE))
		used |= XCR0_X87;
	if (!all_zero(xsave + CPU_XSAVE_XMM, 256))
		used |= XCR0_SSE;
	if (!all_zero(xsave + CPU_XSAVE_YMMH, 256))
		used |= XCR0_AVX;
	if (pkru)
		used |= XCR0_PKRU;
	return used;
}

void fpu_state_expand(u8 *xsave)
{
	u64 bv = get64(xsave + CPU_XSAVE_HEADER);
	unsigned i;

	if (!(bv & XCR0_X87))
		init_x87(xsave);
	if (!(bv & XCR0_SSE))
		memset(xsave + CPU_XSAVE_XMM, 0, 256);
	if (!(bv & XCR0_AVX))
		memset(xsave + CPU_XSAVE_YMMH, 0, 256);
	if (!(bv & (XCR0_SSE | XCR0_AVX)) && get32(xsave + AT_MXCSR) == 0)
		put32(xsave + AT_MXCSR, FPU_MXCSR_INIT);
	put32(xsave + AT_MXCSR, get32(xsave + AT_MXCSR) & FPU_MXCSR_MASK);
	put32(xsave + AT_MXCSR_MASK, FPU_MXCSR_MASK);
	set_control(xsave, get16(xsave + AT_FCW), get16(xsave + AT_FSW));
	put16(xsave + AT_FTW, xsave[AT_FTW]);
	put16(xsave + AT_FOP, get16(xsave + AT_FOP) & FOP_MASK);
	for (i = 0; i < 8; i++)
		memset(xsave + AT_ST + i * ST_STRIDE + ST_SIZE, 0,
		       ST_STRIDE - ST_SIZE);
	memset(xsave + CPU_XSAVE_XMM + 256, 0,
	       CPU_XSAVE_YMMH - CPU_XSAVE_XMM - 256);
	put64(xsave + CPU_XSAVE_HEADER, XCR0_X87 | XCR0_SSE | XCR0_AVX);
}

/* Two bits a register, for what a bit of FTW says is there. */
static u16 full_tag(const u8 *xsave)
{
	unsigned top = top_of(get16(xsave + AT_FSW)), i;
	u16 tags = 0;

	for (i = 0; i < 8; i++) {
		const u8 *st = xsave + AT_ST + ((i - top) & 7) * ST_STRIDE;
		u16 exponent = get16(st + 8) & 0x7fff;
		u64 mantissa = get64(st);
		u16 tag;

		if (!(xsave[AT_FTW] & BIT(i)))
			tag = 3;
		else if (exponent == 0 && mantissa == 0)
			tag = 1;
		else if (exponent == 0 || exponent == 0x7fff ||
		         !(mantissa >> 63))
			tag = 2;
		else
			tag = 0;
		tags |= (u16)(tag << 2 * i);
	}
	return tags;
}

static u8 short_tag(u16 tags)
{
	u8 out = 0;
	unsigned i;

	for (i = 0; i < 8; i++) {
		if (((tags >> 2 * i) & 3) != 3)
			out |= (u8)BIT(i);
	}
	return out;
}

/* Offset of a pointer as the layouts of real mode split it. */
static void store_wide(const u8 *xsave, bool real_mode, u8 *buf)
{
	u32 fip = (u32)get64(xsave + AT_FIP), fdp = (u32)get64(xsave + AT_FDP);
	u16 fop = get16(xsave + AT_FOP);

	put32(buf, 0xffff0000 | get16(xsave + AT_FCW));
	put32(buf + 4, 0xffff0000 | get16(xsave + AT_FSW));
	put32(buf + 8, 0xffff0000 | full_tag(xsave));
	if (real_mode) {
		put32(buf + 12, 0xffff0000 | (fip & 0xffff));
		put32(buf + 16, (fip >> 16) << 12 | fop);
		put32(buf + 20, 0xffff0000 | (fdp & 0xffff));
		put32(buf + 24, (fdp >> 16) << 12);
	} else {
		put32(buf + 12, fip);
		put32(buf + 16, (u32)fop << 16);
		put32(buf + 20, fdp);
		put32(buf + 24, 0xffff0000);
	}
}

static void store_narrow(const u8 *xsave, bool real_mode, u8 *buf)
{
	u32 fip = (u32)get64(xsave + AT_FIP), fdp = (u32)get64(xsave + AT_FDP);

	put16(buf, get16(xsave + AT_FCW));
	put16(buf + 2, get16(xsave + AT_FSW));
	put16(buf + 4, full_tag(xsave));
	put16(buf + 6, (u16)fip);
	put16(buf + 8, 0);
	put16(buf + 10, (u16)fdp);
	put16(buf + 12, 0);
	if (real_mode) {
		put16(buf + 8,
		      (u16)((fip >> 16 & 0xf) << 12 | get16(xsave + AT_FOP)));
		put16(buf + 12, (u16)((fdp >> 16 & 0xf) << 12));
	}
}

void fpu_env_store(const u8 *xsave, struct fpu_layout layout, u8 *buf)
{
	if (layout.wide)
		store_wide(xsave, layout.real_mode, buf);
	else
		store_narrow(xsave, layout.real_mode, buf);
}

void fpu_env_stored(u8 *xsave)
{
	set_control(xsave, get16(xsave + AT_FCW) | EXCEPTIONS,
	            get16(xsave + AT_FSW));
}

void fpu_env_load(u8 *xsave, struct fpu_layout layout, const u8 *buf)
{
	unsigned step = layout.wide ? 4 : 2;
	u32 fip, fdp;
	u16 fop = 0;

	if (layout.wide && layout.real_mode) {
		u32 mixed = get32(buf + 16);

		fip = get16(buf + 12) | (mixed >> 12 & 0xffff) << 16;
		fdp = get16(buf + 20) | (get32(buf + 24) >> 12 & 0xffff) << 16;
		fop = (u16)mixed;
	} else if (layout.wide) {
		fip = get32(buf + 12);
		fdp = get32(buf + 20);
		fop = get16(buf + 18);
	} else {
		fip = get16(buf + 6);
		fdp = get16(buf + 10);
		if (layout.real_mode) {
			fop = get16(buf + 8);
			fip |= (u32)(fop >> 12) << 16;
			fdp |= (u32)(get16(buf + 12) >> 12) << 16;
		}
	}
	move_top(xsave, top_of(get16(buf + step)));
	set_control(xsave, get16(buf), get16(buf + step));
	put16(xsave + AT_FTW, short_tag(get16(buf + 2 * step)));
	put64(xsave + AT_FIP, fip);
	put64(xsave + AT_FDP, fdp);
	put16(xsave + AT_FOP, fop & FOP_MASK);
}

void fpu_save(const u8 *xsave, struct fpu_layout layout, u8 *buf)
{
	u8 *st = buf + fpu_env_size(layout);
	unsigned i;

	fpu_env_store(xsave, layout, buf);
	for (i = 0; i < 8; i++)
		memcpy(st + i * ST_SIZE, xsave + AT_ST + i * ST_STRIDE,
		       ST_SIZE);
}

void fpu_restore(u8 *xsave, struct fpu_layout layout, const u8 *buf)
{
	const u8 *st = buf + fpu_env_size(layout);
	unsigned i;

	fpu_env_load(xsave, layout, buf);
	for (i = 0; i < 8; i++)
		memcpy(xsave + AT_ST + i * ST_STRIDE, st + i * ST_SIZE,
		       ST_SIZE);
}

/* Bytes 0 to 23, and ST: what XSAVE calls x87 state. */
void fpu_x87_store(const u8 *xsave, struct fpu_mode mode, u8 *buf)
{
	memcpy(buf, xsave, AT_MXCSR);
	if (mode.amd && !fpu_pending(xsave))
		memset(buf + AT_FOP, 0, AT_MXCSR - AT_FOP);
	if (!mode.rex_w) { /* 32-bit offsets, and selectors */
		put32(buf + AT_FIP + 4, 0);
		put32(buf + AT_FDP + 4, 0);
	}
	memcpy(buf + AT_ST, xsave + AT_ST, 8 * ST_STRIDE);
}

/* Processors keep 48 bits of the long ones. */
static u64 load_pointer(const u8 *p, bool rex_w)
{
	return rex_w ? (u64)((s64)(get64(p) << 16) >> 16) : get32(p);
}

void fpu_x87_load(u8 *xsave, bool rex_w, const u8 *buf)
{
	unsigned i;

	set_control(xsave, get16(buf + AT_FCW), get16(buf + AT_FSW));
	put16(xsave + AT_FTW, buf[AT_FTW]);
	put16(xsave + AT_FOP, get16(buf + AT_FOP) & FOP_MASK);
	put64(xsave + AT_FIP, load_pointer(buf + AT_FIP, rex_w));
	put64(xsave + AT_FDP, load_pointer(buf + AT_FDP, rex_w));
	for (i = 0; i < 8; i++)
		memcpy(xsave + AT_ST + i * ST_STRIDE,
		       buf + AT_ST + i * ST_STRIDE, ST_SIZE);
}

void fpu_x87_reset(u8 *xsave)
{
	init_x87(xsave);
}

static size_t fxsave_xmm(struct fpu_mode mode)
{
	return mode.fast ? 0 : mode.long_mode ? 256 : 128;
}

size_t fpu_fxsave(const u8 *xsave, struct fpu_mode mode, u8 *buf)
{
	size_t xmm = fxsave_xmm(mode);

	fpu_x87_store(xsave, mode, buf);
	put32(buf + AT_MXCSR, get32(xsave + AT_MXCSR));
	put32(buf + AT_MXCSR_MASK, FPU_MXCSR_MASK);
	memcpy(buf + CPU_XSAVE_XMM, xsave + CPU_XSAVE_XMM, xmm);
	return CPU_XSAVE_XMM + xmm;
}

bool fpu_fxrstor(u8 *xsave, struct fpu_mode mode, const u8 *buf)
{
	u32 mxcsr = get32(buf + AT_MXCSR);

	if (!fpu_mxcsr_valid(mxcsr))
		return false;
	fpu_x87_load(xsave, mode.rex_w, buf);
	put32(xsave + AT_MXCSR, mxcsr);
	memcpy(xsave + CPU_XSAVE_XMM, buf + CPU_XSAVE_XMM, fxsave_xmm(mode));
	return true;
}
