/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plain - memory as it is, to be mapped: a machine runs before it is read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/error.h"
#include "machine/state/layout.h"
#include "machine/state/parallel.h"

enum { PIECE_PAGES = 256, PIECE_BYTES = PIECE_PAGES * PAGE_SIZE };
#define SUMS_MAX ((size_t)1 << 28)

static const u8 zeroes[PAGE_SIZE];

struct plain {
	const struct state_file *f;
	const struct layout *l;
	struct pages_work *work; /* of a saving */
	u64 base, pages;
	u64 *sums;
	_Atomic u64 zero;
	u8 *buffer[PARALLEL_MAX];
};

/* Runs of pages that are not zeroes, each in one write; holes between. */
static int write_runs(struct plain *p, u64 first, u64 end)
{
	u64 from = first, page;
	int rc = 0;

	for (page = first; rc == 0 && page <= end; page++) {
		bool stored = page < end && !layout_is_zero(p->l, page);
		bool joined =
		    stored && page > from &&
		    layout_page(p->l, page) ==
			layout_page(p->l, from) + (page - from) * PAGE_SIZE;

		if (page < end && !stored)
			p->zero++;
		if (joined || (stored && page == from))
			continue;
		if (page > from)
			rc =
			    state_file_pwrite(p->f->fd, layout_page(p->l, from),
			                      (page - from) * PAGE_SIZE,
			                      p->base + from * PAGE_SIZE);
		from = stored ? page : page + 1;
	}
	return rc;
}

static int save_piece(void *ctx, unsigned worker, u64 i)
{
	struct plain *p = ctx;
	u64 first = i * PIECE_PAGES, end = MIN(first + PIECE_PAGES, p->pages);
	XXH64_state_t *sum;

	(void)worker;
	if (atomic_load(&p->work->stop))
		return -ECANCELED;
	sum = XXH64_createState();
	if (!sum)
		return -ENOMEM;
	XXH64_reset(sum, 0);
	for (u64 page = first; page < end; page++)
		XXH64_update(sum,
		             layout_is_zero(p->l, page)
		                 ? zeroes
		                 : layout_page(p->l, page),
		             PAGE_SIZE);
	p->sums[i] = XXH64_digest(sum);
	XXH64_freeState(sum);
	atomic_fetch_add(&p->work->done, (end - first) * PAGE_SIZE);
	return write_runs(p, first, end);
}

int plain_save(struct state_file *f, const struct layout *l,
               struct pages_work *work, struct pages_figures *figures,
               struct error *err)
{
	struct plain p = { .f = f,
		           .l = l,
		           .work = work,
		           .base = state_file_next(f),
		           .pages = l->pages };
	u64 count = (l->pages + PIECE_PAGES - 1) / PIECE_PAGES;
	int rc;

	p.sums = try_alloc(count, sizeof(*p.sums));
	rc = p.sums ? parallel_for(count, save_piece, &p) : -ENOMEM;
	if (rc < 0) {
		rc = pages_write_failed(rc, err);
	} else {
		figures->zero = p.zero;
		figures->stored_bytes = (l->pages - p.zero) * PAGE_SIZE;
		state_file_added(f, "plain", STATE_SECTION_NEEDED,
		                 l->pages * PAGE_SIZE);
		rc = state_file_add(f, "sums", 0, p.sums,
		                    count * sizeof(*p.sums), err);
	}
	free(p.sums);
	return rc;
}

int plain_map(const struct state_file *f, struct memory *mem, u64 pages,
              struct error *err)
{
	const struct state_section *s = state_file_find(f, "plain");
	struct memory_run run = { .pages = pages, .at = s->offset / PAGE_SIZE };
	const struct memory_view view = {
		.fd = { f->fd },
		.layers = 1,
		.runs = &run,
		.run_count = 1,
		.pages = pages,
	};

	if (s->size != pages * PAGE_SIZE)
		return error_set(err, -EINVAL,
		                 "the machine was saved with %" PRIu64
		                 " MiB of memory, not %" PRIu64,
		                 s->size / MIB, pages * PAGE_SIZE / MIB);
	return memory_adopt(mem, &view, err);
}

static int verify_piece(void *ctx, unsigned w, u64 i)
{
	struct plain *p = ctx;
	u64 first = i * PIECE_PAGES;
	size_t size = MIN((u64)PIECE_PAGES, p->pages - first) * PAGE_SIZE;
	int rc;

	if (!p->buffer[w])
		p->buffer[w] = malloc(PIECE_BYTES);
	if (!p->buffer[w])
		return -ENOMEM;
	rc = state_file_pread(p->f->fd, p->buffer[w], size,
	                      p->base + first * PAGE_SIZE);
	if (rc == 0 && XXH64(p->buffer[w], size, 0) != p->sums[i])
		rc = -EPROTO;
	return rc;
}

int plain_verify(const struct state_file *f, struct error *err)
{
	const struct state_section *s = state_file_find(f, "plain");
	struct plain p = { .f = f, .base = s->offset };
	u8 *sums = NULL;
	size_t size;
	int rc = state_file_read(f, "sums", SUMS_MAX, &sums, &size, err);
	u64 count;

	if (rc < 0)
		return rc;
	p.pages = s->size / PAGE_SIZE;
	p.sums = (u64 *)(void *)sums;
	count = (p.pages + PIECE_PAGES - 1) / PIECE_PAGES;
	if (size != count * sizeof(u64) || s->size % PAGE_SIZE)
		rc = pages_damaged(err, "its memory has not all sums");
	else
		rc = parallel_for(count, verify_piece, &p);
	if (rc == -EPROTO)
		rc = pages_damaged(err, "a part of its memory has another sum");
	else if (rc < 0)
		error_set(err, rc, "cannot read the saved machine: %s",
		          strerror(-rc));
	for (unsigned i = 0; i < PARALLEL_MAX; i++)
		free(p.buffer[i]);
	free(sums);
	return rc;
}
