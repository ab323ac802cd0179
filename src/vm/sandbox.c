/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox - no new privileges, Landlock, seccomp. Which system calls there are,
 * make_filter.c says.
 */
#include "vm/sandbox.h"

#include <errno.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/filter.h"
#include "base/log.h"
#include "base/types.h"

/* ---- Landlock: paths ---- */

#define LANDLOCK_FS_V1 (((u64)1 << 13) - 1)
#define LANDLOCK_FS_REFER ((u64)1 << 13)    /* ABI 2 */
#define LANDLOCK_FS_TRUNCATE ((u64)1 << 14) /* ABI 3 */

static int enter_landlock(struct error *err)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_FS_V1,
	};
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
	                   LANDLOCK_CREATE_RULESET_VERSION);
	long fd;
	int rc = 0;

	if (abi < 1) {
		/* seccomp alone refuses every open. */
		log_info("vm", "the kernel has no Landlock");
		return 0;
	}
	if (abi >= 2)
		attr.handled_access_fs |= LANDLOCK_FS_REFER;
	if (abi >= 3)
		attr.handled_access_fs |= LANDLOCK_FS_TRUNCATE;
	/* A set without rules: all that it handles is refused. */
	fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (fd < 0)
		return error_set(err, -errno, "Landlock: %s", strerror(errno));
	if (syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		rc = error_set(err, -errno, "Landlock: %s", strerror(errno));
	close((int)fd);
	return rc;
}

int sandbox_enter(struct error *err)
{
	struct rlimit none = { 0, 0 };
	int rc;

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return error_set(err, -errno, "rlimits: %s", strerror(errno));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set(err, -errno, "no new privileges: %s",
		                 strerror(errno));
	rc = enter_landlock(err);
	if (rc < 0)
		return rc;
	rc = filter_enter(&vm_filter);
	return rc < 0 ? error_set(err, rc, "seccomp: %s", strerror(-rc)) : 0;
}
