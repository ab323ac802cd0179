/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - the saved form of a machine: chunks of named fields.
 *
 * A device describes its state once, as a table of fields; saving, loading,
 * the round-trip test and `snapshot diff` read that table. Chunks are
 * self-describing (name, version major.minor, then field name, type, length,
 * bytes; little-endian), so that a newer minor version's unknown fields are
 * skipped and a newer major version is refused in words.
 */
#pragma once

#include "base/types.h"

struct error;

enum field_type {
	FIELD_END,
	FIELD_UINT,  /* size 1, 2, 4 or 8, host order in memory */
	FIELD_BYTES, /* size bytes, or count elements of size bytes */
};

struct field {
	const char *name;
	enum field_type type;
	u32 offset; /* in the device's struct */
	u32 size;   /* of one element */
	u32 count;
};

/* clang-format off */
#define FIELD_VALUE(s, m)                                                      \
	{                                                                      \
		#m, FIELD_UINT, offsetof(s, m), sizeof(((s *)0)->m), 1         \
	}
#define FIELD_ARRAY(s, m)                                                      \
	{                                                                      \
		#m, FIELD_UINT, offsetof(s, m), sizeof(((s *)0)->m[0]),        \
		    ARRAY_SIZE(((s *)0)->m)                                    \
	}
#define FIELD_BLOB(s, m)                                                       \
	{                                                                      \
		#m, FIELD_BYTES, offsetof(s, m), sizeof(((s *)0)->m), 1        \
	}
/* clang-format on */
#define FIELD_LAST                                                             \
	{                                                                      \
		NULL, FIELD_END, 0, 0, 0                                       \
	}

/* A growing buffer of chunks; owned by the caller. */
struct state_writer {
	u8 *data;
	size_t used, room;
};
struct state_reader {
	const u8 *data; /* borrowed */
	size_t size, at;
};

/* One chunk holding obj's fields. instance tells twins apart ("com1"). */
void state_save(struct state_writer *w, const char *type, const char *instance,
                u16 major, u16 minor, const struct field *fields,
                const void *obj);
/*
 * Find the chunk and load it into obj. -ENOENT if absent, -EPROTO with words
 * if it is of a newer major version, truncated, or a length does not fit;
 * obj is untouched on failure.
 */
int state_load(const struct state_reader *r, const char *type,
               const char *instance, u16 major, const struct field *fields,
               void *obj, struct error *err) MUST_CHECK;
void state_writer_fini(struct state_writer *w);
