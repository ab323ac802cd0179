/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_acpi - the tables hang together, and ACPICA's own disassembler and
 * compiler agree with every one of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/acpi/acpi.h"

static struct acpi_config config(unsigned cpus)
{
	return (struct acpi_config){
		.cpus = cpus,
		.serials = 4,
		.windows = { .mem32_base = 0xc0000000,
		             .mem32_end = 0xfec00000,
		             .mem64_base = 0x4000000000,
		             .mem64_end = 0x8000000000,
		             .io_base = 0x1000,
		             .io_end = 0xfff0 },
	};
}

static u32 at32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, 4);
	return v;
}

static u64 at64(const u8 *p)
{
	u64 v;

	memcpy(&v, p, 8);
	return v;
}

static u8 sum(const u8 *p, size_t size)
{
	u8 s = 0;

	while (size--)
		s += *p++;
	return s;
}

/* The table at a guest address, its header checked. */
static const u8 *table(const u8 *image, size_t size, u64 gpa)
{
	const u8 *t;

	assert_in_range(gpa, ACPI_BASE, ACPI_BASE + size - 36);
	t = image + (gpa - ACPI_BASE);
	assert_in_range(at32(t + 4), 36, size - (gpa - ACPI_BASE));
	assert_int_equal(sum(t, at32(t + 4)), 0);
	return t;
}

static const u8 *find(const u8 *image, size_t size, const char *signature)
{
	const u8 *xsdt = table(image, size, at64(image + 24));

	for (u32 i = 36; i + 8 <= at32(xsdt + 4); i += 8) {
		const u8 *t = table(image, size, at64(xsdt + i));

		if (!memcmp(t, signature, 4))
			return t;
	}
	fail_msg("no %s", signature);
	return NULL;
}

static void tables_hang_together(void **state)
{
	const struct acpi_config c = config(64);
	size_t size;
	u8 *image = acpi_build(&c, ACPI_BASE, &size);
	const u8 *fadt, *madt;
	unsigned cpus = 0;

	(void)state;
	assert_memory_equal(image, "RSD PTR ", 8);
	assert_int_equal(sum(image, 20), 0);
	assert_int_equal(sum(image, 36), 0);
	assert_true(size <= ACPI_ROOM);
	fadt = find(image, size, "FACP");
	assert_memory_equal(table(image, size, at32(fadt + 40)), "DSDT", 4);
	assert_memory_equal(image + (at32(fadt + 36) - ACPI_BASE), "FACS", 4);
	assert_int_equal(at32(fadt + 36) % 64, 0);
	madt = find(image, size, "APIC");
	for (u32 i = 44; i < at32(madt + 4); i += madt[i + 1]) {
		assert_true(madt[i + 1] >= 6);
		cpus += madt[i] == 0;
	}
	assert_int_equal(cpus, 64);
	find(image, size, "MCFG");
	find(image, size, "HPET");
	find(image, size, "WAET");
	free(image);
}

/* One entry each in the MADT: there, or able to come. */
static void some_may_come(void **state)
{
	struct acpi_config c = config(3);
	const u8 *madt, *dsdt;
	unsigned there = 0, may = 0;
	size_t size;
	u8 *image;

	(void)state;
	c.cpus_max = 64;
	image = acpi_build(&c, ACPI_BASE, &size);
	madt = find(image, size, "APIC");
	for (u32 i = 44; i < at32(madt + 4); i += madt[i + 1]) {
		if (madt[i] != 0)
			continue;
		assert_int_equal(madt[i + 3], there + may);
		there += at32(madt + i + 4) == 1;
		may += at32(madt + i + 4) == 2;
	}
	assert_int_equal(there, 3);
	assert_int_equal(may, 61);
	dsdt = table(image, size, at32(find(image, size, "FACP") + 40));
	assert_non_null(memmem(dsdt, at32(dsdt + 4), "_E02", 4));
	free(image);
	c.cpus_max = 0;
	image = acpi_build(&c, ACPI_BASE, &size);
	dsdt = table(image, size, at32(find(image, size, "FACP") + 40));
	assert_null(memmem(dsdt, at32(dsdt + 4), "_E02", 4));
	free(image);
}

static void write_table(const char *dir, const u8 *t, char *path, size_t room)
{
	FILE *f;

	snprintf(path, room, "%s/%.4s.dat", dir, (const char *)t);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, at32(t + 4), f), at32(t + 4));
	fclose(f);
}

PRINTF_LIKE(1, 2) static void run(const char *format, ...)
{
	char command[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

/* Disassembled without complaint; the DSDT compiled again too. */
static void iasl_agrees_with(const struct acpi_config *c)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG", "HPET",
		                             "WAET" };
	char dir[] = "/tmp/atoll-acpi-XXXXXX", path[96];
	size_t size;
	u8 *image;

	if (system("iasl -v >/dev/null 2>&1") != 0)
		skip(); /* acpica-tools is not installed */
	image = acpi_build(c, ACPI_BASE, &size);
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		write_table(dir, find(image, size, names[i]), path,
		            sizeof(path));
		run("cd %s && iasl -d %s.dat >log 2>&1 && "
		    "! grep -iE 'error|warning|invalid' log %s.dsl",
		    dir, names[i], names[i]);
	}
	write_table(dir,
	            table(image, size, at32(find(image, size, "FACP") + 40)),
	            path, sizeof(path));
	run("cd %s && iasl -d DSDT.dat >log 2>&1 && iasl DSDT.dsl >log 2>&1 "
	    "&& grep -q '0 Errors, 0 Warnings' log",
	    dir);
	run("cd %s && grep -q '_OSC' DSDT.dsl && "
	    "grep -A1 '_S5' DSDT.dsl | grep -q 'Package (0x04)'",
	    dir);
	run("rm -r %s", dir);
	free(image);
}

static void iasl_agrees(void **state)
{
	struct acpi_config c = config(4);

	(void)state;
	iasl_agrees_with(&c);
	c.cpus_max = 9;
	iasl_agrees_with(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_hang_together),
		cmocka_unit_test(some_may_come),
		cmocka_unit_test(iasl_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
