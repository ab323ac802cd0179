/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.h - C that host code calls without leaving; see helper.c.
 */
#pragma once

#include "base/types.h"

struct bt;
struct cursor;
struct icpu;
struct insn;
struct xlate;

enum { BT_HELPER_DONE = 0, BT_HELPER_LEAVE = 1 };

/* R14 and R15; whether the interpreter has to go on with the instruction. */
typedef u32 bt_helper_fn(struct icpu *cpu, gva_t lin, u32 how);

/*
 * A stub that calls it: keeps all but the flags, and returns its answer in CF.
 * What it changes of icpu.gpr (RAX, RCX, RDX, RSI, RDI, R8-R11) is loaded.
 */
const u8 *bt_emit_helper(struct bt *bt, struct cursor *c, bt_helper_fn *fn);

/* how: of an access, for the fill of a slot and of the TLB. */
enum {
	HOW_SLOT_MASK = 0xffff, /* offset in struct icpu: slot, or table */
	HOW_SIZE = 16,          /* << bytes */
	HOW_SIZE_MASK = 0x3fff,
	HOW_NOW = 1 << 30, /* this instruction writes */
};
bt_helper_fn bt_fill_read, bt_fill_write;

/* how: log2 of the element's size; the address's. */
enum { HOW_32 = 1 << 8 };
bt_helper_fn bt_rep_movs, bt_rep_stos;

bool bt_can_string(const struct insn *insn);
void x_string(struct xlate *x, unsigned k);
