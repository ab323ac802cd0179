/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process - niceness and affinity, thread by thread: what an ordinary user may
 * set of a process of its own where there are no control groups.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/kernel_file.h"
#include "daemon/limits/limits.h"

enum { CPUS_MAX = 1024, NICE_MAX = 19, NICE_MIN = -20 };

int cpu_list_parse(const char *text, u64 set[16], struct error *err)
{
	const char *at = text;
	char *end;

	memset(set, 0, 16 * sizeof(set[0]));
	while (*at) {
		unsigned long first = strtoul(at, &end, 10), last = first;

		if (end == at || *at < '0' || *at > '9')
			goto bad;
		if (*end == '-') {
			at = end + 1;
			last = strtoul(at, &end, 10);
			if (end == at || *at < '0' || *at > '9')
				goto bad;
		}
		if (last < first || last >= CPUS_MAX ||
		    (*end && (*end != ',' || !end[1])))
			goto bad;
		for (unsigned long cpu = first; cpu <= last; cpu++)
			set[cpu / 64] |= BIT(cpu % 64);
		at = *end ? end + 1 : end;
	}
	return 0;
bad:
	return error_set(err, -EINVAL, "%.64s is not a list of processors",
	                 text);
}

int cpu_list_meets(const char *wanted, const char *there, struct error *err)
{
	u64 a[16], b[16], common = 0;
	int rc = cpu_list_parse(wanted, a, err);

	if (rc == 0)
		rc = cpu_list_parse(there, b, err);
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(a); i++)
		common |= a[i] & b[i];
	if (rc < 0 || common || !wanted[0])
		return rc;
	rc = error_set(err, -ENOSPC,
	               "cpu_pin %.64s: this host has none of these "
	               "processors, only %.64s",
	               wanted, there);
	error_hint(err, "pin it to some that are there: atoll vm set NAME "
	                "--cpu-pin LIST; '' is all");
	return rc;
}

/* A step of niceness is a factor of 1.25 (sched(7)). */
static int nice_of(u64 weight)
{
	double steps = -log((double)weight / 100) / log(1.25);
	int nice = (int)lround(steps);

	return MAX(NICE_MIN, MIN(NICE_MAX, nice));
}

static void write_autogroup(pid_t pid, int nice)
{
	char path[48], text[16];

	snprintf(text, sizeof(text), "%d", nice);
	snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)pid);
	/* In a kernel without, or for who may not, niceness alone counts. */
	kernel_file_write(AT_FDCWD, path, text);
}

static int limit_thread(pid_t tid, int nice, const cpu_set_t *set)
{
	/* Raising it again may be refused: it stays as it is. */
	if (setpriority(PRIO_PROCESS, (id_t)tid, nice) < 0 && errno != EACCES &&
	    errno != EPERM && errno != ESRCH)
		return -errno;
	if (set && sched_setaffinity(tid, sizeof(*set), set) < 0 &&
	    errno != ESRCH)
		return -errno;
	return 0;
}

int process_limit(pid_t pid, const struct cgroup_limits *l, struct error *err)
{
	struct dirent *entry;
	u64 pins[16];
	cpu_set_t set;
	char path[40];
	int rc = cpu_list_parse(l->pin, pins, err);
	DIR *dir;

	if (rc < 0)
		return rc;
	CPU_ZERO(&set);
	for (unsigned cpu = 0; cpu < CPUS_MAX; cpu++)
		if (!l->pin[0] || (pins[cpu / 64] & BIT(cpu % 64)))
			CPU_SET(cpu, &set);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return 0; /* it has ended */
	while (rc == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			rc = limit_thread(atoi(entry->d_name),
			                  nice_of(l->weight), &set);
	closedir(dir);
	write_autogroup(pid, nice_of(l->weight));
	return rc == 0 ? 0
	               : error_set(err, rc, "processors %s: %s", l->pin,
	                           strerror(-rc));
}
