/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - chunks on the wire, all little-endian:
 *
 *	chunk:  "ATCK" u32 length (of what follows)
 *	        u16 major, u16 minor, str type, str instance, fields
 *	field:  str name, u8 type, u32 size, u32 count, size * count bytes
 *	str:    u8 length, bytes
 */
#include "guest/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

static const char magic[4] = { 'A', 'T', 'C', 'K' };

/* ---- writing ---- */

static void put(struct state_writer *w, const void *data, size_t size)
{
	if (w->used + size > w->room) {
		w->room = MAX(w->room * 2, w->used + size + 4096);
		w->data = xrealloc(w->data, w->room);
	}
	memcpy(w->data + w->used, data, size);
	w->used += size;
}

static void put_int(struct state_writer *w, u64 value, size_t size)
{
	put(w, &value, size); /* the host is little-endian: x86-64 only */
}

static void put_str(struct state_writer *w, const char *s)
{
	size_t n = strlen(s);

	ASSERT(n < 256);
	put_int(w, n, 1);
	put(w, s, n);
}

void state_save(struct state_writer *w, const char *type, const char *instance,
                u16 major, u16 minor, const struct field *fields,
                const void *obj)
{
	size_t start, length_at;
	u32 length;

	put(w, magic, sizeof(magic));
	length_at = w->used;
	put_int(w, 0, 4);
	start = w->used;
	put_int(w, major, 2);
	put_int(w, minor, 2);
	put_str(w, type);
	put_str(w, instance);
	for (const struct field *f = fields; f && f->type != FIELD_END; f++) {
		put_str(w, f->name);
		put_int(w, f->type, 1);
		put_int(w, f->size, 4);
		put_int(w, f->count, 4);
		put(w, (const char *)obj + f->offset,
		    (size_t)f->size * f->count);
	}
	length = (u32)(w->used - start);
	memcpy(w->data + length_at, &length, sizeof(length));
}

void state_writer_fini(struct state_writer *w)
{
	free(w->data);
	*w = (struct state_writer){ 0 };
}

/* ---- reading: every length is checked against what is left ---- */

struct cursor {
	const u8 *at, *end;
	bool bad;
};

static const u8 *take(struct cursor *c, size_t size)
{
	const u8 *p = c->at;

	if (c->bad || (size_t)(c->end - c->at) < size) {
		c->bad = true;
		return NULL;
	}
	c->at += size;
	return p;
}

static u64 take_int(struct cursor *c, size_t size)
{
	const u8 *p = take(c, size);
	u64 value = 0;

	if (p)
		memcpy(&value, p, size);
	return value;
}

static bool take_str(struct cursor *c, char out[256])
{
	size_t n = take_int(c, 1);
	const u8 *p = take(c, n);

	if (!p)
		return false;
	memcpy(out, p, n);
	out[n] = '\0';
	return true;
}

static const struct field *find_field(const struct field *fields,
                                      const char *name)
{
	for (const struct field *f = fields; f && f->type != FIELD_END; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

/* Every field of one chunk; obj is only written when all of it fits. */
static int load_fields(struct cursor c, const struct field *fields, void *obj,
                       const char *what, struct error *err)
{
	char name[256];

	while (c.at < c.end) {
		const struct field *f;
		const u8 *bytes;
		u64 type, size, count;

		take_str(&c, name);
		type = take_int(&c, 1);
		size = take_int(&c, 4);
		count = take_int(&c, 4);
		bytes = c.bad ? NULL : take(&c, size * count);
		if (!bytes)
			return error_set(err, -EPROTO,
			                 "state of %s is cut short", what);
		f = find_field(fields, name);
		if (!f)
			continue; /* of a newer minor version */
		if (type != f->type || size != f->size || count != f->count)
			return error_set(err, -EPROTO,
			                 "state of %s: field '%s' has another "
			                 "size than here",
			                 what, name);
		if (obj)
			memcpy((char *)obj + f->offset, bytes, size * count);
	}
	return 0;
}

int state_load(const struct state_reader *r, const char *type,
               const char *instance, u16 major, const struct field *fields,
               void *obj, struct error *err)
{
	struct cursor all = { r->data + r->at, r->data + r->size, false };
	char name[256], which[256];

	while (all.at < all.end) {
		const u8 *m = take(&all, sizeof(magic));
		size_t length = take_int(&all, 4);
		const u8 *body = take(&all, length);
		struct cursor c;
		u64 got;
		int rc;

		if (!body || memcmp(m, magic, sizeof(magic)))
			return error_set(err, -EPROTO,
			                 "the saved state is damaged near "
			                 "byte %zu",
			                 (size_t)(all.at - r->data));
		c = (struct cursor){ body, body + length, false };
		got = take_int(&c, 2);
		take_int(&c, 2);
		if (!take_str(&c, name) || !take_str(&c, which))
			return error_set(err, -EPROTO,
			                 "a chunk of the saved state has no "
			                 "name");
		if (strcmp(name, type) || strcmp(which, instance))
			continue;
		if (got > major)
			return error_set(err, -EPROTO,
			                 "state of %s is version %u; this "
			                 "program knows up to %u",
			                 type, (unsigned)got, major);
		rc = load_fields(c, fields, NULL, type, err);
		return rc ? rc : load_fields(c, fields, obj, type, err);
	}
	return error_set(err, -ENOENT, "no state of %s '%s' was saved", type,
	                 instance);
}
