/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compare.c - two outcomes of one snippet, and how to show them.
 */
#include <stdio.h>
#include <string.h>

#include "tests/isa/isa.h"

static const char *const gpr_names[GPR_COUNT] = {
	"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

static char words[256];

static const char *differs(const char *what, u64 host, u64 guest)
{
	snprintf(words, sizeof(words),
	         "%s: host %#" PRIx64 ", engine %#" PRIx64, what, host, guest);
	return words;
}

static u64 get(const u8 *p, size_t n)
{
	u64 v = 0;

	memcpy(&v, p, n);
	return v;
}

/* Flags that count, given where the snippet stopped. */
static u64 defined_flags(const struct isa_snippet *s, u64 rip)
{
	u64 at = rip - s->start;
	u32 undefined = s->undefined;
	size_t i;

	for (i = 0; i < s->count; i++) {
		if (s->insn[i].at == at && at < s->length)
			undefined = s->insn[i].undefined;
	}
	return ~(u64)undefined;
}

/* x87 registers that are there: what empty ones hold counts too. */
static const char *compare_x87(const u8 *h, const u8 *g)
{
	static const struct {
		const char *name;
		u8 at, size;
		bool pointer;
	} fields[] = {
		{ "fcw", 0, 2, false },    { "fsw", 2, 2, false },
		{ "ftw", 4, 1, false },    { "fop", 6, 2, true },
		{ "fip", 8, 8, true },     { "fdp", 16, 8, true },
		{ "mxcsr", 24, 4, false },
	};
	/* Processors differ in when they keep the last three, but for this. */
	bool pending = get(h + 2, 2) & 0x80;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		u64 a = get(h + fields[i].at, fields[i].size);
		u64 b = get(g + fields[i].at, fields[i].size);

		if (!pending && fields[i].pointer)
			continue;
		if (a != b)
			return differs(fields[i].name, a, b);
	}
	for (i = 0; i < 8; i++) {
		char name[16];

		if (!memcmp(h + 32 + 16 * i, g + 32 + 16 * i, 10))
			continue;
		snprintf(name, sizeof(name), "st%zu", i);
		return differs(name, get(h + 32 + 16 * i, 8),
		               get(g + 32 + 16 * i, 8));
	}
	return NULL;
}

static const char *compare_vectors(const u8 *h, const u8 *g)
{
	size_t i;

	for (i = 0; i < 64; i++) {
		size_t at = i < 32 ? CPU_XSAVE_XMM + 8 * i
		                   : CPU_XSAVE_YMMH + 8 * (i - 32);
		char name[32];

		if (!memcmp(h + at, g + at, 8))
			continue;
		snprintf(name, sizeof(name), "%s%zu[%zu]",
		         i < 32 ? "xmm" : "ymmh", i % 32 / 2, i % 2);
		return differs(name, get(h + at, 8), get(g + at, 8));
	}
	return NULL;
}

static const char *compare_memory(const u8 *h, const u8 *g)
{
	size_t i;

	if (!memcmp(h, g, ISA_DATA_WRITABLE))
		return NULL;
	for (i = 0; i < ISA_DATA_WRITABLE; i += 8) {
		char name[32];

		if (!memcmp(h + i, g + i, 8))
			continue;
		snprintf(name, sizeof(name), "memory[%#zx]", ISA_DATA + i);
		return differs(name, get(h + i, 8), get(g + i, 8));
	}
	return NULL;
}

/*
 * Linux calls every page of its own present, the last of the lower half too,
 * to tell nothing; and where the guest's kernel has its pages, the host has
 * none.
 */
static u32 hidden_error_bits(const struct isa_state *host)
{
	if (host->vector != VEC_PF)
		return 0;
	return host->cr2 >= 0x7ffffffff000 ||
	       host->cr2 >> 16 == ISA_KERNEL >> 16;
}

static ZydisMnemonic mnemonic_at(const struct isa_snippet *s, u64 rip)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction insn;
	u64 at = rip - s->start;

	if (s->mode32)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
		                 ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
		                 ZYDIS_STACK_WIDTH_64);
	if (at >= s->length ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
		&decoder, NULL, s->bytes + at, s->length - at, &insn)))
		return ZYDIS_MNEMONIC_INVALID;
	return insn.mnemonic;
}

/*
 * Long operands, on several pages: which page a processor looks at first is
 * its own choice, and with masks whether it looks at all.
 */
static bool may_fault_so(ZydisMnemonic m, int vector)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return vector == VEC_PF;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return vector == VEC_PF || vector == VEC_GP || vector == VEC_SS;
	default:
		return false;
	}
}

/* Which of its two operands it misses first is a processor's own choice, too:
 * one that exists says the second's address, and of REPE CMPSB the first's. */
static bool misses_either(ZydisMnemonic m, int vector)
{
	return vector == VEC_PF &&
	       (m == ZYDIS_MNEMONIC_CMPSB || m == ZYDIS_MNEMONIC_CMPSW ||
	        m == ZYDIS_MNEMONIC_CMPSD || m == ZYDIS_MNEMONIC_CMPSQ);
}

const char *isa_compare(const struct isa_snippet *snippet,
                        const struct isa_state *host, const u8 *host_data,
                        const struct isa_state *guest, const u8 *guest_data)
{
	u64 mask = snippet->mode32 ? 0xffffffff : ~(u64)0;
	u64 flags = defined_flags(snippet, host->rip) & 0xffffffff;
	ZydisMnemonic m = mnemonic_at(snippet, host->rip);
	bool either = misses_either(m, host->vector);
	const char *d;
	size_t i;

	if (may_fault_so(m, host->vector))
		return NULL;
	if (host->vector != guest->vector)
		return differs("exception", (u64)host->vector,
		               (u64)guest->vector);
	if ((host->rip ^ guest->rip) & mask)
		return differs("rip", host->rip, guest->rip);
	if (host->vector != ISA_NO_VECTOR && !either &&
	    ((host->error ^ guest->error) & ~hidden_error_bits(host)))
		return differs("error code", host->error, guest->error);
	if (host->vector == VEC_PF && !either && (host->cr2 ^ guest->cr2) >> 12)
		return differs("cr2", host->cr2, guest->cr2);
	for (i = 0; i < (snippet->mode32 ? 8 : GPR_COUNT); i++) {
		if ((host->gpr[i] ^ guest->gpr[i]) & mask)
			return differs(gpr_names[i], host->gpr[i],
			               guest->gpr[i]);
	}
	if ((host->rflags ^ guest->rflags) & flags)
		return differs("rflags", host->rflags, guest->rflags);
	if (!snippet->mode32 && host->gs_base != guest->gs_base)
		return differs("gs base", host->gs_base, guest->gs_base);
	d = compare_x87(host->xsave, guest->xsave);
	if (!d)
		d = compare_vectors(host->xsave, guest->xsave);
	if (!d)
		d = compare_memory(host_data, guest_data);
	return d;
}

static bool is_start(const struct isa_snippet *s, size_t at)
{
	size_t i;

	for (i = 0; i < s->count; i++) {
		if (s->insn[i].at == at)
			return true;
	}
	return false;
}

void isa_print_snippet(const struct isa_snippet *s)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	size_t at = 0, i;
	char text[128];

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	if (s->mode32)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
		                 ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
		                 ZYDIS_STACK_WIDTH_64);
	while (at < s->length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(
			&decoder, s->bytes + at, s->length - at, &insn, ops))) {
			printf("  %08" PRIx64 "  ", s->start + at);
			while (at < s->length)
				printf("%02x", s->bytes[at++]);
			printf("  not decoded\n");
			break;
		}
		ZydisFormatterFormatInstruction(
		    &formatter, &insn, ops, insn.operand_count_visible, text,
		    sizeof(text), s->start + at, NULL);
		printf("  %08" PRIx64 "  ", s->start + at);
		for (i = 0; i < insn.length; i++)
			printf("%02x", s->bytes[at + i]);
		printf("%*s %s%s\n", 2 * (16 - (int)insn.length), "", text,
		       is_start(s, at) ? "" : " (added)");
		at += insn.length;
	}
}

static void print_row(const char *name, u64 in, u64 host, u64 guest)
{
	printf("  %-8s %016" PRIx64 "  %016" PRIx64 "  %016" PRIx64 "%s\n",
	       name, in, host, guest, host != guest ? "  <" : "");
}

void isa_print_states(const struct isa_state *in, const struct isa_state *host,
                      const struct isa_state *guest)
{
	char name[32];
	size_t i;

	printf("  %-8s %-16s  %-16s  %s\n", "", "before", "host", "engine");
	for (i = 0; i < GPR_COUNT; i++)
		print_row(gpr_names[i], in->gpr[i], host->gpr[i],
		          guest->gpr[i]);
	print_row("rip", in->rip, host->rip, guest->rip);
	print_row("rflags", in->rflags, host->rflags, guest->rflags);
	print_row("vector", (u64)in->vector, (u64)host->vector,
	          (u64)guest->vector);
	print_row("error", in->error, host->error, guest->error);
	print_row("cr2", in->cr2, host->cr2, guest->cr2);
	for (i = 0; i < CPU_XSAVE_SIZE; i += 8) {
		if (i >= 416 && i < 512)
			continue;
		snprintf(name, sizeof(name), "xs+%zu", i);
		if (memcmp(host->xsave + i, guest->xsave + i, 8) ||
		    memcmp(host->xsave + i, in->xsave + i, 8) || i < 32)
			print_row(name, get(in->xsave + i, 8),
			          get(host->xsave + i, 8),
			          get(guest->xsave + i, 8));
	}
}
