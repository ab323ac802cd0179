/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.h - what machines and the host use, now and before.
 *
 *	process.c   figures of processes and of the host, from /proc
 *	sample.c    every two seconds: each machine's sums, and rates from two
 *	history.c   points kept in history.db, made coarser with age
 *	alarm.c     rules over the samples
 *	advice.c    what a machine should be sized as: a pure function
 *	api_watch.c the routes: figures, history, reports
 *	prometheus.c /metrics
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/types.h"

struct daemon;
struct vm;

enum { WATCH_CPUS_MAX = 64, WATCH_DISKS_MAX = 16, WATCH_NICS_MAX = 8 };

/* ---- process.c ---- */

/* The scheduler's own accounting of one thread: /proc/PID/task/TID/schedstat.
 */
struct thread_times {
	u64 run_ns, ready_ns; /* on a processor; waiting for one */
	pid_t tid;            /* of the last one; 0: there is none */
	unsigned on;          /* the processor that it was on last */
};
struct process_figures {
	struct thread_times cpu[WATCH_CPUS_MAX]; /* threads "vcpu-N" */
	struct thread_times other;               /* all the rest, summed */
	u64 resident_bytes, shared_bytes, swap_bytes;
};
/* False: there is no such process. */
bool process_read(pid_t pid, struct process_figures *figures);

struct host_figures {
	u64 cpu_busy_ms, cpu_all_ms; /* since the boot, over all processors */
	u64 memory_bytes, available_bytes, swap_bytes, swap_free_bytes;
	s64 merged_bytes; /* spared by KSM, of all processes; -1: none here */
	/* PSI, percent of time in hundredths over ten seconds; -1: unknown. */
	int cpu_some, memory_some, memory_full, io_some;
};
void host_read(struct host_figures *figures);
/* One line's avg10 of a PSI file's text: hundredths of a percent, or -1. */
int psi_parse(const char *text, const char *line);

/* ---- sample.c ---- */

/* What a machine was using over the last period. Rates are by the second. */
struct vm_rates {
	u64 at_ns;               /* CLOCK_MONOTONIC; 0: not yet */
	u64 period_ns;           /* over which the rates were taken */
	unsigned cpus, cpus_max; /* there now; that may be */
	/* Of one processor's time, in millionths. A vCPU runs, is ready to and
	 * waits for a processor, or waits for something to do. */
	struct {
		u32 run, ready, wait, steal;
		pid_t tid;              /* of its thread; 0: not yet */
		unsigned on, on_before; /* processors: now, a period ago */
	} cpu[WATCH_CPUS_MAX];
	u32 run, ready, wait, steal; /* summed over the vCPUs */
	u32 process;                 /* the whole process, vCPUs included */
	u64 resident_bytes, guest_resident_bytes, swap_bytes;
	bool has_balloon, has_driver, agent;
	u64 balloon_target_bytes, balloon_bytes, reported_bytes;
	u64 lent_bytes; /* of the guest's total, to the balloon */
	/* As the guest says; -1: it does not. */
	s64 guest_total_bytes, guest_available_bytes;
	/* Equal to other machines' and so shared; -1: it does not share. */
	s64 merged_bytes;
	u64 disk_reads, disk_writes, disk_read_bytes, disk_write_bytes;
	u64 disk_read_us, disk_write_us; /* of one, on average */
	u64 disk_errors;                 /* since the start */
	u64 net_sent_bytes, net_received_bytes, net_sent, net_received;
};

struct vm_watch;

int watch_start(struct daemon *d, struct error *err) MUST_CHECK;
void watch_stop(struct daemon *d);
void watch_vm_free(struct vm *vm);
/* NULL: it does not run, or has just begun. */
const struct vm_rates *watch_rates(const struct vm *vm);
const struct host_figures *watch_host(const struct daemon *d);
/* Busy, in millionths of all processors. */
u32 watch_host_cpu(const struct daemon *d);
json_t *watch_vm_json(const struct vm *vm);
json_t *watch_host_json(const struct daemon *d);
/* What a guest really uses; what is resident where it does not say. */
u64 watch_used_bytes(const struct vm_rates *r);
/* What a guest of that size can't do without: that, and what its kernel keeps
 * from the total that it tells of. */
u64 watch_needed_bytes(const struct vm_rates *r, u64 size);

/* ---- history.c ---- */

/* The columns of a point. */
enum metric {
	METRIC_CPU, /* of one processor, in thousandths */
	METRIC_READY,
	METRIC_STEAL,
	METRIC_USED, /* bytes */
	METRIC_RESIDENT,
	METRIC_BALLOON,
	METRIC_DISK_READ, /* bytes a second */
	METRIC_DISK_WRITE,
	METRIC_DISK_OPS, /* a second */
	METRIC_DISK_US,  /* of one */
	METRIC_NET_SENT, /* bytes a second */
	METRIC_NET_RECEIVED,
	METRIC_COUNT
};
extern const char *const metric_names[METRIC_COUNT];
/* METRIC_COUNT: there is none of that name. */
enum metric metric_find(const char *name);
void metric_values(const struct vm_rates *r, u64 values[METRIC_COUNT]);

struct history;
int history_open(struct history **out, const char *path,
                 struct error *err) MUST_CHECK;
void history_close(struct history *h); /* NULL is legal */
/* Points of one moment, seconds since 1970: between begin and end. */
void history_begin(struct history *h);
void history_add(struct history *h, const char *vm_id, s64 at,
                 const u64 values[METRIC_COUNT]);
/* Also makes older points coarser, and drops the oldest. */
void history_end(struct history *h, s64 now);
void history_forget(struct history *h, const char *vm_id);
/* {"step_s":N,"metrics":[names],"points":[[at, mean..., max...]]}; step 0
 * chooses by the span. */
json_t *history_points(struct history *h, const char *vm_id, s64 since,
                       s64 until, struct error *err);

struct usage { /* of a machine over a span, for advice */
	u64 points;
	u64 cpu_mean, cpu_max; /* thousandths of one processor */
	u64 ready_mean;
	u64 used_mean, used_max; /* bytes */
};
void history_usage(struct history *h, const char *vm_id, s64 since,
                   struct usage *usage);
struct history *watch_history(const struct daemon *d);

/* ---- advice.c ---- */

struct sizing {
	unsigned cpus;
	u64 memory_bytes;
	const char *words; /* why; "" when it fits as it is */
};
/* What usage over at least a day says about a machine of that size. */
struct sizing sizing_advice(const struct usage *u, unsigned cpus,
                            u64 memory_bytes);

/* ---- alarm.c ---- */

/* One rule over one machine, fed with samples in order of time. */
struct alarm_state {
	u64 since_ns; /* the threshold is crossed since; 0: it is not */
	bool raised;
};
enum alarm_change { ALARM_SAME, ALARM_RAISED, ALARM_CLEARED };
enum alarm_change alarm_step(struct alarm_state *s, bool beyond, u64 now_ns,
                             u64 duration_ns);

int alarms_load(struct daemon *d, struct error *err) MUST_CHECK;
void alarms_free(struct daemon *d);
void alarms_look(struct daemon *d);
void alarms_forget(struct daemon *d, const char *vm_id);
