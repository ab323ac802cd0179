/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generation.h - the number that tells a guest it is a copy of another.
 *
 * "Virtual Machine Generation ID" (Microsoft, 2012): 16 bytes at an address
 * that the ACPI device VM_Gen_Counter names. They change when a machine is
 * restored from a state that others may also go on from; then the device is
 * notified, and the guest draws new random numbers, keys, identities.
 */
#pragma once

#include "base/types.h"

struct machine;

enum { GENERATION_BASE = 0xff000, GENERATION_SIZE = 16, GENERATION_GPE = 5 };

/* Drawn when the machine is made, and written at each reset: it stays. */
void generation_init(struct machine *m);
void generation_put(struct machine *m);
/* A restored machine has the old one in its memory: takes it over, or, for a
 * copy, puts a new one there and tells the guest. */
void generation_restored(struct machine *m);
