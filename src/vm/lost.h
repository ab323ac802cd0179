/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost.h - guest memory that goes away: a file that it is mapped from is cut
 * short while the machine runs from it.
 *
 * Whoever touches such a page gets a SIGBUS. There is nothing to go on with:
 * the process says why and ends at once, with END_MEMORY_LOST; what the guest
 * had flushed is on its disks, as after a power cut.
 */
#pragma once

struct error;
struct loop;
struct machine;

/* Tells this socket. One machine a process; call after machine_create. */
int lost_watch(struct machine *m, struct loop *loop, int sock,
               struct error *err);
/* Before any of the three goes. */
void lost_unwatch(void);
