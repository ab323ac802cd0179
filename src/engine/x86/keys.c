/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.c - changes of the rights by protection key.
 *
 * A TLB entry holds what its key allowed when it was filled. Who gains a right
 * misses, and walks again; where one is lost the entries of that key go.
 */
#include "engine/x86/keys.h"

#include "engine/interp/icpu.h"

/* A bit for each key that loses a right. */
static u32 losers(u64 old, u32 new)
{
	u32 lost = new & ~(u32)old, keys = 0;

	for (unsigned k = 0; k < KEYS; k++)
		if (lost >> 2 * k & 3)
			keys |= (u32)BIT(k);
	return keys;
}

void keys_set_user(struct icpu *cpu, u32 rights)
{
	u32 keys = losers(cpu->pkru, rights);

	cpu->pkru = rights;
	if (keys)
		icpu_tlb_drop_keys(cpu, keys);
}

void keys_set_super(struct icpu *cpu, u32 rights)
{
	u32 keys = losers(cpu->pkrs, rights);

	cpu->pkrs = rights;
	if (keys)
		icpu_tlb_drop_keys(cpu, keys << KEYS);
}
