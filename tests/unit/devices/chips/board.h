/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board.h - what the tests of chips plug them into: buses, a little memory,
 * interrupt lines that are watched, a clock that stands still.
 */
#pragma once

#include "devices/device.h"
#include "fake_clock.h"

struct ioapic;
struct pic;

enum { BOARD_GSIS = 24, BOARD_DEVICES = 20, BOARD_RAM = 0x100000 };

struct board {
	struct device_host host;
	bool level[BOARD_GSIS];
	unsigned rises[BOARD_GSIS]; /* low to high, counted */
	unsigned msis;
	u64 msi_addr;
	u32 msi_data;
	unsigned resets, power_offs, exits;
	int exit_code;
	const char *why;

	/* Where GSIs go besides being watched, if set. */
	struct pic *pic;
	struct ioapic *ioapic;

	struct device *device[BOARD_DEVICES];
	unsigned devices;
};

void board_init(struct board *b);
void board_fini(struct board *b); /* destroys the devices added */
/* The board destroys it. Returns it. */
void *board_add(struct board *b, void *device);
/* One of every chip, wired as in a machine. */
void board_add_all(struct board *b);

void board_advance(struct board *b, u64 ns);
void board_reset(struct board *b);

u8 in8(struct board *b, u16 port);
u16 in16(struct board *b, u16 port);
u32 in32(struct board *b, u16 port);
void out8(struct board *b, u16 port, u8 value);
void out16(struct board *b, u16 port, u16 value);
void out32(struct board *b, u16 port, u32 value);
u32 read32(struct board *b, gpa_t gpa);
u64 read64(struct board *b, gpa_t gpa);
void write32(struct board *b, gpa_t gpa, u32 value);
void write64(struct board *b, gpa_t gpa, u64 value);

/* A save of all devices added, and its opposite. */
void board_save(struct board *b, struct state_writer *w);
int board_load(struct board *b, const struct state_writer *w);
