/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/generation.h"

#include <sys/random.h>

#include "base/log.h"
#include "devices/chips/acpi_pm.h"
#include "guest/memory.h"
#include "machine/internal.h"

void generation_init(struct machine *m)
{
	/* 16 bytes are never given in part. */
	if (getrandom(m->generation, GENERATION_SIZE, 0) != GENERATION_SIZE)
		log_warn("machine", "no random numbers for a generation");
}

void generation_put(struct machine *m)
{
	memory_write(m->memory, GENERATION_BASE, m->generation,
	             GENERATION_SIZE);
}

void generation_restored(struct machine *m)
{
	if (!m->config.restore_copy) {
		memory_read(m->memory, GENERATION_BASE, m->generation,
		            GENERATION_SIZE);
		return;
	}
	generation_put(m);
	acpi_pm_gpe(m->pm, GENERATION_GPE);
}
