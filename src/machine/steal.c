/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steal - wall time less CPU time less the time asleep, looked at five times a
 * second as long as a guest has asked for it. Nothing is added to the way of a
 * vCPU that runs.
 *
 *	0 steal, nanoseconds  8 version, odd while the rest changes  12 flags
 *	16 preempted
 */
#include "machine/steal.h"

#include <time.h>

#include "guest/memory.h"
#include "machine/internal.h"

enum { PERIOD_MS = 200, RECORD_SIZE = 64, PREEMPTED = 16 };
#define ENABLED BIT(0)
#define ADDRESS_MASK (~(u64)(RECORD_SIZE - 1))

static u64 thread_cpu_ns(pthread_t thread)
{
	struct timespec ts;
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) ||
	    clock_gettime(clock, &ts) < 0)
		return 0;
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

/* The order of the two stores lets steal_times(), which reads them the other
 * way round, find too much sleep for a moment, never too little. */
void steal_sleep_begins(struct machine_cpu *cpu)
{
	atomic_store(&cpu->asleep_at, loop_now_ns());
}

void steal_sleep_ends(struct machine_cpu *cpu)
{
	u64 since = loop_now_ns() - atomic_load(&cpu->asleep_at);

	atomic_fetch_add(&cpu->asleep_ns, since);
	atomic_store(&cpu->asleep_at, 0);
}

void steal_thread_began(struct machine_cpu *cpu)
{
	atomic_store(&cpu->began_ns, loop_now_ns());
}

u64 steal_wait_begins(struct machine_cpu *cpu)
{
	steal_sleep_begins(cpu);
	return thread_cpu_ns(cpu->thread);
}

void steal_wait_ends(struct machine_cpu *cpu, u64 began)
{
	u64 ran = thread_cpu_ns(cpu->thread) - began;

	steal_sleep_ends(cpu);
	atomic_fetch_sub(&cpu->asleep_ns, ran);
}

void steal_times(struct machine_cpu *cpu, struct cpu_times *t)
{
	u64 began = atomic_load(&cpu->began_ns);
	u64 now = loop_now_ns(), at = atomic_load(&cpu->asleep_at), spent;

	*t = (struct cpu_times){ .steal_ns = cpu->steal_ns };
	if (!cpu->has_thread || !began)
		return;
	t->asleep_ns = atomic_load(&cpu->asleep_ns);
	if (at && at < now)
		t->asleep_ns += now - at;
	t->run_ns = thread_cpu_ns(cpu->thread);
	spent = t->asleep_ns + t->run_ns;
	/* Readings of three clocks a little apart: it never runs backwards. */
	if (now - began > spent && now - began - spent > cpu->steal_ns)
		cpu->steal_ns = now - began - spent;
	t->steal_ns = cpu->steal_ns;
}

/* The guest reads the version before and after the rest. */
static void put_version(struct memory *memory, gpa_t gpa, u32 version)
{
	_Atomic u32 *p = memory_ptr_rw(memory, gpa + 8, sizeof(*p));

	if (!p)
		return;
	atomic_exchange(p, version);
	memory_written(memory, gpa + 8, sizeof(*p));
}

static void tell(struct machine_cpu *cpu)
{
	struct memory *memory = cpu->machine->memory;
	u64 msr = atomic_load(&cpu->pv.steal_time);
	struct cpu_times t;

	steal_times(cpu, &t);
	if (!(msr & ENABLED))
		return;
	cpu->pv.steal_version += 2;
	put_version(memory, msr & ADDRESS_MASK, cpu->pv.steal_version - 1);
	memory_write(memory, msr & ADDRESS_MASK, &t.steal_ns,
	             sizeof(t.steal_ns));
	put_version(memory, msr & ADDRESS_MASK, cpu->pv.steal_version);
}

static bool anyone_asked(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++)
		if (atomic_load(&m->cpus[i].pv.steal_time) & ENABLED)
			return true;
	return false;
}

static void due(void *ctx)
{
	struct machine *m = ctx;

	if (!anyone_asked(m))
		return;
	/* One that stands still is not told anything: its memory may be under
	 * way to a file. */
	for (unsigned i = 0; m->holds == 0 && i < m->config.cpus; i++)
		tell(&m->cpus[i]);
	loop_timer_arm(&m->steal, loop_now_ns() + PERIOD_MS * NSEC_PER_MSEC);
}

void steal_init(struct machine *m)
{
	loop_timer_init(&m->steal, m->loop, due, m);
}

void steal_msr_write(struct machine_cpu *cpu, u64 value)
{
	atomic_store(&cpu->pv.steal_time, value);
	if (value & ENABLED)
		loop_post(cpu->machine->loop, due, cpu->machine);
}

/* A kernel marks what it has put to sleep; here nobody takes that back. */
static void clear_preempted(struct machine_cpu *cpu)
{
	u64 msr = atomic_load(&cpu->pv.steal_time);
	const u8 no = 0;

	if (msr & ENABLED)
		memory_write(cpu->machine->memory,
		             (msr & ADDRESS_MASK) + PREEMPTED, &no, sizeof(no));
}

void steal_restored(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++)
		clear_preempted(&m->cpus[i]);
	due(m);
}
