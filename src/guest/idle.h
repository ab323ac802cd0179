/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle.h - a processor is about to sleep: for work that can be put off as long
 * as the guest has something to do, and for work that its thread can do
 * instead of sleeping.
 *
 * Only engines whose HLT comes to the machine say so. Others may sleep
 * unnoticed, and so may a processor that waits in a loop: whoever puts
 * something off sets a timer, too.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/types.h"

struct idle_hub;

/* Embedded in whoever waits; fn is called with lock held. */
struct idle_watch {
	struct idle_hub *hub;  /* borrowed */
	pthread_mutex_t *lock; /* borrowed */
	void (*fn)(void *ctx);
	void *ctx;
	_Atomic bool armed;
	struct idle_watch *next, **prev; /* the hub's */
};

/* Embedded in a piece of work; fn is called once, with no lock held, and may
 * wait. The loan may be gone when it returns. */
struct idle_loan {
	void (*fn)(struct idle_loan *loan);
	struct idle_loan *next, **prev; /* the hub's; prev: it has the loan */
};

struct idle_hub *idle_hub_create(void);
/* No watch and no loan is left. NULL is legal. */
void idle_hub_destroy(struct idle_hub *hub);
/* A processor's own thread, before it sleeps; no lock held. */
void idle_hub_run(struct idle_hub *hub);

void idle_watch_init(struct idle_watch *w, struct idle_hub *hub,
                     pthread_mutex_t *lock, void (*fn)(void *ctx), void *ctx);
/* Not under the lock. One that was never initialized is legal. */
void idle_watch_fini(struct idle_watch *w);
/* Call fn once, when the next processor goes to sleep. Any thread. */
void idle_watch_arm(struct idle_watch *w);

/* Have processors ever been heard to sleep? */
bool idle_is_heard(const struct idle_hub *hub);
/* Work for the next processor that goes to sleep. Any thread. */
void idle_lend(struct idle_hub *hub, struct idle_loan *loan);
/* False: a processor has it already. */
bool idle_take_back(struct idle_hub *hub, struct idle_loan *loan);
/* Is there any? A processor's own thread, after idle_hub_run(). */
bool idle_has_loans(const struct idle_hub *hub);
/* Do the oldest there is. The same. */
void idle_do_loan(struct idle_hub *hub);
