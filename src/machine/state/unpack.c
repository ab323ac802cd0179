/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack - packed memory out of its file, all at once.
 */
#include "machine/state/unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "machine/state/layout.h"
#include "machine/state/parallel.h"

/* Sort pages by their contents. */
static int sort_pages(struct unpack *u)
{
	const struct state_packed *f = &u->file;
	u32 *at;

	u->start = try_alloc(f->contents + 2, sizeof(*u->start));
	u->page = try_alloc(MAX(f->pages, (u64)1), sizeof(*u->page));
	if (!u->start || !u->page)
		return -ENOMEM;
	at = u->start + 1;
	for (u64 i = 0; i < f->pages; i++)
		if (f->map[i])
			at[f->map[i]]++;
	/* at[c + 1] counts contents c; make at[c] where c begins, and let
	 * filling move it to where c ends, which start[c + 1] is. */
	for (u64 c = 1; c <= f->contents; c++)
		at[c] += at[c - 1];
	for (u64 i = 0; i < f->pages; i++)
		if (f->map[i])
			u->page[at[f->map[i] - 1]++] = (u32)i;
	return 0;
}

int unpack_open(struct unpack *u, const struct state_file *f, u64 pages,
                struct error *err)
{
	int rc;

	*u = (struct unpack){ 0 };
	rc = state_packed_open(&u->file, f, err);
	if (rc < 0)
		return rc;
	if (pages && u->file.pages != pages)
		return error_set(err, -EINVAL,
		                 "the machine was saved with %" PRIu64
		                 " MiB of memory, not %" PRIu64,
		                 u->file.pages * PAGE_SIZE / MIB,
		                 pages * PAGE_SIZE / MIB);
	rc = sort_pages(u);
	return rc < 0 ? state_packed_failed(rc, err) : 0;
}

void unpack_close(struct unpack *u)
{
	state_packed_close(&u->file);
	free(u->start);
	free(u->page);
	*u = (struct unpack){ 0 };
}

struct all {
	struct unpack u;
	const struct layout *l;
	struct state_room room[PARALLEL_MAX];
};

static int load_block(void *ctx, unsigned worker, u64 i)
{
	struct all *a = ctx;
	struct state_room *room = &a->room[worker];
	u64 c, end = state_packed_range(&a->u.file, i, &c);
	int rc = state_packed_read(&a->u.file, i, room);

	for (; rc == 0 && a->l && c < end; c++)
		for (u32 k = a->u.start[c]; k < a->u.start[c + 1]; k++)
			memcpy(layout_page(a->l, a->u.page[k]),
			       state_contents(room, c), PAGE_SIZE);
	return rc;
}

int unpack_all(const struct state_file *f, const struct layout *l,
               struct error *err)
{
	struct all a = { .l = l };
	int rc = unpack_open(&a.u, f, l ? l->pages : 0, err);

	if (rc == 0) {
		rc = parallel_for(a.u.file.count, load_block, &a);
		if (rc < 0)
			rc = state_packed_failed(rc, err);
	}
	for (unsigned i = 0; i < PARALLEL_MAX; i++)
		state_room_fini(&a.room[i]);
	unpack_close(&a.u);
	return rc;
}
