/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "net/switch/frame.h"
#include "net/switch/limits.h"

enum { BUCKETS = 4096, WAYS = 4 };

struct entry {
	u64 key; /* VLAN << 48 | address; 0: free */
	u64 seen_ns;
	u16 port;
	bool pinned;
};

/* Sets of WAYS, chosen by a keyed hash: who sends addresses made up to meet in
 * one set would have to know the key. */
struct table {
	struct entry sets[BUCKETS][WAYS];
	u64 secret;
	size_t count;
	u16 of_port[SWITCH_PORTS_MAX];
};

struct table *table_create(void)
{
	struct table *t = xalloc(sizeof(*t));

	if (getrandom(&t->secret, sizeof(t->secret), 0) < 0)
		t->secret = (u64)(uintptr_t)t;
	return t;
}

void table_destroy(struct table *t)
{
	free(t);
}

static u64 key_of(const u8 *mac)
{
	return (u64)get_be32(mac) << 16 | (u64)mac[4] << 8 | mac[5];
}

static struct entry *set_of(const struct table *t, u64 key)
{
	u64 h = (key ^ t->secret) * 0x9e3779b97f4a7c15;

	h = (h ^ h >> 32 ^ t->secret) * 0xd6e8feb86659fd93;
	return (struct entry *)(uintptr_t)t->sets[(h >> 40) % BUCKETS];
}

static void drop(struct table *t, struct entry *e)
{
	t->of_port[e->port]--;
	t->count--;
	memset(e, 0, sizeof(*e));
}

static bool old(const struct entry *e, u64 now_ns)
{
	return !e->pinned && now_ns - e->seen_ns > TABLE_AGE_S * NSEC_PER_SEC;
}

static struct entry *find(const struct table *t, u64 key)
{
	struct entry *set = set_of(t, key);

	for (int i = 0; i < WAYS; i++)
		if (set[i].key == key)
			return &set[i];
	return NULL;
}

/* Free, or too old, or the longest silent of the set; NULL: all pinned. */
static struct entry *room(struct table *t, u64 key, unsigned port, u64 now_ns)
{
	struct entry *set = set_of(t, key), *best = NULL;
	bool full = t->of_port[port] >= TABLE_PORT_MAX;

	for (int i = 0; i < WAYS; i++) {
		struct entry *e = &set[i];

		if (e->key && old(e, now_ns))
			drop(t, e);
		if (!e->key && !full)
			return e;
		/* A port that has its share replaces its own only. */
		if (!e->key || e->pinned || (full && e->port != port))
			continue;
		if (!best || e->seen_ns < best->seen_ns)
			best = e;
	}
	if (best)
		drop(t, best);
	return best;
}

static void put(struct table *t, u64 key, unsigned port, u64 now_ns, bool pin)
{
	struct entry *e = find(t, key);

	if (e && e->port != port) {
		drop(t, e);
		e = NULL;
	}
	if (!e)
		e = room(t, key, port, now_ns);
	if (!e)
		return;
	if (!e->key) {
		e->key = key;
		e->port = (u16)port;
		t->of_port[port]++;
		t->count++;
	}
	e->pinned = pin;
	e->seen_ns = now_ns;
}

void table_learn(struct table *t, const u8 *mac, unsigned port, u64 now_ns)
{
	u64 key = key_of(mac);
	struct entry *e = find(t, key);

	if (!key || (e && e->pinned))
		return;
	put(t, key, port, now_ns, false);
}

void table_pin(struct table *t, const u8 *mac, unsigned port)
{
	put(t, key_of(mac), port, 0, true);
}

int table_find(const struct table *t, const u8 *mac, u64 now_ns)
{
	const struct entry *e = find(t, key_of(mac));

	return e && e->key && !old(e, now_ns) ? e->port : -1;
}

void table_forget_port(struct table *t, unsigned port)
{
	for (int i = 0; i < BUCKETS; i++)
		for (int k = 0; k < WAYS; k++)
			if (t->sets[i][k].key && t->sets[i][k].port == port)
				drop(t, &t->sets[i][k]);
}

size_t table_count(const struct table *t)
{
	return t->count;
}
