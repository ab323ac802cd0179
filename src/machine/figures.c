/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figures - what is counted while a machine runs, as JSON text. Sums since the
 * start, so that whoever asks twice has rates.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/net.h"
#include "machine/internal.h"
#include "machine/steal.h"

int machine_balloon(struct machine *m, u64 bytes, struct error *err)
{
	if (!m->balloon)
		return error_set(err, -ENODEV, "the machine has no balloon");
	virtio_balloon_set_target(m->balloon, bytes);
	return 0;
}

static void put_cpus(FILE *f, struct machine *m)
{
	for (unsigned i = 0; i < m->present; i++) {
		struct cpu_times t;

		steal_times(&m->cpus[i], &t);
		fprintf(f,
		        "%s{\"run_ns\":%" PRIu64 ",\"asleep_ns\":%" PRIu64
		        ",\"steal_ns\":%" PRIu64 "}",
		        i ? "," : "", t.run_ns, t.asleep_ns, t.steal_ns);
	}
}

/* A guest may not have said it, or anything at all. */
static void put_said(FILE *f, const char *name, u64 value)
{
	if (value <= INT64_MAX)
		fprintf(f, ",\"%s\":%" PRIu64, name, value);
	else
		fprintf(f, ",\"%s\":null", name);
}

static void put_balloon(FILE *f, struct machine *m)
{
	struct virtio_balloon_figures b;

	if (!m->balloon) {
		fputs("null", f);
		return;
	}
	virtio_balloon_figures(m->balloon, &b);
	fprintf(f,
	        "{\"driver\":%s,\"target_bytes\":%" PRIu64
	        ",\"actual_bytes\":%" PRIu64 ",\"lent_bytes\":%" PRIu64
	        ",\"reported_bytes\":%" PRIu64,
	        b.driver ? "true" : "false", b.target_bytes, b.actual_bytes,
	        b.lent_bytes, b.reported_bytes);
	put_said(f, "free_bytes", b.free_bytes);
	put_said(f, "available_bytes", b.available_bytes);
	put_said(f, "total_bytes", b.total_bytes);
	put_said(f, "cache_bytes", b.cache_bytes);
	put_said(f, "swap_in_bytes", b.swap_in_bytes);
	put_said(f, "swap_out_bytes", b.swap_out_bytes);
	put_said(f, "major_faults", b.major_faults);
	fputs("}", f);
}

static void put_disk(FILE *f, struct device *dev)
{
	struct virtio_blk_figures d;

	virtio_blk_figures(dev, &d);
	fprintf(f,
	        "{\"reads\":%" PRIu64 ",\"writes\":%" PRIu64
	        ",\"flushes\":%" PRIu64 ",\"errors\":%" PRIu64
	        ",\"read_bytes\":%" PRIu64 ",\"write_bytes\":%" PRIu64
	        ",\"read_ns\":%" PRIu64 ",\"write_ns\":%" PRIu64
	        ",\"flush_ns\":%" PRIu64 "}",
	        d.reads, d.writes, d.flushes, d.errors, d.read_bytes,
	        d.write_bytes, d.read_ns, d.write_ns, d.flush_ns);
}

static void put_nic(FILE *f, struct device *dev)
{
	struct virtio_net_figures n;

	virtio_net_figures(dev, &n);
	fprintf(
	    f,
	    "{\"sent_frames\":%" PRIu64 ",\"sent_bytes\":%" PRIu64
	    ",\"received_frames\":%" PRIu64 ",\"received_bytes\":%" PRIu64 "}",
	    n.sent_frames, n.sent_bytes, n.received_frames, n.received_bytes);
}

/* The list is newest first: the last one goes first. */
static unsigned put_devices(FILE *f, struct device *dev, const char *type,
                            void (*put)(FILE *f, struct device *dev))
{
	unsigned n;

	if (!dev)
		return 0;
	n = put_devices(f, dev->next, type, put);
	if (strcmp(dev->type->name, type))
		return n;
	if (n)
		fputc(',', f);
	put(f, dev);
	return n + 1;
}

char *machine_figures(struct machine *m)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	ASSERT(f);
	fprintf(f, "{\"memory_bytes\":%" PRIu64 ",\"resident_bytes\":%" PRIu64,
	        m->config.memory_bytes, machine_resident_bytes(m));
	fprintf(f,
	        ",\"guest_resident_bytes\":%" PRIu64
	        ",\"agent\":%s,\"cpus_max\":%u,\"cpus\":[",
	        machine_guest_resident_bytes(m),
	        atomic_load(&m->agent_open) ? "true" : "false", m->config.cpus);
	put_cpus(f, m);
	fputs("]", f);
	if (m->config.share_memory)
		put_said(f, "merged_bytes", (u64)machine_merged_bytes(m));
	fputs(",\"balloon\":", f);
	put_balloon(f, m);
	fputs(",\"disks\":[", f);
	put_devices(f, m->devices, "virtio-blk", put_disk);
	fputs("],\"nics\":[", f);
	put_devices(f, m->devices, "virtio-net", put_nic);
	fputs("]}", f);
	fclose(f);
	return text;
}
