/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registers.c - how a driver finds and touches the device (virtio 1.2
 * section 4.1.4): five vendor capabilities point into BAR 4.
 *
 *	0x0000  common configuration
 *	0x1000  ISR: reading clears it and lowers INTA
 *	0x2000  device configuration
 *	0x3000  notifications, four bytes a queue
 *
 * The fifth is a window in configuration space onto the other four, for
 * drivers that cannot map a BAR.
 */
#include <string.h>

#include "base/log.h"
#include "devices/virtio/internal.h"

enum { /* cfg_type */
       CAP_COMMON = 1,
       CAP_NOTIFY = 2,
       CAP_ISR = 3,
       CAP_DEVICE = 4,
       CAP_PCI = 5,
};
enum { /* inside a capability */
       CAP_LEN = 2,
       CAP_TYPE = 3,
       CAP_BAR = 4,
       CAP_OFFSET = 8,
       CAP_LENGTH = 12,
       CAP_DATA = 16, /* notify: the multiplier; pci: the window */
       CAP_SIZE = 16,
};
enum { /* common configuration */
       DEVICE_FEATURE_SELECT = 0x00,
       DEVICE_FEATURE = 0x04,
       DRIVER_FEATURE_SELECT = 0x08,
       DRIVER_FEATURE = 0x0c,
       CONFIG_VECTOR = 0x10,
       NUM_QUEUES = 0x12,
       DEVICE_STATUS = 0x14,
       CONFIG_GENERATION = 0x15,
       QUEUE_SELECT = 0x16,
       QUEUE_SIZE = 0x18,
       QUEUE_VECTOR = 0x1a,
       QUEUE_ENABLE = 0x1c,
       QUEUE_NOTIFY_OFF = 0x1e,
       QUEUE_DESC = 0x20,
       QUEUE_DRIVER = 0x28,
       QUEUE_DEVICE = 0x30,
       COMMON_SIZE = 0x38,
};

static struct virtq *selected(struct virtio_device *v)
{
	return v->queue_select < v->queue_count ? &v->queues[v->queue_select]
	                                        : NULL;
}

static u32 feature_word(u64 features, u32 select)
{
	return select < 2 ? (u32)(features >> (select * 32)) : 0;
}

static void put64(u8 *p, u64 value)
{
	pci_put32(p, (u32)value);
	pci_put32(p + 4, (u32)(value >> 32));
}

static u64 common_read(struct virtio_device *v, unsigned off, unsigned size)
{
	const struct virtq *q = selected(v);
	u8 r[COMMON_SIZE] = { 0 };
	u64 value = 0;

	if (off + size > COMMON_SIZE)
		return 0;
	pci_put32(r + DEVICE_FEATURE_SELECT, v->device_select);
	pci_put32(r + DEVICE_FEATURE,
	          feature_word(v->offered, v->device_select));
	pci_put32(r + DRIVER_FEATURE_SELECT, v->driver_select);
	pci_put32(r + DRIVER_FEATURE,
	          feature_word(v->driver_features, v->driver_select));
	pci_put16(r + CONFIG_VECTOR, v->config_vector);
	pci_put16(r + NUM_QUEUES, (u16)v->queue_count);
	r[DEVICE_STATUS] = v->status;
	r[CONFIG_GENERATION] = v->generation;
	pci_put16(r + QUEUE_SELECT, v->queue_select);
	if (q) {
		pci_put16(r + QUEUE_SIZE, q->size);
		pci_put16(r + QUEUE_VECTOR, q->vector);
		pci_put16(r + QUEUE_ENABLE, q->enabled);
		pci_put16(r + QUEUE_NOTIFY_OFF, q->index);
		put64(r + QUEUE_DESC, q->desc_gpa);
		put64(r + QUEUE_DRIVER, q->driver_gpa);
		put64(r + QUEUE_DEVICE, q->device_gpa);
	}
	memcpy(&value, r + off, size);
	return value;
}

static u16 valid_vector(const struct virtio_device *v, u32 vector)
{
	return vector < v->pci.msix.vectors ? (u16)vector : VIRTQ_NO_VECTOR;
}

static void queue_write(struct virtq *q, unsigned off, u32 value)
{
	gpa_t *at = off < QUEUE_DRIVER   ? &q->desc_gpa
	            : off < QUEUE_DEVICE ? &q->driver_gpa
	                                 : &q->device_gpa;
	unsigned shift = off & 4 ? 32 : 0;

	*at = (*at & ~((u64)UINT32_MAX << shift)) | (u64)value << shift;
}

/* A queue's registers may not change while it is enabled. */
static void queue_setup(struct virtio_device *v, unsigned off, u32 value,
                        unsigned size)
{
	struct virtq *q = selected(v);

	if (!q)
		return;
	if (off == QUEUE_VECTOR && size == 2) {
		q->vector = valid_vector(v, value);
		return;
	}
	if (q->enabled)
		return;
	if (off == QUEUE_SIZE && size == 2) {
		/* Zero and what is no power of two are refused at start. */
		q->size = (u16)value;
	} else if (off == QUEUE_ENABLE && size == 2) {
		if (value == 1)
			virtio_queue_enable(v, q);
	} else if (off >= QUEUE_DESC && size == 4) {
		queue_write(q, off, value);
	}
}

static void driver_feature(struct virtio_device *v, u32 value)
{
	unsigned shift = v->driver_select * 32;

	if (v->driver_select > 1 || (v->status & VIRTIO_FEATURES_OK))
		return;
	v->driver_features &= ~((u64)UINT32_MAX << shift);
	v->driver_features |= (u64)value << shift;
}

static void common_write(struct virtio_device *v, unsigned off, u32 value,
                         unsigned size)
{
	if (v->resetting) {
		log_guest("virtio", "%s: driver does not wait for its reset",
		          v->pci.dev.instance);
		return;
	}
	if (off == DEVICE_STATUS && size == 1)
		virtio_set_status(v, (u8)value);
	else if (off == DEVICE_FEATURE_SELECT && size == 4)
		v->device_select = value;
	else if (off == DRIVER_FEATURE_SELECT && size == 4)
		v->driver_select = value;
	else if (off == DRIVER_FEATURE && size == 4)
		driver_feature(v, value);
	else if (off == CONFIG_VECTOR && size == 2)
		v->config_vector = valid_vector(v, value);
	else if (off == QUEUE_SELECT && size == 2)
		v->queue_select = (u16)value;
	else if (off >= QUEUE_SIZE && off < COMMON_SIZE)
		queue_setup(v, off, value, size);
}

static u64 config_read(struct virtio_device *v, unsigned off, unsigned size)
{
	u64 value = 0;

	if (off + size <= v->config_size)
		memcpy(&value, v->config + off, size);
	return value;
}

static u64 isr_read(struct virtio_device *v)
{
	u8 isr = v->isr;

	v->isr = 0;
	pci_intx_set(&v->pci, false);
	return isr;
}

static u64 bar_read(void *ctx, u64 off, unsigned size)
{
	struct virtio_device *v = ctx;
	unsigned in = off % VIRTIO_AREA;

	switch (off - in) {
	case VIRTIO_AT_COMMON:
		return common_read(v, in, size);
	case VIRTIO_AT_ISR:
		return in == 0 ? isr_read(v) : 0;
	case VIRTIO_AT_DEVICE:
		return config_read(v, in, size);
	default:
		return 0;
	}
}

static void bar_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct virtio_device *v = ctx;
	unsigned in = off % VIRTIO_AREA;

	switch (off - in) {
	case VIRTIO_AT_COMMON:
		common_write(v, in, (u32)value, size);
		break;
	case VIRTIO_AT_DEVICE:
		if (v->ops->config_write && in + size <= v->config_size)
			v->ops->config_write(v, in, (u32)value, size);
		break;
	case VIRTIO_AT_NOTIFY:
		virtio_kick(v, in / VIRTIO_NOTIFY_STEP);
		break;
	default:
		break;
	}
}

static const struct bus_ops bar_ops = {
	.read = bar_read,
	.write = bar_write,
};

/* ---- the window in configuration space ---- */

/* Where the window points: true if there is something of ours. */
static bool window(struct virtio_device *v, u64 *off, unsigned *size)
{
	const u8 *cap = v->pci.config + v->pci_cfg_cap;

	*off = pci_get32(cap + CAP_OFFSET);
	*size = pci_get32(cap + CAP_LENGTH);
	return cap[CAP_BAR] == VIRTIO_BAR &&
	       (*size == 1 || *size == 2 || *size == 4) && *off % *size == 0 &&
	       *off < VIRTIO_BAR_SIZE;
}

static bool touches_data(const struct virtio_device *v, unsigned off,
                         unsigned size)
{
	unsigned data = v->pci_cfg_cap + CAP_DATA;

	return v->pci_cfg_cap && off < data + 4 && off + size > data;
}

void virtio_config_access_read(struct pci_device *pci, unsigned off,
                               unsigned size)
{
	struct virtio_device *v = container_of(pci, struct virtio_device, pci);
	unsigned width;
	u64 at;

	if (touches_data(v, off, size) && window(v, &at, &width))
		pci_put32(pci->config + v->pci_cfg_cap + CAP_DATA,
		          (u32)bar_read(v, at, width));
}

void virtio_config_access_written(struct pci_device *pci, unsigned off,
                                  unsigned size)
{
	struct virtio_device *v = container_of(pci, struct virtio_device, pci);
	unsigned width;
	u64 at;
	u32 value;

	if (!touches_data(v, off, size) || !window(v, &at, &width))
		return;
	value = pci_get32(pci->config + v->pci_cfg_cap + CAP_DATA);
	bar_write(v, at, value & (u32)(BIT(width * 8) - 1), width);
}

/* ---- capabilities ---- */

static u8 capability(struct virtio_device *v, unsigned type, unsigned offset,
                     unsigned length, unsigned extra)
{
	struct pci_device *pci = &v->pci;
	unsigned size = CAP_SIZE + extra;
	u8 at = (u8)pci_add_capability(pci, PCI_CAP_VENDOR, size);
	u8 *cap = pci->config + at;

	cap[CAP_LEN] = (u8)size;
	cap[CAP_TYPE] = (u8)type;
	cap[CAP_BAR] = type == CAP_PCI ? 0 : VIRTIO_BAR;
	pci_put32(cap + CAP_OFFSET, offset);
	pci_put32(cap + CAP_LENGTH, length);
	if (type == CAP_NOTIFY)
		pci_put32(cap + CAP_DATA, VIRTIO_NOTIFY_STEP);
	memcpy(pci->reset_config + at, cap, size);
	return at;
}

void virtio_registers_init(struct virtio_device *v)
{
	u8 *mask;

	pci_bar_init(&v->pci, VIRTIO_BAR, "virtio", VIRTIO_BAR_SIZE,
	             PCI_BAR_64 | PCI_BAR_PREFETCH, &bar_ops);
	v->pci_cfg_cap = capability(v, CAP_PCI, 0, 0, 4);
	mask = v->pci.wmask + v->pci_cfg_cap;
	mask[CAP_BAR] = 0xff;
	memset(mask + CAP_OFFSET, 0xff, 12);
	capability(v, CAP_NOTIFY, VIRTIO_AT_NOTIFY, VIRTIO_AREA, 4);
	if (v->config_size)
		capability(v, CAP_DEVICE, VIRTIO_AT_DEVICE, VIRTIO_AREA, 0);
	capability(v, CAP_ISR, VIRTIO_AT_ISR, VIRTIO_AREA, 0);
	capability(v, CAP_COMMON, VIRTIO_AT_COMMON, VIRTIO_AREA, 0);
}
