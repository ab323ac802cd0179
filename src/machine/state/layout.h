/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - what pages.c, packed.c and plain.c share: memory as a row of
 * numbered pages.
 */
#pragma once

#include "guest/memory.h"
#include "machine/state/pages.h"

enum { LAYOUT_SLOTS_MAX = 32 };

struct layout {
	u64 pages;
	unsigned count;
	const u8 *holes; /* bits of pages that are zeroes; NULL: not known */
	struct {
		u8 *host;
		_Atomic u8 *flags; /* NULL: a file's pages have none */
		u64 first, pages;
	} part[LAYOUT_SLOTS_MAX];
};

void layout_of(struct layout *l, const struct memory *mem);
u8 *layout_page(const struct layout *l, u64 page);
_Atomic u8 *layout_flags(const struct layout *l, u64 page);
/* The number of the page at host, which is memory's. */
u64 layout_number(const struct layout *l, const u8 *host);
bool layout_is_zero(const struct layout *l, u64 page);

int pages_damaged(struct error *err, const char *what);
int pages_write_failed(int rc, struct error *err);

/* ---- packed.c ---- */

int packed_save(struct state_file *f, const struct layout *l,
                struct pages_work *work, struct pages_figures *figures,
                struct error *err) MUST_CHECK;

/* ---- unpack.c ---- */

/* All of it, now. l NULL: only check. */
int unpack_all(const struct state_file *f, const struct layout *l,
               struct error *err) MUST_CHECK;

/* ---- on_demand.c ---- */

struct faults;

/* As pages are asked for; with faults (faults.h), which are its own then, as
 * they are touched, too. */
int on_demand_begin(struct pages_source **out, const struct state_file *f,
                    struct memory *mem, const struct layout *l,
                    struct faults *faults, struct error *err) MUST_CHECK;

/* ---- plain.c ---- */

int plain_save(struct state_file *f, const struct layout *l,
               struct pages_work *work, struct pages_figures *figures,
               struct error *err) MUST_CHECK;
int plain_map(const struct state_file *f, struct memory *mem, u64 pages,
              struct error *err) MUST_CHECK;
int plain_verify(const struct state_file *f, struct error *err) MUST_CHECK;
