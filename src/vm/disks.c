/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disks - requests about disks.
 *
 * Whatever a request needs open came with it as a descriptor. Who sends it may
 * do as they like with the machine's disks, but not with this process: every
 * value is checked, and a file that is no image of the format said is refused
 * by what opens it.
 */
#include "vm/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/nbd.h"
#include "storage/throttle.h"
#include "vm/claims.h"
#include "vm/config.h"
#include "vm/session.h"
#include "vm/shorten.h"
#include "vm/works.h"

#define NUMBER_MAX BIT(53) /* what JSON's numbers hold exactly */
enum { WORDS_MAX = 255 };

struct request {
	const struct disks *d;
	json_t *message;
	const struct brought *brought;
	unsigned disk;
	struct error *err;
};

typedef int request_fn(struct request *r, json_t **answer);

static json_t *granted(void)
{
	return json_pack("{s:b}", "ok", 1);
}

/* ---- what a request says ---- */

static int number(struct request *r, const char *key, u64 *out)
{
	json_t *v = json_object_get(r->message, key);
	json_int_t n = json_integer_value(v);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || n < 0 || (u64)n > NUMBER_MAX)
		return error_set(r->err, -EINVAL, "%s is not a number", key);
	*out = (u64)n;
	return 0;
}

/* NULL if it is not there or too long. */
static const char *text(struct request *r, const char *key)
{
	json_t *v = json_object_get(r->message, key);

	return json_string_length(v) <= 4096 ? json_string_value(v) : NULL;
}

static bool truth(struct request *r, const char *key)
{
	return json_is_true(json_object_get(r->message, key));
}

/* A copy of a descriptor that came along; -1: the key is not there. */
static int descriptor(struct request *r, const char *key, bool needed, int *out)
{
	json_t *index = json_object_get(r->message, key);
	int fd = brought_fd(r->brought, index);

	*out = -1;
	if (!needed && (!index || json_is_null(index)))
		return 0;
	if (fd < 0)
		return error_set(r->err, -EINVAL,
		                 "%s is not the index of a descriptor", key);
	*out = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return *out < 0 ? error_set(r->err, -errno, "descriptors: %s",
	                            strerror(errno))
	                : 0;
}

/* An image that came along as the descriptor `key`. */
static int open_image(struct request *r, const char *key, unsigned flags,
                      struct block **out)
{
	const char *path = text(r, "path"), *format = text(r, "format");
	struct block_open how = { .path = path ? path : "image",
		                  .format = format ? format : "qcow2",
		                  .flags = flags };
	int rc = descriptor(r, key, true, &how.fd);

	return rc < 0 ? rc : block_open(out, &how, r->err);
}

/* For one that becomes the disk's. */
static unsigned cache_flags(const struct request *r)
{
	return machine_disk_flags(r->d->machine, r->disk);
}

static struct block *live(const struct request *r)
{
	return machine_disk(r->d->machine, r->disk);
}

/* ---- what they are ---- */

json_t *disk_limits_json(struct machine *machine, unsigned disk)
{
	struct throttle_limits l;

	machine_disk_limits(machine, disk, &l);
	return json_pack("{s:I,s:I,s:I,s:I}", "iops", (json_int_t)l.iops,
	                 "iops_burst", (json_int_t)l.iops_burst, "bytes_per_s",
	                 (json_int_t)l.bytes, "bytes_burst",
	                 (json_int_t)l.bytes_burst);
}

/* Those of a disk that no path leads to; of others that tells: NULL. */
static json_t *layers_json(const struct disks *d, unsigned i)
{
	const struct vm_disk_chain *c = &d->config->chains[i];
	json_t *list = d->config->disk_private[i] ? json_array() : NULL;

	for (unsigned k = 0; list && k < c->count; k++)
		json_array_append_new(list,
		                      json_pack("{s:o,s:s}", "path",
		                                session_words(c->file[k].path),
		                                "format", c->file[k].format));
	return list;
}

static json_t *disk_json(const struct disks *d, unsigned i)
{
	const struct machine_disk *disk = &d->config->machine.disks[i];
	struct block_info info;

	block_info(machine_disk(d->machine, i), &info);
	return json_pack(
	    "{s:i,s:s?,s:s?,s:s?,s:I,s:b,s:b,s:b,s:o,s:o*}", "disk", (int)i,
	    "path", disk->path, "format", disk->format, "serial", disk->serial,
	    "bytes", (json_int_t)info.size, "readonly", info.readonly,
	    "private", d->config->disk_private[i], "shared",
	    d->config->disk_shared[i], "limits",
	    disk_limits_json(d->machine, i), "layers", layers_json(d, i));
}

static int do_list(struct request *r, json_t **answer)
{
	const struct disks *d = r->d;
	json_t *list = json_array();

	for (unsigned i = 0; i < d->config->machine.disk_count; i++)
		json_array_append_new(list, disk_json(d, i));
	*answer = json_pack("{s:b,s:o,s:o}", "ok", 1, "disks", list, "jobs",
	                    works_list(d->works));
	return 0;
}

/* ---- at once ---- */

static int do_throttle(struct request *r, json_t **answer)
{
	const char *path = text(r, "path"), *ours;
	struct throttle_limits l;
	int rc;

	(void)answer;
	ours = r->d->config->machine.disks[r->disk].path;
	/* Who names it by another definition than this run's may mean another.
	 */
	if (path && ours && strcmp(path, ours) != 0)
		return error_set(r->err, -EBUSY,
		                 "the machine runs with another disk there, "
		                 "%s",
		                 ours);
	machine_disk_limits(r->d->machine, r->disk, &l);
	rc = number(r, "iops", &l.iops);
	if (rc == 0)
		rc = number(r, "iops_burst", &l.iops_burst);
	if (rc == 0)
		rc = number(r, "bytes_per_s", &l.bytes);
	if (rc == 0)
		rc = number(r, "bytes_burst", &l.bytes_burst);
	if (rc == 0)
		machine_disk_throttle(r->d->machine, r->disk, &l);
	return rc;
}

static int do_resize(struct request *r, json_t **answer)
{
	u64 bytes = 0;
	int rc = number(r, "bytes", &bytes);

	(void)answer;
	return rc < 0
	           ? rc
	           : machine_disk_grow(r->d->machine, r->disk, bytes, r->err);
}

struct bitmap_wish {
	const char *action, *name;
	u64 granularity;
	json_t *list;
};

static int list_bitmaps(struct block *image, struct bitmap_wish *w)
{
	struct image_details d;

	image_details(image, &d);
	w->list = json_array();
	for (u32 i = 0; i < d.bitmap_count; i++)
		json_array_append_new(
		    w->list,
		    json_pack("{s:o,s:I,s:b,s:b}", "name",
		              session_words(d.bitmaps[i].name), "granularity",
		              (json_int_t)d.bitmaps[i].granularity, "recording",
		              d.bitmaps[i].enabled, "valid",
		              !d.bitmaps[i].in_use && d.bitmaps[i].readable));
	image_details_free(&d);
	return 0;
}

static int change_bitmap(struct block *image, void *ctx, struct error *err)
{
	struct bitmap_wish *w = ctx;

	if (strcmp(w->action, "list") == 0)
		return list_bitmaps(image, w);
	if (strcmp(w->action, "create") == 0)
		return image_bitmap_create(image, w->name, w->granularity, err);
	if (strcmp(w->action, "delete") == 0)
		return image_bitmap_delete(image, w->name, err);
	if (strcmp(w->action, "clear") == 0)
		return image_bitmap_clear(image, w->name, err);
	return error_set(err, -EINVAL,
	                 "action is none of list, create, "
	                 "delete and clear");
}

static int do_bitmap(struct request *r, json_t **answer)
{
	struct bitmap_wish w = { .action = text(r, "action"),
		                 .name = text(r, "name"),
		                 .granularity = 64 * KIB };
	int rc = number(r, "granularity", &w.granularity);

	if (rc == 0 && (!w.action || (!w.name && strcmp(w.action, "list"))))
		rc = error_set(r->err, -EINVAL,
		               "a bitmap needs an action and a name");
	if (rc == 0)
		rc = live_with_image(live(r), change_bitmap, &w, r->err);
	if (rc == 0 && w.list)
		*answer = json_pack("{s:b,s:o}", "ok", 1, "bitmaps", w.list);
	return rc;
}

/* ---- long work ---- */

static int add_work(struct request *r, const char *kind, struct work **out)
{
	struct work *work;
	u64 rate = 0;
	int rc = number(r, "rate", &rate);
	const char *record = text(r, "record");

	if (rc < 0)
		return rc;
	if (record && (strlen(record) > WORK_NAME_MAX || strchr(record, '/')))
		return error_set(r->err, -EINVAL, "record is not a file name");
	work = works_add(r->d->works, r->disk, kind, text(r, "path"));
	if (!work)
		return error_set(r->err, -EBUSY, "too many jobs");
	work->rate = rate;
	strcpy(work->record, record ? record : "");
	*out = work;
	return 0;
}

/* The end of every request that begins one. */
static int begun(struct work *work, int rc, json_t **answer)
{
	if (rc < 0) {
		works_drop(work);
		return rc;
	}
	work_begun(work);
	*answer = json_pack("{s:b,s:I}", "ok", 1, "job", (json_int_t)work->id);
	return 0;
}

int disk_check_base(const struct vm_config *config, unsigned disk,
                    const struct brought *b, json_t *index, struct error *err)
{
	int fd = brought_fd(b, index), own = config->disk_fds[disk];
	struct stat it, is;

	if (!index)
		return 0;
	if (fd < 0 || own < 0 || fstat(fd, &it) < 0 || fstat(own, &is) < 0)
		return error_set(err, -EINVAL,
		                 "the disk's file can't be looked at");
	if (it.st_dev == is.st_dev && it.st_ino == is.st_ino)
		return 0;
	error_set(err, -EBUSY, "another job has worked on this disk");
	return error_hint(err, "ask again");
}

static int do_snapshot(struct request *r, json_t **answer)
{
	struct work *work;
	int rc = disk_check_base(r->d->config, r->disk, r->brought,
	                         json_object_get(r->message, "base"), r->err);

	if (rc == 0)
		rc = add_work(r, "snapshot", &work);

	if (rc < 0)
		return rc;
	rc = descriptor(r, "file", true, &work->image_fd);
	if (rc == 0)
		rc = open_image(r, "file",
		                IMAGE_OPEN_NO_BACKING | cache_flags(r),
		                &work->overlay);
	if (rc == 0)
		rc = work_snapshot(work, r->err);
	return begun(work, rc, answer);
}

static int open_for_work(const struct work *w, int fd, const char *path,
                         const char *format, struct block **out,
                         struct error *err)
{
	const struct block_open how = { .path = path,
		                        .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
		                        .format = format,
		                        .flags =
		                            IMAGE_OPEN_NO_BACKING | w->flags };

	if (how.fd < 0)
		return error_set(err, -errno, "descriptors: %s",
		                 strerror(errno));
	return block_open(out, &how, err);
}

static int open_base(void *ctx, struct block **out, struct error *err)
{
	struct work *w = ctx;

	return open_for_work(w, w->base_fd, w->path, w->base_format, out, err);
}

static int open_above(void *ctx, struct block **out, struct error *err)
{
	struct work *w = ctx;

	return open_for_work(w, w->above_fd, w->above_path, "qcow2", out, err);
}

static int do_commit(struct request *r, json_t **answer)
{
	const char *format = text(r, "format"), *name = text(r, "name");
	const char *above = text(r, "above_path");
	u64 from = 0, count = 1;
	struct job_options options;
	struct job_base base;
	struct work *work;
	int rc = add_work(r, "commit", &work);

	if (rc < 0)
		return rc;
	work->then = WORK_PIVOT;
	work->base_format = xstrdup(format ? format : "raw");
	work->above_path = xstrdup(above ? above : "image");
	work->flags = cache_flags(r);
	rc = descriptor(r, "file", true, &work->base_fd);
	if (rc == 0)
		rc = descriptor(r, "above", false, &work->above_fd);
	if (rc == 0)
		rc = number(r, "from", &from);
	if (rc == 0)
		rc = number(r, "count", &count);
	if (rc == 0 && from == 0) {
		work->image_fd = fcntl(work->base_fd, F_DUPFD_CLOEXEC, 0);
		rc = work->image_fd < 0 ? -errno : 0;
	}
	options = work_options(work);
	base = (struct job_base){ .open = open_base,
		                  .open_above = open_above,
		                  .ctx = work,
		                  .name = name,
		                  .format = work->base_format };
	if (rc == 0 && (from > UINT16_MAX || count > UINT16_MAX))
		rc = error_set(r->err, -EINVAL, "the chain is not that long");
	if (rc == 0)
		rc = job_commit(&work->job, live(r), (unsigned)from,
		                (unsigned)count, &base, &options, r->err);
	return begun(work, rc, answer);
}

static int mirror_end(struct request *r, struct work *work)
{
	const char *then = text(r, "then");

	work->then = WORK_FINISH;
	if (then && strcmp(then, "pivot") == 0)
		work->then = WORK_PIVOT;
	else if (then && strcmp(then, "stay") == 0)
		work->then = WORK_STAY;
	else if (then && strcmp(then, "finish"))
		return error_set(r->err, -EINVAL,
		                 "then is none of finish, "
		                 "pivot and stay");
	return 0;
}

static int do_mirror(struct request *r, json_t **answer)
{
	struct job_options options;
	struct block *target = NULL;
	struct work *work;
	int rc = add_work(r, "mirror", &work);

	if (rc < 0)
		return rc;
	rc = mirror_end(r, work);
	/* One that stays may be told to take the disk's place. */
	if (rc == 0 && work->then != WORK_FINISH)
		rc = descriptor(r, "file", true, &work->image_fd);
	if (rc == 0)
		rc = open_image(
		    r, "file",
		    IMAGE_OPEN_NO_BACKING |
			(work->then == WORK_FINISH ? 0 : cache_flags(r)),
		    &target);
	options = work_options(work);
	if (rc == 0)
		rc = job_mirror(&work->job, live(r), target, truth(r, "blank"),
		                &options, r->err);
	if (rc < 0)
		block_close(target);
	return begun(work, rc, answer);
}

/* ---- rebase ---- */

static int read_files(struct request *r, struct block_files *files)
{
	json_t *list = json_object_get(r->message, "files"), *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		struct request of = *r;
		struct block_file *f = &files->files[i];
		int rc;

		if (i == MACHINE_CHAIN_MAX)
			return error_set(r->err, -E2BIG, "too many files");
		of.message = one;
		f->path = text(&of, "path");
		f->format = text(&of, "format");
		if (!f->path || !f->format)
			return error_set(r->err, -EINVAL,
			                 "a file needs a path and a format");
		rc = descriptor(&of, "file", true, &f->fd);
		if (rc < 0)
			return rc;
		files->count++;
	}
	return 0;
}

/* An image that is only read, and all that it lies on. */
static int open_backing(struct request *r, struct block **out)
{
	struct block_file file[MACHINE_CHAIN_MAX];
	struct block_files files = { .files = file };
	const struct block_opener opener = { block_files_open, &files };
	struct block_open how = { .flags = BLOCK_OPEN_READONLY | cache_flags(r),
		                  .opener = &opener };
	int rc = read_files(r, &files);

	if (rc == 0 && files.count) {
		how.path = file[0].path;
		how.format = file[0].format;
		how.fd = file[0].fd;
		file[0].fd = -1;
		rc = block_open(out, &how, r->err);
	}
	for (unsigned i = 0; i < files.count; i++)
		if (file[i].fd >= 0)
			close(file[i].fd);
	return rc;
}

/* A layer of a disk without a path has the name by which it came. */
static int name_layer(struct request *r, struct job_rebase *how)
{
	const struct vm_disk_chain *c = &r->d->config->chains[r->disk];
	u64 layer = 0;
	int rc = number(r, "layer", &layer);

	if (rc < 0)
		return rc;
	if (layer > UINT16_MAX)
		return error_set(r->err, -EINVAL, "the chain is not that long");
	how->layer = (unsigned)layer;
	if (!layer || !r->d->config->disk_private[r->disk])
		return 0;
	if (layer >= c->count)
		return error_set(r->err, -EINVAL, "the chain is not that long");
	how->name = c->file[layer].path;
	how->format = c->file[layer].format;
	return 0;
}

static int do_rebase(struct request *r, json_t **answer)
{
	struct job_rebase how = { .name = text(r, "name"),
		                  .format = text(r, "format") };
	struct job_options options;
	struct work *work;
	int rc = add_work(r, "rebase", &work);

	if (rc < 0)
		return rc;
	rc = name_layer(r, &how);
	if (rc == 0 && !how.layer)
		rc = open_backing(r, &how.backing);
	if (rc == 0 && how.backing && r->d->config->disk_private[r->disk])
		rc = error_set(r->err, -EINVAL, "no path leads to this disk");
	options = work_options(work);
	work->layer = how.layer;
	work->rebases = r->d->config->disk_private[r->disk];
	if (rc == 0)
		rc = job_rebase(&work->job, live(r), &how, &options, r->err);
	if (rc < 0)
		block_close(how.backing);
	return begun(work, rc, answer);
}

/* The first backup with a bitmap is of everything. */
struct all {
	const char *name;
	u64 size;
};

static int mark_all(struct block *image, void *ctx, struct error *err)
{
	const struct all *a = ctx;
	int rc = image_bitmap_create(image, a->name, 64 * KIB, err);

	return rc < 0 ? rc : image_bitmap_mark(image, a->name, 0, a->size, err);
}

static int do_backup(struct request *r, json_t **answer)
{
	struct all all = { .name = text(r, "bitmap") };
	struct job_options options;
	struct block *target = NULL;
	struct block_info info;
	struct work *work;
	int scratch = -1, rc = add_work(r, "backup", &work);

	if (rc < 0)
		return rc;
	rc = descriptor(r, "scratch", true, &scratch);
	if (rc == 0)
		rc = open_image(r, "file", IMAGE_OPEN_NO_BACKING, &target);
	block_info(live(r), &info);
	all.size = info.size;
	if (rc == 0 && all.name && truth(r, "first"))
		rc = live_with_image(live(r), mark_all, &all, r->err);
	options = work_options(work);
	if (rc == 0) {
		rc = job_backup(&work->job, live(r), target, truth(r, "blank"),
		                all.name, scratch, &options, r->err);
		scratch = -1;
	}
	if (rc < 0) {
		block_close(target);
		if (scratch >= 0)
			close(scratch);
	}
	return begun(work, rc, answer);
}

static int serve(struct request *r, struct work *work, int scratch,
                 int *listener)
{
	const char *name = text(r, "name");
	struct nbd_export export = { .name = name ? name : "disk",
		                     .description = "one moment of a disk" };
	int rc = point_open(&work->point, live(r), scratch, r->err);

	if (rc < 0)
		return rc;
	export.block = work->point;
	rc = nbd_server_start(&work->server, *listener, &export, r->err);
	*listener = -1;
	return rc;
}

static int do_export(struct request *r, json_t **answer)
{
	int scratch = -1, listener = -1;
	struct work *work;
	int rc = add_work(r, "export", &work);

	if (rc < 0)
		return rc;
	work->asker = r->d->asker;
	rc = descriptor(r, "listener", true, &listener);
	if (rc == 0)
		rc = descriptor(r, "scratch", true, &scratch);
	if (rc == 0)
		rc = serve(r, work, scratch, &listener);
	if (listener >= 0)
		close(listener);
	return begun(work, rc, answer);
}

/* ---- jobs ---- */

static int find_job(struct request *r, struct work **out)
{
	u64 id = 0;
	int rc = number(r, "job", &id);

	if (rc < 0)
		return rc;
	*out = works_find(r->d->works, id);
	return *out
	           ? 0
	           : error_set(r->err, -ENOENT, "there is no job %" PRIu64, id);
}

static int do_job(struct request *r, json_t **answer)
{
	struct work *work;
	int rc = find_job(r, &work);

	if (rc == 0)
		*answer =
		    json_pack("{s:b,s:o}", "ok", 1, "job", work_json(work));
	return rc;
}

static int do_job_cancel(struct request *r, json_t **answer)
{
	struct work *work;
	int rc = find_job(r, &work);

	(void)answer;
	if (rc == 0)
		work_cancel(work);
	return rc;
}

static int do_job_rate(struct request *r, json_t **answer)
{
	struct work *work;
	u64 rate = 0;
	int rc = find_job(r, &work);

	(void)answer;
	if (rc == 0)
		rc = number(r, "rate", &rate);
	if (rc < 0)
		return rc;
	work->rate = rate;
	if (work->job)
		job_set_rate(work->job, rate);
	return 0;
}

/* Of a mirror that stays. */
static int do_job_complete(struct request *r, json_t **answer)
{
	struct work *work;
	int rc = find_job(r, &work);

	(void)answer;
	if (rc == 0 && (!work->job || work->then != WORK_STAY))
		rc = error_set(r->err, -EINVAL, "this job ends by itself");
	if (rc == 0 && job_complete(work->job, truth(r, "pivot")) < 0)
		rc = error_set(r->err, -EAGAIN, "it has not caught up yet");
	else if (rc == 0 && !truth(r, "pivot") && work->image_fd >= 0) {
		close(work->image_fd);
		work->image_fd = -1;
	}
	return rc;
}

/* ---- whose turn it is ---- */

static bool is_busy(const struct disks *d, unsigned disk);

static int is_at_work(struct error *err)
{
	error_set(err, -EBUSY, "another job works on this disk");
	error_hint(err, "atoll disk jobs lists it, and can cancel it");
	return -EBUSY;
}

static int may_claim(struct request *r, unsigned disk)
{
	/* Who has asked for the work that is under way has the turn, too. */
	return is_busy(r->d, disk)
	           ? is_at_work(r->err)
	           : claims_check(r->d->claims, disk, r->d->asker, r->err);
}

/* One disk, or all of them: those or none. */
static int do_claim(struct request *r, json_t **answer)
{
	unsigned from = 0, to = r->d->config->machine.disk_count;
	u64 disk = UINT64_MAX;
	int rc = number(r, "disk", &disk);

	(void)answer;
	if (rc == 0 && disk != UINT64_MAX) {
		if (disk >= to)
			return error_set(r->err, -ENOENT,
			                 "there is no such disk");
		from = (unsigned)disk;
		to = from + 1;
	}
	for (unsigned i = from; rc == 0 && i < to; i++)
		rc = may_claim(r, i);
	for (unsigned i = from; rc == 0 && i < to; i++)
		claims_take(r->d->claims, i, r->d->asker);
	return rc;
}

/* What is in "own" has been looked at. */
static int do_same(struct request *r, json_t **answer)
{
	(void)r;
	(void)answer;
	return 0;
}

/* ---- the table ---- */

/* What else may go on with the disk: anything; no work; nor may it be somebody
 * else's turn, which is with its images, and not with what is recorded. */
enum when { BESIDE, ALONE, IN_TURN };

static const struct {
	const char *op;
	bool disk; /* it names one */
	enum when when;
	request_fn *fn;
} requests[] = {
	{ "disks", false, BESIDE, do_list },
	{ "disk-claim", false, IN_TURN, do_claim },
	{ "disk-same", true, IN_TURN, do_same },
	{ "disk-throttle", true, BESIDE, do_throttle },
	{ "disk-resize", true, IN_TURN, do_resize },
	{ "disk-bitmap", true, ALONE, do_bitmap },
	{ "disk-snapshot", true, IN_TURN, do_snapshot },
	{ "disk-commit", true, IN_TURN, do_commit },
	{ "disk-rebase", true, IN_TURN, do_rebase },
	{ "disk-mirror", true, IN_TURN, do_mirror },
	{ "disk-backup", true, IN_TURN, do_backup },
	{ "disk-export", true, BESIDE, do_export },
	{ "job", false, BESIDE, do_job },
	{ "job-cancel", false, BESIDE, do_job_cancel },
	{ "job-rate", false, BESIDE, do_job_rate },
	{ "job-complete", false, BESIDE, do_job_complete },
};

bool disks_alone(const char *op)
{
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		if (strcmp(requests[i].op, op) == 0)
			return requests[i].when != BESIDE;
	return false;
}

/* What nobody asked for gives way, and is done later. */
static bool is_busy(const struct disks *d, unsigned disk)
{
	if (works_yield(d->works, disk))
		shorten_soon(d->shorten);
	return works_busy(d->works, disk);
}

static int check_disk(struct request *r, enum when when)
{
	u64 disk = UINT64_MAX;
	int rc = number(r, "disk", &disk);

	if (rc < 0)
		return rc;
	if (disk >= r->d->config->machine.disk_count)
		return error_set(r->err, -ENOENT, "there is no such disk");
	r->disk = (unsigned)disk;
	if (when == BESIDE)
		return 0;
	if (when == ALONE)
		return is_busy(r->d, r->disk) ? is_at_work(r->err) : 0;
	rc = may_claim(r, r->disk);
	if (rc == 0)
		rc =
		    disk_check_base(r->d->config, r->disk, r->brought,
		                    json_object_get(r->message, "own"), r->err);
	return rc;
}

json_t *disks_request(const struct disks *d, const char *op, json_t *message,
                      const struct brought *brought)
{
	struct error err = { 0 };
	struct request r = { d, message, brought, 0, &err };
	json_t *answer = NULL;
	size_t i = 0;
	int rc = 0;

	while (i < ARRAY_SIZE(requests) && strcmp(requests[i].op, op))
		i++;
	if (i == ARRAY_SIZE(requests))
		return NULL;
	if (requests[i].disk)
		rc = check_disk(&r, requests[i].when);
	if (rc == 0)
		rc = requests[i].fn(&r, &answer);
	if (rc < 0)
		return json_pack("{s:b,s:i,s:o,s:o}", "ok", 0, "code", rc,
		                 "words", session_words(err.text), "hint",
		                 session_words(err.hint));
	return answer ? answer : granted();
}

const char *disks_in_the_way(const struct disks *d)
{
	for (unsigned i = 0; i < d->config->machine.disk_count; i++)
		if (is_busy(d, i))
			return "a job works on a disk: wait for it, or "
			       "cancel it";
	return NULL;
}

bool disks_claimed(const struct disks *d)
{
	struct error ignored;

	for (unsigned i = 0; i < d->config->machine.disk_count; i++)
		if (claims_check(d->claims, i, d->asker, &ignored) < 0)
			return true;
	return false;
}
