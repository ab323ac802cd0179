/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_fuzz - bytes become what a hostile guest does to a PCI bus with one
 * of each virtio device: register and configuration accesses, ring contents,
 * notifications, in any order, mixed with what the host side may do.
 *
 * The block and the link are here: they check what they are asked for, touch
 * all the memory they are given, and complete when the input says so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "devices/pci/q35.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "net/link.h"
#include "storage/block.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { RAM = 256 << 10, DISK = 64 << 10, DEVICES = 6, RING = 16 };
enum { BLK, NET, CONSOLE, RNG, MCH, LPC };

/* ---- storage/block.h ---- */

struct block {
	struct block_request *head;
	u8 data[DISK];
};

void block_info(const struct block *b, struct block_info *info)
{
	(void)b;
	*info =
	    (struct block_info){ .size = DISK, .sector = 512, .discard = true };
}

static void carry_out(struct block *b, const struct block_request *r)
{
	u8 *at = b->data + r->offset;

	for (int i = 0; i < r->iov_count; i++) {
		size_t n = r->iov[i].iov_len;

		if (r->op == BLOCK_READ)
			memcpy(r->iov[i].iov_base, at, n);
		else
			memcpy(at, r->iov[i].iov_base, n);
		at += n;
	}
}

/* Where it may be, every second sector's is over at once. */
bool block_submit(struct block *b, struct block_request *r)
{
	u64 sum = 0;

	for (int i = 0; i < r->iov_count; i++)
		sum += r->iov[i].iov_len;
	if (r->op == BLOCK_READ || r->op == BLOCK_WRITE)
		ASSERT(sum == r->length);
	if (r->op != BLOCK_FLUSH)
		ASSERT(r->offset <= DISK && r->length <= DISK - r->offset &&
		       r->offset % 512 == 0 && r->length % 512 == 0);
	if ((r->flags & BLOCK_REQ_INLINE) && r->offset & 512) {
		carry_out(b, r);
		r->done(r, 0);
		return true;
	}
	r->driver_private[0] = b->head;
	b->head = r;
	return false;
}

static void complete_one(struct block *b, int result)
{
	struct block_request *r = b->head;

	if (!r)
		return;
	b->head = r->driver_private[0];
	carry_out(b, r);
	r->done(r, result);
}

void block_drain(struct block *b)
{
	while (b->head)
		complete_one(b, 0);
}

/* ---- net/link.h ---- */

struct link {
	struct link_config config;
	size_t next; /* frame's length; 0: none */
	bool full;
};

void link_attach(struct link *l, const struct link_config *config)
{
	l->config = config ? *config : (struct link_config){ 0 };
}

void link_set_offloads(struct link *l, unsigned offloads)
{
	(void)l;
	(void)offloads;
}

bool link_carrier(const struct link *l)
{
	(void)l;
	return true;
}

int link_send(struct link *l, const struct iovec *iov, int count)
{
	u8 bytes[LINK_HDR + LINK_FRAME_MAX];
	size_t at = 0;

	if (l->full)
		return -EAGAIN;
	for (int i = 0; i < count; i++) {
		ASSERT(iov[i].iov_len <= sizeof(bytes) - at);
		memcpy(bytes + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return 0;
}

ssize_t link_receive(struct link *l, void *buf, size_t room)
{
	size_t n = l->next;

	if (!n)
		return -EAGAIN;
	ASSERT(n <= room);
	memset(buf, 0xff, n);
	l->next = 0;
	return (ssize_t)n;
}

void link_want_read(struct link *l, bool want)
{
	(void)l;
	(void)want;
}

/* ---- the machine ---- */

struct world {
	struct device_host host;
	struct pci_bus *pci;
	struct device *dev[DEVICES];
	struct block block;
	struct link link;
	size_t console_room;
	const u8 *in;
	size_t left;
};

static void set_gsi(void *ctx, unsigned gsi, bool high)
{
	(void)ctx;
	(void)high;
	ASSERT(gsi < 24);
}

static void msi(void *ctx, u64 addr, u32 data)
{
	(void)ctx;
	(void)addr;
	(void)data;
}

static size_t console_output(void *ctx, const void *buf, size_t len)
{
	struct world *w = ctx;
	size_t n = MIN(len, w->console_room);
	u8 sink = 0;

	for (size_t i = 0; i < n; i++)
		sink ^= ((const u8 *)buf)[i];
	w->console_room -= n;
	return n + (sink & 0u);
}

static u64 take(struct world *w, unsigned bytes)
{
	u64 value = 0;

	for (unsigned i = 0; i < bytes && w->left; i++, w->left--)
		value |= (u64)*w->in++ << (i * 8);
	return value;
}

static void build(struct world *w)
{
	struct irq_sink sink = { .set_gsi = set_gsi, .msi = msi };
	struct virtio_console_port ports[2] = {
		{ .console = true, .ctx = w, .output = console_output },
		{ .name = "channel", .ctx = w, .output = console_output },
	};
	struct virtio_blk_config blk = { .block = &w->block,
		                         .queues = 2,
		                         .devfn = PCI_DEVFN(1, 0) };
	struct virtio_net_config net = { .link = &w->link,
		                         .pairs = 2,
		                         .devfn = PCI_DEVFN(2, 0) };
	struct virtio_console_config console = { .ports = ports,
		                                 .port_count = 2,
		                                 .devfn = PCI_DEVFN(3, 0) };
	struct virtio_rng_config rng = { .devfn = PCI_DEVFN(4, 0) };
	struct pci_windows windows;
	struct device_host *h = &w->host;
	bool ok =
	    !memory_create(&h->memory, NULL) &&
	    !memory_add(h->memory, 0, RAM, MEMORY_RAM, "ram", NULL) &&
	    !memory_add(h->memory, RAM, 4096, MEMORY_RAM, "next", NULL) &&
	    !memory_add(h->memory, 1 << 20, 4096, MEMORY_ROM, "rom", NULL) &&
	    !bus_create(&h->pio, 65536) &&
	    !bus_create(&h->mmio, (u64)1 << 52) &&
	    !irq_hub_create(&h->irq, &sink) && !loop_create(&h->loop, NULL) &&
	    !clock_create(&h->clock, h->loop);

	ASSERT(ok);
	h->idle = idle_hub_create();
	clock_start(h->clock);
	pci_windows_default(&windows, RAM, 0, 40);
	w->pci = pci_bus_create(h, &windows);
	ok = !q35_mch_create(&w->dev[MCH], h, w->pci, NULL) &&
	     !q35_lpc_create(&w->dev[LPC], h, w->pci, NULL, NULL) &&
	     !virtio_blk_create(&w->dev[BLK], h, w->pci, &blk, NULL) &&
	     !virtio_net_create(&w->dev[NET], h, w->pci, &net, NULL) &&
	     !virtio_console_create(&w->dev[CONSOLE], h, w->pci, &console,
	                            NULL) &&
	     !virtio_rng_create(&w->dev[RNG], h, w->pci, &rng, NULL);
	ASSERT(ok);
	pci_assign_resources(w->pci);
}

static void tear_down(struct world *w)
{
	for (unsigned i = 0; i < DEVICES; i++)
		w->dev[i]->type->destroy(w->dev[i]);
	ASSERT(!w->block.head);
	pci_bus_destroy(w->pci);
	clock_destroy(w->host.clock);
	idle_hub_destroy(w->host.idle);
	loop_destroy(w->host.loop);
	irq_hub_destroy(w->host.irq);
	bus_destroy(w->host.mmio);
	bus_destroy(w->host.pio);
	memory_destroy(w->host.memory);
}

/* BAR 4 of a virtio device, or wherever its registers say it is. */
static u64 bar_of(struct world *w, unsigned which)
{
	u32 at = PCI_DEVFN(which + 1, 0);

	return (pci_config_read(w->pci, at, 0x20, 4) & ~15u) |
	       (u64)pci_config_read(w->pci, at, 0x24, 4) << 32;
}

static void reg(struct world *w, u64 at, unsigned size, u64 value)
{
	bus_write(w->host.mmio, at, size, value);
}

/* Where a queue's rings are, once start_device() has put them there. */
static gpa_t ring_of(unsigned queue)
{
	return 0x8000 + queue % 8 * 0x400u;
}

/* A driver's start, so that inputs need not find it byte by byte. */
static void start_device(struct world *w, unsigned which, u64 features)
{
	u64 c = bar_of(w, which), offered;

	pci_config_write(w->pci, PCI_DEVFN(which + 1, 0), 4, 6, 2);
	reg(w, c + 0x14, 1, 0);
	reg(w, c, 4, 0);
	bus_read(w->host.mmio, c + 4, 4, &offered);
	features = (features & offered & UINT32_MAX) | BIT(32);
	reg(w, c + 0x14, 1, 3);
	reg(w, c + 8, 4, 0);
	reg(w, c + 0xc, 4, (u32)features);
	reg(w, c + 8, 4, 1);
	reg(w, c + 0xc, 4, 1);
	reg(w, c + 0x14, 1, 11);
	for (unsigned i = 0; i < 8; i++) {
		reg(w, c + 0x16, 2, i);
		reg(w, c + 0x18, 2, RING);
		reg(w, c + 0x20, 4, ring_of(i));
		reg(w, c + 0x28, 4, ring_of(i) + 0x100);
		reg(w, c + 0x30, 4, ring_of(i) + 0x200);
		reg(w, c + 0x1c, 2, 1);
	}
	reg(w, c + 0x14, 1, 15);
}

static void put_descriptor(struct world *w)
{
	struct {
		u64 addr;
		u32 len;
		u16 flags, next;
	} d;
	gpa_t at = ring_of((unsigned)take(w, 1)) + (take(w, 1) & 15) * 16;

	d.addr = take(w, 2) << 2;
	if (d.addr & 4)
		d.addr = RAM - 64 + (d.addr & 127);
	d.len = (u32)take(w, 2);
	d.flags = (u16)take(w, 1);
	d.next = (u16)(take(w, 1) & 31);
	memory_write(w->host.memory, at, &d, sizeof(d));
}

static void put_avail(struct world *w)
{
	unsigned queue = (unsigned)take(w, 1);
	u16 head = (u16)(take(w, 1) & 31), idx;
	gpa_t avail = ring_of(queue) + 0x100;

	memory_read(w->host.memory, avail + 2, &idx, 2);
	memory_write(w->host.memory, avail + 4 + idx % RING * 2u, &head, 2);
	idx++;
	memory_write(w->host.memory, avail + 2, &idx, 2);
}

static void poke_memory(struct world *w)
{
	gpa_t at = take(w, 2);
	unsigned n = (unsigned)take(w, 1) & 31;

	for (unsigned i = 0; i < n; i++) {
		u8 byte = (u8)take(w, 1);

		memory_write(w->host.memory, at + i, &byte, 1);
	}
}

static void quit_loop(void *ctx)
{
	loop_quit(ctx, 0);
}

static void save_and_load(struct world *w, unsigned which)
{
	struct device *dev = w->dev[which];
	const struct device_type *t = dev->type;
	struct state_writer s = { 0 };
	struct state_reader r;

	if (t->quiesce)
		t->quiesce(dev);
	state_save(&s, t->name, "x", 1, 0, t->state, dev);
	/* A saved state may be altered, too. */
	if (take(w, 1) & 1)
		for (unsigned i = (unsigned)take(w, 1) & 7; i; i--)
			s.data[take(w, 2) % s.used] = (u8)take(w, 1);
	t->reset(dev);
	r = (struct state_reader){ s.data, s.used, 0 };
	if (!state_load(&r, t->name, "x", 1, t->state, dev, NULL) &&
	    t->loaded(dev, NULL))
		t->reset(dev);
	state_writer_fini(&s);
}

static void host_side(struct world *w)
{
	u8 what = (u8)take(w, 1);
	struct link *l = &w->link;

	switch (what & 7) {
	case 0:
		complete_one(&w->block, what & 8 ? -EIO : 0);
		if (what & 16)
			idle_hub_run(w->host.idle);
		break;
	case 1:
		l->next = LINK_HDR + 14 + take(w, 2);
		l->config.readable(l->config.ctx);
		break;
	case 2:
		l->full = what & 8;
		if (!l->full)
			l->config.writable(l->config.ctx);
		break;
	case 3:
		virtio_console_input(w->dev[CONSOLE], what >> 4,
		                     "some bytes to read", what >> 4);
		break;
	case 4:
		w->console_room = take(w, 1);
		virtio_console_writable(w->dev[CONSOLE], what >> 4);
		break;
	case 5:
		virtio_console_resize(w->dev[CONSOLE], what, 3);
		virtio_console_connect(w->dev[CONSOLE], what >> 4, what & 8);
		break;
	case 6:
		virtio_blk_resized(w->dev[BLK]);
		virtio_net_announce(w->dev[NET]);
		l->config.carrier(l->config.ctx, what & 8);
		break;
	default:
		loop_post(w->host.loop, quit_loop, w->host.loop);
		loop_run(w->host.loop);
	}
}

static void step(struct world *w)
{
	u8 op = (u8)take(w, 1);
	unsigned which = op >> 4 & 3;
	u64 at, ignored;

	switch (op & 15) {
	case 0:
		at = bar_of(w, which) + (take(w, 2) & 0x303f);
		bus_write(w->host.mmio, at, 1u << (op >> 6), take(w, 4));
		break;
	case 1:
		at = bar_of(w, which) + (take(w, 2) & 0x303f);
		bus_read(w->host.mmio, at, 1u << (op >> 6), &ignored);
		break;
	case 2:
		bus_write(w->host.pio, 0xcf8, 4,
		          BIT(31) | (u64)(op >> 4 & 7) << 11 |
		              (take(w, 1) & 0xfc));
		bus_write(w->host.pio, 0xcfc + (op >> 7), op & 128 ? 1 : 4,
		          take(w, 4));
		break;
	case 3:
		bus_write(w->host.pio, 0xcf8, 4, take(w, 4));
		bus_read(w->host.pio, 0xcfc, 4, &ignored);
		break;
	case 4:
		at = take(w, 5);
		bus_write(w->host.mmio, at, 4, take(w, 4));
		break;
	case 5:
		poke_memory(w);
		break;
	case 6:
	case 7:
		put_descriptor(w);
		break;
	case 8:
	case 9:
		put_avail(w);
		break;
	case 10:
	case 11:
		reg(w, bar_of(w, which) + 0x3000 + (take(w, 1) & 15) * 4, 2, 0);
		break;
	case 12:
		start_device(w, which, take(w, 4));
		break;
	case 13:
		host_side(w);
		break;
	case 14:
		save_and_load(w, (op >> 4) % DEVICES);
		break;
	default:
		w->dev[(op >> 4) % DEVICES]->type->reset(
		    w->dev[(op >> 4) % DEVICES]);
		pci_assign_resources(w->pci);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct world *w = xalloc(sizeof(*w));

	log_setup(-1, LOG_ERROR, "fuzz");
	w->in = data;
	w->left = size;
	build(w);
	for (unsigned steps = 0; w->left && steps < 2000; steps++)
		step(w);
	tear_down(w);
	free(w);
	return 0;
}
