/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_route - from GSIs to pins and messages, and eventfds that raise them.
 *
 * GSIs 0-15 reach a PIC pin and an IOAPIC pin, 16-23 an IOAPIC pin; GSI 0,
 * the PIT's, is pin 2 of the IOAPIC, as the MADT says. GSIs above carry one
 * message each.
 */
#include "engine/kvm/kvm_irqchip.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/kvm/kvm.h"

enum { ENTRIES_MAX = KVM_PINS * 2 + KVM_ROUTES_MAX };

static void add_pin(struct kvm_irq_routing *t, u32 gsi, u32 chip, u32 pin)
{
	struct kvm_irq_routing_entry *entry = &t->entries[t->nr++];

	entry->gsi = gsi;
	entry->type = KVM_IRQ_ROUTING_IRQCHIP;
	entry->u.irqchip.irqchip = chip;
	entry->u.irqchip.pin = pin;
}

static int commit(struct engine *e)
{
	return kvm_call(e->vm, KVM_SET_GSI_ROUTING, e->routes);
}

int kvm_routes_create(struct engine *e, struct error *err)
{
	int r;

	e->routes = xalloc(sizeof(*e->routes) +
	                   ENTRIES_MAX * sizeof(e->routes->entries[0]));
	for (u32 gsi = 0; gsi < KVM_PINS; gsi++) {
		if (gsi < 8)
			add_pin(e->routes, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
		else if (gsi < 16)
			add_pin(e->routes, gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8);
		if (gsi == 0)
			add_pin(e->routes, gsi, KVM_IRQCHIP_IOAPIC, 2);
		else if (gsi != 2)
			add_pin(e->routes, gsi, KVM_IRQCHIP_IOAPIC, gsi);
	}
	r = commit(e);
	if (r < 0)
		return error_set(err, r, "kvm: cannot route interrupts: %s",
		                 strerror(-r));
	return 0;
}

static int attach(struct engine *e, int fd, unsigned gsi, bool on)
{
	struct kvm_irqfd irqfd = { .fd = (u32)fd, .gsi = gsi };

	if (!on)
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	return kvm_call(e->vm, KVM_IRQFD, &irqfd);
}

int kvm_line_irqfd(struct engine *e, int fd, unsigned gsi, bool on)
{
	return gsi < KVM_PINS ? attach(e, fd, gsi, on) : -EINVAL;
}

static struct kvm_irq_routing_entry *find(struct engine *e, u32 gsi)
{
	for (u32 i = 0; i < e->routes->nr; i++)
		if (e->routes->entries[i].gsi == gsi)
			return &e->routes->entries[i];
	return NULL;
}

static void fill(struct kvm_irq_routing_entry *entry, u64 addr, u32 data)
{
	entry->type = KVM_IRQ_ROUTING_MSI;
	entry->u.msi.address_lo = (u32)addr;
	entry->u.msi.address_hi = (u32)(addr >> 32);
	entry->u.msi.data = data;
}

static void drop(struct engine *e, u32 gsi)
{
	struct kvm_irq_routing_entry *entry = find(e, gsi);

	if (!entry)
		return;
	*entry = e->routes->entries[--e->routes->nr];
	e->route_used[gsi - KVM_PINS] = 0;
}

static int create_locked(struct engine *e, int fd, u64 addr, u32 data)
{
	struct kvm_irq_routing_entry *entry;
	u32 n = 0, gsi;
	int r;

	while (n < KVM_ROUTES_MAX && e->route_used[n])
		n++;
	if (n == KVM_ROUTES_MAX)
		return -ENOSPC;
	gsi = n + KVM_PINS;
	entry = &e->routes->entries[e->routes->nr++];
	memset(entry, 0, sizeof(*entry));
	entry->gsi = gsi;
	fill(entry, addr, data);
	e->route_used[n] = 1;
	r = commit(e);
	if (r == 0)
		r = attach(e, fd, gsi, true);
	if (r == 0)
		return (int)gsi;
	drop(e, gsi);
	commit(e);
	return r;
}

int kvm_message_create(struct engine *e, int fd, u64 addr, u32 data)
{
	int r;

	pthread_mutex_lock(&e->routes_lock);
	r = create_locked(e, fd, addr, data);
	pthread_mutex_unlock(&e->routes_lock);
	return r;
}

int kvm_message_set(struct engine *e, int gsi, u64 addr, u32 data)
{
	struct kvm_irq_routing_entry *entry, old;
	int r = -ENOENT;

	pthread_mutex_lock(&e->routes_lock);
	entry = gsi >= KVM_PINS ? find(e, (u32)gsi) : NULL;
	if (entry) {
		old = *entry;
		fill(entry, addr, data);
		r = commit(e);
		if (r < 0)
			*entry = old;
	}
	pthread_mutex_unlock(&e->routes_lock);
	return r;
}

void kvm_message_destroy(struct engine *e, int gsi, int fd)
{
	if (gsi < KVM_PINS)
		return;
	pthread_mutex_lock(&e->routes_lock);
	attach(e, fd, (unsigned)gsi, false);
	drop(e, (u32)gsi);
	commit(e);
	pthread_mutex_unlock(&e->routes_lock);
}
