/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa_fuzz.c - bytes as code: decoder and interpreter against the host's CPU.
 *
 * Input: a byte of choices, eight of seed for registers and memory, then
 * code, of which the part is taken that may be run here: decoded instructions
 * of user level, straight on. A difference is a crash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/interp/hostop.h"
#include "tests/isa/isa.h"

enum { HEADER = 9, CHOICE_32 = 1, CHOICE_CROSS = 2 };

static struct isa_forms forms;
static struct isa_machine *machine;
static u8 *host_data;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err;

	(void)argc;
	(void)argv;
	if (!isa_native_init(&host_data) || hostop_install_signals(&err))
		exit(1);
	isa_forms_build(&forms, false);
	machine = isa_machine_create("interp", NULL);
	if (!machine || !isa_native_catch())
		exit(1);
	return 0;
}

/* FS is the host's own. The decoder takes CLZERO's address for a register, and
 * says nothing of the segment that its prefix chooses. */
static bool uses_fs(const ZydisDecodedInstruction *insn)
{
	enum { PREFIX_FS = 0x64 };

	for (unsigned i = 0; insn->mnemonic == ZYDIS_MNEMONIC_CLZERO &&
	                     i < insn->raw.prefix_count;
	     i++)
		if (insn->raw.prefixes[i].value == PREFIX_FS)
			return true;
	return (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0;
}

static bool acceptable(const ZydisDecodedInstruction *insn,
                       const ZydisDecodedOperand *ops, u32 undefined)
{
	if (!isa_insn_wanted(forms.cpuid, insn, ops) || uses_fs(insn))
		return false;
	if (insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_RDRAND: /* never the same twice */
	case ZYDIS_MNEMONIC_RDSEED:
	/* Selectors and MXCSR_MASK, in which hosts differ: generate.c knows
	 * how to hide these. */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return false;
	default:
		return insn->meta.category != ZYDIS_CATEGORY_XSAVE &&
		       insn->meta.category != ZYDIS_CATEGORY_XSAVEOPT &&
		       !(isa_flags_read(insn) & undefined);
	}
}

static void take_code(struct isa_snippet *s, const u8 *code, size_t size)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	while (s->count < ISA_INSNS_MAX && s->length + 16 < ISA_SNIPPET_MAX) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(
			&forms.decoder[s->mode32], code, MIN(size, (size_t)15),
			&insn, ops)) ||
		    !acceptable(&insn, ops, s->undefined))
			return;
		s->insn[s->count++] = (struct isa_insn){
			.at = (u16)s->length,
			.length = insn.length,
			.form = ISA_NO_FORM,
			.undefined = s->undefined,
		};
		memcpy(s->bytes + s->length, code, insn.length);
		s->length += insn.length;
		s->undefined = isa_flags_undefined(&insn, s->undefined);
		code += insn.length;
		size -= insn.length;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static u8 before[ISA_DATA_WRITABLE];
	struct isa_snippet s = { 0 };
	struct isa_state in, host, guest;
	const char *what = NULL;
	struct isa_rng rng;
	unsigned i;
	u64 seed;

	if (size <= HEADER)
		return -1;
	memcpy(&seed, data + 1, sizeof(seed));
	isa_seed(&rng, seed);
	s.mode32 = data[0] & CHOICE_32;
	s.start = ISA_CODE + (data[0] & CHOICE_CROSS ? 0xff8 : 0x100);
	take_code(&s, data + HEADER, size - HEADER);
	if (!s.count)
		return -1;
	isa_random_state(&rng, &s, &in);
	isa_random_data(&rng, before, true);
	/* One that comes again: the host's kernel may drop x87 pointers. */
	for (i = 0; i < 3; i++) {
		s.exact = i > 0;
		memcpy(host_data, before, sizeof(before));
		memcpy(isa_machine_data(machine), before, sizeof(before));
		isa_machine_run(machine, &s, &in, &guest);
		isa_native_run(&s, &in, &host);
		what = isa_compare(&s, &host, host_data, &guest,
		                   isa_machine_data(machine));
		if (!what)
			return 0;
	}
	printf("MISMATCH %s\n", what);
	isa_print_snippet(&s);
	isa_print_states(&in, &host, &guest);
	fflush(stdout);
	abort();
}
