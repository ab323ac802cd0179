/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/helper.h"

#include <errno.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "launch/cgroup.h"

enum { PATIENCE_S = 20 };

int helper_connect(struct error *err)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	const char *path = getenv("ATOLL_HELPER");
	struct timeval wait = { PATIENCE_S, 0 };
	int fd, code;

	if (!path || strlen(path) >= sizeof(name.sun_path))
		return error_set(err, -ENOENT, "there is no atoll-helper");
	memcpy(name.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) == 0 &&
	    connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return fd;
	code = errno;
	if (fd >= 0)
		close(fd);
	return error_set(err, -code, "atoll-helper at %s: %s", path,
	                 strerror(code));
}

static int take_fd(struct msghdr *msg)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);
	int fd = -1;

	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

int helper_ask(int helper, const struct helper_request *request,
               struct helper_answer *answer, int *fd, struct error *err)
{
	alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { answer, sizeof(*answer) };
	struct msghdr msg = { .msg_iov = &iov,
		              .msg_iovlen = 1,
		              .msg_control = room,
		              .msg_controllen = sizeof(room) };
	int got;

	if (send(helper, request, sizeof(*request), MSG_NOSIGNAL) < 0 ||
	    recvmsg(helper, &msg, MSG_CMSG_CLOEXEC) != sizeof(*answer))
		return error_set(err, -ECONNRESET,
		                 "atoll-helper does not answer");
	got = take_fd(&msg);
	if (fd)
		*fd = got;
	else if (got >= 0)
		close(got);
	answer->words[sizeof(answer->words) - 1] = '\0';
	answer->hint[sizeof(answer->hint) - 1] = '\0';
	answer->cpu[sizeof(answer->cpu) - 1] = '\0';
	answer->memory[sizeof(answer->memory) - 1] = '\0';
	if (answer->rc == 0)
		return 0;
	error_set(err, answer->rc, "%s", answer->words);
	return answer->hint[0] ? error_hint(err, "%s", answer->hint)
	                       : answer->rc;
}

static int request_init(struct helper_request *r, enum helper_op op,
                        const char *name, struct error *err)
{
	*r = (struct helper_request){ .version = HELPER_VERSION, .op = op };
	if (strlen(name) >= sizeof(r->name))
		return error_set(err, -ENAMETOOLONG, "%.40s...: too long",
		                 name);
	memcpy(r->name, name, strlen(name));
	return 0;
}

pid_t helper_hello(int helper, struct error *err)
{
	struct helper_request r = { .version = HELPER_VERSION,
		                    .op = HELPER_HELLO };
	struct helper_answer a;
	int rc = helper_ask(helper, &r, &a, NULL, err);

	return rc < 0 ? rc : a.pid;
}

int helper_bridge(int helper, const char *bridge, u64 mtu, struct error *err)
{
	struct helper_request r;
	struct helper_answer a;
	int fd = -1, rc = request_init(&r, HELPER_BRIDGE, bridge, err);

	r.mtu = (u32)mtu;
	if (rc == 0)
		rc = helper_ask(helper, &r, &a, &fd, err);
	if (rc == 0 && fd < 0)
		rc = error_set(err, -EPROTO, "atoll-helper sent no device");
	return rc < 0 ? rc : fd;
}

int helper_map(int helper, pid_t pid, const char *machine, struct error *err)
{
	struct helper_request r;
	struct helper_answer a;
	int fd = -1, rc = request_init(&r, HELPER_MAP, machine, err);

	r.pid = pid;
	if (rc == 0)
		rc = helper_ask(helper, &r, &a, &fd, err);
	if (rc == 0 && fd < 0)
		rc = error_set(err, -EPROTO, "atoll-helper sent no user id");
	return rc < 0 ? rc : fd;
}

void helper_cgroups_open(int helper, const char *name, struct cgroups *g)
{
	struct helper_request r;
	struct helper_answer a;
	struct error err = { 0 };
	int rc = request_init(&r, HELPER_CGROUPS_OPEN, name, &err);

	if (rc == 0)
		rc = helper_ask(helper, &r, &a, NULL, &err);
	if (rc < 0) {
		snprintf(g->words, sizeof(g->words), "%.300s", err.text);
		return;
	}
	g->kind = a.kind <= CGROUP_V2 ? (enum cgroup_kind)a.kind : CGROUP_NONE;
	g->cpuset = a.cpuset;
	g->cpu = a.cpu[0] ? xstrdup(a.cpu) : NULL;
	g->memory = a.memory[0] ? xstrdup(a.memory) : NULL;
	g->io = a.io[0] ? xstrdup(a.io) : NULL;
	snprintf(g->words, sizeof(g->words), "%.300s", a.words);
}

void helper_cgroups_weigh(int helper, u64 weight)
{
	struct helper_request r = { .version = HELPER_VERSION,
		                    .op = HELPER_CGROUPS_WEIGH,
		                    .weight = weight };
	struct helper_answer a;
	struct error err = { 0 };

	if (helper_ask(helper, &r, &a, NULL, &err) < 0)
		log_warn("launch", "%s", err.text);
}

int helper_cgroup_apply(int helper, const char *machine, pid_t pid,
                        const struct cgroup_limits *l, struct error *err)
{
	struct helper_request r;
	struct helper_answer a;
	int rc = request_init(&r, HELPER_CGROUP_APPLY, machine, err);

	if (rc == 0 && strlen(l->pin) >= sizeof(r.pin))
		rc =
		    error_set(err, -ENAMETOOLONG, "%.40s...: too long", l->pin);
	if (rc < 0)
		return rc;
	memcpy(r.pin, l->pin, strlen(l->pin));
	r.pid = pid;
	r.weight = l->weight;
	r.cpu_percent = l->cpu_percent;
	r.memory_min = l->memory_min;
	r.memory_high = l->memory_high;
	r.memory_max = l->memory_max;
	r.io_weight = l->io_weight;
	return helper_ask(helper, &r, &a, NULL, err);
}

void helper_cgroup_remove(int helper, const char *machine)
{
	struct helper_request r;
	struct helper_answer a;
	struct error err = { 0 };
	int rc = request_init(&r, HELPER_CGROUP_REMOVE, machine, &err);

	if (rc == 0)
		rc = helper_ask(helper, &r, &a, NULL, &err);
	if (rc < 0)
		log_warn("launch", "%s", err.text);
}
