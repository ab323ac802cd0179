/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_watch - figures now, history, and what follows from it.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/api.h"
#include "daemon/limits/limits.h"
#include "daemon/watch/watch.h"

enum { SPAN_MAX_S = 400 * 86400, USUAL_S = 3600, STALE_DAYS = 30 };
enum { ADVICE_S = 14 * 86400 };

static double share(u32 millionths)
{
	return (double)millionths / 1e6;
}

static json_t *maybe(s64 value)
{
	return value < 0 ? json_null() : json_integer(value);
}

static json_t *cpus_json(const struct vm_rates *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->cpus; i++)
		json_array_append_new(list,
		                      json_pack("{s:f, s:f, s:f, s:f}", "run",
		                                share(r->cpu[i].run), "ready",
		                                share(r->cpu[i].ready), "wait",
		                                share(r->cpu[i].wait), "steal",
		                                share(r->cpu[i].steal)));
	return list;
}

static json_t *memory_json(const struct vm *vm, const struct vm_rates *r)
{
	json_t *balloon = json_null();

	if (r->has_balloon)
		balloon = json_pack(
		    "{s:b, s:I, s:I, s:I}", "driver", r->has_driver,
		    "target_bytes", (json_int_t)r->balloon_target_bytes,
		    "actual_bytes", (json_int_t)r->balloon_bytes,
		    "reported_bytes", (json_int_t)r->reported_bytes);
	return json_pack(
	    "{s:O, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "size_bytes",
	    json_object_get(vm->spec, "memory_bytes"), "resident_bytes",
	    (json_int_t)r->resident_bytes, "guest_resident_bytes",
	    (json_int_t)r->guest_resident_bytes, "used_bytes",
	    (json_int_t)watch_used_bytes(r), "swap_bytes",
	    (json_int_t)r->swap_bytes, "guest_total_bytes",
	    maybe(r->guest_total_bytes), "guest_available_bytes",
	    maybe(r->guest_available_bytes), "merged_bytes",
	    maybe(r->merged_bytes), "balloon", balloon);
}

json_t *watch_vm_json(const struct vm *vm)
{
	const struct vm_rates *r = watch_rates(vm);
	json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "id", vm->id, "name",
	                      vm->name, "project", vm_project(vm), "state",
	                      vm_state_name(vm->state));

	if (!r)
		return o;
	json_object_set_new(
	    o, "period_ms",
	    json_integer((json_int_t)(r->period_ns / NSEC_PER_MSEC)));
	json_object_set_new(o, "cpu",
	                    json_pack("{s:f, s:f, s:f, s:f, s:f, s:o}",
	                              "process", share(r->process), "run",
	                              share(r->run), "ready", share(r->ready),
	                              "wait", share(r->wait), "steal",
	                              share(r->steal), "vcpus", cpus_json(r)));
	json_object_set_new(o, "memory", memory_json(vm, r));
	json_object_set_new(
	    o, "disk",
	    json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "reads_per_s",
	              (json_int_t)r->disk_reads, "writes_per_s",
	              (json_int_t)r->disk_writes, "read_bytes_per_s",
	              (json_int_t)r->disk_read_bytes, "write_bytes_per_s",
	              (json_int_t)r->disk_write_bytes, "read_us",
	              (json_int_t)r->disk_read_us, "write_us",
	              (json_int_t)r->disk_write_us, "errors",
	              (json_int_t)r->disk_errors));
	json_object_set_new(
	    o, "net",
	    json_pack("{s:I, s:I, s:I, s:I}", "sent_per_s",
	              (json_int_t)r->net_sent, "received_per_s",
	              (json_int_t)r->net_received, "sent_bytes_per_s",
	              (json_int_t)r->net_sent_bytes, "received_bytes_per_s",
	              (json_int_t)r->net_received_bytes));
	return o;
}

/* Hundredths of a percent; null: this kernel has no PSI. */
static json_t *pressure(int hundredths)
{
	return hundredths < 0 ? json_null()
	                      : json_real((double)hundredths / 100);
}

json_t *watch_host_json(const struct daemon *d)
{
	const struct host_figures *h = watch_host(d);

	return json_pack(
	    "{s:f, s:I, s:I, s:I, s:I, s:o, s:{s:o, s:o, s:o, s:o}}", "cpu",
	    share(watch_host_cpu(d)), "memory_bytes",
	    (json_int_t)h->memory_bytes, "memory_available_bytes",
	    (json_int_t)h->available_bytes, "swap_bytes",
	    (json_int_t)h->swap_bytes, "swap_used_bytes",
	    (json_int_t)(h->swap_bytes - h->swap_free_bytes), "merged_bytes",
	    maybe(h->merged_bytes), "pressure", "cpu", pressure(h->cpu_some),
	    "memory", pressure(h->memory_some), "memory_full",
	    pressure(h->memory_full), "io", pressure(h->io_some));
}

void api_figures(struct call *c)
{
	json_t *list = json_array();

	for (struct vm *vm = c->daemon->vms; vm; vm = vm->next)
		if (!vm->deleted && vm->state != VM_STOPPED && call_sees(c, vm))
			json_array_append_new(list, watch_vm_json(vm));
	c->status = 200;
	c->reply = json_pack("{s:o, s:o}", "host",
	                     caller_rights(&c->caller, NULL) & RIGHT_READ
	                         ? watch_host_json(c->daemon)
	                         : json_null(),
	                     "vms", list);
}

void api_vm_metrics(struct call *c)
{
	struct vm *vm = call_vm(c);
	s64 now = (s64)time(NULL), since, until;

	if (!vm)
		return;
	until = call_number(c, "until", 0, INT64_MAX, now);
	since = call_number(c, "since", 0, INT64_MAX,
	                    until > USUAL_S ? until - USUAL_S : 0);
	if (c->status >= 400)
		return;
	if (since > until) {
		call_fail(c, "bad-request", "since is after until", "");
		return;
	}
	c->reply =
	    history_points(watch_history(c->daemon), vm->id,
	                   MAX(since, until - SPAN_MAX_S), until, &c->err);
	if (c->reply)
		c->status = 200;
	else
		call_fail_error(c, -5);
}

/* ---- reports ---- */

static json_t *sizing_json(struct call *c, struct vm *vm)
{
	unsigned cpus =
	    (unsigned)json_integer_value(json_object_get(vm->spec, "cpus"));
	u64 memory =
	    (u64)json_integer_value(json_object_get(vm->spec, "memory_bytes"));
	struct usage u;
	struct sizing s;

	history_usage(watch_history(c->daemon), vm->id,
	              (s64)time(NULL) - ADVICE_S, &u);
	s = sizing_advice(&u, cpus, memory);
	return json_pack(
	    "{s:s, s:s, s:i, s:i, s:I, s:I, s:f, s:f, s:I, s:s}", "id", vm->id,
	    "name", vm->name, "cpus", (int)cpus, "cpus_advised", (int)s.cpus,
	    "memory_bytes", (json_int_t)memory, "memory_bytes_advised",
	    (json_int_t)s.memory_bytes, "cpu_busiest", (double)u.cpu_max / 1000,
	    "cpu_mean", (double)u.cpu_mean / 1000, "memory_most_bytes",
	    (json_int_t)u.used_max, "words", s.words);
}

void api_report_sizing(struct call *c)
{
	json_t *list = json_array();

	for (struct vm *vm = c->daemon->vms; vm; vm = vm->next)
		if (!vm->deleted && call_sees(c, vm))
			json_array_append_new(list, sizing_json(c, vm));
	c->status = 200;
	c->reply = json_pack("{s:o}", "vms", list);
}

/* Why a machine may be there for nobody. */
static json_t *sprawl_reasons(struct vm *vm, s64 now)
{
	const char *expires =
	    json_string_value(json_object_get(vm->spec, "expires"));
	const char *owner =
	    json_string_value(json_object_get(vm->spec, "owner"));
	s64 since = time_parse(vm->since);
	json_t *reasons = json_array();
	char text[64];

	if (vm_expired(vm, now)) {
		snprintf(text, sizeof(text), "expired on %.10s", expires);
		json_array_append_new(reasons, json_string(text));
	}
	if (!owner || !owner[0])
		json_array_append_new(reasons, json_string("has no owner"));
	if (vm->state == VM_STOPPED && since >= 0 &&
	    now - since > (s64)STALE_DAYS * 86400) {
		snprintf(text, sizeof(text), "stopped for %" PRId64 " days",
		         (now - since) / 86400);
		json_array_append_new(reasons, json_string(text));
	}
	return reasons;
}

void api_report_sprawl(struct call *c)
{
	json_t *list = json_array(), *reasons, *owner, *expires;
	s64 now = (s64)time(NULL);

	for (struct vm *vm = c->daemon->vms; vm; vm = vm->next) {
		if (vm->deleted || !call_sees(c, vm))
			continue;
		reasons = sprawl_reasons(vm, now);
		if (json_array_size(reasons) == 0) {
			json_decref(reasons);
			continue;
		}
		owner = json_object_get(vm->spec, "owner");
		expires = json_object_get(vm->spec, "expires");
		json_array_append_new(
		    list,
		    json_pack("{s:s, s:s, s:s, s:O, s:o, s:o}", "id", vm->id,
		              "name", vm->name, "state",
		              vm_state_name(vm->state), "owner", owner,
		              "expires",
		              expires ? json_incref(expires) : json_null(),
		              "reasons", reasons));
	}
	c->status = 200;
	c->reply = json_pack("{s:o}", "vms", list);
}
