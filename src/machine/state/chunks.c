/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunks - the saved form of what is no device: the machine's clocks, vCPUs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "machine/state/state.h"

const struct field saved_machine_fields[] = {
	FIELD_VALUE(struct saved_machine, clock_ns),
	FIELD_VALUE(struct saved_machine, tsc),
	FIELD_VALUE(struct saved_machine, tsc_hz),
	FIELD_VALUE(struct saved_machine, memory_bytes),
	FIELD_VALUE(struct saved_machine, cpus),
	FIELD_BLOB(struct saved_machine, console_last),
	FIELD_VALUE(struct saved_machine, pv_ahead_ns),
	FIELD_LAST,
};

const struct field saved_cpu_fields[] = {
	FIELD_VALUE(struct saved_cpu, pv_system_time),
	FIELD_VALUE(struct saved_cpu, pv_wall_clock),
	FIELD_VALUE(struct saved_cpu, pv_version),
	FIELD_VALUE(struct saved_cpu, events),
	FIELD_VALUE(struct saved_cpu, sipi_vector),
	FIELD_VALUE(struct saved_cpu, pv_steal_time),
	FIELD_VALUE(struct saved_cpu, pv_steal_version),
	FIELD_LAST,
};

/* struct cpu_segment is 16 bytes without holes: base, limit, selector, attr. */
_Static_assert(sizeof(struct cpu_segment) == 16, "saved as it is");

const struct field cpu_state_fields[] = {
	FIELD_BLOB(struct cpu_state, xsave),
	FIELD_ARRAY(struct cpu_state, gpr),
	FIELD_VALUE(struct cpu_state, rip),
	FIELD_VALUE(struct cpu_state, rflags),
	{ "seg", FIELD_BYTES, offsetof(struct cpu_state, seg),
	  sizeof(struct cpu_segment), SEG_COUNT },
	FIELD_BLOB(struct cpu_state, ldtr),
	FIELD_BLOB(struct cpu_state, tr),
	FIELD_VALUE(struct cpu_state, gdtr.base),
	FIELD_VALUE(struct cpu_state, gdtr.limit),
	FIELD_VALUE(struct cpu_state, idtr.base),
	FIELD_VALUE(struct cpu_state, idtr.limit),
	FIELD_VALUE(struct cpu_state, cr0),
	FIELD_VALUE(struct cpu_state, cr2),
	FIELD_VALUE(struct cpu_state, cr3),
	FIELD_VALUE(struct cpu_state, cr4),
	FIELD_VALUE(struct cpu_state, cr8),
	FIELD_VALUE(struct cpu_state, efer),
	FIELD_VALUE(struct cpu_state, xcr0),
	FIELD_ARRAY(struct cpu_state, dr),
	FIELD_VALUE(struct cpu_state, star),
	FIELD_VALUE(struct cpu_state, lstar),
	FIELD_VALUE(struct cpu_state, cstar),
	FIELD_VALUE(struct cpu_state, sfmask),
	FIELD_VALUE(struct cpu_state, kernel_gs_base),
	FIELD_VALUE(struct cpu_state, sysenter_cs),
	FIELD_VALUE(struct cpu_state, sysenter_esp),
	FIELD_VALUE(struct cpu_state, sysenter_eip),
	FIELD_VALUE(struct cpu_state, tsc_aux),
	FIELD_VALUE(struct cpu_state, pat),
	FIELD_VALUE(struct cpu_state, misc_enable),
	FIELD_VALUE(struct cpu_state, xss),
	FIELD_VALUE(struct cpu_state, pkru),
	FIELD_VALUE(struct cpu_state, pkrs),
	FIELD_VALUE(struct cpu_state, tsc),
	FIELD_VALUE(struct cpu_state, tsc_adjust),
	FIELD_VALUE(struct cpu_state, mtrr.def_type),
	FIELD_ARRAY(struct cpu_state, mtrr.fixed),
	FIELD_ARRAY(struct cpu_state, mtrr.base),
	FIELD_ARRAY(struct cpu_state, mtrr.mask),
	FIELD_VALUE(struct cpu_state, events.exception_pending),
	FIELD_VALUE(struct cpu_state, events.exception_has_error),
	FIELD_VALUE(struct cpu_state, events.exception_vector),
	FIELD_VALUE(struct cpu_state, events.exception_error),
	FIELD_VALUE(struct cpu_state, events.nmi_pending),
	FIELD_VALUE(struct cpu_state, events.nmi_masked),
	FIELD_VALUE(struct cpu_state, events.interrupt_shadow),
	FIELD_VALUE(struct cpu_state, events.soft_interrupt),
	FIELD_VALUE(struct cpu_state, events.insn_length),
	FIELD_VALUE(struct cpu_state, mp_state),
	FIELD_LAST,
};

void cpu_instance(char name[16], unsigned cpu)
{
	snprintf(name, 16, "cpu%u", cpu);
}

/* A bool that holds 2 is undefined behaviour in the making. */
static void make_bool(bool *b)
{
	u8 byte;

	memcpy(&byte, b, 1);
	*b = byte != 0;
}

static u64 get64(const u8 *p)
{
	u64 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

int cpu_state_check(struct cpu_state *s, struct error *err)
{
	const char *wrong = NULL;
	u32 mxcsr, mp_state;

	make_bool(&s->events.exception_pending);
	make_bool(&s->events.exception_has_error);
	make_bool(&s->events.nmi_pending);
	make_bool(&s->events.nmi_masked);
	make_bool(&s->events.interrupt_shadow);
	make_bool(&s->events.soft_interrupt);
	memcpy(&mxcsr, s->xsave + CPU_XSAVE_MXCSR, sizeof(mxcsr));
	memcpy(&mp_state, &s->mp_state, sizeof(mp_state));
	/* Intel SDM vol. 1 10.2.3, 13.4.2, 13.3; vol. 3 2.5, 4.1. */
	if (mxcsr & 0xffff0000)
		wrong = "MXCSR";
	else if (get64(s->xsave + CPU_XSAVE_HEADER) &
	         ~(XCR0_X87 | XCR0_SSE | XCR0_AVX))
		wrong = "XSTATE_BV";
	else if (s->xcr0 & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_PKRU) ||
	         !(s->xcr0 & XCR0_X87))
		wrong = "XCR0";
	else if (s->pkru >> 32 || s->pkrs >> 32)
		wrong = "the rights by protection key";
	else if ((s->cr0 & CR0_PG && !(s->cr0 & CR0_PE)) || s->cr0 >> 32)
		wrong = "CR0";
	else if (s->efer & EFER_LMA &&
	         (!(s->efer & EFER_LME) || !(s->cr0 & CR0_PG) ||
	          !(s->cr4 & CR4_PAE)))
		wrong = "EFER";
	else if (mp_state > CPU_WAIT_SIPI)
		wrong = "the activity";
	if (wrong)
		return error_set(err, -EPROTO,
		                 "the saved machine is damaged: %s of a vCPU "
		                 "has no legal value",
		                 wrong);
	return 0;
}
