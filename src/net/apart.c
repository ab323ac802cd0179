/* SPDX-License-Identifier: Apache-2.0 */
#include "net/apart.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/kernel_file.h"
#include "base/log.h"
#include "base/own_root.h"

#define RESOLV_CONF "/etc/resolv.conf"

/* The same user inside as outside. */
static int map_user(uid_t uid, gid_t gid)
{
	char text[48];
	int rc;

	snprintf(text, sizeof(text), "%u %u 1\n", uid, uid);
	rc = kernel_file_write(AT_FDCWD, "/proc/self/uid_map", text);
	if (rc == 0)
		rc =
		    kernel_file_write(AT_FDCWD, "/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "%u %u 1\n", gid, gid);
	return rc == 0 ? kernel_file_write(AT_FDCWD, "/proc/self/gid_map", text)
	               : rc;
}

static void apart(int also, const struct own_root_show *shown)
{
	/* Root needs none to have the others, and a stack of root's would
	 * lose its right to send echo requests. */
	bool user = geteuid() != 0;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	struct error err = { 0 };
	int rc = 0;

	if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | also |
	            (user ? CLONE_NEWUSER : 0)) < 0)
		rc = -errno;
	if (rc == 0 && user)
		rc = map_user(uid, gid);
	if (rc < 0)
		log_info("net", "no namespaces: %s", strerror(-rc));
	else if (own_root_enter(shown, &err) < 0)
		log_info("net", "%s", err.text);
}

void apart_stack(void)
{
	struct own_root_show shown[3] = { { "/etc", true } };
	char real[PATH_MAX], *folder;

	/* It may be a link to where a resolver of the host keeps it. */
	if (realpath(RESOLV_CONF, real)) {
		folder = dirname(real);
		if (strncmp(folder, "/etc", 4) != 0 && strlen(folder) < 100)
			shown[1] = (struct own_root_show){ folder, true };
	}
	apart(0, shown);
}

void apart_switch(void)
{
	static const struct own_root_show nothing[] = { { NULL } };

	apart(CLONE_NEWNET, nothing);
}
