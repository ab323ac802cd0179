/* SPDX-License-Identifier: Apache-2.0 */
#include "net/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/filter.h"

#define RESOLV_CONF "/etc/resolv.conf"

/* What of a root user's is kept. */
static int drop_capabilities(u32 keep)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].effective &= keep;
	data[0].permitted &= keep;
	data[0].inheritable = 0;
	data[1].effective = data[1].permitted = data[1].inheritable = 0;
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

enum {
	FILES_ALL = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1,
	FILES_READ = LANDLOCK_ACCESS_FS_READ_FILE,
	FILES_KEEP =
	    LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
	    LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE,
};

static void allow_folder(int rules, int folder, u64 access)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = access,
		.parent_fd = folder,
	};

	syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule,
	        0);
}

static void allow_reading(int rules, const char *dir)
{
	int fd = open(dir, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return;
	allow_folder(rules, fd, FILES_READ);
	close(fd);
}

/* -ENOSYS: a kernel without Landlock leaves the work to the system call
 * filter. */
static int new_rules(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = FILES_ALL };
	int rules =
	    (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (rules >= 0)
		return rules;
	return errno == EOPNOTSUPP ? -ENOSYS : -errno;
}

static int keep_rules(int rules)
{
	int rc = 0;

	if (syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		rc = -errno;
	close(rules);
	return rc;
}

/*
 * The stack reads resolv.conf again when it changes, and programs change it
 * by renaming: so its folders are allowed, not the file.
 */
static int only_resolver(void)
{
	int rules = new_rules();
	char real[PATH_MAX];

	if (rules < 0)
		return rules == -ENOSYS ? 0 : rules;
	allow_reading(rules, "/etc");
	if (realpath(RESOLV_CONF, real))
		allow_reading(rules, dirname(real));
	return keep_rules(rules);
}

static int only_folder(int folder)
{
	int rules = new_rules();

	if (rules < 0)
		return rules == -ENOSYS ? 0 : rules;
	allow_folder(rules, folder, FILES_KEEP);
	return keep_rules(rules);
}

static int cannot(int rc, struct error *err)
{
	return rc < 0 ? error_set(err, rc,
	                          "the network process cannot confine itself: "
	                          "%s",
	                          strerror(-rc))
	              : 0;
}

int confine_stack(struct error *err)
{
	int rc = 0;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	if (rc == 0) /* a raw socket for ICMP echo */
		rc = drop_capabilities(1U << CAP_NET_RAW);
	if (rc == 0)
		rc = only_resolver();
	if (rc == 0)
		rc = filter_enter(&stack_filter);
	return cannot(rc, err);
}

int confine_switch(int folder, struct error *err)
{
	int rc = 0;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		rc = -errno;
	if (rc == 0)
		rc = drop_capabilities(0);
	if (rc == 0)
		rc = only_folder(folder);
	if (rc == 0)
		rc = filter_enter(&switch_filter);
	return cannot(rc, err);
}
