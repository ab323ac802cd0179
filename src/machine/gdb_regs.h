/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb_regs.h - registers as GDB numbers and names them.
 */
#pragma once

#include "base/types.h"

struct cpu_state;

enum { GDB_REG_BYTES_MAX = 16 };

unsigned gdb_reg_count(void);
/* Bytes, at most GDB_REG_BYTES_MAX; 0 if there is no such register. */
unsigned gdb_reg_get(const struct cpu_state *cpu, unsigned n, u8 *out);
unsigned gdb_reg_size(unsigned n);
void gdb_reg_set(struct cpu_state *cpu, unsigned n, const u8 *in);

/* The target description; freed by the caller. */
char *gdb_target_xml(void);
