/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msr.h - model-specific registers. Intel SDM vol. 4, AMD APM vol. 2 app. A.
 *
 * Those of devices are asked of the machine. false: there is none such, or
 * the value will not do: #GP.
 */
#pragma once

#include "engine/interp/icpu.h"

bool msr_read(struct icpu *cpu, u32 msr, u64 *value);
bool msr_write(struct icpu *cpu, u32 msr, u64 value);
