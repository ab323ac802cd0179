/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_host.c - x87, MMX, SSE, AVX, BMI and the like, run by the host's own
 * units (hostop.h); here are the checks and the memory operand.
 */
#include <string.h>

#include "engine/interp/fpu.h"
#include "engine/interp/hostop.h"
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

enum { BUFFER = 128 };

/* op->aux */
enum {
	USES_X87 = 1 << 0,
	USES_SSE = 1 << 1,
	USES_AVX = 1 << 2,
	USES_MMX = 1 << 3,
	KEEPS_FIP = 1 << 4,
	WAITS = 1 << 5, /* FWAIT */
	HAS_MEM = 1 << 6,
	NO_WAIT = 1 << 7,
};

/* #UD and #NM, by what the instruction uses: SDM vol. 3 table 2-2, 13-1. */
static void check_units(struct icpu *cpu, unsigned uses)
{
	u32 deny = cpu->fpu_deny;

	if (likely(!deny))
		return;
	if (uses & USES_AVX) {
		if (deny & FPU_DENY_AVX_UD)
			icpu_ud(cpu);
	} else if (uses & USES_SSE) {
		if (deny & FPU_DENY_SSE_UD)
			icpu_ud(cpu);
	} else if (uses & USES_MMX) {
		if (deny & FPU_DENY_MMX_UD)
			icpu_ud(cpu);
	} else if (uses & WAITS) {
		if (deny & FPU_DENY_WAIT_NM)
			icpu_fault(cpu, VEC_NM);
		return;
	} else if (uses & USES_X87) {
		if (deny & FPU_DENY_X87_NM)
			icpu_fault(cpu, VEC_NM);
		return;
	}
	if (uses && deny & FPU_DENY_NM)
		icpu_fault(cpu, VEC_NM);
}

/* #MF, or the machine's own FERR line that nobody listens to any more. */
static NORETURN void x87_fault(struct icpu *cpu)
{
	icpu_fault(cpu, VEC_MF);
}

static NORETURN void simd_fault(struct icpu *cpu)
{
	if (cpu->cr4 & CR4_OSXMMEXCPT)
		icpu_fault(cpu, VEC_XM);
	icpu_ud(cpu);
}

static u64 fip(const struct icpu *cpu, const struct iop *op)
{
	u64 rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);

	return icpu_real_or_v86(cpu) ? rip + cpu->seg[SEG_CS].base : rip;
}

static void record(struct icpu *cpu, const struct iop *op, u64 ea)
{
	u16 fop = op->src;

	fpu_record(cpu->xsave, fip(cpu, op), fop);
	if (op->aux & HAS_MEM)
		fpu_record_data(cpu->xsave, icpu_real_or_v86(cpu)
		                                ? ea + cpu->seg[op->seg].base
		                                : ea);
}

static void run(struct icpu *cpu, const struct iop *op, void *buf)
{
	const struct hostop_regs regs = {
		.gpr = cpu->gpr,
		.flags = &cpu->flags,
		.xsave = cpu->xsave,
	};

	switch (hostop_run(op->host, &regs, buf)) {
	case HOSTOP_OK:
		return;
	case HOSTOP_SIMD_FAULT:
		simd_fault(cpu);
	case HOSTOP_X87_FAULT:
		x87_fault(cpu);
	case HOSTOP_UD:
		icpu_ud(cpu);
	}
}

static inline void host_reg(struct icpu *cpu, const struct iop *op)
{
	check_units(cpu, op->aux);
	run(cpu, op, NULL);
	if (op->aux & KEEPS_FIP)
		record(cpu, op, 0);
}

static struct block *op_host_reg(struct icpu *cpu, struct iop *op)
{
	ENTER;
	host_reg(cpu, op);
	NEXT;
}

/*
 * #AC as AMD's processors give it: by the operand's natural size, at most 16;
 * 8 for the 10 bytes of x87. 1 and less is any address.
 */
static void check_alignment(struct icpu *cpu, gva_t lin, unsigned alignment)
{
	if (likely(!(cpu->key & KEY_ALIGN)) || !(lin & (alignment - 1)))
		return;
	/* The worse fault first. */
	if (icpu_code64(cpu) && !icpu_canonical(lin))
		icpu_fault_error(cpu, cpu->cur->seg == SEG_SS ? VEC_SS : VEC_GP,
		                 0);
	icpu_fault_error(cpu, VEC_AC, 0);
}

static unsigned natural_alignment(unsigned size)
{
	return size >= 16 ? 16 : size == 10 ? 8 : size;
}

/* cur: the operation of the block that op stands for, most often itself. */
static inline void host_mem(struct icpu *cpu, struct iop *op, struct iop *cur)
{
	_Alignas(64) u8 buf[BUFFER];
	const struct hostop_info *info;
	u64 ea = op_ea(cpu, op);
	gva_t lin;

	check_units(cpu, op->aux);
	info = hostop_info(op->host);
	if (info->uses_x87 && fpu_pending(cpu->xsave) && !(op->aux & NO_WAIT))
		x87_fault(cpu);
	lin = ea_linear(cpu, op, ea, info->mem_size,
	                info->mem_write ? ACCESS_WRITE : ACCESS_READ);
	cpu->cur = cur;
	if (info->alignment && lin & (info->alignment - 1u))
		icpu_gp(cpu);
	check_alignment(cpu, lin, natural_alignment(info->mem_size));
	if (info->mem_write)
		icpu_probe(cpu, lin, info->mem_size, ACCESS_WRITE, cpu->priv);
	if (info->mem_read)
		icpu_read(cpu, lin, buf, info->mem_size, cpu->priv);
	run(cpu, op, buf);
	if (info->mem_write)
		icpu_write(cpu, lin, buf, info->mem_size, cpu->priv);
	if (op->aux & KEEPS_FIP)
		record(cpu, op, ea);
}

static struct block *op_host_mem(struct icpu *cpu, struct iop *op)
{
	ENTER;
	host_mem(cpu, op, op);
	NEXT;
}

static bool no_wait(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNCLEX:
		return true;
	default:
		return false;
	}
}

static bool is_mmx(const struct insn *i)
{
	switch (i->z.meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_SSE2MMX:
		return true;
	default:
		return false;
	}
}

static bool build_x87_state(struct build *b, struct iop *op);

/* op runs host, which was made of this instruction. */
static void set_host(struct iop *op, const struct insn *i,
                     const struct hostop *host)
{
	const struct hostop_info *info = hostop_info(host);

	op->host = host;
	op->aux = 0;
	if (info->uses_avx)
		op->aux |= USES_AVX;
	else if (info->uses_sse)
		op->aux |= USES_SSE;
	else if (is_mmx(i))
		op->aux |= USES_MMX;
	else if (info->uses_x87)
		op->aux |= USES_X87;
	if (info->x87_fip) {
		op->aux |= KEEPS_FIP;
		/* FOP: the low 11 bits of the two opcode bytes. */
		op->src =
		    (u16)((i->z.opcode & 7) << 8 | i->z.raw.modrm.mod << 6 |
		          i->z.raw.modrm.reg << 3 | i->z.raw.modrm.rm);
	}
	if (no_wait(i->z.mnemonic))
		op->aux |= NO_WAIT;
	if (info->mem_size)
		op->aux |= HAS_MEM;
	op->fn = info->mem_size ? op_host_mem : op_host_reg;
}

/*
 * The pool of stubs is full, which takes a guest that tries for it: decode
 * again and make a stub for this one run, in a pool of the vCPU's own.
 */
static struct block *op_host_spare(struct icpu *cpu, struct iop *op)
{
	u64 rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);
	const struct hostop *host;
	struct insn insn;
	u8 bytes[15];
	bool full;

	ENTER;
	icpu_read(cpu, cpu->csbase + rip, bytes, op->len,
	          cpu->cpl == 3 ? PRIV_USER : PRIV_AC);
	if (icpu_decode(cpu, cpu->key, bytes, op->len, &insn) != INSN_OK)
		icpu_ud(cpu);
	hostop_pool_flush(cpu->spare);
	host = hostop_build(cpu->spare, &insn.z, insn.zop, insn.bytes, &full);
	if (!host)
		icpu_ud(cpu);
	*cpu->spare_op = *op;
	set_host(cpu->spare_op, &insn, host);
	if (cpu->spare_op->aux & HAS_MEM)
		host_mem(cpu, cpu->spare_op, op);
	else
		host_reg(cpu, cpu->spare_op);
	NEXT;
}

bool build_host(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	const struct hostop *host;
	bool full = false;

	if (build_x87_state(b, op))
		return true;
	host =
	    hostop_build(b->cpu->sys->hostops, &i->z, i->zop, i->bytes, &full);
	if (!host && !full)
		return false;
	if (i->has_mem)
		build_address(b, op);
	if (host)
		set_host(op, i, host);
	else
		op->fn = op_host_spare;
	return true;
}

/* ---- FNSTENV FLDENV FNSAVE FRSTOR ---- */
static struct fpu_layout layout_of(const struct icpu *cpu, const struct iop *op)
{
	return (struct fpu_layout){
		.wide = op->opsize != 2,
		.real_mode = icpu_real_or_v86(cpu),
	};
}

static struct block *op_x87_store(struct icpu *cpu, struct iop *op)
{
	struct fpu_layout layout = layout_of(cpu, op);
	bool all = op->src == ZYDIS_MNEMONIC_FNSAVE;
	size_t size = all ? fpu_save_size(layout) : fpu_env_size(layout);
	u8 buf[FPU_SAVE_MAX];
	gva_t lin;

	ENTER;
	check_units(cpu, USES_X87);
	lin = op_linear(cpu, op, (unsigned)size, ACCESS_WRITE);
	check_alignment(cpu, lin, layout.wide ? 4 : 2);
	if (all)
		fpu_save(cpu->xsave, layout, buf);
	else
		fpu_env_store(cpu->xsave, layout, buf);
	icpu_write(cpu, lin, buf, size, cpu->priv);
	if (all)
		fpu_init(cpu->xsave);
	else
		fpu_env_stored(cpu->xsave);
	NEXT;
}

static struct block *op_x87_load(struct icpu *cpu, struct iop *op)
{
	struct fpu_layout layout = layout_of(cpu, op);
	bool all = op->src == ZYDIS_MNEMONIC_FRSTOR;
	size_t size = all ? fpu_save_size(layout) : fpu_env_size(layout);
	u8 buf[FPU_SAVE_MAX];
	gva_t lin;

	ENTER;
	check_units(cpu, USES_X87);
	if (fpu_pending(cpu->xsave))
		x87_fault(cpu);
	lin = op_linear(cpu, op, (unsigned)size, ACCESS_READ);
	check_alignment(cpu, lin, layout.wide ? 4 : 2);
	icpu_read(cpu, lin, buf, size, cpu->priv);
	if (all)
		fpu_restore(cpu->xsave, layout, buf);
	else
		fpu_env_load(cpu->xsave, layout, buf);
	NEXT;
}

static struct block *op_fninit(struct icpu *cpu, struct iop *op)
{
	ENTER;
	check_units(cpu, USES_X87);
	fpu_init(cpu->xsave);
	NEXT;
}

static struct block *op_fwait(struct icpu *cpu, struct iop *op)
{
	ENTER;
	check_units(cpu, WAITS);
	if (fpu_pending(cpu->xsave))
		x87_fault(cpu);
	NEXT;
}

static bool build_x87_state(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
		op->fn = op_x87_store;
		break;
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
		op->fn = op_x87_load;
		break;
	case ZYDIS_MNEMONIC_FNINIT:
		op->fn = op_fninit;
		return true;
	case ZYDIS_MNEMONIC_FWAIT:
		op->fn = op_fwait;
		return true;
	default:
		return false;
	}
	op->src = (u16)b->insn->z.mnemonic;
	build_address(b, op);
	return true;
}

/* ---- FXSAVE, FXRSTOR ---- */
static struct fpu_mode mode_of(const struct icpu *cpu, const struct iop *op)
{
	return (struct fpu_mode){
		.long_mode = icpu_code64(cpu),
		.rex_w = op->opsize == 8,
		.amd = cpu->amd,
		.fast =
		    cpu->efer & EFER_FFXSR && cpu->cpl == 0 && icpu_code64(cpu),
	};
}

static void check_fxsave(struct icpu *cpu)
{
	if (cpu->cr0 & CR0_EM)
		icpu_ud(cpu);
	if (cpu->cr0 & CR0_TS)
		icpu_fault(cpu, VEC_NM);
}

static struct block *op_fxsave(struct icpu *cpu, struct iop *op)
{
	_Alignas(64) u8 buf[FPU_FXSAVE_SIZE];
	size_t n;
	gva_t lin;

	ENTER;
	check_fxsave(cpu);
	lin = op_linear(cpu, op, FPU_FXSAVE_SIZE, ACCESS_WRITE);
	check_alignment(cpu, lin, 4);
	if (lin & 15)
		icpu_gp(cpu);
	n = fpu_fxsave(cpu->xsave, mode_of(cpu, op), buf);
	icpu_write(cpu, lin, buf, n, cpu->priv);
	NEXT;
}

static struct block *op_fxrstor(struct icpu *cpu, struct iop *op)
{
	_Alignas(64) u8 buf[FPU_FXSAVE_SIZE];
	gva_t lin;

	ENTER;
	check_fxsave(cpu);
	lin = op_linear(cpu, op, FPU_FXSAVE_SIZE, ACCESS_READ);
	check_alignment(cpu, lin, 4);
	if (lin & 15)
		icpu_gp(cpu);
	icpu_read(cpu, lin, buf, sizeof(buf), cpu->priv);
	if (!fpu_fxrstor(cpu->xsave, mode_of(cpu, op), buf))
		icpu_gp(cpu);
	NEXT;
}

bool build_fxsave(struct build *b, struct iop *op)
{
	ZydisMnemonic m = b->insn->z.mnemonic;

	build_address(b, op);
	op->opsize =
	    m == ZYDIS_MNEMONIC_FXSAVE64 || m == ZYDIS_MNEMONIC_FXRSTOR64 ? 8
									  : 4;
	op->fn = m == ZYDIS_MNEMONIC_FXSAVE || m == ZYDIS_MNEMONIC_FXSAVE64
	             ? op_fxsave
	             : op_fxrstor;
	return true;
}

/* ---- LDMXCSR, STMXCSR ---- */
static struct block *op_ldmxcsr(struct icpu *cpu, struct iop *op)
{
	u32 mxcsr;

	ENTER;
	check_units(cpu, op->aux);
	mxcsr = (u32)op_load(cpu, op, 4);
	if (mxcsr & ~(u32)FPU_MXCSR_MASK)
		icpu_gp(cpu);
	memcpy(cpu->xsave + CPU_XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	NEXT;
}

static struct block *op_stmxcsr(struct icpu *cpu, struct iop *op)
{
	u32 mxcsr;

	ENTER;
	check_units(cpu, op->aux);
	memcpy(&mxcsr, cpu->xsave + CPU_XSAVE_MXCSR, sizeof(mxcsr));
	op_store(cpu, op, 4, mxcsr);
	NEXT;
}

bool build_mxcsr(struct build *b, struct iop *op)
{
	ZydisMnemonic m = b->insn->z.mnemonic;

	build_address(b, op);
	op->aux = m == ZYDIS_MNEMONIC_VLDMXCSR || m == ZYDIS_MNEMONIC_VSTMXCSR
	              ? USES_AVX
	              : USES_SSE;
	op->fn = m == ZYDIS_MNEMONIC_LDMXCSR || m == ZYDIS_MNEMONIC_VLDMXCSR
	             ? op_ldmxcsr
	             : op_stmxcsr;
	return true;
}
