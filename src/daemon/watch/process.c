/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process - figures out of /proc. What is read there is the kernel's own, but
 * thread names are what a process says of itself: one that claims to be a vCPU
 * only spoils its own machine's figures.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/kernel_file.h"
#include "base/units.h"
#include "daemon/watch/watch.h"

/* "Name:  123 kB" in bytes; 0 when it is not there. */
static u64 field_kib(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) * KIB : 0;
}

/* The 39th field of stat; a name before it may hold anything. */
static unsigned read_processor(int tasks, const char *tid)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "%.20s/stat", tid);
	if (!kernel_file_read(tasks, path, text, sizeof(text)) ||
	    !(at = strrchr(text, ')')))
		return UINT_MAX;
	for (int field = 2; field < 39 && at; field++)
		at = strchr(at + 1, ' ');
	return at ? (unsigned)strtoul(at + 1, NULL, 10) : UINT_MAX;
}

static void read_thread(int tasks, const char *tid, struct process_figures *f)
{
	unsigned long long run = 0, ready = 0;
	struct thread_times *to = &f->other;
	char path[64], text[128];
	u64 index;

	snprintf(path, sizeof(path), "%.20s/schedstat", tid);
	if (!kernel_file_read(tasks, path, text, sizeof(text)) ||
	    sscanf(text, "%llu %llu", &run, &ready) != 2)
		return;
	snprintf(path, sizeof(path), "%.20s/comm", tid);
	if (kernel_file_read(tasks, path, text, sizeof(text)) &&
	    strncmp(text, "vcpu-", 5) == 0) {
		text[strcspn(text, "\n")] = '\0';
		if (parse_u64(text + 5, 0, WATCH_CPUS_MAX - 1, &index, NULL) ==
		    0) {
			to = &f->cpu[index];
			to->tid = (pid_t)atoi(tid);
			to->on = read_processor(tasks, tid);
		}
	}
	to->run_ns += run;
	to->ready_ns += ready;
}

static void read_memory(int folder, struct process_figures *f)
{
	char text[4096];

	if (!kernel_file_read(folder, "status", text, sizeof(text)))
		return;
	f->resident_bytes = field_kib(text, "VmRSS:");
	f->shared_bytes = field_kib(text, "RssShmem:");
	f->swap_bytes = field_kib(text, "VmSwap:");
}

bool process_read(pid_t pid, struct process_figures *f)
{
	struct dirent *entry;
	char path[32];
	int folder, tasks;
	DIR *dir;

	memset(f, 0, sizeof(*f));
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return false;
	read_memory(folder, f);
	tasks = openat(folder, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(folder);
	dir = tasks < 0 ? NULL : fdopendir(tasks);
	if (!dir) {
		if (tasks >= 0)
			close(tasks);
		return false;
	}
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			read_thread(tasks, entry->d_name, f);
	closedir(dir);
	return true;
}

/* ---- the host ---- */

int psi_parse(const char *text, const char *line)
{
	const char *at = strstr(text, line);
	double percent;

	if (!at || sscanf(at + strlen(line), " avg10=%lf", &percent) != 1 ||
	    percent < 0 || percent > 100)
		return -1;
	return (int)(percent * 100 + 0.5);
}

static void read_pressure(struct host_figures *f)
{
	char text[512];

	f->cpu_some = f->memory_some = f->memory_full = f->io_some = -1;
	if (kernel_file_read(AT_FDCWD, "/proc/pressure/cpu", text,
	                     sizeof(text)))
		f->cpu_some = psi_parse(text, "some");
	if (kernel_file_read(AT_FDCWD, "/proc/pressure/memory", text,
	                     sizeof(text))) {
		f->memory_some = psi_parse(text, "some");
		f->memory_full = psi_parse(text, "full");
	}
	if (kernel_file_read(AT_FDCWD, "/proc/pressure/io", text, sizeof(text)))
		f->io_some = psi_parse(text, "some");
}

/* user nice system idle iowait irq softirq steal, in ticks */
static void read_processors(struct host_figures *f)
{
	unsigned long long t[8] = { 0 };
	u64 tick_ms = 1000 / (u64)sysconf(_SC_CLK_TCK), all = 0;
	char text[512];

	if (!kernel_file_read(AT_FDCWD, "/proc/stat", text, sizeof(text)) ||
	    sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0],
	           &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) != 8)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		all += t[i];
	f->cpu_all_ms = all * tick_ms;
	f->cpu_busy_ms = (all - t[3] - t[4]) * tick_ms;
}

/* Pages that would be there but for others that are equal. */
static s64 read_merged(void)
{
	char text[32];

	return kernel_file_read(AT_FDCWD, "/sys/kernel/mm/ksm/pages_sharing",
	                        text, sizeof(text))
	           ? strtoll(text, NULL, 10) * sysconf(_SC_PAGESIZE)
	           : -1;
}

void host_read(struct host_figures *f)
{
	char text[4096];

	memset(f, 0, sizeof(*f));
	read_pressure(f);
	read_processors(f);
	f->merged_bytes = read_merged();
	if (!kernel_file_read(AT_FDCWD, "/proc/meminfo", text, sizeof(text)))
		return;
	f->memory_bytes = field_kib(text, "MemTotal:");
	f->available_bytes = field_kib(text, "MemAvailable:");
	f->swap_bytes = field_kib(text, "SwapTotal:");
	f->swap_free_bytes = field_kib(text, "SwapFree:");
}
