/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpus - machines that run get the vCPUs that their definitions have, as far
 * as they were started with room for them. None is taken away: that waits for
 * the next start.
 */
#include <string.h>

#include "base/log.h"
#include "daemon/api.h"
#include "daemon/guest/guest.h"
#include "daemon/limits/limits.h"
#include "daemon/watch/watch.h"

static unsigned spec_cpus(json_t *spec, const char *key)
{
	return (unsigned)json_integer_value(json_object_get(spec, key));
}

/* Rounds in which a guest finds them, and may be told to use them. */
enum { TELL_ROUNDS = 8 };

static void added(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct vm *vm = ctx;

	(void)answer;
	if (!ok) {
		log_warn("daemon", "%s: no more vCPUs: %s", vm->name, words);
		return;
	}
	vm->cpus_tell = TELL_ROUNDS;
	event_emit(vm->daemon, "vm.cpus", vm, 0,
	           json_pack("{s:i}", "cpus", (int)vm->cpus_given));
}

/* Asked for once: figures lag behind, and what was refused stays refused. */
void cpus_settle(struct vm *vm)
{
	const struct vm_rates *r = watch_rates(vm);
	unsigned wanted = spec_cpus(vm->spec, "cpus");

	if (!vm_is_up(vm) || !r)
		return;
	/* A guest without a rule that does it leaves them off line. */
	if (vm->cpus_tell) {
		vm->cpus_tell--;
		guest_online(vm, vm->cpus_new);
	}
	wanted = MIN(wanted, r->cpus_max);
	if (wanted <= MAX(r->cpus, vm->cpus_given))
		return;
	vm->cpus_new = MAX(r->cpus, vm->cpus_given);
	vm->cpus_given = wanted;
	holder_request(
	    vm, json_pack("{s:s, s:i}", "op", "cpus", "count", (int)wanted),
	    added, vm);
}

/* ---- what a change of a definition means for one that runs ---- */

static bool differs(json_t *a, json_t *b, const char *key)
{
	json_t *x = json_object_get(a, key), *y = json_object_get(b, key);

	return x != y && (!x || !y || !json_equal(x, y));
}

/* More, within what it was started with room for. */
static bool grows(json_t *before, json_t *after, const char *key,
                  const char *max)
{
	s64 from = json_integer_value(json_object_get(before, key));
	s64 to = json_integer_value(json_object_get(after, key));
	s64 most = json_integer_value(json_object_get(before, max));

	return to >= from && to <= most;
}

static bool is_live(json_t *before, json_t *after, const char *key)
{
	/* What the daemon alone goes by. */
	static const char *const live[] = {
		"description",    "tags",      "autostart",
		"restart",        "project",   "owner",
		"stop_timeout_s", "resources", "expires",
	};

	if (!differs(before, after, key))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(live); i++)
		if (strcmp(live[i], key) == 0)
			return true;
	/* The disks' limits are told to it. */
	if (strcmp(key, "image_disk") == 0)
		return true;
	if (strcmp(key, "disks") == 0)
		return disk_limits_same_disks(before, after);
	if (strcmp(key, "cpus") == 0)
		return grows(before, after, key, "max_cpus");
	return strcmp(key, "memory_bytes") == 0 &&
	       grows(before, after, key, "memory_max_bytes");
}

bool limits_change_is_live(json_t *before, json_t *after)
{
	const char *key;
	json_t *value;

	json_object_foreach(before, key, value)
	{
		if (!is_live(before, after, key))
			return false;
	}
	json_object_foreach(after, key, value)
	{
		if (!is_live(before, after, key))
			return false;
	}
	return true;
}
