/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h - random work on an image, beside a model that can't be wrong.
 *
 * The model knows a disk as one number a sector: which write it holds. A cut
 * of the power may leave any write since the last flush, but nothing older
 * and nothing else.
 */
#pragma once

#include "base/types.h"
#include "storage/image.h"

struct model_options {
	u32 seed;
	struct image_create image; /* size; path unused */
	u64 backing_bytes; /* 0: none. A raw backing file of this size */
	unsigned steps;
	bool crashes;    /* cut the power now and then */
	u32 fail_one_in; /* 0: no I/O errors */
	bool snapshots, resizes, bitmaps;
	bool oracle; /* ask qemu-img after each cut, too */
};

struct model_figures {
	u64 requests, crashes, snapshots, oracle_checks;
};

/* Fails the cmocka test on any difference. */
void model_run(const struct model_options *options,
               struct model_figures *figures);
/* Whether qemu-img can be run here. */
bool model_have_oracle(void);
/* qemu-img with these words: its exit code. Output goes nowhere. */
int model_oracle(const char *fmt, ...) PRINTF_LIKE(1, 2);
