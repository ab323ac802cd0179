/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa.h - the instruction test: one snippet of code, run by the host's CPU
 * and by an engine, from the same state, in the same linear address space.
 *
 *	0x20000000  code, two pages, not writable
 *	0x20010000  data: two pages writable, one not; nothing after it
 *	0x20100000  tables, handlers and stack of the guest's kernel
 *	0x2357b000  the way out of a snippet (on the host only)
 */
#pragma once

#include <Zydis/Zydis.h>

#include "base/types.h"
#include "guest/cpu.h"

enum {
	ISA_CODE = 0x20000000,
	ISA_CODE_SIZE = 0x2000,
	ISA_EXIT = 0x2357b000,
	ISA_DATA = 0x20010000,
	ISA_DATA_WRITABLE = 0x2000,
	ISA_DATA_SIZE = 0x3000,
	ISA_KERNEL = 0x20100000,

	ISA_SNIPPET_MAX = 600,
	ISA_INSNS_MAX = 48,
	ISA_NO_VECTOR = -1,
};

struct cpuid_model;

struct isa_rng {
	u64 s[2];
};
void isa_seed(struct isa_rng *rng, u64 seed);
u64 isa_random(struct isa_rng *rng);
static inline u64 isa_below(struct isa_rng *rng, u64 n)
{
	return isa_random(rng) % n;
}
/* True once in n. */
static inline bool isa_once_in(struct isa_rng *rng, u64 n)
{
	return isa_below(rng, n) == 0;
}

/* What a program sees of a processor, before or after. */
struct isa_state {
	_Alignas(64) u8 xsave[CPU_XSAVE_SIZE];
	u64 gpr[GPR_COUNT];
	u64 rip, rflags;
	u64 gs_base;
	int vector; /* the exception that ended it, or ISA_NO_VECTOR */
	u32 error;
	u64 cr2;
};

struct isa_insn {
	u16 at, length; /* in the snippet */
	u32 form;       /* index, or ISA_NO_FORM: scaffolding */
	u32 undefined;  /* RFLAGS bits left undefined before it */
	bool glued;     /* hides a difference that the one before may make */
};
#define ISA_NO_FORM 0xffffffffu

struct isa_snippet {
	bool mode32;
	u64 start; /* linear */
	u8 bytes[ISA_SNIPPET_MAX];
	size_t length;
	struct isa_insn insn[ISA_INSNS_MAX];
	size_t count;
	u32 undefined; /* RFLAGS bits that the end leaves undefined */
	bool exact;    /* the host too ends it with INT3, slowly, so that code
	                * read as data is the same */
};

/* ---- forms.c ---- */
struct isa_form {
	bool mode32, vex, modrm, memory, vsib, branch, in_opcode;
	u8 prefix[2], prefixes;
	bool rex_w;
	u8 map, opcode;
	u8 vex_pp, vex_w, vex_l;
	s8 reg, rm; /* -1: any */
	ZydisMnemonic mnemonic;
	u64 key;
	u64 hits;
};
struct isa_forms {
	struct isa_form *form;
	size_t count, room;
	ZydisDecoder decoder[2]; /* 64, 32 */
	struct cpuid_model *cpuid;
};
void isa_forms_build(struct isa_forms *forms, bool with32);
void isa_forms_free(struct isa_forms *forms);
/* May it be run on the host, and must an engine then do the same? */
bool isa_insn_wanted(const struct cpuid_model *cpuid,
                     const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *ops);
/* What makes two encodings the same form. */
u64 isa_form_key(const ZydisDecodedInstruction *insn,
                 const ZydisDecodedOperand *ops);

/* ---- generate.c ---- */
/* What an instruction reads of flags, and what it leaves undefined. */
u32 isa_flags_read(const ZydisDecodedInstruction *insn);
u32 isa_flags_undefined(const ZydisDecodedInstruction *insn, u32 undefined);
/* At most insns instructions, the forms taken in turn from *next. */
void isa_generate(struct isa_forms *forms, const u32 *order, size_t orders,
                  size_t *next, struct isa_rng *rng, unsigned insns,
                  struct isa_snippet *out);
void isa_random_state(struct isa_rng *rng, const struct isa_snippet *snippet,
                      struct isa_state *state);
void isa_random_data(struct isa_rng *rng, u8 *data, bool all);

/* ---- native.c ---- */
/* false: this host can't (words on stderr). data: the pages at ISA_DATA. */
bool isa_native_init(u8 **data);
/* Catch faults of snippets; after the engine's own handlers are in place. */
bool isa_native_catch(void);
void isa_native_run(const struct isa_snippet *snippet,
                    const struct isa_state *in, struct isa_state *out);

/* ---- machine.c ---- */
struct isa_machine;
/* NULL with words on stderr. */
struct isa_machine *isa_machine_create(const char *engine, const char *options);
void isa_machine_destroy(struct isa_machine *m);
u8 *isa_machine_data(struct isa_machine *m);
void isa_machine_run(struct isa_machine *m, const struct isa_snippet *snippet,
                     const struct isa_state *in, struct isa_state *out);

/*
 * Any bytes, in any state of the processor, compared with nothing: at most
 * steps instructions. cpu is taken as vcpu_set gets it; code and tables are
 * where the layout above says, bytes at ISA_CODE and, for real mode, at 0.
 */
struct cpu_state;
void isa_machine_run_wild(struct isa_machine *m, const u8 *bytes, size_t n,
                          const struct cpu_state *cpu, unsigned steps);
/* The state that snippets start from, to be changed by the caller. */
void isa_machine_base(struct isa_machine *m, struct cpu_state *cpu);

/* ---- hostop_alone.c ---- */
struct hostop_pool;
/* false: an instruction that is no hostop; out and data say nothing then. */
bool isa_hostop_run(struct hostop_pool *pool, const struct isa_forms *forms,
                    const struct isa_snippet *snippet, u8 *data,
                    const struct isa_state *in, struct isa_state *out);

/* ---- compare.c ---- */
/* NULL if alike, else what differs in words; a static buffer. */
const char *isa_compare(const struct isa_snippet *snippet,
                        const struct isa_state *host, const u8 *host_data,
                        const struct isa_state *guest, const u8 *guest_data);
void isa_print_snippet(const struct isa_snippet *snippet);
void isa_print_states(const struct isa_state *in, const struct isa_state *host,
                      const struct isa_state *guest);
