/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic_timer - the local APIC's timer, Intel SDM vol. 3 10.5.4.
 *
 *	LVT timer   mode (one-shot, periodic, TSC deadline), vector, mask
 *	initial     writing starts the count; 0 stops it
 *	current     counts down at 1 GHz over the divisor
 *	divide      1, 2, 4 ... 128
 *
 * The count is a function of the machine's clock; only its end needs a host
 * timer. Guests move their next event all the time, mostly to later: the host
 * timer is left alone then, and looks again when it comes.
 */
#include "devices/chips/lapic_regs.h"

#include "devices/chips/scale.h"

/* The bus clock is 1 GHz: a tick is a nanosecond, as in the kernel's irqchip,
 * so that a machine may move there while it counts. */

/* A guest may ask for a period of nanoseconds. It gets its interrupts, but no
 * more often than this costs the host nothing much. */
enum { PERIOD_MIN_NS = 100000 };

static u32 divisor_shift(const struct lapic *l)
{
	u32 divide = lapic_reg(l, REG_DIVIDE);
	u32 code = (divide & 3) | (divide >> 1 & 4);

	return (code + 1) & 7;
}

static u64 count_ns(const struct lapic *l, u32 count)
{
	return (u64)count << divisor_shift(l);
}

static u32 timer_mode(const struct lapic *l)
{
	return lapic_reg(l, REG_LVT_TIMER) & LVT_TIMER_MODE;
}

static u64 timer_now(const struct lapic *l)
{
	return clock_now_ns(l->set->config.clock);
}

/* Be called at due_ns or before. Masked, the timer runs out in silence: it is
 * brought up to date when the guest looks or unmasks it. */
static void host_arm(struct lapic *l, u64 due_ns)
{
	if (lapic_reg(l, REG_LVT_TIMER) & LVT_MASKED)
		return;
	if (l->timer_armed_ns != 0 && l->timer_armed_ns <= due_ns)
		return;
	l->timer_armed_ns = due_ns;
	clock_timer_arm(&l->timer, due_ns);
}

/* Machine time at which the guest's TSC reaches its deadline. */
static u64 deadline_due(const struct lapic *l, u64 now)
{
	const struct lapic_set *set = l->set;
	u64 tsc = set->host.guest_tsc(set->host.ctx, l->cpu);

	if (tsc >= l->deadline)
		return now;
	return add_saturating(
	    now, scale_up(l->deadline - tsc, NSEC_PER_SEC, set->config.tsc_hz));
}

static void fire_deadline(struct lapic *l)
{
	l->deadline = 0; /* SDM 10.5.4.1: disarmed when it fires */
	lapic_deliver_lvt(l, REG_LVT_TIMER);
}

static void fire_count(struct lapic *l, u64 now)
{
	u64 period = count_ns(l, lapic_reg(l, REG_INITIAL_COUNT));

	if (timer_mode(l) == LVT_TIMER_PERIODIC && period != 0) {
		u64 missed = (now - l->timer_due_ns) / period;

		/* One interrupt, however many periods have gone by. */
		l->timer_start_ns = l->timer_due_ns + missed * period;
		l->timer_due_ns = l->timer_start_ns + period;
		host_arm(l, MAX(l->timer_due_ns, now + PERIOD_MIN_NS));
	} else {
		l->timer_due_ns = 0;
	}
	lapic_deliver_lvt(l, REG_LVT_TIMER);
}

/* Fire what is due; arm for what is not. */
static void timer_check(struct lapic *l)
{
	u64 now = timer_now(l);

	if (l->deadline != 0) {
		u64 due = deadline_due(l, now);

		if (due <= now)
			fire_deadline(l);
		else
			host_arm(l, due);
	}
	if (l->timer_due_ns != 0) {
		if (l->timer_due_ns <= now)
			fire_count(l, now);
		else
			host_arm(l, l->timer_due_ns);
	}
}

static void timer_expired(void *ctx)
{
	struct lapic *l = ctx;

	l->timer_armed_ns = 0;
	timer_check(l);
}

void lapic_timer_init(struct lapic *l)
{
	ASSERT(pthread_mutex_init(&l->timer_lock, NULL) == 0);
	clock_timer_init(&l->timer, l->set->config.clock, &l->timer_lock,
	                 timer_expired, l);
}

void lapic_timer_fini(struct lapic *l)
{
	clock_timer_fini(&l->timer);
	pthread_mutex_destroy(&l->timer_lock);
}

static void stop_locked(struct lapic *l)
{
	l->timer_due_ns = 0;
	l->deadline = 0;
}

void lapic_timer_stop(struct lapic *l)
{
	pthread_mutex_lock(&l->timer_lock);
	stop_locked(l);
	l->timer_armed_ns = 0;
	clock_timer_cancel(&l->timer);
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_timer_set_lvt(struct lapic *l, u32 lvt)
{
	u32 old;

	pthread_mutex_lock(&l->timer_lock);
	timer_check(l); /* what ran out under the old mask and mode */
	old = timer_mode(l);
	lapic_reg_set(l, REG_LVT_TIMER, lvt);
	/* SDM 10.5.4.1: changing to or from TSC-deadline mode disarms. */
	if ((old ^ lvt) & LVT_TIMER_DEADLINE)
		stop_locked(l);
	timer_check(l);
	pthread_mutex_unlock(&l->timer_lock);
}

static void start_count(struct lapic *l, u32 count)
{
	l->timer_start_ns = timer_now(l);
	l->timer_due_ns =
	    count == 0 ? 0 : l->timer_start_ns + count_ns(l, count);
	timer_check(l);
}

void lapic_timer_set_initial(struct lapic *l, u32 count)
{
	/* SDM 10.5.4.1: in TSC-deadline mode, writes are ignored. */
	pthread_mutex_lock(&l->timer_lock);
	if (!(timer_mode(l) & LVT_TIMER_DEADLINE)) {
		lapic_reg_set(l, REG_INITIAL_COUNT, count);
		start_count(l, count);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

static u32 current_locked(struct lapic *l)
{
	u64 now = timer_now(l);
	u64 period;

	if (l->timer_due_ns == 0)
		return 0;
	if (now < l->timer_due_ns)
		return (u32)((l->timer_due_ns - now) >> divisor_shift(l));
	/* Reached, but the loop has not fired it yet. */
	period = count_ns(l, lapic_reg(l, REG_INITIAL_COUNT));
	if (timer_mode(l) != LVT_TIMER_PERIODIC || period == 0)
		return 0;
	return (u32)((period - (now - l->timer_due_ns) % period) >>
	             divisor_shift(l));
}

u32 lapic_timer_current(struct lapic *l)
{
	u32 count;

	pthread_mutex_lock(&l->timer_lock);
	count = current_locked(l);
	pthread_mutex_unlock(&l->timer_lock);
	return count;
}

void lapic_timer_set_divide(struct lapic *l, u32 divide)
{
	u32 current;

	pthread_mutex_lock(&l->timer_lock);
	current = current_locked(l);
	lapic_reg_set(l, REG_DIVIDE, divide);
	if (current != 0) {
		/* The rest of the count goes on at the new rate. */
		l->timer_due_ns = timer_now(l) + count_ns(l, current);
		timer_check(l);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

u64 lapic_timer_deadline(struct lapic *l)
{
	u64 deadline;

	pthread_mutex_lock(&l->timer_lock);
	timer_check(l);
	deadline = l->deadline;
	pthread_mutex_unlock(&l->timer_lock);
	return deadline;
}

void lapic_timer_set_deadline(struct lapic *l, u64 deadline)
{
	pthread_mutex_lock(&l->timer_lock);
	if (timer_mode(l) == LVT_TIMER_DEADLINE) {
		l->deadline = deadline;
		timer_check(l);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_tsc_changed(struct lapic *l)
{
	pthread_mutex_lock(&l->timer_lock);
	if (l->deadline != 0)
		timer_check(l);
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_timer_resume(struct lapic *l, u32 current, u64 deadline)
{
	pthread_mutex_lock(&l->timer_lock);
	stop_locked(l);
	/* A count that comes again stands at zero for a moment only: it was
	 * just reached, and nobody has been told. */
	if (current == 0 && timer_mode(l) == LVT_TIMER_PERIODIC &&
	    lapic_reg(l, REG_INITIAL_COUNT) != 0)
		current = 1;
	if (timer_mode(l) == LVT_TIMER_DEADLINE)
		l->deadline = deadline;
	else if (current != 0)
		start_count(l, current);
	timer_check(l);
	pthread_mutex_unlock(&l->timer_lock);
}
