/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the life of host code: room for it, links, death, flushes.
 *
 * The room is memory mapped twice, written through one mapping and run from the
 * other: never both. It has no file, not even one in memory: perf takes host
 * code for what a process made at run time only if it has none. It is filled
 * front to back and emptied as a whole, with the interpreter's blocks: each
 * vCPU has its own, so nothing here needs a lock, and nothing is patched while
 * it runs.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/bt/lockstep.h"
#include "engine/bt/perf_map.h"
#include "engine/bt/xlate.h"

enum { HOST_MXCSR = 0x1f80 };

void *bt_meta_take(struct bt *bt, size_t n)
{
	u8 *p = bt->meta + bt->meta_used;

	n = ALIGN_UP(n, (size_t)8);
	if (n > bt->meta_size - bt->meta_used)
		return NULL;
	bt->meta_used += n;
	return memset(p, 0, n);
}

static bool brief(struct icpu *cpu, u32 key)
{
	return bt_translates(key) && bt_of(cpu)->hot > 1;
}

static void made(struct icpu *cpu, struct block *b)
{
	(void)cpu;
	if (!bt_translates(b->key))
		return;
	b->first = b->op[0].fn;
	b->op[0].fn = bt_op_count;
}

static void patch_dead(struct bt *bt, u8 *at, u16 off, const u8 *stub)
{
	struct cursor c = { .w = at,
		            .end = at + DEAD_PATCH,
		            .to_x = bt->exec - bt->write };

	asm_bytes(&c, "\x41\xbf", 2); /* mov r15d, */
	asm_32(&c, off);
	asm_jmp_to(&c, stub);
	ASSERT(!c.full);
}

static void patch_jump(struct bt *bt, u8 *at, const u8 *to)
{
	struct cursor c = { .w = at,
		            .end = at + DEAD_PATCH,
		            .to_x = bt->exec - bt->write };

	asm_jmp_to(&c, to);
}

static void point_link(struct bt *bt, struct bt_link *link, struct bt_code *to)
{
	const u8 *entry = link->saved && to->flags ? to->entry_saved
	                  : link->vector           ? to->entry_vector
	                                           : to->entry;
	struct cursor c = { .w = link->jump,
		            .end = link->jump + 4,
		            .to_x = bt->exec - bt->write };

	asm_32(&c, (u32)(entry - (cursor_x(&c) + 4)));
	link->next = to->incoming;
	to->incoming = link;
}

void bt_link(struct bt *bt, struct bt_link *link, struct bt_code *to)
{
	point_link(bt, link, to);
	bt->stats.links++;
}

void bt_replace_code(struct bt *bt, struct bt_code *old, struct bt_code *new)
{
	if (bt->pending && bt->pending->from == old)
		bt->pending = NULL;
	patch_jump(bt, old->entry_saved_w, new->entry_saved);
	patch_jump(bt, old->entry_w, new->entry);
	if (old->entry_vector_w != old->entry_w)
		patch_jump(bt, old->entry_vector_w, new->entry_vector);
	for (struct bt_link *link = old->incoming, *next; link; link = next) {
		next = link->next;
		point_link(bt, link, new);
	}
	old->incoming = NULL;
}

/*
 * Targets that still lead to it find the way out. Links do not: they come from
 * the same page, all of which dies at once.
 */
static void died(struct icpu *cpu, struct block *b)
{
	struct bt *bt = bt_of(cpu);
	struct bt_code *code = b->made;

	b->made = NULL;
	if (bt->pending && bt->pending->from == code)
		bt->pending = NULL;
	patch_dead(bt, code->entry_saved_w, b->off, bt->dead_saved);
	patch_dead(bt, code->entry_w, b->off, bt->dead_host);
	bt->stats.deaths++;
}

/* Hand the host code's pages back: they are shared by two mappings. */
static void drop_pages(struct bt *bt)
{
	size_t from = ALIGN_UP(bt->start, (size_t)PAGE_SIZE);

	if (bt->used > from)
		madvise(bt->write + from, bt->used - from, MADV_REMOVE);
}

static u64 held(const struct icpu *cpu)
{
	const struct bt *bt = bt_of(cpu);

	return bt->used - bt->start;
}

static void flushed(struct icpu *cpu)
{
	struct bt *bt = bt_of(cpu);

	bt->pending = NULL;
	bt->stats.flushes++;
	drop_pages(bt);
	bt->used = bt->start;
	/* Hand what was touched back; and what is empty is zero. */
	free(bt->codes);
	bt->codes = NULL;
	bt->code_count = bt->code_room = 0;
	madvise(bt->meta, bt->meta_used, MADV_DONTNEED);
	bt->meta_used = 0;
	madvise(bt->area->targets, TARGETS * sizeof(struct target),
	        MADV_DONTNEED);
}

/* What the interpreter is needed for ends a block: the rest is another. */
static bool splits(struct icpu *cpu, u32 key, const struct insn *in)
{
	struct insn plain;

	if (!bt_translates(key))
		return false;
	if (unlikely(bt_is_short32(in))) {
		plain = *in;
		x_make_plain(bt_of(cpu)->decoder, &plain);
		in = &plain;
	}
	return !bt_can(cpu, in) && !bt_can_system(key, in);
}

static void forgot(struct icpu *cpu, struct block *b)
{
	struct bt *bt = bt_of(cpu);

	b->op = &bt->area->entry;
}

const struct icpu_code_ops bt_code_ops = {
	.splits = splits,
	.brief = brief,
	.made = made,
	.died = died,
	.flushed = flushed,
	.held = held,
	.forgot = forgot,
	.page_gone = bt_page_gone,
};

void bt_add_code(struct bt *bt, struct bt_code *code)
{
	if (bt->code_count == bt->code_room) {
		bt->code_room = bt->code_room ? bt->code_room * 2 : 1024;
		bt->codes =
		    xrealloc(bt->codes, bt->code_room * sizeof(bt->codes[0]));
	}
	bt->codes[bt->code_count++] = code; /* addresses only grow */
	perf_map_add(bt, code);
}

const struct bt_point *bt_find_fault(struct bt *bt, const u8 *host,
                                     struct bt_out **out)
{
	const u8 *w = host - bt->exec + bt->write;
	size_t low = 0, high = bt->code_count;
	struct bt_code *code;
	u32 at, p;

	if (host < bt->exec || host >= bt->exec + bt->used)
		return NULL;
	while (low < high) {
		size_t mid = (low + high) / 2;

		if (bt->codes[mid]->start_w <= w)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return NULL;
	code = bt->codes[low - 1];
	at = (u32)(w - code->start_w);
	for (p = code->count; p > 0 && code->point[p - 1].host > at; p--)
		;
	if (!p || at >= code->size)
		return NULL;
	*out = &code->out[code->point[p - 1].insn];
	return &code->point[p - 1];
}

static void *map_zeroes(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_meta(struct bt *bt, size_t size)
{
	bt->meta = map_zeroes(size);
	if (!bt->meta)
		return -errno;
	bt->meta_size = size;
	bt->area->targets = map_zeroes(TARGETS * sizeof(struct target));
	return bt->area->targets ? 0 : -errno;
}

static int map_code(struct bt *bt, size_t size)
{
	bt->size = size;
	bt->write = mmap(NULL, size, PROT_READ | PROT_WRITE,
	                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (bt->write == MAP_FAILED) {
		bt->write = NULL;
		return -errno;
	}
	/* Of an old size of 0: the same memory at a second place. */
	bt->exec = mremap(bt->write, 0, size, MREMAP_MAYMOVE);
	if (bt->exec == MAP_FAILED) {
		bt->exec = NULL;
		return -errno;
	}
	return mprotect(bt->exec, size, PROT_READ | PROT_EXEC) ? -errno : 0;
}

int bt_create(struct bt **out, struct icpu *cpu, u64 bytes,
              const struct insn_decoder *decoder, struct error *err)
{
	/* It has operations in it, which are lines of the cache. */
	struct bt *bt = aligned_alloc(
	    _Alignof(struct bt), ALIGN_UP(sizeof(*bt), _Alignof(struct bt)));
	struct cursor c;
	int rc;

	_Static_assert(sizeof(struct bt_area) <= sizeof(cpu->area),
	               "the area is within reach of GS");
	ASSERT(bt);
	alloc_clear(bt, sizeof(*bt));
	bt->cpu = cpu;
	bt->decoder = decoder;
	bt->area = (struct bt_area *)(void *)cpu->area;
	bt->area->bt = bt;
	bt->area->entry.fn = bt_op_enter;
	bt->area->cpu = cpu;
	bt_init_slots(bt);
	bt->area->vector_absent = 1;
	bt->area->host_mxcsr = HOST_MXCSR;
	bt->area->miss_count = MISS_SAMPLE;
	bt->xlate = xalloc(sizeof(*bt->xlate));
	bytes = ALIGN_UP(MAX(bytes, (u64)MIB), (u64)PAGE_SIZE);
	if (getrandom(&bt->secret, sizeof(bt->secret), 0) !=
	    (ssize_t)sizeof(bt->secret)) {
		rc = -errno;
		bt_destroy(bt);
		return error_set(err, rc, "no random numbers: %s",
		                 strerror(-rc));
	}
	rc = map_code(bt, bytes);
	if (!rc)
		rc = map_meta(bt, 2 * bytes);
	if (rc) {
		bt_destroy(bt);
		return error_set(
		    err, rc, "cannot map a code cache of %" PRIu64 " MiB: %s",
		    bytes / MIB, strerror(-rc));
	}
	/* Six bytes will do for an address (go_to_target, poll). */
	memcpy(cpu->below_attention + sizeof(cpu->below_attention) - 6,
	       &bt->area->targets, 6);
	c = (struct cursor){ .w = bt->write,
		             .end = bt->write + bt->size,
		             .to_x = bt->exec - bt->write };
	bt_stubs(bt, &c);
	ASSERT(!c.full);
	bt->start = bt->used = ALIGN_UP((size_t)(c.w - bt->write), (size_t)64);
	for (unsigned i = 0; i < ARRAY_SIZE(bt->slots_of); i++)
		bt->slots_of[i].epoch = cpu->tlb_epoch - 1;
	cpu->code_ops = &bt_code_ops;
	*out = bt;
	return 0;
}

void bt_destroy(struct bt *bt)
{
	if (!bt)
		return;
	bt->cpu->code_ops = NULL;
	free(bt->codes);
	if (bt->area->targets)
		munmap(bt->area->targets, TARGETS * sizeof(struct target));
	free(bt->xlate);
	if (bt->meta)
		munmap(bt->meta, bt->meta_size);
	if (bt->exec)
		munmap(bt->exec, bt->size);
	if (bt->write)
		munmap(bt->write, bt->size);
	lockstep_destroy(bt->lockstep);
	free(bt);
}
