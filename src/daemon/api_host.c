/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_host - the daemon itself and its host.
 */
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "daemon/api.h"
#include "daemon/limits/limits.h"

void api_root(struct call *c)
{
	json_t *grants = json_array();

	for (unsigned i = 0; i < c->caller.grant_count; i++) {
		const struct grant *g = &c->caller.grants[i];

		json_array_append_new(
		    grants, json_pack("{s:s?, s:o}", "project",
		                      g->project[0] ? g->project : NULL,
		                      "rights", rights_json(g->rights)));
	}
	c->status = 200;
	c->reply = json_pack("{s:s, s:s, s:s, s:s?, s:o}", "product", "atoll",
	                     "version", ATOLL_VERSION, "caller", c->caller.name,
	                     "role", c->caller.role[0] ? c->caller.role : NULL,
	                     "grants", grants);
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
	    "{s:s, s:s, s:I, s:I, s:I, s:I, s:{s:i, s:i}, s:s, s:s, s:I, s:o}",
	    "name", name.nodename, "kernel", name.release, "cpus",
	    (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
	    (json_int_t)(info.totalram * (u64)info.mem_unit),
	    "memory_free_bytes",
	    (json_int_t)(info.freeram * (u64)info.mem_unit),
	    "memory_committed_bytes", (json_int_t)bytes, "vms", "defined",
	    (int)d->vm_count, "running", (int)running, "state_dir",
	    d->place.state, "images_dir", d->place.images, "uptime_s",
	    (json_int_t)((loop_now_ns() - d->started_ns) / NSEC_PER_SEC),
	    "limits", limits_json(d));
}
