/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disks - what stands between a guest's disk and its image.
 *
 *	virtio-blk -> throttle -> live -> the image with its chain
 *
 * Both filters are always there, so that limits can be set and the image be
 * changed while the guest runs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/end.h"
#include "base/error.h"
#include "base/log.h"
#include "devices/virtio/blk.h"
#include "machine/internal.h"
#include "storage/block.h"
#include "storage/live.h"
#include "storage/throttle.h"

enum { FAILURES_TOLD = 8 };

static unsigned flags_of(const struct machine_disk *disk)
{
	static const unsigned of[] = {
		[CACHE_WRITEBACK] = 0,
		[CACHE_NONE] = BLOCK_OPEN_DIRECT,
		[CACHE_UNSAFE] = BLOCK_OPEN_NO_FLUSH,
	};

	return of[disk->cache];
}

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
		.flags =
		    flags_of(disk) | (disk->readonly ? BLOCK_OPEN_READONLY : 0),
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

static struct throttle_limits limits_of(const struct machine_disk *disk)
{
	return (struct throttle_limits){
		.iops = disk->iops,
		.iops_burst = disk->iops_burst,
		.bytes = disk->bytes_per_s,
		.bytes_burst = disk->bytes_burst,
	};
}

static void add_filters(struct machine *m, unsigned i, struct block *image)
{
	struct throttle_limits limits = limits_of(&m->config.disks[i]);

	m->lives[i] = live_open(image);
	m->blocks[i] = throttle_open(m->lives[i], &limits);
}

/* Once for each kind of failure: a guest may try again for ever. */
static void tell_failure(void *ctx, bool write, int result)
{
	struct disk_failures *f = ctx;
	const struct machine *m = f->machine;

	if (f->last[write] == result || f->told == FAILURES_TOLD)
		return;
	f->last[write] = result;
	f->told++;
	log_warn("machine", "disk %td: %s failed, and the guest was told: %s",
	         f - m->failures + 1, write ? "a write" : "a read",
	         strerror(-result));
}

int board_add_disk(struct machine *m, unsigned i, struct error *err)
{
	struct machine_disk *disk = &m->config.disks[i];
	struct virtio_blk_config config = {
		.serial = disk->serial,
		.queues = MIN(m->config.cpus, (unsigned)BOARD_QUEUES_MAX),
		.readonly = disk->readonly,
		.eventfd = m->engine_type->ioeventfd,
		.devfn = PCI_SLOT_ANY,
		.failed = tell_failure,
		.ctx = &m->failures[i],
	};
	struct block *image;
	int rc;

	rc = open_image(&image, disk, err);
	if (rc < 0)
		return rc;
	add_filters(m, i, image);
	m->failures[i].machine = m;
	config.block = m->blocks[i];
	rc = virtio_blk_create(&m->disks[i], &m->host, m->pci, &config, err);
	if (rc == 0)
		board_add(m, m->disks[i]);
	return rc;
}

/* ---- the end ---- */

static void add_loss(struct machine_outcome *o, unsigned disk, const char *what,
                     const char *why)
{
	size_t used = strlen(o->words);

	snprintf(o->words + used, sizeof(o->words) - used, "%sdisk %u: %s%s",
	         used ? "\n" : "", disk + 1, what, why);
	if (strcmp(o->cause, "power-off") && strcmp(o->cause, "guest-exit"))
		return;
	o->code = END_LOST_WRITES;
	snprintf(o->cause, sizeof(o->cause), "lost-writes");
}

void board_write_back(struct machine *m)
{
	struct block_info info;
	const char *lost;
	int rc;

	for (unsigned i = 0; i < m->config.disk_count; i++) {
		block_info(m->blocks[i], &info);
		if (info.readonly)
			continue;
		block_drain(m->blocks[i]);
		rc = block_sync(m->blocks[i], BLOCK_FLUSH, 0, NULL, 0);
		lost = block_lost(m->blocks[i]);
		if (lost)
			add_loss(&m->outcome, i, lost, "");
		else if (rc < 0)
			add_loss(&m->outcome, i,
			         "the last writes could not be written: ",
			         strerror(-rc));
	}
}

/* ---- while it runs ---- */

struct block *machine_disk(struct machine *m, unsigned disk)
{
	return disk < m->config.disk_count ? m->lives[disk] : NULL;
}

/* No ring: a confined process can't set one up any more. */
unsigned machine_disk_flags(const struct machine *m, unsigned disk)
{
	return flags_of(&m->config.disks[disk]) | BLOCK_OPEN_THREADS;
}

void machine_disk_limits(struct machine *m, unsigned disk,
                         struct throttle_limits *limits)
{
	*limits = limits_of(&m->config.disks[disk]);
}

void machine_disk_throttle(struct machine *m, unsigned disk,
                           const struct throttle_limits *limits)
{
	struct machine_disk *d = &m->config.disks[disk];

	d->iops = limits->iops;
	d->iops_burst = limits->iops_burst;
	d->bytes_per_s = limits->bytes;
	d->bytes_burst = limits->bytes_burst;
	throttle_set(m->blocks[disk], limits);
}

int machine_disk_grow(struct machine *m, unsigned disk, u64 size,
                      struct error *err)
{
	int rc = live_grow(m->lives[disk], size, err);

	if (rc < 0)
		return rc;
	throttle_resized(m->blocks[disk]);
	virtio_blk_resized(m->disks[disk]);
	return 0;
}
