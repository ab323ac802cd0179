/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_fuzz - the input is a kernel file; its last byte chooses whether there
 * is an initrd, how much memory, and whether to unpack.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "guest/memory.h"
#include "machine/boot/boot.h"

#define RAM (32 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct memory *memory;
static int kernel = -1;

static void start(void)
{
	if (memory_create(&memory, NULL) < 0 ||
	    memory_add(memory, 0, RAM, MEMORY_RAM, "ram", NULL) < 0)
		__builtin_trap();
	kernel = memfd_create("kernel", MFD_CLOEXEC);
	if (kernel < 0)
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct e820_entry map[] = {
		{ 0, BOOT_EBDA, E820_RAM },
		{ BOOT_KERNEL_MIN, RAM - BOOT_KERNEL_MIN, E820_RAM },
	};
	struct boot_request req = {
		.memory = memory,
		.initrd = { .fd = -1, .path = "initrd" },
		.cmdline = "quiet",
		.map = map,
		.map_count = ARRAY_SIZE(map),
		.rsdp = 0xe0000,
	};
	struct cpu_state cpu;
	struct error err = { 0 };
	uint8_t choice;

	if (size == 0)
		return 0;
	if (!memory) {
		start();
		req.memory = memory;
	}
	choice = data[size - 1];
	if (ftruncate(kernel, 0) < 0 ||
	    pwrite(kernel, data, size, 0) != (ssize_t)size)
		return 0;
	req.kernel = (struct boot_file){ .fd = kernel, .path = "kernel" };
	if (choice & 1)
		req.initrd.fd = kernel;
	if (choice & 2)
		req.modules[req.module_count++] = req.kernel;
	req.unpack = choice & 4;
	req.low_ram_end = choice & 8 ? RAM / 4 : RAM;
	cpu_state_reset(&cpu, true, 0);
	if (boot_load(&req, &cpu, &err) < 0 && !err.text[0])
		__builtin_trap(); /* a refusal without words */
	return 0;
}
