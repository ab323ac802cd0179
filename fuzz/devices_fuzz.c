/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices_fuzz - every register of every platform chip, DMA by fw_cfg, time,
 * resets, saved states intact and damaged. Which byte does what is in
 * tests/unit/devices/chips/noise.c. Build with the objects of chips_rig.
 */
#include <stddef.h>
#include <stdint.h>

#include "noise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b;

	board_init(&b);
	board_add_all(&b);
	noise_run(&b, data, size);
	board_fini(&b);
	return 0;
}
