/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_fuzz - the file of a saved machine. The first byte chooses: the file
 * as it is; its chunks; its packed memory, with sums that are right, since
 * nothing else would get past them. Devices' own chunks are devices_fuzz's.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/error.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/cpuid_state.h"
#include "guest/memory.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void whole_file(const u8 *data, size_t size)
{
	static const char *const names[] = { "about", "state", "map" };
	int fd = memfd_create("state", MFD_CLOEXEC);
	struct state_file f;
	struct error err;
	u8 *section;
	size_t n;

	if (state_file_pwrite(fd, data, size, 0) == 0 &&
	    state_file_open(&f, fd, &err) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			if (state_file_read(&f, names[i], 1 << 20, &section, &n,
			                    &err) == 0)
				free(section);
	close(fd);
}

static void chunks(const u8 *data, size_t size)
{
	const struct cpuid_config config = { .cpus = 1 };
	const struct state_reader r = { data, size, 0 };
	struct saved_machine machine;
	struct saved_cpu saved;
	struct cpu_state cpu;
	struct cpuid_model *model;
	struct error err;

	memset(&cpu, 0, sizeof(cpu));
	if (state_load(&r, "machine", "clocks", 1, saved_machine_fields,
	               &machine, &err) == 0 &&
	    state_load(&r, "machine-cpu", "cpu0", 1, saved_cpu_fields, &saved,
	               &err) == 0)
		return;
	if (state_load(&r, "cpu", "cpu0", 1, cpu_state_fields, &cpu, &err) ==
	        0 &&
	    cpu_state_check(&cpu, &err) == 0 && cpu.mp_state > CPU_WAIT_SIPI)
		abort();
	if (cpuid_model_load(&model, &r, &config, &err) == 0)
		cpuid_model_destroy(model);
}

/* What is asked for comes, or is known not to; and all of it comes if all of
 * the file is as it should be. */
static void ask_for_all(const struct state_file *f, struct memory *mem,
                        struct pages_source *source, size_t pages)
{
	unsigned missing = 0;
	struct error err;
	bool came;

	for (size_t i = 0; i < pages; i++)
		if (!memory_ptr(mem, i * PAGE_SIZE, PAGE_SIZE))
			abort();
	for (size_t i = 0; i < pages; i++)
		missing +=
		    !!(*memory_page_flags(mem, i * PAGE_SIZE) & PAGE_MISSING);
	came = pages_source_check(source, &err) == 0;
	if (came != !missing || (!came && pages_verify(f, &err) == 0))
		abort();
}

/* data: count of blocks, their entries, the rest is frames; then a map. */
static void memory(const u8 *data, size_t size)
{
	enum { ENTRY = 24, PAGES = 64 };
	size_t count = size ? data[0] % 4 : 0, head = 1 + count * ENTRY;
	u8 blocks[4 * ENTRY] = { 0 };
	int fd = memfd_create("state", MFD_CLOEXEC);
	struct pages_source *source = NULL;
	struct memory *mem = NULL;
	struct state_file f;
	struct error err;
	u32 map[PAGES] = { 0 };
	u64 frames;
	int rc;

	if (size < head + PAGES) {
		close(fd);
		return;
	}
	frames = size - head - PAGES;
	memcpy(blocks, data + 1, count * ENTRY);
	for (size_t i = 0; i < PAGES; i++)
		map[i] = data[size - PAGES + i];
	for (size_t i = 0; i < count; i++) {
		u64 at, hash;
		u32 n;

		memcpy(&at, blocks + i * ENTRY, 8);
		memcpy(&n, blocks + i * ENTRY + 8, 4);
		if (at > frames || n > frames - at)
			continue;
		hash = XXH64(data + head + at, n, 0);
		memcpy(blocks + i * ENTRY + 16, &hash, 8);
	}
	rc = memory_create(&mem, &err);
	if (rc == 0)
		rc = memory_add(mem, 0, PAGES * PAGE_SIZE, MEMORY_RAM, "ram",
		                &err);
	if (rc == 0)
		rc = state_file_begin(&f, fd, &err);
	if (rc == 0)
		rc = state_file_add(&f, "packed", 0, data + head, frames, &err);
	if (rc == 0)
		rc = state_file_add(&f, "blocks", 0, blocks, count * ENTRY,
		                    &err);
	if (rc == 0)
		rc = state_file_add(&f, "map", 0, map, sizeof(map), &err);
	if (rc == 0 &&
	    pages_load(&f, mem, NULL, 0, PAGES_ASKED_FOR, &source, &err) == 0)
		ask_for_all(&f, mem, source, PAGES);
	pages_source_destroy(source);
	memory_destroy(mem);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const ways[])(const u8 *, size_t) = { whole_file, chunks,
		                                            memory };

	if (size)
		ways[data[0] % ARRAY_SIZE(ways)](data + 1, size - 1);
	return 0;
}
