/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main - atoll-hold: keeps one machine while daemons come and go.
 *
 * It inherits the lock on the machine's folder, locked, and a listening
 * socket; the definition comes as a file that is read once.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/hold/hold.h"

enum { END_BAD_USE = 2 };

static int usage(FILE *to)
{
	fputs("usage: atoll-hold [--network] FOLDER LOCK-FD LISTEN-FD "
	      "DOCUMENT-FD\n"
	      "       atoll-hold --prepare IMAGE-FOLDER FOLDER [--full]\n"
	      "       atoll-hold --remove FOLDER\n"
	      "Keeps one machine, or one network, for atolld, which starts "
	      "it.\n",
	      to);
	return to == stderr ? END_BAD_USE : 0;
}

static int fd_of(const char *text)
{
	u64 fd;

	if (parse_u64(text, 3, 1 << 20, &fd, NULL) < 0 ||
	    fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return -1;
	return (int)fd;
}

int main(int argc, char **argv)
{
	struct hold_config config = { 0 };
	int lock, document;
	bool network;
	pid_t pid;

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("atoll-hold " ATOLL_VERSION);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return usage(stdout);
	if (argc == 4 && strcmp(argv[1], "--prepare") == 0)
		return hold_prepare(argv[2], argv[3], false);
	if (argc == 5 && strcmp(argv[1], "--prepare") == 0 &&
	    strcmp(argv[4], "--full") == 0)
		return hold_prepare(argv[2], argv[3], true);
	if (argc == 3 && strcmp(argv[1], "--remove") == 0)
		return hold_remove(argv[2]);
	network = argc == 6 && strcmp(argv[1], "--network") == 0;
	argc -= network;
	argv += network;
	if (argc != 5)
		return usage(stderr);
	/* Nobody's child: the daemon waits for the first of us only. */
	pid = fork();
	if (pid)
		return pid > 0 ? 0 : 1;
	log_setup(STDERR_FILENO, LOG_WARN, "atoll-hold");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	lock = fd_of(argv[2]);
	config.listener = fd_of(argv[3]);
	document = fd_of(argv[4]);
	config.id = strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1];
	config.folder = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || config.listener < 0 || document < 0 ||
	    config.folder < 0)
		return usage(stderr);
	config.document = json_loadfd(document, 0, NULL);
	close(document);
	if (!config.document)
		return usage(stderr);
	if (network)
		hold_network(&config);
	else
		hold_run(&config);
	json_decref(config.document);
	close(config.folder);
	close(lock);
	return 0;
}
