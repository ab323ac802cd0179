/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm.h - private to this engine: its objects, and what its files share.
 *
 * Linux Documentation/virt/kvm/api.rst is the specification; "api.rst 4.35"
 * in a comment means its section.
 */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/types.h"
#include "engine/engine.h"
#include "engine/kvm/kvm_engine.h"

struct error;

enum {
	KVM_CPUID_MAX = 256,
	/* GSIs 0-23 are the IOAPIC's pins; above, message routes of irqfds. */
	KVM_PINS = 24,
	KVM_ROUTES_MAX = 1024,
};

struct engine {
	int kvm;
	int vm;
	size_t run_size; /* of the area shared with the kernel for a vCPU */
	struct memory *memory;           /* borrowed */
	const struct cpuid_model *cpuid; /* borrowed */
	unsigned cpus;

	bool has_sregs2;
	u32 debug_flags;         /* KVM_GUESTDBG_* the kernel knows */
	u64 msrs;                /* bit n: it knows kvm_msrs[n] */
	struct kvm_cpuid2 *host; /* what it can virtualize */

	struct vcpu **vcpus; /* by index; borrowed, for the irqchip's reset */

	struct kvm_irqchip chips[KVM_NR_IRQCHIPS]; /* as at power-on */
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock; /* where it stopped */
	bool clock_stopped;

	pthread_mutex_t routes_lock;
	struct kvm_irq_routing *routes; /* the whole table, as set */
	u8 route_used[KVM_ROUTES_MAX];  /* message routes, by GSI - KVM_PINS */
};

struct vcpu {
	struct engine *engine; /* borrowed */
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with the kernel, run_size bytes */
	struct vcpu_host host;

	_Atomic pid_t tid; /* of the thread inside vcpu_run, or 0 */
	pid_t unblocked;   /* the thread whose signal mask is right */
	atomic_bool kicked;
	atomic_bool nmi_wanted;

	/* What the last get read: a set that gives it back writes none. */
	u64 tsc_got;
	bool tsc_known;
	u64 apic_base; /* at power-on */
	struct kvm_lapic_state lapic;

	struct vcpu_breakpoint points[4];
	size_t point_count;

	_Atomic u64 stats[STAT_COUNT];
	char words[320];
};

/* kvm_engine.c: ioctl() that starts again after EINTR. 0 or more, -errno. */
int kvm_call(int fd, unsigned long request, void *arg);
int kvm_call_value(int fd, unsigned long request, unsigned long value);

/* kvm_kick.c: the signal that makes KVM_RUN return. */
int kvm_kick_signal(void);
int kvm_kick_setup(struct error *err) MUST_CHECK;
void kvm_kick_unblock(void); /* in the calling thread */
void kvm_vcpu_kick(struct vcpu *v);
void kvm_vcpu_nmi(struct vcpu *v);

/* kvm_vcpu.c */
int kvm_vcpu_create(struct engine *e, unsigned index,
                    const struct vcpu_host *host, struct vcpu **out,
                    struct error *err);
void kvm_vcpu_destroy(struct vcpu *v);
void kvm_vcpu_run(struct vcpu *v, struct vcpu_exit *exit);
void kvm_stat_add(struct vcpu *v, enum vcpu_stat stat, u64 n);

/* kvm_exit.c: serves an exit the vCPU's host can answer; false: it can't. */
bool kvm_exit_serve(struct vcpu *v);
/* Why the engine cannot go on, into v->words. */
void kvm_exit_explain(struct vcpu *v, int error);

/* kvm_state.c, kvm_msrs.c */
void kvm_vcpu_get(struct vcpu *v, struct cpu_state *state);
int kvm_vcpu_set(struct vcpu *v, const struct cpu_state *state,
                 struct error *err);
void kvm_msrs_probe(struct engine *e, int vcpu_fd);
void kvm_msrs_get(struct vcpu *v, struct cpu_state *state);
int kvm_msrs_set(struct vcpu *v, const struct cpu_state *state,
                 struct error *err);
int kvm_msr_read(struct vcpu *v, u32 msr, u64 *value);
int kvm_msr_write(struct vcpu *v, u32 msr, u64 value);

/* kvm_tsc.c: before and after a vCPU is created, and its offset */
void kvm_tsc_rate_default(struct engine *e);
void kvm_tsc_rate_set(struct vcpu *v);
u64 kvm_tsc_offset_get(struct vcpu *v);
void kvm_tsc_offset_set(struct vcpu *v, u64 offset);

/* kvm_cpuid.c */
int kvm_cpuid_host(struct engine *e, struct error *err);
/* The model, no more of it than that. */
int kvm_cpuid_limit(struct engine *e, struct cpuid_model *model, bool whole,
                    struct error *err);
int kvm_cpuid_set(struct vcpu *v, struct error *err);

/* kvm_memory.c */
int kvm_memory_map(struct engine *e, struct error *err);
int kvm_dirty_start(struct engine *e);
void kvm_dirty_sync(struct engine *e);
void kvm_dirty_stop(struct engine *e);

/* kvm_irqchip.c, kvm_route.c */
int kvm_irqchip_create(struct engine *e, struct error *err);
int kvm_routes_create(struct engine *e, struct error *err);
extern const struct engine_irqchip kvm_irqchip_ops;

/* kvm_chips.c: the chips' state in the form of guest/irqchip.h */
int kvm_canonical_get(struct engine *e, u64 now_ns,
                      struct irqchip_state *state) MUST_CHECK;
int kvm_canonical_set(struct engine *e, u64 now_ns,
                      const struct irqchip_state *state) MUST_CHECK;
int kvm_canonical_local_get(struct vcpu *v,
                            struct irqchip_local *state) MUST_CHECK;
int kvm_canonical_local_set(struct vcpu *v,
                            const struct irqchip_local *state) MUST_CHECK;

/* kvm_debug.c */
int kvm_vcpu_debug(struct vcpu *v, const struct vcpu_breakpoint *points,
                   size_t count, bool step);
bool kvm_vcpu_translate(struct vcpu *v, gva_t gva, gpa_t *gpa);
void kvm_debug_exit(struct vcpu *v, struct vcpu_exit *exit);

/* kvm_probe.c */
int kvm_probe(struct error *err);
