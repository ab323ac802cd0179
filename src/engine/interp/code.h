/* SPDX-License-Identifier: Apache-2.0 */
/*
 * code.h - decoded code: operations, blocks, and the pages they came from.
 *
 * Each vCPU has its own cache, so no lock is taken to run. A block is a run of
 * instructions of one physical page, decoded for one mode key; it is dead once
 * its key is 0. Blocks and pages come from one arena, operations from another:
 * when that is full, the oldest of them give way, and with them the blocks that
 * nobody made host code of.
 */
#pragma once

#include "base/types.h"

struct hostop;
struct icpu;
struct insn;
struct iop;

typedef struct block *iop_fn(struct icpu *cpu, struct iop *op);

/*
 * One decoded operation. Registers are byte offsets into struct icpu, so that
 * AH is one more than AL and an absent register is icpu.zero.
 */
struct iop {
	iop_fn *fn;
	u64 imm; /* immediate; target offset from pcbase; far offset */
	s64 disp;
	u64 amask; /* address size mask */
	u16 base, index, segbase;
	u16 dst, src;
	u16 off; /* of the instruction in its page */
	u8 shift;
	u8 len;
	u8 seg;   /* enum cpu_seg of the memory operand */
	u8 check; /* segment limits or alignment must be looked at */
	u8 opsize;
	u8 n;    /* of instructions before this one in the block */
	u16 aux; /* the handler's own */
	union {
		struct block *link;
		const struct hostop *host;
		u64 imm2;
		void *extra;
	};
} __attribute__((aligned(64)));

/* Second register operands and the like of rarely run operations. */
struct block {
	u32 key; /* 0: dead */
	u16 off, len;
	u16 count;     /* instructions */
	bool crossing; /* its one instruction goes on in page2 */
	struct codepage *page, *page2;
	struct block *next;  /* in page's bucket */
	struct block *cross; /* in page2's list */
	u16 ops;             /* operations, the last one included */
	/* For an engine that stands on this one: op[0]'s own handler while
	 * another has its place, what it made of the block, how often it ran
	 * before. */
	u32 runs;
	iop_fn *first;
	void *made;
	struct iop *op;
};

enum { BLOCK_OPS = 48, CODEPAGE_BUCKETS = 64 };

struct codepage {
	u8 *host;
	gpa_t gpa;
	struct codepage *next; /* hash chain */
	struct block *cross;   /* blocks that end in this page */
	struct block *bucket[CODEPAGE_BUCKETS];
};

struct code_cache;
/* bytes: for operations, at most; and as much for blocks and pages. */
int code_cache_create(struct code_cache **out, u64 bytes) MUST_CHECK;
void code_cache_destroy(struct code_cache *code);
/* Decoded code for this key alone does no more harm; all of it goes. */
void code_cache_flush(struct icpu *cpu);
/*
 * Decode a block anew whose operations were forgotten. false: its page has
 * changed meanwhile, and whoever changed it is about to say so. Others lose
 * theirs if there is no room.
 */
bool code_restore(struct icpu *cpu, struct block *b) MUST_CHECK;
/*
 * Decode a block on past its conditional jumps. EXTEND_ROOM: room was made, and
 * the block is not there any more. EXTEND_STALE: its page has changed.
 */
enum extend { EXTEND_OK, EXTEND_ROOM, EXTEND_STALE };
enum extend code_extend(struct icpu *cpu, struct block *b) MUST_CHECK;

/*
 * Decode at most max instructions at off in a page into op[], ending with one
 * that leaves the block. bytes holds avail bytes. Returns operations made;
 * *len and *count say what was consumed. *truncated: the first instruction
 * goes on in the next page and nothing was made.
 */
struct build {
	struct icpu *cpu;
	u32 key;
	u16 off;
	const u8 *bytes;
	size_t avail;
	unsigned max;
	bool brief; /* it ends behind its first conditional jump, too */
	struct iop *op;
	unsigned ops, count;
	u16 len;
	bool truncated;
	bool ended;         /* the last operation leaves the block */
	struct iop *shadow; /* an STI whose shadow is to be covered */
	struct insn *insn;
};
void build_block(struct build *b);
