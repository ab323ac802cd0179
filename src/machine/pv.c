/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pv - kvmclock: a structure in guest memory that turns TSC readings into
 * nanoseconds.
 *
 *	0 version  8 tsc_timestamp  16 system_time  24 mul  28 shift  29 flags
 *
 * The version is odd while the rest changes. All vCPUs get one reference
 * reading, so that the guest may take their clocks for one (flag bit 0).
 *
 * Hypercall 10 sends an interrupt or NMI to a set of APIC IDs: two words of a
 * bitmap, the ID of its first bit, and what the interrupt command register
 * would be given. It answers how many there are.
 */
#include "machine/pv.h"

#include <time.h>

#include "guest/clock.h"
#include "guest/memory.h"
#include "machine/boot/file.h"
#include "machine/internal.h"
#include "machine/steal.h"

enum {
	MSR_WALL_CLOCK = 0x11,
	MSR_SYSTEM_TIME = 0x12,
	MSR_WALL_CLOCK_NEW = 0x4b564d00,
	MSR_SYSTEM_TIME_NEW = 0x4b564d01,
	MSR_STEAL_TIME = 0x4b564d03,
	CLOCK_SIZE = 32,
	WALL_SIZE = 12,
	FLAG_STABLE = 1 << 0,
};

/* ns = ((tsc << shift) * mul) >> 32, a negative shift going right. */
static void scale(u64 tsc_hz, u32 *mul, s8 *shift)
{
	u64 hz = tsc_hz;
	s8 s = 0;

	while (hz > 2 * NSEC_PER_SEC) {
		hz >>= 1;
		s--;
	}
	while (hz <= NSEC_PER_SEC) {
		hz <<= 1;
		s++;
	}
	/* From the full frequency, so that the bits shifted out count. */
	*mul = (u32)((double)NSEC_PER_SEC * 4294967296.0 /
	             (s < 0 ? (double)tsc_hz / (double)(1u << -s)
	                    : (double)tsc_hz * (double)(1u << s)));
	*shift = s;
}

/* The guest reads this word before and after the rest: an exchange keeps the
 * writes around it in their order. */
static void write_version(struct memory *memory, gpa_t gpa, u32 version)
{
	_Atomic u32 *p = memory_ptr_rw(memory, gpa, sizeof(*p));

	atomic_exchange(p, version);
	memory_written(memory, gpa, sizeof(*p));
}

/* Aligned as the interface demands, and in RAM. */
static bool usable(struct memory *memory, gpa_t gpa, u64 size)
{
	return IS_ALIGNED(gpa, (u64)4) && memory_ptr_rw(memory, gpa, size);
}

/* A kernel that ran the machine before had a clock of its own. */
static u64 pv_clock_ns(const struct machine *m)
{
	return clock_now_ns(m->host.clock) + m->pv_ahead_ns;
}

static void write_clock(struct machine_cpu *cpu)
{
	struct machine *m = cpu->machine;
	gpa_t gpa = cpu->pv.system_time & ~(u64)1;
	u64 now_ns = m->pv_ref_ns;
	u64 tsc = m->pv_ref_tsc + machine_tsc_offset(m, cpu->index);
	u8 clock[CLOCK_SIZE] = { 0 };
	u32 mul;
	s8 shift;

	if (!(cpu->pv.system_time & 1) || !usable(m->memory, gpa, CLOCK_SIZE))
		return;
	scale(m->tsc_hz, &mul, &shift);
	put64(clock + 8, tsc);
	put64(clock + 16, now_ns);
	put32(clock + 24, mul);
	clock[28] = (u8)shift;
	clock[29] = FLAG_STABLE;
	cpu->pv.version += 2;
	write_version(m->memory, gpa, cpu->pv.version - 1);
	memory_write(m->memory, gpa + 4, clock + 4, CLOCK_SIZE - 4);
	write_version(m->memory, gpa, cpu->pv.version);
}

/* What the wall clock said when the machine's own clock stood at 0. */
static void write_wall(struct machine_cpu *cpu)
{
	struct machine *m = cpu->machine;
	gpa_t gpa = cpu->pv.wall_clock;
	u8 wall[WALL_SIZE];
	struct timespec ts;
	u64 ns;

	if (!usable(m->memory, gpa, WALL_SIZE))
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	ns = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec - pv_clock_ns(m);
	put32(wall + 4, (u32)(ns / NSEC_PER_SEC));
	put32(wall + 8, (u32)(ns % NSEC_PER_SEC));
	write_version(m->memory, gpa, 1);
	memory_write(m->memory, gpa + 4, wall + 4, WALL_SIZE - 4);
	write_version(m->memory, gpa, 2);
}

bool pv_msr_read(struct machine_cpu *cpu, u32 msr, u64 *value)
{
	switch (msr) {
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW:
		*value = cpu->pv.system_time;
		return true;
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW:
		*value = cpu->pv.wall_clock;
		return true;
	case MSR_STEAL_TIME:
		*value = cpu->pv.steal_time;
		return true;
	default:
		return false;
	}
}

bool pv_msr_write(struct machine_cpu *cpu, u32 msr, u64 value)
{
	switch (msr) {
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW:
		cpu->pv.system_time = value;
		write_clock(cpu);
		return true;
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW:
		cpu->pv.wall_clock = value;
		write_wall(cpu);
		return true;
	case MSR_STEAL_TIME:
		steal_msr_write(cpu, value);
		return true;
	default:
		return false;
	}
}

enum { HC_SEND_IPI = 10, HC_EINVAL = -22 };
enum { ICR_MODE_FIXED = 0, ICR_MODE_NMI = 4, ICR_NO_DEST = 0xc0800 };

static s64 send_ipi(struct machine *m, const u64 arg[HYPERCALL_ARGS],
                    unsigned bits)
{
	u64 first = arg[2], icr = arg[3];
	unsigned mode = icr >> 8 & 7;
	s64 sent = 0;

	/* A shorthand or logical destination says something else. */
	if (icr & ICR_NO_DEST ||
	    (mode != ICR_MODE_FIXED && mode != ICR_MODE_NMI))
		return HC_EINVAL;
	for (u64 id = first; id - first < 2 * bits; id++) {
		u64 bit = id - first;

		if (id >= m->config.cpus || id < first)
			break;
		if (!(arg[bit / bits] >> bit % bits & 1))
			continue;
		lapic_deliver_msi(m->lapics, 0xfee00000 | id << 12,
		                  (u32)icr & 0x7ff);
		sent++;
	}
	return sent;
}

s64 pv_hypercall(struct machine_cpu *cpu, u64 number,
                 const u64 arg[HYPERCALL_ARGS], bool code64)
{
	if (number == HC_SEND_IPI)
		return send_ipi(cpu->machine, arg, code64 ? 64 : 32);
	return HYPERCALL_UNKNOWN;
}

void pv_refresh(struct machine *m)
{
	m->pv_ref_tsc = host_tsc();
	m->pv_ref_ns = pv_clock_ns(m);
	for (unsigned i = 0; i < m->config.cpus; i++)
		write_clock(&m->cpus[i]);
}
