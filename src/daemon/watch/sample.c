/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample - every two seconds each machine's process is asked for its sums and
 * looked up in /proc; two of those make rates.
 *
 * A machine that does not answer is not asked again until it does, so that one
 * that hangs costs nothing.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/limits/limits.h"
#include "daemon/watch/watch.h"

enum { PERIOD_MS = 2000, HISTORY_S = 10, MILLION = 1000000 };

/* Sums since a machine's start. */
struct sums {
	u64 at_ns;
	unsigned cpus, cpus_max;
	struct thread_times cpu[WATCH_CPUS_MAX];
	u64 steal_ns[WATCH_CPUS_MAX];
	struct thread_times other;
	u64 reads, writes, read_bytes, write_bytes, read_ns, write_ns, errors;
	u64 sent, received, sent_bytes, received_bytes;
};

struct vm_watch {
	pid_t pid;  /* of which the sums are */
	bool asked; /* no answer yet */
	struct sums before;
	struct vm_rates rates;
};

struct watch {
	struct loop_timer timer;
	struct history *history;
	struct host_figures host;
	u32 host_cpu;
	s64 last_point;
};

/* ---- out of an answer ---- */

static u64 number(json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (u64)n : 0;
}

static s64 said(json_t *o, const char *key)
{
	json_t *value = json_object_get(o, key);

	return json_is_integer(value) ? json_integer_value(value) : -1;
}

static void sum_devices(struct sums *s, json_t *figures)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(figures, "disks"), i, one)
	{
		s->reads += number(one, "reads");
		s->writes += number(one, "writes");
		s->read_bytes += number(one, "read_bytes");
		s->write_bytes += number(one, "write_bytes");
		s->read_ns += number(one, "read_ns");
		s->write_ns += number(one, "write_ns");
		s->errors += number(one, "errors");
	}
	json_array_foreach(json_object_get(figures, "nics"), i, one)
	{
		s->sent += number(one, "sent_frames");
		s->received += number(one, "received_frames");
		s->sent_bytes += number(one, "sent_bytes");
		s->received_bytes += number(one, "received_bytes");
	}
}

static void sum_cpus(struct sums *s, json_t *figures,
                     const struct process_figures *p)
{
	json_t *cpus = json_object_get(figures, "cpus"), *one;
	size_t i;

	s->cpus = (unsigned)MIN(json_array_size(cpus), (size_t)WATCH_CPUS_MAX);
	s->cpus_max =
	    (unsigned)MIN(number(figures, "cpus_max"), (u64)WATCH_CPUS_MAX);
	json_array_foreach(cpus, i, one)
	{
		if (i >= WATCH_CPUS_MAX)
			break;
		s->cpu[i] = p->cpu[i];
		s->steal_ns[i] = number(one, "steal_ns");
	}
	s->other = p->other;
}

/* ---- rates ---- */

/* A sum that went back (a machine that started anew) gives none. */
static u64 rate(u64 now, u64 before, u64 period_ns, u64 unit)
{
	if (now < before || period_ns == 0)
		return 0;
	return (u64)((double)(now - before) * (double)unit / (double)period_ns);
}

static u64 each_us(u64 ns, u64 ns_before, u64 count, u64 count_before)
{
	if (count <= count_before || ns < ns_before)
		return 0;
	return (ns - ns_before) / (count - count_before) / 1000;
}

/* Of the time there was, in millionths: no more than all of it. */
static u32 part(u64 now, u64 before, u64 period)
{
	return (u32)MIN(rate(now, before, period, MILLION), (u64)MILLION);
}

/* The kernel tells of a wait for a processor when it is over, which may put a
 * part of an earlier period into this one. */
static void vcpu_rates(u32 *run, u32 *ready, u32 *wait,
                       const struct thread_times *now,
                       const struct thread_times *before, u64 period)
{
	*run = part(now->run_ns, before->run_ns, period);
	*ready =
	    MIN(part(now->ready_ns, before->ready_ns, period), MILLION - *run);
	*wait = MILLION - *run - *ready;
}

static void cpu_rates(struct vm_rates *r, const struct sums *now,
                      const struct sums *before, u64 period)
{
	r->run = r->ready = r->wait = r->steal = 0;
	r->cpus = now->cpus;
	r->cpus_max = now->cpus_max;
	for (unsigned i = 0; i < now->cpus; i++) {
		vcpu_rates(&r->cpu[i].run, &r->cpu[i].ready, &r->cpu[i].wait,
		           &now->cpu[i], &before->cpu[i], period);
		r->cpu[i].steal =
		    part(now->steal_ns[i], before->steal_ns[i], period);
		r->cpu[i].tid = now->cpu[i].tid;
		r->cpu[i].on = now->cpu[i].on;
		r->cpu[i].on_before = before->cpu[i].on;
		r->run += r->cpu[i].run;
		r->ready += r->cpu[i].ready;
		r->wait += r->cpu[i].wait;
		r->steal += r->cpu[i].steal;
	}
	r->process = r->run + (u32)rate(now->other.run_ns, before->other.run_ns,
	                                period, MILLION);
}

static void take_rates(struct vm_rates *r, const struct sums *now,
                       const struct sums *b)
{
	u64 period = now->at_ns - b->at_ns;

	r->at_ns = now->at_ns;
	r->period_ns = period;
	cpu_rates(r, now, b, period);
	r->disk_reads = rate(now->reads, b->reads, period, NSEC_PER_SEC);
	r->disk_writes = rate(now->writes, b->writes, period, NSEC_PER_SEC);
	r->disk_read_bytes =
	    rate(now->read_bytes, b->read_bytes, period, NSEC_PER_SEC);
	r->disk_write_bytes =
	    rate(now->write_bytes, b->write_bytes, period, NSEC_PER_SEC);
	r->disk_read_us =
	    each_us(now->read_ns, b->read_ns, now->reads, b->reads);
	r->disk_write_us =
	    each_us(now->write_ns, b->write_ns, now->writes, b->writes);
	r->disk_errors = now->errors;
	r->net_sent = rate(now->sent, b->sent, period, NSEC_PER_SEC);
	r->net_received =
	    rate(now->received, b->received, period, NSEC_PER_SEC);
	r->net_sent_bytes =
	    rate(now->sent_bytes, b->sent_bytes, period, NSEC_PER_SEC);
	r->net_received_bytes =
	    rate(now->received_bytes, b->received_bytes, period, NSEC_PER_SEC);
}

/* Its memory is its own, not a file. */
static bool shares(json_t *figures)
{
	return json_object_get(figures, "merged_bytes") != NULL;
}

static void take_memory(struct vm_rates *r, json_t *figures,
                        const struct process_figures *p)
{
	json_t *b = json_object_get(figures, "balloon");
	u64 guest = number(figures, "guest_resident_bytes");

	r->resident_bytes = p->resident_bytes;
	r->guest_resident_bytes = guest;
	/* Guest memory is a file in memory: what it holds and is not mapped
	 * here is on the swap. */
	r->swap_bytes = p->swap_bytes;
	r->merged_bytes = said(figures, "merged_bytes");
	if (p->swap_bytes && guest > p->shared_bytes && !shares(figures))
		r->swap_bytes += guest - p->shared_bytes;
	r->agent = json_is_true(json_object_get(figures, "agent"));
	r->has_balloon = json_is_object(b);
	r->has_driver = json_is_true(json_object_get(b, "driver"));
	r->balloon_target_bytes = number(b, "target_bytes");
	r->balloon_bytes = number(b, "actual_bytes");
	r->reported_bytes = number(b, "reported_bytes");
	r->lent_bytes = number(b, "lent_bytes");
	r->guest_total_bytes = said(b, "total_bytes");
	r->guest_available_bytes = said(b, "available_bytes");
}

u64 watch_used_bytes(const struct vm_rates *r)
{
	u64 total = (u64)r->guest_total_bytes, used;

	if (r->guest_total_bytes < 0 || r->guest_available_bytes < 0 ||
	    r->guest_available_bytes > r->guest_total_bytes)
		return r->guest_resident_bytes;
	used = total - (u64)r->guest_available_bytes;
	return used - MIN(used, r->lent_bytes);
}

u64 watch_needed_bytes(const struct vm_rates *r, u64 size)
{
	u64 total = (u64)MAX(r->guest_total_bytes, (s64)0);

	/* Where the balloon is not part of the total it is beside it. */
	if (!r->lent_bytes)
		total += r->balloon_bytes;
	return watch_used_bytes(r) +
	       (r->guest_total_bytes < 0 ? 0 : size - MIN(size, total));
}

static void answered(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct vm *vm = ctx;
	struct vm_watch *w = vm->watch;
	json_t *figures = json_object_get(answer, "figures");
	struct process_figures p;
	struct sums now = { .at_ns = loop_now_ns() };

	(void)words;
	w->asked = false;
	if (!ok || !vm->pid || !process_read(vm->pid, &p))
		return;
	sum_cpus(&now, figures, &p);
	sum_devices(&now, figures);
	if (w->pid != vm->pid)
		memset(&w->rates, 0, sizeof(w->rates));
	else if (now.at_ns > w->before.at_ns)
		take_rates(&w->rates, &now, &w->before);
	take_memory(&w->rates, figures, &p);
	guest_round(vm, w->rates.agent);
	w->pid = vm->pid;
	w->before = now;
}

/* ---- the round ---- */

static void look_at(struct vm *vm)
{
	if (!vm_is_up(vm)) {
		if (vm->watch)
			memset(&vm->watch->rates, 0, sizeof(vm->watch->rates));
		return;
	}
	if (!vm->watch)
		vm->watch = xalloc(sizeof(*vm->watch));
	if (vm->watch->asked)
		return;
	vm->watch->asked = true;
	holder_request(vm, json_pack("{s:s}", "op", "figures"), answered, vm);
}

static void look_at_host(const struct daemon *d)
{
	struct watch *w = d->watch;
	struct host_figures before = w->host;
	u64 all;

	limits_host_read(d, &w->host);
	all = w->host.cpu_all_ms - before.cpu_all_ms;
	if (before.cpu_all_ms && all)
		w->host_cpu = (u32)((w->host.cpu_busy_ms - before.cpu_busy_ms) *
		                    MILLION / all);
}

static void keep_points(struct daemon *d, struct watch *w)
{
	s64 now = (s64)time(NULL);
	u64 values[METRIC_COUNT];

	if (now - w->last_point < HISTORY_S && now >= w->last_point)
		return;
	w->last_point = now - now % HISTORY_S;
	history_begin(w->history);
	for (struct vm *vm = d->vms; vm; vm = vm->next) {
		const struct vm_rates *r = watch_rates(vm);

		if (!r)
			continue;
		metric_values(r, values);
		history_add(w->history, vm->id, w->last_point, values);
	}
	history_end(w->history, w->last_point);
}

static void round_due(void *ctx)
{
	struct daemon *d = ctx;
	struct watch *w = d->watch;

	look_at_host(d);
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		look_at(vm);
	alarms_look(d);
	limits_round(d);
	keep_points(d, w);
	loop_timer_arm(&w->timer, loop_now_ns() + PERIOD_MS * NSEC_PER_MSEC);
}

int watch_start(struct daemon *d, struct error *err)
{
	char *path = xasprintf("%s/history.db", d->place.state);
	struct watch *w = xalloc(sizeof(*w));
	int rc = history_open(&w->history, path, err);

	free(path);
	d->watch = w;
	loop_timer_init(&w->timer, d->loop, round_due, d);
	if (rc == 0)
		rc = alarms_load(d, err);
	if (rc == 0)
		loop_timer_arm(&w->timer, loop_now_ns());
	return rc;
}

void watch_stop(struct daemon *d)
{
	if (!d->watch)
		return;
	loop_timer_fini(&d->watch->timer);
	history_close(d->watch->history);
	alarms_free(d);
	free(d->watch);
	d->watch = NULL;
}

void watch_vm_free(struct vm *vm)
{
	free(vm->watch);
	vm->watch = NULL;
}

const struct vm_rates *watch_rates(const struct vm *vm)
{
	return vm->watch && vm->watch->rates.at_ns ? &vm->watch->rates : NULL;
}

const struct host_figures *watch_host(const struct daemon *d)
{
	return &d->watch->host;
}

u32 watch_host_cpu(const struct daemon *d)
{
	return d->watch->host_cpu;
}

struct history *watch_history(const struct daemon *d)
{
	return d->watch->history;
}
