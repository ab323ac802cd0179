/* SPDX-License-Identifier: Apache-2.0 */
#include "net/csum.h"

#include <errno.h>
#include <string.h>

#include "net/vnet.h"

u64 csum_add(u64 sum, const void *data, size_t len)
{
	const u8 *p = data;
	u32 word;
	u16 half;

	/* Sums of 32-bit words fold to the same 16 bits (RFC 1071, 2). A frame
	 * has at most 2^14 of them, so the 64-bit sum cannot overflow. */
	for (; len >= 4; p += 4, len -= 4) {
		memcpy(&word, p, 4);
		sum += word;
	}
	if (len >= 2) {
		memcpy(&half, p, 2);
		sum += half;
		p += 2;
		len -= 2;
	}
	if (len) {
		half = 0;
		memcpy(&half, p, 1);
		sum += half;
	}
	return sum;
}

u16 csum_fold(u64 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

int csum_finish(const struct vnet_header *h, u8 *frame, size_t len)
{
	size_t field = (size_t)h->csum_start + h->csum_offset;
	u16 sum;

	if (field + 2 > len)
		return -EINVAL;
	sum =
	    csum_fold(csum_add(0, frame + h->csum_start, len - h->csum_start));
	/* Zero says "no checksum" in UDP (RFC 768); both forms are right in
	 * TCP. */
	if (sum == 0)
		sum = 0xffff;
	memcpy(frame + field, &sum, 2);
	return 0;
}
