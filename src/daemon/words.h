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
/* job_start(); the words are gone afterwards. */
struct job *words_start(struct words *w, struct loop *loop, job_fn *done,
                        void *ctx, struct error *err);
