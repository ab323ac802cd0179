/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_vcpu - one virtual processor: its life and its run loop.
 *
 * Port I/O, MMIO and MSR exits are finished by the *next* KVM_RUN (api.rst 5),
 * so the loop ends only where KVM_RUN itself says so: a kick, a shutdown, a
 * debug stop, an error. The state is then whole and may be read and set.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

void kvm_stat_add(struct vcpu *v, enum vcpu_stat stat, u64 n)
{
	/* One writer: a plain add that other threads may read. */
	u64 old = atomic_load_explicit(&v->stats[stat], memory_order_relaxed);

	atomic_store_explicit(&v->stats[stat], old + n, memory_order_relaxed);
}

/* Whether the run loop shall return EXIT_KICK. */
static bool take_requests(struct vcpu *v)
{
	/* Cleared before the flags are read: who sets a flag after this sets
	 * immediate_exit again after that. */
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	if (atomic_exchange(&v->nmi_wanted, false))
		kvm_call(v->fd, KVM_NMI, NULL);
	return atomic_exchange(&v->kicked, false);
}

/* true: exit is filled. */
static bool handle_exit(struct vcpu *v, struct vcpu_exit *exit)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		exit->reason = EXIT_SHUTDOWN;
		exit->words = "triple fault";
		return true;
	case KVM_EXIT_DEBUG:
		kvm_debug_exit(v, exit);
		return true;
	case KVM_EXIT_HLT:
		kvm_stat_add(v, STAT_HALT, 1);
		exit->reason = EXIT_HALT;
		return true;
	case KVM_EXIT_SYSTEM_EVENT:
		exit->reason =
		    v->run->system_event.type == KVM_SYSTEM_EVENT_RESET
			? EXIT_RESET
			: EXIT_SHUTDOWN;
		exit->words = "the kernel reports a system event";
		return true;
	default:
		if (kvm_exit_serve(v))
			return false;
		kvm_exit_explain(v, 0);
		exit->reason = EXIT_ERROR;
		exit->words = v->words;
		return true;
	}
}

static void run_loop(struct vcpu *v, struct vcpu_exit *exit)
{
	for (;;) {
		int r = ioctl(v->fd, KVM_RUN, 0);

		if (r == 0) {
			if (handle_exit(v, exit))
				return;
			continue;
		}
		if (errno == EAGAIN) /* a waiting processor got its SIPI */
			continue;
		if (errno != EINTR) {
			kvm_exit_explain(v, errno);
			exit->reason = EXIT_ERROR;
			exit->words = v->words;
			return;
		}
		if (take_requests(v)) {
			kvm_stat_add(v, STAT_KICK, 1);
			exit->reason = EXIT_KICK;
			return;
		}
	}
}

void kvm_vcpu_run(struct vcpu *v, struct vcpu_exit *exit)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	memset(exit, 0, sizeof(*exit));
	if (v->unblocked != tid) {
		kvm_kick_unblock();
		v->unblocked = tid;
	}
	/* A kick from before this store left immediate_exit set. */
	atomic_store(&v->tid, tid);
	run_loop(v, exit);
	atomic_store(&v->tid, 0);
}

static int vcpu_open(struct vcpu *v, struct error *err)
{
	struct engine *e = v->engine;
	struct kvm_sregs sregs;
	int r;

	kvm_tsc_rate_default(e);
	v->fd = kvm_call_value(e->vm, KVM_CREATE_VCPU, v->index);
	if (v->fd < 0)
		return error_set(err, v->fd, "kvm: cannot create vCPU %u: %s",
		                 v->index, strerror(-v->fd));
	kvm_tsc_rate_set(v);
	v->run = mmap(NULL, e->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
	              v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return error_set(err, -errno, "kvm: cannot map vCPU %u: %s",
		                 v->index, strerror(errno));
	}
	r = kvm_cpuid_set(v, err);
	if (r < 0)
		return r;
	r = kvm_call(v->fd, KVM_GET_SREGS, &sregs);
	if (r == 0)
		r = kvm_call(v->fd, KVM_GET_LAPIC, &v->lapic);
	if (r < 0)
		return error_set(err, r, "kvm: cannot read vCPU %u: %s",
		                 v->index, strerror(-r));
	v->apic_base = sregs.apic_base;
	if (!e->msrs)
		kvm_msrs_probe(e, v->fd);
	return 0;
}

int kvm_vcpu_create(struct engine *e, unsigned index,
                    const struct vcpu_host *host, struct vcpu **out,
                    struct error *err)
{
	struct vcpu *v;
	int r;

	if (index >= e->cpus || e->vcpus[index])
		return error_set(err, -EINVAL, "kvm: no vCPU %u to create",
		                 index);
	v = xalloc(sizeof(*v));
	v->engine = e;
	v->index = index;
	v->fd = -1;
	v->host = *host;
	r = vcpu_open(v, err);
	if (r < 0) {
		kvm_vcpu_destroy(v);
		return r;
	}
	e->vcpus[index] = v;
	*out = v;
	return 0;
}

void kvm_vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	if (v->engine->vcpus[v->index] == v)
		v->engine->vcpus[v->index] = NULL;
	if (v->run)
		munmap(v->run, v->engine->run_size);
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}
