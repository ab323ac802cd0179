/* SPDX-License-Identifier: Apache-2.0 */
/*
 * merge - memory whose pages the kernel may share where they are equal (KSM),
 * and how much of it is no file's.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "guest/memory_internal.h"

/* Mappings that are private already keep what was stored to them. */
static int merge_mapped(const struct memory *mem)
{
	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i] &&
		    madvise(mem->slots[i].host, mem->slots[i].size,
		            MADV_MERGEABLE) < 0)
			return -errno;
	return 0;
}

static int merge_mapping(struct memory *mem)
{
	int rc = layers_begin(mem);

	if (rc == 0)
		rc = layers_map(mem, 0, memory_pages(mem), false);
	if (rc == 0)
		mem->layers.shared = 0;
	return rc;
}

int memory_merge_equal(struct memory *mem, struct error *err)
{
	struct memory_layers *l = &mem->layers;
	int rc;

	ASSERT(!l->runs || l->shared == 0);
	l->merges = true;
	rc = l->runs ? merge_mapped(mem) : merge_mapping(mem);
	if (rc == 0)
		return 0;
	l->merges = false;
	if (rc == -EINVAL) {
		error_set(err, -ENOTSUP,
		          "this kernel does not share equal pages (KSM)");
		return error_hint(err, "start the machine without "
		                       "--share-memory");
	}
	return error_set(err, rc, "the machine's memory cannot be mapped: %s",
	                 strerror(-rc));
}

bool memory_merges(const struct memory *mem)
{
	return mem->layers.merges;
}

static int add_pages(void *ctx, u64 first, u64 pages)
{
	(void)first;
	*(u64 *)ctx += pages;
	return 0;
}

u64 memory_private_bytes(struct memory *mem)
{
	u64 pages = 0;

	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i] &&
		    private_pages(&mem->layers, mem->slots[i].host,
		                  mem->slots[i].size / PAGE_SIZE, ~(u64)0,
		                  add_pages, &pages) < 0)
			return 0;
	return pages * PAGE_SIZE;
}
