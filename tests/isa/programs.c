/* SPDX-License-Identifier: Apache-2.0 */
/*
 * programs - random programs, run to their end by the interpreter and by the
 * translator, which must leave the same state and memory behind.
 *
 * A program is a set of chunks, each a few random instructions and a way to
 * another chunk: jumps, calls, returns, loops, trips to user mode and back.
 * It writes into its own code, changes mappings, and faults; every exception
 * goes on at the address in RECOVER. FUEL bounds all that goes backwards.
 *
 * With --bits 32 they are of 32-bit code (programs32.c).
 *
 *	0x010000  code, kernel's; again at 0x110000; user's at 0x210000
 *	0x020000  data, kernel's; again at 0x120000; user's at 0x220000, where
 *	          a page is missing and one is not writable
 *	0x030000  stack
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/error.h"
#include "engine/engine.h"
#include "engine/x86/cpuid.h"
#include "guest/memory.h"
#include "tests/isa/isa.h"
#include "tests/isa/programs.h"

enum {
	/* Of processor time, for a program that others run in milliseconds;
	 * lockstep takes a hundred times as long. */
	INTERP_SECONDS = 3,
	BT_SECONDS = 120,
	LEFT_OUT = 5000, /* one program in so many may be */
};

struct machine {
	const struct engine_type *type;
	struct memory *memory;
	struct cpuid_model *cpuid;
	struct engine *engine;
	struct vcpu *vcpu;
	u8 *ram;
};

/* ---- the machine's tables ---- */

static void map(u8 *ram, u32 linear, u64 pte)
{
	put64(ram + PT + (linear >> 12) * 8, pte ? pte | PTE_P | PTE_AD : 0);
}

static void build_paging(u8 *ram)
{
	u64 table = PTE_P | PTE_W | PTE_U | PTE_AD;

	put64(ram + PML4, PDPT | table);
	put64(ram + PDPT, PD | table);
	put64(ram + PD, PT | table);
	put64(ram + PD + 8, (PT + 0x1000) | table);
	for (u32 a = 0; a < RAM; a += 4096) {
		bool code = (a >= CODE && a < CODE + CODE_PAGES * 4096) ||
		            a == HANDLERS;
		/* No stray write changes a mapping without INVLPG. */
		u64 bits = (code ? 0 : PTE_NX) |
		           (a < FAULT_STACK - 0x1000 ? 0 : PTE_W);

		map(ram, a, a | bits);
		map(ram, ALIAS + a, a | bits);
		map(ram, USER + a, a | bits | PTE_U);
	}
	map(ram, WINDOW, PT | PTE_W | PTE_NX);
	map(ram, WINDOW + 0x1000, (PT + 0x1000) | PTE_W | PTE_NX);
	map(ram, USER + DATA + 0x3000, 0);
	map(ram, USER + DATA + 0x5000, (DATA + 0x5000) | PTE_U | PTE_NX);
}

static bool has_error(unsigned v)
{
	return v == VEC_DF || (v >= VEC_TS && v <= VEC_PF) || v == VEC_AC;
}

static void build_vectors(struct program *g)
{
	u8 *ram = g->ram;

	for (unsigned i = 0; i < VECTORS; i++) {
		u32 at = HANDLERS + i * 32;

		put64(ram + IDT + i * 16,
		      (at & 0xffff) | 0x10 << 16 | (u64)1 << 32 |
		          (u64)(0x8e | (i == VEC_BP ? 0x60 : 0)) << 40);
		put64(ram + IDT + i * 16 + 8, 0);
		g->p = ram + at;
		if (has_error(i)) {
			b3(g, 0x48, 0x83, 0xc4); /* add rsp, 8 */
			b1(g, 8);
		}
		b3(g, 0xff, 0x04, 0x25); /* inc dword [] */
		b32(g, COUNTS + i * 4);
		b1(g, 0xe9);
		rel32(g, COMMON);
	}
}

static void spend_fuel(struct program *g)
{
	b3(g, 0x83, 0x2c, 0x25); /* sub dword [], */
	b32(g, FUEL);
	b1(g, 1);
	b2(g, 0x0f, 0x88); /* js */
	rel32(g, END);
}

/* mov qword [rsp + at], value */
static void set_frame(struct program *g, unsigned at, u32 value)
{
	b3(g, 0x48, 0xc7, 0x44);
	b2(g, 0x24, at);
	b32(g, value);
}

static void build_handlers(struct program *g)
{
	build_vectors(g);
	g->p = g->ram + COMMON;
	spend_fuel(g);
	if (g->loose) {
		b3(g, 0x81, 0x64, 0x24); /* and dword [rsp + 16], */
		b1(g, 16);
		b32(g, ~(u32)RFLAGS_STATUS);
	}
	if (g->bits32) {
		b3(g, 0x8e, 0x1c, 0x25); /* mov ds, [] */
		b32(g, SELECTORS);
		b3(g, 0x8e, 0x04, 0x25); /* mov es, [] */
		b32(g, SELECTORS);
	}
	b1(g, 0x50); /* push rax */
	b2(g, 0x48, 0x8b);
	b2(g, 0x04, 0x25);
	b32(g, RECOVER);
	b3(g, 0x48, 0x89, 0x44); /* mov [rsp + 8], rax */
	b2(g, 0x24, 8);
	b1(g, 0x58);
	set_frame(g, 8, g->cs);
	set_frame(g, 24, STACK);
	set_frame(g, 32, 0x18);
	b2(g, 0x48, 0xcf); /* iretq */
	g->p = g->ram + SYSCALL;
	if (g->bits32) /* to 32-bit code by its handler */
		b1(g, 0xcc);
	b3(g, 0x48, 0xc7, 0xc4); /* mov rsp, */
	b32(g, STACK);
	spend_fuel(g);
	b3(g, 0xff, 0x24, 0x25); /* jmp [] */
	b32(g, RECOVER);
	g->p = g->ram + END;
	b2(g, 0xfa, 0xf4); /* cli; hlt */
}

void programs_tables64(struct program *g)
{
	u8 *ram = g->ram;

	build_paging(ram);
	put64(ram + GDT + 0x10, 0x00af9b000000ffff);
	put64(ram + GDT + 0x18, 0x00cf93000000ffff);
	put64(ram + GDT + 0x28, 0x00cff3000000ffff);
	put64(ram + GDT + 0x30, 0x00affb000000ffff);
	put64(ram + GDT + 0x40, 0x67 | (u64)TSS << 16 | (u64)0x8b << 40);
	put64(ram + TSS + 4, FAULT_STACK);
	put64(ram + TSS + 0x24, FAULT_STACK); /* IST1 */
	ram[TSS + 0x66] = 0x68;
	build_handlers(g);
}

/* ---- instructions ---- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
/* What points to data most of the time. */
static const u8 bases[] = { RBX, RSI, RDI, RBP, 12, 13 };

static unsigned any_reg(struct program *g)
{
	unsigned r = (unsigned)below(g, 16);

	return r == RSP ? RAX : r;
}

static u32 data_address(struct program *g)
{
	u32 at = DATA + (u32)below(g, DATA_PAGES * 4096);

	if (once_in(g, 3)) /* about a page's end */
		at = (at | 0xfff) - (u32)below(g, 20) + 4;
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

static void mov_imm(struct program *g, unsigned reg, u64 v)
{
	b2(g, 0x48 | reg >> 3, 0xb8 | (reg & 7));
	b64(g, v);
}

/* Prefixes, opcode and operands: reg, and a register or memory. */
static void op_rm(struct program *g, unsigned size, const char *opcode,
                  size_t n, unsigned reg, bool memory)
{
	unsigned rm = memory ? bases[below(g, ARRAY_SIZE(bases))] : any_reg(g);
	bool index = memory && once_in(g, 6);
	unsigned disp = (unsigned)below(g, 200) - 100;

	if (size == 2)
		b1(g, 0x66);
	/* Always REX: no AH. */
	b1(g, 0x40 | (size == 8) << 3 | reg >> 3 << 2 | rm >> 3);
	while (n--)
		b1(g, (u8)*opcode++);
	if (!memory) {
		b1(g, 0xc0 | (reg & 7) << 3 | (rm & 7));
	} else if (index || (rm & 7) == 4) {
		b2(g, 0x44 | (reg & 7) << 3, 0x20 | (rm & 7));
		b1(g, disp & 0xff);
	} else {
		b1(g, 0x40 | (reg & 7) << 3 | (rm & 7));
		b1(g, disp & 0xff);
	}
}

static unsigned random_size(struct program *g)
{
	return 1u << below(g, 4);
}

/* All status flags defined again. */
static void define_flags(struct program *g)
{
	b3(g, 0x48, 0x39, 0xc8 | (unsigned)below(g, 8) << 3); /* cmp */
}

static void alu(struct program *g)
{
	unsigned size = random_size(g), digit = (unsigned)below(g, 8);
	char op = (char)(digit << 3 | (size > 1) | (once_in(g, 2) ? 2 : 0));

	op_rm(g, size, &op, 1, any_reg(g), once_in(g, 2));
}

static void alu_imm(struct program *g)
{
	unsigned size = random_size(g);

	op_rm(g, size, size > 1 ? "\x83" : "\x80", 1, (unsigned)below(g, 8),
	      once_in(g, 2));
	b1(g, (unsigned)below(g, 256));
}

static void move(struct program *g)
{
	static const char *const wide[] = { "\xb6", "\xb7", "\xbe", "\xbf" };
	unsigned size = random_size(g);
	char op[2] = { (char)(0x88 | (size > 1) | (once_in(g, 2) ? 2 : 0)) };

	if (once_in(g, 4)) {
		op[0] = 0x0f;
		op[1] = *wide[below(g, 4)];
		op_rm(g, 8, op, 2, any_reg(g), once_in(g, 2));
	} else {
		op_rm(g, size, op, 1, any_reg(g), !once_in(g, 3));
	}
}

static void unary(struct program *g)
{
	unsigned size = random_size(g), what = (unsigned)below(g, 4);

	if (what < 2) /* INC, DEC */
		op_rm(g, size, size > 1 ? "\xff" : "\xfe", 1, what,
		      once_in(g, 2));
	else /* NOT, NEG */
		op_rm(g, size, size > 1 ? "\xf7" : "\xf6", 1, what,
		      once_in(g, 2));
}

static void undefined_flags(struct program *g)
{
	static const char digits[] = { 0, 1, 2, 3, 4, 5, 7 };
	unsigned size = 4u << below(g, 2);

	if (g->stepping)
		return;
	switch (below(g, 4)) {
	case 0:
		op_rm(g, size, "\xc1", 1, (u8)digits[below(g, 7)],
		      once_in(g, 3));
		b1(g, (unsigned)below(g, 64));
		break;
	case 1:
		op_rm(g, size, "\xd3", 1, (u8)digits[below(g, 7)],
		      once_in(g, 3));
		break;
	case 2: /* MUL to IDIV: the last two fault as they like */
		op_rm(g, size, "\xf7", 1, 4 + (unsigned)below(g, 4),
		      once_in(g, 3));
		break;
	default:
		op_rm(g, size, "\x0f\xaf", 2, any_reg(g), once_in(g, 2));
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
		mov_imm(g, reg, below(g, 40000) - 20000);
	op_rm(g, 4u << below(g, 2), ops[below(g, 4)], 2, reg, !once_in(g, 4));
	define_flags(g);
}

static void atomic(struct program *g)
{
	static const char *const ops[] = { "\x01", "\x29", "\x87", "\x0f\xc1",
		                           "\x0f\xb1" };
	unsigned which = (unsigned)below(g, 5);

	if (which != 2)
		b1(g, 0xf0);
	op_rm(g, 4u << below(g, 2), ops[which], which < 3 ? 1 : 2, any_reg(g),
	      true);
}

static void conditional_data(struct program *g)
{
	char op[2] = { 0x0f, (char)(0x40 | below(g, 16)) };

	if (once_in(g, 2)) {
		op_rm(g, 4u << below(g, 2), op, 2, any_reg(g), once_in(g, 2));
	} else {
		op[1] = (char)(op[1] + 0x50); /* SETcc */
		op_rm(g, 1, op, 2, 0, once_in(g, 2));
	}
}

static void stack(struct program *g)
{
	unsigned r = any_reg(g);

	switch (below(g, 5)) {
	case 0:
	case 1:
		b2(g, 0x40 | r >> 3, 0x50 | (r & 7));
		break;
	case 2:
	case 3:
		b2(g, 0x40 | r >> 3, 0x58 | (r & 7));
		break;
	default:
		b1(g, 0x9c);
		if (once_in(g, 2)) {
			/* xor dword [rsp], some flags */
			b3(g, 0x81, 0x34, 0x24);
			b32(g, g->stepping     ? RFLAGS_TF
			       : once_in(g, 3) ? RFLAGS_AC | RFLAGS_CF
			                       : (RFLAGS_CF | RFLAGS_OF |
			                          RFLAGS_ZF | RFLAGS_IF));
			b1(g, 0x9d);
		}
	}
}

static void strings(struct program *g)
{
	static const u8 ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xae };

	mov_imm(g, RDI, data_address(g));
	mov_imm(g, RSI, data_address(g));
	mov_imm(g, RCX, below(g, 40));
	b1(g, once_in(g, 4) ? 0xfd : 0xfc); /* STD, CLD */
	if (!once_in(g, 3))
		b1(g, 0xf3);
	if (once_in(g, 2))
		b1(g, 0x48);
	b1(g, ops[below(g, ARRAY_SIZE(ops))]);
}

static void vectors(struct program *g)
{
	static const char *const ops[] = { "\x0f\x6f", "\x0f\x7f" };
	unsigned a = (unsigned)below(g, 16), b = (unsigned)below(g, 16);

	switch (below(g, 4)) {
	case 0:
	case 1: /* movdqu to and from memory */
		b1(g, 0xf3);
		op_rm(g, 4, ops[below(g, 2)], 2, a, true);
		break;
	case 2: /* paddq */
		b2(g, 0x66, 0x40 | a >> 3 << 2 | b >> 3);
		b3(g, 0x0f, 0xd4, 0xc0 | (a & 7) << 3 | (b & 7));
		break;
	default: /* vpxor ymm, ymm, ymm */
		b3(g, 0xc4, 0x41 | !(a >> 3) << 7 | !(b >> 3) << 5,
		   (~(a ^ b) & 15) << 3 | 5);
		b2(g, 0xef, 0xc0 | (a & 7) << 3 | (b & 7));
	}
}

/* mov eax, imm32, whose bytes another place may change. */
static void patchable(struct program *g)
{
	b1(g, 0xb8);
	if (g->patches < ARRAY_SIZE(g->patch))
		g->patch[g->patches++] = here(g);
	b32(g, isa_random(&g->rng));
}

static void patch_code(struct program *g)
{
	u32 at;

	if (!g->patches)
		return;
	at = g->patch[below(g, g->patches)];
	b3(g, 0xc7, 0x04, 0x25); /* mov dword [], */
	b32(g, at + (once_in(g, 2) ? ALIAS : 0) + (g->user ? USER : 0));
	b32(g, isa_random(&g->rng));
	/* The same place on another page's way: serialize, as one ought. */
	if (once_in(g, 4))
		b2(g, 0x0f, 0xa2);
}

/* A data page's other names now mean another one. */
static void remap(struct program *g)
{
	u32 page = (u32)below(g, DATA_PAGES) * 4096;
	u32 linear = DATA + page + (once_in(g, 2) ? ALIAS : USER);
	u64 frame = DATA + below(g, DATA_PAGES) * 4096;
	u64 pte = frame | PTE_P | PTE_AD | (once_in(g, 4) ? 0 : PTE_W) |
	          (linear >= USER ? PTE_U : 0);

	b1(g, 0x50);
	mov_imm(g, RAX, pte | PTE_NX);
	b2(g, 0x48, 0x89); /* mov [], rax */
	b2(g, 0x04, 0x25);
	b32(g, WINDOW + (linear >> 12) * 8);
	b1(g, 0x58);
	if (once_in(g, 4)) {
		b3(g, 0x0f, 0x20, 0xd8); /* mov rax, cr3 */
		b3(g, 0x0f, 0x22, 0xd8);
	} else {
		b2(g, 0x0f, 0x01); /* invlpg [] */
		b2(g, 0x3c, 0x25);
		b32(g, linear);
	}
}

static void system_insn(struct program *g)
{
	unsigned r = any_reg(g);

	switch (below(g, 10)) {
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
	case 6:
		b3(g, 0x0f, 0x01, 0xf8); /* swapgs */
		break;
	case 7: /* rdgsbase ... wrfsbase */
		b3(g, 0xf3, 0x48 | r >> 3, 0x0f);
		b2(g, 0xae, 0xc0 | (unsigned)below(g, 4) << 3 | (r & 7));
		break;
	case 8: /* mov r, cr0 2 3 4 */
		b3(g, 0x40 | r >> 3, 0x0f, 0x20);
		b1(g, 0xc0 | "\0\2\3\4"[below(g, 4)] << 3 | (r & 7));
		break;
	default: /* mov r, sreg */
		b2(g, 0x48 | r >> 3, 0x8c);
		b1(g, 0xc0 | (unsigned)below(g, 6) << 3 | (r & 7));
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

static void store_imm(struct program *g, u32 at, u32 v)
{
	b2(g, 0x48, 0xc7); /* mov qword [], */
	b2(g, 0x04, 0x25);
	b32(g, at);
	b32(g, v);
}

static void to_user(struct program *g)
{
	u32 to = g->chunk[CHUNKS + below(g, USER_CHUNKS)] + USER;
	u32 sp = (u32)(USER + DATA + 0x100 + below(g, 0x1000));

	if (once_in(g, 2)) {
		b2(g, 0x6a, 0x2b);
		b1(g, 0x68);
		b32(g, sp);
		b1(g, 0x68);
		b32(g, once_in(g, 2) ? 0x202 : 0xad7);
		b2(g, 0x6a, 0x33);
		b1(g, 0x68);
		b32(g, to);
		b2(g, 0x48, 0xcf);
	} else {
		mov_imm(g, RCX, to);
		mov_imm(g, 11, 0x202);
		mov_imm(g, RSP, sp);
		b3(g, 0x48, 0x0f, 0x07);
	}
}

static void terminator(struct program *g, unsigned i)
{
	unsigned next = (i + 1) % CHUNKS, r = any_reg(g);

	if (next == 0)
		spend_fuel(g);
	switch (below(g, 10)) {
	case 0:
		b2(g, 0x0f, 0x80 | (unsigned)below(g, 16));
		rel32(g, g->chunk[next]);
		spend_fuel(g);
		b1(g, 0xe9);
		rel32(g, g->chunk[below(g, CHUNKS)]);
		break;
	case 1:
		spend_fuel(g);
		b1(g, 0xe9);
		rel32(g, g->chunk[below(g, CHUNKS)]);
		break;
	case 2:
		mov_imm(g, r, somewhere(g, next));
		b3(g, 0x40 | r >> 3, 0xff, 0xe0 | (r & 7));
		break;
	case 3:
		b1(g, 0xe8);
		rel32(g, g->chunk[next]);
		b1(g, 0xe9);
		rel32(g, g->chunk[next]);
		break;
	case 4:
		spend_fuel(g);
		b1(g, 0x68); /* push */
		b32(g, somewhere(g, (unsigned)below(g, CHUNKS)));
		b1(g, 0xc3);
		break;
	case 5: /* again, while there is fuel, by a condition */
		spend_fuel(g);
		b2(g, 0x0f, 0x80 | (unsigned)below(g, 16));
		rel32(g, g->chunk[i]);
		b1(g, 0xe9);
		rel32(g, g->chunk[next]);
		break;
	case 6:
		store_imm(g, DATA + 64, somewhere(g, next));
		b3(g, 0xff, 0x24, 0x25); /* jmp [] */
		b32(g, DATA + 64);
		break;
	case 7:
		to_user(g);
		break;
	default:
		b1(g, 0xe9);
		rel32(g, g->chunk[next]);
	}
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
	while (n-- && g->p < g->ram + g->chunk[i] + CHUNK_ROOM - 0x80)
		instruction(g);
	if (!g->user)
		terminator(g, i);
	else if (once_in(g, 4))
		b1(g, 0xcc);
	else
		b2(g, 0x0f, 0x05);
	ASSERT(g->p <= g->ram + g->chunk[i] + CHUNK_ROOM);
}

static void generate(struct program *g, u64 seed, bool loose)
{
	u32 fuel = FUEL_START;

	memset(g, 0, sizeof(*g));
	g->loose = loose;
	g->cs = 0x10;
	isa_seed(&g->rng, seed);
	g->stepping = once_in(g, 8);
	programs_tables64(g);
	for (unsigned i = 0; i < DATA_PAGES * 512; i++)
		put64(g->ram + DATA + i * 8, isa_random(&g->rng));
	for (unsigned i = 0; i < CHUNKS + USER_CHUNKS; i++)
		g->chunk[i] = CODE + i * CHUNK_BYTES + (u32)below(g, 0x40);
	for (unsigned i = 0; i < CHUNKS + USER_CHUNKS; i++)
		chunk(g, i);
	memcpy(g->ram + FUEL, &fuel, 4);
	put64(g->ram + RECOVER, END);
}

/* ---- machines ---- */

static u64 no_read(void *ctx, u16 port, unsigned size)
{
	(void)ctx;
	(void)port;
	(void)size;
	return ~(u64)0;
}

static void no_write(void *ctx, u16 port, u64 value, unsigned size)
{
	(void)ctx;
	(void)port;
	(void)value;
	(void)size;
}

static u64 no_mmio_read(void *ctx, gpa_t gpa, unsigned size)
{
	(void)ctx;
	(void)gpa;
	(void)size;
	return ~(u64)0;
}

static void no_mmio_write(void *ctx, gpa_t gpa, u64 value, unsigned size)
{
	(void)ctx;
	(void)gpa;
	(void)value;
	(void)size;
}

static bool no_irq_pending(void *ctx)
{
	(void)ctx;
	return false;
}

static int no_irq_ack(void *ctx)
{
	(void)ctx;
	return -1;
}

static int create(struct machine *m, const char *engine, const char *options,
                  struct error *err)
{
	static const struct vcpu_host host = {
		.pio_read = no_read,
		.pio_write = no_write,
		.mmio_read = no_mmio_read,
		.mmio_write = no_mmio_write,
		.irq_pending = no_irq_pending,
		.irq_ack = no_irq_ack,
	};
	struct cpuid_config cpuid = { .cpus = 1, .tsc_hz = 1000000000 };
	struct engine_config config = { .cpus = 1, .options = options };
	int r;

	m->type = engine_find(engine);
	if (!m->type)
		return error_set(err, -1, "no engine %s", engine);
	r = memory_create(&m->memory, err);
	if (!r)
		r = memory_add(m->memory, 0, RAM, MEMORY_RAM, "ram", err);
	if (r)
		return r;
	m->ram = memory_ptr(m->memory, 0, RAM);
	m->cpuid = cpuid_model_create(&cpuid);
	config.memory = m->memory;
	config.cpuid = m->cpuid;
	r = m->type->create(&m->engine, &config, err);
	if (r)
		return r;
	return m->type->vcpu_create(m->engine, 0, &host, &m->vcpu, err);
}

static void destroy(struct machine *m)
{
	if (m->vcpu)
		m->type->vcpu_destroy(m->vcpu);
	if (m->engine)
		m->type->destroy(m->engine);
	cpuid_model_destroy(m->cpuid);
	memory_destroy(m->memory);
}

static struct cpu_segment flat(u16 selector, u16 attr)
{
	return (struct cpu_segment){ .limit = 0xffffffff,
		                     .selector = selector,
		                     .attr = attr | SEG_ATTR_S | SEG_ATTR_P |
		                             SEG_ATTR_G };
}

static void start_state(struct cpu_state *s, u32 rip, struct isa_rng *rng)
{
	cpu_state_reset(s, true, 0);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s->gpr[i] = isa_random(rng);
	s->gpr[GPR_RSP] = STACK;
	s->rip = rip;
	s->rflags = RFLAGS_FIXED;
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE |
	         CR4_FSGSBASE | CR4_SMAP;
	s->cr3 = PML4;
	s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	s->seg[SEG_CS] = flat(0x10, 11 | SEG_ATTR_L);
	s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_ES] =
	    flat(0x18, 3 | SEG_ATTR_DB);
	s->gdtr.base = GDT;
	s->gdtr.limit = 0x4f;
	s->idtr.base = IDT;
	s->idtr.limit = VECTORS * 16 - 1;
	s->tr = (struct cpu_segment){ .base = TSS,
		                      .limit = 0x67,
		                      .selector = 0x40,
		                      .attr = 11 | SEG_ATTR_P };
	s->star = (u64)0x23 << 48 | (u64)0x10 << 32;
	s->lstar = SYSCALL;
	s->sfmask = 0x47700;
	s->mp_state = CPU_RUNNING;
}

/*
 * A program that changes page tables or what it counts with may never end. Its
 * own processor time tells: others take some milliseconds of that.
 */
static struct {
	struct machine *running;
	volatile sig_atomic_t out; /* of time */
} watch;

static void time_is_out(int sig)
{
	(void)sig;
	watch.out = true;
	watch.running->type->vcpu_kick(watch.running->vcpu);
}

static void set_watch(struct machine *m, unsigned seconds)
{
	struct itimerval t = { .it_value.tv_sec = seconds };

	watch.running = m;
	watch.out = false;
	setitimer(ITIMER_VIRTUAL, &t, NULL);
}

enum ran { RAN_TO_ITS_END, RAN_ON, RAN_AMISS };

/* RAN_AMISS: the engine gave up, as it does where lockstep finds a difference.
 */
static enum ran run(struct machine *m, const struct program *g, u64 seed,
                    unsigned seconds, struct cpu_state *out)
{
	struct cpu_state s;
	struct isa_rng rng;
	struct vcpu_exit e;
	struct error err;

	isa_seed(&rng, ~seed);
	memcpy(m->ram, g->ram, RAM);
	memory_written(m->memory, 0, RAM);
	start_state(&s, g->chunk[0], &rng);
	if (g->bits32)
		programs_start32(g, &s);
	if (m->type->vcpu_set(m->vcpu, &s, &err)) {
		fprintf(stderr, "programs: %s\n", err.text);
		exit(1);
	}
	set_watch(m, seconds);
	do
		m->type->vcpu_run(m->vcpu, &e);
	while (e.reason == EXIT_KICK && !watch.out);
	set_watch(m, 0);
	if (e.reason == EXIT_ERROR) {
		printf("program %" PRIu64 ": %s\n", seed, e.words);
		return RAN_AMISS;
	}
	if (e.reason == EXIT_KICK)
		return RAN_ON;
	m->type->vcpu_get(m->vcpu, out);
	out->tsc = 0;
	if (g->loose) /* it may be out of fuel before it clears them */
		put64(m->ram + LAST_FLAGS, 0);
	/* So are they where a fault had no handler that could be reached. */
	if (g->loose && e.reason == EXIT_SHUTDOWN)
		out->rflags = 0;
	return RAN_TO_ITS_END;
}

/* ---- comparing ---- */

static bool same(const struct machine *a, const struct cpu_state *s,
                 const struct machine *b, const struct cpu_state *t)
{
	return !memcmp(a->ram, b->ram, RAM) &&
	       !memcmp(s->gpr, t->gpr, sizeof(s->gpr)) && s->rip == t->rip &&
	       s->rflags == t->rflags && s->cr2 == t->cr2 &&
	       !memcmp(s->seg, t->seg, sizeof(s->seg)) &&
	       s->kernel_gs_base == t->kernel_gs_base &&
	       !memcmp(s->xsave, t->xsave, sizeof(s->xsave));
}

static void show(const char *what, u64 a, u64 b)
{
	if (a != b)
		printf("  %s: %#" PRIx64 " and %#" PRIx64 "\n", what, a, b);
}

static void report(const struct machine *a, const struct cpu_state *s,
                   const struct machine *b, const struct cpu_state *t)
{
	unsigned shown = 0;

	for (unsigned i = 0; i < GPR_COUNT; i++)
		if (s->gpr[i] != t->gpr[i])
			printf("  gpr %u: %#" PRIx64 " and %#" PRIx64 "\n", i,
			       s->gpr[i], t->gpr[i]);
	show("rip", s->rip, t->rip);
	show("rflags", s->rflags, t->rflags);
	show("cr2", s->cr2, t->cr2);
	for (unsigned i = 0; i < sizeof(s->xsave); i++)
		if (s->xsave[i] != t->xsave[i] && shown++ < 8)
			printf("  xsave %u\n", i);
	shown = 0;
	for (unsigned i = 0; i < RAM; i += 4) {
		u32 v, w;

		memcpy(&v, a->ram + i, 4);
		memcpy(&w, b->ram + i, 4);
		if (v != w && shown++ < 20)
			printf("  [%#x]: %#x and %#x\n", i, v, w);
	}
}

/* Is it the same under both? One that never ends under interp, or is never
 * the same there, is left out. */
static bool passes(struct machine *interp, struct machine *bt,
                   const struct program *g, u64 seed, u64 *left_out)
{
	static struct cpu_state s, t, again;
	static u8 first[RAM];

	switch (run(interp, g, seed, INTERP_SECONDS, &s)) {
	case RAN_TO_ITS_END:
		break;
	case RAN_ON:
		printf("program %" PRIu64 " has no end\n", seed);
		++*left_out;
		return true;
	case RAN_AMISS:
		return false;
	}
	switch (run(bt, g, seed, BT_SECONDS, &t)) {
	case RAN_TO_ITS_END:
		break;
	case RAN_ON:
		printf("program %" PRIu64 " has no end under bt\n", seed);
		return false;
	case RAN_AMISS:
		return false;
	}
	if (same(interp, &s, bt, &t))
		return true;
	/* What is jumped into may ask for the time, or for random numbers. */
	memcpy(first, interp->ram, RAM);
	if (run(interp, g, seed, INTERP_SECONDS, &again) != RAN_TO_ITS_END ||
	    memcmp(again.gpr, s.gpr, sizeof(s.gpr)) ||
	    memcmp(first, interp->ram, RAM)) {
		printf("program %" PRIu64 " is another each time\n", seed);
		++*left_out;
		return true;
	}
	printf("program %" PRIu64 " differs: interp and bt\n", seed);
	report(interp, &s, bt, &t);
	return false;
}

/* Exceptions that programs met, and what the translator did. */
static void print_figures(const struct machine *bt, u64 programs)
{
	char *stats =
	    bt->type->stats_json ? bt->type->stats_json(bt->engine) : NULL;

	printf("programs: %" PRIu64 " run; exceptions in the last:", programs);
	for (unsigned i = 0; i < VECTORS; i++) {
		u32 n;

		memcpy(&n, bt->ram + COUNTS + i * 4, 4);
		if (n)
			printf(" %u of %u", n, i);
	}
	printf("\n%s\n", stats ? stats : "");
	free(stats);
}

static u64 number(const char *text)
{
	return strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
	static struct machine interp, bt;
	static struct program g;
	u64 seed = 1, count = 2000, failed = 0, left_out = 0, i;
	const char *options = NULL;
	bool loose = false, bits32 = false;
	struct error err;

	for (int k = 1; k + 1 < argc; k += 2) {
		if (!strcmp(argv[k], "--seed"))
			seed = number(argv[k + 1]);
		else if (!strcmp(argv[k], "--count"))
			count = number(argv[k + 1]);
		else if (!strcmp(argv[k], "--options"))
			options = argv[k + 1];
		else if (!strcmp(argv[k], "--loose"))
			loose = number(argv[k + 1]);
		else if (!strcmp(argv[k], "--bits"))
			bits32 = number(argv[k + 1]) == 32;
	}
	signal(SIGVTALRM, time_is_out);
	if (!options)
		options = loose ? "hot=1" : "hot=1,exact";
	if (create(&interp, "interp", NULL, &err) ||
	    create(&bt, "bt", options, &err)) {
		fprintf(stderr, "programs: %s\n", err.text);
		return 77;
	}
	for (i = 0; i < count && failed < 5; i++) {
		if (bits32)
			programs_generate32(&g, seed + i, loose);
		else
			generate(&g, seed + i, loose);
		failed += !passes(&interp, &bt, &g, seed + i, &left_out);
		fflush(stdout);
	}
	if (left_out > 1 + count / LEFT_OUT) {
		printf("%" PRIu64 " programs were left out\n", left_out);
		failed++;
	}
	print_figures(&bt, i);
	printf("%u passed, %" PRIu64 " failed\n", failed == 0, failed);
	destroy(&interp);
	destroy(&bt);
	return failed != 0;
}
