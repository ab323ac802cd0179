/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_hotplug.h - the register block by which firmware and AML count vCPUs.
 */
#pragma once

#include "devices/device.h"

struct cpu_hotplug;

enum {
	CPU_HOTPLUG_BASE = 0xcd8,
	CPU_HOTPLUG_SIZE = 12,
	CPU_HOTPLUG_MAX = 64,
	CPU_HOTPLUG_GPE = 2, /* the machine raises it after an insertion */
};

/* possible CPUs, of which the first present are there. APIC ID is the index. */
struct cpu_hotplug *cpu_hotplug_create(struct device_host *host,
                                       unsigned present, unsigned possible);

/* Any thread. */
unsigned cpu_hotplug_present(struct cpu_hotplug *c);
/* The first present are there from now on: no fewer than were. */
void cpu_hotplug_insert(struct cpu_hotplug *c, unsigned present);
