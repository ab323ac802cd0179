/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options.h - long options from a table, which also makes the help text.
 */
#pragma once

#include "base/types.h"

struct error;

struct option_spec {
	const char *name;  /* without the dashes; NULL ends the table */
	const char *value; /* what the help calls its value; NULL: a switch */
	const char *help;  /* NULL: not listed, for a program to give */
	int id;            /* above 0 */
	char letter;       /* a short form, as -o; 0: none */
};

/*
 * Called for each option, and with id 0 for each argument that is none.
 * 0, or -errno and words, which end the parse.
 */
typedef int option_fn(void *ctx, int id, const char *value, struct error *err);

/* -EINVAL with words (and the nearest name) for an option not in the table.
 * argv[0] is skipped; after "--" everything is an argument. */
int options_parse(const struct option_spec *specs, int argc, char **argv,
                  option_fn *fn, void *ctx, struct error *err) MUST_CHECK;

/* "usage: ...", a line of summary, and the table, on standard output. */
void options_help(const char *usage, const char *summary,
                  const struct option_spec *specs);
/* --help or -h is among the arguments. */
bool options_want_help(int argc, char **argv);
