/* SPDX-License-Identifier: Apache-2.0 */
/*
 * save - a machine that stands still, into a file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "base/error.h"
#include "engine/x86/cpuid_state.h"
#include "machine/console.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"
#include "storage/block.h"

static int save_clocks(struct machine *m, struct state_writer *w,
                       struct error *err)
{
	struct saved_machine saved = {
		.clock_ns = clock_now_ns(m->host.clock),
		.tsc = m->stopped_tsc + m->tsc_offset,
		.tsc_hz = m->tsc_hz,
		.memory_bytes = m->config.memory_bytes,
		.cpus = m->config.cpus,
		.pv_ahead_ns = m->pv_ahead_ns,
	};
	u64 pv_clock_ns = 0;
	int rc = 0;

	if (m->engine_type->irqchip) {
		rc = kernel_chips_save(m, w, &pv_clock_ns, err);
		saved.pv_ahead_ns = pv_clock_ns - saved.clock_ns;
		saved.tsc = m->stopped_tsc + machine_tsc_offset(m, 0);
	}
	for (unsigned i = 0; i < m->config.serial_count; i++)
		if (m->consoles[i])
			saved.console_last[i] =
			    (u8)console_last(m->consoles[i]);
	state_save(w, "machine", "clocks", MACHINE_STATE_MAJOR, 2,
	           saved_machine_fields, &saved);
	return rc;
}

static int save_cpu(struct machine_cpu *cpu, struct state_writer *w,
                    struct error *err)
{
	struct machine *m = cpu->machine;
	struct saved_cpu saved = {
		.pv_system_time = cpu->pv.system_time,
		.pv_wall_clock = cpu->pv.wall_clock,
		.pv_version = cpu->pv.version,
		.events = cpu->events &
		          (CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SIPI),
		.sipi_vector = cpu->sipi_vector,
		.pv_steal_time = cpu->pv.steal_time,
		.pv_steal_version = cpu->pv.steal_version,
	};
	struct lapic_state lapic;
	struct cpu_state state;
	char name[16];
	int rc = 0;

	cpu_instance(name, cpu->index);
	m->engine_type->vcpu_get(cpu->vcpu, &state);
	/* Not what it reads now: what it read when time stopped. */
	state.tsc = m->stopped_tsc + machine_tsc_offset(m, cpu->index);
	if (cpu->activity == CPU_WAITS_SIPI)
		state.mp_state = CPU_WAIT_SIPI;
	else if (cpu->activity == CPU_HALT)
		state.mp_state = CPU_HALTED;
	if (cpu->lapic)
		lapic_save(cpu->lapic, &lapic);
	else
		rc = kernel_local_save(cpu, &lapic, &saved, err);
	state_save(w, "cpu", name, CPU_STATE_MAJOR, 0, cpu_state_fields,
	           &state);
	state_save(w, "machine-cpu", name, MACHINE_STATE_MAJOR, 0,
	           saved_cpu_fields, &saved);
	state_save(w, "lapic", name, MACHINE_STATE_MAJOR, 0, lapic_state_fields,
	           &lapic);
	return rc;
}

static void save_device(struct device *dev, struct state_writer *w)
{
	const struct device_type *type = dev->type;

	device_lock(dev);
	state_save(w, type->name, dev->instance, type->state_major,
	           type->state_minor, type->state, dev);
	device_unlock(dev);
}

/* Oldest first; chips in the kernel count as devices. */
static json_t *device_list(const struct machine *m)
{
	json_t *devices = json_array();

	for (const struct device *d = m->devices; d; d = d->next)
		json_array_insert_new(devices, 0,
		                      json_pack("{s:s,s:s}", "type",
		                                d->type->name, "instance",
		                                d->instance));
	for (const char *const *c = kernel_chip_names; *c; c++)
		if (kernel_has_chip(m, *c))
			json_array_append_new(
			    devices,
			    json_pack("{s:s,s:s}", "type", *c, "instance", *c));
	return devices;
}

static json_t *about(const struct machine *m)
{
	json_t *origin = NULL;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (m->config.origin)
		origin = json_loads(m->config.origin, 0, NULL);
	return json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:o,s:o*}", "name",
	                 m->config.name ? m->config.name : "", "engine",
	                 m->engine_type->name, "program", ATOLL_VERSION,
	                 "saved_at", (json_int_t)now.tv_sec, "cpus",
	                 (json_int_t)m->config.cpus, "memory_bytes",
	                 (json_int_t)m->config.memory_bytes, "devices",
	                 device_list(m), "origin", origin);
}

static int save_about(const struct machine *m, struct state_file *f,
                      struct error *err)
{
	json_t *json = about(m);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	int rc;

	json_decref(json);
	if (!text)
		return error_set(err, -ENOMEM, "no memory to save the machine");
	rc = state_file_add(f, "about", 0, text, strlen(text), err);
	free(text);
	return rc;
}

int state_flush_disks(struct machine *m, struct error *err)
{
	for (unsigned i = 0; i < m->config.disk_count; i++) {
		int rc;

		if (!m->blocks[i] || m->config.disks[i].readonly)
			continue;
		block_drain(m->blocks[i]);
		rc = block_sync(m->blocks[i], BLOCK_FLUSH, 0, NULL, 0);
		if (rc < 0)
			return error_set(err, rc, "cannot flush disk %s: %s",
			                 m->config.disks[i].path,
			                 strerror(-rc));
	}
	return 0;
}

int state_collect(struct machine *m, struct state_writer *w, struct error *err)
{
	int rc = save_clocks(m, w, err);

	cpuid_model_save(m->cpuid, w);
	for (unsigned i = 0; rc == 0 && i < m->config.cpus; i++)
		rc = save_cpu(&m->cpus[i], w, err);
	for (struct device *d = m->devices; d; d = d->next)
		save_device(d, w);
	return rc;
}

/* Work under way comes back, into memory that is saved after it, and may
 * bring more work for the disks. */
void state_quiesce(struct machine *m)
{
	for (struct device *d = m->devices; d; d = d->next)
		if (d->type->quiesce)
			d->type->quiesce(d);
}

int state_begin(const struct machine *m, struct state_file *f, int fd,
                const struct state_writer *w, struct error *err)
{
	int rc = state_file_begin(f, fd, err);

	if (rc == 0)
		rc = save_about(m, f, err);
	if (rc == 0)
		rc = state_file_add(f, "state", STATE_SECTION_NEEDED, w->data,
		                    w->used, err);
	return rc;
}

int state_may_save(const struct machine *m, struct error *err)
{
	if (m->ended)
		return error_set(err, -ESHUTDOWN, "the machine has ended");
	return 0;
}
