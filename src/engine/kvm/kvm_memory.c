/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_memory - guest memory slots in the kernel, and its dirty log.
 *
 * Slot i of the kernel is slot i of guest/memory.h, aliases among them: their
 * page flags are those of what they alias, so their dirty bits meet there.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "guest/memory.h"

static int map_slot(struct engine *e, size_t i, u32 flags)
{
	const struct memory_slot *slot = memory_slot_at(e->memory, i);
	struct kvm_userspace_memory_region region = {
		.slot = (u32)i,
		.flags = flags,
		.guest_phys_addr = slot->base,
		.memory_size = slot->size,
		.userspace_addr = (u64)(uintptr_t)slot->host,
	};

	if (slot->kind == MEMORY_ROM)
		region.flags = KVM_MEM_READONLY;
	return kvm_call(e->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_memory_map(struct engine *e, struct error *err)
{
	for (size_t i = 0; i < memory_slot_count(e->memory); i++) {
		int r = map_slot(e, i, 0);

		if (r < 0)
			return error_set(
			    err, r, "kvm: cannot map memory \"%s\": %s",
			    memory_slot_at(e->memory, i)->name, strerror(-r));
	}
	return 0;
}

static int log_all(struct engine *e, u32 flags)
{
	for (size_t i = 0; i < memory_slot_count(e->memory); i++) {
		int r = map_slot(e, i, flags);

		if (r < 0)
			return r;
	}
	return 0;
}

int kvm_dirty_start(struct engine *e)
{
	return log_all(e, KVM_MEM_LOG_DIRTY_PAGES);
}

void kvm_dirty_stop(struct engine *e)
{
	kvm_dirty_sync(e);
	/* Flags only go from set to clear here: the kernel cannot refuse. */
	log_all(e, 0);
}

/* One bit a page, the first in bit 0 of the first word (api.rst 4.8). */
static void sync_slot(struct engine *e, size_t i)
{
	const struct memory_slot *slot = memory_slot_at(e->memory, i);
	u64 pages = slot->size >> PAGE_SHIFT;
	size_t words = (size_t)((pages + 63) / 64);
	struct kvm_dirty_log log = { .slot = (u32)i };
	u64 *bitmap;

	if (slot->kind == MEMORY_ROM)
		return;
	bitmap = try_alloc(words, sizeof(u64));
	log.dirty_bitmap = bitmap;
	if (!bitmap || kvm_call(e->vm, KVM_GET_DIRTY_LOG, &log) < 0) {
		/* Too many dirty pages are right, too few never are. */
		for (u64 p = 0; p < pages; p++)
			atomic_fetch_or(&slot->page[p], PAGE_DIRTY);
		free(bitmap);
		return;
	}
	for (size_t w = 0; w < words; w++) {
		for (u64 bits = bitmap[w]; bits; bits &= bits - 1) {
			u64 p = w * 64 + (u64)__builtin_ctzll(bits);

			if (p < pages)
				atomic_fetch_or(&slot->page[p], PAGE_DIRTY);
		}
	}
	free(bitmap);
}

/* The kernel's log starts afresh with each read, pages protected again. */
void kvm_dirty_sync(struct engine *e)
{
	for (size_t i = 0; i < memory_slot_count(e->memory); i++)
		sync_slot(e, i);
}
