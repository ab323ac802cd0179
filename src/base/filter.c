/* SPDX-License-Identifier: Apache-2.0 */
#include "base/filter.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"

int filter_enter(const struct filter *filter)
{
	size_t bytes = filter->count * sizeof(*filter->code);
	struct sock_filter *code = xalloc(bytes);
	const struct sock_fprog program = { filter->count, code };
	long rc;

	memcpy(code, filter->code, bytes);
	code[filter->pid_at].k = (u32)getpid();
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
	             SECCOMP_FILTER_FLAG_TSYNC, &program);
	if (rc < 0)
		rc = -errno;
	else if (rc > 0)
		rc = -ESRCH; /* a thread that has another filter */
	free(code);
	return (int)rc;
}
