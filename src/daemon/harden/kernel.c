/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <unistd.h>

#include "daemon/harden/harden.h"

/* Bits of /proc/sys/kernel/tainted (admin-guide/tainted-kernels). */
enum {
	TAINT_FORCED = 1 << 1,
	TAINT_OUT_OF_TREE = 1 << 12,
	TAINT_UNSIGNED = 1 << 13
};

/* -1: not there. */
static long long number(const struct harden *h, const char *path)
{
	char text[32];

	return harden_read(h, path, text, sizeof(text)) ? strtoll(text, NULL, 0)
	                                                : -1;
}

/* ---- settings that are one number ---- */

static const struct setting {
	struct harden_check check;
	const char *path;
	long long least, most;
} settings[] = {
	{ { "aslr", HARDEN_PLATFORM, "Addresses of processes are random",
	    "sysctl -w kernel.randomize_va_space=2" },
	  "proc/sys/kernel/randomize_va_space",
	  2,
	  2 },
	{ { "kernel-pointers", HARDEN_PLATFORM,
	    "Addresses of the kernel are hidden",
	    "sysctl -w kernel.kptr_restrict=1" },
	  "proc/sys/kernel/kptr_restrict",
	  1,
	  2 },
	{ { "kernel-log", HARDEN_PLATFORM,
	    "The kernel's log is for administrators",
	    "sysctl -w kernel.dmesg_restrict=1" },
	  "proc/sys/kernel/dmesg_restrict",
	  1,
	  1 },
	{ { "ptrace", HARDEN_PLATFORM,
	    "Processes of a user cannot trace each other",
	    "sysctl -w kernel.yama.ptrace_scope=1" },
	  "proc/sys/kernel/yama/ptrace_scope",
	  1,
	  3 },
	{ { "bpf", HARDEN_PLATFORM, "BPF is for administrators",
	    "sysctl -w kernel.unprivileged_bpf_disabled=1" },
	  "proc/sys/kernel/unprivileged_bpf_disabled",
	  1,
	  2 },
	{ { "links", HARDEN_PLATFORM, "Links in shared folders are checked",
	    "sysctl -w fs.protected_hardlinks=1 fs.protected_symlinks=1" },
	  "proc/sys/fs/protected_hardlinks",
	  1,
	  1 },
	{ { "page-sharing", HARDEN_CIS,
	    "Machines do not share equal pages (KSM)",
	    "echo 2 > /sys/kernel/mm/ksm/run" },
	  "sys/kernel/mm/ksm/run",
	  0,
	  0 },
	{ { "hyperthreads", HARDEN_PLATFORM,
	    "Machines do not share a core's threads",
	    "boot with nosmt, or pin machines to cores of their own" },
	  "sys/devices/system/cpu/smt/active",
	  0,
	  0 },
};

static void check_settings(struct harden *h)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		const struct setting *s = &settings[i];
		long long now = number(h, s->path);

		if (now < 0)
			harden_add(h, &s->check, HARDEN_NOT_APPLICABLE,
			           "this kernel has no /%s", s->path);
		else
			harden_add(h, &s->check,
			           now >= s->least && now <= s->most
			               ? HARDEN_PASS
			               : HARDEN_FAIL,
			           "/%s is %lld", s->path, now);
	}
}

/* ---- the processor's ---- */

static void check_vulnerabilities(struct harden *h)
{
	static const struct harden_check check = {
		"processor-faults", HARDEN_PLATFORM,
		"Faults of the processor are dealt with",
		"update the firmware and the kernel; leave mitigations on"
	};
	const char *path = "sys/devices/system/cpu/vulnerabilities";
	int fd = openat(h->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct harden_names bad = { "" };
	char name[400], text[128];
	struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "this kernel does not say");
		return;
	}
	while ((entry = readdir(dir))) {
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.' &&
		    harden_read(h, name, text, sizeof(text)) &&
		    strncmp(text, "Vulnerable", 10) == 0)
			harden_name(&bad, entry->d_name);
	}
	closedir(dir);
	harden_verdict(h, &check, &bad, "none is open");
}

static void check_virtualization(struct harden *h)
{
	static const struct harden_check check = {
		"virtualization", HARDEN_PLATFORM,
		"The processor keeps machines apart (VT-x, AMD-V)",
		"enable it in the firmware and load kvm_intel or kvm_amd"
	};
	char text[16384];

	/* Each processor says the same; the first is enough. */
	harden_read(h, "proc/cpuinfo", text, sizeof(text));
	harden_if(h, &check,
	          (strstr(text, " vmx") || strstr(text, " svm")) &&
	              faccessat(h->root, "dev/kvm", F_OK, 0) == 0,
	          "the processor has it, and /dev/kvm is there",
	          "machines run by binary translation: its errors are in reach "
	          "of guests, behind the confinement of their processes");
}

/* ---- how it came up ---- */

static void check_secure_boot(struct harden *h)
{
	static const struct harden_check check = {
		"secure-boot", HARDEN_PLATFORM,
		"The host's own start is measured or signed",
		"turn Secure Boot on in the firmware"
	};
	u8 text[8] = { 0 };
	int fd;
	ssize_t n;

	if (faccessat(h->root, "sys/firmware/efi", F_OK, 0) < 0) {
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "the host has no UEFI firmware to ask");
		return;
	}
	fd = openat(h->root,
	            "sys/firmware/efi/efivars/"
	            "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
	            O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (fd >= 0)
		close(fd);
	harden_if(h, &check, n == 5 && text[4] == 1, "Secure Boot is on",
	          "Secure Boot is off");
}

static void check_lockdown(struct harden *h)
{
	static const struct harden_check check = {
		"kernel-lockdown", HARDEN_PLATFORM,
		"Not even root changes the running kernel",
		"boot with lockdown=integrity"
	};
	char text[64];

	if (!harden_read(h, "sys/kernel/security/lockdown", text, sizeof(text)))
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "this kernel has no lockdown");
	else
		harden_add(h, &check,
		           strstr(text, "[none]") ? HARDEN_FAIL : HARDEN_PASS,
		           "%s", text);
}

static void check_modules(struct harden *h)
{
	static const struct harden_check check = {
		"kernel-modules", HARDEN_CIS,
		"All kernel modules are the kernel's own",
		"find them: grep '(' /proc/modules; then unload them and reboot"
	};
	long long taint = number(h, "proc/sys/kernel/tainted");

	if (taint < 0)
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "this kernel does not say");
	else if (taint & (TAINT_FORCED | TAINT_OUT_OF_TREE | TAINT_UNSIGNED))
		harden_add(h, &check, HARDEN_FAIL,
		           "modules from elsewhere, unsigned or forced are "
		           "loaded (tainted: %lld)",
		           taint);
	else
		harden_add(h, &check, HARDEN_PASS, "none is from elsewhere");
}

static void check_time(struct harden *h)
{
	static const struct harden_check check = {
		"time", HARDEN_CIS, "The clock is kept right",
		"install chrony or systemd-timesyncd"
	};
	struct timex t = { 0 };
	int state = adjtimex(&t);

	harden_if(h, &check, state != TIME_ERROR && !(t.status & STA_UNSYNC),
	          "the kernel's clock is synchronized",
	          "nothing synchronizes the kernel's clock");
}

void harden_kernel(struct harden *h)
{
	check_virtualization(h);
	check_secure_boot(h);
	check_lockdown(h);
	check_modules(h);
	check_vulnerabilities(h);
	check_settings(h);
	check_time(h);
}
