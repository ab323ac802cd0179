/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults.h - memory whose pages come when they are touched, whoever touches
 * them and however: a processor under KVM, the kernel's own copies, a load.
 *
 * From faults_open() to faults_close() who touches a page that is not there
 * waits. Memory stays mapped where it is meanwhile.
 */
#pragma once

#include "machine/state/layout.h"

struct error;
struct faults;

/* Over memory that is all zeroes and is looked at by nobody yet. -errno: not on
 * this host, or not for us. */
int faults_open(struct faults **out, const struct layout *l) MUST_CHECK;
/*
 * Answers from now on, on a thread: fn is called for the page that was touched,
 * and may put contents there. It is zeroes if fn did not.
 */
typedef void fault_fn(void *ctx, u8 *host);
int faults_answer(struct faults *f, fault_fn *fn, void *ctx,
                  struct error *err) MUST_CHECK;
/* Any thread. A page that is there at once as a whole, once. 0 or -errno. */
int faults_put(struct faults *f, u8 *host, const u8 *contents) MUST_CHECK;
/* What is not there by now is zeroes. Not on the thread that answers; NULL is
 * legal. */
void faults_close(struct faults *f);
