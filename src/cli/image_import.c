/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll image import, export, tag: images that come from elsewhere, and go
 * there.
 *
 * An export is a tar file of manifest.json, vmlinuz, initrd and disk.qcow2,
 * compressed. What it holds is not trusted: only files of those names are
 * taken, only if they are files, and the disk may name no other.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/end.h"
#include "base/error.h"
#include "cli/disk.h"
#include "cli/files.h"
#include "cli/image.h"
#include "cli/options.h"
#include "cli/partial.h"
#include "cli/say.h"

enum { OPT_NAME = 1, OPT_KERNEL, OPT_INITRD, OPT_CMDLINE };

#define USUAL_CMDLINE "root=/dev/vda rw console=ttyS0"

struct import {
	struct disk_args args;
	const char *name, *kernel, *initrd, *cmdline;
};

static const struct option_spec import_options[] = {
	{ "name", "NAME:TAG", "what it is called", OPT_NAME },
	{ "kernel", "FILE", "what it boots", OPT_KERNEL },
	{ "initrd", "FILE", "its first file system", OPT_INITRD },
	{ "cmdline", "TEXT", "of the kernel (" USUAL_CMDLINE ")", OPT_CMDLINE },
	DISK_OPT_FORMAT,
	DISK_OPT_QUIET,
	{ 0 },
};

static int import_option(void *ctx, int id, const char *value,
                         struct error *err)
{
	struct import *m = ctx;

	switch (id) {
	case OPT_NAME:
		m->name = value;
		return 0;
	case OPT_KERNEL:
		m->kernel = value;
		return 0;
	case OPT_INITRD:
		m->initrd = value;
		return 0;
	case OPT_CMDLINE:
		m->cmdline = value;
		return 0;
	default:
		return disk_arg(&m->args, id, value, err);
	}
}

static bool is_archive(const char *path)
{
	size_t n = strlen(path);

	return n > 4 && strcmp(path + n - 4, ".tar") == 0;
}

/* ---- the parts ---- */

static int copy_file(const char *from, const char *folder, const char *name,
                     struct error *err)
{
	char *to = xasprintf("%s/%s", folder, name);
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	struct stat st;
	int rc = in < 0 || out < 0 || fstat(in, &st) < 0 ? -errno : 0;

	if (rc == 0 && !S_ISREG(st.st_mode))
		rc = -EISDIR;
	if (rc == 0)
		rc = copy_sparse(in, out, st.st_size);
	if (rc < 0)
		error_set(err, rc, "cannot copy %s to %s: %s", from, to,
		          strerror(-rc));
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	free(to);
	return rc;
}

/* An image that has none: image_use() knows. */
static int make_empty(const char *folder, const char *name, struct error *err)
{
	char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int rc = fd >= 0
	             ? 0
	             : error_set(err, -errno, "%s: %s", path, strerror(errno));

	if (fd >= 0)
		close(fd);
	free(path);
	return rc;
}

static int convert(const struct block_open *from, const char *to,
                   const char *format, bool quiet, struct error *err)
{
	struct disk_new made = {
		.how = { .path = to, .format = format, .compression = "zstd" }
	};
	bool compress = strcmp(format, "qcow2") == 0;
	struct disk_progress p;
	struct block_info info;
	struct block *in, *out;
	int rc = block_open(&in, from, err);

	if (rc < 0)
		return rc;
	if (!compress)
		made.how.compression = NULL;
	block_info(in, &info);
	made.how.size = info.size;
	rc = disk_make(&made, err);
	if (rc == 0) {
		rc = image_open_new(&out, &made.how, 0, err);
		if (rc == 0) {
			rc = image_share(in, out);
			if (rc < 0) {
				disk_progress_begin(
				    &p, compress ? "exporting" : "importing",
				    quiet);
				rc = image_copy(in, out, true, compress,
				                &p.progress, err);
				disk_progress_end(&p);
			}
			block_close(out);
		}
		if (rc == 0)
			rc = disk_keep(&made, err);
		disk_drop(&made);
	}
	block_close(in);
	return rc;
}

static int convert_to_raw(const char *from, const char *format,
                          const struct block_opener *opener, const char *folder,
                          bool quiet, struct error *err)
{
	char *to = xasprintf("%s/disk.raw", folder);
	const struct block_open how = { .path = from,
		                        .fd = -1,
		                        .format = format,
		                        .flags = BLOCK_OPEN_READONLY,
		                        .opener = opener };
	int rc = convert(&how, to, "raw", quiet, err);

	free(to);
	return rc;
}

static int write_manifest(const char *folder, const char *name, const char *id,
                          const char *cmdline, json_t *old, struct error *err)
{
	char *path = xasprintf("%s/manifest.json", folder);
	json_t *files = json_object(), *manifest;
	int rc = image_note_file(files, folder, "vmlinuz", true, err);

	if (rc == 0)
		rc = image_note_file(files, folder, "initrd", true, err);
	if (rc == 0)
		rc = image_note_file(files, folder, "disk.raw", false, err);
	manifest = json_pack("{s:s, s:s, s:s, s:O*, s:O*, s:o}", "id", id,
	                     "name", name, "cmdline", cmdline, "kernel_version",
	                     json_object_get(old, "kernel_version"), "packages",
	                     json_object_get(old, "packages"), "files", files);
	if (rc == 0 &&
	    (!manifest || json_dump_file(manifest, path,
	                                 JSON_INDENT(2) | JSON_PRESERVE_ORDER)))
		rc = error_set(err, -EIO, "cannot write %s", path);
	json_decref(manifest);
	free(path);
	return rc;
}

/* ---- a disk with a kernel ---- */

static int take_disk(const struct import *m, const char *work,
                     char id[IMAGE_HEX], struct error *err)
{
	const char *disk = m->args.names[0];
	const char *format = disk_format(disk, m->args.format, err);
	const char *cmdline = m->cmdline ? m->cmdline : USUAL_CMDLINE;
	int rc;

	if (!format)
		return -EINVAL;
	if (disk_format_foreign(format)) {
		error_set(err, -ENOTSUP, "%s: a %s image", disk, format);
		return error_hint(err, "atoll disk convert makes it one that "
		                       "can be imported");
	}
	rc = convert_to_raw(disk, format, &block_opener_paths, work,
	                    m->args.quiet, err);
	if (rc == 0)
		rc = copy_file(m->kernel, work, "vmlinuz", err);
	if (rc == 0)
		rc = m->initrd ? copy_file(m->initrd, work, "initrd", err)
		               : make_empty(work, "initrd", err);
	if (rc == 0)
		rc = image_hash_content(work, cmdline, id, err);
	if (rc == 0)
		rc = write_manifest(work, m->name, id, cmdline, NULL, err);
	return rc;
}

/* ---- an export ---- */

static const char *const members[] = { "manifest.json", "vmlinuz", "initrd",
	                               "disk.qcow2" };

static int unpack(const char *archive, const char *work, struct error *err)
{
	char *argv[16] = { xstrdup("tar"),
		           xstrdup("--no-same-owner"),
		           xstrdup("--no-same-permissions"),
		           xstrdup("-C"),
		           xstrdup(work),
		           xstrdup("--force-local"),
		           xstrdup("-xf"),
		           xstrdup(archive),
		           xstrdup("--") };
	struct stat st;
	int n = 9, rc;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		argv[n++] = xstrdup(members[i]);
	rc = image_run(argv, false, err);
	while (n)
		free(argv[--n]);
	if (rc < 0)
		return error_prefix(err, "%s", archive);
	for (size_t i = 0; i < ARRAY_SIZE(members) && rc == 0; i++) {
		char *path = xasprintf("%s/%s", work, members[i]);

		if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
			rc = error_set(err, -EBADMSG, "%s: its %s is no file",
			               archive, members[i]);
		free(path);
	}
	return rc;
}

static int take_archive(const struct import *m, const char *work,
                        char id[IMAGE_HEX], struct error *err)
{
	const char *archive = m->args.names[0], *cmdline;
	char *disk = xasprintf("%s/disk.qcow2", work);
	json_t *manifest = NULL;
	int rc = unpack(archive, work, err);

	if (rc == 0) {
		manifest = image_manifest(work, err);
		if (!manifest) {
			rc = error_set(err, -EBADMSG,
			               "%s: its manifest.json does not say id "
			               "and cmdline",
			               archive);
			error_hint(err,
			           "atoll image export writes such a file");
		}
	}
	/* No opener: a disk that names further files is refused. */
	if (rc == 0)
		rc = convert_to_raw(disk, "qcow2", NULL, work, m->args.quiet,
		                    err);
	unlink(disk);
	if (rc == 0) {
		cmdline = m->cmdline ? m->cmdline
		                     : json_string_value(json_object_get(
					   manifest, "cmdline"));
		rc = image_hash_content(work, cmdline, id, err);
	}
	if (rc == 0)
		rc = write_manifest(work, m->name, id, cmdline, manifest, err);
	json_decref(manifest);
	free(disk);
	return rc;
}

/* ---- import ---- */

static int import_locked(const struct import *m, const char *store,
                         struct error *err)
{
	char *work = xasprintf("%s/.importing", store), id[IMAGE_HEX] = "";
	int rc = 0;

	if (mkdir(work, 0700) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", work,
		               strerror(errno));
	if (rc == 0)
		rc = is_archive(m->args.names[0])
		         ? take_archive(m, work, id, err)
		         : take_disk(m, work, id, err);
	if (rc == 0)
		rc = image_settle(store, work, id, err);
	if (rc == 0)
		rc = image_set_name(store, m->name, id, err);
	if (rc == 0)
		printf("%s %s\n", m->name, id);
	else
		image_remove_tree(work);
	free(work);
	return rc;
}

/* It is there, and a file: before anything is copied, and in better words. */
static int look_at(const char *what, const char *path, struct error *err)
{
	int fd = path ? file_open_input(what, path, err) : -1;

	if (fd >= 0)
		close(fd);
	return path ? MIN(fd, 0) : 0;
}

static int check_name(const char *name, struct error *err)
{
	if (image_name_valid(name))
		return 0;
	return error_set(err, -EINVAL,
	                 "%s is not a name for an image: NAME:TAG, of letters, "
	                 "digits and . _ : -",
	                 name);
}

static int check_import(const struct import *m, struct error *err)
{
	int rc;

	if (m->args.name_count != 1)
		return error_set(err, -EINVAL, "say one FILE");
	if (!m->name)
		return error_set(err, -EINVAL,
		                 "say what it is called: --name NAME:TAG");
	rc = check_name(m->name, err);
	if (rc < 0)
		return error_prefix(err, "--name"), rc;
	if (is_archive(m->args.names[0]) && (m->kernel || m->initrd))
		return error_set(err, -EINVAL,
		                 "an export has its own kernel and initrd");
	if (!is_archive(m->args.names[0]) && !m->kernel) {
		error_set(err, -EINVAL, "what does it boot? --kernel FILE");
		return error_hint(err, "Linux's lies in /boot of the disk, its "
		                       "initrd beside it");
	}
	if (is_archive(m->args.names[0]))
		return look_at("export", m->args.names[0], err);
	rc = look_at("kernel", m->kernel, err);
	return rc < 0 ? rc : look_at("initrd", m->initrd, err);
}

/* With the store, and nobody else changing it. */
static int with_store(int (*fn)(const struct import *m, const char *store,
                                struct error *err),
                      const struct import *m, struct error *err)
{
	char *store = image_store(err);
	int lock = store ? image_lock(store, err) : err->code;
	int rc = lock < 0 ? lock : fn(m, store, err);

	if (lock >= 0)
		close(lock);
	free(store);
	return rc;
}

int image_import(int argc, char **argv)
{
	struct import m = { 0 };
	struct error err = { 0 };
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll image import FILE --name NAME:TAG "
		             "[OPTION]...",
		             "Make an image of a disk and its kernel, or of "
		             "what atoll image export wrote (FILE.tar).",
		             import_options);
		return 0;
	}
	rc = options_parse(import_options, argc, argv, import_option, &m, &err);
	if (rc == 0)
		rc = check_import(&m, &err);
	if (rc == 0)
		rc = with_store(import_locked, &m, &err);
	return rc < 0 ? say_error(&err) : 0;
}

/* ---- export ---- */

static int pack(const char *work, const char *to, struct error *err)
{
	char *argv[16] = { xstrdup("tar"), xstrdup("-C"),
		           xstrdup(work),  xstrdup("--force-local"),
		           xstrdup("-cf"), xstrdup(to),
		           xstrdup("--") };
	int n = 7, rc;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		argv[n++] = xstrdup(members[i]);
	rc = image_run(argv, false, err);
	while (n)
		free(argv[--n]);
	return rc;
}

static int export_from(const char *folder, const char *work, const char *to,
                       bool quiet, struct error *err)
{
	char *disk = xasprintf("%s/disk.raw", folder);
	char *packed = xasprintf("%s/disk.qcow2", work), *from;
	const struct block_open how = { .path = disk,
		                        .fd = -1,
		                        .format = "raw",
		                        .flags = BLOCK_OPEN_READONLY };
	int rc = convert(&how, packed, "qcow2", quiet, err);

	for (size_t i = 0; i < 3 && rc == 0; i++) {
		from = xasprintf("%s/%s", folder, members[i]);
		rc = copy_file(from, work, members[i], err);
		free(from);
	}
	if (rc == 0)
		rc = pack(work, to, err);
	free(packed);
	free(disk);
	return rc;
}

/* It is on the disk before it is there. */
static int put_in_place(struct partial *part, struct error *err)
{
	int fd = open(part->by, O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc < 0 ? error_set(err, rc, "cannot write %s: %s", part->path,
	                          strerror(-rc))
	              : partial_end(part, err);
}

static int export_locked(const struct import *m, const char *store,
                         struct error *err)
{
	char *folder = image_find(m->args.names[0], err);
	char *work = xasprintf("%s/.exporting", store);
	struct partial part = { .path = NULL };
	int rc = folder
	             ? partial_begin(&part, m->args.names[1],
	                             m->args.force ? PARTIAL_REPLACE : 0, err)
	             : err->code;

	if (rc == -EEXIST) {
		error_set(err, rc, "%s is there already", m->args.names[1]);
		error_hint(err, "--force replaces it");
	}
	if (rc == 0 && mkdir(work, 0700) < 0)
		rc = error_set(err, -errno, "cannot make %s: %s", work,
		               strerror(errno));
	if (rc == 0)
		rc = export_from(folder, work, part.by, m->args.quiet, err);
	if (rc == 0)
		rc = put_in_place(&part, err);
	partial_discard(&part);
	image_remove_tree(work);
	free(work);
	free(folder);
	return rc;
}

int image_export(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "force", NULL, "replace a file that is there", OPT_FORCE },
		DISK_OPT_QUIET,
		{ 0 },
	};
	struct import m = { 0 };
	struct error err = { 0 };
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll image export IMAGE FILE.tar [OPTION]...",
		             "Write an image to one file; atoll image import "
		             "reads it.",
		             specs);
		return 0;
	}
	rc = options_parse(specs, argc, argv, import_option, &m, &err);
	if (rc == 0 && m.args.name_count != 2)
		rc = error_set(&err, -EINVAL, "say an image and a FILE.tar");
	else if (rc == 0 && !is_archive(m.args.names[1]))
		rc = error_set(&err, -EINVAL, "%s does not end in .tar",
		               m.args.names[1]);
	if (rc == 0)
		rc = with_store(export_locked, &m, &err);
	return rc < 0 ? say_error(&err) : 0;
}

/* ---- tag ---- */

static int tag_locked(const struct import *m, const char *store,
                      struct error *err)
{
	char *folder = image_find(m->args.names[0], err);
	int rc = folder ? image_set_name(store, m->args.names[1],
	                                 strrchr(folder, '/') + 1, err)
	                : err->code;

	free(folder);
	return rc;
}

int image_tag(int argc, char **argv)
{
	static const struct option_spec specs[] = { { 0 } };
	struct import m = { 0 };
	struct error err = { 0 };
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll image tag IMAGE NAME:TAG",
		             "Give an image another name; one that had the "
		             "name before loses it.",
		             specs);
		return 0;
	}
	rc = options_parse(specs, argc, argv, import_option, &m, &err);
	if (rc == 0 && m.args.name_count != 2)
		rc = error_set(&err, -EINVAL, "say an image and a NAME:TAG");
	if (rc == 0)
		rc = check_name(m.args.names[1], &err);
	if (rc == 0)
		rc = with_store(tag_locked, &m, &err);
	return rc < 0 ? say_error(&err) : 0;
}
