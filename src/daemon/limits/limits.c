/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits - puts each machine that runs under its limits, and keeps them right
 * as others come and go.
 */
#include "daemon/limits/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/kernel_file.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/limits/helped.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum {
	OVERCOMMIT_MAX = 1000,
	IDLE_MILLIONTHS = 30000,
	WEIGHT_USUAL = 100,
	SPREAD_VCPUS_MAX = 1024
};
#define HEADROOM_MIN (256 * MIB)

struct limits {
	struct cgroups cgroups;
	struct helped helper;
	struct host_policy policy;
	unsigned processors;
	bool dirty; /* shares must be settled anew */
};

static u64 number_of(json_t *spec, const char *key)
{
	return (u64)json_integer_value(json_object_get(spec, key));
}

static u64 resource_of(json_t *spec, const char *key)
{
	return number_of(json_object_get(spec, "resources"), key);
}

static u64 size_in(json_t *spec)
{
	return MAX(number_of(spec, "memory_max_bytes"),
	           number_of(spec, "memory_bytes"));
}

/* What it should have when nothing presses. */
static u64 wanted_in(json_t *spec)
{
	u64 size = number_of(spec, "memory_bytes");
	u64 target = resource_of(spec, "memory_target_bytes");
	u64 limit = resource_of(spec, "memory_limit_bytes");

	if (target)
		size = target;
	if (limit)
		size = MIN(size, limit);
	return MIN(MAX(size, resource_of(spec, "memory_reservation_bytes")),
	           size_in(spec));
}

static u64 resource(const struct vm *vm, const char *key)
{
	return resource_of(vm->spec, key);
}

static u64 size_of(const struct vm *vm)
{
	return size_in(vm->spec);
}

static u64 wanted_of(const struct vm *vm)
{
	return wanted_in(vm->spec);
}

static bool runs(const struct vm *vm)
{
	return vm->state != VM_STOPPED && !vm->deleted;
}

/* ---- the policy ---- */

static int take_policy(void *ctx, struct row *row)
{
	struct limits *l = ctx;

	if (strcmp(row_text(row, 0), "overcommit") == 0)
		l->policy.overcommit = (u64)row_int(row, 1);
	else if (strcmp(row_text(row, 0), "headroom_bytes") == 0)
		l->policy.headroom_bytes = (u64)row_int(row, 1);
	return 0;
}

void limits_host_read(const struct daemon *d, struct host_figures *f)
{
	host_read(f);
	cgroups_clip(&d->limits->cgroups, &f->memory_bytes,
	             &f->available_bytes);
}

static void open_groups(struct daemon *d)
{
	struct limits *l = d->limits;
	u32 hash = 2166136261u;
	char name[32];

	/* FNV-1a: two daemons on one host don't share a group. */
	for (const char *c = d->place.state; *c; c++)
		hash = (hash ^ (u8)*c) * 16777619u;
	snprintf(name, sizeof(name), "atoll-%08x", hash);
	cgroups_open(&l->cgroups, name, l->helper.fd);
	if (l->cgroups.words[0])
		log_warn("daemon", "%s", l->cgroups.words);
}

int limits_start(struct daemon *d, struct error *err)
{
	struct limits *l = xalloc(sizeof(*l));
	struct host_figures host;

	d->limits = l;
	helped_open(&l->helper);
	open_groups(d);
	limits_host_read(d, &host);
	l->processors = (unsigned)MAX(1L, sysconf(_SC_NPROCESSORS_ONLN));
	l->policy.overcommit = 100;
	l->policy.headroom_bytes = MAX(HEADROOM_MIN, host.memory_bytes / 20);
	return store_query(d->store, take_policy, l, err,
	                   "SELECT key, value FROM meta"
	                   " WHERE key IN ('overcommit', 'headroom_bytes')",
	                   "");
}

void limits_stop(struct daemon *d)
{
	if (!d->limits)
		return;
	cgroups_close(&d->limits->cgroups);
	helped_close(&d->limits->helper);
	free(d->limits);
	d->limits = NULL;
}

json_t *limits_json(const struct daemon *d)
{
	static const char *const kinds[] = { "none", "v1", "v2" };
	const struct limits *l = d->limits;

	return json_pack("{s:s, s:b, s:b, s:s, s:I, s:I}", "cgroup",
	                 kinds[l->cgroups.kind], "memory",
	                 l->cgroups.memory != NULL, "io", l->cgroups.io != NULL,
	                 "words", l->cgroups.words, "overcommit_percent",
	                 (json_int_t)l->policy.overcommit, "headroom_bytes",
	                 (json_int_t)l->policy.headroom_bytes);
}

/* ---- admission ---- */

static void add_demand(struct demand *to, json_t *spec)
{
	to->memory += wanted_in(spec);
	to->memory_reservation += resource_of(spec, "memory_reservation_bytes");
	to->cpu_reservation += resource_of(spec, "cpu_reservation");
}

static const char *pin_in(json_t *spec)
{
	json_t *r = json_object_get(spec, "resources");
	const char *pin = json_string_value(json_object_get(r, "cpu_pin"));

	return pin ? pin : "";
}

/* One that is pinned to processors that are not there would stand anywhere. */
static int admit_pin(json_t *spec, struct error *err)
{
	char there[256];

	if (!kernel_file_read(AT_FDCWD, "/sys/devices/system/cpu/online", there,
	                      sizeof(there)))
		return 0;
	there[strcspn(there, "\n")] = '\0';
	return cpu_list_meets(pin_in(spec), there, err);
}

static int admit_beside(struct vm *vm, struct demand *wanted, struct error *err)
{
	struct limits *l = vm->daemon->limits;
	struct demand running = { 0 };
	struct host_figures host;

	for (struct vm *o = vm->daemon->vms; o; o = o->next)
		if (o != vm && runs(o))
			add_demand(&running, o->spec);
	limits_host_read(vm->daemon, &host);
	return admit(&l->policy, host.memory_bytes, l->processors, &running,
	             wanted, err);
}

int limits_admit(struct vm *vm, struct error *err)
{
	struct demand wanted = { 0 };
	int rc = admit_pin(vm->spec, err);

	add_demand(&wanted, vm->spec);
	return rc < 0 ? rc : admit_beside(vm, &wanted, err);
}

/* Only what grows is held against the host, which may have less room than it
 * had; and memory only as far as a machine that runs can come to it. */
int limits_admit_change(struct vm *vm, json_t *spec, struct error *err)
{
	struct demand before = { 0 }, after = { 0 };
	const char *pin = pin_in(spec);
	int rc = 0;

	if (!runs(vm))
		return 0;
	if (pin[0] && strcmp(pin, pin_in(vm->spec)))
		rc = admit_pin(spec, err);
	add_demand(&before, vm->spec);
	add_demand(&after, spec);
	after.memory = MIN(after.memory, size_of(vm));
	if (after.memory <= before.memory)
		after.memory = 0;
	if (after.memory_reservation <= before.memory_reservation)
		after.memory_reservation = 0;
	if (after.cpu_reservation <= before.cpu_reservation)
		after.cpu_reservation = 0;
	return rc < 0 ? rc : admit_beside(vm, &after, err);
}

/* ---- processors ---- */

/* False: to be tried again, since it will hold less in time. */
static bool apply_one(struct vm *vm, u64 weight)
{
	struct limits *l = vm->daemon->limits;
	u64 io_weight = resource(vm, "io_weight");
	struct cgroup_limits set = {
		.weight = weight,
		.cpu_percent = resource(vm, "cpu_limit"),
		.pin = pin_in(vm->spec),
		.memory_min = resource(vm, "memory_reservation_bytes"),
		.memory_high = resource(vm, "memory_limit_bytes"),
		.memory_max = resource(vm, "memory_hard_limit_bytes"),
		/* A definition of before there was one has none. */
		.io_weight = io_weight ? io_weight : WEIGHT_USUAL,
	};
	struct error err = { 0 };
	int rc = 0;

	if (l->cgroups.kind == CGROUP_NONE ||
	    (!l->cgroups.cpuset && (set.pin[0] || vm->limits_pinned))) {
		struct cgroup_limits alone = set;

		/* The group has the weight already. */
		if (l->cgroups.kind != CGROUP_NONE)
			alone.weight = 100;
		rc = process_limit(vm->pid, &alone, &err);
		vm->limits_pinned = set.pin[0] != '\0';
	}
	if (rc == 0 && l->cgroups.kind != CGROUP_NONE)
		rc = cgroup_apply(&l->cgroups, vm->id, vm->pid, &set, &err);
	if (rc < 0 && !vm->limits_waits)
		log_warn("daemon", "%s: %s", vm->name, err.text);
	vm->limits_waits = rc == -EBUSY;
	return rc != -EBUSY;
}

/* All of those that run: a weight counts against the others'. */
static void settle(struct daemon *d)
{
	struct share *shares = try_alloc(d->vm_count + 1, sizeof(*shares));
	u64 sum = 0;
	size_t n = 0;

	if (!shares)
		return;
	d->limits->dirty = false;
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (runs(vm) && vm->pid) {
			shares[n].weight =
			    MAX((u64)1, resource(vm, "cpu_weight"));
			sum += shares[n].weight;
			shares[n++].reservation =
			    resource(vm, "cpu_reservation");
		}
	/* As if each machine stood beside the host's other processes. */
	cgroups_weigh(&d->limits->cgroups, sum);
	shares_settle(shares, n, d->limits->processors);
	n = 0;
	for (struct vm *vm = d->vms; vm; vm = vm->next) {
		if (!runs(vm) || !vm->pid)
			continue;
		if (vm->limits_weight != shares[n].effective ||
		    vm->limits_changed)
			vm->limits_changed =
			    !apply_one(vm, shares[n].effective);
		vm->limits_weight = shares[n++].effective;
		d->limits->dirty |= vm->limits_changed;
	}
	free(shares);
}

/* A limit holds a machine back wherever it stands; its weight says nothing. */
static bool may_spread(const struct vm *vm)
{
	return vm->state == VM_RUNNING && !vm->deleted && watch_rates(vm) &&
	       !resource(vm, "cpu_limit");
}

static void spread(struct daemon *d)
{
	const struct limits *l = d->limits;
	struct spread_vcpu *vcpus;
	size_t n = 0, room = 0;

	if (l->cgroups.kind == CGROUP_NONE || l->processors < 2)
		return;
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (may_spread(vm))
			room += spread_count(watch_rates(vm));
	room = MIN(room, (size_t)SPREAD_VCPUS_MAX);
	/* One alone has nobody to go from or to. */
	vcpus = room < 2 ? NULL : try_alloc(room, sizeof(*vcpus));
	for (struct vm *vm = d->vms; vcpus && vm; vm = vm->next)
		if (may_spread(vm))
			n += spread_add(vcpus + n, room - n, watch_rates(vm),
			                vm->limits_weight);
	if (n)
		spread_do(vcpus, n);
	free(vcpus);
}

void limits_apply(struct vm *vm)
{
	vm->limits_changed = true;
	vm->daemon->limits->dirty = true;
}

void limits_begin(struct vm *vm)
{
	limits_apply(vm);
	settle(vm->daemon);
}

void limits_explain(const struct vm *vm, json_t *end)
{
	const char *cause = json_string_value(json_object_get(end, "cause"));
	const struct cgroups *g = &vm->daemon->limits->cgroups;
	u64 most = resource(vm, "memory_hard_limit_bytes");
	char words[128], hint[160];

	if (!cause || strcmp(cause, "died") || g->kind == CGROUP_NONE ||
	    !cgroup_starved(g, vm->id))
		return;
	if (most)
		snprintf(words, sizeof(words),
		         "the machine was ended at its hard limit of "
		         "%" PRIu64 " MiB of memory",
		         most >> 20);
	else
		snprintf(words, sizeof(words),
		         "the host had no memory left, and its kernel ended "
		         "the machine");
	json_object_set_new(end, "words", json_string(words));
	snprintf(hint, sizeof(hint),
	         most ? "it counts what runs the guest, too: atoll vm set %s "
	                "--memory-hard-limit"
	              : "what is reserved is not taken: atoll vm set %s "
	                "--memory-reservation",
	         vm->name);
	json_object_set_new(end, "hint", json_string(hint));
}

void limits_vm_ended(struct vm *vm)
{
	vm->limits_waits = false;
	vm->limits_weight = 0;
	vm->limits_given = 0;
	vm->cpus_given = vm->cpus_tell = 0;
	vm->limits_pinned = false;
	vm->daemon->limits->dirty = true;
	if (vm->daemon->limits->cgroups.kind != CGROUP_NONE)
		cgroup_remove(&vm->daemon->limits->cgroups, vm->id);
}

/* ---- memory ---- */

static struct memory_guest guest_of(const struct vm *vm)
{
	const struct vm_rates *r = watch_rates(vm);
	u64 size = size_of(vm);
	struct memory_guest g = {
		.size = size,
		.reservation = resource(vm, "memory_reservation_bytes"),
		.limit = wanted_of(vm),
		.now = vm->limits_given ? vm->limits_given : size,
		.used = r ? watch_needed_bytes(r, size) : size,
	};

	/* An earlier daemon may have taken some. */
	if (!vm->limits_given && r)
		g.now -= MIN(size, r->balloon_target_bytes);
	g.balloon = r && r->has_driver && r->guest_total_bytes > 0;
	g.idle = r && r->run < IDLE_MILLIONTHS * MAX(1u, r->cpus);
	return g;
}

static void set_balloon(struct vm *vm, u64 target)
{
	const struct vm_rates *r = watch_rates(vm);
	u64 bytes = size_of(vm) - MIN(target, size_of(vm));
	bool says_so = r && r->balloon_target_bytes >> 12 == bytes >> 12;

	if (!r || !r->has_balloon || (vm->limits_given == target && says_so))
		return;
	if (vm->limits_given && vm->limits_given != target)
		event_emit(vm->daemon, "vm.memory", vm, 0,
		           json_pack("{s:I, s:I, s:b}", "target_bytes",
		                     (json_int_t)target, "before_bytes",
		                     (json_int_t)vm->limits_given, "idle",
		                     (int)(r->run < IDLE_MILLIONTHS)));
	vm->limits_given = target;
	holder_request(vm,
	               json_pack("{s:s, s:I}", "op", "balloon", "bytes",
	                         (json_int_t)bytes),
	               NULL, NULL);
}

static void share_memory(struct daemon *d)
{
	const struct host_figures *f = watch_host(d);
	struct memory_guest *guests =
	    try_alloc(d->vm_count + 1, sizeof(*guests));
	struct memory_host host = { f->memory_bytes, f->available_bytes,
		                    d->limits->policy.headroom_bytes,
		                    f->memory_some };
	size_t n = 0;

	if (!guests)
		return;
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (vm->state == VM_RUNNING && !vm->deleted)
			guests[n++] = guest_of(vm);
	memory_plan(&host, guests, n);
	n = 0;
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (vm->state == VM_RUNNING && !vm->deleted)
			set_balloon(vm, guests[n++].target);
	free(guests);
}

/* What was asked of the former one may not have been done. */
static void begin_again(struct daemon *d)
{
	cgroups_close(&d->limits->cgroups);
	open_groups(d);
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		vm->limits_changed = true;
	d->limits->dirty = true;
}

pid_t limits_helper(const struct daemon *d)
{
	return d->limits->helper.pid;
}

void limits_round(struct daemon *d)
{
	if (helped_renew(&d->limits->helper, loop_now_ns()))
		begin_again(d);
	if (d->limits->dirty)
		settle(d);
	spread(d);
	share_memory(d);
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		cpus_settle(vm);
}

/* ---- the routes ---- */

void api_policy_get(struct call *c)
{
	c->status = 200;
	c->reply = limits_json(c->daemon);
}

static void keep_policy(struct call *c, void *ctx)
{
	struct host_policy *p = ctx;

	c->daemon->limits->policy = *p;
	free(p);
	c->reply = limits_json(c->daemon);
}

static int write_policy(struct call *c, const char *key, u64 value)
{
	return store_run(c->daemon->store, &c->err,
	                 "INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)",
	                 "ti", key, (s64)value);
}

void api_policy_patch(struct call *c)
{
	static const char *const keys[] = { "overcommit_percent",
		                            "headroom_bytes", NULL };
	json_t *ratio = json_object_get(c->body, "overcommit_percent");
	json_t *room = json_object_get(c->body, "headroom_bytes");
	struct host_policy *p;
	int rc;

	if (!call_known_keys(c, keys))
		return;
	if (ratio &&
	    (!json_is_integer(ratio) || json_integer_value(ratio) < 100 ||
	     json_integer_value(ratio) > OVERCOMMIT_MAX)) {
		call_fail(c, "bad-request",
		          "overcommit_percent is not from 100 to 1000", "");
		return;
	}
	if (room && (!json_is_integer(room) || json_integer_value(room) < 0)) {
		call_fail(c, "bad-request",
		          "headroom_bytes is not a number of bytes", "");
		return;
	}
	p = xalloc(sizeof(*p));
	*p = c->daemon->limits->policy;
	if (ratio)
		p->overcommit = (u64)json_integer_value(ratio);
	if (room)
		p->headroom_bytes = (u64)json_integer_value(room);
	c->apply = keep_policy;
	c->drop = free;
	c->ctx = p;
	rc = write_policy(c, "overcommit", p->overcommit);
	if (rc == 0)
		rc = write_policy(c, "headroom_bytes", p->headroom_bytes);
	if (rc < 0)
		call_fail_error(c, rc);
	else
		c->status = 200;
}
