/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_device.h - /dev/kvm, by path or as whoever started us passed it on.
 */
#pragma once

#include "base/types.h"

/*
 * A new descriptor of it, or -errno. A process whose user may not open the
 * device is given it: ATOLL_KVM_FD says as which descriptor.
 */
int kvm_device_open(void) MUST_CHECK;
