/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/limits/helped.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "launch/helper.h"

#define WAIT_MAX_NS (60 * NSEC_PER_SEC)

static bool try_once(struct helped *h, struct error *err)
{
	int fd = helper_connect(err);
	pid_t pid = fd < 0 ? fd : helper_hello(fd, err);

	if (pid < 0) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	h->fd = fd;
	h->pid = pid;
	return true;
}

void helped_open(struct helped *h)
{
	struct error none = { 0 };

	*h = (struct helped){ .fd = -1,
		              .wanted = getenv("ATOLL_HELPER") != NULL };
	if (h->wanted)
		try_once(h, &none);
}

void helped_close(struct helped *h)
{
	if (h->fd >= 0)
		close(h->fd);
	*h = (struct helped){ .fd = -1 };
}

/* It says nothing by itself, so that there is nothing to read but the end. */
static bool has_gone(const struct helped *h)
{
	char byte;
	ssize_t n = recv(h->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

bool helped_renew(struct helped *h, u64 now_ns)
{
	struct error err = { 0 };

	if (!h->wanted)
		return false;
	if (h->fd >= 0) {
		if (!has_gone(h))
			return false;
		close(h->fd);
		h->fd = -1;
		h->pid = 0;
		h->wait_ns = NSEC_PER_SEC;
		h->next_ns = 0;
		log_warn("daemon", "atoll-helper has ended");
	}
	if (now_ns < h->next_ns)
		return false;
	if (try_once(h, &err)) {
		log_warn("daemon", "atoll-helper is there again: process %d",
		         (int)h->pid);
		return true;
	}
	h->wait_ns = MIN(MAX(h->wait_ns, NSEC_PER_SEC) * 2, WAIT_MAX_NS);
	h->next_ns = now_ns + h->wait_ns;
	log_warn("daemon", "%s", err.text);
	return false;
}
