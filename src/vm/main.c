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
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/given.h"
#include "base/log.h"
#include "base/own_root.h"
#include "vm/probe.h"
#include "vm/session.h"

static int usage(FILE *to)
{
	fputs("usage: atoll-vm --control-fd N [--own-root] | --probe | "
	      "--version\n"
	      "Runs one machine for atoll, which starts it.\n",
	      to);
	return to == stderr ? END_USAGE : 0;
}

/* Only the control socket, what we were given and the standard three are
 * wanted. */
static void close_others(int control)
{
	int from = 3;

	for (;;) {
		int next = control < from ? -1 : control;

		for (unsigned i = 0; i < GIVEN_COUNT; i++) {
			int fd = given_fd((enum given)i);

			if (fd >= from && (next < 0 || fd < next))
				next = fd;
		}
		if (next < 0)
			break;
		if (next > from)
			close_range((unsigned)from, (unsigned)next - 1, 0);
		from = next + 1;
	}
	close_range((unsigned)from, ~0u, 0);
}

/* What is given up before anything is read that others wrote. */
static int confine(bool own_root)
{
	static const struct own_root_show shown[] = {
		{ "/proc/self", true },
		{ "/dev/kvm", false },
		{ NULL },
	};
	struct error err = { 0 };

	/* Landlock and seccomp remain where the host refuses. */
	if (own_root && own_root_enter(shown, &err) < 0)
		log_info("vm", "%s", err.text);
	if (own_root && own_root_drop(&err) < 0) {
		log_error("vm", "%s", err.text);
		return -1;
	}
	return 0;
}

static void set_signals(void)
{
	/* A terminal's signals are for the command in front. */
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGTSTP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	/* A shell shows this where it was started by its descriptor. */
	prctl(PR_SET_NAME, "atoll-vm");
	/* Until the machine is built: its own /proc/self/pagemap is to be
	 * opened, which belongs to root if a process of another user can't be
	 * dumped. */
	prctl(PR_SET_DUMPABLE, 1);
}

/* What is large is a mapping of its own, of which only what is touched costs
 * anything; and threads are many and allocate little. */
static void set_allocator(void)
{
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	mallopt(M_ARENA_MAX, 1);
}

static int run(const char *number, bool own_root)
{
	char *end;
	long fd = strtol(number, &end, 10);

	if (end == number || *end || fd < 3 || fd > 1 << 20) {
		fprintf(stderr, "atoll-vm: --control-fd %s: not a descriptor\n",
		        number);
		return END_USAGE;
	}
	set_allocator();
	close_others((int)fd);
	set_signals();
	if (confine(own_root) < 0)
		return END_FAILURE;
	return vm_session((int)fd);
}

int main(int argc, char **argv)
{
	bool own_root = false;

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
	if (argc == 4 && !strcmp(argv[3], "--own-root")) {
		own_root = true;
		argc = 3;
	}
	if (argc == 3 && !strcmp(argv[1], "--control-fd"))
		return run(argv[2], own_root);
	return usage(stderr);
}
