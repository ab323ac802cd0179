/* SPDX-License-Identifier: Apache-2.0 */
/*
 * formats.h - the formats of the build, by the name that callers give.
 */
#pragma once

#include "storage/block.h"

int format_open(struct block **out, const struct block_open *how,
                struct error *err);

/* name as a path: relative ones lie beside base, an image. Freed by caller. */
char *path_beside(const char *base, const char *name);
