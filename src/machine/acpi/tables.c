/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tables - RSDP, XSDT, FADT, FACS, MADT, MCFG, HPET, WAET and the DSDT's
 * wrapping; ACPI specification 6.4 chapter 5.
 */
#include "machine/acpi/acpi.h"

#include <string.h>

#include "devices/chips/acpi_pm.h"
#include "devices/chips/hpet.h"
#include "devices/chips/ioapic.h"
#include "devices/chips/sysports.h"
#include "machine/acpi/aml.h"
#include "machine/boot/file.h"

#define LAPIC_BASE 0xfee00000u

enum { HEADER = 36, CHECKSUM = 9, RSDP_SIZE = 36, FACS_SIZE = 64 };
enum { XAPIC_ID_MAX = 254 };

/* The growing image; offsets are from its start, addresses from base. */
struct image {
	struct aml out;
	gpa_t base;
	size_t tables[8]; /* offsets, for the XSDT */
	unsigned count;
};

static u8 checksum(const u8 *p, size_t size)
{
	u8 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += p[i];
	return (u8)-sum;
}

static void align(struct image *img, size_t to)
{
	while (img->out.used % to)
		aml_byte(&img->out, 0);
}

/* Header with a length to be filled in by table_end(). */
static size_t table_begin(struct image *img, const char *signature, u8 revision)
{
	struct aml *a = &img->out;
	size_t at;

	align(img, 8);
	at = a->used;
	aml_bytes(a, signature, 4);
	aml_u32(a, 0);
	aml_byte(a, revision);
	aml_byte(a, 0);
	aml_bytes(a, "ATOLL ", 6);
	aml_bytes(a, "ATOLLPC ", 8);
	aml_u32(a, 1);
	aml_bytes(a, "ATOL", 4);
	aml_u32(a, 1);
	return at;
}

static void table_end(struct image *img, size_t at)
{
	u8 *p = img->out.data + at;
	size_t size = img->out.used - at;

	put32(p + 4, (u32)size);
	p[CHECKSUM] = checksum(p, size);
}

static void table_listed(struct image *img, size_t at)
{
	table_end(img, at);
	img->tables[img->count++] = at;
}

static void gas(u8 *p, u8 bits, u8 access, u64 port)
{
	p[0] = 1; /* system I/O */
	p[1] = bits;
	p[2] = 0;
	p[3] = access;
	put64(p + 4, port);
}

/* Offsets from ACPI 6.4 table 5.9. */
static void fill_fadt(u8 *p, u32 facs, u32 dsdt)
{
	put32(p + 36, facs);
	put32(p + 40, dsdt);
	p[45] = 1; /* preferred profile: desktop */
	put16(p + 46, ACPI_PM_SCI);
	put32(p + 48, ACPI_SMI_CMD);
	p[52] = ACPI_ENABLE_VALUE;
	p[53] = ACPI_DISABLE_VALUE;
	put32(p + 56, ACPI_PM_BASE);        /* PM1a event */
	put32(p + 64, ACPI_PM_BASE + 4);    /* PM1a control */
	put32(p + 76, ACPI_PM_BASE + 8);    /* timer */
	put32(p + 80, ACPI_PM_BASE + 0x20); /* GPE0 */
	p[88] = 4;
	p[89] = 2;
	p[91] = 4;
	p[92] = ACPI_GPE_COUNT / 4; /* status and enable bytes */
	put16(p + 96, 0xfff);       /* no C2 */
	put16(p + 98, 0xfff);       /* no C3 */
	p[108] = 0x32;              /* century, in CMOS */
	/* Legacy devices, 8042, no VGA. */
	put16(p + 109, 1 << 0 | 1 << 1 | 1 << 2);
	/* WBINVD; C1 on all; no sleep button; no RTC wake status; reset
	 * register. The power button is fixed hardware: bit 4 clear. */
	put32(p + 112, 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10);
	gas(p + 116, 8, 1, SYSPORTS_RESET_PORT);
	p[128] = SYSPORTS_RESET_VALUE;
	p[131] = 0; /* minor version */
	put64(p + 140, dsdt);
	gas(p + 148, 32, 2, ACPI_PM_BASE);
	gas(p + 172, 16, 2, ACPI_PM_BASE + 4);
	gas(p + 208, 32, 3, ACPI_PM_BASE + 8);
	gas(p + 220, ACPI_GPE_COUNT * 2, 1, ACPI_PM_BASE + 0x20);
}

static void put_fadt(struct image *img, size_t facs, size_t dsdt)
{
	static const u8 body[276 - HEADER];
	size_t at = table_begin(img, "FACP", 6);

	aml_bytes(&img->out, body, sizeof(body));
	fill_fadt(img->out.data + at, (u32)(img->base + facs),
	          (u32)(img->base + dsdt));
	table_listed(img, at);
}

static size_t put_facs(struct image *img)
{
	u8 facs[FACS_SIZE] = "FACS";
	size_t at;

	align(img, 64);
	at = img->out.used;
	put32(facs + 4, sizeof(facs));
	facs[32] = 2; /* version */
	aml_bytes(&img->out, facs, sizeof(facs));
	return at;
}

static void put_override(struct aml *a, u8 irq, u32 gsi, u16 flags)
{
	aml_byte(a, 2);
	aml_byte(a, 10);
	aml_byte(a, 0); /* ISA */
	aml_byte(a, irq);
	aml_u32(a, gsi);
	aml_u16(a, flags);
}

/* One that is not there yet is said to be able to come. */
static void put_local_apic(struct aml *a, unsigned id, bool there)
{
	const u32 flags = there ? 1 << 0 : 1 << 1;

	if (id <= XAPIC_ID_MAX) {
		aml_byte(a, 0);
		aml_byte(a, 8);
		aml_byte(a, (u8)id); /* processor UID */
		aml_byte(a, (u8)id);
		aml_u32(a, flags);
		return;
	}
	aml_byte(a, 9); /* x2APIC */
	aml_byte(a, 16);
	aml_u16(a, 0);
	aml_u32(a, id);
	aml_u32(a, flags);
	aml_u32(a, id);
}

/* ACPI 6.4 section 5.2.12. */
static void put_madt(struct image *img, const struct acpi_config *c)
{
	struct aml *a = &img->out;
	size_t at = table_begin(img, "APIC", 5);

	aml_u32(a, LAPIC_BASE);
	aml_u32(a, 1); /* there is a PIC too */
	for (unsigned i = 0; i < MAX(c->cpus, c->cpus_max); i++)
		put_local_apic(a, i, i < c->cpus);
	aml_byte(a, 1); /* I/O APIC */
	aml_byte(a, 12);
	aml_byte(a, 0); /* its ID after reset */
	aml_byte(a, 0);
	aml_u32(a, (u32)IOAPIC_BASE);
	aml_u32(a, 0); /* first GSI */
	put_override(a, 0, 2, 0);
	put_override(a, ACPI_PM_SCI, ACPI_PM_SCI, 0xd); /* high, level */
	aml_byte(a, 4); /* NMI on LINT1 of every processor */
	aml_byte(a, 6);
	aml_byte(a, 0xff);
	aml_u16(a, 0);
	aml_byte(a, 1);
	table_listed(img, at);
}

static void put_mcfg(struct image *img)
{
	struct aml *a = &img->out;
	size_t at = table_begin(img, "MCFG", 1);

	aml_u64(a, 0);
	aml_u64(a, PCI_ECAM_BASE);
	aml_u16(a, 0);
	aml_byte(a, 0);
	aml_byte(a, PCI_ECAM_SIZE / MIB - 1); /* a bus a MiB: the last one */
	aml_u32(a, 0);
	table_listed(img, at);
}

static void put_hpet(struct image *img)
{
	struct aml *a = &img->out;
	size_t at = table_begin(img, "HPET", 1);

	aml_u32(a, HPET_ACPI_ID);
	aml_u32(a, 0); /* address structure: memory */
	aml_u64(a, HPET_BASE);
	aml_byte(a, 0);
	aml_u16(a, 100); /* smallest period, in its own ticks */
	aml_byte(a, 0);
	table_listed(img, at);
}

/* Tells Windows that the PM timer needs no second reading. */
static void put_waet(struct image *img)
{
	size_t at = table_begin(img, "WAET", 1);

	aml_u32(&img->out, 1 << 1);
	table_listed(img, at);
}

static size_t put_dsdt(struct image *img, const struct acpi_config *config)
{
	size_t at = table_begin(img, "DSDT", 2);

	acpi_dsdt(&img->out, config);
	table_end(img, at);
	return at;
}

static size_t put_xsdt(struct image *img)
{
	size_t at = table_begin(img, "XSDT", 1);

	for (unsigned i = 0; i < img->count; i++)
		aml_u64(&img->out, img->base + img->tables[i]);
	table_end(img, at);
	return at;
}

static void fill_rsdp(struct image *img, size_t xsdt)
{
	u8 *p = img->out.data;

	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "ATOLL ", 6);
	p[15] = 2; /* revision: with XSDT */
	put32(p + 20, RSDP_SIZE);
	put64(p + 24, img->base + xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_SIZE);
}

u8 *acpi_build(const struct acpi_config *config, gpa_t base, size_t *size)
{
	static const u8 rsdp[RSDP_SIZE];
	struct image img = { .base = base };
	size_t facs, dsdt;

	aml_bytes(&img.out, rsdp, sizeof(rsdp));
	facs = put_facs(&img);
	dsdt = put_dsdt(&img, config);
	put_fadt(&img, facs, dsdt);
	put_madt(&img, config);
	put_mcfg(&img);
	put_hpet(&img);
	put_waet(&img);
	fill_rsdp(&img, put_xsdt(&img));
	ASSERT(img.out.used <= ACPI_ROOM);
	*size = img.out.used;
	return img.out.data;
}
