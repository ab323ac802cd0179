/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - slots in an array sorted by base, found by binary search.
 *
 * Each RAM slot is a memfd mapped shared, so that a fork or a new process can
 * take the same pages by descriptor. Page flags are one byte a page, mapped
 * lazily like the memory itself.
 */
#include "guest/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "guest/memory_internal.h"

/* MFD_NOEXEC_SEAL of Linux 6.3: newer than Debian 12's headers. */
enum { NOEXEC_SEAL = 8 };

int memory_create(struct memory **out, struct error *err)
{
	struct memory *mem = xalloc(sizeof(*mem));

	(void)err;
	layers_init(&mem->layers);
	mem->stash = stash_create();
	*out = mem;
	return 0;
}

static void slot_release(struct memory_slot *slot)
{
	if (slot->host)
		munmap(slot->host, slot->size);
	if (slot->page)
		munmap((void *)(uintptr_t)slot->page, slot->size >> PAGE_SHIFT);
	if (slot->fd >= 0)
		close(slot->fd);
}

void memory_destroy(struct memory *mem)
{
	if (!mem)
		return;
	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i])
			slot_release(&mem->slots[i]);
	while (!memory_drop_aside(mem, ~(u64)0 / PAGE_SIZE))
		;
	layers_fini(&mem->layers);
	stash_destroy(mem->stash);
	free(mem);
}

/* Where a slot goes in the sorted array, or -errno. */
static int place(const struct memory *mem, gpa_t base, u64 size,
                 struct error *err)
{
	size_t i;

	ASSERT(IS_ALIGNED(base | size, (u64)PAGE_SIZE) && size);
	ASSERT(mem->count < SLOTS_MAX);
	for (i = 0; i < mem->count; i++) {
		const struct memory_slot *s = &mem->slots[i];

		if (base < s->base + s->size && s->base < base + size)
			return error_set(err, -EEXIST,
			                 "memory at %#" PRIx64
			                 " overlaps slot '%s'",
			                 base, s->name);
		if (base < s->base)
			break;
	}
	return (int)i;
}

static void insert(struct memory *mem, size_t at,
                   const struct memory_slot *slot, bool alias)
{
	size_t tail = mem->count - at;

	memmove(&mem->slots[at + 1], &mem->slots[at],
	        tail * sizeof(mem->slots[0]));
	memmove(&mem->alias[at + 1], &mem->alias[at], tail * sizeof(bool));
	mem->slots[at] = *slot;
	mem->alias[at] = alias;
	mem->count++;
}

/* Old kernels do not know the seal; the mapping is never executable either
 * way. */
int memory_file(const char *name, u64 size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | NOEXEC_SEAL);

	if (fd < 0)
		fd = memfd_create(name, MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int memory_add(struct memory *mem, gpa_t base, u64 size, enum memory_kind kind,
               const char *name, struct error *err)
{
	struct memory_slot slot = { .base = base, .size = size, .kind = kind };
	int at = place(mem, base, size, err);
	void *page;

	if (at < 0)
		return at;
	snprintf(slot.name, sizeof(slot.name), "%s", name);
	slot.fd = memory_file(name, size);
	if (slot.fd < 0)
		goto fail;
	slot.host = mmap(NULL, size, PROT_READ | PROT_WRITE,
	                 MAP_SHARED | MAP_NORESERVE, slot.fd, 0);
	if (slot.host == MAP_FAILED) {
		slot.host = NULL;
		goto fail;
	}
	page = mmap(NULL, size >> PAGE_SHIFT, PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (page == MAP_FAILED)
		goto fail;
	slot.page = page;
	/* A guest's memory holds its secrets: not for core files. */
	madvise(slot.host, size, MADV_DONTDUMP);
	insert(mem, (size_t)at, &slot, false);
	return 0;
fail:
	error_set(err, -ENOMEM, "cannot get %" PRIu64 " MiB for '%s': %s",
	          size / MIB, name, strerror(errno));
	error_hint(err, "give the machine less memory");
	slot_release(&slot);
	return -ENOMEM;
}

int memory_alias(struct memory *mem, gpa_t base, gpa_t target, u64 size,
                 struct error *err)
{
	const struct memory_slot *of = memory_find(mem, target);
	struct memory_slot slot;
	int at = place(mem, base, size, err);

	if (at < 0)
		return at;
	ASSERT(of && target - of->base + size <= of->size);
	slot = *of;
	slot.base = base;
	slot.size = size;
	slot.host = of->host + (target - of->base);
	slot.page = of->page + ((target - of->base) >> PAGE_SHIFT);
	slot.fd_offset = of->fd_offset + (target - of->base);
	insert(mem, (size_t)at, &slot, true);
	return 0;
}

size_t memory_slot_count(const struct memory *mem)
{
	return mem->count;
}

const struct memory_slot *memory_slot_at(const struct memory *mem, size_t i)
{
	return i < mem->count ? &mem->slots[i] : NULL;
}

const struct memory_slot *memory_find(const struct memory *mem, gpa_t gpa)
{
	size_t low = 0, high = mem->count;

	while (low < high) {
		size_t mid = (low + high) / 2;
		const struct memory_slot *s = &mem->slots[mid];

		if (gpa < s->base)
			high = mid;
		else if (gpa - s->base >= s->size)
			low = mid + 1;
		else
			return s;
	}
	return NULL;
}

/* ---- contents that come when they are asked for ---- */

void memory_set_source(struct memory *mem, memory_fetch_fn *fn, void *ctx)
{
	if (fn) {
		mem->fetch = fn;
		mem->fetch_ctx = ctx;
	}
	atomic_store(&mem->incomplete, fn != NULL);
}

const _Atomic bool *memory_incomplete(const struct memory *mem)
{
	return &mem->incomplete;
}

static void fetch(const struct memory *mem, const struct memory_slot *s, u64 at,
                  u64 len)
{
	for (u64 p = at >> PAGE_SHIFT; p << PAGE_SHIFT < at + len; p++)
		if (atomic_load(&s->page[p]) & PAGE_MISSING)
			mem->fetch(mem->fetch_ctx, s->host + (p << PAGE_SHIFT));
}

/* len is within the slot. */
static void need(const struct memory *mem, const struct memory_slot *s, u64 at,
                 u64 len)
{
	if (unlikely(
		atomic_load_explicit(&mem->incomplete, memory_order_acquire)))
		fetch(mem, s, at, len);
}

void memory_need(const struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	if (s)
		need(mem, s, gpa - s->base,
		     MIN(len, s->size - (gpa - s->base)));
}

void memory_keep(const struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s = memory_find(mem, gpa);
	u64 at, end;

	if (!s || !len)
		return;
	at = gpa - s->base;
	end = at + MIN(len, s->size - at);
	for (u64 p = at >> PAGE_SHIFT; p << PAGE_SHIFT < end; p++)
		atomic_fetch_or(&s->page[p], PAGE_KEPT);
	need(mem, s, at, end - at);
}

/* ---- reading and writing ---- */

void *memory_ptr(const struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	if (!s || len > s->size - (gpa - s->base))
		return NULL;
	need(mem, s, gpa - s->base, len);
	return s->host + (gpa - s->base);
}

void *memory_ptr_rw(const struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	if (!s || s->kind != MEMORY_RAM || len > s->size - (gpa - s->base))
		return NULL;
	need(mem, s, gpa - s->base, len);
	return s->host + (gpa - s->base);
}

/* Bytes from gpa to the end of its slot or len; 0 if in no slot. */
static u64 run_at(const struct memory *mem, gpa_t gpa, u64 len,
                  const struct memory_slot **slot)
{
	*slot = memory_find(mem, gpa);
	return *slot ? MIN(len, (*slot)->size - (gpa - (*slot)->base)) : 0;
}

static bool covered(const struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s;
	u64 n;

	if (gpa + len < gpa)
		return false;
	for (; len; gpa += n, len -= n)
		if (!(n = run_at(mem, gpa, len, &s)))
			return false;
	return true;
}

bool memory_read(const struct memory *mem, gpa_t gpa, void *buf, u64 len)
{
	const struct memory_slot *s;
	u8 *to = buf;
	u64 n;

	if (!covered(mem, gpa, len))
		return false;
	for (; len; gpa += n, to += n, len -= n) {
		n = run_at(mem, gpa, len, &s);
		need(mem, s, gpa - s->base, n);
		memcpy(to, s->host + (gpa - s->base), n);
	}
	return true;
}

bool memory_write(struct memory *mem, gpa_t gpa, const void *buf, u64 len)
{
	const struct memory_slot *s;
	const u8 *from = buf;
	u64 n;

	if (!covered(mem, gpa, len))
		return false;
	for (; len; gpa += n, from += n, len -= n) {
		n = run_at(mem, gpa, len, &s);
		if (s->kind != MEMORY_RAM)
			continue;
		need(mem, s, gpa - s->base, n);
		memcpy(s->host + (gpa - s->base), from, n);
		memory_written(mem, gpa, n);
	}
	return true;
}

void memory_written(struct memory *mem, gpa_t gpa, u64 len)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	if (!s || !len)
		return;
	len = MIN(len, s->size - (gpa - s->base));
	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (gpa & ~PAGE_MASK));
		_Atomic u8 *flags = &s->page[(gpa - s->base) >> PAGE_SHIFT];
		/* Sequentially consistent: pairs with an engine that sets
		 * PAGE_CODE and then reads the bytes to decode. */
		u8 old = atomic_load(flags);

		if (!(old & PAGE_DIRTY))
			old = atomic_fetch_or(flags, PAGE_DIRTY);
		if ((old & PAGE_CODE) && mem->code_fn)
			mem->code_fn(mem->code_ctx, gpa, n);
		gpa += n;
		len -= n;
	}
}

void memory_set_code_watch(struct memory *mem, memory_code_fn *fn, void *ctx)
{
	mem->code_fn = fn;
	mem->code_ctx = ctx;
}

_Atomic u8 *memory_page_flags(const struct memory *mem, gpa_t gpa)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	return s ? &s->page[(gpa - s->base) >> PAGE_SHIFT] : NULL;
}

u64 memory_ram_bytes(const struct memory *mem)
{
	u64 sum = 0;

	for (size_t i = 0; i < mem->count; i++)
		if (!mem->alias[i] && mem->slots[i].kind == MEMORY_RAM)
			sum += mem->slots[i].size;
	return sum;
}
