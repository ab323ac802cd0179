/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk_foreign.c - VMDK, VHDX and their like, which are qemu-img's.
 *
 * It is told all that we were: what an image shall be made like is no less
 * meant because another program makes it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/disk.h"
#include "cli/partial.h"

/* KEY=VALUE, with commas doubled, onto the list. */
static void add(char **list, const char *key, const char *value)
{
	char *old = *list, *quoted = xalloc(2 * strlen(value) + 1),
	     *to = quoted;

	for (; *value; value++) {
		*to++ = *value;
		if (*value == ',')
			*to++ = ',';
	}
	*list =
	    xasprintf("%s%s%s=%s", old ? old : "", old ? "," : "", key, quoted);
	free(old);
	free(quoted);
}

static void add_number(char **list, const char *key, u64 n)
{
	char *text = xasprintf("%" PRIu64, n);

	if (n)
		add(list, key, text);
	free(text);
}

/* NULL: nothing was asked for. */
static char *options_of(const struct image_create *how)
{
	static const char *const preallocations[] = { NULL, "metadata",
		                                      "falloc", "full" };
	char *list = NULL;

	if (how->version)
		add(&list, "compat", how->version == 2 ? "0.10" : "1.1");
	add_number(&list, "cluster_size", how->cluster_bytes);
	add_number(&list, "refcount_bits", how->refcount_bits);
	if (how->compression)
		add(&list, "compression_type", how->compression);
	if (how->lazy_refcounts)
		add(&list, "lazy_refcounts", "on");
	if (how->extended_l2)
		add(&list, "extended_l2", "on");
	if (how->data_file)
		add(&list, "data_file", how->data_file);
	if (how->data_file_raw)
		add(&list, "data_file_raw", "on");
	if (how->backing)
		add(&list, "backing_file", how->backing);
	if (how->backing_format)
		add(&list, "backing_fmt", how->backing_format);
	if (how->preallocation)
		add(&list, "preallocation", preallocations[how->preallocation]);
	return list;
}

/* What has a colon is a protocol to it, and what begins with - an option. */
static char *as_path(const char *path)
{
	return path[0] == '/' ? xstrdup(path) : xasprintf("./%s", path);
}

/* -ENOTSUP, and no words: it is not here. */
static int run(char *const *argv, struct error *err)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		/* What it writes goes with us. */
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return error_set(err, -errno, "can't start a process: %s",
		                 strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -ENOTSUP;
	return error_set(err, -EIO, "qemu-img could not convert it");
}

/* Of its own images it finds what they lie on beside them; others have their
 * own name inside (VMDK). */
static unsigned flags_for(const struct image_create *how)
{
	unsigned flags = how->replace ? PARTIAL_REPLACE : 0;

	if (disk_format_foreign(how->format))
		flags |= PARTIAL_ALIKE;
	else if (how->backing || how->data_file)
		flags |= PARTIAL_BESIDE;
	return flags;
}

int disk_convert_foreign(const struct image_create *how, const char *source,
                         const char *from, bool compress, bool sync, bool quiet,
                         struct error *err)
{
	char *options = options_of(how), *in = as_path(source), *out = NULL;
	struct partial part = { .path = NULL };
	const char *argv[16] = { "qemu-img", "convert" };
	unsigned n = 2;
	int rc;

	if (options && disk_format_foreign(how->format))
		rc = error_set(err, -EINVAL,
		               "a %s image is made without such options",
		               how->format);
	else
		rc = partial_begin(&part, how->path, flags_for(how), err);
	if (rc == 0) {
		out = as_path(part.by);
		if (!quiet && isatty(STDERR_FILENO))
			argv[n++] = "-p";
		if (compress)
			argv[n++] = "-c";
		if (sync) {
			argv[n++] = "-t";
			argv[n++] = "writeback";
		}
		if (options) {
			argv[n++] = "-o";
			argv[n++] = options;
		}
		argv[n++] = "-f";
		argv[n++] = from;
		argv[n++] = "-O";
		argv[n++] = how->format;
		argv[n++] = in;
		argv[n++] = out;
		rc = run((char *const *)(uintptr_t)argv, err);
		if (rc == 0)
			rc = partial_end(&part, err);
	}
	partial_discard(&part);
	/* Its words for that come from the program; the code is ours. */
	if (rc == -EIO && access(source, R_OK) < 0)
		rc = error_set(err, -errno, "%s: %s", source, strerror(errno));
	if (rc == -ENOTSUP) {
		error_set(err, rc, "%s is a format of other programs",
		          disk_format_foreign(from) ? from : how->format);
		error_hint(err, "install qemu-img (Debian: apt-get install"
		                " qemu-utils); convert uses it for these");
	}
	free(options);
	free(in);
	free(out);
	return rc;
}
