/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_xsave.c - the XSAVE family: SDM vol. 1 ch. 13.
 */
#include <string.h>

#include "engine/interp/fpu.h"
#include "engine/interp/ops.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/decode.h"
#include "engine/x86/keys.h"

static void check(struct icpu *cpu, bool supervisor)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		icpu_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		icpu_fault(cpu, VEC_NM);
	if (supervisor && cpu->cpl)
		icpu_gp(cpu);
}

static u64 enabled(const struct icpu *cpu, bool supervisor)
{
	return cpu->xcr0 | (supervisor ? cpu->xss : 0);
}

static u64 requested(const struct icpu *cpu, bool supervisor)
{
	u64 mask = (u32)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;

	return mask & enabled(cpu, supervisor);
}

static struct fpu_mode mode_of(const struct icpu *cpu, const struct iop *op)
{
	return (struct fpu_mode){
		.long_mode = icpu_code64(cpu),
		.rex_w = op->opsize == 8,
		.amd = cpu->amd,
	};
}

static struct fpu_pkru pkru_of(const struct icpu *cpu)
{
	return (struct fpu_pkru){
		.value = (u32)cpu->pkru,
		.at = (u16)cpuid_pkru_offset(cpu->cpuid),
	};
}

static gva_t area_address(struct icpu *cpu, struct iop *op, size_t extent,
                          enum icpu_access access)
{
	gva_t lin = op_linear(cpu, op, (unsigned)extent, access);

	if (lin & 63)
		icpu_gp(cpu);
	return lin;
}

static struct block *op_xsave(struct icpu *cpu, struct iop *op)
{
	_Alignas(64) u8 area[FPU_AREA_MAX];
	struct fpu_pkru pkru = pkru_of(cpu);
	enum fpu_xsave_kind kind = op->aux;
	struct fpu_range ranges[FPU_RANGES];
	size_t extent, n;
	u64 rfbm;
	gva_t lin;

	ENTER;
	check(cpu, kind == FPU_XSAVES);
	rfbm = requested(cpu, kind == FPU_XSAVES);
	extent = fpu_xsave_extent(pkru, kind, rfbm);
	lin = area_address(cpu, op, extent, ACCESS_WRITE);
	icpu_probe(cpu, lin, extent, ACCESS_WRITE, cpu->priv);
	memset(area, 0, extent);
	icpu_read(cpu, lin + 512, area + 512, 8, cpu->priv);
	n = fpu_xsave(cpu->xsave, pkru, mode_of(cpu, op), kind, rfbm, area,
	              ranges);
	for (size_t i = 0; i < n; i++)
		icpu_write(cpu, lin + ranges[i].offset, area + ranges[i].offset,
		           ranges[i].size, cpu->priv);
	NEXT;
}

static struct block *op_xrstor(struct icpu *cpu, struct iop *op)
{
	_Alignas(64) u8 area[FPU_AREA_MAX];
	struct fpu_pkru pkru = pkru_of(cpu);
	struct fpu_range ranges[FPU_RANGES];
	bool supervisor = op->aux;
	size_t n;
	u64 rfbm;
	gva_t lin;

	ENTER;
	check(cpu, supervisor);
	rfbm = requested(cpu, supervisor);
	lin = area_address(cpu, op, FPU_HEADER_END, ACCESS_READ);
	icpu_read(cpu, lin, area, FPU_HEADER_END, cpu->priv);
	n = fpu_xrstor_ranges(pkru, area, rfbm, ranges);
	for (size_t i = 0; i < n; i++)
		icpu_read(cpu, lin + ranges[i].offset, area + ranges[i].offset,
		          ranges[i].size, cpu->priv);
	if (!fpu_xrstor(cpu->xsave, &pkru, mode_of(cpu, op), supervisor,
	                cpuid_has(cpu->cpuid, FEATURE_XSAVEC), rfbm,
	                enabled(cpu, supervisor), area))
		icpu_gp(cpu);
	if (pkru.value != cpu->pkru)
		keys_set_user(cpu, pkru.value);
	NEXT;
}

bool build_xsave(struct build *b, struct iop *op)
{
	static const struct {
		ZydisMnemonic narrow, wide;
		iop_fn *fn;
		u8 aux;
	} forms[] = {
		{ ZYDIS_MNEMONIC_XSAVE, ZYDIS_MNEMONIC_XSAVE64, op_xsave,
		  FPU_XSAVE },
		{ ZYDIS_MNEMONIC_XSAVEOPT, ZYDIS_MNEMONIC_XSAVEOPT64, op_xsave,
		  FPU_XSAVEOPT },
		{ ZYDIS_MNEMONIC_XSAVEC, ZYDIS_MNEMONIC_XSAVEC64, op_xsave,
		  FPU_XSAVEC },
		{ ZYDIS_MNEMONIC_XSAVES, ZYDIS_MNEMONIC_XSAVES64, op_xsave,
		  FPU_XSAVES },
		{ ZYDIS_MNEMONIC_XRSTOR, ZYDIS_MNEMONIC_XRSTOR64, op_xrstor,
		  0 },
		{ ZYDIS_MNEMONIC_XRSTORS, ZYDIS_MNEMONIC_XRSTORS64, op_xrstor,
		  1 },
	};
	ZydisMnemonic m = b->insn->z.mnemonic;

	build_address(b, op);
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		if (m != forms[i].narrow && m != forms[i].wide)
			continue;
		op->opsize = m == forms[i].wide ? 8 : 4;
		op->fn = forms[i].fn;
		op->aux = forms[i].aux;
		return true;
	}
	return false;
}
