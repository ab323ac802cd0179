/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tsc - how fast the host's time stamp counter runs, and what guests read.
 */
#include <cpuid.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "machine/internal.h"

enum { CALIBRATE_MS = 20, CHECK_MS = 1, TRIES = 5 };

u64 host_tsc(void)
{
	return __rdtsc();
}

/* Intel SDM vol. 2A CPUID leaf 0x15: crystal frequency and ratio. */
static u64 from_leaf_15(void)
{
	u32 a, b, c, d;

	if (!__get_cpuid_count(0x15, 0, &a, &b, &c, &d) || !a || !b || !c)
		return 0;
	return (u64)c * b / a;
}

/* Hypervisors say kHz in leaf 0x40000010. */
static u64 from_hypervisor(void)
{
	u32 a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 31))
		return 0;
	__cpuid(0x40000000, a, b, c, d);
	if (a < 0x40000010)
		return 0;
	__cpuid(0x40000010, a, b, c, d);
	return (u64)a * 1000;
}

/* Both clocks at one moment: the tightest of a few readings. */
static void read_both(u64 *tsc, u64 *ns)
{
	u64 best = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		u64 before = host_tsc();
		u64 now = loop_now_ns();
		u64 after = host_tsc();

		if (after - before < best) {
			best = after - before;
			*tsc = before + best / 2;
			*ns = now;
		}
	}
}

static u64 calibrate(unsigned ms)
{
	struct timespec wait = { 0, (long)ms * (long)NSEC_PER_MSEC };
	u64 tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;

	read_both(&tsc0, &ns0);
	nanosleep(&wait, NULL);
	read_both(&tsc1, &ns1);
	return (u64)((double)(tsc1 - tsc0) * (double)NSEC_PER_SEC /
	             (double)(ns1 - ns0));
}

static u64 known_frequency(void)
{
	u64 hz = from_leaf_15();

	return hz ? hz : from_hypervisor();
}

u64 tsc_frequency(void)
{
	u64 hz = known_frequency();

	return hz ? hz : calibrate(CALIBRATE_MS);
}

static bool near(u64 a, u64 b)
{
	return (a > b ? a - b : b - a) <= b / TSC_TOLERANCE;
}

u64 tsc_frequency_near(u64 hz)
{
	u64 here = known_frequency();

	/* A glance tells whether it is the same; only a doubt takes time. */
	if (!here && near(calibrate(CHECK_MS), hz))
		return hz;
	if (!here)
		here = calibrate(CALIBRATE_MS);
	return near(here, hz) ? hz : here;
}

u64 machine_tsc_offset(struct machine *m, unsigned cpu)
{
	const struct engine_type *type = m->engine_type;

	if (type->vcpu_tsc_offset_get)
		return type->vcpu_tsc_offset_get(m->cpus[cpu].vcpu);
	return m->tsc_offset;
}

u64 machine_guest_tsc(struct machine *m, unsigned cpu)
{
	u64 host = atomic_load(&m->tsc_stands) ? m->stopped_tsc : host_tsc();

	return host + machine_tsc_offset(m, cpu);
}
