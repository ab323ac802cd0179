/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_machine - the machine file of a copy: the first machine's, with its own
 * name, cards, console, and disks on top of what the two share.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/fork.h"
#include "cli/saved.h"
#include "launch/launch.h"

struct build {
	struct fork_copy *copy;
	const struct fork_source *source;
	const char *moment;
	json_t *file;
	int fds[CONTROL_FDS_MAX];
	size_t count;
	bool full;
};

static json_t *add(struct build *b, int fd)
{
	if (fd < 0)
		return json_null();
	if (b->count == CONTROL_FDS_MAX) {
		b->full = true;
		return json_null();
	}
	b->fds[b->count] = fd;
	return json_integer((json_int_t)b->count++);
}

/* One of those that the machine gave. */
static json_t *add_given(struct build *b, json_t *index)
{
	json_int_t i = json_integer_value(index);

	if (!json_is_integer(index) || i < 0 || (size_t)i >= b->source->count)
		return json_null();
	return add(b, b->source->fds[i]);
}

static void copy_plain(struct build *b, json_t *from)
{
	static const char *const keys[] = { "engine",       "engine_options",
		                            "cpus",         "memory_bytes",
		                            "cpu",          "virtio_console",
		                            "max_cpus",     "rng",
		                            "share_memory", "devices" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		json_t *value = json_object_get(from, keys[i]);

		if (value)
			json_object_set(b->file, keys[i], value);
	}
	json_object_set_new(b->file, "name", json_string(b->copy->name));
}

static void add_boot(struct build *b)
{
	json_t *from = json_object_get(b->source->answer, "boot"), *index;
	json_t *boot = json_copy(from), *modules = json_array();
	size_t i;

	json_object_set_new(b->file, "boot", boot);
	json_object_set_new(boot, "kernel",
	                    add_given(b, json_object_get(from, "kernel")));
	json_object_set_new(boot, "initrd",
	                    add_given(b, json_object_get(from, "initrd")));
	json_array_foreach(json_object_get(from, "modules"), i, index)
	    json_array_append_new(modules, add_given(b, index));
	json_object_set_new(boot, "modules", modules);
}

static void add_disk(struct build *b, json_t *list, json_t *from)
{
	bool readonly = json_is_true(json_object_get(from, "readonly"));
	json_t *below = json_object_get(from, "below"), *file;
	json_t *chain = json_array(), *disk = json_object();
	size_t i;

	json_object_set(disk, "serial", json_object_get(from, "serial"));
	json_object_set(disk, "cache", json_object_get(from, "cache"));
	/* As fast as the machine's is now. */
	json_object_update(disk, json_object_get(from, "limits"));
	json_object_set_new(disk, "readonly", json_boolean(readonly));
	json_object_set_new(disk, "chain", chain);
	json_array_foreach(below, i, file)
	{
		json_t *index = json_object_get(file, "fd");
		json_t *one;

		if (readonly && i == 0) {
			json_object_set(disk, "path",
			                json_object_get(file, "path"));
			json_object_set(disk, "format",
			                json_object_get(file, "format"));
			json_object_set_new(disk, "fd", add_given(b, index));
			continue;
		}
		one = json_copy(file);
		json_object_set_new(one, "fd", add_given(b, index));
		json_array_append_new(chain, one);
	}
	if (!readonly) {
		/* Its chain is named by absolute paths. */
		json_object_set_new(disk, "path", json_string("/fork/disk"));
		json_object_set_new(disk, "format", json_string("qcow2"));
		json_object_set_new(disk, "private", json_true());
		json_object_set_new(disk, "shared", json_true());
		json_object_set_new(
		    disk, "fd",
		    add(b, b->copy->overlays[b->copy->overlay_count++]));
	}
	json_array_append_new(list, disk);
}

static void add_disks(struct build *b)
{
	json_t *list = json_array(), *disk;
	size_t i;

	b->copy->overlay_count = 0;
	json_array_foreach(json_object_get(b->source->answer, "disks"), i, disk)
	    add_disk(b, list, disk);
	json_object_set_new(b->file, "disks", list);
}

/* Those which the command that it was started with names for the first
 * machine: what this one wrote is beside its own state. */
static json_t *beside(json_t *disks, json_t *origin)
{
	json_t *list = json_array(), *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		if (json_is_true(json_object_get(disk, "private")) &&
		    !(i == 0 && saved_has_image(origin)))
			json_array_append_new(list,
			                      json_integer((json_int_t)i));
	}
	return list;
}

/* No path leads to any disk of a copy. */
static int publish(struct build *b, struct error *err)
{
	char none[] = "";
	char *paths[RUN_DISKS_MAX + 2];

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		paths[i] = none;
	return named_publish(&b->copy->named, json_object_get(b->file, "disks"),
	                     paths, false, err);
}

/* Cards of its own, each on a network of its own. */
static int add_nics(struct build *b, json_t *machine, json_t *macs,
                    struct error *err)
{
	struct fork_copy *c = b->copy;
	json_t *list = json_array(), *nic;
	struct launch_net net = { .hostname = c->name, .own_group = true };
	size_t i;

	json_object_set_new(b->file, "nics", list);
	json_array_foreach(json_object_get(machine, "nics"), i, nic)
	{
		json_t *mtu = json_object_get(nic, "mtu");
		char mac[18];
		int link, rc = run_machine_mac(mac, sizeof(mac), err);

		if (rc < 0)
			return rc;
		if (c->net_count == RUN_NETS_MAX)
			return error_set(err, -E2BIG, "too many networks");
		net.mtu = (u64)json_integer_value(mtu);
		rc = launch_net_begin(&net, &link, &c->net_ready[c->net_count],
		                      err);
		if (rc < 0)
			return rc;
		c->net_link[c->net_count] = link;
		c->nets[c->net_count++] = rc;
		nic =
		    json_pack("{s:s,s:s,s:I,s:b}", "type", "socket", "mac", mac,
		              "mtu", (json_int_t)(net.mtu ? net.mtu : 1500),
		              "own_network", true);
		json_object_set_new(nic, "fd", add(b, link));
		json_array_append_new(list, nic);
		json_array_append_new(macs, json_string(mac));
	}
	return 0;
}

/* The first port is the console; the others lead nowhere. */
static int add_serials(struct build *b, json_t *machine, struct error *err)
{
	json_t *list = json_array(), *port;
	char *folder = named_folder(b->copy->name, true, err), *path;
	size_t i, count = json_array_size(json_object_get(machine, "serials"));
	int in, out, rc = folder ? 0 : err->code;

	json_object_set_new(b->file, "serials", list);
	for (i = 0; rc == 0 && i < count; i++) {
		port = json_object();
		json_array_append_new(list, port);
		if (i > 0)
			continue;
		path = xasprintf("%s/console.log", folder);
		out = open(path,
		           O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		           0600);
		free(path);
		path = xasprintf("%s/console.in", folder);
		unlink(path);
		in = mkfifo(path, 0600) < 0
		         ? -1
		         : open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		free(path);
		if (in < 0 || out < 0)
			rc = error_set(err, -errno, "console of %s: %s",
			               b->copy->name, strerror(errno));
		b->copy->console_in = in;
		b->copy->console_out = out;
		json_object_set_new(port, "in", add(b, in));
		json_object_set_new(port, "out", add(b, out));
	}
	free(folder);
	return rc;
}

static void add_restore(struct build *b)
{
	json_t *layers = json_array(), *index, *restore;
	size_t i;

	json_array_foreach(json_object_get(b->source->answer, "layers"), i,
	                   index)
	    json_array_append_new(layers, add_given(b, index));
	restore = json_pack("{s:b,s:o}", "copy", 1, "layers", layers);
	json_object_set_new(restore, "fd", add(b, b->source->state));
	json_object_set_new(restore, "hold", add(b, b->source->hold));
	json_object_set_new(b->file, "restore", restore);
}

int fork_machine_start(struct fork_copy *c, const struct fork_source *s,
                       const char *moment, struct error *err)
{
	struct build b = {
		.copy = c, .source = s, .moment = moment, .file = json_object()
	};
	json_t *machine = json_object_get(s->answer, "machine");
	json_t *origin = json_deep_copy(json_object_get(machine, "origin"));
	json_t *macs = json_array(), *message;
	int rc;

	copy_plain(&b, machine);
	/* Not to be chosen once more. */
	json_object_set(b.file, "engine", json_object_get(s->answer, "engine"));
	add_boot(&b);
	add_disks(&b);
	add_restore(&b);
	json_object_set_new(b.file, "listen", add(&b, c->named.listen_fd));
	rc = publish(&b, err);
	if (rc == 0)
		rc = add_serials(&b, machine, err);
	if (rc == 0)
		rc = add_nics(&b, machine, macs, err);
	if (json_is_object(origin)) {
		json_t *argv = json_object_get(origin, "argv");

		json_array_append_new(argv, json_string("--name"));
		json_array_append_new(argv, json_string(c->name));
		json_object_del(origin, "image_disk");
		json_object_set(origin, "macs", macs);
		json_object_set_new(
		    origin, "beside",
		    beside(json_object_get(b.file, "disks"), origin));
		json_object_set(b.file, "origin", origin);
	}
	if (rc == 0 && b.full)
		rc = error_set(err, -E2BIG, "the machine has too many files");
	message = json_pack("{s:s,s:O}", "op", "start", "machine", b.file);
	if (rc == 0)
		rc = control_send(c->worker.control, message, b.fds, b.count,
		                  err);
	json_decref(message);
	json_decref(macs);
	json_decref(origin);
	json_decref(b.file);
	return rc;
}
