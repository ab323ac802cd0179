/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/image.h"

enum { ID_LENGTH = 64, ID_PREFIX_MIN = 6 };

char *image_store(struct error *err)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	char *path, *names;
	int rc;

	/* The base directory specification: relative paths are ignored. */
	if (data && data[0] == '/') {
		path = xasprintf("%s/atoll/images", data);
	} else if (home && home[0] == '/') {
		path = xasprintf("%s/.local/share/atoll/images", home);
	} else {
		error_set(err, -ENOENT,
		          "there is no place for images: HOME "
		          "and XDG_DATA_HOME are not set");
		return NULL;
	}
	names = xasprintf("%s/names", path);
	rc = place_make(names, err);
	free(names);
	if (rc == 0)
		return path;
	free(path);
	return NULL;
}

bool image_name_valid(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len < 128 && name[0] != '.' && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") == len;
}

static bool is_hex(const char *text)
{
	return strspn(text, "0123456789abcdef") == strlen(text);
}

/* The one folder whose ID starts so. */
static char *find_by_id(const char *store, const char *start, struct error *err)
{
	DIR *dir = opendir(store);
	struct dirent *entry;
	char *found = NULL;
	int count = 0;

	while (dir && (entry = readdir(dir)))
		if (strlen(entry->d_name) == ID_LENGTH &&
		    is_hex(entry->d_name) &&
		    strncmp(entry->d_name, start, strlen(start)) == 0 &&
		    count++ == 0)
			found = xasprintf("%s/%s", store, entry->d_name);
	if (dir)
		closedir(dir);
	if (count <= 1)
		return found;
	free(found);
	error_set(err, -EEXIST, "%d images have an ID that starts with %s",
	          count, start);
	return NULL;
}

char *image_find(const char *name, struct error *err)
{
	char *store = image_store(err), *path, *real = NULL;

	if (!store)
		return NULL;
	error_set(err, -ENOENT, "there is no image %s", name);
	error_hint(err, "atoll image list shows what there is; atoll image "
	                "build debian:12 makes one");
	if (image_name_valid(name)) {
		path = xasprintf("%s/names/%s", store, name);
		real = realpath(path, NULL);
		free(path);
	}
	if (!real && strlen(name) >= ID_PREFIX_MIN && is_hex(name))
		real = find_by_id(store, name, err);
	free(store);
	return real;
}

static int damaged(struct error *err, const char *folder, const char *how)
{
	error_set(err, -EBADMSG, "the image in %s is damaged: %s", folder, how);
	return error_hint(err, "atoll image delete it, and build it again");
}

json_t *image_manifest(const char *folder, struct error *err)
{
	char *path = xasprintf("%s/manifest.json", folder);
	json_error_t where;
	json_t *manifest = json_load_file(path, 0, &where);
	const char *id, *cmdline;

	if (manifest && json_unpack(manifest, "{s:s, s:s}", "id", &id,
	                            "cmdline", &cmdline) < 0) {
		json_decref(manifest);
		manifest = NULL;
		snprintf(where.text, sizeof(where.text),
		         "id or cmdline is missing");
	}
	if (!manifest)
		damaged(err, folder, where.text);
	free(path);
	return manifest;
}

static int check_file(const char *folder, const char *name, json_t *file,
                      struct error *err)
{
	s64 bytes = json_integer_value(json_object_get(file, "bytes"));
	char *path = xasprintf("%s/%s", folder, name), words[192];
	struct stat st;
	int rc = stat(path, &st) < 0 ? -errno : 0;

	free(path);
	if (rc < 0)
		snprintf(words, sizeof(words), "%s: %s", name, strerror(-rc));
	else
		snprintf(words, sizeof(words),
		         "%s has %" PRId64 " bytes, not %" PRId64, name,
		         (s64)st.st_size, bytes);
	return rc == 0 && st.st_size == bytes ? 0 : damaged(err, folder, words);
}

int image_check_files(const char *folder, json_t *manifest, struct error *err)
{
	static const char *const names[] = { "vmlinuz", "initrd", "disk.raw" };
	json_t *files = json_object_get(manifest, "files");
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(names); i++)
		rc = check_file(folder, names[i],
		                json_object_get(files, names[i]), err);
	return rc;
}
