/* SPDX-License-Identifier: Apache-2.0 */
/*
 * v2 - a folder in the highest group that is ours to write to. What runs in
 * that one itself (in a container) goes to a leaf, since a group with children
 * that have controllers may hold no process.
 */
#include "launch/cgroup/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"

static int move_all(const char *from, const char *to)
{
	char text[16 * CGROUP_TEXT], *at = text;
	int rc = 0;

	if (!group_read(from, "cgroup.procs", text, sizeof(text)))
		return -errno;
	while (rc == 0 && *at) {
		u64 pid = strtoull(at, &at, 10);

		at += strspn(at, "\n");
		rc = group_write_number(to, "cgroup.procs", pid);
		if (rc == -ESRCH)
			rc = 0;
	}
	return rc;
}

/* For the children of both. */
static bool hand_on(const char *own, const char *machines, const char *what)
{
	return group_write(own, "cgroup.subtree_control", what) == 0 &&
	       group_write(machines, "cgroup.subtree_control", what) == 0;
}

static int open_v2_at(struct cgroups *g, const char *own, const char *name)
{
	char controllers[512], type[64], procs[64];
	char *leaf = xasprintf("%s/atoll-daemon", own);
	char *machines = xasprintf("%s/%s", own, name);
	bool memory, io;
	int rc = 0;

	if (!group_read(own, "cgroup.controllers", controllers,
	                sizeof(controllers)) ||
	    !group_has_word(controllers, "cpu"))
		rc = -ENOENT;
	memory = group_has_word(controllers, "memory");
	io = group_has_word(controllers, "io");
	g->cpuset = group_has_word(controllers, "cpuset");
	/* The hierarchy's root, which has no type, may hold processes beside
	 * its children. */
	if (rc == 0 && group_read(own, "cgroup.type", type, sizeof(type)) &&
	    group_read(own, "cgroup.procs", procs, sizeof(procs)) && procs[0]) {
		rc = group_make(leaf);
		if (rc == 0)
			rc = move_all(own, leaf);
	}
	if (rc == 0)
		rc = group_write(own, "cgroup.subtree_control", "+cpu");
	if (rc == 0)
		rc = group_make(machines);
	if (rc == 0)
		rc = group_write(machines, "cgroup.subtree_control", "+cpu");
	memory = memory && rc == 0 && hand_on(own, machines, "+memory");
	g->cpuset = g->cpuset && rc == 0 && hand_on(own, machines, "+cpuset");
	io = io && rc == 0 && hand_on(own, machines, "+io") &&
	     (group_has(machines, "io.weight") ||
	      group_has(machines, "io.bfq.weight"));
	free(leaf);
	if (rc < 0) {
		free(machines);
		return rc;
	}
	g->kind = CGROUP_V2;
	g->cpu = machines;
	g->memory = memory ? xstrdup(machines) : NULL;
	g->io = io ? xstrdup(machines) : NULL;
	/* What a group protects counts as far as the one above protects it. */
	if (memory)
		group_write(machines, "memory.min", "max");
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

int cgroup_v2_open(struct cgroups *g, const char *name)
{
	size_t mount_size;
	char *group = group_own(NULL, &mount_size);
	int rc = -ENOENT;

	if (group) {
		go_up(group, mount_size);
		rc = open_v2_at(g, group, name);
	}
	free(group);
	return rc;
}

static int apply_cpu(const struct cgroups *g, const char *folder,
                     const struct cgroup_limits *l)
{
	char text[64];
	int rc = group_write_number(folder, "cpu.weight", l->weight);

	if (l->cpu_percent)
		snprintf(text, sizeof(text), "%" PRIu64 " %d",
		         l->cpu_percent * CGROUP_PERIOD_US / 100,
		         CGROUP_PERIOD_US);
	else
		snprintf(text, sizeof(text), "max %d", CGROUP_PERIOD_US);
	if (rc == 0)
		rc = group_write(folder, "cpu.max", text);
	if (rc == 0 && g->cpuset)
		rc = group_write(folder, "cpuset.cpus",
		                 l->pin[0] ? l->pin : "\n");
	return rc;
}

/* The kernel would end what holds more than its new limit: it is pressed to
 * give first, and where that is not enough, the limit stays what it was. */
static int apply_memory_max(const char *folder, u64 bytes)
{
	int rc = 0;

	if (bytes && group_read_size(folder, "memory.current") > bytes) {
		rc = group_write_number(folder, "memory.high", bytes);
		if (rc == 0 &&
		    group_read_size(folder, "memory.current") > bytes)
			rc = -EBUSY;
	}
	return rc < 0 ? rc
	              : group_write_limit(folder, "memory.max", bytes, "max");
}

static int apply_memory(const char *folder, const struct cgroup_limits *l)
{
	int max = apply_memory_max(folder, l->memory_max), rc;

	rc = group_write_number(folder, "memory.min", l->memory_min);
	if (rc == 0)
		rc = group_write_limit(folder, "memory.high", l->memory_high,
		                       "max");
	return rc < 0 ? rc : max;
}

/* By the model of costs, and by the scheduler of disks that have it. */
static int apply_io(const char *folder, u64 weight)
{
	int rc = group_write_number(folder, "io.weight", weight);

	if (rc == 0 || rc == -ENOENT)
		rc = group_write_number(folder, "io.bfq.weight",
		                        cgroup_bfq_weight(weight));
	return rc == -ENOENT ? 0 : rc;
}

int cgroup_v2_apply(const struct cgroups *g, const char *machine, pid_t pid,
                    const struct cgroup_limits *l)
{
	char *folder;
	int rc = group_enter(g->cpu, machine, pid, &folder);

	if (rc == 0)
		rc = apply_cpu(g, folder, l);
	if (rc == 0 && g->io)
		rc = apply_io(folder, l->io_weight);
	if (rc == 0 && g->memory)
		rc = apply_memory(folder, l);
	free(folder);
	return rc;
}
