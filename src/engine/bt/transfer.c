/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.c - SYSCALL and SYSRET in host code: to the kernel and back without
 * the interpreter.
 *
 * What the other privilege level needs to run - its targets, its mode, its
 * segments - is worked out when host code is entered (bt_sync_other) and stays
 * good as long as it runs. Where something is out of the ordinary nothing is
 * made ready, and the interpreter does the instruction.
 */
#include "engine/bt/xlate.h"
#include "engine/interp/tlb.h"
#include "engine/x86/segment.h"

/* What SYSRET may find in R11 and needs no more than to store it. */
#define SYSRET_PLAIN                                                           \
	((u32)(RFLAGS_STATUS | RFLAGS_FIXED | RFLAGS_IF | RFLAGS_DF |          \
	       RFLAGS_ID))

/* ---- made ready by C ---- */

static struct cpu_segment flat_segment(u16 selector, u16 type, u16 size,
                                       unsigned dpl)
{
	return (struct cpu_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.attr = (u16)(SEG_ATTR_G | SEG_ATTR_P | SEG_ATTR_S | TYPE_RW |
		              TYPE_A | type | size | dpl << SEG_ATTR_DPL_SHIFT),
	};
}

static void set_star(struct bt_area *area, u64 star)
{
	u16 call = (u16)(star >> 32) & 0xfffc, ret = (u16)(star >> 48) | 3;

	area->star = star;
	area->call_cs = flat_segment(call, TYPE_CODE, SEG_ATTR_L, 0);
	area->call_ss = flat_segment((u16)(call + 8), 0, SEG_ATTR_DB, 0);
	area->ret_cs = flat_segment((u16)(ret + 16), TYPE_CODE, SEG_ATTR_L, 3);
	area->ret_ss = flat_segment((u16)(ret + 8), 0, SEG_ATTR_DB, 3);
}

static bool other_ready(struct bt *bt, unsigned ring)
{
	const struct icpu *cpu = bt->cpu;

	if (!(cpu->efer & EFER_SCE) || cpu->key & (KEY_STEP | KEY_MIDDLE))
		return false;
	/* AC is a user's own, and may outlive its SYSCALL. */
	if (cpu->cpl == 3 && cpu->sysflags & RFLAGS_AC)
		return false;
	if (ring && cpu->space->unsure)
		return false;
	return bt_slots_good(bt, ring);
}

void bt_sync_other(struct bt *bt)
{
	const struct icpu *cpu = bt->cpu;
	const struct tlb_space *s = cpu->space;
	struct bt_area *area = bt->area;
	unsigned ring = cpu->cpl != 3; /* the other one's */
	const struct bt_context *x;

	area->other_context = 0;
	if (!other_ready(bt, ring))
		return;
	area->other_key = KEY_VALID | KEY_CODE64 | (cpu->key & KEY_FPU_DENY) |
	                  (ring ? KEY_USER : 0);
	area->other_targets = ring       ? s->user.generation
	                      : s->local ? s->own.generation
	                                 : cpu->global_code.generation;
	if (unlikely(area->star != cpu->star))
		set_star(area, cpu->star);
	x = bt_find_context(bt, area->other_targets, area->other_key, ring);
	if (x)
		area->other_context = x->id;
}

/* ---- pieces ---- */

/* Exchange two fields. */
static void exchange(struct xlate *x, u32 a, u32 b)
{
	asm_load_gs(&x->c, H_S0, a);
	asm_load_gs(&x->c, H_S1, b);
	asm_store_gs(&x->c, H_S0, b);
	asm_store_gs(&x->c, H_S1, a);
}

static void copy_segment(struct xlate *x, unsigned seg, u32 from)
{
	u32 to = SEG_FIELD(seg, base);

	_Static_assert(sizeof(struct cpu_segment) == 16, "two words");
	for (u32 i = 0; i < 16; i += 8) {
		asm_load_gs(&x->c, H_S1, from + i);
		asm_store_gs(&x->c, H_S1, to + i);
	}
}

/* What icpu_update() would make of the change. */
static void change_level(struct xlate *x, unsigned cpl, unsigned priv)
{
	struct cursor *c = &x->c;

	exchange(x, AREA(context), AREA(other_context));
	exchange(x, CPU(targets), AREA(other_targets));
	asm_load_gs32(c, H_S0, CPU(key));
	asm_load_gs32(c, H_S1, AREA(other_key));
	asm_store_gs32(c, H_S0, AREA(other_key));
	asm_store_gs32(c, H_S1, CPU(key));
	asm_gs_digit(c, 0xc6, 0, CPU(cpl)); /* mov byte */
	asm_8(c, (u8)cpl);
	x_set_priv(x, priv);
}

/* Nothing is ready, or not for this: the interpreter's. */
static void leave_unless_ready(struct xlate *x, unsigned k)
{
	asm_gs(&x->c, true, 0x83, ALU_CMP, AREA(other_context));
	asm_8(&x->c, 0);
	x_callout_if(x, k, CC_E);
}

/* ---- SYSCALL ---- */

/* R11 = RFLAGS; the status flags are saved. */
static void flags_to_r11(struct xlate *x)
{
	struct cursor *c = &x->c;

	/* movzx r11d, word gs:[flags] */
	asm_bytes(c, "\x65\x44\x0f\xb7\x1c\x25", 6);
	asm_32(c, CPU(flags));
	asm_rr(c, false, 0x8b, H_S1, H_R11);
	asm_shift(c, false, 5, H_R11, 8);
	asm_alu_imm32(c, ALU_AND, H_R11, RFLAGS_STATUS & 0xff);
	asm_alu_imm32(c, ALU_AND, H_S1, 1);
	asm_shift(c, false, 4, H_S1, 11);
	asm_rr(c, false, 0x0b, H_R11, H_S1);
	asm_gs(c, false, 0x0b, H_R11, CPU(sysflags));
}

/* RFLAGS = R15d, where it has nothing that asks for more. */
static void set_flags(struct xlate *x)
{
	asm_rr(&x->c, false, 0x8b, H_S0, H_S1);
	asm_alu_imm32(&x->c, ALU_AND, H_S0, ~(u32)RFLAGS_STATUS);
	asm_alu_imm32(&x->c, ALU_OR, H_S0, RFLAGS_FIXED);
	asm_store_gs32(&x->c, H_S0, CPU(sysflags));
	x_save_image(x);
}

static void system_call(struct xlate *x, unsigned k)
{
	struct cursor *c = &x->c;

	x_flags_clobber(x, RFLAGS_STATUS);
	leave_unless_ready(x, k);
	flags_to_r11(x);
	x_load_rip(x, H_RCX, x_end_of(x, k));
	asm_load_gs32(c, H_S1, CPU(sfmask));
	asm_bytes(c, "\x41\xf7\xd7", 3); /* not r15d */
	asm_rr(c, false, 0x23, H_S1, H_R11);
	set_flags(x);
	copy_segment(x, SEG_CS, AREA(call_cs));
	copy_segment(x, SEG_SS, AREA(call_ss));
	change_level(x, 0, PRIV_SUPER);
	asm_load_gs(c, H_S0, CPU(lstar));
	x_go_to_target(x);
}

/* ---- SYSRET ---- */

/* To 64-bit code at a canonical address, with flags that change no mode. */
static void leave_unless_plain(struct xlate *x, unsigned k)
{
	struct cursor *c = &x->c;
	u8 *closed;

	leave_unless_ready(x, k);
	asm_rr(c, false, 0x8b, H_S0, H_R11);
	asm_alu_imm32(c, ALU_AND, H_S0, ~SYSRET_PLAIN);
	x_leave_if(x, k, CC_NE);
	asm_mov_rr(c, H_S0, H_RCX);
	asm_shift(c, true, 4, H_S0, 16);
	asm_shift(c, true, 7, H_S0, 16);
	asm_rr(c, true, 0x3b, H_S0, H_RCX);
	x_leave_if(x, k, CC_NE);
	asm_bytes(c, "\x41\xf7\xc3", 3); /* test r11d, */
	asm_32(c, RFLAGS_IF);
	closed = asm_jcc(c, CC_E);
	asm_gs_digit(c, 0x80, ALU_CMP, CPU(irq_wait));
	asm_8(c, 0);
	x_leave_if(x, k, CC_NE);
	asm_patch(c, closed);
}

/* AMD leaves the hidden part of SS as it is. */
static void user_stack_segment(struct xlate *x)
{
	struct cursor *c = &x->c;

	if (!x->cpu->amd) {
		copy_segment(x, SEG_SS, AREA(ret_ss));
		return;
	}
	asm_load_gs32(c, H_S1, AREA(ret_ss.selector));
	asm_8(c, 0x66);
	asm_store_gs32(c, H_S1, SEG_FIELD(SEG_SS, selector));
	asm_8(c, 0x66);
	asm_gs_digit(c, 0x81, ALU_OR, SEG_FIELD(SEG_SS, attr));
	asm_8(c, SEG_ATTR_DPL);
	asm_8(c, 0);
}

static void system_return(struct xlate *x, unsigned k)
{
	struct cursor *c = &x->c;

	x_flags_clobber(x, x->live[k]);
	leave_unless_plain(x, k);
	asm_rr(c, false, 0x8b, H_S1, H_R11);
	set_flags(x);
	copy_segment(x, SEG_CS, AREA(ret_cs));
	user_stack_segment(x);
	change_level(x, 3, PRIV_USER);
	asm_mov_rr(c, H_S0, H_RCX);
	x_go_to_target(x);
}

bool x_can_transfer(u32 key, const struct insn *in)
{
	if (bt_word(in) == 4)
		return false;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
		return key & KEY_USER;
	case ZYDIS_MNEMONIC_SYSRET:
		return !(key & (KEY_USER | KEY_MIDDLE)) &&
		       in->z.attributes & ZYDIS_ATTRIB_HAS_REX &&
		       in->z.raw.rex.W;
	default:
		return false;
	}
}

bool x_transfer(struct xlate *x, unsigned k)
{
	switch (x->insn[k].z.mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
		system_call(x, k);
		return true;
	case ZYDIS_MNEMONIC_SYSRET:
		system_return(x, k);
		return true;
	default:
		return false;
	}
}
