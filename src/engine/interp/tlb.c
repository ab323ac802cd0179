/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.c - the software TLB: address spaces, and what flushes them.
 *
 * A space is a PCID's worth of translations; a handful are kept, the least
 * recently used one gives way. Entries filled since the last clear are logged,
 * so that clearing a nearly empty space is cheap. One that was never used takes
 * no memory, and is left alone.
 *
 * Exec entries serve jumps: see struct exec_half. A system that switches spaces
 * and flushes them all day runs the same code from the same places all the
 * while; so targets outlive both, as far as the architecture allows.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/interp/code.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

enum { LARGE_SHIFT = 22, GIANT_SHIFT = 30 };

static void entry_clear(struct tlb_entry *e, unsigned index)
{
	e->rtag = e->wtag = tlb_invalid_tag(index);
	e->gpa = 0;
}

static bool keep(const struct tlb_entry *e, bool global)
{
	return !global && e->gpa & 1;
}

/* What a flush takes: all, all that is not global, or what hangs on keys. */
struct goes {
	bool global;
	u32 keys;
};

static bool stays(const struct tlb_entry *e, unsigned index, struct goes goes)
{
	unsigned key = e->gpa >> ENTRY_KEY_SHIFT & ENTRY_KEY;

	if (likely(!goes.keys))
		return keep(e, goes.global);
	return e->rtag != tlb_invalid_tag(index) &&
	       !(key && goes.keys >> (key - 1) & 1);
}

/* The next one that is in use, from *at on; NULL: there is none. */
static struct tlb_space *next_space(const struct icpu *cpu, unsigned *at)
{
	while (*at < TLB_SPACES && !(cpu->spaces_used >> *at & 1))
		++*at;
	return *at < TLB_SPACES ? &cpu->spaces[(*at)++] : NULL;
}

/* ---- what runs ---- */

static void half_reset(struct icpu *cpu, struct exec_half *h)
{
	*h = (struct exec_half){ .generation = ++cpu->generation };
}

static u64 *page_word(struct exec_half *h, gva_t lin, u64 *bit)
{
	u64 n = lin >> PAGE_SHIFT;

	n = (n ^ n >> 10) & (EXEC_FILTER - 1);
	*bit = BIT(n % 64);
	return &h->page[n / 64];
}

/* Might code have run there? */
static bool half_has(struct exec_half *h, gva_t lin)
{
	u64 bit, *word = page_word(h, lin, &bit);

	if (!(h->sides & BIT(lin >> 63)))
		return false;
	if (*word & bit || h->large_count > EXEC_LARGE)
		return true;
	for (u32 i = 0; i < h->large_count; i++)
		if (h->large[i] == lin >> LARGE_SHIFT)
			return true;
	return false;
}

static void half_note(struct exec_half *h, gva_t lin, unsigned shift)
{
	u64 bit, *word = page_word(h, lin, &bit);

	h->sides |= (u8)BIT(lin >> 63);
	if (shift == PAGE_SHIFT) {
		*word |= bit;
	} else if (shift >= GIANT_SHIFT) {
		h->large_count = EXEC_LARGE + 1;
	} else if (!half_has(h, lin)) {
		if (h->large_count < EXEC_LARGE)
			h->large[h->large_count] = lin >> LARGE_SHIFT;
		h->large_count++;
	}
}

void icpu_tlb_retarget(struct icpu *cpu)
{
	const struct tlb_space *s = cpu->space;

	if (cpu->cpl == 3)
		cpu->targets = s->unsure ? UNSETTLED : s->user.generation;
	else
		cpu->targets =
		    s->local ? s->own.generation : cpu->global_code.generation;
}

static void user_forget(struct icpu *cpu, struct tlb_space *s)
{
	memset(s->exec[1], 0, sizeof(s->exec[1]));
	half_reset(cpu, &s->user);
	s->exec_count = 0;
	s->unsure = false;
}

/* Some of the user's pages may have changed. */
static void user_doubt(struct icpu *cpu, struct tlb_space *s)
{
	if (s->exec_count > EXEC_LOG)
		user_forget(cpu, s);
	else if (s->exec_count)
		s->unsure = true;
}

static void own_forget(struct tlb_space *s)
{
	if (s->local)
		memset(s->exec[0], 0, sizeof(s->exec[0]));
	s->local = false;
}

static void global_forget(struct icpu *cpu)
{
	struct tlb_space *s;

	half_reset(cpu, &cpu->global_code);
	for (unsigned i = 0; (s = next_space(cpu, &i));) {
		memset(s->exec[0], 0, sizeof(s->exec[0]));
		s->local = false;
	}
}

static void log_user(struct tlb_space *s, unsigned index, bool taken)
{
	/* What gives way is in nobody's list any more, but may be a target. */
	if (taken || s->exec_count >= EXEC_LOG)
		s->exec_count = EXEC_LOG + 1;
	else
		s->exec_log[s->exec_count++] = (u16)index;
}

void tlb_fill_exec(struct icpu *cpu, gva_t lin, bool user,
                   struct codepage *page, const struct paging_result *r)
{
	struct tlb_space *s = cpu->space;
	unsigned index = lin >> PAGE_SHIFT & (XTLB_ENTRIES - 1);
	struct xtlb_entry *x = &s->exec[user][index];
	struct exec_half *h = &s->user;

	if (user) {
		log_user(s, index, x->tag & 1);
	} else {
		if (!r->global && !s->local) {
			/* All that runs from here on is noted in its own. */
			memset(s->exec[0], 0, sizeof(s->exec[0]));
			half_reset(cpu, &s->own);
			s->local = true;
			icpu_tlb_retarget(cpu);
		}
		h = s->local ? &s->own : &cpu->global_code;
	}
	*x = (struct xtlb_entry){
		.tag = (lin & PAGE_MASK) | 1,
		.page = page,
		.global = r->global,
	};
	half_note(h, lin, r->shift);
	if (r->shift > PAGE_SHIFT)
		tlb_note_large(s, lin, r->shift, r->global);
}

void tlb_settle(struct icpu *cpu)
{
	struct tlb_space *s = cpu->space;
	bool same = true;

	for (u32 i = 0; same && i < s->exec_count; i++) {
		const struct xtlb_entry *x = &s->exec[1][s->exec_log[i]];
		struct paging_result r;

		same = paging_walk(cpu, x->tag & PAGE_MASK, ACCESS_EXEC,
		                   PRIV_USER, true, &r) &&
		       (r.gpa & PAGE_MASK) == x->page->gpa &&
		       r.global == x->global && r.shift == PAGE_SHIFT;
	}
	if (!same)
		user_forget(cpu, s);
	s->unsure = false;
	icpu_tlb_retarget(cpu);
}

void tlb_drop_code(struct icpu *cpu)
{
	struct tlb_space *s;

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		user_forget(cpu, s);
	global_forget(cpu);
	icpu_tlb_retarget(cpu);
}

/* ---- flushes ---- */

/* Some of 64 pieces. What is kept is logged again. */
static u64 flush_pieces(struct tlb_space *s, unsigned p, u64 pieces,
                        unsigned first, struct goes goes)
{
	struct tlb_fills *f = &s->fills[p];
	u64 left = 0;

	for (; pieces; pieces &= pieces - 1) {
		unsigned bit = (unsigned)__builtin_ctzll(pieces);
		unsigned x = (first + bit) * TLB_PIECE;

		for (unsigned end = x + TLB_PIECE; x < end; x++) {
			if (!stays(&s->data[p][x], x, goes)) {
				entry_clear(&s->data[p][x], x);
				continue;
			}
			left |= BIT(bit);
			tlb_log(s, p, x);
		}
	}
	f->piece[first / 64] = left;
	return left;
}

static void flush_all_data(struct tlb_space *s, unsigned p, struct goes goes)
{
	struct tlb_fills *f = &s->fills[p];

	f->count = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(f->piece); i++)
		flush_pieces(s, p, f->piece[i], i * 64, goes);
}

static void flush_logged(struct tlb_space *s, unsigned p, struct goes goes)
{
	struct tlb_fills *f = &s->fills[p];
	u32 n = 0;

	for (u32 i = 0; i < f->count; i++) {
		unsigned x = f->log[i];

		if (stays(&s->data[p][x], x, goes))
			f->log[n++] = f->log[i];
		else
			entry_clear(&s->data[p][x], x);
	}
	f->count = n;
	if (!n)
		memset(f->piece, 0, sizeof(f->piece));
}

static void flush_some(struct tlb_space *s, unsigned p, struct goes goes)
{
	struct tlb_fills *f = &s->fills[p];

	if (f->count > TLB_LOG)
		flush_all_data(s, p, goes);
	else
		flush_logged(s, p, goes);
	if (f->count)
		return;
	f->keys = 0;
	memset(f->writable, 0, sizeof(f->writable));
}

static void flush_table(struct tlb_space *s, unsigned p, bool global)
{
	struct tlb_fills *f = &s->fills[p];

	if (!f->count || (!global && !f->local))
		return;
	flush_some(s, p, (struct goes){ .global = global });
	f->local = false;
}

/*
 * global: those entries, too. Exec entries of global supervisor pages stay:
 * they are good in every space, and global_forget() takes them where they are
 * not.
 */
static void space_flush(struct icpu *cpu, struct tlb_space *s, bool global)
{
	s->flushes++;
	memset(s->large[0], 0, sizeof(s->large[0]));
	s->giant[0] = 0;
	if (global) {
		memset(s->large[1], 0, sizeof(s->large[1]));
		s->giant[1] = 0;
	}
	for (unsigned p = 0; p < PRIV_COUNT; p++)
		flush_table(s, p, global);
	own_forget(s);
	if (global)
		user_forget(cpu, s);
	else
		user_doubt(cpu, s);
}

void tlb_forget_data(struct icpu *cpu)
{
	for (unsigned p = 0; p < PRIV_COUNT; p++)
		flush_table(cpu->space, p, true);
}

void tlb_log(struct tlb_space *s, unsigned priv, unsigned index)
{
	struct tlb_fills *f = &s->fills[priv];
	unsigned n = index / TLB_PIECE;

	if (f->count < TLB_LOG)
		f->log[f->count] = (u16)index;
	if (f->count <= TLB_LOG)
		f->count++;
	f->piece[n / 64] |= BIT(n % 64);
}

static u64 *writable_word(struct tlb_fills *f, const u8 *host, u64 *bit)
{
	u64 n = (uintptr_t)host >> PAGE_SHIFT;

	n = (n ^ n >> 15) & (TLB_WRITABLE - 1);
	*bit = BIT(n % 64);
	return &f->writable[n / 64];
}

void tlb_note_writable(struct tlb_space *s, unsigned priv, const u8 *host)
{
	u64 bit, *word = writable_word(&s->fills[priv], host, &bit);

	*word |= bit;
}

/* That are nothing but zeros. */
static void empty_tables(struct tlb_space *s)
{
	for (unsigned priv = 0; priv < PRIV_COUNT; priv++)
		entry_clear(&s->data[priv][0], 0);
}

/* One of nothing but zeroes is in use from now on. */
static void space_begin(struct icpu *cpu, struct tlb_space *s)
{
	empty_tables(s);
	half_reset(cpu, &s->user);
	cpu->spaces_used |= (u32)BIT(s - cpu->spaces);
}

int tlb_create(struct icpu *cpu)
{
	void *p = mmap(NULL, TLB_SPACES * sizeof(*cpu->spaces),
	               PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	_Static_assert(TLB_PIECE * sizeof(struct tlb_entry) == PAGE_SIZE,
	               "a piece is a host page");
	if (p == MAP_FAILED)
		return -errno;
	/* A huge page would be touched as a whole. */
	madvise(p, TLB_SPACES * sizeof(*cpu->spaces), MADV_NOHUGEPAGE);
	cpu->spaces = p;
	cpu->generation = UNSETTLED;
	half_reset(cpu, &cpu->global_code);
	space_begin(cpu, &cpu->spaces[0]);
	cpu->space = &cpu->spaces[0];
	cpu->tlb = cpu->space->data[cpu->priv];
	icpu_tlb_retarget(cpu);
	return 0;
}

void tlb_destroy(struct icpu *cpu)
{
	if (cpu->spaces)
		munmap(cpu->spaces, TLB_SPACES * sizeof(*cpu->spaces));
}

/* Of none of those in use: one that is not, or the one used longest ago. */
static struct tlb_space *space_for(struct icpu *cpu, u64 pcid)
{
	struct tlb_space *s, *victim = NULL;
	unsigned unused = (unsigned)__builtin_ctz(~cpu->spaces_used);

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		if (!victim || s->used < victim->used)
			victim = s;
	if (unused < TLB_SPACES) {
		victim = &cpu->spaces[unused];
		space_begin(cpu, victim);
	} else {
		space_flush(cpu, victim, true);
	}
	victim->pcid = pcid;
	return victim;
}

void icpu_tlb_switch(struct icpu *cpu, u64 pcid, bool flush)
{
	struct tlb_space *found = NULL, *s;

	for (unsigned i = 0; !found && (s = next_space(cpu, &i));)
		found = s->pcid == pcid ? s : NULL;
	if (!found) {
		found = space_for(cpu, pcid);
	} else if (flush) {
		space_flush(cpu, found, false);
	}
	found->used = ++cpu->use_clock;
	cpu->space = found;
	cpu->tlb = found->data[cpu->priv];
	icpu_tlb_retarget(cpu);
}

void icpu_tlb_flush(struct icpu *cpu, bool global)
{
	struct tlb_space *s;

	if (global) {
		cpu->tlb_epoch++;
		for (unsigned i = 0; (s = next_space(cpu, &i));)
			space_flush(cpu, s, true);
		global_forget(cpu);
	} else {
		space_flush(cpu, cpu->space, false);
	}
	icpu_tlb_retarget(cpu);
}

void tlb_hand_back(struct icpu *cpu)
{
	struct tlb_space *s = cpu->space;
	u64 pcid = s->pcid, used = s->used, flushes = s->flushes;

	icpu_tlb_flush(cpu, true);
	madvise(cpu->spaces, TLB_SPACES * sizeof(*cpu->spaces), MADV_DONTNEED);
	cpu->spaces_used = 0;
	space_begin(cpu, s);
	s->pcid = pcid;
	s->used = used;
	s->flushes = flushes + 1;
	icpu_tlb_retarget(cpu);
}

/* ---- one page ---- */

/* Which of n pieces of 1 << shift bytes: the halves of memory share none, as
 * large pages are the system's, and INVLPG is for the user's as a rule. */
static unsigned piece_of(gva_t lin, unsigned shift, unsigned n)
{
	return (unsigned)(lin >> shift & (n / 2 - 1)) |
	       (unsigned)(lin >> 63) * (n / 2);
}

static u64 *large_word(struct tlb_space *s, gva_t lin, bool global, u64 *bit)
{
	unsigned n = piece_of(lin, LARGE_SHIFT, TLB_LARGE);

	*bit = BIT(n % 64);
	return &s->large[global][n / 64];
}

static u64 giant_bit(gva_t lin)
{
	return BIT(piece_of(lin, GIANT_SHIFT, 64));
}

void tlb_note_large(struct tlb_space *s, gva_t lin, unsigned shift, bool global)
{
	u64 bit, *word = large_word(s, lin, global, &bit);

	*word |= bit;
	if (shift >= GIANT_SHIFT)
		s->giant[global] |= giant_bit(lin);
}

/* How far around lin a page may reach that entries of s stem from. */
static unsigned reach(struct tlb_space *s, gva_t lin)
{
	u64 bit, other;

	if ((s->giant[0] | s->giant[1]) & giant_bit(lin))
		return GIANT_SHIFT;
	other = *large_word(s, lin, true, &bit);
	return (*large_word(s, lin, false, &bit) | other) & bit ? LARGE_SHIFT
	                                                        : PAGE_SHIFT;
}

/* All entries for the 2^shift bytes around lin go. */
static void flush_large(struct icpu *cpu, struct tlb_space *s, gva_t lin,
                        unsigned shift, bool global)
{
	u64 n = MIN(BIT(shift - PAGE_SHIFT), (u64)TLB_ENTRIES);
	u64 first = lin >> shift << (shift - PAGE_SHIFT);

	cpu->tlb_epoch++;
	for (unsigned p = 0; p < PRIV_COUNT; p++)
		for (u64 i = 0; i < n; i++) {
			unsigned x = (first + i) & (TLB_ENTRIES - 1);
			struct tlb_entry *e = &s->data[p][x];

			if (((e->rtag ^ lin) >> shift == 0 ||
			     (e->wtag ^ lin) >> shift == 0) &&
			    !keep(e, global))
				entry_clear(e, x);
		}
}

static void flush_small(struct tlb_space *s, gva_t lin, bool global)
{
	unsigned x = lin >> PAGE_SHIFT & (TLB_ENTRIES - 1);
	u64 tag = lin & PAGE_MASK;

	for (unsigned p = 0; p < PRIV_COUNT; p++) {
		struct tlb_entry *e = &s->data[p][x];

		if ((e->rtag == tag || e->wtag == tag) && !keep(e, global))
			entry_clear(e, x);
	}
}

static void space_flush_page(struct icpu *cpu, struct tlb_space *s, gva_t lin,
                             bool global)
{
	unsigned shift = reach(s, lin);

	if (shift > PAGE_SHIFT)
		flush_large(cpu, s, lin, shift, global);
	else
		flush_small(s, lin, global);
	if (half_has(&s->user, lin))
		user_doubt(cpu, s);
	if (s->local && half_has(&s->own, lin))
		own_forget(s);
}

static void page_gone(struct icpu *cpu, gva_t lin)
{
	if (cpu->code_ops)
		cpu->code_ops->page_gone(cpu, lin & PAGE_MASK);
	icpu_tlb_retarget(cpu);
}

/* INVLPG drops global translations of the page in every space. */
void icpu_tlb_flush_page(struct icpu *cpu, gva_t lin)
{
	struct tlb_space *s;

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		space_flush_page(cpu, s, lin, true);
	if (half_has(&cpu->global_code, lin))
		global_forget(cpu);
	page_gone(cpu, lin);
}

void icpu_tlb_flush_pcid(struct icpu *cpu, u64 pcid)
{
	struct tlb_space *s;

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		if (s->pcid == pcid)
			space_flush(cpu, s, false);
	icpu_tlb_retarget(cpu);
}

void icpu_tlb_flush_pcid_page(struct icpu *cpu, u64 pcid, gva_t lin)
{
	struct tlb_space *s;

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		if (s->pcid == pcid)
			space_flush_page(cpu, s, lin, false);
	page_gone(cpu, lin);
}

/* ---- who may write without a word ---- */

static void drop_write(struct tlb_entry *e, unsigned index, const u8 *host)
{
	if (!host || e->wtag + e->addend == (uintptr_t)host)
		e->wtag = tlb_invalid_tag(index);
}

static void drop_in_pieces(struct tlb_entry *table, const struct tlb_fills *f,
                           const u8 *host)
{
	for (unsigned x = 0; x < TLB_ENTRIES; x++) {
		unsigned n = x / TLB_PIECE;

		if (f->piece[n / 64] & BIT(n % 64))
			drop_write(&table[x], x, host);
		else
			x += TLB_PIECE - 1;
	}
}

static void drop_in_table(struct tlb_entry *table, struct tlb_fills *f,
                          const u8 *host)
{
	u64 bit;

	if (host && !(*writable_word(f, host, &bit) & bit))
		return;
	if (f->count > TLB_LOG) {
		drop_in_pieces(table, f, host);
		return;
	}
	for (u32 i = 0; i < f->count; i++)
		drop_write(&table[f->log[i]], f->log[i], host);
}

void icpu_tlb_drop_writes(struct icpu *cpu, const u8 *host)
{
	struct tlb_space *s;

	cpu->tlb_epoch++;
	for (unsigned i = 0; (s = next_space(cpu, &i));)
		for (unsigned p = 0; p < PRIV_COUNT; p++)
			drop_in_table(s->data[p], &s->fills[p], host);
}

/* ---- protection keys ---- */

void icpu_tlb_drop_keys(struct icpu *cpu, u32 keys)
{
	struct tlb_space *s;

	for (unsigned i = 0; (s = next_space(cpu, &i));)
		for (unsigned p = 0; p < PRIV_COUNT; p++) {
			struct tlb_fills *f = &s->fills[p];

			if (!(f->keys & keys))
				continue;
			flush_some(s, p, (struct goes){ .keys = keys });
			f->keys &= ~keys;
			cpu->tlb_epoch++;
		}
}
