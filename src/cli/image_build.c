/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll image build - run the recipe (atoll-image-build), name the outcome.
 *
 * The recipe works in a folder of its own; the finished image is moved to its
 * ID, the hash of its list of packages and of the recipe, and its name is
 * turned to it in one step. So an interrupted build leaves nothing but a
 * folder that the next one removes.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "base/units.h"
#include "cli/image.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/say.h"
#include "control/control.h"

/* ---- the manifest ---- */

/* "name version architecture" a line. Also finds the kernel's version. */
static json_t *read_packages(const char *folder, char *kernel, size_t room)
{
	static const char prefix[] = "linux-image-";
	char *path = xasprintf("%s/packages", folder), line[512], *space;
	json_t *list = json_array();
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		json_array_append_new(list, json_string(line));
		space = strchr(line, ' ');
		if (space && strncmp(line, prefix, strlen(prefix)) == 0 &&
		    line[strlen(prefix)] >= '0' && line[strlen(prefix)] <= '9')
			snprintf(kernel, room, "%.*s",
			         (int)(space - line - (int)strlen(prefix)),
			         line + strlen(prefix));
	}
	if (f)
		fclose(f);
	free(path);
	return list;
}

static int write_manifest(const char *folder, const char *name, const char *id,
                          struct error *err)
{
	char kernel[128] = "", *path = xasprintf("%s/manifest.json", folder);
	json_t *files = json_object();
	json_t *packages = read_packages(folder, kernel, sizeof(kernel));
	json_t *manifest;
	int rc = image_note_file(files, folder, "vmlinuz", true, err);

	if (rc == 0)
		rc = image_note_file(files, folder, "initrd", true, err);
	if (rc == 0)
		rc = image_note_file(files, folder, "disk.raw", false, err);
	manifest =
	    json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "id", id, "name", name,
	              "kernel_version", kernel, "cmdline",
	              "root=/dev/vda rw console=ttyS0 systemd.show_status=true",
	              "files", files, "packages", packages);
	if (rc == 0 && json_dump_file(manifest, path,
	                              JSON_INDENT(2) | JSON_PRESERVE_ORDER))
		rc = error_set(err, -EIO, "cannot write %s", path);
	json_decref(manifest);
	free(path);
	return rc;
}

/* ---- running the recipe ---- */

static int run_recipe(const char *recipe, const char *release,
                      const char *folder, const char *size, struct error *err)
{
	char *argv[] = { xstrdup(recipe), xstrdup(release), xstrdup(folder),
		         xstrdup(size), NULL };
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGPIPE, SIG_DFL);
		execv(recipe, argv);
		_exit(127);
	}
	for (size_t i = 0; argv[i]; i++)
		free(argv[i]);
	if (pid < 0)
		return error_set(err, -errno, "cannot start a process: %s",
		                 strerror(errno));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	error_set(err, -EIO, "the image was not built");
	return error_hint(err, "%s/build.log has the details", folder);
}

static int build_locked(const char *store, const char *name,
                        const char *release, const char *size,
                        struct error *err)
{
	char *recipe = place_program("atoll-image-build", err);
	char *work = xasprintf("%s/.building", store), id[IMAGE_HEX] = "";
	char *packages = xasprintf("%s/packages", work);
	const char *inputs[] = { recipe, packages };
	int rc = recipe ? 0 : err->code;

	image_remove_tree(work);
	if (rc == 0)
		rc = run_recipe(recipe, release, work, size, err);
	if (rc == 0)
		rc = image_hash(inputs, ARRAY_SIZE(inputs), id, err);
	if (rc == 0)
		rc = write_manifest(work, name, id, err);
	if (rc == 0)
		rc = image_settle(store, work, id, err);
	if (rc == 0)
		rc = image_set_name(store, name, id, err);
	if (rc == 0)
		printf("%s %s\n", name, id);
	free(packages);
	free(work);
	free(recipe);
	return rc;
}

/* ---- the command line ---- */

enum { OPT_SIZE = 1 };

static const struct option_spec specs[] = {
	{ "size", "SIZE", "of the disk that the guest sees (4G)", OPT_SIZE },
	{ 0 },
};

struct build_options {
	const char *name, *size;
};

static int take(void *ctx, int id, const char *value, struct error *err)
{
	struct build_options *o = ctx;

	if (id == OPT_SIZE) {
		o->size = value;
		return 0;
	}
	if (o->name)
		return error_set(err, -EINVAL, "one image at a time: %s or %s",
		                 o->name, value);
	o->name = value;
	return 0;
}

static int check(const struct build_options *o, u64 *size, struct error *err)
{
	int rc;

	if (!o->name || strncmp(o->name, "debian:", 7) != 0 ||
	    !image_name_valid(o->name)) {
		error_set(err, -EINVAL, "there is no recipe for %s",
		          o->name ? o->name : "nothing");
		return error_hint(err, "atoll image build debian:12");
	}
	rc = parse_size(o->size, 1, size, err);
	if (rc < 0)
		error_prefix(err, "--size");
	else if (*size < GIB || *size > 1024 * GIB)
		rc =
		    error_set(err, -EINVAL, "--size %s: not 1G to 1T", o->size);
	return rc;
}

int image_build(int argc, char **argv)
{
	struct build_options o = { .size = "4G" };
	struct error err = { 0 };
	char *store, *kib;
	int lock, rc;
	u64 size = 0;

	if (options_want_help(argc, argv)) {
		options_help("atoll image build [--size SIZE] debian:12",
		             "Build a Debian image from the apt sources of "
		             "this host. No root is needed.",
		             specs);
		return 0;
	}
	rc = options_parse(specs, argc, argv, take, &o, &err);
	if (rc == 0)
		rc = check(&o, &size, &err);
	if (rc < 0) {
		say_error(&err);
		return END_USAGE;
	}
	store = image_store(&err);
	if (!store)
		return say_error(&err);
	lock = image_lock(store, &err);
	rc = lock < 0 ? lock : 0;
	if (rc == 0) {
		kib = xasprintf("%" PRIu64 "k", size / KIB);
		rc = build_locked(store, o.name, o.name + 7, kib, &err);
		free(kib);
		close(lock);
	}
	free(store);
	return rc < 0 ? say_error(&err) : 0;
}
