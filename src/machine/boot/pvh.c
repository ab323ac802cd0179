/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvh - enters an ELF kernel as Xen's docs/misc/pvh.pandoc says, with
 * hvm_start_info version 1 (xen/include/public/arch-x86/hvm/start_info.h):
 *
 *	0 magic  4 version  8 flags  12 modules  16 module list  24 cmdline
 *	32 rsdp  40 memory map  48 its entries
 */
#include "machine/boot/pvh.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "guest/memory.h"
#include "machine/boot/elf.h"
#include "machine/boot/entry.h"
#include "machine/boot/file.h"

#define START_MAGIC 0x336ec578u

enum { START_SIZE = 56, MODULE_SIZE = 32, MAP_ENTRY_SIZE = 24, MAP_MAX = 64 };
enum {
	MODULE_AT = BOOT_PARAMS + 0x100,
	MAP_AT = BOOT_PARAMS + 0x200,
};

static int load_initrd(const struct boot_request *req, gpa_t floor, u8 *start,
                       struct error *err)
{
	u8 module[MODULE_SIZE] = { 0 };
	gpa_t at;

	if (req->initrd.fd < 0)
		return 0;
	at = boot_place_high(req, req->initrd.size, floor, 4 * GIB);
	if (!at) {
		error_set(err, -ENOMEM,
		          "the initrd %s does not fit in the "
		          "machine's memory beside the kernel",
		          req->initrd.path);
		return error_hint(err, "give the machine more memory");
	}
	put64(module, at);
	put64(module + 8, req->initrd.size);
	boot_put(req->memory, MODULE_AT, module, sizeof(module));
	put32(start + 12, 1);
	put64(start + 16, MODULE_AT);
	return boot_file_load(&req->initrd, 0, req->memory, at,
	                      req->initrd.size, err);
}

static void put_map(const struct boot_request *req, u8 *start)
{
	unsigned count = MIN(req->map_count, (unsigned)MAP_MAX);

	for (unsigned i = 0; i < count; i++) {
		u8 e[MAP_ENTRY_SIZE] = { 0 };

		put64(e, req->map[i].base);
		put64(e + 8, req->map[i].size);
		put32(e + 16, req->map[i].type);
		boot_put(req->memory, MAP_AT + (u64)i * sizeof(e), e,
		         sizeof(e));
	}
	put64(start + 40, MAP_AT);
	put32(start + 48, count);
}

int pvh_load(const struct boot_request *req, struct cpu_state *bsp,
             struct error *err)
{
	const char *cmdline = req->cmdline ? req->cmdline : "";
	struct elf_source src = { .file = &req->kernel,
		                  .size = req->kernel.size,
		                  .path = req->kernel.path };
	u8 start[START_SIZE] = { 0 };
	struct elf_info info;
	int rc = elf_load(req, &src, &info, err);

	if (rc < 0)
		return rc;
	if (!info.has_pvh) {
		error_set(err, -ENOEXEC,
		          "%s is an ELF file with neither a PVH "
		          "note nor a multiboot header",
		          req->kernel.path);
		return error_hint(err, "give a bzImage, or a vmlinux built "
		                       "with CONFIG_PVH");
	}
	if (strlen(cmdline) >= BOOT_CMDLINE_MAX)
		return error_set(err, -EINVAL,
		                 "the kernel command line is "
		                 "longer than %d bytes",
		                 BOOT_CMDLINE_MAX);
	put32(start, START_MAGIC);
	put32(start + 4, 1);
	rc = load_initrd(req, info.high, start, err);
	if (rc < 0)
		return rc;
	boot_put(req->memory, BOOT_CMDLINE, cmdline, strlen(cmdline) + 1);
	put64(start + 24, BOOT_CMDLINE);
	put64(start + 32, req->rsdp);
	put_map(req, start);
	boot_put(req->memory, BOOT_PARAMS, start, sizeof(start));
	boot_enter_32(req->memory, bsp, info.pvh_entry);
	bsp->gpr[GPR_RBX] = BOOT_PARAMS;
	return 0;
}
