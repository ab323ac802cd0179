/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spread - Linux gives each machine its part of the processors that its
 * threads stand on, and its balancer leaves some uneven places as they are: a
 * processor with one thread that is always busy counts as one with room, and
 * as there is none left of it, nothing is moved there (v6.18, for as long as
 * nothing sleeps). Two vCPUs of a light machine that share a processor with
 * one of a heavier machine's, whose other has the next for itself, then have a
 * half of it instead of two thirds, for minutes.
 *
 * So every round the one move, or exchange, that makes two processors most
 * even is done by hand, of vCPUs that always want to run and have stood there
 * for a round. They are bound to where they should be and set free again: what
 * becomes of them then is the kernel's to say.
 */
#include <sched.h>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/limits/limits.h"
#include "daemon/watch/watch.h"

enum { WANTS_MILLIONTHS = 800000 };
#define WORTH_IT 0.1 /* of what the fuller of two processors has */

static bool may(const struct spread_vcpu *v, unsigned cpu)
{
	return v->stays && (v->allowed[cpu / 64] & BIT(cpu % 64));
}

/* Keeps what is better than the best so far. */
static void consider(struct spread_step *best, double *gain, double now,
                     double then, struct spread_step step)
{
	if (now - then < WORTH_IT * now || now - then <= *gain)
		return;
	*gain = now - then;
	*best = step;
}

/* Moves of i to another processor, alone or in exchange for one from there. */
static void moves_of(const struct spread_vcpu *v, size_t n, size_t i,
                     const double *load, struct spread_step *best, double *gain)
{
	double from = load[v[i].on];

	for (size_t k = 0; k < n; k++) {
		double to = load[v[k].on], after;

		if (to >= from || !may(&v[i], v[k].on))
			continue;
		after = MAX(from - v[i].weight, to + v[i].weight);
		consider(best, gain, from, after,
		         (struct spread_step){ i, SPREAD_NONE, v[k].on });
		if (!may(&v[k], v[i].on))
			continue;
		after = MAX(from - v[i].weight + v[k].weight,
		            to + v[i].weight - v[k].weight);
		consider(best, gain, from, after,
		         (struct spread_step){ i, k, v[k].on });
	}
}

bool spread_choose(const struct spread_vcpu *v, size_t n,
                   struct spread_step *step)
{
	double load[SPREAD_CPUS] = { 0 }, gain = 0;

	for (size_t i = 0; i < n; i++)
		load[v[i].on] += v[i].weight;
	for (size_t i = 0; i < n; i++)
		if (v[i].stays)
			moves_of(v, n, i, load, step, &gain);
	return gain > 0;
}

/* ---- of machines that run ---- */

static bool wants(const struct vm_rates *r, unsigned i)
{
	return r->cpu[i].run + r->cpu[i].ready >= WANTS_MILLIONTHS &&
	       r->cpu[i].on < SPREAD_CPUS;
}

static bool affinity(pid_t tid, cpu_set_t *set)
{
	_Static_assert(CPU_SETSIZE == SPREAD_CPUS, "a set of both sizes");
	return sched_getaffinity(tid, sizeof(*set), set) == 0;
}

static void add_one(struct spread_vcpu *v, const struct vm_rates *r, unsigned i,
                    double weight)
{
	cpu_set_t set;

	*v = (struct spread_vcpu){ .weight = weight,
		                   .on = r->cpu[i].on,
		                   .tid = r->cpu[i].tid };
	if (r->cpu[i].on != r->cpu[i].on_before || !affinity(v->tid, &set))
		return;
	v->stays = true;
	for (unsigned cpu = 0; cpu < SPREAD_CPUS; cpu++)
		if (CPU_ISSET(cpu, &set))
			v->allowed[cpu / 64] |= BIT(cpu % 64);
}

unsigned spread_count(const struct vm_rates *r)
{
	unsigned busy = 0;

	for (unsigned i = 0; i < r->cpus; i++)
		busy += wants(r, i);
	return busy;
}

size_t spread_add(struct spread_vcpu *v, size_t room, const struct vm_rates *r,
                  u64 weight)
{
	unsigned busy = spread_count(r);
	size_t n = 0;

	for (unsigned i = 0; i < r->cpus && n < room; i++)
		if (wants(r, i))
			add_one(&v[n++], r, i, (double)weight / busy);
	return n;
}

/* Whoever may not, or whose thread has ended, leaves it where it is. */
static void put(pid_t tid, unsigned cpu)
{
	cpu_set_t before, there;

	if (!affinity(tid, &before) || !CPU_ISSET(cpu, &before))
		return;
	CPU_ZERO(&there);
	CPU_SET(cpu, &there);
	if (sched_setaffinity(tid, sizeof(there), &there) == 0 &&
	    sched_setaffinity(tid, sizeof(before), &before) < 0)
		log_warn("daemon", "thread %d stays on processor %u", (int)tid,
		         cpu);
}

void spread_do(const struct spread_vcpu *v, size_t n)
{
	struct spread_step step;
	unsigned from;

	if (!spread_choose(v, n, &step))
		return;
	from = v[step.first].on;
	put(v[step.first].tid, step.to);
	if (step.second != SPREAD_NONE)
		put(v[step.second].tid, from);
}
