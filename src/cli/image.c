/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll image - its verbs, those that look and delete; and what atoll run takes
 * of one.
 */
#include "cli/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/copy.h"
#include "base/error.h"
#include "base/place.h"
#include "base/units.h"
#include "base/unnamed.h"
#include "cli/command.h"
#include "cli/disk.h"
#include "cli/image_remote.h"
#include "cli/options.h"
#include "cli/partial.h"
#include "cli/project.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "control/control.h"

/* ---- a private copy ---- */

/* Beside the images: the same file system, so that blocks can be shared. */
static char *disks_folder(const char *store, struct error *err)
{
	char *folder = xasprintf("%s/../disks", store);

	if (place_make(folder, err) == 0)
		return folder;
	free(folder);
	return NULL;
}

/* One without a name may get one later (atoll suspend). Without it from the
 * start, it is gone whatever happens. */
static int open_copy(const char *folder, char **path, struct error *err)
{
	int fd = unnamed_scratch(folder);

	*path = xasprintf("%s/XXXXXX", folder);
	if (fd >= 0)
		return fd;
	error_set(err, -errno, "cannot make a disk %s: %s", *path,
	          strerror(errno));
	free(*path);
	return err->code;
}

static int copy_data(int from, int to, const char *disk, struct error *err)
{
	struct stat st;
	int rc =
	    fstat(from, &st) < 0 ? -errno : copy_sparse(from, to, st.st_size);

	return rc < 0 ? error_set(err, rc, "cannot copy the disk %s: %s", disk,
	                          strerror(-rc))
	              : 0;
}

/* That has a name when it is whole. */
static int copy_to_keep(int from, const char *disk, const char *folder,
                        char **path, struct error *err)
{
	struct partial part;
	u32 number = 0;
	int fd = -1, rc;

	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
		return error_set(err, -EIO, "no random numbers");
	*path = xasprintf("%s/%08x", folder, number);
	rc = partial_begin(&part, *path, 0, err);
	if (rc == 0 && fchmod(part.fd, 0600) < 0)
		rc = error_set(err, -errno, "%s: %s", *path, strerror(errno));
	if (rc == 0)
		rc = copy_data(from, part.fd, disk, err);
	if (rc == 0)
		rc = partial_end(&part, err);
	partial_discard(&part);
	if (rc == 0)
		fd = open(*path, O_RDWR | O_CLOEXEC);
	if (rc == 0 && fd < 0)
		rc = error_set(err, -errno, "%s: %s", *path, strerror(errno));
	if (rc < 0)
		free(*path);
	return rc < 0 ? rc : fd;
}

static int copy_to(int from, const char *disk, const char *folder, bool keep,
                   char **path, struct error *err)
{
	int to, rc;

	if (keep)
		return copy_to_keep(from, disk, folder, path, err);
	to = open_copy(folder, path, err);
	if (to < 0)
		return to;
	rc = copy_data(from, to, disk, err);
	if (rc == 0)
		return to;
	close(to);
	free(*path);
	return rc;
}

static int copy_disk(struct image_use *use, const char *store, const char *disk,
                     bool keep, struct error *err)
{
	int from = open(disk, O_RDONLY | O_CLOEXEC);
	char *folder = from < 0 ? NULL : disks_folder(store, err);

	if (from < 0)
		error_set(err, -errno, "cannot open %s: %s", disk,
		          strerror(errno));
	use->disk_fd =
	    folder ? copy_to(from, disk, folder, keep, &use->disk_path, err)
		   : err->code;
	if (from >= 0)
		close(from);
	free(folder);
	return use->disk_fd < 0 ? use->disk_fd : 0;
}

/* The disk of a machine that goes on. */
static int take_disk(struct image_use *use, const char *path, struct error *err)
{
	use->disk_fd = open(path, O_RDWR | O_CLOEXEC);
	if (use->disk_fd < 0)
		return error_set(err, -errno, "cannot open the disk %s: %s",
		                 path, strerror(errno));
	use->disk_path = xstrdup(path);
	return 0;
}

int image_take(const char *disk, bool move, char **path, struct error *err)
{
	struct image_use use = { 0 };
	char *store = move ? NULL : image_store(err);
	int rc = move    ? take_disk(&use, disk, err)
	         : store ? copy_disk(&use, store, disk, false, err)
	                 : err->code;

	free(store);
	*path = use.disk_path;
	return rc < 0 ? rc : use.disk_fd;
}

/* How the disk comes about, from the image in folder. */
struct source {
	const char *disk, *format; /* disk NULL: the image's */
	bool move, full, keep;
};

static int make_disk(struct image_use *use, const char *store,
                     const char *folder, const struct source *from,
                     struct error *err)
{
	char *disk;
	int rc;

	if (!from->disk && !from->full) {
		use->disk_format = "qcow2";
		use->disk_fd = image_clone(store, folder, from->keep,
		                           &use->disk_path, err);
		return use->disk_fd < 0 ? use->disk_fd : 0;
	}
	use->disk_format =
	    from->disk && strcmp(from->format, "qcow2") == 0 ? "qcow2" : "raw";
	if (from->move)
		return take_disk(use, from->disk, err);
	disk =
	    from->disk ? xstrdup(from->disk) : xasprintf("%s/disk.raw", folder);
	rc = copy_disk(use, store, disk, from->keep, err);
	free(disk);
	return rc;
}

/* NULL: the image has none. */
static char *initrd_of(const char *folder)
{
	char *path = xasprintf("%s/initrd", folder);
	struct stat st;

	if (stat(path, &st) == 0 && st.st_size > 0)
		return path;
	free(path);
	return NULL;
}

static int use_image(struct image_use *use, const char *name,
                     const struct source *from, struct error *err)
{
	char *store = image_store(err), *folder = NULL;
	json_t *manifest = NULL;
	int rc = -ENOENT;

	if (store)
		folder = image_find(name, err);
	if (folder)
		manifest = image_manifest(folder, err);
	if (manifest)
		rc = image_check_files(folder, manifest, err);
	if (manifest && rc == 0)
		rc = make_disk(use, store, folder, from, err);
	if (rc == 0) {
		use->kernel = xasprintf("%s/vmlinuz", folder);
		use->initrd = initrd_of(folder);
		use->cmdline = xstrdup(
		    json_string_value(json_object_get(manifest, "cmdline")));
		if (from->keep)
			fprintf(stderr, "disk: %s\n", use->disk_path);
	} else {
		rc = err->code;
	}
	json_decref(manifest);
	free(folder);
	free(store);
	return rc;
}

int image_use(struct image_use *use, const char *name, bool full, bool keep,
              struct error *err)
{
	const struct source from = { .full = full, .keep = keep };

	return use_image(use, name, &from, err);
}

int image_use_disk(struct image_use *use, const char *name, const char *disk,
                   const char *format, bool move, bool keep, struct error *err)
{
	const struct source from = {
		.disk = disk, .format = format, .move = move, .keep = keep
	};

	return use_image(use, name, &from, err);
}

/* ---- list, inspect, delete ---- */

enum { OPT_SURE = 1 };

static const struct option_spec no_options[] = { { 0 } };
static const struct option_spec delete_options[] = {
	{ "yes", NULL, "don't ask", OPT_SURE },
	{ 0 },
};

struct one_name {
	const char *name;
	bool sure;
};

static int take_name(void *ctx, int id, const char *value, struct error *err)
{
	struct one_name *one = ctx;

	if (id == OPT_SURE) {
		one->sure = true;
		return 0;
	}
	if (one->name)
		return error_set(err, -EINVAL, "one image at a time: %s or %s",
		                 one->name, value);
	one->name = value;
	return 0;
}

/* 0, or the exit code plus one: 1 is help. */
static int parse_name(struct one_name *one, int argc, char **argv,
                      const char *usage, const char *summary,
                      const struct option_spec *specs)
{
	struct error err = { 0 };

	if (options_want_help(argc, argv)) {
		options_help(usage, summary, specs);
		return 1;
	}
	if (options_parse(specs, argc, argv, take_name, one, &err) < 0)
		return say_error(&err) + 1;
	return 0;
}

static u64 folder_bytes(const char *folder)
{
	static const char *const files[] = { "disk.raw", "vmlinuz", "initrd" };
	struct stat st;
	u64 bytes = 0;
	char *path;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		path = xasprintf("%s/%s", folder, files[i]);
		if (stat(path, &st) == 0)
			bytes += (u64)st.st_blocks * 512;
		free(path);
	}
	return bytes;
}

static json_t *describe(const char *store, const char *name)
{
	char *path = xasprintf("%s/names/%s", store, name);
	char *folder = realpath(path, NULL);
	json_t *manifest = folder ? image_manifest(folder, NULL) : NULL, *one;
	const char *id = NULL, *kernel = "";

	if (manifest)
		json_unpack(manifest, "{s:s, s?s}", "id", &id, "kernel_version",
		            &kernel);
	one = json_pack("{s:s, s:s?, s:s, s:I}", "name", name, "id", id,
	                "kernel_version", id ? kernel : "damaged", "bytes",
	                (json_int_t)(id ? folder_bytes(folder) : 0));
	json_decref(manifest);
	free(folder);
	free(path);
	return one;
}

static json_t *all_images(const char *store)
{
	char *path = xasprintf("%s/names", store);
	json_t *list = json_array();
	struct dirent **entries;
	int n = scandir(path, &entries, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		if (image_name_valid(entries[i]->d_name))
			json_array_append_new(
			    list, describe(store, entries[i]->d_name));
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	free(path);
	return list;
}

/* As much of it as nobody mistakes for another's. */
static const char *id_of(json_t *image, char *room, size_t size)
{
	const char *id = remote_text(image, "id");

	snprintf(room, size, "%.12s", id[0] ? id : "-");
	return room;
}

static int image_list(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_LIST_OPTIONS,
		                                    REMOTE_OPTIONS,
		                                    { 0 } };
	static const struct column columns[] = {
		{ "NAME", .path = "name" },
		{ "ID", id_of },
		{ "ON DISK", .path = "bytes", .kind = CELL_SIZE },
		{ "KERNEL", .path = "kernel_version" },
		{ NULL },
	};
	struct remote r = { 0 };
	int code =
	    remote_open(&r, "atoll image list [OPTION]...",
	                "The images that are ready to run.", specs, argc, argv);
	struct error err = { 0 };
	json_t *whole, *list;
	char *store;

	if (code < 0 && r.name_count)
		code = say_usage("atoll image list takes no argument");
	if (code < 0) {
		store = image_store(&err);
		if (!store) {
			code = say_error(&err);
		} else {
			image_tidy(store);
			list = all_images(store);
			whole = json_pack("{s:o}", "images", list);
			code = remote_print(&r, whole, list, columns);
			json_decref(whole);
		}
		free(store);
	}
	remote_close(&r);
	return code;
}

static int image_inspect(int argc, char **argv)
{
	struct one_name one = { 0 };
	int rc = parse_name(&one, argc, argv, "atoll image inspect IMAGE",
	                    "Print all that is known of an image, as JSON.",
	                    no_options);
	struct error err = { 0 };
	char *folder;
	json_t *manifest;

	if (rc)
		return rc - 1;
	if (!one.name)
		return say_usage("inspect needs the name of an image");
	folder = image_find(one.name, &err);
	manifest = folder ? image_manifest(folder, &err) : NULL;
	if (!manifest) {
		free(folder);
		return say_error(&err);
	}
	json_object_set_new(manifest, "folder", json_string(folder));
	json_dumpf(manifest, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(manifest);
	free(folder);
	return 0;
}

/* Names that lead to this folder. */
static void delete_names(const char *store, const char *folder)
{
	char *names = xasprintf("%s/names", store), *path, *real;
	DIR *dir = opendir(names);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		if (!image_name_valid(entry->d_name))
			continue;
		path = xasprintf("%s/%s", names, entry->d_name);
		real = realpath(path, NULL);
		if (!real || strcmp(real, folder) == 0)
			unlink(path);
		free(real);
		free(path);
	}
	if (dir)
		closedir(dir);
	free(names);
}

static int image_delete(int argc, char **argv)
{
	struct one_name one = { 0 };
	int rc = parse_name(&one, argc, argv, "atoll image delete IMAGE",
	                    "Delete an image and all its names, unless a "
	                    "machine's disk lies on it.",
	                    delete_options);
	struct error err = { 0 };
	char *store, *folder;

	if (rc)
		return rc - 1;
	if (!one.name)
		return say_usage("delete needs the name of an image");
	store = image_store(&err);
	folder = store ? image_find(one.name, &err) : NULL;
	rc = folder ? image_check_unused(folder, &err) : -ENOENT;
	if (rc == 0 &&
	    say_confirm(one.sure, "Delete the image %s?", one.name)) {
		free(folder);
		free(store);
		return END_FAILURE;
	}
	if (rc == 0) {
		delete_names(store, folder);
		image_remove_tree(folder);
		image_tidy(store);
	}
	free(folder);
	free(store);
	return rc < 0 ? say_error(&err) : 0;
}

/* ---- the verb ---- */

static const struct command verbs[] = {
	{ "build", "make an image from the host's package sources",
	  image_build },
	{ "import", "make one of a disk and a kernel, or of an export",
	  image_import },
	{ "export", "write one to a file, for another host", image_export },
	{ "tag", "give one another name", image_tag },
	{ "seed", "write what cloud-init reads at a first start", image_seed },
	{ "list", "list the images", image_list },
	{ "show", "print what is known of one", image_inspect },
	{ "inspect", "the same", image_inspect },
	{ "set", "say to the daemon whose one is", image_set },
	{ "delete", "delete one", image_delete },
	{ 0 },
};

int command_image(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2 || argv[1][0] == '-') {
		bool help = options_want_help(argc, argv);

		if (argc >= 2 && !help)
			return say_usage("there is no option %s", argv[1]);
		puts("usage: atoll image VERB [OPTION]...\n\nVerbs:");
		command_list(verbs);
		return help ? 0 : END_USAGE;
	}
	c = command_find(verbs, "verb", argv[1]);
	if (!c)
		return END_USAGE;
	/* "set" and "seed" are the daemon's and nobody's in any case. */
	if (c->fn != image_set && c->fn != image_seed &&
	    image_is_remote(argc - 1, argv + 1))
		return image_remote(argc - 1, argv + 1);
	return c->fn(argc - 1, argv + 1);
}
