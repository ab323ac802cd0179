/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report - figures of a run, as JSON text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/freeze.h"
#include "guest/memory.h"
#include "machine/internal.h"
#include "machine/state/pages.h"

/* The descriptor was opened before the sandbox closed. */
void machine_resident(const struct machine *m, u64 *pages, u64 *own)
{
	unsigned long total, resident, files;
	char text[128];
	ssize_t n = m->statm_fd < 0
	                ? -1
	                : pread(m->statm_fd, text, sizeof(text) - 1, 0);

	*pages = *own = 0;
	if (n <= 0)
		return;
	text[n] = 0;
	if (sscanf(text, "%lu %lu %lu", &total, &resident, &files) != 3)
		return;
	*pages = resident;
	*own = resident - MIN(files, resident);
}

u64 machine_resident_bytes(const struct machine *m)
{
	u64 pages, own;

	machine_resident(m, &pages, &own);
	return pages * PAGE_SIZE;
}

s64 machine_merged_bytes(const struct machine *m)
{
	char text[32];
	ssize_t n = m->merged_fd < 0
	                ? -1
	                : pread(m->merged_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return -1;
	text[n] = 0;
	return strtoll(text, NULL, 10) * PAGE_SIZE;
}

/* Guest memory is files in memory: what they hold is what is resident, with
 * what is no file's because it may be shared. */
u64 machine_guest_resident_bytes(const struct machine *m)
{
	u64 bytes = 0;

	for (size_t i = 0; i < memory_slot_count(m->memory); i++) {
		const struct memory_slot *slot = memory_slot_at(m->memory, i);
		struct stat st;

		if (slot->fd >= 0 && slot->fd_offset == 0 &&
		    fstat(slot->fd, &st) == 0)
			bytes += (u64)st.st_blocks * 512;
	}
	if (memory_merges(m->memory))
		bytes += memory_private_bytes(m->memory);
	return bytes;
}

static u64 stat_sum(struct machine *m, enum vcpu_stat stat)
{
	u64 sum = 0;

	for (unsigned i = 0; i < m->config.cpus; i++)
		sum += m->engine_type->vcpu_stat(m->cpus[i].vcpu, stat);
	return sum;
}

/* Milliseconds from the start of the machine's building; null if never. */
static void put_time(FILE *f, const char *name, const struct machine *m,
                     u64 when_ns)
{
	if (when_ns)
		fprintf(f, "\"%s\":%.3f,", name,
		        (double)(when_ns - m->start_ns) / 1e6);
	else
		fprintf(f, "\"%s\":null,", name);
}

static double seconds(struct timeval tv)
{
	return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

char *machine_report(struct machine *m)
{
	u64 all = machine_resident_bytes(m);
	u64 guest = machine_guest_resident_bytes(m);
	u64 end = m->end_ns ? m->end_ns : loop_now_ns();
	struct rusage usage = { 0 };
	char *text = NULL, *engine;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	ASSERT(f);
	getrusage(RUSAGE_SELF, &usage);
	fprintf(f,
	        "{\"engine\":\"%s\",\"cpus\":%u,\"memory_bytes\":%" PRIu64 ",",
	        m->engine_type->name, m->present, m->config.memory_bytes);
	put_time(f, "first_instruction_ms", m, m->run_ns);
	put_time(f, "first_output_ms", m, m->first_output_ns);
	put_time(f, "memory_whole_ms", m, pages_source_whole_ns(m->source));
	fprintf(f, "\"run_ms\":%.3f,",
	        m->run_ns ? (double)(end - m->run_ns) / 1e6 : 0.0);
	fprintf(f, "\"user_s\":%.3f,\"system_s\":%.3f,\"resets\":%u,",
	        seconds(usage.ru_utime), seconds(usage.ru_stime), m->resets);
	fprintf(f, "\"instructions\":%" PRIu64 ",\"exits\":{",
	        stat_sum(m, STAT_INSTRUCTIONS));
	for (int i = STAT_INSTRUCTIONS + 1; i < STAT_COUNT; i++)
		fprintf(f, "%s\"%s\":%" PRIu64,
		        i > STAT_INSTRUCTIONS + 1 ? "," : "",
		        vcpu_stat_names[i], stat_sum(m, (enum vcpu_stat)i));
	fprintf(f,
	        "},\"resident_bytes\":%" PRIu64
	        ",\"guest_resident_bytes\":%" PRIu64
	        ",\"overhead_bytes\":%" PRIu64,
	        all, guest, all > guest ? all - guest : 0);
	engine = m->engine_type->stats_json
	             ? m->engine_type->stats_json(m->engine)
	             : NULL;
	if (engine)
		fprintf(f, ",\"engine_stats\":%s", engine);
	free(engine);
	fputs("}", f);
	fclose(f);
	return text;
}
