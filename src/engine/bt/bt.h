/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bt.h - the binary translator: what its parts share.
 *
 * It stands on the interpreter. Each vCPU has the interpreter's own state,
 * TLBs and decoded blocks; a block that has run some times gets host code, and
 * the first operation of the block then enters that. Whatever host code does
 * not do itself - a TLB miss, MMIO, a fault, a rare instruction - it leaves to
 * the block's own operation for that instruction, at an exact guest boundary:
 * the interpreter is the slow path of everything.
 *
 * In host code:
 *	RAX-RDI, R8-R12   the guest's, but
 *	R13               the guest's RSP, pushes and pops of a block aside
 *	R14, R15          scratch; the guest's R13-R15 are in memory
 *	RSP               the host's
 *	GS base           struct icpu
 *	RFLAGS            the guest's status flags, or saved in icpu.flags;
 *	                  which, is known at each point of the code
 *	XMM, YMM, MXCSR   the guest's while area.vector_live, else the host's
 */
#pragma once

#include <Zydis/Zydis.h>
#include <stdio.h>

#include "base/types.h"
#include "engine/bt/asm.h"
#include "engine/interp/code.h"
#include "engine/interp/icpu.h"
#include "engine/x86/decode.h"

struct bt;
struct lockstep;

enum {
	SLOTS = 1024, /* page caches of access sites, each for 2 rings */
	SLOT_STACK_READ = 0,
	SLOT_STACK_WRITE = 1,
	SLOT_FIRST = 2,
	PAGES = 256, /* lines of a table that sites share */
	LOGGED = SLOTS + 2 * PAGES,
	SLOT_PAGES = 2048,       /* of a ring, told apart by their numbers */
	BT_SLOT_EMPTY = 1 << 28, /* upper half of an empty one's tag */
	TARGETS = 65536,         /* of indirect jumps */
	BT_CONTEXTS = 16,        /* recent ones remembered */
	MISS_SAMPLE = 61,  /* one in so many misses of slots is looked at... */
	MISS_CYCLES = 250, /* ...if they come so fast; a tenth is its cost */
	MISSES_MAX = 32,   /* such of one site, and it goes without a slot */
	HOT_RUNS = 200,    /* a block interpreted that often is translated */
	ARRIVAL_RUNS = 10, /* what host code had to be left for counts more */
	LAG_UNIT = 4,      /* of what RSP and R13 differ by */
};

/* A site's page: an access at lin hits if lin - tag <= 4096 - size. */
struct slot {
	u64 tag;
	union {
		u64 delta; /* host address - lin */
		u64 host;  /* of a line: the page's address */
	};
};

/* Of a page's line in its table: its number's low bits, times 16. */
enum { LINE_SHIFT = 12 - 4, LINE_MASK = (PAGES - 1) << 4 };

/*
 * A line of the table of targets: good for one context alone. Contexts are
 * numbers that no guest can guess, so one word tells both: no address, not even
 * one that is not canonical, has the key of another context's line.
 */
struct target {
	u64 key;        /* RIP + context */
	const u8 *host; /* entry with flags saved */
};

enum {
	TARGET_MIX = 0x10010, /* key + (key >> 12), above 16 bits */
	TARGET_SHIFT = 16,
};

static inline u32 target_line(u64 key)
{
	return (u32)key * TARGET_MIX >> TARGET_SHIFT & (TARGETS - 1);
}

/* What host code reaches through GS, in icpu.area. */
struct bt_area {
	u64 host_rsp;
	u64 value;  /* of a push or call with a memory operand */
	u64 missed; /* R14 when an operation was left to the interpreter */
	/*
	 * Of targets: mappings and mode; never 0. All of its bits look random,
	 * so that processes which run at the same addresses have lines of
	 * their own.
	 */
	u64 context;
	/*
	 * The same for the other level, user's or kernel's, with what else a
	 * SYSCALL or SYSRET brings along (transfer.c); 0: it is not ready.
	 */
	u64 other_context, other_targets;
	u64 star; /* what the segments stem from */
	struct cpu_segment call_cs, call_ss, ret_cs, ret_ss;
	u32 other_key;
	struct target *targets;
	u64 vector_rcx;    /* while they are loaded */
	u32 vector_absent; /* 1: XMM and MXCSR are not the guest's */
	u32 host_mxcsr;
	u32 miss_count;   /* down to 0: this miss of a slot is looked at */
	u32 miss_sampled; /* it was: how (helper.h) of that one; or 0 */
	u64 miss_samples, last_sample; /* how many; the host's TSC then */
	u32 slot_local; /* a supervisor slot holds what is not global */
	u32 whole[2];   /* 32-bit code may be off FS, GS: code32.c */
	struct bt *bt;
	struct icpu *cpu; /* itself */
	/* The operation of all blocks that have none of their own any more. */
	struct iop entry;
	u64 helper_rsp; /* the host's, during a helper */
	u32 answer;     /* a helper's */
	u32 again;      /* of exit_again */
	/* Of a callout: where in the block it goes on; were vectors absent when
	 * it began, and are they to be loaded again? */
	const u8 *resume;
	u32 vector_was_absent, vector_wanted;
	/* Slots that are not empty, by offset in struct icpu: [cpl 3] */
	u32 slots_filled[2];
	u16 slot_log[2][LOGGED]; /* and of lines */
	struct slot slot[2][SLOTS];
	/* For sites that have no slot, by page: [cpl 3][write] */
	struct slot line[2][2][PAGES];
	/* By the page's number: may a slot of the ring hold it? */
	u8 slot_pages[2][SLOT_PAGES];
};

/* Where flags are at a point of host code. */
enum flags_at {
	FLAGS_HOST,
	FLAGS_SAVED, /* icpu.flags */
	FLAGS_DEAD,  /* overwritten before anything reads them */
};

/* Why host code came back, with a value. */
enum bt_exit_kind {
	BT_EXIT_OP,   /* a struct bt_out: the interpreter goes on there */
	BT_EXIT_LINK, /* a struct bt_link: its target has no known host code */
	BT_EXIT_RIP,  /* icpu.rip is where to go on */
};
struct bt_exit {
	u64 value; /* the place in bt.meta of what is named above */
	u64 kind;
};

/* One way out of a block, to a place in the same page. */
struct bt_link {
	struct bt_code *from;
	struct bt_link *next; /* of those that lead to the same code */
	u8 *jump;             /* write address of the displacement */
	u16 off;              /* of the target in the page */
	bool saved;           /* flags are saved there, else in the host */
	bool vector;          /* the vector state is in */
};

enum {
	DEAD_PATCH = 11, /* bytes that killing a block overwrites */
};

/* Where the interpreter takes over: an operation of a block. */
struct bt_out {
	struct block *block;
	u16 op;     /* in block->op */
	u16 off;    /* of the instruction in the page */
	u16 span;   /* bytes that a probe of the instruction spans, or 0 */
	u16 insn;   /* its number in the host code */
	u32 misses; /* of the probe's slot, those looked at */
	s32 moved;  /* of RSP, when it goes to a target that is unknown */
};

/* Host code of one block. */
struct bt_code {
	struct block *block;
	const u8 *entry; /* flags in the host */
	const u8 *entry_saved;
	/* Past the check that the vector state is in; flags as for entry.
	 * Without such a check, or flags in the host, it is entry. */
	const u8 *entry_vector;
	u8 *entry_w, *entry_saved_w, *entry_vector_w;
	u8 *start_w, *body_w;
	u32 size;
	u32 crossings; /* of spans over the end of a page */
	bool twin;     /* there is a second body, for spans over a page's end */
	bool vector;   /* it needs the vector state */
	bool flags;    /* it needs the flags it is entered with */
	bool tried;    /* made knowing that a link's target needs none */
	bool trace;    /* it is to be one, or is */
	bool joined;   /* it goes on behind the block */
	u8 samples;    /* how often attention met it; or it was entered */
	u16 total;     /* instructions */
	u64 paged;     /* instructions whose probes have no slot... */
	u64 direct;    /* ...and no line, but ask the TLB at once */
	struct bt_link *link;
	struct bt_link *incoming;
	/* Instructions' first host bytes, ascending, for faults. */
	u32 count;
	struct bt_point {
		u32 host; /* offset from start_w */
		u16 insn;
		u8 flags; /* enum flags_at */
		s8 lag;   /* RSP less R13, in LAG_UNITs */
	} * point;
	struct bt_out out[]; /* of each instruction */
};

static inline struct bt_code *bt_code_of(struct bt_out *out)
{
	return container_of(out - out->insn, struct bt_code, out);
}

struct bt_stats {
	u64 tries, translated, translated_bytes, host_bytes, flushes, entries;
	u64 links, target_misses, deaths, switches, slot_clears;
	u64 again;  /* blocks that were made better */
	u64 traces; /* ...by going on behind their end */
	u64 translate_ns;
	u64 probes; /* places of access, in what was translated */
	/* With count_fallbacks: blocks that end because of the instruction;
	 * why host code came back, and for which instruction. */
	u64 fallback[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	u64 left_op, left_probe, left_link, left_target;
	u64 left[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

/* Per vCPU. */
struct bt {
	struct icpu *cpu; /* owned by the engine's vCPU */
	struct bt_area *area;

	u8 *write, *exec;
	size_t size, used;
	size_t start; /* after the common stubs */
	/* What is known of host code, filled and emptied with it. */
	u8 *meta;
	size_t meta_size, meta_used;

	/* Common stubs, run addresses. */
	struct bt_exit (*enter)(const u8 *host);
	const u8 *exit_op_host;   /* R15: a bt_out in meta; flags in the host */
	const u8 *exit_op_saved;  /* ...saved, or dead */
	const u8 *exit_link_host; /* R15: a bt_link in meta */
	const u8 *exit_link_saved;
	/* R14: rip; flags saved. Goes on there if that has host code. */
	const u8 *exit_rip;
	const u8 *exit_target; /* likewise; R15: the bt_out of who goes there */
	const u8 *exit_again;  /* area.again: a bt_out in meta; flags saved */
	const u8 *exit_dead;   /* likewise; what the table has is dead */
	const u8 *exit_known;  /* rip is in icpu; flags saved */
	const u8 *callout;     /* R15: a bt_out in meta; flags saved or dead */
	/* [write][user]: R14 lin, R15 how (helper.h); R14: host */
	const u8 *fill[2][2];
	const u8 *fill_delta[2][2]; /* R14: the delta, if it hits */
	const u8 *fill_line[2][2];
	const u8 *fill_tlb[2];
	const u8 *rep_movs, *rep_stos;
	const u8 *load_vector, *save_vector;
	const u8 *dead_host, *dead_saved; /* R15: offset of rip in its page */

	/* The operation that a callout runs, and one that comes back. */
	struct iop one[2];
	struct bt_link *pending; /* wants its target's code */
	/* What the slots of a ring hold is good for this. */
	struct bt_slots_of {
		u64 epoch, flushes;
		const struct tlb_space *space;
	} slots_of[2];
	struct bt_context {
		u64 generation, id;
		u32 key;
	} context[BT_CONTEXTS];
	unsigned context_last[2]; /* [cpl 3] */
	u64 contexts;             /* ids given out */
	u64 secret;               /* that they are made from */
	struct bt_code **codes;   /* by address, for faults */
	size_t code_count, code_room;
	unsigned next_slot[2];              /* [write] */
	struct xlate *xlate;                /* workspace */
	const struct insn_decoder *decoder; /* borrowed */
	struct bt_stats stats;
	struct lockstep *lockstep; /* owned; NULL: not compared */
	FILE *perf_map;            /* borrowed; NULL: none */
	bool count_fallbacks;
	bool exact; /* flags are right at every fault, even dead ones */
	bool eager; /* traces are made of what has hardly run */
	unsigned tier;
	u32 hot; /* runs before a block is translated */
};

static inline struct bt *bt_of(const struct icpu *cpu)
{
	return ((const struct bt_area *)(const void *)cpu->area)->bt;
}

/* ---- stubs.c ---- */
/* Writes the common stubs at the start of the cache. */
void bt_stubs(struct bt *bt, struct cursor *c);

/* ---- translate.c ---- */
/*
 * Host code for the block, or NULL: no room (*full), or nothing gained. old:
 * what it was before, if that was found wanting, or NULL.
 */
struct bt_code *bt_translate(struct bt *bt, struct block *block,
                             const struct bt_code *old, bool *full);

/* ---- cache.c: the life of host code ---- */
int bt_create(struct bt **out, struct icpu *cpu, u64 bytes,
              const struct insn_decoder *decoder, struct error *err) MUST_CHECK;
void bt_destroy(struct bt *bt); /* NULL is legal; before the icpu */
extern const struct icpu_code_ops bt_code_ops;
/* Remember it for faults; the cache owns it. */
void bt_add_code(struct bt *bt, struct bt_code *code);
/* n bytes of zeros, there until the cache is emptied; NULL: it is full. */
void *bt_meta_take(struct bt *bt, size_t n);
/* Whoever still comes to old goes on in new. */
void bt_replace_code(struct bt *bt, struct bt_code *old, struct bt_code *new);
void bt_link(struct bt *bt, struct bt_link *link, struct bt_code *to);
/* Where an instruction of host code may fault, if host is in one; else NULL. */
const struct bt_point *bt_find_fault(struct bt *bt, const u8 *host,
                                     struct bt_out **out);

/* ---- enter.c: between the interpreter and host code ---- */
iop_fn bt_op_count, bt_op_enter;
void bt_page_gone(struct icpu *cpu, gva_t lin);
void bt_init_slots(struct bt *bt);
/* This thread is about to run bt's vCPU. */
void bt_attach_thread(struct bt *bt);
int bt_install_signals(struct error *err) MUST_CHECK;

/* Do the slots of a ring hold nothing that is stale? */
bool bt_slots_good(struct bt *bt, unsigned ring);
/* NULL: no such one is known. */
struct bt_context *bt_find_context(struct bt *bt, u64 generation, u32 key,
                                   unsigned ring);

/* The code is made again, better. NULL: it can't be. */
struct bt_code *bt_make_again(struct bt *bt, struct bt_code *code);

/* What host code relies on is so for the state as it is now. */
void bt_sync(struct bt *bt);
/* The interpreter has what b decodes to. */
bool bt_has_ops(struct bt *bt, struct block *b);
/* Host code for RIP, flags saved, if the table has it off its own line; else
 * NULL. */
const u8 *bt_second_target(struct bt *bt);
/*
 * Host code for the exact state, flags saved, or exit_known: the run loop sees
 * to it. May fault.
 */
const u8 *bt_dispatch(struct bt *bt);

/* ---- callout.c ---- */
/* May host code have the interpreter do this one, and go on? */
bool bt_can_callout(u32 key, const struct insn *insn);
/* The stubs exit_rip, exit_target, exit_again, exit_known and callout. */
void bt_emit_callouts(struct bt *bt, struct cursor *c, const u8 *leave);

/* ---- trace.c ---- */
/* Attention met host code at out: what runs most becomes a trace. */
void bt_sample(struct bt *bt, struct bt_out *out);
/* The code is entered, and may be in a hurry. */
struct bt_code *bt_hurry(struct bt *bt, struct bt_code *code);

/* ---- code32.c: what is special to 32-bit code ---- */
/* Is code of this key translated at all? */
bool bt_translates(u32 key);
enum insn_mode bt_mode(u32 key);
/* Of instructions in 32-bit code: those that nothing speaks against... */
bool bt_may_copy32(const struct insn *insn);
/* ...and that are the same in 64-bit code by the word of the decoder. */
bool bt_same_in_64(const struct insn_decoder *d, const struct insn *insn);
/* What the interpreter does for host code in 32-bit code alone. */
bool bt_can_callout32(const struct insn *insn);
/* x_make_plain() would change it. */
bool bt_is_short32(const struct insn *insn);
/* The segments that host code goes by are as they are now. */
void bt_sync_segments(struct bt *bt);

/* Of a push, a pop and an address where the instruction stands. */
static inline unsigned bt_word(const struct insn *insn)
{
	return insn->z.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? 8 : 4;
}

/* ---- transfer.c ---- */
/* Make ready what SYSCALL or SYSRET goes to. */
void bt_sync_other(struct bt *bt);

/* ---- insn.c: may host code do this instruction? ---- */
bool bt_can(const struct icpu *cpu, const struct insn *insn);
/* ...if it is one of the system's, in code of this key (system.c)? */
bool bt_can_system(u32 key, const struct insn *insn);
/* Of what bt_can allows: does it need the guest's vector state? */
bool bt_uses_vector(const struct insn *insn);
/* Are there scratch registers enough for a copy of it? */
bool bt_registers_fit(const struct insn *insn);
bool bt_needs_both_scratch(const struct insn *insn);
/* 0-15 for Jcc, -1 for all else. */
int bt_condition(const struct insn *insn);

extern const struct engine_type bt_engine;
