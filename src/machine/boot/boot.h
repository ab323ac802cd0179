/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.h - puts a kernel into guest memory and says how to enter it.
 *
 * What a file is, is found from its bytes: a Linux bzImage, an ELF with a PVH
 * note, a multiboot 1 kernel. Files are hostile: each byte is read once, and
 * everything computed from it is checked against the file and the guest's
 * memory before it is used. Called before the first vCPU runs and again at
 * each reset, always from one thread.
 */
#pragma once

#include "base/types.h"
#include "guest/cpu.h"

struct error;
struct memory;

/* What the loaders write below 1 MiB. None of it outlives the kernel's start,
 * the ACPI tables aside. */
enum {
	BOOT_GDT = 0x1000,
	BOOT_TSS = 0x1080,
	BOOT_SEED = 0x1200,        /* setup_data with random bytes */
	BOOT_PARAMS = 0x7000,      /* or start_info, or multiboot info */
	BOOT_PAGE_TABLES = 0x9000, /* six pages: 4 GiB of identity */
	BOOT_CMDLINE = 0x20000,
	BOOT_CMDLINE_MAX = 0x10000,
	BOOT_EBDA = 0x9fc00,
	BOOT_KERNEL_MIN = 0x100000,
};

enum { /* as BIOS call E820 numbers them */
       E820_RAM = 1,
       E820_RESERVED = 2,
};

struct e820_entry {
	u64 base, size;
	u32 type;
};

/* An open file; a regular one, read with pread. */
struct boot_file {
	int fd;           /* borrowed; -1: none */
	const char *path; /* for messages */
	u64 size;         /* set by boot_file_check */
};

enum { BOOT_MODULES_MAX = 8 };

struct boot_request {
	struct memory *memory;
	struct boot_file kernel, initrd;
	struct boot_file modules[BOOT_MODULES_MAX];
	unsigned module_count;
	const char *cmdline; /* may be NULL */
	const struct e820_entry *map;
	unsigned map_count;
	u64 low_ram_end; /* RAM goes from 1 MiB to here without a hole */
	gpa_t rsdp;      /* 0: no ACPI tables */
	/* Unpack a compressed Linux here rather than in the guest: an engine
	 * that emulates needs seconds for what takes milliseconds here. */
	bool unpack;
};

/*
 * Load, and fill in the registers of the first vCPU, which the caller has
 * reset. -EINVAL, -ENOEXEC, -ENOMEM, -EIO with words and a hint.
 */
int boot_load(const struct boot_request *req, struct cpu_state *bsp,
              struct error *err) MUST_CHECK;
