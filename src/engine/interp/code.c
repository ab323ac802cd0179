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
#include "engine/interp/debug.h"
#include "engine/interp/icpu.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

enum { PAGE_HASH = 4096, MISSES_MAX = 128 };

struct code_cache {
	u8 *arena;
	u64 size, used;
	struct codepage *hash[PAGE_HASH];
	struct block *scratch; /* for code outside RAM */
};

static size_t block_bytes(unsigned ops)
{
	return sizeof(struct block) + ops * sizeof(struct iop);
}

int code_cache_create(struct code_cache **out, u64 bytes)
{
	struct code_cache *c = xalloc(sizeof(*c));

	c->size = MAX(bytes, 4 * MIB);
	c->arena = mmap(NULL, c->size, PROT_READ | PROT_WRITE,
	                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->arena == MAP_FAILED) {
		free(c);
		return -ENOMEM;
	}
	c->scratch = aligned_alloc(64, block_bytes(4));
	ASSERT(c->scratch);
	*out = c;
	return 0;
}

void code_cache_destroy(struct code_cache *code)
{
	if (!code)
		return;
	munmap(code->arena, code->size);
	free(code->scratch);
	free(code);
}

void code_cache_flush(struct icpu *cpu)
{
	struct code_cache *c = cpu->code;

	if (cpu->code_ops)
		cpu->code_ops->flushed(cpu);
	/* Hand what was touched back, rather than dirty it for ever. */
	madvise(c->arena, c->used, MADV_DONTNEED);
	c->used = 0;
	memset(c->hash, 0, sizeof(c->hash));
	tlb_drop_code(cpu);
	cpu->link = NULL;
	cpu->block = NULL;
	cpu->cur = NULL;
}

/* Room for n bytes in the arena; the cache has been flushed if need be. */
static void *arena_room(struct icpu *cpu, size_t n)
{
	struct code_cache *c = cpu->code;

	return c->used + n <= c->size ? c->arena + c->used : NULL;
}

static void arena_take(struct icpu *cpu, size_t n)
{
	cpu->code->used += ALIGN_UP(n, (size_t)64);
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
	p = arena_room(cpu, sizeof(*p));
	if (!p) {
		code_cache_flush(cpu);
		p = arena_room(cpu, sizeof(*p));
	}
	arena_take(cpu, sizeof(*p));
	memset(p, 0, sizeof(*p));
	p->host = host;
	p->gpa = gpa;
	p->next = *chain;
	*chain = p;
	return p;
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

static void block_finish(struct block *b, const struct build *build, u32 key,
                         struct codepage *page)
{
	*b = (struct block){
		.key = key,
		.off = build->off,
		.len = build->len,
		.count = (u16)build->count,
		.ops = (u16)build->ops,
		.page = page,
	};
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
	b = arena_room(cpu, block_bytes(4));
	if (!b) {
		code_cache_flush(cpu);
		return NULL;
	}
	build.avail = limit_bytes(cpu, sizeof(bytes));
	build.op = b->op;
	do {
		guest_copy(bytes, page->host + off, first);
		guest_copy(bytes + first, page2->host, sizeof(bytes) - first);
		build.truncated = false;
		build_block(&build);
		if (build.truncated)
			icpu_gp(cpu); /* beyond the limit of CS */
		register_code(cpu, page, off, first);
		register_code(cpu, page2, 0, sizeof(bytes) - first);
	} while (
	    !code_stands(cpu, page, off, first, bytes) ||
	    !code_stands(cpu, page2, 0, sizeof(bytes) - first, bytes + first));
	block_finish(b, &build, key, page);
	b->crossing = true;
	b->page2 = page2;
	b->next = page->bucket[off % CODEPAGE_BUCKETS];
	page->bucket[off % CODEPAGE_BUCKETS] = b;
	b->cross = page2->cross;
	page2->cross = b;
	arena_take(cpu, block_bytes(build.ops + 1));
	if (cpu->code_ops)
		cpu->code_ops->made(cpu, b);
	return b;
}

static struct block *make_block(struct icpu *cpu, gva_t lin, u32 key,
                                struct codepage *page)
{
	u8 bytes[BLOCK_OPS * 8];
	u32 off = lin & ~PAGE_MASK;
	size_t n = MIN(sizeof(bytes), (size_t)PAGE_SIZE - off);
	struct block *b = arena_room(cpu, block_bytes(BLOCK_OPS + 2));
	struct build build = {
		.cpu = cpu,
		.key = key,
		.off = (u16)off,
		.bytes = bytes,
		.max = key & KEY_STEP ? 1 : BLOCK_OPS,
	};

	if (!b) {
		code_cache_flush(cpu);
		return NULL;
	}
	build.op = b->op;
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
	block_finish(b, &build, key, page);
	b->next = page->bucket[off % CODEPAGE_BUCKETS];
	page->bucket[off % CODEPAGE_BUCKETS] = b;
	arena_take(cpu, block_bytes(build.ops + 1));
	if (cpu->code_ops)
		cpu->code_ops->made(cpu, b);
	return b;
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
		else if (!b)
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
