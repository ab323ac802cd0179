/* SPDX-License-Identifier: Apache-2.0 */
/*
 * csum.h - the Internet checksum (RFC 1071), and finishing one that the
 * sender left to its network card.
 */
#pragma once

#include "base/types.h"

struct vnet_header;

/* Running one's-complement sum; start with 0. Only the last part of a sum
 * may have an odd length. */
u64 csum_add(u64 sum, const void *data, size_t len);
/* Folded to 16 bits and inverted: what goes into the packet, in the order of
 * its bytes (store it with memcpy). */
u16 csum_fold(u64 sum);

/*
 * Do what VNET_NEEDS_CSUM asks for: the field holds the pseudo-header's sum
 * already. 0, or -EINVAL for a header that points outside the frame.
 */
int csum_finish(const struct vnet_header *h, u8 *frame, size_t len);
