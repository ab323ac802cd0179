/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtq.c - the split ring.
 *
 *	descriptors  16 bytes each: address, length, flags, next
 *	avail        flags, idx, ring[size], used_event     (the driver's)
 *	used         flags, idx, {id, len}[size], avail_event    (ours)
 *
 * The driver may run on another CPU: its idx is loaded with acquire, which
 * pairs with its write barrier. Where a side writes its own index or event
 * and then reads the other's, both accesses are sequentially consistent, so
 * that not both sides miss the other's news (virtio 1.2 sections 2.7.7 and
 * 2.7.10).
 */
#include "devices/virtio/virtq.h"

#include <string.h>

#include "devices/virtio/internal.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };

static struct memory *memory_of(const struct virtq *q)
{
	return q->dev->pci.dev.host->memory;
}

static u16 load16(const u16 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* Byte sizes of the two rings; the event fields are there if agreed on. */
static u64 avail_bytes(const struct virtq *q)
{
	return 4 + 2 * (u64)q->size +
	       (virtio_has(q->dev, VIRTIO_F_EVENT_IDX) ? 2 : 0);
}

static u64 used_bytes(const struct virtq *q)
{
	return 4 + 8 * (u64)q->size +
	       (virtio_has(q->dev, VIRTIO_F_EVENT_IDX) ? 2 : 0);
}

static const u16 *used_event(const struct virtq *q)
{
	return q->avail + 2 + q->size;
}

static u16 *avail_event(const struct virtq *q)
{
	return q->used + 2 + 4 * q->size;
}

bool virtq_start(struct virtq *q)
{
	struct memory *mem = memory_of(q);

	if (q->running)
		return true;
	if (!q->size || q->size > q->max || (q->size & (q->size - 1)) ||
	    q->desc_gpa % 16 || q->driver_gpa % 2 || q->device_gpa % 4) {
		virtio_broken(q->dev, "bad queue size or alignment");
		return false;
	}
	q->desc = memory_ptr(mem, q->desc_gpa, 16 * (u64)q->size);
	q->avail = memory_ptr(mem, q->driver_gpa, avail_bytes(q));
	q->used = memory_ptr_rw(mem, q->device_gpa, used_bytes(q));
	if (!q->desc || !q->avail || !q->used) {
		virtio_broken(q->dev, "a ring is not in memory");
		return false;
	}
	memory_keep(mem, q->desc_gpa, 16 * (u64)q->size);
	memory_keep(mem, q->driver_gpa, avail_bytes(q));
	memory_keep(mem, q->device_gpa, used_bytes(q));
	q->signalled_valid = false;
	virtq_pace_reset(q);
	q->running = true;
	return true;
}

void virtq_stop(struct virtq *q)
{
	q->running = false;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
}

bool virtq_ready(const struct virtq *q)
{
	return q->running && virtio_active(q->dev) &&
	       load16(q->avail + 1) != q->last_avail;
}

/* Add [gpa, gpa + len), which may lie in several slots. */
static bool add_buffer(struct virtq *q, struct virtq_chain *c, gpa_t gpa,
                       u64 len, bool write)
{
	while (len) {
		const struct memory_slot *s = memory_find(memory_of(q), gpa);
		unsigned at = c->out + c->in;
		u64 n;

		if (!s || (write && s->kind != MEMORY_RAM) ||
		    at == VIRTQ_IOV_MAX)
			return false;
		n = MIN(len, s->size - (gpa - s->base));
		memory_need(memory_of(q), gpa, n);
		c->iov[at].iov_base = s->host + (gpa - s->base);
		c->iov[at].iov_len = n;
		c->gpa[at] = gpa;
		if (write) {
			c->in++;
			c->in_bytes += n;
		} else {
			c->out++;
			c->out_bytes += n;
		}
		gpa += n;
		len -= n;
	}
	return true;
}

/* A private copy: the driver may change its own at any time, and nothing
 * aligns an indirect table. */
static struct virtq_desc load_desc(const u8 *table, unsigned at)
{
	struct virtq_desc d;

	memcpy(&d, table + (size_t)at * sizeof(d), sizeof(d));
	__asm__ volatile("" : "+m"(d)); /* never loaded again */
	return d;
}

/* NULL, or the rule that the chain breaks. */
static const char *walk(struct virtq *q, struct virtq_chain *c)
{
	const u8 *table = q->desc;
	unsigned size = q->size, at = c->head, steps = 0;
	bool indirect = false;

	for (;;) {
		struct virtq_desc d;

		if (at >= size)
			return "descriptor index out of range";
		d = load_desc(table, at);
		if (d.flags & DESC_INDIRECT) {
			if (indirect || (d.flags & DESC_NEXT) || d.len % 16 ||
			    !d.len ||
			    !virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC))
				return "misplaced indirect table";
			table = memory_ptr(memory_of(q), d.addr, d.len);
			if (!table)
				return "indirect table not in memory";
			/* Longer than any chain may be: the count of steps
			 * says so below. */
			size = MIN(d.len / 16, 65536u);
			indirect = true;
			at = 0;
			continue;
		}
		/* A chain that loops is one that is too long. */
		if (++steps > VIRTQ_SIZE_MAX)
			return "descriptor chain too long";
		if (!(d.flags & DESC_WRITE) && c->in)
			return "readable buffer after a writable one";
		if (!add_buffer(q, c, d.addr, d.len, d.flags & DESC_WRITE))
			return "buffer not in memory";
		if (c->out_bytes + c->in_bytes > UINT32_MAX)
			return "chain of 4 GiB or more";
		if (!(d.flags & DESC_NEXT))
			return NULL;
		at = d.next;
	}
}

bool virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	const char *why;
	u16 idx, waiting;

	if (!q->running || !virtio_active(q->dev))
		return false;
	idx = __atomic_load_n(q->avail + 1, __ATOMIC_ACQUIRE);
	waiting = (u16)(idx - q->last_avail);
	if (!waiting)
		return false;
	if (waiting > q->size) {
		virtio_broken(q->dev, "avail index jumped");
		return false;
	}
	c->head = load16(q->avail + 2 + (q->last_avail & (q->size - 1)));
	c->out = c->in = 0;
	c->out_bytes = c->in_bytes = 0;
	why = walk(q, c);
	if (why) {
		virtio_broken(q->dev, why);
		return false;
	}
	q->last_avail++;
	return true;
}

void virtq_unpop(struct virtq *q)
{
	q->last_avail--;
}

bool virtq_wait_more(struct virtq *q, u16 more)
{
	if (!q->running || !virtio_active(q->dev))
		return false;
	if (virtio_has(q->dev, VIRTIO_F_EVENT_IDX)) {
		/* Of the next after what is there: buffers that are too few
		 * stay in the ring, and the driver counts from its own
		 * index. */
		__atomic_store_n(avail_event(q),
		                 (u16)(load16(q->avail + 1) + more),
		                 __ATOMIC_SEQ_CST);
		memory_written(memory_of(q), q->device_gpa + used_bytes(q) - 2,
		               2);
	}
	return __atomic_load_n(q->avail + 1, __ATOMIC_SEQ_CST) != q->last_avail;
}

bool virtq_wait(struct virtq *q)
{
	return virtq_wait_more(q, 0);
}

void virtq_fill(struct virtq *q, unsigned at, u16 head, u32 written)
{
	unsigned slot = (u16)(q->used_idx + at) & (q->size - 1u);
	u32 entry[2] = { head, written };

	if (!q->running)
		return;
	memcpy(q->used + 2 + 4 * slot, entry, sizeof(entry));
	memory_written(memory_of(q), q->device_gpa + 4 + 8 * slot, 8);
}

void virtq_publish(struct virtq *q, unsigned count)
{
	if (!q->running)
		return;
	q->used_idx = (u16)(q->used_idx + count);
	__atomic_store_n(q->used + 1, q->used_idx, __ATOMIC_SEQ_CST);
	memory_written(memory_of(q), q->device_gpa + 2, 2);
	/* Past half the range the distance to the last signal is ambiguous. */
	if ((u16)(q->used_idx - q->signalled) > 0x7fff)
		q->signalled_valid = false;
}

void virtq_push(struct virtq *q, u16 head, u32 written)
{
	virtq_fill(q, 0, head, written);
	virtq_publish(q, 1);
}

static bool wants_interrupt(struct virtq *q)
{
	u16 event, old = q->signalled;
	bool valid = q->signalled_valid;

	if (!virtio_has(q->dev, VIRTIO_F_EVENT_IDX))
		return !(__atomic_load_n(q->avail, __ATOMIC_SEQ_CST) &
		         AVAIL_NO_INTERRUPT);
	event = __atomic_load_n(used_event(q), __ATOMIC_SEQ_CST);
	q->signalled = q->used_idx;
	q->signalled_valid = true;
	return !valid ||
	       (u16)(q->used_idx - event - 1) < (u16)(q->used_idx - old);
}

void virtq_interrupt(struct virtq *q)
{
	struct virtq_pace *p = &q->pace;

	if (p->holding) {
		p->held++;
		return;
	}
	p->held = 0;
	p->since_ns = 0;
	if (q->running && wants_interrupt(q))
		virtio_queue_interrupt(q->dev, q);
}

void virtq_written(struct virtq *q, const struct virtq_chain *c, u64 bytes)
{
	for (unsigned i = c->out; i < c->out + c->in && bytes; i++) {
		u64 n = MIN(bytes, c->iov[i].iov_len);

		memory_written(memory_of(q), c->gpa[i], n);
		bytes -= n;
	}
}

size_t virtq_copy_out(const struct virtq_chain *c, size_t offset, void *buf,
                      size_t len)
{
	u8 *to = buf;

	for (unsigned i = 0; i < c->out && len; i++) {
		const struct iovec *v = &c->iov[i];
		size_t n;

		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		n = MIN(len, v->iov_len - offset);
		memcpy(to, (const u8 *)v->iov_base + offset, n);
		to += n;
		len -= n;
		offset = 0;
	}
	return (size_t)(to - (u8 *)buf);
}

size_t virtq_copy_in(struct virtq *q, const struct virtq_chain *c,
                     size_t offset, const void *buf, size_t len)
{
	const u8 *from = buf;

	for (unsigned i = c->out; i < c->out + c->in && len; i++) {
		const struct iovec *v = &c->iov[i];
		size_t n;

		if (offset >= v->iov_len) {
			offset -= v->iov_len;
			continue;
		}
		n = MIN(len, v->iov_len - offset);
		memcpy((u8 *)v->iov_base + offset, from, n);
		memory_written(memory_of(q), c->gpa[i] + offset, n);
		from += n;
		len -= n;
		offset = 0;
	}
	return (size_t)(from - (const u8 *)buf);
}
