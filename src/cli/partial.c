/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/partial.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

enum { PARTS_MAX = 2 }; /* an image, and a data file of its own */

static char *volatile parts[PARTS_MAX];

/* Ends us as the signal would have. */
static void interrupted(int number)
{
	int saved = errno;

	for (unsigned i = 0; i < PARTS_MAX; i++)
		if (parts[i])
			unlink(parts[i]);
	signal(number, SIG_DFL);
	raise(number);
	errno = saved;
}

static void listen_to(int number)
{
	struct sigaction action = { .sa_handler = interrupted }, old;

	/* Who started us may have wanted us deaf to it: nohup. */
	if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(number, &action, NULL);
}

static void add(const char *path)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };

	for (unsigned i = 0; i < PARTS_MAX; i++) {
		if (parts[i] && strcmp(parts[i], path) == 0)
			break;
		if (!parts[i]) {
			parts[i] = xstrdup(path);
			break;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		listen_to(numbers[i]);
}

void partial_begin(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 && errno == ENOENT)
		add(path);
}

void partial_replaced(const char *path)
{
	struct stat st;

	/* Never a device, nor a link to one. */
	if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
		add(path);
}

static void forget(bool discard)
{
	for (unsigned i = 0; i < PARTS_MAX; i++) {
		char *path = parts[i];

		if (path && discard)
			unlink(path);
		parts[i] = NULL;
		free(path);
	}
}

void partial_end(void)
{
	forget(false);
}

void partial_discard(void)
{
	forget(true);
}
