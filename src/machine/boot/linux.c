/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linux - loads a bzImage as Linux Documentation/arch/x86/boot.rst says.
 *
 * The image is real-mode setup sectors, then the protected-mode kernel: a
 * small unpacker with the compressed kernel inside. Either that part is put
 * where it wants to be and entered at its 64-bit entry point, or the 32-bit one
 * if it has no other, or the compressed kernel (an ELF file) is unpacked here
 * and entered directly; all take the same boot_params ("zero page").
 */
#include "machine/boot/linux.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "guest/memory.h"
#include "machine/boot/elf.h"
#include "machine/boot/entry.h"
#include "machine/boot/file.h"
#include "machine/boot/unpack.h"

enum { /* offsets in the setup header and boot_params alike */
       ACPI_RSDP_ADDR = 0x70,
       EXT_RAMDISK_IMAGE = 0xc0,
       EXT_RAMDISK_SIZE = 0xc4,
       E820_ENTRIES = 0x1e8,
       SETUP_SECTS = 0x1f1,
       SYSSIZE = 0x1f4,
       VID_MODE = 0x1fa,
       BOOT_FLAG = 0x1fe,
       HEADER_LENGTH = 0x201,
       HEADER_MAGIC = 0x202,
       VERSION = 0x206,
       TYPE_OF_LOADER = 0x210,
       LOADFLAGS = 0x211,
       CODE32_START = 0x214,
       RAMDISK_IMAGE = 0x218,
       RAMDISK_SIZE = 0x21c,
       CMD_LINE_PTR = 0x228,
       INITRD_ADDR_MAX = 0x22c,
       KERNEL_ALIGNMENT = 0x230,
       RELOCATABLE = 0x234,
       XLOADFLAGS = 0x236,
       CMDLINE_SIZE = 0x238,
       PAYLOAD_OFFSET = 0x248,
       PAYLOAD_LENGTH = 0x24c,
       SETUP_DATA = 0x250,
       PREF_ADDRESS = 0x258,
       INIT_SIZE = 0x260,
       HEADER_MIN = 0x264, /* protocol 2.12 reaches this far */
       HEADER_MAX = 0x290, /* where boot_params goes on with other things */
       E820_TABLE = 0x2d0,
};
enum {
	LOADED_HIGH = 1 << 0,
	XLF_KERNEL_64 = 1 << 0,
	LOADER_UNDEFINED = 0xff,
	VID_NORMAL = 0xffff,
	E820_MAX = 128,
	ENTRY_64 = 0x200,
	SETUP_RNG_SEED = 9,
	SEED_BYTES = 32,
};

struct linux_image {
	u8 params[PAGE_SIZE];
	u64 kernel_offset,
	    kernel_size; /* of the protected-mode part, in file */
	gpa_t load;      /* where the kernel unpacks to */
	u64 init_size;   /* what it needs there */
	gpa_t entry;
	bool is_64;
};

bool linux_detect(const u8 *head, u64 size)
{
	return size >= VERSION + 2 && get16(head + BOOT_FLAG) == 0xaa55 &&
	       !memcmp(head + HEADER_MAGIC, "HdrS", 4);
}

static int read_header(const struct boot_request *req, const u8 *head,
                       u64 head_size, struct linux_image *img,
                       struct error *err)
{
	const char *path = req->kernel.path;
	unsigned sectors;
	u16 version = get16(head + VERSION);
	u64 end;

	if (head_size < HEADER_MIN)
		return error_set(err, -ENOEXEC,
		                 "%s is truncated in its setup "
		                 "header",
		                 path);
	if (version < 0x20c || !(head[LOADFLAGS] & LOADED_HIGH)) {
		error_set(err, -ENOEXEC,
		          "%s is of boot protocol %u.%02u, which is too old",
		          path, version >> 8, version & 0xff);
		return error_hint(err, "use a kernel of version 3.8 or later");
	}
	img->is_64 = get16(head + XLOADFLAGS) & XLF_KERNEL_64;
	end = MIN(HEADER_MAGIC + (u64)head[HEADER_LENGTH], (u64)HEADER_MAX);
	memcpy(img->params + SETUP_SECTS, head + SETUP_SECTS,
	       MIN(end, head_size) - SETUP_SECTS);

	sectors = head[SETUP_SECTS] ? head[SETUP_SECTS] : 4;
	img->kernel_offset = (sectors + 1) * 512;
	img->kernel_size = (u64)get32(head + SYSSIZE) * 16;
	if (img->kernel_size < ENTRY_64 + 16 ||
	    img->kernel_offset + img->kernel_size > req->kernel.size) {
		error_set(err, -ENOEXEC,
		          "%s is truncated: %" PRIu64 " bytes of %" PRIu64,
		          path, req->kernel.size,
		          img->kernel_offset + img->kernel_size);
		return error_hint(err, "copy or download it again");
	}
	return 0;
}

/* Where the kernel wants to run, or the lowest other place it accepts. */
static int choose_place(const struct boot_request *req, struct linux_image *img,
                        struct error *err)
{
	const u8 *h = img->params;
	u64 align = get32(h + KERNEL_ALIGNMENT);
	gpa_t load = get64(h + PREF_ADDRESS);

	img->init_size = MAX((u64)get32(h + INIT_SIZE), img->kernel_size);
	if (load < BOOT_KERNEL_MIN || load >= 4 * GIB)
		return error_set(err, -ENOEXEC,
		                 "%s is corrupt: it wants to "
		                 "run at %#" PRIx64,
		                 req->kernel.path, load);
	if (load + img->init_size > req->low_ram_end && h[RELOCATABLE] &&
	    align && !(align & (align - 1)))
		load = ALIGN_UP((u64)BOOT_KERNEL_MIN, align);
	if (load + img->init_size > req->low_ram_end) {
		error_set(
		    err, -ENOMEM,
		    "%s needs %" PRIu64
		    " MiB of memory to start, and the machine has %" PRIu64,
		    req->kernel.path, (load + img->init_size) / MIB + 1,
		    req->low_ram_end / MIB);
		return error_hint(err, "give the machine more memory");
	}
	img->load = load;
	return 0;
}

static int load_packed(const struct boot_request *req, struct linux_image *img,
                       struct error *err)
{
	img->entry = img->load + (img->is_64 ? ENTRY_64 : 0);
	put32(img->params + CODE32_START, (u32)img->load);
	return boot_file_load(&req->kernel, img->kernel_offset, req->memory,
	                      img->load, img->kernel_size, err);
}

/* The vmlinux inside: linked to run at pref_address and nowhere else. */
static int load_elf(const struct boot_request *req, struct linux_image *img,
                    const u8 *data, u64 size, struct error *err)
{
	struct elf_source src = {
		.data = data,
		.size = size,
		.path = req->kernel.path,
	};
	struct elf_info info;
	int rc = elf_load(req, &src, &info, err);

	if (rc < 0)
		return rc;
	if (info.is_64 != img->is_64 || info.entry < info.low ||
	    info.entry >= info.high)
		return error_set(err, -ENOEXEC,
		                 "%s is corrupt: the kernel in "
		                 "it has no %u-bit entry",
		                 req->kernel.path, img->is_64 ? 64 : 32);
	img->load = info.low;
	img->init_size = MAX(img->init_size, info.high - info.low);
	img->entry = info.entry;
	return 0;
}

/* -ENOTSUP: not compressed in a way we know; the kernel can do it itself. */
static int load_unpacked(const struct boot_request *req,
                         struct linux_image *img, struct error *err)
{
	u64 offset = get32(img->params + PAYLOAD_OFFSET);
	u64 length = get32(img->params + PAYLOAD_LENGTH);
	u8 *packed, *plain = NULL;
	u64 size = 0;
	int rc;

	if (length < 16 || offset > img->kernel_size ||
	    length > img->kernel_size - offset)
		return error_set(err, -ENOTSUP, "%s holds no payload",
		                 req->kernel.path);
	packed = try_alloc(length, 1);
	if (!packed)
		return error_set(err, -ENOMEM, "no memory to read %s",
		                 req->kernel.path);
	rc = boot_file_read(&req->kernel, img->kernel_offset + offset, packed,
	                    length, err);
	if (rc == 0)
		rc = unpack(packed, length,
		            MAX(req->low_ram_end, img->init_size),
		            req->kernel.path, &plain, &size, err);
	free(packed);
	if (rc == 0 && !elf_magic(plain, size))
		rc = error_set(err, -ENOTSUP, "%s holds no ELF kernel",
		               req->kernel.path);
	if (rc == 0)
		rc = load_elf(req, img, plain, size, err);
	free(plain);
	return rc;
}

static int load_kernel(const struct boot_request *req, struct linux_image *img,
                       struct error *err)
{
	int rc = choose_place(req, img, err);

	if (rc < 0)
		return rc;
	/* Only the kernel's own unpacker can move it elsewhere. */
	if (req->unpack && img->load == get64(img->params + PREF_ADDRESS)) {
		rc = load_unpacked(req, img, err);
		if (rc != -ENOTSUP)
			return rc;
		log_debug("machine", "kernel left to unpack itself");
	}
	return load_packed(req, img, err);
}

static int load_initrd(const struct boot_request *req, struct linux_image *img,
                       struct error *err)
{
	u64 limit = (u64)get32(img->params + INITRD_ADDR_MAX) + 1;
	u64 size = req->initrd.size;
	gpa_t at;

	if (req->initrd.fd < 0)
		return 0;
	at = boot_place_high(req, size, img->load + img->init_size, limit);
	if (!at) {
		error_set(err, -ENOMEM,
		          "the initrd %s (%" PRIu64
		          " MiB) does not fit in the machine's memory beside "
		          "the kernel",
		          req->initrd.path, size / MIB + 1);
		return error_hint(err, "give the machine more memory");
	}
	put32(img->params + RAMDISK_IMAGE, (u32)at);
	put32(img->params + RAMDISK_SIZE, (u32)size);
	put32(img->params + EXT_RAMDISK_IMAGE, (u32)(at >> 32));
	put32(img->params + EXT_RAMDISK_SIZE, (u32)(size >> 32));
	return boot_file_load(&req->initrd, 0, req->memory, at, size, err);
}

static int put_cmdline(const struct boot_request *req, struct linux_image *img,
                       struct error *err)
{
	const char *cmdline = req->cmdline ? req->cmdline : "";
	u64 length = strlen(cmdline);
	u64 room = MIN((u64)get32(img->params + CMDLINE_SIZE),
	               (u64)BOOT_CMDLINE_MAX - 1);

	if (length > room)
		return error_set(err, -EINVAL,
		                 "the kernel command line is %" PRIu64
		                 " bytes; this kernel takes %" PRIu64,
		                 length, room);
	boot_put(req->memory, BOOT_CMDLINE, cmdline, length + 1);
	put32(img->params + CMD_LINE_PTR, BOOT_CMDLINE);
	return 0;
}

/* So that the guest need not wait for entropy; it wipes this itself. */
static void put_seed(const struct boot_request *req, struct linux_image *img)
{
	u8 data[16 + SEED_BYTES] = { 0 };

	if (getrandom(data + 16, SEED_BYTES, GRND_NONBLOCK) != SEED_BYTES)
		return;
	put32(data + 8, SETUP_RNG_SEED);
	put32(data + 12, SEED_BYTES);
	boot_put(req->memory, BOOT_SEED, data, sizeof(data));
	put64(img->params + SETUP_DATA, BOOT_SEED);
}

static void fill_params(const struct boot_request *req, struct linux_image *img)
{
	unsigned count = MIN(req->map_count, (unsigned)E820_MAX);
	u8 *p = img->params;

	p[TYPE_OF_LOADER] = LOADER_UNDEFINED;
	put16(p + VID_MODE, VID_NORMAL);
	put64(p + ACPI_RSDP_ADDR, req->rsdp);
	put64(p + SETUP_DATA, 0);
	p[E820_ENTRIES] = (u8)count;
	for (unsigned i = 0; i < count; i++) {
		u8 *e = p + E820_TABLE + (u64)i * 20;

		put64(e, req->map[i].base);
		put64(e + 8, req->map[i].size);
		put32(e + 16, req->map[i].type);
	}
	put_seed(req, img);
}

int linux_load(const struct boot_request *req, const u8 *head, u64 head_size,
               struct cpu_state *bsp, struct error *err)
{
	struct linux_image *img = xalloc(sizeof(*img));
	int rc = read_header(req, head, head_size, img, err);

	if (rc == 0)
		rc = load_kernel(req, img, err);
	if (rc == 0)
		rc = load_initrd(req, img, err);
	if (rc == 0)
		rc = put_cmdline(req, img, err);
	if (rc == 0) {
		fill_params(req, img);
		boot_put(req->memory, BOOT_PARAMS, img->params, PAGE_SIZE);
		if (img->is_64)
			boot_enter_64(req->memory, bsp, img->entry);
		else
			boot_enter_32(req->memory, bsp, (u32)img->entry);
		bsp->gpr[GPR_RSI] = BOOT_PARAMS;
	}
	free(img);
	return rc;
}
