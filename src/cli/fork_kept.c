/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_kept - copies of a machine that a daemon keeps.
 *
 * The daemon has started a holder for each copy, which waits, and says where
 * all are. Here the copies' disks are made, the machine is asked for its
 * moment, and each holder is told what its machine goes on from. Where disks
 * lie is said by the machine's holder; the machine is not asked.
 *
 * A copy is to last without the machine it came from: the files below its disks
 * that lie in the machine's folder get second names in its own.
 *
 *	{"socket":..., "folder":..., "copies":[
 *	 {"name":..., "socket":..., "folder":..., "disks":[PATH or null, ...]}]}
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "cli/claim.h"
#include "cli/files.h"
#include "cli/fork.h"
#include "cli/live.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "cli/snapshot.h"
#include "launch/launch.h"

enum { LAYERS_MAX = 64 };

struct kept {
	json_t *document, *copies;
	char *folder; /* the machine's */
	char moment[17];
	int sock;
	int *socks; /* to the copies' holders */
	struct fork_disks disks;
	struct fork_source source;
	int below[LAYERS_MAX]; /* open while a chain is looked through */
	size_t below_count;
};

/* ---- the machine's disks ---- */

static bool is_in(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	return strncmp(path, folder, n) == 0 && path[n] == '/' &&
	       !strchr(path + n + 1, '/');
}

/* What a raw disk was at the moment lies beside each copy's own, and goes with
 * the last of them. */
static char *shared_path(const struct kept *k, unsigned i, json_t *copy)
{
	int number = (int)json_integer_value(
	    json_object_get(json_array_get(k->disks.list, i), "disk"));

	return xasprintf("%s/base-%d.raw", saved_text(copy, "folder"), number);
}

/* In the first one's folder, before anything is asked of the machine. */
static int make_shared(struct kept *k, unsigned i, struct error *err)
{
	char *path = shared_path(k, i, json_array_get(k->copies, 0));
	int *fd = &k->disks.overlays[i], rc;

	*fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = *fd < 0 ? error_set(err, -errno, "%s: %s", path, strerror(errno))
	             : fork_try_raw("the machine", k->disks.paths[i].path, *fd,
	                            err);
	free(path);
	return rc;
}

static int share_raw(struct kept *k, unsigned i, struct error *err)
{
	char *path = shared_path(k, i, json_array_get(k->copies, 0)), *to;
	int fd = k->disks.overlays[i], rc = 0;
	json_t *copy;
	size_t n;

	if (fsync(fd) < 0 || fchmod(fd, 0444) < 0)
		rc = error_set(err, -errno, "%s: %s", path, strerror(errno));
	json_array_foreach(k->copies, n, copy)
	{
		to = shared_path(k, i, copy);
		if (rc == 0 && n > 0 && link(path, to) < 0)
			rc = error_set(err, -errno, "cannot make %s: %s", to,
			               strerror(errno));
		free(to);
	}
	free(path);
	return rc;
}

static int add_disk(struct kept *k, json_t *known, int number, json_t *said,
                    struct error *err)
{
	struct fork_disks *d = &k->disks;
	const char *path = saved_text(known, "path");
	struct fork_path *p = &d->paths[d->count];

	if (d->count == ARRAY_SIZE(d->paths))
		return error_set(err, -E2BIG, "the machine has too many disks");
	p->path = realpath(path, NULL);
	if (!p->path)
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	p->raw = strcmp(saved_text(known, "format"), "qcow2") != 0;
	if (!p->raw)
		p->kept = fork_kept_name(p->path, k->moment);
	json_array_append_new(d->list,
	                      json_pack("{s:i, s:O?, s:s}", "disk", number,
	                                "bytes", json_object_get(said, "bytes"),
	                                "format", p->raw ? "raw" : "qcow2"));
	return p->raw ? make_shared(k, d->count++, err) : (d->count++, 0);
}

/* Their sizes are what the machine itself says. */
static int list_disks(struct kept *k, struct error *err)
{
	json_t *definition = NULL, *answer = NULL, *known;
	int fds[CONTROL_FDS_MAX], rc;
	size_t count = 0, i;

	fork_disks_init(&k->disks, k->moment);
	rc = snapshot_definition(k->sock, &definition, err);
	if (rc == 0)
		rc = saved_request(k->sock, json_pack("{s:s}", "op", "disks"),
		                   NULL, 0, &answer, fds, &count, err);
	json_array_foreach(json_object_get(definition, "disks"), i, known)
	{
		if (rc == 0 &&
		    !json_is_true(json_object_get(known, "readonly")))
			rc = add_disk(
			    k, known, (int)i,
			    json_array_get(json_object_get(answer, "disks"), i),
			    err);
	}
	json_decref(definition);
	json_decref(answer);
	return rc;
}

/* ---- the copies' disks ---- */

/* Below: by its name where that will be beside it, else by its path. */
static int make_overlay(struct kept *k, unsigned i, const char *path,
                        struct error *err)
{
	const char *kept = k->disks.paths[i].kept, *base = kept;
	char *shared = NULL;
	int fd;

	if (!kept)
		shared = shared_path(k, i, json_array_get(k->copies, 0));
	if (!kept || is_in(kept, k->folder))
		base = strrchr(kept ? kept : shared, '/') + 1;
	fd = fork_overlay_create(path, base, json_array_get(k->disks.list, i),
	                         err);
	free(shared);
	if (fd < 0)
		return fd;
	if (fsync(fd) < 0) {
		close(fd);
		return error_set(err, -errno, "cannot write %s: %s", path,
		                 strerror(errno));
	}
	close(fd);
	return 0;
}

static int make_overlays(struct kept *k, json_t *copy, struct error *err)
{
	json_t *disk, *paths = json_object_get(copy, "disks");
	size_t i;
	int rc = 0;

	json_array_foreach(k->disks.list, i, disk)
	{
		size_t n =
		    (size_t)json_integer_value(json_object_get(disk, "disk"));
		const char *path = json_string_value(json_array_get(paths, n));

		if (rc == 0 && !path)
			rc = error_set(err, -EINVAL,
			               "disk %zu of a copy has no path", n);
		if (rc == 0)
			rc = make_overlay(k, (unsigned)i, path, err);
	}
	return rc;
}

/* A second name for path in every copy's folder, if it lies in the machine's.
 */
static int share_file(struct kept *k, const char *path, struct error *err)
{
	json_t *copy;
	size_t i;

	if (!is_in(path, k->folder))
		return 0;
	json_array_foreach(k->copies, i, copy)
	{
		char *to = xasprintf("%s/%s", saved_text(copy, "folder"),
		                     strrchr(path, '/') + 1);
		int rc = link(path, to) < 0 && errno != EEXIST ? -errno : 0;

		if (rc < 0)
			error_set(err, rc, "cannot make %s: %s", to,
			          strerror(-rc));
		free(to);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int share_below(void *ctx, const char *path, const char *format, int fd,
                       struct error *err)
{
	struct kept *k = ctx;

	(void)format;
	if (k->below_count == ARRAY_SIZE(k->below)) {
		close(fd);
		return error_set(err, -E2BIG, "%s is made of too many files",
		                 path);
	}
	k->below[k->below_count++] = fd;
	return share_file(k, path, err);
}

/* Several lie on it from now on: nobody merges into a file that is
 * write-protected. */
static int share_disks(struct kept *k, struct error *err)
{
	const struct launch_files files = { file_open_layer, share_below, k };
	int rc = 0;

	for (unsigned i = 0; i < k->disks.count; i++)
		k->disks.paths[i].used = true;
	for (unsigned i = 0; rc == 0 && i < k->disks.count; i++) {
		const char *kept = k->disks.paths[i].kept;
		int fd;

		if (k->disks.paths[i].raw) {
			rc = share_raw(k, i, err);
			continue;
		}
		fd = file_open_disk(kept, true, err);
		rc = fd < 0 ? fd : share_file(k, kept, err);
		if (rc == 0 && fchmod(fd, 0444) < 0)
			rc = error_set(err, -errno, "%s: %s", kept,
			               strerror(errno));
		if (rc == 0)
			rc = launch_chain(&files, fd, kept, true, err);
		while (k->below_count)
			close(k->below[--k->below_count]);
		if (fd >= 0)
			close(fd);
	}
	return rc;
}

/* ---- the copies ---- */

static int connect_all(struct kept *k, struct error *err)
{
	json_t *copy;
	size_t i;

	json_array_foreach(k->copies, i, copy)
	{
		k->socks[i] = live_connect(saved_text(copy, "socket"), err);
		if (k->socks[i] < 0)
			return k->socks[i];
	}
	return 0;
}

static json_t *given(struct kept *k, json_t *index, int *fds, size_t *count)
{
	json_int_t i = json_integer_value(index);

	if (!json_is_integer(index) || i < 0 || (size_t)i >= k->source.count ||
	    *count == CONTROL_FDS_MAX)
		return json_null();
	fds[*count] = k->source.fds[i];
	return json_integer((json_int_t)(*count)++);
}

static int tell(struct kept *k, int sock, struct error *err)
{
	int fds[CONTROL_FDS_MAX] = { k->source.state, k->source.hold };
	json_t *layers = json_array(), *index, *message;
	size_t count = 2, i;
	int rc;

	json_array_foreach(json_object_get(k->source.answer, "layers"), i,
	                   index)
	    json_array_append_new(layers, given(k, index, fds, &count));
	message = json_pack("{s:s, s:i, s:{s:b, s:i, s:i, s:o}}", "op", "adopt",
	                    "id", 1, "restore", "copy", 1, "fd", 0, "hold", 1,
	                    "layers", layers);
	rc = control_send(sock, message, fds, count, err);
	json_decref(message);
	return rc;
}

/* Events of the holder come between. */
static int wait_for(int sock, const char *name, struct error *err)
{
	int fds[CONTROL_FDS_MAX], rc;
	json_t *answer, *ok;
	size_t count;

	for (;;) {
		rc = control_receive(sock, &answer, fds, CONTROL_FDS_MAX,
		                     &count, err);
		if (rc < 0)
			return error_set(err, rc, "the copy %s ended", name);
		while (count)
			close(fds[--count]);
		ok = json_object_get(answer, "ok");
		if (!ok) {
			json_decref(answer);
			continue;
		}
		if (!json_is_true(ok))
			rc = error_set(err, -EIO, "the copy %s: %s", name,
			               saved_text(answer, "words"));
		json_decref(answer);
		return rc;
	}
}

static int start_all(struct kept *k, struct error *err)
{
	json_t *copy;
	size_t i;
	int rc = 0;

	json_array_foreach(k->copies, i, copy)
	{
		if (rc == 0)
			rc = tell(k, k->socks[i], err);
	}
	json_array_foreach(k->copies, i, copy)
	{
		if (rc == 0)
			rc = wait_for(k->socks[i], saved_text(copy, "name"),
			              err);
	}
	return rc;
}

/* ---- all of it ---- */

static int fork_them(struct kept *k, struct error *err)
{
	json_t *copy;
	size_t i;
	int rc;

	k->sock = live_connect(saved_text(k->document, "socket"), err);
	rc = k->sock < 0 ? k->sock : claim_disks(k->sock, CLAIM_ALL, err);
	if (rc == 0)
		rc = list_disks(k, err);
	json_array_foreach(k->copies, i, copy)
	{
		if (rc == 0)
			rc = make_overlays(k, copy, err);
	}
	if (rc == 0)
		rc = connect_all(k, err);
	/* Last: disks with a path are other files from then on. */
	if (rc == 0)
		rc = fork_disks_take(&k->disks, k->sock, k->folder, err);
	if (rc == 0)
		rc = fork_ask(&k->source, k->sock, &k->disks, err);
	if (rc == 0)
		rc = share_disks(k, err);
	return rc == 0 ? start_all(k, err) : rc;
}

static void kept_fini(struct kept *k)
{
	for (size_t i = 0; i < json_array_size(k->copies); i++)
		if (k->socks[i] >= 0)
			close(k->socks[i]);
	free(k->socks);
	fork_disks_fini(&k->disks);
	fork_source_fini(&k->source);
	if (k->sock >= 0)
		close(k->sock);
	free(k->folder);
	json_decref(k->document);
}

int fork_kept(const char *document)
{
	struct kept k = { .document = json_load_file(document, 0, NULL),
		          .sock = -1,
		          .source = { .state = -1, .hold = -1 } };
	struct error err = { 0 };
	u64 began = loop_now_ns();
	int rc;

	k.copies = json_object_get(k.document, "copies");
	k.folder = realpath(saved_text(k.document, "folder"), NULL);
	k.socks = xalloc((json_array_size(k.copies) + 1) * sizeof(*k.socks));
	for (size_t i = 0; i < json_array_size(k.copies); i++)
		k.socks[i] = -1;
	fork_allow_files();
	if (!k.folder)
		rc = error_set(&err, -EINVAL, "%s can't be read", document);
	else
		rc = fork_new_moment(k.moment, &err);
	if (rc == 0)
		rc = fork_them(&k, &err);
	if (rc == 0)
		printf("{\"pause_us\": %" JSON_INTEGER_FORMAT
		       ", \"ms\": %.1f}\n",
		       json_integer_value(
			   json_object_get(k.source.answer, "pause_us")),
		       (double)(loop_now_ns() - began) / 1e6);
	kept_fini(&k);
	return rc < 0 ? say_error(&err) : 0;
}
