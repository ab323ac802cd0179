/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb.h - a debugger's way in: the GDB remote serial protocol.
 *
 * One debugger at a time, over a listening socket. A vCPU is a thread, its
 * number one more than the vCPU's. The machine stands still from the moment a
 * debugger connects until it continues, and runs on when it goes.
 * All on the loop's thread, but for gdb_stopped().
 */
#pragma once

#include "base/types.h"
#include "engine/engine.h"

struct gdb;
struct machine;
struct machine_cpu;

/* listen_fd is taken over. */
struct gdb *gdb_create(struct machine *m, int listen_fd);
void gdb_destroy(struct gdb *gdb); /* NULL is legal */

/* A vCPU's thread: it came to a breakpoint, watchpoint or the end of a step.
 * It is to park next. */
void gdb_stopped(struct gdb *gdb, struct machine_cpu *cpu,
                 const struct vcpu_exit *exit);
/* The machine is over: say so. NULL is legal. */
void gdb_ended(struct gdb *gdb);
