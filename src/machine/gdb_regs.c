/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb_regs - the register file of GDB's i386:x86-64 target: GDB manual,
 * "i386 Features". The numbers follow the order of the tables here.
 */
#include "machine/gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "guest/cpu.h"

enum kind { FIELD, SELECTOR, X87, X87_CONTROL, XMM, MXCSR, BASE };

struct reg {
	const char *name;
	const char *type;
	const char *group;
	enum kind kind;
	u16 bits;
	u32 where; /* offset in struct cpu_state, or an index */
};

#define GPR(n, i)                                                              \
	{                                                                      \
		n, "int64", NULL, FIELD, 64,                                   \
		    offsetof(struct cpu_state, gpr) + 8 * (i)                  \
	}
#define POINTER(n, t, off)                                                     \
	{                                                                      \
		n, t, NULL, FIELD, 64, off                                     \
	}
#define SEL(n, i)                                                              \
	{                                                                      \
		n, "int32", NULL, SELECTOR, 32, i                              \
	}
#define ST(n, i)                                                               \
	{                                                                      \
		n, "i387_ext", NULL, X87, 80, i                                \
	}
#define FCTL(n, i)                                                             \
	{                                                                      \
		n, "int", "float", X87_CONTROL, 32, i                          \
	}
#define VEC(n, i)                                                              \
	{                                                                      \
		n, "vec128", NULL, XMM, 128, i                                 \
	}
#define CTRL(n, f)                                                             \
	{                                                                      \
		n, "int64", "system", FIELD, 64, offsetof(struct cpu_state, f) \
	}

static const struct reg core[] = {
	GPR("rax", GPR_RAX),
	GPR("rbx", GPR_RBX),
	GPR("rcx", GPR_RCX),
	GPR("rdx", GPR_RDX),
	GPR("rsi", GPR_RSI),
	GPR("rdi", GPR_RDI),
	POINTER("rbp", "data_ptr",
	        offsetof(struct cpu_state, gpr) + 8 * GPR_RBP),
	POINTER("rsp", "data_ptr",
	        offsetof(struct cpu_state, gpr) + 8 * GPR_RSP),
	GPR("r8", 8),
	GPR("r9", 9),
	GPR("r10", 10),
	GPR("r11", 11),
	GPR("r12", 12),
	GPR("r13", 13),
	GPR("r14", 14),
	GPR("r15", 15),
	POINTER("rip", "code_ptr", offsetof(struct cpu_state, rip)),
	{ "eflags", "i386_eflags", NULL, FIELD, 32,
	  offsetof(struct cpu_state, rflags) },
	SEL("cs", SEG_CS),
	SEL("ss", SEG_SS),
	SEL("ds", SEG_DS),
	SEL("es", SEG_ES),
	SEL("fs", SEG_FS),
	SEL("gs", SEG_GS),
	ST("st0", 0),
	ST("st1", 1),
	ST("st2", 2),
	ST("st3", 3),
	ST("st4", 4),
	ST("st5", 5),
	ST("st6", 6),
	ST("st7", 7),
	FCTL("fctrl", 0),
	FCTL("fstat", 1),
	FCTL("ftag", 2),
	FCTL("fiseg", 3),
	FCTL("fioff", 4),
	FCTL("foseg", 5),
	FCTL("fooff", 6),
	FCTL("fop", 7),
};
static const struct reg sse[] = {
	VEC("xmm0", 0),
	VEC("xmm1", 1),
	VEC("xmm2", 2),
	VEC("xmm3", 3),
	VEC("xmm4", 4),
	VEC("xmm5", 5),
	VEC("xmm6", 6),
	VEC("xmm7", 7),
	VEC("xmm8", 8),
	VEC("xmm9", 9),
	VEC("xmm10", 10),
	VEC("xmm11", 11),
	VEC("xmm12", 12),
	VEC("xmm13", 13),
	VEC("xmm14", 14),
	VEC("xmm15", 15),
	{ "mxcsr", "i386_mxcsr", "vector", MXCSR, 32, 0 },
};
static const struct reg segments[] = {
	{ "fs_base", "int", NULL, BASE, 64, SEG_FS },
	{ "gs_base", "int", NULL, BASE, 64, SEG_GS },
};
static const struct reg control[] = {
	CTRL("k_gs_base", kernel_gs_base),
	CTRL("cr0", cr0),
	CTRL("cr2", cr2),
	CTRL("cr3", cr3),
	CTRL("cr4", cr4),
	CTRL("cr8", cr8),
	CTRL("efer", efer),
};

static const struct feature {
	const char *name;
	const struct reg *regs;
	unsigned count;
	const char *types;
} features[] = {
	{ "org.gnu.gdb.i386.core", core, ARRAY_SIZE(core),
	  "<flags id=\"i386_eflags\" size=\"4\">"
	  "<field name=\"CF\" start=\"0\" end=\"0\"/>"
	  "<field name=\"PF\" start=\"2\" end=\"2\"/>"
	  "<field name=\"AF\" start=\"4\" end=\"4\"/>"
	  "<field name=\"ZF\" start=\"6\" end=\"6\"/>"
	  "<field name=\"SF\" start=\"7\" end=\"7\"/>"
	  "<field name=\"TF\" start=\"8\" end=\"8\"/>"
	  "<field name=\"IF\" start=\"9\" end=\"9\"/>"
	  "<field name=\"DF\" start=\"10\" end=\"10\"/>"
	  "<field name=\"OF\" start=\"11\" end=\"11\"/>"
	  "<field name=\"NT\" start=\"14\" end=\"14\"/>"
	  "<field name=\"RF\" start=\"16\" end=\"16\"/>"
	  "<field name=\"VM\" start=\"17\" end=\"17\"/>"
	  "<field name=\"AC\" start=\"18\" end=\"18\"/>"
	  "<field name=\"ID\" start=\"21\" end=\"21\"/>"
	  "</flags>" },
	{ "org.gnu.gdb.i386.sse", sse, ARRAY_SIZE(sse),
	  "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	  "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	  "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	  "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	  "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	  "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	  "<union id=\"vec128\">"
	  "<field name=\"v4_float\" type=\"v4f\"/>"
	  "<field name=\"v2_double\" type=\"v2d\"/>"
	  "<field name=\"v16_int8\" type=\"v16i8\"/>"
	  "<field name=\"v8_int16\" type=\"v8i16\"/>"
	  "<field name=\"v4_int32\" type=\"v4i32\"/>"
	  "<field name=\"v2_int64\" type=\"v2i64\"/>"
	  "<field name=\"uint128\" type=\"uint128\"/>"
	  "</union>"
	  "<flags id=\"i386_mxcsr\" size=\"4\">"
	  "<field name=\"IE\" start=\"0\" end=\"0\"/>"
	  "<field name=\"DE\" start=\"1\" end=\"1\"/>"
	  "<field name=\"ZE\" start=\"2\" end=\"2\"/>"
	  "<field name=\"OE\" start=\"3\" end=\"3\"/>"
	  "<field name=\"UE\" start=\"4\" end=\"4\"/>"
	  "<field name=\"PE\" start=\"5\" end=\"5\"/>"
	  "</flags>" },
	{ "org.gnu.gdb.i386.segments", segments, ARRAY_SIZE(segments), "" },
	{ "atoll.control", control, ARRAY_SIZE(control), "" },
};

static const struct reg *find(unsigned n)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (n < features[i].count)
			return &features[i].regs[n];
		n -= features[i].count;
	}
	return NULL;
}

unsigned gdb_reg_count(void)
{
	unsigned count = 0;

	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		count += features[i].count;
	return count;
}

unsigned gdb_reg_size(unsigned n)
{
	const struct reg *r = find(n);

	return r ? r->bits / 8u : 0;
}

/* FXSAVE's layout, Intel SDM vol. 1 table 10-2: FCW, FSW, abridged FTW, FOP,
 * FIP, FCS, FDP, FDS; ST registers of 16 bytes from 32 on. */
enum {
	FX_FCW = 0,
	FX_FSW = 2,
	FX_FTW = 4,
	FX_FOP = 6,
	FX_FIP = 8,
	FX_FDP = 16,
	FX_ST = 32
};

static u32 read16(const u8 *p)
{
	return p[0] | (u32)p[1] << 8;
}

/* Tags of two bits a register, as FNSTENV has them, from one bit each. The
 * finer classes are not told apart: GDB shows valid or empty. */
static u32 full_tag(u8 abridged)
{
	u32 tag = 0;

	for (unsigned i = 0; i < 8; i++)
		if (!(abridged & 1u << i))
			tag |= 3u << (2 * i);
	return tag;
}

static u32 x87_control(const u8 *x, unsigned i)
{
	u32 v = 0;

	switch (i) {
	case 0:
		return read16(x + FX_FCW);
	case 1:
		return read16(x + FX_FSW);
	case 2:
		return full_tag(x[FX_FTW]);
	case 4:
		memcpy(&v, x + FX_FIP, 4);
		return v;
	case 6:
		memcpy(&v, x + FX_FDP, 4);
		return v;
	case 7:
		return read16(x + FX_FOP) & 0x7ff;
	default:
		return 0; /* selectors, which 64-bit processors drop */
	}
}

unsigned gdb_reg_get(const struct cpu_state *cpu, unsigned n, u8 *out)
{
	const struct reg *r = find(n);
	u32 v32;

	if (!r)
		return 0;
	memset(out, 0, GDB_REG_BYTES_MAX);
	switch (r->kind) {
	case FIELD:
		memcpy(out, (const u8 *)cpu + r->where, r->bits / 8);
		break;
	case SELECTOR:
		memcpy(out, &cpu->seg[r->where].selector, 2);
		break;
	case X87:
		memcpy(out, cpu->xsave + FX_ST + 16 * r->where, 10);
		break;
	case X87_CONTROL:
		v32 = x87_control(cpu->xsave, r->where);
		memcpy(out, &v32, 4);
		break;
	case XMM:
		memcpy(out, cpu->xsave + CPU_XSAVE_XMM + 16 * r->where, 16);
		break;
	case MXCSR:
		memcpy(out, cpu->xsave + CPU_XSAVE_MXCSR, 4);
		break;
	case BASE:
		memcpy(out, &cpu->seg[r->where].base, 8);
		break;
	}
	return r->bits / 8u;
}

/* Selectors without their descriptors, and x87 control, are left alone. */
void gdb_reg_set(struct cpu_state *cpu, unsigned n, const u8 *in)
{
	const struct reg *r = find(n);
	u64 components;

	if (!r)
		return;
	switch (r->kind) {
	case FIELD:
		memcpy((u8 *)cpu + r->where, in, r->bits / 8);
		break;
	case X87:
		memcpy(cpu->xsave + FX_ST + 16 * r->where, in, 10);
		break;
	case XMM:
		memcpy(cpu->xsave + CPU_XSAVE_XMM + 16 * r->where, in, 16);
		break;
	case MXCSR:
		memcpy(cpu->xsave + CPU_XSAVE_MXCSR, in, 4);
		break;
	case BASE:
		memcpy(&cpu->seg[r->where].base, in, 8);
		break;
	case SELECTOR:
	case X87_CONTROL:
		return;
	}
	if (r->kind == X87 || r->kind == XMM) {
		memcpy(&components, cpu->xsave + CPU_XSAVE_HEADER, 8);
		components |= r->kind == X87 ? XCR0_X87 : XCR0_SSE;
		memcpy(cpu->xsave + CPU_XSAVE_HEADER, &components, 8);
	}
}

char *gdb_target_xml(void)
{
	size_t size;
	char *text = NULL;
	FILE *f = open_memstream(&text, &size);

	ASSERT(f);
	fputs("<?xml version=\"1.0\"?>"
	      "<!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
	      "<architecture>i386:x86-64</architecture>",
	      f);
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *t = &features[i];

		fprintf(f, "<feature name=\"%s\">%s", t->name, t->types);
		for (unsigned n = 0; n < t->count; n++) {
			const struct reg *r = &t->regs[n];

			fprintf(f,
			        "<reg name=\"%s\" bitsize=\"%u\" "
			        "type=\"%s\"",
			        r->name, r->bits, r->type);
			if (r->group)
				fprintf(f, " group=\"%s\"", r->group);
			fputs("/>", f);
		}
		fputs("</feature>", f);
	}
	fputs("</target>", f);
	fclose(f);
	return text;
}
