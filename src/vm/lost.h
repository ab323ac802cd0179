/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lost.h - guest memory that goes away: the file of a saved machine that it is
 * mapped from is cut short, or written to, while the machine runs from it; or
 * what is read out of it as the guest asks for it is not what was saved.
 *
 * Whoever touches a page that is gone gets a SIGBUS; a file that was written to
 * is another twice a second by its time. There is nothing to go on with: the
 * process says why and ends at once, with END_MEMORY_LOST; what the guest had
 * flushed is on its disks, as after a power cut.
 */
#pragma once

#include <sys/stat.h>

struct error;
struct loop;
struct machine;

/* Tells this socket. One machine a process; call after machine_create. was: the
 * file of the saved machine, before that. */
int lost_watch(struct machine *m, struct loop *loop, int sock,
               const struct stat *was, struct error *err);
/* Before any of the three goes. */
void lost_unwatch(void);
