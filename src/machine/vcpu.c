/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu - a thread per vCPU: it runs, halts, waits for its SIPI, parks.
 *
 * Other threads set bits in events and then look whether the thread sleeps;
 * the thread says that it sleeps and then looks at events. Both orders are
 * sequentially consistent, so one of the two always notices.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "machine/gdb.h"
#include "machine/internal.h"
#include "machine/steal.h"

void cpu_event(struct machine_cpu *cpu, u32 event)
{
	const struct engine_type *type = cpu->machine->engine_type;

	atomic_fetch_or(&cpu->events, event);
	if (event & ~(u32)CPU_EVENT_IRQ)
		type->vcpu_kick(cpu->vcpu);
	else
		type->vcpu_attention(cpu->vcpu);
	if (atomic_load(&cpu->sleeping)) {
		pthread_mutex_lock(&cpu->lock);
		pthread_cond_broadcast(&cpu->wake);
		pthread_mutex_unlock(&cpu->lock);
	}
}

static bool take(struct machine_cpu *cpu, u32 event)
{
	return atomic_fetch_and(&cpu->events, ~event) & event;
}

/* Until something comes, or for so long; 0: however long. */
static void sleep_a_while(struct machine_cpu *cpu, u64 most_ns)
{
	u64 end = loop_now_ns() + most_ns;
	const struct timespec until = {
		.tv_sec = (time_t)(end / NSEC_PER_SEC),
		.tv_nsec = (long)(end % NSEC_PER_SEC),
	};
	int rc = 0;

	pthread_mutex_lock(&cpu->lock);
	atomic_store(&cpu->sleeping, true);
	steal_sleep_begins(cpu);
	while (rc != ETIMEDOUT && !atomic_load(&cpu->events))
		rc = most_ns ? pthread_cond_timedwait(&cpu->wake, &cpu->lock,
		                                      &until)
		             : pthread_cond_wait(&cpu->wake, &cpu->lock);
	steal_sleep_ends(cpu);
	atomic_store(&cpu->sleeping, false);
	pthread_mutex_unlock(&cpu->lock);
}

/* When there is something to hand back, if it sleeps on. */
static u64 rest(struct machine_cpu *cpu)
{
	const struct engine_type *type = cpu->machine->engine_type;
	u64 when_ns = type->vcpu_rest ? type->vcpu_rest(cpu->vcpu) : 0;

	if (cpu->has_some && !when_ns)
		atomic_store(&cpu->machine->handed_back, true);
	cpu->has_some = when_ns != 0;
	return when_ns;
}

/* What others would have to be woken for. */
static bool do_loan(struct machine_cpu *cpu)
{
	struct idle_hub *hub = cpu->machine->host.idle;
	u64 began;

	if (!idle_has_loans(hub))
		return false;
	began = steal_wait_begins(cpu);
	idle_do_loan(hub);
	steal_wait_ends(cpu, began);
	return true;
}

static void wait_for_event(struct machine_cpu *cpu)
{
	while (!atomic_load(&cpu->events))
		if (!do_loan(cpu))
			sleep_a_while(cpu, rest(cpu));
}

static void park(struct machine_cpu *cpu)
{
	pthread_mutex_lock(&cpu->lock);
	cpu->parked = true;
	pthread_cond_broadcast(&cpu->wake);
	steal_sleep_begins(cpu);
	while ((atomic_load(&cpu->events) &
	        (CPU_EVENT_STOP | CPU_EVENT_QUIT)) == CPU_EVENT_STOP)
		pthread_cond_wait(&cpu->wake, &cpu->lock);
	steal_sleep_ends(cpu);
	cpu->parked = false;
	pthread_mutex_unlock(&cpu->lock);
}

static void cpu_fail(struct machine_cpu *cpu, const struct error *err)
{
	machine_end(cpu->machine, END_ENGINE_ERROR, "engine-error",
	            (int)cpu->index, "vCPU %u: %s", cpu->index, err->text);
}

/* Intel SDM vol. 3 8.4: INIT leaves an application processor waiting. */
static void do_init(struct machine_cpu *cpu)
{
	const struct engine_type *type = cpu->machine->engine_type;
	struct error err = { 0 };
	struct cpu_state state;

	type->vcpu_get(cpu->vcpu, &state);
	cpu_state_init(&state, cpu->machine->cpuid_1_eax);
	state.mp_state = cpu->index ? CPU_WAIT_SIPI : CPU_RUNNING;
	if (type->vcpu_set(cpu->vcpu, &state, &err) < 0)
		cpu_fail(cpu, &err);
	if (cpu->lapic)
		lapic_init_reset(cpu->lapic);
	cpu->activity = cpu->index ? CPU_WAITS_SIPI : CPU_ACTIVE;
}

static void do_sipi(struct machine_cpu *cpu)
{
	const struct engine_type *type = cpu->machine->engine_type;
	struct error err = { 0 };
	struct cpu_state state;

	if (cpu->activity != CPU_WAITS_SIPI)
		return;
	type->vcpu_get(cpu->vcpu, &state);
	cpu_state_sipi(&state, cpu->sipi_vector);
	state.mp_state = CPU_RUNNING;
	if (type->vcpu_set(cpu->vcpu, &state, &err) < 0)
		cpu_fail(cpu, &err);
	cpu->activity = CPU_ACTIVE;
}

/* Does what has come end the HLT? A maskable interrupt needs IF. */
static bool halt_ends(struct machine_cpu *cpu)
{
	struct cpu_state state;

	if (take(cpu, CPU_EVENT_NMI))
		return true;
	take(cpu, CPU_EVENT_IRQ);
	if (!cpu->lapic)
		return true;
	if (!lapic_wakes(cpu->lapic))
		return false;
	cpu->machine->engine_type->vcpu_get(cpu->vcpu, &state);
	return state.rflags & RFLAGS_IF;
}

static void handle_exit(struct machine_cpu *cpu, const struct vcpu_exit *exit)
{
	struct machine *m = cpu->machine;

	switch (exit->reason) {
	case EXIT_KICK:
		break;
	case EXIT_HALT:
		cpu->activity = CPU_HALT;
		idle_hub_run(m->host.idle);
		break;
	case EXIT_SHUTDOWN:
		machine_end(m, END_TRIPLE_FAULT, "triple-fault",
		            (int)cpu->index,
		            "vCPU %u stopped in a triple "
		            "fault%s%s",
		            cpu->index, exit->words ? ": " : "",
		            exit->words ? exit->words : "");
		break;
	case EXIT_DEBUG:
		gdb_stopped(m->gdb, cpu, exit);
		break;
	case EXIT_RESET:
		machine_reset(m, "the guest asked for it");
		break;
	case EXIT_ERROR:
		machine_end(m, END_ENGINE_ERROR, "engine-error",
		            (int)cpu->index, "vCPU %u: %s", cpu->index,
		            exit->words ? exit->words : "the engine failed");
		break;
	}
}

static void run_once(struct machine_cpu *cpu)
{
	struct vcpu_exit exit = { 0 };

	take(cpu, CPU_EVENT_IRQ | CPU_EVENT_NMI);
	cpu->machine->engine_type->vcpu_run(cpu->vcpu, &exit);
	handle_exit(cpu, &exit);
}

static void *cpu_thread(void *ctx)
{
	struct machine_cpu *cpu = ctx;
	char name[16];

	snprintf(name, sizeof(name), "vcpu-%u", cpu->index);
	pthread_setname_np(pthread_self(), name);
	steal_thread_began(cpu);
	for (;;) {
		u32 events = atomic_load(&cpu->events);

		if (events & CPU_EVENT_QUIT)
			return NULL;
		if (events & CPU_EVENT_STOP) {
			park(cpu);
		} else if (!cpu_is_there(cpu)) {
			take(cpu, ~(u32)(CPU_EVENT_STOP | CPU_EVENT_QUIT));
			wait_for_event(cpu);
		} else if (take(cpu, CPU_EVENT_INIT)) {
			do_init(cpu);
		} else if (take(cpu, CPU_EVENT_SIPI)) {
			do_sipi(cpu);
		} else if (cpu->activity == CPU_HALT && halt_ends(cpu)) {
			cpu->activity = CPU_ACTIVE;
		} else if (cpu->activity == CPU_ACTIVE) {
			run_once(cpu);
		} else {
			if (cpu->activity == CPU_WAITS_SIPI)
				take(cpu, CPU_EVENT_IRQ | CPU_EVENT_NMI);
			wait_for_event(cpu);
		}
	}
}

/* ---- the loop's thread ---- */

/* It counts by the clock of loop_now_ns(). */
static void init_wake(pthread_cond_t *wake)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(wake, &attr);
	pthread_condattr_destroy(&attr);
}

int cpus_create(struct machine *m, struct error *err)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];
		struct vcpu_host host = machine_vcpu_host;
		int rc;

		cpu->machine = m;
		cpu->index = i;
		cpu->events = CPU_EVENT_STOP;
		pthread_mutex_init(&cpu->lock, NULL);
		init_wake(&cpu->wake);
		if (m->lapics)
			cpu->lapic = lapic_set_cpu(m->lapics, i);
		host.ctx = cpu;
		rc = m->engine_type->vcpu_create(m->engine, i, &host,
		                                 &cpu->vcpu, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void cpus_destroy(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		if (!cpu->machine)
			continue;
		if (cpu->vcpu)
			m->engine_type->vcpu_destroy(cpu->vcpu);
		pthread_cond_destroy(&cpu->wake);
		pthread_mutex_destroy(&cpu->lock);
	}
}

/* Signals meant for the process go to the main thread. */
int cpus_start_threads(struct machine *m, struct error *err)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGSYS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned i = 0; rc == 0 && i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		rc = pthread_create(&cpu->thread, NULL, cpu_thread, cpu);
		if (rc != 0)
			break;
		cpu->has_thread = true;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0)
		return error_set(err, -rc,
		                 "cannot start a thread for a vCPU: "
		                 "%s",
		                 strerror(rc));
	return 0;
}

void cpus_stop(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_event(&m->cpus[i], CPU_EVENT_STOP);
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		if (!cpu->has_thread)
			continue;
		pthread_mutex_lock(&cpu->lock);
		while (!cpu->parked)
			pthread_cond_wait(&cpu->wake, &cpu->lock);
		pthread_mutex_unlock(&cpu->lock);
	}
}

void cpus_go(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		if (cpu->frozen)
			continue;
		pthread_mutex_lock(&cpu->lock);
		atomic_fetch_and(&cpu->events, ~(u32)CPU_EVENT_STOP);
		pthread_cond_broadcast(&cpu->wake);
		pthread_mutex_unlock(&cpu->lock);
	}
}

void cpus_quit(struct machine *m)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		if (!cpu->has_thread)
			continue;
		pthread_mutex_lock(&cpu->lock);
		atomic_fetch_or(&cpu->events, CPU_EVENT_QUIT);
		pthread_cond_broadcast(&cpu->wake);
		pthread_mutex_unlock(&cpu->lock);
		m->engine_type->vcpu_kick(cpu->vcpu);
		pthread_join(cpu->thread, NULL);
		cpu->has_thread = false;
	}
}

int cpu_reset(struct machine_cpu *cpu, const struct cpu_state *state,
              struct error *err)
{
	if (cpu->lapic)
		lapic_reset(cpu->lapic);
	memset(&cpu->pv, 0, sizeof(cpu->pv));
	atomic_fetch_and(&cpu->events, CPU_EVENT_STOP | CPU_EVENT_QUIT);
	/* In the kernel, what waits for a SIPI waits in vcpu_run. */
	cpu->activity = cpu->index && cpu->lapic ? CPU_WAITS_SIPI : CPU_ACTIVE;
	return cpu->machine->engine_type->vcpu_set(cpu->vcpu, state, err);
}

int cpus_reset(struct machine *m, const struct cpu_state *bsp,
               struct error *err)
{
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct cpu_state state;
		int rc;

		if (i == 0)
			state = *bsp;
		else
			cpu_state_reset(&state, false, m->cpuid_1_eax);
		rc = cpu_reset(&m->cpus[i], &state, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
