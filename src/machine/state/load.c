/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load - a machine out of a file, into one that was just reset.
 *
 * The order matters: memory first, since devices look at their rings in it;
 * then clocks, which every timer reads; then interrupt controllers, which
 * must be there for what comes due; then devices, oldest first. vCPUs stand
 * before their APICs, since the one brings CR8 and the TSC that the other
 * knows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/error.h"
#include "devices/virtio/net.h"
#include "engine/x86/cpuid_state.h"
#include "machine/console.h"
#include "machine/generation.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"
#include "machine/steal.h"

enum {
	CHUNKS_MAX = 64 << 20,
	ABOUT_MAX = 1 << 20,
};

static const char *const known_sections[] = { "about",  "state",  "packed",
	                                      "blocks", "map",    "plain",
	                                      "sums",   "layers", NULL };

/* ---- before the engine ---- */

/* The guest has measured its TSC: it must go on at the same pace. */
static int check_tsc(u64 saved, u64 here, struct error *err)
{
	if (saved == here)
		return 0;
	error_set(err, -ENOTSUP,
	          "the machine was saved where the time stamp counter runs at "
	          "%" PRIu64 " MHz; here it runs at %" PRIu64 " MHz",
	          saved / 1000000, here / 1000000);
	return error_hint(err, "resume it on a host like the first one");
}

static int check_shape(struct machine *m, struct error *err)
{
	struct saved_machine saved = { 0 };
	int rc =
	    state_load(&m->restore->reader, "machine", "clocks",
	               MACHINE_STATE_MAJOR, saved_machine_fields, &saved, err);

	if (rc < 0)
		return rc;
	if (saved.cpus != m->config.cpus)
		return error_set(err, -EINVAL,
		                 "the machine was saved with %u vCPUs, not %u",
		                 saved.cpus, m->config.cpus);
	if (saved.memory_bytes != m->config.memory_bytes)
		return error_set(err, -EINVAL,
		                 "the machine was saved with %" PRIu64
		                 " MiB of memory, not %" PRIu64,
		                 saved.memory_bytes / MIB,
		                 m->config.memory_bytes / MIB);
	m->restore->tsc_hz = saved.tsc_hz;
	return 0;
}

int restore_begin(struct machine *m, struct error *err)
{
	struct machine_restore *r = xalloc(sizeof(*r));
	int rc;

	m->restore = r;
	rc = state_file_open(&r->file, m->config.restore_fd, err);
	if (rc == 0)
		rc = state_file_knows(&r->file, known_sections, err);
	if (rc == 0)
		rc = state_file_read(&r->file, "state", CHUNKS_MAX, &r->chunks,
		                     &r->reader.size, err);
	r->reader.data = r->chunks;
	if (rc == 0 && m->config.restore_verify)
		rc = pages_verify(&r->file, err);
	return rc < 0 ? rc : check_shape(m, err);
}

int restore_cpuid(struct machine *m, const struct cpuid_config *config,
                  struct error *err)
{
	int rc = check_tsc(m->restore->tsc_hz, m->tsc_hz, err);

	if (rc < 0)
		return rc;
	return cpuid_model_load(&m->cpuid, &m->restore->reader, config, err);
}

void restore_fini(struct machine *m)
{
	if (m->restore)
		free(m->restore->chunks);
	free(m->restore);
	m->restore = NULL;
}

/* ---- devices ---- */

static bool has_device(const struct machine *m, const char *type,
                       const char *instance)
{
	for (const struct device *d = m->devices; d; d = d->next)
		if (!strcmp(d->type->name, type) &&
		    !strcmp(d->instance, instance))
			return true;
	return kernel_has_chip(m, type);
}

/* A device that was saved and is not here would be missed by the guest. */
static int check_devices(const struct machine *m, struct error *err)
{
	u8 *text = NULL;
	size_t size, i;
	json_t *about, *d;
	int rc = state_file_read(&m->restore->file, "about", ABOUT_MAX, &text,
	                         &size, err);

	if (rc < 0)
		return rc;
	about = json_loadb((char *)text, size, 0, NULL);
	free(text);
	json_array_foreach(json_object_get(about, "devices"), i, d)
	{
		const char *type = "", *instance = "";

		json_unpack(d, "{s:s,s:s}", "type", &type, "instance",
		            &instance);
		if (rc == 0 && !has_device(m, type, instance))
			rc = error_set(err, -EINVAL,
			               "the machine was saved with a device "
			               "%s at %s, which it doesn't have here",
			               type, instance);
	}
	json_decref(about);
	return rc;
}

static int load_device(struct machine *m, struct device *dev, struct error *err)
{
	const struct device_type *type = dev->type;
	int rc;

	device_lock(dev);
	rc = state_load(&m->restore->reader, type->name, dev->instance,
	                type->state_major, type->state, dev, err);
	if (rc == 0 && type->loaded)
		rc = type->loaded(dev, err);
	device_unlock(dev);
	if (rc == -ENOENT)
		error_set(err, rc,
		          "the machine was saved without the device %s at %s, "
		          "which it has here",
		          type->name, dev->instance);
	return rc;
}

/* The list is newest first. */
static int load_devices(struct machine *m, struct device *dev,
                        struct error *err)
{
	int rc = dev ? load_devices(m, dev->next, err) : 0;

	return rc < 0 || !dev ? rc : load_device(m, dev, err);
}

/* ---- clocks and vCPUs ---- */

static int load_clocks(struct machine *m, struct error *err)
{
	struct saved_machine saved = { 0 };
	int rc =
	    state_load(&m->restore->reader, "machine", "clocks",
	               MACHINE_STATE_MAJOR, saved_machine_fields, &saved, err);

	if (rc < 0)
		return rc;
	clock_set_ns(m->host.clock, MIN(saved.clock_ns, (u64)INT64_MAX / 2));
	m->tsc_offset = saved.tsc - m->stopped_tsc;
	m->pv_ahead_ns = saved.pv_ahead_ns;
	for (unsigned i = 0; i < m->config.serial_count; i++)
		if (m->consoles[i])
			console_set_last(m->consoles[i], saved.console_last[i]);
	return 0;
}

/* What waits for the vCPU's thread waits in the kernel instead, for an engine
 * that has its processors there. */
static void take_events(struct machine_cpu *cpu, struct cpu_state *state,
                        const struct saved_cpu *saved)
{
	if (saved->events & CPU_EVENT_INIT) {
		cpu_state_init(state, cpu->machine->cpuid_1_eax);
		state->mp_state = cpu->index ? CPU_WAIT_SIPI : CPU_RUNNING;
	}
	if (saved->events & CPU_EVENT_SIPI && cpu->index &&
	    (state->mp_state == CPU_WAIT_SIPI ||
	     state->mp_state == CPU_WAIT_INIT)) {
		cpu_state_sipi(state, saved->sipi_vector);
		state->mp_state = CPU_RUNNING;
	}
	if (saved->events & CPU_EVENT_NMI)
		state->events.nmi_pending = true;
}

static void load_paravirtual(struct machine_cpu *cpu,
                             const struct saved_cpu *saved)
{
	cpu->pv.system_time = saved->pv_system_time;
	cpu->pv.wall_clock = saved->pv_wall_clock;
	cpu->pv.version = saved->pv_version;
	cpu->pv.steal_time = saved->pv_steal_time;
	cpu->pv.steal_version = saved->pv_steal_version;
	atomic_store(&cpu->sipi_vector, saved->sipi_vector);
	atomic_fetch_or(&cpu->events,
	                saved->events &
	                    (CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SIPI));
}

static int load_cpu(struct machine_cpu *cpu, struct error *err)
{
	const struct engine_type *type = cpu->machine->engine_type;
	struct machine *m = cpu->machine;
	struct cpu_state state;
	struct saved_cpu saved = { 0 };
	char name[16];
	int rc;

	cpu_instance(name, cpu->index);
	memset(&state, 0, sizeof(state));
	rc = state_load(&m->restore->reader, "cpu", name, CPU_STATE_MAJOR,
	                cpu_state_fields, &state, err);
	if (rc == 0)
		rc = state_load(&m->restore->reader, "machine-cpu", name,
		                MACHINE_STATE_MAJOR, saved_cpu_fields, &saved,
		                err);
	if (rc == 0)
		rc = cpu_state_check(&state, err);
	if (rc < 0)
		return rc;
	if (!cpu->lapic)
		take_events(cpu, &state, &saved);
	rc = type->vcpu_set(cpu->vcpu, &state, err);
	if (rc < 0)
		return rc;
	if (type->vcpu_tsc_offset_set)
		type->vcpu_tsc_offset_set(cpu->vcpu,
		                          state.tsc - m->stopped_tsc);
	cpu->activity = CPU_ACTIVE;
	if (!cpu->lapic)
		return 0;
	load_paravirtual(cpu, &saved);
	/* A halted one runs, finds nothing to do, and halts again. */
	if (state.mp_state == CPU_WAIT_INIT || state.mp_state == CPU_WAIT_SIPI)
		cpu->activity = CPU_WAITS_SIPI;
	return 0;
}

static int load_lapic(struct machine_cpu *cpu, struct error *err)
{
	const struct state_reader *r = &cpu->machine->restore->reader;
	struct lapic_state state = { 0 };
	struct saved_cpu saved = { 0 };
	char name[16];
	int rc;

	cpu_instance(name, cpu->index);
	rc = state_load(r, "lapic", name, MACHINE_STATE_MAJOR,
	                lapic_state_fields, &state, err);
	if (rc < 0)
		return rc;
	if (cpu->lapic) {
		lapic_load(cpu->lapic, &state);
		return 0;
	}
	rc = state_load(r, "machine-cpu", name, MACHINE_STATE_MAJOR,
	                saved_cpu_fields, &saved, err);
	return rc < 0 ? rc : kernel_local_load(cpu, &state, &saved, err);
}

/* Switches learn where the machine is now (virtio 1.2 section 5.1.6.5.4). */
static void announce(struct machine *m)
{
	for (struct device *d = m->devices; d; d = d->next) {
		if (strcmp(d->type->name, "virtio-net") != 0)
			continue;
		/* The other one goes on, with the old address. */
		if (m->config.restore_layer_count)
			virtio_net_new_address(d);
		else
			virtio_net_announce(d);
	}
}

static int load_memory(struct machine *m, struct error *err)
{
	enum pages_when when = PAGES_TOUCHED;

	if (m->engine_type->memory_on_demand)
		when = PAGES_ASKED_FOR;
	else if (m->config.share_memory)
		when = PAGES_NOW; /* it is mapped anew before it runs */
	return pages_load(&m->restore->file, m->memory,
	                  m->config.restore_layers,
	                  m->config.restore_layer_count, when, &m->source, err);
}

int restore_machine(struct machine *m, struct error *err)
{
	int rc;

	if (m->engine_type->irqchip)
		m->engine_type->irqchip->clock_stop(m->engine);
	m->stopped_tsc = host_tsc();
	rc = check_devices(m, err);
	if (rc == 0)
		rc = load_memory(m, err);
	if (rc == 0)
		rc = load_clocks(m, err);
	/* The TSC before its APIC's deadline; CR8 is the APIC's own, so the
	 * APIC comes after the vCPU that brings it, too. */
	for (unsigned i = 0; rc == 0 && i < m->config.cpus; i++)
		rc = load_cpu(&m->cpus[i], err);
	for (unsigned i = 0; rc == 0 && i < m->config.cpus; i++)
		rc = load_lapic(&m->cpus[i], err);
	if (rc == 0)
		rc = load_devices(m, m->devices, err);
	/* Lines are where they belong: none is an edge to what comes now. */
	if (rc == 0 && m->engine_type->irqchip)
		rc = kernel_chips_load(
		    m, clock_now_ns(m->host.clock) + m->pv_ahead_ns, err);
	if (rc == 0) {
		hotplug_restored(m);
		generation_restored(m);
		steal_restored(m);
		announce(m);
	}
	/* They have looked at their rings: at zeroes where nothing came. */
	if (m->source && pages_source_check(m->source, err) < 0)
		rc = err->code;
	return rc;
}
