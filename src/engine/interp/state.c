/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - between the canonical state and the soft vCPU's own, and what is
 * derived from it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/interp/code.h"
#include "engine/interp/debug.h"
#include "engine/interp/fpu.h"
#include "engine/interp/hostop.h"
#include "engine/interp/icpu.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/control.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/paging.h"
#include "engine/x86/segment.h"

enum {
	SYSTEM_FLAGS = RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL |
	               RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | RFLAGS_AC |
	               RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID,
};

u64 icpu_rflags(const struct icpu *cpu)
{
	return flags_to_rflags(cpu->flags) | cpu->sysflags;
}

void icpu_set_rflags(struct icpu *cpu, u64 rflags)
{
	cpu->flags = flags_from_rflags(rflags);
	cpu->sysflags = (u32)(rflags & SYSTEM_FLAGS) | RFLAGS_FIXED;
}

static bool flat(const struct cpu_segment *s)
{
	return s->base == 0 && s->limit == 0xffffffff &&
	       (s->attr & (SEG_ATTR_P | TYPE_RW | TYPE_CE | TYPE_CODE)) ==
	           (SEG_ATTR_P | TYPE_RW);
}

static u32 fpu_deny(const struct icpu *cpu)
{
	u32 deny = 0;

	if (cpu->cr0 & (CR0_EM | CR0_TS))
		deny |= FPU_DENY_X87_NM;
	if (cpu->cr0 & CR0_EM)
		deny |= FPU_DENY_MMX_UD;
	if (cpu->cr0 & CR0_EM || !(cpu->cr4 & CR4_OSFXSR))
		deny |= FPU_DENY_SSE_UD;
	if (!(cpu->cr4 & CR4_OSXSAVE) ||
	    (cpu->xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX) ||
	    icpu_real_or_v86(cpu))
		deny |= FPU_DENY_AVX_UD;
	if (cpu->cr0 & CR0_TS)
		deny |= FPU_DENY_NM;
	if ((cpu->cr0 & (CR0_TS | CR0_MP)) == (CR0_TS | CR0_MP))
		deny |= FPU_DENY_WAIT_NM;
	return deny;
}

static bool stepping(const struct icpu *cpu)
{
	return cpu->sysflags & RFLAGS_TF || cpu->shadow || cpu->pending_db ||
	       cpu->stepping || cpu->budget || debug_active(cpu);
}

void icpu_update(struct icpu *cpu)
{
	u32 key = KEY_VALID;
	const struct cpu_segment *cs = &cpu->seg[SEG_CS];

	if (!icpu_protected(cpu))
		cpu->cpl = 0;
	else if (icpu_v86(cpu))
		cpu->cpl = 3;
	if (icpu_long(cpu) && cs->attr & SEG_ATTR_L) {
		key |= KEY_CODE64;
		cpu->csbase = 0;
	} else {
		if (cs->attr & SEG_ATTR_DB && !icpu_v86(cpu))
			key |= KEY_CODE32;
		if (cpu->seg[SEG_SS].attr & SEG_ATTR_DB && !icpu_v86(cpu))
			key |= KEY_STACK32;
		if (icpu_real_or_v86(cpu))
			key |= KEY_REAL;
		for (unsigned i = SEG_ES; i <= SEG_DS; i++)
			if (i != SEG_CS && flat(&cpu->seg[i]))
				key |= (u32)KEY_FLAT_ES << i;
		if (cs->limit == 0xffffffff && cs->base == 0)
			key |= KEY_FLAT_CS;
		cpu->csbase = cs->base;
	}
	if (cpu->cpl == 3) {
		key |= KEY_USER;
		if (cpu->cr0 & CR0_AM && cpu->sysflags & RFLAGS_AC)
			key |= KEY_ALIGN;
		cpu->priv = PRIV_USER;
	} else {
		cpu->priv = cpu->sysflags & RFLAGS_AC ? PRIV_AC : PRIV_SUPER;
		if (unlikely(cpu->cpl))
			key |= KEY_MIDDLE;
	}
	if (!debug_active(cpu))
		cpu->sysflags &= ~(u32)RFLAGS_RF;
	if (unlikely(stepping(cpu)))
		key |= KEY_STEP;
	cpu->tlb = cpu->space->data[cpu->priv];
	icpu_tlb_retarget(cpu);
	cpu->fpu_deny = fpu_deny(cpu);
	if (cpu->fpu_deny)
		key |= KEY_FPU_DENY;
	cpu->key = key;
	if (cpu->irq_wait && cpu->sysflags & RFLAGS_IF && !cpu->shadow) {
		cpu->irq_wait = false;
		icpu_attend(cpu, ATTEND_IRQ);
	}
}

void icpu_get(struct icpu *cpu, struct cpu_state *s)
{
	memset(s, 0, sizeof(*s));
	memcpy(s->xsave, cpu->xsave, sizeof(s->xsave));
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = icpu_rflags(cpu);
	memcpy(s->seg, cpu->seg, sizeof(s->seg));
	s->ldtr = cpu->ldtr;
	s->tr = cpu->tr;
	s->gdtr = cpu->gdtr;
	s->idtr = cpu->idtr;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 =
	    cpu->host.tpr_get ? cpu->host.tpr_get(cpu->host.ctx) : cpu->cr8;
	s->efer = cpu->efer;
	s->xcr0 = cpu->xcr0;
	memcpy(s->dr, cpu->dr, sizeof(s->dr));
	s->star = cpu->star;
	s->lstar = cpu->lstar;
	s->cstar = cpu->cstar;
	s->sfmask = cpu->sfmask;
	s->kernel_gs_base = cpu->kernel_gs_base;
	s->sysenter_cs = cpu->sysenter_cs;
	s->sysenter_esp = cpu->sysenter_esp;
	s->sysenter_eip = cpu->sysenter_eip;
	s->tsc_aux = cpu->tsc_aux;
	s->pat = cpu->pat;
	s->misc_enable = cpu->misc_enable;
	s->xss = cpu->xss;
	s->pkru = cpu->pkru;
	s->pkrs = cpu->pkrs;
	s->tsc = icpu_tsc(cpu);
	s->tsc_adjust = cpu->tsc_adjust;
	s->mtrr = cpu->mtrr;
	s->events = cpu->events;
	s->events.nmi_pending = atomic_load(&cpu->nmis) != 0;
	s->events.nmi_masked = cpu->nmi_masked;
	s->events.interrupt_shadow = cpu->shadow;
	s->mp_state = cpu->halted ? CPU_HALTED : cpu->mp_state;
}

static void set_registers(struct icpu *cpu, const struct cpu_state *s)
{
	memcpy(cpu->xsave, s->xsave, sizeof(cpu->xsave));
	fpu_state_expand(cpu->xsave);
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	memcpy(cpu->seg, s->seg, sizeof(cpu->seg));
	cpu->ldtr = s->ldtr;
	cpu->tr = s->tr;
	cpu->gdtr = s->gdtr;
	cpu->idtr = s->idtr;
	cpu->cr0 = s->cr0 | CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->cr8 = s->cr8;
	cpu->efer = s->efer;
	cpu->xcr0 = s->xcr0;
	memcpy(cpu->dr, s->dr, sizeof(cpu->dr));
	cpu->star = s->star;
	cpu->lstar = s->lstar;
	cpu->cstar = s->cstar;
	cpu->sfmask = s->sfmask;
	cpu->kernel_gs_base = s->kernel_gs_base;
	cpu->sysenter_cs = s->sysenter_cs;
	cpu->sysenter_esp = s->sysenter_esp;
	cpu->sysenter_eip = s->sysenter_eip;
	cpu->tsc_aux = s->tsc_aux;
	cpu->pat = s->pat;
	cpu->misc_enable = s->misc_enable;
	cpu->xss = s->xss;
	cpu->pkru = s->pkru;
	cpu->pkrs = s->pkrs;
	cpu->tsc_offset = s->tsc - __rdtsc();
	cpu->tsc_adjust = s->tsc_adjust;
	cpu->mtrr = s->mtrr;
	cpu->events = s->events;
	cpu->nmi_masked = s->events.nmi_masked;
	cpu->shadow = s->events.interrupt_shadow;
	cpu->shadow_ss = false;
	/* An interrupt ends a halt: what is left then is not a halted one. */
	cpu->halted = s->mp_state == CPU_HALTED;
	cpu->mp_state = cpu->halted ? CPU_RUNNING : s->mp_state;
	cpu->pending_db = 0;
	cpu->delivering = -1;
	cpu->external = false;
	icpu_set_rflags(cpu, s->rflags);
	cpu->cpl = (u8)cpu_state_cpl(s);
	if (cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !icpu_long(cpu) &&
	    !paging_load_pdptes(cpu, cpu->cr3, cpu->pdpte))
		memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
}

void icpu_set_registers(struct icpu *cpu, const struct cpu_state *s)
{
	set_registers(cpu, s);
	icpu_update(cpu);
}

int icpu_set(struct icpu *cpu, const struct cpu_state *s, struct error *err)
{
	if (s->cr4 & ~control_cr4_valid(cpu))
		return error_set(err, -EINVAL,
		                 "vCPU %u: CR4 %#" PRIx64
		                 " has features that this engine lacks",
		                 cpu->index, s->cr4);
	if (s->xcr0 & ~control_xcr0_valid(cpu))
		return error_set(err, -EINVAL,
		                 "vCPU %u: XCR0 %#" PRIx64
		                 " has components that this engine lacks",
		                 cpu->index, s->xcr0);
	set_registers(cpu, s);
	if (cpu->host.tpr_set)
		cpu->host.tpr_set(cpu->host.ctx, (u8)(s->cr8 & 0xf));
	icpu_tlb_flush(cpu, true);
	icpu_tlb_switch(cpu, cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0, true);
	atomic_fetch_or(&cpu->attention, ATTEND_IRQ | ATTEND_LOCAL);
	atomic_store(&cpu->nmis, 0);
	if (cpu->events.nmi_pending)
		icpu_post_nmi(cpu);
	icpu_update(cpu);
	return 0;
}

/* On pages of its own, which go back to the host when it is emptied. */
static struct jump_entry *map_jumps(void)
{
	void *p =
	    mmap(NULL, JUMP_ENTRIES * sizeof(struct jump_entry),
	         PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int icpu_create(struct icpu **out, struct isystem *sys, unsigned index,
                const struct vcpu_host *host, struct error *err)
{
	struct cpuid_regs r;
	struct icpu *cpu;
	unsigned bits;

	if (index >= sys->cpus || sys->cpu[index])
		return error_set(err, -EINVAL, "there is no vCPU %u", index);
	cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), (size_t)64));
	ASSERT(cpu);
	memset(cpu, 0, sizeof(*cpu));
	cpu->sys = sys;
	cpu->host = *host;
	cpu->cpuid = sys->cpuid;
	cpu->index = index;
	cpu->delivering = -1;
	pthread_mutex_init(&cpu->mail.lock, NULL);
	cpu->jump = map_jumps();
	cpu->jump_mask = JUMP_FEW - 1;
	cpu->spare_op = aligned_alloc(64, sizeof(*cpu->spare_op));
	if (!cpu->jump || !cpu->spare_op || tlb_create(cpu) < 0 ||
	    hostop_pool_create(&cpu->spare, PAGE_SIZE, NULL) < 0 ||
	    code_cache_create(&cpu->code, sys->code_bytes) < 0) {
		icpu_destroy(cpu);
		return error_set(err, -ENOMEM,
		                 "no memory for vCPU %u's code cache", index);
	}
	cpuid_query(cpu->cpuid, index, 0, 0, 0x80000008, 0, &r);
	bits = r.eax & 0xff;
	if (bits < 32 || bits > 52)
		bits = 40;
	cpu->reserved = (BIT(52) - 1) & ~(BIT(bits) - 1);
	cpu->pge1g = cpuid_has(cpu->cpuid, FEATURE_PAGE1G);
	cpuid_query(cpu->cpuid, index, 0, 0, 0, 0, &r);
	cpu->amd = icpu_vendor_amd(r.ebx);
	cpu->patch_level = cpu->amd ? 0x01000065 : BIT(32);
	icpu_set_rflags(cpu, 0);
	icpu_update(cpu);
	sys->cpu[index] = cpu;
	*out = cpu;
	return 0;
}

void icpu_destroy(struct icpu *cpu)
{
	if (!cpu)
		return;
	if (cpu->sys->cpu[cpu->index] == cpu)
		cpu->sys->cpu[cpu->index] = NULL;
	code_cache_destroy(cpu->code);
	hostop_pool_destroy(cpu->spare);
	free(cpu->spare_op);
	tlb_destroy(cpu);
	if (cpu->jump)
		munmap(cpu->jump, JUMP_ENTRIES * sizeof(*cpu->jump));
	free(cpu->points);
	pthread_mutex_destroy(&cpu->mail.lock);
	free(cpu);
}
