/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi_pm.h - ACPI fixed hardware as the ICH9 has it: PM1 event and control,
 * the PM timer, GPE0, SMI_EN, and the APM ports 0xb2/0xb3 (SMI_CMD).
 *
 * For the FADT: SMI_CMD 0xb2, ACPI_ENABLE 2, ACPI_DISABLE 3; PM1a_EVT base
 * + 0 (4 bytes), PM1a_CNT + 4 (2), PM_TMR + 8 (4 bytes, 24-bit count), GPE0
 * + 0x20 (16 bytes); SCI is GSI 9, level. SLP_TYP of S5 is 0.
 */
#pragma once

#include "devices/device.h"

struct acpi_pm;

enum {
	ACPI_PM_BASE = 0x600,
	ACPI_PM_SIZE = 128,
	ACPI_PM_SCI = 9,
	ACPI_SMI_CMD = 0xb2,
	ACPI_ENABLE_VALUE = 2,
	ACPI_DISABLE_VALUE = 3,
	ACPI_GPE_COUNT = 64,
};

/* What 0xb2 and PM1 do beyond the chip is in host->power_off. */
struct acpi_pm *acpi_pm_create(struct device_host *host);

/* Where the LPC bridge's PMBASE puts the block; enabled: ACPI_EN. At creation
 * and after reset it is at ACPI_PM_BASE. Any thread. */
void acpi_pm_map(struct acpi_pm *pm, u16 base, bool enabled);

/* SCI_EN is already on when the guest starts (direct boot, hardware has no
 * firmware to turn it on); applies from the next reset too. */
void acpi_pm_start_enabled(struct acpi_pm *pm, bool on);

/* Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);
void acpi_pm_gpe(struct acpi_pm *pm, unsigned gpe); /* sets the status bit */
