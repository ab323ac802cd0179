/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/core/chain.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "storage/image.h"
#include "storage/qcow2/qcow2.h"

struct block *chain_backing(struct block *b)
{
	return b->driver == &qcow2_driver ? qcow2_of(b)->backing : NULL;
}

unsigned chain_has_data_file(struct block *b)
{
	return b->driver == &qcow2_driver && qcow2_of(b)->external;
}

struct block *chain_swap_backing(struct block *b, struct block *backing)
{
	struct qcow2 *q = qcow2_of(b);
	struct block *old = q->backing;

	ASSERT(b->driver == &qcow2_driver);
	/* The fast path looks at it with this lock, meta's users with meta. */
	pthread_mutex_lock(&q->meta);
	pthread_mutex_lock(&q->lock);
	q->backing = backing;
	q->backing_bytes = backing ? block_size(backing) : 0;
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_unlock(&q->meta);
	return old;
}

int chain_freeze(struct block *b, struct error *err)
{
	int rc = 0;

	if (b->info.readonly)
		return 0;
	if (b->driver->freeze)
		rc = b->driver->freeze(b);
	if (rc < 0)
		return error_set(err, rc,
		                 "the image can't be closed for"
		                 " writing: %s",
		                 strerror(-rc));
	b->info.readonly = true;
	return 0;
}

static int set_lock(struct block *b, bool shared)
{
	return b->driver->lock ? b->driver->lock(b, shared) : 0;
}

int chain_unlock(struct block *b)
{
	return set_lock(b, false);
}

int chain_lock_shared(struct block *b)
{
	return set_lock(b, true);
}
