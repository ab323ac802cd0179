/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segment.h - cut a large TCP frame into frames of its segment size, for a
 * peer that takes no segmentation offload.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct vnet_header;

enum { SEGMENT_HEADERS_MAX = 512 };

struct segmenter {
	const u8 *frame; /* borrowed until the last segment is out */
	size_t ip, tcp, payload, end; /* offsets in it */
	size_t at;                    /* next payload byte */
	u16 size;                     /* payload of one segment */
	u16 id;                       /* IPv4 identification */
	u32 sequence;
	bool ipv6, first;
};

/*
 * Checks every header before anything is cut. 0, or -EINVAL: the frame is not
 * what its header says, or says something we do not cut (UDP fragments).
 */
int segment_begin(struct segmenter *s, const struct vnet_header *h,
                  const u8 *frame, size_t len);

/* The next frame, with full checksums. Its length; 0: none left; -EMSGSIZE:
 * it does not fit into room (it is skipped). */
ssize_t segment_next(struct segmenter *s, u8 *out, size_t room);
