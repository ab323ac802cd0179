/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_kick - how a thread inside KVM_RUN is stopped from outside.
 *
 * immediate_exit makes the next KVM_RUN return at once, a signal makes the
 * present one return (api.rst 5, kvm_run). The kicker sets the flag before
 * it sends the signal, so whichever side of the kernel's check of the flag the
 * signal arrives on, one of the two works and no kick is lost.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

int kvm_kick_signal(void)
{
	return SIGRTMIN + 2;
}

/* A timer (the probe's watchdog) carries the address of the flag to set. */
static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_code == SI_TIMER && info->si_value.sival_ptr)
		*(volatile u8 *)info->si_value.sival_ptr = 1;
}

int kvm_kick_setup(struct error *err)
{
	struct sigaction sa = { .sa_sigaction = on_signal };

	sa.sa_flags = SA_SIGINFO | SA_RESTART;
	sigemptyset(&sa.sa_mask);
	if (sigaction(kvm_kick_signal(), &sa, NULL))
		return error_set(err, -errno, "kvm: sigaction: %s",
		                 strerror(errno));
	return 0;
}

void kvm_kick_unblock(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, kvm_kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void interrupt_run(struct vcpu *v)
{
	pid_t tid;

	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	/* The thread may leave vcpu_run or end meanwhile: a signal to a
	 * thread that is gone fails, and to any other does nothing. */
	tid = atomic_load(&v->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, kvm_kick_signal());
}

void kvm_vcpu_kick(struct vcpu *v)
{
	atomic_store(&v->kicked, true);
	interrupt_run(v);
}

/* KVM_NMI waits for the vCPU's lock, which KVM_RUN holds: the vCPU's own
 * thread asks for it (kvm_vcpu.c). */
void kvm_vcpu_nmi(struct vcpu *v)
{
	atomic_store(&v->nmi_wanted, true);
	interrupt_run(v);
}
