/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages.h - guest memory in the file of a saved machine.
 *
 * Pages are numbered through all slots that are no alias, lowest address
 * first. Two forms:
 *
 *	packed  section "map": u32 a page: 0 for zeroes, else 1 + the number of
 *	        its contents, of which there is one copy each, however many
 *	        pages have them. "blocks": for each 64 of those, where its zstd
 *	        frame lies in "packed", how long it is, and its XXH64.
 *	plain   section "plain": every page at its number * 4096, zeroes as
 *	        holes, so that it can be mapped. "sums": XXH64 of each MiB.
 *
 * A packed memory is checked as it is read. A plain one is mapped and read
 * page by page as the guest touches it; pages_verify() checks all of it.
 */
#pragma once

#include "base/types.h"
#include "storage/state_file.h"

struct error;
struct memory;

enum pages_form { PAGES_PACKED, PAGES_PLAIN };

struct pages_figures {
	u64 pages, zero, duplicate, stored_bytes;
};

/* The memory does not change meanwhile. */
int pages_save(struct state_file *f, const struct memory *mem,
               enum pages_form form, struct pages_figures *figures,
               struct error *err) MUST_CHECK;

/*
 * Into memory that is all zeroes and no vCPU runs on yet. A plain one is
 * mapped privately: the file must not change while the machine runs, and
 * *mapped says so.
 */
int pages_load(const struct state_file *f, struct memory *mem, bool *mapped,
               struct error *err) MUST_CHECK;

/* Every sum of either form, with nothing kept. */
int pages_verify(const struct state_file *f, struct error *err) MUST_CHECK;
