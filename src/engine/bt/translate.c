/* SPDX-License-Identifier: Apache-2.0 */
/*
 * translate.c - a block of guest code into host code.
 *
 * Flags stay in the host's own register as long as nothing destroys them.
 * Probes do; so before the first probe after an instruction that sets flags
 * they are saved, unless they are overwritten in this block, or the one it
 * leads to, before anything reads them (98 % of accesses). Saved flags are
 * restored where they are needed next. docs/decisions/0010 and 0013 say what
 * that means for faults.
 *
 * A block has entries for flags in the host, or saved, and one behind the check
 * that brings in the vector state, for who has it: a loop checks once. They are
 * at least DEAD_PATCH bytes apart, so that each can be overwritten when the
 * block dies or is made again.
 */
#include "engine/bt/helper.h"
#include "engine/bt/xlate.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "engine/interp/ops.h"

enum { TIME_SAMPLE = 16 }; /* one translation in so many is timed */

/* ---- flags ---- */

/* Shifts and repetitions by a count that may be zero keep every flag. */
static bool may_keep(const struct insn *in)
{
	const struct insn_operand *count;

	if (in->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
		return in->z.attributes &
		       (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	if (!in->count)
		return false;
	count = &in->op[in->count - 1];
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return count->kind != OPERAND_IMM ||
		       !(count->value & (in->opsize == 8 ? 63 : 31));
	default:
		return false;
	}
}

u32 x_flags_written(const struct insn *in)
{
	const ZydisAccessedFlags *f = in->z.cpu_flags;

	return f ? (f->modified | f->set_0 | f->set_1 | f->undefined) &
	               RFLAGS_STATUS
	         : 0;
}

/* What is undefined afterwards may hang on what it was. */
u32 x_flags_killed(const struct xlate *x, const struct insn *in)
{
	u32 written = x_flags_written(in);

	if (may_keep(in))
		return 0;
	return written &
	       ~(x->bt->exact && written ? in->z.cpu_flags->undefined : 0);
}

u32 x_flags_read(const struct insn *in)
{
	const ZydisAccessedFlags *f = in->z.cpu_flags;

	/* Where they lead flags are as they are. */
	if (in->z.meta.category == ZYDIS_CATEGORY_INTERRUPT ||
	    in->z.meta.category == ZYDIS_CATEGORY_SYSCALL ||
	    in->z.mnemonic == ZYDIS_MNEMONIC_SYSEXIT)
		return RFLAGS_STATUS;
	return f ? f->tested & RFLAGS_STATUS : 0;
}

static void save_flags(struct xlate *x)
{
	asm_mov_rr(&x->c, H_S1, H_RAX);
	asm_bytes(&x->c, "\x9f\x0f\x90\xc0\x66", 5); /* lahf; seto al; 66 */
	asm_store_gs32(&x->c, H_RAX, CPU(flags));
	asm_mov_rr(&x->c, H_RAX, H_S1);
}

static void restore_flags(struct xlate *x)
{
	asm_mov_rr(&x->c, H_S1, H_RAX);
	/* movzx eax, word gs: a wider load would wait for the store */
	asm_bytes(&x->c, "\x65\x0f\xb7\x04\x25", 5);
	asm_32(&x->c, CPU(flags));
	asm_bytes(&x->c, "\x04\x7f\x9e", 3); /* add al, 0x7f; sahf */
	asm_mov_rr(&x->c, H_RAX, H_S1);
}

void x_flags_clobber(struct xlate *x, u32 live)
{
	if (!live) {
		x->at = FLAGS_DEAD;
	} else if (x->at == FLAGS_HOST) {
		save_flags(x);
		x->at = FLAGS_SAVED;
	}
}

void x_flags_need(struct xlate *x)
{
	if (x->at == FLAGS_SAVED) {
		restore_flags(x);
		x->at = FLAGS_HOST;
	}
}

/* ---- what the block holds ---- */

bool x_ends_block(const struct insn *in)
{
	switch (in->z.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
		return true;
	default:
		return false;
	}
}

bool x_decode(struct xlate *x, struct block *b)
{
	unsigned off = b->off, end = b->off + b->len, op = 0;
	const u8 *host = b->page->host + off;
	size_t here = PAGE_SIZE - off;
	size_t avail = MIN((size_t)b->len + 15, here);
	u8 copy[PAGE_SIZE + 15], *bytes = copy;

	if (b->op == &x->bt->area->entry)
		return false;

	/* Once: another vCPU may be writing, and what is decoded and what is
	 * copied to run on the host have to be the same bytes. */
	guest_copy(copy, host, avail);
	if (b->crossing) {
		guest_copy(copy + here, b->page2->host, 15);
		avail = here + 15;
	}
	while (off < end && x->total < TRACE_OPS) {
		struct insn *in = &x->insn[x->total];

		if (insn_decode(x->bt->decoder, bt_mode(b->key), bytes, avail,
		                in) != INSN_OK)
			return false;
		/* Operations and instructions go in step; one that is joined
		 * to the one before has no operation of its own. */
		while (op < b->ops && b->op[op].off < off)
			op++;
		if (op >= b->ops || b->op[op].off != off)
			return false;
		x->off[x->total] = (u16)off;
		x->of[x->total] = b;
		x->join[x->total] = JOIN_NOT;
		off += in->length;
		bytes += in->length;
		avail -= in->length;
		x->op[x->total] = (u16)op;
		x->end[x->total++] = (u16)off;
		x_make_plain(x->bt->decoder, in);
	}
	return off == end || x->total == TRACE_OPS;
}

/*
 * Status flags that whoever comes after the block may read. Where it goes on in
 * the page, with what has host code, that is known; it dies when that dies.
 */
static u32 live_behind(const struct xlate *x, u32 self)
{
	const struct insn *in = &x->insn[x->total - 1];
	s64 off = x_end_of(x, x->total - 1);
	const struct block *b;
	const struct bt_code *code;

	if (x->bt->exact || x->bt->lockstep)
		return RFLAGS_STATUS;
	if (x_ends_block(in)) {
		if (in->op[0].kind != OPERAND_REL || bt_condition(in) >= 0)
			return RFLAGS_STATUS;
		off += (s64)in->op[0].value;
	}
	if (!x_in_page(off))
		return RFLAGS_STATUS;
	if (off == x->block->off && !x->block->crossing)
		return self;
	b = x->block->page->bucket[off % CODEPAGE_BUCKETS];
	while (b && (b->off != off || b->key != x->block->key || b->crossing))
		b = b->next;
	code = b ? b->made : NULL;
	return code && !code->flags ? 0 : RFLAGS_STATUS;
}

/* self: status flags that the block may read before it writes them. */
static void find_live(struct xlate *x, u32 self)
{
	x->live[x->total] = live_behind(x, self);
	for (unsigned k = x->total; k-- > 0;) {
		const struct insn *in = &x->insn[k];

		/* Before what the interpreter does all flags must be right, and
		 * where a branch goes they may be read. */
		if (k >= x->count || x->bt->exact || bt_condition(in) >= 0)
			x->live[k] = RFLAGS_STATUS;
		else
			x->live[k] = (x->live[k + 1] & ~x_flags_killed(x, in)) |
			             x_flags_read(in);
	}
}

/*
 * A direct call from here to what is no address: the interpreter's, as host
 * code would push first. A page may have other names, too, from which it is a
 * call like any; what goes wrong then is what a fault leaves below the stack.
 */
static bool calls_nowhere(const struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];

	return in->z.mnemonic == ZYDIS_MNEMONIC_CALL &&
	       in->op[0].kind == OPERAND_REL && x->block->key & KEY_CODE64 &&
	       !icpu_canonical(x->cpu->pcbase + (u64)x_end_of(x, k) +
	                       in->op[0].value);
}

static void analyse(struct xlate *x)
{
	while (
	    x->count < x->total && !calls_nowhere(x, x->count) &&
	    (bt_can(x->cpu, &x->insn[x->count]) || x_can_system(x, x->count)))
		x->count++;
	x_find_effects(x);
	/* A block that leads to itself: if it then needs none, it needs none.
	 */
	find_live(x, 0);
	if (x->live[0])
		find_live(x, RFLAGS_STATUS);
}

void x_point(struct xlate *x, unsigned k)
{
	struct bt_point *p = &x->point[x->code->count];

	_Static_assert(TRACE_OPS < 128, "lag is a byte in points");
	ASSERT(x->code->count < x->count * POINTS * x_bodies(x));
	x->code->count++;
	p->host = (u32)(x->c.w - x->code->start_w);
	p->insn = (u16)k;
	p->flags = (u8)x->at;
	_Static_assert(BLOCK_OPS * 8 / LAG_UNIT < 128, "lag is a byte");
	p->lag = (s8)(x->lag / LAG_UNIT);
}

/* ---- out of line ---- */

static void leave_to(struct xlate *x, void *value, const u8 *exit)
{
	asm_mov_imm64(&x->c, H_S1, (u64)((u8 *)value - x->bt->meta));
	asm_jmp_to(&x->c, exit);
}

/* The interpreter does instruction k and goes on from there. */
static void leave_to_op(struct xlate *x, unsigned k, enum flags_at at)
{
	leave_to(x, &x->code->out[k],
	         at == FLAGS_HOST ? x->bt->exit_op_host : x->bt->exit_op_saved);
}

static u32 how(const struct cold *cold)
{
	ASSERT(cold->slot <= HOW_SLOT_MASK && cold->size <= HOW_SIZE_MASK);
	return cold->slot | (u32)cold->size << HOW_SIZE |
	       (cold->now ? (u32)HOW_NOW : 0);
}

static void catch_up(struct xlate *x, const struct cold *cold)
{
	if (cold->lag)
		asm_lea(&x->c, x->wide, H_GSP, H_GSP, NO_REG, 0, cold->lag);
}

static void resume_unless_carry(struct xlate *x, const struct cold *cold)
{
	asm_bytes(&x->c, "\x0f\x83", 2); /* jnc */
	asm_32(&x->c, (u32)(cold->resume - (cursor_x(&x->c) + 4)));
	catch_up(x, cold);
	leave_to_op(x, cold->insn, cold->flags);
}

/*
 * A span over the end of a page: the other body has probes for each access.
 * Both come to a probe with the same state, but for what R13 lags behind.
 */
static void cross_over(struct xlate *x, const struct cold *cold)
{
	const struct entrance *to;
	u8 *within;

	if (!x->twin || cold->nth >= PROBES ||
	    cold - x->cold >= (ptrdiff_t)x->first_colds)
		return;
	to = &x->entrance[cold->insn][cold->nth];
	if (!to->host || to->flags != cold->flags)
		return;
	asm_rr(&x->c, false, 0x8b, H_S1, H_S0);
	asm_alu_imm32(&x->c, ALU_AND, H_S1, PAGE_SIZE - 1);
	asm_alu_imm32(&x->c, ALU_CMP, H_S1, (u32)PAGE_SIZE - cold->size);
	within = asm_jcc(&x->c, CC_BE);
	catch_up(x, cold);
	asm_jmp_to(&x->c, to->host);
	asm_patch(&x->c, within);
}

/* The stub asks to leave, too, where it wants the miss looked at. */
static void cold_fill(struct xlate *x, const struct cold *cold)
{
	bool user = x->block->key & KEY_USER;
	const struct bt *bt = x->bt;

	if (cold->delta) {
		asm_mov_rr(&x->c, H_S0, H_S1);
		asm_gs(&x->c, true, 0x03, H_S0,
		       cold->slot + offsetof(struct slot, tag));
	}
	cross_over(x, cold);
	asm_mov_imm64(&x->c, H_S1, how(cold));
	asm_call_to(&x->c, cold->delta ? bt->fill_delta[cold->write][user]
	                               : bt->fill[cold->write][user]);
	resume_unless_carry(x, cold);
}

/* Of R14 the tag was taken; R15 is the line's place in the table. */
static void cold_line(struct xlate *x, const struct cold *cold)
{
	bool user = x->block->key & KEY_USER;

	asm_8(&x->c, 0x65);
	asm_rm(&x->c, true, 0x03, H_S0, H_S1,
	       (s32)(cold->slot + offsetof(struct slot, tag)));
	cross_over(x, cold);
	asm_mov_imm64(&x->c, H_S1, how(cold));
	asm_call_to(&x->c, x->bt->fill_line[cold->write][user]);
	resume_unless_carry(x, cold);
}

/* A direct probe: R15 is the entry, R14 has its tag taken off. */
static void cold_walk(struct xlate *x, const struct cold *cold)
{
	asm_rm(&x->c, true, 0x03, H_S0, H_S1,
	       cold->write ? offsetof(struct tlb_entry, wtag)
	                   : offsetof(struct tlb_entry, rtag));
	cross_over(x, cold);
	asm_mov_imm64(&x->c, H_S1, how(cold));
	asm_call_to(&x->c, x->bt->fill_tlb[cold->write]);
	resume_unless_carry(x, cold);
}

static void cold_miss(struct xlate *x, const struct cold *cold)
{
	catch_up(x, cold);
	leave_to_op(x, cold->insn, cold->flags);
}

static void cold_exit(struct xlate *x, const struct cold *cold)
{
	struct bt_link *link = &x->code->link[cold->link];

	leave_to(x, link,
	         cold->flags == FLAGS_HOST ? x->bt->exit_link_host
	                                   : x->bt->exit_link_saved);
}

static void cold_callout(struct xlate *x, const struct cold *cold)
{
	asm_mov_imm64(&x->c, H_S1,
	              (u64)((u8 *)&x->code->out[cold->insn] - x->bt->meta));
	asm_call_to(&x->c, x->bt->callout);
	asm_jmp_to(&x->c, x->bt->exit_known);
}

static void emit_cold(struct xlate *x)
{
	for (unsigned i = 0; i < x->colds; i++) {
		asm_patch(&x->c, x->cold[i].jump);
		x->bt->stats.probes += x->cold[i].kind <= COLD_MISS;
		if (x->cold[i].kind == COLD_FILL)
			cold_fill(x, &x->cold[i]);
		else if (x->cold[i].kind == COLD_LINE)
			cold_line(x, &x->cold[i]);
		else if (x->cold[i].kind == COLD_WALK)
			cold_walk(x, &x->cold[i]);
		else if (x->cold[i].kind == COLD_CALLOUT)
			cold_callout(x, &x->cold[i]);
		else if (x->cold[i].kind == COLD_MISS)
			cold_miss(x, &x->cold[i]);
		else
			cold_exit(x, &x->cold[i]);
	}
}

/* ---- the block ---- */

static bool needs_vector(const struct xlate *x)
{
	for (unsigned k = 0; k < x->count; k++)
		if (bt_uses_vector(&x->insn[k]))
			return true;
	return false;
}

/* Bring in the vector registers unless they are. Changes no flags. */
static void ensure_vector(struct xlate *x)
{
	asm_mov_rr(&x->c, H_S1, H_RCX);
	asm_load_gs32(&x->c, H_RCX, AREA(vector_absent));
	asm_bytes(&x->c, "\xe3\x05", 2); /* jrcxz over the call */
	asm_call_to(&x->c, x->bt->load_vector);
	asm_mov_rr(&x->c, H_RCX, H_S1);
}

static void pad(struct xlate *x, const u8 *from)
{
	static const u8 nop[] = { 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0 };

	while (x->c.w - from < DEAD_PATCH && !x->c.full) {
		size_t n = (size_t)(DEAD_PATCH - (x->c.w - from));

		if (n >= sizeof(nop))
			asm_bytes(&x->c, nop, sizeof(nop));
		else
			while (n--)
				asm_8(&x->c, n ? 0x66 : 0x90);
	}
}

/* Does the block save the flags it is entered with before it reads them? */
static bool saves_at_once(const struct xlate *x)
{
	for (unsigned k = 0; k < x->count && x->live[k]; k++) {
		const struct insn *in = &x->insn[k];
		u32 written = x_flags_written(in);

		if (x_flags_read(in) || bt_condition(in) >= 0)
			return false;
		if (x->join[k] == JOIN_ALWAYS &&
		    in->z.mnemonic == ZYDIS_MNEMONIC_JMP)
			continue;
		if (x_ends_block(in))
			return in->op[0].kind != OPERAND_REL ||
			       in->z.mnemonic != ZYDIS_MNEMONIC_JMP;
		if (bt_can_system(x->block->key, in) ||
		    (in->has_mem && x_touches_memory(in)) ||
		    in->z.meta.category == ZYDIS_CATEGORY_PUSH ||
		    in->z.meta.category == ZYDIS_CATEGORY_POP ||
		    in->z.mnemonic == ZYDIS_MNEMONIC_LEAVE)
			return true;
		if (written)
			return false;
	}
	return false;
}

/*
 * Where the vector state is known to be in, flags are in the host: a block that
 * wants them saved has no entry of that kind.
 */
static void emit_entries(struct xlate *x)
{
	struct bt_code *code = x->code;
	bool save = saves_at_once(x);

	code->flags = x->live[0] != 0;
	code->vector = needs_vector(x);
	code->start_w = x->c.w;
	if (save) {
		code->entry_w = x->c.w;
		code->entry = cursor_x(&x->c);
		save_flags(x);
	}
	code->entry_saved_w = x->c.w;
	code->entry_saved = cursor_x(&x->c);
	x->at = FLAGS_SAVED;
	if (!save) {
		if (x->live[0])
			restore_flags(x);
		pad(x, code->entry_saved_w);
		code->entry_w = x->c.w;
		code->entry = cursor_x(&x->c);
		x->at = x->live[0] ? FLAGS_HOST : FLAGS_DEAD;
	}
	code->body_w = x->c.w;
	if (code->vector) {
		ensure_vector(x);
		pad(x, code->body_w);
	}
	code->entry_vector_w = save ? code->entry_w : x->c.w;
	code->entry_vector = save ? code->entry : cursor_x(&x->c);
	code->body_w = x->c.w;
}

static void emit_body(struct xlate *x)
{
	for (unsigned k = 0; k < x->count; k++) {
		x->nth = 0;
		if (!x->merge || !x_may_lag(x, k))
			x_move_rsp(x, 0);
		if (!x_flow(x, k) && !x_stack(x, k) && !x_system(x, k)) {
			x_poll_early(x, k);
			x_copy(x, k);
		}
		x_after(x, k);
	}
	x_move_rsp(x, 0);
	if (x->count < x->total)
		leave_to_op(x, x->count, x->at);
	else if (!x_ends_block(&x->insn[x->total - 1]))
		x_go_on(x, x_end_of(x, x->total - 1));
	pad(x, x->code->body_w);
}

/*
 * The body, with accesses that share probes; and if these often span two pages,
 * again, with a probe for each. What is behind its first probe is entered only
 * from the other's.
 */
static void emit_bodies(struct xlate *x)
{
	enum flags_at at = x->at;

	emit_body(x);
	x->first_colds = x->colds;
	if (!x->twin)
		return;
	memset(x->entrance, 0, sizeof(x->entrance));
	x->merge = false;
	x->at = at;
	x->kept_at = NULL;
	x_lose_spans(x);
	memset(x->pos, 0, sizeof(x->pos));
	emit_body(x);
}

static bool joins(const struct xlate *x)
{
	for (unsigned k = 0; k < x->total; k++)
		if (x->of[k] != x->block || x->join[k])
			return true;
	return false;
}

/* What the block is known by; host code holds addresses of out and link. */
static bool take_meta(struct xlate *x)
{
	struct bt *bt = x->bt;
	struct bt_code *code =
	    bt_meta_take(bt, sizeof(*code) + x->total * sizeof(code->out[0]));

	if (!code)
		return false;
	x->code = code;
	code->total = (u16)x->total;
	code->trace = x->trace;
	code->joined = joins(x);
	code->block = x->block;
	code->twin = x->twin;
	code->paged = x->paged;
	code->direct = x->direct;
	code->tried = x->tried;
	code->link = bt_meta_take(bt, x_links(x) * sizeof(code->link[0]));
	if (!code->link)
		return false;
	for (unsigned k = 0; k < x->total; k++)
		code->out[k] = (struct bt_out){
			.block = x->of[k],
			.op = x->op[k],
			.off = x->off[k],
			.insn = (u16)k,
		};
	return true;
}

/* Links that were not needed give their room to the points. */
static bool take_points(struct xlate *x)
{
	struct bt *bt = x->bt;
	struct bt_code *code = x->code;
	size_t n = code->count * sizeof(code->point[0]);

	bt->meta_used = (size_t)((u8 *)(code->link + x->links) - bt->meta);
	code->point = bt_meta_take(bt, n);
	if (!code->point)
		return false;
	memcpy(code->point, x->point, n);
	return true;
}

static struct bt_code *place(struct xlate *x, bool *full)
{
	struct bt *bt = x->bt;
	struct bt_code *code;
	size_t meta = bt->meta_used;

	x->c = (struct cursor){ .w = bt->write + bt->used,
		                .end = bt->write + bt->size,
		                .to_x = bt->exec - bt->write };
	*full = !take_meta(x);
	if (!*full) {
		emit_entries(x);
		emit_bodies(x);
		emit_cold(x);
		*full = x->c.full || !take_points(x);
	}
	if (*full) {
		bt->meta_used = meta;
		return NULL;
	}
	code = x->code;
	code->size = (u32)(x->c.w - code->start_w);
	bt->used = ALIGN_UP((size_t)(x->c.w - bt->write), (size_t)16);
	return code;
}

/*
 * A kernel's code goes from object to object, each in a page of its own: what
 * has an object's address in a register begins with a line. In a program such a
 * site is as often in a loop over what lies in order, and finds out by missing.
 */
static u64 expect_pages(const struct xlate *x)
{
	u64 paged = 0;

	if (x->block->key & KEY_USER)
		return 0;
	for (unsigned k = 0; k < x->total; k++) {
		u8 base = x->insn[k].mem.base;

		if (x->insn[k].has_mem && base < GPR_COUNT && base != GPR_RSP)
			paged |= BIT(k);
	}
	return paged;
}

struct bt_code *bt_translate(struct bt *bt, struct block *block,
                             const struct bt_code *old, bool *full)
{
	struct xlate *x = bt->xlate;
	bool timed = bt->stats.tries++ % TIME_SAMPLE == 0;
	u64 start = timed ? thread_cpu_ns() : 0;
	struct bt_code *code = NULL;

	*full = false;
	memset(x, 0, offsetof(struct xlate, op));
	x->bt = bt;
	x->cpu = bt->cpu;
	x->block = block;
	x->wide = block->key & KEY_CODE64;
	x->merge = true;
	x->twin = old && old->twin;
	x->paged = old ? old->paged : 0;
	x->direct = old ? old->direct : 0;
	x->tried = old && old->tried;
	x->trace = old && old->trace;
	if (x_decode(x, block)) {
		if (!old)
			x->paged = expect_pages(x);
		if (x->trace)
			x_grow(x, old);
		analyse(x);
		/* Others rely on it that old needs no flags. */
		if (x->count && !(old && !old->flags && x->live[0]))
			code = place(x, full);
		if (x->count < x->total && bt->count_fallbacks)
			bt->stats.fallback[x->insn[x->count].z.mnemonic]++;
	}
	if (code) {
		bt->stats.translated++;
		bt->stats.translated_bytes += block->len;
		bt->stats.host_bytes += code->size;
	}
	if (timed)
		bt->stats.translate_ns +=
		    TIME_SAMPLE * (thread_cpu_ns() - start);
	return code;
}
