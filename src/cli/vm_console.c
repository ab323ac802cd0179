/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll console - this terminal is the machine's.
 *
 * What the machine prints is a stream from an offset of its console log, so
 * that what it said before can be seen too; what is typed is posted by a
 * thread of its own. Leaving does nothing to the machine.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/terminal.h"
#include "cli/vm.h"

enum { OPT_TAIL = OPT_OWN, OPT_NO_FOLLOW };
enum { ESCAPE = 0x1d /* Ctrl-] */, TYPED = 4096 };

struct console {
	const char *where, *name;
	char *path;
	const char *tail;
	bool no_follow, dry_run;
	_Atomic bool leave;
	struct terminal terminal;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct console *k = ctx;

	(void)err;
	if (id == OPT_TAIL)
		k->tail = value;
	else
		k->no_follow = true;
	return 0;
}

static int put(void *ctx, const void *data, size_t size)
{
	const char *p = data;
	ssize_t n;

	(void)ctx;
	while (size) {
		n = write(STDOUT_FILENO, p, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		size -= (size_t)n;
	}
	return 0;
}

static bool left(void *ctx)
{
	return ((struct console *)ctx)->leave;
}

/* ---- what is typed ---- */

static void post(struct client *c, const char *path, const char *what,
                 json_t *body)
{
	char *url = xasprintf("%s/%s", path, what);

	/* The machine may be gone: its stream's end says so. */
	if (client_call(c, "POST", url, body, NULL, NULL) < 0)
		errno = 0;
	free(url);
}

static void post_size(struct client *c, const char *path)
{
	struct winsize size;
	json_t *body;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col)
		return;
	body = json_pack("{s:i, s:i}", "columns", size.ws_col, "rows",
	                 size.ws_row);
	post(c, path, "console/size", body);
	json_decref(body);
}

/* After Ctrl-]. */
static void menu(struct console *k, struct client *c, char key)
{
	static const char help[] =
	    "\r\n[atoll] q leave the console   p power button   r reset\r\n"
	    "        Ctrl-] sends Ctrl-] to the guest\r\n";

	if (key == 'q') {
		k->leave = true;
	} else if (key == 'p') {
		post(c, k->path, "powerdown", NULL);
	} else if (key == 'r') {
		post(c, k->path, "reset", NULL);
	} else {
		fputs(help, stderr);
	}
}

static void typed(struct console *k, struct client *c, const char *bytes,
                  size_t count, bool *in_menu)
{
	char out[TYPED], *url = xasprintf("%s/console", k->path);
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		if (*in_menu && bytes[i] != ESCAPE) {
			*in_menu = false;
			menu(k, c, bytes[i]);
		} else if (bytes[i] == ESCAPE && k->terminal.fd >= 0 &&
		           !*in_menu) {
			*in_menu = true;
		} else {
			*in_menu = false;
			out[n++] = bytes[i];
		}
	}
	if (n && client_send(c, url, out, n, NULL) < 0)
		errno = 0;
	free(url);
}

static void *type(void *ctx)
{
	struct console *k = ctx;
	struct client *c = NULL;
	char bytes[TYPED];
	bool in_menu = false;
	ssize_t n;

	if (client_open(&c, k->where, NULL) < 0)
		return NULL;
	client_only_reads(c, k->dry_run);
	post_size(c, k->path);
	while (!k->leave && (n = read(STDIN_FILENO, bytes, sizeof(bytes))) > 0)
		typed(k, c, bytes, (size_t)n, &in_menu);
	client_close(c);
	return NULL;
}

/* ---- the whole ---- */

static int run(struct remote *r, struct console *k)
{
	char *part = client_escape(r->names[0]), *url;
	char *tail = client_escape(k->tail ? k->tail : "16384");
	struct error err = { 0 };
	pthread_t thread;
	int rc;

	k->where = r->where;
	k->dry_run = r->dry_run;
	k->path = xasprintf("/v1/vms/%s", part);
	url = xasprintf("%s/console?tail=%s%s", k->path, tail,
	                k->no_follow ? "" : "&follow=run");
	free(part);
	free(tail);
	if (!k->no_follow) {
		terminal_open(&k->terminal, STDIN_FILENO);
		if (k->terminal.raw)
			fprintf(stderr, "[atoll] Ctrl-] q leaves%s\r\n",
			        k->dry_run ? "; what is typed is not sent"
			                   : "");
		if (pthread_create(&thread, NULL, type, k) == 0)
			pthread_detach(thread);
	}
	rc = client_stream(r->client, url, NULL, put, left, k, &err);
	/* What comes next begins a line, wherever the guest was in its own. */
	if (k->terminal.raw)
		fputs("\r\n", stderr);
	if (!k->no_follow)
		terminal_close(&k->terminal);
	free(url);
	return rc < 0 ? remote_failed(r, &err) : CODE_OK;
}

int vm_console(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "tail", "BYTES", "of what it said before (16384)", OPT_TAIL },
		{ "no-follow", NULL, "print what there is, and end",
		  OPT_NO_FOLLOW },
		REMOTE_OPTIONS,
		{ 0 },
	};
	/* The thread may still hold it when main() returns. */
	struct console *k = xalloc(sizeof(*k));
	struct remote r = { .own = take_option, .own_ctx = k };
	int code = remote_open(&r, "atoll console NAME [OPTION]...",
	                       "The machine's terminal; Ctrl-] q leaves.",
	                       specs, argc, argv);

	signal(SIGPIPE, SIG_IGN);
	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll console takes one machine");
	if (code < 0)
		code = run(&r, k);
	remote_close(&r);
	return code;
}
