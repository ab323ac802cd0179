/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll vm show - all that is known of a machine.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/vm.h"

/* What the guest itself says; only it knows its addresses for sure. */
static void show_agent(json_t *agent)
{
	json_t *one, *address;
	size_t i, k;

	if (!json_is_true(json_object_get(agent, "connected")))
		return;
	printf("agent              %s, %s\n", remote_text(agent, "hostname"),
	       remote_text(agent, "os"));
	json_array_foreach(json_object_get(agent, "interfaces"), i, one)
	{
		printf("interface          %s", remote_text(one, "name"));
		json_array_foreach(json_object_get(one, "addresses"), k,
		                   address)
		{
			printf(" %s", json_string_value(address));
		}
		putchar('\n');
	}
}

static void row(const char *name, const char *format, ...) PRINTF_LIKE(2, 3);
static void row(const char *name, const char *format, ...)
{
	va_list ap;

	printf("%-18s ", name);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
}

static void show_size(json_t *vm, const char *title, const char *path)
{
	u64 bytes = (u64)remote_number(vm, path);
	char room[32];

	if (bytes)
		row(title, "%s", format_size(bytes, room, sizeof(room)));
}

static void show_texts(json_t *vm)
{
	static const char *const rows[] = {
		"name",
		"id",
		"state",
		"since",
		"wanted",
		"spec.project",
		"spec.owner",
		"spec.expires",
		"spec.description",
		"spec.engine",
		"spec.image",
		"spec.boot.kernel",
		"spec.boot.cmdline",
		"last_end.words",
	};
	const char *key;
	json_t *value;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (remote_text(vm, rows[i])[0])
			row(rows[i], "%s", remote_text(vm, rows[i]));
	json_object_foreach(remote_at(vm, "spec.tags"), key, value)
	{
		row("spec.tag", "%s=%s", key, json_string_value(value));
	}
}

/* What it gets of the host, as far as that is not the usual. */
static void show_resources(json_t *vm)
{
	static const struct {
		const char *title, *path, *unit;
		s64 usual;
	} numbers[] = {
		{ "cpu_weight", "spec.resources.cpu_weight", "", 100 },
		{ "cpu_limit", "spec.resources.cpu_limit", " %", 0 },
		{ "cpu_reservation", "spec.resources.cpu_reservation", " %",
		  0 },
		{ "io_weight", "spec.resources.io_weight", "", 100 },
	};
	const char *pin = remote_text(vm, "spec.resources.cpu_pin");

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		s64 n = remote_number(vm, numbers[i].path);

		if (n != numbers[i].usual)
			row(numbers[i].title, "%" PRId64 "%s", n,
			    numbers[i].unit);
	}
	if (pin[0])
		row("cpu_pin", "%s", pin);
	show_size(vm, "memory_max", "spec.memory_max_bytes");
	show_size(vm, "memory_target", "spec.resources.memory_target_bytes");
	show_size(vm, "memory_reservation",
	          "spec.resources.memory_reservation_bytes");
	show_size(vm, "memory_limit", "spec.resources.memory_limit_bytes");
	show_size(vm, "memory_hard_limit",
	          "spec.resources.memory_hard_limit_bytes");
	if (json_is_true(remote_at(vm, "spec.share_memory")))
		row("spec.share_memory", "on");
}

static void show_sizes(json_t *vm)
{
	s64 cpus = remote_number(vm, "spec.cpus");
	s64 most = remote_number(vm, "spec.max_cpus");

	row("revision", "%" PRId64, remote_number(vm, "revision"));
	if (most > cpus)
		row("spec.cpus", "%" PRId64 ", %" PRId64 " at most", cpus,
		    most);
	else
		row("spec.cpus", "%" PRId64, cpus);
	show_size(vm, "spec.memory", "spec.memory_bytes");
}

static void show_devices(json_t *vm)
{
	json_t *one, *port;
	char room[160];
	size_t i, k;

	one = remote_at(vm, "spec.image_disk");
	if (disk_limits_words(one, room, sizeof(room))[0])
		row("spec.image_disk", "%s", room + strlen(", "));
	json_array_foreach(remote_at(vm, "spec.disks"), i, one)
	{
		row("spec.disk", "%s%s", remote_text(one, "path"),
		    disk_limits_words(one, room, sizeof(room)));
	}
	json_array_foreach(remote_at(vm, "spec.nics"), i, one)
	{
		row("spec.nic", "%s %s %s%s", remote_text(one, "type"),
		    remote_text(one, "mac"), remote_text(one, "network"),
		    remote_text(one, "tap"));
		json_array_foreach(json_object_get(one, "publish"), k, port)
		{
			row("spec.publish", "%s", json_string_value(port));
		}
	}
}

/* What it does when nobody looks. */
static void show_policies(json_t *vm)
{
	const char *restart = remote_text(vm, "spec.restart.policy");

	if (restart[0] && strcmp(restart, "no"))
		row("spec.restart", "%s", restart);
	if (json_is_true(remote_at(vm, "spec.autostart.enabled")))
		row("spec.autostart", "%" PRId64,
		    remote_number(vm, "spec.autostart.order"));
}

static void show_text(json_t *vm)
{
	show_texts(vm);
	show_sizes(vm);
	show_resources(vm);
	show_policies(vm);
	show_devices(vm);
	show_agent(json_object_get(vm, "agent"));
	if (json_is_true(json_object_get(vm, "saved")))
		row("saved", "its start goes on from there");
	if (json_is_true(json_object_get(vm, "restart_needed")))
		row("restart_needed",
		    "the definition was changed since it started");
}

static int show_one(struct remote *r, void *unused, const char *name)
{
	char *path = resource_path("/v1/vms", name);
	int code = CODE_OK;
	json_t *vm = remote_get(r, path, &code);

	(void)unused;
	free(path);
	if (!vm)
		return code;
	if (r->format == FORMAT_TABLE) {
		show_text(vm);
	} else if (r->format == FORMAT_NAME) {
		puts(remote_text(vm, "name"));
	} else {
		remote_print_value(r, vm);
	}
	json_decref(vm);
	return CODE_OK;
}

int vm_show(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code =
	    remote_open(&r, "atoll vm show NAME...",
	                "All that is known of a machine.", specs, argc, argv);

	if (code < 0)
		code = remote_each_machine(&r, show_one, NULL);
	remote_close(&r);
	return code;
}
