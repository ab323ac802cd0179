/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seed - four files in a folder, made an ISO 9660 image by xorriso.
 */
#include "cli/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
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
#include "cli/say.h"

enum { KEY_MAX = 16 * 1024, DATA_MAX = 1 << 20 };

bool seed_wanted(const struct seed *seed)
{
	return seed->hostname || seed->user || seed->user_data ||
	       seed->key_count;
}

int seed_add_key(struct seed *seed, const char *path, struct error *err)
{
	if (seed->key_count == SEED_KEYS_MAX)
		return error_set(err, -EINVAL, "more than %d keys",
		                 SEED_KEYS_MAX);
	seed->keys[seed->key_count++] = path;
	return 0;
}

/* ---- the files ---- */

static char *read_text(const char *what, const char *path, size_t max,
                       struct error *err)
{
	int fd = file_open_input(what, path, err);
	char *text = fd >= 0 ? xalloc(max + 1) : NULL;
	size_t used = 0;
	ssize_t n = 1;

	while (text && n > 0 && used <= max) {
		n = read(fd, text + used, max + 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
	if (text && (n < 0 || used > max)) {
		error_set(err, n < 0 ? -errno : -EFBIG, "the %s %s %s", what,
		          path, n < 0 ? "can't be read" : "is too large");
		free(text);
		text = NULL;
	}
	if (fd >= 0)
		close(fd);
	return text;
}

static FILE *open_file(const char *folder, const char *name, struct error *err)
{
	char *path = xasprintf("%s/%s", folder, name);
	FILE *f = fopen(path, "we");

	if (!f)
		error_set(err, -errno, "cannot write %s: %s", path,
		          strerror(errno));
	free(path);
	return f;
}

static int close_file(FILE *f, const char *name, struct error *err)
{
	bool bad = ferror(f);

	return fclose(f) != 0 || bad
	           ? error_set(err, -EIO, "cannot write %s", name)
	           : 0;
}

/* A name for YAML and for a host or user, whatever is in it: letters, digits,
 * dots and dashes. */
static bool plain(const char *text)
{
	return text[0] && text[0] != '-' && strlen(text) < 64 &&
	       strspn(text, "abcdefghijklmnopqrstuvwxyz"
	                    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
	           strlen(text);
}

static int write_meta(const struct seed *s, const char *folder,
                      struct error *err)
{
	FILE *f = open_file(folder, "meta-data", err);
	u8 id[16];

	if (!f)
		return err->code;
	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		memset(id, 0, sizeof(id));
	fputs("instance-id: i-", f);
	for (size_t i = 0; i < sizeof(id); i++)
		fprintf(f, "%02x", id[i]);
	fputc('\n', f);
	if (s->hostname)
		fprintf(f, "local-hostname: %s\n", s->hostname);
	return close_file(f, "meta-data", err);
}

/* One line of a public key file is one key: no quotes and no control
 * characters, so that it stays one value. */
static int write_key(FILE *f, const char *path, struct error *err)
{
	char *text = read_text("key", path, KEY_MAX, err), *rest = text, *line;
	int rc = text ? 0 : err->code, count = 0;

	while (rc == 0 && (line = strsep(&rest, "\n"))) {
		if (!line[0] || line[0] == '#')
			continue;
		for (const char *p = line; *p; p++)
			if ((u8)*p < ' ' || *p == '\'' || *p == '\\')
				rc = -EINVAL;
		if (rc == 0 && strstr(line, "PRIVATE KEY"))
			rc = -EINVAL;
		if (rc < 0)
			error_set(err, rc, "%s is not a public key", path);
		else
			fprintf(f, "      - '%s'\n", line);
		count++;
	}
	if (rc == 0 && count == 0)
		rc = error_set(err, -EINVAL, "%s holds no key", path);
	free(text);
	return rc;
}

static int write_vendor(const struct seed *s, const char *folder,
                        struct error *err)
{
	FILE *f = open_file(folder, "vendor-data", err);
	int rc = f ? 0 : err->code, closed;

	if (!f)
		return rc;
	fputs("#cloud-config\n", f);
	if (s->user || s->key_count)
		fprintf(f, "users:\n%s  - name: %s\n",
		        s->user ? "  - default\n" : "",
		        s->user ? s->user : "root");
	if (s->user)
		fputs("    shell: /bin/bash\n    sudo: 'ALL=(ALL) NOPASSWD:ALL'"
		      "\n    lock_passwd: true\n",
		      f);
	if (s->key_count)
		fputs("    ssh_authorized_keys:\n", f);
	for (unsigned i = 0; i < s->key_count && rc == 0; i++)
		rc = write_key(f, s->keys[i], err);
	closed = close_file(f, "vendor-data", rc == 0 ? err : NULL);
	return rc < 0 ? rc : closed;
}

static int write_user(const struct seed *s, const char *folder,
                      struct error *err)
{
	char *text = s->user_data
	                 ? read_text("user data", s->user_data, DATA_MAX, err)
	                 : xstrdup("#cloud-config\n{}\n");
	FILE *f = text ? open_file(folder, "user-data", err) : NULL;
	int rc = f ? 0 : err->code;

	if (f) {
		fputs(text, f);
		rc = close_file(f, "user-data", err);
	}
	free(text);
	return rc;
}

/* ---- the disk ---- */

static int make_disk(const char *folder, struct error *err)
{
	char *iso = xasprintf("%s.iso", folder);
	char *argv[] = { (char[]){ "xorriso" }, (char[]){ "-as" },
		         (char[]){ "mkisofs" }, (char[]){ "-quiet" },
		         (char[]){ "-V" },      (char[]){ "cidata" },
		         (char[]){ "-J" },      (char[]){ "-r" },
		         (char[]){ "-o" },      iso,
		         xstrdup(folder),       NULL };
	int rc = image_run(argv, true, err), fd = -1;

	if (rc == -ENOENT)
		error_hint(err, "apt install xorriso");
	if (rc == 0) {
		fd = open(iso, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			rc = error_set(err, -errno, "%s: %s", iso,
			               strerror(errno));
	}
	unlink(iso);
	free(argv[10]);
	free(iso);
	return rc < 0 ? rc : fd;
}

int seed_make(const struct seed *s, struct error *err)
{
	const char *temporary = getenv("TMPDIR");
	char *folder =
	    xasprintf("%s/atoll-seed-XXXXXX", temporary ? temporary : "/tmp");
	int rc = 0;

	if ((s->hostname && !plain(s->hostname)) ||
	    (s->user && !plain(s->user))) {
		rc = error_set(err, -EINVAL, "%s is not a name",
		               s->user && !plain(s->user) ? s->user
		                                          : s->hostname);
	} else if (!mkdtemp(folder)) {
		rc = error_set(err, -errno, "%s: %s", folder, strerror(errno));
	} else {
		rc = write_meta(s, folder, err);
		if (rc == 0)
			rc = write_vendor(s, folder, err);
		if (rc == 0)
			rc = write_user(s, folder, err);
		if (rc == 0)
			rc = make_disk(folder, err);
		image_remove_tree(folder);
	}
	free(folder);
	return rc;
}

/* ---- atoll image seed ---- */

enum { OPT_USER = 1, OPT_SSH_KEY, OPT_USER_DATA, OPT_HOSTNAME };

struct seed_args {
	struct disk_args args;
	struct seed seed;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct seed_args *s = ctx;

	switch (id) {
	case OPT_USER:
		s->seed.user = value;
		return 0;
	case OPT_SSH_KEY:
		return seed_add_key(&s->seed, value, err);
	case OPT_USER_DATA:
		s->seed.user_data = value;
		return 0;
	case OPT_HOSTNAME:
		s->seed.hostname = value;
		return 0;
	default:
		return disk_arg(&s->args, id, value, err);
	}
}

static int write_seed(const struct seed *seed, const char *path,
                      struct error *err)
{
	int from = seed_make(seed, err), to, rc;
	struct stat st;

	if (from < 0)
		return from;
	to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	rc = to < 0 || fstat(from, &st) < 0 ? -errno
	                                    : copy_sparse(from, to, st.st_size);
	if (rc < 0)
		error_set(err, rc, "%s: %s", path, strerror(-rc));
	if (to >= 0)
		close(to);
	close(from);
	return rc;
}

int image_seed(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		SEED_OPTIONS(OPT_USER, OPT_SSH_KEY, OPT_USER_DATA,
		             OPT_HOSTNAME),
		{ 0 },
	};
	struct seed_args s = { 0 };
	struct error err = { 0 };
	int rc;

	if (options_want_help(argc, argv)) {
		options_help(
		    "atoll image seed FILE.iso [OPTION]...",
		    "Write the disk from which cloud-init learns who a "
		    "machine is (NoCloud).",
		    specs);
		return 0;
	}
	rc = options_parse(specs, argc, argv, take_option, &s, &err);
	if (rc == 0 && s.args.name_count != 1)
		rc = error_set(&err, -EINVAL, "say one FILE");
	if (rc == 0)
		rc = write_seed(&s.seed, s.args.names[0], &err);
	return rc < 0 ? say_error(&err) : 0;
}
