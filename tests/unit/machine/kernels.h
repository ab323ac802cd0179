/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - small kernel files made up in memory, for the loaders' tests.
 */
#pragma once

#include "base/types.h"

enum kernel_kind {
	KERNEL_BZIMAGE,     /* payload not compressed in a known way */
	KERNEL_BZIMAGE_LZ4, /* an ELF inside, LZ4 legacy frames */
	KERNEL_BZIMAGE_GZIP,
	KERNEL_BZIMAGE_ZSTD,
	KERNEL_BZIMAGE_XZ,
	KERNEL_ELF_PVH,
	KERNEL_MULTIBOOT,
	KERNEL_MULTIBOOT_FLAT,
	KERNEL_KINDS,
};

enum { /* where they load and are entered */
       KERNEL_LOAD = 0x1000000,
       KERNEL_ELF_ENTRY = 0x1000020,
       KERNEL_MB_LOAD = 0x400000,
       KERNEL_MB_ENTRY = 0x400040,
       KERNEL_BODY = 8192, /* bytes of the loaded segment */
       KERNEL_MEMSZ = 16384,
};

extern const char *const kernel_names[KERNEL_KINDS];

/* The file's bytes; freed by the caller. Byte i of the body is i * 7. */
u8 *kernel_make(enum kernel_kind kind, size_t *size);
/* A memory file holding them. */
int kernel_file(const void *data, size_t size);
