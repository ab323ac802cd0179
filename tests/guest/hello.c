/* SPDX-License-Identifier: Apache-2.0 */
/* The least: it runs, speaks, knows where it is, and ends. */
#include "guest.h"

int main(void)
{
	u32 r[4];

	print("hello from 64-bit mode\n");
	cpuid(0x80000001, 0, r);
	check(r[3] & 1u << 29);
	cpuid(1, 0, r);
	check(r[2] & 1u << 31); /* a hypervisor */
	check((read_cr(0) & 0x80000001) == 0x80000001);
	return failures();
}
