/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program, two lives: a command that runs benchmarks on the host, and the
 * init of a guest that runs the same. The marks around each run are what the
 * harness takes its times from; it reads them off the console.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const struct bench *const all[] = { benches_integer, benches_vector,
	                                   benches_memory, benches_kernel,
	                                   benches_smp };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The seconds are those of the clock here: a guest's own. */
static void run_one(const struct bench *b)
{
	uint64_t sum;
	double start;

	printf("BEGIN %s\n", b->name);
	fflush(stdout);
	start = now();
	sum = b->run();
	printf("END %s %.3f %llx\n", b->name, now() - start,
	       (unsigned long long)sum);
	fflush(stdout);
}

static void run(const char *name)
{
	for (size_t g = 0; g < sizeof(all) / sizeof(all[0]); g++)
		for (const struct bench *b = all[g]; b->name; b++) {
			if (strcmp(b->name, name) && strcmp(b->group, name))
				continue;
			run_one(b);
		}
}

static void run_list(char *list)
{
	for (char *name = strtok(list, ","); name; name = strtok(NULL, ","))
		run(name);
}

static void list(void)
{
	for (size_t g = 0; g < sizeof(all) / sizeof(all[0]); g++)
		for (const struct bench *b = all[g]; b->name; b++)
			printf("%s %s\n", b->group, b->name);
}

static void be_init(void)
{
	char cmdline[2048] = "", *p;
	FILE *f;

	mount("proc", "/proc", "proc", 0, NULL);
	mkdir("/dev/shm", 0755);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
	puts(""); /* firmware may have left a line begun */
	f = fopen("/proc/cmdline", "r");
	if (f && fgets(cmdline, sizeof(cmdline), f)) {
		p = strstr(cmdline, "bench=");
		if (p) {
			p += strlen("bench=");
			p[strcspn(p, " \n")] = '\0';
			run_list(p);
		}
	}
	puts("DONE");
	fflush(stdout);
	reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--nothing"))
		return 0;
	if (getpid() == 1)
		be_init();
	if (argc == 2 && !strcmp(argv[1], "--list"))
		list();
	else if (argc == 2)
		run_list(argv[1]);
	return 0;
}
