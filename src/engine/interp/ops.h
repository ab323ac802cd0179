/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.h - what operation handlers are made of.
 *
 * A handler runs one operation and tail-calls the next; the last of a block
 * sets cpu->rip and returns the next block if it knows it. Slow paths are
 * reached through a call that saves every register, so that the fast path
 * needs no frame.
 */
#pragma once

#include "engine/interp/code.h"
#include "engine/interp/icpu.h"
#include "engine/x86/decode.h"

/* Flags as LAHF and SETO leave them. */
enum {
	FL_CF = 1 << 8,
	FL_PF = 1 << 10,
	FL_AF = 1 << 12,
	FL_ZF = 1 << 14,
	FL_SF = 1 << 15,
	FL_OF = 1 << 0,
};

#define NEXT return op[1].fn(cpu, op + 1)
/* In handlers that call out: faults are this operation's. */
#define ENTER cpu->cur = op

#define CPU_BYTES(off) ((u8 *)cpu + (off))
#define REG8(off) (*CPU_BYTES(off))
#define REG16(off) (*(u16 *)(void *)CPU_BYTES(off))
#define REG32(off) (*(u32 *)(void *)CPU_BYTES(off))
#define REG64(off) (*(u64 *)(void *)CPU_BYTES(off))
#define SET8(off, v) (REG8(off) = (u8)(v))
#define SET16(off, v) (REG16(off) = (u16)(v))
#define SET32(off, v) (REG64(off) = (u32)(v))
#define SET64(off, v) (REG64(off) = (u64)(v))

static inline u64 reg_get(const struct icpu *cpu, u16 off, unsigned size)
{
	const u8 *p = (const u8 *)cpu + off;

	switch (size) {
	case 1:
		return *p;
	case 2:
		return *(const u16 *)(const void *)p;
	case 4:
		return *(const u32 *)(const void *)p;
	default:
		return *(const u64 *)(const void *)p;
	}
}

static inline void reg_set(struct icpu *cpu, u16 off, unsigned size, u64 v)
{
	switch (size) {
	case 1:
		SET8(off, v);
		break;
	case 2:
		SET16(off, v);
		break;
	case 4:
		SET32(off, v);
		break;
	default:
		SET64(off, v);
		break;
	}
}

#define GPR_OFF(n) ((u16)((n)*8))

static inline u64 size_mask(unsigned size)
{
	return size == 8 ? ~(u64)0 : BIT(size * 8) - 1;
}

static inline u64 sign_extend(u64 v, unsigned size)
{
	unsigned s = 64 - size * 8;

	return (u64)((s64)(v << s) >> s);
}

/* ---- addresses ---- */
static inline u64 op_ea(const struct icpu *cpu, const struct iop *op)
{
	return (reg_get(cpu, op->base, 8) +
	        (reg_get(cpu, op->index, 8) << op->shift) + (u64)op->disp) &
	       op->amask;
}

/* Out of line: segment checks. Preserves all registers but RAX. */
u64 icpu_slow_linear(struct icpu *cpu, struct iop *op, u64 ea, u64 how);
u64 icpu_slow_load(struct icpu *cpu, struct iop *op, gva_t lin, u64 how);
void icpu_slow_store(struct icpu *cpu, struct iop *op, gva_t lin, u64 size,
                     u64 value);

#define THUNK_CLOBBERS                                                         \
	"cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",        \
	    "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
	    "xmm13", "xmm14", "xmm15"

static inline u64 slow_linear(struct icpu *cpu, struct iop *op, u64 ea, u64 how)
{
	u64 r;

	__asm__ volatile("call icpu_thunk_linear"
	                 : "=a"(r)
	                 : "D"(cpu), "S"(op), "d"(ea), "c"(how)
	                 : THUNK_CLOBBERS);
	return r;
}

/* how: size, and ACCESS_WRITE << 8 when a write follows. */
static inline u64 slow_load(struct icpu *cpu, struct iop *op, u64 lin, u64 how)
{
	u64 r;

	__asm__ volatile("call icpu_thunk_load"
	                 : "=a"(r)
	                 : "D"(cpu), "S"(op), "d"(lin), "c"(how)
	                 : THUNK_CLOBBERS);
	return r;
}

static inline void slow_store(struct icpu *cpu, struct iop *op, u64 lin,
                              u64 size, u64 value)
{
	register u64 r8 __asm__("r8") = value;
	u64 r;

	__asm__ volatile("call icpu_thunk_store"
	                 : "=a"(r)
	                 : "D"(cpu), "S"(op), "d"(lin), "c"(size), "r"(r8)
	                 : THUNK_CLOBBERS);
}

static inline gva_t op_linear(struct icpu *cpu, struct iop *op, unsigned size,
                              enum icpu_access access)
{
	u64 ea = op_ea(cpu, op);

	if (unlikely(op->check))
		return slow_linear(cpu, op, ea, size | (u64)access << 16);
	return ea + reg_get(cpu, op->segbase, 8);
}

/* For an offset computed otherwise. */
static inline gva_t ea_linear(struct icpu *cpu, struct iop *op, u64 ea,
                              unsigned size, enum icpu_access access)
{
	if (unlikely(op->check))
		return slow_linear(cpu, op, ea, size | (u64)access << 16);
	return ea + reg_get(cpu, op->segbase, 8);
}

/* ---- loads and stores ---- */
static inline struct tlb_entry *tlb_slot(const struct icpu *cpu, gva_t lin)
{
	return &cpu->tlb[lin >> PAGE_SHIFT & (TLB_ENTRIES - 1)];
}

/*
 * Guest memory is shared with other vCPUs and devices, whose races are the
 * guest's own: relaxed atomics, which are plain moves here and aligned or not
 * as the guest likes.
 */
#define DEFINE_ACCESS(bits)                                                    \
	static inline u##bits guest_get##bits(const void *p)                   \
	{                                                                      \
		return __atomic_load_n((const u##bits *)p, __ATOMIC_RELAXED);  \
	}                                                                      \
	static inline void guest_put##bits(void *p, u##bits v)                 \
	{                                                                      \
		__atomic_store_n((u##bits *)p, v, __ATOMIC_RELAXED);           \
	}                                                                      \
	static inline u##bits load##bits(struct icpu *cpu, struct iop *op,     \
	                                 gva_t lin)                            \
	{                                                                      \
		const struct tlb_entry *e = tlb_slot(cpu, lin);                \
                                                                               \
		if (likely(lin - e->rtag <= PAGE_SIZE - bits / 8))             \
			return guest_get##bits(                                \
			    (void *)(uintptr_t)(lin + e->addend));             \
		return (u##bits)slow_load(cpu, op, lin, bits / 8);             \
	}                                                                      \
	static inline void store##bits(struct icpu *cpu, struct iop *op,       \
	                               gva_t lin, u##bits v)                   \
	{                                                                      \
		const struct tlb_entry *e = tlb_slot(cpu, lin);                \
                                                                               \
		if (likely(lin - e->wtag <= PAGE_SIZE - bits / 8))             \
			guest_put##bits((void *)(uintptr_t)(lin + e->addend),  \
			                v);                                    \
		else                                                           \
			slow_store(cpu, op, lin, bits / 8, v);                 \
	}                                                                      \
	/* NULL: not writable without ado. */                                  \
	static inline void *rmw##bits(const struct icpu *cpu, gva_t lin)       \
	{                                                                      \
		const struct tlb_entry *e = tlb_slot(cpu, lin);                \
                                                                               \
		if (likely(lin - e->wtag <= PAGE_SIZE - bits / 8))             \
			return (void *)(uintptr_t)(lin + e->addend);           \
		return NULL;                                                   \
	}
DEFINE_ACCESS(8)
DEFINE_ACCESS(16)
DEFINE_ACCESS(32)
DEFINE_ACCESS(64)
#undef DEFINE_ACCESS

/* Forward, and for overlaps that a forward copy gets right. */
static inline void guest_copy(void *to, const void *from, size_t n)
{
	u8 *d = to;
	const u8 *s = from;

	if (n >= 64) {
		__asm__ volatile("rep movsb"
		                 : "+D"(d), "+S"(s), "+c"(n)
		                 :
		                 : "memory");
		return;
	}
	for (; n >= 8; n -= 8, d += 8, s += 8)
		guest_put64(d, guest_get64(s));
	for (; n; n--)
		guest_put8(d++, guest_get8(s++));
}

static inline void guest_fill(void *to, u8 v, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory");
}

/* n elements of 1 << shift bytes. */
static inline void guest_fill_n(void *to, u64 v, unsigned shift, u64 n)
{
	switch (shift) {
	case 0:
		guest_fill(to, (u8)v, n);
		break;
	case 1:
		__asm__ volatile("rep stosw"
		                 : "+D"(to), "+c"(n)
		                 : "a"(v)
		                 : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosl"
		                 : "+D"(to), "+c"(n)
		                 : "a"(v)
		                 : "memory");
		break;
	default:
		__asm__ volatile("rep stosq"
		                 : "+D"(to), "+c"(n)
		                 : "a"(v)
		                 : "memory");
		break;
	}
}

enum { HOW_WRITE = ACCESS_WRITE << 8 };

/* By size, for handlers that are not hot. ENTER first. */
static inline u64 op_load(struct icpu *cpu, struct iop *op, unsigned size)
{
	return icpu_load(cpu, op_linear(cpu, op, size, ACCESS_READ), size,
	                 cpu->priv);
}
static inline void op_store(struct icpu *cpu, struct iop *op, unsigned size,
                            u64 v)
{
	icpu_store(cpu, op_linear(cpu, op, size, ACCESS_WRITE), v, size,
	           cpu->priv);
}

/* ---- control flow ---- */
static inline u64 op_next_rip(const struct icpu *cpu, const struct iop *op)
{
	return cpu->pcbase + op->off + op->len;
}

/* The block at cpu->rip if the jump cache has it, or NULL. */
static inline struct block *known_block(const struct icpu *cpu)
{
	gva_t pc = cpu->rip + cpu->csbase;
	const struct jump_entry *j =
	    &cpu->jump[(pc ^ pc >> 12) & cpu->jump_mask];

	if (likely(j->pc == pc && j->generation == cpu->targets &&
	           j->block->key == cpu->key))
		return j->block;
	return NULL;
}

/* End the block here; the next instruction is looked up afresh. */
#define LEAVE                                                                  \
	do {                                                                   \
		cpu->rip = op_next_rip(cpu, op) & icpu_ip_mask(cpu);           \
		return NULL;                                                   \
	} while (0)

/* Condition codes 0-15 on LAHF+SETO flags. */
static inline bool condition(u16 fl, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case 0:
		r = fl & FL_OF;
		break;
	case 1:
		r = fl & FL_CF;
		break;
	case 2:
		r = fl & FL_ZF;
		break;
	case 3:
		r = fl & (FL_CF | FL_ZF);
		break;
	case 4:
		r = fl & FL_SF;
		break;
	case 5:
		r = fl & FL_PF;
		break;
	case 6:
		r = (fl >> 15 ^ fl) & 1;
		break;
	default:
		r = (fl & FL_ZF) || ((fl >> 15 ^ fl) & 1);
		break;
	}
	return r ^ (cc & 1);
}

/* RFLAGS status bits from and to our form. */
static inline u32 flags_to_rflags(u16 fl)
{
	return (fl >> 8 & 0xd5) | (fl & 1) << 11;
}
static inline u16 flags_from_rflags(u64 rflags)
{
	return (u16)((rflags & 0xd5) << 8 | (rflags >> 11 & 1));
}

/* ---- builders (build*.c): pick the handler for b->insn ---- */
struct build;
typedef bool build_fn(struct build *b, struct iop *op);
/* Fill the address fields of op from the instruction's memory operand. */
void build_address(struct build *b, struct iop *op);
/* DS, or what a prefix says instead. */
unsigned build_override(const struct build *b);
u16 build_reg(const struct build *b, unsigned i); /* operand i's offset */
static inline unsigned size_index(unsigned size)
{
	return size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;
}

#define INSN(mnemonic, class, feature) build_fn build_##class;
#include "engine/x86/isa.def"

extern iop_fn op_undefined, op_too_long, op_end, op_stale;
build_fn build_host; /* what isa.def has no row for */
/* The instruction at bytes as code of this key has it. */
enum insn_status icpu_decode(struct icpu *cpu, u32 key, const u8 *bytes,
                             size_t n, struct insn *out);
u64 build_ip_mask(const struct build *b); /* by operand size */
void build_segment(struct build *b, struct iop *op, unsigned seg);
