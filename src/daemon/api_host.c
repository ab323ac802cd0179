/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_host - the daemon itself, its host, its figures.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "daemon/api.h"
#include "daemon/store.h"

void api_root(struct call *c)
{
	c->status = 200;
	c->reply = json_pack("{s:s, s:s, s:s, s:s}", "product", "atoll",
	                     "version", ATOLL_VERSION, "caller", c->caller.name,
	                     "role", c->caller.role);
}

static s64 committed(struct daemon *d, unsigned *running)
{
	s64 bytes = 0;

	*running = 0;
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (vm->state != VM_STOPPED) {
			bytes += json_integer_value(
			    json_object_get(vm->spec, "memory_bytes"));
			++*running;
		}
	return bytes;
}

void api_host(struct call *c)
{
	struct daemon *d = c->daemon;
	struct utsname name = { 0 };
	struct sysinfo info = { 0 };
	unsigned running;
	s64 bytes = committed(d, &running);

	uname(&name);
	sysinfo(&info);
	c->status = 200;
	c->reply = json_pack(
	    "{s:s, s:s, s:I, s:I, s:I, s:I, s:{s:i, s:i}, s:s, s:s, s:I}",
	    "name", name.nodename, "kernel", name.release, "cpus",
	    (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
	    (json_int_t)(info.totalram * (u64)info.mem_unit),
	    "memory_free_bytes",
	    (json_int_t)(info.freeram * (u64)info.mem_unit),
	    "memory_committed_bytes", (json_int_t)bytes, "vms", "defined",
	    (int)d->vm_count, "running", (int)running, "state_dir",
	    d->place.state, "images_dir", d->place.images, "uptime_s",
	    (json_int_t)((loop_now_ns() - d->started_ns) / NSEC_PER_SEC));
}

/* ---- figures, in the text format of Prometheus ---- */

static void figure(FILE *to, const char *name, const char *type,
                   const char *help, u64 value)
{
	fprintf(to, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help,
	        name, type, name, value);
}

/* Seconds of CPU time and resident bytes of a process. */
static void process_figures(pid_t pid, double *cpu, u64 *resident)
{
	char path[40], text[1024], *at;
	unsigned long user = 0, kernel = 0, pages = 0;
	FILE *f;
	size_t n;

	*cpu = 0;
	*resident = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	/* The name in parentheses may hold anything. */
	at = strrchr(text, ')');
	if (at && sscanf(at + 1,
	                 " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu"
	                 " %*d %*d %*d %*d %*d %*d %*u %*u %lu",
	                 &user, &kernel, &pages) == 3) {
		*cpu = (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
		*resident = pages * (u64)sysconf(_SC_PAGESIZE);
	}
}

static void machine_figures(struct daemon *d, FILE *to)
{
	double cpu;
	u64 bytes;

	fputs("# HELP atoll_vm_up Whether the machine runs.\n"
	      "# TYPE atoll_vm_up gauge\n",
	      to);
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		fprintf(to, "atoll_vm_up{vm=\"%s\"} %d\n", vm->name,
		        vm->state == VM_RUNNING || vm->state == VM_PAUSED);
	fputs("# HELP atoll_vm_cpu_seconds_total CPU time of the process.\n"
	      "# TYPE atoll_vm_cpu_seconds_total counter\n"
	      "# HELP atoll_vm_resident_bytes Memory of the process.\n"
	      "# TYPE atoll_vm_resident_bytes gauge\n",
	      to);
	for (struct vm *vm = d->vms; vm; vm = vm->next) {
		if (!vm->pid)
			continue;
		process_figures(vm->pid, &cpu, &bytes);
		fprintf(to,
		        "atoll_vm_cpu_seconds_total{vm=\"%s\"} %.2f\n"
		        "atoll_vm_resident_bytes{vm=\"%s\"} %" PRIu64 "\n",
		        vm->name, cpu, vm->name, bytes);
	}
}

void api_metrics(struct call *c)
{
	struct daemon *d = c->daemon;
	unsigned running;
	size_t size = 0;
	FILE *to = open_memstream(&c->text, &size);

	if (!to) {
		call_fail(c, "internal", "no memory", "");
		return;
	}
	committed(d, &running);
	figure(to, "atoll_vms", "gauge", "Machines defined.", d->vm_count);
	figure(to, "atoll_vms_running", "gauge", "Machines running.", running);
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
	machine_figures(d, to);
	fclose(to);
	c->status = 200;
	c->type = "text/plain; version=0.0.4; charset=utf-8";
}
