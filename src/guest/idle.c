/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle - the watches in a list. Lock order: the hub's, then a watch's; who arms
 * a watch holds that one, so arming takes no lock.
 */
#include "guest/idle.h"

#include <stdlib.h>

#include "base/alloc.h"

struct idle_hub {
	_Atomic unsigned armed; /* watches: mostly none */
	pthread_mutex_t lock;
	struct idle_watch *watches;
};

struct idle_hub *idle_hub_create(void)
{
	struct idle_hub *hub = xalloc(sizeof(*hub));

	pthread_mutex_init(&hub->lock, NULL);
	return hub;
}

void idle_hub_destroy(struct idle_hub *hub)
{
	if (!hub)
		return;
	ASSERT(!hub->watches);
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
