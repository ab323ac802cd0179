/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <string.h>

#include "base/loop.h"
#include "devices/pci/q35.h"

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

static void set_gsi(void *ctx, unsigned gsi, bool high)
{
	((struct rig *)ctx)->gsi[gsi] = high;
}

static void msi(void *ctx, u64 addr, u32 data)
{
	struct rig *rig = ctx;

	rig->msi_addr = addr;
	rig->msi_count[data & 0xff]++;
}

void rig_init(struct rig *rig)
{
	struct irq_sink sink = { .ctx = rig, .set_gsi = set_gsi, .msi = msi };
	struct pci_windows windows;
	struct error err;

	memset(rig, 0, sizeof(*rig));
	assert_int_equal(memory_create(&rig->host.memory, &err), 0);
	assert_int_equal(
	    memory_add(rig->host.memory, 0, RIG_RAM, MEMORY_RAM, "ram", &err),
	    0);
	assert_int_equal(memory_add(rig->host.memory, RIG_HIGH_BASE, RIG_HIGH,
	                            MEMORY_RAM, "high", &err),
	                 0);
	assert_int_equal(memory_add(rig->host.memory, 0xfff00000, 4096,
	                            MEMORY_ROM, "rom", &err),
	                 0);
	assert_int_equal(bus_create(&rig->host.pio, 65536), 0);
	assert_int_equal(bus_create(&rig->host.mmio, (u64)1 << 52), 0);
	assert_int_equal(irq_hub_create(&rig->host.irq, &sink), 0);
	assert_int_equal(loop_create(&rig->host.loop, &err), 0);
	assert_int_equal(clock_create(&rig->host.clock, rig->host.loop), 0);
	rig->host.idle = idle_hub_create();
	clock_start(rig->host.clock);
	pci_windows_default(&windows, RIG_RAM, RIG_HIGH_BASE + RIG_HIGH, 40);
	rig->pci = pci_bus_create(&rig->host, &windows);
	assert_int_equal(q35_mch_create(&rig->mch, &rig->host, rig->pci, &err),
	                 0);
	assert_int_equal(
	    q35_lpc_create(&rig->lpc, &rig->host, rig->pci, NULL, &err), 0);
	rig->bump = 0x10000;
}

void rig_destroy(struct device *dev)
{
	dev->type->destroy(dev);
}

void rig_fini(struct rig *rig)
{
	rig_destroy(rig->lpc);
	rig_destroy(rig->mch);
	pci_bus_destroy(rig->pci);
	clock_destroy(rig->host.clock);
	idle_hub_destroy(rig->host.idle);
	loop_destroy(rig->host.loop);
	irq_hub_destroy(rig->host.irq);
	bus_destroy(rig->host.mmio);
	bus_destroy(rig->host.pio);
	memory_destroy(rig->host.memory);
}

gpa_t rig_alloc(struct rig *rig, u64 size)
{
	gpa_t at = rig->bump;

	rig->bump = ALIGN_UP(at + size, (u64)4096);
	assert_true(rig->bump <= RIG_RAM);
	memset(rig_ptr(rig, at, size), 0, size);
	return at;
}

void *rig_ptr(struct rig *rig, gpa_t gpa, u64 len)
{
	void *p = memory_ptr(rig->host.memory, gpa, len);

	assert_non_null(p);
	return p;
}

struct waiter {
	struct rig *rig;
	bool (*cond)(void *);
	void *ctx;
	struct loop_timer timer;
	u64 deadline;
	bool met;
};

static void poll(void *ctx)
{
	struct waiter *w = ctx;

	w->met = w->cond(w->ctx);
	if (w->met || loop_now_ns() > w->deadline)
		loop_quit(w->rig->host.loop, 0);
	else
		loop_timer_arm(&w->timer, loop_now_ns() + 200 * NSEC_PER_USEC);
}

void rig_wait(struct rig *rig, bool (*cond)(void *), void *ctx)
{
	struct waiter w = { .rig = rig, .cond = cond, .ctx = ctx };

	w.deadline = loop_now_ns() + 100 * NSEC_PER_SEC;
	loop_timer_init(&w.timer, rig->host.loop, poll, &w);
	loop_timer_arm(&w.timer, loop_now_ns());
	loop_run(rig->host.loop);
	loop_timer_fini(&w.timer);
	assert_true(w.met);
}

static void config_address(struct rig *rig, u8 devfn, unsigned off)
{
	bus_write(rig->host.pio, PCI_IO_ADDRESS, 4,
	          (u32)1 << 31 | (u32)devfn << 8 | (off & 0xfc));
}

u32 rig_config_read(struct rig *rig, u8 devfn, unsigned off, unsigned size)
{
	u64 value;

	config_address(rig, devfn, off);
	bus_read(rig->host.pio, PCI_IO_DATA + (off & 3), size, &value);
	return (u32)value;
}

void rig_config_write(struct rig *rig, u8 devfn, unsigned off, u32 value,
                      unsigned size)
{
	config_address(rig, devfn, off);
	bus_write(rig->host.pio, PCI_IO_DATA + (off & 3), size, value);
}

u64 rig_mmio_read(struct rig *rig, u64 addr, unsigned size)
{
	u64 value;

	bus_read(rig->host.mmio, addr, size, &value);
	return value;
}

void rig_mmio_write(struct rig *rig, u64 addr, unsigned size, u64 value)
{
	bus_write(rig->host.mmio, addr, size, value);
}

/* ---- the driver ---- */

static u64 bar_address(struct driver *d, unsigned bar)
{
	unsigned reg = PCI_BAR0 + bar * 4;
	u32 low = rig_config_read(d->rig, d->devfn, reg, 4);
	u64 base = low & ~15u;

	if ((low & 6) == 4)
		base |= (u64)rig_config_read(d->rig, d->devfn, reg + 4, 4)
		        << 32;
	return base;
}

static void probe_vendor(struct driver *d, u8 cap)
{
	u8 type = (u8)rig_config_read(d->rig, d->devfn, cap + 3u, 1);
	u8 bar = (u8)rig_config_read(d->rig, d->devfn, cap + 4u, 1);
	u64 at;

	if (type == 5) {
		d->pci_cfg = cap;
		return;
	}
	at = bar_address(d, bar) +
	     rig_config_read(d->rig, d->devfn, cap + 8u, 4);
	switch (type) {
	case 1:
		d->common = at;
		break;
	case 2:
		d->notify = at;
		d->notify_step =
		    rig_config_read(d->rig, d->devfn, cap + 16u, 4);
		break;
	case 3:
		d->isr = at;
		break;
	case 4:
		d->device = at;
		break;
	default:
		fail();
	}
}

void driver_probe(struct driver *d, struct rig *rig, u8 devfn)
{
	unsigned steps = 0;
	u8 cap;

	memset(d, 0, sizeof(*d));
	d->rig = rig;
	d->devfn = devfn;
	assert_int_equal(rig_config_read(rig, devfn, 0, 2), 0x1af4);
	cap = (u8)rig_config_read(rig, devfn, PCI_CAPABILITIES, 1);
	for (; cap; cap = (u8)rig_config_read(rig, devfn, cap + 1u, 1)) {
		u8 id = (u8)rig_config_read(rig, devfn, cap, 1);

		assert_true(++steps < 20);
		if (id == PCI_CAP_MSIX) {
			u32 table = rig_config_read(rig, devfn, cap + 4u, 4);
			u32 pba = rig_config_read(rig, devfn, cap + 8u, 4);

			d->msix = cap;
			d->msix_table =
			    bar_address(d, table & 7) + (table & ~7u);
			d->msix_pba = bar_address(d, pba & 7) + (pba & ~7u);
		} else if (id == PCI_CAP_VENDOR) {
			probe_vendor(d, cap);
		}
	}
	assert_true(d->common && d->isr && d->notify && d->msix && d->pci_cfg);
}

u64 driver_offered(struct driver *d)
{
	u64 low, high;

	rig_mmio_write(d->rig, d->common, 4, 0);
	low = rig_mmio_read(d->rig, d->common + 4, 4);
	rig_mmio_write(d->rig, d->common, 4, 1);
	high = rig_mmio_read(d->rig, d->common + 4, 4);
	return low | high << 32;
}

u8 driver_status(struct driver *d)
{
	return (u8)rig_mmio_read(d->rig, d->common + 0x14, 1);
}

void driver_set_status(struct driver *d, u8 status)
{
	rig_mmio_write(d->rig, d->common + 0x14, 1, status);
}

bool driver_negotiate(struct driver *d, u64 features)
{
	driver_set_status(d, 0);
	assert_int_equal(driver_status(d), 0);
	driver_set_status(d, 1);
	driver_set_status(d, 3);
	rig_mmio_write(d->rig, d->common + 8, 4, 0);
	rig_mmio_write(d->rig, d->common + 0xc, 4, (u32)features);
	rig_mmio_write(d->rig, d->common + 8, 4, 1);
	rig_mmio_write(d->rig, d->common + 0xc, 4, (u32)(features >> 32));
	driver_set_status(d, 0xb);
	d->features = features;
	return driver_status(d) & 8;
}

static void write64(struct driver *d, u64 at, u64 value)
{
	rig_mmio_write(d->rig, at, 4, (u32)value);
	rig_mmio_write(d->rig, at + 4, 4, (u32)(value >> 32));
}

void driver_queue(struct driver *d, unsigned index, u16 size, u16 vector)
{
	struct driver_queue *q = &d->queues[index];

	*q = (struct driver_queue){ .index = (u16)index, .size = size };
	q->desc = rig_alloc(d->rig, 16 * (u64)size);
	q->avail = rig_alloc(d->rig, 6 + 2 * (u64)size);
	q->used = rig_alloc(d->rig, 6 + 8 * (u64)size);
	q->free_count = size;
	for (u16 i = 0; i < size; i++)
		driver_desc(d, index, i, 0, 0, 0, (u16)(i + 1));
	rig_mmio_write(d->rig, d->common + 0x16, 2, index);
	rig_mmio_write(d->rig, d->common + 0x18, 2, size);
	rig_mmio_write(d->rig, d->common + 0x1a, 2, vector);
	write64(d, d->common + 0x20, q->desc);
	write64(d, d->common + 0x28, q->avail);
	write64(d, d->common + 0x30, q->used);
	rig_mmio_write(d->rig, d->common + 0x1c, 2, 1);
}

void driver_msix(struct driver *d, unsigned vectors, u32 base)
{
	for (unsigned i = 0; i < vectors; i++) {
		u64 at = d->msix_table + i * 16;

		rig_mmio_write(d->rig, at, 4, 0xfee00000);
		rig_mmio_write(d->rig, at + 4, 4, 0);
		rig_mmio_write(d->rig, at + 8, 4, base + i);
		rig_mmio_write(d->rig, at + 12, 4, 0);
	}
	rig_config_write(d->rig, d->devfn, d->msix + 2u, 0x8000, 2);
}

void driver_start(struct driver *d, u64 features, unsigned count)
{
	assert_true(driver_negotiate(d, features | BIT(32)));
	driver_msix(d, count + 1, 0x40);
	rig_mmio_write(d->rig, d->common + 0x10, 2, 0);
	for (unsigned i = 0; i < count; i++)
		driver_queue(d, i, 64, (u16)(i + 1));
	driver_set_status(d, 0xf);
	assert_int_equal(driver_status(d), 0xf);
}

void driver_desc(struct driver *d, unsigned queue, u16 at, u64 addr, u32 len,
                 u16 flags, u16 next)
{
	u8 *p = rig_ptr(d->rig, d->queues[queue].desc + at * 16u, 16);

	memcpy(p, &addr, 8);
	memcpy(p + 8, &len, 4);
	memcpy(p + 12, &flags, 2);
	memcpy(p + 14, &next, 2);
}

static u16 *ring16(struct driver *d, gpa_t at)
{
	return rig_ptr(d->rig, at, 2);
}

void driver_avail(struct driver *d, unsigned queue, u16 head)
{
	struct driver_queue *q = &d->queues[queue];
	u16 *idx = ring16(d, q->avail + 2);

	*ring16(d, q->avail + 4 + 2 * (gpa_t)(*idx % q->size)) = head;
	__atomic_store_n(idx, (u16)(*idx + 1), __ATOMIC_RELEASE);
}

static u16 take_desc(struct driver_queue *q, struct driver *d)
{
	u16 at = q->free_head;

	assert_true(q->free_count > 0);
	q->free_count--;
	q->free_head = *ring16(d, q->desc + at * 16u + 14);
	return at;
}

u16 driver_add(struct driver *d, unsigned queue, const struct buffer *out,
               unsigned outs, const struct buffer *in, unsigned ins)
{
	struct driver_queue *q = &d->queues[queue];
	u16 head = q->free_head;

	for (unsigned i = 0; i < outs + ins; i++) {
		const struct buffer *b = i < outs ? &out[i] : &in[i - outs];
		u16 at = take_desc(q, d);
		unsigned flags =
		    (i < outs ? 0 : WRITE) | (i + 1 < outs + ins ? NEXT : 0);

		driver_desc(d, queue, at, b->gpa, b->len, (u16)flags,
		            q->free_head);
	}
	driver_avail(d, queue, head);
	return head;
}

u16 driver_add_indirect(struct driver *d, unsigned queue,
                        const struct buffer *out, unsigned outs,
                        const struct buffer *in, unsigned ins)
{
	struct driver_queue *q = &d->queues[queue];
	gpa_t table = rig_alloc(d->rig, 16 * (u64)(outs + ins));
	u16 head = take_desc(q, d);

	for (unsigned i = 0; i < outs + ins; i++) {
		const struct buffer *b = i < outs ? &out[i] : &in[i - outs];
		u16 flags = (u16)((i < outs ? 0 : WRITE) |
		                  (i + 1 < outs + ins ? NEXT : 0));
		u16 next = (u16)(i + 1);
		u8 *p = rig_ptr(d->rig, table + i * 16u, 16);

		memcpy(p, &b->gpa, 8);
		memcpy(p + 8, &b->len, 4);
		memcpy(p + 12, &flags, 2);
		memcpy(p + 14, &next, 2);
	}
	driver_desc(d, queue, head, table, 16 * (outs + ins), INDIRECT, 0);
	driver_avail(d, queue, head);
	return head;
}

void driver_notify(struct driver *d, unsigned queue)
{
	u64 off;

	rig_mmio_write(d->rig, d->common + 0x16, 2, queue);
	off = rig_mmio_read(d->rig, d->common + 0x1e, 2);
	rig_mmio_write(d->rig, d->notify + off * d->notify_step, 2, queue);
}

/* Give the descriptors of a chain back to the free list. */
static void free_chain(struct driver *d, struct driver_queue *q, u16 head)
{
	u16 at = head, flags;

	for (;;) {
		u16 *next = ring16(d, q->desc + at * 16u + 14);

		flags = *ring16(d, q->desc + at * 16u + 12);
		q->free_count++;
		if (!(flags & NEXT)) {
			*next = q->free_head;
			q->free_head = head;
			return;
		}
		at = *next;
	}
}

bool driver_used(struct driver *d, unsigned queue, u16 *head, u32 *len)
{
	struct driver_queue *q = &d->queues[queue];
	u16 idx = __atomic_load_n(ring16(d, q->used + 2), __ATOMIC_ACQUIRE);
	u32 entry[2];

	if (idx == q->last_used)
		return false;
	memcpy(entry,
	       rig_ptr(d->rig,
	               q->used + 4 + 8 * (gpa_t)(q->last_used % q->size), 8),
	       8);
	q->last_used++;
	if (head)
		*head = (u16)entry[0];
	if (len)
		*len = entry[1];
	free_chain(d, q, (u16)entry[0]);
	return true;
}

struct used_wait {
	struct driver *d;
	unsigned queue;
	u16 *head;
	u32 *len;
};

static bool used_now(void *ctx)
{
	struct used_wait *w = ctx;

	return driver_used(w->d, w->queue, w->head, w->len);
}

void driver_wait(struct driver *d, unsigned queue, u16 *head, u32 *len)
{
	struct used_wait w = { d, queue, head, len };

	rig_wait(d->rig, used_now, &w);
}

u16 driver_avail_event(struct driver *d, unsigned queue)
{
	struct driver_queue *q = &d->queues[queue];

	return *ring16(d, q->used + 4 + 8 * (gpa_t)q->size);
}

void driver_set_used_event(struct driver *d, unsigned queue, u16 event)
{
	struct driver_queue *q = &d->queues[queue];

	*ring16(d, q->avail + 4 + 2 * (gpa_t)q->size) = event;
}
