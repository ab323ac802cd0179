/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork_hold - the process that holds copies of a machine: their processes are
 * its children, and their names its locks, until each has ended.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/fork.h"
#include "launch/launch.h"

enum { START_MS = 60000, GRACE_MS = 5000 };

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* One message: 1 started, 0 another, -errno when it has gone. */
static int take_message(struct fork_copy *c, struct error *err)
{
	const char *event = "", *words = "", *hint = "";
	int fds[CONTROL_FDS_MAX];
	json_t *message;
	size_t count = 0;
	int rc = control_receive(c->worker.control, &message, fds,
	                         CONTROL_FDS_MAX, &count, err);

	if (rc < 0)
		return rc;
	while (count)
		close(fds[--count]);
	json_unpack(message, "{s?s,s?s,s?s}", "event", &event, "words", &words,
	            "hint", &hint);
	if (strcmp(event, "stopped") == 0) {
		c->stopped = true;
		error_set(err, -EIO, "%s", words);
		error_hint(err, "%s", hint);
	}
	rc = strcmp(event, "started") == 0;
	json_decref(message);
	return rc;
}

int fork_wait_started(struct fork_copy *c, struct error *err)
{
	struct pollfd p = { .fd = c->worker.control, .events = POLLIN };
	int rc = 0;

	while (rc == 0 && !c->stopped) {
		if (poll(&p, 1, START_MS) <= 0)
			return error_set(err, -ETIME, "%s did not start",
			                 c->name);
		rc = take_message(c, err);
	}
	if (rc < 0)
		return error_set(
		    err, rc, "the process of %s ended before it ran", c->name);
	return c->stopped ? err->code : 0;
}

static void remove_folder(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char *below;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		below = xasprintf("%s/%s", path, entry->d_name);
		/* A link is not followed. */
		if (unlink(below) < 0 && errno == EISDIR)
			remove_folder(below);
		free(below);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

static void clear(const struct fork_copy *c, bool remove)
{
	struct error err;
	char *folder = named_folder(c->name, false, &err), *pipe;

	if (folder && remove) {
		remove_folder(folder);
	} else if (folder) {
		pipe = xasprintf("%s/console.in", folder);
		unlink(pipe);
		free(pipe);
	}
	free(folder);
}

void fork_copy_fini(struct fork_copy *c, bool remove)
{
	for (size_t i = 0; i < ARRAY_SIZE(c->overlays); i++)
		close_fd(&c->overlays[i]);
	close_fd(&c->console_in);
	close_fd(&c->console_out);
	if (c->worker.pid > 0) {
		close_fd(&c->worker.control);
		launch_end(c->worker.pid, GRACE_MS);
		close_fd(&c->worker.messages);
	}
	for (unsigned i = 0; i < c->net_count; i++) {
		close_fd(&c->net_link[i]);
		close_fd(&c->net_ready[i]);
		launch_end(c->nets[i], 2000);
	}
	if (c->named.lock_fd >= 0)
		clear(c, remove);
	named_release(&c->named);
	free(c->name);
	*c = (struct fork_copy){ .console_in = -1,
		                 .console_out = -1,
		                 .named = { .lock_fd = -1, .listen_fd = -1 } };
}

/* What its process says goes to its log. */
static void read_words(struct fork_copy *c)
{
	char text[1024], *folder, *path;
	ssize_t n = read(c->worker.messages, text, sizeof(text));
	struct error err;
	int fd;

	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			close_fd(&c->worker.messages);
		return;
	}
	folder = named_folder(c->name, true, &err);
	if (!folder)
		return;
	path = xasprintf("%s/vm.log", folder);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, text, (size_t)n) < 0)
		close_fd(&c->worker.messages);
	close_fd(&fd);
	free(path);
	free(folder);
}

static void one_round(struct fork_copy *copies, unsigned count,
                      struct pollfd *polls, unsigned *left, bool remove)
{
	struct error err;

	for (unsigned i = 0; i < count; i++) {
		struct fork_copy *c = &copies[i];

		polls[2 * i] =
		    (struct pollfd){ .fd = c->worker.pid > 0 ? c->worker.control
			                                     : -1,
			             .events = POLLIN };
		polls[2 * i + 1] = (struct pollfd){
			.fd = c->worker.pid > 0 ? c->worker.messages : -1,
			.events = POLLIN
		};
	}
	if (poll(polls, 2 * count, -1) < 0)
		return;
	for (unsigned i = 0; i < count; i++) {
		struct fork_copy *c = &copies[i];

		if (polls[2 * i + 1].revents)
			read_words(c);
		if (!polls[2 * i].revents || take_message(c, &err) >= 0)
			continue;
		fork_copy_fini(c, remove);
		(*left)--;
	}
}

void fork_hold(struct fork_copy *copies, unsigned count, bool remove)
{
	struct pollfd *polls = xalloc(2 * (count + 1) * sizeof(*polls));
	unsigned left = count;

	while (left)
		one_round(copies, count, polls, &left, remove);
	free(polls);
}
