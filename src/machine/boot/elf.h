/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elf.h - ELF executables, from a file or from memory, into guest memory.
 */
#pragma once

#include "machine/boot/boot.h"

/* Either a file, or bytes in memory (an unpacked kernel). */
struct elf_source {
	const struct boot_file *file;
	const u8 *data;   /* used if file is NULL */
	u64 size;         /* of either */
	const char *path; /* for messages */
};

struct elf_info {
	bool is_64;
	u64 entry;       /* as the header says: may be virtual */
	gpa_t low, high; /* what PT_LOAD segments cover, physical */
	bool has_pvh;
	u32 pvh_entry;
};

static inline bool elf_magic(const u8 *p, u64 size)
{
	return size >= 4 && p[0] == 0x7f && p[1] == 'E' && p[2] == 'L' &&
	       p[3] == 'F';
}

/*
 * Check every header, load every PT_LOAD segment at its physical address,
 * find the PVH note. Segments must lie in RAM between 1 MiB and the end of
 * low RAM.
 */
int elf_load(const struct boot_request *req, const struct elf_source *src,
             struct elf_info *info, struct error *err) MUST_CHECK;
