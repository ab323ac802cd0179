/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frames.h - TCP frames for tests, as a guest with offloads makes them.
 */
#pragma once

#include <string.h>

#include "base/types.h"
#include "net/csum.h"
#include "net/vnet.h"

enum {
	TEST_TCP4 = 14 + 20,
	TEST_HEADERS4 = TEST_TCP4 + 20,
	TEST_TCP6 = 14 + 40,
	TEST_HEADERS6 = TEST_TCP6 + 20
};

/* Payload byte at a position of the stream. */
static inline u8 test_byte(size_t at)
{
	return (u8)(at * 7 + (at >> 8));
}

/* An IPv4 TCP frame with sequence number 1000 and flags FIN, PSH, CWR and
 * ACK, its checksum begun. Its length. */
static inline size_t test_frame4(u8 *f, size_t payload)
{
	size_t total = 20 + 20 + payload;
	u8 pseudo[4] = { 0, 6, (u8)((20 + payload) >> 8), (u8)(20 + payload) };
	u16 sum;

	memset(f, 0, TEST_HEADERS4);
	vnet_put_be16(f + 12, 0x0800);
	f[14] = 0x45;
	vnet_put_be16(f + 16, (unsigned)total);
	vnet_put_be16(f + 18, 0x1234);
	f[22] = 64;
	f[23] = 6;
	memcpy(f + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02", 8);
	sum = csum_fold(csum_add(0, f + 14, 20));
	memcpy(f + 24, &sum, 2);
	f[TEST_TCP4 + 6] = 1000 >> 8;
	f[TEST_TCP4 + 7] = 1000 & 0xff;
	f[TEST_TCP4 + 12] = 5 << 4;
	f[TEST_TCP4 + 13] = 0x80 | 0x10 | 0x08 | 0x01;
	sum = (u16)~csum_fold(csum_add(csum_add(0, f + 26, 8), pseudo, 4));
	memcpy(f + TEST_TCP4 + 16, &sum, 2);
	for (size_t i = 0; i < payload; i++)
		f[TEST_HEADERS4 + i] = test_byte(i);
	return TEST_HEADERS4 + payload;
}

static inline struct vnet_header test_header4(u16 gso_size)
{
	return (struct vnet_header){
		.flags = VNET_NEEDS_CSUM,
		.gso_type = gso_size ? VNET_GSO_TCP4 : VNET_GSO_NONE,
		.hdr_len = TEST_HEADERS4,
		.gso_size = gso_size,
		.csum_start = TEST_TCP4,
		.csum_offset = 16,
	};
}

/* Both checksums of an IPv4 TCP frame are right. */
static inline bool test_sums4(const u8 *f, size_t len)
{
	size_t tcp = len - TEST_TCP4;
	u8 pseudo[4] = { 0, 6, (u8)(tcp >> 8), (u8)tcp };
	u64 sum = csum_add(csum_add(0, f + 26, 8), pseudo, 4);

	return csum_fold(csum_add(0, f + 14, 20)) == 0 &&
	       csum_fold(csum_add(sum, f + TEST_TCP4, tcp)) == 0;
}
