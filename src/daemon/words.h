/* SPDX-License-Identifier: Apache-2.0 */
/*
 * words.h - the words of a command that a task has done by a process.
 */
#pragma once

#include "daemon/daemon.h"

enum { WORDS_MAX = 16 };

struct words {
	char *word[WORDS_MAX + 1];
	size_t count;
};

/* Taken over. */
void words_add(struct words *w, char *word);
/* The option by which `atoll` finds the machine that runs. */
void words_add_socket(struct words *w, const struct vm *vm);
/* job_start(); the words are gone afterwards. */
struct job *words_start(struct words *w, struct loop *loop, job_fn *done,
                        void *ctx, struct error *err);
/* The same, and what it prints goes to out. */
struct job *words_start_to(struct words *w, struct loop *loop, int out,
                           job_fn *done, void *ctx, struct error *err);
