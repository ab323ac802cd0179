/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generate.c - snippets of random instructions.
 *
 * Some registers hold addresses in the data pages and are seldom written, RCX
 * holds a small number, so that most memory operands hit. Flags that an
 * instruction leaves undefined are defined again before anything reads them.
 */
#include <string.h>

#include "tests/isa/isa.h"

enum { DEFINED_BY_CMP = RFLAGS_STATUS, MARGIN = 96 };

/* What is being built. */
struct gen {
	struct isa_rng *rng;
	const struct isa_forms *forms;
	struct isa_snippet *s;
};

static const u16 pointers64 = BIT(GPR_RBX) | BIT(GPR_RSP) | BIT(GPR_RBP) |
                              BIT(GPR_RSI) | BIT(GPR_RDI) | BIT(GPR_R12) |
                              BIT(GPR_R13);

struct bytes {
	u8 b[40];
	size_t n;
};

static void put(struct bytes *o, u8 byte)
{
	if (o->n < sizeof(o->b))
		o->b[o->n++] = byte;
}

static void put32(struct bytes *o, u32 v)
{
	unsigned i;

	for (i = 0; i < 4; i++)
		put(o, (u8)(v >> 8 * i));
}

static u32 small_disp(struct isa_rng *rng)
{
	s32 d = (s32)isa_below(rng, 1024) - 512;

	switch (isa_below(rng, 4)) {
	case 0:
		return (u32)d;
	case 1:
		return (u32)(d & ~7);
	default:
		return (u32)(d & ~63);
	}
}

/* The addressing of one memory operand. */
struct address {
	u8 mod, rm, scale, index, base;
	bool sib;
	u8 disp_size;
	u32 disp;
	bool rip_relative, gs;
};

/* These store MXCSR_MASK, in which a guest sees less than this host has. */
static bool saves_mxcsr_mask(const struct isa_form *f)
{
	switch (f->mnemonic) {
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
		return true;
	default:
		return false;
	}
}

/* FNSTENV and FNSAVE: what they store of selectors differs by design. */
static bool is_environment(const struct isa_form *f)
{
	return f->mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
	       f->mnemonic == ZYDIS_MNEMONIC_FNSAVE ||
	       f->mnemonic == ZYDIS_MNEMONIC_FLDENV ||
	       f->mnemonic == ZYDIS_MNEMONIC_FRSTOR || saves_mxcsr_mask(f);
}

static void choose_base(struct gen *g, const struct isa_form *f,
                        struct address *a)
{
	static const u8 bases[] = { 3, 5, 6, 7, 4, 12, 13, 3, 6, 7 };
	struct isa_rng *rng = g->rng;

	if (is_environment(f)) {
		/* Plain, for hide_selectors(). */
		a->base = 3;
		a->rm = 3;
		a->mod = 2;
		a->disp_size = 4;
		a->disp = small_disp(rng);
		return;
	}
	a->base = bases[isa_below(rng, f->mode32 ? 5 : sizeof(bases))];
	a->index = 4;
	if (f->vsib) {
		a->index = (u8)isa_below(rng, f->mode32 ? 8 : 16);
	} else if (isa_once_in(rng, 4)) {
		a->index = 1;
		if (isa_once_in(rng, 16))
			a->index = (u8)isa_below(rng, f->mode32 ? 8 : 16);
	}
	a->scale = isa_below(rng, 4) & 3;
	a->sib = f->vsib || (a->base & 7) == 4 || a->index != 4 ||
	         isa_once_in(rng, 8);
	a->rm = a->sib ? 4 : a->base & 7;
	a->disp = small_disp(rng);
	a->mod = 1 + (isa_below(rng, 2) & 1);
	if (isa_once_in(rng, 4) && (a->base & 7) != 5)
		a->mod = 0;
	a->disp_size = a->mod == 0 ? 0 : a->mod == 1 ? 1 : 4;
}

static void choose_address(struct gen *g, const struct isa_form *f,
                           struct address *a)
{
	struct isa_rng *rng = g->rng;
	u64 kind = isa_below(rng, 16);

	memset(a, 0, sizeof(*a));
	choose_base(g, f, a);
	if (f->vsib || is_environment(f) || kind > 2)
		return;
	a->mod = 0;
	a->disp_size = 4;
	a->disp = ISA_DATA + 0x400 + small_disp(rng);
	a->base = a->index = 0;
	if (f->mode32) {
		a->sib = false;
		a->rm = 5;
	} else if (kind == 0) {
		a->sib = false;
		a->rm = 5;
		a->rip_relative = true;
	} else {
		a->sib = true;
		a->rm = 4;
		a->base = 5;
		a->index = 4;
		if (kind == 2) {
			a->gs = true;
			a->disp = 0x400 + small_disp(rng);
		}
	}
}

static void put_prefixes(struct gen *g, const struct isa_form *f,
                         const struct address *a, struct bytes *o)
{
	static const u8 ignored[] = { 0x26, 0x2e, 0x36, 0x3e };
	u8 i;

	if (f->memory && a->gs)
		put(o, 0x65);
	else if (isa_once_in(g->rng, 24))
		put(o, ignored[isa_below(g->rng, sizeof(ignored))]);
	if (isa_once_in(g->rng, f->mode32 ? 200 : 24))
		put(o, 0x67);
	for (i = 0; i < f->prefixes; i++)
		put(o, f->prefix[i]);
}

static void put_vex(struct gen *g, const struct isa_form *f, u8 r, u8 x, u8 b,
                    struct bytes *o)
{
	u8 v = isa_once_in(g->rng, 2) ? 15 : (u8)isa_below(g->rng, 16);
	u8 low = (u8)(v << 3 | f->vex_l << 2 | f->vex_pp);

	if (f->mode32)
		low |= 0x40; /* VEX.vvvv[3]: of no meaning, but kept set */
	if (f->map == 1 && !f->vex_w && !x && !b && isa_once_in(g->rng, 2)) {
		put(o, 0xc5);
		put(o, (u8)((r ? 0 : 0x80) | low));
		return;
	}
	put(o, 0xc4);
	put(o, (u8)((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | f->map));
	put(o, (u8)(f->vex_w << 7 | low));
}

static void put_opcode(struct gen *g, const struct isa_form *f, u8 r, u8 x,
                       u8 b, struct bytes *o)
{
	u8 opcode = f->opcode;

	if (f->vex) {
		put_vex(g, f, r, x, b, o);
	} else {
		u8 rex = (u8)(f->rex_w << 3 | r << 2 | x << 1 | b);

		if (rex || (!f->mode32 && isa_once_in(g->rng, 4)))
			put(o, 0x40 | rex);
		if (f->map)
			put(o, 0x0f);
		if (f->map == 2)
			put(o, 0x38);
		if (f->map == 3)
			put(o, 0x3a);
	}
	if (f->in_opcode)
		opcode = (u8)((opcode & 0xf8) | isa_below(g->rng, 8));
	put(o, opcode);
}

/* Bytes of the form; what follows ModRM and displacement is random. */
static void assemble(struct gen *g, const struct isa_form *f, struct address *a,
                     struct bytes *o)
{
	struct isa_rng *rng = g->rng;
	u8 reg = f->reg >= 0 ? (u8)f->reg : (u8)isa_below(rng, 8);
	u8 rm = f->rm >= 0 ? (u8)f->rm : (u8)isa_below(rng, 8);
	u8 r = 0, x = 0, b = 0;
	u64 tail = isa_random(rng);

	o->n = 0;
	if (!f->mode32) {
		r = f->modrm && f->reg < 0 && isa_once_in(rng, 2);
		b = ((!f->memory && f->rm < 0) || f->in_opcode) &&
		    isa_once_in(rng, 2);
	}
	if (f->memory) {
		choose_address(g, f, a);
		b = a->base >> 3;
		x = a->sib ? a->index >> 3 : 0;
	}
	put_prefixes(g, f, a, o);
	put_opcode(g, f, r, x, b, o);
	if (f->memory) {
		unsigned i;

		put(o, (u8)(a->mod << 6 | reg << 3 | a->rm));
		if (a->sib)
			put(o, (u8)(a->scale << 6 | (a->index & 7) << 3 |
			            (a->base & 7)));
		for (i = 0; i < a->disp_size; i++)
			put(o, (u8)(a->disp >> 8 * i));
	} else if (f->modrm) {
		put(o, (u8)(0xc0 | reg << 3 | rm));
	}
	put32(o, (u32)tail);
	put32(o, (u32)(tail >> 32));
}

static bool writes_pointer(struct gen *g, const ZydisDecodedInstruction *insn,
                           const ZydisDecodedOperand *ops)
{
	size_t i;

	for (i = 0; i < insn->operand_count; i++) {
		ZydisRegister whole;
		unsigned n;

		if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
		    !(ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		whole = ZydisRegisterGetLargestEnclosing(
		    ZYDIS_MACHINE_MODE_LONG_64, ops[i].reg.value);
		if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15)
			continue;
		n = (unsigned)(whole - ZYDIS_REGISTER_RAX);
		if ((pointers64 | BIT(GPR_RCX)) & BIT(n))
			return !isa_once_in(g->rng, n == GPR_RSP ? 64 : 16);
	}
	return false;
}

struct decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

static u64 here(const struct isa_snippet *s)
{
	return s->start + s->length;
}

/* A random instance of the form, decoded; false if none was found. */
static bool make(struct gen *g, const struct isa_form *f, struct bytes *o,
                 struct decoded *d)
{
	struct address a;
	unsigned tries;

	for (tries = 0; tries < 40; tries++) {
		assemble(g, f, &a, o);
		if (!ZYAN_SUCCESS(
			ZydisDecoderDecodeFull(&g->forms->decoder[f->mode32],
		                               o->b, o->n, &d->insn, d->ops)))
			continue;
		o->n = d->insn.length;
		if (isa_form_key(&d->insn, d->ops) != f->key ||
		    writes_pointer(g, &d->insn, d->ops))
			continue;
		if (f->memory && a.rip_relative) {
			u32 disp = a.disp - (u32)(here(g->s) + o->n);

			memcpy(o->b + d->insn.raw.disp.offset, &disp, 4);
		} else if (!f->modrm && d->insn.raw.disp.size >= 32) {
			/* MOV between accumulator and absolute address. */
			u64 at = ISA_DATA + 0x800 + small_disp(g->rng) % 0x400;

			memcpy(o->b + d->insn.raw.disp.offset, &at,
			       d->insn.raw.disp.size / 8);
		}
		return true;
	}
	return false;
}

static void append(struct isa_snippet *s, const u8 *bytes, size_t n, u32 form)
{
	struct isa_insn *i = &s->insn[s->count++];

	i->at = (u16)s->length;
	i->length = (u16)n;
	i->form = form;
	i->undefined = s->undefined;
	memcpy(s->bytes + s->length, bytes, n);
	s->length += n;
}

/* As append(), for what makes the outcome of the last one comparable. */
static void append_glued(struct isa_snippet *s, const u8 *bytes, size_t n)
{
	append(s, bytes, n, ISA_NO_FORM);
	s->insn[s->count - 1].glued = true;
}

static bool room(const struct isa_snippet *s)
{
	return s->count + 12 < ISA_INSNS_MAX &&
	       s->length + MARGIN + 16 < ISA_SNIPPET_MAX;
}

/* cmp eax, imm32: all status flags are defined again. */
static void define_flags(struct gen *g)
{
	struct bytes o = { .n = 0 };

	put(&o, 0x3d);
	put32(&o, (u32)isa_random(g->rng));
	append(g->s, o.b, o.n, ISA_NO_FORM);
	g->s->undefined = 0;
}

static bool reads_all_flags(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_PUSHF || m == ZYDIS_MNEMONIC_PUSHFD ||
	       m == ZYDIS_MNEMONIC_PUSHFQ || m == ZYDIS_MNEMONIC_LAHF ||
	       m == ZYDIS_MNEMONIC_SALC;
}

u32 isa_flags_read(const ZydisDecodedInstruction *insn)
{
	if (reads_all_flags(insn->mnemonic))
		return RFLAGS_STATUS;
	return insn->cpu_flags->tested & RFLAGS_STATUS;
}

u32 isa_flags_undefined(const ZydisDecodedInstruction *insn, u32 undefined)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;

	if (insn->meta.category == ZYDIS_CATEGORY_SHIFT) {
		/* A count may be zero, or be more than OF and CF stand. */
		return undefined | f->undefined | RFLAGS_OF | RFLAGS_AF |
		       RFLAGS_CF;
	}
	if (insn->meta.category == ZYDIS_CATEGORY_ROTATE)
		return undefined | f->undefined | RFLAGS_OF;
	if (!(insn->attributes &
	      (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		undefined &= ~(f->modified | f->set_0 | f->set_1);
	return (undefined | f->undefined) & RFLAGS_STATUS;
}

static void push_imm(struct gen *g, u32 v)
{
	struct bytes o = { .n = 0 };

	put(&o, 0x68);
	put32(&o, v);
	append(g->s, o.b, o.n, ISA_NO_FORM);
}

static void mov_imm(struct gen *g, u8 reg, u32 v)
{
	struct bytes o = { .n = 0 };

	put(&o, (u8)(0xb8 | reg));
	put32(&o, v);
	append(g->s, o.b, o.n, ISA_NO_FORM);
}

/* Where a relative branch goes: on, or over one instruction more. */
static void add_relative(struct gen *g, u32 form, struct bytes *o,
                         const struct decoded *d)
{
	static const u8 skipped[] = { 0xf8, 0xf9, 0x98, 0x99 };
	u8 n = (u8)isa_below(g->rng, 4), i;

	memset(o->b + d->insn.raw.imm[0].offset, 0,
	       d->insn.raw.imm[0].size / 8);
	o->b[d->insn.raw.imm[0].offset] = n;
	append(g->s, o->b, o->n, form);
	for (i = 0; i < n; i++) { /* clc, stc, cwde, cdq: a byte each */
		memcpy(g->s->bytes + g->s->length, &skipped[i], 1);
		g->s->length++;
	}
}

static void add_branch(struct gen *g, const struct isa_form *f, u32 form,
                       struct bytes *o, struct decoded *d)
{
	struct isa_snippet *s = g->s;

	if (d->insn.raw.imm[0].is_relative) {
		add_relative(g, form, o, d);
		return;
	}
	if (f->memory || d->insn.meta.category == ZYDIS_CATEGORY_RET) {
		/* Target on the stack: pushed, then [rsp] or popped. */
		size_t n = 0;

		if (f->memory) {
			for (o->n = 0; n < f->prefixes; n++)
				put(o, f->prefix[n]);
			if (f->rex_w)
				put(o, 0x48);
			put(o, f->opcode);
			put(o, (u8)(f->reg << 3 | 4));
			put(o, 0x24);
		} else if (d->insn.raw.imm[0].size) {
			o->b[d->insn.raw.imm[0].offset] &= 0x38;
			o->b[d->insn.raw.imm[0].offset + 1] = 0;
		}
		push_imm(g, (u32)(here(s) + 5 + o->n));
	} else {
		/* Target in RAX or RDX. */
		u8 reg = isa_once_in(g->rng, 2) ? 0 : 2;

		o->b[d->insn.raw.modrm.offset] =
		    (u8)((o->b[d->insn.raw.modrm.offset] & 0xf8) | reg);
		if (d->insn.raw.rex.B)
			return;
		mov_imm(g, reg, (u32)(here(s) + 5 + o->n));
	}
	append(s, o->b, o->n, form);
}

enum { SAVES_MXCSR = 3 + 1 };

/* The instruction that stores what this one loads, as ModRM.reg + 1, or 0. */
static u8 saving_twin(const struct isa_form *f)
{
	switch (f->mnemonic) {
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return 0 + 1;
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return SAVES_MXCSR;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		return 4 + 1;
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
		return 6 + 1;
	default:
		return 0;
	}
}

/* mov word [rbx + disp32 + at], 0 */
static void hide_word(struct gen *g, const struct decoded *d, u32 at)
{
	struct bytes o = { .n = 0 };

	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE)
		put(&o, 0x67);
	put(&o, 0x66);
	put(&o, 0xc7);
	put(&o, 0x83);
	put32(&o, (u32)d->insn.raw.disp.value + at);
	put(&o, 0);
	put(&o, 0);
	append_glued(g->s, o.b, o.n);
}

/*
 * Engines do not keep FCS and FDS (CPUID.7.EBX[13]), this host may: clear
 * them in the environment just stored.
 */
static void hide_selectors(struct gen *g, const struct decoded *d)
{
	bool wide = d->insn.operand_width != 16;

	hide_word(g, d, wide ? 16 : 8);
	hide_word(g, d, wide ? 24 : 12);
}

/* mov dword [rbx + disp32 + 28], 0xffff; and selectors, as above. */
static void hide_mask(struct gen *g, const struct decoded *d)
{
	struct bytes o = { .n = 0 };

	if (!d->insn.raw.rex.W || g->s->mode32) {
		hide_word(g, d, 12);
		hide_word(g, d, 20);
	}
	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE)
		put(&o, 0x67);
	put(&o, 0xc7);
	put(&o, 0x83);
	put32(&o, (u32)d->insn.raw.disp.value + 28);
	put32(&o, 0xffff);
	append_glued(g->s, o.b, o.n);
}

/* Of the last instruction's and operand's address in an image to be loaded a
 * host keeps as many bits as its addresses have, 48 or 57. */
static void hide_high_bits(struct gen *g, const struct decoded *d)
{
	for (u32 at = 8; at <= 16; at += 8) {
		hide_word(g, d, at + 5);
		hide_word(g, d, at + 6);
	}
}

static void add_saving_twin(struct gen *g, struct bytes *o,
                            const struct decoded *d, u8 reg)
{
	struct bytes twin = *o;
	u8 *modrm = &twin.b[d->insn.raw.modrm.offset];
	u32 disp;

	*modrm = (u8)((*modrm & 0xc7) | reg << 3);
	append(g->s, twin.b, twin.n, ISA_NO_FORM);
	if (reg == 6)
		hide_selectors(g, d);
	else if (reg != 3)
		hide_mask(g, d);
	if ((*modrm & 0xc7) != 5 || g->s->mode32)
		return;
	memcpy(&disp, o->b + d->insn.raw.disp.offset, 4);
	disp -= (u32)o->n; /* the second stands further on */
	memcpy(o->b + d->insn.raw.disp.offset, &disp, 4);
}

/* popf with a value of our choice: never TF, which would trap at once. */
static void add_popf(struct gen *g)
{
	u32 v = (u32)isa_random(g->rng) & ~(u32)RFLAGS_TF;

	if (!isa_once_in(g->rng, 16))
		v &= ~(u32)RFLAGS_AC;
	if (!isa_once_in(g->rng, 4))
		v &= ~(u32)RFLAGS_DF;
	push_imm(g, v & 0x7fffffff);
	append(g->s, (const u8 *)"\x9d", 1, ISA_NO_FORM);
	g->s->undefined = 0;
}

/* What some instructions need before them to do anything but fault. */
static void add_helpers(struct gen *g, const struct isa_form *f,
                        const struct decoded *d)
{
	if (f->mnemonic == ZYDIS_MNEMONIC_CLZERO)
		append(g->s, (const u8 *)"\x89\xd8", 2, ISA_NO_FORM);
	if ((d->insn.attributes &
	     (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
	      ZYDIS_ATTRIB_HAS_REPNE)) &&
	    isa_once_in(g->rng, 2))
		mov_imm(g, 1, (u32)isa_below(g->rng, 80));
}

/* EDX:EAX of XSAVE and its like: this host may have state, and in use, that a
 * guest knows nothing of. What nobody has, from bit 32 on, may be named. */
static void choose_components(struct gen *g)
{
	mov_imm(g, 0, (u32)isa_random(g->rng) & 7);
	mov_imm(g, 2, (u32)isa_random(g->rng) & 0x3fffffff);
}

static void add_form(struct gen *g, u32 index)
{
	const struct isa_form *f = &g->forms->form[index];
	struct decoded d;
	struct bytes o;
	u8 twin;

	if (isa_once_in(g->rng, 100))
		add_popf(g);
	if (!make(g, f, &o, &d))
		return;
	if (isa_flags_read(&d.insn) & g->s->undefined) {
		define_flags(g);
		/* RIP-relative operands are counted from here. */
		if (!make(g, f, &o, &d))
			return;
	}
	if (f->branch) {
		add_branch(g, f, index, &o, &d);
		return;
	}
	if (f->mnemonic == ZYDIS_MNEMONIC_ENTER && !isa_once_in(g->rng, 8)) {
		o.b[d.insn.raw.imm[0].offset] &= 0x3f;
		o.b[d.insn.raw.imm[0].offset + 1] = 0;
	}
	if (!f->memory)
		add_helpers(g, f, &d);
	if (saves_mxcsr_mask(f))
		choose_components(g);
	twin = saving_twin(f);
	/* MXCSR always: hosts differ in which of its bits there are. */
	if (twin && (twin == SAVES_MXCSR || !isa_once_in(g->rng, 4)))
		add_saving_twin(g, &o, &d, twin - 1);
	else if (twin && saves_mxcsr_mask(f))
		hide_high_bits(g, &d);
	append(g->s, o.b, o.n, index);
	if (f->mnemonic == ZYDIS_MNEMONIC_FNSTENV ||
	    f->mnemonic == ZYDIS_MNEMONIC_FNSAVE)
		hide_selectors(g, &d);
	else if (saves_mxcsr_mask(f) && !twin)
		hide_mask(g, &d);
	/* Whether zeroed registers count as used (XSTATE_BV) differs:
	 * pcmpeqd xmm0, xmm0. */
	if (f->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		append_glued(g->s, (const u8 *)"\x66\x0f\x76\xc0", 4);
	g->s->undefined = isa_flags_undefined(&d.insn, g->s->undefined);
	/* Their results are no two times the same. */
	if (d.insn.meta.category == ZYDIS_CATEGORY_RDRAND ||
	    d.insn.meta.category == ZYDIS_CATEGORY_RDSEED) {
		u8 reg = o.b[o.n - 1] & 7;
		u8 b = d.insn.raw.rex.B && !f->mode32;
		struct bytes mov = { .n = 0 };

		if (b)
			put(&mov, 0x41);
		put(&mov, (u8)(0xb8 | reg));
		put32(&mov, (u32)isa_random(g->rng));
		append_glued(g->s, mov.b, mov.n);
	}
}

void isa_generate(struct isa_forms *forms, const u32 *order, size_t orders,
                  size_t *next, struct isa_rng *rng, unsigned insns,
                  struct isa_snippet *out)
{
	struct gen g = { rng, forms, out };

	memset(out, 0, sizeof(*out));
	out->mode32 = forms->form[order[*next % orders]].mode32;
	/* Often across the border of the two pages. */
	out->start = ISA_CODE + 0x1000 -
	             (isa_once_in(rng, 4) ? isa_below(rng, 300)
	                                  : isa_below(rng, 0x1000));
	while (insns-- && room(out)) {
		u32 index = order[*next % orders];

		/* One mode a snippet. */
		if (forms->form[index].mode32 != out->mode32)
			break;
		(*next)++;
		add_form(&g, index);
	}
}

/* ---- states ---- */

static u64 random_double(struct isa_rng *rng)
{
	static const u64 special[] = {
		0,
		0x8000000000000000,
		0x3ff0000000000000,
		0xbff0000000000000,
		0x7ff0000000000000,
		0xfff0000000000000,
		0x7ff8000000000000,
		0x7ff0000000000001,
		0x0000000000000001,
		0x000fffffffffffff,
		0x7fefffffffffffff,
		0x0010000000000000,
		0x41dfffffffc00000,
		0x43e0000000000000,
		0x3fe0000000000000,
		0x4008000000000000,
	};
	u64 v = isa_random(rng);

	if (isa_once_in(rng, 2))
		return special[isa_below(rng, ARRAY_SIZE(special))];
	/* An exponent near 1, so that sums keep bits of both. */
	return (v & 0x800fffffffffffff) | (0x3e0 + isa_below(rng, 64)) << 52;
}

static u32 random_float(struct isa_rng *rng)
{
	static const u32 special[] = {
		0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
		0xff800000, 0x7fc00000, 0x7f800001, 0x00000001, 0x007fffff,
		0x7f7fffff, 0x00800000, 0x4f000000, 0xcf000000, 0x3f000000,
	};
	u32 v = (u32)isa_random(rng);

	if (isa_once_in(rng, 2))
		return special[isa_below(rng, ARRAY_SIZE(special))];
	return (v & 0x807fffff) | (u32)(112 + isa_below(rng, 32)) << 23;
}

static u64 random_qword(struct isa_rng *rng)
{
	u64 v = isa_random(rng);

	switch (isa_below(rng, 8)) {
	case 0:
	case 1:
		return random_double(rng);
	case 2:
	case 3:
		return (u64)random_float(rng) << 32 | random_float(rng);
	case 4:
		return v & 0x000003ff000003ff; /* small numbers, indexes */
	case 5:
		return v & 0x8000000080000000; /* masks */
	case 6:
		return (s64)v >> (isa_random(rng) & 63);
	default:
		return v;
	}
}

static void random_extended(struct isa_rng *rng, u8 *st)
{
	u64 mantissa = isa_random(rng) | BIT(63);
	u16 exponent = (u16)(0x3fff - 32 + isa_below(rng, 64));

	switch (isa_below(rng, 16)) {
	case 0:
		mantissa = 0;
		exponent = 0;
		break;
	case 1: /* infinity, or a NaN */
		exponent = 0x7fff;
		if (isa_once_in(rng, 2))
			mantissa = BIT(63);
		break;
	case 2: /* denormal, or pseudo-denormal */
		exponent = 0;
		mantissa ^= (u64)isa_below(rng, 2) << 63;
		break;
	case 3: /* what no instruction makes */
		mantissa &= ~BIT(63);
		break;
	case 4:
		mantissa = BIT(63) >> 0;
		break;
	case 5:
		exponent = (u16)isa_random(rng) & 0x7fff;
		break;
	default:
		break;
	}
	exponent |= (u16)(isa_below(rng, 2) << 15);
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &exponent, 2);
}

static void put16_at(u8 *p, u16 v)
{
	memcpy(p, &v, sizeof(v));
}

static void random_x87(struct isa_rng *rng, u8 *x)
{
	u16 fcw = 0x37f, fsw, ftw = (u16)isa_random(rng) & 0xff;
	unsigned i;

	if (isa_once_in(rng, 2)) /* precision and rounding */
		fcw = (u16)(0x7f | isa_below(rng, 16) << 8);
	if (isa_once_in(rng, 12))
		fcw &= (u16) ~(isa_random(rng) & 0x3f);
	fsw = (u16)(isa_random(rng) & 0x7f7f);
	if (!isa_once_in(rng, 16))
		fsw &= (u16)(0xffc0 | (fcw & 0x3f));
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	if (isa_once_in(rng, 3))
		ftw = isa_once_in(rng, 2) ? 0xff : 0;
	put16_at(x, fcw);
	put16_at(x + 2, fsw);
	put16_at(x + 4, ftw);
	for (i = 0; i < 8; i++)
		random_extended(rng, x + 32 + 16 * i);
}

static void random_vectors(struct isa_rng *rng, u8 *x)
{
	u32 mxcsr = 0x1f80;
	unsigned i;
	u64 v;

	if (isa_once_in(rng, 2))
		mxcsr = 0x1f80 | ((u32)isa_random(rng) & 0xffff);
	if (isa_once_in(rng, 12))
		mxcsr = (u32)isa_random(rng) & 0xffff;
	memcpy(x + CPU_XSAVE_MXCSR, &mxcsr, 4);
	for (i = 0; i < 32; i++) {
		v = random_qword(rng);
		memcpy(x + CPU_XSAVE_XMM + 8 * i, &v, 8);
		v = random_qword(rng);
		memcpy(x + CPU_XSAVE_YMMH + 8 * i, &v, 8);
	}
}

static u64 random_pointer(struct isa_rng *rng)
{
	u64 p = ISA_DATA + 0x600 + isa_below(rng, 0xa00);

	if (isa_once_in(rng, 16)) /* near what can't be written, or the end */
		p = ISA_DATA +
		    (isa_once_in(rng, 2) ? ISA_DATA_WRITABLE : ISA_DATA_SIZE) -
		    isa_below(rng, 64);
	return isa_once_in(rng, 4) ? p : p & ~(u64)63;
}

void isa_random_state(struct isa_rng *rng, const struct isa_snippet *snippet,
                      struct isa_state *state)
{
	u64 bv = XCR0_X87 | XCR0_SSE | XCR0_AVX, v;
	unsigned i;

	memset(state, 0, sizeof(*state));
	random_x87(rng, state->xsave);
	random_vectors(rng, state->xsave);
	memcpy(state->xsave + CPU_XSAVE_HEADER, &bv, 8);
	for (i = 0; i < GPR_COUNT; i++)
		state->gpr[i] = random_qword(rng);
	for (i = 0; i < GPR_COUNT; i++) {
		if (pointers64 & BIT(i))
			state->gpr[i] = random_pointer(rng);
	}
	state->gpr[GPR_RCX] =
	    isa_once_in(rng, 8) ? random_qword(rng) : isa_below(rng, 64);
	state->gpr[GPR_RSP] = ISA_DATA + 0x1000 + isa_below(rng, 16) * 16;
	if (snippet->mode32) {
		for (i = 0; i < GPR_COUNT; i++)
			state->gpr[i] = i < 8 ? (u32)state->gpr[i] : 0;
	}
	v = isa_random(rng);
	state->rflags = RFLAGS_FIXED | RFLAGS_IF | (v & RFLAGS_STATUS);
	if (isa_once_in(rng, 6))
		state->rflags |= RFLAGS_DF;
	state->gs_base = ISA_DATA + 0x400;
	state->rip = snippet->start;
}

void isa_random_data(struct isa_rng *rng, u8 *data, bool all)
{
	size_t i, n = all ? ISA_DATA_WRITABLE / 8 : 64;

	for (i = 0; i < n; i++) {
		size_t at = all ? i : isa_below(rng, ISA_DATA_WRITABLE / 8);
		u64 v = random_qword(rng);

		memcpy(data + at * 8, &v, 8);
	}
}

void isa_seed(struct isa_rng *rng, u64 seed)
{
	unsigned i;

	for (i = 0; i < 2; i++) { /* splitmix64 */
		u64 z = seed += 0x9e3779b97f4a7c15;

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
		z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
		rng->s[i] = z ^ (z >> 31);
	}
}

u64 isa_random(struct isa_rng *rng) /* xorshift128+ */
{
	u64 a = rng->s[0], b = rng->s[1];

	rng->s[0] = b;
	a ^= a << 23;
	rng->s[1] = a ^ b ^ (a >> 18) ^ (b >> 5);
	return rng->s[1] + b;
}
