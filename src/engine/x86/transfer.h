/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.h - control transfers that change the code segment, privilege or
 * task. Intel SDM vol. 2 JMP, CALL, RET, IRET, SYSCALL; vol. 3 ch. 5.
 *
 * size is the operand size in bytes; next the address of the next
 * instruction. On return the processor is where the transfer led, with
 * icpu_update() done; faults unwind with nothing changed.
 */
#pragma once

#include "engine/interp/icpu.h"

void transfer_jump(struct icpu *cpu, u16 selector, u64 offset, unsigned size,
                   u64 next);
void transfer_call(struct icpu *cpu, u16 selector, u64 offset, unsigned size,
                   u64 next);
void transfer_return(struct icpu *cpu, unsigned size, u16 release);
void transfer_iret(struct icpu *cpu, unsigned size, u64 next);

void transfer_syscall(struct icpu *cpu, u64 next);
void transfer_sysret(struct icpu *cpu, unsigned size);
void transfer_sysenter(struct icpu *cpu);
void transfer_sysexit(struct icpu *cpu, unsigned size);
