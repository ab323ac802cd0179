/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board - a q35-shaped PC: joins engine, chips and peripherals.
 *
 * Interrupts: devices drive lines of the hub. They lead to our PIC and I/O
 * APIC and from there to the LAPICs, or, for an engine with a controller in
 * the host's kernel, straight into that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "devices/chips/acpi_pm.h"
#include "devices/chips/cpu_hotplug.h"
#include "devices/chips/debug_ports.h"
#include "devices/chips/fw_cfg.h"
#include "devices/chips/hpet.h"
#include "devices/chips/i8042.h"
#include "devices/chips/ioapic.h"
#include "devices/chips/pic.h"
#include "devices/chips/pit.h"
#include "devices/chips/rtc.h"
#include "devices/chips/sysports.h"
#include "devices/chips/testdev.h"
#include "devices/pci/q35.h"
#include "engine/x86/cpuid.h"
#include "guest/memory.h"
#include "machine/acpi/acpi.h"
#include "machine/boot/file.h"
#include "machine/generation.h"
#include "machine/internal.h"
#include "machine/state/state.h"

#define PIO_SIZE ((u64)0x10000)
#define MMIO_SIZE BIT(52)

enum { PIC_IRQS = 16, PIT_IOAPIC_PIN = 2, PHYS_BITS_LEAST = 36 };

/* ---- interrupts ---- */

static void soft_set_gsi(void *ctx, unsigned gsi, bool high)
{
	struct machine *m = ctx;

	if (gsi < PIC_IRQS)
		pic_set_irq(m->pic, gsi, high);
	ioapic_set_pin(m->ioapic, gsi ? gsi : PIT_IOAPIC_PIN, high);
}

static void soft_msi(void *ctx, u64 addr, u32 data)
{
	struct machine *m = ctx;

	lapic_deliver_msi(m->lapics, addr, data);
}

static void kernel_set_gsi(void *ctx, unsigned gsi, bool high)
{
	struct machine *m = ctx;

	m->engine_type->irqchip->set_gsi(m->engine, gsi, high);
}

static void kernel_msi(void *ctx, u64 addr, u32 data)
{
	struct machine *m = ctx;

	m->engine_type->irqchip->msi(m->engine, addr, data);
}

static void lapic_attention(void *ctx, unsigned cpu)
{
	struct machine *m = ctx;

	cpu_event(&m->cpus[cpu], CPU_EVENT_IRQ);
}

static void lapic_nmi(void *ctx, unsigned cpu)
{
	struct machine *m = ctx;

	m->engine_type->vcpu_nmi(m->cpus[cpu].vcpu);
	cpu_event(&m->cpus[cpu], CPU_EVENT_NMI);
}

static void lapic_init(void *ctx, unsigned cpu)
{
	struct machine *m = ctx;

	/* What came before it is void; a SIPI that comes before the vCPU's
	 * thread has looked is not. */
	atomic_fetch_and(&m->cpus[cpu].events,
	                 ~(u32)(CPU_EVENT_SIPI | CPU_EVENT_NMI));
	cpu_event(&m->cpus[cpu], CPU_EVENT_INIT);
}

static void lapic_sipi(void *ctx, unsigned cpu, u8 vector)
{
	struct machine *m = ctx;

	m->cpus[cpu].sipi_vector = vector;
	cpu_event(&m->cpus[cpu], CPU_EVENT_SIPI);
}

static void lapic_eoi(void *ctx, u8 vector)
{
	struct machine *m = ctx;

	ioapic_eoi(m->ioapic, vector);
}

static int lapic_pic_ack(void *ctx)
{
	struct machine *m = ctx;

	return pic_ack(m->pic);
}

static u64 lapic_tsc(void *ctx, unsigned cpu)
{
	return machine_guest_tsc(ctx, cpu);
}

static void pic_intr(void *ctx, bool high)
{
	struct machine *m = ctx;

	lapic_set_lint0(m->lapics, high);
}

static void pic_unmasked(void *ctx, unsigned irq)
{
	struct machine *m = ctx;

	if (irq == 0 && m->pit)
		pit_irq0_unmasked(m->pit);
}

static void ioapic_unmasked(void *ctx, unsigned pin)
{
	struct machine *m = ctx;

	if (pin == PIT_IOAPIC_PIN && m->pit)
		pit_irq0_unmasked(m->pit);
}

static bool pit_irq0_wanted(void *ctx)
{
	struct machine *m = ctx;

	return pic_irq_enabled(m->pic, 0) ||
	       ioapic_pin_enabled(m->ioapic, PIT_IOAPIC_PIN);
}

static unsigned phys_bits(const struct machine *m)
{
	struct cpuid_regs r;

	cpuid_query(m->cpuid, 0, 0, 0, 0x80000008, 0, &r);
	return MAX(r.eax & 0xff, (u32)PHYS_BITS_LEAST);
}

static void create_controllers(struct machine *m)
{
	const struct lapic_host lapic_host = {
		.ctx = m,
		.attention = lapic_attention,
		.nmi = lapic_nmi,
		.init = lapic_init,
		.sipi = lapic_sipi,
		.eoi = lapic_eoi,
		.pic_ack = lapic_pic_ack,
		.guest_tsc = lapic_tsc,
	};
	const struct lapic_config lapic_config = {
		.cpus = m->config.cpus,
		.phys_bits = phys_bits(m),
		.tsc_hz = m->tsc_hz,
		.x2apic = cpuid_has(m->cpuid, FEATURE_X2APIC),
		.tsc_deadline = cpuid_has(m->cpuid, FEATURE_TSC_DEADLINE),
		.clock = m->host.clock,
	};
	const struct pic_host pic_host = { m, pic_intr, pic_unmasked };
	const struct ioapic_host ioapic_host = { m, soft_msi, ioapic_unmasked };
	const struct pit_host pit_host = { m, pit_irq0_wanted };

	m->lapics = lapic_set_create(&lapic_host, &lapic_config);
	m->pic = pic_create(&m->host, &pic_host);
	board_add(m, (struct device *)m->pic);
	m->ioapic = ioapic_create(&m->host, &ioapic_host, IOAPIC_V11);
	board_add(m, (struct device *)m->ioapic);
	m->pit = pit_create(&m->host, &pit_host);
	board_add(m, (struct device *)m->pit);
}

/* Refused (there are only so many): the write is an exit, and the bus rings. */
static void kernel_doorbell(void *ctx, u64 addr, int fd, bool on)
{
	struct machine *m = ctx;
	int rc = m->engine_type->ioeventfd(m->engine, false, addr, fd, on);

	if (rc < 0)
		log_debug("machine", "no doorbell at %#" PRIx64 ": %s", addr,
		          strerror(-rc));
}

static int create_wires(struct machine *m, struct error *err)
{
	const bool kernel = m->engine_type->irqchip != NULL;
	const struct irq_sink sink = {
		.ctx = m,
		.set_gsi = kernel ? kernel_set_gsi : soft_set_gsi,
		.msi = kernel ? kernel_msi : soft_msi,
	};

	if (bus_create(&m->host.pio, PIO_SIZE) < 0 ||
	    bus_create(&m->host.mmio, MMIO_SIZE) < 0 ||
	    irq_hub_create(&m->host.irq, &sink) < 0 ||
	    clock_create(&m->host.clock, m->loop) < 0)
		return error_set(err, -ENOMEM, "no memory for the machine");
	m->host.idle = idle_hub_create();
	if (m->engine_type->ioeventfd)
		bus_set_doorbells(m->host.mmio, kernel_doorbell, m);
	m->host.memory = m->memory;
	m->host.loop = m->loop;
	return 0;
}

/* ---- engine ---- */

static int create_engine(struct machine *m, struct error *err)
{
	struct cpuid_config cpuid = {
		.cpus = m->config.cpus,
		.kvm_leaves = true,
		.kvm_features = PV_FEATURES,
		.baseline = m->config.cpu_baseline,
		.emulated = m->config.cpu_max,
	};
	struct engine_config config = {
		.memory = m->memory,
		.cpuid_whole = m->restore != NULL,
		.cpus = m->config.cpus,
		.options = m->config.engine_options,
	};
	struct cpuid_regs r;
	int rc;

	m->tsc_hz = m->restore ? tsc_frequency_near(m->restore->tsc_hz)
	                       : tsc_frequency();
	cpuid.tsc_hz = m->tsc_hz;
	if (m->restore) {
		rc = restore_cpuid(m, &cpuid, err);
		if (rc < 0)
			return rc;
	} else {
		m->cpuid = cpuid_model_create(&cpuid);
	}
	config.cpuid = m->cpuid;
	rc = m->engine_type->create(&m->engine, &config, err);
	if (rc < 0)
		return error_prefix(err, "engine %s", m->engine_type->name);
	cpuid_query(m->cpuid, 0, 0, 0, 1, 0, &r);
	m->cpuid_1_eax = r.eax;
	return 0;
}

/* ---- devices ---- */

void board_add(struct machine *m, struct device *dev)
{
	dev->next = m->devices;
	m->devices = dev;
}

static void create_chips(struct machine *m)
{
	struct device_host *host = &m->host;

	m->rtc = rtc_create(host, NULL);
	board_add(m, (struct device *)m->rtc);
	board_add(m, (struct device *)hpet_create(host, m->pit, m->rtc));
	m->pm = acpi_pm_create(host);
	board_add(m, (struct device *)m->pm);
	board_add(m, (struct device *)i8042_create(host, I8042_MOUSE));
	board_add(m, (struct device *)sysports_create(host));
	board_add(m, (struct device *)debugcon_create(host, NULL));
	m->plug = cpu_hotplug_create(host, m->present, m->config.cpus);
	board_add(m, (struct device *)m->plug);
	if (m->config.debug_exit)
		board_add(m, (struct device *)debug_exit_create(host));
	if (m->config.testdev)
		board_add(m, (struct device *)testdev_create(host));
}

static void create_fw_cfg(struct machine *m)
{
	struct fw_cfg *fw = fw_cfg_create(&m->host);
	u8 map[ARRAY_SIZE(m->map) * 20];
	int rc;

	board_add(m, (struct device *)fw);
	fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, m->config.memory_bytes);
	fw_cfg_add_u16(fw, FW_CFG_NOGRAPHIC, 1);
	fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, (u16)m->present);
	fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, (u16)m->config.cpus);
	fw_cfg_add_u16(fw, FW_CFG_BOOT_MENU, 0);
	for (unsigned i = 0; i < m->map_count; i++) {
		put64(map + i * 20, m->map[i].base);
		put64(map + i * 20 + 8, m->map[i].size);
		put32(map + i * 20 + 16, m->map[i].type);
	}
	rc = fw_cfg_add_file(fw, "etc/e820", map, m->map_count * 20);
	ASSERT(rc == 0);
}

static void pm_moved(void *ctx, u16 base, bool enabled)
{
	struct machine *m = ctx;

	acpi_pm_map(m->pm, base, enabled);
}

static int create_pci(struct machine *m, struct error *err)
{
	u64 low = m->low_ram_end, all = m->config.memory_bytes;
	u64 ram_end = all > low ? 4 * GIB + (all - low) : 0;
	const struct q35_lpc_config lpc = { pm_moved, m };
	struct device *dev;
	int rc;

	pci_windows_default(&m->windows, PCI_ECAM_BASE + PCI_ECAM_SIZE, ram_end,
	                    phys_bits(m));
	m->pci = pci_bus_create(&m->host, &m->windows);
	if (!m->pci)
		return error_set(err, -ENOMEM, "no memory for the machine");
	rc = q35_mch_create(&dev, &m->host, m->pci, err);
	if (rc < 0)
		return rc;
	board_add(m, dev);
	rc = q35_lpc_create(&dev, &m->host, m->pci, &lpc, err);
	if (rc == 0)
		board_add(m, dev);
	return rc;
}

void board_tables(struct machine *m)
{
	const struct acpi_config config = {
		.cpus = m->present,
		.cpus_max = m->config.cpus_present < m->config.cpus
		                ? m->config.cpus
		                : 0,
		.serials = m->config.serial_count,
		.windows = m->windows,
	};

	free(m->acpi);
	m->acpi = acpi_build(&config, ACPI_BASE, &m->acpi_size);
}

int board_create(struct machine *m, struct error *err)
{
	int rc = board_memory(m, err);

	if (rc == 0)
		rc = create_engine(m, err);
	if (rc == 0)
		rc = create_wires(m, err);
	if (rc < 0)
		return rc;
	if (!m->engine_type->irqchip)
		create_controllers(m);
	create_chips(m);
	create_fw_cfg(m);
	rc = create_pci(m, err);
	if (rc == 0)
		rc = board_add_peripherals(m, err);
	if (rc == 0)
		board_tables(m);
	return rc;
}

/* The list is newest first: what leans on others goes before them. */
void board_destroy_devices(struct machine *m)
{
	struct device *dev;

	while ((dev = m->devices)) {
		m->devices = dev->next;
		dev->type->destroy(dev);
	}
	lapic_set_destroy(m->lapics);
	m->lapics = NULL;
	pci_bus_destroy(m->pci);
	m->pci = NULL;
}

void board_destroy(struct machine *m)
{
	if (m->engine)
		m->engine_type->destroy(m->engine);
	cpuid_model_destroy(m->cpuid);
	irq_hub_destroy(m->host.irq);
	clock_destroy(m->host.clock);
	idle_hub_destroy(m->host.idle);
	bus_destroy(m->host.pio);
	bus_destroy(m->host.mmio);
	memory_destroy(m->memory);
	free(m->acpi);
}

static void reset_device(struct machine *m, struct device *dev)
{
	if (!dev)
		return;
	reset_device(m, dev->next); /* oldest first, as they were made */
	if (dev->type->reset) {
		device_lock(dev);
		dev->type->reset(dev);
		device_unlock(dev);
	}
}

void board_reset(struct machine *m)
{
	if (m->engine_type->irqchip)
		m->engine_type->irqchip->reset(m->engine);
	reset_device(m, m->devices);
	pci_assign_resources(m->pci);
	boot_put(m->memory, ACPI_BASE, m->acpi, m->acpi_size);
	generation_put(m);
}
