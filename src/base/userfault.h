/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfault.h - userfaultfd(2): who touches a page that is not there waits
 * until a thread of ours has put it there.
 */
#pragma once

#include "base/types.h"

/*
 * A new one, non-blocking, that holds the kernel's own faults as well, as those
 * of KVM and of system calls are; or -errno. /dev/userfaultfd gives it (Linux
 * 6.1), the system call where vm.unprivileged_userfaultfd or a privilege allows
 * it.
 */
int userfault_open(void) MUST_CHECK;
