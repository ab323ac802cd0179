/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.c - the software TLB: address spaces, and what flushes them.
 *
 * A space is a PCID's worth of translations; a handful are kept, the least
 * recently used one gives way. Entries filled since the last clear are logged,
 * so that clearing a nearly empty space is cheap.
 */
#include <string.h>

#include "engine/interp/code.h"
#include "engine/interp/tlb.h"

enum { LARGE_SHIFT = 22, GIANT_SHIFT = 30 };

static void entry_clear(struct tlb_entry *e, unsigned index)
{
	e->rtag = e->wtag = tlb_invalid_tag(index);
	e->gpa = 0;
}

static void space_clear_all(struct tlb_space *s)
{
	for (unsigned p = 0; p < PRIV_COUNT; p++)
		for (unsigned i = 0; i < TLB_ENTRIES; i++)
			entry_clear(&s->data[p][i], i);
}

static bool keep(const struct tlb_entry *e, bool global)
{
	return !global && e->gpa & 1;
}

static void space_flush(struct icpu *cpu, struct tlb_space *s, bool global)
{
	cpu->tlb_epoch++;
	memset(s->large[0], 0, sizeof(s->large[0]));
	s->giant[0] = 0;
	if (global) {
		memset(s->large[1], 0, sizeof(s->large[1]));
		s->giant[1] = 0;
	}
	if (s->filled > TLB_LOG) {
		bool kept = false;

		for (unsigned p = 0; p < PRIV_COUNT; p++)
			for (unsigned i = 0; i < TLB_ENTRIES; i++) {
				if (keep(&s->data[p][i], global))
					kept = true;
				else
					entry_clear(&s->data[p][i], i);
			}
		/* What is kept is in no log. */
		s->filled = kept ? TLB_LOG + 1 : 0;
	} else {
		u32 n = 0;

		for (u32 i = 0; i < s->filled; i++) {
			unsigned p = s->log[i] / TLB_ENTRIES;
			unsigned x = s->log[i] % TLB_ENTRIES;

			if (keep(&s->data[p][x], global))
				s->log[n++] = s->log[i];
			else
				entry_clear(&s->data[p][x], x);
		}
		s->filled = n;
	}
	for (unsigned u = 0; u < 2; u++)
		for (unsigned i = 0; i < XTLB_ENTRIES; i++)
			if (global || !s->exec[u][i].global)
				s->exec[u][i].tag = 0;
	s->generation = ++cpu->generation;
}

void tlb_log(struct tlb_space *s, unsigned priv, unsigned index)
{
	if (s->filled < TLB_LOG)
		s->log[s->filled] = (u16)(priv * TLB_ENTRIES + index);
	if (s->filled <= TLB_LOG)
		s->filled++;
}

void tlb_init(struct icpu *cpu)
{
	for (unsigned i = 0; i < TLB_SPACES; i++) {
		struct tlb_space *s = &cpu->spaces[i];

		space_clear_all(s);
		s->generation = ++cpu->generation;
		s->pcid = i ? ~(u64)0 : 0;
	}
	cpu->space = &cpu->spaces[0];
	cpu->tlb = cpu->space->data[cpu->priv];
}

void icpu_tlb_switch(struct icpu *cpu, u64 pcid, bool flush)
{
	struct tlb_space *found = NULL, *victim = &cpu->spaces[0];

	for (unsigned i = 0; i < TLB_SPACES; i++) {
		struct tlb_space *s = &cpu->spaces[i];

		if (s->pcid == pcid)
			found = s;
		if (s->used < victim->used)
			victim = s;
	}
	if (!found) {
		found = victim;
		space_flush(cpu, found, true);
		found->pcid = pcid;
	} else if (flush) {
		space_flush(cpu, found, false);
	}
	found->used = ++cpu->use_clock;
	if (cpu->space != found)
		cpu->tlb_epoch++;
	cpu->space = found;
	cpu->tlb = found->data[cpu->priv];
}

void icpu_tlb_flush(struct icpu *cpu, bool global)
{
	for (unsigned i = 0; i < TLB_SPACES; i++)
		if (global || &cpu->spaces[i] == cpu->space)
			space_flush(cpu, &cpu->spaces[i], global);
}

/* ---- one page ---- */

static u64 *large_word(struct tlb_space *s, gva_t lin, bool global, u64 *bit)
{
	unsigned n = lin >> LARGE_SHIFT & (TLB_LARGE - 1);

	*bit = BIT(n % 64);
	return &s->large[global][n / 64];
}

void tlb_note_large(struct tlb_space *s, gva_t lin, unsigned shift, bool global)
{
	u64 bit, *word = large_word(s, lin, global, &bit);

	*word |= bit;
	if (shift >= GIANT_SHIFT)
		s->giant[global] |= BIT(lin >> GIANT_SHIFT & 63);
}

/* How far around lin a page may reach that entries of s stem from. */
static unsigned reach(struct tlb_space *s, gva_t lin)
{
	u64 bit, other;

	if ((s->giant[0] | s->giant[1]) & BIT(lin >> GIANT_SHIFT & 63))
		return GIANT_SHIFT;
	other = *large_word(s, lin, true, &bit);
	return (*large_word(s, lin, false, &bit) | other) & bit ? LARGE_SHIFT
	                                                        : PAGE_SHIFT;
}

/* All entries for the 2^shift bytes around lin go. */
static void flush_large(struct icpu *cpu, struct tlb_space *s, gva_t lin,
                        unsigned shift, bool global)
{
	u64 n = BIT(shift - PAGE_SHIFT);
	u64 first = lin >> shift << (shift - PAGE_SHIFT);

	for (unsigned p = 0; p < PRIV_COUNT; p++)
		for (u64 i = 0; i < MIN(n, (u64)TLB_ENTRIES); i++) {
			unsigned x = (first + i) & (TLB_ENTRIES - 1);
			struct tlb_entry *e = &s->data[p][x];

			if (((e->rtag ^ lin) >> shift == 0 ||
			     (e->wtag ^ lin) >> shift == 0) &&
			    !keep(e, global))
				entry_clear(e, x);
		}
	for (unsigned u = 0; u < 2; u++)
		for (unsigned i = 0; i < XTLB_ENTRIES; i++) {
			struct xtlb_entry *e = &s->exec[u][i];

			if (e->tag & 1 && (e->tag ^ lin) >> shift == 0 &&
			    (global || !e->global))
				e->tag = 0;
		}
	s->generation = ++cpu->generation;
}

static void space_flush_page(struct icpu *cpu, struct tlb_space *s, gva_t lin,
                             bool global)
{
	unsigned x = lin >> PAGE_SHIFT & (TLB_ENTRIES - 1);
	unsigned y = lin >> PAGE_SHIFT & (XTLB_ENTRIES - 1);
	u64 tag = lin & PAGE_MASK;
	unsigned shift = reach(s, lin);

	cpu->tlb_epoch++;
	if (shift > PAGE_SHIFT) {
		flush_large(cpu, s, lin, shift, global);
		return;
	}
	for (unsigned p = 0; p < PRIV_COUNT; p++) {
		struct tlb_entry *e = &s->data[p][x];

		if ((e->rtag == tag || e->wtag == tag) && !keep(e, global))
			entry_clear(e, x);
	}
	for (unsigned u = 0; u < 2; u++) {
		struct xtlb_entry *e = &s->exec[u][y];

		if (e->tag == (tag | 1) && (global || !e->global)) {
			e->tag = 0;
			s->generation = ++cpu->generation;
		}
	}
}

/* INVLPG drops global translations of the page in every space. */
void icpu_tlb_flush_page(struct icpu *cpu, gva_t lin)
{
	for (unsigned i = 0; i < TLB_SPACES; i++)
		space_flush_page(cpu, &cpu->spaces[i], lin, true);
}

void icpu_tlb_flush_pcid(struct icpu *cpu, u64 pcid)
{
	for (unsigned i = 0; i < TLB_SPACES; i++)
		if (cpu->spaces[i].pcid == pcid)
			space_flush(cpu, &cpu->spaces[i], false);
}

void icpu_tlb_flush_pcid_page(struct icpu *cpu, u64 pcid, gva_t lin)
{
	for (unsigned i = 0; i < TLB_SPACES; i++)
		if (cpu->spaces[i].pcid == pcid)
			space_flush_page(cpu, &cpu->spaces[i], lin, false);
}

static void drop_write(struct tlb_entry *e, unsigned index, const u8 *host)
{
	if (!host || e->wtag + e->addend == (uintptr_t)host)
		e->wtag = tlb_invalid_tag(index);
}

void icpu_tlb_drop_writes(struct icpu *cpu, const u8 *host)
{
	cpu->tlb_epoch++;
	for (unsigned n = 0; n < TLB_SPACES; n++) {
		struct tlb_space *s = &cpu->spaces[n];

		/* Few are filled most of the time, and they are logged. */
		for (u32 i = 0; s->filled <= TLB_LOG && i < s->filled; i++) {
			unsigned p = s->log[i] / TLB_ENTRIES;
			unsigned x = s->log[i] % TLB_ENTRIES;

			drop_write(&s->data[p][x], x, host);
		}
		if (s->filled <= TLB_LOG)
			continue;
		for (unsigned p = 0; p < PRIV_COUNT; p++)
			for (unsigned i = 0; i < TLB_ENTRIES; i++)
				drop_write(&s->data[p][i], i, host);
	}
}

void tlb_drop_code(struct icpu *cpu)
{
	for (unsigned n = 0; n < TLB_SPACES; n++) {
		struct tlb_space *s = &cpu->spaces[n];

		memset(s->exec, 0, sizeof(s->exec));
		s->generation = ++cpu->generation;
	}
}
