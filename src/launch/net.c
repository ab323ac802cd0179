/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "launch/launch.h"

enum { READY_MS = 20000, OTHER_ARGUMENTS = 16 };

int launch_read_ready(int fd, struct error *err)
{
	char text[1024], *words, *hint = NULL, *end;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t used = 0;
	ssize_t n = 1;

	while (n > 0 && used < sizeof(text) - 1 && poll(&p, 1, READY_MS) > 0) {
		n = read(fd, text + used, sizeof(text) - 1 - used);
		used += n > 0 ? (size_t)n : 0;
	}
	text[used] = '\0';
	if (strcmp(text, "ok\n") == 0)
		return 0;
	words = strchr(text, '\n');
	if (words)
		hint = strchr(++words, '\n');
	if (!hint)
		return error_set(err, -ECHILD,
		                 "the network process ended before it was "
		                 "ready");
	*hint++ = '\0';
	end = strchr(hint, '\n');
	if (end)
		*end = '\0';
	error_set(err, text[0] == '2' ? -EINVAL : -EIO, "%s", words);
	if (*hint)
		error_hint(err, "%s", hint);
	return err->code;
}

static char **arguments(const struct launch_net *net, int link, int ready)
{
	size_t n = 0, room = OTHER_ARGUMENTS + 2 * net->publish_count;
	char **argv = xalloc(room * sizeof(*argv));

	argv[n++] = xstrdup("atoll-net");
	argv[n++] = xstrdup("--hostname");
	argv[n++] = xstrdup(net->hostname);
	if (net->mtu) {
		argv[n++] = xstrdup("--mtu");
		argv[n++] = xasprintf("%" PRIu64, net->mtu);
	}
	for (size_t i = 0; i < net->publish_count; i++) {
		argv[n++] = xstrdup("--publish");
		argv[n++] = xstrdup(net->publish[i]);
	}
	if (net->network) {
		argv[n++] = xstrdup("--network");
		argv[n++] = xstrdup(net->network);
		argv[n++] = xstrdup("--control-fd");
		argv[n++] = xasprintf("%d", net->control);
	}
	argv[n++] = xstrdup("--link-fd");
	argv[n++] = xasprintf("%d", link);
	argv[n++] = xstrdup("--ready-fd");
	argv[n++] = xasprintf("%d", ready);
	return argv;
}

static void free_arguments(char **argv)
{
	for (size_t i = 0; argv[i]; i++)
		free(argv[i]);
	free(argv);
}

pid_t launch_net_begin(const struct launch_net *net, int *link, int *ready_fd,
                       struct error *err)
{
	struct launch l = {
		.program = "atoll-net",
		.keep_count = net->network ? 3 : 2,
		.error_fd = -1,
		.own_group = net->own_group,
	};
	int pair[2], ready[2], keep[3], rc;
	char **argv;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "cannot make a network: %s",
		                 strerror(errno));
	if (pipe2(ready, O_CLOEXEC) < 0) {
		rc = error_set(err, -errno, "cannot make a network: %s",
		               strerror(errno));
		close(pair[0]);
		close(pair[1]);
		return rc;
	}
	keep[0] = pair[1];
	keep[1] = ready[1];
	keep[2] = net->control;
	argv = arguments(net, pair[1], ready[1]);
	l.argv = argv;
	l.keep = keep;
	pid = launch_start(&l, err);
	free_arguments(argv);
	close(pair[1]);
	close(ready[1]);
	if (pid < 0) {
		close(pair[0]);
		close(ready[0]);
		return pid;
	}
	*link = pair[0];
	*ready_fd = ready[0];
	return pid;
}

pid_t launch_net(const struct launch_net *net, int *link, struct error *err)
{
	int far, ready, rc;
	pid_t pid = launch_net_begin(net, &far, &ready, err);

	if (pid < 0)
		return pid;
	rc = launch_read_ready(ready, err);
	close(ready);
	if (rc == 0) {
		*link = far;
		return pid;
	}
	close(far);
	launch_end(pid, 1000);
	return rc;
}
