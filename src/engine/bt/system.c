/* SPDX-License-Identifier: Apache-2.0 */
/*
 * system.c - what kernels do all day, in host code: flags, time, bases, and
 * bits of bitmaps.
 *
 * Whatever is rare about these - an interrupt that waits for IF, a flag that
 * changes how code is run, a feature that is off - leaves the instruction to
 * the interpreter, which then finds nothing done.
 */
#include "engine/bt/helper.h"
#include "engine/bt/xlate.h"
#include "engine/x86/segment.h"

enum { TSC_BITS = 32 };

/* POPF in CPL 0 and 3 may change these; all but IF change more than flags. */
#define POPF_RARE                                                              \
	((u32)(RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID |     \
	       RFLAGS_IOPL))

/* ---- pieces ---- */

void x_leave_if(struct xlate *x, unsigned k, unsigned cc)
{
	struct cold *cold = &x->cold[x->colds++];

	cold->jump = asm_jcc(&x->c, cc);
	cold->kind = COLD_MISS;
	cold->flags = (u8)x->at;
	cold->lag = (s16)x->lag;
	cold->insn = (u16)k;
}

void x_callout_if(struct xlate *x, unsigned k, unsigned cc)
{
	x_leave_if(x, k, cc);
	if (!x->bt->lockstep)
		x->cold[x->colds - 1].kind = COLD_CALLOUT;
}

/* The guest's register = host's, 4 bytes (zero-extended), 8, or 2. */
static void write_gpr(struct xlate *x, unsigned gpr, unsigned host,
                      unsigned size)
{
	if (size == 2) {
		asm_8(&x->c, 0x66);
		if (x_in_memory(gpr))
			asm_store_gs32(&x->c, host, GPR(gpr));
		else
			asm_rr(&x->c, false, 0x8b, x_home(gpr), host);
		return;
	}
	if (size == 4)
		asm_rr(&x->c, false, 0x8b, host, host);
	if (x_in_memory(gpr))
		asm_store_gs(&x->c, host, GPR(gpr));
	else
		asm_mov_rr(&x->c, x_home(gpr), host);
}

static void leave_unless_cr4(struct xlate *x, unsigned k, u32 bit, bool set)
{
	asm_gs_imm32(&x->c, 0xf7, 0, CPU(cr4), bit);
	x_leave_if(x, k, set ? CC_E : CC_NE);
}

/* ---- flags ---- */

static void pushf(struct xlate *x, unsigned k)
{
	struct access a = x_stack_access(x, x->pos[GPR_RSP] - x_word(x), true);
	struct cursor *c = &x->c;
	struct where at;

	x_flags_need(x);
	asm_bytes(c, "\x9c\x41\x5f", 3); /* pushfq; pop r15 */
	asm_store_gs32(c, H_S1, AREA(value));
	x_flags_clobber(x, RFLAGS_STATUS);
	at = x_reach(x, k, &a, SLOT_STACK_WRITE);
	asm_load_gs32(c, H_S1, AREA(value));
	asm_alu_imm32(&x->c, ALU_AND, H_S1, RFLAGS_STATUS);
	asm_gs(c, false, 0x0b, H_S1, CPU(sysflags)); /* or */
	x_memory(x, x->wide, 0x89, H_S1, at);
	x_move_rsp(x, -x_word(x));
}

void x_save_image(struct xlate *x)
{
	struct cursor *c = &x->c;

	asm_mov_rr(c, H_S0, H_S1);
	asm_shift(&x->c, false, 4, H_S0, 8);
	asm_alu_imm32(&x->c, ALU_AND, H_S0, 0xd500);
	asm_shift(&x->c, false, 5, H_S1, 11); /* OF */
	asm_alu_imm32(&x->c, ALU_AND, H_S1, 1);
	asm_rr(c, false, 0x0b, H_S1, H_S0);
	asm_8(c, 0x66);
	asm_store_gs32(c, H_S1, CPU(flags));
	x->at = FLAGS_SAVED;
}

static void popf(struct xlate *x, unsigned k)
{
	bool user = x->block->key & KEY_USER;
	struct access a = x_stack_access(x, x->pos[GPR_RSP], false);
	struct cursor *c = &x->c;
	struct where at;
	u8 *closed;

	x_flags_clobber(x, x->live[k]);
	at = x_reach(x, k, &a, SLOT_STACK_READ);
	x_memory(x, x->wide, 0x8b, H_S1, at);
	asm_rr(c, false, 0x8b, H_S0, H_S1);
	asm_gs(c, false, 0x33, H_S0, CPU(sysflags)); /* xor */
	asm_bytes(c, "\x41\xf7\xc6", 3);             /* test r14d, */
	asm_32(c, POPF_RARE | (user ? RFLAGS_IF : 0));
	x_leave_if(x, k, CC_NE);
	if (!user) {
		asm_bytes(c, "\x41\xf7\xc7", 3); /* test r15d, */
		asm_32(c, RFLAGS_IF);
		closed = asm_jcc(c, CC_E);
		asm_gs_digit(&x->c, 0x80, ALU_CMP, CPU(irq_wait));
		asm_8(c, 0);
		x_leave_if(x, k, CC_NE);
		asm_patch(c, closed);
		asm_alu_imm32(&x->c, ALU_AND, H_S0, RFLAGS_IF);
		asm_gs(c, false, 0x31, H_S0, CPU(sysflags)); /* xor */
	}
	x_move_rsp(x, x_word(x));
	x_save_image(x);
}

static void cli(struct xlate *x, unsigned k)
{
	x_flags_clobber(x, x->live[k]);
	asm_gs_imm32(&x->c, 0x81, ALU_AND, CPU(sysflags), ~(u32)RFLAGS_IF);
}

/*
 * The next instruction is in this block, and attention is paid at its end at
 * the soonest: that is the shadow.
 */
static void sti(struct xlate *x, unsigned k)
{
	x_flags_clobber(x, x->live[k]);
	asm_gs_digit(&x->c, 0x80, ALU_CMP, CPU(irq_wait));
	asm_8(&x->c, 0);
	x_leave_if(x, k, CC_NE);
	asm_gs_imm32(&x->c, 0x81, ALU_OR, CPU(sysflags), RFLAGS_IF);
}

static void direction(struct xlate *x, unsigned k)
{
	x_flags_clobber(x, x->live[k]);
	if (x->insn[k].z.mnemonic == ZYDIS_MNEMONIC_STD)
		asm_gs_imm32(&x->c, 0x81, ALU_OR, CPU(sysflags), RFLAGS_DF);
	else
		asm_gs_imm32(&x->c, 0x81, ALU_AND, CPU(sysflags),
		             ~(u32)RFLAGS_DF);
}

void x_set_priv(struct xlate *x, unsigned priv)
{
	struct cursor *c = &x->c;

	asm_gs_digit(c, 0xc6, 0, CPU(priv)); /* mov byte */
	asm_8(c, (u8)priv);
	asm_load_gs(c, H_S1, CPU(space));
	asm_lea(c, true, H_S1, H_S1, NO_REG, 0,
	        (s32)(offsetof(struct tlb_space, data) +
	              priv * sizeof(((struct tlb_space *)0)->data[0])));
	asm_store_gs(c, H_S1, CPU(tlb));
}

/*
 * SMAP off and on. What the slots hold is good for both: while AC is set
 * nothing is put into them (stubs.c).
 */
static void access_flag(struct xlate *x, unsigned k)
{
	bool set = x->insn[k].z.mnemonic == ZYDIS_MNEMONIC_STAC;
	unsigned priv = set ? PRIV_AC : PRIV_SUPER;

	x_flags_clobber(x, x->live[k]);
	if (set)
		asm_gs_imm32(&x->c, 0x81, ALU_OR, CPU(sysflags), RFLAGS_AC);
	else
		asm_gs_imm32(&x->c, 0x81, ALU_AND, CPU(sysflags),
		             ~(u32)RFLAGS_AC);
	x_set_priv(x, priv);
}

/* ---- time ---- */

static void rdtsc(struct xlate *x, unsigned k)
{
	struct cursor *c = &x->c;
	bool p = x->insn[k].z.mnemonic == ZYDIS_MNEMONIC_RDTSCP;

	x_flags_clobber(x, x->live[k]);
	if (x->block->key & KEY_USER)
		leave_unless_cr4(x, k, CR4_TSD, false);
	if (p)
		asm_bytes(c, "\x0f\x01\xf9", 3);
	else
		asm_bytes(c, "\x0f\x31", 2);
	asm_shift(&x->c, true, 4, H_RDX, TSC_BITS);
	asm_rr(c, true, 0x0b, H_RAX, H_RDX);           /* or rax, rdx */
	asm_gs(c, true, 0x03, H_RAX, CPU(tsc_offset)); /* add */
	asm_mov_rr(c, H_RDX, H_RAX);
	asm_shift(&x->c, true, 5, H_RDX, TSC_BITS);
	asm_rr(c, false, 0x8b, H_RAX, H_RAX);
	if (p)
		asm_load_gs32(c, H_RCX, CPU(tsc_aux));
}

/* ---- registers of the system ---- */

static void swapgs(struct xlate *x)
{
	struct cursor *c = &x->c;

	asm_load_gs(c, H_S0, SEG_FIELD(SEG_GS, base));
	asm_load_gs(c, H_S1, CPU(kernel_gs_base));
	asm_store_gs(c, H_S0, CPU(kernel_gs_base));
	asm_store_gs(c, H_S1, SEG_FIELD(SEG_GS, base));
}

static u32 base_of(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_WRFSBASE
	           ? SEG_FIELD(SEG_FS, base)
	           : SEG_FIELD(SEG_GS, base);
}

static void read_base(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];

	x_flags_clobber(x, x->live[k]);
	leave_unless_cr4(x, k, CR4_FSGSBASE, true);
	asm_load_gs(&x->c, H_S1, base_of(x->insn[k].z.mnemonic));
	write_gpr(x, op->reg, H_S1, op->size);
}

static void write_base(struct xlate *x, unsigned k)
{
	const struct insn_operand *op = &x->insn[k].op[0];
	struct cursor *c = &x->c;

	x_flags_clobber(x, x->live[k]);
	leave_unless_cr4(x, k, CR4_FSGSBASE, true);
	asm_rr(c, op->size == 8, 0x8b, H_S1, x_read_gpr(x, op->reg, H_S1));
	asm_mov_rr(c, H_S0, H_S1);
	asm_shift(&x->c, true, 4, H_S0, 16);
	asm_shift(&x->c, true, 7, H_S0, 16);
	asm_rr(c, true, 0x3b, H_S0, H_S1);
	x_leave_if(x, k, CC_NE); /* not canonical */
	asm_store_gs(c, H_S1, base_of(x->insn[k].z.mnemonic));
}

static u32 control_field(unsigned cr)
{
	return cr == 0   ? CPU(cr0)
	       : cr == 2 ? CPU(cr2)
	       : cr == 3 ? CPU(cr3)
	                 : CPU(cr4);
}

/* MOV from a control or segment register. */
static void move_from(struct xlate *x, unsigned k)
{
	const struct insn_operand *to = &x->insn[k].op[0];
	const struct insn_operand *from = &x->insn[k].op[1];
	struct cursor *c = &x->c;
	struct where at = { 0 };

	if (to->kind == OPERAND_MEM)
		at = x_reach_operand(x, k);
	if (from->kind == OPERAND_CR) {
		asm_load_gs(c, H_S1, control_field(from->reg));
	} else {
		/* movzx r15d, word gs: */
		asm_bytes(c, "\x65\x44\x0f\xb7\x3c\x25", 6);
		asm_32(c, SEG_FIELD(from->reg, selector));
	}
	if (to->kind == OPERAND_MEM) {
		asm_8(c, 0x66);
		x_memory(x, false, 0x89, H_S1, at);
	} else {
		write_gpr(x, to->reg, H_S1,
		          to->size == 2 ? 2 : (unsigned)x_word(x));
	}
}

/*
 * VERW of a selector that the operating system may write through: kernels do
 * it on every way out, for what it does to buffers besides.
 */
static void verw(struct xlate *x, unsigned k)
{
	enum {
		WRITABLE = SEG_ATTR_S << 8 | TYPE_RW << 8,
		CODE = TYPE_CODE << 8,
	};
	const struct insn_operand *op = &x->insn[k].op[0];
	struct cursor *c = &x->c;
	struct where at;

	x_flags_clobber(x, x->live[k]);
	if (op->kind == OPERAND_MEM) {
		at = x_reach_operand(x, k);
		asm_8(c, 0x66);
		x_memory(x, false, 0x8b, H_S1, at);
	} else {
		asm_rr(c, false, 0x8b, H_S1, x_read_gpr(x, op->reg, H_S1));
	}
	asm_bytes(c, "\x45\x0f\xb7\xff", 4); /* movzx r15d, r15w */
	/* In the GDT, of ring 0, not null, and within the limit: in r14d what
	 * is wrong. */
	asm_lea(c, false, H_S0, H_S1, NO_REG, 0, -8);
	asm_alu_imm32(c, ALU_AND, H_S0, 0xffff0007);
	x_leave_if(x, k, CC_NE);
	asm_lea(c, false, H_S0, H_S1, NO_REG, 0, 7);
	asm_8(c, 0x66);
	asm_gs(c, false, 0x3b, H_S0, CPU(gdtr.limit));
	x_leave_if(x, k, CC_A);
	asm_load_gs(c, H_S0, CPU(gdtr.base));
	asm_rr(c, true, 0x03, H_S0, H_S1);
	x_reach_at(x, k, 8, false);
	asm_rm(c, false, 0x8b, H_S1, H_S0, 4);
	asm_alu_imm32(c, ALU_AND, H_S1, WRITABLE | CODE);
	asm_alu_imm32(c, ALU_CMP, H_S1, WRITABLE);
	x_leave_if(x, k, CC_NE);
	asm_8(c, 0x66);
	asm_gs_digit(c, 0x81, ALU_OR, CPU(flags));
	asm_bytes(c, "\x00\x40", 2); /* ZF */
	x->at = FLAGS_SAVED;
}

/* ---- bitmaps: the bit's number reaches beyond the operand ---- */

static void bit_string(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];
	const struct insn_operand *number = &in->op[1];
	struct cursor *c = &x->c;
	unsigned size = number->size;

	x_flags_clobber(x, x->live[k]);
	x_address(x, k);
	/* mov, or movsxd from 32 bits */
	asm_rr(c, true, size == 8 ? 0x8b : 0x63, H_S1,
	       x_read_gpr(x, number->reg, H_S1));
	asm_shift(&x->c, true, 7, H_S1, size == 8 ? 6 : 5);
	asm_lea(c, x->wide, H_S0, H_S0, H_S1, size == 8 ? 3 : 2, 0);
	asm_rr(c, false, 0x8b, H_S1, x_read_gpr(x, number->reg, H_S1));
	asm_alu_imm32(&x->c, ALU_AND, H_S1, size * 8 - 1);
	asm_store_gs(c, H_S1, AREA(value));
	x_reach_at(x, k, size, in->z.mnemonic != ZYDIS_MNEMONIC_BT);
	if (x->live[k + 1] & ~x_flags_killed(x, in))
		x_flags_need(x);
	asm_load_gs(c, H_S1, AREA(value));
	if (in->lock)
		asm_8(c, 0xf0);
	asm_rex(c, size == 8, H_S1, 0, H_S0);
	asm_8(c, 0x0f);
	asm_8(c, in->z.opcode);
	asm_8(c, (H_S1 & 7) << 3 | (H_S0 & 7));
	x->at = FLAGS_HOST;
}

/* ---- which, and when ---- */

static bool is_bit_string(const struct insn *in)
{
	/* How far it reaches is not known, nor if a segment holds that. */
	if (bt_word(in) == 4 && in->mem.seg >= SEG_FS)
		return false;
	return in->op[0].kind == OPERAND_MEM && in->op[1].kind == OPERAND_GPR &&
	       in->asize == bt_word(in) && in->op[1].size >= 4 &&
	       in->mem.seg != SEG_CS;
}

static bool can_move_from(const struct insn *in, bool kernel)
{
	const struct insn_operand *from = &in->op[1];

	if (from->kind == OPERAND_SEG && in->op[0].kind == OPERAND_MEM)
		return in->asize == bt_word(in) && in->mem.seg != SEG_CS;
	if (in->op[0].kind != OPERAND_GPR || in->op[0].size < 2)
		return false;
	if (from->kind == OPERAND_CR)
		return kernel && in->op[0].size == bt_word(in) &&
		       from->reg <= 4 && from->reg != 1;
	return from->kind == OPERAND_SEG;
}

/* Without the interpreter. */
static bool can_alone(u32 key, const struct insn *in)
{
	bool user = key & KEY_USER;
	bool kernel = !user && !(key & KEY_MIDDLE);

	if (bt_can_string(in))
		return true;
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
		return true;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPFD:
		return user || kernel;
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_SWAPGS:
		return kernel;
	case ZYDIS_MNEMONIC_VERW:
		return kernel &&
		       (in->op[0].kind == OPERAND_GPR ||
		        (in->asize == bt_word(in) && in->mem.seg != SEG_CS));
	case ZYDIS_MNEMONIC_MOV:
		return can_move_from(in, kernel);
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		return is_bit_string(in);
	default:
		return x_can_transfer(key, in);
	}
}

bool bt_can_system(u32 key, const struct insn *in)
{
	return can_alone(key, in) || bt_can_callout(key, in);
}

bool x_can_system(const struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];
	u32 key = x->block->key;

	/* An STI's shadow has to be covered. */
	if (in->z.mnemonic == ZYDIS_MNEMONIC_STI && k + 1 == x->total)
		return false;
	/* What is compared, and with what, is one block of host code. */
	return insn_allowed(x->cpu->cpuid, in) &&
	       (can_alone(key, in) ||
	        (!x->bt->lockstep && bt_can_callout(key, in)));
}

bool x_system(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];

	if (!bt_can_system(x->block->key, in))
		return false;
	x_lose_spans(x);
	if (!can_alone(x->block->key, in)) {
		x_callout(x, k);
		return true;
	}
	if (x_transfer(x, k))
		return true;
	if (bt_can_string(in)) {
		x_string(x, k);
		return true;
	}
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
		pushf(x, k);
		break;
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_POPFD:
		popf(x, k);
		break;
	case ZYDIS_MNEMONIC_CLI:
		cli(x, k);
		break;
	case ZYDIS_MNEMONIC_STI:
		sti(x, k);
		break;
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		direction(x, k);
		break;
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
		access_flag(x, k);
		break;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		rdtsc(x, k);
		break;
	case ZYDIS_MNEMONIC_SWAPGS:
		swapgs(x);
		break;
	case ZYDIS_MNEMONIC_VERW:
		verw(x, k);
		break;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
		read_base(x, k);
		break;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		write_base(x, k);
		break;
	case ZYDIS_MNEMONIC_MOV:
		move_from(x, k);
		break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		bit_string(x, k);
		break;
	default: /* PREFETCH: a hint */
		break;
	}
	return true;
}
