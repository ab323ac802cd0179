/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve - one loop; a request is read, checked, done and answered before the
 * next. Who connects is looked at once, by the kernel's word.
 */
#include "helper/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/kernel_file.h"
#include "base/log.h"
#include "base/loop.h"
#include "helper/checks.h"
#include "launch/cgroup.h"
#include "launch/helper.h"
#include "launch/launch.h"
#include "launch/uid.h"

enum { CLIENTS_MAX = 2048 };

struct client {
	struct client *next;
	struct server *server;
	int fd;
	uid_t user;
	struct loop_fd *watch;
};

struct server {
	const struct serve_config *config;
	struct loop *loop;
	struct loop_fd *watch;
	struct loop_timer leave;
	struct client *clients;
	unsigned client_count;
	struct cgroups groups;
	char groups_name[HELPER_NAME]; /* "": not opened */
};

/* ---- what is asked ---- */

/* The kernel takes each map once: what has one keeps it. */
static int write_maps(int process, u32 uid, struct error *err)
{
	char text[32];
	int rc;

	snprintf(text, sizeof(text), "0 %u 1\n", uid);
	rc = kernel_file_write(process, "uid_map", text);
	if (rc == 0)
		rc = kernel_file_write(process, "gid_map", text);
	return rc < 0
	           ? error_set(err, rc, "the machine's user: %s", strerror(-rc))
	           : 0;
}

/* Who asks holds the id by a descriptor of its own, whatever becomes of us. */
static int do_map(struct client *c, const struct helper_request *r, int *fd,
                  struct helper_answer *a, struct error *err)
{
	int process = check_namespace(r->pid, c->user, err), rc;

	if (process < 0)
		return process;
	rc = *fd = uid_take(c->server->config->uids, r->name, &a->uid, err);
	if (rc >= 0)
		rc = write_maps(process, a->uid, err);
	close(process);
	return rc;
}

static int do_bridge(struct client *c, const struct helper_request *r, int *fd,
                     struct error *err)
{
	int rc = check_bridge(r->name, c->server->config->bridges, err);

	if (rc == 0)
		rc = *fd = launch_bridge(r->name, r->mtu, err);
	return MIN(rc, 0);
}

static int do_groups(struct server *s, const struct helper_request *r,
                     struct helper_answer *a)
{
	struct cgroups *g = &s->groups;

	if (strcmp(s->groups_name, r->name) != 0) {
		if (s->groups_name[0])
			cgroups_close(g);
		cgroups_open(g, r->name, -1);
		memcpy(s->groups_name, r->name, sizeof(s->groups_name));
	}
	a->kind = g->kind;
	a->cpuset = g->cpuset;
	snprintf(a->cpu, sizeof(a->cpu), "%s", g->cpu ? g->cpu : "");
	snprintf(a->memory, sizeof(a->memory), "%s",
	         g->memory ? g->memory : "");
	snprintf(a->io, sizeof(a->io), "%s", g->io ? g->io : "");
	snprintf(a->words, sizeof(a->words), "%s", g->words);
	return 0;
}

static int do_apply(struct client *c, const struct helper_request *r,
                    struct error *err)
{
	const struct cgroup_limits limits = {
		.weight = r->weight,
		.cpu_percent = r->cpu_percent,
		.pin = r->pin,
		.memory_min = r->memory_min,
		.memory_high = r->memory_high,
		.memory_max = r->memory_max,
		.io_weight = r->io_weight,
	};
	int process = check_process(r->pid, c->user, err), rc;

	if (process < 0)
		return process;
	rc = cgroup_apply(&c->server->groups, r->name, r->pid, &limits, err);
	/* If its number is another's by now, that one was moved. */
	if (rc == 0 && faccessat(process, "stat", F_OK, 0) < 0)
		rc =
		    error_set(err, -ESRCH, "process %d has ended", (int)r->pid);
	close(process);
	return rc;
}

static int do_request(struct client *c, const struct helper_request *r,
                      struct helper_answer *a, int *fd, struct error *err)
{
	struct server *s = c->server;
	bool groups = s->groups_name[0] && s->groups.kind != CGROUP_NONE;

	/* A daemon asks whether we are there before it gives up being root. */
	if (c->user != s->config->user && r->op != HELPER_HELLO)
		return error_set(err, -EPERM,
		                 "nothing is done for root, which needs none");
	switch (r->op) {
	case HELPER_BRIDGE:
		return do_bridge(c, r, fd, err);
	case HELPER_MAP:
		return do_map(c, r, fd, a, err);
	case HELPER_CGROUPS_OPEN:
		return do_groups(s, r, a);
	case HELPER_HELLO:
		a->pid = getpid();
		return 0;
	default:
		break;
	}
	if (!groups)
		return error_set(err, -ENOENT, "there are no control groups");
	if (r->op == HELPER_CGROUP_APPLY)
		return do_apply(c, r, err);
	if (r->op == HELPER_CGROUPS_WEIGH)
		cgroups_weigh(&s->groups, r->weight);
	else
		cgroup_remove(&s->groups, r->name);
	return 0;
}

/* ---- connections ---- */

static void client_drop(struct client *c)
{
	struct server *s = c->server;
	struct client **at = &s->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	loop_fd_remove(c->watch);
	close(c->fd);
	free(c);
	if (--s->client_count == 0)
		loop_timer_arm(&s->leave, loop_now_ns() + s->config->linger_ms *
		                                              NSEC_PER_MSEC);
}

static int answer(struct client *c, const struct helper_answer *a, int fd)
{
	alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct helper_answer copy = *a;
	struct iovec iov = { &copy, sizeof(copy) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *h;

		msg.msg_control = room;
		msg.msg_controllen = sizeof(room);
		h = CMSG_FIRSTHDR(&msg);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	}
	return sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) ==
	               (ssize_t)sizeof(copy)
	           ? 0
	           : -EPIPE;
}

static void client_ready(void *ctx, unsigned events)
{
	struct client *c = ctx;
	u8 message[sizeof(struct helper_request) + 1];
	struct helper_request request;
	struct helper_answer a = { 0 };
	struct error err = { 0 };
	int fd = -1, rc;
	ssize_t n = recv(c->fd, message, sizeof(message), MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_drop(c);
		return;
	}
	rc = check_request(message, (size_t)n, &request, &err);
	if (rc == 0)
		rc = do_request(c, &request, &a, &fd, &err);
	if (rc < 0) {
		log_warn("helper", "%s", err.text);
		a.rc = rc;
		if (fd >= 0)
			close(fd);
		fd = -1;
		snprintf(a.words, sizeof(a.words), "%s", err.text);
		snprintf(a.hint, sizeof(a.hint), "%s", err.hint);
	}
	/* Who does not read its answers gets no more. */
	if (answer(c, &a, fd) < 0)
		client_drop(c);
	if (fd >= 0)
		close(fd);
}

static bool is_welcome(const struct server *s, int fd, uid_t *user)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
	    (peer.uid != 0 && peer.uid != s->config->user))
		return false;
	*user = peer.uid;
	return s->client_count < CLIENTS_MAX;
}

static void listener_ready(void *ctx, unsigned events)
{
	struct server *s = ctx;
	int fd = accept4(s->config->listener, NULL, NULL,
	                 SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c;
	uid_t user;

	(void)events;
	if (fd < 0)
		return;
	if (!is_welcome(s, fd, &user)) {
		log_warn("helper", "a connection of somebody else's");
		close(fd);
		return;
	}
	loop_timer_cancel(&s->leave);
	c = xalloc(sizeof(*c));
	*c = (struct client){
		.next = s->clients, .server = s, .fd = fd, .user = user
	};
	s->clients = c;
	s->client_count++;
	c->watch = loop_fd_add(s->loop, fd, LOOP_READ, client_ready, c);
}

static void nobody_left(void *ctx)
{
	struct server *s = ctx;

	loop_quit(s->loop, 0);
}

int serve(const struct serve_config *config, struct error *err)
{
	struct server s = { .config = config, .groups = { .helper = -1 } };
	int rc = loop_create(&s.loop, err);

	if (rc < 0)
		return rc;
	loop_timer_init(&s.leave, s.loop, nobody_left, &s);
	loop_timer_arm(&s.leave,
	               loop_now_ns() + config->linger_ms * NSEC_PER_MSEC);
	s.watch = loop_fd_add(s.loop, config->listener, LOOP_READ,
	                      listener_ready, &s);
	loop_run(s.loop);
	while (s.clients)
		client_drop(s.clients);
	loop_fd_remove(s.watch);
	loop_timer_fini(&s.leave);
	cgroups_close(&s.groups);
	loop_destroy(s.loop);
	return 0;
}
