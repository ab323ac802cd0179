/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - a network card. Queues 2i receive and 2i + 1 send for pair i; the
 * control queue is the last (virtio 1.2 section 5.1.2).
 *
 *	config: 0 MAC, 6 status, 8 max_virtqueue_pairs, 10 mtu
 *
 * Frames out go to the link from where the guest has them; frames in are
 * copied once. A frame that finds no buffers waits here, and the link is told
 * to hold the rest. Which pair a frame comes in on: the one that last sent on
 * its flow.
 */
#include "devices/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/net_filter.h"
#include "devices/virtio/virtio.h"
#include "net/link.h"

#define F_CSUM BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_CTRL_GUEST_OFFLOADS BIT(2)
#define F_MTU BIT(3)
#define F_MAC BIT(5)
#define F_GUEST_TSO4 BIT(7)
#define F_GUEST_TSO6 BIT(8)
#define F_GUEST_ECN BIT(9)
#define F_HOST_TSO4 BIT(11)
#define F_HOST_TSO6 BIT(12)
#define F_HOST_ECN BIT(13)
#define F_MRG_RXBUF BIT(15)
#define F_STATUS BIT(16)
#define F_CTRL_VQ BIT(17)
#define F_CTRL_RX BIT(18)
#define F_CTRL_VLAN BIT(19)
#define F_CTRL_RX_EXTRA BIT(20)
#define F_GUEST_ANNOUNCE BIT(21)
#define F_MQ BIT(22)
#define F_CTRL_MAC_ADDR BIT(23)
#define GUEST_OFFLOADS                                                         \
	(F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN)

enum {
	CONFIG_MAC = 0,
	CONFIG_STATUS = 6,
	CONFIG_PAIRS = 8,
	CONFIG_MTU = 10,
	CONFIG_SIZE = 12,
	STATUS_LINK_UP = 1,
	STATUS_ANNOUNCE = 2,
};
enum { /* control classes and commands */
       CTRL_RX = 0,
       CTRL_MAC = 1,
       CTRL_VLAN = 2,
       CTRL_ANNOUNCE = 3,
       CTRL_MQ = 4,
       CTRL_OFFLOADS = 5,
       MAC_TABLE_SET = 0,
       MAC_ADDR_SET = 1,
       VLAN_ADD = 0,
       VLAN_DEL = 1,
       CTRL_BODY_MAX = 8192,
       CTRL_OK = 0,
       CTRL_ERR = 1,
};
enum {
	PAIRS_MAX = 32,
	QUEUE_SIZE = 256,
	RX_BUDGET = 128, /* frames before others get the lock */
	NUM_BUFFERS_AT = 10,
	FRAME_ROOM = LINK_HDR + LINK_FRAME_MAX,
};
/* Long enough for a guest with little time to see it: its carrier is away. */
#define UNPLUGGED_NS (500 * NSEC_PER_MSEC)

struct virtio_net {
	struct virtio_device v;
	struct link *link; /* borrowed */
	u8 mac[6];         /* the machine's, not what the guest set */
	u16 pairs;         /* offered */
	u16 active_pairs;  /* in use */
	u8 announce;
	bool own_network;
	bool unplugged;             /* a copy's, for a while */
	struct clock_timer plug_in; /* ends it */
	u64 offloads;               /* GUEST_* bits in force */
	struct net_filter filter;
	struct virtio_net_figures figures;
	bool tx_blocked[PAIRS_MAX]; /* until the link is writable */
	bool rx_stalled;            /* the link was told to hold */
	size_t frame_len;           /* of the frame that waits; 0: none */
	struct virtq_chain chain, first;
	u8 body[CTRL_BODY_MAX];
	u8 frame[FRAME_ROOM];
};

static struct virtio_net *net_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_net, v);
}

static unsigned control_index(const struct virtio_net *n)
{
	return virtio_has(&n->v, F_MQ) ? n->pairs * 2u : 2;
}

/* ---- sending ---- */

static void learn_flow(struct virtio_net *n, const struct virtq *q)
{
	u8 head[NET_HEADERS];
	size_t len;

	if (n->active_pairs < 2)
		return;
	len = virtq_copy_out(&n->chain, LINK_HDR, head, sizeof(head));
	n->filter.flow[net_flow(head, len)] = (u8)(q->index / 2);
}

/* false: the link is full, the frame stays in the ring. */
static bool send_one(struct virtio_net *n, struct virtq *q)
{
	const struct virtq_chain *c = &n->chain;

	/* What is no frame at all is lost, as on a wire. */
	if (c->out_bytes > LINK_HDR && c->out_bytes <= FRAME_ROOM) {
		learn_flow(n, q);
		if (link_send(n->link, c->iov, c->out) == -EAGAIN)
			return false;
		n->figures.sent_frames++;
		n->figures.sent_bytes += c->out_bytes - LINK_HDR;
	}
	virtq_push(q, c->head, 0);
	return true;
}

static void send_all(struct virtio_net *n, struct virtq *q)
{
	unsigned budget = q->size;

	if (n->tx_blocked[q->index / 2])
		return;
	do {
		while (virtq_pop(q, &n->chain)) {
			if (!send_one(n, q)) {
				virtq_unpop(q);
				n->tx_blocked[q->index / 2] = true;
				goto out;
			}
			if (!--budget) {
				virtio_again(&n->v, q);
				goto out;
			}
		}
	} while (virtq_wait(q));
out:
	virtq_interrupt(q);
}

static void link_writable(void *ctx)
{
	struct virtio_net *n = ctx;

	device_lock(&n->v.pci.dev);
	for (unsigned i = 0; i < n->pairs; i++) {
		struct virtq *q = &n->v.queues[i * 2 + 1];

		if (!n->tx_blocked[i])
			continue;
		n->tx_blocked[i] = false;
		if (q->running && virtio_active(&n->v))
			send_all(n, q);
	}
	device_unlock(&n->v.pci.dev);
}

void virtio_net_figures(struct device *dev, struct virtio_net_figures *figures)
{
	struct virtio_net *n = container_of(dev, struct virtio_net, v.pci.dev);

	device_lock(dev);
	*figures = n->figures;
	device_unlock(dev);
}

/* ---- receiving ---- */

enum delivery { DELIVERED, NO_BUFFERS, DROPPED };

/*
 * Put the frame into chains of q. With MRG_RXBUF several may share it; their
 * number goes into the header of the first, and all are published at once.
 */
static enum delivery deliver_to(struct virtio_net *n, struct virtq *q)
{
	bool merge = virtio_has(&n->v, F_MRG_RXBUF);
	size_t done = 0;
	u16 chains = 0;
	u8 count[2];

	while (done < n->frame_len) {
		struct virtq_chain *c = chains ? &n->chain : &n->first;
		size_t part;

		if ((chains && !merge) || chains == q->size ||
		    !virtq_pop(q, c)) {
			bool hopeless = (chains && !merge) || chains == q->size;

			q->last_avail = (u16)(q->last_avail - chains);
			return hopeless ? DROPPED : NO_BUFFERS;
		}
		if (c->in_bytes < (chains ? 1 : LINK_HDR)) {
			virtio_broken(&n->v, "receive buffer too small");
			return DROPPED;
		}
		part = virtq_copy_in(q, c, 0, n->frame + done,
		                     n->frame_len - done);
		virtq_fill(q, chains++, c->head, (u32)part);
		done += part;
	}
	count[0] = (u8)chains;
	count[1] = (u8)(chains >> 8);
	n->figures.received_frames++;
	n->figures.received_bytes += n->frame_len - LINK_HDR;
	virtq_copy_in(q, &n->first, NUM_BUFFERS_AT, count, 2);
	virtq_publish(q, chains);
	return DELIVERED;
}

static struct virtq *rx_queue(struct virtio_net *n, unsigned pair)
{
	struct virtq *q = &n->v.queues[pair * 2];

	return q->running ? q : NULL;
}

/* The flow's own queue, else any that has buffers: order across queues is
 * no promise, and one sleeping CPU shall not hold up the others. */
static enum delivery deliver(struct virtio_net *n, u32 *touched)
{
	unsigned active = n->active_pairs;
	unsigned first = 0;
	enum delivery d = NO_BUFFERS;

	if (active > 1)
		first = n->filter.flow[net_flow(n->frame + LINK_HDR,
		                                n->frame_len - LINK_HDR)] %
		        active;
	for (unsigned i = 0; i < active && d == NO_BUFFERS; i++) {
		unsigned pair = (first + i) % active;
		struct virtq *q = rx_queue(n, pair);

		if (!q)
			continue;
		d = deliver_to(n, q);
		if (d == NO_BUFFERS && virtq_wait(q))
			d = deliver_to(n, q);
		if (d == DELIVERED)
			*touched |= (u32)BIT(pair);
	}
	return d;
}

/* The next frame that the guest is to see, into n->frame. */
static bool next_frame(struct virtio_net *n, unsigned *budget)
{
	while (!n->frame_len && *budget) {
		ssize_t got = link_receive(n->link, n->frame, FRAME_ROOM);

		--*budget;
		if (got == -EAGAIN)
			return false;
		if (got > LINK_HDR &&
		    net_filter_pass(&n->filter, n->frame + LINK_HDR,
		                    (size_t)got - LINK_HDR))
			n->frame_len = (size_t)got;
	}
	return n->frame_len;
}

static void hold(struct virtio_net *n, bool stalled)
{
	if (n->rx_stalled == stalled)
		return;
	n->rx_stalled = stalled;
	link_want_read(n->link, !stalled);
}

static void receive_all(struct virtio_net *n)
{
	unsigned budget = RX_BUDGET;
	u32 touched = 0;

	if (!virtio_active(&n->v)) {
		hold(n, true);
		return;
	}
	while (next_frame(n, &budget)) {
		if (deliver(n, &touched) == NO_BUFFERS) {
			hold(n, true);
			break;
		}
		n->frame_len = 0;
	}
	for (unsigned i = 0; i < n->pairs; i++)
		if (touched & BIT(i))
			virtq_interrupt(&n->v.queues[i * 2]);
}

static void link_readable(void *ctx)
{
	struct virtio_net *n = ctx;

	device_lock(&n->v.pci.dev);
	receive_all(n);
	device_unlock(&n->v.pci.dev);
}

/* ---- control ---- */

static unsigned link_offloads(u64 bits)
{
	return (bits & F_GUEST_CSUM ? LINK_CSUM : 0) |
	       (bits & F_GUEST_TSO4 ? LINK_TSO4 : 0) |
	       (bits & F_GUEST_TSO6 ? LINK_TSO6 : 0) |
	       (bits & F_GUEST_ECN ? LINK_TSO_ECN : 0);
}

static bool set_offloads(struct virtio_net *n, const u8 *body, size_t len)
{
	u64 bits;

	if (len != sizeof(bits) || !virtio_has(&n->v, F_CTRL_GUEST_OFFLOADS))
		return false;
	memcpy(&bits, body, sizeof(bits));
	if (bits & ~(n->v.features & GUEST_OFFLOADS))
		return false;
	n->offloads = bits;
	link_set_offloads(n->link, link_offloads(bits));
	return true;
}

static bool set_pairs(struct virtio_net *n, const u8 *body, size_t len)
{
	unsigned pairs;

	if (len != 2 || !virtio_has(&n->v, F_MQ))
		return false;
	pairs = body[0] | (unsigned)body[1] << 8;
	if (!pairs || pairs > n->pairs)
		return false;
	n->active_pairs = (u16)pairs;
	memset(n->filter.flow, 0, sizeof(n->filter.flow));
	return true;
}

static bool set_mac(struct virtio_net *n, u8 command, const u8 *body,
                    size_t len)
{
	if (command == MAC_TABLE_SET)
		return virtio_has(&n->v, F_CTRL_RX) &&
		       net_filter_table(&n->filter, body, len);
	if (command != MAC_ADDR_SET || len != 6 ||
	    !virtio_has(&n->v, F_CTRL_MAC_ADDR))
		return false;
	memcpy(n->filter.own, body, 6);
	memcpy(n->v.config + CONFIG_MAC, body, 6);
	return true;
}

static bool set_vlan(struct virtio_net *n, u8 command, const u8 *body,
                     size_t len)
{
	if (len != 2 || command > VLAN_DEL || !virtio_has(&n->v, F_CTRL_VLAN))
		return false;
	return net_filter_vlan(&n->filter, body[0] | (unsigned)body[1] << 8,
	                       command == VLAN_ADD);
}

static void status_update(struct virtio_net *n)
{
	bool up = link_carrier(n->link) && !n->unplugged;
	unsigned status =
	    (up ? STATUS_LINK_UP : 0) | (n->announce ? STATUS_ANNOUNCE : 0);

	virtio_config_put(&n->v, CONFIG_STATUS, status, 2);
}

static bool control(struct virtio_net *n, const u8 *body, size_t len)
{
	u8 class = body[0], command = body[1];

	body += 2;
	len -= 2;
	switch (class) {
	case CTRL_RX:
		return len == 1 && virtio_has(&n->v, F_CTRL_RX) &&
		       net_filter_mode(&n->filter, command, body[0]);
	case CTRL_MAC:
		return set_mac(n, command, body, len);
	case CTRL_VLAN:
		return set_vlan(n, command, body, len);
	case CTRL_ANNOUNCE:
		if (command || !virtio_has(&n->v, F_GUEST_ANNOUNCE))
			return false;
		n->announce = 0;
		status_update(n);
		return true;
	case CTRL_MQ:
		return command == 0 && set_pairs(n, body, len);
	case CTRL_OFFLOADS:
		return command == 0 && set_offloads(n, body, len);
	default:
		return false;
	}
}

static void control_all(struct virtio_net *n, struct virtq *q)
{
	const struct virtq_chain *c = &n->chain;
	unsigned budget = q->size;

	do {
		while (virtq_pop(q, &n->chain)) {
			u8 ack = CTRL_ERR;
			size_t len;

			if (c->out_bytes < 2 || !c->in_bytes) {
				virtio_broken(&n->v, "short control command");
				return;
			}
			len = virtq_copy_out(c, 0, n->body, CTRL_BODY_MAX);
			if (len == c->out_bytes && control(n, n->body, len))
				ack = CTRL_OK;
			virtq_copy_in(q, c, 0, &ack, 1);
			virtq_push(q, c->head, 1);
			if (!--budget) {
				virtio_again(&n->v, q);
				goto out;
			}
		}
	} while (virtq_wait(q));
out:
	virtq_interrupt(q);
}

/* ---- the device ---- */

static void notify(struct virtio_device *v, struct virtq *q)
{
	struct virtio_net *n = net_of(v);

	if (q->index == control_index(n)) {
		if (virtio_has(v, F_CTRL_VQ))
			control_all(n, q);
	} else if (q->index & 1) {
		send_all(n, q);
	} else if (n->rx_stalled) {
		hold(n, false);
		receive_all(n);
	}
}

static void agreed(struct virtio_device *v)
{
	struct virtio_net *n = net_of(v);

	n->filter.enabled = virtio_has(v, F_CTRL_RX);
	n->filter.vlan_filter = virtio_has(v, F_CTRL_VLAN);
	n->offloads = v->features & GUEST_OFFLOADS;
	link_set_offloads(n->link, link_offloads(n->offloads));
}

static void start(struct virtio_device *v)
{
	hold(net_of(v), false);
}

static void reset(struct virtio_device *v)
{
	struct virtio_net *n = net_of(v);

	net_filter_reset(&n->filter, n->mac);
	memcpy(v->config + CONFIG_MAC, n->mac, 6);
	memset(n->tx_blocked, 0, sizeof(n->tx_blocked));
	n->active_pairs = 1;
	n->announce = 0;
	clock_timer_cancel(&n->plug_in);
	n->unplugged = false;
	n->offloads = 0;
	n->frame_len = 0;
	link_set_offloads(n->link, 0);
	hold(n, true);
	status_update(n);
}

static void carrier_changed(void *ctx, bool up)
{
	struct virtio_net *n = ctx;

	(void)up;
	device_lock(&n->v.pci.dev);
	status_update(n);
	virtio_config_changed(&n->v);
	device_unlock(&n->v.pci.dev);
}

void virtio_net_announce(struct device *dev)
{
	struct virtio_net *n = container_of(dev, struct virtio_net, v.pci.dev);

	device_lock(dev);
	if (virtio_has(&n->v, F_GUEST_ANNOUNCE)) {
		n->announce = 1;
		status_update(n);
		virtio_config_changed(&n->v);
	}
	device_unlock(dev);
}

void virtio_net_new_address(struct device *dev)
{
	struct virtio_net *n = container_of(dev, struct virtio_net, v.pci.dev);

	device_lock(dev);
	memcpy(n->v.config + CONFIG_MAC, n->mac, 6);
	if (!n->own_network) {
		n->unplugged = true;
		clock_timer_arm(&n->plug_in,
		                clock_now_ns(dev->host->clock) + UNPLUGGED_NS);
	}
	status_update(n);
	virtio_config_changed(&n->v);
	device_unlock(dev);
}

static void plugged_in(void *ctx)
{
	struct virtio_net *n = container_of(ctx, struct virtio_net, v.pci.dev);

	n->unplugged = false;
	n->announce = virtio_has(&n->v, F_GUEST_ANNOUNCE);
	status_update(n);
	virtio_config_changed(&n->v);
}

static int loaded(struct device *dev, struct error *err)
{
	struct virtio_net *n = container_of(dev, struct virtio_net, v.pci.dev);
	u64 offloads = n->offloads;
	int rc;

	if (!n->active_pairs || n->active_pairs > n->pairs)
		n->active_pairs = 1;
	n->filter.uni_count = MIN(n->filter.uni_count, NET_MACS_MAX);
	n->filter.multi_count = MIN(n->filter.multi_count, NET_MACS_MAX);
	n->frame_len = 0;
	rc = virtio_type_loaded(dev, err);
	if (rc)
		return rc;
	device_lock(dev);
	n->offloads = offloads & n->v.features & GUEST_OFFLOADS;
	link_set_offloads(n->link, link_offloads(n->offloads));
	memcpy(n->v.config + CONFIG_MAC, n->filter.own, 6);
	status_update(n);
	device_unlock(dev);
	return 0;
}

static void destroy(struct device *dev)
{
	struct virtio_net *n = container_of(dev, struct virtio_net, v.pci.dev);

	link_attach(n->link, NULL);
	clock_timer_fini(&n->plug_in);
	virtio_fini(&n->v);
	free(n);
}

static const struct virtio_ops net_ops = {
	.notify = notify,
	.agreed = agreed,
	.start = start,
	.reset = reset,
};

static const struct field net_state[] = {
	VIRTIO_STATE(struct virtio_net, v),
	FIELD_VALUE(struct virtio_net, active_pairs),
	FIELD_VALUE(struct virtio_net, announce),
	FIELD_VALUE(struct virtio_net, offloads),
	FIELD_VALUE(struct virtio_net, filter.promisc),
	FIELD_VALUE(struct virtio_net, filter.all_multi),
	FIELD_VALUE(struct virtio_net, filter.all_uni),
	FIELD_VALUE(struct virtio_net, filter.no_multi),
	FIELD_VALUE(struct virtio_net, filter.no_uni),
	FIELD_VALUE(struct virtio_net, filter.no_broadcast),
	FIELD_BLOB(struct virtio_net, filter.own),
	FIELD_VALUE(struct virtio_net, filter.uni_count),
	FIELD_VALUE(struct virtio_net, filter.multi_count),
	FIELD_VALUE(struct virtio_net, filter.uni_overflow),
	FIELD_VALUE(struct virtio_net, filter.multi_overflow),
	FIELD_BLOB(struct virtio_net, filter.uni),
	FIELD_BLOB(struct virtio_net, filter.multi),
	FIELD_BLOB(struct virtio_net, filter.vlans),
	FIELD_LAST,
};

static const struct device_type net_type = {
	.name = "virtio-net",
	.state_major = 1,
	.state = net_state,
	.reset = virtio_type_reset,
	.quiesce = virtio_type_quiesce,
	.loaded = loaded,
	.destroy = destroy,
};

static u64 features(const struct virtio_net *n, u16 mtu)
{
	return F_CSUM | F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS | F_MAC |
	       F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_HOST_TSO4 |
	       F_HOST_TSO6 | F_HOST_ECN | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ |
	       F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA | F_GUEST_ANNOUNCE |
	       F_CTRL_MAC_ADDR | (mtu ? F_MTU : 0) | (n->pairs > 1 ? F_MQ : 0);
}

int virtio_net_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_net_config *config, struct error *err)
{
	struct virtio_net *n = xalloc(sizeof(*n));
	struct link_config callbacks = {
		.readable = link_readable,
		.writable = link_writable,
		.carrier = carrier_changed,
		.ctx = n,
	};
	struct virtio_setup setup = {
		.type = &net_type,
		.ops = &net_ops,
		.id = VIRTIO_ID_NET,
		.class_code = 0x020000,
		.queue_size = QUEUE_SIZE,
		.config_size = CONFIG_SIZE,
		.eventfd = config->eventfd,
		.devfn = config->devfn,
	};
	int rc;

	n->link = config->link;
	memcpy(n->mac, config->mac, 6);
	n->own_network = config->own_network;
	n->pairs = (u16)MIN(MAX(config->pairs, 1u), (unsigned)PAIRS_MAX);
	setup.queue_count = n->pairs * 2u + 1;
	setup.features = features(n, config->mtu);
	rc = virtio_init(&n->v, host, bus, &setup, err);
	if (rc) {
		free(n);
		return rc;
	}
	device_timer_init(&n->v.pci.dev, &n->plug_in, plugged_in);
	virtio_config_put(&n->v, CONFIG_PAIRS, n->pairs, 2);
	virtio_config_put(&n->v, CONFIG_MTU, config->mtu, 2);
	link_attach(n->link, &callbacks);
	link_want_read(n->link, false);
	*out = &n->v.pci.dev;
	return 0;
}
