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
#include "engine/interp/code.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "engine/interp/debug.h"
#include "engine/interp/icpu.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

enum { PAGE_HASH = 4096, MISSES_MAX = 128, SCRATCH_OPS = 4, SEGMENTS = 4 };

/*
 * An idle guest runs a little of everything. What it filled when it was busy is
 * handed back when it has more than IDLE_BYTES of operations, and adds few to
 * them: IDLE_RATE bytes a second. To decode a MiB takes a processor some 10 ms.
 */
enum { IDLE_BYTES = MIB, IDLE_RATE = MIB / 4, IDLE_LOOK_MS = 1000 };

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
	unsigned segment;    /* of ops, that is being filled */
	u64 taken;           /* bytes of ops, since there were none */
	u64 seen_ns, seen;   /* taken then */
	u64 kept;            /* blocks, when ops were emptied */
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
	c->seen_ns = loop_now_ns();
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
	memset(cpu->jump, 0, JUMP_ENTRIES * sizeof(cpu->jump[0]));
}

static void ops_empty(struct code_cache *c)
{
	arena_empty(&c->ops);
	c->segment = 0;
	c->taken = c->seen = 0;
}

void code_cache_flush(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;

	if (cpu->code_ops)
		cpu->code_ops->flushed(cpu);
	ops_empty(c);
	c->seen_ns = loop_now_ns();
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

static struct codepage *page_get(struct icpu *cpu, u8 *host, gpa_t gpa)
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

static void next_segment(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;
	u64 bytes = c->ops.size / SEGMENTS;

	c->segment = (c->segment + 1) % SEGMENTS;
	c->ops.used = c->segment * bytes;
	forget_ops(cpu, c->ops.base + c->ops.used, bytes);
	/* What was forgotten longest ago: nothing is left from before that. */
	spare_blocks(c, &c->waiting[(c->segment + 1) % SEGMENTS]);
}

static bool segment_has(const struct code_cache *c, unsigned count)
{
	return c->ops.used + count * sizeof(struct iop) <=
	       (c->segment + 1) * (c->ops.size / SEGMENTS);
}

static struct iop *ops_room(struct icpu *cpu, unsigned count)
{
	struct code_cache *c = cpu->code;

	if (!segment_has(c, count))
		next_segment(cpu);
	return (struct iop *)(void *)(c->ops.base + c->ops.used);
}

/* Of so many instructions, and one more: see kill_block(). */
static void ops_take(struct code_cache *c, unsigned count)
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

static bool idle(struct code_cache *c)
{
	u64 now_ns = loop_now_ns();
	u64 took_ms = (now_ns - c->seen_ns) / NSEC_PER_MSEC;
	u64 more = c->taken - c->seen;

	if (took_ms < IDLE_LOOK_MS)
		return false;
	c->seen_ns = now_ns;
	c->seen = c->taken;
	return c->taken > IDLE_BYTES && more < took_ms * IDLE_RATE / 1000;
}

/* True: everything was flushed, since host code was the least of it. */
static bool hand_back(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;

	if (!idle(c))
		return false;
	forget_all_ops(cpu);
	if (c->kept * sizeof(struct block) > c->keep.used / 8)
		return false;
	code_cache_flush(cpu);
	return true;
}

/* NULL: everything was flushed to make room. */
static struct block *block_take(struct icpu *cpu)
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

/* Still registered, and still what was decoded? */
static bool code_stands(struct icpu *cpu, const struct codepage *page, u64 off,
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

/* [off, off + len) of the page now holds decoded code. */
static void register_code(struct icpu *cpu, struct codepage *page, u64 off,
                          u64 len)
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

/* ---- finding and making ---- */

/* The code page behind a linear address, or NULL outside RAM and ROM. */
static struct codepage *fetch_page(struct icpu *cpu, gva_t lin, gpa_t *gpa)
{
	unsigned user = cpu->cpl == 3;
	struct xtlb_entry *x =
	    &cpu->space->exec[user][lin >> PAGE_SHIFT & (XTLB_ENTRIES - 1)];
	const struct isystem_slot *s;
	struct paging_result r;
	struct codepage *page;

	if (user && unlikely(cpu->space->unsure))
		tlb_settle(cpu);
	if (likely(x->tag == ((lin & PAGE_MASK) | 1)))
		return x->page;
	if (!icpu_canonical(lin))
		icpu_gp(cpu);
	if (!paging_walk(cpu, lin, ACCESS_EXEC, user ? PRIV_USER : PRIV_SUPER,
	                 true, &r))
		icpu_page_fault(cpu, lin, r.error);
	*gpa = r.gpa;
	s = isystem_slot(cpu->sys, r.gpa);
	if (!s)
		return NULL;
	page = page_get(cpu, s->host + ((r.gpa & PAGE_MASK) - s->base),
	                r.gpa & PAGE_MASK);
	tlb_fill_exec(cpu, lin, user, page, &r);
	return page;
}

/* Code outside memory is fetched from devices, byte by byte, every time. */
static struct block *device_block(struct icpu *cpu, gpa_t gpa)
{
	struct block *b = cpu->code->scratch;
	u8 bytes[15];
	size_t n = MIN(sizeof(bytes), PAGE_SIZE - (gpa & ~PAGE_MASK));
	struct build build = {
		.cpu = cpu,
		.key = cpu->key | KEY_STEP,
		.off = gpa & ~PAGE_MASK,
		.bytes = bytes,
		.avail = n,
		.max = 1,
		.op = b->op,
	};

	icpu_leave_guest(cpu);
	for (size_t i = 0; i < n; i++)
		bytes[i] = (u8)cpu->host.mmio_read(cpu->host.ctx, gpa + i, 1);
	icpu_enter_guest(cpu);
	build_block(&build);
	if (build.truncated)
		icpu_ud(cpu);
	*b = (struct block){
		.key = 0,
		.off = build.off,
		.len = build.len,
		.count = 1,
		.op = build.op,
	};
	return b;
}

/* Bytes from rip to the end of the code segment, at most n. */
static size_t limit_bytes(const struct icpu *cpu, size_t n)
{
	u64 left;

	if (cpu->key & (KEY_CODE64 | KEY_FLAT_CS))
		return n;
	left = (u64)cpu->seg[SEG_CS].limit - (u32)cpu->rip + 1;
	return MIN((u64)n, left);
}

/* Its operations are where they were built. NULL: all was flushed. */
static struct block *block_finish(struct icpu *cpu, const struct build *build,
                                  u32 key, struct codepage *page,
                                  struct codepage *page2)
{
	struct block *b = block_take(cpu), **list;

	if (!b)
		return NULL;
	*b = (struct block){
		.key = key,
		.off = build->off,
		.len = build->len,
		.count = (u16)build->count,
		.ops = (u16)build->ops,
		.page = page,
		.op = build->op,
	};
	list = &page->bucket[b->off % CODEPAGE_BUCKETS];
	b->next = *list;
	*list = b;
	if (page2) {
		b->crossing = true;
		b->page2 = page2;
		b->cross = page2->cross;
		page2->cross = b;
	}
	ops_take(cpu->code, build->count);
	if (cpu->code_ops)
		cpu->code_ops->made(cpu, b);
	return b;
}

/* What an instruction that goes on in the next page is decoded from. */
static void crossing_bytes(const struct codepage *page,
                           const struct codepage *page2, u32 off, u8 bytes[15])
{
	size_t first = PAGE_SIZE - off;

	guest_copy(bytes, page->host + off, first);
	guest_copy(bytes + first, page2->host, 15 - first);
}

/* An instruction that goes on in the next page: a block of its own. */
static struct block *make_crossing(struct icpu *cpu, gva_t lin, u32 key,
                                   struct codepage *page)
{
	u32 off = lin & ~PAGE_MASK;
	size_t first = PAGE_SIZE - off;
	gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;
	struct codepage *page2;
	struct block *b;
	u8 bytes[15];
	gpa_t gpa = 0;
	struct build build = {
		.cpu = cpu,
		.key = key | KEY_STEP,
		.off = (u16)off,
		.bytes = bytes,
		.avail = sizeof(bytes),
		.max = 1,
	};

	if (!icpu_code64(cpu))
		next &= 0xffffffff;
	page2 = fetch_page(cpu, next, &gpa);
	if (!page2)
		icpu_ud(cpu);
	/* fetch_page may have emptied the arena. */
	page = fetch_page(cpu, lin, &gpa);
	page2 = fetch_page(cpu, next, &gpa);
	for (b = page->bucket[off % CODEPAGE_BUCKETS]; b; b = b->next)
		if (b->off == off && b->key == key && b->page2 == page2)
			return b;
	build.avail = limit_bytes(cpu, sizeof(bytes));
	build.op = ops_room(cpu, SCRATCH_OPS);
	do {
		crossing_bytes(page, page2, off, bytes);
		build.truncated = false;
		build_block(&build);
		if (build.truncated)
			icpu_gp(cpu); /* beyond the limit of CS */
		register_code(cpu, page, off, first);
		register_code(cpu, page2, 0, sizeof(bytes) - first);
	} while (
	    !code_stands(cpu, page, off, first, bytes) ||
	    !code_stands(cpu, page2, 0, sizeof(bytes) - first, bytes + first));
	return block_finish(cpu, &build, key, page, page2);
}

static struct block *make_block(struct icpu *cpu, gva_t lin, u32 key,
                                struct codepage *page)
{
	u8 bytes[BLOCK_OPS * 8];
	u32 off = lin & ~PAGE_MASK;
	size_t n = MIN(sizeof(bytes), (size_t)PAGE_SIZE - off);
	struct build build = {
		.cpu = cpu,
		.key = key,
		.off = (u16)off,
		.bytes = bytes,
		.max = key & KEY_STEP ? 1 : BLOCK_OPS,
		.brief = cpu->code_ops && cpu->code_ops->brief(cpu, key),
		.op = ops_room(cpu, BLOCK_OPS + 2),
	};

	build.avail = limit_bytes(cpu, n);
	do {
		guest_copy(bytes, page->host + off, n);
		build.truncated = false;
		build_block(&build);
		if (build.truncated)
			break;
		register_code(cpu, page, off, build.len);
	} while (!code_stands(cpu, page, off, build.len, bytes));
	if (build.truncated) {
		if (build.avail < n || off + n < PAGE_SIZE)
			icpu_gp(cpu); /* beyond the limit of CS */
		return make_crossing(cpu, lin, key, page);
	}
	return block_finish(cpu, &build, key, page, NULL);
}

bool code_restore(struct icpu *cpu, struct block *b)
{
	u8 bytes[BLOCK_OPS * 8 + 15];
	size_t first = MIN((size_t)b->len, (size_t)PAGE_SIZE - b->off);
	struct build build = {
		.cpu = cpu,
		.key = b->crossing ? b->key | KEY_STEP : b->key,
		.off = b->off,
		.bytes = bytes,
		.avail = b->len,
		.max = b->crossing ? 1 : BLOCK_OPS,
	};

	ASSERT(b->len <= sizeof(bytes));
	build.op = ops_room(cpu, BLOCK_OPS + 2);
	if (b->crossing)
		crossing_bytes(b->page, b->page2, b->off, bytes);
	else
		guest_copy(bytes, b->page->host + b->off, b->len);
	build_block(&build);
	if (build.truncated || build.len != b->len || build.ops != b->ops ||
	    !code_stands(cpu, b->page, b->off, first, bytes) ||
	    (b->crossing &&
	     !code_stands(cpu, b->page2, 0, b->len - first, bytes + first)))
		return false;
	ops_take(cpu->code, build.count);
	b->op = build.op;
	b->first = b->op[0].fn;
	return true;
}

enum extend code_extend(struct icpu *cpu, struct block *b)
{
	u8 bytes[BLOCK_OPS * 8];
	struct build build = {
		.cpu = cpu,
		.key = b->key,
		.off = b->off,
		.bytes = bytes,
		.avail = MIN(sizeof(bytes), (size_t)PAGE_SIZE - b->off),
		.max = BLOCK_OPS,
	};

	/* What a limit cut short has all that it may have. */
	if (b->crossing || b->key & KEY_STEP ||
	    !(b->key & (KEY_CODE64 | KEY_FLAT_CS)))
		return EXTEND_OK;
	if (!segment_has(cpu->code, BLOCK_OPS + 2)) {
		next_segment(cpu);
		return EXTEND_ROOM;
	}
	build.op = ops_room(cpu, BLOCK_OPS + 2);
	guest_copy(bytes, b->page->host + b->off, build.avail);
	build_block(&build);
	if (build.truncated || build.len < b->len)
		return EXTEND_STALE;
	if (build.len == b->len)
		return EXTEND_OK;
	register_code(cpu, b->page, b->off, build.len);
	if (!code_stands(cpu, b->page, b->off, build.len, bytes))
		return EXTEND_STALE;
	ops_take(cpu->code, build.count);
	b->len = build.len;
	b->count = (u16)build.count;
	b->ops = (u16)build.ops;
	b->op = build.op;
	b->first = b->op[0].fn;
	return EXTEND_OK;
}

static struct block *look(struct icpu *cpu, gva_t lin, u32 key)
{
	u32 off = lin & ~PAGE_MASK;
	struct block *b;

	for (;;) {
		gpa_t gpa = 0;
		struct codepage *page = fetch_page(cpu, lin, &gpa);

		if (!page)
			return device_block(cpu, gpa);
		for (b = page->bucket[off % CODEPAGE_BUCKETS]; b; b = b->next)
			if (b->off == off && b->key == key)
				break;
		/* One that crosses depends on what follows the page now. */
		if (b && b->crossing)
			b = make_crossing(cpu, lin, key, page);
		else if (!b && !hand_back(cpu))
			b = make_block(cpu, lin, key, page);
		if (b)
			return b;
	}
}

struct block *icpu_find_block(struct icpu *cpu)
{
	gva_t lin = cpu->rip + cpu->csbase;
	struct block *b;

	cpu->cur = NULL;
	if (!(cpu->key & KEY_CODE64)) {
		lin &= 0xffffffff;
		if (unlikely((u32)cpu->rip > cpu->seg[SEG_CS].limit))
			icpu_gp(cpu);
	}
	b = known_block(cpu);
	if (likely(b))
		return b;
	b = look(cpu, lin, cpu->key);
	if (unlikely(!(cpu->key & (KEY_CODE64 | KEY_FLAT_CS)))) {
		/* Blocks know no limit: near it, go one by one. */
		if (cpu->rip + b->len - 1 > cpu->seg[SEG_CS].limit)
			b = look(cpu, lin, cpu->key | KEY_STEP);
		return b;
	}
	if (likely(b->key == cpu->key && !b->crossing))
		cpu->jump[(lin ^ lin >> 12) & (JUMP_ENTRIES - 1)] =
		    (struct jump_entry){
			    .pc = lin,
			    .generation = cpu->targets,
			    .block = b,
		    };
	return b;
}
