/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server - sockets and threads around the protocol.
 */
#include "storage/nbd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/thread.h"
#include "storage/nbd/protocol.h"

enum { STACK_BYTES = 256 * 1024 };

struct client {
	struct nbd_server *server;
	int fd; /* -1: this place is free */
	bool over, joinable;
	pthread_t thread;
};

struct nbd_server {
	struct nbd_export export;
	int listener;
	pthread_t thread;
	pthread_mutex_t lock;
	/* Under lock. */
	struct client clients[NBD_CLIENTS_MAX];
	unsigned now;
	u64 ever;
};

/* ---- one client ---- */

static int socket_read(void *ctx, void *buf, size_t size)
{
	const int *fd = ctx;
	u8 *p = buf;

	while (size > 0) {
		ssize_t n = recv(*fd, p, size, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

static int socket_write(void *ctx, const void *buf, size_t size)
{
	const int *fd = ctx;
	const u8 *p = buf;

	while (size > 0) {
		ssize_t n = send(*fd, p, size, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

int nbd_session_run(const struct nbd_pipe *pipe,
                    const struct nbd_export *export)
{
	struct nbd_session s = { .pipe = pipe, .export = export };
	struct block_info info;
	int rc;

	block_info(export->block, &info);
	s.size = info.size;
	s.sector = info.sector;
	s.room = NBD_OPTION_MAX;
	s.buf = malloc(s.room);
	if (!s.buf)
		return -ENOMEM;
	rc = nbd_handshake(&s);
	if (rc == 0)
		rc = nbd_transmission(&s);
	free(s.buf);
	return rc == 1 ? 0 : rc;
}

int nbd_serve(int fd, const struct nbd_export *export)
{
	const struct nbd_pipe pipe = { socket_read, socket_write, &fd };

	return nbd_session_run(&pipe, export);
}

/* ---- many ---- */

static void *client_thread(void *arg)
{
	struct client *c = arg;
	struct nbd_server *s = c->server;

	(void)nbd_serve(c->fd, &s->export);
	pthread_mutex_lock(&s->lock);
	close(c->fd);
	c->fd = -1;
	c->over = true;
	s->now--;
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Lock held; a thread that said it is over takes no lock any more. */
static void reap(struct client *c)
{
	if (c->joinable && c->over) {
		pthread_join(c->thread, NULL);
		c->joinable = c->over = false;
	}
}

/* One too many is hung up on. */
static void welcome(struct nbd_server *s, int fd)
{
	struct client *c = NULL;

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < NBD_CLIENTS_MAX; i++) {
		reap(&s->clients[i]);
		if (!s->clients[i].joinable)
			c = &s->clients[i];
	}
	if (c) {
		*c = (struct client){ .server = s, .fd = fd };
		c->joinable = thread_start(&c->thread, STACK_BYTES,
		                           client_thread, c) == 0;
		s->now += c->joinable;
		s->ever += c->joinable;
	}
	/* The thread waits for the lock before it closes its own. */
	if (!c || !c->joinable)
		close(fd);
	pthread_mutex_unlock(&s->lock);
}

static void *server_thread(void *arg)
{
	struct nbd_server *s = arg;

	for (;;) {
		int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			welcome(s, fd);
		else if (errno == EINVAL || errno == EBADF)
			return NULL; /* shut down: nbd_server_stop() */
		else if (errno == EMFILE || errno == ENFILE ||
		         errno == ENOMEM || errno == ENOBUFS)
			usleep(10000); /* until somebody closes something */
	}
}

static void server_free(struct nbd_server *s)
{
	close(s->listener);
	pthread_mutex_destroy(&s->lock);
	free((void *)(uintptr_t)s->export.name);
	free((void *)(uintptr_t)s->export.description);
	free(s);
}

int nbd_server_start(struct nbd_server **out, int listener,
                     const struct nbd_export *export, struct error *err)
{
	struct nbd_server *s = xalloc(sizeof(*s));
	int rc;

	s->export = *export;
	s->export.name = export->name ? xstrdup(export->name) : NULL;
	s->export.description =
	    export->description ? xstrdup(export->description) : NULL;
	s->listener = listener;
	pthread_mutex_init(&s->lock, NULL);
	rc = thread_start(&s->thread, STACK_BYTES, server_thread, s);
	if (rc < 0) {
		server_free(s);
		return error_set(err, rc, "NBD: %s", strerror(-rc));
	}
	*out = s;
	return 0;
}

void nbd_server_clients(struct nbd_server *s, unsigned *now, u64 *ever)
{
	pthread_mutex_lock(&s->lock);
	*now = s->now;
	*ever = s->ever;
	pthread_mutex_unlock(&s->lock);
}

void nbd_server_stop(struct nbd_server *s)
{
	if (!s)
		return;
	shutdown(s->listener, SHUT_RDWR); /* accept4() fails with EINVAL */
	pthread_join(s->thread, NULL);
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < NBD_CLIENTS_MAX; i++)
		if (s->clients[i].joinable && s->clients[i].fd >= 0)
			shutdown(s->clients[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < NBD_CLIENTS_MAX; i++)
		if (s->clients[i].joinable)
			pthread_join(s->clients[i].thread, NULL);
	server_free(s);
}
