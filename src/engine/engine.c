/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - the engines of this build, best first.
 */
#include "engine/engine.h"

#include <string.h>

#include "engine/bt/bt.h"
#include "engine/interp/interp.h"
#include "engine/kvm/kvm_engine.h"

const struct engine_type *const engine_types[] = {
	&kvm_engine,
	&bt_engine,
	&interp_engine,
	NULL,
};

const char *const vcpu_stat_names[STAT_COUNT] = {
	[STAT_INSTRUCTIONS] = "instructions",
	[STAT_PIO] = "port_io",
	[STAT_MMIO] = "mmio",
	[STAT_MSR] = "msr",
	[STAT_HALT] = "halts",
	[STAT_INTERRUPT] = "interrupts",
	[STAT_EXCEPTION] = "exceptions",
	[STAT_KICK] = "kicks",
};

const struct engine_type *engine_find(const char *name)
{
	for (size_t i = 0; engine_types[i]; i++)
		if (strcmp(engine_types[i]->name, name) == 0)
			return engine_types[i];
	return NULL;
}
