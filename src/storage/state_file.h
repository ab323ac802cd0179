/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_file.h - the file of a saved machine: a header and named sections.
 *
 *	0     "ATOLLSAV", u16 major, u16 minor, u32 count of sections,
 *	      u64 size of the whole file, the table of sections
 *	4088  u64 XXH64 of the 4088 bytes before
 *	4096  sections, each at a multiple of 4096
 *
 * All little-endian. A section is a name, where it lies, and its XXH64; one
 * that is marked as checked by its owner has no hash of its own (guest memory:
 * a hash a block, docs/state-file.md). A newer major version is refused, and so
 * is an unknown section that is marked as needed; others are ignored.
 *
 * The header is written last, over zeroes: what was never finished is no saved
 * machine. Whoever opened the file also gives it its name when it is whole.
 */
#pragma once

#include "base/types.h"

struct error;

enum {
	STATE_FILE_MAJOR = 1,
	STATE_FILE_MINOR = 0,
	STATE_FILE_ALIGN = 4096,
	STATE_FILE_SECTIONS_MAX = 32,
	STATE_FILE_NAME_MAX = 16,
};

enum {
	STATE_SECTION_NEEDED = 1 << 0, /* who doesn't know it must not load */
	STATE_SECTION_OWN_SUMS = 1 << 1,
};

struct state_section {
	char name[STATE_FILE_NAME_MAX]; /* ended by NUL */
	u64 offset, size;
	u64 hash; /* XXH64, seed 0 */
	u32 flags;
};

struct state_file {
	int fd; /* borrowed */
	u16 major, minor;
	unsigned count;
	struct state_section sections[STATE_FILE_SECTIONS_MAX];
	u64 end; /* where the next section goes; the file's size */
};

/* ---- writing ---- */

/* Empties the file. */
int state_file_begin(struct state_file *f, int fd,
                     struct error *err) MUST_CHECK;
/* Appends a section with its contents. */
int state_file_add(struct state_file *f, const char *name, unsigned flags,
                   const void *data, size_t size, struct error *err) MUST_CHECK;
/* Appends one that its owner has written, or leaves as a hole, at *offset:
 * first say where, then how long it became. */
u64 state_file_next(const struct state_file *f);
void state_file_added(struct state_file *f, const char *name, unsigned flags,
                      u64 size);
/* Writes the header. With sync, all of it is on the disk on return, and the
 * header was not there before the rest; else the caller sees to that. */
int state_file_finish(struct state_file *f, bool sync,
                      struct error *err) MUST_CHECK;

/* ---- reading ---- */

/* -EPROTO with words: no saved machine, cut short, altered or newer. */
int state_file_open(struct state_file *f, int fd, struct error *err) MUST_CHECK;
/* Refuses needed sections that are not among known (ended by NULL). */
int state_file_knows(const struct state_file *f, const char *const *known,
                     struct error *err) MUST_CHECK;
/* NULL if there is none. */
const struct state_section *state_file_find(const struct state_file *f,
                                            const char *name);
/* A whole section, its hash checked, a NUL behind it; freed by the caller. */
int state_file_read(const struct state_file *f, const char *name, size_t max,
                    u8 **data, size_t *size, struct error *err) MUST_CHECK;

/* All of [offset, offset + size) or -errno; -EPROTO past the end. */
int state_file_pread(int fd, void *buf, size_t size, u64 offset) MUST_CHECK;
int state_file_pwrite(int fd, const void *buf, size_t size,
                      u64 offset) MUST_CHECK;
