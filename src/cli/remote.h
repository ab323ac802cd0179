/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.h - what the verbs that speak to atolld share: options, exit codes,
 * tables, tasks waited for.
 */
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "base/types.h"
#include "cli/options.h"
#include "client/api.h"

/* As atoll help codes lists them. */
enum {
	CODE_OK = 0,
	CODE_FAILED = 1,
	CODE_USAGE = 2,
	CODE_NOT_FOUND = 3,
	CODE_CONFLICT = 4,
	CODE_DENIED = 5,
	CODE_NO_CAPACITY = 6,
	CODE_TIMEOUT = 7,
	CODE_UNREACHABLE = 8,
	CODE_PARTIAL = 9,
};

enum { REMOTE_NAMES_MAX = 1000, REMOTE_FILTERS_MAX = 8 };

enum remote_format {
	FORMAT_TABLE,
	FORMAT_JSON,
	FORMAT_JSONL,
	FORMAT_NAME,
	FORMAT_YAML,
	FORMAT_CSV,
};

/* What every verb takes; a verb's own options go to its own function. */
struct remote {
	struct client *client;
	enum remote_format format;
	const char *where, *if_rev;
	const char *columns, *sort; /* as they were typed; NULL */
	const char *project;        /* only what is in that one; NULL */
	const char *filters[REMOTE_FILTERS_MAX];
	size_t filter_count;
	bool async, quiet, yes, all, wide, dry_run;
	u64 timeout_s;      /* 0: none */
	const char **names; /* arguments; owned array */
	size_t name_count;
	option_fn *own;
	void *own_ctx;
};

/* Ids of a verb's own options begin above these. */
enum {
	OPT_FORMAT = 1,
	OPT_REMOTE,
	OPT_ASYNC,
	OPT_QUIET,
	OPT_YES,
	OPT_ALL,
	OPT_WAIT,
	OPT_IF_REV,
	OPT_COLUMNS,
	OPT_FILTER,
	OPT_SORT,
	OPT_DRY_RUN,
	OPT_IN_PROJECT,
	OPT_OWN = 100,
};
#define REMOTE_OPTIONS                                                         \
	{ "format", "FORMAT", "table, wide, json, jsonl, yaml, csv or name",   \
	  OPT_FORMAT, 'o' },                                                   \
	    { "dry-run", NULL, "say what would be asked, and don't ask it",    \
	      OPT_DRY_RUN },                                                   \
	    { "remote", "WHERE",                                               \
	      "another daemon: unix:PATH or https://HOST:PORT", OPT_REMOTE },  \
	{                                                                      \
		"quiet", NULL, "no progress", OPT_QUIET                        \
	}
/* Of verbs that ask, with say_confirm(). */
#define REMOTE_YES_OPTION                                                      \
	{                                                                      \
		"yes", NULL, "don't ask", OPT_YES                              \
	}
#define REMOTE_FILTER_OPTION                                                   \
	{                                                                      \
		"filter", "KEY=GLOB", "only those; also KEY!=GLOB, and again", \
		    OPT_FILTER                                                 \
	}
/* Of verbs that print a list of what is in projects. */
#define REMOTE_PROJECT_OPTION                                                  \
	{                                                                      \
		"project", "PROJECT", "only those in that one", OPT_IN_PROJECT \
	}
/* Of verbs that print a list, beside those above. */
#define REMOTE_LIST_OPTIONS                                                    \
	{ "columns", "LIST", "titles, or paths in JSON, as name,spec.cpus",    \
	  OPT_COLUMNS },                                                       \
	    { "sort", "KEY", "by that one; -KEY for the other way",            \
	      OPT_SORT },                                                      \
	    REMOTE_FILTER_OPTION
#define REMOTE_TASK_OPTIONS                                                    \
	{ "async", NULL, "print the task's number and don't wait",             \
	  OPT_ASYNC },                                                         \
	    { "timeout", "TIME", "wait no longer; the task goes on",           \
	      OPT_WAIT },                                                      \
	    { "all", NULL, "all machines", OPT_ALL }, REMOTE_FILTER_OPTION,    \
	{                                                                      \
		"if-rev", "N", "only if the definition has that revision",     \
		    OPT_IF_REV                                                 \
	}

/*
 * Reads the options and connects. -1: go on; else the exit code: help was
 * printed, or a failure. remote_close() either way.
 */
int remote_open(struct remote *r, const char *usage, const char *summary,
                const struct option_spec *specs, int argc, char **argv);
void remote_close(struct remote *r);

/* Prints err; the exit code that fits what the daemon said. */
int remote_failed(struct remote *r, const struct error *err);
int remote_code(const char *error_code);

/* GET; NULL: printed, and *code is set. */
json_t *remote_get(struct remote *r, const char *path, int *code);

/* A column of a table: by a function, whose text may use room; or the value at
 * a dotted path, shown as its kind says. */
enum cell {
	CELL_TEXT,
	CELL_NUMBER,
	CELL_SIZE, /* bytes */
	CELL_TIME, /* to the second */
	CELL_LIST, /* of texts */
	CELL_ANY,  /* as JSON has it */
};
struct column {
	const char *title;
	const char *(*text)(json_t *element, char *room, size_t size);
	const char *path;
	enum cell kind;
	bool wide; /* only in a wide table */
};
/* list is an array; in JSON and YAML whole is printed, with what was filtered
 * and sorted in its place. */
int remote_print(struct remote *r, json_t *whole, json_t *list,
                 const struct column *columns);
/* GET, and the list that is at key printed; an exit code. */
int remote_list(struct remote *r, const char *path, const char *key,
                const struct column *columns);
/* GET path, which is printed as the one line of such a table. */
int remote_show(struct remote *r, const char *path,
                const struct column *columns);
/* Not a table, nor names. */
bool remote_wants_data(const struct remote *r);
/* One value in the format that was asked for; a table can't have it. */
void remote_print_value(const struct remote *r, json_t *value);
/* What --filter lets through; columns: whose titles are keys, too; or NULL. */
bool remote_matches(const struct remote *r, json_t *element,
                    const struct column *columns);

/* What is at a dotted path of keys; borrowed, or NULL. */
json_t *remote_at(json_t *element, const char *path);
/* Its text: "" when it isn't there. */
const char *remote_text(json_t *element, const char *path);
s64 remote_number(json_t *element, const char *path);

/* The answer of a call that began a task: waits for its end, with progress.
 * An exit code; words were printed. task is taken over. */
int remote_follow(struct remote *r, json_t *task, const char *name);

/* Names, with globs and --all replaced by what they match; a list that the
 * caller owns. NULL: printed, and *code is set. */
json_t *remote_machines(struct remote *r, int *code);
/* Of many: 0, the one failure's, or CODE_PARTIAL. */
int remote_sum(size_t count, size_t failed, int last_code);
/* one() for each of those machines; the sum of its exit codes. */
int remote_each_machine(struct remote *r,
                        int (*one)(struct remote *r, void *ctx,
                                   const char *name),
                        void *ctx);
