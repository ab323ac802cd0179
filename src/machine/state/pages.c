/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages - guest memory as a row of numbered pages, saved in one of two forms.
 */
#include "machine/state/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "machine/state/faults.h"
#include "machine/state/layout.h"

enum { LAYERS_MAX = 16 << 20 };

/* An alias has the host memory of another slot. */
static bool is_alias(const struct layout *l, const struct memory_slot *s)
{
	for (unsigned i = 0; i < l->count; i++)
		if (s->host >= l->part[i].host &&
		    s->host < l->part[i].host + l->part[i].pages * PAGE_SIZE)
			return true;
	return false;
}

/* Slots come sorted; the lower of two names of one memory counts. What an
 * alias shows in part is a slot that is larger: those go first. */
void layout_of(struct layout *l, const struct memory *mem)
{
	memset(l, 0, sizeof(*l));
	for (size_t i = 0; i < memory_slot_count(mem); i++) {
		const struct memory_slot *s = memory_slot_at(mem, i);

		if (s->fd_offset || is_alias(l, s))
			continue;
		ASSERT(l->count < LAYOUT_SLOTS_MAX);
		l->part[l->count].host = s->host;
		l->part[l->count].flags = s->page;
		l->part[l->count].first = l->pages;
		l->part[l->count++].pages = s->size / PAGE_SIZE;
		l->pages += s->size / PAGE_SIZE;
	}
}

static unsigned part_of(const struct layout *l, u64 page)
{
	unsigned i = 0;

	ASSERT(page < l->pages);
	while (page - l->part[i].first >= l->part[i].pages)
		i++;
	return i;
}

u8 *layout_page(const struct layout *l, u64 page)
{
	unsigned i = part_of(l, page);

	return l->part[i].host + (page - l->part[i].first) * PAGE_SIZE;
}

_Atomic u8 *layout_flags(const struct layout *l, u64 page)
{
	unsigned i = part_of(l, page);

	return l->part[i].flags + (page - l->part[i].first);
}

u64 layout_number(const struct layout *l, const u8 *host)
{
	u64 at;

	for (unsigned i = 0; i < l->count; i++) {
		at = (uintptr_t)host - (uintptr_t)l->part[i].host;
		if (at < l->part[i].pages * PAGE_SIZE)
			return l->part[i].first + at / PAGE_SIZE;
	}
	ASSERT(false);
	return 0;
}

/* A hole is not read: that would fill it. */
bool layout_is_zero(const struct layout *l, u64 page)
{
	const u64 *p;

	if (l->holes && l->holes[page / 8] & 1u << page % 8)
		return true;
	p = (const u64 *)(const void *)layout_page(l, page);

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*p); i += 8)
		if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] |
		    p[i + 5] | p[i + 6] | p[i + 7])
			return false;
	return true;
}

int pages_damaged(struct error *err, const char *what)
{
	error_set(err, -EPROTO, "the saved machine is damaged: %s", what);
	return error_hint(err, "the file was altered or cut short after it "
	                       "was written; it can't be used");
}

int pages_write_failed(int rc, struct error *err)
{
	if (rc == -ECANCELED)
		return error_set(err, rc, "the saving was cancelled");
	error_set(err, rc, "cannot write the saved machine: %s", strerror(-rc));
	if (rc == -ENOSPC || rc == -EDQUOT)
		error_hint(err, "choose a place with more room");
	return rc;
}

int pages_save(struct state_file *f, const struct memory_view *view,
               enum pages_form form, struct pages_work *work,
               struct pages_figures *figures, struct error *err)
{
	const u8 *map = memory_view_map(view, err);
	u8 *holes = memory_view_holes(view);
	struct layout l = { .pages = view->pages, .count = 1, .holes = holes };
	int rc;

	*figures = (struct pages_figures){ .pages = l.pages };
	l.part[0].host = (u8 *)(uintptr_t)map;
	l.part[0].pages = l.pages;
	atomic_store(&work->total, l.pages * PAGE_SIZE);
	if (!map)
		rc = err->code;
	else if (form == PAGES_PLAIN)
		rc = plain_save(f, &l, work, figures, err);
	else
		rc = packed_save(f, &l, work, figures, err);
	free(holes);
	memory_view_unmap(view, map);
	return rc;
}

int pages_share(struct state_file *f, const struct memory_view *view,
                struct error *err)
{
	return state_file_add(f, "layers", STATE_SECTION_NEEDED, view->runs,
	                      view->run_count * sizeof(*view->runs), err);
}

static int load_layers(const struct state_file *f, struct memory *mem,
                       const int *fds, u32 count, struct error *err)
{
	struct memory_view view = { .layers = MIN(count, MEMORY_LAYERS_MAX) };
	u8 *runs;
	size_t size;
	int rc = state_file_read(f, "layers", LAYERS_MAX, &runs, &size, err);

	if (rc < 0)
		return rc;
	for (u32 i = 0; i < MEMORY_LAYERS_MAX; i++)
		view.fd[i] = i < count ? fds[i] : -1;
	view.runs = (struct memory_run *)(void *)runs;
	view.run_count = (u32)(size / sizeof(*view.runs));
	rc = memory_adopt(mem, &view, err);
	free(runs);
	return rc;
}

static int load_packed(const struct state_file *f, struct memory *mem,
                       const struct layout *l, enum pages_when when,
                       struct pages_source **source, struct error *err)
{
	struct faults *faults = NULL;
	int rc = when == PAGES_TOUCHED ? faults_open(&faults, l) : 0;

	if (rc < 0)
		log_info("state", "userfaultfd: %s; all memory is read first",
		         strerror(-rc));
	return when == PAGES_NOW || rc < 0
	           ? unpack_all(f, l, err)
	           : on_demand_begin(source, f, mem, l, faults, err);
}

int pages_load(const struct state_file *f, struct memory *mem, const int *fds,
               u32 count, enum pages_when when, struct pages_source **source,
               struct error *err)
{
	struct layout l;

	*source = NULL;
	layout_of(&l, mem);
	if (state_file_find(f, "layers"))
		return load_layers(f, mem, fds, count, err);
	if (state_file_find(f, "plain"))
		return plain_map(f, mem, l.pages, err);
	return load_packed(f, mem, &l, when, source, err);
}

int pages_verify(const struct state_file *f, struct error *err)
{
	if (state_file_find(f, "layers"))
		return 0; /* another machine's memory, as it is */
	return state_file_find(f, "plain") ? plain_verify(f, err)
	                                   : unpack_all(f, NULL, err);
}
