/* SPDX-License-Identifier: Apache-2.0 */
/*
 * home - memory made whole again: what lies in other files than its own goes
 * back there, piece by piece, and becomes a shared mapping.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "guest/memory_internal.h"

bool home_may_come(const struct memory_layers *l)
{
	for (size_t i = 0; i < l->run_count; i++)
		if (!l->ours[l->runs[i].layer])
			return false;
	return l->viewers == 0 && !l->merges;
}

static void forget(struct memory_layers *l)
{
	for (u32 i = 0; i < l->count; i++)
		if (l->fd[i] >= 0)
			aside_leave_file(l, l->fd[i]);
	free(l->runs);
	l->runs = NULL;
	l->run_count = 0;
	l->count = 0;
	l->fresh = -1;
}

/* The file of the slot that holds page, and where in it; -errno. It may have
 * been let go, when all of memory had gone elsewhere. */
static int own_layer(struct memory *mem, u64 page, u64 *at)
{
	size_t i = 0;

	for (; mem->alias[i] || page >= mem->slots[i].size / PAGE_SIZE; i++)
		if (!mem->alias[i])
			page -= mem->slots[i].size / PAGE_SIZE;
	*at = page;
	return layers_home(mem, i);
}

/* All of a run that lies in another file. */
static int take_home(int fd, u64 at, const u8 *host, u64 pages)
{
	int rc = 0;

	for (u64 i = 0; rc == 0 && i < pages; i++) {
		if (!fold_all_zero(host + i * PAGE_SIZE))
			rc = fold_write(fd, at + i, host + i * PAGE_SIZE, 1);
		else if (fallocate(
			     fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     (off_t)((at + i) * PAGE_SIZE), PAGE_SIZE) < 0)
			rc = -errno;
	}
	return rc;
}

static int settle_piece(struct memory *mem, u64 page, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	struct layer_run home = { .page = page, .pages = pages };
	int rc = own_layer(mem, page, &home.at);

	if (rc < 0)
		return rc;
	home.layer = (u32)rc;
	rc = 0;
	for (u64 i = 0; rc == 0 && i < pages;) {
		const struct layer_run *r = &l->runs[layers_find(l, page + i)];
		struct fold_range stored = { .page = page + i };
		u64 into = page + i - r->page, follow;
		u64 n = MIN(pages - i, r->pages - into);
		u8 *host = layers_host(mem, page + i, &follow);

		if (r->layer == home.layer && r->at + into == home.at + i) {
			stored.end = page + i + n;
			stored.most = n;
			rc = fold_range(mem, &stored);
		} else {
			rc = take_home(l->fd[home.layer], home.at + i, host, n);
		}
		i += n;
	}
	if (rc == 0) {
		layers_set(l, &home, 1);
		rc = layers_map(mem, page, pages, true);
	}
	return rc;
}

bool memory_settle(struct memory *mem, u64 pages)
{
	struct memory_layers *l = &mem->layers;
	u64 follow, all = memory_pages(mem);

	if (!l->runs || !home_may_come(l))
		return true;
	memory_unstash(mem);
	/* A moment that came to nothing. */
	if (l->fresh >= 0) {
		if (freeze_seal(mem) < 0)
			return true;
		freeze_seal_fresh(l);
	}
	if (l->shared < all) {
		layers_host(mem, l->shared, &follow);
		pages = MIN(pages, follow);
		if (settle_piece(mem, l->shared, pages) < 0)
			return true;
		l->shared += pages;
	}
	if (l->shared < all)
		return false;
	forget(l);
	return true;
}
