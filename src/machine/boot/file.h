/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.h - reading boot files, and writing what was read into guest memory.
 */
#pragma once

#include "machine/boot/boot.h"

/* Regular, not empty, not absurdly large; fills in size. */
int boot_file_check(struct boot_file *file, const char *what,
                    struct error *err) MUST_CHECK;
/* All of it, or -EIO: "truncated". */
int boot_file_read(const struct boot_file *file, u64 offset, void *buf,
                   u64 size, struct error *err) MUST_CHECK;
/* From the file into guest RAM, without a copy in between. */
int boot_file_load(const struct boot_file *file, u64 offset,
                   struct memory *memory, gpa_t gpa, u64 size,
                   struct error *err) MUST_CHECK;

/* Bytes into guest RAM that the board laid out: it is there. */
void boot_put(struct memory *memory, gpa_t gpa, const void *data, u64 size);
void boot_zero(struct memory *memory, gpa_t gpa, u64 size);

/*
 * The highest page-aligned place for size bytes below limit, above floor and
 * inside RAM below 4 GiB; 0 if there is none.
 */
gpa_t boot_place_high(const struct boot_request *req, u64 size, u64 floor,
                      u64 limit);

static inline u16 get16(const u8 *p)
{
	return (u16)(p[0] | p[1] << 8);
}

static inline u32 get32(const u8 *p)
{
	return get16(p) | (u32)get16(p + 2) << 16;
}

static inline u64 get64(const u8 *p)
{
	return get32(p) | (u64)get32(p + 4) << 32;
}

static inline void put16(u8 *p, u16 v)
{
	p[0] = (u8)v;
	p[1] = (u8)(v >> 8);
}

static inline void put32(u8 *p, u32 v)
{
	put16(p, (u16)v);
	put16(p + 2, (u16)(v >> 16));
}

static inline void put64(u8 *p, u64 v)
{
	put32(p, (u32)v);
	put32(p + 4, (u32)(v >> 32));
}
