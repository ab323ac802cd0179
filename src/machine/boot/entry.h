/* SPDX-License-Identifier: Apache-2.0 */
/*
 * entry.h - the two processor states in which kernels are entered.
 */
#pragma once

#include "machine/boot/boot.h"

/* Flat 32-bit protected mode, paging and interrupts off. */
void boot_enter_32(struct memory *memory, struct cpu_state *cpu, u32 eip);

/* 64-bit mode over identity page tables of the first 4 GiB. */
void boot_enter_64(struct memory *memory, struct cpu_state *cpu, u64 rip);
