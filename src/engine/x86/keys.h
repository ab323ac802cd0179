/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.h - protection keys: rights by a number in the page's translation.
 * Intel SDM vol. 3 4.6.2.
 */
#pragma once

#include "base/types.h"

struct icpu;

/* PKRU, for user pages, and IA32_PKRS, for supervisor ones. What the TLB says
 * holds afterwards. */
void keys_set_user(struct icpu *cpu, u32 rights);
void keys_set_super(struct icpu *cpu, u32 rights);
