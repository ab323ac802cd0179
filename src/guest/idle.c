/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle - the watches in a list. Lock order: the hub's, then a watch's; who arms
 * a watch holds that one, so arming takes no lock. Loans have a lock of their
 * own, a leaf.
 */
#include "guest/idle.h"

#include <stdlib.h>

#include "base/alloc.h"

struct idle_hub {
	_Atomic unsigned armed; /* watches: mostly none */
	pthread_mutex_t lock;
	struct idle_watch *watches;

	_Atomic bool heard;
	_Atomic unsigned lent; /* loans in the list */
	pthread_mutex_t loans_lock;
	struct idle_loan *loans, **loans_tail;
};

struct idle_hub *idle_hub_create(void)
{
	struct idle_hub *hub = xalloc(sizeof(*hub));

	pthread_mutex_init(&hub->lock, NULL);
	pthread_mutex_init(&hub->loans_lock, NULL);
	hub->loans_tail = &hub->loans;
	return hub;
}

void idle_hub_destroy(struct idle_hub *hub)
{
	if (!hub)
		return;
	ASSERT(!hub->watches && !hub->loans);
	pthread_mutex_destroy(&hub->loans_lock);
	pthread_mutex_destroy(&hub->lock);
	free(hub);
}

static bool disarm(struct idle_watch *w)
{
	if (!atomic_exchange(&w->armed, false))
		return false;
	atomic_fetch_sub(&w->hub->armed, 1);
	return true;
}

void idle_hub_run(struct idle_hub *hub)
{
	if (!atomic_load_explicit(&hub->heard, memory_order_relaxed))
		atomic_store(&hub->heard, true);
	if (!atomic_load(&hub->armed))
		return;
	pthread_mutex_lock(&hub->lock);
	for (struct idle_watch *w = hub->watches; w; w = w->next) {
		if (!disarm(w))
			continue;
		pthread_mutex_lock(w->lock);
		w->fn(w->ctx);
		pthread_mutex_unlock(w->lock);
	}
	pthread_mutex_unlock(&hub->lock);
}

void idle_watch_init(struct idle_watch *w, struct idle_hub *hub,
                     pthread_mutex_t *lock, void (*fn)(void *ctx), void *ctx)
{
	*w = (struct idle_watch){
		.hub = hub, .lock = lock, .fn = fn, .ctx = ctx
	};
	pthread_mutex_lock(&hub->lock);
	w->next = hub->watches;
	w->prev = &hub->watches;
	if (w->next)
		w->next->prev = &w->next;
	hub->watches = w;
	pthread_mutex_unlock(&hub->lock);
}

void idle_watch_fini(struct idle_watch *w)
{
	if (!w->hub)
		return;
	pthread_mutex_lock(&w->hub->lock);
	(void)disarm(w);
	*w->prev = w->next;
	if (w->next)
		w->next->prev = w->prev;
	pthread_mutex_unlock(&w->hub->lock);
	w->hub = NULL;
}

void idle_watch_arm(struct idle_watch *w)
{
	if (!atomic_load_explicit(&w->armed, memory_order_relaxed) &&
	    !atomic_exchange(&w->armed, true))
		atomic_fetch_add(&w->hub->armed, 1);
}

/* ---- loans ---- */

bool idle_is_heard(const struct idle_hub *hub)
{
	return hub && atomic_load_explicit(&hub->heard, memory_order_relaxed);
}

void idle_lend(struct idle_hub *hub, struct idle_loan *loan)
{
	loan->next = NULL;
	pthread_mutex_lock(&hub->loans_lock);
	loan->prev = hub->loans_tail;
	*hub->loans_tail = loan;
	hub->loans_tail = &loan->next;
	atomic_fetch_add(&hub->lent, 1);
	pthread_mutex_unlock(&hub->loans_lock);
}

/* Lock held. */
static void unlink_loan(struct idle_hub *hub, struct idle_loan *loan)
{
	*loan->prev = loan->next;
	if (loan->next)
		loan->next->prev = loan->prev;
	else
		hub->loans_tail = loan->prev;
	loan->prev = NULL;
	atomic_fetch_sub(&hub->lent, 1);
}

bool idle_take_back(struct idle_hub *hub, struct idle_loan *loan)
{
	bool there;

	pthread_mutex_lock(&hub->loans_lock);
	there = loan->prev != NULL;
	if (there)
		unlink_loan(hub, loan);
	pthread_mutex_unlock(&hub->loans_lock);
	return there;
}

bool idle_has_loans(const struct idle_hub *hub)
{
	return atomic_load(&hub->lent) != 0;
}

void idle_do_loan(struct idle_hub *hub)
{
	struct idle_loan *loan;

	pthread_mutex_lock(&hub->loans_lock);
	loan = hub->loans;
	if (loan)
		unlink_loan(hub, loan);
	pthread_mutex_unlock(&hub->loans_lock);
	if (loan)
		loan->fn(loan);
}
