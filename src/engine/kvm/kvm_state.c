/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_state - the whole architectural state, from and to struct cpu_state.
 *
 * Events are read first: reading them makes the kernel move what a pending
 * exception carries into CR2 and DR6 (api.rst 4.31). An interrupt that the
 * APIC gave away and that the processor did not deliver yet is an event with
 * a vector above 31 in the canonical state.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "engine/x86/cpuid.h"

enum { XSAVE_SOFTWARE = 464 /* Intel SDM vol. 1 table 13-1 */ };

static void get_segment(struct cpu_segment *to, const struct kvm_segment *from)
{
	to->base = from->base;
	to->limit = from->limit;
	to->selector = from->selector;
	to->attr = (u16)(from->type | from->s << 4 |
	                 from->dpl << SEG_ATTR_DPL_SHIFT | from->avl << 12 |
	                 from->l << 13 | from->db << 14 | from->g << 15);
	if (from->present && !from->unusable)
		to->attr |= SEG_ATTR_P;
}

static void set_segment(struct kvm_segment *to, const struct cpu_segment *from)
{
	memset(to, 0, sizeof(*to));
	to->base = from->base;
	to->limit = from->limit;
	to->selector = from->selector;
	to->type = from->attr & SEG_ATTR_TYPE;
	to->s = !!(from->attr & SEG_ATTR_S);
	to->dpl = (from->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
	to->present = !!(from->attr & SEG_ATTR_P);
	to->avl = !!(from->attr & SEG_ATTR_AVL);
	to->l = !!(from->attr & SEG_ATTR_L);
	to->db = !!(from->attr & SEG_ATTR_DB);
	to->g = !!(from->attr & SEG_ATTR_G);
	to->unusable = !to->present;
}

static void get_regs(struct cpu_state *to, const struct kvm_regs *from)
{
	const u64 gpr[GPR_COUNT] = {
		from->rax, from->rcx, from->rdx, from->rbx,
		from->rsp, from->rbp, from->rsi, from->rdi,
		from->r8,  from->r9,  from->r10, from->r11,
		from->r12, from->r13, from->r14, from->r15,
	};

	memcpy(to->gpr, gpr, sizeof(gpr));
	to->rip = from->rip;
	to->rflags = from->rflags;
}

static void set_regs(struct kvm_regs *to, const struct cpu_state *from)
{
	*to = (struct kvm_regs){
		.rax = from->gpr[GPR_RAX],
		.rcx = from->gpr[GPR_RCX],
		.rdx = from->gpr[GPR_RDX],
		.rbx = from->gpr[GPR_RBX],
		.rsp = from->gpr[GPR_RSP],
		.rbp = from->gpr[GPR_RBP],
		.rsi = from->gpr[GPR_RSI],
		.rdi = from->gpr[GPR_RDI],
		.r8 = from->gpr[GPR_R8],
		.r9 = from->gpr[GPR_R9],
		.r10 = from->gpr[GPR_R10],
		.r11 = from->gpr[GPR_R11],
		.r12 = from->gpr[GPR_R12],
		.r13 = from->gpr[GPR_R13],
		.r14 = from->gpr[GPR_R14],
		.r15 = from->gpr[GPR_R15],
		.rip = from->rip,
		.rflags = from->rflags | RFLAGS_FIXED,
	};
}

/*
 * SREGS2 carries the PDPTEs and does not touch a pending interrupt, which the
 * events tell; SREGS would clear or invent one by its bitmap. The PDPTEs are
 * not canonical state: with their flag clear the kernel reads them from
 * memory.
 */
static int read_sregs(struct vcpu *v, struct kvm_sregs2 *to)
{
	struct kvm_sregs old;
	int r;

	if (v->engine->has_sregs2)
		return kvm_call(v->fd, KVM_GET_SREGS2, to);
	r = kvm_call(v->fd, KVM_GET_SREGS, &old);
	if (r < 0)
		return r;
	memset(to, 0, sizeof(*to));
	/* The same layout up to apic_base. */
	memcpy(to, &old, offsetof(struct kvm_sregs2, flags));
	return 0;
}

static int write_sregs(struct vcpu *v, const struct kvm_sregs2 *from,
                       const struct cpu_events *events)
{
	struct kvm_sregs2 copy = *from;
	struct kvm_sregs old = { 0 };
	u8 vector = events->exception_vector;

	copy.flags = 0;
	if (v->engine->has_sregs2)
		return kvm_call(v->fd, KVM_SET_SREGS2, &copy);
	memcpy(&old, from, offsetof(struct kvm_sregs2, flags));
	if (events->exception_pending && vector >= VEC_FIRST_FREE)
		old.interrupt_bitmap[vector / 64] = BIT(vector % 64);
	return kvm_call(v->fd, KVM_SET_SREGS, &old);
}

static void get_sregs(struct cpu_state *to, const struct kvm_sregs2 *from)
{
	get_segment(&to->seg[SEG_ES], &from->es);
	get_segment(&to->seg[SEG_CS], &from->cs);
	get_segment(&to->seg[SEG_SS], &from->ss);
	get_segment(&to->seg[SEG_DS], &from->ds);
	get_segment(&to->seg[SEG_FS], &from->fs);
	get_segment(&to->seg[SEG_GS], &from->gs);
	get_segment(&to->ldtr, &from->ldt);
	get_segment(&to->tr, &from->tr);
	to->gdtr.base = from->gdt.base;
	to->gdtr.limit = from->gdt.limit;
	to->idtr.base = from->idt.base;
	to->idtr.limit = from->idt.limit;
	to->cr0 = from->cr0;
	to->cr2 = from->cr2;
	to->cr3 = from->cr3;
	to->cr4 = from->cr4;
	to->cr8 = from->cr8;
	to->efer = from->efer;
}

/* The APIC base is the interrupt controller's: left as it is. */
static void set_sregs(struct kvm_sregs2 *to, const struct cpu_state *from)
{
	set_segment(&to->es, &from->seg[SEG_ES]);
	set_segment(&to->cs, &from->seg[SEG_CS]);
	set_segment(&to->ss, &from->seg[SEG_SS]);
	set_segment(&to->ds, &from->seg[SEG_DS]);
	set_segment(&to->fs, &from->seg[SEG_FS]);
	set_segment(&to->gs, &from->seg[SEG_GS]);
	set_segment(&to->ldt, &from->ldtr);
	set_segment(&to->tr, &from->tr);
	to->gdt.base = from->gdtr.base;
	to->gdt.limit = from->gdtr.limit;
	to->idt.base = from->idtr.base;
	to->idt.limit = from->idtr.limit;
	to->cr0 = from->cr0;
	to->cr2 = from->cr2;
	to->cr3 = from->cr3;
	to->cr4 = from->cr4;
	to->cr8 = from->cr8;
	to->efer = from->efer;
}

static void get_events(struct cpu_events *to,
                       const struct kvm_vcpu_events *from)
{
	memset(to, 0, sizeof(*to));
	if (from->exception.injected || from->exception.pending) {
		to->exception_pending = true;
		to->exception_vector = from->exception.nr;
		to->exception_has_error = from->exception.has_error_code;
		to->exception_error = from->exception.error_code;
	} else if (from->interrupt.injected) {
		to->exception_pending = true;
		to->exception_vector = from->interrupt.nr;
		to->soft_interrupt = from->interrupt.soft;
	}
	to->nmi_pending = from->nmi.pending || from->nmi.injected;
	to->nmi_masked = from->nmi.masked && !from->nmi.injected;
	to->interrupt_shadow = from->interrupt.shadow != 0;
}

static void set_events(struct kvm_vcpu_events *to,
                       const struct cpu_events *from)
{
	memset(to, 0, sizeof(*to));
	to->flags =
	    KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	if (from->exception_pending && !from->soft_interrupt &&
	    from->exception_vector < VEC_FIRST_FREE) {
		to->exception.injected = 1;
		to->exception.nr = from->exception_vector;
		to->exception.has_error_code = from->exception_has_error;
		to->exception.error_code = from->exception_error;
	} else if (from->exception_pending) {
		to->interrupt.injected = 1;
		to->interrupt.nr = from->exception_vector;
		to->interrupt.soft = from->soft_interrupt;
	}
	to->nmi.pending = from->nmi_pending;
	to->nmi.masked = from->nmi_masked;
	if (from->interrupt_shadow)
		to->interrupt.shadow = KVM_X86_SHADOW_INT_STI;
}

static enum cpu_mp_state get_mp_state(u32 mp_state)
{
	switch (mp_state) {
	case KVM_MP_STATE_HALTED:
		return CPU_HALTED;
	case KVM_MP_STATE_UNINITIALIZED:
		return CPU_WAIT_INIT;
	case KVM_MP_STATE_INIT_RECEIVED:
		return CPU_WAIT_SIPI;
	default:
		return CPU_RUNNING;
	}
}

static u32 set_mp_state(enum cpu_mp_state state)
{
	switch (state) {
	case CPU_HALTED:
		return KVM_MP_STATE_HALTED;
	case CPU_WAIT_INIT:
		return KVM_MP_STATE_UNINITIALIZED;
	case CPU_WAIT_SIPI:
		return KVM_MP_STATE_INIT_RECEIVED;
	default:
		return KVM_MP_STATE_RUNNABLE;
	}
}

/* PKRU lies where the processor's own XSAVE has it: kvm_cpuid_limit(). */
static u8 *pkru_in(struct vcpu *v, struct kvm_xsave *xsave)
{
	const struct cpuid_model *m = v->engine->cpuid;
	u32 at = cpuid_pkru_offset(m);

	_Static_assert(sizeof(xsave->region) >= CPUID_XSAVE_MAX,
	               "any offset of PKRU is in it");
	return cpuid_has(m, FEATURE_PKU) ? (u8 *)xsave->region + at : NULL;
}

/*
 * The canonical area is the beginning of the kernel's, components 0 to 2. The
 * kernel leaves its own marks in the bytes for software's use.
 */
static void get_xsave(struct vcpu *v, struct cpu_state *to,
                      struct kvm_xsave *from)
{
	u8 *pkru = pkru_in(v, from);
	u64 bv;

	memcpy(to->xsave, from->region, CPU_XSAVE_SIZE);
	memcpy(&bv, to->xsave + CPU_XSAVE_HEADER, sizeof(bv));
	if (pkru && bv & XCR0_PKRU)
		memcpy(&to->pkru, pkru, sizeof(u32));
	bv &= XCR0_X87 | XCR0_SSE | XCR0_AVX;
	memset(to->xsave + XSAVE_SOFTWARE, 0, CPU_XSAVE_YMMH - XSAVE_SOFTWARE);
	memcpy(to->xsave + CPU_XSAVE_HEADER, &bv, sizeof(bv));
}

static void get_debugregs(struct cpu_state *to,
                          const struct kvm_debugregs *from)
{
	memset(to->dr, 0, sizeof(to->dr));
	memcpy(to->dr, from->db, sizeof(from->db));
	to->dr[6] = from->dr6;
	to->dr[7] = from->dr7;
}

/* None of these can fail on a vCPU that is whole. */
void kvm_vcpu_get(struct vcpu *v, struct cpu_state *state)
{
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_mp_state mp_state;
	struct kvm_xcrs xcrs = { 0 };
	struct kvm_xsave xsave;
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	int r = kvm_call(v->fd, KVM_GET_VCPU_EVENTS, &events);

	r |= kvm_call(v->fd, KVM_GET_MP_STATE, &mp_state);
	r |= kvm_call(v->fd, KVM_GET_REGS, &regs);
	r |= read_sregs(v, &sregs);
	r |= kvm_call(v->fd, KVM_GET_XSAVE, &xsave);
	r |= kvm_call(v->fd, KVM_GET_DEBUGREGS, &debugregs);
	ASSERT(r == 0);
	memset(state, 0, sizeof(*state));
	/* Refused where the host has no XSAVE: XCR0 is then not there. */
	kvm_call(v->fd, KVM_GET_XCRS, &xcrs);
	state->xcr0 = xcrs.nr_xcrs ? xcrs.xcrs[0].value : XCR0_X87;
	get_events(&state->events, &events);
	state->mp_state = get_mp_state(mp_state.mp_state);
	get_regs(state, &regs);
	get_sregs(state, &sregs);
	get_xsave(v, state, &xsave);
	get_debugregs(state, &debugregs);
	kvm_msrs_get(v, state);
}

/* A component that this processor lacks is refused, even if all is zero. */
static void set_xsave(struct vcpu *v, struct kvm_xsave *to,
                      const struct cpu_state *from)
{
	u8 *pkru = pkru_in(v, to);
	u64 bv;

	memcpy(to->region, from->xsave, CPU_XSAVE_SIZE);
	memcpy(&bv, from->xsave + CPU_XSAVE_HEADER, sizeof(bv));
	if (!cpuid_has(v->engine->cpuid, FEATURE_AVX))
		bv &= ~XCR0_AVX;
	if (pkru) {
		bv |= XCR0_PKRU;
		memcpy(pkru, &from->pkru, sizeof(u32));
	}
	memcpy((u8 *)to->region + CPU_XSAVE_HEADER, &bv, sizeof(bv));
}

static int set_extended(struct vcpu *v, const struct cpu_state *state)
{
	struct kvm_xcrs xcrs = {
		.nr_xcrs = 1,
		.xcrs = { { .xcr = 0, .value = state->xcr0 } },
	};
	struct kvm_xsave xsave = { 0 };
	int r;

	set_xsave(v, &xsave, state);
	r = kvm_call(v->fd, KVM_SET_XCRS, &xcrs);
	if (r == -EINVAL && state->xcr0 == XCR0_X87)
		r = 0; /* a host without XSAVE */
	if (r == 0)
		r = kvm_call(v->fd, KVM_SET_XSAVE, &xsave);
	return r;
}

static int set_rest(struct vcpu *v, const struct cpu_state *state)
{
	struct kvm_debugregs debugregs = {
		.dr6 = state->dr[6],
		.dr7 = state->dr[7],
	};
	struct kvm_mp_state mp_state = {
		.mp_state = set_mp_state(state->mp_state),
	};
	struct kvm_vcpu_events events;
	int r;

	memcpy(debugregs.db, state->dr, sizeof(debugregs.db));
	set_events(&events, &state->events);
	r = kvm_call(v->fd, KVM_SET_DEBUGREGS, &debugregs);
	if (r == 0)
		r = kvm_call(v->fd, KVM_SET_MP_STATE, &mp_state);
	if (r == 0)
		r = kvm_call(v->fd, KVM_SET_VCPU_EVENTS, &events);
	return r;
}

int kvm_vcpu_set(struct vcpu *v, const struct cpu_state *state,
                 struct error *err)
{
	const char *what = "registers";
	struct kvm_sregs2 sregs;
	struct kvm_regs regs;
	int r = read_sregs(v, &sregs);

	set_regs(&regs, state);
	set_sregs(&sregs, state);
	if (r == 0)
		r = kvm_call(v->fd, KVM_SET_REGS, &regs);
	if (r == 0) {
		what = "control or segment registers";
		r = write_sregs(v, &sregs, &state->events);
	}
	if (r == 0) {
		what = "FPU or XCR0";
		r = set_extended(v, state);
	}
	if (r == 0) {
		what = "debug registers, run state or events";
		r = set_rest(v, state);
	}
	if (r < 0)
		return error_set(err, r,
		                 "kvm: the kernel refuses the %s of vCPU %u: "
		                 "%s",
		                 what, v->index, strerror(-r));
	return kvm_msrs_set(v, state, err);
}
