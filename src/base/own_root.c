/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_root - an empty file system made in some folder, then made the root; the
 * old one goes away.
 */
#include "base/own_root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

/* Room for the few names in it; nothing is ever written there. */
#define SIZE "size=64k,nr_inodes=16,mode=755"

/* Where it is built: what lies below is out of sight for a moment, and for this
 * process alone. */
static const char *find_folder(void)
{
	static const char *const folders[] = { "/tmp", "/run", "/mnt", "/var" };

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (mount("atoll", folders[i], "tmpfs",
		          MS_NOSUID | MS_NODEV | MS_NOEXEC, SIZE) == 0)
			return folders[i];
	return NULL;
}

/* The folders above, below the working directory. */
static void make_above(const char *name)
{
	char path[128];

	for (const char *slash = strchr(name, '/'); slash;
	     slash = strchr(slash + 1, '/')) {
		snprintf(path, sizeof(path), "%.*s", (int)(slash - name), name);
		mkdir(path, 0755);
	}
}

/* What the host does not let us show will be missing when it is opened, and
 * that says so. */
static void show(const struct own_root_show *what)
{
	const char *name = what->path + 1;
	int fd = -1;

	if (access(what->path, F_OK) < 0)
		return;
	make_above(name);
	if (what->folder
	        ? mkdir(name, 0755) < 0
	        : (fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) < 0)
		return;
	if (fd >= 0)
		close(fd);
	/* A namespace may not take apart what was mounted together. */
	if (mount(what->path, name, NULL, MS_BIND | (what->folder ? MS_REC : 0),
	          NULL) < 0 &&
	    errno != ENOENT)
		log_info("own-root", "%s is not shown: %s", what->path,
		         strerror(errno));
}

/* The working directory is the new root. */
static int change_root(void)
{
	if (syscall(SYS_pivot_root, ".", ".") == 0)
		return umount2(".", MNT_DETACH) < 0 ? -errno : 0;
	/* A host that runs from its first file system has none to swap. */
	if (errno != EINVAL || mount(".", "/", NULL, MS_MOVE, NULL) < 0 ||
	    chroot(".") < 0)
		return -errno;
	return 0;
}

int own_root_enter(const struct own_root_show *shown, struct error *err)
{
	const char *folder;
	int rc = 0;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_set(err, -errno, "mounts: %s", strerror(errno));
	folder = find_folder();
	if (!folder || chdir(folder) < 0)
		return error_set(err, -errno, "a root of our own: %s",
		                 strerror(errno));
	for (; shown->path; shown++)
		show(shown);
	rc = change_root();
	if (rc == 0 && chdir("/") < 0)
		rc = -errno;
	if (rc == 0 && mount(NULL, "/", NULL,
	                     MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID |
	                         MS_NODEV | MS_NOEXEC,
	                     NULL) < 0)
		rc = -errno;
	return rc < 0
	           ? error_set(err, rc, "a root of our own: %s", strerror(-rc))
	           : 0;
}

int own_root_drop(struct error *err)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = { 0 };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_capset, &head, none) < 0)
		return error_set(err, -errno, "privileges: %s",
		                 strerror(errno));
	return 0;
}
