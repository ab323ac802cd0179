/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/remote.h"

#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "base/units.h"
#include "cli/say.h"

enum { BAR_WIDTH = 30 };

/* ---- options ---- */

static int set_format(struct remote *r, const char *value, struct error *err)
{
	/* In the order of enum remote_format, and one that is a table. */
	static const char *const names[] = { "table", "json", "jsonl", "name",
		                             "yaml",  "csv",  "wide" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i], value) == 0) {
			r->wide = strcmp(value, "wide") == 0;
			r->format =
			    r->wide ? FORMAT_TABLE : (enum remote_format)i;
			return 0;
		}
	return error_set(err, -EINVAL,
	                 "--format %s is none of table, wide, json, jsonl, "
	                 "yaml, csv, name",
	                 value);
}

static int set_timeout(struct remote *r, const char *value, struct error *err)
{
	u64 ns;
	int rc = parse_duration(value, &ns, err);

	if (rc < 0)
		return error_prefix(err, "--timeout");
	r->timeout_s = MAX((ns + NSEC_PER_SEC - 1) / NSEC_PER_SEC, (u64)1);
	return 0;
}

static int add_name(struct remote *r, const char *name, struct error *err)
{
	if (r->name_count == REMOTE_NAMES_MAX)
		return error_set(err, -EINVAL, "more than %d arguments",
		                 REMOTE_NAMES_MAX);
	r->names = xrealloc(r->names, (r->name_count + 1) * sizeof(char *));
	r->names[r->name_count++] = name;
	return 0;
}

static int add_filter(struct remote *r, const char *text, struct error *err)
{
	if (r->filter_count == REMOTE_FILTERS_MAX)
		return error_set(err, -EINVAL, "more than %d times --filter",
		                 REMOTE_FILTERS_MAX);
	if (!strchr(text, '=') || text[0] == '=' || text[0] == '!')
		return error_set(err, -EINVAL,
		                 "--filter %s is not as KEY=GLOB or KEY!=GLOB",
		                 text);
	r->filters[r->filter_count++] = text;
	return 0;
}

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct remote *r = ctx;

	switch (id) {
	case 0:
		return add_name(r, value, err);
	case OPT_FORMAT:
		return set_format(r, value, err);
	case OPT_WAIT:
		return set_timeout(r, value, err);
	case OPT_REMOTE:
		r->where = value;
		return 0;
	case OPT_IF_REV:
		r->if_rev = value;
		return 0;
	case OPT_COLUMNS:
		r->columns = value;
		return 0;
	case OPT_SORT:
		r->sort = value;
		return 0;
	case OPT_FILTER:
		return add_filter(r, value, err);
	case OPT_IN_PROJECT:
		r->project = value;
		return 0;
	case OPT_DRY_RUN:
		r->dry_run = r->yes = true;
		return 0;
	case OPT_ASYNC:
		r->async = true;
		return 0;
	case OPT_QUIET:
		r->quiet = true;
		return 0;
	case OPT_YES:
		r->yes = true;
		return 0;
	case OPT_ALL:
		r->all = true;
		return 0;
	default:
		return r->own ? r->own(r->own_ctx, id, value, err) : 0;
	}
}

int remote_open(struct remote *r, const char *usage, const char *summary,
                const struct option_spec *specs, int argc, char **argv)
{
	struct error err = { 0 };
	int rc;

	if (options_want_help(argc, argv)) {
		options_help(usage, summary, specs);
		return CODE_OK;
	}
	r->where = getenv("ATOLL_REMOTE");
	if (r->where && !r->where[0])
		r->where = NULL;
	rc = options_parse(specs, argc, argv, take_option, r, &err);
	if (rc < 0)
		return say_error(&err);
	rc = client_open(&r->client, r->where, &err);
	if (rc < 0)
		return say_error(&err);
	client_if_match(r->client, r->if_rev);
	client_only_reads(r->client, r->dry_run);
	return -1;
}

void remote_close(struct remote *r)
{
	client_close(r->client);
	free(r->names);
	memset(r, 0, sizeof(*r));
}

/* ---- failures ---- */

int remote_code(const char *code)
{
	static const struct {
		const char *name;
		int code;
	} codes[] = {
		{ "bad-request", CODE_USAGE },
		{ "not-found", CODE_NOT_FOUND },
		{ "conflict", CODE_CONFLICT },
		{ "precondition", CODE_CONFLICT },
		{ "denied", CODE_DENIED },
		{ "unauthorized", CODE_DENIED },
		{ "locked-out", CODE_DENIED },
		{ "quota", CODE_NO_CAPACITY },
		{ "storage", CODE_NO_CAPACITY },
		{ "no-capacity", CODE_NO_CAPACITY },
		{ "timeout", CODE_TIMEOUT },
		{ "unavailable", CODE_UNREACHABLE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (strcmp(codes[i].name, code) == 0)
			return codes[i].code;
	return CODE_FAILED;
}

/* To programs, as the API says it; to people in lines. */
static void say_failure(const struct remote *r, const char *code,
                        const char *words, const char *hint)
{
	json_t *whole;

	if (r->format != FORMAT_JSON && r->format != FORMAT_JSONL) {
		say_words(words, hint);
		return;
	}
	whole = json_pack("{s:{s:s, s:s, s:s*}}", "error", "code", code,
	                  "words", words, "hint", hint[0] ? hint : NULL);
	json_dumpf(whole, stderr, JSON_COMPACT);
	fputc('\n', stderr);
	json_decref(whole);
}

int remote_failed(struct remote *r, const struct error *err)
{
	const char *code = client_error(r->client)->code;

	/* It was not to be done: what it would have been. */
	if (err->code == -ECANCELED) {
		puts(client_unasked(r->client));
		return CODE_OK;
	}
	if (err->code == -ECONNREFUSED)
		code = "unavailable";
	say_failure(r, code[0] ? code : "internal", err->text, err->hint);
	return remote_code(code);
}

json_t *remote_get(struct remote *r, const char *path, int *code)
{
	struct error err = { 0 };
	json_t *reply = NULL;

	if (client_call(r->client, "GET", path, NULL, &reply, &err) == 0)
		return reply;
	*code = remote_failed(r, &err);
	return NULL;
}

int remote_sum(size_t count, size_t failed, int last_code)
{
	if (failed == 0)
		return CODE_OK;
	return failed < count ? CODE_PARTIAL : last_code;
}

/* ---- tasks ---- */

/* Ctrl-C lets go of the task; nothing else is done with it. */
static int open_interrupt(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool interrupted(int fd)
{
	struct signalfd_siginfo info;

	return read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info);
}

static void show_progress(struct remote *r, json_t *task, const char *name)
{
	s64 percent = remote_number(task, "progress");
	char bar[BAR_WIDTH + 1];

	if (r->quiet || !isatty(STDERR_FILENO))
		return;
	for (s64 i = 0; i < BAR_WIDTH; i++)
		bar[i] = i * 100 < percent * BAR_WIDTH ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	/* Of what can't tell how far it is, a bar would say nothing. */
	fprintf(stderr, "\r\033[K%s: %s ", name, remote_text(task, "kind"));
	if (percent > 0)
		fprintf(stderr, "[%s] %3" PRId64 "%% ", bar, percent);
	fprintf(stderr, "%s",
	        strcmp(remote_text(task, "state"), "queued")
	            ? remote_text(task, "words")
	            : "waits for its turn");
	fflush(stderr);
}

static void end_progress(struct remote *r)
{
	if (!r->quiet && isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

static bool has_ended(json_t *task)
{
	const char *state = remote_text(task, "state");

	return strcmp(state, "queued") && strcmp(state, "running");
}

static int outcome(const struct remote *r, json_t *task, const char *name)
{
	const char *code = remote_text(task, "error.code");
	char *words;

	if (strcmp(remote_text(task, "state"), "succeeded") == 0)
		return CODE_OK;
	words = xasprintf("%s: %s: %s", name, remote_text(task, "kind"),
	                  remote_text(task, "error.words"));
	say_failure(r, code, words, remote_text(task, "error.hint"));
	free(words);
	return remote_code(code);
}

static int let_go(const struct remote *r, s64 id, const char *why)
{
	char *words = xasprintf("%s; task %" PRId64 " goes on", why, id);
	char hint[64];

	snprintf(hint, sizeof(hint), "atoll task wait %" PRId64, id);
	say_failure(r, "timeout", words, hint);
	free(words);
	return CODE_TIMEOUT;
}

int remote_follow(struct remote *r, json_t *task, const char *name)
{
	s64 id = remote_number(task, "id");
	u64 end = r->timeout_s ? loop_now_ns() + r->timeout_s * NSEC_PER_SEC
	                       : UINT64_MAX;
	const char *why = NULL;
	int signals, code = -1;
	char path[64];

	if (r->async) {
		printf("%" PRId64 "\n", id);
		json_decref(task);
		return CODE_OK;
	}
	signals = open_interrupt();
	snprintf(path, sizeof(path), "/v1/tasks/%" PRId64 "?wait=1", id);
	while (code < 0 && !why && !has_ended(task)) {
		show_progress(r, task, name);
		json_decref(task);
		task = remote_get(r, path, &code);
		if (task && !has_ended(task) && interrupted(signals))
			why = "interrupted";
		else if (task && !has_ended(task) && loop_now_ns() > end)
			why = "it takes longer than --timeout";
	}
	end_progress(r);
	close(signals);
	if (why)
		code = let_go(r, id, why);
	else if (code < 0)
		code = outcome(r, task, name);
	json_decref(task);
	return code;
}

/* ---- machines by name ---- */

static bool has_glob(const char *name)
{
	return strpbrk(name, "*?[") != NULL;
}

static size_t add_matches(struct remote *r, json_t *to, json_t *machines,
                          const char *glob)
{
	size_t before = json_array_size(to), i;
	json_t *one;

	json_array_foreach(machines, i, one)
	{
		if (fnmatch(glob, remote_text(one, "name"), 0) == 0 &&
		    remote_matches(r, one, NULL))
			json_array_append_new(
			    to, json_string(remote_text(one, "name")));
	}
	return json_array_size(to) - before;
}

json_t *remote_machines(struct remote *r, int *code)
{
	json_t *names = json_array(), *whole = NULL, *machines;
	bool all = r->all || (r->filter_count && !r->name_count);
	bool ask = all || r->filter_count;
	const char *missed = NULL;
	char *words;

	if (!all && r->name_count == 0) {
		*code = say_usage("which machine?");
		json_decref(names);
		return NULL;
	}
	for (size_t i = 0; i < r->name_count; i++)
		ask = ask || has_glob(r->names[i]);
	if (ask) {
		whole = remote_get(
		    r, r->filter_count ? "/v1/vms" : "/v1/vms?view=brief",
		    code);
		if (!whole) {
			json_decref(names);
			return NULL;
		}
	}
	machines = json_object_get(whole, "vms");
	if (all)
		add_matches(r, names, machines, "*");
	for (size_t i = 0; !all && i < r->name_count; i++) {
		if (!has_glob(r->names[i]) && !r->filter_count)
			json_array_append_new(names, json_string(r->names[i]));
		else if (!add_matches(r, names, machines, r->names[i]) &&
		         !missed)
			missed = r->names[i];
	}
	json_decref(whole);
	/* What was named by hand is not there; nothing is done to others. */
	if (missed && !r->filter_count) {
		words = xasprintf("no machine matches %s", missed);
		say_failure(r, "not-found", words, "");
		free(words);
		json_decref(names);
		*code = CODE_NOT_FOUND;
		return NULL;
	}
	return names;
}

int remote_each_machine(struct remote *r,
                        int (*one)(struct remote *r, void *ctx,
                                   const char *name),
                        void *ctx)
{
	int code = CODE_OK, last = CODE_OK;
	json_t *names = remote_machines(r, &code), *name;
	size_t i, failed = 0;

	json_array_foreach(names, i, name)
	{
		code = one(r, ctx, json_string_value(name));
		failed += code != CODE_OK;
		last = code ? code : last;
	}
	if (names)
		code = remote_sum(json_array_size(names), failed, last);
	json_decref(names);
	return code;
}
