/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - from a definition, which names files by path, to a machine file
 * (docs/machine-file.md), which names descriptors. The definition was checked
 * by the daemon (daemon/spec.c): what is missing here has its default.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "control/cable.h"
#include "daemon/hold/hold.h"
#include "launch/launch.h"

static const char *text_of(json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int add_fd(struct hold_files *f, json_t *object, const char *key, int fd,
                  struct error *err)
{
	if (f->fd_count == HOLD_FDS_MAX) {
		close(fd);
		return error_set(err, -E2BIG, "more than %d files",
		                 HOLD_FDS_MAX);
	}
	f->fds[f->fd_count] = fd;
	json_object_set_new(object, key, json_integer(f->fd_count++));
	return 0;
}

static void copy_key(json_t *to, json_t *from, const char *key)
{
	json_t *value = json_object_get(from, key);

	if (value && !json_is_null(value))
		json_object_set(to, key, value);
}

static int open_file(const char *what, const char *path, int flags, bool device,
                     struct error *err)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int code = errno;
	struct stat st;

	if (fd < 0)
		return error_set(err, -code, "cannot open the %s %s: %s", what,
		                 path, strerror(code));
	if (fstat(fd, &st) < 0 ||
	    !(S_ISREG(st.st_mode) || (device && S_ISBLK(st.st_mode)))) {
		close(fd);
		return error_set(err, -EISDIR, "the %s %s is not a file%s",
		                 what, path, device ? " or block device" : "");
	}
	if (S_ISREG(st.st_mode) && st.st_size == 0) {
		close(fd);
		return error_set(err, -ENODATA, "the %s %s is empty", what,
		                 path);
	}
	return fd;
}

static int add_file(struct hold_files *f, json_t *object, const char *key,
                    const char *what, const char *path, struct error *err)
{
	int fd = open_file(what, path, O_RDONLY, false, err);

	return fd < 0 ? fd : add_fd(f, object, key, fd, err);
}

/* ---- the parts ---- */

static int open_boot(struct hold_files *f, json_t *machine, struct error *err)
{
	json_t *boot = json_object_get(machine, "boot"), *to = json_object();
	json_t *modules = json_object_get(boot, "modules"), *list, *slot, *one;
	const char *kernel = text_of(boot, "kernel");
	const char *initrd = text_of(boot, "initrd");
	size_t i;
	int rc;

	json_object_set_new(f->file, "boot", to);
	rc = add_file(f, to, "kernel", "kernel", kernel ? kernel : "", err);
	copy_key(to, boot, "cmdline");
	json_object_set_new(to, "kernel_path", json_string(kernel));
	if (rc == 0 && initrd) {
		rc = add_file(f, to, "initrd", "initrd", initrd, err);
		json_object_set_new(to, "initrd_path", json_string(initrd));
	}
	list = json_array();
	json_object_set_new(to, "modules", list);
	json_array_foreach(modules, i, one)
	{
		slot = json_object();
		if (rc == 0)
			rc = add_file(f, slot, "fd", "module",
			              json_string_value(one), err);
		if (rc == 0)
			json_array_append(list, json_object_get(slot, "fd"));
		json_decref(slot);
	}
	return rc;
}

struct chain {
	struct hold_files *files;
	json_t *list;
};

static int open_one(void *ctx, const char *path, bool readonly,
                    struct error *err)
{
	(void)ctx;
	return open_file("disk", path, readonly ? O_RDONLY : O_RDWR, true, err);
}

static int add_one(void *ctx, const char *path, const char *format, int fd,
                   struct error *err)
{
	struct chain *c = ctx;
	json_t *file = json_pack("{s:s, s:s}", "path", path, "format", format);

	if (!file) {
		close(fd);
		return error_set(err, -EILSEQ,
		                 "the name of a backing file cannot be passed "
		                 "on");
	}
	json_array_append_new(c->list, file);
	return add_fd(c->files, file, "fd", fd, err);
}

static int open_chain(struct hold_files *f, json_t *disk, int fd, bool readonly,
                      struct error *err)
{
	struct chain c = { f, json_array() };
	const struct launch_files files = { open_one, add_one, &c };
	const char *format = text_of(disk, "format");

	json_object_set_new(disk, "chain", c.list);
	return format && strcmp(format, "qcow2") == 0
	           ? launch_chain(&files, fd, text_of(disk, "path"), readonly,
	                          err)
	           : 0;
}

static int open_disks(struct hold_files *f, json_t *machine, struct error *err)
{
	json_t *list = json_array(), *disk, *to;
	bool readonly;
	size_t i;
	int fd, rc;

	json_object_set_new(f->file, "disks", list);
	json_array_foreach(json_object_get(machine, "disks"), i, disk)
	{
		to = json_object();
		json_array_append_new(list, to);
		copy_key(to, disk, "path");
		copy_key(to, disk, "format");
		copy_key(to, disk, "serial");
		copy_key(to, disk, "readonly");
		copy_key(to, disk, "cache");
		copy_key(to, disk, "iops");
		copy_key(to, disk, "iops_burst");
		copy_key(to, disk, "bytes_per_s");
		copy_key(to, disk, "bytes_burst");
		readonly = json_is_true(json_object_get(disk, "readonly"));
		fd = open_file("disk", text_of(disk, "path"),
		               readonly ? O_RDONLY : O_RDWR, true, err);
		if (fd < 0)
			return fd;
		rc = add_fd(f, to, "fd", fd, err);
		if (rc == 0)
			rc = launch_hold_disk(fd, text_of(disk, "path"),
			                      readonly, err);
		if (rc == 0)
			rc = open_chain(f, to, fd, readonly, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static pid_t start_user_net(json_t *nic, const char *hostname, int *link,
                            struct error *err)
{
	json_t *list = json_object_get(nic, "publish"), *one;
	size_t count = json_array_size(list), i;
	const char **publish = xalloc((count + 1) * sizeof(*publish));
	const struct launch_net net = {
		.hostname = hostname,
		.mtu = (u64)json_integer_value(json_object_get(nic, "mtu")),
		.publish = publish,
		.publish_count = count,
	};
	pid_t pid;

	json_array_foreach(list, i, one) publish[i] = json_string_value(one);
	pid = launch_net(&net, link, err);
	free(publish);
	return pid;
}

static int plug_in(struct hold_files *f, json_t *nic, unsigned index,
                   const char *machine, struct error *err)
{
	const struct cable_config config = {
		.socket = text_of(nic, "socket"),
		.machine = machine,
		.nic = index,
		.card = nic,
	};
	int fd, rc;

	rc = cable_plug(&f->cables[f->cable_count], &config, &fd, err);
	if (rc < 0)
		return error_prefix(err, "network %s", text_of(nic, "network"));
	f->cable_count++;
	return fd;
}

static int open_nic(struct hold_files *f, json_t *nic, unsigned index,
                    const char *machine, struct error *err)
{
	const char *tap = text_of(nic, "tap");
	int fd = -1;
	pid_t pid;

	if (tap)
		return launch_tap(tap, err);
	if (f->net_count + f->cable_count == HOLD_NETS_MAX)
		return error_set(err, -E2BIG, "more than %d networks",
		                 HOLD_NETS_MAX);
	if (text_of(nic, "socket"))
		return plug_in(f, nic, index, machine, err);
	pid = start_user_net(nic, machine, &fd, err);
	if (pid < 0)
		return pid;
	f->nets[f->net_count++] = pid;
	return fd;
}

static int open_nics(struct hold_files *f, json_t *machine, struct error *err)
{
	json_t *list = json_array(), *nic, *to;
	size_t i;
	int fd;

	json_object_set_new(f->file, "nics", list);
	json_array_foreach(json_object_get(machine, "nics"), i, nic)
	{
		to = json_object();
		json_array_append_new(list, to);
		copy_key(to, nic, "mac");
		copy_key(to, nic, "mtu");
		json_object_set_new(
		    to, "type",
		    json_string(text_of(nic, "tap") ? "tap" : "socket"));
		if (!text_of(nic, "tap") && !text_of(nic, "socket"))
			json_object_set_new(to, "own_network", json_true());
		fd = open_nic(f, nic, (unsigned)i, text_of(machine, "name"),
		              err);
		if (fd < 0)
			return fd;
		fd = add_fd(f, to, "fd", fd, err);
		if (fd < 0)
			return fd;
	}
	return 0;
}

static int open_console(struct hold_files *f, struct error *err)
{
	json_t *port = json_object();
	int in[2], out[2], rc;

	json_object_set_new(f->file, "serials", json_pack("[o]", port));
	if (pipe2(in, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	f->console_in = in[1];
	rc = add_fd(f, port, "in", in[0], err);
	if (rc < 0)
		return rc;
	if (pipe2(out, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	f->console_out = out[0];
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	return add_fd(f, port, "out", out[1], err);
}

/* Kept open here, whoever reads: daemons come and go. */
static int open_agent(struct hold_files *f, json_t *machine, struct error *err)
{
	int pair[2];

	if (json_is_false(json_object_get(machine, "agent")))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
	               pair) < 0)
		return error_set(err, -errno, "the agent's line: %s",
		                 strerror(errno));
	f->agent = pair[0];
	return add_fd(f, f->file, "agent", pair[1], err);
}

static int open_records(struct hold_files *f, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "a socket: %s", strerror(errno));
	f->records = pair[0];
	return add_fd(f, f->file, "records", pair[1], err);
}

int hold_files_open(struct hold_files *f, json_t *machine, struct error *err)
{
	static const char *const plain[] = { "name",         "engine",
		                             "cpus",         "engine_options",
		                             "memory_bytes", "virtio_console",
		                             "rng",          "devices",
		                             "balloon",      "max_cpus",
		                             "share_memory" };
	json_t *most;
	int rc;

	memset(f, 0, sizeof(*f));
	f->console_in = f->console_out = f->agent = f->records = -1;
	f->file = json_object();
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		copy_key(f->file, machine, plain[i]);
	/* It boots with the most that it may ever have; the balloon takes what
	 * it is not to have now. */
	most = json_object_get(machine, "memory_max_bytes");
	if (json_integer_value(most) >
	    json_integer_value(json_object_get(machine, "memory_bytes")))
		json_object_set(f->file, "memory_bytes", most);
	rc = open_boot(f, machine, err);
	if (rc == 0)
		rc = open_disks(f, machine, err);
	if (rc == 0)
		rc = open_console(f, err);
	if (rc == 0)
		rc = open_agent(f, machine, err);
	if (rc == 0)
		rc = open_records(f, err);
	if (rc == 0)
		rc = open_nics(f, machine, err);
	if (rc < 0)
		hold_files_fini(f);
	return rc;
}

int hold_files_restore(struct hold_files *f, const struct hold_config *config,
                       struct error *err)
{
	json_t *how = json_object_get(config->document, "restore");
	json_t *restore = json_object();
	int fd = openat(config->folder, HOLD_SAVED, O_RDONLY | O_CLOEXEC), rc;

	json_object_set_new(f->file, "restore", restore);
	copy_key(restore, how, "copy");
	if (fd < 0)
		return error_set(err, -errno,
		                 "cannot open the saved machine: %s",
		                 strerror(errno));
	rc = add_fd(f, restore, "fd", fd, err);
	/* It is lost if this host goes down now; that its guest did everything
	 * twice would be worse. */
	if (rc == 0 && renameat(config->folder, HOLD_SAVED, config->folder,
	                        HOLD_RESUMING) < 0)
		rc = error_set(err, -errno, "the saved machine: %s",
		               strerror(errno));
	f->restores = rc == 0;
	return rc;
}

/* A descriptor that came along; it stays the caller's. */
static int add_given(struct hold_files *f, json_t *to, const char *key,
                     json_t *index, const int *fds, size_t count,
                     struct error *err)
{
	json_int_t i = json_integer_value(index);
	int fd = -1;

	if (json_is_integer(index) && i >= 0 && (size_t)i < count)
		fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return error_set(err, -EINVAL, "restore.%s did not come along",
		                 key);
	return add_fd(f, to, key, fd, err);
}

int hold_files_adopt(struct hold_files *f, json_t *how, const int *fds,
                     size_t count, struct error *err)
{
	json_t *restore = json_pack("{s:b}", "copy", 1), *list = json_array();
	json_t *index, *slot;
	size_t i;
	int rc;

	json_object_set_new(f->file, "restore", restore);
	json_object_set_new(restore, "layers", list);
	rc = add_given(f, restore, "fd", json_object_get(how, "fd"), fds, count,
	               err);
	if (rc == 0)
		rc = add_given(f, restore, "hold", json_object_get(how, "hold"),
		               fds, count, err);
	json_array_foreach(json_object_get(how, "layers"), i, index)
	{
		slot = json_object();
		json_object_set_new(slot, "layer", json_null());
		if (rc == 0 && !json_is_null(index))
			rc =
			    add_given(f, slot, "layer", index, fds, count, err);
		json_array_append(list, json_object_get(slot, "layer"));
		json_decref(slot);
	}
	return rc;
}

void hold_files_sent(struct hold_files *f)
{
	for (unsigned i = 0; i < f->fd_count; i++)
		close(f->fds[i]);
	f->fd_count = 0;
}

void hold_files_fini(struct hold_files *f)
{
	hold_files_sent(f);
	json_decref(f->file);
	if (f->console_in >= 0)
		close(f->console_in);
	if (f->console_out >= 0)
		close(f->console_out);
	for (unsigned i = 0; i < f->cable_count; i++)
		cable_destroy(f->cables[i]);
	if (f->agent >= 0)
		close(f->agent);
	if (f->records >= 0)
		close(f->records);
	/* Their cables are out now: they end by themselves. */
	for (unsigned i = 0; i < f->net_count; i++)
		launch_end(f->nets[i], 2000);
	memset(f, 0, sizeof(*f));
	f->console_in = f->console_out = f->agent = f->records = -1;
}
