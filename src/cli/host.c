/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll host check - a table of what atoll-vm --probe found out.
 */
#include "cli/host.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/end.h"
#include "base/error.h"
#include "base/place.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/watch.h"

enum { PROBE_MAX = 1 << 20, NAME_WIDTH = 16, STATE_WIDTH = 8 };

/* The child's standard output, ended by '\0'; freed by the caller. */
static char *read_all(int fd)
{
	char *text = xalloc(PROBE_MAX);
	size_t used = 0;
	ssize_t n;

	while (used < PROBE_MAX - 1) {
		n = read(fd, text + used, PROBE_MAX - 1 - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		used += (size_t)n;
	}
	return text;
}

static char *run_probe(struct error *err)
{
	char *path = place_program("atoll-vm", err), *text;
	int out[2], status = -1;
	pid_t pid;

	if (!path)
		return NULL;
	if (pipe2(out, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		error_set(err, -errno, "cannot start a process: %s",
		          strerror(errno));
		free(path);
		return NULL;
	}
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl(path, "atoll-vm", "--probe", NULL);
		_exit(127);
	}
	close(out[1]);
	text = read_all(out[0]);
	close(out[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		error_set(err, -ECHILD, "%s --probe failed (status %#x)", path,
		          (unsigned)status);
		free(text);
		text = NULL;
	}
	free(path);
	return text;
}

static json_t *probe(struct error *err)
{
	char *text = run_probe(err);
	json_error_t bad;
	json_t *root;

	if (!text)
		return NULL;
	root = json_loads(text, 0, &bad);
	free(text);
	if (!json_is_array(json_object_get(root, "checks"))) {
		error_set(err, -EPROTO, "atoll-vm --probe said no table");
		json_decref(root);
		return NULL;
	}
	return root;
}

/* ---- the table ---- */

static unsigned columns(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 60)
		return size.ws_col;
	return 80;
}

static const char *colour(const char *state)
{
	if (!isatty(STDOUT_FILENO) || getenv("NO_COLOR"))
		return "";
	if (strcmp(state, "ok") == 0 || strcmp(state, "pass") == 0)
		return "\033[32m";
	if (strcmp(state, "n/a") == 0)
		return "";
	return strcmp(state, "warning") == 0 ? "\033[33m" : "\033[31m";
}

/* Words at indent, broken at spaces; the first line begins there already. */
static void wrap(const char *text, unsigned indent)
{
	unsigned width = columns() - indent, used = 0;

	while (*text) {
		unsigned n = (unsigned)strcspn(text, " ");

		if (used && used + 1 + n > width) {
			printf("\n%*s", (int)indent, "");
			used = 0;
		} else if (used) {
			putchar(' ');
			used++;
		}
		printf("%.*s", (int)n, text);
		used += n;
		text += n;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static const char *string(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

void host_line(const char *name, const char *state, const char *text,
               const char *hint)
{
	int indent = NAME_WIDTH + STATE_WIDTH + 2;
	const char *on = colour(state);

	printf("%-*s %s%-*s%s ", NAME_WIDTH, name, on, STATE_WIDTH, state,
	       *on ? "\033[0m" : "");
	wrap(text, (unsigned)indent);
	if (*hint) {
		printf("%*shint: ", indent, "");
		wrap(hint, (unsigned)indent + 6);
	}
}

static int print_table(const json_t *root)
{
	const json_t *checks = json_object_get(root, "checks"), *check;
	unsigned ok = 0, warnings = 0, failures = 0;
	size_t i;

	json_array_foreach(checks, i, check)
	{
		const char *state = string(check, "state");

		host_line(string(check, "name"), state, string(check, "text"),
		          string(check, "hint"));
		if (strcmp(state, "ok") == 0)
			ok++;
		else if (strcmp(state, "warning") == 0)
			warnings++;
		else
			failures++;
	}
	printf("\n%u ok, %u warning%s, %u failure%s\n", ok, warnings,
	       warnings == 1 ? "" : "s", failures, failures == 1 ? "" : "s");
	return failures ? END_FAILURE : 0;
}

static bool any_failure(const json_t *root)
{
	const json_t *checks = json_object_get(root, "checks"), *check;
	size_t i;

	json_array_foreach(checks, i,
	                   check) if (strcmp(string(check, "state"),
	                                     "failure") == 0) return true;
	return false;
}

/* ---- the verb ---- */

enum { OPTION_OUTPUT = 1 };

static const struct option_spec options[] = {
	{ "format", "table|json", "how to print it [table]", OPTION_OUTPUT,
	  'o' },
	{ "output", "table|json", NULL, OPTION_OUTPUT }, /* its old name */
	{ 0 },
};

static int on_option(void *ctx, int id, const char *value, struct error *err)
{
	bool *json = ctx;

	if (id != OPTION_OUTPUT)
		return error_set(err, -EINVAL,
		                 "atoll host check takes no argument, got "
		                 "\"%s\"",
		                 value);
	*json = strcmp(value, "json") == 0;
	if (!*json && strcmp(value, "table"))
		return error_set(err, -EINVAL,
		                 "--format is table or json, not \"%s\"",
		                 value);
	return 0;
}

static int host_check(int argc, char **argv)
{
	struct error err = { 0 };
	bool json = false;
	json_t *root;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll host check [OPTION]...",
		             "Tells what this host offers to machines.",
		             options);
		return 0;
	}
	if (options_parse(options, argc, argv, on_option, &json, &err) < 0)
		return say_error(&err);
	root = probe(&err);
	if (!root)
		return say_error(&err);
	if (json) {
		json_dumpf(root, stdout, JSON_INDENT(2));
		putchar('\n');
		rc = any_failure(root) ? END_FAILURE : 0;
	} else {
		rc = print_table(root);
	}
	json_decref(root);
	return rc;
}

static const struct command verbs[] = {
	{ "show", "what it has, and how much of it is given away", host_show },
	{ "check", "what this host offers, and what it lacks", host_check },
	{ "audit", "the hardening checklist: what of it is kept", host_audit },
	{ "policy", "how much of it machines may have", host_policy },
	{ 0 },
};

int cmd_host(int argc, char **argv)
{
	const struct command *verb;

	if (argc < 2 || options_want_help(2, argv)) {
		puts("usage: atoll host VERB [OPTION]...\n\nVerbs:");
		command_list(verbs);
		return argc < 2 ? END_USAGE : 0;
	}
	verb = command_find(verbs, "verb", argv[1]);
	return verb ? verb->fn(argc - 1, argv + 1) : END_USAGE;
}
