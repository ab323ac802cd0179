/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "launch/launch.h"

pid_t launch_vm(const struct launch_vm *how, int *control, struct error *err)
{
	char number[16];
	char *argv[] = { (char[]){ "atoll-vm" }, (char[]){ "--control-fd" },
		         number, NULL };
	struct launch l = {
		.program = "atoll-vm",
		.argv = argv,
		.keep_count = 1,
		.error_fd = how->error_fd,
		.own_group = how->own_group,
		.machine = how->machine,
	};
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, -errno, "cannot talk to a process: %s",
		                 strerror(errno));
	snprintf(number, sizeof(number), "%d", pair[1]);
	l.keep = &pair[1];
	pid = launch_start(&l, err);
	close(pair[1]);
	if (pid < 0)
		close(pair[0]);
	else
		*control = pair[0];
	return pid;
}
