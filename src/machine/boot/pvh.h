/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvh.h - ELF kernels with a PVH entry point.
 */
#pragma once

#include "machine/boot/boot.h"

int pvh_load(const struct boot_request *req, struct cpu_state *bsp,
             struct error *err) MUST_CHECK;
