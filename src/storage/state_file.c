/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_file - the file of a saved machine; its form stands in the header.
 *
 *	section in the table, 64 bytes: name[16], u64 offset, u64 size,
 *	u64 hash, u32 flags, 20 bytes of zeroes
 */
#include "storage/state_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/error.h"

static const char magic[8] = "ATOLLSAV";

enum {
	HEADER = STATE_FILE_ALIGN,
	AT_MAJOR = 8,
	AT_MINOR = 10,
	AT_COUNT = 12,
	AT_SIZE = 16,
	AT_TABLE = 64,
	AT_HASH = HEADER - 8,
	ENTRY = 64,
};

static void put(u8 *p, u64 value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		p[i] = (u8)(value >> (8 * i));
}

static u64 get(const u8 *p, unsigned size)
{
	u64 value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (u64)p[i] << (8 * i);
	return value;
}

int state_file_pread(int fd, void *buf, size_t size, u64 offset)
{
	u8 *p = buf;

	while (size) {
		ssize_t n = pread(fd, p, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		p += n;
		offset += (u64)n;
		size -= (size_t)n;
	}
	return 0;
}

int state_file_pwrite(int fd, const void *buf, size_t size, u64 offset)
{
	const u8 *p = buf;

	while (size) {
		ssize_t n = pwrite(fd, p, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		p += n;
		offset += (u64)n;
		size -= (size_t)n;
	}
	return 0;
}

/* ---- writing ---- */

static int write_failed(int rc, struct error *err)
{
	error_set(err, rc, "cannot write the saved machine: %s", strerror(-rc));
	if (rc == -ENOSPC || rc == -EDQUOT)
		error_hint(err, "choose a place with more room");
	return rc;
}

int state_file_begin(struct state_file *f, int fd, struct error *err)
{
	*f = (struct state_file){ .fd = fd,
		                  .major = STATE_FILE_MAJOR,
		                  .minor = STATE_FILE_MINOR,
		                  .end = HEADER };
	/* The header stays a hole, which is not a valid one. */
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, HEADER) < 0)
		return write_failed(-errno, err);
	return 0;
}

u64 state_file_next(const struct state_file *f)
{
	return f->end;
}

static void append(struct state_file *f, const char *name, unsigned flags,
                   u64 size, u64 hash)
{
	struct state_section *s = &f->sections[f->count++];

	ASSERT(f->count <= STATE_FILE_SECTIONS_MAX);
	ASSERT(strlen(name) < sizeof(s->name));
	memset(s, 0, sizeof(*s));
	memcpy(s->name, name, strlen(name));
	s->offset = f->end;
	s->size = size;
	s->hash = hash;
	s->flags = flags;
	f->end = ALIGN_UP(f->end + size, (u64)STATE_FILE_ALIGN);
}

void state_file_added(struct state_file *f, const char *name, unsigned flags,
                      u64 size)
{
	append(f, name, flags | STATE_SECTION_OWN_SUMS, size, 0);
}

int state_file_add(struct state_file *f, const char *name, unsigned flags,
                   const void *data, size_t size, struct error *err)
{
	int rc = state_file_pwrite(f->fd, data, size, f->end);

	if (rc < 0)
		return write_failed(rc, err);
	append(f, name, flags, size, XXH64(data, size, 0));
	return 0;
}

int state_file_finish(struct state_file *f, bool sync, struct error *err)
{
	u8 header[HEADER] = { 0 };
	int rc;

	memcpy(header, magic, sizeof(magic));
	put(header + AT_MAJOR, f->major, 2);
	put(header + AT_MINOR, f->minor, 2);
	put(header + AT_COUNT, f->count, 4);
	put(header + AT_SIZE, f->end, 8);
	for (unsigned i = 0; i < f->count; i++) {
		const struct state_section *s = &f->sections[i];
		u8 *p = header + AT_TABLE + i * ENTRY;

		memcpy(p, s->name, sizeof(s->name));
		put(p + 16, s->offset, 8);
		put(p + 24, s->size, 8);
		put(p + 32, s->hash, 8);
		put(p + 40, s->flags, 4);
	}
	put(header + AT_HASH, XXH64(header, AT_HASH, 0), 8);
	/* What the header speaks of is there before it is. */
	if (ftruncate(f->fd, (off_t)f->end) < 0 ||
	    (sync && fdatasync(f->fd) < 0))
		return write_failed(-errno, err);
	rc = state_file_pwrite(f->fd, header, HEADER, 0);
	if (rc == 0 && sync && fsync(f->fd) < 0)
		rc = -errno;
	return rc < 0 ? write_failed(rc, err) : 0;
}

/* ---- reading ---- */

static int altered(struct error *err, const char *what)
{
	error_set(err, -EPROTO, "the saved machine is damaged: %s", what);
	return error_hint(err, "the file was altered or cut short after it "
	                       "was written; it can't be used");
}

static int read_section(struct state_file *f, const u8 *p, u64 file_size,
                        struct error *err)
{
	struct state_section *s = &f->sections[f->count];

	memcpy(s->name, p, sizeof(s->name));
	s->offset = get(p + 16, 8);
	s->size = get(p + 24, 8);
	s->hash = get(p + 32, 8);
	s->flags = (u32)get(p + 40, 4);
	if (s->name[sizeof(s->name) - 1] || s->offset > file_size ||
	    s->size > file_size - s->offset ||
	    !IS_ALIGNED(s->offset, (u64)STATE_FILE_ALIGN))
		return altered(err, "a section lies outside of it");
	f->count++;
	return 0;
}

static int check_header(const u8 *header, u64 size, struct error *err)
{
	u64 major = get(header + AT_MAJOR, 2);

	if (memcmp(header, magic, sizeof(magic)))
		return error_set(err, -EPROTO,
		                 "this is not a saved machine, or one that was "
		                 "never finished");
	if (major > STATE_FILE_MAJOR) {
		error_set(err, -EPROTO,
		          "the saved machine has format %u; this program "
		          "knows formats up to %d",
		          (unsigned)major, STATE_FILE_MAJOR);
		return error_hint(err, "a newer Atoll wrote it: use that one");
	}
	if (get(header + AT_HASH, 8) != XXH64(header, AT_HASH, 0))
		return altered(err, "its header has another sum");
	if (get(header + AT_COUNT, 4) > STATE_FILE_SECTIONS_MAX)
		return altered(err, "it has too many sections");
	if (get(header + AT_SIZE, 8) > size)
		return altered(err, "its end is missing");
	return 0;
}

int state_file_open(struct state_file *f, int fd, struct error *err)
{
	u8 header[HEADER];
	struct stat st;
	unsigned count;
	int rc;

	*f = (struct state_file){ .fd = fd };
	if (fstat(fd, &st) < 0)
		return error_set(err, -errno,
		                 "cannot read the saved machine: %s",
		                 strerror(errno));
	rc = state_file_pread(fd, header, HEADER, 0);
	if (rc == -EPROTO)
		return error_set(err, rc,
		                 "this is not a saved machine: it is too "
		                 "short");
	if (rc < 0)
		return error_set(err, rc, "cannot read the saved machine: %s",
		                 strerror(-rc));
	rc = check_header(header, (u64)st.st_size, err);
	if (rc < 0)
		return rc;
	f->major = (u16)get(header + AT_MAJOR, 2);
	f->minor = (u16)get(header + AT_MINOR, 2);
	f->end = get(header + AT_SIZE, 8);
	count = (unsigned)get(header + AT_COUNT, 4);
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc =
		    read_section(f, header + AT_TABLE + i * ENTRY, f->end, err);
	return rc;
}

int state_file_knows(const struct state_file *f, const char *const *known,
                     struct error *err)
{
	for (unsigned i = 0; i < f->count; i++) {
		const struct state_section *s = &f->sections[i];
		size_t k = 0;

		if (!(s->flags & STATE_SECTION_NEEDED))
			continue;
		while (known[k] && strcmp(known[k], s->name))
			k++;
		if (!known[k])
			return error_set(err, -EPROTO,
			                 "the saved machine needs '%s', which "
			                 "this program doesn't know: a newer "
			                 "Atoll wrote it",
			                 s->name);
	}
	return 0;
}

const struct state_section *state_file_find(const struct state_file *f,
                                            const char *name)
{
	for (unsigned i = 0; i < f->count; i++)
		if (!strcmp(f->sections[i].name, name))
			return &f->sections[i];
	return NULL;
}

int state_file_read(const struct state_file *f, const char *name, size_t max,
                    u8 **data, size_t *size, struct error *err)
{
	const struct state_section *s = state_file_find(f, name);
	u8 *bytes;
	int rc;

	if (!s || s->size > max) {
		char what[64] = "the section ";

		strncat(what, name, 16);
		strncat(what, s ? " is too long" : " is missing", 16);
		return altered(err, what);
	}
	bytes = try_alloc(s->size + 1, 1);
	if (!bytes)
		return error_set(err, -ENOMEM,
		                 "no memory for the saved machine's %s", name);
	rc = state_file_pread(f->fd, bytes, s->size, s->offset);
	if (rc == 0 && XXH64(bytes, s->size, 0) != s->hash)
		rc = -EPROTO;
	if (rc < 0) {
		free(bytes);
		if (rc != -EPROTO)
			return error_set(err, rc,
			                 "cannot read the saved machine: %s",
			                 strerror(-rc));
		return altered(err, "a section has another sum");
	}
	*data = bytes;
	*size = s->size;
	return 0;
}
