/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device - what every device shares: its name, its lock, and the ways in.
 */
#include "devices/device.h"

#include <stdio.h>
#include <string.h>

void device_init(struct device *dev, const struct device_type *type,
                 struct device_host *host, const char *instance)
{
	pthread_mutexattr_t attr;

	memset(dev, 0, sizeof(*dev));
	dev->type = type;
	dev->host = host;
	snprintf(dev->instance, sizeof(dev->instance), "%s", instance);
	/* Recursive: a device's DMA may hit its own registers. */
	ASSERT(pthread_mutexattr_init(&attr) == 0);
	ASSERT(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE) == 0);
	ASSERT(pthread_mutex_init(&dev->lock, &attr) == 0);
	pthread_mutexattr_destroy(&attr);
}

void device_fini(struct device *dev)
{
	pthread_mutex_destroy(&dev->lock);
}

void device_lock(struct device *dev)
{
	ASSERT(pthread_mutex_lock(&dev->lock) == 0);
}

void device_unlock(struct device *dev)
{
	ASSERT(pthread_mutex_unlock(&dev->lock) == 0);
}

void device_timer_init(struct device *dev, struct clock_timer *timer,
                       void (*fn)(void *ctx))
{
	clock_timer_init(timer, dev->host->clock, &dev->lock, fn, dev);
}

void device_region_init(struct device *dev, struct bus_region *region,
                        const char *name, u64 base, u64 size,
                        const struct bus_ops *ops)
{
	memset(region, 0, sizeof(*region));
	region->name = name;
	region->base = base;
	region->size = size;
	region->ops = ops;
	region->ctx = dev;
	region->lock = &dev->lock;
	region->notify_fd = -1;
}
