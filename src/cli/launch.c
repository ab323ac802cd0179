/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.c - the machine's process as atoll run starts it: in a process group
 * of its own, so that Ctrl-C on the terminal reaches atoll alone, and with its
 * standard error in a pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/run.h"
#include "launch/launch.h"

int worker_start(struct worker *w, const char *machine, struct error *err)
{
	struct launch_vm how = { .machine = machine, .own_group = true };
	int text[2];

	if (pipe2(text, O_CLOEXEC) < 0)
		return error_set(err, -errno, "cannot talk to a process: %s",
		                 strerror(errno));
	how.error_fd = text[1];
	w->pid = launch_vm(&how, &w->control, err);
	close(text[1]);
	if (w->pid < 0) {
		close(text[0]);
		return w->pid;
	}
	w->messages = text[0];
	return 0;
}
