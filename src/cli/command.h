/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h - what a verb of the command line is; main.c has the table.
 */
#pragma once

#include "base/types.h"

struct command {
	const char *name;
	const char *summary;
	/* argv[0] is the verb; returns the exit code. */
	int (*fn)(int argc, char **argv);
	bool has_verbs; /* it is a noun: a verb comes next */
};

int command_run(int argc, char **argv);
int command_image(int argc, char **argv);

/* Find name in a table that ends with a NULL name. Prints what is wrong with
 * it, and what may have been meant, when it is not there. */
const struct command *command_find(const struct command *table,
                                   const char *what, const char *name);
void command_list(const struct command *table);
