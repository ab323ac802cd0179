/* SPDX-License-Identifier: Apache-2.0 */
/*
 * multiboot - the Multiboot Specification 0.6.96: an ELF kernel, or a flat one
 * whose header says where it goes ("address fields"), with modules.
 *
 * The information structure, the memory map, the module list and the strings
 * lie one behind the other from BOOT_PARAMS on, up to the page tables' place,
 * which a kernel entered without paging leaves free.
 */
#include "machine/boot/multiboot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "guest/memory.h"
#include "machine/boot/elf.h"
#include "machine/boot/entry.h"
#include "machine/boot/file.h"

#define HEADER_MAGIC 0x1badb002u
#define BOOT_MAGIC 0x2badb002u

enum {
	SEARCH_BYTES = 8192,
	HEADER_BASIC = 12,
	HEADER_ADDRESS = 32,
	FLAG_VIDEO = 1 << 2,
	FLAG_REFUSED = 0xfff8, /* required features that nobody defined */
	FLAG_ADDRESS = 1 << 16,
};
enum { /* the information structure */
       INFO_FLAGS = 0,
       INFO_MEM_LOWER = 4,
       INFO_MEM_UPPER = 8,
       INFO_CMDLINE = 16,
       INFO_MODS_COUNT = 20,
       INFO_MODS_ADDR = 24,
       INFO_MMAP_LENGTH = 44,
       INFO_MMAP_ADDR = 48,
       INFO_LOADER_NAME = 64,
       INFO_SIZE = 116,
       HAS_MEMORY = 1 << 0,
       HAS_CMDLINE = 1 << 2,
       HAS_MODULES = 1 << 3,
       HAS_MMAP = 1 << 6,
       HAS_LOADER_NAME = 1 << 9,
       MODULE_SIZE = 16,
       MMAP_SIZE = 24,
};

static const char loader_name[] = "Atoll";

static const u8 *find_header(const u8 *head, u64 size)
{
	u64 end = MIN(size, (u64)SEARCH_BYTES);

	for (u64 at = 0; at + HEADER_BASIC <= end; at += 4) {
		const u8 *h = head + at;

		if (get32(h) == HEADER_MAGIC &&
		    get32(h) + get32(h + 4) + get32(h + 8) == 0)
			return h;
	}
	return NULL;
}

bool multiboot_detect(const u8 *head, u64 size)
{
	return find_header(head, size) != NULL;
}

/* Specification 3.1.3: the address fields of a kernel that is not ELF. */
static int load_flat(const struct boot_request *req, const u8 *head,
                     u64 head_size, const u8 *h, u32 *entry, gpa_t *high,
                     struct error *err)
{
	const char *path = req->kernel.path;
	u64 at = (u64)(h - head), offset, size;
	u32 header, load, load_end, bss_end;

	if (at + HEADER_ADDRESS > head_size)
		return error_set(err, -ENOEXEC,
		                 "%s is truncated in its "
		                 "multiboot header",
		                 path);
	header = get32(h + 12);
	load = get32(h + 16);
	load_end = get32(h + 20);
	bss_end = get32(h + 24);
	*entry = get32(h + 28);
	if (load > header || header - load > at)
		return error_set(err, -ENOEXEC,
		                 "%s is corrupt: its multiboot "
		                 "addresses make no sense",
		                 path);
	offset = at - (header - load);
	size = load_end ? (u64)load_end - load : req->kernel.size - offset;
	if ((load_end && load_end < load) || size > req->kernel.size - offset ||
	    (bss_end && bss_end < load + size))
		return error_set(err, -ENOEXEC,
		                 "%s is truncated or corrupt: "
		                 "its multiboot header wants more than it "
		                 "holds",
		                 path);
	*high = MAX((u64)load + size, (u64)bss_end);
	if (load < BOOT_KERNEL_MIN || *high > req->low_ram_end)
		return error_set(err, -ENOMEM,
		                 "%s does not fit in the "
		                 "machine's memory between 1 MiB and %" PRIu64
		                 " MiB",
		                 path, req->low_ram_end / MIB);
	if (*high > load + size)
		boot_zero(req->memory, load + size, *high - (load + size));
	return boot_file_load(&req->kernel, offset, req->memory, load, size,
	                      err);
}

static int load_kernel(const struct boot_request *req, const u8 *head,
                       u64 head_size, u32 *entry, gpa_t *high,
                       struct error *err)
{
	const u8 *h = find_header(head, head_size);
	struct elf_source src = { .file = &req->kernel,
		                  .size = req->kernel.size,
		                  .path = req->kernel.path };
	struct elf_info info;
	u32 flags = get32(h + 4);
	int rc;

	if (flags & (FLAG_VIDEO | FLAG_REFUSED))
		return error_set(err, -ENOTSUP,
		                 "%s asks for multiboot "
		                 "features not offered here (flags %#x)",
		                 req->kernel.path, flags);
	if (flags & FLAG_ADDRESS)
		return load_flat(req, head, head_size, h, entry, high, err);
	rc = elf_load(req, &src, &info, err);
	if (rc < 0)
		return rc;
	if (info.is_64) {
		error_set(err, -ENOEXEC,
		          "%s is a 64-bit multiboot kernel; "
		          "multiboot enters in 32 bits",
		          req->kernel.path);
		return error_hint(err, "objcopy -O elf32-i386 makes a 32-bit "
		                       "file of it");
	}
	*entry = (u32)info.entry;
	*high = info.high;
	return 0;
}

/* The information structure as it grows. */
struct mb_info {
	u8 data[BOOT_PAGE_TABLES - BOOT_PARAMS];
	u32 used;
	u32 flags;
};

static u32 info_take(struct mb_info *info, u32 size)
{
	u32 at = ALIGN_UP(info->used, 4u);

	ASSERT(at + size <= sizeof(info->data));
	info->used = at + size;
	return at;
}

static u32 info_string(struct mb_info *info, const char *s)
{
	u32 size = (u32)strlen(s) + 1;
	u32 at = info_take(info, size);

	memcpy(info->data + at, s, size);
	return BOOT_PARAMS + at;
}

static void put_memory(const struct boot_request *req, struct mb_info *info)
{
	u32 count = MIN(req->map_count, 32u);
	u32 at = info_take(info, count * MMAP_SIZE);

	for (u32 i = 0; i < count; i++) {
		u8 *e = info->data + at + i * MMAP_SIZE;

		put32(e, MMAP_SIZE - 4);
		put64(e + 4, req->map[i].base);
		put64(e + 12, req->map[i].size);
		put32(e + 20, req->map[i].type);
	}
	put32(info->data + INFO_MMAP_LENGTH, count * MMAP_SIZE);
	put32(info->data + INFO_MMAP_ADDR, BOOT_PARAMS + at);
	put32(info->data + INFO_MEM_LOWER, BOOT_EBDA / 1024);
	put32(info->data + INFO_MEM_UPPER,
	      (u32)((req->low_ram_end - BOOT_KERNEL_MIN) / 1024));
	info->flags |= HAS_MEMORY | HAS_MMAP;
}

/* Modules go behind the kernel, each on a page of its own. */
static int put_modules(const struct boot_request *req, struct mb_info *info,
                       gpa_t high, struct error *err)
{
	const struct boot_file *files[BOOT_MODULES_MAX + 1];
	unsigned count = 0;
	u32 list;

	if (req->initrd.fd >= 0)
		files[count++] = &req->initrd;
	for (unsigned i = 0; i < req->module_count; i++)
		files[count++] = &req->modules[i];
	list = info_take(info, count * MODULE_SIZE);
	for (unsigned i = 0; i < count; i++) {
		gpa_t at = ALIGN_UP(high, (u64)PAGE_SIZE);
		u8 *m = info->data + list + i * MODULE_SIZE;
		int rc;

		high = at + files[i]->size;
		if (high > req->low_ram_end)
			return error_set(err, -ENOMEM,
			                 "module %s does not fit "
			                 "in the machine's memory",
			                 files[i]->path);
		put32(m, (u32)at);
		put32(m + 4, (u32)high);
		put32(m + 8, info_string(info, ""));
		rc = boot_file_load(files[i], 0, req->memory, at,
		                    files[i]->size, err);
		if (rc < 0)
			return rc;
	}
	put32(info->data + INFO_MODS_COUNT, count);
	put32(info->data + INFO_MODS_ADDR, BOOT_PARAMS + list);
	info->flags |= HAS_MODULES;
	return 0;
}

/* By convention the kernel's own name is the first word. */
static int put_cmdline(const struct boot_request *req, struct mb_info *info,
                       struct error *err)
{
	const char *name = strrchr(req->kernel.path, '/');
	char *line = xasprintf("%s %s", name ? name + 1 : req->kernel.path,
	                       req->cmdline ? req->cmdline : "");
	u64 size = strlen(line) + 1;

	if (size > BOOT_CMDLINE_MAX) {
		free(line);
		return error_set(err, -EINVAL,
		                 "the kernel command line is "
		                 "longer than %d bytes",
		                 BOOT_CMDLINE_MAX);
	}
	boot_put(req->memory, BOOT_CMDLINE, line, size);
	free(line);
	put32(info->data + INFO_CMDLINE, BOOT_CMDLINE);
	info->flags |= HAS_CMDLINE;
	return 0;
}

int multiboot_load(const struct boot_request *req, const u8 *head,
                   u64 head_size, struct cpu_state *bsp, struct error *err)
{
	struct mb_info *info;
	u32 entry = 0;
	gpa_t high = 0;
	int rc = load_kernel(req, head, head_size, &entry, &high, err);

	if (rc < 0)
		return rc;
	info = xalloc(sizeof(*info));
	info->used = INFO_SIZE;
	put_memory(req, info);
	rc = put_modules(req, info, high, err);
	if (rc == 0)
		rc = put_cmdline(req, info, err);
	if (rc == 0) {
		put32(info->data + INFO_LOADER_NAME,
		      info_string(info, loader_name));
		put32(info->data + INFO_FLAGS, info->flags | HAS_LOADER_NAME);
		boot_put(req->memory, BOOT_PARAMS, info->data, info->used);
		boot_enter_32(req->memory, bsp, entry);
		bsp->gpr[GPR_RAX] = BOOT_MAGIC;
		bsp->gpr[GPR_RBX] = BOOT_PARAMS;
	}
	free(info);
	return rc;
}
