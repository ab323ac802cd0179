/* SPDX-License-Identifier: Apache-2.0 */
/* Code that changes: by its own hand, through an alias, in a running loop. */
#include "guest.h"

static u8 code[8192] __attribute__((aligned(4096)));

typedef u32 fn(void);

static fn *put_return(u8 *at, u32 value)
{
	at[0] = 0xb8; /* mov eax, value; ret */
	*(u32 *)(at + 1) = value;
	at[5] = 0xc3;
	return (fn *)(u64)at;
}

/*
 * More places that are jumped to than an engine may tell apart by what it
 * remembers them by; then all of them change.
 */
enum { PLACES = 8192, PLACE = 8, CALLS = 8 };
static u8 place[PLACES * PLACE] __attribute__((aligned(4096)));

static void many_places(void)
{
	unsigned right = 0;

	for (u32 round = 0; round < 3; round++) {
		for (u32 i = 0; i < PLACES; i++)
			put_return(place + PLACE * i, i ^ round);
		for (u32 i = 0; i < PLACES * CALLS; i++) {
			u32 n = i % PLACES;

			right +=
			    ((fn *)(u64)(place + PLACE * n))() == (n ^ round);
		}
	}
	check(right == 3 * PLACES * CALLS);
}

int main(void)
{
	fn *f = put_return(code, 0);
	u64 sum = 0;

	/* Hot, then changed, again and again. */
	for (u32 i = 0; i < 200; i++) {
		*(volatile u32 *)(code + 1) = i;
		for (u32 j = 0; j < 20; j++)
			sum += f();
	}
	check(sum == 20ul * (199 * 200 / 2));

	/* An instruction that changes the one after it, in the same block:
	 * mov byte [rip+1], 7; mov al, 0; movzx eax, al; ret */
	static const u8 own[] = { 0xc6, 0x05, 0x01, 0,    0,    0,   7,
		                  0xb0, 0,    0x0f, 0xb6, 0xc0, 0xc3 };

	for (unsigned i = 0; i < 50; i++) {
		for (unsigned k = 0; k < sizeof(own); k++)
			code[256 + k] = own[k];
		check(((fn *)(u64)(code + 256))() == 7);
	}

	/* Across a page boundary: the immediate lies in the second page. */
	f = put_return(code + 4096 - 3, 0);
	for (u32 i = 0; i < 100; i++) {
		*(volatile u32 *)(code + 4096 - 2) = i * 0x01010101;
		check(f() == i * 0x01010101);
	}

	/* Data beside hot code does not disturb it. */
	f = put_return(code, 5);
	sum = 0;
	for (u32 i = 0; i < 20000; i++) {
		*(volatile u32 *)(code + 2048) = i;
		sum += f() + *(volatile u32 *)(code + 2048) - i;
	}
	check(sum == 100000);
	many_places();
	return failures();
}
