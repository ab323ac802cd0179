/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peripherals - what the config asks for: terminals, networks, entropy; disks
 * are in disks.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "devices/chips/uart.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/console.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "machine/console.h"
#include "machine/internal.h"
#include "net/link.h"

enum { ON_UART, ON_VIRTIO }; /* the two devices on a terminal */

/* ---- terminals ---- */

static size_t uart_out(void *ctx, const u8 *data, size_t size)
{
	return console_output(ctx, ON_UART, data, size);
}

static void uart_room(void *ctx)
{
	console_input_room(ctx);
}

static size_t to_uart(void *ctx, const u8 *data, size_t size)
{
	return uart_input(ctx, data, size);
}

static void uart_writable(void *ctx)
{
	uart_output_ready(ctx);
}

static size_t virtio_out(void *ctx, const void *data, size_t size)
{
	return console_output(ctx, ON_VIRTIO, data, size);
}

static void virtio_room(void *ctx)
{
	console_input_room(ctx);
}

static size_t to_virtio(void *ctx, const u8 *data, size_t size)
{
	return virtio_console_input(ctx, 0, data, size);
}

static void virtio_writable(void *ctx)
{
	virtio_console_writable(ctx, 0);
}

static void add_serial(struct machine *m, unsigned i)
{
	static const u16 base[] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
	static const u8 gsi[] = { 4, 3, 4, 3 };
	struct console *c =
	    console_create(m->loop, m->config.serials[i].in,
	                   m->config.serials[i].out, &m->first_output_ns);
	const struct uart_backend backend = { c, uart_out, uart_room };
	struct console_device end = { NULL, to_uart, uart_writable };
	char instance[16];
	struct uart *u;

	m->consoles[i] = c;
	snprintf(instance, sizeof(instance), "com%u", i + 1);
	u = uart_create(&m->host, instance, base[i], gsi[i], &backend);
	board_add(m, (struct device *)u);
	end.ctx = u;
	console_attach(c, ON_UART, &end);
}

static int add_virtio_console(struct machine *m, struct error *err)
{
	const struct virtio_console_port port = {
		.console = true,
		.ctx = m->consoles[0],
		.output = m->consoles[0] ? virtio_out : NULL,
		.input_room = m->consoles[0] ? virtio_room : NULL,
	};
	const struct virtio_console_config config = {
		.ports = &port,
		.port_count = 1,
		.eventfd = m->engine_type->ioeventfd,
		.devfn = PCI_SLOT_ANY,
	};
	struct console_device end = { NULL, to_virtio, virtio_writable };
	int rc = virtio_console_create(&m->virtio_console, &m->host, m->pci,
	                               &config, err);

	if (rc < 0)
		return rc;
	board_add(m, m->virtio_console);
	end.ctx = m->virtio_console;
	if (m->consoles[0])
		console_attach(m->consoles[0], ON_VIRTIO, &end);
	return 0;
}

/* ---- networks ---- */

static int add_nic(struct machine *m, unsigned i, struct error *err)
{
	struct machine_nic *nic = &m->config.nics[i];
	struct virtio_net_config config = {
		.mtu = nic->mtu,
		.own_network = nic->own_network,
		.pairs = MIN(m->config.cpus, (unsigned)BOARD_QUEUES_MAX),
		.devfn = PCI_SLOT_ANY,
	};
	int fd = nic->fd;
	struct device *dev;
	int rc;

	nic->fd = -1;
	rc = link_open(&m->links[i], nic->type, fd, m->loop, err);
	if (rc < 0)
		return rc;
	for (int b = 0; b < 6; b++)
		config.mac[b] = nic->mac[b];
	config.link = m->links[i];
	rc = virtio_net_create(&dev, &m->host, m->pci, &config, err);
	if (rc == 0)
		board_add(m, dev);
	return rc;
}

int machine_replug(struct machine *m, unsigned nic, int fd, struct error *err)
{
	if (nic < m->config.nic_count)
		return link_replug(m->links[nic], fd, err);
	close(fd);
	return error_set(err, -EINVAL, "there is no network card %u", nic);
}

static int add_rng(struct machine *m, struct error *err)
{
	const struct virtio_rng_config config = {
		.eventfd = m->engine_type->ioeventfd,
		.devfn = PCI_SLOT_ANY,
	};
	struct device *dev;
	int rc = virtio_rng_create(&dev, &m->host, m->pci, &config, err);

	if (rc == 0)
		board_add(m, dev);
	return rc;
}

static int add_balloon(struct machine *m, struct error *err)
{
	const struct virtio_balloon_config config = { .devfn = PCI_SLOT_ANY };
	int rc =
	    virtio_balloon_create(&m->balloon, &m->host, m->pci, &config, err);

	if (rc == 0)
		board_add(m, m->balloon);
	return rc;
}

static size_t agent_out(void *ctx, const void *data, size_t size)
{
	return console_output(((struct machine *)ctx)->agent, 0, data, size);
}

static void agent_room(void *ctx)
{
	console_input_room(((struct machine *)ctx)->agent);
}

static void agent_opened(void *ctx, bool open)
{
	atomic_store(&((struct machine *)ctx)->agent_open, open);
}

/* A device of its own: with a second port the terminal's size would be told
 * otherwise (devices/virtio/console.c). */
static int add_agent(struct machine *m, struct error *err)
{
	struct virtio_console_port port = {
		.name = "org.qemu.guest_agent.0",
		.output = agent_out,
		.opened = agent_opened,
		.input_room = agent_room,
	};
	const struct virtio_console_config config = {
		.ports = &port,
		.port_count = 1,
		.devfn = PCI_SLOT_ANY,
	};
	struct console_device end = { NULL, to_virtio, virtio_writable };
	int out = fcntl(m->config.agent_fd, F_DUPFD_CLOEXEC, 3), rc;
	struct device *dev;

	if (out < 0)
		return error_set(err, -errno, "the agent's socket: %s",
		                 strerror(errno));
	m->agent_out = out;
	m->agent = console_create(m->loop, m->config.agent_fd, out, NULL);
	port.ctx = m;
	rc = virtio_console_create(&dev, &m->host, m->pci, &config, err);
	if (rc < 0)
		return rc;
	board_add(m, dev);
	end.ctx = dev;
	console_attach(m->agent, 0, &end);
	return 0;
}

int board_add_peripherals(struct machine *m, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->config.serial_count; i++)
		add_serial(m, i);
	for (unsigned i = 0; rc == 0 && i < m->config.disk_count; i++)
		rc = board_add_disk(m, i, err);
	for (unsigned i = 0; rc == 0 && i < m->config.nic_count; i++)
		rc = add_nic(m, i, err);
	if (rc == 0 && m->config.rng)
		rc = add_rng(m, err);
	if (rc == 0 && m->config.virtio_console)
		rc = add_virtio_console(m, err);
	if (rc == 0 && m->config.balloon)
		rc = add_balloon(m, err);
	if (rc == 0 && m->config.has_agent)
		rc = add_agent(m, err);
	return rc;
}
