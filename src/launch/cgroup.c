/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup - a control group for each machine.
 *
 * v2: a folder in the highest group that is ours to write to. What runs in that
 * one itself (in a container) goes to a leaf, since a group with children that
 * have controllers may hold no process.
 * v1: a folder beside us in the hierarchies of cpu and memory.
 */
#include "launch/cgroup.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "launch/helper.h"

enum { PERIOD_US = 100000, TEXT = 4096 };

static int write_file(const char *folder, const char *file, const char *text)
{
	char *path = xasprintf("%s/%s", folder, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	free(path);
	return rc;
}

static int write_number(const char *folder, const char *file, u64 value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return write_file(folder, file, text);
}

static bool read_file(const char *folder, const char *file, char *text,
                      size_t size)
{
	char *path = xasprintf("%s/%s", folder, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	free(path);
	text[MAX(n, (ssize_t)0)] = '\0';
	return n >= 0;
}

static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = text; (at = strstr(at, word)); at += n)
		if ((at == text || isspace((u8)at[-1])) &&
		    (!at[n] || isspace((u8)at[n])))
			return true;
	return false;
}

static int make(const char *path)
{
	return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* ---- where we are ---- */

/* Of /proc/self/mountinfo: where the hierarchy that has the option (v1), or
 * the one of v2 (NULL), is mounted, and what part of it. */
static char *mount_of(const char *controller)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char line[TEXT], point[TEXT], type[32], options[512];
	char *found = NULL, *dash;

	while (f && !found && fgets(line, sizeof(line), f)) {
		dash = strstr(line, " - ");
		if (!dash ||
		    sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 ||
		    sscanf(dash + 3, "%31s %*s %511s", type, options) != 2)
			continue;
		for (char *c = options; *c; c++)
			if (*c == ',')
				*c = ' ';
		if (controller ? strcmp(type, "cgroup") == 0 &&
		                     has_word(options, controller)
		               : strcmp(type, "cgroup2") == 0)
			found = xstrdup(point);
	}
	if (f)
		fclose(f);
	return found;
}

/* Of /proc/self/cgroup: our path in that hierarchy. */
static char *path_of(const char *controller)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[TEXT], *names, *path, *found = NULL;

	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		names = strchr(line, ':');
		path = names ? strchr(names + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		for (char *c = ++names; *c; c++)
			if (*c == ',')
				*c = ' ';
		if (controller ? has_word(names, controller)
		               : strncmp(line, "0:", 2) == 0 && !names[0])
			found = xstrdup(strcmp(path, "/") ? path : "");
	}
	if (f)
		fclose(f);
	return found;
}

/* Our own group, or the mount where that is another container's path. */
static char *own_group(const char *controller, size_t *mount_size)
{
	char *mount = mount_of(controller), *path = path_of(controller);
	char *group = NULL;
	struct stat st;

	*mount_size = mount ? strlen(mount) : 0;
	if (mount && path) {
		group = xasprintf("%s%s", mount, path);
		if (stat(group, &st) < 0) {
			free(group);
			group = xstrdup(mount);
		}
	}
	free(mount);
	free(path);
	return group;
}

/* ---- v2 ---- */

static int move_all(const char *from, const char *to)
{
	char text[16 * TEXT], *at = text;
	int rc = 0;

	if (!read_file(from, "cgroup.procs", text, sizeof(text)))
		return -errno;
	while (rc == 0 && *at) {
		u64 pid = strtoull(at, &at, 10);

		at += strspn(at, "\n");
		rc = write_number(to, "cgroup.procs", pid);
		if (rc == -ESRCH)
			rc = 0;
	}
	return rc;
}

static int open_v2_at(struct cgroups *g, const char *own, const char *name)
{
	char controllers[512], type[64], procs[64];
	char *leaf = xasprintf("%s/atoll-daemon", own);
	char *machines = xasprintf("%s/%s", own, name);
	bool memory;
	int rc = 0;

	if (!read_file(own, "cgroup.controllers", controllers,
	               sizeof(controllers)) ||
	    !has_word(controllers, "cpu"))
		rc = -ENOENT;
	memory = has_word(controllers, "memory");
	g->cpuset = has_word(controllers, "cpuset");
	/* The hierarchy's root, which has no type, may hold processes beside
	 * its children. */
	if (rc == 0 && read_file(own, "cgroup.type", type, sizeof(type)) &&
	    read_file(own, "cgroup.procs", procs, sizeof(procs)) && procs[0]) {
		rc = make(leaf);
		if (rc == 0)
			rc = move_all(own, leaf);
	}
	if (rc == 0)
		rc = write_file(own, "cgroup.subtree_control", "+cpu");
	if (rc == 0)
		rc = make(machines);
	if (rc == 0)
		rc = write_file(machines, "cgroup.subtree_control", "+cpu");
	memory = memory && rc == 0 &&
	         write_file(own, "cgroup.subtree_control", "+memory") == 0 &&
	         write_file(machines, "cgroup.subtree_control", "+memory") == 0;
	g->cpuset =
	    g->cpuset && rc == 0 &&
	    write_file(own, "cgroup.subtree_control", "+cpuset") == 0 &&
	    write_file(machines, "cgroup.subtree_control", "+cpuset") == 0;
	free(leaf);
	if (rc < 0) {
		free(machines);
		return rc;
	}
	g->kind = CGROUP_V2;
	g->cpu = machines;
	g->memory = memory ? xstrdup(machines) : NULL;
	/* What a group protects counts as far as the one above protects it. */
	if (memory)
		write_file(machines, "memory.min", "max");
	return 0;
}

/*
 * The highest group that we may write to: the hierarchy's root for root, what
 * was delegated to the user's systemd for others. A unit's own group will not
 * do: with children that have controllers systemd could not start the unit
 * again beside machines that went on.
 */
static void go_up(char *group, size_t mount_size)
{
	char *slash, *procs;
	bool may;

	while (strlen(group) > mount_size && (slash = strrchr(group, '/'))) {
		*slash = '\0';
		procs = xasprintf("%s/cgroup.procs", group);
		may = access(procs, W_OK) == 0;
		free(procs);
		if (may)
			continue;
		*slash = '/';
		return;
	}
}

static int open_v2(struct cgroups *g, const char *name)
{
	size_t mount_size;
	char *group = own_group(NULL, &mount_size);
	int rc = -ENOENT;

	if (group) {
		go_up(group, mount_size);
		rc = open_v2_at(g, group, name);
	}
	free(group);
	return rc;
}

/* ---- v1 ---- */

static char *open_v1_one(const char *controller, const char *name)
{
	size_t mount_size;
	char *own = own_group(controller, &mount_size), *path;

	if (!own)
		return NULL;
	path = xasprintf("%s/%s", own, name);
	free(own);
	if (make(path) == 0)
		return path;
	free(path);
	return NULL;
}

static int open_v1(struct cgroups *g, const char *name)
{
	g->cpu = open_v1_one("cpu", name);
	g->memory = open_v1_one("memory", name);
	if (!g->cpu)
		return -ENOENT;
	g->kind = CGROUP_V1;
	return 0;
}

void cgroups_open(struct cgroups *g, const char *name, int helper)
{
	int v2, v1 = 0;

	*g = (struct cgroups){ .helper = helper };
	if (helper >= 0) {
		helper_cgroups_open(helper, name, g);
		return;
	}
	v2 = open_v2(g, name);
	if (v2 < 0)
		v1 = open_v1(g, name);
	if (g->kind == CGROUP_NONE)
		snprintf(
		    g->words, sizeof(g->words),
		    "no control group was delegated to atolld (%s): CPU "
		    "weights work as niceness, pinning as affinity; "
		    "CPU limits and memory limits do not work. Start it as "
		    "a systemd unit with Delegate=yes",
		    strerror(v2 == -ENOENT ? -v1 : -v2));
	else if (!g->memory)
		snprintf(g->words, sizeof(g->words),
		         "the memory controller was not delegated: memory "
		         "limits work by the balloon alone");
}

void cgroups_close(struct cgroups *g)
{
	/* With machines that go on they are not empty, and stay; a helper does
	 * this when we are gone. */
	if (g->cpu && g->helper < 0)
		rmdir(g->cpu);
	if (g->memory && g->helper < 0)
		rmdir(g->memory);
	free(g->cpu);
	free(g->memory);
	*g = (struct cgroups){ .helper = -1 };
}

void cgroups_weigh(const struct cgroups *g, u64 weight)
{
	weight = MAX((u64)100, weight);
	if (g->helper >= 0)
		helper_cgroups_weigh(g->helper, weight);
	else if (g->kind == CGROUP_V2)
		write_number(g->cpu, "cpu.weight", MIN(weight, (u64)10000));
	else if (g->kind == CGROUP_V1)
		write_number(g->cpu, "cpu.shares",
		             MIN(weight * 1024 / 100, (u64)262144));
}

/* ---- a machine's ---- */

static int apply_v2(const struct cgroups *g, const char *folder,
                    const struct cgroup_limits *l)
{
	char text[64];
	int rc = write_number(folder, "cpu.weight", l->weight);

	if (l->cpu_percent)
		snprintf(text, sizeof(text), "%" PRIu64 " %d",
		         l->cpu_percent * PERIOD_US / 100, PERIOD_US);
	else
		snprintf(text, sizeof(text), "max %d", PERIOD_US);
	if (rc == 0)
		rc = write_file(folder, "cpu.max", text);
	if (rc == 0 && g->cpuset)
		rc = write_file(folder, "cpuset.cpus",
		                l->pin[0] ? l->pin : "\n");
	if (rc == 0 && g->memory)
		rc = write_number(folder, "memory.min", l->memory_min);
	if (rc == 0 && g->memory) {
		snprintf(text, sizeof(text), "%" PRIu64, l->memory_high);
		rc = write_file(folder, "memory.high",
		                l->memory_high ? text : "max");
	}
	return rc;
}

static int apply_v1(const char *folder, const struct cgroup_limits *l)
{
	char text[32];
	/* 1024 is what 100 is in v2. */
	int rc = write_number(folder, "cpu.shares",
	                      MAX((u64)2, l->weight * 1024 / 100));

	snprintf(text, sizeof(text), "%" PRId64,
	         l->cpu_percent ? (s64)(l->cpu_percent * PERIOD_US / 100)
	                        : (s64)-1);
	if (rc == 0)
		rc = write_number(folder, "cpu.cfs_period_us", PERIOD_US);
	if (rc == 0)
		rc = write_file(folder, "cpu.cfs_quota_us", text);
	return rc;
}

/* v1 has no protection and no gentle limit: a guest over memory.limit would be
 * killed, so that only its preference is told. */
static int apply_v1_memory(const char *folder, const struct cgroup_limits *l)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64, l->memory_high);
	return write_file(folder, "memory.soft_limit_in_bytes",
	                  l->memory_high ? text : "-1");
}

static int enter(const char *parent, const char *machine, pid_t pid,
                 char **folder)
{
	int rc;

	*folder = xasprintf("%s/%s", parent, machine);
	rc = make(*folder);
	return rc < 0 ? rc : write_number(*folder, "cgroup.procs", (u64)pid);
}

int cgroup_apply(const struct cgroups *g, const char *machine, pid_t pid,
                 const struct cgroup_limits *l, struct error *err)
{
	char *folder = NULL, *memory = NULL;
	int rc;

	if (g->helper >= 0)
		return helper_cgroup_apply(g->helper, machine, pid, l, err);
	rc = enter(g->cpu, machine, pid, &folder);
	if (rc == 0)
		rc = g->kind == CGROUP_V2 ? apply_v2(g, folder, l)
		                          : apply_v1(folder, l);
	if (rc == 0 && g->kind == CGROUP_V1 && g->memory) {
		rc = enter(g->memory, machine, pid, &memory);
		if (rc == 0)
			rc = apply_v1_memory(memory, l);
	}
	if (rc < 0)
		error_set(err, rc, "control group of %s: %s", machine,
		          strerror(-rc));
	free(folder);
	free(memory);
	return rc;
}

void cgroup_remove(const struct cgroups *g, const char *machine)
{
	char *path;

	if (g->helper >= 0) {
		helper_cgroup_remove(g->helper, machine);
		return;
	}
	for (int i = 0; i < 2; i++) {
		const char *parent = i ? g->memory : g->cpu;

		if (!parent)
			continue;
		path = xasprintf("%s/%s", parent, machine);
		rmdir(path);
		free(path);
	}
}

s64 cgroup_throttled_ns(const struct cgroups *g, const char *machine)
{
	char *folder = g->cpu ? xasprintf("%s/%s", g->cpu, machine) : NULL;
	char text[1024];
	const char *at = NULL;
	s64 ns = -1;

	if (folder && read_file(folder, "cpu.stat", text, sizeof(text))) {
		if ((at = strstr(text, "throttled_usec ")))
			ns = strtoll(at + 15, NULL, 10) * 1000;
		else if ((at = strstr(text, "throttled_time ")))
			ns = strtoll(at + 15, NULL, 10);
	}
	free(folder);
	return ns;
}

/* ---- above the machines ---- */

/* "max" and what v1 says for it are more than any host has. */
static u64 read_size(const char *folder, const char *file)
{
	char text[32];

	if (!read_file(folder, file, text, sizeof(text)) || !isdigit((u8)*text))
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

/* What the kernel takes back from files before it takes from anybody. */
static u64 read_cached(const char *folder, const char *key)
{
	char text[2 * TEXT];
	const char *at;

	if (!read_file(folder, "memory.stat", text, sizeof(text)))
		return 0;
	at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static void clip_to(const char *folder, bool v2, u64 *total, u64 *available)
{
	u64 limit =
	    read_size(folder, v2 ? "memory.max" : "memory.limit_in_bytes");
	u64 used =
	    read_size(folder, v2 ? "memory.current" : "memory.usage_in_bytes");
	u64 cached = read_cached(folder, v2 ? "\ninactive_file "
	                                    : "\ntotal_inactive_file ");

	if (limit >= *total || used == UINT64_MAX)
		return;
	used -= MIN(cached, used);
	*total = limit;
	*available = MIN(*available, limit - MIN(used, limit));
}

void cgroups_clip(const struct cgroups *g, u64 *total, u64 *available)
{
	char *folder = g->memory ? xstrdup(g->memory) : NULL, *slash;

	while (folder && (slash = strrchr(folder, '/')) && slash != folder) {
		clip_to(folder, g->kind == CGROUP_V2, total, available);
		*slash = '\0';
	}
	free(folder);
}
