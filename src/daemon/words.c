/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/words.h"

#include <stdlib.h>

#include "base/log.h"

void words_add(struct words *w, char *word)
{
	ASSERT(w->count < WORDS_MAX);
	w->word[w->count++] = word;
}

struct job *words_start(struct words *w, struct loop *loop, job_fn *done,
                        void *ctx, struct error *err)
{
	struct job *job = job_start(loop, (const char *const *)(void *)w->word,
	                            done, ctx, err);

	while (w->count)
		free(w->word[--w->count]);
	return job;
}
