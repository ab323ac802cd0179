/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpus - processors in AML, and those that may be put in while it runs.
 *
 *	\_SB.Cnnn        a processor; with _STA and _MAT if there is a choice
 *	\_SB.CPUH        the register block of devices/chips/cpu_hotplug.c
 *	\_SB.CPST(n)     is processor n there?
 *	\_SB.CPEV        tells the system of each that was put in
 *	\_GPE._E02       calls it
 *
 * A machine that can't get more has the first line alone.
 */
#include <stdio.h>

#include "devices/chips/cpu_hotplug.h"
#include "machine/acpi/acpi.h"
#include "machine/acpi/aml.h"

enum { DEVICE_CHECK = 1, STA_PRESENT = 0xf };

static const char lock[] = "\\_SB.CPLK", selector[] = "\\_SB.CPSL",
		  command[] = "\\_SB.CPCM", data[] = "\\_SB.CPDT",
		  enabled[] = "\\_SB.CPEN", inserted[] = "\\_SB.CPIN";

bool acpi_cpus_pluggable(const struct acpi_config *c)
{
	return c->cpus_max > 0;
}

static unsigned possible(const struct acpi_config *c)
{
	return MAX(c->cpus_max, c->cpus);
}

static void cpu_name(char name[8], unsigned cpu)
{
	snprintf(name, 8, "C%03X", cpu & 0xfff);
}

static void store(struct aml *a, u8 from, const char *to)
{
	aml_byte(a, AML_STORE);
	aml_byte(a, from);
	aml_path(a, to);
}

static void if_one(struct aml *a, u8 block, const char *field)
{
	aml_block(a, block);
	aml_byte(a, AML_LEQUAL);
	aml_path(a, field);
	aml_byte(a, AML_ONE);
}

static void registers(struct aml *a)
{
	aml_io_region(a, "CPUH", CPU_HOTPLUG_BASE, CPU_HOTPLUG_SIZE);
	aml_field(a, "CPUH", 4);
	aml_field_unit(a, "CPSL", 32);
	aml_field_unit(a, NULL, 32);
	aml_field_unit(a, "CPDT", 32);
	aml_end(a);
	aml_field(a, "CPUH", 1);
	aml_field_unit(a, NULL, 32);
	aml_field_unit(a, "CPEN", 1);
	aml_field_unit(a, "CPIN", 1);
	aml_field_unit(a, NULL, 6);
	aml_field_unit(a, "CPCM", 8);
	aml_end(a);
	aml_mutex(a, "CPLK");
}

static void status_method(struct aml *a)
{
	aml_method(a, "CPST", 1);
	aml_acquire(a, lock);
	store(a, AML_ARG0, selector);
	aml_byte(a, AML_STORE);
	aml_byte(a, AML_ZERO);
	aml_byte(a, AML_LOCAL0);
	if_one(a, AML_IF, enabled);
	aml_byte(a, AML_STORE);
	aml_integer(a, STA_PRESENT);
	aml_byte(a, AML_LOCAL0);
	aml_end(a);
	aml_release(a, lock);
	aml_byte(a, AML_RETURN);
	aml_byte(a, AML_LOCAL0);
	aml_end(a);
}

/* The selected one is the next with an event, as long as there is one. */
static void next_event(struct aml *a)
{
	store(a, AML_ZERO, command);
}

static void notify_method(struct aml *a, unsigned cpus)
{
	aml_method(a, "CPNT", 1);
	for (unsigned i = 0; i < cpus; i++) {
		char name[8];

		cpu_name(name, i);
		aml_block(a, AML_IF);
		aml_byte(a, AML_LEQUAL);
		aml_byte(a, AML_ARG0);
		aml_integer(a, i);
		aml_byte(a, AML_NOTIFY);
		aml_path(a, name);
		aml_integer(a, DEVICE_CHECK);
		aml_end(a);
	}
	aml_end(a);
}

static void event_method(struct aml *a)
{
	aml_method(a, "CPEV", 0);
	aml_acquire(a, lock);
	store(a, AML_ZERO, selector);
	next_event(a);
	if_one(a, AML_WHILE, inserted);
	store(a, AML_ONE, inserted);
	aml_path(a, "CPNT");
	aml_path(a, data);
	next_event(a);
	aml_end(a);
	aml_release(a, lock);
	aml_end(a);
}

/* What the MADT would say of it, had it been there (ACPI 6.4 section 6.2.10):
 * the MADT's own entry says that it is not. */
static void pluggable(struct aml *a, unsigned cpu)
{
	const u8 entry[8] = { 0, sizeof(entry), (u8)cpu, (u8)cpu, 1 };

	aml_method(a, "_STA", 0);
	aml_byte(a, AML_RETURN);
	aml_path(a, "CPST");
	aml_integer(a, cpu);
	aml_end(a);
	aml_name(a, "_MAT");
	aml_buffer(a);
	aml_bytes(a, entry, sizeof(entry));
	aml_buffer_end(a);
}

void acpi_cpus(struct aml *a, const struct acpi_config *c)
{
	bool plugs = acpi_cpus_pluggable(c);

	ASSERT(!plugs || c->cpus_max <= CPU_HOTPLUG_MAX);
	if (plugs) {
		registers(a);
		status_method(a);
	}
	for (unsigned i = 0; i < possible(c); i++) {
		char name[8];

		cpu_name(name, i);
		aml_device(a, name);
		aml_name(a, "_HID");
		aml_string(a, "ACPI0007");
		aml_name_integer(a, "_UID", i);
		if (plugs)
			pluggable(a, i);
		aml_end(a);
	}
	if (plugs) {
		notify_method(a, possible(c));
		event_method(a);
	}
}

void acpi_cpus_event(struct aml *a, const struct acpi_config *c)
{
	char name[8];

	if (!acpi_cpus_pluggable(c))
		return;
	snprintf(name, sizeof(name), "_E%02X", CPU_HOTPLUG_GPE);
	aml_method(a, name, 0);
	aml_path(a, "\\_SB.CPEV");
	aml_end(a);
}
