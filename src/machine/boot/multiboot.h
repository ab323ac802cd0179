/* SPDX-License-Identifier: Apache-2.0 */
/*
 * multiboot.h - multiboot 1 kernels, entered in 32 bits.
 */
#pragma once

#include "machine/boot/boot.h"

/* A valid multiboot header in the file's first 8 KiB. */
bool multiboot_detect(const u8 *head, u64 size);
int multiboot_load(const struct boot_request *req, const u8 *head,
                   u64 head_size, struct cpu_state *bsp,
                   struct error *err) MUST_CHECK;
