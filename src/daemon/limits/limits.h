/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limits.h - who gets how much of the host.
 *
 *	shares.c   weights that keep reservations: a pure function
 *	spread.c   which vCPUs share a processor
 *	memory.c   who gives memory back under pressure: a pure function
 *	admit.c    whether a machine may start
 *	helped.c   the connection to atoll-helper
 *	limits.c   what applies them to machines that run, by launch/cgroup.h
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/types.h"
#include "launch/cgroup.h"

struct call;
struct daemon;
struct vm;

/* ---- process.c ---- */

/* What works without cgroups: niceness and affinity of its threads. */
int process_limit(pid_t pid, const struct cgroup_limits *limits,
                  struct error *err) MUST_CHECK;
/* "0-3,5" into a set of processors; -EINVAL in words. */
int cpu_list_parse(const char *text, u64 set[16], struct error *err) MUST_CHECK;
/* -ENOSPC in words when none of wanted is there; "" is met by any. */
int cpu_list_meets(const char *wanted, const char *there,
                   struct error *err) MUST_CHECK;

/* ---- shares.c ---- */

struct share {
	u64 weight;      /* as asked for, 1 to 10000 */
	u64 reservation; /* percent of one processor */
	u64 effective;   /* out: 1 to 10000 */
};
/* The same proportions as the weights, bent so far that with all of them busy
 * on that many processors each has its reservation. */
void shares_settle(struct share *shares, size_t count, unsigned processors);

/* ---- spread.c ---- */

struct vm_rates;
enum { SPREAD_CPUS = 1024 };
#define SPREAD_NONE SIZE_MAX

/* A vCPU that always wants to run. */
struct spread_vcpu {
	double weight; /* its part of its machine's */
	unsigned on;   /* the processor that it stands on, below SPREAD_CPUS */
	bool stays;    /* and may be moved from */
	u64 allowed[SPREAD_CPUS / 64];
	pid_t tid;
};
struct spread_step {
	size_t first, second; /* goes to a processor, and who in turn leaves
	                       * it; SPREAD_NONE: nobody */
	unsigned to;
};
/* The step that makes two of the processors that they stand on most even.
 * False: none is worth it. */
bool spread_choose(const struct spread_vcpu *vcpus, size_t count,
                   struct spread_step *step);
/* How many of one machine's want to run. */
unsigned spread_count(const struct vm_rates *rates);
/* Those; how many, no more than there is room for. */
size_t spread_add(struct spread_vcpu *vcpus, size_t room,
                  const struct vm_rates *rates, u64 weight);
void spread_do(const struct spread_vcpu *vcpus, size_t count);

/* ---- memory.c ---- */

struct memory_host {
	u64 total, available, headroom;
	int some; /* PSI, hundredths of a percent; -1: unknown */
};
struct memory_guest {
	u64 size, reservation; /* most, least */
	u64 limit;             /* most that it may have now; size if none */
	u64 now;               /* what it has */
	u64 used;              /* what it can't do without, as it says */
	bool balloon;          /* it can give and take */
	bool idle;
	u64 target; /* out */
};
/* What every guest should have. */
void memory_plan(const struct memory_host *host, struct memory_guest *guests,
                 size_t count);

/* ---- admit.c ---- */

struct host_policy {
	u64 headroom_bytes; /* kept for the host itself */
	u64 overcommit;     /* percent: 100 is none */
};
struct demand {
	u64 memory, memory_reservation; /* bytes */
	u64 cpu_reservation;            /* percent */
};
/* -ENOSPC with words when it does not fit beside what is there already. Nothing
 * wanted always fits, whatever became of the room. */
int admit(const struct host_policy *policy, u64 host_memory,
          unsigned processors, const struct demand *running,
          const struct demand *wanted, struct error *err) MUST_CHECK;

/* ---- cpus.c ---- */

/* vCPUs that it is to have and has not come. */
void cpus_settle(struct vm *vm);

/* ---- limits.c ---- */

struct limits;
struct host_figures;

/* The host as machines have it: in a container no more than that. */
void limits_host_read(const struct daemon *d, struct host_figures *figures);
int limits_start(struct daemon *d, struct error *err) MUST_CHECK;
void limits_stop(struct daemon *d);
/* Whether it may start now. */
int limits_admit(struct vm *vm, struct error *err) MUST_CHECK;
/* Whether it may go on as spec has it; one that does not run may. */
int limits_admit_change(struct vm *vm, json_t *spec,
                        struct error *err) MUST_CHECK;
/* It came up, or its definition was changed. */
void limits_apply(struct vm *vm);
/* Its process is there, and its guest does not run yet: at once. */
void limits_begin(struct vm *vm);
/* Says so in how it ended, if the kernel ended it for want of memory. */
void limits_explain(const struct vm *vm, json_t *end);
void limits_vm_ended(struct vm *vm);
/* Whether a machine that runs goes by the whole of a change. */
bool limits_change_is_live(json_t *before, json_t *after);
/* The process of atoll-helper's that answers; 0: none. */
pid_t limits_helper(const struct daemon *d);
/* Every two seconds. */
void limits_round(struct daemon *d);
json_t *limits_json(const struct daemon *d);
