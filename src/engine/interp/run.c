/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - the run loop: blocks, and what happens between them.
 *
 * Guest faults come back here by longjmp, with cpu->cur naming the operation
 * that failed, and are delivered; a fault on the way comes back the same way.
 */
#include <stdio.h>
#include <string.h>

#include "engine/interp/code.h"
#include "engine/interp/debug.h"
#include "engine/interp/ops.h"
#include "engine/x86/event.h"

/* ---- raising ---- */

static NORETURN void unwind(struct icpu *cpu)
{
	__builtin_longjmp(cpu->env, 1);
}

void icpu_fault(struct icpu *cpu, u8 vector)
{
	cpu->fault = (struct icpu_fault){ .vector = vector };
	unwind(cpu);
}

void icpu_fault_error(struct icpu *cpu, u8 vector, u32 error)
{
	cpu->fault = (struct icpu_fault){
		.vector = vector,
		.has_error = true,
		.error = error,
	};
	unwind(cpu);
}

void icpu_page_fault(struct icpu *cpu, gva_t lin, u32 error)
{
	cpu->cr2 = lin;
	icpu_fault_error(cpu, VEC_PF, error);
}

static void stop(struct icpu *cpu, enum vcpu_exit_reason why, const char *words)
{
	cpu->stopped = true;
	cpu->stop = why;
	cpu->stop_words = words;
}

/* No exception: the run loop sees stopped and leaves. */
enum { FAULT_NONE = 0xff };

void icpu_stop_error(struct icpu *cpu, const char *words)
{
	stop(cpu, EXIT_ERROR, words);
	cpu->fault = (struct icpu_fault){ .vector = FAULT_NONE };
	unwind(cpu);
}

/* ---- delivering ---- */

static void shut_down(struct icpu *cpu, const struct icpu_fault *f)
{
	snprintf(cpu->words, sizeof(cpu->words),
	         "triple fault: exception %u at %#" PRIx64
	         " while delivering %d (CR2 %#" PRIx64 ")",
	         f->vector, cpu->rip, cpu->delivering, cpu->cr2);
	cpu->delivering = -1;
	stop(cpu, EXIT_SHUTDOWN, cpu->words);
}

static void deliver_exception(struct icpu *cpu, struct icpu_fault f)
{
	if (cpu->delivering >= 0 && !event_combine(cpu->delivering, &f)) {
		shut_down(cpu, &f);
		return;
	}
	cpu->stats[STAT_EXCEPTION]++;
	cpu->halted = false; /* a single-step trap after HLT */
	cpu->delivering = f.vector;
	if (f.vector == VEC_DB)
		cpu->dr[7] &= ~BIT(13); /* GD */
	event_deliver(cpu, f.vector, EVENT_EXCEPTION,
	              f.has_error && icpu_protected(cpu), f.error, cpu->rip);
	cpu->delivering = -1;
	cpu->stepped = true;
}

/* RIP and the count of instructions as of the operation that faulted. */
static void rewind_to_fault(struct icpu *cpu)
{
	struct iop *op = cpu->cur;

	cpu->cur = NULL;
	if (!op)
		return;
	cpu->rip = (cpu->pcbase + op->off) & icpu_ip_mask(cpu);
	if (cpu->block)
		cpu->icount -= (u64)(cpu->block->count - op->n);
}

static void take_fault(struct icpu *cpu)
{
	struct icpu_fault f = cpu->fault;

	if (cpu->world_held)
		icpu_world_start(cpu);
	rewind_to_fault(cpu);
	cpu->external = false;
	if (f.vector == FAULT_NONE)
		return;
	deliver_exception(cpu, f);
}

/* ---- between blocks ---- */

static void wake(struct icpu *cpu)
{
	cpu->halted = false;
}

static void take_nmi(struct icpu *cpu)
{
	/* Who posted it may call for attention when it was taken already. */
	if (!atomic_load(&cpu->nmis)) {
		cpu->events.nmi_pending = false;
		return;
	}
	if (cpu->nmi_masked || cpu->shadow) {
		/* While one is served, one more waits and the rest merge. */
		if (cpu->nmi_masked)
			atomic_store(&cpu->nmis, 1);
		cpu->events.nmi_pending = true;
		return;
	}
	atomic_fetch_sub(&cpu->nmis, 1);
	cpu->events.nmi_pending = atomic_load(&cpu->nmis) != 0;
	wake(cpu);
	cpu->stats[STAT_INTERRUPT]++;
	cpu->nmi_masked = true;
	event_deliver(cpu, VEC_NMI, EVENT_INTERRUPT, false, 0, cpu->rip);
}

static void take_interrupt(struct icpu *cpu)
{
	int vector;

	if (!(cpu->sysflags & RFLAGS_IF) || cpu->shadow) {
		cpu->irq_wait = true;
		return;
	}
	if (!cpu->host.irq_pending || !cpu->host.irq_pending(cpu->host.ctx))
		return;
	vector = cpu->host.irq_ack(cpu->host.ctx);
	/* There may be more; look when IF is set again. */
	cpu->irq_wait = true;
	if (vector < 0) {
		icpu_update(cpu);
		return;
	}
	wake(cpu);
	cpu->stats[STAT_INTERRUPT]++;
	event_deliver(cpu, (u8)vector, EVENT_INTERRUPT, false, 0, cpu->rip);
	cpu->stepped = true;
}

/* An exception that a restored state had pending. */
static void take_restored(struct icpu *cpu)
{
	struct cpu_events e = cpu->events;

	if (!e.exception_pending)
		return;
	cpu->events.exception_pending = false;
	if (e.soft_interrupt)
		event_deliver(cpu, e.exception_vector, EVENT_INTN, false, 0,
		              cpu->rip + e.insn_length);
	else if (e.exception_vector >= VEC_FIRST_FREE)
		event_deliver(cpu, e.exception_vector, EVENT_INTERRUPT, false,
		              0, cpu->rip);
	else
		deliver_exception(cpu, (struct icpu_fault){
					   .vector = e.exception_vector,
					   .has_error = e.exception_has_error,
					   .error = e.exception_error,
				       });
}

static void attend(struct icpu *cpu)
{
	u32 bits = atomic_load(&cpu->attention);

	cpu->cur = NULL;
	if (bits & ATTEND_MAIL)
		icpu_read_mail(cpu, true);
	if (bits & ATTEND_STOP) {
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_STOP);
		icpu_leave_guest(cpu);
		icpu_enter_guest(cpu);
	}
	if (bits & ATTEND_KICK) {
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_KICK);
		cpu->stats[STAT_KICK]++;
		stop(cpu, EXIT_KICK, NULL);
		return;
	}
	if (bits & ATTEND_LOCAL) {
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_LOCAL);
		take_restored(cpu);
	}
	if (bits & ATTEND_NMI) {
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_NMI);
		take_nmi(cpu);
	} else if (bits & ATTEND_IRQ) {
		atomic_fetch_and(&cpu->attention, ~(u32)ATTEND_IRQ);
		take_interrupt(cpu);
	}
}

/* ---- one instruction at a time ---- */

static void raise_pending_debug(struct icpu *cpu)
{
	cpu->dr[6] |= cpu->pending_db;
	cpu->pending_db = 0;
	icpu_update(cpu);
	deliver_exception(cpu, (struct icpu_fault){ .vector = VEC_DB });
}

static void step(struct icpu *cpu)
{
	bool trap = cpu->sysflags & RFLAGS_TF;
	bool held = cpu->shadow_ss;
	struct block *b;

	if (cpu->stepping && cpu->stepped) {
		stop(cpu, EXIT_DEBUG, NULL);
		return;
	}
	cpu->cur = NULL;
	if (!cpu->shadow && cpu->pending_db) {
		raise_pending_debug(cpu);
		return;
	}
	cpu->shadow = cpu->shadow_ss = false;
	/* Intel inhibits breakpoints after MOV SS, AMD does not. */
	if ((!held || cpu->amd) && !cpu->resume_at_break &&
	    debug_execute(cpu)) {
		cpu->stepped = false;
		stop(cpu, EXIT_DEBUG, NULL);
		return;
	}
	cpu->resume_at_break = false;
	b = icpu_find_block(cpu);
	cpu->sysflags &= ~(u32)RFLAGS_RF;
	cpu->pcbase = cpu->rip - b->off;
	cpu->block = b;
	cpu->icount += b->count;
	cpu->skip_trap = false;
	b->op[0].fn(cpu, b->op);
	cpu->cur = NULL;
	cpu->stepped = true;
	if (cpu->budget && --cpu->budget == 0)
		stop(cpu, EXIT_KICK, NULL);
	/* MOV SS loses its own single-step trap, whoever waits for it. */
	if (trap && !cpu->skip_trap && !cpu->shadow_ss)
		cpu->pending_db |= BIT(14); /* DR6.BS */
	if (cpu->debug_hit) {
		cpu->debug_hit = false;
		stop(cpu, EXIT_DEBUG, NULL);
	}
	icpu_update(cpu);
	if (cpu->pending_db && !cpu->shadow_ss)
		raise_pending_debug(cpu);
	if (cpu->events.nmi_pending && !cpu->nmi_masked)
		icpu_attend(cpu, ATTEND_NMI);
}

/* ---- the loop ---- */

static void run_blocks(struct icpu *cpu)
{
	struct block *b;

	cpu->link = NULL;
	b = icpu_find_block(cpu);
	for (;;) {
		struct block **link;

		cpu->pcbase = cpu->rip - b->off;
		cpu->block = b;
		cpu->icount += b->count;
		b = b->op[0].fn(cpu, b->op);
		if (unlikely(atomic_load_explicit(&cpu->attention,
		                                  memory_order_relaxed)))
			return;
		if (b)
			continue;
		if (unlikely(cpu->stopped || cpu->halted ||
		             cpu->key & KEY_STEP))
			return;
		link = cpu->link;
		cpu->link = NULL;
		b = icpu_find_block(cpu);
		/* A jump inside a page can go straight there next time. */
		if (link && cpu->block && b->page == cpu->block->page &&
		    !b->crossing && b->key == cpu->key)
			*link = b;
	}
}

static __attribute__((noinline)) void run(struct icpu *cpu)
{
	void *outer[5];
	bool again;

	memcpy(outer, cpu->env, sizeof(outer));
	again = __builtin_setjmp(cpu->env);
	if (again)
		take_fault(cpu);
	while (!cpu->stopped) {
		if (unlikely(atomic_load_explicit(&cpu->attention,
		                                  memory_order_relaxed))) {
			attend(cpu);
			continue;
		}
		if (unlikely(cpu->halted))
			stop(cpu, EXIT_HALT, NULL);
		else if (unlikely(cpu->key & KEY_STEP))
			step(cpu);
		else
			run_blocks(cpu);
	}
	memcpy(cpu->env, outer, sizeof(outer));
}

static void run_until_stop(struct icpu *cpu, struct vcpu_exit *exit)
{
	cpu->stopped = false;
	cpu->cur = NULL;
	cpu->link = NULL;
	icpu_enter_guest(cpu);
	run(cpu);
	icpu_leave_guest(cpu);
	cpu->block = NULL;
	*exit = (struct vcpu_exit){
		.reason = cpu->stop,
		.words = cpu->stop_words,
	};
	if (cpu->stop == EXIT_DEBUG) {
		exit->debug.step = cpu->stepped && cpu->stepping;
		exit->debug.address = cpu->debug_address;
		cpu->resume_at_break = true;
	}
	if (cpu->stop == EXIT_HALT)
		cpu->stats[STAT_HALT]++;
}

void icpu_run(struct icpu *cpu, struct vcpu_exit *exit)
{
	cpu->stepped = false;
	icpu_update(cpu);
	icpu_attend(cpu, ATTEND_IRQ);
	run_until_stop(cpu, exit);
}

bool icpu_step(struct icpu *cpu, u64 n, struct vcpu_exit *exit)
{
	bool spent;

	cpu->budget = n;
	icpu_update(cpu);
	run_until_stop(cpu, exit);
	spent = cpu->budget == 0 && exit->reason == EXIT_KICK;
	cpu->budget = 0;
	icpu_update(cpu);
	return spent;
}
