/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stubs.c - the code that every translated block shares: the way in, the ways
 * out, the fill of a site's page cache from the TLB, the vector registers.
 */
#include "engine/bt/bt.h"
#include "engine/bt/helper.h"

enum {
	MODE_GS_ONLY = 0x04, /* modrm: SIB follows, reg in bits 3-5 */
	SIB_ABSOLUTE = 0x25,
};

#define CPU(field) ((u32)offsetof(struct icpu, field))
#define AREA(field)                                                            \
	((u32)(offsetof(struct icpu, area) + offsetof(struct bt_area, field)))
#define GPR(n) (CPU(gpr) + 8 * (u32)(n))

static const u8 saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void push(struct cursor *c, unsigned reg)
{
	asm_rex(c, false, 0, 0, reg);
	asm_8(c, (u8)(0x50 | (reg & 7)));
}

static void pop(struct cursor *c, unsigned reg)
{
	asm_rex(c, false, 0, 0, reg);
	asm_8(c, (u8)(0x58 | (reg & 7)));
}

static void ret(struct cursor *c)
{
	asm_8(c, 0xc3);
}

/* op gs:[off] with the opcode's own digit in reg. */
static void gs_digit(struct cursor *c, u8 op0, u8 op1, unsigned digit, u32 off)
{
	asm_8(c, 0x65);
	asm_8(c, op0);
	if (op1)
		asm_8(c, op1);
	asm_8(c, (u8)(MODE_GS_ONLY | digit << 3));
	asm_8(c, SIB_ABSOLUTE);
	asm_32(c, off);
}

static void mov_gs_imm32(struct cursor *c, u32 off, u32 imm)
{
	gs_digit(c, 0xc7, 0, 0, off);
	asm_32(c, imm);
}

/* The host register that holds a guest register while in host code. */
static unsigned home(unsigned gpr)
{
	return gpr == GPR_RSP ? H_GSP : gpr;
}

/* struct bt_exit enter(host, cpu): RDI, RSI */
static void emit_enter(struct bt *bt, struct cursor *c)
{
	bt->enter = (struct bt_exit(*)(const u8 *))(uintptr_t)cursor_x(c);
	for (size_t i = 0; i < ARRAY_SIZE(saved); i++)
		push(c, saved[i]);
	asm_store_gs(c, H_RSP, AREA(host_rsp));
	asm_mov_rr(c, H_S0, H_RDI);
	for (unsigned r = GPR_RAX; r <= GPR_R12; r++)
		asm_load_gs(c, home(r), GPR(r));
	/* jmp r14 */
	asm_8(c, 0x41);
	asm_8(c, 0xff);
	asm_8(c, 0xe6);
}

/* mov gs:[off], xmm or back; legacy SSE where the host has no AVX, with which
 * a load leaves zeros in the upper half. */
static void move_low(struct cursor *c, bool avx, bool store, unsigned i)
{
	u32 low = CPU(xsave) + CPU_XSAVE_XMM + 16 * i;
	u8 modrm = (u8)(MODE_GS_ONLY | (i & 7) << 3);

	asm_8(c, 0x65);
	if (!avx) { /* movups */
		asm_rex(c, false, i, 0, 0);
		asm_8(c, 0x0f);
		asm_8(c, store ? 0x11 : 0x10);
	} else { /* vmovups: VEX.128.0F */
		asm_8(c, 0xc5);
		asm_8(c, i < 8 ? 0xf8 : 0x78);
		asm_8(c, store ? 0x11 : 0x10);
	}
	asm_8(c, modrm);
	asm_8(c, SIB_ABSOLUTE);
	asm_32(c, low);
}

/* vextractf128 gs:[high], ymm, 1; vinsertf128 ymm, ymm, .., 1 */
static void move_high(struct cursor *c, bool store, unsigned i)
{
	u32 high = CPU(xsave) + CPU_XSAVE_YMMH + 16 * i;
	u8 modrm = (u8)(MODE_GS_ONLY | (i & 7) << 3);

	asm_8(c, 0x65);
	asm_8(c, 0xc4);
	asm_8(c, i < 8 ? 0xe3 : 0x63);
	asm_8(c, store ? 0x7d : (u8)(0x05 | (~i & 15) << 3));
	asm_8(c, store ? 0x19 : 0x18);
	asm_8(c, modrm);
	asm_8(c, SIB_ABSOLUTE);
	asm_32(c, high);
	asm_8(c, 1);
}

/* rcx: 0 if all upper halves are; two vectors are changed. */
static void or_high(struct cursor *c)
{
	/* vxorps xmm0, xmm0, xmm0; vorps xmm0, xmm0, gs:[high] */
	asm_bytes(c, "\xc5\xf8\x57\xc0", 4);
	for (unsigned i = 0; i < 16; i++) {
		asm_bytes(c, "\x65\xc5\xf8\x56", 4);
		asm_8(c, MODE_GS_ONLY);
		asm_8(c, SIB_ABSOLUTE);
		asm_32(c, CPU(xsave) + CPU_XSAVE_YMMH + 16 * i);
	}
	asm_bytes(c, "\xc5\xf8\x12\xc8", 4);     /* vmovhlps xmm1, xmm0, xmm0 */
	asm_bytes(c, "\xc5\xf8\x56\xc1", 4);     /* vorps xmm0, xmm0, xmm1 */
	asm_bytes(c, "\xc4\xe1\xf9\x7e\xc1", 5); /* vmovq rcx, xmm0 */
}

static void end_load(struct cursor *c)
{
	gs_digit(c, 0x0f, 0xae, 2, CPU(xsave) + CPU_XSAVE_MXCSR); /* ldmxcsr */
	mov_gs_imm32(c, AREA(vector_absent), 0);
	ret(c);
}

/*
 * A processor may take an upper half that was written for one in use, zero or
 * not, and then SSE's instructions are three times as slow: those of a guest
 * that has none in use are left alone.
 */
static void emit_load_avx(struct cursor *c)
{
	u8 *in_use;

	asm_store_gs(c, H_RCX, AREA(vector_rcx));
	or_high(c);
	for (unsigned i = 0; i < 16; i++)
		move_low(c, true, false, i);
	asm_bytes(c, "\xe3\x05", 2); /* jrcxz, over the jump */
	in_use = asm_jmp(c);
	asm_load_gs(c, H_RCX, AREA(vector_rcx));
	end_load(c);
	asm_patch(c, in_use);
	for (unsigned i = 0; i < 16; i++)
		move_high(c, false, i);
	asm_load_gs(c, H_RCX, AREA(vector_rcx));
	end_load(c);
}

/* Both change no flags and no general register. */
static void emit_vector(struct bt *bt, struct cursor *c)
{
	bool avx = __builtin_cpu_supports("avx");

	bt->load_vector = cursor_x(c);
	if (avx) {
		emit_load_avx(c);
	} else {
		for (unsigned i = 0; i < 16; i++)
			move_low(c, false, false, i);
		end_load(c);
	}

	bt->save_vector = cursor_x(c);
	for (unsigned i = 0; i < 16; i++) {
		move_low(c, avx, true, i);
		if (avx)
			move_high(c, true, i);
	}
	gs_digit(c, 0x0f, 0xae, 3, CPU(xsave) + CPU_XSAVE_MXCSR); /* stmxcsr */
	gs_digit(c, 0x0f, 0xae, 2, AREA(host_mxcsr));
	mov_gs_imm32(c, AREA(vector_absent), 1);
	if (avx)
		asm_bytes(c, "\xc5\xf8\x77", 3); /* vzeroupper */
	ret(c);
}

/* What every exit ends in: RAX is stored, RDX is the kind, R15 the value. */
static const u8 *emit_leave(struct bt *bt, struct cursor *c)
{
	const u8 *at = cursor_x(c);
	u8 *absent;

	for (unsigned r = GPR_RCX; r <= GPR_R12; r++)
		if (r != GPR_RDX)
			asm_store_gs(c, home(r), GPR(r));
	asm_mov_rr(c, H_RAX, H_S1);
	/* cmp dword gs:[vector_absent], 0 */
	gs_digit(c, 0x83, 0, 7, AREA(vector_absent));
	asm_8(c, 0);
	absent = asm_jcc(c, CC_NE);
	asm_call_to(c, bt->save_vector);
	asm_patch(c, absent);
	asm_load_gs(c, H_RSP, AREA(host_rsp));
	for (size_t i = ARRAY_SIZE(saved); i-- > 0;)
		pop(c, saved[i]);
	ret(c);
	return at;
}

/* lahf; seto al; mov gs:[flags], ax: RAX was put aside. */
static void store_flags(struct cursor *c)
{
	asm_8(c, 0x9f);
	asm_bytes(c, "\x0f\x90\xc0", 3);
	asm_8(c, 0x66);
	asm_store_gs32(c, H_RAX, CPU(flags));
}

static const u8 *emit_exit(struct cursor *c, const u8 *leave, bool host,
                           enum bt_exit_kind kind)
{
	const u8 *at = cursor_x(c);

	asm_store_gs(c, H_RAX, GPR(GPR_RAX));
	asm_store_gs(c, H_RDX, GPR(GPR_RDX));
	asm_store_gs(c, H_S0, AREA(missed));
	if (host)
		store_flags(c);
	asm_mov_imm64(c, H_RDX, kind);
	asm_jmp_to(c, leave);
	return at;
}

/* Its slot is put into the log of those that are not empty. RDX is free. */
static void log_slot(struct cursor *c, bool user)
{
	u32 filled = AREA(slots_filled) + user * (u32)sizeof(u32);

	asm_gs(c, false, 0x8b, H_RDX, filled);
	/* mov gs:[log + rdx * 2], r15w */
	asm_bytes(c, "\x65\x66\x44\x89\x3c\x55", 6);
	asm_32(c, AREA(slot_log) + user * LOGGED * (u32)sizeof(u16));
	gs_digit(c, 0xff, 0, 0, filled); /* inc dword */
}

/* What only AC allows outlives AC in no slot. */
static u8 *keep_out(struct cursor *c)
{
	gs_digit(c, 0x80, 0, 7, CPU(priv)); /* cmp byte */
	asm_8(c, PRIV_AC);
	return asm_jcc(c, CC_E);
}

/* A supervisor's slot with a page of this space alone is marked. */
static void mark_local(struct cursor *c)
{
	u8 *global;

	asm_bytes(c, "\xf6\x40", 2); /* test byte [rax + gpa], 1 */
	asm_8(c, offsetof(struct tlb_entry, gpa));
	asm_8(c, 1);
	global = asm_jcc(c, CC_NE);
	mov_gs_imm32(c, AREA(slot_local), 1);
	asm_patch(c, global);
}

/* The page whose tag is in RDX is in a slot. RAX is free. */
static void note_page(struct cursor *c, bool user)
{
	asm_rr(c, false, 0x8b, H_RAX, H_RDX);
	asm_shift(c, false, 5, H_RAX, PAGE_SHIFT);
	asm_alu_imm32(c, ALU_AND, H_RAX, SLOT_PAGES - 1);
	asm_bytes(c, "\x65\xc6\x80", 3); /* mov byte gs:[rax + ], 1 */
	asm_32(c, AREA(slot_pages) + user * (u32)SLOT_PAGES);
	asm_8(c, 1);
}

/* RAX: the entry of the TLB, RDX its tag, RCX its addend. */
static void fill_slot(struct cursor *c, bool user)
{
	u8 *keep = NULL, *logged;

	if (!user)
		keep = keep_out(c);
	if (!user)
		mark_local(c);
	note_page(c, user);
	asm_bytes(c, "\x65\x41\x81\x7f\x04", 5); /* cmp dword gs:[r15+4], */
	asm_32(c, BT_SLOT_EMPTY);
	asm_bytes(c, "\x65\x49\x89\x17", 4);     /* mov gs:[r15], rdx */
	asm_bytes(c, "\x65\x49\x89\x4f\x08", 5); /* mov gs:[r15+8], rcx */
	logged = asm_jcc(c, CC_NE);
	log_slot(c, user);
	asm_patch(c, logged);
	if (keep)
		asm_patch(c, keep);
}

/* R15: the table; then the page's line. RCX: what to add to an offset. */
static void find_line(struct cursor *c)
{
	asm_rr(c, true, 0x03, H_RCX, H_RDX);
	push(c, H_RDX);
	asm_shift(c, false, 5, H_RDX, LINE_SHIFT);
	asm_alu_imm32(c, ALU_AND, H_RDX, LINE_MASK);
	asm_rr(c, false, 0x03, H_S1, H_RDX);
	pop(c, H_RDX);
}

static void pop_three(struct cursor *c)
{
	pop(c, H_RDX);
	pop(c, H_RCX);
	pop(c, H_RAX);
}

/*
 * One miss in so many comes here. Carry: they are dense, and it is to be
 * looked at. What goes through memory in order misses again and again, too, but
 * seldom.
 */
static void sample_miss(struct cursor *c)
{
	mov_gs_imm32(c, AREA(miss_count), MISS_SAMPLE);
	asm_gs(c, true, 0xff, 0, AREA(miss_samples)); /* inc */
	push(c, H_RAX);
	push(c, H_RDX);
	asm_bytes(c, "\x0f\x31", 2); /* rdtsc */
	asm_shift(c, true, 4, H_RDX, 32);
	asm_rr(c, true, 0x0b, H_RAX, H_RDX); /* or rax, rdx */
	asm_mov_rr(c, H_RDX, H_RAX);
	asm_gs(c, true, 0x2b, H_RAX, AREA(last_sample)); /* sub rax, */
	asm_store_gs(c, H_RDX, AREA(last_sample));
	asm_bytes(c, "\x48\x3d", 2); /* cmp rax, */
	asm_32(c, MISS_SAMPLE * MISS_CYCLES);
	pop(c, H_RDX);
	pop(c, H_RAX);
}

/*
 * R14: linear address, R15: how, with the slot. CF clear: it hit, or does now,
 * the slot or line is filled, R14 is the host address, or the delta alone. CF
 * set: R14 unchanged;
 * the TLB can't be filled, or the miss is one in so many that area.miss_sampled
 * wants looked at.
 */
enum fill { FILL_HOST, FILL_DELTA, FILL_LINE };

static const u8 *emit_fill(struct bt *bt, struct cursor *c, bool write,
                           bool user, enum fill fill)
{
	const u8 *at = cursor_x(c), *again;
	s32 tag = write ? offsetof(struct tlb_entry, wtag)
	                : offsetof(struct tlb_entry, rtag);
	u8 *miss, *crossing, *sampled;

	_Static_assert(sizeof(struct tlb_entry) == 32, "shifted by 5 below");
	gs_digit(c, 0xff, 0, 1, AREA(miss_count)); /* dec dword */
	sampled = asm_jcc(c, CC_E);
	again = cursor_x(c);
	push(c, H_RAX);
	push(c, H_RCX);
	push(c, H_RDX);
	asm_mov_rr(c, H_RAX, H_S0);
	asm_bytes(c, "\xc1\xe8\x07", 3); /* shr eax, 12 - 5 */
	asm_8(c, 0x25);                  /* and eax, */
	asm_32(c, (TLB_ENTRIES - 1) << 5);
	asm_gs(c, true, 0x03, H_RAX, CPU(tlb)); /* add rax, */
	asm_mov_rr(c, H_RCX, H_S0);
	asm_rm(c, true, 0x2b, H_RCX, H_RAX, tag); /* sub rcx, */
	asm_bytes(c, "\x48\x81\xf9", 3);          /* cmp rcx, */
	asm_32(c, PAGE_SIZE - 1);
	miss = asm_jcc(c, CC_A);
	asm_rr(c, false, 0x8b, H_RDX, H_S1);
	asm_bytes(c, "\xc1\xea\x10", 3); /* shr edx, 16 */
	asm_bytes(c, "\x81\xe2", 2);     /* and edx, */
	asm_32(c, HOW_SIZE_MASK);
	asm_bytes(c, "\x01\xd1", 2); /* add ecx, edx */
	asm_bytes(c, "\x81\xf9", 2); /* cmp ecx, */
	asm_32(c, PAGE_SIZE);
	crossing = asm_jcc(c, CC_A);
	asm_bytes(c, "\x45\x0f\xb7\xff", 4); /* movzx r15d, r15w */
	asm_rm(c, true, 0x8b, H_RDX, H_RAX, tag);
	asm_rm(c, true, 0x8b, H_RCX, H_RAX, offsetof(struct tlb_entry, addend));
	if (fill == FILL_DELTA)
		asm_mov_rr(c, H_S0, H_RCX);
	else
		asm_rr(c, true, 0x03, H_S0, H_RCX);
	if (fill == FILL_LINE)
		find_line(c);
	fill_slot(c, user);
	pop_three(c);
	asm_8(c, 0xf8); /* clc */
	ret(c);
	asm_patch(c, miss);
	pop_three(c);
	asm_call_to(c, bt->fill_tlb[write]);
	asm_bytes(c, "\x0f\x83", 2); /* jnc */
	asm_32(c, (u32)(again - (cursor_x(c) + 4)));
	ret(c);
	asm_patch(c, crossing);
	pop_three(c);
	asm_8(c, 0xf9); /* stc */
	ret(c);
	asm_patch(c, sampled);
	sample_miss(c);
	asm_bytes(c, "\x0f\x83", 2); /* jae */
	asm_32(c, (u32)(again - (cursor_x(c) + 4)));
	asm_store_gs32(c, H_S1, AREA(miss_sampled));
	asm_8(c, 0xf9); /* stc */
	ret(c);
	return at;
}

/*
 * A dead block's entries come here with the block's offset in R15: it is
 * looked up again.
 */
static const u8 *emit_dead(struct bt *bt, struct cursor *c, bool host)
{
	const u8 *at = cursor_x(c);

	asm_load_gs(c, H_S0, CPU(pcbase));
	asm_lea(c, true, H_S0, H_S0, H_S1, 0, 0);
	if (host) {
		asm_mov_rr(c, H_S1, H_RAX);
		store_flags(c);
		asm_mov_rr(c, H_RAX, H_S1);
	}
	asm_jmp_to(c, bt->exit_dead);
	return at;
}

void bt_stubs(struct bt *bt, struct cursor *c)
{
	const u8 *leave;

	emit_enter(bt, c);
	emit_vector(bt, c);
	leave = emit_leave(bt, c);
	bt->exit_op_host = emit_exit(c, leave, true, BT_EXIT_OP);
	bt->exit_op_saved = emit_exit(c, leave, false, BT_EXIT_OP);
	bt->exit_link_host = emit_exit(c, leave, true, BT_EXIT_LINK);
	bt->exit_link_saved = emit_exit(c, leave, false, BT_EXIT_LINK);
	bt_emit_callouts(bt, c, leave);
	bt->dead_host = emit_dead(bt, c, true);
	bt->dead_saved = emit_dead(bt, c, false);
	bt->fill_tlb[0] = bt_emit_helper(bt, c, bt_fill_read);
	bt->fill_tlb[1] = bt_emit_helper(bt, c, bt_fill_write);
	bt->rep_movs = bt_emit_helper(bt, c, bt_rep_movs);
	bt->rep_stos = bt_emit_helper(bt, c, bt_rep_stos);
	for (unsigned i = 0; i < 4; i++) {
		bt->fill[i / 2][i % 2] =
		    emit_fill(bt, c, i / 2, i % 2, FILL_HOST);
		bt->fill_delta[i / 2][i % 2] =
		    emit_fill(bt, c, i / 2, i % 2, FILL_DELTA);
		bt->fill_line[i / 2][i % 2] =
		    emit_fill(bt, c, i / 2, i % 2, FILL_LINE);
	}
}
