/* SPDX-License-Identifier: Apache-2.0 */
/*
 * news.h - when a guest's agent is asked next what is new.
 *
 * Each question wakes the guest and its agent, which costs some ten
 * milliseconds of a processor and memory that an idle guest has given back. So
 * where nothing changes and nobody wants to know, it is asked ever more rarely.
 */
#pragma once

#include "base/types.h"

enum { NEWS_S = 15, NEWS_RARE_S = 120 };

struct news {
	u64 asked_ns; /* 0: never */
	unsigned wait_s;
	bool wanted; /* somebody has looked since */
};

static inline bool news_due(const struct news *n, u64 now_ns)
{
	u64 wait_s = n->wanted ? NEWS_S : MAX(n->wait_s, (unsigned)NEWS_S);

	return !n->asked_ns || now_ns - n->asked_ns >= wait_s * NSEC_PER_SEC;
}

static inline void news_asked(struct news *n, u64 now_ns)
{
	n->asked_ns = now_ns;
	n->wanted = false;
	/* Until it is heard that something has changed. */
	n->wait_s = n->wait_s ? MIN(2 * n->wait_s, (unsigned)NEWS_RARE_S)
	                      : (unsigned)NEWS_S;
}

static inline void news_changed(struct news *n)
{
	n->wait_s = NEWS_S;
}
