/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/cpu.h"

#include <stdio.h>
#include <string.h>

enum {
	ATTR_DATA16 = 0x93, /* present, read/write, accessed */
	ATTR_CODE16 = 0x9b, /* present, execute/read, accessed */
	ATTR_LDT = 0x82,
	ATTR_TSS_BUSY32 = 0x8b,
};

static void reset_fpu(struct cpu_state *cpu)
{
	static const u8 fcw[2] = { 0x40, 0x00 };
	static const u8 mxcsr[4] = { 0x80, 0x1f, 0, 0 };

	memset(cpu->xsave, 0, sizeof(cpu->xsave));
	memcpy(cpu->xsave, fcw, sizeof(fcw));
	memcpy(cpu->xsave + CPU_XSAVE_MXCSR, mxcsr, sizeof(mxcsr));
	/* FXSAVE's abridged tag word: 0 in it says empty. 0x5555 of the full
	 * word after power-on would be "zero" in all; INIT leaves it alone. */
	cpu->xsave[CPU_XSAVE_HEADER] = XCR0_X87 | XCR0_SSE;
}

static void reset_segments(struct cpu_state *cpu)
{
	for (int i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = (struct cpu_segment){ .limit = 0xffff,
			                            .attr = ATTR_DATA16 };
	cpu->seg[SEG_CS] = (struct cpu_segment){
		.selector = 0xf000,
		.base = 0xffff0000,
		.limit = 0xffff,
		.attr = ATTR_CODE16,
	};
	cpu->ldtr = (struct cpu_segment){ .limit = 0xffff, .attr = ATTR_LDT };
	cpu->tr =
	    (struct cpu_segment){ .limit = 0xffff, .attr = ATTR_TSS_BUSY32 };
	cpu->gdtr = (struct cpu_table){ .limit = 0xffff };
	cpu->idtr = (struct cpu_table){ .limit = 0xffff };
}

/* What power-on and INIT have in common. */
static void reset_core(struct cpu_state *cpu, u32 cpuid_1_eax)
{
	memset(cpu->gpr, 0, sizeof(cpu->gpr));
	cpu->gpr[GPR_RDX] = cpuid_1_eax;
	cpu->rip = 0xfff0;
	cpu->rflags = RFLAGS_FIXED;
	reset_segments(cpu);
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->cr8 = 0;
	cpu->efer = 0;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr[6] = 0xffff0ff0;
	cpu->dr[7] = 0x400;
	memset(&cpu->events, 0, sizeof(cpu->events));
}

void cpu_state_reset(struct cpu_state *cpu, bool bsp, u32 cpuid_1_eax)
{
	memset(cpu, 0, sizeof(*cpu));
	reset_core(cpu, cpuid_1_eax);
	reset_fpu(cpu);
	cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
	cpu->xcr0 = XCR0_X87;
	cpu->pat = 0x0007040600070406;
	cpu->misc_enable = 1; /* fast strings */
	cpu->mp_state = bsp ? CPU_RUNNING : CPU_WAIT_INIT;
}

void cpu_state_init(struct cpu_state *cpu, u32 cpuid_1_eax)
{
	u64 cache = cpu->cr0 & (CR0_CD | CR0_NW);

	reset_core(cpu, cpuid_1_eax);
	cpu->cr0 = cache | CR0_ET;
	cpu->mp_state = CPU_WAIT_SIPI;
}

void cpu_state_sipi(struct cpu_state *cpu, u8 vector)
{
	cpu->seg[SEG_CS].selector = (u16)(vector << 8);
	cpu->seg[SEG_CS].base = (u64)vector << 12;
	cpu->rip = 0;
	cpu->mp_state = CPU_RUNNING;
}

unsigned cpu_state_cpl(const struct cpu_state *cpu)
{
	if (!(cpu->cr0 & CR0_PE))
		return 0;
	if (cpu->rflags & RFLAGS_VM)
		return 3;
	return (cpu->seg[SEG_SS].attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}

void cpu_state_print(const struct cpu_state *cpu, char *buf, size_t size)
{
	static const char *const gpr[] = { "rax", "rcx", "rdx", "rbx",
		                           "rsp", "rbp", "rsi", "rdi",
		                           "r8 ", "r9 ", "r10", "r11",
		                           "r12", "r13", "r14", "r15" };
	static const char *const seg[] = { "es", "cs", "ss", "ds", "fs", "gs" };
	size_t used = 0;

	if (!size)
		return;
	buf[0] = '\0';
#define ADD(...)                                                               \
	do {                                                                   \
		int n_ = snprintf(buf + used, size - used, __VA_ARGS__);       \
		if (n_ < 0 || (size_t)n_ >= size - used)                       \
			return;                                                \
		used += (size_t)n_;                                            \
	} while (0)
	ADD("rip %016" PRIx64 " rflags %08" PRIx64 " cpl %u\n", cpu->rip,
	    cpu->rflags, cpu_state_cpl(cpu));
	for (int i = 0; i < GPR_COUNT; i++)
		ADD("%s %016" PRIx64 "%c", gpr[i], cpu->gpr[i],
		    i % 4 == 3 ? '\n' : ' ');
	for (int i = 0; i < SEG_COUNT; i++)
		ADD("%s %04x base %016" PRIx64 " limit %08x attr %04x\n",
		    seg[i], cpu->seg[i].selector, cpu->seg[i].base,
		    cpu->seg[i].limit, cpu->seg[i].attr);
	ADD("gdt %016" PRIx64 "/%04x idt %016" PRIx64 "/%04x tr %04x"
	    " ldt %04x\n",
	    cpu->gdtr.base, cpu->gdtr.limit, cpu->idtr.base, cpu->idtr.limit,
	    cpu->tr.selector, cpu->ldtr.selector);
	ADD("cr0 %08" PRIx64 " cr2 %016" PRIx64 " cr3 %016" PRIx64
	    " cr4 %08" PRIx64 " efer %04" PRIx64 "\n",
	    cpu->cr0, cpu->cr2, cpu->cr3, cpu->cr4, cpu->efer);
#undef ADD
}
