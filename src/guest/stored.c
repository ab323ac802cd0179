/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stored - lists of runs of pages.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "guest/memory_internal.h"

int stored_add(struct stored_list *l, u64 page, u64 pages)
{
	if (l->count == l->room) {
		size_t room = MAX(l->room * 2, (size_t)256);
		struct stored *run = try_alloc(room, sizeof(*run));

		if (!run)
			return -ENOMEM;
		if (l->count)
			memcpy(run, l->run, l->count * sizeof(*run));
		free(l->run);
		l->run = run;
		l->room = room;
	}
	l->run[l->count++] = (struct stored){ page, pages };
	return 0;
}

void stored_join(struct stored_list *l, u64 gap)
{
	size_t n = 0;

	for (size_t i = 1; i < l->count; i++) {
		struct stored *last = &l->run[n], *next = &l->run[i];

		if (next->page - (last->page + last->pages) <= gap)
			last->pages = next->page + next->pages - last->page;
		else
			l->run[++n] = *next;
	}
	l->count = l->count ? n + 1 : 0;
}

void stored_cut(struct stored_list *l, u64 end)
{
	while (l->count && l->run[l->count - 1].page >= end)
		l->count--;
	if (l->count) {
		struct stored *last = &l->run[l->count - 1];

		last->pages = MIN(last->pages, end - last->page);
	}
}
