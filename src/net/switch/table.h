/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h - which card is behind which port, as frames teach it.
 *
 * Bounded as a whole and for each port, so that a flood of made-up addresses
 * pushes out nobody's but the flooder's own. Entries age. The key has room for
 * a VLAN beside the card's address; there is one VLAN, number 0.
 */
#pragma once

#include "base/types.h"

struct table;

enum { TABLE_PORT_MAX = 256, TABLE_AGE_S = 300 };

struct table *table_create(void);
void table_destroy(struct table *t); /* NULL is legal */

/* Seen from port now. Pinned entries stay until their port is forgotten and
 * are never learned elsewhere. */
void table_learn(struct table *t, const u8 *mac, unsigned port, u64 now_ns);
void table_pin(struct table *t, const u8 *mac, unsigned port);
/* Its port, or -1. */
int table_find(const struct table *t, const u8 *mac, u64 now_ns);
void table_forget_port(struct table *t, unsigned port);
/* How many it knows. */
size_t table_count(const struct table *t);
