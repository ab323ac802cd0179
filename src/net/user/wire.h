/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - atoll-net's end of the cable: frames in and out, in batches.
 *
 * What the machine leaves undone (checksums, segmentation) is finished on the
 * way in; what goes out is queued until the end of a round, and while the
 * machine takes nothing.
 */
#pragma once

#include "base/types.h"

struct wire;

typedef void wire_frame_fn(void *ctx, const u8 *frame, size_t len);

/* fd is borrowed: a SOCK_SEQPACKET socket. */
struct wire *wire_create(int fd);
void wire_destroy(struct wire *w); /* NULL is legal */

/* Take what has come, at most a batch. 0, or -EPIPE: the machine is gone. */
int wire_receive(struct wire *w, wire_frame_fn *fn, void *ctx) MUST_CHECK;

/* Queue a frame; dropped when the queue is full. */
void wire_queue(struct wire *w, const void *frame, size_t len);
/* Send what is queued, as far as there is room. 0 or -EPIPE. */
int wire_flush(struct wire *w) MUST_CHECK;
/* Frames are waiting for room. */
bool wire_waiting(const struct wire *w);
/* So many that no more should be made. */
bool wire_congested(const struct wire *w);
