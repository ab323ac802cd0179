/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_link.h - a cable whose far end is the test: single-threaded.
 */
#pragma once

#include "base/types.h"
#include "net/link.h"

enum { FAKE_FRAMES = 64 };

struct fake_frame {
	size_t len;
	u8 bytes[LINK_HDR + LINK_FRAME_MAX];
};

struct link *fake_link_create(void);
void fake_link_destroy(struct link *l);
/* Frames that the device sent; NULL when there is no such. */
const struct fake_frame *fake_link_sent(struct link *l, unsigned i);
/* Sends return -EAGAIN while full; then tell that there is room. */
void fake_link_full(struct link *l, bool full);
/* Give the device a frame (header of zeros is put before it). */
void fake_link_give(struct link *l, const void *frame, size_t len);
unsigned fake_link_waiting(struct link *l); /* not yet taken */
bool fake_link_wanted(struct link *l);
unsigned fake_link_offloads(struct link *l);
void fake_link_carrier(struct link *l, bool up);
