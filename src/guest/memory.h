/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - guest physical memory: RAM and ROM slots, and who wrote where.
 *
 * Slots are laid out before the first vCPU runs and live as long as the
 * memory; they never overlap. Any thread may read and write. What is in no
 * slot belongs to the MMIO bus (guest/bus.h).
 *
 * Every page has one byte of flags, atomic, in which engines and the dirty
 * log meet. Whoever writes guest memory other than through an engine tells so
 * with memory_written() *after* the bytes are there and before the guest
 * learns of it; memory_write() does both.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

struct error;
struct memory;

enum { PAGE_SHIFT = 12, PAGE_SIZE = 4096 };
#define PAGE_MASK (~(u64)(PAGE_SIZE - 1))

enum memory_kind { MEMORY_RAM, MEMORY_ROM };

enum {
	/* Not yet written in this round of the dirty log: writers set it. */
	PAGE_DIRTY = 1 << 0,
	/* An engine holds decoded or translated code of it: writers call
	 * memory_written(), which tells the engine. */
	PAGE_CODE = 1 << 1,
	/* Set by an engine while it holds the page writable in a TLB. */
	PAGE_WRITABLE_TLB = 1 << 2,
	/* Its contents are still elsewhere: see memory_set_source(). */
	PAGE_MISSING = 1 << 3,
	/* Somebody keeps a pointer to it: see memory_keep(). */
	PAGE_KEPT = 1 << 4,
};

struct memory_slot {
	gpa_t base;
	u64 size;
	u8 *host;              /* page-aligned; readable and writable by us */
	enum memory_kind kind; /* the guest's writes to ROM go nowhere */
	_Atomic u8 *page;      /* flags, one byte a page */
	int fd;                /* memfd behind host, or -1 */
	u64 fd_offset;
	char name[16];
};

int memory_create(struct memory **out, struct error *err) MUST_CHECK;
void memory_destroy(struct memory *mem);

/*
 * Add a slot of zeroed memory (size and base page-aligned), never executable.
 * -ENOMEM when the host cannot give it, -EEXIST when it overlaps.
 */
int memory_add(struct memory *mem, gpa_t base, u64 size, enum memory_kind kind,
               const char *name, struct error *err) MUST_CHECK;

/*
 * A second guest address for part of a slot (the BIOS below 1 MiB). Shares
 * host memory and page flags.
 */
int memory_alias(struct memory *mem, gpa_t base, gpa_t target, u64 size,
                 struct error *err) MUST_CHECK;

size_t memory_slot_count(const struct memory *mem);
const struct memory_slot *memory_slot_at(const struct memory *mem, size_t i);

/* The slot that holds gpa, or NULL. */
const struct memory_slot *memory_find(const struct memory *mem, gpa_t gpa);

/* Host address of [gpa, gpa + len), or NULL unless one slot holds all of it.
 * A writer calls memory_written() afterwards, and only for RAM. */
void *memory_ptr(const struct memory *mem, gpa_t gpa, u64 len);
/* As above, but NULL for ROM too. */
void *memory_ptr_rw(const struct memory *mem, gpa_t gpa, u64 len);

/* Copy; may span slots. false, and nothing copied, if any byte is in none. */
bool memory_read(const struct memory *mem, gpa_t gpa, void *buf, u64 len);
bool memory_write(struct memory *mem, gpa_t gpa, const void *buf, u64 len);

/* [gpa, gpa + len) has been written: dirty log and code caches learn of it. */
void memory_written(struct memory *mem, gpa_t gpa, u64 len);

/*
 * The engine that caches code: fn runs on the writer's thread, for each page
 * written that has PAGE_CODE. Set before the first vCPU runs.
 */
typedef void memory_code_fn(void *ctx, gpa_t gpa, u64 len);
void memory_set_code_watch(struct memory *mem, memory_code_fn *fn, void *ctx);

/*
 * Contents that come when they are asked for. While there is a source, fn is
 * called on the thread of whoever looks at a page with PAGE_MISSING, before it
 * sees it; fn puts the contents to host, the page, and then takes the flag
 * away. Everything of this header asks by itself; an engine that goes by slots
 * and flags asks with memory_need(). Set before the first vCPU runs; fn NULL:
 * no page has the flag any more.
 */
typedef void memory_fetch_fn(void *ctx, u8 *host);
void memory_set_source(struct memory *mem, memory_fetch_fn *fn, void *ctx);
/* For those to whom a call is too much: false once there is no source. */
const _Atomic bool *memory_incomplete(const struct memory *mem);
/* [gpa, gpa + len) is there, as far as it is in one slot. */
void memory_need(const struct memory *mem, gpa_t gpa, u64 len);
/* ...and stays there: for who goes on using what memory_ptr() gave while the
 * machine stands still and runs again. For ever. */
void memory_keep(const struct memory *mem, gpa_t gpa, u64 len);

/* Flags of the page that holds gpa, or NULL if no slot does. */
_Atomic u8 *memory_page_flags(const struct memory *mem, gpa_t gpa);

/* Bytes of RAM over all slots, aliases not counted twice. */
u64 memory_ram_bytes(const struct memory *mem);
