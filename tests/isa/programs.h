/* SPDX-License-Identifier: Apache-2.0 */
/*
 * programs.h - what random programs of 64-bit and of 32-bit code share.
 */
#pragma once

#include <string.h>

#include "base/types.h"
#include "guest/cpu.h"
#include "tests/isa/isa.h"

enum {
	RAM = 0x40000,
	PML4 = 0x1000,
	PDPT = 0x2000,
	PD = 0x3000,
	PT = 0x4000, /* two of them: 4 MiB */
	GDT = 0x6000,
	IDT = 0x7000,
	TSS = 0x8000,
	HANDLERS = 0x9000,
	COMMON = 0x9400,
	SYSCALL = 0x9800,
	END = 0x9900,
	FAULT_STACK = 0xc000, /* top */
	LAST_FLAGS = FAULT_STACK - 0x18,
	FUEL = 0xc000,
	RECOVER = 0xc008,
	SELECTORS = 0xc010, /* DS and ES of 32-bit code */
	COUNTS = 0xc100,
	CODE = 0x10000,
	CODE_PAGES = 4,
	DATA = 0x20000,
	DATA_PAGES = 8,
	STACK = 0x32000,
	ALIAS = 0x100000,
	USER = 0x200000,
	WINDOW = 0x300000, /* on the page tables */
	CHUNKS = 24,
	USER_CHUNKS = 8,
	CHUNK_BYTES = 0x180,
	CHUNK_ROOM = 0x140,
	FUEL_START = 200,
	VECTORS = 32,
};
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_AD = 0x60 };
#define PTE_NX ((u64)1 << 63)

struct program {
	u8 ram[RAM];
	struct isa_rng rng;
	u32 chunk[CHUNKS + USER_CHUNKS];
	u32 patch[64]; /* addresses of immediates that may be overwritten */
	unsigned patches;
	u8 *p; /* where the next byte goes */
	bool user;
	/* It sets TF; then flags left undefined would be seen at once. */
	bool stepping;
	/* Flags that nobody reads may be stale at a fault (decisions/0010):
	 * its handlers clear those in the frame. */
	bool loose;
	u16 cs; /* of the kernel's chunks */
	bool bits32, legacy;
};

/* ---- bytes ---- */

static inline u64 below(struct program *g, u64 n)
{
	return isa_below(&g->rng, n);
}

static inline bool once_in(struct program *g, u64 n)
{
	return isa_once_in(&g->rng, n);
}

static inline void b1(struct program *g, unsigned v)
{
	*g->p++ = (u8)v;
}

static inline void b2(struct program *g, unsigned a, unsigned b)
{
	b1(g, a);
	b1(g, b);
}

static inline void b3(struct program *g, unsigned a, unsigned b, unsigned c)
{
	b2(g, a, b);
	b1(g, c);
}

static inline void b32(struct program *g, u64 v)
{
	u32 w = (u32)v;

	memcpy(g->p, &w, 4);
	g->p += 4;
}

static inline void b64(struct program *g, u64 v)
{
	memcpy(g->p, &v, 8);
	g->p += 8;
}

static inline u32 here(const struct program *g)
{
	return (u32)(g->p - g->ram);
}

static inline void rel32(struct program *g, u32 to)
{
	b32(g, to - (here(g) + 4));
}

static inline void put64(u8 *p, u64 v)
{
	memcpy(p, &v, sizeof(v));
}

/* ---- programs.c ---- */
/* Tables and handlers of 64-bit code. */
void programs_tables64(struct program *g);

/* ---- programs32.c ---- */
/* In a program of its own mode: legacy, or compatibility mode under IA-32e. */
void programs_generate32(struct program *g, u64 seed, bool loose);
/* What differs from a 64-bit program where it begins. */
void programs_start32(const struct program *g, struct cpu_state *s);
