/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.c - guest memory by linear address, when the TLB alone won't do.
 *
 * Everything that is not a hit on plain RAM comes here: page walks, device
 * pages, ROM, pages that hold decoded code, accesses across two pages, and
 * watched addresses.
 */
#include <string.h>

#include "engine/interp/code.h"
#include "engine/interp/debug.h"
#include "engine/interp/ops.h"
#include "engine/interp/tlb.h"
#include "engine/x86/paging.h"

const struct isystem_slot *isystem_slot(const struct isystem *sys, gpa_t gpa)
{
	for (size_t i = 0; i < sys->slot_count; i++) {
		const struct isystem_slot *s = &sys->slot[i];

		if (gpa - s->base >= s->size)
			continue;
		if (unlikely(atomic_load_explicit(sys->incomplete,
		                                  memory_order_acquire)))
			memory_need(sys->memory, gpa, 1);
		return s;
	}
	return NULL;
}

static void check_canonical(struct icpu *cpu, gva_t lin)
{
	if (likely(icpu_canonical(lin)) || !icpu_code64(cpu))
		return;
	if (cpu->cur && cpu->cur->seg == SEG_SS)
		icpu_fault_error(cpu, VEC_SS, 0);
	icpu_gp(cpu);
}

/* Where a byte of guest memory is, and what a store to it needs. */
struct place {
	u8 *host; /* NULL: a device */
	gpa_t gpa;
	bool rom;
	bool code; /* stores must be told */
};

static void fill(struct icpu *cpu, gva_t lin, unsigned priv,
                 const struct paging_result *r, const struct isystem_slot *s,
                 bool write, struct place *out)
{
	unsigned index = lin >> PAGE_SHIFT & (TLB_ENTRIES - 1);
	struct tlb_entry *e = &cpu->space->data[priv][index];
	u64 tag = lin & PAGE_MASK;
	u8 *page = s->host + ((r->gpa & PAGE_MASK) - s->base);
	_Atomic u8 *flags = &s->page[(r->gpa - s->base) >> PAGE_SHIFT];
	u64 addend = (uintptr_t)page - tag;
	bool wtag = false;

	if (write && !s->rom) {
		/* This order against code.c's: one of us sees the other. */
		u8 f = atomic_fetch_or(flags, PAGE_WRITABLE_TLB | PAGE_DIRTY);

		wtag = !(f & PAGE_CODE);
		out->code = !wtag;
	}
	if (unlikely(cpu->trial)) {
		page = cpu->trial(cpu, page, write && !s->rom, out->code);
		out->host = page + (lin & ~PAGE_MASK);
		addend = (uintptr_t)page - tag;
	}
	if (debug_page_watched(cpu, lin))
		return;
	if (e->rtag != tag || e->addend != addend) {
		e->wtag = tlb_invalid_tag(index);
		tlb_log(cpu->space, priv, index);
	}
	if (!r->global)
		cpu->space->fills[priv].local = true;
	e->rtag = tag;
	e->addend = addend;
	e->gpa =
	    (r->gpa & PAGE_MASK) | r->global | (u64)r->key << ENTRY_KEY_SHIFT;
	if (unlikely(r->key))
		cpu->space->fills[priv].keys |= (u32)BIT(r->key - 1);
	if (r->shift > PAGE_SHIFT)
		tlb_note_large(cpu->space, lin, r->shift, r->global);
	if (wtag) {
		e->wtag = tag;
		tlb_note_writable(cpu->space, priv, page);
	}
}

static void translate(struct icpu *cpu, gva_t lin, enum icpu_access access,
                      unsigned priv, struct place *out)
{
	const struct isystem_slot *s;
	struct paging_result r;

	check_canonical(cpu, lin);
	if (!paging_walk(cpu, lin, access, priv, true, &r))
		icpu_page_fault(cpu, lin, r.error);
	s = isystem_slot(cpu->sys, r.gpa);
	*out = (struct place){ .gpa = r.gpa };
	if (!s)
		return;
	out->host = s->host + (r.gpa - s->base);
	out->rom = s->rom;
	if (access != ACCESS_EXEC)
		fill(cpu, lin, priv, &r, s, access == ACCESS_WRITE, out);
}

bool icpu_tlb_fill(struct icpu *cpu, gva_t lin, bool write, bool now)
{
	const struct isystem_slot *s;
	struct paging_result r;
	struct place p = { 0 };

	if (!icpu_canonical(lin) || debug_page_watched(cpu, lin) ||
	    !paging_walk(cpu, lin, now ? ACCESS_WRITE : ACCESS_READ, cpu->priv,
	                 true, &r))
		return false;
	s = isystem_slot(cpu->sys, r.gpa);
	if (!s || (write && (s->rom || !(now || r.writable))))
		return false;
	fill(cpu, lin, cpu->priv, &r, s, write, &p);
	return !p.code;
}

u8 *icpu_host(struct icpu *cpu, gva_t lin, enum icpu_access access,
              unsigned priv)
{
	const struct tlb_entry *e =
	    &cpu->space->data[priv][lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
	u64 tag = access == ACCESS_WRITE ? e->wtag : e->rtag;
	struct place p;

	if (lin - tag < PAGE_SIZE)
		return (u8 *)(uintptr_t)(lin + e->addend);
	translate(cpu, lin, access, priv, &p);
	if (access == ACCESS_WRITE && (p.code || p.rom))
		return NULL;
	return debug_page_watched(cpu, lin) ? NULL : p.host;
}

static u64 read_small(const u8 *p, unsigned size)
{
	switch (size) {
	case 1:
		return guest_get8(p);
	case 2:
		return guest_get16(p);
	case 4:
		return guest_get32(p);
	case 8:
		return guest_get64(p);
	default: {
		u64 v = 0;

		guest_copy(&v, p, size);
		return v;
	}
	}
}

static void write_small(u8 *p, u64 v, unsigned size)
{
	switch (size) {
	case 1:
		guest_put8(p, (u8)v);
		break;
	case 2:
		guest_put16(p, (u16)v);
		break;
	case 4:
		guest_put32(p, (u32)v);
		break;
	case 8:
		guest_put64(p, v);
		break;
	default:
		guest_copy(p, &v, size);
		break;
	}
}

/* Devices see 1, 2, 4 and 8 bytes only. */
static unsigned device_piece(gpa_t gpa, unsigned size)
{
	unsigned n = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;

	(void)gpa;
	return n;
}

static u64 device_read(struct icpu *cpu, gpa_t gpa, unsigned size)
{
	u64 v = 0;

	cpu->stats[STAT_MMIO]++;
	icpu_leave_guest(cpu);
	for (unsigned at = 0; at < size;) {
		unsigned n = device_piece(gpa + at, size - at);
		u64 piece = cpu->host.mmio_read(cpu->host.ctx, gpa + at, n);

		v |= (piece & size_mask(n)) << at * 8;
		at += n;
	}
	icpu_enter_guest(cpu);
	return v;
}

static void device_write(struct icpu *cpu, gpa_t gpa, u64 v, unsigned size)
{
	cpu->stats[STAT_MMIO]++;
	icpu_leave_guest(cpu);
	for (unsigned at = 0; at < size;) {
		unsigned n = device_piece(gpa + at, size - at);

		cpu->host.mmio_write(cpu->host.ctx, gpa + at,
		                     v >> at * 8 & size_mask(n), n);
		at += n;
	}
	icpu_enter_guest(cpu);
}

static u64 place_read(struct icpu *cpu, const struct place *p, unsigned size)
{
	return p->host ? read_small(p->host, size)
	               : device_read(cpu, p->gpa, size);
}

static void place_write(struct icpu *cpu, const struct place *p, u64 v,
                        unsigned size)
{
	if (!p->host) {
		device_write(cpu, p->gpa, v, size);
		return;
	}
	if (p->rom)
		return;
	write_small(p->host, v, size);
	if (p->code)
		isystem_code_written(cpu->sys, cpu, p->gpa, size);
}

/* The two parts of an access, both translated before either is touched. */
struct span {
	struct place p[2];
	unsigned size[2];
};

/* Over 4 GiB: past the limit of a flat segment, or round it with a base. */
static gva_t wrapped(struct icpu *cpu, gva_t lin)
{
	if (likely(lin <= 0xffffffff))
		return lin;
	if (cpu->cur && cpu->cur->seg < SEG_COUNT && !cpu->cur->check)
		icpu_fault_error(cpu, cpu->cur->seg == SEG_SS ? VEC_SS : VEC_GP,
		                 0);
	return (u32)lin;
}

static void span_translate(struct icpu *cpu, gva_t lin, unsigned size,
                           enum icpu_access access, unsigned priv,
                           struct span *s)
{
	unsigned room = PAGE_SIZE - (unsigned)(lin & ~PAGE_MASK);
	gva_t second = lin + room;

	s->size[0] = MIN(size, room);
	s->size[1] = size - s->size[0];
	if (s->size[1] && !icpu_code64(cpu))
		second = wrapped(cpu, second);
	translate(cpu, lin, access, priv, &s->p[0]);
	if (s->size[1])
		translate(cpu, second, access, priv, &s->p[1]);
	debug_access(cpu, lin, size, access);
}

u64 icpu_load(struct icpu *cpu, gva_t lin, unsigned size, unsigned priv)
{
	const struct tlb_entry *e =
	    &cpu->space->data[priv][lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
	struct span s;
	u64 v;

	if (likely(lin - e->rtag <= PAGE_SIZE - size))
		return read_small((u8 *)(uintptr_t)(lin + e->addend), size);
	span_translate(cpu, lin, size, ACCESS_READ, priv, &s);
	v = place_read(cpu, &s.p[0], s.size[0]);
	if (s.size[1])
		v |= place_read(cpu, &s.p[1], s.size[1]) << s.size[0] * 8;
	return v;
}

void icpu_store(struct icpu *cpu, gva_t lin, u64 v, unsigned size,
                unsigned priv)
{
	const struct tlb_entry *e =
	    &cpu->space->data[priv][lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
	struct span s;

	if (likely(lin - e->wtag <= PAGE_SIZE - size)) {
		write_small((u8 *)(uintptr_t)(lin + e->addend), v, size);
		return;
	}
	span_translate(cpu, lin, size, ACCESS_WRITE, priv, &s);
	place_write(cpu, &s.p[0], v, s.size[0]);
	if (s.size[1])
		place_write(cpu, &s.p[1], v >> s.size[0] * 8, s.size[1]);
}

static void place_copy(struct icpu *cpu, const struct place *p, u8 *buf,
                       size_t len, bool write)
{
	if (p->host && !write) {
		guest_copy(buf, p->host, len);
	} else if (p->host && !p->rom) {
		guest_copy(p->host, buf, len);
		if (p->code)
			isystem_code_written(cpu->sys, cpu, p->gpa, len);
	}
	if (p->host)
		return;
	for (size_t at = 0; at < len;) {
		unsigned n = (unsigned)MIN(len - at, (size_t)8);

		if (write)
			device_write(cpu, p->gpa + at, read_small(buf + at, n),
			             n);
		else
			write_small(buf + at, device_read(cpu, p->gpa + at, n),
			            n);
		at += n;
	}
}

static void copy(struct icpu *cpu, gva_t lin, u8 *buf, size_t len,
                 enum icpu_access access, unsigned priv)
{
	struct span s;

	ASSERT(len <= PAGE_SIZE);
	if (!len)
		return;
	span_translate(cpu, lin, (unsigned)len, access, priv, &s);
	place_copy(cpu, &s.p[0], buf, s.size[0], access == ACCESS_WRITE);
	if (s.size[1])
		place_copy(cpu, &s.p[1], buf + s.size[0], s.size[1],
		           access == ACCESS_WRITE);
}

void icpu_read(struct icpu *cpu, gva_t lin, void *buf, size_t len,
               unsigned priv)
{
	const struct tlb_entry *e =
	    &cpu->space->data[priv][lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];

	if (likely(lin - e->rtag <= PAGE_SIZE - len))
		guest_copy(buf, (u8 *)(uintptr_t)(lin + e->addend), len);
	else
		copy(cpu, lin, buf, len, ACCESS_READ, priv);
}

void icpu_write(struct icpu *cpu, gva_t lin, const void *buf, size_t len,
                unsigned priv)
{
	const struct tlb_entry *e =
	    &cpu->space->data[priv][lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
	u8 tmp[PAGE_SIZE];

	if (likely(lin - e->wtag <= PAGE_SIZE - len)) {
		guest_copy((u8 *)(uintptr_t)(lin + e->addend), buf, len);
		return;
	}
	memcpy(tmp, buf, len);
	copy(cpu, lin, tmp, len, ACCESS_WRITE, priv);
}

void icpu_probe(struct icpu *cpu, gva_t lin, size_t len,
                enum icpu_access access, unsigned priv)
{
	gva_t last = lin + len - 1;
	struct place p;

	if (!icpu_code64(cpu)) {
		lin &= 0xffffffff;
		last = wrapped(cpu, lin + len - 1);
	}
	translate(cpu, lin, access, priv, &p);
	if ((lin ^ last) & PAGE_MASK)
		translate(cpu, last, access, priv, &p);
}

/* ---- locked operations ---- */

void icpu_rmw_begin(struct icpu *cpu, gva_t lin, unsigned size,
                    struct icpu_rmw *rmw)
{
	const struct tlb_entry *e =
	    &cpu->tlb[lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
	struct span s;

	*rmw = (struct icpu_rmw){
		.lin = lin,
		.size = (u8)size,
		.priv = cpu->priv,
	};
	if (likely(lin - e->wtag <= PAGE_SIZE - size)) {
		rmw->p = (void *)(uintptr_t)(lin + e->addend);
		return;
	}
	span_translate(cpu, lin, size, ACCESS_WRITE, cpu->priv, &s);
	if (s.p[0].host && !s.p[0].rom && !s.size[1]) {
		rmw->p = s.p[0].host;
		rmw->watched = s.p[0].code ? s.p[0].host : NULL;
		rmw->gpa = s.p[0].gpa;
		return;
	}
	rmw->copy = true;
	rmw->p = rmw->buf;
	if (s.size[1]) {
		rmw->world = true;
		icpu_world_stop(cpu);
	}
	place_copy(cpu, &s.p[0], rmw->buf, s.size[0], false);
	if (s.size[1])
		place_copy(cpu, &s.p[1], rmw->buf + s.size[0], s.size[1],
		           false);
}

void icpu_rmw_end(struct icpu *cpu, struct icpu_rmw *rmw)
{
	if (rmw->watched)
		isystem_code_written(cpu->sys, cpu, rmw->gpa, rmw->size);
	if (!rmw->copy)
		return;
	copy(cpu, rmw->lin, rmw->buf, rmw->size, ACCESS_WRITE, rmw->priv);
	if (rmw->world)
		icpu_world_start(cpu);
}

/* ---- what the operations' fast paths fall back to ---- */

u64 icpu_slow_linear(struct icpu *cpu, struct iop *op, u64 ea, u64 how)
{
	cpu->cur = op;
	return icpu_linear(cpu, op->seg, ea, how & 0xffff,
	                   (enum icpu_access)(how >> 16));
}

u64 icpu_slow_load(struct icpu *cpu, struct iop *op, gva_t lin, u64 how)
{
	unsigned size = how & 0xff;

	cpu->cur = op;
	if (how >> 8 == ACCESS_WRITE) {
		struct span s;

		span_translate(cpu, lin, size, ACCESS_WRITE, cpu->priv, &s);
	}
	return icpu_load(cpu, lin, size, cpu->priv);
}

void icpu_slow_store(struct icpu *cpu, struct iop *op, gva_t lin, u64 size,
                     u64 value)
{
	cpu->cur = op;
	icpu_store(cpu, lin, value, (unsigned)size, cpu->priv);
}

/*
 * The way to the three above that leaves every register but RAX as it was, so
 * that a handler's fast path needs no frame (and none but these may be called
 * from inside one). The stack may be misaligned here: leaf functions do not
 * align it.
 */
#define THUNK(name, target)                                                    \
	__asm__(".text\n"                                                      \
	        ".globl " #name "\n"                                           \
	        ".hidden " #name "\n"                                          \
	        ".type " #name ", @function\n" #name ":\n"                     \
	        ".cfi_startproc\n"                                             \
	        "	pushq %rbp\n"                                                \
	        ".cfi_def_cfa_offset 16\n"                                     \
	        ".cfi_offset rbp, -16\n"                                       \
	        "	movq %rsp, %rbp\n"                                           \
	        ".cfi_def_cfa_register rbp\n"                                  \
	        "	pushq %rcx\n	pushq %rdx\n"                                   \
	        "	pushq %rsi\n	pushq %rdi\n"                                   \
	        "	pushq %r8\n	pushq %r9\n"                                     \
	        "	pushq %r10\n	pushq %r11\n"                                   \
	        "	andq $-16, %rsp\n"                                           \
	        "	call " #target "\n"                                    \
	        "	leaq -64(%rbp), %rsp\n"                                      \
	        "	popq %r11\n	popq %r10\n"                                     \
	        "	popq %r9\n	popq %r8\n"                                       \
	        "	popq %rdi\n	popq %rsi\n"                                     \
	        "	popq %rdx\n	popq %rcx\n"                                     \
	        "	popq %rbp\n"                                                 \
	        ".cfi_def_cfa rsp, 8\n"                                        \
	        "	ret\n"                                                       \
	        ".cfi_endproc\n"                                               \
	        ".size " #name ", .-" #name "\n")

THUNK(icpu_thunk_linear, icpu_slow_linear);
THUNK(icpu_thunk_load, icpu_slow_load);
THUNK(icpu_thunk_store, icpu_slow_store);
