/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk.c - a disk. A request is a chain: a 16-byte header (type, reserved,
 * sector), data one way or the other, and a status byte at the very end.
 *
 *	config: 0 capacity (512-byte sectors), 8 size_max, 12 seg_max,
 *	20 blk_size, 24 topology, 32 writeback, 34 num_queues, 36 discard
 *	limits, 48 write zeroes limits
 *
 * Data moves between the image and guest memory with no copy of ours.
 */
#include "devices/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "devices/virtio/lend.h"
#include "devices/virtio/virtio.h"
#include "storage/block.h"

#define F_SIZE_MAX BIT(1)
#define F_SEG_MAX BIT(2)
#define F_RO BIT(5)
#define F_BLK_SIZE BIT(6)
#define F_FLUSH BIT(9)
#define F_TOPOLOGY BIT(10)
#define F_CONFIG_WCE BIT(11)
#define F_MQ BIT(12)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
};
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum {
	CONFIG_CAPACITY = 0,
	CONFIG_SIZE_MAX = 8,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXP = 24,
	CONFIG_MIN_IO = 26,
	CONFIG_OPT_IO = 28,
	CONFIG_WRITEBACK = 32,
	CONFIG_NUM_QUEUES = 34,
	CONFIG_DISCARD = 36,      /* sectors, segments, alignment */
	CONFIG_WRITE_ZEROES = 48, /* sectors, segments, may unmap */
	CONFIG_SIZE = 60,
};
enum {
	SECTOR = 512,
	HEADER_SIZE = 16,
	ID_SIZE = 20,
	RANGE_SIZE = 16,
	RANGES_MAX = 16,
	RANGE_UNMAP = 1,
	RANGE_SECTORS_MAX = 1 << 22, /* 2 GiB */
	QUEUE_SIZE = 512,
	SEGMENTS_MAX = QUEUE_SIZE - 2, /* header and status aside */
	SEGMENT_BYTES_MAX = 1 << 20,
	SMALL_IOV = 32,
	PHYSICAL_BLOCK = 4096,
};

struct header {
	u32 type, reserved;
	u64 sector;
};

struct range {
	u64 sector;
	u32 sectors, flags;
};

struct request {
	struct virtio_done done;
	struct block_request io;
	struct lent lent;
	struct virtio_blk *blk; /* borrowed */
	struct virtq *q;        /* borrowed */
	struct request *next;   /* in the free list */
	u16 head;
	u32 in_bytes; /* all of the chain's, status included */
	u64 start_ns;
	int result;
	u8 *status; /* in guest memory */
	gpa_t status_gpa;
	/* Discard and write zeroes: one range after another. */
	struct range ranges[RANGES_MAX];
	unsigned range_count, range_at;
	bool large; /* not for the free list */
	bool late;  /* not over when it was submitted */
	unsigned count;
	struct iovec *iov;
	gpa_t *gpa;
};

struct virtio_blk {
	struct virtio_device v;
	struct block *block; /* borrowed */
	struct block_info info;
	bool readonly;
	char serial[ID_SIZE];
	u16 queue_load[VIRTIO_QUEUES_MAX]; /* requests under way */
	struct virtio_blk_figures figures;
	void (*failed)(void *ctx, bool write, int result);
	void *ctx;
	struct lend lend; /* flushes */
	struct request *free;
	struct virtq_chain chain; /* the one being looked at */
};

static struct virtio_blk *blk_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_blk, v);
}

/* ---- requests ---- */

static struct request *request_alloc(unsigned iovs)
{
	size_t room = iovs * (sizeof(struct iovec) + sizeof(gpa_t));
	struct request *r = try_alloc(1, sizeof(*r) + room);

	if (!r)
		return NULL;
	r->iov = (struct iovec *)(void *)(r + 1);
	r->gpa = (gpa_t *)(void *)(r->iov + iovs);
	return r;
}

static struct request *request_get(struct virtio_blk *b, unsigned iovs)
{
	struct request *r = b->free;

	if (iovs > SMALL_IOV) {
		r = request_alloc(iovs);
		if (r)
			r->large = true;
		return r;
	}
	if (!r)
		return request_alloc(SMALL_IOV);
	b->free = r->next;
	return r;
}

static void request_put(struct virtio_blk *b, struct request *r)
{
	if (r->large) {
		free(r);
		return;
	}
	r->next = b->free;
	b->free = r;
}

/* Status, used ring, interrupt. After a reset the queue takes nothing. */
static void answer(struct virtq *q, u16 head, u32 in_bytes, u8 *status,
                   gpa_t status_gpa, u8 value)
{
	if (!q->running)
		return;
	*status = value;
	memory_written(q->dev->pci.dev.host->memory, status_gpa, 1);
	virtq_push(q, head, in_bytes);
	virtq_interrupt(q);
}

/* The chain in hand, answered at once. */
static void answer_chain(struct virtio_blk *b, struct virtq *q, u8 value)
{
	const struct virtq_chain *c = &b->chain;
	unsigned last = c->out + c->in - 1u;
	size_t at = c->iov[last].iov_len - 1;

	answer(q, c->head, (u32)c->in_bytes, (u8 *)c->iov[last].iov_base + at,
	       c->gpa[last] + at, value);
}

static void block_done(struct block_request *io, int result)
{
	struct request *r = io->ctx;

	r->result = result;
	virtio_finish(&r->blk->v, &r->done);
}

static void submit(struct request *r)
{
	struct virtq *q = r->q;
	bool over;

	virtio_begin(&r->blk->v);
	over = block_submit(r->blk->block, &r->io);
	/* It comes back under the device's lock only: r is still there. */
	r->late = !over;
	q->pace.late |= !over;
}

/* The next range of a discard or write zeroes. */
static void submit_range(struct request *r)
{
	const struct range *range = &r->ranges[r->range_at++];

	r->io.offset = range->sector * SECTOR;
	r->io.length = (u64)range->sectors * SECTOR;
	r->io.flags = range->flags & RANGE_UNMAP ? 0 : BLOCK_REQ_NO_UNMAP;
	submit(r);
}

static void count(struct virtio_blk *b, const struct request *r)
{
	struct virtio_blk_figures *f = &b->figures;
	u64 ns = loop_now_ns() - r->start_ns;

	if (r->result) {
		f->errors++;
		if (b->failed && r->result != -ENOTSUP)
			b->failed(b->ctx, r->io.op != BLOCK_READ, r->result);
	}
	if (r->io.op == BLOCK_READ) {
		f->reads++;
		f->read_bytes += r->io.length;
		f->read_ns += ns;
	} else if (r->io.op == BLOCK_FLUSH) {
		f->flushes++;
		f->flush_ns += ns;
	} else {
		f->writes++;
		f->write_bytes += r->io.op == BLOCK_WRITE ? r->io.length : 0;
		f->write_ns += ns;
	}
}

void virtio_blk_figures(struct device *dev, struct virtio_blk_figures *figures)
{
	struct virtio_blk *b = container_of(dev, struct virtio_blk, v.pci.dev);

	device_lock(dev);
	*figures = b->figures;
	device_unlock(dev);
}

static void done(struct virtio_device *v, struct virtio_done *d)
{
	struct request *r = container_of(d, struct request, done);
	struct virtio_blk *b = blk_of(v);

	if (!r->result && r->range_at < r->range_count && r->q->running) {
		submit_range(r);
		return;
	}
	/* Even after a reset: the memory did change. */
	if (r->io.op == BLOCK_READ)
		for (unsigned i = 0; i < r->count; i++)
			memory_written(v->pci.dev.host->memory, r->gpa[i],
			               r->iov[i].iov_len);
	b->queue_load[r->q->index]--;
	r->q->pace.late |= r->late;
	if (r->lent.lend)
		lend_end(&b->lend, &r->lent);
	count(b, r);
	answer(r->q, r->head, r->in_bytes, r->status, r->status_gpa,
	       r->result == 0          ? S_OK
	       : r->result == -ENOTSUP ? S_UNSUPP
	                               : S_IOERR);
	request_put(b, r);
}

static void drain(struct virtio_device *v)
{
	lend_recall(&blk_of(v)->lend);
	block_drain(blk_of(v)->block);
}

/* A request for the chain in hand, its data buffers not yet filled in. */
static struct request *request_make(struct virtio_blk *b, struct virtq *q,
                                    enum block_op op)
{
	const struct virtq_chain *c = &b->chain;
	unsigned last = c->out + c->in - 1u;
	struct request *r = request_get(b, c->out + c->in);

	if (!r)
		return NULL;
	r->blk = b;
	r->q = q;
	r->head = c->head;
	r->in_bytes = (u32)c->in_bytes;
	r->start_ns = loop_now_ns();
	r->status = (u8 *)c->iov[last].iov_base + c->iov[last].iov_len - 1;
	r->status_gpa = c->gpa[last] + c->iov[last].iov_len - 1;
	r->range_count = r->range_at = 0;
	r->count = 0;
	r->lent.lend = NULL;
	r->io = (struct block_request){
		.op = op,
		.done = block_done,
		.ctx = r,
		.iov = r->iov,
	};
	b->queue_load[q->index]++;
	return r;
}

/* Buffers [from, to) of the chain, less skip bytes at the front and tail
 * bytes at the end. */
static void data_buffers(struct request *r, const struct virtq_chain *c,
                         unsigned from, unsigned to, size_t skip, size_t tail)
{
	for (unsigned i = from; i < to; i++) {
		size_t cut = MIN(skip, c->iov[i].iov_len);
		size_t len = c->iov[i].iov_len - cut;

		skip -= cut;
		if (i == to - 1)
			len -= tail;
		if (!len)
			continue;
		r->iov[r->count].iov_base = (u8 *)c->iov[i].iov_base + cut;
		r->iov[r->count].iov_len = len;
		r->gpa[r->count++] = c->gpa[i] + cut;
		r->io.length += len;
	}
	r->io.iov_count = (int)r->count;
}

static bool in_range(const struct virtio_blk *b, u64 sector, u64 bytes)
{
	u64 size = b->info.size, unit = b->info.sector;

	if (sector > size / SECTOR)
		return false;
	return bytes <= size - sector * SECTOR && bytes % unit == 0 &&
	       sector * SECTOR % unit == 0;
}

/* Does the driver want its writes durable when they complete? */
static bool write_through(const struct virtio_blk *b)
{
	if (virtio_has(&b->v, F_CONFIG_WCE))
		return !b->v.config[CONFIG_WRITEBACK];
	return !virtio_has(&b->v, F_FLUSH);
}

static void transfer(struct virtio_blk *b, struct virtq *q, u64 sector,
                     bool write)
{
	const struct virtq_chain *c = &b->chain;
	u64 bytes = write ? c->out_bytes - HEADER_SIZE : c->in_bytes - 1;
	struct request *r;

	if (!in_range(b, sector, bytes) || (write && b->readonly)) {
		answer_chain(b, q, S_IOERR);
		return;
	}
	if (!bytes) {
		answer_chain(b, q, S_OK);
		return;
	}
	r = request_make(b, q, write ? BLOCK_WRITE : BLOCK_READ);
	if (!r) {
		answer_chain(b, q, S_IOERR);
		return;
	}
	r->io.offset = sector * SECTOR;
	if (write)
		data_buffers(r, c, 0, c->out, HEADER_SIZE, 0);
	else
		data_buffers(r, c, c->out, c->out + c->in, 0, 1);
	r->io.flags =
	    write && write_through(b) ? BLOCK_REQ_FUA : BLOCK_REQ_INLINE;
	submit(r);
}

/* What has to be done for it was not done yet; see lend.h. */
static void flush_go(struct lent *t, bool wait)
{
	struct request *r = container_of(t, struct request, lent);

	r->io.flags = wait ? BLOCK_REQ_INLINE | BLOCK_REQ_BLOCKING : 0;
	block_submit(r->blk->block, &r->io);
}

static void flush_bound(void *dev)
{
	struct virtio_blk *b = container_of(dev, struct virtio_blk, v.pci.dev);

	lend_bound(&b->lend);
}

static void flush(struct virtio_blk *b, struct virtq *q)
{
	struct request *r = request_make(b, q, BLOCK_FLUSH);

	if (!r) {
		answer_chain(b, q, S_IOERR);
		return;
	}
	if (lend_is_wise(&b->lend) && !block_is_flushed(b->block)) {
		virtio_begin(&b->v);
		r->late = q->pace.late = true;
		lend_begin(&b->lend, &r->lent);
		return;
	}
	r->io.flags = BLOCK_REQ_INLINE;
	submit(r);
}

/* S_OK, or why this range is refused. */
static u8 range_check(const struct virtio_blk *b, const struct range *r,
                      bool discard)
{
	u32 known = discard ? 0 : RANGE_UNMAP;

	if (r->flags & ~known)
		return S_UNSUPP;
	if (!r->sectors || r->sectors > RANGE_SECTORS_MAX ||
	    !in_range(b, r->sector, (u64)r->sectors * SECTOR))
		return S_IOERR;
	return S_OK;
}

static void ranges(struct virtio_blk *b, struct virtq *q, bool discard)
{
	const struct virtq_chain *c = &b->chain;
	u64 bytes = c->out_bytes - HEADER_SIZE;
	unsigned count = (unsigned)(bytes / RANGE_SIZE);
	struct range all[RANGES_MAX];
	struct request *r;

	if (b->readonly || !bytes || bytes % RANGE_SIZE || count > RANGES_MAX) {
		answer_chain(b, q, S_IOERR);
		return;
	}
	virtq_copy_out(c, HEADER_SIZE, all, bytes);
	for (unsigned i = 0; i < count; i++) {
		u8 status = range_check(b, &all[i], discard);

		if (status != S_OK) {
			answer_chain(b, q, status);
			return;
		}
	}
	r = request_make(b, q, discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES);
	if (!r) {
		answer_chain(b, q, S_IOERR);
		return;
	}
	memcpy(r->ranges, all, count * sizeof(all[0]));
	r->range_count = count;
	submit_range(r);
}

static void get_id(struct virtio_blk *b, struct virtq *q)
{
	size_t room = b->chain.in_bytes - 1;

	virtq_copy_in(q, &b->chain, 0, b->serial, MIN(room, ID_SIZE));
	answer_chain(b, q, S_OK);
}

/* false: the chain cannot be answered, the device is broken. */
static bool serve(struct virtio_blk *b, struct virtq *q)
{
	const struct virtq_chain *c = &b->chain;
	struct header h;

	if (c->out_bytes < HEADER_SIZE || !c->in_bytes) {
		virtio_broken(&b->v, "request without header or status");
		return false;
	}
	if (b->queue_load[q->index] >= q->size) {
		virtio_broken(&b->v, "more requests than descriptors");
		return false;
	}
	virtq_copy_out(c, 0, &h, sizeof(h));
	switch (h.type) {
	case T_IN:
	case T_OUT:
		transfer(b, q, h.sector, h.type == T_OUT);
		break;
	case T_FLUSH:
		flush(b, q);
		break;
	case T_GET_ID:
		get_id(b, q);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		if (virtio_has(&b->v, h.type == T_DISCARD ? F_DISCARD
		                                          : F_WRITE_ZEROES))
			ranges(b, q, h.type == T_DISCARD);
		else
			answer_chain(b, q, S_UNSUPP);
		break;
	default:
		answer_chain(b, q, S_UNSUPP);
	}
	return true;
}

static void notify(struct virtio_device *v, struct virtq *q)
{
	struct virtio_blk *b = blk_of(v);
	unsigned budget = q->size;

	do {
		while (virtq_pop(q, &b->chain)) {
			if (!serve(b, q))
				return;
			if (!--budget) {
				virtio_again(v, q);
				return;
			}
		}
	} while (virtq_wait(q));
}

/* ---- configuration ---- */

static void config_size(struct virtio_blk *b)
{
	block_info(b->block, &b->info);
	virtio_config_put(&b->v, CONFIG_CAPACITY, b->info.size / SECTOR, 8);
}

static void config_fill(struct virtio_blk *b, unsigned queues)
{
	struct virtio_device *v = &b->v;
	u32 unit = b->info.sector, align = unit / SECTOR;
	u32 per_physical = MAX(PHYSICAL_BLOCK / unit, 1u);

	virtio_config_put(v, CONFIG_CAPACITY, b->info.size / SECTOR, 8);
	virtio_config_put(v, CONFIG_SIZE_MAX, SEGMENT_BYTES_MAX, 4);
	virtio_config_put(v, CONFIG_SEG_MAX, SEGMENTS_MAX, 4);
	virtio_config_put(v, CONFIG_BLK_SIZE, unit, 4);
	virtio_config_put(v, CONFIG_PHYSICAL_EXP,
	                  (u64)__builtin_ctz(per_physical), 1);
	virtio_config_put(v, CONFIG_MIN_IO, per_physical, 2);
	virtio_config_put(v, CONFIG_OPT_IO, b->info.cluster / unit, 4);
	virtio_config_put(v, CONFIG_WRITEBACK, 1, 1);
	virtio_config_put(v, CONFIG_NUM_QUEUES, queues, 2);
	virtio_config_put(v, CONFIG_DISCARD, RANGE_SECTORS_MAX, 4);
	virtio_config_put(v, CONFIG_DISCARD + 4, RANGES_MAX, 4);
	virtio_config_put(v, CONFIG_DISCARD + 8, align, 4);
	virtio_config_put(v, CONFIG_WRITE_ZEROES, RANGE_SECTORS_MAX, 4);
	virtio_config_put(v, CONFIG_WRITE_ZEROES + 4, RANGES_MAX, 4);
	virtio_config_put(v, CONFIG_WRITE_ZEROES + 8, b->info.discard, 1);
}

static void config_write(struct virtio_device *v, unsigned off, u32 value,
                         unsigned size)
{
	if (off == CONFIG_WRITEBACK && size == 1 && virtio_has(v, F_CONFIG_WCE))
		v->config[CONFIG_WRITEBACK] = value & 1;
}

static void reset(struct virtio_device *v)
{
	v->config[CONFIG_WRITEBACK] = 1;
}

void virtio_blk_resized(struct device *dev)
{
	struct virtio_blk *b = container_of(dev, struct virtio_blk, v.pci.dev);

	device_lock(dev);
	config_size(b);
	virtio_config_changed(&b->v);
	device_unlock(dev);
}

/* ---- life ---- */

static void destroy(struct device *dev)
{
	struct virtio_blk *b = container_of(dev, struct virtio_blk, v.pci.dev);
	struct request *r;

	lend_fini(&b->lend);
	virtio_fini(&b->v);
	while ((r = b->free)) {
		b->free = r->next;
		free(r);
	}
	free(b);
}

static const struct virtio_ops blk_ops = {
	.notify = notify,
	.reset = reset,
	.config_write = config_write,
	.done = done,
	.drain = drain,
};

static const struct field blk_state[] = {
	VIRTIO_STATE(struct virtio_blk, v),
	VIRTIO_FIELD(struct virtio_blk, v, "writeback",
	             config[CONFIG_WRITEBACK]),
	FIELD_LAST,
};

static const struct device_type blk_type = {
	.name = "virtio-blk",
	.state_major = 1,
	.state = blk_state,
	.reset = virtio_type_reset,
	.quiesce = virtio_type_quiesce,
	.loaded = virtio_type_loaded,
	.destroy = destroy,
};

static u64 features(const struct virtio_blk *b, unsigned queues)
{
	u64 f = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY |
	        F_CONFIG_WCE;

	if (queues > 1)
		f |= F_MQ;
	if (b->readonly)
		return f | F_RO;
	return f | F_WRITE_ZEROES | (b->info.discard ? F_DISCARD : 0);
}

int virtio_blk_create(struct device **out, struct device_host *host,
                      struct pci_bus *bus,
                      const struct virtio_blk_config *config, struct error *err)
{
	struct virtio_blk *b = xalloc(sizeof(*b));
	unsigned queues = MIN(MAX(config->queues, 1u), 64u);
	struct virtio_setup setup = {
		.type = &blk_type,
		.ops = &blk_ops,
		.id = VIRTIO_ID_BLOCK,
		.class_code = 0x010000,
		.queue_count = queues,
		.queue_size = QUEUE_SIZE,
		.config_size = CONFIG_SIZE,
		.eventfd = config->eventfd,
		.paced = true,
		.devfn = config->devfn,
	};
	int rc;

	b->block = config->block;
	b->failed = config->failed;
	b->ctx = config->ctx;
	block_info(b->block, &b->info);
	b->readonly = config->readonly || b->info.readonly;
	if (config->serial)
		memcpy(b->serial, config->serial,
		       strnlen(config->serial, ID_SIZE));
	setup.features = features(b, queues);
	rc = virtio_init(&b->v, host, bus, &setup, err);
	if (rc) {
		free(b);
		return rc;
	}
	lend_init(&b->lend, &b->v.pci.dev, flush_go, flush_bound);
	config_fill(b, queues);
	*out = &b->v.pci.dev;
	return 0;
}
