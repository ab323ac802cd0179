/* SPDX-License-Identifier: Apache-2.0 */
/*
 * programs32.c - random programs of 32-bit code.
 *
 * Half of them are a kernel and its user in legacy protected mode, with gates,
 * handlers and tables of that mode; in the others both run in compatibility
 * mode, under the handlers of 64-bit programs. The layout of memory is that of
 * programs.c. DS and ES are flat, but now and then loaded with what is not; FS
 * has a base, GS a base and a limit.
 */
#include "tests/isa/programs.h"

enum {
	SEL_KERNEL = 0x50,
	SEL_KERNEL_DATA = 0x18,
	SEL_USER = 0x23,
	SEL_DATA = 0x2b,
	SEL_FS = 0x5b,
	SEL_GS = 0x63,
	SEL_SMALL = 0x6b,
	GDT_BYTES = 0x70,
	SMALL_LIMIT = 0x24fff,
	GS_LIMIT = 0x1fff,
	PTES32 = 1024,
	OLD_IP = COUNTS + 0x100,
	OLD_CS = OLD_IP + 4,
	OLD_FLAGS = OLD_IP + 8,
};
enum { EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI };

/* ---- tables ---- */

static void put32(u8 *p, u32 v)
{
	memcpy(p, &v, sizeof(v));
}

static u64 descriptor(u32 base, u32 limit, u64 access)
{
	u64 g = limit > 0xfffff;

	if (g)
		limit >>= 12;
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | access << 40 |
	       (u64)(limit >> 16) << 48 | (g << 3 | 4) << 52 |
	       (u64)(base >> 24) << 56;
}

static void put_segments(u8 *ram)
{
	put64(ram + GDT + (SEL_USER & ~7), descriptor(0, ~0u, 0xfb));
	put64(ram + GDT + SEL_KERNEL, descriptor(0, ~0u, 0x9b));
	put64(ram + GDT + SEL_KERNEL_DATA, descriptor(0, ~0u, 0x93));
	put64(ram + GDT + (SEL_DATA & ~7), descriptor(0, ~0u, 0xf3));
	put64(ram + GDT + (SEL_FS & ~7), descriptor(DATA, ~0u, 0xf3));
	put64(ram + GDT + (SEL_GS & ~7), descriptor(DATA, GS_LIMIT, 0xf3));
	put64(ram + GDT + (SEL_SMALL & ~7), descriptor(0, SMALL_LIMIT, 0xf3));
}

static void map32(u8 *ram, u32 linear, u32 pte)
{
	put32(ram + PT + (linear >> 12) * 4, pte ? pte | PTE_P | PTE_AD : 0);
}

static void build_paging32(u8 *ram)
{
	put32(ram + PD, PT | PTE_P | PTE_W | PTE_U | PTE_AD);
	for (u32 a = 0; a < RAM; a += 4096) {
		u32 bits = a < FAULT_STACK - 0x1000 ? 0 : PTE_W;

		map32(ram, a, a | bits);
		map32(ram, ALIAS + a, a | bits);
		map32(ram, USER + a, a | bits | PTE_U);
	}
	map32(ram, WINDOW, PT | PTE_W);
	map32(ram, USER + DATA + 0x3000, 0);
	map32(ram, USER + DATA + 0x5000, (DATA + 0x5000) | PTE_U);
}

static void spend_fuel32(struct program *g)
{
	b2(g, 0x83, 0x2d); /* sub dword [], */
	b32(g, FUEL);
	b1(g, 1);
	b2(g, 0x0f, 0x88); /* js */
	rel32(g, END);
}

static bool has_error(unsigned v)
{
	return v == VEC_DF || (v >= VEC_TS && v <= VEC_PF) || v == VEC_AC;
}

static void build_vectors32(struct program *g)
{
	for (unsigned i = 0; i < VECTORS; i++) {
		u32 at = HANDLERS + i * 32;

		put64(g->ram + IDT + i * 8,
		      (at & 0xffff) | SEL_KERNEL << 16 |
		          (u64)(0x8e | (i == VEC_BP || i == VEC_OF ? 0x60 : 0))
		              << 40);
		g->p = g->ram + at;
		if (has_error(i))
			b3(g, 0x83, 0xc4, 4); /* add esp, 4 */
		b3(g, 0x36, 0xff, 0x05);      /* inc dword ss:[] */
		b32(g, COUNTS + i * 4);
		b1(g, 0xe9);
		rel32(g, COMMON);
	}
}

/* Whatever DS and ES are, SS is the kernel's. */
static void build_common32(struct program *g)
{
	static const u32 frame[] = { OLD_IP, OLD_CS, OLD_FLAGS };

	g->p = g->ram + COMMON;
	if (g->loose) {
		b3(g, 0x81, 0x64, 0x24); /* and dword [esp + 8], */
		b1(g, 8);
		b32(g, ~(u32)RFLAGS_STATUS);
	}
	b3(g, 0x36, 0x8e, 0x1d); /* mov ds, ss:[] */
	b32(g, SELECTORS);
	b3(g, 0x36, 0x8e, 0x05); /* mov es, ss:[] */
	b32(g, SELECTORS);
	spend_fuel32(g);
	for (unsigned i = 0; i < ARRAY_SIZE(frame); i++) {
		b2(g, 0x8f, 0x05); /* pop dword [] */
		b32(g, frame[i]);
	}
	b1(g, 0xbc); /* mov esp, */
	b32(g, STACK);
	b2(g, 0xff, 0x35); /* push dword [] */
	b32(g, OLD_FLAGS);
	b2(g, 0x6a, SEL_KERNEL);
	b2(g, 0xff, 0x35);
	b32(g, RECOVER);
	b1(g, 0xcf); /* iretd */
	ASSERT(g->p <= g->ram + SYSCALL);
}

static void build_legacy(struct program *g)
{
	u8 *ram = g->ram;

	build_paging32(ram);
	put32(ram + TSS + 4, FAULT_STACK);
	put32(ram + TSS + 8, SEL_KERNEL_DATA);
	ram[TSS + 0x66] = 0x68;
	build_vectors32(g);
	build_common32(g);
	g->p = g->ram + SYSCALL;
	b1(g, 0xbc);
	b32(g, STACK);
	spend_fuel32(g);
	b2(g, 0xff, 0x25); /* jmp [] */
	b32(g, RECOVER);
	g->p = g->ram + END;
	b2(g, 0xfa, 0xf4); /* cli; hlt */
}

/* ---- operands ---- */

/* What points to data most of the time. */
static const u8 bases[] = { EBX, ESI, EDI, EBP };

static unsigned any_reg(struct program *g)
{
	unsigned r = (unsigned)below(g, 8);

	return r == ESP ? EAX : r;
}

static u32 data_address(struct program *g)
{
	u32 at = DATA + (u32)below(g, DATA_PAGES * 4096);

	if (once_in(g, 3)) /* about a page's end */
		at = (at | 0xfff) - (u32)below(g, 20) + 4;
	if (once_in(g, 25)) /* about the end of all addresses */
		return (u32)below(g, 40) - 20;
	if (g->user)
		return at + (once_in(g, 30) ? 0 : USER);
	switch (below(g, 8)) {
	case 0:
		return at + USER; /* refused by SMAP, unless AC is set */
	case 1:
	case 2:
		return at + ALIAS;
	default:
		return at;
	}
}

static void mov_imm(struct program *g, unsigned reg, u32 v)
{
	b1(g, 0xb8 | reg);
	b32(g, v);
}

/* A segment's offset: in it, before its base, or past its limit. */
static u32 segment_offset(struct program *g)
{
	switch (below(g, 4)) {
	case 0:
		return -(u32)below(g, 64);
	case 1:
		return GS_LIMIT - 8 + (u32)below(g, 16);
	default:
		return (u32)below(g, GS_LIMIT) + (g->user ? USER : 0);
	}
}

static void override(struct program *g)
{
	static const u8 prefix[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };

	if (once_in(g, 12))
		b1(g, prefix[below(g, ARRAY_SIZE(prefix))]);
}

/* ModRM and what belongs to it. */
static void memory_operand(struct program *g, unsigned reg)
{
	unsigned rm = bases[below(g, ARRAY_SIZE(bases))];
	bool wide = once_in(g, 5);
	u32 disp = (u32)below(g, 200) - 100;

	reg = (reg & 7) << 3;
	switch (below(g, 8)) {
	case 0:
		b1(g, reg | 5);
		b32(g, data_address(g));
		return;
	case 1: /* [esp + disp] */
		b2(g, 0x44 | reg, 0x24);
		b1(g, disp & 0x7f);
		return;
	case 2: /* with an index */
		b2(g, (wide ? 0x84 : 0x44) | reg,
		   (unsigned)below(g, 4) << 6 | ECX << 3 | rm);
		break;
	default:
		b1(g, (wide ? 0x80 : 0x40) | reg | rm);
	}
	if (wide)
		b32(g, disp);
	else
		b1(g, disp & 0xff);
}

static void op_rm(struct program *g, unsigned size, const char *opcode,
                  size_t n, unsigned reg, bool memory)
{
	unsigned rm = size == 1 ? (unsigned)below(g, 8) : any_reg(g);
	bool segment = memory && once_in(g, 12);
	bool narrow = memory && once_in(g, 60);

	if (segment)
		b1(g, once_in(g, 2) ? 0x64 : 0x65);
	else if (memory)
		override(g);
	if (narrow)
		b1(g, 0x67);
	if (size == 2)
		b1(g, 0x66);
	while (n--)
		b1(g, (u8)*opcode++);
	if (narrow) { /* [bx + si + disp] */
		b2(g, 0x40 | (reg & 7) << 3, (unsigned)below(g, 256));
	} else if (segment && !once_in(g, 4)) {
		b1(g, (reg & 7) << 3 | 5);
		b32(g, segment_offset(g));
	} else if (memory) {
		memory_operand(g, reg);
	} else {
		b1(g, 0xc0 | (reg & 7) << 3 | rm);
	}
}

static unsigned random_size(struct program *g)
{
	static const u8 sizes[] = { 1, 2, 4, 4, 4 };

	return sizes[below(g, ARRAY_SIZE(sizes))];
}

/* Byte registers AH to BH are among those of size 1. */
static unsigned reg_of_size(struct program *g, unsigned size)
{
	return size == 1 ? (unsigned)below(g, 8) : any_reg(g);
}

/* All status flags defined again. */
static void define_flags(struct program *g)
{
	b2(g, 0x39, 0xc8 | (unsigned)below(g, 8)); /* cmp */
}

/* ---- instructions ---- */

static void alu(struct program *g)
{
	unsigned size = random_size(g), digit = (unsigned)below(g, 8);
	char op = (char)(digit << 3 | (size > 1) | (once_in(g, 2) ? 2 : 0));

	op_rm(g, size, &op, 1, reg_of_size(g, size), once_in(g, 2));
}

static void alu_imm(struct program *g)
{
	unsigned size = random_size(g);

	op_rm(g, size,
	      size > 1        ? "\x83"
	      : once_in(g, 8) ? "\x82"
	                      : "\x80",
	      1, (unsigned)below(g, 8), once_in(g, 2));
	b1(g, (unsigned)below(g, 256));
}

static void move(struct program *g)
{
	static const char *const wide[] = { "\xb6", "\xb7", "\xbe", "\xbf" };
	unsigned size = random_size(g);
	char op[2] = { (char)(0x88 | (size > 1) | (once_in(g, 2) ? 2 : 0)) };

	switch (below(g, 6)) {
	case 0:
		op[0] = 0x0f;
		op[1] = *wide[below(g, 4)];
		op_rm(g, 4, op, 2, any_reg(g), once_in(g, 2));
		break;
	case 1: /* AL or EAX and an address */
		override(g);
		b1(g, 0xa0 | (unsigned)below(g, 4));
		b32(g, data_address(g));
		break;
	case 2: /* lea */
		b1(g, 0x8d);
		memory_operand(g, any_reg(g));
		break;
	default:
		op_rm(g, size, op, 1, reg_of_size(g, size), !once_in(g, 3));
	}
}

static void unary(struct program *g)
{
	unsigned size = random_size(g), what = (unsigned)below(g, 4);
	unsigned r = any_reg(g);

	if (once_in(g, 2)) { /* the short INC and DEC */
		if (once_in(g, 4))
			b1(g, 0x66);
		b1(g, 0x40 | (what & 1) << 3 | r);
	} else if (what < 2) {
		op_rm(g, size, size > 1 ? "\xff" : "\xfe", 1, what,
		      once_in(g, 2));
	} else { /* NOT, NEG */
		op_rm(g, size, size > 1 ? "\xf7" : "\xf6", 1, what,
		      once_in(g, 2));
	}
}

static void undefined_flags(struct program *g)
{
	static const char digits[] = { 0, 1, 2, 3, 4, 5, 7 };
	static const u8 bcd[] = { 0x27, 0x2f, 0x37, 0x3f };

	if (g->stepping)
		return;
	switch (below(g, 6)) {
	case 0:
		op_rm(g, 4, "\xc1", 1, (u8)digits[below(g, 7)], once_in(g, 3));
		b1(g, (unsigned)below(g, 64));
		break;
	case 1:
		op_rm(g, 4, "\xd3", 1, (u8)digits[below(g, 7)], once_in(g, 3));
		break;
	case 2: /* MUL to IDIV: the last two fault as they like */
		op_rm(g, 4, "\xf7", 1, 4 + (unsigned)below(g, 4),
		      once_in(g, 3));
		break;
	case 3: /* DAA and kin */
		define_flags(g);
		b1(g, bcd[below(g, 4)]);
		break;
	case 4: /* AAM, AAD */
		b2(g, 0xd4 | (unsigned)below(g, 2), (unsigned)below(g, 12));
		break;
	default:
		op_rm(g, 4, "\x0f\xaf", 2, any_reg(g), once_in(g, 2));
	}
	define_flags(g);
}

/* BT, BTS, BTR, BTC with the number of a bit that may be far away. */
static void bits(struct program *g)
{
	static const char ops[][3] = { "\x0f\xa3", "\x0f\xab", "\x0f\xb3",
		                       "\x0f\xbb" };
	unsigned reg = any_reg(g);

	if (g->stepping)
		return;
	if (once_in(g, 2))
		mov_imm(g, reg, (u32)below(g, 40000) - 20000);
	op_rm(g, 4, ops[below(g, 4)], 2, reg, !once_in(g, 4));
	define_flags(g);
}

static void atomic(struct program *g)
{
	static const char *const ops[] = { "\x01",     "\x29",     "\x87",
		                           "\x0f\xc1", "\x0f\xb1", "\x0f\xc7" };
	unsigned which = (unsigned)below(g, 6);

	if (which != 2)
		b1(g, 0xf0);
	op_rm(g, 4, ops[which], which < 3 ? 1 : 2, which == 5 ? 1 : any_reg(g),
	      true);
}

static void conditional_data(struct program *g)
{
	char op[2] = { 0x0f, (char)(0x40 | below(g, 16)) };

	if (once_in(g, 2)) {
		op_rm(g, 4, op, 2, any_reg(g), once_in(g, 2));
	} else {
		op[1] = (char)(op[1] + 0x50); /* SETcc */
		op_rm(g, 1, op, 2, 0, once_in(g, 2));
	}
}

static void push_flags(struct program *g)
{
	b1(g, 0x9c);
	if (once_in(g, 2))
		return;
	/* xor dword [esp], some flags */
	b3(g, 0x81, 0x34, 0x24);
	b32(g, g->stepping ? RFLAGS_TF
	       : once_in(g, 3)
	           ? RFLAGS_AC | RFLAGS_CF
	           : (RFLAGS_CF | RFLAGS_OF | RFLAGS_ZF | RFLAGS_IF));
	b1(g, 0x9d);
}

static void stack(struct program *g)
{
	unsigned r = any_reg(g);

	switch (below(g, 12)) {
	case 0:
	case 1:
	case 2:
		b1(g, 0x50 | (unsigned)below(g, 8));
		break;
	case 3:
	case 4:
	case 5:
		b1(g, 0x58 | r);
		break;
	case 6:
		b1(g, 0x68);
		b32(g, isa_random(&g->rng));
		break;
	case 7: /* push, pop dword [] */
		if (once_in(g, 2))
			op_rm(g, 4, "\xff", 1, 6, true);
		else
			op_rm(g, 4, "\x8f", 1, 0, true);
		break;
	case 8: /* add, sub esp */
		b3(g, 0x83, once_in(g, 2) ? 0xc4 : 0xec,
		   (unsigned)below(g, 16) * 4);
		break;
	case 9: /* 16 bits */
		b2(g, 0x66, 0x50 | (once_in(g, 2) ? 8 : 0) | r);
		break;
	case 10:
		b1(g, 0x60 | (once_in(g, 3) ? 1 : 0)); /* pusha, popa */
		break;
	default:
		push_flags(g);
	}
}

static void frame(struct program *g)
{
	b1(g, 0xc8); /* enter */
	b2(g, (unsigned)below(g, 16) * 4, 0);
	b1(g, (unsigned)below(g, 3));
	memory_operand(g, EAX); /* an ADD */
	b1(g, 0xc9);
}

static void strings(struct program *g)
{
	static const u8 ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xae };

	mov_imm(g, EDI, data_address(g));
	mov_imm(g, ESI, data_address(g));
	mov_imm(g, ECX, (u32)below(g, 40));
	b1(g, once_in(g, 4) ? 0xfd : 0xfc); /* STD, CLD */
	override(g);
	if (!once_in(g, 3))
		b1(g, 0xf3);
	if (once_in(g, 4))
		b1(g, 0x66);
	b1(g, ops[below(g, ARRAY_SIZE(ops))]);
}

static void vectors(struct program *g)
{
	static const char *const ops[] = { "\x0f\x6f", "\x0f\x7f" };
	unsigned a = (unsigned)below(g, 8), b = (unsigned)below(g, 8);

	switch (below(g, 6)) {
	case 0:
	case 1: /* movdqu to and from memory */
		b1(g, 0xf3);
		op_rm(g, 4, ops[below(g, 2)], 2, a, true);
		break;
	case 2: /* paddq */
		b2(g, 0x66, 0x0f);
		b2(g, 0xd4, 0xc0 | a << 3 | b);
		break;
	case 3: /* movd, both ways */
		b1(g, 0x66);
		op_rm(g, 4, once_in(g, 2) ? "\x0f\x6e" : "\x0f\x7e", 2, a,
		      once_in(g, 2));
		break;
	case 4: /* cvtsi2sd, and by VEX, with a W that counts for nothing */
		if (once_in(g, 2)) {
			b3(g, 0xf2, 0x0f, 0x2a);
		} else {
			b3(g, 0xc4, 0xe1, 0x7b | (once_in(g, 2) ? 0x80 : 0));
			b1(g, 0x2a);
		}
		b1(g, 0xc0 | a << 3 | any_reg(g));
		break;
	default: /* vpxor ymm, ymm, ymm */
		b3(g, 0xc5, (~(a ^ b) & 15) << 3 | 0xc5, 0xef);
		b1(g, 0xc0 | a << 3 | b);
	}
}

static void x87(struct program *g)
{
	b2(g, 0xd9, 0xe8 + (unsigned)below(g, 7)); /* FLD1 to FLDZ */
	b2(g, 0xdd, 0x1d);                         /* fstp qword [] */
	b32(g, data_address(g));
}

/* mov eax, imm32, whose bytes another place may change. */
static void patchable(struct program *g)
{
	b1(g, 0xb8);
	if (g->patches < ARRAY_SIZE(g->patch))
		g->patch[g->patches++] = here(g);
	b32(g, isa_random(&g->rng));
}

static void store_imm(struct program *g, u32 at, u32 v)
{
	b2(g, 0xc7, 0x05); /* mov dword [], */
	b32(g, at);
	b32(g, v);
}

static void patch_code(struct program *g)
{
	u32 at;

	if (!g->patches)
		return;
	at = g->patch[below(g, g->patches)];
	store_imm(g, at + (once_in(g, 2) ? ALIAS : 0) + (g->user ? USER : 0),
	          (u32)isa_random(&g->rng));
	/* The same place on another page's way: serialize, as one ought. */
	if (once_in(g, 4))
		b2(g, 0x0f, 0xa2);
}

/* A data page's other names now mean another one. */
static void remap(struct program *g)
{
	u32 page = (u32)below(g, DATA_PAGES) * 4096;
	u32 linear = DATA + page + (once_in(g, 2) ? ALIAS : USER);
	u32 frame = DATA + (u32)below(g, DATA_PAGES) * 4096;
	u32 pte = frame | PTE_P | PTE_AD | (once_in(g, 4) ? 0 : PTE_W) |
	          (linear >= USER ? PTE_U : 0);

	store_imm(g, WINDOW + (linear >> 12) * (g->legacy ? 4 : 8), pte);
	if (once_in(g, 4)) {
		b3(g, 0x0f, 0x20, 0xd8); /* mov eax, cr3 */
		b3(g, 0x0f, 0x22, 0xd8);
	} else {
		b3(g, 0x0f, 0x01, 0x3d); /* invlpg [] */
		b32(g, linear);
	}
}

/* Selectors of what is flat, whole, limited, null, or nothing. */
static void segments(struct program *g)
{
	static const u8 selectors[] = { SEL_DATA,  SEL_DATA, SEL_DATA, SEL_FS,
		                        SEL_SMALL, SEL_GS,   0,        0x77 };
	static const u8 which[] = { SEG_ES, SEG_DS, SEG_FS,
		                    SEG_GS, SEG_FS, SEG_GS };
	unsigned seg = which[below(g, ARRAY_SIZE(which))];
	unsigned sel = selectors[below(g, ARRAY_SIZE(selectors))];

	switch (below(g, 3)) {
	case 0:
		mov_imm(g, EDX, sel);
		b2(g, 0x8e, 0xc0 | seg << 3 | EDX);
		break;
	case 1:
		b2(g, 0x6a, sel);
		if (seg == SEG_FS || seg == SEG_GS)
			b2(g, 0x0f, seg == SEG_FS ? 0xa1 : 0xa9);
		else
			b1(g, seg << 3 | 7);
		break;
	default: /* push */
		if (seg == SEG_FS || seg == SEG_GS)
			b2(g, 0x0f, seg == SEG_FS ? 0xa0 : 0xa8);
		else
			b1(g, seg << 3 | 6);
	}
}

static void odd(struct program *g)
{
	switch (below(g, 7)) {
	case 0: /* into */
		b1(g, 0xce);
		break;
	case 1: /* bound */
		op_rm(g, 4, "\x62", 1, any_reg(g), true);
		break;
	case 2: /* arpl */
		op_rm(g, 4, "\x63", 1, any_reg(g), once_in(g, 2));
		break;
	case 3: /* salc */
		b1(g, 0xd6);
		break;
	case 4: /* xlat */
		b1(g, 0xd7);
		break;
	case 5: /* loop, loopne, jecxz to what follows */
		b2(g, 0xe0 + (unsigned)below(g, 4), 0);
		break;
	default: /* les, lds: selectors out of data */
		op_rm(g, 4, once_in(g, 2) ? "\xc4" : "\xc5", 1, any_reg(g),
		      true);
	}
}

static void system_insn(struct program *g)
{
	unsigned r = any_reg(g);

	switch (below(g, 9)) {
	case 0:
		b1(g, 0xfa); /* cli */
		break;
	case 1:
		b1(g, 0xfb); /* sti */
		break;
	case 2:
	case 3:
		b3(g, 0x0f, 0x01, 0xcb); /* stac */
		break;
	case 4:
	case 5:
		b3(g, 0x0f, 0x01, 0xca); /* clac */
		break;
	case 6: /* int n, that there is not */
		b2(g, 0xcd, 0x20 + (unsigned)below(g, 200));
		break;
	case 7: /* mov r, cr0 2 3 4 */
		b2(g, 0x0f, 0x20);
		b1(g, 0xc0 | "\0\2\3\4"[below(g, 4)] << 3 | r);
		break;
	default: /* mov r, sreg */
		b2(g, 0x8c, 0xc0 | (unsigned)below(g, 6) << 3 | r);
	}
}

static void instruction(struct program *g)
{
	static void (*const common[])(struct program *) = {
		alu,   alu,   alu_imm,         move,
		move,  unary, undefined_flags, conditional_data,
		stack, stack,
	};
	static void (*const rare[])(struct program *) = {
		bits,      atomic,     strings,     vectors,     vectors,
		patchable, patch_code, system_insn, system_insn, remap,
		x87,       frame,      segments,    odd,
	};

	if (once_in(g, 12))
		mov_imm(g, bases[below(g, ARRAY_SIZE(bases))], data_address(g));
	else if (once_in(g, 3))
		rare[below(g, ARRAY_SIZE(rare))](g);
	else
		common[below(g, ARRAY_SIZE(common))](g);
}

/* ---- chunks ---- */

static u32 somewhere(struct program *g, unsigned chunk)
{
	return g->chunk[chunk] + (once_in(g, 3) ? ALIAS : 0);
}

static void push_imm(struct program *g, u32 v)
{
	b1(g, 0x68);
	b32(g, v);
}

static void to_user(struct program *g)
{
	u32 to = g->chunk[CHUNKS + below(g, USER_CHUNKS)] + USER;
	u32 sp = (u32)(USER + DATA + 0x100 + below(g, 0x1000));

	if (once_in(g, 2)) {
		push_imm(g, SEL_DATA);
		push_imm(g, sp);
		push_imm(g, once_in(g, 2) ? 0x202 : 0xad7);
		push_imm(g, SEL_USER);
		push_imm(g, to);
		b1(g, 0xcf); /* iretd */
	} else {
		mov_imm(g, EDX, to);
		mov_imm(g, ECX, sp);
		b2(g, 0x0f, 0x35); /* sysexit */
	}
}

static void jump(struct program *g, u32 to)
{
	b1(g, 0xe9);
	rel32(g, to);
}

static void terminator(struct program *g, unsigned i)
{
	unsigned next = (i + 1) % CHUNKS, r = any_reg(g);

	if (next == 0)
		spend_fuel32(g);
	switch (below(g, 12)) {
	case 0:
		b2(g, 0x0f, 0x80 | (unsigned)below(g, 16));
		rel32(g, g->chunk[next]);
		spend_fuel32(g);
		jump(g, g->chunk[below(g, CHUNKS)]);
		break;
	case 1:
		spend_fuel32(g);
		jump(g, g->chunk[below(g, CHUNKS)]);
		break;
	case 2:
		mov_imm(g, r, somewhere(g, next));
		b2(g, 0xff, 0xe0 | r);
		break;
	case 3:
		b1(g, 0xe8);
		rel32(g, g->chunk[next]);
		jump(g, g->chunk[next]);
		break;
	case 4:
		spend_fuel32(g);
		push_imm(g, somewhere(g, (unsigned)below(g, CHUNKS)));
		if (once_in(g, 2))
			b3(g, 0xc2, 8, 0);
		else
			b1(g, 0xc3);
		break;
	case 5: /* again, while there is fuel, by a condition */
		spend_fuel32(g);
		b2(g, 0x0f, 0x80 | (unsigned)below(g, 16));
		rel32(g, g->chunk[i]);
		jump(g, g->chunk[next]);
		break;
	case 6:
		store_imm(g, DATA + 64, somewhere(g, next));
		b2(g, 0xff, once_in(g, 2) ? 0x25 : 0x15); /* jmp, call [] */
		b32(g, DATA + 64);
		break;
	case 7:
	case 8:
		to_user(g);
		break;
	case 9: /* far */
		b1(g, 0xea);
		b32(g, somewhere(g, next));
		b2(g, SEL_KERNEL, 0);
		break;
	default:
		jump(g, g->chunk[next]);
	}
}

/* To the kernel's next chunk, one way or another. */
static void end_user(struct program *g)
{
	static const u8 sysenter[] = { 0x0f, 0x34 };

	if (once_in(g, 2))
		b1(g, 0xcc);
	else
		b2(g, sysenter[0], sysenter[1]);
}

static void chunk(struct program *g, unsigned i)
{
	unsigned n = 2 + (unsigned)below(g, 8);

	g->user = i >= CHUNKS;
	g->p = g->ram + g->chunk[i];
	if (!g->user)
		store_imm(g, RECOVER, somewhere(g, (i + 1) % CHUNKS));
	for (unsigned k = 0; k < 3; k++)
		mov_imm(g, bases[below(g, ARRAY_SIZE(bases))], data_address(g));
	if (once_in(g, 2))
		mov_imm(g, ECX, (u32)below(g, 64));
	while (n-- && g->p < g->ram + g->chunk[i] + CHUNK_ROOM - 0x80)
		instruction(g);
	if (g->user)
		end_user(g);
	else
		terminator(g, i);
	ASSERT(g->p <= g->ram + g->chunk[i] + CHUNK_ROOM);
}

void programs_generate32(struct program *g, u64 seed, bool loose)
{
	u32 fuel = FUEL_START;

	memset(g, 0, sizeof(*g));
	g->bits32 = true;
	g->loose = loose;
	g->cs = SEL_KERNEL;
	isa_seed(&g->rng, seed);
	g->stepping = once_in(g, 8);
	g->legacy = once_in(g, 2);
	if (g->legacy)
		build_legacy(g);
	else
		programs_tables64(g);
	put_segments(g->ram);
	for (unsigned i = 0; i < DATA_PAGES * 512; i++)
		put64(g->ram + DATA + i * 8, isa_random(&g->rng));
	for (unsigned i = 0; i < CHUNKS + USER_CHUNKS; i++)
		g->chunk[i] = CODE + i * CHUNK_BYTES + (u32)below(g, 0x40);
	for (unsigned i = 0; i < CHUNKS + USER_CHUNKS; i++)
		chunk(g, i);
	put32(g->ram + SELECTORS, SEL_DATA);
	put32(g->ram + FUEL, fuel);
	put32(g->ram + RECOVER, END);
}

static struct cpu_segment segment(u16 selector, u32 base, u32 limit, u16 type)
{
	return (struct cpu_segment){
		.base = base,
		.limit = limit,
		.selector = selector,
		.attr = (u16)(type | SEG_ATTR_S | SEG_ATTR_P | SEG_ATTR_DB |
		              (limit > 0xfffff ? SEG_ATTR_G : 0) |
		              (selector & 3) << 5),
	};
}

void programs_start32(const struct program *g, struct cpu_state *s)
{
	s->seg[SEG_CS] = segment(SEL_KERNEL, 0, ~0u, 11);
	s->seg[SEG_SS] = segment(SEL_KERNEL_DATA, 0, ~0u, 3);
	s->seg[SEG_DS] = s->seg[SEG_ES] = segment(SEL_DATA, 0, ~0u, 3);
	s->seg[SEG_FS] = segment(SEL_FS, DATA, ~0u, 3);
	s->seg[SEG_GS] = segment(SEL_GS, DATA, GS_LIMIT, 3);
	s->gdtr.limit = GDT_BYTES - 1;
	s->sysenter_cs = SEL_KERNEL;
	s->sysenter_esp = STACK;
	s->sysenter_eip = SYSCALL;
	if (!g->legacy)
		return;
	s->cr4 &= ~(u64)CR4_PAE;
	s->cr3 = PD;
	s->efer = 0;
	s->idtr.limit = VECTORS * 8 - 1;
	/* No register has an upper half. */
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
}
