/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h - atoll host: what this host offers to machines.
 */
#pragma once

/* argv[0] is "host". Returns the exit code: of "check", 0 unless a check
 * failed; warnings are no failures. */
int cmd_host(int argc, char **argv);

/* host_audit.c: what the daemon says of its host. */
int host_show(int argc, char **argv);
int host_audit(int argc, char **argv);

/* A line of a table of checks: a word in its colour, words that are broken to
 * fit, and below them the hint, if it is not "". */
void host_line(const char *name, const char *state, const char *text,
               const char *hint);
