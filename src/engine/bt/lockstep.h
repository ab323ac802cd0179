/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lockstep.h - host code compared with the interpreter, block by block.
 */
#pragma once

#include "base/types.h"
#include "engine/bt/bt.h"

struct lockstep;

/*
 * cpu is bt's; sys has room for one vCPU more, the one that interprets.
 * strict: no device writes to memory, so no byte may differ.
 */
int lockstep_create(struct lockstep **out, struct bt *bt, bool strict,
                    struct error *err) MUST_CHECK;
void lockstep_destroy(struct lockstep *l); /* NULL is legal */

/* Host code of a block is about to run, from its beginning... */
void lockstep_before(struct lockstep *l, const struct bt_code *code);
/* ...and came back. Does not return if it did wrong. */
void lockstep_after(struct lockstep *l, const struct bt_code *code,
                    const struct bt_exit *exit);
/* What the TLB said of some page holds no longer. */
void lockstep_page_gone(struct lockstep *l);

struct lockstep_figures {
	u64 blocks;  /* compared, to their end or to where host code left */
	u64 unseen;  /* what a device or a clock takes part in */
	u64 foreign; /* compared, but a device wrote to the same page */
};
struct lockstep_figures lockstep_figures(const struct lockstep *l);
