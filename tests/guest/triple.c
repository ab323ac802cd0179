/* SPDX-License-Identifier: Apache-2.0 */
/* No IDT: a fault has nowhere to go. */
#include "guest.h"

int main(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) none = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
	return 1;
}
