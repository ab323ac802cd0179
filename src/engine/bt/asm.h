/* SPDX-License-Identifier: Apache-2.0 */
/*
 * asm.h - putting host instructions into the code cache.
 *
 * Code is written through one mapping and runs from another, so a cursor
 * keeps both: w where bytes go, x where they will be. A cursor that runs out
 * of room sets full and writes no more; the caller then throws it away.
 */
#pragma once

#include <string.h>

#include "base/types.h"

enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	/* Scratch, never guest state at an instruction's boundary. */
	H_S0 = H_R14,
	H_S1 = H_R15,
	/* Where the guest's RSP lives: the host needs its own. */
	H_GSP = H_R13,
};

struct cursor {
	u8 *w, *end;
	s64 to_x; /* add to a write address for the address it runs at */
	bool full;
};

static inline u8 *cursor_x(const struct cursor *c)
{
	return c->w + c->to_x;
}

static inline void asm_bytes(struct cursor *c, const void *bytes, size_t n)
{
	if (c->end - c->w < (ptrdiff_t)n) {
		c->full = true;
		return;
	}
	memcpy(c->w, bytes, n);
	c->w += n;
}
static inline void asm_8(struct cursor *c, u8 v)
{
	asm_bytes(c, &v, 1);
}
static inline void asm_32(struct cursor *c, u32 v)
{
	asm_bytes(c, &v, 4);
}
static inline void asm_64(struct cursor *c, u64 v)
{
	asm_bytes(c, &v, 8);
}

/* REX for a 64- or 32-bit operation with the given modrm.reg and rm. */
static inline void asm_rex(struct cursor *c, bool w, unsigned reg,
                           unsigned index, unsigned rm)
{
	u8 rex =
	    (u8)(0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3);

	if (rex != 0x40)
		asm_8(c, rex);
}

/* op reg, rm: both registers, 64 bits wide or 32. */
static inline void asm_rr(struct cursor *c, bool w, u8 op, unsigned reg,
                          unsigned rm)
{
	asm_rex(c, w, reg, 0, rm);
	asm_8(c, op);
	asm_8(c, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static inline void asm_mov_rr(struct cursor *c, unsigned dst, unsigned src)
{
	if (dst != src)
		asm_rr(c, true, 0x8b, dst, src);
}

/* op reg, gs:[off] */
static inline void asm_gs(struct cursor *c, bool w, u8 op, unsigned reg,
                          u32 off)
{
	asm_8(c, 0x65);
	asm_rex(c, w, reg, 0, 0);
	asm_8(c, op);
	asm_8(c, (u8)(0x04 | (reg & 7) << 3));
	asm_8(c, 0x25);
	asm_32(c, off);
}
static inline void asm_load_gs(struct cursor *c, unsigned reg, u32 off)
{
	asm_gs(c, true, 0x8b, reg, off);
}
static inline void asm_store_gs(struct cursor *c, unsigned reg, u32 off)
{
	asm_gs(c, true, 0x89, reg, off);
}

static inline void asm_store_gs32(struct cursor *c, unsigned reg, u32 off)
{
	asm_gs(c, false, 0x89, reg, off);
}
static inline void asm_load_gs32(struct cursor *c, unsigned reg, u32 off)
{
	asm_gs(c, false, 0x8b, reg, off);
}

/* The mod bits of ModRM for [base ... + disp]; without a displacement RBP and
 * R13 can't be a base. */
static inline u8 asm_mod(unsigned base, s32 disp)
{
	if (disp == 0 && (base & 7) != 5)
		return 0;
	return disp == (s8)disp ? 0x40 : 0x80;
}

static inline void asm_disp(struct cursor *c, u8 mod, s32 disp)
{
	if (mod == 0x40)
		asm_8(c, (u8)disp);
	else if (mod == 0x80)
		asm_32(c, (u32)disp);
}

/* op reg, [base + disp]; base is neither RSP nor R12. */
static inline void asm_rm(struct cursor *c, bool w, u8 op, unsigned reg,
                          unsigned base, s32 disp)
{
	u8 mod = asm_mod(base, disp);

	asm_rex(c, w, reg, 0, base);
	asm_8(c, op);
	asm_8(c, (u8)(mod | (reg & 7) << 3 | (base & 7)));
	asm_disp(c, mod, disp);
}

/* op gs:[off] of 32 bits, with the opcode's digit where a register stands. */
static inline void asm_gs_digit(struct cursor *c, u8 op, unsigned digit,
                                u32 off)
{
	asm_gs(c, false, op, digit, off);
}
static inline void asm_gs_imm32(struct cursor *c, u8 op, unsigned digit,
                                u32 off, u32 imm)
{
	asm_gs_digit(c, op, digit, off);
	asm_32(c, imm);
}

/* Digits of the groups 80, 81 (arithmetic with an immediate). */
enum { ALU_OR = 1, ALU_AND = 4, ALU_CMP = 7 };

/* op r32, imm32 */
static inline void asm_alu_imm32(struct cursor *c, unsigned digit, unsigned reg,
                                 u32 imm)
{
	asm_rex(c, false, 0, 0, reg);
	asm_8(c, 0x81);
	asm_8(c, (u8)(0xc0 | digit << 3 | (reg & 7)));
	asm_32(c, imm);
}

/* digit: shl 4, shr 5, sar 7 */
static inline void asm_shift(struct cursor *c, bool wide, unsigned digit,
                             unsigned reg, unsigned by)
{
	asm_rex(c, wide, 0, 0, reg);
	asm_8(c, 0xc1);
	asm_8(c, (u8)(0xc0 | digit << 3 | (reg & 7)));
	asm_8(c, (u8)by);
}

enum { NO_REG = 0xff };

/* The byte after a ModRM that names no base itself; NO_REG for no index. */
static inline void asm_sib_byte(struct cursor *c, unsigned base, unsigned index,
                                unsigned shift)
{
	asm_8(c, (u8)(shift << 6 | (index == NO_REG ? 4 : index & 7) << 3 |
	              (base & 7)));
}

/* lea reg, [base + index << shift + disp]; either may be NO_REG. */
static inline void asm_lea(struct cursor *c, bool w, unsigned reg,
                           unsigned base, unsigned index, unsigned shift,
                           s32 disp)
{
	bool small = disp >= -128 && disp < 128 && base != NO_REG;

	asm_rex(c, w, reg, index == NO_REG ? 0 : index,
	        base == NO_REG ? 0 : base);
	asm_8(c, 0x8d);
	asm_8(c, (u8)((base == NO_REG ? 0
	               : small        ? 0x40
	                              : 0x80) |
	              (reg & 7) << 3 | 4));
	asm_sib_byte(c, base == NO_REG ? 5 : base, index, shift);
	if (small)
		asm_8(c, (u8)disp);
	else
		asm_32(c, (u32)disp);
}

/*
 * op reg, [base + index << shift + disp]: any base, NO_REG for no index.
 */
static inline void asm_sib(struct cursor *c, bool w, u8 op, unsigned reg,
                           unsigned base, unsigned index, unsigned shift,
                           s32 disp)
{
	u8 mod = asm_mod(base, disp);

	asm_rex(c, w, reg, index == NO_REG ? 0 : index, base);
	asm_8(c, op);
	asm_8(c, (u8)(mod | (reg & 7) << 3 | 4));
	asm_sib_byte(c, base, index, shift);
	asm_disp(c, mod, disp);
}

static inline void asm_mov_imm64(struct cursor *c, unsigned reg, u64 v)
{
	if (v >> 32) {
		asm_rex(c, true, 0, 0, reg);
		asm_8(c, (u8)(0xb8 | (reg & 7)));
		asm_64(c, v);
	} else {
		asm_rex(c, false, 0, 0, reg);
		asm_8(c, (u8)(0xb8 | (reg & 7)));
		asm_32(c, (u32)v);
	}
}

/* Jumps. The near ones return where the displacement is, for asm_patch. */
static inline void asm_jmp_to(struct cursor *c, const u8 *x)
{
	asm_8(c, 0xe9);
	asm_32(c, (u32)(x - (cursor_x(c) + 4)));
}
static inline void asm_call_to(struct cursor *c, const u8 *x)
{
	asm_8(c, 0xe8);
	asm_32(c, (u32)(x - (cursor_x(c) + 4)));
}
static inline u8 *asm_jmp(struct cursor *c)
{
	asm_8(c, 0xe9);
	asm_32(c, 0);
	return c->w - 4;
}
static inline u8 *asm_jcc(struct cursor *c, unsigned cc)
{
	asm_8(c, 0x0f);
	asm_8(c, (u8)(0x80 | cc));
	asm_32(c, 0);
	return c->w - 4;
}
/* Point a displacement (its write address) at here. */
static inline void asm_patch(struct cursor *c, u8 *disp)
{
	u32 rel = (u32)(c->w - (disp + 4));

	if (!c->full)
		memcpy(disp, &rel, 4);
}

enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A };
