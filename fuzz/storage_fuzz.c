/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage_fuzz - the input is a qcow2 file, but for its last byte, which
 * chooses what is done with it. Whatever it says, reading, checking,
 * repairing and writing must end, in words or in success.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "storage/core/driver.h"
#include "storage/core/iov.h"
#include "storage/qcow2/qcow2.h"

enum { FILE_MAX = 1024 * 1024, READ_MAX = 256 * 1024, EXTENTS_MAX = 2000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file in memory that grows to FILE_MAX. It completes inside submit: one
 * thread less for each input, and the format must not mind. */
struct memory_file {
	struct block block;
	u8 *bytes;
	u64 length;
};

static int serve(struct memory_file *f, struct block_request *req)
{
	u64 end = req->offset + req->length, n = 0;

	switch (req->op) {
	case BLOCK_READ:
		if (req->offset < f->length)
			n = MIN(req->length, f->length - req->offset);
		if (n)
			iov_copy_in(req->iov, req->iov_count, 0,
			            f->bytes + req->offset, n);
		iov_zero(req->iov, req->iov_count, n, req->length - n);
		return 0;
	case BLOCK_WRITE:
		if (end > FILE_MAX)
			return -ENOSPC;
		iov_copy_out(req->iov, req->iov_count, 0,
		             f->bytes + req->offset, req->length);
		f->length = MAX(f->length, end);
		return 0;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		if (req->offset < f->length)
			memset(f->bytes + req->offset, 0,
			       MIN(req->length, f->length - req->offset));
		return 0;
	case BLOCK_FLUSH:
		break;
	}
	return 0;
}

static void submit(struct block *b, struct block_request *req)
{
	block_complete(req,
	               serve(container_of(b, struct memory_file, block), req));
}

static void post(struct block *b, struct block_request *req, int result)
{
	(void)b;
	block_complete(req, result);
}

static void close_file(struct block *b)
{
	struct memory_file *f = container_of(b, struct memory_file, block);

	block_fini(b);
	free(f->bytes);
	free(f);
}

static const struct block_driver driver = {
	.name = "memory",
	.submit = submit,
	.post = post,
	.close = close_file,
};

static struct block *open_file(const uint8_t *data, size_t size)
{
	struct memory_file *f = calloc(1, sizeof(*f));

	if (!f || !(f->bytes = calloc(1, FILE_MAX)))
		abort();
	memcpy(f->bytes, data, size);
	f->length = size;
	block_init(&f->block, &driver);
	f->block.info.sector = 512;
	f->block.unbounded = true;
	atomic_store(&f->block.size, size);
	return &f->block;
}

static void look(struct block *b)
{
	static u8 buf[READ_MAX];
	struct image_details details;
	struct block_extent e;
	struct block_info info;
	u64 at = 0;

	image_details(b, &details);
	for (u32 i = 0; i < details.bitmap_count; i++) {
		bool dirty;
		u64 n;

		(void)!image_bitmap_next(b, details.bitmaps[i].name, 0, &dirty,
		                         &n, NULL);
	}
	image_details_free(&details);
	block_info(b, &info);
	for (int i = 0; i < EXTENTS_MAX && at < info.size; i++) {
		if (block_map(b, at, info.size - at, &e) < 0)
			break;
		if (e.flags & BLOCK_EXTENT_DATA)
			(void)block_sync(b, BLOCK_READ, at, buf,
			                 MIN(e.length, sizeof(buf)));
		at += e.length;
	}
	if (info.size >= 512)
		(void)block_sync(b, BLOCK_READ, info.size - 512, buf, 512);
}

static void change(struct block *b)
{
	static u8 buf[3000 * 512];
	struct block_info info;
	u64 n;

	block_info(b, &info);
	n = MIN(info.size, (u64)sizeof(buf));
	memset(buf, 0x5a, sizeof(buf));
	(void)block_sync(b, BLOCK_WRITE, 0, buf, n / 1024 * 512);
	(void)block_sync(b, BLOCK_WRITE_ZEROES, 0, NULL, n / 2048 * 512);
	(void)!image_snapshot_create(b, "fuzz", NULL);
	(void)block_sync(b, BLOCK_WRITE, n / 4096 * 512, buf, n / 4096 * 512);
	(void)block_sync(b, BLOCK_DISCARD, n / 1024 * 512, NULL,
	                 n / 2048 * 512);
	(void)block_sync(b, BLOCK_FLUSH, 0, NULL, 0);
	(void)!image_snapshot_apply(b, "1", NULL);
	(void)!image_snapshot_delete(b, "1", NULL);
	if (info.size < 64 * MIB)
		(void)!block_resize(b, ALIGN_UP(info.size / 2 + 1, 512), NULL);
	(void)!image_bitmap_create(b, "fuzz", 0, NULL);
	look(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct block_open how = { .path = "fuzz",
		                  .fd = -1,
		                  .flags = IMAGE_OPEN_NO_BACKING };
	struct image_check found = { 0 };
	struct block *b;
	u8 choice;

	if (size < 2 || size > FILE_MAX / 2)
		return 0;
	choice = data[--size];
	if (choice & 1)
		how.flags |= BLOCK_OPEN_READONLY;
	if (choice & 2)
		how.flags |= IMAGE_OPEN_AS_IS;
	if (qcow2_open_on(&b, open_file(data, size), &how, 0, NULL) < 0)
		return 0;
	look(b);
	if (choice & 4)
		(void)!image_check(
		    b, choice & 1 ? 0 : IMAGE_REPAIR_ALL | IMAGE_REPAIR_LEAKS,
		    &found, NULL);
	if (!(choice & 1))
		change(b);
	block_close(b);
	return 0;
}
