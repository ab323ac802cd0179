/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main - atoll-vm: one machine, one process.
 *
 * It is started with one end of a control socket, over which the machine file
 * and every descriptor come (control/control.h). It opens nothing by itself
 * once the machine is built: from then on it is confined (vm/sandbox.h). When
 * the other end of the socket goes away, so does the machine.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/log.h"
#include "vm/probe.h"
#include "vm/session.h"

static int usage(FILE *to)
{
	fputs("usage: atoll-vm --control-fd N | --probe | --version\n"
	      "Runs one machine for atoll, which starts it.\n",
	      to);
	return to == stderr ? END_USAGE : 0;
}

/* Only the control socket and the standard three are wanted. */
static void close_others(int keep)
{
	if (keep > 3)
		close_range(3, (unsigned)keep - 1, 0);
	close_range((unsigned)keep + 1, ~0u, 0);
}

static void set_signals(void)
{
	/* A terminal's signals are for the command in front. */
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGTSTP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	/* No core: it would hold the guest's memory. */
	prctl(PR_SET_DUMPABLE, 0);
}

static int run(const char *number)
{
	char *end;
	long fd = strtol(number, &end, 10);

	if (end == number || *end || fd < 3 || fd > 1 << 20) {
		fprintf(stderr, "atoll-vm: --control-fd %s: not a descriptor\n",
		        number);
		return END_USAGE;
	}
	close_others((int)fd);
	set_signals();
	return vm_session((int)fd);
}

int main(int argc, char **argv)
{
	log_setup(STDERR_FILENO, getenv("ATOLL_DEBUG") ? LOG_DEBUG : LOG_WARN,
	          "atoll-vm");
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("atoll-vm " ATOLL_VERSION);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--help"))
		return usage(stdout);
	if (argc == 2 && !strcmp(argv[1], "--probe"))
		return vm_probe_main();
	if (argc == 3 && !strcmp(argv[1], "--control-fd"))
		return run(argv[2]);
	return usage(stderr);
}
