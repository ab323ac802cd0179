/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aml - the byte encodings of ACPI machine language.
 */
#include "machine/acpi/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum {
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_EXT = 0x5b,
	OP_EXT_MUTEX = 0x01,
	OP_EXT_ACQUIRE = 0x23,
	OP_EXT_RELEASE = 0x27,
	OP_EXT_REGION = 0x80,
	OP_EXT_FIELD = 0x81,
	OP_EXT_DEVICE = 0x82,
	PREFIX_DUAL = 0x2e,
	PREFIX_MULTI = 0x2f,
	/* Block lengths always take three bytes, so that they can be filled
	 * in at the end: 20 bits (section 20.2.4). */
	LENGTH_BYTES = 3,
	LENGTH_LEAD = 0x80,
};

void aml_fini(struct aml *a)
{
	free(a->data);
	*a = (struct aml){ 0 };
}

void aml_bytes(struct aml *a, const void *data, size_t size)
{
	if (a->room - a->used < size) {
		a->room = MAX(2 * a->room, a->used + size + 4096);
		a->data = xrealloc(a->data, a->room);
	}
	memcpy(a->data + a->used, data, size);
	a->used += size;
}

void aml_byte(struct aml *a, u8 byte)
{
	aml_bytes(a, &byte, 1);
}

void aml_u16(struct aml *a, u16 value)
{
	aml_byte(a, (u8)value);
	aml_byte(a, (u8)(value >> 8));
}

void aml_u32(struct aml *a, u32 value)
{
	aml_u16(a, (u16)value);
	aml_u16(a, (u16)(value >> 16));
}

void aml_u64(struct aml *a, u64 value)
{
	aml_u32(a, (u32)value);
	aml_u32(a, (u32)(value >> 32));
}

static void segment(struct aml *a, const char *s, size_t length)
{
	char seg[4] = { '_', '_', '_', '_' };

	ASSERT(length >= 1 && length <= 4);
	memcpy(seg, s, length);
	aml_bytes(a, seg, 4);
}

void aml_path(struct aml *a, const char *path)
{
	unsigned count = 1;

	if (*path == '\\')
		aml_byte(a, (u8)*path++);
	if (!*path) {
		aml_byte(a, AML_ZERO);
		return;
	}
	for (const char *p = path; *p; p++)
		count += *p == '.';
	if (count == 2) {
		aml_byte(a, PREFIX_DUAL);
	} else if (count > 2) {
		aml_byte(a, PREFIX_MULTI);
		aml_byte(a, (u8)count);
	}
	for (unsigned i = 0; i < count; i++) {
		size_t length = strcspn(path, ".");

		segment(a, path, length);
		path += length + 1;
	}
}

void aml_integer(struct aml *a, u64 value)
{
	if (value <= 1) {
		aml_byte(a, (u8)value);
	} else if (value <= 0xff) {
		aml_byte(a, OP_BYTE);
		aml_byte(a, (u8)value);
	} else if (value <= 0xffff) {
		aml_byte(a, OP_WORD);
		aml_u16(a, (u16)value);
	} else if (value <= 0xffffffff) {
		aml_byte(a, OP_DWORD);
		aml_u32(a, (u32)value);
	} else {
		aml_byte(a, OP_QWORD);
		aml_u64(a, value);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_byte(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static u32 hex_digit(char c)
{
	return (u32)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits, then four hex digits, big-endian. */
void aml_eisaid(struct aml *a, const char *id)
{
	u32 v = (u32)(id[0] & 0x1f) << 26 | (u32)(id[1] & 0x1f) << 21 |
	        (u32)(id[2] & 0x1f) << 16 | hex_digit(id[3]) << 12 |
	        hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 |
	        hex_digit(id[6]);

	aml_byte(a, OP_DWORD);
	aml_u32(a, __builtin_bswap32(v));
}

void aml_name(struct aml *a, const char *path)
{
	aml_byte(a, OP_NAME);
	aml_path(a, path);
}

void aml_name_integer(struct aml *a, const char *path, u64 value)
{
	aml_name(a, path);
	aml_integer(a, value);
}

static void begin(struct aml *a)
{
	static const u8 space[LENGTH_BYTES];

	ASSERT(a->depth < AML_NEST_MAX);
	a->open[a->depth++] = a->used;
	aml_bytes(a, space, sizeof(space));
}

void aml_end(struct aml *a)
{
	size_t at, length;

	ASSERT(a->depth > 0);
	at = a->open[--a->depth];
	length = a->used - at;
	ASSERT(length < 1 << 20);
	a->data[at] = (u8)(LENGTH_LEAD | (length & 0xf));
	a->data[at + 1] = (u8)(length >> 4);
	a->data[at + 2] = (u8)(length >> 12);
}

void aml_scope(struct aml *a, const char *path)
{
	aml_byte(a, OP_SCOPE);
	begin(a);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *path)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_DEVICE);
	begin(a);
	aml_path(a, path);
}

void aml_method(struct aml *a, const char *path, unsigned args)
{
	aml_byte(a, OP_METHOD);
	begin(a);
	aml_path(a, path);
	aml_byte(a, (u8)args);
}

void aml_package(struct aml *a, unsigned elements)
{
	ASSERT(elements <= 255);
	aml_byte(a, OP_PACKAGE);
	begin(a);
	aml_byte(a, (u8)elements);
}

void aml_block(struct aml *a, u8 op)
{
	aml_byte(a, op);
	begin(a);
}

void aml_io_region(struct aml *a, const char *name, u16 base, u8 size)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_REGION);
	aml_path(a, name);
	aml_byte(a, 1); /* system I/O */
	aml_integer(a, base);
	aml_integer(a, size);
}

/* Section 20.2.5.2: access in bits 0 to 3, the update rule in 5 and 6. */
void aml_field(struct aml *a, const char *region, unsigned access)
{
	enum { ACCESS_BYTE = 1, ACCESS_DWORD = 3, WRITE_AS_ZEROS = 2 << 5 };

	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_FIELD);
	begin(a);
	aml_path(a, region);
	aml_byte(a,
	         (access == 4 ? ACCESS_DWORD : ACCESS_BYTE) | WRITE_AS_ZEROS);
}

void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
	ASSERT(bits < 64); /* a length of one byte */
	if (name)
		segment(a, name, strlen(name));
	else
		aml_byte(a, 0);
	aml_byte(a, (u8)bits);
}

void aml_mutex(struct aml *a, const char *name)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_MUTEX);
	aml_path(a, name);
	aml_byte(a, 0); /* sync level */
}

void aml_acquire(struct aml *a, const char *name)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_ACQUIRE);
	aml_path(a, name);
	aml_u16(a, 0xffff); /* for ever */
}

void aml_release(struct aml *a, const char *name)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_RELEASE);
	aml_path(a, name);
}

/* The size is a term of its own: a word constant, filled in at the end. */
void aml_buffer(struct aml *a)
{
	aml_byte(a, OP_BUFFER);
	begin(a);
	aml_byte(a, OP_WORD);
	aml_u16(a, 0);
}

void aml_buffer_end(struct aml *a)
{
	size_t at = a->open[a->depth - 1] + LENGTH_BYTES + 1;
	size_t length = a->used - (at + 2);

	a->data[at] = (u8)length;
	a->data[at + 1] = (u8)(length >> 8);
	aml_end(a);
}

void aml_resources(struct aml *a)
{
	aml_name(a, "_CRS");
	aml_buffer(a);
}

void aml_resources_end(struct aml *a)
{
	aml_byte(a, 0x79); /* end tag; checksum 0: not checked */
	aml_byte(a, 0);
	aml_buffer_end(a);
}

void aml_res_io(struct aml *a, u16 base, u8 size)
{
	aml_byte(a, 0x47);
	aml_byte(a, 1); /* decodes 16 bits */
	aml_u16(a, base);
	aml_u16(a, base);
	aml_byte(a, 1); /* alignment */
	aml_byte(a, size);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	aml_byte(a, 0x22);
	aml_u16(a, (u16)(1u << irq));
}

void aml_res_memory(struct aml *a, u32 base, u32 size)
{
	aml_byte(a, 0x86);
	aml_u16(a, 9);
	aml_byte(a, 1); /* writable */
	aml_u32(a, base);
	aml_u32(a, size);
}

/* Address space descriptors, section 6.4.3.5: fixed at both ends, decoded
 * positively; memory is writable, ports are all of them. */
static void window_head(struct aml *a, u8 tag, u16 length, enum aml_space space,
                        bool cacheable)
{
	u8 flags = 0;

	if (space == AML_SPACE_MEMORY)
		flags = cacheable ? 0x03 : 0x01;
	else if (space == AML_SPACE_IO)
		flags = 0x03;
	aml_byte(a, tag);
	aml_u16(a, length);
	aml_byte(a, (u8)space);
	aml_byte(a, 0x0c);
	aml_byte(a, flags);
}

void aml_res_window16(struct aml *a, enum aml_space space, u16 first, u16 last)
{
	window_head(a, 0x88, 13, space, false);
	aml_u16(a, 0);
	aml_u16(a, first);
	aml_u16(a, last);
	aml_u16(a, 0);
	aml_u16(a, (u16)(last - first + 1));
}

void aml_res_window32(struct aml *a, enum aml_space space, u32 first, u32 last,
                      bool cacheable)
{
	window_head(a, 0x87, 23, space, cacheable);
	aml_u32(a, 0);
	aml_u32(a, first);
	aml_u32(a, last);
	aml_u32(a, 0);
	aml_u32(a, last - first + 1);
}

void aml_res_window64(struct aml *a, u64 first, u64 last)
{
	window_head(a, 0x8a, 43, AML_SPACE_MEMORY, true);
	aml_u64(a, 0);
	aml_u64(a, first);
	aml_u64(a, last);
	aml_u64(a, 0);
	aml_u64(a, last - first + 1);
}
