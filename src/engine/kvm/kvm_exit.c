/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_exit - exits that the machine answers by callback, and the words for
 * those that nobody can.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/memory.h"

static u64 load(const void *p, unsigned size)
{
	u64 value = 0;

	memcpy(&value, p, size);
	return value;
}

/* IN and OUT, INS and OUTS: count items of size bytes at data_offset. */
static bool serve_pio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	u8 *data = (u8 *)run + run->io.data_offset;
	unsigned size = run->io.size;
	u16 port = run->io.port;

	for (u32 i = 0; i < run->io.count; i++, data += size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			v->host.pio_write(v->host.ctx, port, load(data, size),
			                  size);
		} else {
			u64 value = v->host.pio_read(v->host.ctx, port, size);

			memcpy(data, &value, size);
		}
	}
	kvm_stat_add(v, STAT_PIO, 1);
	return true;
}

/*
 * The kernel has cut the access at page borders already, so a piece may be of
 * any length up to 8: served as accesses of 4, 2 and 1.
 */
static bool serve_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	gpa_t gpa = run->mmio.phys_addr;
	u32 len = MIN(run->mmio.len, 8u);
	const struct memory_slot *slot;

	kvm_stat_add(v, STAT_MMIO, 1);
	slot = memory_find(v->engine->memory, gpa);
	if (slot && run->mmio.is_write)
		return true; /* ROM keeps what it holds */
	for (u32 at = 0, size; at < len; at += size) {
		u8 *data = run->mmio.data + at;

		size = 8;
		while (size > len - at)
			size /= 2;
		if (run->mmio.is_write) {
			v->host.mmio_write(v->host.ctx, gpa + at,
			                   load(data, size), size);
		} else {
			u64 value =
			    v->host.mmio_read(v->host.ctx, gpa + at, size);

			memcpy(data, &value, size);
		}
	}
	return true;
}

static bool serve_msr(struct vcpu *v, bool write)
{
	struct kvm_run *run = v->run;
	u64 value = run->msr.data;
	bool ok;

	kvm_stat_add(v, STAT_MSR, 1);
	if (write)
		ok = v->host.msr_write(v->host.ctx, run->msr.index, value);
	else
		ok = v->host.msr_read(v->host.ctx, run->msr.index, &value);
	if (ok && !write)
		run->msr.data = value;
	run->msr.error = !ok; /* the kernel injects #GP */
	return true;
}

bool kvm_exit_serve(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		return serve_pio(v);
	case KVM_EXIT_MMIO:
		return serve_mmio(v);
	case KVM_EXIT_X86_RDMSR:
		return serve_msr(v, false);
	case KVM_EXIT_X86_WRMSR:
		return serve_msr(v, true);
	case KVM_EXIT_INTR:
	case KVM_EXIT_NMI:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return true;
	default:
		return false;
	}
}

static const char *suberror_name(u32 suberror)
{
	switch (suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "an instruction it cannot emulate";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "simultaneous exceptions";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit during event delivery";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an unexpected exit of the processor";
	default:
		return "an unknown cause";
	}
}

static size_t say_bytes(struct vcpu *v, char *buf, size_t size)
{
	const struct kvm_run *run = v->run;
	size_t used = 0;
	u8 count;

	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION ||
	    run->emulation_failure.ndata < 3 ||
	    !(run->emulation_failure.flags &
	      KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return 0;
	count = MIN(run->emulation_failure.insn_size, (u8)15);
	used = (size_t)snprintf(buf, size, "; bytes");
	for (u8 i = 0; i < count && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, " %02x",
		                         run->emulation_failure.insn_bytes[i]);
	return used;
}

void kvm_exit_explain(struct vcpu *v, int error)
{
	const struct kvm_run *run = v->run;
	char bytes[64] = "", where[32] = "?";
	struct kvm_regs regs;

	if (kvm_call(v->fd, KVM_GET_REGS, &regs) == 0)
		snprintf(where, sizeof(where), "%#llx", regs.rip);
	if (error == EFAULT) {
		snprintf(v->words, sizeof(v->words),
		         "memory is not to be had at RIP %s: a file that it "
		         "was mapped from was cut short, or the host has none "
		         "left",
		         where);
	} else if (error) {
		snprintf(v->words, sizeof(v->words),
		         "KVM_RUN failed at RIP %s: %s", where,
		         strerror(error));
	} else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
		say_bytes(v, bytes, sizeof(bytes));
		snprintf(v->words, sizeof(v->words),
		         "KVM internal error %u (%s) at RIP %s%s",
		         run->internal.suberror,
		         suberror_name(run->internal.suberror), where, bytes);
	} else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
		snprintf(v->words, sizeof(v->words),
		         "the processor refuses the guest's state at RIP %s "
		         "(hardware reason %#llx)",
		         where, run->fail_entry.hardware_entry_failure_reason);
	} else {
		snprintf(v->words, sizeof(v->words),
		         "KVM exit %u at RIP %s, which nothing serves",
		         run->exit_reason, where);
	}
}
