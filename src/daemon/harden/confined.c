/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/daemon.h"
#include "daemon/harden/harden.h"
#include "daemon/limits/limits.h"

static void check_daemon(struct harden *h)
{
	static const struct harden_check check = {
		"daemon-user", HARDEN_PLATFORM,
		"The daemon is an ordinary user",
		"atolld --user atoll, as the system's unit has it"
	};

	if (geteuid() == 0)
		harden_add(h, &check, HARDEN_FAIL, "it is root");
	else
		harden_add(h, &check, HARDEN_PASS, "it is user %u", geteuid());
}

/* In a child, as a machine's starter does it. */
static bool may_have_namespaces(void)
{
	int flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
	            CLONE_NEWIPC | CLONE_NEWUTS;
	int status = -1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(flags) < 0);
	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void check_namespaces(struct harden *h, bool may)
{
	static const struct harden_check check = {
		"namespaces", HARDEN_PLATFORM,
		"Machines see neither the host nor each other",
		"sysctl kernel.unprivileged_userns_clone=1, or a policy of "
		"AppArmor's for atolld, allows user namespaces"
	};

	harden_if(h, &check, may,
	          "each has its own users, mounts, network and processes",
	          geteuid() == 0
	              ? "the host refuses user namespaces; the others are "
	                "made by root"
	              : "the host refuses user namespaces");
}

static void check_users(struct harden *h, bool may)
{
	static const struct harden_check check = {
		"machine-users", HARDEN_PLATFORM,
		"Each machine is a user of its own",
		"run atolld as the system's unit does: root at first, "
		"--user atoll from then on"
	};
	bool root = geteuid() == 0, helped = getenv("ATOLL_HELPER") && may;

	harden_if(h, &check, root || helped,
	          root ? "root gives each a number of its own"
	               : "atoll-helper gives each a number of its own",
	          "all machines are the daemon's user");
}

static void check_filters(struct harden *h)
{
	static const struct harden_check calls = {
		"system-calls", HARDEN_PLATFORM,
		"Machines may use few system calls",
		"the kernel needs CONFIG_SECCOMP_FILTER"
	};
	static const struct harden_check paths = {
		"paths", HARDEN_PLATFORM, "Machines may open no file",
		"add landlock to the kernel's lsm= list"
	};
	u32 action = SECCOMP_RET_KILL_PROCESS;

	harden_if(h, &calls,
	          syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) ==
	              0,
	          "seccomp holds them to a list",
	          "seccomp is missing: machines do not start");
	harden_if(h, &paths,
	          syscall(SYS_landlock_create_ruleset, NULL, 0,
	                  LANDLOCK_CREATE_RULESET_VERSION) >= 1,
	          "Landlock refuses all", "the kernel has no Landlock");
}

static bool is_filtered(const struct harden *h, pid_t pid)
{
	char path[48], text[4096];

	snprintf(path, sizeof(path), "proc/%d/status", (int)pid);
	return harden_read(h, path, text, sizeof(text)) &&
	       strstr(text, "\nNoNewPrivs:\t1\n") &&
	       strstr(text, "\nSeccomp:\t2\n");
}

static void check_helper(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"helper", HARDEN_PLATFORM,
		"What is root for the daemon may do little",
		"start atolld again: atoll-helper comes with it"
	};
	pid_t pid = limits_helper(d);

	if (!getenv("ATOLL_HELPER"))
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "there is no atoll-helper");
	else if (!pid)
		harden_add(h, &check, HARDEN_FAIL,
		           "atoll-helper does not answer");
	else
		harden_if(h, &check, is_filtered(h, pid),
		          "atoll-helper may use few system calls, gets no new "
		          "privileges, and is started again when it dies",
		          "atoll-helper has no filter of system calls");
}

static void check_limits(struct harden *h, struct daemon *d)
{
	static const struct harden_check cpu = {
		"cpu-bounds", HARDEN_PLATFORM,
		"Processor time can be held within bounds",
		"run atolld as a systemd unit with Delegate=yes, or as root"
	};
	static const struct harden_check memory = {
		"memory-bounds", HARDEN_PLATFORM,
		"Memory can be promised and limited",
		"boot with systemd.unified_cgroup_hierarchy=1, and delegate "
		"the memory controller"
	};
	json_t *limits = limits_json(d);
	const char *kind = json_string_value(json_object_get(limits, "cgroup"));

	harden_if(h, &cpu, strcmp(kind, "none") != 0,
	          "control groups are there", "there are no control groups");
	harden_if(h, &memory,
	          strcmp(kind, "v2") == 0 &&
	              json_is_true(json_object_get(limits, "memory")),
	          "control groups protect and limit it",
	          "no control group of version 2 has the memory controller: "
	          "the balloon alone limits it");
	json_decref(limits);
}

static void check_state(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"state-folder", HARDEN_PLATFORM,
		"Disks and snapshots are for nobody else",
		"chmod 700 the folder, chown it to the daemon's user"
	};
	struct stat st;

	if (stat(d->place.state, &st) < 0)
		harden_add(h, &check, HARDEN_FAIL, "%s: %s", d->place.state,
		           strerror(errno));
	else
		harden_add(h, &check,
		           st.st_uid == geteuid() && !(st.st_mode & 077)
		               ? HARDEN_PASS
		               : HARDEN_FAIL,
		           "%s is user %u's, mode %03o", d->place.state,
		           st.st_uid, (unsigned)st.st_mode & 0777);
}

void harden_confined(struct harden *h, struct daemon *d)
{
	bool may = may_have_namespaces();

	check_daemon(h);
	check_namespaces(h, may);
	check_users(h, may);
	check_filters(h);
	check_helper(h, d);
	check_limits(h, d);
	check_state(h, d);
}
