/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu_internal.h - x87 state by itself, for the XSAVE family.
 */
#pragma once

#include "engine/interp/fpu.h"

/* Between the canonical area and one as FXSAVE or FXSAVE64 has it. */
void fpu_x87_store(const u8 *xsave, struct fpu_mode mode, u8 *buf);
void fpu_x87_load(u8 *xsave, bool rex_w, const u8 *buf);
void fpu_x87_reset(u8 *xsave);
