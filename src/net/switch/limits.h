/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits.h - how much of anything a switch holds.
 */
#pragma once

enum {
	SWITCH_PORTS_MAX = 1024,
	SWITCH_NAME_MAX = 64,     /* of a machine, with its end */
	SWITCH_LEASES_MAX = 4096, /* addresses given away */
	SWITCH_CAPTURES_MAX = 4,
	SWITCH_PUBLISH_MAX = 32, /* of a port */
};
