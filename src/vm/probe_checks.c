/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe_checks - the kernel's services, each tried rather than looked up
 * where trying is cheap and leaves nothing behind.
 */
#include "vm/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/own_root.h"
#include "base/types.h"
#include "base/userfault.h"

/* A line of /proc/meminfo, in bytes; 0 where it is absent. */
static u64 meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	u64 kib = 0;
	size_t n = strlen(key);

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, n) == 0 && line[n] == ':')
			kib = strtoull(line + n + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib * KIB;
}

static void check_memory(json_t *checks)
{
	u64 total = meminfo("MemTotal"), available = meminfo("MemAvailable");
	enum probe_state state = PROBE_OK;
	const char *hint = NULL;
	char text[128];

	snprintf(text, sizeof(text), "%" PRIu64 " MiB, %" PRIu64 " available",
	         total / MIB, available / MIB);
	if (available < 256 * MIB) {
		state = PROBE_FAILURE;
		hint = "a small machine takes 256 MiB: end something, or add "
		       "memory";
	} else if (available < GIB) {
		state = PROBE_WARNING;
		hint = "enough for small machines: --memory 256M";
	}
	probe_add(checks, "memory", state, text, hint,
	          json_pack("{s:I, s:I}", "total_bytes", (json_int_t)total,
	                    "available_bytes", (json_int_t)available));
}

static void check_swap(json_t *checks)
{
	u64 total = meminfo("SwapTotal"), free_bytes = meminfo("SwapFree");
	char text[128] = "none";

	if (total)
		snprintf(text, sizeof(text),
		         "%" PRIu64 " MiB, %" PRIu64 " free", total / MIB,
		         free_bytes / MIB);
	probe_add(checks, "swap", PROBE_OK, text,
	          total ? NULL
	                : "without it, machines together must fit in memory",
	          json_pack("{s:I, s:I}", "total_bytes", (json_int_t)total,
	                    "free_bytes", (json_int_t)free_bytes));
}

/* "always [madvise] never" -> "madvise" */
static void chosen(const char *path, char *buf, size_t size)
{
	char line[128], *from, *to;

	snprintf(buf, size, "none");
	if (!probe_line(path, line, sizeof(line)))
		return;
	from = strchr(line, '[');
	to = from ? strchr(from, ']') : NULL;
	if (to)
		snprintf(buf, size, "%.*s", (int)(to - from - 1), from + 1);
}

/* Guest memory is shared memory of the kernel's, so its switch is the one. */
static void check_huge_pages(json_t *checks)
{
	char own[32], shared[32], text[160];
	long long reserved = probe_number("/proc/sys/vm/nr_hugepages");
	bool on;

	chosen("/sys/kernel/mm/transparent_hugepage/enabled", own, sizeof(own));
	chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shared,
	       sizeof(shared));
	on = strcmp(shared, "never") && strcmp(shared, "deny") &&
	     strcmp(shared, "none");
	snprintf(text, sizeof(text),
	         "transparent: %s, for guest memory: %s; reserved: %lld", own,
	         shared, MAX(reserved, 0LL));
	probe_add(checks, "huge-pages", on ? PROBE_OK : PROBE_WARNING, text,
	          on ? NULL
	             : "echo advise > "
	               "/sys/kernel/mm/transparent_hugepage/shmem_enabled "
	               "makes large machines faster",
	          json_pack("{s:s, s:s, s:I}", "transparent", own, "shared",
	                    shared, "reserved",
	                    (json_int_t)MAX(reserved, 0LL)));
}

static void check_io_uring(json_t *checks)
{
	long long disabled = probe_number("/proc/sys/kernel/io_uring_disabled");
	u8 params[120] = { 0 }; /* struct io_uring_params */
	long fd = syscall(SYS_io_uring_setup, 1, params);
	int error = fd < 0 ? errno : 0;
	char text[160] = "works";
	const char *hint = NULL;

	if (fd >= 0) {
		close((int)fd);
	} else {
		snprintf(text, sizeof(text),
		         "refused (%s); disks use threads instead",
		         strerror(error));
		hint = disabled > 0
		           ? "sysctl kernel.io_uring_disabled=0 allows it"
		           : "a container's seccomp filter may refuse it";
	}
	probe_add(checks, "io_uring", fd >= 0 ? PROBE_OK : PROBE_WARNING, text,
	          hint,
	          json_pack("{s:b, s:I}", "usable", fd >= 0, "disabled",
	                    (json_int_t)disabled));
}

static void check_tun(json_t *checks)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	char text[128] = "works";

	if (fd >= 0)
		close(fd);
	else
		snprintf(text, sizeof(text), "/dev/net/tun: %s",
		         strerror(errno));
	probe_add(checks, "tun", fd >= 0 ? PROBE_OK : PROBE_WARNING, text,
	          fd >= 0 ? NULL
	                  : "only --net tap needs it (modprobe tun); --net "
	                    "user works without",
	          json_pack("{s:b}", "usable", fd >= 0));
}

/* Our own group in the one hierarchy of version 2: "0::/path". */
static bool own_group(char *buf, size_t size)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[512];
	bool found = false;

	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3))
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(buf, size, "/sys/fs/cgroup%s", line + 3);
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

static void check_cgroups(json_t *checks)
{
	const char *hint = NULL,
		   *controllers_file = "/sys/fs/cgroup/cgroup.controllers";
	char controllers[256] = "", group[600] = "", path[640], text[512];
	enum probe_state state = PROBE_WARNING;
	bool delegated = false;
	int version = 0;

	if (probe_line(controllers_file, controllers, sizeof(controllers)) ||
	    access(controllers_file, F_OK) == 0)
		version = 2;
	else if (access("/sys/fs/cgroup/memory", F_OK) == 0 ||
	         access("/sys/fs/cgroup/cpu", F_OK) == 0)
		version = 1;
	if (version == 2 && own_group(group, sizeof(group))) {
		snprintf(path, sizeof(path), "%s/cgroup.subtree_control",
		         group);
		delegated = access(path, W_OK) == 0 && access(group, W_OK) == 0;
	}
	if (version == 2 && delegated) {
		state = PROBE_OK;
		snprintf(text, sizeof(text), "version 2, ours to divide: %s",
		         controllers);
	} else if (version == 2) {
		snprintf(text, sizeof(text),
		         "version 2, not ours to divide: no limits for CPU, "
		         "memory and disks");
		hint = "systemd-run --user --scope -p Delegate=yes atoll ... "
		       "gives a group";
	} else if (version == 1) {
		snprintf(text, sizeof(text),
		         "version 1: no limits for CPU, "
		         "memory and disks");
		hint = "boot the host with "
		       "systemd.unified_cgroup_hierarchy=1";
	} else {
		snprintf(text, sizeof(text),
		         "not mounted: no limits for CPU, "
		         "memory and disks");
	}
	probe_add(checks, "cgroups", state, text, hint,
	          json_pack("{s:i, s:b, s:s}", "version", version, "delegated",
	                    (int)delegated, "controllers", controllers));
}

static void check_landlock(json_t *checks)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
	                   LANDLOCK_CREATE_RULESET_VERSION);
	char text[64];

	if (abi > 0)
		snprintf(text, sizeof(text), "ABI %ld", abi);
	else
		snprintf(text, sizeof(text), "absent");
	probe_add(checks, "landlock", abi > 0 ? PROBE_OK : PROBE_WARNING, text,
	          abi > 0 ? NULL
	                  : "machines are confined by seccomp alone; add "
	                    "landlock to the kernel's lsm= list",
	          json_pack("{s:I}", "abi", (json_int_t)MAX(abi, 0L)));
}

static void check_seccomp(json_t *checks)
{
	u32 action = SECCOMP_RET_KILL_PROCESS;
	bool ok =
	    syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;

	probe_add(checks, "seccomp", ok ? PROBE_OK : PROBE_FAILURE,
	          ok ? "works" : "absent",
	          ok ? NULL
	             : "machines are not started unconfined: the kernel "
	               "needs CONFIG_SECCOMP_FILTER",
	          json_pack("{s:b}", "usable", (int)ok));
}

/* A machine has no privileges, in a child: there is no way back to them. */
static bool may_hold_faults(void)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0)
		_exit(own_root_drop(NULL) < 0 || userfault_open() < 0);
	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void check_userfaultfd(json_t *checks)
{
	long fd = syscall(SYS_userfaultfd,
	                  O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	bool user_only = fd >= 0, full = may_hold_faults();
	const char *hint = NULL;
	char text[96] = "absent";

	if (fd >= 0)
		close((int)fd);
	if (full)
		snprintf(text, sizeof(text), "works");
	else if (user_only)
		snprintf(text, sizeof(text), "for user-mode faults only");
	if (!full)
		hint =
		    "saved machines are read whole before they run under kvm; "
		    "who starts them needs /dev/userfaultfd (Linux 6.1), or "
		    "sysctl vm.unprivileged_userfaultfd=1";
	probe_add(checks, "userfaultfd", full ? PROBE_OK : PROBE_WARNING, text,
	          hint,
	          json_pack("{s:b, s:b}", "usable", (int)full, "user_mode",
	                    (int)(user_only || full)));
}

static void check_ksm(json_t *checks)
{
	long long run = probe_number("/sys/kernel/mm/ksm/run");
	const char *text = run < 0 ? "absent" : run == 1 ? "on" : "off";

	probe_add(checks, "ksm", run < 0 ? PROBE_WARNING : PROBE_OK, text,
	          run < 0 ? "equal pages of several machines are not shared"
	          : run == 1
	              ? NULL
	              : "echo 1 > /sys/kernel/mm/ksm/run shares equal pages "
	                "of several machines",
	          json_pack("{s:b, s:b}", "present", run >= 0, "on", run == 1));
}

/* In a child: a process cannot leave the namespace again. */
static void check_user_namespaces(json_t *checks)
{
	pid_t pid = fork();
	int status = -1;
	bool ok;

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) ? 1 : 0);
	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	ok = pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	probe_add(checks, "user-namespaces", ok ? PROBE_OK : PROBE_WARNING,
	          ok ? "work" : "refused",
	          ok ? NULL
	             : "machines are kept apart by seccomp and Landlock "
	               "alone, unless root starts them; sysctl "
	               "kernel.unprivileged_userns_clone=1, or the host's "
	               "AppArmor policy, allows them",
	          json_pack("{s:b}", "usable", (int)ok));
}

static void check_clock(json_t *checks)
{
	char source[64] = "unknown", text[128];
	const char *hint = NULL;
	bool fast;

	probe_line("/sys/devices/system/clocksource/clocksource0/"
	           "current_clocksource",
	           source, sizeof(source));
	fast = !strcmp(source, "tsc") || !strcmp(source, "kvm-clock") ||
	       strstr(source, "hyperv");
	snprintf(text, sizeof(text), "the kernel's clock is %s", source);
	if (!fast)
		hint = "each look at the clock costs a system call; the TSC "
		       "may be unstable here (dmesg)";
	probe_add(checks, "clock", fast ? PROBE_OK : PROBE_WARNING, text, hint,
	          json_pack("{s:s}", "source", source));
}

void probe_checks(json_t *checks)
{
	check_memory(checks);
	check_huge_pages(checks);
	check_swap(checks);
	check_ksm(checks);
	check_clock(checks);
	check_io_uring(checks);
	check_userfaultfd(checks);
	check_tun(checks);
	check_cgroups(checks);
	check_user_namespaces(checks);
	check_landlock(checks);
	check_seccomp(checks);
}
