/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bus.c - regions in a flat list sorted by base, walked under a read lock.
 *
 * The lock covers the look-up only, never a callback: a callback may map and
 * unmap (a PCI BAR that moves), and regions outlive every access.
 */
#include "guest/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

struct bus {
	u64 size;
	pthread_rwlock_t lock;
	/* Highest priority first, then by base: the first hit answers. */
	struct bus_region **regions;
	size_t count;
	bus_doorbell_fn *doorbell;
	void *doorbell_ctx;
};

int bus_create(struct bus **out, u64 size)
{
	struct bus *bus = xalloc(sizeof(*bus));

	bus->size = size;
	pthread_rwlock_init(&bus->lock, NULL);
	*out = bus;
	return 0;
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	pthread_rwlock_destroy(&bus->lock);
	free(bus->regions);
	free(bus);
}

void bus_set_doorbells(struct bus *bus, bus_doorbell_fn *fn, void *ctx)
{
	bus->doorbell = fn;
	bus->doorbell_ctx = ctx;
}

static void tell_doorbell(struct bus *bus, const struct bus_region *r, bool on)
{
	if (bus->doorbell && r->notify_fd >= 0)
		bus->doorbell(bus->doorbell_ctx, r->base + r->notify_off,
		              r->notify_fd, on);
}

static bool before(const struct bus_region *a, const struct bus_region *b)
{
	if (a->priority != b->priority)
		return a->priority > b->priority;
	return a->base < b->base;
}

void bus_map(struct bus *bus, struct bus_region *region)
{
	size_t i;

	pthread_rwlock_wrlock(&bus->lock);
	bus->regions =
	    xrealloc(bus->regions, (bus->count + 1) * sizeof(*bus->regions));
	for (i = 0; i < bus->count && before(bus->regions[i], region); i++)
		;
	memmove(&bus->regions[i + 1], &bus->regions[i],
	        (bus->count - i) * sizeof(*bus->regions));
	bus->regions[i] = region;
	bus->count++;
	pthread_rwlock_unlock(&bus->lock);
	tell_doorbell(bus, region, true);
}

void bus_unmap(struct bus *bus, struct bus_region *region)
{
	tell_doorbell(bus, region, false);
	pthread_rwlock_wrlock(&bus->lock);
	for (size_t i = 0; i < bus->count; i++) {
		if (bus->regions[i] != region)
			continue;
		memmove(&bus->regions[i], &bus->regions[i + 1],
		        (bus->count - i - 1) * sizeof(*bus->regions));
		bus->count--;
		break;
	}
	pthread_rwlock_unlock(&bus->lock);
}

/* The region at addr and the offset in it, read under the lock. */
static struct bus_region *find(struct bus *bus, u64 addr, u64 *off)
{
	struct bus_region *hit = NULL;

	pthread_rwlock_rdlock(&bus->lock);
	for (size_t i = 0; i < bus->count; i++) {
		struct bus_region *r = bus->regions[i];

		if (addr >= r->base && addr - r->base < r->size) {
			*off = addr - r->base;
			hit = r;
			break;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return hit;
}

static unsigned min_size(const struct bus_region *r)
{
	return r->ops->min_size ? r->ops->min_size : 1;
}

static unsigned max_size(const struct bus_region *r)
{
	return r->ops->max_size ? r->ops->max_size : 4;
}

static u64 mask(unsigned size)
{
	return size == 8 ? ~(u64)0 : ((u64)1 << (size * 8)) - 1;
}

/*
 * The largest access that the region serves, is no wider than size, does not
 * leave the region, and is aligned at off.
 */
static unsigned step_size(const struct bus_region *r, u64 off, unsigned size)
{
	unsigned n = MIN(size, max_size(r));

	while (n & (n - 1))
		n &= n - 1;
	while (n > 1 && (off % n || off + n > r->size))
		n /= 2;
	return n;
}

static u64 region_read(struct bus_region *r, u64 off, unsigned size)
{
	unsigned whole = MAX(size, min_size(r));
	u64 base = ALIGN_DOWN(off, (u64)whole);
	u64 value;

	if (!r->ops->read)
		return mask(size);
	value = r->ops->read(r->ctx, base, whole);
	return (value >> ((off - base) * 8)) & mask(size);
}

static void region_write(struct bus_region *r, u64 off, unsigned size,
                         u64 value)
{
	unsigned whole = MAX(size, min_size(r));
	u64 base = ALIGN_DOWN(off, (u64)whole);
	unsigned shift = (unsigned)(off - base) * 8;
	u64 one = 1;

	if (r->notify_fd >= 0 && off == r->notify_off) {
		if (write(r->notify_fd, &one, sizeof(one)) == sizeof(one))
			return;
	}
	if (!r->ops->write)
		return;
	value &= mask(size);
	/* Narrower than the register: the other bytes stay as they read. */
	if (whole > size && r->ops->read) {
		u64 old = r->ops->read(r->ctx, base, whole);

		value = (old & ~(mask(size) << shift)) | value << shift;
	}
	r->ops->write(r->ctx, base, value, whole);
}

bool bus_read(struct bus *bus, u64 addr, unsigned size, u64 *value)
{
	bool claimed = false;
	u64 result = 0;

	ASSERT(size <= sizeof(*value));
	for (unsigned done = 0, n; done < size; done += n) {
		u64 off, part;
		struct bus_region *r = find(bus, addr + done, &off);

		if (!r) {
			n = 1;
			part = 0xff;
		} else {
			n = step_size(r, off, size - done);
			if (r->lock)
				pthread_mutex_lock(r->lock);
			part = region_read(r, off, n);
			if (r->lock)
				pthread_mutex_unlock(r->lock);
			claimed = true;
		}
		result |= part << (done * 8);
	}
	*value = result;
	return claimed;
}

bool bus_write(struct bus *bus, u64 addr, unsigned size, u64 value)
{
	bool claimed = false;

	for (unsigned done = 0, n; done < size; done += n) {
		u64 off;
		struct bus_region *r = find(bus, addr + done, &off);

		n = 1;
		if (!r)
			continue;
		n = step_size(r, off, size - done);
		if (r->lock)
			pthread_mutex_lock(r->lock);
		region_write(r, off, n, value >> (done * 8));
		if (r->lock)
			pthread_mutex_unlock(r->lock);
		claimed = true;
	}
	return claimed;
}
