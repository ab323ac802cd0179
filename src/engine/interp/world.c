/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.c - vCPUs and each other: stopping them all, and their mail.
 *
 * icpu.running is the key to both. A vCPU sets it before it touches guest
 * memory or decoded code and then looks for requests; who makes a request
 * posts it first and then looks at running. Both sides are sequentially
 * consistent, so one of the two always sees the other.
 */
#include <sched.h>

#include "engine/interp/code.h"
#include "engine/interp/icpu.h"
#include "engine/interp/tlb.h"

void icpu_attend(struct icpu *cpu, u32 bits)
{
	atomic_fetch_or(&cpu->attention, bits);
}

/* One can be in service, and one more wait: what processors latch. */
void icpu_post_nmi(struct icpu *cpu)
{
	u32 n = atomic_load(&cpu->nmis);

	while (n < 2 && !atomic_compare_exchange_weak(&cpu->nmis, &n, n + 1))
		;
	icpu_attend(cpu, ATTEND_NMI);
}

void icpu_enter_guest(struct icpu *cpu)
{
	for (;;) {
		atomic_store(&cpu->running, 1);
		if (likely(!atomic_load(&cpu->sys->stopping)))
			break;
		if (cpu->world_held)
			break;
		atomic_store(&cpu->running, 0);
		pthread_mutex_lock(&cpu->sys->world_lock);
		pthread_mutex_unlock(&cpu->sys->world_lock);
	}
	if (unlikely(atomic_load(&cpu->attention) & ATTEND_MAIL))
		icpu_read_mail(cpu, false);
}

void icpu_leave_guest(struct icpu *cpu)
{
	atomic_store(&cpu->running, 0);
}

void icpu_world_stop(struct icpu *cpu)
{
	struct isystem *sys = cpu->sys;

	icpu_leave_guest(cpu);
	pthread_mutex_lock(&sys->world_lock);
	atomic_store(&sys->stopping, true);
	for (unsigned i = 0; i < sys->cpus; i++) {
		struct icpu *other = sys->cpu[i];

		if (!other || other == cpu)
			continue;
		icpu_attend(other, ATTEND_STOP);
		while (atomic_load(&other->running))
			sched_yield();
	}
	cpu->world_held = true;
	icpu_enter_guest(cpu);
}

void icpu_world_start(struct icpu *cpu)
{
	cpu->world_held = false;
	atomic_store(&cpu->sys->stopping, false);
	pthread_mutex_unlock(&cpu->sys->world_lock);
}

void icpu_post_page(struct icpu *cpu, u8 *host)
{
	struct icpu_mail *m = &cpu->mail;

	pthread_mutex_lock(&m->lock);
	if (m->count < ARRAY_SIZE(m->page))
		m->page[m->count++] = host;
	else
		m->flush_code = true;
	pthread_mutex_unlock(&m->lock);
	icpu_attend(cpu, ATTEND_MAIL);
}

static u64 post_untag(struct icpu *cpu, u8 *host)
{
	struct icpu_mail *m = &cpu->mail;
	u64 ticket;

	pthread_mutex_lock(&m->lock);
	if (host && m->untag_count < ARRAY_SIZE(m->untag))
		m->untag[m->untag_count++] = host;
	else
		m->write_tags = true;
	ticket = ++m->posted;
	pthread_mutex_unlock(&m->lock);
	icpu_attend(cpu, ATTEND_MAIL);
	return ticket;
}

static bool untagged(struct icpu *cpu, u64 ticket)
{
	bool done;

	if (!atomic_load(&cpu->running))
		return true;
	pthread_mutex_lock(&cpu->mail.lock);
	done = cpu->mail.done >= ticket;
	pthread_mutex_unlock(&cpu->mail.lock);
	return done;
}

void icpu_untag_others(struct isystem *sys, struct icpu *cpu, u8 *host)
{
	u64 ticket[ISYSTEM_CPUS] = { 0 };

	if (sys->cpus == 1 && cpu)
		return;
	/* Two that wait on each other must not hold each other up. */
	if (cpu)
		icpu_leave_guest(cpu);
	for (unsigned i = 0; i < sys->cpus; i++)
		if (sys->cpu[i] && sys->cpu[i] != cpu)
			ticket[i] = post_untag(sys->cpu[i], host);
	for (unsigned i = 0; i < sys->cpus; i++)
		if (sys->cpu[i] && sys->cpu[i] != cpu)
			while (!untagged(sys->cpu[i], ticket[i]))
				sched_yield();
	if (cpu)
		icpu_enter_guest(cpu);
}

void icpu_read_mail(struct icpu *cpu, bool between)
{
	struct icpu_mail *m = &cpu->mail;
	bool flush;

	pthread_mutex_lock(&m->lock);
	for (u32 i = 0; i < m->count; i++)
		icpu_kill_page(cpu, m->page[i]);
	m->count = 0;
	if (m->write_tags)
		icpu_tlb_drop_writes(cpu, NULL);
	else
		for (u32 i = 0; i < m->untag_count; i++)
			icpu_tlb_drop_writes(cpu, m->untag[i]);
	m->write_tags = false;
	m->untag_count = 0;
	m->done = m->posted;
	flush = m->flush_code && between;
	if (flush)
		m->flush_code = false;
	if (between)
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_MAIL);
	pthread_mutex_unlock(&m->lock);
	if (flush)
		code_cache_flush(cpu);
}
