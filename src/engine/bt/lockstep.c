/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lockstep - host code compared with the interpreter, block by block.
 *
 * Before host code runs, a second vCPU that no one else sees takes the same
 * state and interprets the block. What it writes goes to copies of the pages,
 * so memory is as it was when host code does the same in earnest. Then
 * registers and those pages are compared. Where host code left early the second
 * vCPU does as much again from the pages' first state.
 *
 * The second vCPU stops before anything that can't be done twice: devices,
 * clocks, stores into decoded code. Host code leaves such things to the
 * interpreter, too. So it does before a store into page tables that the block
 * goes through: which translation is used then, the old one or the new, hangs
 * on what a TLB happens to hold. What earlier stores into tables left behind in
 * this vCPU's TLB is looked for when a block differs.
 */
#include "engine/bt/lockstep.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/decode.h"

enum { COPIES = 64, TABLES = 64, SHOWN_BYTES = 8, ROOM_FOR_LINE = 120 };

/* A page that the block writes. */
struct copy {
	const u8 *page;
	u8 *first; /* its bytes before the block */
	u8 *now;   /* ...and after what was interpreted of it */
};

struct lockstep {
	struct bt *bt;
	struct icpu *cpu;   /* bt's; borrowed */
	struct icpu *other; /* owned */
	struct cpu_state start, want, got;
	unsigned done; /* instructions interpreted, of the block */
	bool finished; /* ...and they led out of it */
	bool interpreting;
	bool watched, otherwise; /* see translates_otherwise() */
	u64 undefined;           /* flags, if known */
	bool strict;
	/* Translations that other may know are those of this moment. */
	bool gone;
	const struct tlb_space *space;
	u64 epoch, flushes;
	struct copy copy[COPIES];
	unsigned copies;
	/* Pages of tables that the block's accesses went through. */
	const u8 *table[TABLES];
	unsigned tables;
	struct lockstep_figures figures;
	char words[1800];
	size_t used;
};

/* ---- what the second vCPU must not do ---- */

static NORETURN void decline(struct lockstep *l)
{
	icpu_stop_error(l->other, "");
}

static u64 no_pio_read(void *ctx, u16 port, unsigned size)
{
	(void)port;
	(void)size;
	decline(ctx);
}

static void no_pio_write(void *ctx, u16 port, u64 value, unsigned size)
{
	(void)port;
	(void)value;
	(void)size;
	decline(ctx);
}

static u64 no_mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	(void)gpa;
	(void)size;
	decline(ctx);
}

static void no_mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	(void)gpa;
	(void)value;
	(void)size;
	decline(ctx);
}

static bool no_msr_read(void *ctx, u32 msr, u64 *value)
{
	(void)msr;
	(void)value;
	decline(ctx);
}

static bool no_msr_write(void *ctx, u32 msr, u64 value)
{
	(void)msr;
	(void)value;
	decline(ctx);
}

static s64 no_hypercall(void *ctx, u64 number, const u64 arg[HYPERCALL_ARGS],
                        bool code64)
{
	(void)number;
	(void)arg;
	(void)code64;
	decline(ctx);
}

static void no_tpr_set(void *ctx, u8 tpr)
{
	struct lockstep *l = ctx;

	(void)tpr;
	if (l->interpreting) /* else icpu_set() */
		decline(l);
}

static u8 same_tpr(void *ctx)
{
	const struct icpu *cpu = ((struct lockstep *)ctx)->cpu;

	return cpu->host.tpr_get ? cpu->host.tpr_get(cpu->host.ctx)
	                         : (u8)cpu->cr8;
}

/* ---- copies of pages ---- */

static bool walked(const struct lockstep *l, const u8 *page)
{
	for (unsigned i = 0; i < l->tables; i++)
		if (l->table[i] == page)
			return true;
	return false;
}

static void trial_table(struct icpu *cpu, const u8 *page)
{
	struct lockstep *l = cpu->trial_ctx;

	if (!l->interpreting || walked(l, page))
		return;
	for (const struct copy *c = l->copy; c < l->copy + l->copies; c++)
		if (c->page == page && memcmp(c->now, c->first, PAGE_SIZE))
			decline(l);
	if (l->tables == TABLES)
		decline(l);
	l->table[l->tables++] = page;
}

static u8 *trial_page(struct icpu *cpu, u8 *page, bool write, bool code)
{
	struct lockstep *l = cpu->trial_ctx;
	struct copy *c = l->copy;

	for (; c < l->copy + l->copies; c++)
		if (c->page == page)
			return c->now;
	if (!write)
		return page;
	if (code || l->copies == COPIES || walked(l, page))
		decline(l);
	l->copies++;
	c->page = page;
	guest_copy(c->first, page, PAGE_SIZE);
	memcpy(c->now, c->first, PAGE_SIZE);
	tlb_forget_data(cpu); /* it may have been read by another name */
	return c->now;
}

/* ---- interpreting ---- */

static void sync_translations(struct lockstep *l)
{
	const struct icpu *cpu = l->cpu;
	struct error err;
	int r;

	if (l->space == cpu->space && l->epoch == cpu->tlb_epoch &&
	    l->flushes == cpu->space->flushes && !l->gone)
		return;
	l->space = cpu->space;
	l->epoch = cpu->tlb_epoch;
	l->flushes = cpu->space->flushes;
	l->gone = false;
	r = icpu_set(l->other, &l->start, &err);
	ASSERT(r == 0);
}

/*
 * An address that the other has just walked for leads this vCPU elsewhere: what
 * it translated once, it may go by until it is told to flush.
 */
static bool translates_otherwise(const struct lockstep *l)
{
	const struct icpu *other = l->other;
	const struct tlb_fills *f = &other->space->fills[other->priv];

	for (u32 i = 0; i < MIN(f->count, (u32)TLB_LOG); i++) {
		unsigned x = f->log[i];
		const struct tlb_entry *walked, *known;

		walked = &other->space->data[other->priv][x];
		known = &l->cpu->space->data[other->priv][x];
		if (walked->rtag == known->rtag &&
		    ((walked->gpa ^ known->gpa) & PAGE_MASK))
			return true;
	}
	return false;
}

/* One instruction, the block's k-th; false: there is no next one in it. */
static bool interpret_one(struct lockstep *l, const struct bt_code *code,
                          unsigned k)
{
	struct icpu *other = l->other;
	struct vcpu_exit exit;

	/* It is undone where it was declined; a HLT was not. */
	if (!icpu_step(other, 1, &exit) && exit.reason == EXIT_ERROR)
		return false;
	if (l->watched)
		l->otherwise |= translates_otherwise(l);
	l->done = k + 1;
	l->finished = l->done == code->total ||
	              other->rip != l->cpu->pcbase + code->out[k + 1].off;
	return !l->finished;
}

static void interpret(struct lockstep *l, const struct bt_code *code,
                      unsigned n)
{
	unsigned k = 0;

	icpu_set_registers(l->other, &l->start);
	tlb_forget_data(l->other);
	l->done = 0;
	l->tables = 0;
	l->finished = false;
	/* It may have to wait for this vCPU otherwise. */
	icpu_leave_guest(l->cpu);
	l->interpreting = true;
	while (k < n && interpret_one(l, code, k))
		k++;
	l->interpreting = false;
	icpu_enter_guest(l->cpu);
}

void lockstep_page_gone(struct lockstep *l)
{
	l->gone = true;
}

void lockstep_before(struct lockstep *l, const struct bt_code *code)
{
	icpu_get(l->cpu, &l->start);
	l->start.rip = l->cpu->pcbase + code->block->off;
	l->copies = 0;
	sync_translations(l);
	interpret(l, code, code->total);
}

/* As much as host code did, from where both began. */
static void interpret_again(struct lockstep *l, const struct bt_code *code,
                            unsigned n)
{
	for (unsigned i = 0; i < l->copies; i++)
		memcpy(l->copy[i].now, l->copy[i].first, PAGE_SIZE);
	interpret(l, code, n);
}

static bool by_other_translations(struct lockstep *l,
                                  const struct bt_code *code)
{
	l->watched = true;
	l->otherwise = false;
	interpret_again(l, code, l->done);
	l->watched = false;
	return l->otherwise;
}

/* ---- telling ---- */

static void PRINTF_LIKE(2, 3) say(struct lockstep *l, const char *fmt, ...)
{
	size_t room = sizeof(l->words) - l->used;
	va_list ap;
	int n;

	if (room < ROOM_FOR_LINE)
		return;
	va_start(ap, fmt);
	n = vsnprintf(l->words + l->used, room, fmt, ap);
	va_end(ap);
	l->used += MIN((size_t)MAX(n, 0), room - 1);
}

/* The block's bytes, those in the next page too. */
static size_t bytes_of(const struct block *b, u8 *bytes)
{
	size_t here = MIN((size_t)b->len, (size_t)PAGE_SIZE - b->off);

	guest_copy(bytes, b->page->host + b->off, here);
	if (b->crossing)
		guest_copy(bytes + here, b->page2->host, b->len - here);
	return b->len;
}

static void say_bytes(struct lockstep *l, const struct block *b)
{
	u8 bytes[PAGE_SIZE];
	size_t len = bytes_of(b, bytes);

	l->used = 0;
	say(l,
	    "host code and interpreter differ after %u of %u instructions "
	    "from %#" PRIx64 ":\n  bytes ",
	    l->done, b->count, l->start.rip);
	for (size_t i = 0; i < len; i++)
		say(l, "%02x", bytes[i]);
	say(l, "\n  %-8s %16s %16s %16s\n", "", "before", "interpreter",
	    "host code");
}

static void say_value(struct lockstep *l, const char *name, u64 before,
                      u64 want, u64 got)
{
	say(l, "%c %-8s %16" PRIx64 " %16" PRIx64 " %16" PRIx64 "\n",
	    want == got ? ' ' : '!', name, before, want, got);
}

/* What rarely changes is told of if it differs. */
static void say_system(struct lockstep *l)
{
	static const struct {
		const char *name;
		size_t at;
	} words[] = {
		{ "cr0", offsetof(struct cpu_state, cr0) },
		{ "cr2", offsetof(struct cpu_state, cr2) },
		{ "cr3", offsetof(struct cpu_state, cr3) },
		{ "cr4", offsetof(struct cpu_state, cr4) },
		{ "efer", offsetof(struct cpu_state, efer) },
		{ "fsbase", offsetof(struct cpu_state, seg[SEG_FS].base) },
		{ "gsbase", offsetof(struct cpu_state, seg[SEG_GS].base) },
		{ "gskernel", offsetof(struct cpu_state, kernel_gs_base) },
		{ "pkru", offsetof(struct cpu_state, pkru) },
		{ "pkrs", offsetof(struct cpu_state, pkrs) },
	};
	const struct cpu_state *w = &l->want, *g = &l->got;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		u64 a, b, c;

		memcpy(&a, (const u8 *)&l->start + words[i].at, 8);
		memcpy(&b, (const u8 *)w + words[i].at, 8);
		memcpy(&c, (const u8 *)g + words[i].at, 8);
		if (b != c)
			say_value(l, words[i].name, a, b, c);
	}
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (memcmp(&w->seg[i], &g->seg[i], sizeof(w->seg[i])))
			say(l, "! segment %u: selectors %#x and %#x\n", i,
			    w->seg[i].selector, g->seg[i].selector);
	if (memcmp(&w->events, &g->events, sizeof(w->events)) ||
	    w->mp_state != g->mp_state)
		say(l, "! events: shadow %d and %d, state %d and %d\n",
		    w->events.interrupt_shadow, g->events.interrupt_shadow,
		    (int)w->mp_state, (int)g->mp_state);
}

static void say_registers(struct lockstep *l)
{
	static const char *const names[GPR_COUNT] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
	};
	const struct cpu_state *s = &l->start, *w = &l->want, *g = &l->got;

	say_value(l, "rip", s->rip, w->rip, g->rip);
	say_value(l, "rflags", s->rflags, w->rflags, g->rflags);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		say_value(l, names[i], s->gpr[i], w->gpr[i], g->gpr[i]);
	for (unsigned i = 0; i < CPU_XSAVE_SIZE; i += 8) {
		u64 a, b, c;

		memcpy(&a, s->xsave + i, 8);
		memcpy(&b, w->xsave + i, 8);
		memcpy(&c, g->xsave + i, 8);
		if (b != c) {
			say(l, "  xsave + %u:\n", i);
			say_value(l, "", a, b, c);
		}
	}
	say_system(l);
}

/* ---- comparing ---- */

static bool reads_clock(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
		return true;
	default:
		return false;
	}
}

/* Of what was interpreted: flags it leaves undefined, and whether it never
 * says the same twice. */
static u64 look_again(const struct lockstep *l, const struct bt_code *code,
                      bool *clock)
{
	const struct block *b = code->block;
	u8 bytes[2 * PAGE_SIZE];
	size_t len = PAGE_SIZE;
	u32 undefined = 0;

	guest_copy(bytes, b->page->host, PAGE_SIZE);
	if (b->crossing)
		len = b->off + bytes_of(b, bytes + b->off);
	*clock = false;
	for (unsigned k = 0; k < l->done; k++) {
		unsigned at = code->out[k].off;
		const ZydisAccessedFlags *f;
		struct insn in;

		if (insn_decode(l->bt->decoder, bt_mode(b->key), bytes + at,
		                len - at, &in) != INSN_OK)
			break;
		*clock |= reads_clock(&in);
		f = in.z.cpu_flags;
		if (f)
			undefined &= ~(f->modified | f->set_0 | f->set_1);
		if (f)
			undefined |= f->undefined;
	}
	return undefined & RFLAGS_STATUS;
}

/* Clocks and what comes from outside are nobody's mistake. */
static void normalize(struct cpu_state *s, u64 flags)
{
	s->rflags &= ~flags;
	s->tsc = 0;
	s->cr8 = 0;
	s->events.nmi_pending = false;
	/* The host's, wherever its own FXSAVE has been. */
	memset(s->xsave + CPU_XSAVE_MXCSR + 4, 0, 4);
}

static bool same_registers(struct lockstep *l)
{
	/* In the middle of a block dead flags are stale: decisions/0010. */
	u64 ignored = !l->finished && !l->bt->exact ? RFLAGS_STATUS : 0;

	icpu_get(l->cpu, &l->got);
	icpu_get(l->other, &l->want);
	/* After an STI the interpreter goes on to the next all the same. */
	if (!l->finished)
		l->got.events.interrupt_shadow =
		    l->want.events.interrupt_shadow;
	ignored |= l->undefined;
	normalize(&l->got, ignored);
	normalize(&l->want, ignored);
	return !memcmp(&l->got, &l->want, sizeof(l->got));
}

/* Bytes that the interpreter changed must be the same; others, too, unless a
 * device may have written them meanwhile. */
static bool same_page(struct lockstep *l, const struct copy *c, bool tell)
{
	bool same = true, foreign = false;
	unsigned shown = 0;

	for (unsigned i = 0; i < PAGE_SIZE; i++) {
		u8 host = guest_get8(c->page + i);

		if (host == c->now[i])
			continue;
		if (!l->strict && c->now[i] == c->first[i]) {
			foreign = true;
			continue;
		}
		same = false;
		if (tell && shown++ < SHOWN_BYTES)
			say(l, "! byte %3x of a page: %02x, %02x and %02x\n", i,
			    c->first[i], c->now[i], host);
	}
	l->figures.foreign += foreign;
	return same;
}

static bool same_memory(struct lockstep *l, bool tell)
{
	bool same = true;

	for (unsigned i = 0; i < l->copies; i++)
		if (memcmp(l->copy[i].now, l->copy[i].page, PAGE_SIZE))
			same &= same_page(l, &l->copy[i], tell);
	return same;
}

static bool same(struct lockstep *l)
{
	return same_registers(l) && same_memory(l, false);
}

static NORETURN void differ(struct lockstep *l, const struct block *b)
{
	say_bytes(l, b);
	same_memory(l, true);
	say_registers(l);
	l->cpu->cur = NULL;
	l->cpu->block = NULL;
	icpu_stop_error(l->cpu, l->words);
}

/*
 * A branch that is taken to what follows it ends what host code did, and not
 * what was interpreted: the number of instructions up to there, or 0.
 */
static unsigned branch_to_next(const struct lockstep *l,
                               const struct bt_code *code)
{
	for (unsigned k = 1; k < code->total; k++)
		if (l->cpu->pcbase + code->out[k].off == l->cpu->rip)
			return k;
	return 0;
}

/* Where host code left is made exact; out is set if in the middle. */
static void place_exit(struct lockstep *l, const struct bt_exit *exit,
                       const struct bt_out **out)
{
	struct icpu *cpu = l->cpu;
	const void *meta = l->bt->meta + exit->value;
	const struct bt_link *link = meta;

	*out = NULL;
	switch ((enum bt_exit_kind)exit->kind) {
	case BT_EXIT_OP:
		*out = meta;
		cpu->rip = cpu->pcbase + (*out)->off;
		break;
	case BT_EXIT_LINK:
		cpu->rip = cpu->pcbase + link->off;
		break;
	case BT_EXIT_RIP:
		break;
	}
}

void lockstep_after(struct lockstep *l, const struct bt_code *code,
                    const struct bt_exit *exit)
{
	const struct block *b = code->block;
	const struct bt_out *out;
	bool compared, clock;
	unsigned k;

	place_exit(l, exit, &out);
	/* It died while the other had its turn, or left at once. */
	if (!b->key || (out && !out->insn))
		return;
	if (out)
		interpret_again(l, code, out->insn);
	compared = out ? l->done == out->insn : l->finished;
	if (!compared) {
		l->figures.unseen++;
		return;
	}
	l->undefined = 0;
	l->figures.blocks++;
	if (same(l))
		return;
	l->undefined = look_again(l, code, &clock);
	if (clock) {
		l->figures.blocks--;
		l->figures.unseen++;
		return;
	}
	k = out ? 0 : branch_to_next(l, code);
	if (k) {
		interpret_again(l, code, k);
		if (l->done == k && same(l))
			return;
		interpret_again(l, code, code->total);
	}
	/* A device may have written what the block reads: once more. */
	if (!l->strict)
		interpret_again(l, code, l->done);
	if (same(l))
		return;
	if (!by_other_translations(l, code))
		differ(l, b);
	l->figures.blocks--;
	l->figures.unseen++;
}

struct lockstep_figures lockstep_figures(const struct lockstep *l)
{
	return l->figures;
}

/* ---- life ---- */

int lockstep_create(struct lockstep **out, struct bt *bt, bool strict,
                    struct error *err)
{
	struct lockstep *l =
	    aligned_alloc(64, ALIGN_UP(sizeof(*l), (size_t)64));
	const struct vcpu_host host = {
		.ctx = l,
		.pio_read = no_pio_read,
		.pio_write = no_pio_write,
		.mmio_read = no_mmio_read,
		.mmio_write = no_mmio_write,
		.msr_read = no_msr_read,
		.msr_write = no_msr_write,
		.tpr_get = same_tpr,
		.tpr_set = no_tpr_set,
		.hypercall = no_hypercall,
	};
	int r;

	ASSERT(l);
	memset(l, 0, sizeof(*l));
	l->bt = bt;
	l->cpu = bt->cpu;
	l->strict = strict;
	for (unsigned i = 0; i < COPIES; i++) {
		l->copy[i].first = xalloc(PAGE_SIZE);
		l->copy[i].now = xalloc(PAGE_SIZE);
	}
	r = icpu_create(&l->other, bt->cpu->sys, bt->cpu->index + 1, &host,
	                err);
	if (r) {
		lockstep_destroy(l);
		return r;
	}
	l->other->trial = trial_page;
	l->other->trial_table = trial_table;
	l->other->trial_ctx = l;
	*out = l;
	return 0;
}

void lockstep_destroy(struct lockstep *l)
{
	if (!l)
		return;
	icpu_destroy(l->other);
	for (unsigned i = 0; i < COPIES; i++) {
		free(l->copy[i].first);
		free(l->copy[i].now);
	}
	free(l);
}
