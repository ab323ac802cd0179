/* SPDX-License-Identifier: Apache-2.0 */
/*
 * enter.c - from the interpreter into host code, and back.
 *
 * Two operations take the place of a block's first: one counts runs until the
 * block is worth translating, one enters its host code. Host code runs from
 * block to block until something is not its business; what it then leaves to
 * is an operation of the interpreter, or its run loop.
 */
#include "engine/bt/bt.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/error.h"
#include "engine/bt/helper.h"
#include "engine/bt/lockstep.h"
#include "engine/bt/stats.h"
#include "engine/interp/code.h"
#include "engine/interp/tlb.h"

enum {
	CROSSINGS_MAX = 32,
	EDGE = 256, /* of a page: as far as a span reaches */
};

/* The one thing that a signal handler can't be told otherwise. */
static _Thread_local struct bt *thread_bt;

/* ---- what host code relies on ---- */

/* What an address near it leads to faults on the host. */
#define SLOT_EMPTY ((u64)BT_SLOT_EMPTY << 32)
/* Likewise, but it is in the log. */
#define SLOT_GONE (SLOT_EMPTY | (u64)1 << 59)

static struct slot *logged_slot(struct icpu *cpu, unsigned ring, u32 i)
{
	const struct bt_area *area = (void *)cpu->area;

	return (void *)((u8 *)cpu + area->slot_log[ring][i]);
}

static void clear_slots(struct bt *bt, unsigned ring)
{
	for (u32 i = 0; i < bt->area->slots_filled[ring]; i++)
		*logged_slot(bt->cpu, ring, i) =
		    (struct slot){ .tag = SLOT_EMPTY };
	bt->area->slots_filled[ring] = 0;
	memset(bt->area->slot_pages[ring], 0, SLOT_PAGES);
	bt->stats.slot_clears++;
}

void bt_init_slots(struct bt *bt)
{
	for (unsigned ring = 0; ring < 2; ring++)
		for (unsigned i = 0; i < SLOTS; i++)
			bt->area->slot[ring][i].tag = SLOT_EMPTY;
	for (unsigned i = 0; i < 2 * 2 * PAGES; i++)
		bt->area->line[i / PAGES / 2][i / PAGES % 2][i % PAGES].tag =
		    SLOT_EMPTY;
}

/*
 * Slots hold what the TLB of this moment says, and nothing older. Supervisor
 * ones are global as a rule, and outlive a switch of spaces.
 */
bool bt_slots_good(struct bt *bt, unsigned ring)
{
	const struct icpu *cpu = bt->cpu;
	struct bt_slots_of *of = &bt->slots_of[ring];
	bool local = ring || bt->area->slot_local;

	if (of->epoch != cpu->tlb_epoch ||
	    (local &&
	     (of->space != cpu->space || of->flushes != cpu->space->flushes)))
		return false;
	/* What is not global and comes in from here on is this space's. */
	of->space = cpu->space;
	of->flushes = cpu->space->flushes;
	return true;
}

static void sync_slots(struct bt *bt, unsigned ring)
{
	struct icpu *cpu = bt->cpu;
	struct bt_slots_of *of = &bt->slots_of[ring];

	if (likely(bt_slots_good(bt, ring)))
		return;
	of->epoch = cpu->tlb_epoch;
	of->space = cpu->space;
	of->flushes = cpu->space->flushes;
	if (!ring)
		bt->area->slot_local = 0;
	clear_slots(bt, ring);
}

static u8 *slot_page(struct bt_area *area, unsigned ring, u64 lin)
{
	return &area->slot_pages[ring][lin >> PAGE_SHIFT & (SLOT_PAGES - 1)];
}

/* All are looked at, so that only what they hold is noted afterwards. */
static void drop_slots(struct bt *bt, unsigned ring, gva_t lin)
{
	struct bt_area *area = bt->area;

	memset(area->slot_pages[ring], 0, SLOT_PAGES);
	for (u32 i = 0; i < area->slots_filled[ring]; i++) {
		struct slot *slot = logged_slot(bt->cpu, ring, i);

		if (slot->tag == lin)
			*slot = (struct slot){ .tag = SLOT_GONE };
		else
			*slot_page(area, ring, slot->tag) = 1;
	}
}

void bt_page_gone(struct icpu *cpu, gva_t lin)
{
	struct bt *bt = bt_of(cpu);

	if (bt->lockstep)
		lockstep_page_gone(bt->lockstep);
	for (unsigned ring = 0; ring < 2; ring++)
		if (*slot_page(bt->area, ring, lin))
			drop_slots(bt, ring, lin);
}

/* Secret, and none twice: each step of this mixing can be undone. */
static u64 new_id(struct bt *bt)
{
	u64 z = bt->secret + ++bt->contexts * 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static struct bt_context *new_context(struct bt *bt)
{
	struct bt_context *x = &bt->context[bt->contexts % BT_CONTEXTS];

	x->generation = bt->cpu->targets;
	x->key = bt->cpu->key;
	do
		x->id = new_id(bt);
	while (!x->id);
	bt->stats.switches++;
	return x;
}

struct bt_context *bt_find_context(struct bt *bt, u64 generation, u32 key,
                                   unsigned ring)
{
	struct bt_context *x = &bt->context[bt->context_last[ring]];

	if (likely(x->generation == generation && x->key == key))
		return x;
	for (x = bt->context; x < bt->context + BT_CONTEXTS; x++)
		if (x->generation == generation && x->key == key) {
			bt->context_last[ring] = (unsigned)(x - bt->context);
			return x;
		}
	return NULL;
}

/* Targets are good for one state of the mappings and one mode. */
static void sync_context(struct bt *bt)
{
	struct bt_context *x;

	if (unlikely(bt->cpu->targets == UNSETTLED))
		tlb_settle(bt->cpu);
	x = bt_find_context(bt, bt->cpu->targets, bt->cpu->key,
	                    bt->cpu->cpl == 3);
	if (unlikely(!x))
		x = new_context(bt);
	bt->area->context = x->id;
}

void bt_sync(struct bt *bt)
{
	sync_slots(bt, 0);
	sync_slots(bt, 1);
	sync_context(bt);
	bt_sync_other(bt);
	bt_sync_segments(bt);
}

/* A target gives way to another of its line by moving to the next one. */
static struct target *second_line(struct bt *bt, u64 key)
{
	return &bt->area->targets[target_line(key) ^ 1];
}

static void note_target(struct bt *bt, const struct bt_code *code, u64 rip)
{
	u64 key = rip + bt->area->context;
	struct target *t = &bt->area->targets[target_line(key)];

	if (t->key && t->key != key)
		*second_line(bt, key) = *t;
	t->key = key;
	t->host = code->entry_saved;
}

/* ---- entering ---- */

struct bt_code *bt_make_again(struct bt *bt, struct bt_code *code)
{
	bool full;
	struct bt_code *again = bt_translate(bt, code->block, code, &full);

	if (!again)
		return NULL;
	bt_replace_code(bt, code, again);
	bt_add_code(bt, again);
	again->block->made = again;
	bt->stats.again++;
	return again;
}

/*
 * What goes through memory in order misses at each page's edge and hits all the
 * way to the next: a slot is right for it, however many such sites there are.
 */
static bool goes_in_order(const struct bt *bt, u32 how)
{
	const struct slot *slot =
	    (const void *)((const u8 *)bt->cpu + (how & HOW_SLOT_MASK));
	u64 lin = bt->area->missed, off = lin & ~PAGE_MASK;
	u64 page = lin & PAGE_MASK;

	return (page == slot->tag + PAGE_SIZE && off < EDGE) ||
	       (page == slot->tag - PAGE_SIZE && off >= PAGE_SIZE - EDGE);
}

/*
 * A span that lies across two pages fails every time, a site that goes from
 * page to page has no use of a slot, and one that goes to very many has none of
 * a line. A block in which that is common is made again, better.
 */
static void improve(struct bt *bt, struct bt_out *out)
{
	struct bt_code *code = bt_code_of(out);
	u32 sampled = bt->area->miss_sampled;

	bt->area->miss_sampled = 0;
	if (code->block->made != code)
		return;
	if (sampled) {
		if (!(code->paged & BIT(out->insn)) &&
		    goes_in_order(bt, sampled)) {
			out->misses -= out->misses > 0;
			return;
		}
		if (++out->misses < MISSES_MAX)
			return;
		if (code->paged & BIT(out->insn))
			code->direct |= BIT(out->insn);
		code->paged |= BIT(out->insn);
	} else if ((bt->area->missed & ~PAGE_MASK) + out->span > PAGE_SIZE &&
	           !code->twin && ++code->crossings == CROSSINGS_MAX) {
		code->twin = true;
	} else {
		return;
	}
	bt_make_again(bt, code);
}

/* What the interpreter needs of the block is there, or is decoded again. */
bool bt_has_ops(struct bt *bt, struct block *b)
{
	if (unlikely(!b->key)) /* dead, and its operations may be gone */
		return false;
	if (likely(b->op != &bt->area->entry))
		return true;
	if (!code_restore(bt->cpu, b))
		return false;
	b->op[0].fn = bt_op_enter;
	return true;
}

static struct block *leave_at_op(struct icpu *cpu, struct bt_out *out)
{
	struct bt *bt = bt_of(cpu);
	struct block *b = out->block;
	struct iop *op;

	cpu->link = NULL;
	/* Decoded anew it may be something else: then by its address. */
	if (unlikely(!bt_has_ops(bt, b) || b->op[out->op].off != out->off)) {
		cpu->rip = cpu->pcbase + out->off;
		return NULL;
	}
	if (out->span)
		improve(bt, out);
	if (unlikely(
		atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
		bt_sample(bt, out);
	cpu->block = b;
	op = &b->op[out->op];
	if (op == b->op)
		return b->first(cpu, op);
	return op->fn(cpu, op);
}

/* Host code came back. */
static struct block *leave(struct bt *bt, const struct bt_exit *out)
{
	struct icpu *cpu = bt->cpu;
	struct bt_link *link;

	if (unlikely(bt->count_fallbacks))
		bt_count_exit(bt, out);
	switch ((enum bt_exit_kind)out->kind) {
	case BT_EXIT_OP:
		return leave_at_op(cpu, (void *)(bt->meta + out->value));
	case BT_EXIT_LINK:
		link = (void *)(bt->meta + out->value);
		bt->pending = link;
		cpu->rip = cpu->pcbase + link->off;
		return NULL;
	default:
		return NULL;
	}
}

/* One block alone, and the interpreter's word on it. */
static struct block *enter_compared(struct bt *bt, const struct bt_code *code)
{
	struct bt_exit out;

	lockstep_before(bt->lockstep, code);
	bt->stats.entries++;
	bt->cpu->link = NULL;
	out = bt->enter(code->entry_saved);
	lockstep_after(bt->lockstep, code, &out);
	return leave(bt, &out);
}

/* Where flags were saved that nobody reads there, the way there is remade. */
static void make_link(struct bt *bt, struct bt_link *link, struct bt_code *to)
{
	struct bt_code *from = link->from;

	if (link->saved && !to->flags && !from->tried && !bt->exact &&
	    from != to) {
		from->tried = true;
		if (bt_make_again(bt, from))
			return;
	}
	bt_link(bt, link, to);
}

static bool leads_to(const struct bt_link *link, const struct block *b)
{
	return link->off == b->off && !b->crossing &&
	       link->from->block->page == b->page &&
	       link->from->block->key == b->key;
}

static struct block *enter(struct bt *bt, struct bt_code *code)
{
	struct icpu *cpu = bt->cpu;
	u64 rip = cpu->pcbase + code->block->off;
	struct bt_link *link;
	struct bt_exit out;

	bt_sync(bt);
	if (unlikely(bt->eager))
		code = bt_hurry(bt, code);
	link = bt->pending;
	bt->pending = NULL;
	if (unlikely(bt->lockstep))
		return enter_compared(bt, code);
	if (link && leads_to(link, code->block))
		make_link(bt, link, code);
	note_target(bt, code, rip);
	bt->stats.entries++;
	cpu->link = NULL;
	out = bt->enter(code->entry_saved);
	return leave(bt, &out);
}

const u8 *bt_second_target(struct bt *bt)
{
	struct icpu *cpu = bt->cpu;
	u64 key = cpu->rip + bt->area->context;
	const struct target *t = second_line(bt, key);

	if (t->key != key)
		return NULL;
	cpu->pcbase = cpu->rip & PAGE_MASK;
	return t->host;
}

const u8 *bt_dispatch(struct bt *bt)
{
	struct icpu *cpu = bt->cpu;
	struct bt_code *code;
	struct block *b;

	if (cpu->stopped || cpu->halted || cpu->key & KEY_STEP ||
	    bt->lockstep ||
	    atomic_load_explicit(&cpu->attention, memory_order_relaxed))
		return bt->exit_known;
	b = icpu_find_block(cpu);
	code = b->made;
	if (!code) {
		b->runs += ARRIVAL_RUNS;
		return bt->exit_known;
	}
	cpu->pcbase = cpu->rip - b->off;
	bt->pending = NULL;
	bt_sync(bt);
	note_target(bt, code, cpu->rip);
	return code->entry_saved;
}

struct block *bt_op_enter(struct icpu *cpu, struct iop *op)
{
	struct bt *bt = bt_of(cpu);
	struct block *b = cpu->block;

	if (likely(b->made))
		return enter(bt, b->made);
	/* It died; whoever runs it is to leave soon. */
	if (op != &bt->area->entry)
		return b->first(cpu, op);
	cpu->rip = cpu->pcbase + b->off;
	return NULL;
}

/* ---- getting hot ---- */

struct block *bt_op_count(struct icpu *cpu, struct iop *op)
{
	struct block *b = cpu->block;
	u64 rip = cpu->pcbase + b->off;
	struct bt *bt = bt_of(cpu);
	struct bt_code *code;
	bool full;

	if (bt->pending && leads_to(bt->pending, b))
		b->runs += ARRIVAL_RUNS;
	if (++b->runs < bt->hot)
		return b->first(cpu, op);
	switch (code_extend(cpu, b)) {
	case EXTEND_OK:
		op = b->op;
		break;
	case EXTEND_STALE:
		b->runs--;
		return b->first(cpu, op);
	case EXTEND_ROOM: /* this block is looked up again */
		cpu->rip = rip;
		return NULL;
	}
	code = bt_translate(bt, b, NULL, &full);
	if (full) {
		/* Everything goes; this block is looked up again. */
		cpu->rip = rip;
		code_cache_flush(cpu);
		cpu->link = NULL;
		return NULL;
	}
	if (!code) {
		op->fn = b->first;
		return b->first(cpu, op);
	}
	bt_add_code(bt, code);
	b->made = code;
	op->fn = bt_op_enter;
	return enter(bt, code);
}

/* ---- host faults in host code ---- */

/* What was there before, for faults that are not ours. */
static struct sigaction old_action[NSIG];
static const int caught[] = { SIGSEGV, SIGFPE, SIGBUS, SIGILL };

static void pass_on(const struct sigaction *old, int sig, siginfo_t *info,
                    void *context)
{
	if (old->sa_flags & SA_SIGINFO && old->sa_sigaction) {
		old->sa_sigaction(sig, info, context);
		return;
	}
	/* As if we had never been here: the fault comes again. */
	sigaction(sig, old, NULL);
}

/*
 * The interpreter does the instruction again, and finds the guest's fault:
 * a division, an unmasked SIMD exception, a misaligned operand. Or it is a poll
 * (flow.c), and attention is paid after the instruction. Registers are the
 * guest's still; only scratch was changed.
 */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	struct bt *bt = thread_bt;
	const struct bt_point *at = NULL;
	struct bt_out *out;

	if (bt)
		at = bt_find_fault(bt, (const u8 *)(uintptr_t)regs[REG_RIP],
		                   &out);
	if (at) {
		regs[REG_R13] += at->lag * LAG_UNIT;
		if (!(out->block->key & KEY_CODE64))
			regs[REG_R13] &= 0xffffffff;
		regs[REG_R14] = 0; /* nothing that missed */
		regs[REG_R15] = (greg_t)((u8 *)out - bt->meta);
		regs[REG_RIP] = (greg_t)(uintptr_t)(at->flags == FLAGS_HOST
		                                        ? bt->exit_op_host
		                                        : bt->exit_op_saved);
		return;
	}
	pass_on(&old_action[sig], sig, info, context);
}

int bt_install_signals(struct error *err)
{
	struct sigaction sa = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};

	struct sigaction now;

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++) {
		if (sigaction(caught[i], NULL, &now))
			goto fail;
		if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault)
			continue; /* another machine of this process */
		if (sigaction(caught[i], &sa, &old_action[caught[i]]))
			goto fail;
	}
	return 0;
fail:
	return error_set(err, -errno, "cannot catch faults of translated code");
}

void bt_attach_thread(struct bt *bt)
{
	thread_bt = bt;
	syscall(SYS_arch_prctl, ARCH_SET_GS, bt->cpu);
}
