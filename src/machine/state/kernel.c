/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel - interrupt controllers, PIT and paravirtual clock that the host's
 * kernel holds, in the chunks of our own devices: a machine that was saved
 * under one engine finds them under the other.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "guest/irqchip.h"
#include "guest/memory.h"
#include "machine/state/state.h"

const char *const kernel_chip_names[] = { "pic", "ioapic", "pit", NULL };

enum {
	VERSION_OF_CLOCK = 0, /* where the guest's records have theirs */
	VERSION_OF_STEAL = 8,
};
#define STEAL_ADDRESS (~(u64)63)

bool kernel_has_chip(const struct machine *m, const char *type)
{
	if (!m->engine_type->irqchip)
		return false;
	for (const char *const *c = kernel_chip_names; *c; c++)
		if (!strcmp(*c, type))
			return true;
	return false;
}

int kernel_chips_save(struct machine *m, struct state_writer *w,
                      u64 *pv_clock_ns, struct error *err)
{
	struct irqchip_state s = { 0 };
	int rc = m->engine_type->irqchip->get(m->engine,
	                                      clock_now_ns(m->host.clock), &s);

	if (rc < 0)
		return error_set(err, rc,
		                 "cannot read the interrupt controllers in "
		                 "the kernel: %s",
		                 strerror(-rc));
	state_save(w, "pic", "pic", IRQCHIP_STATE_MAJOR, 0, pic_state_fields,
	           &s.pic);
	state_save(w, "ioapic", "ioapic", IRQCHIP_STATE_MAJOR, 0,
	           ioapic_state_fields, &s.ioapic);
	state_save(w, "pit", "pit", IRQCHIP_STATE_MAJOR, 0, pit_state_fields,
	           &s.pit);
	*pv_clock_ns = s.pv_clock_ns;
	return 0;
}

int kernel_chips_load(struct machine *m, u64 pv_clock_ns, struct error *err)
{
	const struct state_reader *r = &m->restore->reader;
	struct irqchip_state s = { .pv_clock_ns = pv_clock_ns };
	int rc = state_load(r, "pic", "pic", IRQCHIP_STATE_MAJOR,
	                    pic_state_fields, &s.pic, err);

	if (rc == 0)
		rc = state_load(r, "ioapic", "ioapic", IRQCHIP_STATE_MAJOR,
		                ioapic_state_fields, &s.ioapic, err);
	if (rc == 0)
		rc = state_load(r, "pit", "pit", IRQCHIP_STATE_MAJOR,
		                pit_state_fields, &s.pit, err);
	if (rc < 0)
		return rc;
	rc = m->engine_type->irqchip->set(m->engine,
	                                  clock_now_ns(m->host.clock), &s);
	if (rc < 0)
		return error_set(err, rc,
		                 "the kernel refuses the saved interrupt "
		                 "controllers: %s",
		                 strerror(-rc));
	return 0;
}

/* The number that the guest saw last, even: it reads on from there. */
static u32 version_at(const struct machine *m, u64 msr, u64 address,
                      unsigned where)
{
	u32 version = 0;

	if (!(msr & 1) ||
	    !memory_read(m->memory, address + where, &version, sizeof(version)))
		return 0;
	return (version + 1) & ~(u32)1;
}

int kernel_local_save(struct machine_cpu *cpu, struct lapic_state *lapic,
                      struct saved_cpu *saved, struct error *err)
{
	const struct machine *m = cpu->machine;
	struct irqchip_local local = { 0 };
	int rc = m->engine_type->irqchip->local_get(cpu->vcpu, &local);

	if (rc < 0)
		return error_set(err, rc,
		                 "cannot read the interrupt controller of "
		                 "vCPU %u in the kernel: %s",
		                 cpu->index, strerror(-rc));
	*lapic = local.lapic;
	saved->pv_system_time = local.pv_system_time;
	saved->pv_wall_clock = local.pv_wall_clock;
	saved->pv_version =
	    version_at(m, local.pv_system_time, local.pv_system_time & ~(u64)1,
	               VERSION_OF_CLOCK);
	saved->pv_steal_time = local.pv_steal_time;
	saved->pv_steal_version =
	    version_at(m, local.pv_steal_time,
	               local.pv_steal_time & STEAL_ADDRESS, VERSION_OF_STEAL);
	return 0;
}

int kernel_local_load(struct machine_cpu *cpu, const struct lapic_state *lapic,
                      const struct saved_cpu *saved, struct error *err)
{
	const struct irqchip_local local = {
		.lapic = *lapic,
		.pv_system_time = saved->pv_system_time,
		.pv_wall_clock = saved->pv_wall_clock,
		.pv_steal_time = saved->pv_steal_time,
	};
	int rc =
	    cpu->machine->engine_type->irqchip->local_set(cpu->vcpu, &local);

	if (rc < 0)
		return error_set(err, rc,
		                 "the kernel refuses the saved interrupt "
		                 "controller of vCPU %u: %s",
		                 cpu->index, strerror(-rc));
	return 0;
}
