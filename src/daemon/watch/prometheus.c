/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prometheus - figures in the text format of Prometheus. Names of machines are
 * letters, digits and "._-" (spec.c), so that labels need no escaping.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/watch/watch.h"

static void title(FILE *to, const char *name, const char *type,
                  const char *help)
{
	fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void figure(FILE *to, const char *name, const char *type,
                   const char *help, u64 value)
{
	title(to, name, type, help);
	fprintf(to, "%s %" PRIu64 "\n", name, value);
}

static u64 spec_bytes(const struct vm *vm)
{
	return (u64)json_integer_value(
	    json_object_get(vm->spec, "memory_bytes"));
}

static double cpu(const struct vm_rates *r)
{
	return (double)r->process / 1e6;
}

static double ready(const struct vm_rates *r)
{
	return (double)r->ready / 1e6;
}

static double steal(const struct vm_rates *r)
{
	return (double)r->steal / 1e6;
}

#define BYTES(fn, field)                                                       \
	static double fn(const struct vm_rates *r)                             \
	{                                                                      \
		return (double)r->field;                                       \
	}
BYTES(resident, resident_bytes)
BYTES(swapped, swap_bytes)
BYTES(balloon, balloon_bytes)
BYTES(disk_read, disk_read_bytes)
BYTES(disk_write, disk_write_bytes)
BYTES(disk_reads, disk_reads)
BYTES(disk_writes, disk_writes)
BYTES(net_sent, net_sent_bytes)
BYTES(net_received, net_received_bytes)

static double merged(const struct vm_rates *r)
{
	return (double)MAX(r->merged_bytes, (s64)0);
}

static double used(const struct vm_rates *r)
{
	return (double)watch_used_bytes(r);
}

static double read_seconds(const struct vm_rates *r)
{
	return (double)r->disk_read_us / 1e6;
}

static double write_seconds(const struct vm_rates *r)
{
	return (double)r->disk_write_us / 1e6;
}

static const struct {
	const char *name, *help;
	double (*value)(const struct vm_rates *r);
} gauges[] = {
	{ "atoll_vm_cpu_ratio", "CPU time by the second, whole process.", cpu },
	{ "atoll_vm_ready_ratio",
	  "Time by the second that vCPUs waited for a processor.", ready },
	{ "atoll_vm_steal_ratio", "The same as the guest is told it.", steal },
	{ "atoll_vm_resident_bytes", "Memory of the process.", resident },
	{ "atoll_vm_used_bytes", "Memory that the guest uses.", used },
	{ "atoll_vm_swap_bytes", "Memory on the host's swap.", swapped },
	{ "atoll_vm_balloon_bytes", "Memory lent back to the host.", balloon },
	{ "atoll_vm_merged_bytes",
	  "Memory shared with others because it is equal (KSM).", merged },
	{ "atoll_vm_disk_read_bytes_per_second", "From disks.", disk_read },
	{ "atoll_vm_disk_write_bytes_per_second", "To disks.", disk_write },
	{ "atoll_vm_disk_reads_per_second", "Requests.", disk_reads },
	{ "atoll_vm_disk_writes_per_second", "Requests.", disk_writes },
	{ "atoll_vm_disk_read_seconds", "Of one, on average.", read_seconds },
	{ "atoll_vm_disk_write_seconds", "Of one, on average.", write_seconds },
	{ "atoll_vm_net_sent_bytes_per_second", "By the guest.", net_sent },
	{ "atoll_vm_net_received_bytes_per_second", "By the guest.",
	  net_received },
};

static void machines(struct call *c, FILE *to)
{
	struct vm *first = c->daemon->vms;

	title(to, "atoll_vm_up", "gauge", "Whether the machine runs.");
	for (struct vm *vm = first; vm; vm = vm->next)
		if (call_sees(c, vm))
			fprintf(to,
			        "atoll_vm_up{vm=\"%s\",project=\"%s\"} %d\n",
			        vm->name, vm_project(vm), vm_is_up(vm));
	title(to, "atoll_vm_memory_bytes", "gauge", "What it is given.");
	for (struct vm *vm = first; vm; vm = vm->next)
		if (call_sees(c, vm))
			fprintf(to,
			        "atoll_vm_memory_bytes{vm=\"%s\"} %" PRIu64
			        "\n",
			        vm->name, spec_bytes(vm));
	for (size_t i = 0; i < ARRAY_SIZE(gauges); i++) {
		title(to, gauges[i].name, "gauge", gauges[i].help);
		for (struct vm *vm = first; vm; vm = vm->next) {
			const struct vm_rates *r = watch_rates(vm);

			if (r && call_sees(c, vm))
				fprintf(to, "%s{vm=\"%s\"} %.6g\n",
				        gauges[i].name, vm->name,
				        gauges[i].value(r));
		}
	}
}

static void vcpus_of(const struct vm *vm, FILE *to)
{
	const struct vm_rates *r = watch_rates(vm);

	for (unsigned i = 0; r && i < r->cpus; i++) {
		const struct {
			const char *of;
			u32 value;
		} parts[] = { { "run", r->cpu[i].run },
			      { "ready", r->cpu[i].ready },
			      { "wait", r->cpu[i].wait },
			      { "steal", r->cpu[i].steal } };

		for (size_t k = 0; k < ARRAY_SIZE(parts); k++)
			fprintf(to,
			        "atoll_vm_vcpu_ratio{vm=\"%s\",vcpu=\"%u\","
			        "of=\"%s\"} %.6g\n",
			        vm->name, i, parts[k].of,
			        (double)parts[k].value / 1e6);
	}
}

static void vcpus(struct call *c, FILE *to)
{
	title(to, "atoll_vm_vcpu_ratio", "gauge",
	      "Of its time: running, waiting for a processor, waiting for "
	      "something to do; and stolen, as the guest is told it.");
	for (struct vm *vm = c->daemon->vms; vm; vm = vm->next)
		if (call_sees(c, vm))
			vcpus_of(vm, to);
}

static void host(struct daemon *d, FILE *to)
{
	const struct host_figures *h = watch_host(d);
	const struct {
		const char *of;
		int value;
	} pressures[] = { { "cpu", h->cpu_some },
		          { "memory", h->memory_some },
		          { "io", h->io_some } };

	title(to, "atoll_host_cpu_ratio", "gauge", "Busy, of all processors.");
	fprintf(to, "atoll_host_cpu_ratio %.6g\n",
	        (double)watch_host_cpu(d) / 1e6);
	figure(to, "atoll_host_memory_available_bytes", "gauge",
	       "What the host could still give.", h->available_bytes);
	figure(to, "atoll_host_swap_used_bytes", "gauge", "On the swap.",
	       h->swap_bytes - h->swap_free_bytes);
	if (h->merged_bytes >= 0)
		figure(to, "atoll_host_merged_bytes", "gauge",
		       "Spared by sharing equal pages (KSM).",
		       (u64)h->merged_bytes);
	title(to, "atoll_host_pressure_percent", "gauge",
	      "PSI, some, over ten seconds.");
	for (size_t i = 0; i < ARRAY_SIZE(pressures); i++)
		if (pressures[i].value >= 0)
			fprintf(
			    to, "atoll_host_pressure_percent{of=\"%s\"} %.2f\n",
			    pressures[i].of, (double)pressures[i].value / 100);
}

static void daemon_itself(struct daemon *d, FILE *to)
{
	figure(to, "atoll_requests_total", "counter", "API requests.",
	       d->requests);
	figure(to, "atoll_requests_failed_total", "counter",
	       "API requests refused or failed.", d->requests_failed);
	figure(to, "atoll_tasks_total", "counter", "Tasks ended.",
	       d->tasks_done);
	figure(to, "atoll_tasks_failed_total", "counter", "Tasks failed.",
	       d->tasks_failed);
	figure(to, "atoll_uptime_seconds", "gauge", "Since the daemon started.",
	       (loop_now_ns() - d->started_ns) / NSEC_PER_SEC);
}

void api_metrics(struct call *c)
{
	struct daemon *d = c->daemon;
	unsigned running = 0, defined = 0;
	size_t size = 0;
	FILE *to = open_memstream(&c->text, &size);

	if (!to) {
		call_fail(c, "internal", "no memory", "");
		return;
	}
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (call_sees(c, vm)) {
			defined++;
			running += vm->state != VM_STOPPED;
		}
	figure(to, "atoll_vms", "gauge", "Machines defined.", defined);
	figure(to, "atoll_vms_running", "gauge", "Machines running.", running);
	if (caller_rights(&c->caller, NULL) & RIGHT_READ) {
		daemon_itself(d, to);
		host(d, to);
	}
	machines(c, to);
	vcpus(c, to);
	fclose(to);
	c->status = 200;
	c->type = "text/plain; version=0.0.4; charset=utf-8";
}
