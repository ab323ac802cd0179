/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp_fuzz.c - any bytes as code, at any privilege, in any mode.
 *
 * Nothing is compared: the engine must come back from every step, whatever
 * the guest does to itself. Input: a header that changes the state, then code.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/interp/hostop.h"
#include "tests/isa/isa.h"

/* As read from the input. */
struct header {
	u8 mode; /* 0: real, 1: 16, 2: 32, 3: 64 bits */
	u8 cpl;
	u16 cr0, cr4;
	u16 flags;
	u64 seed;
};
enum { STEPS = 200 };

static struct isa_machine *machine;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err;

	(void)argc;
	(void)argv;
	if (hostop_install_signals(&err))
		exit(1);
	machine = isa_machine_create("interp", NULL);
	if (!machine)
		exit(1);
	return 0;
}

static void set_segments(struct cpu_state *c, const struct header *h)
{
	u16 dpl = (u16)(h->cpl & 3) << SEG_ATTR_DPL_SHIFT;
	u16 code = 11 | SEG_ATTR_S | SEG_ATTR_P;
	unsigned i;

	if (h->mode % 4 == 2)
		code |= SEG_ATTR_DB | SEG_ATTR_G;
	if (h->mode % 4 == 3)
		code |= SEG_ATTR_L | SEG_ATTR_G;
	for (i = 0; i < SEG_COUNT; i++) {
		c->seg[i] = (struct cpu_segment){
			.limit = h->mode % 4 < 2 ? 0xffff : 0xffffffff,
			.selector = i == SEG_CS ? 0x30 : 0x28,
			.attr =
			    (u16)((i == SEG_CS ? code
			                       : 3 | SEG_ATTR_S | SEG_ATTR_P) |
			          dpl),
		};
		c->seg[i].selector |= h->cpl & 3;
	}
}

static void set_mode(struct cpu_state *c, const struct header *h)
{
	const u64 cr4 = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE |
	                CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP |
	                CR4_FSGSBASE | CR4_OSXSAVE;

	c->cr4 = h->cr4 & cr4;
	c->cr0 = CR0_ET | (h->cr0 & (CR0_MP | CR0_EM | CR0_TS | CR0_NE));
	if (h->cr0 & 1)
		c->cr0 |= CR0_WP | CR0_AM;
	c->efer = 0;
	if (h->mode % 4)
		c->cr0 |= CR0_PE;
	if (h->mode % 4 == 3) {
		c->cr0 |= CR0_PG;
		c->cr4 |= CR4_PAE;
		c->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	}
	set_segments(c, h);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct isa_snippet s = { .start = ISA_CODE };
	struct isa_state registers;
	struct cpu_state cpu;
	struct header h;
	struct isa_rng rng;

	if (size <= sizeof(h))
		return -1;
	memcpy(&h, data, sizeof(h));
	isa_seed(&rng, h.seed);
	isa_random_state(&rng, &s, &registers);
	isa_machine_base(machine, &cpu);
	memcpy(cpu.gpr, registers.gpr, sizeof(cpu.gpr));
	memcpy(cpu.xsave, registers.xsave, sizeof(cpu.xsave));
	set_mode(&cpu, &h);
	cpu.rflags = RFLAGS_FIXED | (h.flags & 0x7fd5);
	cpu.rip = h.mode % 4 == 3 ? ISA_CODE : 0x10;
	isa_machine_run_wild(machine, data + sizeof(h), size - sizeof(h), &cpu,
	                     STEPS);
	return 0;
}
