/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vnet.h - the header before each frame (virtio 1.1 section 5.1.6), as bytes
 * on a link and as numbers inside.
 */
#pragma once

#include <string.h>

#include "base/types.h"

enum {                      /* flags */
       VNET_NEEDS_CSUM = 1, /* finish the checksum from csum_start on */
       VNET_DATA_VALID = 2, /* the checksum was seen to be right */
};

enum { /* gso_type */
       VNET_GSO_NONE = 0,
       VNET_GSO_TCP4 = 1,
       VNET_GSO_UDP = 3,
       VNET_GSO_TCP6 = 4,
       VNET_GSO_ECN = 0x80, /* added to one of the above */
};

struct vnet_header {
	u8 flags;
	u8 gso_type;
	u16 hdr_len;
	u16 gso_size;
	u16 csum_start;
	u16 csum_offset;
	u16 num_buffers;
};

static inline u16 vnet_le16(const u8 *p)
{
	return (u16)(p[0] | p[1] << 8);
}

static inline u16 vnet_be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static inline void vnet_put_be16(u8 *p, unsigned v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static inline void vnet_decode(struct vnet_header *h, const u8 bytes[12])
{
	h->flags = bytes[0];
	h->gso_type = bytes[1];
	h->hdr_len = vnet_le16(bytes + 2);
	h->gso_size = vnet_le16(bytes + 4);
	h->csum_start = vnet_le16(bytes + 6);
	h->csum_offset = vnet_le16(bytes + 8);
	h->num_buffers = vnet_le16(bytes + 10);
}

static inline void vnet_encode(u8 bytes[12], const struct vnet_header *h)
{
	const u16 words[] = { h->hdr_len, h->gso_size, h->csum_start,
		              h->csum_offset, h->num_buffers };

	bytes[0] = h->flags;
	bytes[1] = h->gso_type;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		bytes[2 + 2 * i] = (u8)words[i];
		bytes[3 + 2 * i] = (u8)(words[i] >> 8);
	}
}
