/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image - making image files, and telling what they are.
 */
#include "storage/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/core/formats.h"
#include "storage/qcow2/qcow2.h"
#include "storage/raw/raw.h"

char *image_path_beside(const char *base, const char *name)
{
	return path_beside(base, name);
}

static const struct {
	const char *suffix, *format;
} suffixes[] = {
	{ ".qcow2", "qcow2" }, { ".raw", "raw" },   { ".img", "raw" },
	{ ".iso", "raw" },     { ".vmdk", "vmdk" }, { ".vhdx", "vhdx" },
	{ ".vdi", "vdi" },     { ".vhd", "vpc" },
};

const char *image_format_named(const char *path)
{
	size_t n = strlen(path);

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		size_t len = strlen(suffixes[i].suffix);

		if (n > len &&
		    strcasecmp(path + n - len, suffixes[i].suffix) == 0)
			return suffixes[i].format;
	}
	return strncmp(path, "/dev/", 5) == 0 ? "raw" : NULL;
}

static bool may_replace(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 &&
	       (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

static const char *format_of(const struct image_create *how)
{
	return how->format ? how->format : "qcow2";
}

static const char *place_of(const struct image_create *how)
{
	return how->by ? how->by : how->path;
}

static int make_file(const struct image_create *how, struct error *err)
{
	int fd = open(place_of(how),
	              O_RDWR | O_CLOEXEC | O_CREAT | O_NOCTTY | O_NONBLOCK |
	                  (how->replace || how->by ? 0 : O_EXCL),
	              0644);

	if (fd < 0) {
		int rc = -errno;

		error_set(err, rc, "%s: %s", how->path, strerror(-rc));
		if (rc == -EEXIST && may_replace(how->path))
			error_hint(err, "--force replaces it");
		return rc;
	}
	return fd;
}

/* Locked before it is cut: it may be an image in use. */
static int open_empty(struct block **out, const struct image_create *create,
                      unsigned flags, struct error *err)
{
	struct block_open how = { .path = create->path, .flags = flags };
	struct block *b;
	int rc;

	how.fd = make_file(create, err);
	if (how.fd < 0)
		return how.fd;
	rc = raw_open(&b, &how, err);
	if (rc < 0)
		return rc;
	if (!container_of(b, struct raw, block)->device)
		rc = block_resize(b, 0, err);
	if (rc < 0)
		block_close(b);
	else
		*out = b;
	return rc;
}

/* Let the host reserve, or write, what the file will need. */
static int reserve(struct block *b, enum image_preallocation how,
                   const char *path, struct error *err)
{
	struct raw *raw = container_of(b, struct raw, block);
	struct stat st;
	int rc = 0;

	if (raw->device || how < IMAGE_FALLOC)
		return 0;
	if (fstat(raw->fd, &st) < 0)
		rc = -errno;
	else if (st.st_size > 0)
		rc = -posix_fallocate(raw->fd, 0, st.st_size);
	if (rc == 0 && how == IMAGE_FULL) {
		u8 *zero = try_alloc(1, MIB);
		u64 end = (u64)st.st_size;

		rc = zero ? 0 : -ENOMEM;
		/* Only where nothing was written; data is what was. */
		for (u64 at = 0; at < end && rc == 0; at += MIB) {
			ssize_t n = pread(raw->fd, zero, MIB, (off_t)at);

			if (n > 0)
				n = pwrite(raw->fd, zero, (size_t)n, (off_t)at);
			rc = n < 0 ? -errno : 0;
		}
		free(zero);
		if (rc == 0 && fsync(raw->fd) < 0)
			rc = -errno;
	}
	if (rc < 0)
		return error_set(err, rc, "%s: %s", path, strerror(-rc));
	return 0;
}

static int create_raw(const struct image_create *how, struct error *err)
{
	struct block *b;
	int rc;

	if (how->backing || how->data_file)
		return error_set(err, -EINVAL,
		                 "a raw disk has no backing or data file");
	if (how->version || how->cluster_bytes || how->refcount_bits ||
	    how->compression || how->lazy_refcounts || how->extended_l2 ||
	    how->data_file_raw || how->preallocation == IMAGE_METADATA)
		return error_set(err, -EINVAL,
		                 "a raw disk has no clusters, counts, tables or"
		                 " compression: only a size");
	rc = open_empty(&b, how, 0, err);
	if (rc < 0)
		return rc;
	if (block_size(b) < how->size)
		rc = block_resize(b, how->size, err);
	if (rc == 0)
		rc = reserve(b, how->preallocation, how->path, err);
	block_close(b);
	return rc;
}

static int make_data_file(const struct image_create *how, struct error *err)
{
	struct image_create data = { .format = "raw",
		                     .size = how->size,
		                     .replace = how->replace,
		                     .preallocation = how->preallocation };
	char *path = path_beside(how->path, how->data_file);
	int rc;

	/* Its places are in the image's tables. */
	if (data.preallocation == IMAGE_METADATA)
		data.preallocation = IMAGE_SPARSE;
	data.path = path;
	data.by = how->data_by;
	rc = create_raw(&data, err);
	free(path);
	return rc;
}

/* Its data file may not have its name yet. */
static int open_beside(void *ctx, const char *base, const char *name,
                       const char *format, bool writable, struct error *err)
{
	const struct image_create *how = ctx;

	if (how->data_by && strcmp(name, how->data_file) == 0)
		name = how->data_by;
	return block_opener_paths.open(NULL, base, name, format, writable, err);
}

int image_open_new(struct block **out, const struct image_create *how,
                   unsigned flags, struct error *err)
{
	struct image_create own = *how;
	const struct block_opener opener = { open_beside, &own };
	struct block_open again = { .path = how->path,
		                    .fd = -1,
		                    .format = format_of(how),
		                    .flags = flags,
		                    .opener = &opener };

	if (how->by)
		again.fd = open(how->by, O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (how->by && again.fd < 0)
		return error_set(err, -errno, "%s: %s", how->path,
		                 strerror(errno));
	return block_open(out, &again, err);
}

static int preallocate(const struct image_create *how, struct error *err)
{
	struct block *b;
	int rc = image_open_new(&b, how, IMAGE_OPEN_NO_BACKING, err);

	if (rc < 0)
		return rc;
	rc = qcow2_preallocate(b);
	if (rc < 0)
		error_set(err, rc, "%s: %s", how->path, strerror(-rc));
	else if (!how->data_file)
		rc = reserve(qcow2_of(b)->file, how->preallocation, how->path,
		             err);
	block_close(b);
	return rc;
}

static int create_qcow2(const struct image_create *how, struct error *err)
{
	struct block *file;
	int rc;

	if (how->preallocation && how->backing)
		return error_set(err, -EINVAL,
		                 "a disk over a backing file starts empty");
	/* It is empty: what a crash takes away can be made again. */
	rc = open_empty(&file, how, RAW_UNBOUNDED | BLOCK_OPEN_NO_FLUSH, err);
	if (rc < 0)
		return rc;
	rc = qcow2_create_on(file, how, err);
	block_close(file);
	if (rc == 0 && how->data_file)
		rc = make_data_file(how, err);
	if (rc == 0 && how->preallocation)
		rc = preallocate(how, err);
	if (rc < 0 && !how->replace && !how->by)
		unlink(how->path);
	return rc;
}

int image_create(const struct image_create *how, struct error *err)
{
	const char *format = format_of(how);

	if (!IS_ALIGNED(how->size, 512) || how->size > INT64_MAX)
		return error_set(err, -EINVAL,
		                 "a disk's size is a multiple of 512 bytes");
	if (strcmp(format, "raw") == 0)
		return create_raw(how, err);
	if (strcmp(format, "qcow2") == 0)
		return create_qcow2(how, err);
	error_set(err, -EINVAL, "'%s' is not a disk format", format);
	return error_hint(err, "formats are raw and qcow2; atoll disk convert "
	                       "makes others of them");
}

static const char *text(const char *s)
{
	return s[0] ? s : NULL;
}

static void list_snapshots(const struct qcow2 *q, struct image_details *out)
{
	out->snapshot_count = q->h.snapshots;
	out->snapshots = xalloc(q->h.snapshots * sizeof(*out->snapshots));
	for (u32 i = 0; i < q->h.snapshots; i++) {
		const struct snapshot *s = &q->snapshots[i];

		out->snapshots[i] = (struct image_snapshot){
			.id = s->id,
			.name = s->name,
			.seconds = s->seconds,
			.nanoseconds = s->nanoseconds,
			.clock_ns = s->clock_ns,
			.state_bytes = s->state_size,
			.disk_bytes = s->disk_size,
		};
	}
}

static void list_bitmaps(const struct qcow2 *q, struct image_details *out)
{
	struct image_bitmap *to;

	for (const struct bitmap *b = q->bitmaps; b; b = b->next)
		out->bitmap_count++;
	out->bitmaps = to = xalloc(out->bitmap_count * sizeof(*to));
	for (const struct bitmap *b = q->bitmaps; b; b = b->next)
		*to++ = (struct image_bitmap){
			.name = b->name,
			.granularity = b->granularity_bits < 64
			                   ? BIT(b->granularity_bits)
			                   : 0,
			.enabled = b->flags & BITMAP_AUTO,
			/* What we recorded ourselves is marked, but good. */
			.in_use = (b->flags & BITMAP_IN_USE) && !b->tracked,
			.readable = b->type == BITMAP_TYPE_DIRTY,
		};
}

void image_details(struct block *b, struct image_details *out)
{
	const struct qcow2 *q;

	*out = (struct image_details){ .format = b->driver->name };
	if (b->driver != &qcow2_driver)
		return;
	q = qcow2_of(b);
	out->version = q->h.version;
	out->cluster_bytes = q->cluster_size;
	out->refcount_bits = q->refcount_bits;
	out->compression =
	    q->h.compression == COMPRESSION_ZSTD ? "zstd" : "zlib";
	out->lazy_refcounts = q->h.compatible & COMPAT_LAZY_REFCOUNTS;
	out->extended_l2 = q->extended;
	out->dirty = q->h.incompatible & INCOMPAT_DIRTY;
	out->corrupt = q->h.incompatible & INCOMPAT_CORRUPT;
	out->data_file_raw = q->raw_data;
	out->backing = text(q->h.backing);
	out->backing_format = text(q->h.backing_format);
	out->data_file = text(q->h.data_file);
	list_snapshots(q, out);
	list_bitmaps(q, out);
}

void image_details_free(struct image_details *details)
{
	free(details->snapshots);
	free(details->bitmaps);
}

int image_look(struct block **b, int fd, const char *path,
               struct image_details *out, struct error *err)
{
	struct block_open how = { .path = path,
		                  .format = "qcow2",
		                  .flags = BLOCK_OPEN_READONLY |
		                           BLOCK_OPEN_NO_LOCK |
		                           IMAGE_OPEN_NO_BACKING |
		                           IMAGE_OPEN_NO_DATA };
	int rc;

	how.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (how.fd < 0)
		return error_set(err, -errno, "%s: %s", path, strerror(errno));
	rc = block_open(b, &how, err);
	if (rc == 0)
		image_details(*b, out);
	return rc;
}

/* The compressed bytes, with zeroes to the end of their last unit; what
 * shares the first unit is kept. meta held. */
static int store_packed(struct qcow2 *q, u64 at, const u8 *data, u32 size)
{
	u32 unit = q->file->info.sector;
	u64 from = ALIGN_DOWN(at, (u64)unit), to = ALIGN_UP(at + size, unit);
	u8 *buf = try_alloc(1, to - from);
	int rc = buf ? 0 : -ENOMEM;

	if (rc == 0 && from < at)
		rc = meta_read(q, from, buf, unit);
	if (rc == 0) {
		memset(buf + (at - from), 0, to - at);
		memcpy(buf + (at - from), data, size);
		rc = meta_write(q, from, buf, to - from);
	}
	free(buf);
	return rc;
}

static int link_packed(struct qcow2 *q, u64 offset, u64 at, u32 size)
{
	u32 x = 62 - (q->h.cluster_bits - 8);
	u64 sectors = (at + size - 1) / 512 - at / 512;
	u64 bitmap, old;
	struct table *t;
	int rc = l2_get(q, offset, true, &t);

	if (rc < 0)
		return rc;
	old = l2_entry(q, t, l2_index(q, offset), &bitmap);
	l2_set(q, t, l2_index(q, offset), ENTRY_COMPRESSED | sectors << x | at,
	       0);
	rc = l2_entry_free(q, old);
	table_put(t);
	return rc;
}

static int write_packed(struct qcow2 *q, u64 offset, const void *data, u32 size)
{
	struct hold h;
	u64 at;
	int rc;

	hold_take(q, &h, cluster_of(q, offset), cluster_of(q, offset), true);
	pthread_mutex_lock(&q->meta);
	rc = clusters_alloc_packed(q, size, &at);
	/* The descriptor has fewer bits for the place than others. */
	if (rc == 0 && at + size >= BIT(62 - (q->h.cluster_bits - 8)))
		rc = -EFBIG;
	if (rc == 0)
		rc = store_packed(q, at, data, size);
	if (rc == 0)
		rc = link_packed(q, offset, at, size);
	pthread_mutex_unlock(&q->meta);
	hold_release(q, &h);
	return rc;
}

int image_write_compressed(struct block *b, u64 offset, const void *data,
                           struct error *err)
{
	struct qcow2 *q;
	u64 size = block_size(b), n;
	union {
		const void *in;
		void *p;
	} from = { .in = data };
	u32 packed;
	u8 *buf;
	int rc = image_qcow2(b, &q, err);

	if (rc < 0)
		return rc;
	if (!q->writable || q->external || in_cluster(q, offset) ||
	    offset >= size)
		return error_set(err, -EINVAL,
		                 "no compressed cluster can be written here");
	n = MIN((u64)q->cluster_size, size - offset);
	buf = try_alloc(1, q->cluster_size);
	rc = buf ? 0 : -ENOMEM;
	if (rc == 0)
		rc = compress_cluster(q->h.compression, data, q->cluster_size,
		                      buf, &packed);
	if (rc == 0)
		rc = write_packed(q, offset, buf, packed);
	else if (rc == -ENOSPC)
		rc = block_sync(b, BLOCK_WRITE, offset, from.p, n);
	free(buf);
	return rc < 0 ? error_set(err, rc, "%s", strerror(-rc)) : 0;
}

int image_without_snapshots(struct block *b, struct error *err)
{
	struct image_details d;
	u32 count;

	image_details(b, &d);
	count = d.snapshot_count;
	image_details_free(&d);
	if (count == 0)
		return 0;
	error_set(err, -EINVAL,
	          "the image has snapshots inside, which need what it lies on "
	          "as it is");
	return error_hint(err, "delete them first, or atoll disk convert it, "
	                       "which leaves them behind");
}

int image_set_backing(struct block *b, const char *backing, const char *format,
                      struct error *err)
{
	struct header old;
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err);

	if (rc < 0)
		return rc;
	if (!q->writable)
		return error_set(err, -EROFS, "the image is open read-only");
	if (backing && (strlen(backing) >= sizeof(q->h.backing) || !format ||
	                strlen(format) >= sizeof(q->h.backing_format)))
		return error_set(err, -EINVAL,
		                 "a backing file needs a name and a format");
	if (backing && q->raw_data)
		return error_set(err, -EINVAL,
		                 "a raw data file goes with no backing file");
	hold_take(q, &all, 0, UINT64_MAX, true);
	pthread_mutex_lock(&q->meta);
	old = q->h;
	strcpy(q->h.backing, backing ? backing : "");
	strcpy(q->h.backing_format, backing ? format : "");
	rc = commit_all(q);
	if (rc < 0)
		error_set(err, rc, "%s", strerror(-rc));
	else
		rc = header_rewrite(q, err);
	if (rc == 0)
		rc = meta_flush(q);
	if (rc < 0) {
		u64 incompatible = q->h.incompatible;

		q->h = old;
		q->h.incompatible = incompatible;
	}
	pthread_mutex_unlock(&q->meta);
	hold_release(q, &all);
	return rc;
}

static int empty_table(struct qcow2 *q, u64 offset)
{
	struct table *t;
	int rc = l2_get(q, offset, false, &t);

	if (rc < 0 || !t)
		return rc;
	table_put(t);
	rc = l2_get(q, offset, true, &t);
	for (u32 i = 0; i < q->l2_entries && rc == 0; i++) {
		u64 bitmap, old = l2_entry(q, t, i, &bitmap);

		if (old == 0 && bitmap == 0)
			continue;
		l2_set(q, t, i, 0, 0);
		rc = l2_entry_free(q, old);
	}
	table_put(t);
	return rc;
}

int image_make_empty(struct block *b, struct error *err)
{
	struct qcow2 *q;
	struct hold all;
	int rc = image_qcow2(b, &q, err);

	if (rc < 0)
		return rc;
	if (!q->writable)
		return error_set(err, -EROFS, "the image is open read-only");
	hold_take(q, &all, 0, UINT64_MAX, true);
	pthread_mutex_lock(&q->meta);
	for (u64 at = 0; at < q->h.size && rc == 0;
	     at += (u64)q->l2_entries << q->h.cluster_bits)
		rc = empty_table(q, at);
	if (rc == 0)
		rc = commit_all(q);
	bitmaps_mark(q, 0, block_size(b));
	pthread_mutex_unlock(&q->meta);
	hold_release(q, &all);
	return rc < 0 ? error_set(err, rc, "%s", strerror(-rc)) : 0;
}
