/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup - a control group for each machine: what does not differ between the
 * two versions, and whom to ask (launch/helper.h).
 */
#include "launch/cgroup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "launch/cgroup/internal.h"
#include "launch/helper.h"

void cgroups_open(struct cgroups *g, const char *name, int helper)
{
	int v2, v1 = 0;

	*g = (struct cgroups){ .helper = helper };
	if (helper >= 0) {
		helper_cgroups_open(helper, name, g);
		return;
	}
	v2 = cgroup_v2_open(g, name);
	if (v2 < 0)
		v1 = cgroup_v1_open(g, name);
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
	char *const folders[] = { g->cpu, g->memory, g->io };

	/* With machines that go on they are not empty, and stay; a helper does
	 * this when we are gone. */
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		if (folders[i] && g->helper < 0)
			rmdir(folders[i]);
		free(folders[i]);
	}
	*g = (struct cgroups){ .helper = -1 };
}

void cgroups_weigh(const struct cgroups *g, u64 weight)
{
	weight = MAX((u64)100, weight);
	if (g->helper >= 0)
		helper_cgroups_weigh(g->helper, weight);
	else if (g->kind == CGROUP_V2)
		group_write_number(g->cpu, "cpu.weight",
		                   MIN(weight, (u64)10000));
	else if (g->kind == CGROUP_V1)
		group_write_number(g->cpu, "cpu.shares",
		                   MIN(weight * 1024 / 100, (u64)262144));
}

/* ---- a machine's ---- */

/* 1, 100 and 10000 become 1, 100 and 1000. */
u64 cgroup_bfq_weight(u64 weight)
{
	return weight <= 100 ? weight : 100 + (weight - 100) * 900 / 9900;
}

int cgroup_apply(const struct cgroups *g, const char *machine, pid_t pid,
                 const struct cgroup_limits *l, struct error *err)
{
	int rc;

	if (g->helper >= 0)
		return helper_cgroup_apply(g->helper, machine, pid, l, err);
	rc = g->kind == CGROUP_V2 ? cgroup_v2_apply(g, machine, pid, l)
	                          : cgroup_v1_apply(g, machine, pid, l);
	if (rc == -EBUSY)
		return error_set(err, rc,
		                 "it holds more memory than its hard limit of "
		                 "%" PRIu64 " MiB",
		                 l->memory_max >> 20);
	return rc < 0 ? error_set(err, rc, "control group of %s: %s", machine,
	                          strerror(-rc))
	              : 0;
}

/* What a line of a file says, after a word at its beginning. */
static bool read_counter(const char *folder, const char *file, const char *word,
                         u64 *value)
{
	char text[CGROUP_TEXT];
	const char *at = text;
	size_t n = strlen(word);

	if (!group_read(folder, file, text, sizeof(text)))
		return false;
	while (strncmp(at, word, n) != 0 || at[n] != ' ') {
		at = strchr(at, '\n');
		if (!at)
			return false;
		at++;
	}
	*value = strtoull(at + n, NULL, 10);
	return true;
}

u64 cgroup_starved(const struct cgroups *g, const char *machine)
{
	char *folder =
	    g->memory ? xasprintf("%s/%s", g->memory, machine) : NULL;
	u64 count = 0;

	if (folder)
		read_counter(folder,
		             g->kind == CGROUP_V2 ? "memory.events"
		                                  : "memory.oom_control",
		             "oom_kill", &count);
	free(folder);
	return count;
}

void cgroup_remove(const struct cgroups *g, const char *machine)
{
	const char *const parents[] = { g->cpu, g->memory, g->io };
	char *path;

	if (g->helper >= 0) {
		helper_cgroup_remove(g->helper, machine);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(parents); i++) {
		if (!parents[i])
			continue;
		path = xasprintf("%s/%s", parents[i], machine);
		rmdir(path);
		free(path);
	}
}

s64 cgroup_throttled_ns(const struct cgroups *g, const char *machine)
{
	char *folder = g->cpu ? xasprintf("%s/%s", g->cpu, machine) : NULL;
	u64 n = 0;
	s64 ns = -1;

	if (folder && read_counter(folder, "cpu.stat", "throttled_usec", &n))
		ns = (s64)n * 1000;
	else if (folder &&
	         read_counter(folder, "cpu.stat", "throttled_time", &n))
		ns = (s64)n;
	free(folder);
	return ns;
}

/* ---- above the machines ---- */

/* What the kernel takes back from files before it takes from anybody. */
static u64 read_cached(const char *folder, const char *key)
{
	char text[2 * CGROUP_TEXT];
	const char *at;

	if (!group_read(folder, "memory.stat", text, sizeof(text)))
		return 0;
	at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static void clip_to(const char *folder, bool v2, u64 *total, u64 *available)
{
	u64 limit = group_read_size(folder, v2 ? "memory.max"
	                                       : "memory.limit_in_bytes");
	u64 used = group_read_size(folder, v2 ? "memory.current"
	                                      : "memory.usage_in_bytes");
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
