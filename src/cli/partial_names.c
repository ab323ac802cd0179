/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/partial_names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/alloc.h"

enum { PARTS_MAX = 4 };

/* ---- names ---- */

static u32 proof_of(u32 number)
{
	return (number ^ 0x5bd1e995u) * 2654435761u;
}

static void name_of(u32 number, char name[PARTIAL_NAME_SIZE])
{
	snprintf(name, PARTIAL_NAME_SIZE, PARTIAL_PREFIX "%08x%08x", number,
	         proof_of(number));
}

int partial_new_name(char name[PARTIAL_NAME_SIZE])
{
	u32 number;

	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
		return -EIO;
	name_of(number, name);
	return 0;
}

static bool is_ours(const char *name)
{
	char again[PARTIAL_NAME_SIZE];
	unsigned number;

	if (sscanf(name, PARTIAL_PREFIX "%8x", &number) != 1)
		return false;
	name_of(number, again);
	return strcmp(name, again) == 0;
}

/* ---- those that nobody makes any more ---- */

bool partial_locks_hold(int folder)
{
	static const u32 local[] = {
		EXT4_SUPER_MAGIC,     XFS_SUPER_MAGIC,
		BTRFS_SUPER_MAGIC,    TMPFS_MAGIC,
		F2FS_SUPER_MAGIC,     OVERLAYFS_SUPER_MAGIC,
		MSDOS_SUPER_MAGIC,    0xca451a4e /* bcachefs */,
		0x2fc12fc1 /* zfs */, 0x2011bab0 /* exfat */,
	};
	struct statfs fs;

	if (fstatfs(folder, &fs) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if ((u32)fs.f_type == local[i])
			return true;
	return false;
}

static void remove_folder(int folder, const char *name, int fd)
{
	DIR *dir = fdopendir(dup(fd));
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			unlinkat(fd, entry->d_name, 0);
	if (dir)
		closedir(dir);
	unlinkat(folder, name, AT_REMOVEDIR);
}

/* It has to be what it was when it was locked. */
static void remove_dead(int folder, const char *name)
{
	int fd = openat(folder, name,
	                O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st, now;

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_uid == geteuid() &&
	    (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) &&
	    flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    fstatat(folder, name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
	    now.st_dev == st.st_dev && now.st_ino == st.st_ino) {
		if (S_ISDIR(st.st_mode))
			remove_folder(folder, name, fd);
		else
			unlinkat(folder, name, 0);
	}
	close(fd);
}

void partial_remove_dead(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (is_ours(entry->d_name))
			remove_dead(folder, entry->d_name);
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
}

/* ---- those with a name, when a signal ends us ---- */

static char *volatile parts[PARTS_MAX];

/* Ends us as the signal would have. */
static void interrupted(int number)
{
	int saved = errno;

	for (unsigned i = 0; i < PARTS_MAX; i++)
		if (parts[i] && unlink(parts[i]) < 0 && errno == EISDIR)
			rmdir(parts[i]);
	signal(number, SIG_DFL);
	raise(number);
	errno = saved;
}

static void listen_to(int number)
{
	struct sigaction action = { .sa_handler = interrupted }, old;

	/* Who started us may have wanted us deaf to it: nohup. */
	if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(number, &action, NULL);
}

void partial_watch(const char *path)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	unsigned i = 0;

	while (i < PARTS_MAX && parts[i])
		i++;
	if (i < PARTS_MAX)
		parts[i] = xstrdup(path);
	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		listen_to(numbers[i]);
}

void partial_unwatch(const char *path)
{
	for (unsigned i = 0; i < PARTS_MAX; i++) {
		char *one = parts[i];

		if (one && strcmp(one, path) == 0) {
			parts[i] = NULL;
			free(one);
		}
	}
}
