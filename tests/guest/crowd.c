/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More code than an engine keeps decoded, called in another order each time,
 * so that what was decoded gives way all the time. Some functions are called
 * so often that a translator takes them; some are changed between two rounds.
 *
 * Function i, at i * SIZE:
 *	mov $a, %eax
 *	test $m, %dil
 *	jz 1f
 *	add $b, %eax
 *	test $1, %sil
 *	jz 2f
 *	jmp 2f in its neighbour	the same page
 * 1:	xor $c, %eax
 * 2:	add $d, %eax
 *	ret
 */
#include "guest.h"

enum { COUNT = 49152, SIZE = 64, ROUNDS = 3, FAVOURITES = 64, ENOUGH = 250 };
enum { A = 1, M = 8, B = 12, XOR = 31, D = 36 };

static u8 code[COUNT * SIZE] __attribute__((aligned(4096)));

static u32 seed = 1;
static u32 any(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

static void put32(unsigned at, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		((volatile u8 *)code)[at + i] = (u8)(v >> 8 * i);
}

static u32 get32(unsigned at)
{
	return code[at] | (u32)code[at + 1] << 8 | (u32)code[at + 2] << 16 |
	       (u32)code[at + 3] << 24;
}

static void make(unsigned i)
{
	static const u8 bytes[] = {
		0xb8, 0,    0,    0, 0,             /* 0: mov $a, %eax */
		0x40, 0xf6, 0xc7, 0,                /* 5: test $m, %dil */
		0x74, 0x13,                         /* 9: jz 30 */
		0x05, 0,    0,    0, 0,             /* 11: add $b, %eax */
		0x40, 0xf6, 0xc6, 1,                /* 16: test $1, %sil */
		0x74, 0x0d,                         /* 20: jz 35 */
		0xe9, 0,    0,    0, 0, 0x90, 0x90, /* 22: jmp to the other */
		0x90,                               /* 29 */
		0x35, 0,    0,    0, 0,             /* 30: xor $c, %eax */
		0x05, 0,    0,    0, 0,             /* 35: add $d, %eax */
		0xc3,
	};
	unsigned at = i * SIZE, other = (i ^ 1) * SIZE;

	for (unsigned n = 0; n < sizeof(bytes); n++)
		code[at + n] = bytes[n];
	put32(at + A, any());
	code[at + M] = (u8)(1u << any() % 8);
	put32(at + B, any());
	put32(at + 23, other + 35 - (at + 27));
	put32(at + XOR, any());
	put32(at + D, any());
}

static u32 expected(unsigned i, u32 x, u32 y)
{
	unsigned at = i * SIZE, end = at;
	u32 v = get32(at + A);

	if (!(x & code[at + M])) {
		v ^= get32(at + XOR);
	} else {
		v += get32(at + B);
		end = y & 1 ? (i ^ 1) * SIZE : at;
	}
	return v + get32(end + D);
}

static bool call(unsigned i, u32 x, u32 y)
{
	return ((u32(*)(u32, u32))(void *)(code + i * SIZE))(x, y) ==
	       expected(i, x, y);
}

/* Whether all of them were right. */
static bool one_round(void)
{
	unsigned step = any() | 1, i = any() % COUNT;
	bool right = true;

	/* A step that is odd meets each of a power of two once. */
	for (unsigned n = 0; n < 65536; n++) {
		i = (i + step) % 65536;
		if (i >= COUNT)
			continue;
		right &= call(i, any(), any());
		if (n % 16 == 0)
			right &= call(any() % FAVOURITES, any(), any());
	}
	return right;
}

int main(void)
{
	for (unsigned i = 0; i < COUNT; i++)
		make(i);
	for (unsigned round = 0; round < ROUNDS; round++) {
		check(one_round());
		for (unsigned n = 0; n < COUNT / 50; n++)
			put32(any() % COUNT * SIZE + (any() & 1 ? B : D),
			      any());
		for (unsigned n = 0; n < ENOUGH; n++)
			check(call(n % FAVOURITES, any(), any()));
	}
	return failures();
}
