/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aml.h - writes ACPI machine language, ACPI specification 6.4 chapter 20.
 *
 * Blocks (scopes, devices, methods, packages, buffers) nest: each begin has
 * its end. The buffer grows as needed and is freed by aml_fini().
 */
#pragma once

#include "base/types.h"

enum { AML_NEST_MAX = 8 };

struct aml {
	u8 *data;
	size_t used, room;
	size_t open[AML_NEST_MAX]; /* where each open block's length goes */
	unsigned depth;
};

enum { /* single-byte terms */
       AML_ZERO = 0x00,
       AML_ONE = 0x01,
       AML_LOCAL0 = 0x60,
       AML_ARG0 = 0x68,
       AML_ARG1 = 0x69,
       AML_ARG3 = 0x6b,
       AML_STORE = 0x70,
       AML_AND = 0x7b,
       AML_OR = 0x7d,
       AML_NOTIFY = 0x86,
       AML_CREATE_DWORD_FIELD = 0x8a,
       AML_LNOT = 0x92,
       AML_LEQUAL = 0x93,
       AML_IF = 0xa0,
       AML_ELSE = 0xa1,
       AML_WHILE = 0xa2,
       AML_RETURN = 0xa4,
};

void aml_fini(struct aml *a);

void aml_bytes(struct aml *a, const void *data, size_t size);
void aml_byte(struct aml *a, u8 byte);
void aml_u16(struct aml *a, u16 value);
void aml_u32(struct aml *a, u32 value);
void aml_u64(struct aml *a, u64 value);

/* "PCI0", "_SB.PCI0", "\\_SB": segments of at most four characters. */
void aml_path(struct aml *a, const char *path);
void aml_integer(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08" as an integer */

/* Name(path, ...): the value follows. */
void aml_name(struct aml *a, const char *path);
void aml_name_integer(struct aml *a, const char *path, u64 value);

void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *path);
void aml_method(struct aml *a, const char *path, unsigned args);
void aml_package(struct aml *a, unsigned elements);
void aml_block(struct aml *a, u8 op); /* AML_IF, AML_ELSE, AML_WHILE */
void aml_end(struct aml *a);

/* OperationRegion(name, SystemIO, base, size). */
void aml_io_region(struct aml *a, const char *name, u16 base, u8 size);
/* Field(region, ...) {...}: units follow, the end with aml_end(). What a unit
 * is not asked to write is written as zeroes. access: bytes, 1 or 4. */
void aml_field(struct aml *a, const char *region, unsigned access);
/* name NULL: bits that have none. */
void aml_field_unit(struct aml *a, const char *name, unsigned bits);
void aml_mutex(struct aml *a, const char *name);
void aml_acquire(struct aml *a, const char *name); /* however long it takes */
void aml_release(struct aml *a, const char *name);

/* Buffer(){...}, its length found at the end. */
void aml_buffer(struct aml *a);
void aml_buffer_end(struct aml *a);

/* _CRS: resource descriptors, ACPI 6.4 section 6.4. */
void aml_resources(struct aml *a);
void aml_resources_end(struct aml *a);
void aml_res_io(struct aml *a, u16 base, u8 size);
void aml_res_irq(struct aml *a, unsigned irq);
void aml_res_memory(struct aml *a, u32 base, u32 size);
enum aml_space { AML_SPACE_MEMORY, AML_SPACE_IO, AML_SPACE_BUS };
/* A window that a bridge passes on: first and last address. */
void aml_res_window16(struct aml *a, enum aml_space space, u16 first, u16 last);
void aml_res_window32(struct aml *a, enum aml_space space, u32 first, u32 last,
                      bool cacheable);
void aml_res_window64(struct aml *a, u64 first, u64 last);
