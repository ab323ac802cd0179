/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages - guest memory as a row of numbered pages, saved in one of two forms.
 */
#include "machine/state/pages.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "machine/state/layout.h"

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
		l->part[l->count].first = l->pages;
		l->part[l->count++].pages = s->size / PAGE_SIZE;
		l->pages += s->size / PAGE_SIZE;
	}
}

u8 *layout_page(const struct layout *l, u64 page)
{
	unsigned i = 0;

	ASSERT(page < l->pages);
	while (page - l->part[i].first >= l->part[i].pages)
		i++;
	return l->part[i].host + (page - l->part[i].first) * PAGE_SIZE;
}

bool page_is_zero(const u8 *page)
{
	const u64 *p = (const u64 *)(const void *)page;

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
	error_set(err, rc, "cannot write the saved machine: %s", strerror(-rc));
	if (rc == -ENOSPC || rc == -EDQUOT)
		error_hint(err, "choose a place with more room");
	return rc;
}

int pages_save(struct state_file *f, const struct memory *mem,
               enum pages_form form, struct pages_figures *figures,
               struct error *err)
{
	struct layout l;

	layout_of(&l, mem);
	*figures = (struct pages_figures){ .pages = l.pages };
	return form == PAGES_PLAIN ? plain_save(f, &l, figures, err)
	                           : packed_save(f, &l, figures, err);
}

int pages_load(const struct state_file *f, struct memory *mem, bool *mapped,
               struct error *err)
{
	struct layout l;

	layout_of(&l, mem);
	*mapped = state_file_find(f, "plain") != NULL;
	return *mapped ? plain_map(f, &l, err) : packed_load(f, &l, err);
}

int pages_verify(const struct state_file *f, struct error *err)
{
	return state_file_find(f, "plain") ? plain_verify(f, err)
	                                   : packed_load(f, NULL, err);
}
