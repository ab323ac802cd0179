/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harden_test - the hardening checklist against hosts made of files: each file
 * decides one check, and what is not there is said to be not there.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/harden/harden.h"

struct host {
	char folder[32];
	struct harden list;
};

static int setup(void **state)
{
	struct host *host = calloc(1, sizeof(*host));

	strcpy(host->folder, "/tmp/harden-XXXXXX");
	if (!mkdtemp(host->folder))
		return -1;
	host->list.root = open(host->folder, O_RDONLY | O_DIRECTORY);
	*state = host;
	return host->list.root < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	struct host *host = *state;
	char *command = xasprintf("rm -r %s", host->folder);
	int rc = system(command);

	free(command);
	close(host->list.root);
	json_decref(host->list.checks);
	free(host);
	return rc;
}

static void put(struct host *host, const char *path, const void *data,
                size_t size)
{
	char *folder = xasprintf("%s/%s", host->folder, path), *command;
	int fd;

	*strrchr(folder, '/') = '\0';
	command = xasprintf("mkdir -p %s", folder);
	assert_int_equal(system(command), 0);
	free(command);
	free(folder);
	fd = openat(host->list.root, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), (ssize_t)size);
	close(fd);
}

static void say(struct host *host, const char *path, const char *text)
{
	put(host, path, text, strlen(text));
}

static json_t *find(struct host *host, const char *name)
{
	json_t *check;
	size_t i;

	json_array_foreach(
	    host->list.checks, i,
	    check) if (!strcmp(json_string_value(json_object_get(check,
	                                                         "name")),
	                       name)) return check;
	fail_msg("no check %s", name);
	return NULL;
}

static void look(struct host *host)
{
	json_decref(host->list.checks);
	host->list.checks = NULL;
	harden_kernel(&host->list);
	harden_system(&host->list);
}

static void is(struct host *host, const char *name, const char *state)
{
	json_t *check = find(host, name);
	const char *found = json_string_value(json_object_get(check, "state"));

	if (strcmp(found, state) != 0)
		fail_msg("%s is %s: %s", name, found,
		         json_string_value(json_object_get(check, "reason")));
}

static void says(struct host *host, const char *name, const char *word)
{
	const char *reason =
	    json_string_value(json_object_get(find(host, name), "reason"));

	if (!strstr(reason, word))
		fail_msg("%s says %s", name, reason);
}

/* One file, what it says, and what follows. */
static const struct single {
	const char *name, *path, *good, *bad;
} singles[] = {
	{ "aslr", "proc/sys/kernel/randomize_va_space", "2\n", "1\n" },
	{ "kernel-pointers", "proc/sys/kernel/kptr_restrict", "1\n", "0\n" },
	{ "kernel-log", "proc/sys/kernel/dmesg_restrict", "1\n", "0\n" },
	{ "ptrace", "proc/sys/kernel/yama/ptrace_scope", "3\n", "0\n" },
	{ "bpf", "proc/sys/kernel/unprivileged_bpf_disabled", "2\n", "0\n" },
	{ "links", "proc/sys/fs/protected_hardlinks", "1\n", "0\n" },
	{ "page-sharing", "sys/kernel/mm/ksm/run", "0\n", "1\n" },
	{ "hyperthreads", "sys/devices/system/cpu/smt/active", "0\n", "1\n" },
	{ "kernel-modules", "proc/sys/kernel/tainted", "512\n", "4096\n" },
	{ "kernel-lockdown", "sys/kernel/security/lockdown",
	  "none [integrity] confidentiality\n",
	  "[none] integrity confidentiality\n" },
	{ "processor-faults", "sys/devices/system/cpu/vulnerabilities/x",
	  "Mitigation: all of it\n", "Vulnerable: none of it\n" },
	{ "swap", "proc/swaps",
	  "Filename Type Size\n/dev/dm-1 partition 1\n/dev/zram0 p 1\n",
	  "Filename Type Size\n/swapfile file 1\n" },
};

static void each_file_decides(void **state)
{
	struct host *host = *state;

	look(host);
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		is(host, singles[i].name, "not-applicable");
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		say(host, singles[i].path, singles[i].good);
	look(host);
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		is(host, singles[i].name, "pass");
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		say(host, singles[i].path, singles[i].bad);
	look(host);
	for (size_t i = 0; i < ARRAY_SIZE(singles); i++)
		is(host, singles[i].name, "fail");
	says(host, "swap", "/swapfile");
	says(host, "processor-faults", "x");
}

static void secure_boot_is_one_byte(void **state)
{
	static const char path[] = "sys/firmware/efi/efivars/SecureBoot-"
				   "8be4df61-93ca-11d2-aa0d-00e098032b8c";
	struct host *host = *state;

	look(host);
	is(host, "secure-boot", "not-applicable");
	put(host, path, "\6\0\0\0\1", 5);
	look(host);
	is(host, "secure-boot", "pass");
	put(host, path, "\6\0\0\0\0", 5);
	look(host);
	is(host, "secure-boot", "fail");
	put(host, path, "\6\0", 2);
	look(host);
	is(host, "secure-boot", "fail");
}

static void virtualization_needs_both(void **state)
{
	struct host *host = *state;

	say(host, "proc/cpuinfo", "flags\t\t: fpu svm sse\n");
	look(host);
	is(host, "virtualization", "fail");
	say(host, "dev/kvm", "");
	look(host);
	is(host, "virtualization", "pass");
	say(host, "proc/cpuinfo", "flags\t\t: fpu sse\n");
	look(host);
	is(host, "virtualization", "fail");
}

static void port_22_is_seen(void **state)
{
	struct host *host = *state;

	say(host, "proc/net/tcp",
	    "  sl  local_address rem_address   st tx_queue\n"
	    "   0: 0100007F:0035 00000000:0000 0A 00000000:00000000\n"
	    "   1: 0100007F:0016 0100007F:9999 01 00000000:00000000\n");
	look(host);
	is(host, "remote-shell", "pass");
	say(host, "proc/net/tcp6",
	    "  sl  local_address rem_address   st tx_queue\n"
	    "   0: 00000000000000000000000000000000:0016 "
	    "00000000000000000000000000000000:0000 0A 00000000:00000000\n");
	look(host);
	is(host, "remote-shell", "fail");
}

static void services_are_found(void **state)
{
	struct host *host = *state;

	say(host, "etc/apt/apt.conf.d/20auto-upgrades",
	    "APT::Periodic::Unattended-Upgrade \"0\";\n");
	say(host, "etc/rsyslog.conf", "# *.* @@loghost\n");
	look(host);
	is(host, "updates", "fail");
	is(host, "host-firewall", "fail");
	is(host, "remote-log", "fail");
	is(host, "persistent-log", "fail");
	say(host, "etc/apt/apt.conf.d/20auto-upgrades",
	    "APT::Periodic::Unattended-Upgrade \"1\";\n");
	say(host, "etc/rsyslog.conf", "*.* @@loghost\n");
	say(host, "var/log/journal/x", "");
	say(host, "etc/systemd/system/sysinit.target.wants/nftables.service",
	    "");
	look(host);
	is(host, "updates", "pass");
	is(host, "host-firewall", "pass");
	is(host, "remote-log", "pass");
	is(host, "persistent-log", "pass");
}

/* Any number of names, of any length, and words that are not UTF-8. */
static void names_that_do_not_fit(void **state)
{
	static const struct harden_check check = { "x", HARDEN_CIS, "t", "h" };
	struct host *host = *state;
	struct harden_names names = { "" };
	char name[200];

	memset(name, 0xff, sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	for (unsigned i = 0; i < 50; i++)
		harden_name(&names, name);
	assert_int_equal(names.count, 50);
	harden_verdict(&host->list, &check, &names, "");
	is(host, "x", "fail");
	says(host, "x", "50: ???");
	says(host, "x", " ...");
}

#define ON_HOST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_HOST(each_file_decides),
		ON_HOST(secure_boot_is_one_byte),
		ON_HOST(virtualization_needs_both),
		ON_HOST(port_22_is_seen),
		ON_HOST(services_are_found),
		ON_HOST(names_that_do_not_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
