/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/hold/end.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/end.h"
#include "base/log.h"

json_t *end_of(const char *cause, int code, const char *words, const char *hint)
{
	return json_pack("{s:s, s:i, s:s, s:s}", "cause", cause, "code", code,
	                 "words", words, "hint", hint);
}

json_t *end_of_status(int status)
{
	char words[160];

	if (WIFSIGNALED(status))
		snprintf(words, sizeof(words),
		         "the machine's process was ended by signal %d (%s)",
		         WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(words, sizeof(words),
		         "the machine's process ended with code %d, without a "
		         "word",
		         WEXITSTATUS(status));
	return end_of("died", END_WORKER_DIED, words,
	              "its log has what it said last");
}

/* Written beside and renamed. */
void end_write(int folder, json_t *end)
{
	char *text = json_dumps(end, JSON_COMPACT);
	int fd = openat(folder, "end.tmp",
	                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t size = text ? strlen(text) : 0;

	if (fd < 0 || write(fd, text, size) != (ssize_t)size ||
	    fdatasync(fd) < 0 ||
	    renameat(folder, "end.tmp", folder, "end.json") < 0)
		log_warn("hold", "end.json: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	free(text);
}
