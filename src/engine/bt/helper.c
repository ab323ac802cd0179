/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.c - what host code calls C for without leaving: filling the TLB, and
 * spans of repeated string instructions.
 *
 * A helper is called at an instruction's boundary, flags saved or dead. It may
 * do as much of that instruction as it can, in whole steps, but raises no
 * fault and waits for nothing: what it can't do is left to the interpreter's
 * operation, which finds the registers as they are by then.
 */
#include "engine/bt/helper.h"

#include "engine/bt/xlate.h"
#include "engine/interp/ops.h"

/* ---- the way there and back ---- */

/* C keeps the others; R14 and R15 among them. */
static const u8 clobbered[] = { H_RAX, H_RCX, H_RDX, H_RSI, H_RDI,
	                        H_R8,  H_R9,  H_R10, H_R11 };

static void call_c(struct cursor *c, bt_helper_fn *fn)
{
	asm_load_gs(c, H_RDI, AREA(cpu));
	asm_mov_rr(c, H_RSI, H_S0);
	asm_rr(c, false, 0x8b, H_RDX, H_S1);
	asm_mov_imm64(c, H_RAX, (uintptr_t)fn);
	asm_bytes(c, "\xff\xd0", 2); /* call rax */
	asm_store_gs32(c, H_RAX, AREA(answer));
}

/* Guest vectors are in the host's registers only if they were before. */
static void call_c_with_vectors(struct bt *bt, struct cursor *c,
                                bt_helper_fn *fn)
{
	u8 *absent, *end;

	asm_bytes(c, "\x65\x83\x3c\x25", 4); /* cmp dword gs:[], 0 */
	asm_32(c, AREA(vector_absent));
	asm_8(c, 0);
	absent = asm_jcc(c, CC_NE);
	asm_call_to(c, bt->save_vector);
	call_c(c, fn);
	asm_call_to(c, bt->load_vector);
	end = asm_jmp(c);
	asm_patch(c, absent);
	call_c(c, fn);
	asm_patch(c, end);
}

const u8 *bt_emit_helper(struct bt *bt, struct cursor *c, bt_helper_fn *fn)
{
	const u8 *at = cursor_x(c);

	for (size_t i = 0; i < ARRAY_SIZE(clobbered); i++)
		asm_store_gs(c, clobbered[i], GPR(clobbered[i]));
	asm_store_gs(c, H_RSP, AREA(helper_rsp));
	asm_bytes(c, "\x48\x83\xe4\xf0", 4); /* and rsp, -16 */
	call_c_with_vectors(bt, c, fn);
	asm_load_gs(c, H_RSP, AREA(helper_rsp));
	for (size_t i = 0; i < ARRAY_SIZE(clobbered); i++)
		asm_load_gs(c, clobbered[i], GPR(clobbered[i]));
	asm_bytes(c, "\x65\x0f\xba\x24\x25", 5); /* bt dword gs:[], 0 */
	asm_32(c, AREA(answer));
	asm_8(c, 0);
	asm_8(c, 0xc3);
	return at;
}

/*
 * In lockstep whatever may be an event of its own is one: the comparison walks
 * page tables again, and they must not have changed behind what it repeats.
 */
static bool compared(const struct icpu *cpu)
{
	return ((const struct bt_area *)(const void *)cpu->area)->bt->lockstep;
}

/* ---- the TLB ---- */

static u32 fill(struct icpu *cpu, gva_t lin, u32 how, bool write)
{
	u32 size = how >> HOW_SIZE & HOW_SIZE_MASK;

	/* Over the end of a page: the interpreter's. */
	if ((lin & ~PAGE_MASK) + size > PAGE_SIZE || compared(cpu))
		return BT_HELPER_LEAVE;
	return icpu_tlb_fill(cpu, lin, write, how & HOW_NOW) ? BT_HELPER_DONE
	                                                     : BT_HELPER_LEAVE;
}

u32 bt_fill_read(struct icpu *cpu, gva_t lin, u32 how)
{
	return fill(cpu, lin, how, false);
}

u32 bt_fill_write(struct icpu *cpu, gva_t lin, u32 how)
{
	return fill(cpu, lin, how, true);
}

/* ---- strings ---- */

/* The host address of lin, good to the end of its page, or NULL. */
static u8 *reach(struct icpu *cpu, gva_t lin, bool write)
{
	struct tlb_entry *e = tlb_slot(cpu, lin);

	if (unlikely(lin - (write ? e->wtag : e->rtag) >= PAGE_SIZE) &&
	    !icpu_tlb_fill(cpu, lin, write, write))
		return NULL;
	return (u8 *)(uintptr_t)(lin + e->addend);
}

/* Elements from lin to the end of its page, at most n. */
static u64 in_page(gva_t lin, u64 n, unsigned shift)
{
	return MIN(n, (PAGE_SIZE - (lin & ~PAGE_MASK)) >> shift);
}

/* Elements done at once; 0: one for the interpreter. */
static u64 movs_span(struct icpu *cpu, unsigned shift, u64 mask)
{
	gva_t from = cpu->gpr[GPR_RSI] & mask, to = cpu->gpr[GPR_RDI] & mask;
	u64 count = cpu->gpr[GPR_RCX] & mask;
	u64 n = in_page(to, in_page(from, count, shift), shift);
	u8 *s = reach(cpu, from, false), *d;

	if (!s || !n)
		return 0;
	d = reach(cpu, to, true);
	/* What is written may not be read again in the same span. */
	if (!d || (u64)(d - s) < n << shift)
		return 0;
	guest_copy(d, s, n << shift);
	cpu->gpr[GPR_RSI] = (from + (n << shift)) & mask;
	cpu->gpr[GPR_RDI] = (to + (n << shift)) & mask;
	return n;
}

static u64 stos_span(struct icpu *cpu, unsigned shift, u64 mask)
{
	gva_t to = cpu->gpr[GPR_RDI] & mask;
	u64 n = in_page(to, cpu->gpr[GPR_RCX] & mask, shift);
	u8 *d = reach(cpu, to, true);

	if (!d || !n)
		return 0;
	guest_fill_n(d, cpu->gpr[GPR_RAX], shift, n);
	cpu->gpr[GPR_RDI] = (to + (n << shift)) & mask;
	return n;
}

static u32 repeat(struct icpu *cpu, u32 how,
                  u64 (*span)(struct icpu *cpu, unsigned shift, u64 mask))
{
	u64 mask = how & HOW_32 ? 0xffffffff : ~(u64)0;
	unsigned shift = how & (HOW_32 - 1);

	if (cpu->sysflags & RFLAGS_DF || compared(cpu))
		return BT_HELPER_LEAVE;
	while (cpu->gpr[GPR_RCX] & mask) {
		u64 n = span(cpu, shift, mask);

		if (!n)
			return BT_HELPER_LEAVE;
		cpu->gpr[GPR_RCX] = (cpu->gpr[GPR_RCX] - n) & mask;
		if (unlikely(atomic_load_explicit(&cpu->attention,
		                                  memory_order_relaxed)))
			break;
	}
	return cpu->gpr[GPR_RCX] & mask ? BT_HELPER_LEAVE : BT_HELPER_DONE;
}

u32 bt_rep_movs(struct icpu *cpu, gva_t unused, u32 how)
{
	(void)unused;
	return repeat(cpu, how, movs_span);
}

u32 bt_rep_stos(struct icpu *cpu, gva_t unused, u32 how)
{
	(void)unused;
	return repeat(cpu, how, stos_span);
}

/*
 * REP MOVS and REP STOS by registers as wide as addresses are, off no segment
 * base. Flags are not touched, and DF is looked at when it runs.
 */
bool bt_can_string(const struct insn *in)
{
	const ZydisDecodedInstruction *z = &in->z;
	unsigned op = z->opcode & 0xfe;

	return z->meta.category == ZYDIS_CATEGORY_STRINGOP &&
	       (op == 0xa4 || op == 0xaa) &&
	       z->attributes & ZYDIS_ATTRIB_HAS_REP &&
	       in->asize == bt_word(in) &&
	       !(z->attributes &
	         (ZYDIS_ATTRIB_HAS_SEGMENT_CS | ZYDIS_ATTRIB_HAS_SEGMENT_FS |
	          ZYDIS_ATTRIB_HAS_SEGMENT_GS));
}

void x_string(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];
	struct cold *cold = &x->cold[x->colds++];
	bool stos = (in->z.opcode & 0xfe) == 0xaa;

	x->span.valid = false;
	x_flags_clobber(x, x->live[k]);
	asm_mov_imm64(&x->c, H_S1,
	              (u32)__builtin_ctz(in->opsize) |
	                  (x->wide ? 0 : (u32)HOW_32));
	asm_call_to(&x->c, stos ? x->bt->rep_stos : x->bt->rep_movs);
	cold->jump = asm_jcc(&x->c, CC_B);
	cold->kind = COLD_MISS;
	cold->flags = (u8)x->at;
	cold->lag = (s16)x->lag;
	cold->insn = (u16)k;
}
