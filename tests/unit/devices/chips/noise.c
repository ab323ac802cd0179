/* SPDX-License-Identifier: Apache-2.0 */
#include "noise.h"

#include <string.h>

/* Where registers are: base and span. */
static const struct {
	u16 base, span;
} ports[] = {
	{ 0x20, 2 },   { 0x40, 4 },  { 0x60, 5 },    { 0x70, 2 },
	{ 0x80, 1 },   { 0x92, 1 },  { 0xa0, 2 },    { 0xb2, 2 },
	{ 0xe0, 10 },  { 0xf4, 4 },  { 0x2f8, 8 },   { 0x3f8, 8 },
	{ 0x402, 1 },  { 0x4d0, 2 }, { 0x510, 12 },  { 0x600, 128 },
	{ 0xcd8, 12 }, { 0xcf9, 1 }, { 0x2000, 24 },
};
static const struct {
	u32 base, span;
} windows[] = {
	{ 0xfec00000, 0x50 },
	{ 0xfed00000, 0x170 },
	{ 0xff000000, 0x10000 },
};

struct stream {
	const u8 *at;
	size_t left;
};

static u64 take(struct stream *s, size_t n)
{
	u64 value = 0;

	n = MIN(n, s->left);
	memcpy(&value, s->at, n);
	s->at += n;
	s->left -= n;
	return value;
}

static void access_port(struct board *b, struct stream *s, bool write)
{
	u8 which = (u8)take(s, 1);
	u8 off = (u8)take(s, 1);
	unsigned size = 1u << (off >> 6) % 3;
	size_t n = which % ARRAY_SIZE(ports);
	u16 port = (u16)(ports[n].base +
	                 ((off & 63) | (which >> 7 << 6)) % ports[n].span);
	u64 value;

	if (write)
		bus_write(b->host.pio, port, size, take(s, size));
	else
		bus_read(b->host.pio, port, size, &value);
}

static void access_window(struct board *b, struct stream *s, bool write)
{
	u8 which = (u8)take(s, 1);
	u16 off = (u16)take(s, 2);
	unsigned size = 1u << (which >> 6);
	size_t n = which % ARRAY_SIZE(windows);
	u64 addr = windows[n].base + off % windows[n].span;
	u64 value;

	if (write)
		bus_write(b->host.mmio, addr, size, take(s, size));
	else
		bus_read(b->host.mmio, addr, size, &value);
}

/* A DMA block where the next writes to fw_cfg may find it. */
static void place_dma_block(struct board *b, struct stream *s)
{
	u64 block[2] = { take(s, 8), take(s, 8) };

	memory_write(b->host.memory, 0x1000, block, sizeof(block));
	bus_write(b->host.pio, 0x514, 4, 0);
	bus_write(b->host.pio, 0x518, 4, 0x00100000);
}

static void save_and_load(struct board *b)
{
	struct state_writer w = { 0 };

	board_save(b, &w);
	ASSERT(board_load(b, &w) == 0);
	state_writer_fini(&w);
}

/* State is data from outside: any bytes must be survived. */
static void load_damaged(struct board *b, struct stream *s)
{
	struct state_writer w = { 0 };
	u64 seed = take(s, 4);

	board_save(b, &w);
	for (unsigned i = 0; i < 64; i++) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		w.data[(seed >> 20) % w.used] = (u8)(seed >> 55);
	}
	/* Refused, or taken: either is fine. */
	(void)board_load(b, &w);
	state_writer_fini(&w);
}

void noise_run(struct board *b, const u8 *bytes, size_t size)
{
	struct stream s = { bytes, size };

	while (s.left > 0) {
		u8 what = (u8)take(&s, 1);

		switch (what & 15) {
		case 0 ... 5:
			access_port(b, &s, true);
			break;
		case 6 ... 8:
			access_port(b, &s, false);
			break;
		case 9 ... 11:
			access_window(b, &s, true);
			break;
		case 12:
			access_window(b, &s, false);
			break;
		case 13:
			board_advance(b, take(&s, 2) << (what >> 5 & 7));
			break;
		case 14:
			place_dma_block(b, &s);
			break;
		default:
			if (what == 0x0f)
				board_reset(b);
			else if (what == 0x1f)
				save_and_load(b);
			else if (what == 0x2f)
				load_damaged(b, &s);
			break;
		}
	}
}
