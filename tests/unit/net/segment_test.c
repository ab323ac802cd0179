/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums and segmentation, with headers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "frames.h"
#include "net/csum.h"
#include "net/link.h"
#include "net/segment.h"
#include "net/vnet.h"

enum { ROUNDS = 200000 };

static u32 random_next(u32 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void sums(void **state)
{
	/* The example of RFC 1071 section 3. */
	static const u8 example[] = { 0x00, 0x01, 0xf2, 0x03,
		                      0xf4, 0xf5, 0xf6, 0xf7 };
	static const u8 odd[] = { 1, 2, 3 };
	u16 sum = csum_fold(csum_add(0, example, sizeof(example)));
	u8 bytes[2];

	(void)state;
	memcpy(bytes, &sum, 2);
	assert_int_equal(bytes[0], 0x22);
	assert_int_equal(bytes[1], 0x0d);
	sum = csum_fold(csum_add(0, odd, sizeof(odd)));
	memcpy(bytes, &sum, 2);
	assert_int_equal(bytes[0] << 8 | bytes[1], 0xffff - 0x0402);
}

static void finish(void **state)
{
	u8 frame[2000];
	struct vnet_header h = test_header4(0);
	size_t len = test_frame4(frame, 1001);

	(void)state;
	assert_false(test_sums4(frame, len));
	assert_int_equal(csum_finish(&h, frame, len), 0);
	assert_true(test_sums4(frame, len));
	h.csum_offset = (u16)(len - h.csum_start - 1);
	assert_true(csum_finish(&h, frame, len) < 0);
	h.csum_start = h.csum_offset = 0xffff;
	assert_true(csum_finish(&h, frame, len) < 0);
}

static void segments4(void **state)
{
	u8 *frame = malloc(LINK_FRAME_MAX), *out = malloc(LINK_FRAME_MAX);
	struct vnet_header h = test_header4(1460);
	size_t payload = 1460 * 3 + 17, seen = 0, count = 0;
	size_t len = test_frame4(frame, payload);
	struct segmenter s;
	ssize_t n;

	(void)state;
	assert_int_equal(segment_begin(&s, &h, frame, len), 0);
	while ((n = segment_next(&s, out, LINK_FRAME_MAX)) > 0) {
		size_t part = (size_t)n - TEST_HEADERS4;
		u32 seq = (u32)out[TEST_TCP4 + 4] << 24 |
		          (u32)out[TEST_TCP4 + 5] << 16 |
		          vnet_be16(out + TEST_TCP4 + 6);
		bool last = seen + part == payload;

		assert_true(test_sums4(out, (size_t)n));
		assert_int_equal(seq, 1000 + seen);
		assert_int_equal(vnet_be16(out + 16), n - 14);
		assert_int_equal(vnet_be16(out + 18), 0x1234 + count);
		assert_int_equal(out[TEST_TCP4 + 13] & 0x89,
		                 (last ? 0x09 : 0) | (count ? 0 : 0x80));
		for (size_t i = 0; i < part; i++)
			assert_int_equal(out[TEST_HEADERS4 + i],
			                 test_byte(seen + i));
		seen += part;
		count++;
	}
	assert_int_equal(n, 0);
	assert_int_equal(seen, payload);
	assert_int_equal(count, 4);
	free(frame);
	free(out);
}

static void segments6(void **state)
{
	u8 frame[4000] = { 0 }, out[2000];
	struct vnet_header h = {
		.flags = VNET_NEEDS_CSUM,
		.gso_type = VNET_GSO_TCP6 | VNET_GSO_ECN,
		.gso_size = 1000,
		.csum_start = TEST_TCP6,
		.csum_offset = 16,
	};
	struct segmenter s;
	size_t total = 0;
	ssize_t n;

	(void)state;
	vnet_put_be16(frame + 12, 0x86dd);
	frame[14] = 0x60;
	frame[20] = 6;
	frame[TEST_TCP6 + 12] = 5 << 4;
	assert_int_equal(segment_begin(&s, &h, frame, TEST_HEADERS6 + 2500), 0);
	while ((n = segment_next(&s, out, sizeof(out))) > 0) {
		assert_int_equal(vnet_be16(out + 18), n - 14 - 40);
		total += (size_t)n - TEST_HEADERS6;
	}
	assert_int_equal(total, 2500);
	/* Says IPv6, is IPv4. */
	frame[14] = 0x45;
	assert_true(segment_begin(&s, &h, frame, sizeof(frame)) < 0);
}

static void no_room(void **state)
{
	u8 frame[4000], out[600];
	struct vnet_header h = test_header4(1000);
	size_t len = test_frame4(frame, 2100);
	struct segmenter s;

	(void)state;
	assert_int_equal(segment_begin(&s, &h, frame, len), 0);
	assert_true(segment_next(&s, out, sizeof(out)) < 0);
	assert_true(segment_next(&s, out, sizeof(out)) < 0);
	assert_int_equal(segment_next(&s, out, sizeof(out)),
	                 TEST_HEADERS4 + 100);
	assert_true(test_sums4(out, TEST_HEADERS4 + 100));
	assert_int_equal(segment_next(&s, out, sizeof(out)), 0);
}

/* Any header before any frame: refused or cut within bounds. The frame ends
 * at the end of its allocation, for the sanitizers to see. */
static void hostile(void **state)
{
	u32 seed = 12345, accepted = 0;
	u8 out[2048], bytes[LINK_HDR];

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		size_t len = 1 + random_next(&seed) % 300;
		u8 *room = malloc(TEST_HEADERS4 + 400), *frame;
		struct vnet_header h = test_header4(1 + i % 200);
		struct segmenter s;
		size_t full = test_frame4(room, len);

		len = i % 3 ? full : 1 + random_next(&seed) % full;
		frame = malloc(len);
		memcpy(frame, room, len);
		frame[random_next(&seed) % len] = (u8)random_next(&seed);
		vnet_encode(bytes, &h);
		if (i % 2)
			bytes[random_next(&seed) % LINK_HDR] =
			    (u8)random_next(&seed);
		vnet_decode(&h, bytes);
		if (segment_begin(&s, &h, frame, len) == 0) {
			int pieces = 0;

			accepted++;
			while (segment_next(&s, out, sizeof(out)) != 0)
				assert_true(++pieces < 1000);
		}
		(void)!csum_finish(&h, frame, len);
		free(frame);
		free(room);
	}
	assert_true(accepted > ROUNDS / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums),      cmocka_unit_test(finish),
		cmocka_unit_test(segments4), cmocka_unit_test(segments6),
		cmocka_unit_test(no_room),   cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
