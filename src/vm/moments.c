/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moments - a machine saved or copied.
 *
 * A copy's process gets descriptors: of the files that memory lies in, of
 * every file that a disk is made of, of what the machine boots from. A disk
 * gets an empty overlay here and one there, and what was the disk lies below
 * both, written by nobody any more. Who asks has made a disk's path lead to the
 * overlay, and knows what lies below it by its names. Of a raw disk it may
 * bring an empty file instead, which gets what the disk holds at that moment by
 * sharing it: below the copy's overlay lies that, and the machine stays where
 * it is.
 */
#include "vm/moments.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "machine/machine.h"
#include "storage/image.h"
#include "storage/live.h"
#include "vm/config.h"
#include "vm/disks.h"
#include "vm/session.h"

/* Somebody maps our memory: until the other ends of this pipe are closed. */
struct share {
	struct share *next;
	struct moments *moments;
	int fd;
	struct loop_fd *watch;
};

static json_t *refused(const struct error *err)
{
	return json_pack("{s:b,s:i,s:o,s:o}", "ok", 0, "code", err->code,
	                 "words", session_words(err->text), "hint",
	                 session_words(err->hint));
}

static int is_busy(struct error *err)
{
	return error_set(err, -EBUSY, "the machine is being saved already");
}

static int copy_fd(int fd, struct error *err)
{
	int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (copy < 0)
		return error_set(err, fd < 0 ? -EINVAL : -errno,
		                 fd < 0 ? "a descriptor is missing"
		                        : "there are no more descriptors");
	return copy;
}

static json_t *figures(const struct machine_moment_result *r)
{
	return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I}", "ok", 1, "pages",
	                 (json_int_t)r->saved.pages, "zero",
	                 (json_int_t)r->saved.zero, "duplicate",
	                 (json_int_t)r->saved.duplicate, "stored_bytes",
	                 (json_int_t)r->saved.stored_bytes, "pause_us",
	                 (json_int_t)(r->pause_ns / NSEC_PER_USEC));
}

/* ---- save, snapshot ---- */

/* What they hold belongs to what was saved: for the peer to copy while they
 * stand still, or to give a name before it vanishes with us. */
static json_t *saved_disks(const struct moments *m, struct reply *reply)
{
	const struct vm_config *c = m->config;
	json_t *list = json_array();

	for (unsigned i = 0; i < c->machine.disk_count; i++) {
		const struct machine_disk *d = &c->machine.disks[i];

		if (c->disk_fds[i] < 0)
			continue;
		json_array_append_new(
		    list, json_pack("{s:i,s:i,s:b,s:s?,s:s?}", "disk", (int)i,
		                    "fd", (int)reply->fd_count, "private",
		                    c->disk_private[i], "path", d->path,
		                    "format", d->format));
		reply->fds[reply->fd_count++] =
		    fcntl(c->disk_fds[i], F_DUPFD_CLOEXEC, 3);
	}
	return list;
}

static void drop_shared(struct moments *m)
{
	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
		if (m->shared[i] >= 0)
			close(m->shared[i]);
		m->shared[i] = -1;
	}
}

static void snapshot_done(void *ctx, const struct machine_moment_result *r)
{
	struct moments *m = ctx;
	struct reply reply = { .body =
		                   r->rc < 0 ? refused(r->err) : figures(r) };

	if (r->rc == 0 && m->whole) {
		json_object_set_new(
		    reply.body, "ms",
		    json_integer((json_int_t)((loop_now_ns() - m->since_ns) /
		                              NSEC_PER_MSEC)));
		json_object_set_new(reply.body, "disks",
		                    saved_disks(m, &reply));
	}
	if (m->asker)
		m->answer(m->asker, m->id, &reply);
	while (reply.fd_count)
		close(reply.fds[--reply.fd_count]);
	json_decref(reply.body);
	json_decref(m->id);
	m->asker = NULL;
	m->id = NULL;
	m->busy = false;
	drop_shared(m);
}

/* In the standstill. */
static int share_disks(void *ctx, struct error *err)
{
	struct moments *m = ctx;
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < MACHINE_DISKS_MAX; i++)
		if (m->shared[i] >= 0)
			rc = live_share(machine_disk(m->machine, i),
			                m->shared[i], err);
	return rc;
}

static int take_shared(struct moments *m, json_t *disk, int fd,
                       struct error *err)
{
	json_int_t i = json_integer_value(json_object_get(disk, "disk"));

	if (i < 0 || i >= (json_int_t)m->config->machine.disk_count ||
	    m->shared[i] >= 0)
		return error_set(err, -EINVAL, "there is no such disk");
	m->shared[i] = copy_fd(fd, err);
	return MIN(m->shared[i], 0);
}

static int open_target(json_t *disk, const struct brought *brought,
                       struct machine_moment_disk *out, struct error *err)
{
	const char *format = json_string_value(json_object_get(disk, "format"));
	struct block_open how = { .path = "the copy of a disk",
		                  .format = format ? format : "raw",
		                  .flags = IMAGE_OPEN_NO_BACKING };

	out->disk = (unsigned)json_integer_value(json_object_get(disk, "disk"));
	how.fd =
	    copy_fd(brought_fd(brought, json_object_get(disk, "target")), err);
	if (how.fd < 0)
		return how.fd;
	out->scratch =
	    copy_fd(brought_fd(brought, json_object_get(disk, "scratch")), err);
	if (out->scratch < 0) {
		close(how.fd);
		return out->scratch;
	}
	return block_open(&out->target, &how, err);
}

static void drop_targets(struct machine_moment_config *c)
{
	for (unsigned i = 0; i < c->disk_count; i++) {
		block_close(c->disks[i].target);
		if (c->disks[i].scratch >= 0)
			close(c->disks[i].scratch);
	}
	if (c->fd >= 0)
		close(c->fd);
}

static int read_state(json_t *message, const struct brought *brought,
                      struct machine_moment_config *c, struct error *err)
{
	const char *memory =
	    json_string_value(json_object_get(message, "memory"));

	if (memory && !strcmp(memory, "plain"))
		c->form = MACHINE_MEMORY_PLAIN;
	else if (memory && strcmp(memory, "packed"))
		return error_set(err, -EINVAL,
		                 "memory is neither packed nor plain");
	c->fd =
	    copy_fd(brought_fd(brought, json_object_get(message, "file")), err);
	return c->fd < 0 ? c->fd : 0;
}

static int read_disks(struct moments *m, json_t *message,
                      const struct brought *brought,
                      struct machine_moment_config *c, struct error *err)
{
	json_t *disk, *share;
	size_t i;

	json_array_foreach(json_object_get(message, "disks"), i, disk)
	{
		struct machine_moment_disk *d = &c->disks[c->disk_count];
		int rc;

		if (i == MACHINE_DISKS_MAX)
			return error_set(err, -E2BIG, "too many disks");
		share = json_object_get(disk, "share");
		if (share) {
			rc = take_shared(m, disk, brought_fd(brought, share),
			                 err);
			if (rc < 0)
				return rc;
			continue;
		}
		*d = (struct machine_moment_disk){ .scratch = -1 };
		c->disk_count++;
		rc = open_target(disk, brought, d, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* rc: whether the message could be read. Takes over what is in c. */
static json_t *begin_moment(struct moments *m, void *asker, json_t *message,
                            int rc, struct machine_moment_config *c,
                            struct error *err)
{
	if (rc == 0 && m->busy)
		rc = is_busy(err);
	if (rc == 0) {
		m->busy = true;
		m->asker = asker;
		m->id = json_incref(json_object_get(message, "id"));
		m->whole = c->still;
		m->since_ns = loop_now_ns();
		rc = machine_moment(m->machine, c, err);
		if (rc == 0)
			return NULL;
		json_decref(m->id);
		m->asker = NULL;
		m->id = NULL;
		m->busy = false;
	}
	if (!m->busy)
		drop_shared(m);
	drop_targets(c);
	return refused(err);
}

json_t *moments_snapshot(struct moments *m, void *asker, json_t *message,
                         const struct brought *brought)
{
	struct machine_moment_config c = { .fd = -1,
		                           .disks_now = share_disks,
		                           .done = snapshot_done,
		                           .ctx = m };
	struct error err = { 0 };
	int rc = read_state(message, brought, &c, &err);

	if (rc == 0 && m->busy)
		rc = is_busy(&err);
	if (rc == 0)
		rc = read_disks(m, message, brought, &c, &err);
	return begin_moment(m, asker, message, rc, &c, &err);
}

json_t *moments_save(struct moments *m, void *asker, json_t *message,
                     const struct brought *brought)
{
	struct machine_moment_config c = {
		.fd = -1, .still = true, .done = snapshot_done, .ctx = m
	};
	struct error err = { 0 };
	int rc = read_state(message, brought, &c, &err);

	c.sync = !json_is_false(json_object_get(message, "sync"));
	return begin_moment(m, asker, message, rc, &c, &err);
}

/* ---- who looks at our memory ---- */

static void share_end(struct share *s)
{
	struct share **at = &s->moments->shares;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	loop_fd_remove(s->watch);
	close(s->fd);
	free(s);
}

static void share_left(void *ctx, unsigned events)
{
	struct share *s = ctx;
	struct machine *machine = s->moments->machine;
	char byte;

	(void)events;
	/* Nothing is ever written to it. */
	if (read(s->fd, &byte, 1) < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	share_end(s);
	machine_unshare(machine);
}

static void share_begin(struct moments *m, int fd)
{
	struct share *s = xalloc(sizeof(*s));

	fcntl(fd, F_SETFL, O_NONBLOCK);
	*s = (struct share){ .next = m->shares, .moments = m, .fd = fd };
	m->shares = s;
	s->watch =
	    loop_fd_add(m->loop, fd, LOOP_READ | LOOP_HANGUP, share_left, s);
}

/* ---- fork ---- */

struct forking {
	struct moments *moments;
	json_t *message;
	struct reply reply;
	bool later; /* who asked is answered by itself */
	int watch;
	struct block *overlay[MACHINE_DISKS_MAX];
	int overlay_fd[MACHINE_DISKS_MAX];
	int share_fd[MACHINE_DISKS_MAX];     /* instead of an overlay */
	const char *name[MACHINE_DISKS_MAX]; /* of what lies below */
};

static int give(struct reply *reply, int fd)
{
	if (fd < 0 || reply->fd_count == REPLY_FDS_MAX)
		return -1;
	reply->fds[reply->fd_count] = fd;
	return (int)reply->fd_count++;
}

/* The disk that was, and what it lies on; nothing, if a path tells. What it has
 * become since is the machine's alone. */
static json_t *below(struct forking *f, unsigned i)
{
	const struct vm_config *c = f->moments->config;
	const struct vm_disk_chain *chain = &c->chains[i];
	json_t *list = json_array();

	if (f->name[i] && (!c->disk_private[i] || f->share_fd[i] >= 0))
		return list;
	for (unsigned k = f->name[i] ? 1 : 0; k < chain->count; k++)
		json_array_append_new(
		    list, json_pack("{s:i,s:s,s:s}", "fd",
		                    give(&f->reply, chain->file[k].fd), "path",
		                    chain->file[k].path, "format",
		                    chain->file[k].format));
	return list;
}

/* A path leads to the overlay. */
static void own_overlay(struct forking *f, unsigned i)
{
	int *fd = &f->moments->config->disk_fds[i];

	close(*fd);
	*fd = f->overlay_fd[i];
}

/* In the standstill. */
static int switch_disks(void *ctx, struct error *err)
{
	struct forking *f = ctx;
	struct moments *m = f->moments;

	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
		int rc;

		if (f->share_fd[i] >= 0 &&
		    live_share(machine_disk(m->machine, i), f->share_fd[i],
		               err) < 0)
			return err->code;
		if (!f->overlay[i])
			continue;
		rc = live_snapshot(machine_disk(m->machine, i), f->overlay[i],
		                   NULL, err);
		if (rc == 0 && !m->config->disk_private[i])
			own_overlay(f, i);
		else if (rc == 0)
			rc = vm_config_switch_disk(
			    m->config, i, f->overlay_fd[i], f->name[i], err);
		if (rc < 0)
			return rc;
		f->overlay[i] = NULL;
		f->overlay_fd[i] = -1;
	}
	return 0;
}

static json_t *layers(struct reply *reply,
                      const struct machine_moment_result *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->layer_count; i++) {
		int index = give(reply, r->layers[i]);

		json_array_append_new(list, index < 0 ? json_null()
		                                      : json_integer(index));
	}
	return list;
}

static json_t *disks(struct forking *f)
{
	const struct machine_config *c = &f->moments->config->machine;
	json_t *given = json_object_get(f->moments->config->json, "disks");
	json_t *list = json_array();

	for (unsigned i = 0; i < c->disk_count; i++)
		json_array_append_new(
		    list,
		    json_pack(
			"{s:i,s:s?,s:s?,s:b,s:O*,s:o,s:o}", "disk", (int)i,
			"serial", c->disks[i].serial, "path", c->disks[i].path,
			"readonly", c->disks[i].readonly, "cache",
			json_object_get(json_array_get(given, i), "cache"),
			"limits", disk_limits_json(f->moments->machine, i),
			"below", below(f, i)));
	return list;
}

static json_t *boot(struct forking *f)
{
	const struct machine_config *c = &f->moments->config->machine;
	json_t *modules = json_array();
	json_t *o = json_pack("{s:i,s:s?,s:s?,s:s?}", "kernel",
	                      give(&f->reply, c->kernel_fd), "kernel_path",
	                      c->kernel_path, "initrd_path", c->initrd_path,
	                      "cmdline", c->cmdline);

	if (c->initrd_fd >= 0)
		json_object_set_new(
		    o, "initrd", json_integer(give(&f->reply, c->initrd_fd)));
	for (unsigned i = 0; i < c->module_count; i++)
		json_array_append_new(
		    modules, json_integer(give(&f->reply, c->module_fds[i])));
	json_object_set_new(o, "modules", modules);
	return o;
}

static json_t *answer_fork(struct forking *f,
                           const struct machine_moment_result *r)
{
	struct vm_config *c = f->moments->config;
	json_t *o = figures(r);

	json_object_set(o, "machine", c->json);
	json_object_set_new(o, "engine",
	                    json_string(machine_engine(f->moments->machine)));
	json_object_set_new(o, "boot", boot(f));
	json_object_set_new(o, "disks", disks(f));
	json_object_set_new(o, "layers", layers(&f->reply, r));
	return o;
}

static void close_disks(struct forking *f)
{
	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++) {
		block_close(f->overlay[i]);
		if (f->overlay_fd[i] >= 0)
			close(f->overlay_fd[i]);
		if (f->share_fd[i] >= 0)
			close(f->share_fd[i]);
		f->overlay[i] = NULL;
		f->overlay_fd[i] = f->share_fd[i] = -1;
	}
}

static void forking_free(struct forking *f)
{
	struct moments *m = f->moments;

	if (f->watch >= 0)
		close(f->watch);
	close_disks(f);
	while (f->reply.fd_count)
		close(f->reply.fds[--f->reply.fd_count]);
	json_decref(f->reply.body);
	json_decref(f->message);
	json_decref(m->id);
	m->id = NULL;
	m->asker = NULL;
	m->busy = m->forks = false;
	free(f);
}

static void fork_done(void *ctx, const struct machine_moment_result *r)
{
	struct forking *f = ctx;
	struct moments *m = f->moments;

	f->reply.body = r->rc < 0 ? refused(r->err) : answer_fork(f, r);
	/* Those of memory are closed when this returns. */
	for (unsigned i = 0; i < f->reply.fd_count; i++)
		f->reply.fds[i] = fcntl(f->reply.fds[i], F_DUPFD_CLOEXEC, 3);
	if (r->rc == 0) {
		share_begin(m, f->watch);
		f->watch = -1;
	}
	if (!f->later)
		return;
	/* Who hears of a refusal may lock them. */
	close_disks(f);
	if (m->asker)
		m->answer(m->asker, m->id, &f->reply);
	forking_free(f);
}

static int take_disk(struct forking *f, json_t *disk,
                     const struct brought *brought, struct error *err)
{
	const struct machine_config *c = &f->moments->config->machine;
	json_int_t i = json_integer_value(json_object_get(disk, "disk"));
	json_t *share = json_object_get(disk, "share");
	int fd = brought_fd(brought, json_object_get(disk, "overlay"));
	struct block_open how = { .path = "overlay", .format = "qcow2" };
	int rc;

	if (i < 0 || i >= (json_int_t)c->disk_count)
		return error_set(err, -EINVAL, "there is no such disk");
	f->name[i] = json_string_value(json_object_get(disk, "name"));
	if (!f->name[i] || f->overlay[i] || f->share_fd[i] >= 0)
		return error_set(err, -EINVAL,
		                 "a disk needs one overlay, and "
		                 "a name for what lies below");
	if (share) {
		f->share_fd[i] = copy_fd(brought_fd(brought, share), err);
		return MIN(f->share_fd[i], 0);
	}
	rc = disk_check_base(f->moments->config, (unsigned)i, brought,
	                     json_object_get(disk, "base"), err);
	if (rc < 0)
		return rc;
	f->overlay_fd[i] = copy_fd(fd, err);
	how.fd = f->overlay_fd[i] < 0 ? -1 : copy_fd(fd, err);
	if (how.fd < 0)
		return err->code;
	how.flags = IMAGE_OPEN_NO_BACKING |
	            machine_disk_flags(f->moments->machine, (unsigned)i);
	rc = block_open(&f->overlay[i], &how, err);
	return rc;
}

_Static_assert((int)LIVE_BELOW_MAX <= (int)MACHINE_CHAIN_MAX,
               "a copy can name all of the files");

static int check_disks(const struct forking *f, struct error *err)
{
	const struct machine_config *c = &f->moments->config->machine;

	for (unsigned i = 0; i < c->disk_count; i++) {
		const struct vm_disk_chain *chain =
		    &f->moments->config->chains[i];

		if (!c->disks[i].readonly && !f->overlay[i] &&
		    f->share_fd[i] < 0)
			return error_set(err, -EINVAL,
			                 "disk %u has no overlay to go on in",
			                 i);
		if (f->overlay[i] && !f->moments->config->disk_private[i] &&
		    live_below(machine_disk(f->moments->machine, i)) >=
		        LIVE_BELOW_MAX) {
			error_set(err, -E2BIG,
			          "disk %u lies on %d files, one for each time "
			          "that it was copied or saved",
			          i, LIVE_BELOW_MAX);
			return error_hint(err,
			                  "atoll disk rebase NAME:vd%c makes "
			                  "one of them",
			                  'a' + (char)i);
		}
		if (f->overlay[i] && f->moments->config->disk_private[i] &&
		    chain->count >= ARRAY_SIZE(chain->file)) {
			error_set(err, -E2BIG,
			          "disk %u has %u images on top of each "
			          "other, one for each time that it was "
			          "copied",
			          i, chain->count);
			return error_hint(err,
			                  "it is made to lie on fewer before "
			                  "long (atoll disk jobs); or make "
			                  "more copies at once");
		}
	}
	return 0;
}

/* What is flushed now need not be in the standstill. */
static int flush_disks(struct forking *f)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < MACHINE_DISKS_MAX; i++)
		if (f->overlay[i] || f->share_fd[i] >= 0)
			rc = block_sync(machine_disk(f->moments->machine, i),
			                BLOCK_FLUSH, 0, NULL, 0);
	return rc;
}

static void flush_again(void *ctx)
{
	/* What fails will do so in the standstill, too. */
	(void)flush_disks(ctx);
}

static int prepare_fork(struct forking *f, const struct brought *brought,
                        struct machine_moment_config *c, struct error *err)
{
	json_t *disk;
	size_t i;
	int rc;

	json_array_foreach(json_object_get(f->message, "disks"), i, disk)
	{
		rc = take_disk(f, disk, brought, err);
		if (rc < 0)
			return rc;
	}
	rc = check_disks(f, err);
	if (rc < 0)
		return rc;
	rc = flush_disks(f);
	if (rc < 0)
		return error_set(err, rc, "cannot flush a disk: %s",
		                 strerror(-rc));
	f->watch = copy_fd(
	    brought_fd(brought, json_object_get(f->message, "watch")), err);
	c->fd = copy_fd(
	    brought_fd(brought, json_object_get(f->message, "file")), err);
	return f->watch < 0 || c->fd < 0 ? -EINVAL : 0;
}

static struct forking *forking_new(struct moments *m, void *asker,
                                   json_t *message)
{
	struct forking *f = xalloc(sizeof(*f));

	*f = (struct forking){ .moments = m,
		               .message = json_incref(message),
		               .watch = -1 };
	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
		f->overlay_fd[i] = f->share_fd[i] = -1;
	m->asker = asker;
	m->id = json_incref(json_object_get(message, "id"));
	m->busy = m->forks = true;
	return f;
}

json_t *moments_fork(struct moments *m, void *asker, json_t *message,
                     const struct brought *brought, struct reply *reply)
{
	struct machine_moment_config c = { .fd = -1,
		                           .share = true,
		                           .soon = flush_again,
		                           .disks_now = switch_disks,
		                           .done = fork_done };
	struct error err = { 0 };
	struct forking *f;
	int rc;

	if (m->busy) {
		is_busy(&err);
		return refused(&err);
	}
	f = forking_new(m, asker, message);
	c.ctx = f;
	rc = prepare_fork(f, brought, &c, &err);
	if (rc == 0)
		rc = machine_moment(m->machine, &c, &err);
	if (rc < 0 && c.fd >= 0)
		close(c.fd);
	if (rc < 0)
		f->reply.body = refused(&err);
	f->later = !f->reply.body;
	if (f->later)
		return NULL;
	*reply = f->reply;
	f->reply = (struct reply){ 0 };
	forking_free(f);
	return reply->body;
}

json_t *moments_progress(struct moments *m)
{
	u64 done, total;

	machine_moment_progress(m->machine, &done, &total);
	return json_pack("{s:b,s:I,s:I}", "ok", 1, "done", (json_int_t)done,
	                 "total", (json_int_t)total);
}

void moments_cancel(struct moments *m)
{
	machine_moment_cancel(m->machine);
}

void moments_forget(struct moments *m, void *asker)
{
	if (m->asker != asker)
		return;
	m->asker = NULL;
	moments_cancel(m);
}

void moments_init(struct moments *m)
{
	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
		m->shared[i] = -1;
}

void moments_fini(struct moments *m)
{
	while (m->shares)
		share_end(m->shares);
	drop_shared(m);
	json_decref(m->id);
	m->id = NULL;
}
