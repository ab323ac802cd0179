/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_keys.c - RDPKRU and WRPKRU, at any privilege.
 */
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"
#include "engine/x86/keys.h"

static void check(struct icpu *cpu)
{
	if (!(cpu->cr4 & CR4_PKE))
		icpu_ud(cpu);
	if ((u32)cpu->gpr[GPR_RCX])
		icpu_gp(cpu);
}

static struct block *op_rdpkru(struct icpu *cpu, struct iop *op)
{
	ENTER;
	check(cpu);
	cpu->gpr[GPR_RAX] = cpu->pkru;
	cpu->gpr[GPR_RDX] = 0;
	NEXT;
}

static struct block *op_wrpkru(struct icpu *cpu, struct iop *op)
{
	ENTER;
	check(cpu);
	if ((u32)cpu->gpr[GPR_RDX])
		icpu_gp(cpu);
	keys_set_user(cpu, (u32)cpu->gpr[GPR_RAX]);
	NEXT;
}

bool build_pkru(struct build *b, struct iop *op)
{
	op->fn = b->insn->z.mnemonic == ZYDIS_MNEMONIC_RDPKRU ? op_rdpkru
	                                                      : op_wrpkru;
	return true;
}
