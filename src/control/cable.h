/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cable.h - a machine's cable in the switch of a network (net/switch/serve.h),
 * as whoever keeps the machine holds it.
 *
 * The connection to the switch is the plug: the port stays while it does. A
 * switch that died is replaced by its keeper, and the machine is given a new
 * cable.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct cable;
struct error;
struct loop;

struct cable_config {
	const char *socket; /* of the network's switch */
	const char *machine;
	unsigned nic;
	/* What the definition says of the card: "mac", and perhaps "address",
	 * "trusted", "publish", "limits". */
	json_t *card;
};

/* Waits for the switch. *link is the machine's end. */
int cable_plug(struct cable **out, const struct cable_config *config, int *link,
               struct error *err) MUST_CHECK;
void cable_destroy(struct cable *cable); /* NULL is legal; it is unplugged */

/* From now on: give the machine fd (taken over) as the cable of a card, and
 * what came before is gone. */
typedef void cable_new_fn(void *ctx, unsigned nic, int fd);
void cable_watch(struct cable *cable, struct loop *loop, cable_new_fn *fn,
                 void *ctx);
