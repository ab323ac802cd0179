/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xlate.h - the state of one block's translation.
 */
#pragma once

#include "engine/bt/bt.h"
#include "engine/x86/decode.h"

#define CPU(field) ((u32)offsetof(struct icpu, field))
#define AREA(field)                                                            \
	((u32)(offsetof(struct icpu, area) + offsetof(struct bt_area, field)))
#define GPR(n) (CPU(gpr) + 8 * (u32)(n))
#define SEG_FIELD(n, field)                                                    \
	(CPU(seg[0].field) + (u32)(n) * (u32)sizeof(struct cpu_segment))

/* Code out of the way of the hot path, written when the block is done. */
struct cold {
	enum {
		COLD_FILL,    /* a site's page cache missed */
		COLD_LINE,    /* a line did */
		COLD_WALK,    /* a direct probe missed */
		COLD_MISS,    /* the interpreter's */
		COLD_CALLOUT, /* likewise; where it leads host code goes on */
		COLD_LINK,    /* a link that is not linked yet */
	} kind;
	u8 *jump;         /* displacement that leads here */
	const u8 *resume; /* COLD_FILL, _LINE: run address after a hit;
	                   * COLD_WALK: of the probe */
	u32 slot;         /* ... offset in struct icpu */
	u16 size;         /* ... of the access */
	bool write;       /* ... some of what it is for */
	bool now;         /* ... this very instruction */
	bool delta;       /* COLD_FILL: R15 has the tag taken off, and R14
	                   * wants the slot's delta */
	u8 flags;         /* enum flags_at */
	u8 nth;           /* ... of the instruction's probes */
	s16 lag;          /* as in struct xlate */
	u16 insn;
	u16 link;
};

/* Bytes of guest memory. */
struct access {
	u8 base, index, shift;
	u8 seg; /* FS, GS, or DS for all that have base 0 */
	bool wide, write;
	u16 size;
	s64 at; /* displacement; off RSP, from where the block began */
};

/* [base + index << shift + disp] in the host's registers. */
struct where {
	u8 base, index, shift;
	s32 disp;
};

/* Guest memory that a probe has found to be in one page. */
struct span {
	bool valid;
	struct access access;
	u32 slot; /* that has its delta still; 0: only R14 knows */
};

/* What is in R14, of the span that it belongs to. */
enum held {
	HELD_NOTHING,
	HELD_DELTA, /* host address - linear address */
	HELD_BASE,  /* ...+ the base; there is an index */
	HELD_ALL,   /* ...+ all that is added up, displacement aside */
};

/* What an instruction does to registers that addresses are made of. */
struct effect {
	u32 written; /* those whose value is not known any more */
	u8 moved;    /* the one that moves by a known amount, or INSN_NO_REG */
	s64 by;
};

enum join { JOIN_NOT, JOIN_ALWAYS, JOIN_TAKEN };

enum {
	TRACE_OPS = 64,
	SPANS = 6,
	COLDS = 6,  /* of an instruction, at most */
	PROBES = 2, /* likewise */
	POINTS = 3, /* likewise: two probes and itself */
	BODIES = 2,
};

/* A probe in a body where none is shared. */
struct entrance {
	const u8 *host; /* NULL: none */
	u8 flags;       /* enum flags_at */
};

/* Slots that an instruction's probes have; 0: none yet. */
struct site {
	u16 slot[PROBES][2]; /* [][write] */
};

struct xlate {
	struct bt *bt;
	struct icpu *cpu;
	struct block *block;
	struct bt_code *code;
	struct cursor c;
	enum flags_at at;
	unsigned count; /* instructions done here; more may follow */
	unsigned total;
	unsigned colds, links;
	unsigned first_colds; /* of the first body */
	bool polled; /* the jump that comes next goes back, and has its poll */
	bool wide;   /* 64-bit code; else 32-bit code (code32.c) */
	bool merge;  /* accesses may share a probe */
	bool twin;   /* see struct bt_code */
	u8 nth;      /* probes of this instruction so far */
	bool tried;  /* see struct bt_code */
	bool trace;  /* likewise */
	u64 paged;   /* see struct bt_code */
	u64 direct;  /* likewise */
	s32 lag;     /* RSP less R13: pushes and pops move R13 together */
	/* Of each register, less its value when it was last not known. */
	s64 pos[GPR_COUNT];
	struct span span[SPANS];
	unsigned next_span;
	/*
	 * R15 has the value of this guest register, which is in memory, if what
	 * was emitted last ended at kept_at: whatever else is emitted may use
	 * R15.
	 */
	u8 kept;
	const u8 *kept_at;
	enum held held;
	unsigned held_span;
	s64 held_at; /* positions of the registers that R14 has in it */
	struct site site[TRACE_OPS];
	u16 op[TRACE_OPS];  /* of each instruction, in its block's */
	u16 off[TRACE_OPS]; /* in the page */
	u16 end[TRACE_OPS]; /* of what follows it */
	struct block *of[TRACE_OPS];
	/* Does the trace go on where the instruction leads, and not behind
	 * it? */
	u8 join[TRACE_OPS];
	struct effect effect[TRACE_OPS];
	u32 live[TRACE_OPS + 1]; /* status flags read before written */
	struct cold cold[BODIES * TRACE_OPS * COLDS + 8];
	struct bt_point point[BODIES * TRACE_OPS * POINTS];
	struct entrance entrance[TRACE_OPS][PROBES];
	struct insn insn[TRACE_OPS];
};

/* ---- blocks and traces (translate.c, trace.c) ---- */
/* Block b's instructions come next, as many as there is room for. */
bool x_decode(struct xlate *x, struct block *b);
bool x_ends_block(const struct insn *in);
void x_grow(struct xlate *x, const struct bt_code *old);

/* ---- flags (translate.c) ---- */
/* What follows destroys host flags; insn k's are live before it. */
void x_flags_clobber(struct xlate *x, u32 live);
/* What follows reads flags, or changes some and keeps others. */
void x_flags_need(struct xlate *x);

/* RFLAGS_STATUS bits. What is written may be kept, too: by a shift by CL. */
u32 x_flags_read(const struct insn *in);
u32 x_flags_written(const struct insn *in);
/* Written whatever happens, and whatever they were. */
u32 x_flags_killed(const struct xlate *x, const struct insn *in);
/* A fault in the host bytes from here on is instruction k's. */
void x_point(struct xlate *x, unsigned k);

/* ---- memory (access.c) ---- */
/* R14 = linear address of instruction k's memory operand. No probe. Changes
 * flags if it has a segment base: clobber before. */
void x_address(struct xlate *x, unsigned k);
/*
 * The result is where the access is on the host, or off to the interpreter's
 * operation of k. It may be made of R14, but not of R15, and is good until a
 * register changes. Flags are clobbered if need be. stack_slot: -1 for a slot
 * of its own.
 */
struct where x_reach(struct xlate *x, unsigned k, const struct access *a,
                     int stack_slot);
struct where x_reach_operand(struct xlate *x, unsigned k);
/* R14: linear to host address, flags clobbered already. */
void x_reach_at(struct xlate *x, unsigned k, unsigned size, bool write);
/* op reg, memory: 64 bits wide or 32. */
static inline void x_memory(struct xlate *x, bool w, u8 op, unsigned reg,
                            struct where at)
{
	asm_sib(&x->c, w, op, reg, at.base, at.index, at.shift, at.disp);
}
void x_operand_access(const struct xlate *x, unsigned k, const s64 *pos,
                      struct access *a);

/* ---- accesses that share a probe (span.c) ---- */
/* Are positions of the register counted? Addresses of 32 bits wrap around; but
 * the stack's don't in one page. */
static inline bool x_counted(const struct access *a, unsigned reg)
{
	return reg < GPR_COUNT && (a->wide || reg == GPR_RSP);
}
void x_find_effects(struct xlate *x);
/* How far one probe for the access of k may reach. */
void x_look_ahead(const struct xlate *x, unsigned k, struct access *a);
/* A span that has it all, or SPANS. */
unsigned x_covering(const struct xlate *x, const struct access *a);
/* A new one, for what was probed just now, through slot. */
unsigned x_new_span(struct xlate *x, const struct access *a, u32 slot);
/* R14 is about to be this span's, or, if SPANS, nobody's. */
void x_hold(struct xlate *x, unsigned span, enum held held, s64 at);
/* R14 is lost. */
static inline void x_lose_scratch(struct xlate *x)
{
	x_hold(x, SPANS, HELD_NOTHING, 0);
}
static inline bool x_keeps(const struct xlate *x)
{
	return x->kept_at == x->c.w;
}
/* What was emitted since left R15 alone, if kept says so. */
static inline void x_keep(struct xlate *x, bool kept)
{
	if (kept)
		x->kept_at = x->c.w;
}
/* What slots hold may change. */
void x_lose_spans(struct xlate *x);
/* Instruction k is done: what it did to registers that spans depend on. */
void x_after(struct xlate *x, unsigned k);
/* Do slots tell where a span is, after R14 is lost? */
bool x_slots_last(const struct xlate *x);
/* Does the memory operand stand for an access, not just an address? */
bool x_touches_memory(const struct insn *in);

/* What a push or a pop moves. */
static inline s32 x_word(const struct xlate *x)
{
	return x->wide ? 8 : 4;
}

/* A word at a position off RSP. */
static inline struct access x_stack_access(const struct xlate *x, s64 at,
                                           bool write)
{
	return (struct access){ .base = GPR_RSP,
		                .index = INSN_NO_REG,
		                .seg = SEG_DS,
		                .wide = x->wide,
		                .at = at,
		                .size = (u16)x_word(x),
		                .write = write };
}

/* R13 += by, and what pushes and pops left to be done. */
void x_move_rsp(struct xlate *x, s32 by);
/* Can R13 lag behind over instruction k? */
bool x_may_lag(const struct xlate *x, unsigned k);

/* ---- copies (copy.c) ---- */
void x_copy(struct xlate *x, unsigned k);
bool x_lea_is_simple(const struct insn *in); /* needs no scratch register */

/* ---- the system's instructions (system.c) ---- */
bool x_can_system(const struct xlate *x, unsigned k);
bool x_system(struct xlate *x, unsigned k); /* false: not one of these */
/* The interpreter does instruction k, if this condition holds. */
void x_leave_if(struct xlate *x, unsigned k, unsigned cc);
/* Explicit accesses are made as this from here on. */
void x_set_priv(struct xlate *x, unsigned priv);
/* icpu.flags = the status flags in R15d; R14 is lost. */
void x_save_image(struct xlate *x);

/* The interpreter does instruction k, and host code goes on (callout.c). */
void x_callout(struct xlate *x, unsigned k);
/* ...if this condition holds; it goes elsewhere in any case. */
void x_callout_if(struct xlate *x, unsigned k, unsigned cc);

/* ---- stack and control flow (flow.c) ---- */
bool x_stack(struct xlate *x, unsigned k); /* false: not one of these */
bool x_flow(struct xlate *x, unsigned k);
bool x_in_page(s64 off);
/* The poll of what comes next, if that is a conditional jump back. */
void x_poll_early(struct xlate *x, unsigned k);
void x_go_on(struct xlate *x, s64 off); /* the block ends; next is at off */
/* reg = pcbase + off. */
void x_load_rip(struct xlate *x, unsigned reg, s64 off);
void x_go_to_target(struct xlate *x);

/* ---- 32-bit code (code32.c) ---- */
/* The instruction as its bytes mean it in 64-bit code, too. */
void x_make_plain(const struct insn_decoder *d, struct insn *in);
/* R14 is an offset from FS or GS: the interpreter does instruction k unless the
 * segment holds all of the access. */
void x_check_segment(struct xlate *x, unsigned k, const struct access *a);

/* ---- to the kernel and back (transfer.c) ---- */
bool x_can_transfer(u32 key, const struct insn *in);
bool x_transfer(struct xlate *x, unsigned k); /* false: not one of these */

/* PUSH and POP of a segment register are callouts. */
static inline bool x_moves_segment(const struct insn *in)
{
	return in->op[0].kind == OPERAND_SEG;
}
static inline unsigned x_bodies(const struct xlate *x)
{
	return x->twin ? BODIES : 1;
}
/* At most. */
static inline unsigned x_links(const struct xlate *x)
{
	return (x->total + 2) * x_bodies(x);
}
static inline unsigned x_home(unsigned gpr)
{
	return gpr == GPR_RSP ? (unsigned)H_GSP : gpr;
}
static inline bool x_in_memory(unsigned gpr)
{
	return gpr >= GPR_R13 && gpr <= GPR_R15;
}
/* Offset in the page of what follows instruction k. */
static inline s64 x_end_of(const struct xlate *x, unsigned k)
{
	return x->end[k];
}
/* A host register that holds the guest's, loaded into scratch if it must. */
static inline unsigned x_read_gpr(struct xlate *x, unsigned gpr,
                                  unsigned scratch)
{
	if (!x_in_memory(gpr))
		return x_home(gpr);
	asm_load_gs(&x->c, scratch, GPR(gpr));
	return scratch;
}
