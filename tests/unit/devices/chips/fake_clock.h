/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_clock.h - how a test moves the machine's time.
 */
#pragma once

#include "guest/clock.h"

/* Move on, firing the timers that come due, in order. Returns how many. */
unsigned fake_clock_advance(struct clock *clock, u64 ns);
/* Timers waiting now. */
unsigned fake_clock_armed(const struct clock *clock);
