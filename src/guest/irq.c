/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/irq.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"

enum { GSIS = 24 };

struct irq_hub {
	struct irq_sink sink;
	/* Held over set_gsi, so that levels reach the controller in order. */
	pthread_mutex_t lock;
	unsigned asserted[GSIS]; /* lines that are high */
};

int irq_hub_create(struct irq_hub **out, const struct irq_sink *sink)
{
	struct irq_hub *hub = xalloc(sizeof(*hub));
	pthread_mutexattr_t attr;

	hub->sink = *sink;
	/* An interrupt controller may drive a line from inside (cascade). */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&hub->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	*out = hub;
	return 0;
}

void irq_hub_destroy(struct irq_hub *hub)
{
	if (!hub)
		return;
	pthread_mutex_destroy(&hub->lock);
	free(hub);
}

void irq_line_init(struct irq_line *line, struct irq_hub *hub, unsigned gsi)
{
	ASSERT(gsi < GSIS);
	*line = (struct irq_line){ .hub = hub, .gsi = gsi };
}

void irq_line_set(struct irq_line *line, bool high)
{
	struct irq_hub *hub = line->hub;
	unsigned before;

	pthread_mutex_lock(&hub->lock);
	if (line->high != high) {
		line->high = high;
		before = hub->asserted[line->gsi];
		hub->asserted[line->gsi] += high ? 1u : -1u;
		if (!before != !hub->asserted[line->gsi])
			hub->sink.set_gsi(hub->sink.ctx, line->gsi, high);
	}
	pthread_mutex_unlock(&hub->lock);
}

void irq_hub_msi(struct irq_hub *hub, u64 addr, u32 data)
{
	hub->sink.msi(hub->sink.ctx, addr, data);
}
