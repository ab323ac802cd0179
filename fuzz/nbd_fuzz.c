/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nbd_fuzz - the input is what a client sends. Whatever it is, the session
 * ends, and nothing outside its buffers is touched.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "storage/core/driver.h"
#include "storage/core/iov.h"
#include "storage/nbd/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DISK_BYTES = 1024 * 1024 + 512, ANSWER_MAX = 64 * 1024 * 1024 };

/* A disk that completes inside submit: no thread for it. */
static void submit(struct block *b, struct block_request *req)
{
	(void)b;
	if (req->op == BLOCK_READ)
		iov_zero(req->iov, req->iov_count, 0, req->length);
	block_complete(req, 0);
}

static void post(struct block *b, struct block_request *req, int result)
{
	(void)b;
	block_complete(req, result);
}

/* Data and zeroes by turns. */
static int map(struct block *b, u64 offset, u64 length, struct block_extent *e)
{
	u64 unit = 3 * 512, left = unit - offset % unit;

	(void)b;
	*e = (struct block_extent){ .length = MIN(length, left),
		                    .flags = offset / unit & 1
		                                 ? BLOCK_EXTENT_DATA
		                                 : BLOCK_EXTENT_ZERO };
	return 0;
}

static const struct block_driver driver = {
	.name = "memory",
	.submit = submit,
	.post = post,
	.map = map,
};

struct client {
	const uint8_t *data;
	size_t size, answered;
};

static int client_read(void *ctx, void *buf, size_t size)
{
	struct client *c = ctx;

	if (size > c->size)
		return -ECONNRESET;
	memcpy(buf, c->data, size);
	c->data += size;
	c->size -= size;
	return 0;
}

/* Looks at every byte, so that a sanitizer does; bounded, as input asks for
 * much more than it is. */
static int client_write(void *ctx, const void *buf, size_t size)
{
	struct client *c = ctx;
	const volatile u8 *p = buf;
	u8 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum ^= p[i];
	(void)sum;
	c->answered += size;
	return c->answered > ANSWER_MAX ? -EPIPE : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct client client = { .data = data, .size = size };
	const struct nbd_pipe pipe = { client_read, client_write, &client };
	struct block disk = { .driver = NULL };
	const struct nbd_export export = { .block = &disk, .name = "disk" };

	block_init(&disk, &driver);
	disk.info.sector = 512;
	disk.info.readonly = true;
	atomic_store(&disk.size, DISK_BYTES);
	(void)nbd_session_run(&pipe, &export);
	block_fini(&disk);
	return 0;
}
