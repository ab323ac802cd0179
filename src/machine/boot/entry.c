/* SPDX-License-Identifier: Apache-2.0 */
/*
 * entry - GDT, page tables and registers for a kernel's first instruction.
 *
 * Selectors are those the Linux boot protocol names (__BOOT_CS 0x10,
 * __BOOT_DS 0x18), which PVH and multiboot kernels accept as any others.
 */
#include "machine/boot/entry.h"

#include "guest/memory.h"
#include "machine/boot/file.h"

enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20 };
enum { TYPE_CODE = 0xb, TYPE_DATA = 0x3, TYPE_TSS_BUSY = 0xb };
enum { PTE_P = 1, PTE_W = 2, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };
enum { LARGE_PAGES = 2048 }; /* of 2 MiB: 4 GiB */

static struct cpu_segment flat(u16 selector, u16 attr)
{
	struct cpu_segment seg = {
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.attr = attr | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_G,
	};

	return seg;
}

/* Intel SDM vol. 3 figure 3-8. */
static u64 descriptor(const struct cpu_segment *seg)
{
	u64 limit = seg->attr & SEG_ATTR_G ? seg->limit >> 12 : seg->limit;

	return (limit & 0xffff) | (seg->base & 0xffffff) << 16 |
	       (u64)(seg->attr & 0xff) << 40 | (limit >> 16 & 0xf) << 48 |
	       (u64)(seg->attr >> 12 & 0xf) << 52 |
	       (seg->base >> 24 & 0xff) << 56;
}

static void set_segments(struct memory *memory, struct cpu_state *cpu,
                         u16 code_size)
{
	struct cpu_segment code = flat(SEL_CODE, TYPE_CODE | code_size);
	struct cpu_segment data = flat(SEL_DATA, TYPE_DATA | SEG_ATTR_DB);
	struct cpu_segment tss = {
		.base = BOOT_TSS,
		.limit = 0x67,
		.selector = SEL_TSS,
		.attr = TYPE_TSS_BUSY | SEG_ATTR_P,
	};
	u8 gdt[0x30] = { 0 };

	put64(gdt + SEL_CODE, descriptor(&code));
	put64(gdt + SEL_DATA, descriptor(&data));
	put64(gdt + SEL_TSS, descriptor(&tss));
	boot_put(memory, BOOT_GDT, gdt, sizeof(gdt));
	boot_zero(memory, BOOT_TSS, 0x68);

	cpu->seg[SEG_CS] = code;
	cpu->seg[SEG_DS] = data;
	cpu->seg[SEG_ES] = data;
	cpu->seg[SEG_SS] = data;
	cpu->seg[SEG_FS] = data;
	cpu->seg[SEG_GS] = data;
	cpu->tr = tss;
	cpu->ldtr = (struct cpu_segment){ 0 };
	cpu->gdtr.base = BOOT_GDT;
	cpu->gdtr.limit = sizeof(gdt) - 1;
	cpu->idtr.base = 0;
	cpu->idtr.limit = 0;
	cpu->rflags = RFLAGS_FIXED;
}

void boot_enter_32(struct memory *memory, struct cpu_state *cpu, u32 eip)
{
	set_segments(memory, cpu, SEG_ATTR_DB);
	cpu->cr0 = CR0_PE | CR0_ET;
	cpu->rip = eip;
}

static void write_page_tables(struct memory *memory)
{
	const u64 pdpt = BOOT_PAGE_TABLES + PAGE_SIZE;
	const u64 pd = pdpt + PAGE_SIZE;
	u64 entry = pdpt | PTE_P | PTE_W | PTE_A;

	boot_zero(memory, BOOT_PAGE_TABLES, 6 * PAGE_SIZE);
	boot_put(memory, BOOT_PAGE_TABLES, &entry, sizeof(entry));
	for (u64 i = 0; i < 4; i++) {
		entry = (pd + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_A;
		boot_put(memory, pdpt + i * 8, &entry, sizeof(entry));
	}
	for (u64 i = 0; i < LARGE_PAGES; i++) {
		entry = i << 21 | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS;
		boot_put(memory, pd + i * 8, &entry, sizeof(entry));
	}
}

void boot_enter_64(struct memory *memory, struct cpu_state *cpu, u64 rip)
{
	set_segments(memory, cpu, SEG_ATTR_L);
	write_page_tables(memory);
	cpu->cr3 = BOOT_PAGE_TABLES;
	cpu->cr4 = CR4_PAE;
	cpu->efer = EFER_LME | EFER_LMA;
	cpu->cr0 = CR0_PE | CR0_ET | CR0_PG;
	cpu->rip = rip;
}
