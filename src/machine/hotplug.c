/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hotplug - vCPUs that come while the machine runs.
 *
 * All that may ever be are made at the start, with their threads, local APICs
 * and part of the saved state: engines count them once, and the process is shut
 * in before it runs. Those that are not there yet sleep, and nothing that a
 * guest sends to their APICs wakes them. One that comes stands as after
 * power-on and waits for the guest's INIT and SIPI, of which ACPI tells the
 * guest (devices/chips/cpu_hotplug.c, acpi/cpus.c).
 */
#include <errno.h>

#include "base/error.h"
#include "devices/chips/acpi_pm.h"
#include "devices/chips/cpu_hotplug.h"
#include "machine/internal.h"

bool cpu_is_there(const struct machine_cpu *cpu)
{
	return cpu->index < atomic_load(&cpu->machine->present);
}

/* In step with the first one's counter. */
static int bring(struct machine_cpu *cpu, struct error *err)
{
	struct machine *m = cpu->machine;
	const struct engine_type *type = m->engine_type;
	struct cpu_state state;
	int rc;

	cpu_state_reset(&state, false, m->cpuid_1_eax);
	rc = cpu_reset(cpu, &state, err);
	if (rc == 0 && type->vcpu_tsc_offset_set)
		type->vcpu_tsc_offset_set(
		    cpu->vcpu, type->vcpu_tsc_offset_get(m->cpus[0].vcpu));
	return rc;
}

int machine_add_cpus(struct machine *m, unsigned count, struct error *err)
{
	unsigned there = atomic_load(&m->present);
	int rc = 0;

	if (count > m->config.cpus) {
		error_set(err, -ENOSPC,
		          "the machine can have %u vCPUs while it runs, not %u",
		          m->config.cpus, count);
		return error_hint(err, "give it more when it is stopped: "
		                       "--max-cpus");
	}
	if (count <= there)
		return 0;
	machine_hold(m);
	while (rc == 0 && there < count) {
		rc = bring(&m->cpus[there], err);
		if (rc == 0)
			atomic_store(&m->present, ++there);
	}
	cpu_hotplug_insert(m->plug, there);
	board_tables(m);
	machine_release(m);
	acpi_pm_gpe(m->pm, CPU_HOTPLUG_GPE);
	return rc;
}

void hotplug_restored(struct machine *m)
{
	atomic_store(&m->present, cpu_hotplug_present(m->plug));
	board_tables(m);
}
