/* SPDX-License-Identifier: Apache-2.0 */
/*
 * end.h - how a machine ended, and what `atoll run` exits with.
 */
#pragma once

enum machine_end {
	END_POWER_OFF = 0,
	END_FAILURE = 1, /* could not start */
	END_USAGE = 2,
	END_TRIPLE_FAULT = 16,
	END_ENGINE_ERROR = 17,
	END_TIMEOUT = 18,
	END_QUIT = 19, /* the person said so, or a signal */
	END_WORKER_DIED = 20,
	END_LOST_WRITES = 21, /* a disk could not take the last of them */
	END_MEMORY_LOST = 22, /* what it was saved in */
};
