/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peripherals - what the config asks for: terminals, disks, networks, entropy.
 */
#include <errno.h>
#include <stdio.h>

#include "base/error.h"
#include "devices/chips/uart.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/console.h"
#include "devices/virtio/net.h"
#include "devices/virtio/rng.h"
#include "machine/console.h"
#include "machine/internal.h"
#include "net/link.h"
#include "storage/block.h"
#include "storage/throttle.h"

enum { ON_UART, ON_VIRTIO }; /* the two devices on a terminal */
enum { QUEUES_MAX = 16 };

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

/* ---- disks and networks ---- */

/* The image with its chain, of which every file is open already. */
static int open_image(struct block **out, struct machine_disk *disk,
                      struct error *err)
{
	struct block_file files[MACHINE_CHAIN_MAX];
	struct block_files given = { files, disk->chain_count };
	const struct block_opener opener = { block_files_open, &given };
	const struct block_open how = {
		.path = disk->path,
		.fd = disk->fd,
		.format = disk->format,
		.flags = disk->readonly ? BLOCK_OPEN_READONLY : 0,
		.opener = &opener,
	};
	int rc;

	for (unsigned k = 0; k < disk->chain_count; k++)
		files[k] = (struct block_file){ disk->chain[k].path,
			                        disk->chain[k].format,
			                        disk->chain[k].fd };
	disk->fd = -1; /* block_open has it now, whatever it says */
	rc = block_open(out, &how, err);
	/* Those that the images do not name are closed with the config. */
	for (unsigned k = 0; k < disk->chain_count; k++)
		disk->chain[k].fd = files[k].fd;
	return rc;
}

static int slow_down(struct block **b, const struct machine_disk *disk,
                     struct error *err)
{
	const struct throttle_limits limits = {
		.iops = disk->iops,
		.iops_burst = disk->iops_burst,
		.bytes = disk->bytes_per_s,
		.bytes_burst = disk->bytes_burst,
	};

	return limits.iops || limits.bytes ? throttle_open(b, *b, &limits, err)
	                                   : 0;
}

static int add_disk(struct machine *m, unsigned i, struct error *err)
{
	struct machine_disk *disk = &m->config.disks[i];
	struct virtio_blk_config config = {
		.serial = disk->serial,
		.queues = MIN(m->config.cpus, (unsigned)QUEUES_MAX),
		.readonly = disk->readonly,
		.devfn = PCI_SLOT_ANY,
	};
	struct device *dev;
	int rc;

	rc = open_image(&m->blocks[i], disk, err);
	if (rc == 0)
		rc = slow_down(&m->blocks[i], disk, err);
	if (rc < 0)
		return rc;
	config.block = m->blocks[i];
	rc = virtio_blk_create(&dev, &m->host, m->pci, &config, err);
	if (rc == 0)
		board_add(m, dev);
	return rc;
}

static int add_nic(struct machine *m, unsigned i, struct error *err)
{
	struct machine_nic *nic = &m->config.nics[i];
	struct virtio_net_config config = {
		.mtu = nic->mtu,
		.pairs = MIN(m->config.cpus, (unsigned)QUEUES_MAX),
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

static int add_rng(struct machine *m, struct error *err)
{
	const struct virtio_rng_config config = { .devfn = PCI_SLOT_ANY };
	struct device *dev;
	int rc = virtio_rng_create(&dev, &m->host, m->pci, &config, err);

	if (rc == 0)
		board_add(m, dev);
	return rc;
}

int board_add_peripherals(struct machine *m, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->config.serial_count; i++)
		add_serial(m, i);
	for (unsigned i = 0; rc == 0 && i < m->config.disk_count; i++)
		rc = add_disk(m, i, err);
	for (unsigned i = 0; rc == 0 && i < m->config.nic_count; i++)
		rc = add_nic(m, i, err);
	if (rc == 0 && m->config.rng)
		rc = add_rng(m, err);
	if (rc == 0 && m->config.virtio_console)
		rc = add_virtio_console(m, err);
	return rc;
}
