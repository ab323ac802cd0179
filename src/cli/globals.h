/* SPDX-License-Identifier: Apache-2.0 */
/*
 * globals.h - options that most verbs take may stand before these, too:
 * atoll -o json vm list.
 */
#pragma once

#include "cli/command.h"

/* The same arguments with such options behind the noun, and behind its verb if
 * it has verbs. NULL-ended, and its own array. */
char **globals_behind(const struct command *nouns, int argc,
                      char **argv) MUST_CHECK;
