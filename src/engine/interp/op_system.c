/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_system.c - descriptor tables, segments, and what else belongs to the
 * operating system.
 */
#include <x86intrin.h>

#include "engine/interp/fpu.h"
#include "engine/interp/ops.h"
#include "engine/x86/control.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/decode.h"
#include "engine/x86/msr.h"
#include "engine/x86/segment.h"

static void need_cpl0(struct icpu *cpu)
{
	if (cpu->cpl)
		icpu_gp(cpu);
}

static void need_protected(struct icpu *cpu)
{
	if (icpu_real_or_v86(cpu))
		icpu_ud(cpu);
}

static void need_umip(struct icpu *cpu)
{
	if (cpu->cpl && cpu->cr4 & CR4_UMIP)
		icpu_gp(cpu);
}

static bool simple(struct iop *op, iop_fn *fn)
{
	op->fn = fn;
	return true;
}

static bool last(struct build *b, struct iop *op, iop_fn *fn)
{
	b->ended = true;
	return simple(op, fn);
}

/* A 16-bit operand, register or memory. */
static u16 operand16(struct icpu *cpu, struct iop *op)
{
	return op->seg == 0xff ? REG16(op->src) : (u16)op_load(cpu, op, 2);
}

static void build_operand(struct build *b, struct iop *op, unsigned n)
{
	if (b->insn->op[n].kind == OPERAND_MEM)
		build_address(b, op);
	else if (b->insn->op[n].kind == OPERAND_GPR)
		op->src = op->dst = build_reg(b, n);
}

/* ---- LDS LES LFS LGS LSS ---- */
static struct block *op_lfar(struct icpu *cpu, struct iop *op)
{
	u64 ea = op_ea(cpu, op), off;
	u16 sel;

	ENTER;
	off = icpu_load(cpu, ea_linear(cpu, op, ea, op->opsize, ACCESS_READ),
	                op->opsize, cpu->priv);
	ea = (ea + op->opsize) & op->amask;
	sel = (u16)icpu_load(cpu, ea_linear(cpu, op, ea, 2, ACCESS_READ), 2,
	                     cpu->priv);
	segment_load(cpu, op->aux, sel);
	reg_set(cpu, op->dst, op->opsize, off);
	LEAVE;
}

bool build_lfar(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_LDS:
		op->aux = SEG_DS;
		break;
	case ZYDIS_MNEMONIC_LES:
		op->aux = SEG_ES;
		break;
	case ZYDIS_MNEMONIC_LFS:
		op->aux = SEG_FS;
		break;
	case ZYDIS_MNEMONIC_LGS:
		op->aux = SEG_GS;
		break;
	default:
		op->aux = SEG_SS;
		break;
	}
	op->opsize = b->insn->op[0].size;
	op->dst = build_reg(b, 0);
	build_address(b, op);
	return last(b, op, op_lfar);
}

/* ---- LGDT LIDT SGDT SIDT ---- */
static struct block *op_lgdt(struct icpu *cpu, struct iop *op)
{
	struct cpu_table *t = op->aux ? &cpu->idtr : &cpu->gdtr;
	unsigned size = icpu_code64(cpu) ? 8 : 4;
	u64 ea = op_ea(cpu, op), base;
	u16 limit;

	ENTER;
	if (icpu_v86(cpu))
		icpu_gp(cpu);
	need_cpl0(cpu);
	limit = (u16)icpu_load(cpu, ea_linear(cpu, op, ea, 2, ACCESS_READ), 2,
	                       cpu->priv);
	ea = (ea + 2) & op->amask;
	base = icpu_load(cpu, ea_linear(cpu, op, ea, size, ACCESS_READ), size,
	                 cpu->priv);
	if (size == 8 && !icpu_canonical(base))
		icpu_gp(cpu);
	if (size == 4 && op->opsize == 2)
		base &= 0xffffff;
	t->limit = limit;
	t->base = base;
	NEXT;
}

static struct block *op_sgdt(struct icpu *cpu, struct iop *op)
{
	const struct cpu_table *t = op->aux ? &cpu->idtr : &cpu->gdtr;
	unsigned size = icpu_code64(cpu) ? 8 : 4;
	u64 ea = op_ea(cpu, op), next = (ea + 2) & op->amask;
	gva_t base;

	ENTER;
	need_umip(cpu);
	base = ea_linear(cpu, op, next, size, ACCESS_WRITE);
	icpu_probe(cpu, base, size, ACCESS_WRITE, cpu->priv);
	icpu_store(cpu, ea_linear(cpu, op, ea, 2, ACCESS_WRITE), t->limit, 2,
	           cpu->priv);
	icpu_store(cpu, base, t->base, size, cpu->priv);
	NEXT;
}

bool build_lgdt(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_LIDT;
	build_address(b, op);
	return simple(op, op_lgdt);
}
bool build_sgdt(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_SIDT;
	build_address(b, op);
	return simple(op, op_sgdt);
}

/* ---- LLDT LTR SLDT STR ---- */
static struct block *op_lldt(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_protected(cpu);
	need_cpl0(cpu);
	if (op->aux)
		segment_load_tr(cpu, operand16(cpu, op));
	else
		segment_load_ldt(cpu, operand16(cpu, op));
	NEXT;
}

static void store_selector(struct icpu *cpu, struct iop *op, u16 v)
{
	if (op->seg == 0xff)
		reg_set(cpu, op->dst, op->opsize, v);
	else
		op_store(cpu, op, 2, v);
}

static struct block *op_sldt(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_protected(cpu);
	need_umip(cpu);
	store_selector(cpu, op,
	               op->aux ? cpu->tr.selector : cpu->ldtr.selector);
	NEXT;
}

bool build_lldt(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_LTR;
	build_operand(b, op, 0);
	return simple(op, op_lldt);
}
bool build_sldt(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_STR;
	build_operand(b, op, 0);
	op->opsize = b->insn->op[0].size;
	return simple(op, op_sldt);
}

/* ---- LAR LSL VERR VERW ARPL ---- */
static void set_zf(struct icpu *cpu, bool z)
{
	cpu->flags = (u16)((cpu->flags & ~FL_ZF) | (z ? FL_ZF : 0));
}

static bool privileged_enough(const struct icpu *cpu, u16 sel,
                              const struct descriptor *d)
{
	return desc_conforming(d) ||
	       (cpu->cpl <= desc_dpl(d) && (sel & 3u) <= desc_dpl(d));
}

static bool lar_type(const struct icpu *cpu, const struct descriptor *d,
                     bool lsl)
{
	if (!desc_system(d))
		return true;
	switch (desc_type(d)) {
	case DESC_TSS16:
	case DESC_TSS16_BUSY:
		return !icpu_long(cpu);
	case DESC_LDT:
	case DESC_TSS32:
	case DESC_TSS32_BUSY:
		return true;
	case DESC_CALL16:
	case DESC_TASK:
		return !lsl && !icpu_long(cpu);
	case DESC_CALL32:
		return !lsl;
	default:
		return false;
	}
}

static struct block *op_lar(struct icpu *cpu, struct iop *op)
{
	struct descriptor d;
	struct cpu_segment seg;
	u16 sel;

	ENTER;
	need_protected(cpu);
	sel = op->seg == 0xff ? REG16(op->src) : (u16)op_load(cpu, op, 2);
	if (!(sel & 0xfffc) || !descriptor_find(cpu, sel, &d) ||
	    !lar_type(cpu, &d, op->imm) || !privileged_enough(cpu, sel, &d)) {
		set_zf(cpu, false);
		NEXT;
	}
	segment_from_descriptor(&seg, sel, &d);
	reg_set(cpu, op->dst, op->opsize,
	        op->imm ? seg.limit : d.hi & 0x00f0ff00);
	set_zf(cpu, true);
	NEXT;
}

bool build_lar(struct build *b, struct iop *op)
{
	op->imm = b->insn->z.mnemonic == ZYDIS_MNEMONIC_LSL;
	if (b->insn->op[1].kind == OPERAND_MEM)
		build_address(b, op);
	else
		op->src = build_reg(b, 1);
	op->dst = build_reg(b, 0);
	op->opsize = b->insn->op[0].size;
	return simple(op, op_lar);
}

static struct block *op_verr(struct icpu *cpu, struct iop *op)
{
	struct descriptor d;
	bool ok;
	u16 sel;

	ENTER;
	need_protected(cpu);
	sel = operand16(cpu, op);
	ok = sel & 0xfffc && descriptor_find(cpu, sel, &d) &&
	     !desc_system(&d) && privileged_enough(cpu, sel, &d);
	if (ok && op->aux)
		ok = !desc_code(&d) && desc_type(&d) & TYPE_RW;
	else if (ok)
		ok = !desc_code(&d) || desc_type(&d) & TYPE_RW;
	set_zf(cpu, ok);
	NEXT;
}

bool build_verr(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_VERW;
	build_operand(b, op, 0);
	return simple(op, op_verr);
}

static struct block *op_arpl(struct icpu *cpu, struct iop *op)
{
	u16 want = REG16(op->src) & 3, sel;
	bool raise;

	ENTER;
	need_protected(cpu);
	if (op->seg == 0xff) {
		sel = REG16(op->dst);
	} else {
		gva_t lin = op_linear(cpu, op, 2, ACCESS_READ);

		sel = (u16)slow_load(cpu, op, lin, 2);
	}
	raise = (sel & 3) < want;
	if (raise && op->seg == 0xff)
		SET16(op->dst, (sel & ~3u) | want);
	else if (raise)
		op_store(cpu, op, 2, (sel & ~3u) | want);
	set_zf(cpu, raise);
	NEXT;
}

bool build_arpl(struct build *b, struct iop *op)
{
	build_operand(b, op, 0);
	op->src = build_reg(b, 1);
	return simple(op, op_arpl);
}

/* ---- SMSW LMSW CLTS ---- */
static struct block *op_smsw(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_umip(cpu);
	if (op->seg == 0xff)
		reg_set(cpu, op->dst, op->opsize, cpu->cr0);
	else
		op_store(cpu, op, 2, cpu->cr0 & 0xffff);
	NEXT;
}
static struct block *op_lmsw(struct icpu *cpu, struct iop *op)
{
	u64 v;

	ENTER;
	need_cpl0(cpu);
	v = operand16(cpu, op) & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
	/* It can set PE but not clear it. */
	v |= cpu->cr0 & CR0_PE;
	control_write(cpu, 0, (cpu->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | v);
	LEAVE;
}
static struct block *op_clts(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_cpl0(cpu);
	cpu->cr0 &= ~CR0_TS;
	icpu_update(cpu);
	NEXT;
}

bool build_smsw(struct build *b, struct iop *op)
{
	build_operand(b, op, 0);
	op->opsize = b->insn->op[0].size;
	return simple(op, op_smsw);
}
bool build_lmsw(struct build *b, struct iop *op)
{
	build_operand(b, op, 0);
	return last(b, op, op_lmsw);
}
bool build_clts(struct build *b, struct iop *op)
{
	(void)b;
	return simple(op, op_clts);
}

/* ---- SWAPGS, RDFSBASE ... ---- */
static struct block *op_swapgs(struct icpu *cpu, struct iop *op)
{
	u64 base = cpu->seg[SEG_GS].base;

	ENTER;
	need_cpl0(cpu);
	cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	NEXT;
}

bool build_swapgs(struct build *b, struct iop *op)
{
	return b->key & KEY_CODE64 && simple(op, op_swapgs);
}

static struct block *op_read_base(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (!(cpu->cr4 & CR4_FSGSBASE))
		icpu_ud(cpu);
	reg_set(cpu, op->dst, op->opsize, cpu->seg[op->aux].base);
	NEXT;
}
static struct block *op_write_base(struct icpu *cpu, struct iop *op)
{
	u64 v = reg_get(cpu, op->src, op->opsize);

	ENTER;
	if (!(cpu->cr4 & CR4_FSGSBASE))
		icpu_ud(cpu);
	if (!icpu_canonical(v))
		icpu_gp(cpu);
	cpu->seg[op->aux].base = v;
	NEXT;
}

bool build_fsgsbase(struct build *b, struct iop *op)
{
	ZydisMnemonic m = b->insn->z.mnemonic;

	if (!(b->key & KEY_CODE64))
		return false;
	build_operand(b, op, 0);
	op->opsize = b->insn->op[0].size;
	op->aux = m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_WRFSBASE
	              ? SEG_FS
	              : SEG_GS;
	return simple(op, m == ZYDIS_MNEMONIC_RDFSBASE ||
	                          m == ZYDIS_MNEMONIC_RDGSBASE
	                      ? op_read_base
	                      : op_write_base);
}

/* ---- RDMSR WRMSR CPUID RDTSC RDPMC ---- */
static struct block *op_rdmsr(struct icpu *cpu, struct iop *op)
{
	u64 v = 0;

	ENTER;
	need_cpl0(cpu);
	if (!msr_read(cpu, (u32)cpu->gpr[GPR_RCX], &v))
		icpu_gp(cpu);
	cpu->gpr[GPR_RAX] = (u32)v;
	cpu->gpr[GPR_RDX] = v >> 32;
	NEXT;
}
static struct block *op_wrmsr(struct icpu *cpu, struct iop *op)
{
	u64 v = (u32)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;

	ENTER;
	need_cpl0(cpu);
	if (!msr_write(cpu, (u32)cpu->gpr[GPR_RCX], v))
		icpu_gp(cpu);
	LEAVE;
}

bool build_msr(struct build *b, struct iop *op)
{
	if (b->insn->z.mnemonic == ZYDIS_MNEMONIC_RDMSR)
		return simple(op, op_rdmsr);
	return last(b, op, op_wrmsr);
}

enum { APIC_BASE_ENABLE = 1 << 11, CPUID_EDX_APIC = 1 << 9 };

/* SDM 10.4.3: who turns his APIC off does not see that he has one. */
static bool apic_off(struct icpu *cpu)
{
	u64 base;

	return cpu->host.msr_read &&
	       cpu->host.msr_read(cpu->host.ctx, MSR_APIC_BASE, &base) &&
	       !(base & APIC_BASE_ENABLE);
}
static bool has_apic_bit(const struct icpu *cpu, u32 leaf)
{
	return leaf == 1 || (leaf == 0x80000001 && cpu->amd);
}

static struct block *op_cpuid(struct icpu *cpu, struct iop *op)
{
	u32 leaf = (u32)cpu->gpr[GPR_RAX];
	struct cpuid_regs r;

	cpuid_query(cpu->cpuid, cpu->index, cpu->cr4, cpu->xcr0, leaf,
	            (u32)cpu->gpr[GPR_RCX], &r);
	if (has_apic_bit(cpu, leaf) && apic_off(cpu))
		r.edx &= ~(u32)CPUID_EDX_APIC;
	cpu->gpr[GPR_RAX] = r.eax;
	cpu->gpr[GPR_RBX] = r.ebx;
	cpu->gpr[GPR_RCX] = r.ecx;
	cpu->gpr[GPR_RDX] = r.edx;
	NEXT;
}

bool build_cpuid(struct build *b, struct iop *op)
{
	(void)b;
	return simple(op, op_cpuid);
}

static struct block *op_rdtsc(struct icpu *cpu, struct iop *op)
{
	u64 v;

	ENTER;
	if (cpu->cpl && cpu->cr4 & CR4_TSD)
		icpu_gp(cpu);
	v = icpu_tsc(cpu);
	cpu->gpr[GPR_RAX] = (u32)v;
	cpu->gpr[GPR_RDX] = v >> 32;
	if (op->aux)
		cpu->gpr[GPR_RCX] = (u32)cpu->tsc_aux;
	NEXT;
}

bool build_rdtsc(struct build *b, struct iop *op)
{
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
	return simple(op, op_rdtsc);
}

static struct block *op_rdpid(struct icpu *cpu, struct iop *op)
{
	REG64(op->dst) = (u32)cpu->tsc_aux;
	NEXT;
}
bool build_rdpid(struct build *b, struct iop *op)
{
	build_operand(b, op, 0);
	return simple(op, op_rdpid);
}

/* No performance counters are advertised: every index is wrong. */
static struct block *op_rdpmc(struct icpu *cpu, struct iop *op)
{
	ENTER;
	icpu_gp(cpu);
}
bool build_rdpmc(struct build *b, struct iop *op)
{
	return last(b, op, op_rdpmc);
}

/* ---- TLB and caches ---- */
static struct block *op_invlpg(struct icpu *cpu, struct iop *op)
{
	u64 lin = op_ea(cpu, op);

	ENTER;
	need_cpl0(cpu);
	if (icpu_code64(cpu))
		lin += reg_get(cpu, op->segbase, 8);
	else
		lin = (u32)(lin + cpu->seg[op->seg].base);
	if (icpu_canonical(lin))
		icpu_tlb_flush_page(cpu, lin);
	LEAVE;
}
bool build_invlpg(struct build *b, struct iop *op)
{
	build_address(b, op);
	return last(b, op, op_invlpg);
}

static struct block *op_invpcid(struct icpu *cpu, struct iop *op)
{
	struct invpcid d;
	u64 type = icpu_code64(cpu) ? REG64(op->dst) : REG32(op->dst);

	ENTER;
	if (icpu_v86(cpu))
		icpu_gp(cpu);
	need_cpl0(cpu);
	icpu_read(cpu, op_linear(cpu, op, 16, ACCESS_READ), &d, sizeof(d),
	          cpu->priv);
	control_invpcid(cpu, type, &d);
	LEAVE;
}
bool build_invpcid(struct build *b, struct iop *op)
{
	build_address(b, op);
	op->dst = build_reg(b, 0);
	return last(b, op, op_invpcid);
}

static struct block *op_wbinvd(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_cpl0(cpu);
	NEXT;
}
bool build_wbinvd(struct build *b, struct iop *op)
{
	(void)b;
	return simple(op, op_wbinvd);
}

/* Caches are coherent here: only the address counts. */
static struct block *op_clflush(struct icpu *cpu, struct iop *op)
{
	ENTER;
	icpu_probe(cpu, op_linear(cpu, op, 1, ACCESS_READ), 1, ACCESS_READ,
	           cpu->priv);
	NEXT;
}
bool build_clflush(struct build *b, struct iop *op)
{
	build_address(b, op);
	return simple(op, op_clflush);
}

static struct block *op_clzero(struct icpu *cpu, struct iop *op)
{
	static const u8 zero[64];
	gva_t lin;

	ENTER;
	lin = ea_linear(cpu, op, cpu->gpr[GPR_RAX] & op->amask & ~(u64)63, 64,
	                ACCESS_WRITE);
	icpu_write(cpu, lin, zero, sizeof(zero), cpu->priv);
	NEXT;
}
bool build_clzero(struct build *b, struct iop *op)
{
	build_segment(b, op, build_override(b));
	op->amask = size_mask(b->insn->asize);
	return simple(op, op_clzero);
}

/* ---- the rest ---- */
static struct block *op_hlt(struct icpu *cpu, struct iop *op)
{
	ENTER;
	need_cpl0(cpu);
	cpu->halted = true;
	LEAVE;
}
bool build_hlt(struct build *b, struct iop *op)
{
	return last(b, op, op_hlt);
}

static struct block *op_xgetbv(struct icpu *cpu, struct iop *op)
{
	u32 index = (u32)cpu->gpr[GPR_RCX];
	u64 v = cpu->xcr0;

	ENTER;
	if (!(cpu->cr4 & CR4_OSXSAVE))
		icpu_ud(cpu);
	if (index == 1 && cpuid_has(cpu->cpuid, FEATURE_XGETBV1))
		v &= fpu_in_use(cpu->xsave, (u32)cpu->pkru);
	else if (index)
		icpu_gp(cpu);
	cpu->gpr[GPR_RAX] = (u32)v;
	cpu->gpr[GPR_RDX] = v >> 32;
	NEXT;
}
static struct block *op_xsetbv(struct icpu *cpu, struct iop *op)
{
	ENTER;
	if (!(cpu->cr4 & CR4_OSXSAVE))
		icpu_ud(cpu);
	need_cpl0(cpu);
	control_xsetbv(cpu, (u32)cpu->gpr[GPR_RCX],
	               (u32)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32);
	LEAVE;
}
bool build_xgetbv(struct build *b, struct iop *op)
{
	if (b->insn->z.mnemonic == ZYDIS_MNEMONIC_XGETBV)
		return simple(op, op_xgetbv);
	return last(b, op, op_xsetbv);
}

static struct block *op_rdrand(struct icpu *cpu, struct iop *op)
{
	unsigned long long v = 0;
	int ok;

	if (op->aux)
		__asm__ volatile("rdseed %0; setc %b1"
		                 : "=r"(v), "=q"(ok)
		                 :
		                 : "cc");
	else
		__asm__ volatile("rdrand %0; setc %b1"
		                 : "=r"(v), "=q"(ok)
		                 :
		                 : "cc");
	ok &= 1;
	reg_set(cpu, op->dst, op->opsize, ok ? v : 0);
	cpu->flags = ok ? FL_CF : 0;
	NEXT;
}
bool build_rdrand(struct build *b, struct iop *op)
{
	build_operand(b, op, 0);
	op->opsize = b->insn->op[0].size;
	op->aux = b->insn->z.mnemonic == ZYDIS_MNEMONIC_RDSEED;
	return simple(op, op_rdrand);
}

/* As KVM's: a number in RAX and up to four values, an answer in RAX. */
static struct block *op_hypercall(struct icpu *cpu, struct iop *op)
{
	u64 mask = icpu_code64(cpu) ? ~(u64)0 : 0xffffffff;
	const u64 *gpr = cpu->gpr;
	const u64 arg[HYPERCALL_ARGS] = {
		gpr[GPR_RBX] & mask,
		gpr[GPR_RCX] & mask,
		gpr[GPR_RDX] & mask,
		gpr[GPR_RSI] & mask,
	};
	s64 answer = HYPERCALL_UNKNOWN;

	ENTER;
	need_cpl0(cpu);
	if (cpu->host.hypercall) {
		icpu_leave_guest(cpu);
		answer = cpu->host.hypercall(cpu->host.ctx, gpr[GPR_RAX] & mask,
		                             arg, icpu_code64(cpu));
		icpu_enter_guest(cpu);
	}
	cpu->gpr[GPR_RAX] = (u64)answer & mask;
	NEXT;
}
bool build_hypercall(struct build *b, struct iop *op)
{
	(void)b;
	return simple(op, op_hypercall);
}

static struct block *op_nop(struct icpu *cpu, struct iop *op)
{
	NEXT;
}
/* PAUSE ends the block, so that one who spins sees interrupts soon. */
static struct block *op_pause(struct icpu *cpu, struct iop *op)
{
	_mm_pause();
	LEAVE;
}
static struct block *op_fence(struct icpu *cpu, struct iop *op)
{
	atomic_thread_fence(memory_order_seq_cst);
	NEXT;
}
bool build_nop(struct build *b, struct iop *op)
{
	switch (b->insn->z.mnemonic) {
	case ZYDIS_MNEMONIC_PAUSE:
		return last(b, op, op_pause);
	case ZYDIS_MNEMONIC_MFENCE:
		return simple(op, op_fence);
	default:
		return simple(op, op_nop);
	}
}
