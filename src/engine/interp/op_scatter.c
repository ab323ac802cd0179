/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_scatter.c - vector instructions whose memory operand is in pieces:
 * gathers and masked moves, an element at a time.
 */
#include <string.h>

#include "engine/interp/fpu.h"
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

static void check_avx(struct icpu *cpu)
{
	if (cpu->fpu_deny & FPU_DENY_AVX_UD)
		icpu_ud(cpu);
	if (cpu->fpu_deny & FPU_DENY_NM)
		icpu_fault(cpu, VEC_NM);
}

/* Vector registers as 32 bytes, from the two halves of the XSAVE area. */
static void vector_get(const struct icpu *cpu, unsigned reg, u8 v[32])
{
	memcpy(v, cpu->xsave + CPU_XSAVE_XMM + reg * 16, 16);
	memcpy(v + 16, cpu->xsave + CPU_XSAVE_YMMH + reg * 16, 16);
}

/* VEX: what is beyond size is zeroed. */
static void vector_set(struct icpu *cpu, unsigned reg, const u8 v[32],
                       unsigned size)
{
	u8 t[32] = { 0 };

	memcpy(t, v, size);
	memcpy(cpu->xsave + CPU_XSAVE_XMM + reg * 16, t, 16);
	memcpy(cpu->xsave + CPU_XSAVE_YMMH + reg * 16, t + 16, 16);
}

/* The first size bytes only. */
static void vector_put(struct icpu *cpu, unsigned reg, const u8 v[32],
                       unsigned size)
{
	memcpy(cpu->xsave + CPU_XSAVE_XMM + reg * 16, v, MIN(size, 16u));
	if (size > 16)
		memcpy(cpu->xsave + CPU_XSAVE_YMMH + reg * 16, v + 16,
		       size - 16);
}

static u64 element(const u8 *v, unsigned i, unsigned size)
{
	u64 e = 0;

	memcpy(&e, v + i * size, size);
	return e;
}

static u8 vector_size(const struct insn *i)
{
	return i->z.avx.vector_length == 256 ? 32 : 16;
}

/* Operands of one such instruction, kept in op->extra's place. */
struct pieces {
	u8 data, mask, index; /* vector registers */
	u8 element, isize;    /* bytes of an element, of an index */
	u8 vector;            /* bytes of the destination */
	u8 store;
	u8 mmx;
};

static struct pieces unpack(u64 v)
{
	struct pieces p;

	memcpy(&p, &v, sizeof(p));
	return p;
}
static u64 pack(struct pieces p)
{
	u64 v;

	memcpy(&v, &p, sizeof(v));
	return v;
}

/* Of an element: alignment is not checked here, whatever AC says. */
static gva_t element_linear(struct icpu *cpu, struct iop *op, u64 ea,
                            unsigned size, enum icpu_access access)
{
	(void)ea_linear(cpu, op, (ea + size - 1) & op->amask, 1, access);
	return ea_linear(cpu, op, ea, 1, access);
}

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q ---- */
static struct block *op_vmaskmov(struct icpu *cpu, struct iop *op)
{
	struct pieces p = unpack(op->imm2);
	u64 ea = op_ea(cpu, op);
	u8 mask[32], data[32], out[32] = { 0 };

	ENTER;
	check_avx(cpu);
	vector_get(cpu, p.mask, mask);
	vector_get(cpu, p.data, data);
	/* All elements of a store must be writable before the first is. */
	for (unsigned pass = p.store ? 0 : 1; pass < 2; pass++)
		for (unsigned i = 0; i < p.vector / p.element; i++) {
			u64 at = (ea + i * p.element) & op->amask;
			gva_t lin;

			if (!(mask[(i + 1) * p.element - 1] & 0x80))
				continue;
			lin = element_linear(cpu, op, at, p.element,
			                     p.store ? ACCESS_WRITE
			                             : ACCESS_READ);
			if (pass == 0) {
				icpu_probe(cpu, lin, p.element, ACCESS_WRITE,
				           cpu->priv);
			} else if (p.store) {
				icpu_store(cpu, lin,
				           element(data, i, p.element),
				           p.element, cpu->priv);
			} else {
				u64 v =
				    icpu_load(cpu, lin, p.element, cpu->priv);

				memcpy(out + i * p.element, &v, p.element);
			}
		}
	if (!p.store)
		vector_set(cpu, p.data, out, p.vector);
	NEXT;
}

bool build_vmaskmov(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool store = i->op[0].kind == OPERAND_MEM;
	bool wide = i->z.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
	            i->z.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;

	build_address(b, op);
	op->imm2 = pack((struct pieces){
	    .data = i->op[store ? 2 : 0].reg,
	    .mask = i->op[1].reg,
	    .element = wide ? 8 : 4,
	    .vector = vector_size(i),
	    .store = store,
	});
	op->fn = op_vmaskmov;
	return true;
}

/* ---- MASKMOVQ, MASKMOVDQU: bytes to DS:rDI ---- */
static struct block *op_maskmov(struct icpu *cpu, struct iop *op)
{
	struct pieces p = unpack(op->imm2);
	u64 ea = cpu->gpr[GPR_RDI];
	u8 mask[32], data[32];
	gva_t first;

	ENTER;
	if (p.mmx
	        ? cpu->fpu_deny & FPU_DENY_MMX_UD
	        : cpu->fpu_deny & (p.store ? FPU_DENY_AVX_UD : FPU_DENY_SSE_UD))
		icpu_ud(cpu);
	if (cpu->fpu_deny & FPU_DENY_NM)
		icpu_fault(cpu, VEC_NM);
	if (p.mmx) {
		if (fpu_pending(cpu->xsave))
			icpu_fault(cpu, VEC_MF);
		fpu_mmx_enter(cpu->xsave);
		memcpy(data, cpu->xsave + 32 + p.data * 16, 8);
		memcpy(mask, cpu->xsave + 32 + p.mask * 16, 8);
	} else {
		vector_get(cpu, p.data, data);
		vector_get(cpu, p.mask, mask);
	}
	/* The segment is looked at whatever the mask says. */
	first = ea_linear(cpu, op, ea & op->amask, 1, ACCESS_WRITE);
	if (unlikely(cpu->key & KEY_ALIGN) && first & 7)
		icpu_fault_error(cpu, VEC_AC, 0);
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < p.vector; i++) {
			gva_t lin;

			if (!(mask[i] & 0x80))
				continue;
			lin = ea_linear(cpu, op, (ea + i) & op->amask, 1,
			                ACCESS_WRITE);
			if (pass == 0)
				icpu_probe(cpu, lin, 1, ACCESS_WRITE,
				           cpu->priv);
			else
				icpu_store(cpu, lin, data[i], 1, cpu->priv);
		}
	NEXT;
}

bool build_maskmov(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	bool mmx = i->z.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;

	build_address(b, op);
	op->amask = size_mask(i->asize);
	/* Both registers are the last two operands that are named. */
	op->imm2 = pack((struct pieces){
	    .data = i->op[i->count - 2].reg,
	    .mask = i->op[i->count - 1].reg,
	    .vector = mmx ? 8 : 16,
	    .store = i->z.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU,
	    .mmx = mmx,
	});
	op->fn = op_maskmov;
	return true;
}

/* ---- gathers ---- */
static struct block *op_gather(struct icpu *cpu, struct iop *op)
{
	struct pieces p = unpack(op->imm2);
	u8 mask[32], data[32], index[32];
	unsigned n = p.vector / p.element;
	unsigned used = p.store; /* bytes of the destination that count */

	ENTER;
	check_avx(cpu);
	vector_get(cpu, p.mask, mask);
	vector_get(cpu, p.data, data);
	vector_get(cpu, p.index, index);
	n = used / p.element;
	for (unsigned i = 0; i < n; i++) {
		u8 *m = mask + i * p.element;
		u64 x, ea, v;

		if (!(m[p.element - 1] & 0x80)) {
			memset(m, 0, p.element);
			continue;
		}
		vector_put(cpu, p.mask, mask, used);
		x = sign_extend(element(index, i, p.isize), p.isize);
		ea = (reg_get(cpu, op->base, 8) + (x << op->shift) +
		      (u64)op->disp) &
		     op->amask;
		v = icpu_load(
		    cpu, element_linear(cpu, op, ea, p.element, ACCESS_READ),
		    p.element, cpu->priv);
		memcpy(data + i * p.element, &v, p.element);
		/* Kept up to date, so that a fault goes on from here. */
		memset(m, 0, p.element);
		vector_put(cpu, p.data, data, used);
		vector_put(cpu, p.mask, mask, used);
	}
	memset(mask, 0, sizeof(mask));
	vector_set(cpu, p.data, data, used);
	vector_set(cpu, p.mask, mask, used);
	NEXT;
}

bool build_gather(struct build *b, struct iop *op)
{
	const struct insn *i = b->insn;
	ZydisMnemonic m = i->z.mnemonic;
	bool dindex =
	    m == ZYDIS_MNEMONIC_VGATHERDPS || m == ZYDIS_MNEMONIC_VGATHERDPD ||
	    m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERDQ;
	bool ddata =
	    m == ZYDIS_MNEMONIC_VGATHERDPS || m == ZYDIS_MNEMONIC_VGATHERQPS ||
	    m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERQD;
	u8 vector = vector_size(i), used = vector;
	u8 index = i->mem.index;

	if (i->count != 3 || i->op[1].kind != OPERAND_MEM)
		return false;
	/* SDM vol. 2: the three registers must differ. */
	if (i->op[0].reg == i->op[2].reg || i->op[0].reg == index ||
	    i->op[2].reg == index)
		return false;
	/* Fewer indices than elements: four- or two-element results. */
	if (!dindex && ddata)
		used = vector / 2;
	build_address(b, op);
	op->imm2 = pack((struct pieces){
	    .data = i->op[0].reg,
	    .mask = i->op[2].reg,
	    .index = index,
	    .element = ddata ? 4 : 8,
	    .isize = dindex ? 4 : 8,
	    .vector = vector,
	    .store = used,
	});
	op->fn = op_gather;
	return true;
}
