/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.c - serial ports. Queues 0 and 1 carry port 0 in and out, 2 and 3
 * the control messages, 4 and up the other ports.
 *
 *	config:  0 columns, 2 rows, 4 max_nr_ports
 *	control: u32 port, u16 event, u16 value; a name or a size may follow
 *
 * A terminal alone is offered without MULTIPORT, so that its size is told by
 * the configuration space: kernels disagree on the order of columns and rows
 * in the control message, but not there.
 *
 * What is to be told to the driver is a set of bits a port, so that no queue
 * of messages can overflow or need saving.
 */
#include "devices/virtio/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "devices/virtio/virtio.h"

#define F_SIZE BIT(0)
#define F_MULTIPORT BIT(1)

enum {
	CONFIG_COLUMNS = 0,
	CONFIG_ROWS = 2,
	CONFIG_PORTS = 4,
	CONFIG_SIZE = 8,
	CONTROL_IN = 2,
	CONTROL_OUT = 3,
	QUEUE_SIZE = 128,
	MESSAGE_SIZE = 8,
	MESSAGE_MAX = 128,
};
enum event {
	DEVICE_READY = 0,
	PORT_ADD = 1,
	PORT_READY = 3,
	CONSOLE_PORT = 4,
	RESIZE = 5,
	PORT_OPEN = 6,
	PORT_NAME = 7,
};

struct port {
	struct virtio_console_port host;
	bool connected;  /* the host end is */
	bool wants_room; /* input was cut short */
	bool stuck;      /* output was, until virtio_console_writable() */
};

struct virtio_console {
	struct virtio_device v;
	unsigned port_count;
	struct port ports[VIRTIO_CONSOLE_PORTS_MAX];
	/* Saved: */
	u8 guest_open[VIRTIO_CONSOLE_PORTS_MAX];
	u8 to_tell[VIRTIO_CONSOLE_PORTS_MAX]; /* bits: enum event */
	u32 sent[VIRTIO_CONSOLE_PORTS_MAX];   /* of the chain that is stuck */
	struct virtq_chain chain;
};

static struct virtio_console *console_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_console, v);
}

static struct virtio_console *console_of_device(struct device *dev)
{
	return container_of(dev, struct virtio_console, v.pci.dev);
}

static bool multiport(const struct virtio_console *c)
{
	return virtio_has(&c->v, F_MULTIPORT);
}

static struct virtq *queue_in(struct virtio_console *c, unsigned port)
{
	return &c->v.queues[port ? port * 2 + 2 : 0];
}

static struct virtq *queue_out(struct virtio_console *c, unsigned port)
{
	return queue_in(c, port) + 1;
}

/* ---- from the guest ---- */

/* true: the host side took all of the chain in hand. */
static bool output_chain(struct virtio_console *c, unsigned index)
{
	struct port *p = &c->ports[index];
	size_t skip = c->sent[index];

	if (!p->connected || !p->host.output)
		return true;
	for (unsigned i = 0; i < c->chain.out; i++) {
		const struct iovec *v = &c->chain.iov[i];
		size_t n;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		n = p->host.output(p->host.ctx, (const u8 *)v->iov_base + skip,
		                   v->iov_len - skip);
		ASSERT(n <= v->iov_len - skip);
		c->sent[index] += (u32)n;
		if (n < v->iov_len - skip)
			return false;
		skip = 0;
	}
	return true;
}

static void output(struct virtio_console *c, unsigned index)
{
	struct virtq *q = queue_out(c, index);
	struct port *p = &c->ports[index];
	unsigned budget = q->size;

	if (p->stuck || !q->running || !virtio_active(&c->v))
		return;
	do {
		while (virtq_pop(q, &c->chain)) {
			if (!output_chain(c, index)) {
				virtq_unpop(q);
				p->stuck = true;
				goto out;
			}
			c->sent[index] = 0;
			virtq_push(q, c->chain.head, 0);
			if (!--budget) {
				virtio_again(&c->v, q);
				goto out;
			}
		}
	} while (virtq_wait(q));
out:
	virtq_interrupt(q);
}

void virtio_console_writable(struct device *dev, unsigned port)
{
	struct virtio_console *c = console_of_device(dev);

	device_lock(dev);
	if (port < c->port_count) {
		c->ports[port].stuck = false;
		output(c, port);
	}
	device_unlock(dev);
}

/* ---- to the guest ---- */

/* Without MULTIPORT nobody says so, and a driver is a reader. */
static bool reads(const struct virtio_console *c, unsigned port)
{
	return !multiport(c) || c->guest_open[port];
}

size_t virtio_console_input(struct device *dev, unsigned port, const void *buf,
                            size_t len)
{
	struct virtio_console *c = console_of_device(dev);
	const u8 *from = buf;
	struct virtq *q;
	size_t done = 0;

	if (port >= c->port_count)
		return len;
	device_lock(dev);
	q = queue_in(c, port);
	while (done < len && reads(c, port)) {
		size_t n;

		if (!virtq_pop(q, &c->chain)) {
			if (virtq_wait(q))
				continue;
			break;
		}
		n = virtq_copy_in(q, &c->chain, 0, from + done, len - done);
		done += n;
		virtq_push(q, c->chain.head, (u32)n);
		if (!n) {
			virtio_broken(&c->v, "receive buffer of no bytes");
			break;
		}
	}
	if (done)
		virtq_interrupt(q);
	c->ports[port].wants_room = done < len;
	device_unlock(dev);
	return done;
}

static void tell_room(struct virtio_console *c, unsigned port)
{
	struct port *p = &c->ports[port];

	if (!p->wants_room || !reads(c, port))
		return;
	p->wants_room = false;
	if (p->host.input_room)
		p->host.input_room(p->host.ctx);
}

/* ---- control messages ---- */

static size_t message(const struct virtio_console *c, unsigned port,
                      enum event event, u8 buf[MESSAGE_MAX])
{
	const struct port *p = &c->ports[port];
	size_t n = MESSAGE_SIZE;

	memset(buf, 0, MESSAGE_MAX);
	pci_put32(buf, port);
	pci_put16(buf + 4, (u16)event);
	pci_put16(buf + 6, event == PORT_OPEN ? p->connected : 1);
	if (event == PORT_NAME) {
		size_t len = strnlen(p->host.name, MESSAGE_MAX - n);

		memcpy(buf + n, p->host.name, len);
		n += len;
	} else if (event == RESIZE) {
		memcpy(buf + n, c->v.config + CONFIG_COLUMNS, 4);
		n += 4;
	}
	return n;
}

/* Lower events first: a port is added before it is named. */
static void tell(struct virtio_console *c)
{
	struct virtq *q = &c->v.queues[CONTROL_IN];
	bool any = false;
	u8 buf[MESSAGE_MAX];

	if (!multiport(c))
		return;
	for (unsigned port = 0; port < c->port_count; port++) {
		while (c->to_tell[port]) {
			enum event e =
			    (enum event)__builtin_ctz(c->to_tell[port]);
			size_t n = message(c, port, e, buf);

			if (!virtq_pop(q, &c->chain)) {
				if (virtq_wait(q))
					continue;
				goto out;
			}
			if (c->chain.in_bytes < n) {
				virtio_broken(&c->v,
				              "control buffer too small");
				return;
			}
			virtq_copy_in(q, &c->chain, 0, buf, n);
			virtq_push(q, c->chain.head, (u32)n);
			c->to_tell[port] &= (u8) ~(1u << e);
			any = true;
		}
	}
out:
	if (any)
		virtq_interrupt(q);
}

static void plan(struct virtio_console *c, unsigned port, enum event event)
{
	c->to_tell[port] |= (u8)(1u << event);
}

static void port_ready(struct virtio_console *c, unsigned port)
{
	const struct port *p = &c->ports[port];

	if (p->host.console)
		plan(c, port, CONSOLE_PORT);
	if (p->host.console && port == 0)
		plan(c, port, RESIZE);
	if (p->host.name)
		plan(c, port, PORT_NAME);
	if (p->connected)
		plan(c, port, PORT_OPEN);
}

static void guest_open(struct virtio_console *c, unsigned port, bool open)
{
	struct port *p = &c->ports[port];

	if (c->guest_open[port] == open)
		return;
	c->guest_open[port] = open;
	if (p->host.opened)
		p->host.opened(p->host.ctx, open);
	if (open)
		tell_room(c, port);
}

static void control(struct virtio_console *c, const u8 *msg)
{
	u32 port = pci_get32(msg);
	u16 event = pci_get16(msg + 4), value = pci_get16(msg + 6);

	if (event == DEVICE_READY) {
		for (unsigned i = 0; value && i < c->port_count; i++)
			plan(c, i, PORT_ADD);
		return;
	}
	if (port >= c->port_count)
		return;
	if (event == PORT_READY && value)
		port_ready(c, port);
	else if (event == PORT_OPEN)
		guest_open(c, port, value);
}

static void control_all(struct virtio_console *c, struct virtq *q)
{
	unsigned budget = q->size;
	u8 msg[MESSAGE_SIZE];

	if (!multiport(c))
		return;
	do {
		while (virtq_pop(q, &c->chain)) {
			u16 head = c->chain.head;
			size_t n =
			    virtq_copy_out(&c->chain, 0, msg, sizeof(msg));

			if (n == sizeof(msg))
				control(c, msg);
			virtq_push(q, head, 0);
			if (!--budget) {
				virtio_again(&c->v, q);
				goto out;
			}
		}
	} while (virtq_wait(q));
out:
	virtq_interrupt(q);
	tell(c);
}

/* ---- the device ---- */

static void notify(struct virtio_device *v, struct virtq *q)
{
	struct virtio_console *c = console_of(v);
	unsigned port;

	if (q->index == CONTROL_IN) {
		tell(c);
		return;
	}
	if (q->index == CONTROL_OUT) {
		control_all(c, q);
		return;
	}
	port = q->index < 2 ? 0 : q->index / 2 - 1u;
	if (q->index & 1)
		output(c, port);
	else
		tell_room(c, port);
}

static void start(struct virtio_device *v)
{
	struct virtio_console *c = console_of(v);

	for (unsigned i = 0; i < c->port_count; i++)
		tell_room(c, i);
}

static void reset(struct virtio_device *v)
{
	struct virtio_console *c = console_of(v);

	for (unsigned i = 0; i < c->port_count; i++) {
		c->ports[i].stuck = false;
		guest_open(c, i, false);
	}
	memset(c->to_tell, 0, sizeof(c->to_tell));
	memset(c->sent, 0, sizeof(c->sent));
}

void virtio_console_resize(struct device *dev, u16 columns, u16 rows)
{
	struct virtio_console *c = console_of_device(dev);

	device_lock(dev);
	virtio_config_put(&c->v, CONFIG_COLUMNS, columns, 2);
	virtio_config_put(&c->v, CONFIG_ROWS, rows, 2);
	virtio_config_changed(&c->v);
	if (multiport(c) && c->ports[0].host.console && c->guest_open[0]) {
		plan(c, 0, RESIZE);
		tell(c);
	}
	device_unlock(dev);
}

void virtio_console_connect(struct device *dev, unsigned port, bool open)
{
	struct virtio_console *c = console_of_device(dev);

	if (port >= c->port_count)
		return;
	device_lock(dev);
	if (c->ports[port].connected != open) {
		c->ports[port].connected = open;
		c->ports[port].stuck = false;
		if (multiport(c)) {
			plan(c, port, PORT_OPEN);
			tell(c);
		}
		output(c, port);
	}
	device_unlock(dev);
}

static int loaded(struct device *dev, struct error *err)
{
	struct virtio_console *c = console_of_device(dev);
	unsigned known = 1u << PORT_ADD | 1u << CONSOLE_PORT | 1u << RESIZE |
	                 1u << PORT_OPEN | 1u << PORT_NAME;

	for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS_MAX; i++) {
		c->to_tell[i] &= (u8)known;
		if (i < c->port_count && !c->ports[i].host.name)
			c->to_tell[i] &= (u8) ~(1u << PORT_NAME);
		c->guest_open[i] = c->guest_open[i] != 0;
	}
	device_lock(dev);
	for (unsigned i = 0; i < c->port_count; i++)
		if (c->guest_open[i] && c->ports[i].host.opened)
			c->ports[i].host.opened(c->ports[i].host.ctx, true);
	device_unlock(dev);
	return virtio_type_loaded(dev, err);
}

static void destroy(struct device *dev)
{
	struct virtio_console *c = console_of_device(dev);

	virtio_fini(&c->v);
	free(c);
}

static const struct virtio_ops console_ops = {
	.notify = notify,
	.start = start,
	.reset = reset,
};

static const struct field console_state[] = {
	VIRTIO_STATE(struct virtio_console, v),
	FIELD_ARRAY(struct virtio_console, guest_open),
	FIELD_ARRAY(struct virtio_console, to_tell),
	FIELD_ARRAY(struct virtio_console, sent),
	FIELD_LAST,
};

static const struct device_type console_type = {
	.name = "virtio-console",
	.state_major = 1,
	.state = console_state,
	.reset = virtio_type_reset,
	.quiesce = virtio_type_quiesce,
	.loaded = loaded,
	.destroy = destroy,
};

int virtio_console_create(struct device **out, struct device_host *host,
                          struct pci_bus *bus,
                          const struct virtio_console_config *config,
                          struct error *err)
{
	struct virtio_console *c = xalloc(sizeof(*c));
	unsigned ports = config->port_count;
	bool alone =
	    ports == 1 && config->ports[0].console && !config->ports[0].name;
	struct virtio_setup setup = {
		.type = &console_type,
		.ops = &console_ops,
		.id = VIRTIO_ID_CONSOLE,
		.class_code = 0x078000,
		.features = F_SIZE | (alone ? 0 : F_MULTIPORT),
		.queue_count = alone ? 2 : 2 + ports * 2,
		.queue_size = QUEUE_SIZE,
		.config_size = CONFIG_SIZE,
		.eventfd = config->eventfd,
		.devfn = config->devfn,
	};
	int rc;

	if (!ports || ports > VIRTIO_CONSOLE_PORTS_MAX) {
		free(c);
		return error_set(err, -EINVAL,
		                 "a virtio console has 1 to %d ports, not %u",
		                 VIRTIO_CONSOLE_PORTS_MAX, ports);
	}
	c->port_count = ports;
	for (unsigned i = 0; i < ports; i++) {
		c->ports[i].host = config->ports[i];
		c->ports[i].connected = true;
	}
	rc = virtio_init(&c->v, host, bus, &setup, err);
	if (rc) {
		free(c);
		return rc;
	}
	virtio_config_put(&c->v, CONFIG_COLUMNS, config->columns, 2);
	virtio_config_put(&c->v, CONFIG_ROWS, config->rows, 2);
	virtio_config_put(&c->v, CONFIG_PORTS, ports, 4);
	*out = &c->v.pci.dev;
	return 0;
}
