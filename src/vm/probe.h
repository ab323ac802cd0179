/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - what this host offers: atoll-vm --probe.
 *
 * One JSON object goes to standard output:
 *
 *	{ "engine": "interp",
 *	  "checks": [ { "name": "kvm", "state": "ok" | "warning" | "failure",
 *	                "text": WORDS, "hint": WORDS or absent,
 *	                "facts": { ... } }, ... ] }
 *
 * engine is what "auto" would take, or null. Text and hint are for people;
 * facts, under names that stay, are for programs.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* The exit code. */
int vm_probe_main(void);

/* ---- shared by probe.c and probe_checks.c ---- */

enum probe_state { PROBE_OK, PROBE_WARNING, PROBE_FAILURE };

/* Appends a check. facts is taken over, NULL is legal; hint may be NULL. */
void probe_add(json_t *checks, const char *name, enum probe_state state,
               const char *text, const char *hint, json_t *facts);

/* A file's first line into buf, without the newline; false: not there. */
bool probe_line(const char *path, char *buf, size_t size);
/* A number in a file, or -1. */
long long probe_number(const char *path);

/* Everything but the engines. */
void probe_checks(json_t *checks);
