/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/words.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"

void words_add(struct words *w, char *word)
{
	ASSERT(w->count < WORDS_MAX);
	w->word[w->count++] = word;
}

void words_add_socket(struct words *w, const struct vm *vm)
{
	char *path = vm_socket_path(vm);

	words_add(w, xasprintf("--machine-socket=%s", path));
	free(path);
}

struct job *words_start(struct words *w, struct loop *loop, job_fn *done,
                        void *ctx, struct error *err)
{
	return words_start_to(w, loop, -1, done, ctx, err);
}

struct job *words_start_to(struct words *w, struct loop *loop, int out,
                           job_fn *done, void *ctx, struct error *err)
{
	struct job *job = job_start_to(
	    loop, (const char *const *)(void *)w->word, out, done, ctx, err);

	while (w->count)
		free(w->word[--w->count]);
	return job;
}
