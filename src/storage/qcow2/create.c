/* SPDX-License-Identifier: Apache-2.0 */
/*
 * create - a new image: header, an L1 table of nothing, refcounts of both.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/qcow2/qcow2.h"

static bool power_of_two(u64 n)
{
	return n && !(n & (n - 1));
}

static int set_features(struct header *h, const struct image_create *how,
                        struct error *err)
{
	const char *method = how->compression ? how->compression : "zlib";

	if (how->lazy_refcounts)
		h->compatible |= COMPAT_LAZY_REFCOUNTS;
	if (how->extended_l2)
		h->incompatible |= INCOMPAT_EXTENDED_L2;
	if (strcmp(method, "zstd") == 0) {
		h->incompatible |= INCOMPAT_COMPRESSION;
		h->compression = COMPRESSION_ZSTD;
	} else if (strcmp(method, "zlib") != 0) {
		return error_set(err, -EINVAL,
		                 "'%s' is not a compression: zlib, zstd",
		                 method);
	}
	if (how->data_file) {
		h->incompatible |= INCOMPAT_DATA_FILE;
		if (how->data_file_raw)
			h->autoclear |= AUTOCLEAR_RAW_DATA;
	}
	return 0;
}

static int check_options(const struct image_create *how, u32 cluster,
                         u32 refcount, struct error *err)
{
	bool v2 = how->version == 2;

	if (!power_of_two(cluster) || cluster < 1u << CLUSTER_BITS_MIN ||
	    cluster > 1u << CLUSTER_BITS_MAX)
		return error_set(err, -EINVAL,
		                 "a cluster is a power of two from 512 bytes to"
		                 " 2 MiB");
	if (!power_of_two(refcount) || refcount > 64)
		return error_set(err, -EINVAL,
		                 "a refcount has 1, 2, 4, 8, 16, 32 or 64"
		                 " bits");
	if (v2 && (how->lazy_refcounts || how->extended_l2 || how->data_file ||
	           refcount != 16 ||
	           (how->compression && strcmp(how->compression, "zlib") != 0)))
		return error_set(err, -EINVAL,
		                 "that needs version 3 of the format");
	if (how->extended_l2 && cluster < 1u << CLUSTER_BITS_EXTENDED_MIN)
		return error_set(err, -EINVAL,
		                 "extended L2 entries need clusters of 16 KiB"
		                 " or more");
	if (how->data_file_raw && (!how->data_file || how->backing))
		return error_set(err, -EINVAL,
		                 "a raw data file needs a data file and no"
		                 " backing file");
	if (!how->backing != !how->backing_format)
		return error_set(err, -EINVAL,
		                 "a backing file needs its format stated");
	if ((how->backing && strlen(how->backing) > BACKING_NAME_MAX) ||
	    (how->data_file && strlen(how->data_file) > BACKING_NAME_MAX))
		return error_set(err, -ENAMETOOLONG, "a name is too long");
	return 0;
}

static int lay_down(struct qcow2 *q, const char *path, struct error *err)
{
	u64 l1 = MAX(ALIGN_UP((u64)q->h.l1_size * 8, (u64)q->cluster_size) >>
	                 q->h.cluster_bits,
	             (u64)1);
	u32 *counts = try_alloc(l1 + 1, sizeof(*counts));
	u8 *zero = try_alloc(1, q->cluster_size);
	int rc = counts && zero ? 0 : -ENOMEM;

	for (u64 i = 0; i <= l1 && rc == 0; i++) {
		counts[i] = 1;
		rc = meta_write(q, i << q->h.cluster_bits, zero,
		                q->cluster_size);
	}
	if (rc == 0)
		rc = refcounts_rebuild(q, counts, l1 + 1);
	free(counts);
	free(zero);
	if (rc == 0)
		rc = header_rewrite(q, err);
	if (rc == 0)
		rc = meta_flush(q);
	return rc < 0 ? error_set(err, rc, "%s: %s", path, strerror(-rc)) : 0;
}

int qcow2_create_on(struct block *file, const struct image_create *how,
                    struct error *err)
{
	u32 cluster = how->cluster_bytes ? how->cluster_bytes : 64 * KIB;
	u32 refcount = how->refcount_bits ? how->refcount_bits : 16;
	struct qcow2 q = { .file = file, .data = file, .writable = true };
	struct header *h = &q.h;
	u64 entries, per_l1;
	int rc = check_options(how, cluster, refcount, err);

	if (rc == 0)
		rc = set_features(h, how, err);
	if (rc < 0)
		return rc;
	h->version = how->version ? how->version : 3;
	h->cluster_bits = (u32)__builtin_ctz(cluster);
	h->refcount_order = (u32)__builtin_ctz(refcount);
	h->length = h->version == 2 ? H_V2_LENGTH : H_OUR_LENGTH;
	h->size = how->size;
	per_l1 = (u64)cluster * (cluster / (how->extended_l2 ? 16 : 8));
	entries = (how->size + per_l1 - 1) / per_l1;
	if (entries * 8 > L1_BYTES_MAX || how->size > (u64)INT64_MAX - cluster)
		return error_set(err, -EFBIG,
		                 "clusters of %u bytes are too small for a disk"
		                 " of %" PRIu64 " bytes",
		                 cluster, how->size);
	h->l1_size = (u32)MAX(entries, (u64)1);
	h->l1_offset = cluster;
	if (how->backing) {
		strcpy(h->backing, how->backing);
		if (strlen(how->backing_format) >= sizeof(h->backing_format))
			return error_set(err, -EINVAL, "an unknown format");
		strcpy(h->backing_format, how->backing_format);
	}
	if (how->data_file)
		strcpy(h->data_file, how->data_file);
	header_geometry(&q);
	pthread_mutex_init(&q.lock, NULL);
	q.head = xalloc(MAX(4096u, cluster));
	q.fresh_from = UINT64_MAX;
	rc = lay_down(&q, how->path ? how->path : "the image", err);
	free(q.head);
	free(q.reftable);
	pthread_mutex_destroy(&q.lock);
	return rc;
}

/* Give every guest cluster of one table its place. meta held. */
static int place_table(struct qcow2 *q, u64 offset, u64 end)
{
	struct table *t;
	int rc = l2_get(q, offset, true, &t);

	while (offset < end && rc == 0) {
		u64 want =
		    (end - offset + q->cluster_size - 1) >> q->h.cluster_bits;
		u64 host = offset, got = want;

		if (!q->external)
			rc = clusters_alloc(q, want, &host, &got);
		for (u64 i = 0; i < got && rc == 0; i++)
			l2_set(q, t, l2_index(q, offset) + (u32)i,
			       (host + (i << q->h.cluster_bits)) | ENTRY_COPIED,
			       q->extended ? UINT32_MAX : 0);
		offset += got << q->h.cluster_bits;
	}
	table_put(t);
	return rc;
}

int qcow2_preallocate(struct block *b)
{
	struct qcow2 *q = qcow2_of(b);
	u64 per_table = (u64)q->l2_entries << q->h.cluster_bits;
	int rc = 0;

	pthread_mutex_lock(&q->meta);
	for (u64 at = 0; at < q->h.size && rc == 0; at += per_table)
		rc = place_table(q, at, MIN(at + per_table, q->h.size));
	if (rc == 0)
		rc = commit_all(q);
	/* The file reaches as far as its tables say. */
	if (rc == 0 && !q->external && q->file->unbounded)
		rc = block_resize(q->file, q->host_end, NULL);
	pthread_mutex_unlock(&q->meta);
	return rc;
}
