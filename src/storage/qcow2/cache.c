/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache - clusters of metadata in memory: L2 tables and refcount blocks.
 *
 * Write-back: a changed table is written by commit(), in the order that keeps
 * the image whole. When no clean table is left to give up, the cache commits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "storage/qcow2/qcow2.h"

enum { TABLES_MIN = 24 };
#define CACHE_BYTES_DEFAULT (16 * MIB)

int cache_init(struct qcow2 *q, u64 bytes)
{
	struct cache *c = &q->cache;
	/* Enough for every table of the disk is as good as more. */
	u64 per_table = (u64)q->cluster_size << q->l2_bits;
	u64 need = q->h.size / per_table + 1 + TABLES_MIN, n;
	u32 buckets = 1;

	n = (bytes ? bytes : CACHE_BYTES_DEFAULT) >> q->h.cluster_bits;
	n = MAX(MIN(n, need + need / 4), (u64)TABLES_MIN);
	c->capacity = (u32)MIN(n, (u64)1 << 20);
	while (buckets < c->capacity)
		buckets *= 2;
	c->hash_mask = buckets - 1;
	c->hash = try_alloc(buckets, sizeof(struct table *));
	c->tables = try_alloc(c->capacity, sizeof(*c->tables));
	return c->hash && c->tables ? 0 : -ENOMEM;
}

void cache_fini(struct qcow2 *q)
{
	struct cache *c = &q->cache;

	for (u32 i = 0; i < c->used; i++)
		free(c->tables[i].data);
	free(c->tables);
	free(c->hash);
	*c = (struct cache){ 0 };
}

static struct table **bucket(struct qcow2 *q, u64 offset)
{
	u64 key = cluster_of(q, offset) * 0x9e3779b97f4a7c15u;

	return &q->cache.hash[(key >> 32) & q->cache.hash_mask];
}

static struct table *find(struct qcow2 *q, u64 offset)
{
	struct table *t = *bucket(q, offset);

	while (t && t->offset != offset)
		t = t->hash_next;
	return t;
}

static void use_unlink(struct cache *c, struct table *t)
{
	*(t->older ? &t->older->newer : &c->oldest) = t->newer;
	*(t->newer ? &t->newer->older : &c->newest) = t->older;
}

static void use_newest(struct cache *c, struct table *t)
{
	t->newer = NULL;
	t->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = t;
	c->newest = t;
}

static void touch(struct cache *c, struct table *t)
{
	if (c->newest == t)
		return;
	use_unlink(c, t);
	use_newest(c, t);
}

static void make_clean(struct table *t)
{
	if (!t->dirty_ref)
		return;
	*t->dirty_ref = t->dirty_next;
	if (t->dirty_next)
		t->dirty_next->dirty_ref = t->dirty_ref;
	t->dirty_ref = NULL;
	t->dirty_from = t->dirty_to = 0;
}

/* Lock held. The table stays in the list of use, to be taken first. */
static void forget(struct qcow2 *q, struct table *t)
{
	struct cache *c = &q->cache;
	struct table **at = bucket(q, t->offset);

	while (*at != t)
		at = &(*at)->hash_next;
	*at = t->hash_next;
	make_clean(t);
	t->offset = 0;
	use_unlink(c, t);
	t->older = NULL;
	t->newer = c->oldest;
	*(c->oldest ? &c->oldest->older : &c->newest) = t;
	c->oldest = t;
}

struct table *cache_peek(struct qcow2 *q, u64 offset)
{
	struct table *t = find(q, offset);

	if (t)
		touch(&q->cache, t);
	return t;
}

void cache_drop(struct qcow2 *q, u64 offset)
{
	struct table *t;

	pthread_mutex_lock(&q->lock);
	t = find(q, offset);
	if (t) {
		ASSERT(t->pins == 0);
		forget(q, t);
	}
	pthread_mutex_unlock(&q->lock);
}

void cache_drop_all(struct qcow2 *q)
{
	pthread_mutex_lock(&q->lock);
	for (u32 i = 0; i < q->cache.used; i++)
		if (q->cache.tables[i].offset)
			forget(q, &q->cache.tables[i]);
	pthread_mutex_unlock(&q->lock);
}

void cache_let_go(struct qcow2 *q)
{
	pthread_mutex_lock(&q->lock);
	for (u32 i = 0; i < q->cache.used; i++) {
		struct table *t = &q->cache.tables[i];

		if (t->pins || t->dirty_ref)
			continue;
		if (t->offset)
			forget(q, t);
		free(t->data);
		t->data = NULL;
	}
	pthread_mutex_unlock(&q->lock);
}

void table_dirty(struct qcow2 *q, struct table *t, u32 from, u32 to)
{
	struct table **list = &q->cache.dirty[t->kind];

	if (!t->dirty_ref) {
		t->dirty_from = from;
		t->dirty_to = to;
		t->dirty_next = *list;
		if (*list)
			(*list)->dirty_ref = &t->dirty_next;
		*list = t;
		t->dirty_ref = list;
	} else {
		t->dirty_from = MIN(t->dirty_from, from);
		t->dirty_to = MAX(t->dirty_to, to);
	}
	meta_mark_dirty(q);
}

int table_write(struct qcow2 *q, struct table *t)
{
	u32 unit = q->file->info.sector;
	u32 from = ALIGN_DOWN(t->dirty_from, unit);
	u32 to = ALIGN_UP(t->dirty_to, unit);
	int rc;

	if (!t->dirty_ref)
		return 0;
	rc = meta_write(q, t->offset + from, t->data + from, to - from);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&q->lock);
	make_clean(t);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

static struct table *clean_victim(struct cache *c)
{
	for (struct table *t = c->oldest; t; t = t->newer)
		if (!t->pins && !t->dirty_ref && t->data)
			return t;
	return NULL;
}

/* While frees are being applied only refcount blocks are changed, and what
 * they forget, the disk's tables have forgotten: any order will do. */
static int write_one_refblock(struct qcow2 *q)
{
	struct table *t = q->cache.dirty[TABLE_REFBLOCK];

	while (t && t->pins)
		t = t->dirty_next;
	return t ? table_write(q, t) : -ENOMEM;
}

static bool has_data(struct qcow2 *q, struct table *t)
{
	if (!t->data)
		t->data = aligned_alloc(4096, MAX(4096u, q->cluster_size));
	return t->data;
}

/* One that was let go, or was never used. */
static struct table *empty_table(struct qcow2 *q)
{
	struct cache *c = &q->cache;
	struct table *t = c->oldest;

	if (t && !t->offset && !t->pins)
		return has_data(q, t) ? t : NULL;
	if (c->used == c->capacity || !has_data(q, &c->tables[c->used]))
		return NULL;
	t = &c->tables[c->used];
	pthread_mutex_lock(&q->lock);
	c->used++;
	use_newest(c, t);
	pthread_mutex_unlock(&q->lock);
	return t;
}

static int find_room(struct qcow2 *q, struct table **out)
{
	struct cache *c = &q->cache;
	struct table *t = empty_table(q);
	int rc;

	if (!t)
		t = clean_victim(c);
	if (!t) {
		rc = q->committing ? write_one_refblock(q) : commit(q);
		if (rc < 0)
			return rc;
		t = clean_victim(c);
	}
	if (!t)
		return -ENOMEM;
	pthread_mutex_lock(&q->lock);
	if (t->offset)
		forget(q, t);
	pthread_mutex_unlock(&q->lock);
	*out = t;
	return 0;
}

static void insert(struct qcow2 *q, struct table *t, enum table_kind kind,
                   u64 offset)
{
	struct table **head;

	pthread_mutex_lock(&q->lock);
	t->offset = offset;
	t->kind = kind;
	t->pins++;
	head = bucket(q, offset);
	t->hash_next = *head;
	*head = t;
	touch(&q->cache, t);
	pthread_mutex_unlock(&q->lock);
}

int table_get(struct qcow2 *q, enum table_kind kind, u64 offset,
              struct table **out)
{
	struct table *t;
	int rc;

	if (!meta_offset_valid(q, offset))
		return mark_corrupt(q, "a table at %#" PRIx64, offset);
	pthread_mutex_lock(&q->lock);
	t = cache_peek(q, offset);
	pthread_mutex_unlock(&q->lock);
	if (t) {
		if (t->kind != kind)
			return mark_corrupt(q,
			                    "%#" PRIx64 " is both an L2 table"
			                    " and a refcount block",
			                    offset);
		t->pins++;
		*out = t;
		return 0;
	}
	rc = find_room(q, &t);
	if (rc < 0)
		return rc;
	rc = meta_read(q, offset, t->data, q->cluster_size);
	if (rc < 0)
		return rc;
	insert(q, t, kind, offset);
	*out = t;
	return 0;
}

int table_new(struct qcow2 *q, enum table_kind kind, u64 offset,
              struct table **out)
{
	struct table *t;
	int rc = find_room(q, &t);

	if (rc < 0)
		return rc;
	cache_drop(q, offset);
	memset(t->data, 0, q->cluster_size);
	/* It takes its room on the host now. A disk that is full when tables
	 * are written back would lose all that they find. */
	rc = meta_write(q, offset, t->data, q->cluster_size);
	if (rc < 0)
		return rc;
	insert(q, t, kind, offset);
	pthread_mutex_lock(&q->lock);
	table_dirty(q, t, 0, q->cluster_size);
	pthread_mutex_unlock(&q->lock);
	*out = t;
	return 0;
}

void table_put(struct table *t)
{
	if (t)
		t->pins--;
}
