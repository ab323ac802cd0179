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

/* What of a repetition stays as it is while it runs. */
struct rep {
	unsigned shift; /* log2 of an element's size */
	bool back;      /* DF: downwards */
	u64 mask;       /* of RCX, RSI and RDI, as wide as addresses are */
};

/* Elements from lin to where its page ends, at most n. */
static u64 in_page(const struct rep *r, gva_t lin, u64 n)
{
	u64 off = lin & ~PAGE_MASK;

	if (!r->back)
		return MIN(n, (PAGE_SIZE - off) >> r->shift);
	if (off + BIT(r->shift) > PAGE_SIZE)
		return 0;
	return MIN(n, (off >> r->shift) + 1);
}

/* n elements further. */
static u64 onward(const struct rep *r, u64 at, u64 n)
{
	return (r->back ? at - (n << r->shift) : at + (n << r->shift)) &
	       r->mask;
}

/* One after the other: some may be read again after they were written. */
static void copy_each(const struct rep *r, u8 *d, const u8 *s, u64 n)
{
	s64 step = r->back ? -(s64)BIT(r->shift) : (s64)BIT(r->shift);

	for (; n; n--, d += step, s += step)
		switch (r->shift) {
		case 0:
			guest_put8(d, guest_get8(s));
			break;
		case 1:
			guest_put16(d, guest_get16(s));
			break;
		case 2:
			guest_put32(d, guest_get32(s));
			break;
		default:
			guest_put64(d, guest_get64(s));
			break;
		}
}

/* Elements done at once; 0: one for the interpreter. */
static u64 movs_span(struct icpu *cpu, const struct rep *r, u64 count)
{
	gva_t from = cpu->gpr[GPR_RSI] & r->mask;
	gva_t to = cpu->gpr[GPR_RDI] & r->mask;
	u64 n = in_page(r, to, in_page(r, from, count));
	u8 *s = reach(cpu, from, false), *d;

	if (!s || !n)
		return 0;
	d = reach(cpu, to, true);
	if (!d)
		return 0;
	if (r->back || (u64)(d - s) < n << r->shift)
		copy_each(r, d, s, n);
	else
		guest_copy(d, s, n << r->shift);
	cpu->gpr[GPR_RSI] = onward(r, from, n);
	cpu->gpr[GPR_RDI] = onward(r, to, n);
	return n;
}

static u64 stos_span(struct icpu *cpu, const struct rep *r, u64 count)
{
	gva_t to = cpu->gpr[GPR_RDI] & r->mask;
	u64 n = in_page(r, to, count);
	u8 *d = reach(cpu, to, true);

	if (!d || !n)
		return 0;
	if (r->back)
		d -= (n - 1) << r->shift;
	guest_fill_n(d, cpu->gpr[GPR_RAX], r->shift, n);
	cpu->gpr[GPR_RDI] = onward(r, to, n);
	return n;
}

static u32 repeat(struct icpu *cpu, u32 how,
                  u64 (*span)(struct icpu *cpu, const struct rep *r, u64 n))
{
	const struct rep r = {
		.shift = how & (HOW_32 - 1),
		.back = cpu->sysflags & RFLAGS_DF,
		.mask = how & HOW_32 ? 0xffffffff : ~(u64)0,
	};
	u64 count;

	if (compared(cpu))
		return BT_HELPER_LEAVE;
	while ((count = cpu->gpr[GPR_RCX] & r.mask)) {
		u64 n = span(cpu, &r, count);

		if (!n)
			return BT_HELPER_LEAVE;
		cpu->gpr[GPR_RCX] = count - n;
		if (unlikely(atomic_load_explicit(&cpu->attention,
		                                  memory_order_relaxed)))
			break;
	}
	return cpu->gpr[GPR_RCX] & r.mask ? BT_HELPER_LEAVE : BT_HELPER_DONE;
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

	x_lose_spans(x);
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
