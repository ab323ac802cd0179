/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elf - loads 32- and 64-bit x86 executables, System V gABI chapter 4 and 5.
 *
 * The PVH entry point is in a note that Xen defined: name "Xen", type 18
 * (PHYS32_ENTRY), the descriptor a 32- or 64-bit address.
 */
#include "machine/boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "guest/memory.h"
#include "machine/boot/file.h"

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18, NOTES_MAX = 64 * 1024, PHDRS_MAX = 64 };

static int elf_read(const struct elf_source *src, u64 offset, void *buf,
                    u64 size, struct error *err)
{
	if (offset > src->size || size > src->size - offset) {
		error_set(err, -ENOEXEC,
		          "%s is truncated or corrupt: its ELF "
		          "headers point past its end",
		          src->path);
		return error_hint(err, "copy or download it again");
	}
	if (src->file)
		return boot_file_read(src->file, offset, buf, size, err);
	memcpy(buf, src->data + offset, size);
	return 0;
}

/* Both classes widened to the 64-bit form. */
static int read_header(const struct elf_source *src, Elf64_Ehdr *h,
                       struct error *err)
{
	u8 raw[sizeof(Elf64_Ehdr)] = { 0 };
	Elf32_Ehdr h32;
	int rc = elf_read(src, 0, raw, sizeof(h32), err);

	if (rc < 0)
		return rc;
	if (!elf_magic(raw, sizeof(raw)) || raw[EI_DATA] != ELFDATA2LSB)
		return error_set(err, -ENOEXEC,
		                 "%s is not a little-endian ELF "
		                 "file",
		                 src->path);
	if (raw[EI_CLASS] == ELFCLASS64) {
		rc = elf_read(src, sizeof(h32), raw + sizeof(h32),
		              sizeof(raw) - sizeof(h32), err);
		memcpy(h, raw, sizeof(*h));
		return rc;
	}
	if (raw[EI_CLASS] != ELFCLASS32)
		return error_set(err, -ENOEXEC, "%s has an unknown ELF class",
		                 src->path);
	memcpy(&h32, raw, sizeof(h32));
	memcpy(h->e_ident, h32.e_ident, EI_NIDENT);
	h->e_type = h32.e_type;
	h->e_machine = h32.e_machine;
	h->e_entry = h32.e_entry;
	h->e_phoff = h32.e_phoff;
	h->e_phentsize = h32.e_phentsize;
	h->e_phnum = h32.e_phnum;
	return 0;
}

static int read_segment(const struct elf_source *src, const Elf64_Ehdr *h,
                        unsigned i, Elf64_Phdr *p, struct error *err)
{
	u64 at = h->e_phoff + (u64)i * h->e_phentsize;
	Elf32_Phdr p32;
	int rc;

	if (at < h->e_phoff)
		at = UINT64_MAX;
	if (h->e_ident[EI_CLASS] == ELFCLASS64)
		return elf_read(src, at, p, sizeof(*p), err);
	rc = elf_read(src, at, &p32, sizeof(p32), err);
	if (rc < 0)
		return rc;
	p->p_type = p32.p_type;
	p->p_offset = p32.p_offset;
	p->p_paddr = p32.p_paddr;
	p->p_filesz = p32.p_filesz;
	p->p_memsz = p32.p_memsz;
	p->p_align = p32.p_align;
	return 0;
}

static int load_segment(const struct boot_request *req,
                        const struct elf_source *src, const Elf64_Phdr *p,
                        struct elf_info *info, struct error *err)
{
	struct memory *memory = req->memory;
	u64 end = p->p_paddr + p->p_memsz;
	u8 *to;
	int rc;

	if (p->p_memsz == 0)
		return 0;
	if (p->p_filesz > p->p_memsz || end < p->p_paddr)
		return error_set(err, -ENOEXEC,
		                 "%s is corrupt: a segment's "
		                 "sizes make no sense",
		                 src->path);
	if (p->p_paddr < BOOT_KERNEL_MIN) {
		error_set(err, -ENOEXEC,
		          "%s has a segment at %#" PRIx64 ", below 1 MiB",
		          src->path, (u64)p->p_paddr);
		return error_hint(err, "an ELF kernel with a PVH note begins "
		                       "above it; a program is no kernel");
	}
	to = end <= req->low_ram_end
	         ? memory_ptr_rw(memory, p->p_paddr, p->p_memsz)
	         : NULL;
	if (!to) {
		error_set(err, -ENOMEM,
		          "%s needs memory up to %" PRIu64
		          " MiB, and the machine's low memory ends at %" PRIu64
		          " MiB",
		          src->path, end / MIB + !!(end % MIB),
		          req->low_ram_end / MIB);
		return error_hint(err, "give the machine more memory");
	}
	rc = elf_read(src, p->p_offset, to, p->p_filesz, err);
	if (rc == 0)
		memset(to + p->p_filesz, 0, p->p_memsz - p->p_filesz);
	memory_written(memory, p->p_paddr, p->p_memsz);
	info->low = MIN(info->low, p->p_paddr);
	info->high = MAX(info->high, end);
	return rc;
}

/* Notes are name size, descriptor size, type, then both padded to 4. */
static void scan_notes(const u8 *p, u64 size, struct elf_info *info)
{
	u64 at = 0;

	while (size - at >= 12) {
		u64 name = get32(p + at), desc = get32(p + at + 4);
		u32 type = get32(p + at + 8);
		u64 desc_at = at + 12 + ALIGN_UP(name, (u64)4);
		u64 next = desc_at + ALIGN_UP(desc, (u64)4);

		if (desc_at + desc > size)
			return;
		if (name == 4 && !memcmp(p + at + 12, "Xen", 4) &&
		    type == XEN_ELFNOTE_PHYS32_ENTRY &&
		    (desc == 4 || desc == 8)) {
			info->has_pvh = true;
			info->pvh_entry = get32(p + desc_at);
			return;
		}
		if (next >= size)
			return;
		at = next;
	}
}

static int read_notes(const struct elf_source *src, const Elf64_Phdr *p,
                      struct elf_info *info, struct error *err)
{
	u64 size = MIN(p->p_filesz, (u64)NOTES_MAX);
	u8 *notes;
	int rc;

	if (info->has_pvh || size < 12)
		return 0;
	notes = xalloc(NOTES_MAX);
	rc = elf_read(src, p->p_offset, notes, size, err);
	if (rc == 0)
		scan_notes(notes, size, info);
	free(notes);
	return rc;
}

static int check_header(const struct elf_source *src, const Elf64_Ehdr *h,
                        bool is_64, struct error *err)
{
	if (h->e_machine != EM_386 && h->e_machine != EM_X86_64) {
		error_set(err, -ENOEXEC,
		          "%s is for another processor (ELF "
		          "machine %u)",
		          src->path, h->e_machine);
		return error_hint(err, "Atoll runs x86 systems");
	}
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return error_set(err, -ENOEXEC,
		                 "%s is not an executable "
		                 "(ELF type %u)",
		                 src->path, h->e_type);
	if (h->e_phnum == 0 || h->e_phnum > PHDRS_MAX ||
	    h->e_phentsize < (is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return error_set(err, -ENOEXEC,
		                 "%s is corrupt: %u program "
		                 "headers of %u bytes",
		                 src->path, h->e_phnum, h->e_phentsize);
	return 0;
}

int elf_load(const struct boot_request *req, const struct elf_source *src,
             struct elf_info *info, struct error *err)
{
	Elf64_Ehdr h = { 0 };
	int rc = read_header(src, &h, err);

	if (rc < 0)
		return rc;
	*info = (struct elf_info){
		.is_64 = h.e_ident[EI_CLASS] == ELFCLASS64,
		.entry = h.e_entry,
		.low = UINT64_MAX,
	};
	rc = check_header(src, &h, info->is_64, err);
	for (unsigned i = 0; rc == 0 && i < h.e_phnum; i++) {
		Elf64_Phdr p = { 0 };

		rc = read_segment(src, &h, i, &p, err);
		if (rc == 0 && p.p_type == PT_LOAD)
			rc = load_segment(req, src, &p, info, err);
		else if (rc == 0 && p.p_type == PT_NOTE)
			rc = read_notes(src, &p, info, err);
	}
	if (rc == 0 && info->high == 0)
		rc = error_set(err, -ENOEXEC, "%s has nothing to load",
		               src->path);
	return rc;
}
