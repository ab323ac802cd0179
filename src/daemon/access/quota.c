/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/access/quota.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/moment/moment.h"
#include "daemon/store.h"

static const struct {
	const char *name, *words;
	bool bytes;
} quotas[QUOTA_COUNT] = {
	[QUOTA_MACHINES] = { "machines", "machines", false },
	[QUOTA_VCPUS] = { "vcpus", "vCPUs", false },
	[QUOTA_MEMORY] = { "memory_bytes", "memory", true },
	[QUOTA_DISK] = { "disk_bytes", "disk", true },
	[QUOTA_SNAPSHOTS] = { "snapshots", "snapshots", false },
	[QUOTA_BACKUPS] = { "backup_bytes", "backups", true },
};

const char *quota_name(enum quota quota)
{
	return quota < QUOTA_COUNT ? quotas[quota].name : NULL;
}

/* ---- what machines have ---- */

static u64 number(json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (u64)n : 0;
}

static u64 file_bytes(const char *folder, const char *name)
{
	char *path = xasprintf("%s/%s", folder, name);
	struct stat st = { 0 };

	if (stat(path, &st) < 0)
		st.st_size = 0;
	free(path);
	return (u64)st.st_size;
}

/* How large the guest sees a qcow2 disk: in its header, big-endian at 24. */
static u64 qcow2_bytes(const char *folder, const char *name)
{
	char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	u8 size[8] = { 0 };
	u64 bytes = 0;

	if (fd >= 0 && pread(fd, size, sizeof(size), 24) == sizeof(size))
		for (size_t i = 0; i < sizeof(size); i++)
			bytes = bytes << 8 | size[i];
	if (fd >= 0)
		close(fd);
	free(path);
	/* A machine's process writes there: sums must not wrap. */
	return MIN(bytes, BIT(50));
}

/* What the guest sees of the machine's own disk, or will see: over its image,
 * or a copy. What an administrator lent it of the host's files is not the
 * project's. */
static u64 own_disk(struct daemon *d, json_t *spec, const struct vm *vm)
{
	const char *image = json_string_value(json_object_get(spec, "image"));
	u64 bytes = 0;
	char *folder;

	if (!image)
		return 0;
	if (vm) {
		folder = vm_folder_path(vm);
		bytes = qcow2_bytes(folder, "root.qcow2");
		if (!bytes)
			bytes = file_bytes(folder, "root.raw");
		free(folder);
	}
	if (!bytes) {
		folder = xasprintf("%s/names/%s", d->place.images, image);
		bytes = file_bytes(folder, "disk.raw");
		free(folder);
	}
	return vm ? MAX(bytes, vm->disk_asked) : bytes;
}

/* What a disk held before it went on in a new file: disk.NAME.qcow2 beside
 * disk.qcow2. */
static u64 layers(const char *disk)
{
	size_t stem = strlen(disk) - strlen(".qcow2"), n = 0;
	char *pattern = xalloc(2 * strlen(disk) + 16);
	glob_t found = { 0 };
	u64 count = 0;

	for (size_t i = 0; i < stem; i++) {
		if (strchr("*?[\\", disk[i]))
			pattern[n++] = '\\';
		pattern[n++] = disk[i];
	}
	memcpy(pattern + n, ".?*.qcow2", sizeof(".?*.qcow2"));
	if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
		count = found.gl_pathc;
	/* What copies share is nobody's snapshot. */
	for (u64 i = 0, all = count; i < all; i++)
		count -= strncmp(found.gl_pathv[i] + stem, ".fork-", 6) == 0;
	globfree(&found);
	free(pattern);
	return count;
}

static bool makes_snapshot(const struct task *t)
{
	return strcmp(t->kind, "disk-snapshot") == 0;
}

/* Of a snapshot that waits for its turn, or is being made; 0: it is no such
 * task, or done with it. */
static u64 makes_moment(const struct vm *vm, const struct task *t)
{
	json_t *found;

	if (strcmp(t->kind, "snapshot-create"))
		return 0;
	found = moment_find(
	    vm, json_string_value(json_object_get(t->params, "snapshot")));
	json_decref(found);
	return found ? 0 : MAX(number(t->params, "bytes_most"), (u64)1);
}

/* Snapshots of the whole machine. */
static void add_moments(u64 used[QUOTA_COUNT], const struct vm *vm)
{
	u64 bytes, most;

	used[QUOTA_SNAPSHOTS] += moment_count(vm, &bytes);
	for (const struct task *t = vm->queue; t; t = t->next) {
		most = makes_moment(vm, t);
		used[QUOTA_SNAPSHOTS] += most > 0;
		bytes += most;
	}
	used[QUOTA_DISK] += bytes;
}

static u64 snapshots(const struct vm *vm)
{
	char *own = vm_folder_path(vm), *root = xasprintf("%s/root.qcow2", own);
	u64 count = layers(root);
	json_t *disk;
	size_t i;

	free(own);
	free(root);
	json_array_foreach(json_object_get(vm->spec, "disks"), i, disk)
	{
		const char *path =
		    json_string_value(json_object_get(disk, "path"));
		size_t n = strlen(path);

		if (n > 6 && strcmp(path + n - 6, ".qcow2") == 0)
			count += layers(path);
	}
	for (const struct task *t = vm->queue; t; t = t->next)
		count += makes_snapshot(t);
	return count;
}

static void add(struct daemon *d, u64 used[QUOTA_COUNT], json_t *spec,
                const struct vm *vm)
{
	used[QUOTA_MACHINES]++;
	used[QUOTA_VCPUS] += number(spec, "cpus");
	used[QUOTA_MEMORY] +=
	    MAX(number(spec, "memory_bytes"), number(spec, "memory_max_bytes"));
	used[QUOTA_DISK] += own_disk(d, spec, vm);
	if (!vm)
		return;
	used[QUOTA_SNAPSHOTS] += snapshots(vm);
	add_moments(used, vm);
}

void quota_used(struct daemon *d, const char *project, const struct vm *but,
                u64 used[QUOTA_COUNT])
{
	memset(used, 0, QUOTA_COUNT * sizeof(used[0]));
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (vm != but && !vm->deleted &&
		    strcmp(vm_project(vm), project) == 0)
			add(d, used, vm->spec, vm);
}

/* ---- what they may have ---- */

static int take_limits(void *ctx, struct row *row)
{
	*(json_t **)ctx = row_json(row, 0);
	return 0;
}

json_t *quota_limits(struct daemon *d, const char *project)
{
	json_t *limits = NULL;

	store_query(d->store, take_limits, &limits, NULL,
	            "SELECT quotas FROM projects WHERE name = ?", "t", project);
	return limits ? limits : json_object();
}

static void spell(char *text, size_t size, enum quota quota, u64 n)
{
	if (quotas[quota].bytes)
		format_size(n, text, size);
	else
		snprintf(text, size, "%" PRIu64, n);
}

static int refusal(struct error *err, const char *project, enum quota quota,
                   u64 limit, u64 used, u64 more)
{
	char l[32], u[32], m[32];

	spell(l, sizeof(l), quota, limit);
	spell(u, sizeof(u), quota, used);
	spell(m, sizeof(m), quota, more);
	error_set(err, -EDQUOT,
	          "project %.63s: the quota of %s is %s; it has %s, and %s "
	          "more was asked for",
	          project, quotas[quota].words, l, u, m);
	return error_hint(err,
	                  "delete what nobody needs, or have an administrator "
	                  "raise it: atoll quota set");
}

static void refuse(struct call *c, const char *project, enum quota quota,
                   u64 limit, u64 used, u64 more)
{
	if (refusal(&c->err, project, quota, limit, used, more) < 0)
		call_fail(c, "quota", c->err.text, c->err.hint);
}

/* used and next are with and without the change. What is beyond a quota that
 * was set later may get smaller. */
static bool within(struct call *c, const char *project,
                   const u64 used[QUOTA_COUNT], const u64 next[QUOTA_COUNT])
{
	json_t *limits = quota_limits(c->daemon, project), *limit;
	bool fits = true;

	for (int i = 0; fits && i < QUOTA_COUNT; i++) {
		limit = json_object_get(limits, quotas[i].name);
		fits = !json_is_integer(limit) || next[i] <= used[i] ||
		       next[i] <= (u64)json_integer_value(limit);
		if (!fits)
			refuse(c, project, i, (u64)json_integer_value(limit),
			       used[i], next[i] - used[i]);
	}
	json_decref(limits);
	return fits;
}

bool quota_allows(struct call *c, const struct vm *vm, json_t *next,
                  unsigned count)
{
	const char *project =
	    json_string_value(json_object_get(next, "project"));
	u64 used[QUOTA_COUNT], then[QUOTA_COUNT];

	quota_used(c->daemon, project, NULL, used);
	quota_used(c->daemon, project, vm, then);
	for (unsigned i = 0; i < count; i++)
		add(c->daemon, then, next, vm);
	return within(c, project, used, then);
}

/* So much more, in the machine's project. */
static bool allows_more(struct call *c, const struct vm *vm,
                        const u64 more[QUOTA_COUNT])
{
	u64 used[QUOTA_COUNT], then[QUOTA_COUNT];

	quota_used(c->daemon, vm_project(vm), NULL, used);
	for (int i = 0; i < QUOTA_COUNT; i++)
		then[i] = used[i] + more[i];
	return within(c, vm_project(vm), used, then);
}

bool quota_allows_copies(struct call *c, const struct vm *vm, unsigned count)
{
	u64 disk = own_disk(c->daemon, vm->spec, vm);
	u64 more[QUOTA_COUNT] = { 0 };

	for (unsigned i = 0; i < count; i++) {
		add(c->daemon, more, vm->spec, NULL);
		more[QUOTA_DISK] += disk - own_disk(c->daemon, vm->spec, NULL);
	}
	return allows_more(c, vm, more);
}

bool quota_allows_snapshot(struct call *c, const struct vm *vm)
{
	const u64 more[QUOTA_COUNT] = { [QUOTA_SNAPSHOTS] = 1 };

	return allows_more(c, vm, more);
}

int quota_allows_backup(struct daemon *d, const char *project, u64 bytes,
                        struct error *err)
{
	json_t *limits = quota_limits(d, project);
	json_t *limit = json_object_get(limits, quotas[QUOTA_BACKUPS].name);
	u64 most = (u64)json_integer_value(limit), used = 0;
	int rc = 0;

	if (limit)
		used = backups_bytes(d, project);
	/* Of one that begins nobody knows how large it will be. */
	if (limit && used + MAX(bytes, (u64)1) > most)
		rc = refusal(err, project, QUOTA_BACKUPS, most, used, bytes);
	json_decref(limits);
	return rc;
}

/* What blocks a raw file has; a qcow2 one may lie on others. */
static u64 disk_most(json_t *disk)
{
	const char *path = json_string_value(json_object_get(disk, "path"));
	const char *format = json_string_value(json_object_get(disk, "format"));
	struct stat st;

	if (json_is_true(json_object_get(disk, "readonly")))
		return 0;
	if (format && strcmp(format, "qcow2") == 0)
		return qcow2_bytes("", path);
	return stat(path, &st) < 0 ? 0 : (u64)st.st_blocks * 512;
}

bool quota_allows_moment(struct call *c, const struct vm *vm, u64 *most)
{
	u64 more[QUOTA_COUNT] = { [QUOTA_SNAPSHOTS] = 1 };
	json_t *disk;
	size_t i;

	*most = MAX(number(vm->spec, "memory_bytes"),
	            number(vm->spec, "memory_max_bytes")) +
	        own_disk(c->daemon, vm->spec, vm);
	json_array_foreach(json_object_get(vm->spec, "disks"), i, disk)
	{
		*most += disk_most(disk);
	}
	more[QUOTA_DISK] = *most;
	return allows_more(c, vm, more);
}

bool quota_allows_disk(struct call *c, const struct vm *vm, u64 bytes)
{
	u64 now = own_disk(c->daemon, vm->spec, vm);
	const u64 more[QUOTA_COUNT] = { [QUOTA_DISK] = MAX(bytes, now) - now };

	return allows_more(c, vm, more);
}
