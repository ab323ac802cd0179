/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_engine - hardware virtualization through /dev/kvm.
 *
 * The interrupt controllers, the PIT and the paravirtual clock live in the
 * kernel; the rest of the machine answers by callback (kvm_exit.c).
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/given.h"

int kvm_call_value(int fd, unsigned long request, unsigned long value)
{
	int r;

	do
		r = ioctl(fd, request, value);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int kvm_call(int fd, unsigned long request, void *arg)
{
	return kvm_call_value(fd, request, (unsigned long)(uintptr_t)arg);
}

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_IRQCHIP, "IRQCHIP" },
	{ KVM_CAP_PIT2, "PIT2" },
	{ KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
	{ KVM_CAP_IRQFD, "IRQFD" },
	{ KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI" },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, "IOEVENTFD_ANY_LENGTH" },
	{ KVM_CAP_READONLY_MEM, "READONLY_MEM" },
	{ KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "X86_USER_SPACE_MSR" },
	{ KVM_CAP_EXT_CPUID, "EXT_CPUID" },
	{ KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
	{ KVM_CAP_DEBUGREGS, "DEBUGREGS" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK" },
};

static int check_caps(struct engine *e, struct error *err)
{
	int r = kvm_call_value(e->kvm, KVM_GET_API_VERSION, 0);

	if (r != KVM_API_VERSION)
		return error_set(err, -ENOTSUP,
		                 "kvm: the kernel speaks API version %d, "
		                 "not %d",
		                 r, KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		r = kvm_call_value(e->kvm, KVM_CHECK_EXTENSION,
		                   (unsigned long)needed[i].cap);
		if (r > 0)
			continue;
		error_set(err, -ENOTSUP, "kvm: this kernel lacks KVM_CAP_%s",
		          needed[i].name);
		return error_hint(err, "Linux 5.10 or newer has it");
	}
	r = kvm_call_value(e->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run))
		return error_set(err, -EPROTO,
		                 "kvm: the vCPU area has %d bytes", r);
	e->run_size = (size_t)r;
	e->has_sregs2 =
	    kvm_call_value(e->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
	r = kvm_call_value(e->kvm, KVM_CHECK_EXTENSION,
	                   KVM_CAP_SET_GUEST_DEBUG2);
	e->debug_flags = r > 0 ? (u32)r : 0;
	return 0;
}

/* Intel processors without "unrestricted guest" run real mode in pages that
 * the kernel borrows from the guest: below every firmware, above the APIC. */
static int place_kernel_pages(struct engine *e)
{
	u64 identity_map = 0xfeffc000;
	int r = kvm_call(e->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);

	if (r == 0)
		r = kvm_call_value(e->vm, KVM_SET_TSS_ADDR, 0xfeffd000);
	return r;
}

/* MSRs the kernel does not know become exits (api.rst 7.20). */
static int take_unknown_msrs(struct engine *e)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN },
	};

	return kvm_call(e->vm, KVM_ENABLE_CAP, &cap);
}

static int engine_open(struct engine *e, struct error *err)
{
	int r;

	e->kvm = given_open(GIVEN_KVM);
	if (e->kvm < 0)
		return error_set(err, e->kvm, "kvm: cannot open /dev/kvm: %s",
		                 strerror(-e->kvm));
	r = check_caps(e, err);
	if (r < 0)
		return r;
	e->vm = kvm_call_value(e->kvm, KVM_CREATE_VM, 0);
	if (e->vm < 0)
		return error_set(err, e->vm, "kvm: cannot create a machine: %s",
		                 strerror(-e->vm));
	r = place_kernel_pages(e);
	if (r == 0)
		r = take_unknown_msrs(e);
	if (r < 0)
		return error_set(err, r, "kvm: cannot set up the machine: %s",
		                 strerror(-r));
	r = kvm_cpuid_host(e, err);
	if (r == 0)
		r = kvm_irqchip_create(e, err);
	if (r == 0)
		r = kvm_memory_map(e, err);
	if (r == 0)
		r = kvm_kick_setup(err);
	return r;
}

static void kvm_engine_destroy(struct engine *e)
{
	if (!e)
		return;
	if (e->vm >= 0)
		close(e->vm);
	if (e->kvm >= 0)
		close(e->kvm);
	pthread_mutex_destroy(&e->routes_lock);
	free(e->routes);
	free(e->host);
	free(e->vcpus);
	free(e);
}

static int kvm_engine_create(struct engine **out,
                             const struct engine_config *config,
                             struct error *err)
{
	struct engine *e = xalloc(sizeof(*e));
	int r;

	e->kvm = -1;
	e->vm = -1;
	e->memory = config->memory;
	e->cpuid = config->cpuid;
	e->cpus = config->cpus;
	e->vcpus = xalloc(sizeof(struct vcpu *) * MAX(config->cpus, 1u));
	pthread_mutex_init(&e->routes_lock, NULL);
	if (config->options && config->options[0])
		r = error_set(err, -EINVAL,
		              "engine kvm takes no options, got \"%s\"",
		              config->options);
	else
		r = engine_open(e, err);
	if (r == 0)
		r = kvm_cpuid_limit(e, config->cpuid, config->cpuid_whole, err);
	if (r < 0) {
		kvm_engine_destroy(e);
		return r;
	}
	*out = e;
	return 0;
}

/* The kernel holds the interrupt controllers: it knows by itself. */
static void kvm_vcpu_attention(struct vcpu *v)
{
	(void)v;
}

static u64 kvm_vcpu_stat(struct vcpu *v, enum vcpu_stat stat)
{
	return atomic_load_explicit(&v->stats[stat], memory_order_relaxed);
}

/* Length 0: a write of any size and value (KVM_CAP_IOEVENTFD_ANY_LENGTH). */
static int kvm_ioeventfd_set(struct engine *e, bool pio, u64 addr, int fd,
                             bool on)
{
	struct kvm_ioeventfd io = { .addr = addr, .fd = fd };

	if (pio)
		io.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (!on)
		io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return kvm_call(e->vm, KVM_IOEVENTFD, &io);
}

const struct engine_type kvm_engine = {
	.name = "kvm",
	.about = "hardware virtualization through /dev/kvm",
	.irqchip = &kvm_irqchip_ops,
	.probe = kvm_probe,
	.create = kvm_engine_create,
	.destroy = kvm_engine_destroy,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_attention = kvm_vcpu_attention,
	.vcpu_nmi = kvm_vcpu_nmi,
	.vcpu_get = kvm_vcpu_get,
	.vcpu_set = kvm_vcpu_set,
	.vcpu_stat = kvm_vcpu_stat,
	.vcpu_tsc_offset_get = kvm_tsc_offset_get,
	.vcpu_tsc_offset_set = kvm_tsc_offset_set,
	.vcpu_debug = kvm_vcpu_debug,
	.vcpu_translate = kvm_vcpu_translate,
	.dirty_start = kvm_dirty_start,
	.dirty_sync = kvm_dirty_sync,
	.dirty_stop = kvm_dirty_stop,
	.ioeventfd = kvm_ioeventfd_set,
};
