/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_boot - every kind of kernel loads and is entered where it should be;
 * truncated, corrupt and foreign files are refused in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "guest/memory.h"
#include "kernels.h"
#include "machine/boot/boot.h"

#define RAM (64 * MIB)

enum { CORRUPTIONS = 600, RSDP = 0xe0000 };

static struct memory *memory;
static const struct e820_entry map[] = {
	{ 0, BOOT_EBDA, E820_RAM },
	{ BOOT_KERNEL_MIN, RAM - BOOT_KERNEL_MIN, E820_RAM },
};

static int setup(void **state)
{
	(void)state;
	if (memory_create(&memory, NULL) < 0)
		return -1;
	return memory_add(memory, 0, RAM, MEMORY_RAM, "ram", NULL);
}

static int teardown(void **state)
{
	(void)state;
	memory_destroy(memory);
	return 0;
}

static int load(int fd, int initrd, u64 ram, bool unpack, struct cpu_state *cpu,
                struct error *err)
{
	struct boot_request req = {
		.memory = memory,
		.kernel = { .fd = fd, .path = "kernel" },
		.initrd = { .fd = initrd, .path = "initrd" },
		.cmdline = "console=ttyS0",
		.map = map,
		.map_count = ARRAY_SIZE(map),
		.low_ram_end = ram,
		.rsdp = RSDP,
		.unpack = unpack,
	};

	memset(err, 0, sizeof(*err));
	cpu_state_reset(cpu, true, 0);
	return boot_load(&req, cpu, err);
}

static u32 guest32(gpa_t at)
{
	u32 v = 0;

	assert_true(memory_read(memory, at, &v, sizeof(v)));
	return v;
}

static void assert_body(gpa_t at, size_t from, size_t to)
{
	const u8 *p = memory_ptr(memory, at, to);

	assert_non_null(p);
	for (size_t i = from; i < to; i++)
		if (p[i] != (u8)(i * 7))
			fail_msg("byte %zu of the kernel is %#x", i, p[i]);
}

static void check_bzimage(const struct cpu_state *cpu, bool unpacked)
{
	assert_int_equal(cpu->rip,
	                 unpacked ? KERNEL_ELF_ENTRY : KERNEL_LOAD + 0x200);
	assert_int_equal(cpu->gpr[GPR_RSI], BOOT_PARAMS);
	assert_int_equal(cpu->cr3, BOOT_PAGE_TABLES);
	assert_true(cpu->efer & EFER_LMA);
	assert_true(cpu->seg[SEG_CS].attr & SEG_ATTR_L);
	assert_int_equal(guest32(BOOT_PARAMS + 0x70), RSDP);
	assert_int_equal(guest32(BOOT_PARAMS + 0x228), BOOT_CMDLINE);
	assert_int_equal(guest32(BOOT_PARAMS + 0x1e8) & 0xff, ARRAY_SIZE(map));
	assert_int_equal(guest32(BOOT_PARAMS + 0x2d0 + 20), BOOT_KERNEL_MIN);
	if (unpacked)
		assert_body(KERNEL_LOAD, 0, KERNEL_BODY);
	else
		assert_body(KERNEL_LOAD, 0, 0x300);
}

static void check_entry(enum kernel_kind kind, const struct cpu_state *cpu)
{
	if (kind <= KERNEL_BZIMAGE_XZ) {
		check_bzimage(cpu, kind != KERNEL_BZIMAGE);
		return;
	}
	assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_int_equal(cpu->gpr[GPR_RBX], BOOT_PARAMS);
	assert_int_equal(cpu->seg[SEG_CS].limit, 0xffffffff);
	if (kind == KERNEL_ELF_PVH) {
		assert_int_equal(cpu->rip, 0x1000010);
		assert_int_equal(guest32(BOOT_PARAMS), 0x336ec578);
		assert_int_equal(guest32(BOOT_PARAMS + 32), RSDP);
		assert_body(KERNEL_LOAD, 0, KERNEL_BODY);
		return;
	}
	assert_int_equal(cpu->gpr[GPR_RAX], 0x2badb002);
	assert_int_equal(cpu->rip, KERNEL_MB_ENTRY);
	assert_body(KERNEL_MB_LOAD, 48, KERNEL_BODY);
	assert_int_equal(guest32(KERNEL_MB_LOAD + KERNEL_BODY), 0);
	assert_int_equal(guest32(BOOT_PARAMS + 8), (RAM - MIB) / KIB);
	assert_int_equal(guest32(BOOT_PARAMS + 20), 1); /* the initrd */
}

static void kernels_load(void **state)
{
	int initrd = kernel_file("initial file system", 19);

	(void)state;
	for (int kind = 0; kind < KERNEL_KINDS; kind++) {
		struct cpu_state cpu;
		struct error err;
		size_t size;
		u8 *data = kernel_make((enum kernel_kind)kind, &size);
		int fd = kernel_file(data, size);

		if (load(fd, initrd, RAM, true, &cpu, &err) < 0)
			fail_msg("%s: %s", kernel_names[kind], err.text);
		check_entry((enum kernel_kind)kind, &cpu);
		close(fd);
		free(data);
	}
	close(initrd);
}

static void packed_kernel_is_left_alone(void **state)
{
	struct cpu_state cpu;
	struct error err;
	size_t size;
	u8 *data = kernel_make(KERNEL_BZIMAGE_LZ4, &size);
	int fd = kernel_file(data, size);

	(void)state;
	assert_int_equal(load(fd, -1, RAM, false, &cpu, &err), 0);
	check_bzimage(&cpu, false);
	close(fd);
	free(data);
}

static void initrd_lies_under_the_top(void **state)
{
	struct cpu_state cpu;
	struct error err;
	size_t size;
	u8 *data = kernel_make(KERNEL_BZIMAGE, &size);
	int fd = kernel_file(data, size);
	int initrd = kernel_file("initial file system", 19);
	char got[20] = "";
	u32 at;

	(void)state;
	assert_int_equal(load(fd, initrd, RAM, false, &cpu, &err), 0);
	at = guest32(BOOT_PARAMS + 0x218);
	assert_int_equal(at, RAM - PAGE_SIZE);
	assert_int_equal(guest32(BOOT_PARAMS + 0x21c), 19);
	assert_true(memory_read(memory, at, got, 19));
	assert_string_equal(got, "initial file system");
	close(fd);
	close(initrd);
	free(data);
}

static void kernels_without_64_bits_load(void **state)
{
	size_t size;
	u8 *data = kernel_make(KERNEL_BZIMAGE, &size);
	struct cpu_state cpu;
	struct error err;
	int fd;

	(void)state;
	data[0x236] = 0;
	fd = kernel_file(data, size);
	assert_int_equal(load(fd, -1, RAM, false, &cpu, &err), 0);
	assert_int_equal(cpu.rip, KERNEL_LOAD);
	assert_int_equal(cpu.gpr[GPR_RSI], BOOT_PARAMS);
	assert_int_equal(cpu.gpr[GPR_RBX] | cpu.gpr[GPR_RBP], 0);
	assert_int_equal(cpu.cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_true(cpu.seg[SEG_CS].attr & SEG_ATTR_DB);
	assert_int_equal(cpu.efer, 0);
	assert_body(KERNEL_LOAD, 0, 0x300);
	close(fd);
	free(data);
}

static void assert_refused(int fd, int initrd, u64 ram, const char *words)
{
	struct cpu_state cpu;
	struct error err;

	assert_true(load(fd, initrd, ram, true, &cpu, &err) < 0);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

static void bad_files_are_refused(void **state)
{
	int empty = kernel_file("", 0);
	int text = kernel_file("#!/bin/sh\necho no kernel\n", 25);
	int pipes[2];
	size_t size;
	u8 *data = kernel_make(KERNEL_BZIMAGE_LZ4, &size);
	int fd = kernel_file(data, size);

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	assert_refused(empty, -1, RAM, "is empty");
	assert_refused(text, -1, RAM, "no kernel known");
	assert_refused(pipes[0], -1, RAM, "not a regular file");
	assert_refused(fd, empty, RAM, "the initrd initrd is empty");
	assert_refused(fd, -1, 2 * MIB, "needs 4 MiB of memory");
	assert_refused(fd, pipes[0], RAM, "not a regular file");
	close(fd);

	data[0x236] = 0; /* no 64-bit entry, but what is packed is 64-bit */
	fd = kernel_file(data, size);
	assert_refused(fd, -1, RAM, "no 32-bit entry");
	close(fd);
	data[0x236] = 1;
	data[0x206] = 0x0b;
	fd = kernel_file(data, size);
	assert_refused(fd, -1, RAM, "too old");
	close(fd);
	data[0x206] = 0x0f;
	memset(data + 1024 + 0x300 + 8, 0, 64); /* the packed kernel */
	fd = kernel_file(data, size);
	assert_refused(fd, -1, RAM, "corrupt");
	close(fd);
	free(data);
	close(empty);
	close(text);
	close(pipes[0]);
	close(pipes[1]);
}

/* Whatever the length, an answer; short of the whole, a refusal. */
static void truncated_kernels_are_refused(void **state)
{
	(void)state;
	for (int kind = 0; kind < KERNEL_KINDS; kind++) {
		size_t size;
		u8 *data = kernel_make((enum kernel_kind)kind, &size);

		for (size_t cut = 1; cut < size; cut += cut < 700 ? 1 : 97) {
			int fd = kernel_file(data, cut);
			struct cpu_state cpu;
			struct error err;

			if (load(fd, -1, RAM, true, &cpu, &err) == 0)
				fail_msg("%s of %zu bytes loads",
				         kernel_names[kind], cut);
			assert_true(err.text[0]);
			close(fd);
		}
		free(data);
	}
}

static u32 random32(u32 *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Bytes changed at random, most of them in headers: no crash, no bad access
 * (the sanitizers look), words with each refusal. */
static void corrupt_kernels_do_no_harm(void **state)
{
	u32 seed = 1;

	(void)state;
	for (int i = 0; i < CORRUPTIONS; i++) {
		enum kernel_kind kind = (enum kernel_kind)(i % KERNEL_KINDS);
		size_t size;
		u8 *data = kernel_make(kind, &size);
		struct cpu_state cpu;
		struct error err;
		int fd;

		for (u32 n = 1 + random32(&seed) % 4; n; n--) {
			u32 where = random32(&seed) % 8;
			size_t at =
			    random32(&seed) %
			    (where < 6 ? MIN(size, (size_t)0x270) : size);

			if (where == 0 && size > 4200)
				at = 4096 + at % 64;
			data[at] = (u8)random32(&seed);
		}
		fd = kernel_file(data, size);
		if (load(fd, -1, RAM, true, &cpu, &err) < 0)
			assert_true(err.text[0]);
		close(fd);
		free(data);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernels_load),
		cmocka_unit_test(kernels_without_64_bits_load),
		cmocka_unit_test(packed_kernel_is_left_alone),
		cmocka_unit_test(initrd_lies_under_the_top),
		cmocka_unit_test(bad_files_are_refused),
		cmocka_unit_test(truncated_kernels_are_refused),
		cmocka_unit_test(corrupt_kernels_do_no_harm),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
