/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.c - blocks of decoded code: found, made, and made again.
 *
 * A page's code is decoded from a copy of its bytes. Another vCPU may write
 * them meanwhile: so first the code is registered, then the bytes are compared
 * (code.c says why in this order).
 */
#include "engine/interp/code_internal.h"

#include "engine/interp/debug.h"
#include "engine/interp/icpu.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

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
	page = code_page(cpu, s->host + ((r.gpa & PAGE_MASK) - s->base),
	                 r.gpa & PAGE_MASK);
	tlb_fill_exec(cpu, lin, user, page, &r);
	return page;
}

/* Code outside memory is fetched from devices, byte by byte, every time. */
static struct block *device_block(struct icpu *cpu, gpa_t gpa)
{
	struct block *b = code_scratch(cpu->code);
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

/* Its operations stay where they were built. */
static void keep_ops(struct icpu *cpu, struct block *b,
                     const struct build *build)
{
	code_ops_take(cpu->code, build->count);
	b->op = build->op;
}

/* NULL: all was flushed. */
static struct block *block_finish(struct icpu *cpu, const struct build *build,
                                  u32 key, struct codepage *page,
                                  struct codepage *page2)
{
	struct block *b = code_block_take(cpu), **list;

	if (!b)
		return NULL;
	*b = (struct block){
		.key = key,
		.off = build->off,
		.len = build->len,
		.count = (u16)build->count,
		.ops = (u16)build->ops,
		.page = page,
	};
	keep_ops(cpu, b, build);
	list = &page->bucket[b->off % CODEPAGE_BUCKETS];
	b->next = *list;
	*list = b;
	if (page2) {
		b->crossing = true;
		b->page2 = page2;
		b->cross = page2->cross;
		page2->cross = b;
	}
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

static bool crossing_stands(struct icpu *cpu, const struct codepage *page,
                            const struct codepage *page2, u32 off,
                            const u8 *bytes, size_t len)
{
	size_t first = PAGE_SIZE - off;

	return code_stands(cpu, page, off, first, bytes) &&
	       code_stands(cpu, page2, 0, len - first, bytes + first);
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
	build.op = code_ops_room(cpu, SCRATCH_OPS);
	do {
		crossing_bytes(page, page2, off, bytes);
		build.truncated = false;
		build_block(&build);
		if (build.truncated)
			icpu_gp(cpu); /* beyond the limit of CS */
		code_register(cpu, page, off, first);
		code_register(cpu, page2, 0, sizeof(bytes) - first);
	} while (!crossing_stands(cpu, page, page2, off, bytes, sizeof(bytes)));
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
		.op = code_ops_room(cpu, BLOCK_OPS + 2),
	};

	build.avail = limit_bytes(cpu, n);
	do {
		guest_copy(bytes, page->host + off, n);
		build.truncated = false;
		build_block(&build);
		if (build.truncated)
			break;
		code_register(cpu, page, off, build.len);
	} while (!code_stands(cpu, page, off, build.len, bytes));
	if (build.truncated) {
		if (build.avail < n || off + n < PAGE_SIZE)
			icpu_gp(cpu); /* beyond the limit of CS */
		return make_crossing(cpu, lin, key, page);
	}
	return block_finish(cpu, &build, key, page, NULL);
}

static void renew_ops(struct icpu *cpu, struct block *b,
                      const struct build *build)
{
	keep_ops(cpu, b, build);
	b->first = b->op[0].fn;
}

bool code_restore(struct icpu *cpu, struct block *b)
{
	u8 bytes[BLOCK_OPS * 8 + 15];
	struct build build = {
		.cpu = cpu,
		.key = b->crossing ? b->key | KEY_STEP : b->key,
		.off = b->off,
		.bytes = bytes,
		.avail = b->len,
		.max = b->crossing ? 1 : BLOCK_OPS,
	};

	ASSERT(b->len <= sizeof(bytes));
	build.op = code_ops_room(cpu, BLOCK_OPS + 2);
	if (b->crossing)
		crossing_bytes(b->page, b->page2, b->off, bytes);
	else
		guest_copy(bytes, b->page->host + b->off, b->len);
	build_block(&build);
	if (build.truncated || build.len != b->len || build.ops != b->ops)
		return false;
	if (b->crossing ? !crossing_stands(cpu, b->page, b->page2, b->off,
	                                   bytes, b->len)
	                : !code_stands(cpu, b->page, b->off, b->len, bytes))
		return false;
	renew_ops(cpu, b, &build);
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
	if (!code_ops_fit(cpu->code, BLOCK_OPS + 2)) {
		code_ops_forget_oldest(cpu);
		return EXTEND_ROOM;
	}
	build.op = code_ops_room(cpu, BLOCK_OPS + 2);
	guest_copy(bytes, b->page->host + b->off, build.avail);
	build_block(&build);
	if (build.truncated || build.len < b->len)
		return EXTEND_STALE;
	if (build.len == b->len)
		return EXTEND_OK;
	code_register(cpu, b->page, b->off, build.len);
	if (!code_stands(cpu, b->page, b->off, build.len, bytes))
		return EXTEND_STALE;
	b->len = build.len;
	b->count = (u16)build.count;
	b->ops = (u16)build.ops;
	renew_ops(cpu, b, &build);
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
		else if (!b && !code_hand_back(cpu))
			b = make_block(cpu, lin, key, page);
		if (b)
			return b;
	}
}

static void note_jump(struct icpu *cpu, gva_t lin, struct block *b)
{
	struct jump_entry *j = &cpu->jump[(lin ^ lin >> 12) & cpu->jump_mask];

	if (j->pc != lin && j->pc && ++cpu->jump_pushed == JUMP_PUSHED)
		cpu->jump_mask = JUMP_ENTRIES - 1;
	*j = (struct jump_entry){
		.pc = lin,
		.generation = cpu->targets,
		.block = b,
	};
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
		note_jump(cpu, lin, b);
	return b;
}
