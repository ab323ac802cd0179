/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code.c - the cache of decoded code, and what makes it stale.
 *
 * Who writes a page that holds decoded code must come to know: PAGE_CODE in
 * the page's flags keeps write tags out of every TLB, so that its stores take
 * the slow path to isystem_code_written(); other writers call
 * memory_written(), which comes here too. 64-byte granules tell code from
 * data on the same page. A block is registered after it was decoded, and then
 * its bytes are compared again: whoever changed them in between either saw
 * the registration, and took it back, or is seen by the comparison.
 */
#include "engine/interp/code_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "base/thread.h"
#include "engine/interp/debug.h"
#include "engine/interp/icpu.h"
#include "engine/interp/ops.h"
#include "engine/interp/rest.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

enum { PAGE_HASH = 4096, MISSES_MAX = 128, SEGMENTS = 4 };

/* Memory that is taken front to back. */
struct arena {
	u8 *base;
	u64 size, used;
};

/*
 * Operations fill one segment after the other, round and round: the oldest of
 * them give way, not all. Blocks that are forgotten with a segment may be
 * linked to from the others, so they are used anew when all those have given
 * way, too.
 */
struct code_cache {
	struct arena ops;
	unsigned segment; /* of ops, that is being filled */
	u64 taken;        /* bytes of ops, since there were none */
	u64 kept;         /* blocks, when ops were emptied */
	struct rest rest;
	struct arena keep;   /* blocks and pages */
	struct block *spare; /* blocks that were forgotten, by next */
	struct block *waiting[SEGMENTS]; /* forgotten with that segment */
	struct codepage *hash[PAGE_HASH];
	struct block *scratch; /* for code outside RAM */
};

static int arena_map(struct arena *a, u64 size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	*a = (struct arena){ .base = p, .size = size };
	return 0;
}

static void arena_unmap(struct arena *a)
{
	if (a->base)
		munmap(a->base, a->size);
}

/* Hand what was touched back, rather than dirty it for ever. */
static void arena_empty(struct arena *a)
{
	madvise(a->base, a->size, MADV_DONTNEED);
	a->used = 0;
}

/* NULL: it is full. */
static void *arena_room(const struct arena *a, size_t n)
{
	return a->used + n <= a->size ? a->base + a->used : NULL;
}

static void arena_take(struct arena *a, size_t n)
{
	a->used += ALIGN_UP((u64)n, (u64)16);
}

int code_cache_create(struct code_cache **out, u64 bytes)
{
	struct code_cache *c = xalloc(sizeof(*c));
	u64 size = MAX(bytes, 4 * MIB);

	if (arena_map(&c->ops, size) || arena_map(&c->keep, size)) {
		code_cache_destroy(c);
		return -ENOMEM;
	}
	rest_begin(&c->rest, &(struct rest_now){ .ns = loop_now_ns() });
	c->scratch = xalloc(sizeof(*c->scratch));
	c->scratch->op = aligned_alloc(64, SCRATCH_OPS * sizeof(struct iop));
	ASSERT(c->scratch->op);
	*out = c;
	return 0;
}

void code_cache_destroy(struct code_cache *code)
{
	if (!code)
		return;
	arena_unmap(&code->ops);
	arena_unmap(&code->keep);
	if (code->scratch)
		free(code->scratch->op);
	free(code->scratch);
	free(code);
}

/* Nothing that points to operations or blocks is left. */
static void forget_places(struct icpu *cpu)
{
	cpu->link = NULL;
	cpu->block = NULL;
	cpu->cur = NULL;
	/* What nobody fills again takes no memory. */
	madvise(cpu->jump, JUMP_ENTRIES * sizeof(cpu->jump[0]), MADV_DONTNEED);
}

static void ops_empty(struct code_cache *c)
{
	arena_empty(&c->ops);
	c->segment = 0;
	c->taken = 0;
}

void code_cache_flush(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;

	if (cpu->code_ops)
		cpu->code_ops->flushed(cpu);
	ops_empty(c);
	arena_empty(&c->keep);
	c->spare = NULL;
	memset(c->waiting, 0, sizeof(c->waiting));
	memset(c->hash, 0, sizeof(c->hash));
	tlb_drop_code(cpu);
	forget_places(cpu);
}

static struct codepage **page_chain(struct code_cache *c, const u8 *host)
{
	u64 n = (uintptr_t)host >> PAGE_SHIFT;

	return &c->hash[(n ^ n >> 12) & (PAGE_HASH - 1)];
}

static struct codepage *page_find(struct code_cache *c, const u8 *host)
{
	struct codepage *p = *page_chain(c, host);

	while (p && p->host != host)
		p = p->next;
	return p;
}

struct codepage *code_page(struct icpu *cpu, u8 *host, gpa_t gpa)
{
	struct codepage *p = page_find(cpu->code, host);
	struct codepage **chain = page_chain(cpu->code, host);

	if (p)
		return p;
	p = arena_room(&cpu->code->keep, sizeof(*p));
	if (!p) {
		code_cache_flush(cpu);
		p = arena_room(&cpu->code->keep, sizeof(*p));
	}
	arena_take(&cpu->code->keep, sizeof(*p));
	memset(p, 0, sizeof(*p));
	p->host = host;
	p->gpa = gpa;
	p->next = *chain;
	*chain = p;
	return p;
}

/* ---- room ---- */

static bool within(const struct block *b, const u8 *from, u64 bytes)
{
	return (uintptr_t)b->op - (uintptr_t)from < bytes;
}

/* Only blocks that host code was made of stay. */
static void forget_in_bucket(struct icpu *cpu, struct block **list,
                             const u8 *from, u64 bytes)
{
	struct code_cache *c = cpu->code;
	struct block *b;

	while ((b = *list)) {
		c->kept += b->made != NULL;
		if (!within(b, from, bytes)) {
			list = &b->next;
			continue;
		}
		if (b->made) {
			cpu->code_ops->forgot(cpu, b);
			list = &b->next;
			continue;
		}
		*list = b->next;
		b->key = 0;
		b->next = c->waiting[c->segment];
		c->waiting[c->segment] = b;
	}
}

static void forget_crossing(struct block **list, const u8 *from, u64 bytes)
{
	while (*list)
		if ((*list)->made || !within(*list, from, bytes))
			list = &(*list)->cross;
		else
			*list = (*list)->cross;
}

/* No operation of these is left, and no block that was nothing but those. */
static void forget_ops(struct icpu *cpu, const u8 *from, u64 bytes)
{
	struct code_cache *c = cpu->code;

	c->kept = 0;
	/* First: a crossing block is in the buckets of another page, too. */
	for (unsigned i = 0; i < PAGE_HASH; i++)
		for (struct codepage *p = c->hash[i]; p; p = p->next)
			forget_crossing(&p->cross, from, bytes);
	for (unsigned i = 0; i < PAGE_HASH; i++)
		for (struct codepage *p = c->hash[i]; p; p = p->next)
			for (unsigned k = 0; k < CODEPAGE_BUCKETS; k++)
				forget_in_bucket(cpu, &p->bucket[k], from,
				                 bytes);
	forget_places(cpu);
}

static void spare_blocks(struct code_cache *c, struct block **list)
{
	while (*list) {
		struct block *b = *list;

		*list = b->next;
		b->next = c->spare;
		c->spare = b;
	}
}

void code_ops_forget_oldest(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;
	u64 bytes = c->ops.size / SEGMENTS;

	c->segment = (c->segment + 1) % SEGMENTS;
	c->ops.used = c->segment * bytes;
	forget_ops(cpu, c->ops.base + c->ops.used, bytes);
	/* What was forgotten longest ago: nothing is left from before that. */
	spare_blocks(c, &c->waiting[(c->segment + 1) % SEGMENTS]);
}

bool code_ops_fit(const struct code_cache *c, unsigned count)
{
	return c->ops.used + count * sizeof(struct iop) <=
	       (c->segment + 1) * (c->ops.size / SEGMENTS);
}

struct iop *code_ops_room(struct icpu *cpu, unsigned count)
{
	struct code_cache *c = cpu->code;

	if (!code_ops_fit(c, count))
		code_ops_forget_oldest(cpu);
	return (struct iop *)(void *)(c->ops.base + c->ops.used);
}

/* And one more: see kill_block(). */
void code_ops_take(struct code_cache *c, unsigned count)
{
	u64 bytes = (count + 1) * sizeof(struct iop);

	c->ops.used += bytes;
	c->taken += bytes;
}

static void forget_all_ops(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;

	forget_ops(cpu, c->ops.base, c->ops.size);
	for (unsigned i = 0; i < SEGMENTS; i++)
		spare_blocks(c, &c->waiting[i]);
	ops_empty(c);
}

static struct rest_now rest_now(const struct icpu *cpu)
{
	const struct code_cache *c = cpu->code;

	return (struct rest_now){
		.ns = loop_now_ns(),
		.decoded = c->taken,
		.ops = MIN(c->taken, c->ops.size),
		.blocks = c->keep.used,
		.host = cpu->code_ops ? cpu->code_ops->held(cpu) : 0,
	};
}

/* When it is due. */
static bool hand_back(struct icpu *cpu, struct rest_now *now)
{
	struct code_cache *c = cpu->code;
	enum rest_verdict verdict;

	now->cpu_ns = thread_cpu_ns();
	verdict = rest_look(&c->rest, now);
	if (verdict == REST_KEEP)
		return false;
	forget_all_ops(cpu);
	/* And everything, when host code was the least of it. */
	if (verdict == REST_OPS &&
	    c->kept * sizeof(struct block) > c->keep.used / 8)
		return false;
	code_cache_flush(cpu);
	if (verdict == REST_ALL)
		tlb_hand_back(cpu);
	return true;
}

bool code_hand_back(struct icpu *cpu)
{
	struct rest_now now = rest_now(cpu);

	return rest_is_due(&cpu->code->rest, &now) && hand_back(cpu, &now);
}

u64 icpu_rest(struct icpu *cpu)
{
	struct rest_now now = rest_now(cpu);

	if (rest_is_due(&cpu->code->rest, &now)) {
		hand_back(cpu, &now);
		now = rest_now(cpu);
	}
	return rest_until_ns(&cpu->code->rest, &now);
}

/* Code is found by the page that it lies in, and compared with it. */
void icpu_let_go(struct icpu *cpu)
{
	code_cache_flush(cpu);
	tlb_hand_back(cpu);
	cpu->jump_mask = JUMP_FEW - 1;
	cpu->jump_pushed = 0;
}

struct block *code_block_take(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;
	struct block *b = c->spare;

	if (b) {
		c->spare = b->next;
		return b;
	}
	b = arena_room(&c->keep, sizeof(*b));
	if (!b) {
		code_cache_flush(cpu);
		return NULL;
	}
	arena_take(&c->keep, sizeof(*b));
	return b;
}

struct block *code_scratch(struct code_cache *c)
{
	return c->scratch;
}

/* ---- going stale ---- */

static void kill_block(struct icpu *cpu, struct block *b)
{
	b->key = 0;
	if (b->made)
		cpu->code_ops->died(cpu, b);
	/* A store into the running block: the next instruction is a new one. */
	if (b == cpu->block && cpu->cur && cpu->cur >= b->op &&
	    cpu->cur < b->op + b->count)
		cpu->cur[1].fn = op_stale;
}

void icpu_kill_page(struct icpu *cpu, const u8 *host)
{
	struct codepage *p = page_find(cpu->code, host);

	if (!p)
		return;
	for (unsigned i = 0; i < CODEPAGE_BUCKETS; i++) {
		for (struct block *b = p->bucket[i]; b; b = b->next)
			kill_block(cpu, b);
		p->bucket[i] = NULL;
	}
	for (struct block *b = p->cross; b; b = b->cross)
		kill_block(cpu, b);
	p->cross = NULL;
}

static u64 granules(u64 off, u64 len)
{
	u64 first = off >> 6, last = (off + len - 1) >> 6;

	return (last == 63 ? ~(u64)0 : BIT(last + 1) - 1) & ~(BIT(first) - 1);
}

static void written_in_page(struct isystem *sys, struct icpu *cpu, gpa_t gpa,
                            u64 len)
{
	const struct isystem_slot *s = isystem_slot(sys, gpa);
	struct code_meta *meta;
	u64 index;
	u8 *host;
	bool hit;

	if (!s || !s->meta)
		return;
	index = (gpa - s->base) >> PAGE_SHIFT;
	host = s->host + (index << PAGE_SHIFT);
	meta = &s->meta[index];
	pthread_mutex_lock(&sys->code_lock);
	hit = meta->granules & granules(gpa & ~PAGE_MASK, len) ||
	      ++meta->misses > MISSES_MAX;
	if (hit) {
		meta->granules = 0;
		meta->misses = 0;
		for (unsigned i = 0; i < sys->cpus; i++)
			if (sys->cpu[i] && sys->cpu[i] != cpu)
				icpu_post_page(sys->cpu[i], host);
		atomic_fetch_and(&s->page[index], (u8)~PAGE_CODE);
	}
	pthread_mutex_unlock(&sys->code_lock);
	if (hit && cpu)
		icpu_kill_page(cpu, host);
}

void isystem_code_written(struct isystem *sys, struct icpu *cpu, gpa_t gpa,
                          u64 len)
{
	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (gpa & ~PAGE_MASK));

		written_in_page(sys, cpu, gpa, n);
		gpa += n;
		len -= n;
	}
}

/* memcmp() of what other vCPUs may be writing. */
static bool same_bytes(const u8 *ours, const u8 *guests, u64 len)
{
	u64 i = 0;

	while (i < len && guest_get8(guests + i) == ours[i])
		i++;
	return i == len;
}

bool code_stands(struct icpu *cpu, const struct codepage *page, u64 off,
                 u64 len, const u8 *bytes)
{
	const struct isystem_slot *s = isystem_slot(cpu->sys, page->gpa);
	u64 want = granules(off, len), have;

	pthread_mutex_lock(&cpu->sys->code_lock);
	have = s->meta[(page->gpa - s->base) >> PAGE_SHIFT].granules;
	pthread_mutex_unlock(&cpu->sys->code_lock);
	return (have & want) == want &&
	       same_bytes(bytes, page->host + off, len);
}

void code_register(struct icpu *cpu, struct codepage *page, u64 off, u64 len)
{
	const struct isystem_slot *s = isystem_slot(cpu->sys, page->gpa);
	u64 index = (page->gpa - s->base) >> PAGE_SHIFT;
	_Atomic u8 *flags = &s->page[index];
	bool tagged = false;

	pthread_mutex_lock(&cpu->sys->code_lock);
	s->meta[index].granules |= granules(off, len);
	if (!(atomic_load(flags) & PAGE_CODE)) {
		u8 old = atomic_fetch_or(flags, PAGE_CODE);

		if (old & PAGE_WRITABLE_TLB) {
			atomic_fetch_and(flags, (u8)~PAGE_WRITABLE_TLB);
			tagged = true;
		}
	}
	pthread_mutex_unlock(&cpu->sys->code_lock);
	if (tagged) {
		icpu_tlb_drop_writes(cpu, page->host);
		icpu_untag_others(cpu->sys, cpu, page->host);
	}
}
