/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cable.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
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
#include "base/loop.h"
#include "control/control.h"

enum { PEER_WAIT_S = 10, RETRY_FIRST_MS = 20, RETRY_MOST_MS = 2000 };
/* Large frames: four of them is what a socket holds otherwise. */
enum { ROOM_BYTES = 4 << 20 };

struct cable {
	char *socket, *machine;
	unsigned nic;
	json_t *message;
	int fd; /* the connection; -1: none */
	struct loop *loop;
	struct loop_fd *watch;
	struct loop_timer retry;
	u64 wait_ms;
	int link; /* the machine's end, until the switch has ours; -1: none */
	cable_new_fn *fn;
	void *ctx;
};

/* By its folder's descriptor a path of any length fits. */
static int connect_to(const char *path)
{
	struct timeval wait = { PEER_WAIT_S, 0 };
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	char *a = xstrdup(path), *b = xstrdup(path);
	int folder = open(dirname(a), O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	snprintf(name.sun_path, sizeof(name.sun_path), "/proc/self/fd/%d/%s",
	         folder, basename(b));
	if (folder < 0 || fd < 0 ||
	    connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0)
		rc = -errno;
	free(a);
	free(b);
	if (folder >= 0)
		close(folder);
	if (rc == 0) {
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static void unplug(struct cable *c)
{
	loop_fd_remove(c->watch);
	c->watch = NULL;
	if (c->fd >= 0)
		close(c->fd);
	if (c->link >= 0)
		close(c->link);
	c->fd = c->link = -1;
}

/* Asks; the answer is to come. */
static int begin(struct cable *c, struct error *err)
{
	int pair[2], rc, room = ROOM_BYTES;

	c->fd = connect_to(c->socket);
	if (c->fd < 0) {
		error_set(err, c->fd, "the network's switch does not run: %s",
		          strerror(-c->fd));
		return error_hint(err, "atoll net list says why");
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "a cable: %s", strerror(errno));
	c->link = pair[0];
	/* As much of it as the host allows; the switch does so at its end. */
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	rc = control_send(c->fd, c->message, &pair[1], 1, err);
	close(pair[1]);
	return rc;
}

static int end(struct cable *c, struct error *err)
{
	int fds[CONTROL_FDS_MAX], rc;
	const char *words, *hint;
	json_t *reply;
	size_t count;

	rc = control_receive(c->fd, &reply, fds, CONTROL_FDS_MAX, &count, err);
	if (rc < 0)
		return rc;
	while (count)
		close(fds[--count]);
	if (!json_is_true(json_object_get(reply, "ok"))) {
		words = json_string_value(json_object_get(reply, "words"));
		hint = json_string_value(json_object_get(reply, "hint"));
		rc = error_set(err, -EIO, "%s", words ? words : "refused");
		if (hint && hint[0])
			error_hint(err, "%s", hint);
	}
	json_decref(reply);
	return rc;
}

static json_t *plug_message(const struct cable_config *config)
{
	static const char *const keys[] = { "mac", "address", "publish",
		                            "trusted" };
	json_t *message = json_pack("{s:s, s:s, s:i}", "op", "plug", "machine",
	                            config->machine, "nic", (int)config->nic);

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		json_t *value = json_object_get(config->card, keys[i]);

		if (value && !json_is_null(value))
			json_object_set(message, keys[i], value);
	}
	json_object_update(message, json_object_get(config->card, "limits"));
	return message;
}

int cable_plug(struct cable **out, const struct cable_config *config, int *link,
               struct error *err)
{
	struct cable *c = xalloc(sizeof(*c));
	int rc;

	c->fd = c->link = -1;
	c->socket = xstrdup(config->socket);
	c->machine = xstrdup(config->machine);
	c->nic = config->nic;
	c->message = plug_message(config);
	rc = begin(c, err);
	if (rc == 0)
		rc = end(c, err);
	if (rc < 0) {
		cable_destroy(c);
		return rc;
	}
	*link = c->link;
	c->link = -1;
	*out = c;
	return 0;
}

void cable_destroy(struct cable *c)
{
	if (!c)
		return;
	unplug(c);
	if (c->loop)
		loop_timer_fini(&c->retry);
	json_decref(c->message);
	free(c->socket);
	free(c->machine);
	free(c);
}

static void again(struct cable *c, const struct error *err)
{
	if (err)
		log_debug("net", "%s: %s", c->machine, err->text);
	unplug(c);
	loop_timer_arm(&c->retry, loop_now_ns() + c->wait_ms * NSEC_PER_MSEC);
	c->wait_ms = MIN(2 * c->wait_ms, (u64)RETRY_MOST_MS);
}

/* The answer to what retry_due() asked; or, plugged in, the switch's end. */
static void readable(void *ctx, unsigned events)
{
	struct error err = { 0 };
	struct cable *c = ctx;
	int link = c->link;

	(void)events;
	if (end(c, &err) < 0 || link < 0) {
		again(c, &err);
		return;
	}
	c->link = -1;
	c->wait_ms = RETRY_FIRST_MS;
	c->fn(c->ctx, c->nic, link);
}

static void retry_due(void *ctx)
{
	struct error err = { 0 };
	struct cable *c = ctx;

	if (begin(c, &err) < 0)
		again(c, &err);
	else
		c->watch = loop_fd_add(c->loop, c->fd, LOOP_READ, readable, c);
}

void cable_watch(struct cable *c, struct loop *loop, cable_new_fn *fn,
                 void *ctx)
{
	c->loop = loop;
	c->fn = fn;
	c->ctx = ctx;
	c->wait_ms = RETRY_FIRST_MS;
	loop_timer_init(&c->retry, loop, retry_due, c);
	c->watch = loop_fd_add(loop, c->fd, LOOP_READ, readable, c);
}
