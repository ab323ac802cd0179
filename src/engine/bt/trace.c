/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - the second tier: host code that goes on where a block ends.
 *
 * A block that is hot is made again as a trace: the block, the one that its
 * jump or call leads to, and so on, and loops that lead back to its beginning
 * several times over. What joins them costs nothing: flags stay dead or in the
 * host, spans and what RSP lags behind go on, and one poll does for all.
 * Ways out of the middle are links like others.
 *
 * Only 64-bit code, and of the kernel's none unless by bt,eager: the rest gains
 * too little. All of a trace is of one page, so it dies with its blocks, which
 * have host code of their own and thus outlive it. Hot is where attention meets
 * host code: a timer's ticks pick what runs most, and count nothing meanwhile.
 */
#include "engine/bt/xlate.h"
#include "engine/interp/ops.h"

enum {
	JOINS = 24,
	ROUNDS = 8,  /* of a loop */
	SAMPLES = 3, /* for what ticks have met so often a trace is made */
	EAGER = 4,   /* entries before one is made, with bt,eager */
};

/* ---- what follows what ---- */

static struct block *block_at(const struct xlate *x, s64 off)
{
	struct block *b;

	if (!x_in_page(off))
		return NULL;
	b = x->block->page->bucket[off % CODEPAGE_BUCKETS];
	while (b && (b->off != off || b->key != x->block->key || b->crossing))
		b = b->next;
	/* What has no host code may be forgotten. */
	return b && b->made && b->op != &x->bt->area->entry ? b : NULL;
}

static s64 target_of(const struct xlate *x, unsigned k)
{
	return x_end_of(x, k) + (s64)x->insn[k].op[0].value;
}

/* The first jump from k on that leads back to where all began. */
static bool find_loop(const struct xlate *x, unsigned *k)
{
	for (; *k < x->total; ++*k)
		if (bt_condition(&x->insn[*k]) >= 0 &&
		    target_of(x, *k) == x->block->off)
			return true;
	return false;
}

/* Where the trace goes on, and how. rounds: of the loop, so far. */
static struct block *next_block(struct xlate *x, unsigned first,
                                unsigned *rounds)
{
	unsigned loop = first, last = x->total - 1;
	const struct insn *in = &x->insn[last];
	struct block *b;

	if (find_loop(x, &loop)) {
		/* Another round, if there is room for all of it. */
		if (++*rounds == ROUNDS || 2 * (loop + 1) - first > TRACE_OPS)
			return NULL;
		x->total = loop + 1;
		x->join[loop] = JOIN_TAKEN;
		return x->block;
	}
	if (x->total >= TRACE_OPS)
		return NULL;
	if (!x_ends_block(in))
		return block_at(x, x_end_of(x, last));
	if (in->op[0].kind != OPERAND_REL || bt_condition(in) >= 0)
		return NULL;
	b = block_at(x, target_of(x, last));
	if (b)
		x->join[last] = JOIN_ALWAYS;
	return b;
}

/* Sites of the block that have no use of a slot have none in the trace. */
static void take_sites(struct xlate *x, const struct block *b, unsigned first)
{
	const struct bt_code *code = b->made;

	/* What was of the end that the trace goes without. */
	x->paged &= BIT(first) - 1;
	x->direct &= BIT(first) - 1;
	for (unsigned k = first; k < x->total; k++) {
		if (code->paged & BIT(k - first))
			x->paged |= BIT(k);
		if (code->direct & BIT(k - first))
			x->direct |= BIT(k);
	}
}

void x_grow(struct xlate *x, const struct bt_code *old)
{
	unsigned first = 0, rounds = 0;

	for (unsigned n = 0; n < JOINS; n++) {
		struct block *b = next_block(x, first, &rounds);

		if (!b)
			return;
		first = x->total;
		if (!x_decode(x, b)) {
			/* Another vCPU is changing it. */
			x->total = first;
			x->join[first - 1] = JOIN_NOT;
			return;
		}
		if (!old->joined && !b->crossing)
			take_sites(x, b, first);
	}
}

/* ---- which are made ---- */

static bool make_trace(struct bt *bt, struct bt_code *code)
{
	struct bt_code *again;

	code->trace = true; /* if it fails it is not tried again */
	again = bt_make_again(bt, code);
	if (!again)
		return false;
	bt->stats.traces += again->joined;
	return true;
}

static bool read_insn(const struct bt *bt, const struct block *b, unsigned off,
                      struct insn *in)
{
	u8 bytes[15];
	size_t n = MIN(sizeof(bytes), (size_t)PAGE_SIZE - off);

	guest_copy(bytes, b->page->host + off, n);
	return insn_decode(bt->decoder, INSN_64, bytes, n, in) == INSN_OK;
}

/*
 * Where the jump leads that has its poll at out, or before which the poll is.
 * That, and not the jump, is what a loop begins with.
 */
static struct bt_code *polled_target(const struct bt *bt, struct bt_out *out)
{
	const struct block *b = out->block, *to;
	unsigned off = out->off;
	struct insn in;
	s64 target;

	if (!read_insn(bt, b, off, &in))
		return NULL;
	if (in.z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE) {
		off += in.length;
		if (off >= PAGE_SIZE || !read_insn(bt, b, off, &in))
			return NULL;
	}
	if (in.op[0].kind != OPERAND_REL)
		return bt_code_of(out);
	target = (s64)(off + in.length) + (s64)in.op[0].value;
	if (target < 0 || target >= PAGE_SIZE)
		return NULL;
	to = b->page->bucket[target % CODEPAGE_BUCKETS];
	while (to && (to->off != target || to->key != b->key || to->crossing))
		to = to->next;
	return to ? to->made : NULL;
}

void bt_sample(struct bt *bt, struct bt_out *out)
{
	struct bt_code *code;

	if (bt->tier < 2 || !(out->block->key & KEY_USER) ||
	    !(out->block->key & KEY_CODE64))
		return;
	code = polled_target(bt, out);
	if (!code || code->block->made != code || code->trace ||
	    ++code->samples < SAMPLES)
		return;
	make_trace(bt, code);
}

struct bt_code *bt_hurry(struct bt *bt, struct bt_code *code)
{
	if (bt->tier < 2 || code->trace || !(code->block->key & KEY_CODE64) ||
	    ++code->samples < EAGER)
		return code;
	make_trace(bt, code);
	return code->block->made;
}
