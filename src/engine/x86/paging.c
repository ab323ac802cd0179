/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paging.c - the page walk.
 *
 *	format   levels  index bits     large pages
 *	32-bit   2       10, 10         4 MiB (PSE, 40-bit with PSE-36)
 *	PAE      3       2, 9, 9        2 MiB; top level kept in registers
 *	4-level  4       9, 9, 9, 9     2 MiB, 1 GiB
 */
#include "engine/x86/paging.h"

enum {
	PTE_P = 1 << 0,
	PTE_W = 1 << 1,
	PTE_U = 1 << 2,
	PTE_A = 1 << 5,
	PTE_D = 1 << 6,
	PTE_PS = 1 << 7,
	PTE_G = 1 << 8,
};
#define PTE_NX ((u64)1 << 63)
#define PTE_KEY_SHIFT 59
#define PTE_ADDRESS ((u64)0x000ffffffffff000)

/* An entry of a table and where it lives; host is NULL outside memory. */
struct entry {
	u64 value;
	u8 *host;
	gpa_t gpa;
	bool rom, wide;
};

static void entry_read(struct icpu *cpu, gpa_t gpa, bool wide, struct entry *e)
{
	const struct isystem_slot *s = isystem_slot(cpu->sys, gpa);

	e->gpa = gpa;
	e->wide = wide;
	e->host = s ? s->host + (gpa - s->base) : NULL;
	e->rom = s && s->rom;
	if (unlikely(cpu->trial_table && s))
		cpu->trial_table(cpu, e->host - (gpa & ~PAGE_MASK));
	if (!e->host)
		e->value = wide ? ~(u64)0 : 0xffffffff;
	else if (wide)
		e->value = atomic_load_explicit((_Atomic u64 *)(void *)e->host,
		                                memory_order_relaxed);
	else
		e->value = atomic_load_explicit((_Atomic u32 *)(void *)e->host,
		                                memory_order_relaxed);
}

/* false: someone changed the entry meanwhile; walk again. */
static bool entry_set_bits(struct icpu *cpu, struct entry *e, u64 bits)
{
	const struct isystem_slot *s;
	bool ok;

	if ((e->value & bits) == bits || !e->host || e->rom)
		return true;
	if (e->wide) {
		u64 old = e->value;

		ok = atomic_compare_exchange_strong(
		    (_Atomic u64 *)(void *)e->host, &old, old | bits);
	} else {
		u32 old = (u32)e->value;

		ok = atomic_compare_exchange_strong(
		    (_Atomic u32 *)(void *)e->host, &old, old | (u32)bits);
	}
	if (!ok)
		return false;
	e->value |= bits;
	s = isystem_slot(cpu->sys, e->gpa);
	if (s) {
		_Atomic u8 *flags = &s->page[(e->gpa - s->base) >> PAGE_SHIFT];
		u8 f = atomic_load_explicit(flags, memory_order_relaxed);

		if (!(f & PAGE_DIRTY))
			f = atomic_fetch_or(flags, PAGE_DIRTY);
		if (f & PAGE_CODE)
			isystem_code_written(cpu->sys, cpu, e->gpa, 8);
	}
	return true;
}

/* Of each key in PKRU and PKRS. */
enum { KEY_NO_ACCESS = 1 << 0, KEY_NO_WRITE = 1 << 1 };

struct walk {
	struct icpu *cpu;
	gva_t lin;
	enum icpu_access access;
	unsigned priv;
	bool set_bits;
	bool user, write, nx; /* ANDed, ANDed and ORed over the levels */
	struct paging_result *out;
};

static bool fail(const struct walk *w, u32 error)
{
	if (w->access == ACCESS_WRITE)
		error |= PF_W;
	if (w->priv == PRIV_USER)
		error |= PF_U;
	if (w->access == ACCESS_EXEC &&
	    ((w->cpu->efer & EFER_NXE && w->cpu->cr4 & CR4_PAE) ||
	     w->cpu->cr4 & CR4_SMEP))
		error |= PF_I;
	w->out->error = error;
	return false;
}

/* SDM vol. 3 4.6: may this access use a page with these rights? */
static bool allowed(const struct walk *w)
{
	const struct icpu *cpu = w->cpu;

	if (w->priv == PRIV_USER) {
		if (!w->user)
			return false;
		if (w->access == ACCESS_WRITE)
			return w->write;
	} else {
		if (w->user && w->access == ACCESS_EXEC && cpu->cr4 & CR4_SMEP)
			return false;
		if (w->user && w->access != ACCESS_EXEC &&
		    w->priv == PRIV_SUPER && cpu->cr4 & CR4_SMAP)
			return false;
		if (w->access == ACCESS_WRITE)
			return w->write || !(cpu->cr0 & CR0_WP);
	}
	return w->access != ACCESS_EXEC || !w->nx;
}

/*
 * SDM vol. 3 4.6.2: the leaf's protection key, as ENTRY_KEY of icpu.h; 0 where
 * none counts. It is the page that says whose rights they are.
 */
static unsigned key_of(const struct walk *w, u64 leaf)
{
	const struct icpu *cpu = w->cpu;
	unsigned key = 1 + (leaf >> PTE_KEY_SHIFT & (KEYS - 1));

	if (likely(!(cpu->cr4 & (CR4_PKE | CR4_PKS))) || !icpu_long(cpu))
		return 0;
	if (w->user)
		return cpu->cr4 & CR4_PKE ? key : 0;
	return cpu->cr4 & CR4_PKS ? KEYS + key : 0;
}

/* Fetches are not its business; CR0.WP is asked as it is for other rights. */
static bool key_denies(const struct walk *w, unsigned key, bool write)
{
	const struct icpu *cpu = w->cpu;
	u64 rights = key > KEYS ? cpu->pkrs : cpu->pkru;

	if (!key)
		return false;
	rights >>= 2 * ((key - 1) & (KEYS - 1));
	return rights & KEY_NO_ACCESS ||
	       (write && rights & KEY_NO_WRITE &&
	        (w->priv == PRIV_USER || cpu->cr0 & CR0_WP));
}

static u64 reserved_bits(const struct icpu *cpu)
{
	u64 r = cpu->reserved;

	if (!icpu_long(cpu))
		r |= 0x7ff0000000000000; /* PAE: 62:52 too */
	if (!(cpu->efer & EFER_NXE))
		r |= PTE_NX;
	return r;
}

static void take_rights(struct walk *w, u64 pte)
{
	w->user = w->user && pte & PTE_U;
	w->write = w->write && pte & PTE_W;
	w->nx = w->nx || (w->cpu->efer & EFER_NXE && pte & PTE_NX);
}

enum outcome { DONE, AGAIN, FAULT };

/* The leaf is found: rights, then its bits, then those of the levels above. */
static enum outcome finish(struct walk *w, struct entry *path, unsigned n,
                           unsigned shift, gpa_t gpa)
{
	struct entry *leaf = &path[n - 1];
	u64 bits = PTE_A | (w->access == ACCESS_WRITE ? PTE_D : 0);
	unsigned key = key_of(w, leaf->value);
	bool denied = w->access != ACCESS_EXEC &&
	              key_denies(w, key, w->access == ACCESS_WRITE);

	if (w->set_bits) {
		if (denied || !allowed(w)) {
			fail(w, PF_P | (denied ? PF_PK : 0));
			return FAULT;
		}
		for (unsigned i = 0; i + 1 < n; i++)
			if (!entry_set_bits(w->cpu, &path[i], PTE_A))
				return AGAIN;
		if (!entry_set_bits(w->cpu, leaf, bits))
			return AGAIN;
	}
	w->out->gpa = gpa;
	w->out->shift = (u8)shift;
	w->out->global = leaf->value & PTE_G && w->cpu->cr4 & CR4_PGE;
	w->out->writable =
	    leaf->value & PTE_D && !key_denies(w, key, true) &&
	    (w->write || (w->priv != PRIV_USER && !(w->cpu->cr0 & CR0_WP)));
	w->out->key = (u8)key;
	return DONE;
}

static enum outcome walk_wide(struct walk *w, struct entry *path)
{
	struct icpu *cpu = w->cpu;
	u64 reserved = reserved_bits(cpu);
	u64 table;
	unsigned level, n = 0;

	if (icpu_long(cpu)) {
		level = 3;
		table = cpu->cr3 & PTE_ADDRESS;
	} else {
		u64 pdpte = cpu->pdpte[w->lin >> 30 & 3];

		if (!(pdpte & PTE_P)) {
			fail(w, 0);
			return FAULT;
		}
		level = 1;
		table = pdpte & PTE_ADDRESS;
	}
	for (;; level--) {
		struct entry *e = &path[n++];
		unsigned shift = PAGE_SHIFT + 9 * level;
		u64 pte, bad = reserved;

		entry_read(cpu, table + (w->lin >> shift & 511) * 8, true, e);
		pte = e->value;
		if (!(pte & PTE_P)) {
			fail(w, 0);
			return FAULT;
		}
		if (level == 3 || (level == 2 && !cpu->pge1g))
			bad |= PTE_PS;
		if (level && pte & PTE_PS && !(bad & PTE_PS))
			bad |= (BIT(shift) - 1) & ~(u64)0x1fff;
		if (pte & bad) {
			fail(w, PF_P | PF_RSVD);
			return FAULT;
		}
		take_rights(w, pte);
		if (level == 0 || pte & PTE_PS) {
			u64 mask = BIT(shift) - 1;

			return finish(w, path, n, shift,
			              (pte & PTE_ADDRESS & ~mask) |
			                  (w->lin & mask));
		}
		table = pte & PTE_ADDRESS;
	}
}

static enum outcome walk_narrow(struct walk *w, struct entry *path)
{
	struct icpu *cpu = w->cpu;
	u32 pde, pte;

	entry_read(cpu, (cpu->cr3 & 0xfffff000) + (w->lin >> 22 & 1023) * 4,
	           false, &path[0]);
	pde = (u32)path[0].value;
	if (!(pde & PTE_P)) {
		fail(w, 0);
		return FAULT;
	}
	take_rights(w, pde);
	if (pde & PTE_PS && cpu->cr4 & CR4_PSE) {
		gpa_t base = (pde & 0xffc00000) | (u64)(pde >> 13 & 0xff) << 32;

		if (pde & BIT(21) || base & cpu->reserved) {
			fail(w, PF_P | PF_RSVD);
			return FAULT;
		}
		return finish(w, path, 1, 22, base | (w->lin & 0x3fffff));
	}
	entry_read(cpu, (pde & 0xfffff000) + (w->lin >> 12 & 1023) * 4, false,
	           &path[1]);
	pte = (u32)path[1].value;
	if (!(pte & PTE_P)) {
		fail(w, 0);
		return FAULT;
	}
	take_rights(w, pte);
	return finish(w, path, 2, PAGE_SHIFT,
	              (pte & 0xfffff000) | (w->lin & 0xfff));
}

bool paging_walk(struct icpu *cpu, gva_t lin, enum icpu_access access,
                 unsigned priv, bool set_bits, struct paging_result *out)
{
	struct entry path[4];
	enum outcome o;

	if (!(cpu->cr0 & CR0_PG)) {
		*out = (struct paging_result){
			.gpa = lin & 0xffffffff,
			.shift = PAGE_SHIFT,
			.writable = true,
		};
		return true;
	}
	do {
		struct walk w = {
			.cpu = cpu,
			.lin = lin,
			.access = access,
			.priv = priv,
			.set_bits = set_bits,
			.user = true,
			.write = true,
			.out = out,
		};

		o = cpu->cr4 & CR4_PAE ? walk_wide(&w, path)
		                       : walk_narrow(&w, path);
	} while (o == AGAIN);
	return o == DONE;
}

bool paging_load_pdptes(struct icpu *cpu, u64 cr3, u64 out[4])
{
	u64 pdpte[4];

	for (unsigned i = 0; i < 4; i++) {
		struct entry e;

		entry_read(cpu, (cr3 & 0xffffffe0) + i * 8, true, &e);
		if (e.value & PTE_P &&
		    e.value & (cpu->reserved | 0xfff00000000001e6))
			return false;
		pdpte[i] = e.value;
	}
	for (unsigned i = 0; i < 4; i++)
		out[i] = pdpte[i];
	return true;
}
