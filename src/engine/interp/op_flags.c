/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_flags.c - instructions that only set or read flags.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

static struct block *op_clc(struct icpu *cpu, struct iop *op)
{
	cpu->flags &= (u16)~FL_CF;
	NEXT;
}
static struct block *op_stc(struct icpu *cpu, struct iop *op)
{
	cpu->flags |= FL_CF;
	NEXT;
}
static struct block *op_cmc(struct icpu *cpu, struct iop *op)
{
	cpu->flags ^= FL_CF;
	NEXT;
}
static struct block *op_cld(struct icpu *cpu, struct iop *op)
{
	cpu->sysflags &= ~(u32)RFLAGS_DF;
	NEXT;
}
static struct block *op_std(struct icpu *cpu, struct iop *op)
{
	cpu->sysflags |= RFLAGS_DF;
	NEXT;
}

bool build_flag(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_CLC:
		op->fn = op_clc;
		break;
	case ZYDIS_MNEMONIC_STC:
		op->fn = op_stc;
		break;
	case ZYDIS_MNEMONIC_CMC:
		op->fn = op_cmc;
		break;
	case ZYDIS_MNEMONIC_CLD:
		op->fn = op_cld;
		break;
	default:
		op->fn = op_std;
		break;
	}
	return true;
}

/* PVI and VME let CPL 3 work on VIF instead: SDM vol. 2 CLI, STI. */
static bool virtual_if(const struct icpu *cpu)
{
	if (!icpu_protected(cpu) || icpu_iopl(cpu) >= cpu->cpl)
		return false;
	return icpu_v86(cpu) ? cpu->cr4 & CR4_VME
	                     : cpu->cpl == 3 && cpu->cr4 & CR4_PVI;
}

static bool may_change_if(const struct icpu *cpu)
{
	return !icpu_protected(cpu) || cpu->cpl <= icpu_iopl(cpu);
}

static struct block *op_cli(struct icpu *cpu, struct iop *op)
{
	if (likely(may_change_if(cpu))) {
		cpu->sysflags &= ~(u32)RFLAGS_IF;
	} else if (virtual_if(cpu)) {
		cpu->sysflags &= ~(u32)RFLAGS_VIF;
	} else {
		ENTER;
		icpu_gp(cpu);
	}
	NEXT;
}

/*
 * The instruction after STI runs before any interrupt. Interrupts come between
 * blocks only, so it is enough to have it in the same block; op->aux says that
 * it is not.
 */
static struct block *op_sti(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (may_change_if(cpu)) {
		if (!(cpu->sysflags & RFLAGS_IF)) {
			cpu->sysflags |= RFLAGS_IF;
			cpu->shadow = op->aux;
			icpu_update(cpu);
		}
	} else if (virtual_if(cpu) && !(cpu->sysflags & RFLAGS_VIP)) {
		cpu->sysflags |= RFLAGS_VIF;
	} else {
		icpu_gp(cpu);
	}
	if (op->aux)
		LEAVE;
	NEXT;
}

bool build_clisti(struct build *b, struct iop *op)
{
	if (b->insn->z.mnemonic == ZYDIS_MNEMONIC_CLI) {
		op->fn = op_cli;
		return true;
	}
	op->fn = op_sti;
	op->aux = 1;
	b->shadow = op;
	b->max = MIN(b->max, b->count + 2);
	return true;
}

static struct block *op_ac(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (cpu->cpl || icpu_real_or_v86(cpu))
		icpu_ud(cpu);
	if (op->aux) {
		cpu->sysflags |= RFLAGS_AC;
		cpu->priv = PRIV_AC;
	} else {
		cpu->sysflags &= ~(u32)RFLAGS_AC;
		cpu->priv = PRIV_SUPER;
	}
	cpu->tlb = cpu->space->data[cpu->priv];
	NEXT;
}

bool build_acflag(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_STAC;
	op->fn = op_ac;
	return true;
}

static struct block *op_lahf(struct icpu *cpu, struct iop *op)
{
	REG8(GPR_OFF(GPR_RAX) + 1) = (u8)(flags_to_rflags(cpu->flags) | 2);
	NEXT;
}
static struct block *op_sahf(struct icpu *cpu, struct iop *op)
{
	u64 fl = REG8(GPR_OFF(GPR_RAX) + 1) & 0xd5;

	cpu->flags = (u16)(fl << 8 | (cpu->flags & FL_OF));
	NEXT;
}

bool build_lahf(struct build *b, struct iop *op)
{
	op->fn = b->insn->z.mnemonic == ZYDIS_MNEMONIC_LAHF ? op_lahf : op_sahf;
	return true;
}

static struct block *op_salc(struct icpu *cpu, struct iop *op)
{
	REG8(GPR_OFF(GPR_RAX)) = cpu->flags & FL_CF ? 0xff : 0;
	NEXT;
}

bool build_salc(struct build *b, struct iop *op)
{
	(void)b;
	op->fn = op_salc;
	return true;
}
