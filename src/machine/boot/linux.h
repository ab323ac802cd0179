/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linux.h - the Linux/x86 boot protocol, 64-bit entry.
 */
#pragma once

#include "machine/boot/boot.h"

/* head: the file's first bytes. */
bool linux_detect(const u8 *head, u64 size);
int linux_load(const struct boot_request *req, const u8 *head, u64 head_size,
               struct cpu_state *bsp, struct error *err) MUST_CHECK;
