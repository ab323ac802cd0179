/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main - atoll-helper: does for a daemon that is not root the few things that
 * take root. It is started by atolld --user, while that is root still. What
 * does them is a process of its own, started again when it dies.
 */
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "helper/filter.h"
#include "helper/keeper.h"
#include "helper/serve.h"
#include "launch/uid.h"

enum { END_FAILED = 1, END_BAD_USE = 2, LINGER_MS = 10000 };

static int usage(FILE *to)
{
	fputs("usage: atoll-helper --listen-fd N --user UID\n"
	      "Does for atolld --user, which starts it, what takes root.\n",
	      to);
	return to == stderr ? END_BAD_USE : 0;
}

/*
 * User namespaces' maps (SETUID, SETGID, SYS_ADMIN), of processes of others
 * (DAC_OVERRIDE, SYS_PTRACE); tap devices; control groups.
 */
static int keep_some(void)
{
	static const int kept[] = { CAP_SETUID,     CAP_SETGID,
		                    CAP_SYS_ADMIN,  CAP_DAC_OVERRIDE,
		                    CAP_SYS_PTRACE, CAP_NET_ADMIN };
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	data[0].inheritable = data[1].inheritable = 0;
	data[1].effective = data[1].permitted = 0;
	for (unsigned i = 0; i < 32; i++) {
		bool keep = false;

		for (size_t k = 0; k < ARRAY_SIZE(kept); k++)
			keep = keep || (unsigned)kept[k] == i;
		if (!keep)
			data[0].permitted &= ~(1u << i);
	}
	data[0].effective = data[0].permitted;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_capset, &head, data) < 0)
		return -errno;
	return 0;
}

static int confine(const struct filter *filter, struct error *err)
{
	int rc = filter_enter(filter);

	return rc < 0 ? error_set(err, rc,
	                          "no filter of system calls (%s): nothing is "
	                          "done without",
	                          strerror(-rc))
	              : 0;
}

static int work(void *ctx)
{
	struct error err = { 0 };
	int rc = confine(&worker_filter, &err);

	if (rc == 0)
		rc = serve(ctx, &err);
	if (rc == 0)
		return 0;
	log_error("helper", "%s", err.text);
	return END_FAILED;
}

int main(int argc, char **argv)
{
	struct serve_config config = { .uids = UID_FOLDER,
		                       .bridges = "/etc/atoll/bridges",
		                       .linger_ms = LINGER_MS };
	struct error err = { 0 };
	u64 fd, user;
	int rc;

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("atoll-helper " ATOLL_VERSION);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return usage(stdout);
	if (argc != 5 || strcmp(argv[1], "--listen-fd") != 0 ||
	    parse_u64(argv[2], 3, 1 << 20, &fd, NULL) < 0 ||
	    strcmp(argv[3], "--user") != 0 ||
	    parse_u64(argv[4], 1, UINT32_MAX - 1, &user, NULL) < 0)
		return usage(stderr);
	log_setup(STDERR_FILENO, LOG_WARN, "atoll-helper");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	config.listener = (int)fd;
	config.user = (uid_t)user;
	rc = keep_some();
	if (rc < 0)
		error_set(&err, rc, "privileges: %s", strerror(-rc));
	if (rc == 0)
		rc = confine(&keeper_filter, &err);
	if (rc == 0)
		rc = keeper_run(work, &config);
	if (rc == 0)
		return 0;
	log_error("helper", "%s", err.text);
	return END_FAILED;
}
