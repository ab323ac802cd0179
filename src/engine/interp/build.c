/* SPDX-License-Identifier: Apache-2.0 */
/*
 * build.c - from bytes to operations.
 */
#include <string.h>

#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

static build_fn *const builders[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN(mnemonic, class, feature)                                         \
	[ZYDIS_MNEMONIC_##mnemonic] = build_##class,
#include "engine/x86/isa.def"
};

static enum insn_mode mode_of(u32 key)
{
	return key & KEY_CODE64   ? INSN_64
	       : key & KEY_CODE32 ? INSN_32
	       : key & KEY_REAL   ? INSN_REAL16
	                          : INSN_16;
}

u16 build_reg(const struct build *b, unsigned i)
{
	const struct insn_operand *o = &b->insn->op[i];

	return (u16)(GPR_OFF(o->reg) + o->high);
}

u64 build_ip_mask(const struct build *b)
{
	return b->insn->opsize == 2  ? 0xffff
	       : b->key & KEY_CODE64 ? ~(u64)0
	                             : 0xffffffff;
}

void build_segment(struct build *b, struct iop *op, unsigned seg)
{
	op->seg = (u8)seg;
	op->segbase = offsetof(struct icpu, zero);
	op->check = (b->key & KEY_ALIGN) != 0;
	if (b->key & KEY_CODE64) {
		if (seg >= SEG_FS)
			op->segbase = (u16)(offsetof(struct icpu, seg) +
			                    seg * sizeof(struct cpu_segment) +
			                    offsetof(struct cpu_segment, base));
	} else if (seg >= SEG_FS || seg == SEG_CS ||
	           !(b->key & (u32)KEY_FLAT_ES << seg)) {
		op->check = 1;
	}
}

unsigned build_override(const struct build *b)
{
	const ZydisDecodedInstructionRaw *raw = &b->insn->z.raw;
	bool wide = b->key & KEY_CODE64;
	unsigned seg = SEG_DS;

	/* The last one counts; 64-bit code knows FS and GS only. */
	for (unsigned i = 0; i < raw->prefix_count; i++)
		switch (raw->prefixes[i].value) {
		case 0x26:
			seg = wide ? seg : SEG_ES;
			break;
		case 0x2e:
			seg = wide ? seg : SEG_CS;
			break;
		case 0x36:
			seg = wide ? seg : SEG_SS;
			break;
		case 0x3e:
			seg = wide ? seg : SEG_DS;
			break;
		case 0x64:
			seg = SEG_FS;
			break;
		case 0x65:
			seg = SEG_GS;
			break;
		default:
			break;
		}
	return seg;
}

static u16 address_reg(u8 reg)
{
	return reg == INSN_NO_REG ? offsetof(struct icpu, zero)
	       : reg == INSN_RIP  ? offsetof(struct icpu, pcbase)
	                          : GPR_OFF(reg);
}

void build_address(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;

	op->base = address_reg(i->mem.base);
	op->index = address_reg(i->mem.index);
	op->shift = i->mem.shift;
	op->disp = i->mem.disp;
	if (i->mem.base == INSN_RIP)
		op->disp += op->off + op->len;
	op->amask = size_mask(i->asize);
	build_segment(b, op, i->mem.seg);
}

/* F0 where it may not be: SDM vol. 2 LOCK. Zydis refuses most itself. */
static bool build_one(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	build_fn *fn = builders[i->z.mnemonic];

	if (!insn_allowed(b->cpu->cpuid, i))
		return false;
	/* PREFETCH of a register: no NOP to AMD's processors. */
	if (b->cpu->amd && i->z.mnemonic == ZYDIS_MNEMONIC_NOP &&
	    i->z.opcode == 0x0d && i->z.opcode_map == ZYDIS_OPCODE_MAP_0F)
		return false;
	if (fn)
		return fn(b, op);
	return build_host(b, op);
}

static void end_with(struct build *b, struct iop *op, iop_fn *fn)
{
	op->fn = fn;
	b->ended = true;
}

enum insn_status icpu_decode(struct icpu *cpu, u32 key, const u8 *bytes,
                             size_t n, struct insn *out)
{
	return insn_decode(cpu->sys->decoder, mode_of(key), bytes, n, out);
}

/* Does the block end with what was just added? */
static bool is_last(const struct build *b)
{
	const struct icpu_code_ops *ops = b->cpu->code_ops;

	if (b->ended)
		return true;
	if (b->brief && b->insn->z.meta.category == ZYDIS_CATEGORY_COND_BR)
		return true;
	return ops && ops->splits(b->cpu, b->key, b->insn);
}

/* Returns false when the block ends before this instruction, or with it. */
static bool add_instruction(struct build *b, size_t *at)
{
	struct iop *op = &b->op[b->ops];
	enum insn_status st;

	st = icpu_decode(b->cpu, b->key, b->bytes + *at, b->avail - *at,
	                 b->insn);
	if (st == INSN_TRUNCATED) {
		b->truncated = b->count == 0;
		return false;
	}
	memset(op, 0, sizeof(*op));
	op->off = (u16)(b->off + *at);
	op->n = (u8)b->count;
	op->seg = 0xff;
	if (st == INSN_OK) {
		op->len = b->insn->length;
		op->opsize = b->insn->opsize;
		if (!build_one(b, op))
			end_with(b, op, op_undefined);
	} else {
		end_with(b, op,
		         st == INSN_TOO_LONG ? op_too_long : op_undefined);
		/* All that it was judged by. */
		op->len = (u8)MIN(b->avail - *at, (size_t)15);
	}
	if (b->shadow && b->shadow != op) {
		b->shadow->aux = 0;
		b->shadow = NULL;
	}
	b->ops++;
	b->count++;
	*at += op->len;
	return !is_last(b);
}

void build_block(struct build *b)
{
	struct insn insn;
	size_t at = 0;

	b->insn = &insn;
	b->ops = b->count = 0;
	b->ended = b->truncated = false;
	b->shadow = NULL;
	while (b->count < b->max && at < b->avail && add_instruction(b, &at))
		;
	if (b->count == 0)
		b->truncated = true;
	if (b->truncated)
		return;
	if (!b->ended) {
		struct iop *op = &b->op[b->ops++];

		memset(op, 0, sizeof(*op));
		op->fn = op_end;
		op->off = (u16)(b->off + at);
		op->n = (u8)b->count;
		op->aux = b->off + at < PAGE_SIZE && b->max > 1;
		op->seg = 0xff;
	}
	b->len = (u16)at;
}
