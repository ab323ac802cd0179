/* SPDX-License-Identifier: Apache-2.0 */
/*
 * v1 - a folder beside us in the hierarchies of cpu, memory and blkio.
 */
#include "launch/cgroup/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"

#define WEIGHT "blkio.weight" /* of CFQ, until Linux 5.0 */
#define BFQ "blkio.bfq.weight"

static char *open_v1_one(const char *controller, const char *name)
{
	size_t mount_size;
	char *own = group_own(controller, &mount_size), *path;

	if (!own)
		return NULL;
	path = xasprintf("%s/%s", own, name);
	free(own);
	if (group_make(path) == 0)
		return path;
	free(path);
	return NULL;
}

int cgroup_v1_open(struct cgroups *g, const char *name)
{
	g->cpu = open_v1_one("cpu", name);
	g->memory = open_v1_one("memory", name);
	g->io = open_v1_one("blkio", name);
	if (!g->cpu)
		return -ENOENT;
	if (g->io && !group_has(g->io, WEIGHT) && !group_has(g->io, BFQ)) {
		rmdir(g->io);
		free(g->io);
		g->io = NULL;
	}
	g->kind = CGROUP_V1;
	return 0;
}

static int apply_cpu(const char *folder, const struct cgroup_limits *l)
{
	char text[32];
	/* 1024 is what 100 is in v2. */
	int rc = group_write_number(folder, "cpu.shares",
	                            MAX((u64)2, l->weight * 1024 / 100));

	snprintf(text, sizeof(text), "%" PRId64,
	         l->cpu_percent ? (s64)(l->cpu_percent * CGROUP_PERIOD_US / 100)
	                        : (s64)-1);
	if (rc == 0)
		rc = group_write_number(folder, "cpu.cfs_period_us",
		                        CGROUP_PERIOD_US);
	if (rc == 0)
		rc = group_write(folder, "cpu.cfs_quota_us", text);
	return rc;
}

/* v1 has no protection and no gentle limit, of which only its preference is
 * told. The kernel refuses a hard one that is below what is held. */
static int apply_memory(const char *folder, const struct cgroup_limits *l)
{
	int rc = group_write_limit(folder, "memory.limit_in_bytes",
	                           l->memory_max, "-1");
	int soft = group_write_limit(folder, "memory.soft_limit_in_bytes",
	                             l->memory_high, "-1");

	return soft < 0 ? soft : rc;
}

/* What it touched so far counts from here on: pages of its own (1), of files
 * and shared ones (2). A kernel that can't has no such file. */
static int enter_memory(const char *parent, const char *machine, pid_t pid,
                        char **folder)
{
	int rc;

	*folder = xasprintf("%s/%s", parent, machine);
	rc = group_make(*folder);
	if (rc == 0)
		rc = group_write(*folder, "memory.move_charge_at_immigrate",
		                 "3");
	if (rc < 0 && rc != -ENOENT && rc != -EINVAL)
		return rc;
	return group_write_number(*folder, "cgroup.procs", (u64)pid);
}

static int apply_io(const char *folder, u64 weight)
{
	/* 500 is what 100 is in v2. */
	int rc = group_write_number(folder, WEIGHT,
	                            MIN((u64)1000, MAX((u64)10, weight * 5)));

	return rc == -ENOENT
	           ? group_write_number(folder, BFQ, cgroup_bfq_weight(weight))
	           : rc;
}

int cgroup_v1_apply(const struct cgroups *g, const char *machine, pid_t pid,
                    const struct cgroup_limits *l)
{
	char *cpu = NULL, *memory = NULL, *io = NULL;
	int rc = group_enter(g->cpu, machine, pid, &cpu);

	if (rc == 0)
		rc = apply_cpu(cpu, l);
	if (rc == 0 && g->io)
		rc = group_enter(g->io, machine, pid, &io);
	if (rc == 0 && g->io)
		rc = apply_io(io, l->io_weight);
	if (rc == 0 && g->memory)
		rc = enter_memory(g->memory, machine, pid, &memory);
	if (rc == 0 && g->memory)
		rc = apply_memory(memory, l);
	free(cpu);
	free(io);
	free(memory);
	return rc;
}
