/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop_alone.c - the host-run instructions without an engine around them.
 *
 * Tells an error of hostop.c from one of the engine: addresses are computed
 * here, in the plainest way, and what is no hostop is left out.
 */
#include <string.h>

#include "engine/interp/fpu.h"
#include "engine/interp/hostop.h"
#include "tests/isa/isa.h"

static u64 reg_value(const struct isa_state *s, ZydisRegister reg, u64 next)
{
	ZydisRegister whole;

	if (reg == ZYDIS_REGISTER_NONE)
		return 0;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return next;
	whole =
	    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
	return s->gpr[whole - ZYDIS_REGISTER_RAX];
}

static u64 address_of(const struct isa_state *s,
                      const ZydisDecodedInstruction *insn,
                      const ZydisDecodedOperand *op, u64 next)
{
	u64 a = reg_value(s, op->mem.base, next) +
	        reg_value(s, op->mem.index, 0) * op->mem.scale +
	        (u64)op->mem.disp.value;

	if (insn->address_width == 32)
		a = (u32)a;
	else if (insn->address_width == 16)
		a = (u16)a;
	return a;
}

static u16 pack_flags(u64 rflags)
{
	return (u16)((rflags & 0xff) << 8 | ((rflags & RFLAGS_OF) != 0));
}

static u64 unpack_flags(u64 rflags, u16 packed)
{
	rflags &= ~(u64)RFLAGS_STATUS;
	rflags |= packed >> 8 & RFLAGS_STATUS;
	return rflags | (packed & 1 ? RFLAGS_OF : 0);
}

/* false: not for us (no hostop, or memory that faults). */
static bool run_one(struct hostop_pool *pool, const ZydisDecoder *decoder,
                    const u8 *bytes, size_t n, u8 *data, struct isa_state *s)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	_Alignas(64) u8 buf[128];
	struct hostop_regs regs = { .gpr = s->gpr, .xsave = s->xsave };
	u16 flags = pack_flags(s->rflags);
	const struct hostop *op;
	const struct hostop_info *info;
	ZydisRegister segment = ZYDIS_REGISTER_NONE;
	u64 address = 0, linear, at = 0;
	size_t i;
	bool full;

	if (!ZYAN_SUCCESS(
		ZydisDecoderDecodeFull(decoder, bytes, n, &insn, ops)))
		return false;
	op = hostop_build(pool, &insn, ops, bytes, &full);
	if (full) {
		hostop_pool_flush(pool);
		op = hostop_build(pool, &insn, ops, bytes, &full);
	}
	if (!op)
		return false;
	info = hostop_info(op);
	for (i = 0; i < insn.operand_count && info->mem_size; i++) {
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			segment = ops[i].mem.segment;
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			address =
			    address_of(s, &insn, &ops[i], s->rip + insn.length);
	}
	linear = address;
	if (info->mem_size) {
		if (segment == ZYDIS_REGISTER_GS)
			linear += s->gs_base;
		at = linear - ISA_DATA;
		if (at >= ISA_DATA_WRITABLE ||
		    at + info->mem_size > ISA_DATA_WRITABLE ||
		    (info->alignment && at % info->alignment) ||
		    (s->rflags & RFLAGS_AC) || segment == ZYDIS_REGISTER_CS)
			return false;
		memcpy(buf, data + at, info->mem_size);
	}
	regs.flags = &flags;
	switch (hostop_run(op, &regs, buf)) {
	case HOSTOP_OK:
		break;
	case HOSTOP_SIMD_FAULT:
		s->vector = VEC_XM;
		s->rflags |= RFLAGS_RF;
		return true;
	case HOSTOP_X87_FAULT:
		s->vector = VEC_MF;
		s->rflags |= RFLAGS_RF;
		return true;
	case HOSTOP_UD:
		s->vector = VEC_UD;
		s->rflags |= RFLAGS_RF;
		return true;
	}
	if (info->mem_write)
		memcpy(data + at, buf, info->mem_size);
	if (info->x87_fip) {
		fpu_record(s->xsave, s->rip,
		           (u16)((insn.opcode & 7) << 8 |
		                 insn.raw.modrm.mod << 6 |
		                 insn.raw.modrm.reg << 3 | insn.raw.modrm.rm));
		fpu_record_data(s->xsave, info->mem_size ? address : 0);
	}
	s->rflags = unpack_flags(s->rflags, flags);
	s->rip += insn.length;
	return true;
}

bool isa_hostop_run(struct hostop_pool *pool, const struct isa_forms *forms,
                    const struct isa_snippet *snippet, u8 *data,
                    const struct isa_state *in, struct isa_state *out)
{
	u64 end = snippet->start + snippet->length;

	*out = *in;
	out->vector = ISA_NO_VECTOR;
	while (out->rip < end && out->vector == ISA_NO_VECTOR) {
		u64 at = out->rip - snippet->start;

		if (!run_one(pool, &forms->decoder[snippet->mode32],
		             snippet->bytes + at, snippet->length - at, data,
		             out))
			return false;
	}
	return true;
}
