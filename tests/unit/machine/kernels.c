/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/alloc.h"

const char *const kernel_names[KERNEL_KINDS] = {
	"bzImage",    "bzImage lz4", "bzImage gzip", "bzImage zstd",
	"bzImage xz", "ELF PVH",     "multiboot",    "multiboot flat",
};

enum { ROOM = 65536, SETUP = 1024, PAYLOAD_AT = 0x300 };

static void put32(u8 *p, u32 v)
{
	memcpy(p, &v, 4);
}

static void fill_body(u8 *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		p[i] = (u8)(i * 7);
}

static size_t make_elf64(u8 *out)
{
	static const u8 note[] = { 4, 0, 0,   0,   4,   0, 0,    0, 18, 0,
		                   0, 0, 'X', 'e', 'n', 0, 0x10, 0, 0,  1 };
	Elf64_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1 },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = KERNEL_ELF_ENTRY,
		.e_phoff = 64,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	Elf64_Phdr p[2] = {
		{ .p_type = PT_LOAD,
		  .p_offset = 4096,
		  .p_paddr = KERNEL_LOAD,
		  .p_filesz = KERNEL_BODY,
		  .p_memsz = KERNEL_MEMSZ },
		{ .p_type = PT_NOTE,
		  .p_offset = 1024,
		  .p_filesz = sizeof(note) },
	};

	memcpy(out, &h, sizeof(h));
	memcpy(out + 64, p, sizeof(p));
	memcpy(out + 1024, note, sizeof(note));
	fill_body(out + 4096, KERNEL_BODY);
	return 4096 + KERNEL_BODY;
}

static size_t make_multiboot(u8 *out, bool flat)
{
	Elf32_Ehdr h = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1 },
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_entry = KERNEL_MB_ENTRY,
		.e_phoff = 52,
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 1,
	};
	Elf32_Phdr p = { .p_type = PT_LOAD,
		         .p_offset = 4096,
		         .p_paddr = KERNEL_MB_LOAD,
		         .p_filesz = KERNEL_BODY,
		         .p_memsz = KERNEL_MEMSZ };
	u32 flags = flat ? 1u << 16 : 0;
	u8 *mb = out + 4096 + 16;

	if (!flat) {
		memcpy(out, &h, sizeof(h));
		memcpy(out + 52, &p, sizeof(p));
	}
	fill_body(out + 4096, KERNEL_BODY);
	/* In the first 8 KiB: 4112 bytes in, inside the body. */
	put32(mb, 0x1badb002);
	put32(mb + 4, flags);
	put32(mb + 8, -(0x1badb002u + flags));
	put32(mb + 12, KERNEL_MB_LOAD + 16);
	put32(mb + 16, KERNEL_MB_LOAD);
	put32(mb + 20, KERNEL_MB_LOAD + KERNEL_BODY);
	put32(mb + 24, KERNEL_MB_LOAD + KERNEL_MEMSZ);
	put32(mb + 28, KERNEL_MB_ENTRY);
	return 4096 + KERNEL_BODY;
}

static size_t pack_lz4(const u8 *in, size_t size, u8 *out)
{
	int n = LZ4_compress_default((const char *)in, (char *)out + 8,
	                             (int)size, ROOM / 2);

	put32(out, 0x184c2102);
	put32(out + 4, (u32)n);
	return 8 + (size_t)n;
}

static size_t pack_gzip(const u8 *in, size_t size, u8 *out)
{
	z_stream z = { 0 };

	deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)size;
	z.next_out = out;
	z.avail_out = ROOM / 2;
	deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return z.total_out - 4; /* the size at the end comes again */
}

static size_t pack(enum kernel_kind kind, const u8 *in, size_t size, u8 *out)
{
	size_t n = 0;

	switch (kind) {
	case KERNEL_BZIMAGE_LZ4:
		n = pack_lz4(in, size, out);
		break;
	case KERNEL_BZIMAGE_GZIP:
		n = pack_gzip(in, size, out);
		break;
	case KERNEL_BZIMAGE_ZSTD:
		n = ZSTD_compress(out, ROOM / 2, in, size, 3);
		break;
	case KERNEL_BZIMAGE_XZ:
		lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, in, size,
		                        out, &n, ROOM / 2);
		break;
	default:
		memcpy(out, "no known format", 16);
		n = 16;
		break;
	}
	put32(out + n, (u32)size);
	return n + 4;
}

static size_t make_bzimage(enum kernel_kind kind, u8 *out)
{
	u8 *elf = xalloc(ROOM);
	size_t elf_size = make_elf64(elf);
	u8 *kernel = out + SETUP;
	size_t payload, size;

	fill_body(kernel, 4096 * 2);
	payload = pack(kind, elf, elf_size, kernel + PAYLOAD_AT);
	size = ALIGN_UP(MAX(PAYLOAD_AT + payload, (size_t)KERNEL_BODY),
	                (size_t)16);
	out[0x1f1] = SETUP / 512 - 1;
	put32(out + 0x1f4, (u32)size / 16);
	out[0x1fe] = 0x55;
	out[0x1ff] = 0xaa;
	out[0x201] = 0x66;
	memcpy(out + 0x202, "HdrS", 4);
	put32(out + 0x206, 0x20f);
	out[0x211] = 1;
	put32(out + 0x22c, 0x7fffffff);
	put32(out + 0x230, 0x200000);
	out[0x234] = 1;
	out[0x236] = 1;
	put32(out + 0x238, 2047);
	put32(out + 0x248, PAYLOAD_AT);
	put32(out + 0x24c, (u32)payload);
	put32(out + 0x258, KERNEL_LOAD);
	put32(out + 0x260, 0x100000);
	free(elf);
	return SETUP + size;
}

u8 *kernel_make(enum kernel_kind kind, size_t *size)
{
	u8 *out = xalloc(ROOM * 2);

	if (kind == KERNEL_ELF_PVH)
		*size = make_elf64(out);
	else if (kind == KERNEL_MULTIBOOT || kind == KERNEL_MULTIBOOT_FLAT)
		*size = make_multiboot(out, kind == KERNEL_MULTIBOOT_FLAT);
	else
		*size = make_bzimage(kind, out);
	return out;
}

int kernel_file(const void *data, size_t size)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	if (fd >= 0 && size && write(fd, data, size) != (ssize_t)size) {
		close(fd);
		return -1;
	}
	return fd;
}
