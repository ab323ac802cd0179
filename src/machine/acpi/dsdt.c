/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dsdt - the devices that a guest cannot find by itself, in AML.
 *
 *	\_S5             soft off
 *	\_SB.Cnnn        processors (cpus.c)
 *	\_SB.PCI0        host bridge: windows, _OSC, interrupt routing
 *	\_SB.PCI0.LPC    the ISA bits: serial ports, clock, keyboard, mouse
 *	\_SB.HPET, MRES  the HPET, and address space that is taken
 *
 * The power button is in the fixed hardware (FADT), not here.
 */
#include "machine/acpi/acpi.h"

#include <stdio.h>

#include "devices/chips/acpi_pm.h"
#include "devices/chips/cpu_hotplug.h"
#include "devices/chips/hpet.h"
#include "devices/chips/ioapic.h"
#include "devices/pci/q35.h"
#include "machine/acpi/aml.h"
#include "machine/generation.h"

#define LAPIC_BASE 0xfee00000u

enum {
	OSC_QUERY_FAILED = 1 << 2, /* unrecognised UUID */
	OSC_BAD_REVISION = 1 << 3,
	OSC_MASKED = 1 << 4,
	/* What the OS may take over: all but hot-plug, which is not there. */
	OSC_GRANTED = 0x1c,
};

static void hid(struct aml *a, const char *id)
{
	aml_name(a, "_HID");
	aml_eisaid(a, id);
}

/* All four elements: some systems read past two (OpenBSD). */
static void sleep_states(struct aml *a)
{
	aml_name(a, "\\_S5");
	aml_package(a, 4);
	for (int i = 0; i < 4; i++)
		aml_integer(a, 0);
	aml_end(a);
}

static void store_field(struct aml *a, u8 op, const char *field, u64 value)
{
	aml_byte(a, op);
	aml_path(a, field);
	aml_integer(a, value);
	aml_path(a, field);
}

static void create_field(struct aml *a, unsigned offset, const char *name)
{
	aml_byte(a, AML_CREATE_DWORD_FIELD);
	aml_byte(a, AML_ARG3);
	aml_integer(a, offset);
	aml_path(a, name);
}

/* PCI Firmware specification 3.2 section 4.5.1. */
static void osc_body(struct aml *a)
{
	create_field(a, 4, "CDW2");
	create_field(a, 8, "CDW3");
	aml_byte(a, AML_AND);
	aml_path(a, "CDW3");
	aml_integer(a, OSC_GRANTED);
	aml_byte(a, AML_LOCAL0);

	aml_block(a, AML_IF); /* revision other than 1 */
	aml_byte(a, AML_LNOT);
	aml_byte(a, AML_LEQUAL);
	aml_byte(a, AML_ARG1);
	aml_byte(a, AML_ONE);
	store_field(a, AML_OR, "CDW1", OSC_BAD_REVISION);
	aml_end(a);

	aml_block(a, AML_IF); /* asked for more than it gets */
	aml_byte(a, AML_LNOT);
	aml_byte(a, AML_LEQUAL);
	aml_path(a, "CDW3");
	aml_byte(a, AML_LOCAL0);
	store_field(a, AML_OR, "CDW1", OSC_MASKED);
	aml_end(a);

	aml_byte(a, AML_STORE);
	aml_byte(a, AML_LOCAL0);
	aml_path(a, "CDW3");
}

static void osc(struct aml *a)
{
	/* 33db4d5b-1ff7-401c-9657-7441c03dd766, mixed-endian. */
	static const u8 uuid[16] = { 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f,
		                     0x1c, 0x40, 0x96, 0x57, 0x74, 0x41,
		                     0xc0, 0x3d, 0xd7, 0x66 };

	aml_method(a, "_OSC", 4);
	create_field(a, 0, "CDW1");
	aml_block(a, AML_IF);
	aml_byte(a, AML_LEQUAL);
	aml_byte(a, AML_ARG0);
	aml_buffer(a);
	aml_bytes(a, uuid, sizeof(uuid));
	aml_buffer_end(a);
	osc_body(a);
	aml_end(a);
	aml_block(a, AML_ELSE);
	store_field(a, AML_OR, "CDW1", OSC_QUERY_FAILED);
	aml_end(a);
	aml_byte(a, AML_RETURN);
	aml_byte(a, AML_ARG3);
	aml_end(a);
}

/* Straight to I/O APIC pins, as devices/pci/pci.h wires them. */
static void interrupt_routing(struct aml *a)
{
	aml_name(a, "_PRT");
	aml_package(a, 4 * (PCI_SLOTS - 1));
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			aml_package(a, 4);
			aml_integer(a, slot << 16 | 0xffff);
			aml_integer(a, pin);
			aml_integer(a, 0);
			aml_integer(a, pci_gsi(slot, pin));
			aml_end(a);
		}
	}
	aml_end(a);
}

static void bridge_windows(struct aml *a, const struct pci_windows *w)
{
	aml_resources(a);
	aml_res_window16(a, AML_SPACE_BUS, 0, 0xff);
	aml_res_io(a, PCI_IO_ADDRESS, 8);
	aml_res_window16(a, AML_SPACE_IO, 0, PCI_IO_ADDRESS - 1);
	aml_res_window16(a, AML_SPACE_IO, PCI_IO_ADDRESS + 8, 0xffff);
	aml_res_window32(a, AML_SPACE_MEMORY, 0xa0000, 0xbffff, true);
	aml_res_window32(a, AML_SPACE_MEMORY, (u32)w->mem32_base,
	                 (u32)(w->mem32_end - 1), false);
	if (w->mem64_end > w->mem64_base)
		aml_res_window64(a, w->mem64_base, w->mem64_end - 1);
	aml_resources_end(a);
}

static void serial_port(struct aml *a, unsigned i)
{
	static const u16 base[] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
	static const u8 irq[] = { 4, 3, 4, 3 };
	char name[16];

	snprintf(name, sizeof(name), "COM%u", i + 1);
	aml_device(a, name);
	hid(a, "PNP0501");
	aml_name_integer(a, "_UID", i + 1);
	aml_name_integer(a, "_STA", 0xf);
	aml_resources(a);
	aml_res_io(a, base[i], 8);
	aml_res_irq(a, irq[i]);
	aml_resources_end(a);
	aml_end(a);
}

static void isa_devices(struct aml *a, const struct acpi_config *config)
{
	aml_device(a, "LPC");
	aml_name_integer(a, "_ADR", (u64)PCI_SLOT(Q35_LPC_DEVFN) << 16);
	for (unsigned i = 0; i < MIN(config->serials, 4u); i++)
		serial_port(a, i);

	aml_device(a, "RTC");
	hid(a, "PNP0B00");
	aml_resources(a);
	aml_res_io(a, 0x70, 8);
	aml_res_irq(a, 8);
	aml_resources_end(a);
	aml_end(a);

	aml_device(a, "KBD");
	hid(a, "PNP0303");
	aml_resources(a);
	aml_res_io(a, 0x60, 1);
	aml_res_io(a, 0x64, 1);
	aml_res_irq(a, 1);
	aml_resources_end(a);
	aml_end(a);

	aml_device(a, "MOU");
	hid(a, "PNP0F13");
	aml_resources(a);
	aml_res_irq(a, 12);
	aml_resources_end(a);
	aml_end(a);
	aml_end(a);
}

static void host_bridge(struct aml *a, const struct acpi_config *config)
{
	aml_device(a, "PCI0");
	hid(a, "PNP0A08");
	aml_name(a, "_CID");
	aml_eisaid(a, "PNP0A03");
	aml_name_integer(a, "_UID", 0);
	aml_name_integer(a, "_SEG", 0);
	aml_name_integer(a, "_BBN", 0);
	bridge_windows(a, &config->windows);
	osc(a);
	interrupt_routing(a);
	isa_devices(a, config);
	aml_end(a);
}

static void timers(struct aml *a)
{
	aml_device(a, "HPET");
	hid(a, "PNP0103");
	aml_resources(a);
	aml_res_memory(a, (u32)HPET_BASE, 0x400);
	aml_resources_end(a);
	aml_end(a);
}

/* So that no guest puts a BAR there. Linux trusts ECAM only if it is here. */
static void motherboard(struct aml *a)
{
	aml_device(a, "MRES");
	hid(a, "PNP0C02");
	aml_resources(a);
	aml_res_memory(a, (u32)PCI_ECAM_BASE, PCI_ECAM_SIZE);
	aml_res_memory(a, (u32)IOAPIC_BASE, 0x1000);
	aml_res_memory(a, Q35_RCBA, 0x4000);
	aml_res_memory(a, LAPIC_BASE, 0x100000);
	aml_res_io(a, ACPI_PM_BASE, ACPI_PM_SIZE);
	aml_res_io(a, CPU_HOTPLUG_BASE, CPU_HOTPLUG_SIZE);
	aml_resources_end(a);
	aml_end(a);
}

/* machine/generation.h. ADDR is the address in two halves. */
static void generation(struct aml *a)
{
	aml_device(a, "VGEN");
	aml_name(a, "_HID");
	aml_string(a, "ATOL0001");
	aml_name(a, "_CID");
	aml_string(a, "VM_Gen_Counter");
	aml_name(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	aml_name_integer(a, "_STA", 0xf);
	aml_name(a, "ADDR");
	aml_package(a, 2);
	aml_integer(a, GENERATION_BASE);
	aml_integer(a, 0);
	aml_end(a);
	aml_end(a);
}

/* ACPI 6.4 section 5.6.4: _Exx is for an edge on event xx. */
static void general_events(struct aml *a, const struct acpi_config *config)
{
	char name[8];

	aml_scope(a, "\\_GPE");
	snprintf(name, sizeof(name), "_E%02X", GENERATION_GPE);
	aml_method(a, name, 0);
	aml_byte(a, AML_NOTIFY);
	aml_path(a, "\\_SB.VGEN");
	aml_integer(a, 0x80);
	aml_end(a);
	acpi_cpus_event(a, config);
	aml_end(a);
}

void acpi_dsdt(struct aml *a, const struct acpi_config *config)
{
	sleep_states(a);
	aml_scope(a, "\\_SB");
	acpi_cpus(a, config);
	host_bridge(a, config);
	timers(a);
	motherboard(a);
	generation(a);
	aml_end(a);
	general_events(a, config);
}
