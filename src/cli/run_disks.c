/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_disks.c - open every disk, and every file that its image is made of.
 *
 * A qcow2 image names its backing and data files. They are looked up here,
 * on behalf of the person who named the image, and opened in order; the
 * worker gets descriptors and finds the same names in its machine file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/files.h"
#include "cli/image.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "launch/launch.h"

enum { CHAIN_MAX = 32 };

struct chain {
	struct run_machine *m;
	json_t *list;
	unsigned count;
};

static int chain_add(struct chain *c, const char *path, const char *format,
                     int fd, struct error *err)
{
	json_t *file = json_object();
	int rc = 0;

	if (c->count++ == CHAIN_MAX || c->m->fd_count == RUN_FDS_MAX) {
		json_decref(file);
		close(fd);
		return error_set(err, -ELOOP,
		                 "%s: the chain of backing files is too long",
		                 path);
	}
	run_machine_set_fd(c->m, file, "fd", fd);
	rc |= json_object_set_new(file, "path", json_string(path));
	rc |= json_object_set_new(file, "format", json_string(format));
	json_array_append_new(c->list, file);
	/* JSON is UTF-8. */
	return rc ? error_set(err, -EILSEQ,
	                      "the name of a backing file cannot "
	                      "be passed on")
	          : 0;
}

static int add_one(void *ctx, const char *path, const char *format, int fd,
                   struct error *err)
{
	return chain_add(ctx, path, format, fd, err);
}

static int add_disk(struct run_machine *m, json_t *list, int fd,
                    const struct run_disk *d, struct error *err)
{
	json_t *disk = json_pack(
	    "{s:s?, s:s?, s:s?, s:s*, s:b, s:I, s:I, s:I, s:I}", "path",
	    d->path, "format", d->format, "serial", d->serial, "cache",
	    d->cache, "readonly", d->readonly, "iops", (json_int_t)d->iops,
	    "iops_burst", (json_int_t)d->iops_burst, "bytes_per_s",
	    (json_int_t)d->bytes_per_s, "bytes_burst",
	    (json_int_t)d->bytes_burst);
	struct chain c = { .m = m, .list = json_array() };
	const struct launch_files files = { file_open_layer, add_one, &c };
	char *path = realpath(d->path, NULL);

	m->disk_paths[m->disk_count++] = path ? path : xstrdup("");
	if (!disk) {
		json_decref(c.list);
		close(fd);
		return error_set(err, -EILSEQ,
		                 "the name of a disk cannot be passed on");
	}
	json_array_append_new(list, disk);
	json_object_set_new(disk, "chain", c.list);
	run_machine_set_fd(m, disk, "fd", fd);
	if (!d->format || strcmp(d->format, "qcow2") != 0)
		return 0;
	return launch_chain(&files, fd, d->path, d->readonly, err);
}

/* No path leads to the disk that was added last. */
static void hide_last(struct run_machine *m, json_t *list)
{
	json_t *disk = json_array_get(list, json_array_size(list) - 1);

	json_object_set_new(disk, "private", json_true());
	m->disk_paths[m->disk_count - 1][0] = '\0';
}

static int add_image(struct run_machine *m, const struct run_options *o,
                     json_t *list, struct error *err)
{
	struct run_disk d = { 0 };
	struct image_use use;
	const struct saved *s = o->saved;
	const char *kept = s ? saved_kept_disk(s) : NULL;
	int rc = s ? image_use_disk(&use, o->image, kept ? kept : s->disk,
	                            saved_disk_format(s),
	                            kept || o->restore_move, o->keep, err)
	           : image_use(&use, o->image, o->full, o->keep, err);

	if (rc < 0)
		return rc;
	if (o->keep)
		m->image_disk = realpath(use.disk_path, NULL);
	m->kernel = use.kernel;
	m->initrd = use.initrd;
	m->cmdline = use.cmdline;
	m->image_format = use.disk_format;
	d.path = use.disk_path;
	d.format = (char *)(uintptr_t)use.disk_format;
	rc = add_disk(m, list, use.disk_fd, &d, err);
	if (rc == 0 && !o->keep)
		hide_last(m, list);
	free(use.disk_path);
	return rc;
}

/* What is written to it goes to a file without a name. */
static int add_disposable(struct run_machine *m, json_t *list,
                          const struct run_disk *d, struct error *err)
{
	struct run_disk over = *d;
	char *base = realpath(d->path, NULL), *folder = NULL;
	struct place place;
	int fd = -1, rc;

	if (!base)
		return error_set(err, -errno, "cannot open the disk %s: %s",
		                 d->path, strerror(errno));
	rc = place_find(&place, err);
	if (rc == 0) {
		folder = xasprintf("%s/disks", place.state);
		place_fini(&place);
		rc = fd =
		    image_overlay(folder, base, d->format ? d->format : "raw",
		                  false, &over.path, err);
	}
	if (rc >= 0) {
		over.format = (char[]){ "qcow2" };
		rc = add_disk(m, list, fd, &over, err);
		hide_last(m, list);
		free(over.path);
	}
	free(folder);
	free(base);
	return rc;
}

/* What a copy wrote to it before it was saved. At its path another machine's
 * contents are. */
static int add_beside(struct run_machine *m, const struct run_options *o,
                      json_t *list, const struct run_disk *d, unsigned n,
                      struct error *err)
{
	struct run_disk own = *d;
	char *from = saved_disk_path(o->saved->path, n, false);
	int fd = image_take(from, o->restore_move, &own.path, err);
	int rc = fd;

	free(from);
	if (fd < 0)
		return rc;
	own.format = (char[]){ "qcow2" };
	rc = add_disk(m, list, fd, &own, err);
	hide_last(m, list);
	json_array_append_new(m->beside, json_integer((json_int_t)n));
	free(own.path);
	return rc;
}

static int add_seed(struct run_machine *m, const struct run_options *o,
                    json_t *list, struct error *err)
{
	struct seed seed = o->seed;
	struct run_disk d = { .path = (char[]){ "cidata" },
		              .format = (char[]){ "raw" },
		              .serial = (char[]){ "cidata" },
		              .readonly = true };
	int fd;

	if (!seed.hostname)
		seed.hostname = o->name;
	fd = seed_make(&seed, err);
	return fd < 0 ? fd : add_disk(m, list, fd, &d, err);
}

int run_disks_open(struct run_machine *m, const struct run_options *o,
                   struct error *err)
{
	json_t *list = json_array();
	int rc = 0, fd;

	json_object_set_new(m->file, "disks", list);
	m->beside = json_array();
	if (o->image)
		rc = add_image(m, o, list, err);
	for (unsigned i = 0; i < o->disk_count && rc == 0; i++) {
		const struct run_disk *d = &o->disks[i];
		unsigned n = (unsigned)json_array_size(list);

		if (o->saved && saved_lies_beside(o->saved, n)) {
			rc = add_beside(m, o, list, d, n, err);
			continue;
		}
		if (o->disposable && !d->readonly) {
			rc = add_disposable(m, list, d, err);
			continue;
		}
		fd = file_open_disk(d->path, d->readonly, err);
		rc = fd < 0 ? fd : add_disk(m, list, fd, d, err);
	}
	if (rc == 0 && seed_wanted(&o->seed))
		rc = add_seed(m, o, list, err);
	return rc;
}

int run_machine_check_disks(const struct run_machine *m, struct error *err)
{
	json_t *list = json_object_get(m->file, "disks"), *disk;
	int rc = 0;
	size_t i;

	json_array_foreach(list, i, disk)
	{
		json_int_t fd = json_integer_value(json_object_get(disk, "fd"));

		if (rc == 0 && m->disk_paths[i][0])
			rc = launch_hold_disk(
			    m->fds[fd], m->disk_paths[i],
			    json_is_true(json_object_get(disk, "readonly")),
			    err);
	}
	return rc;
}
