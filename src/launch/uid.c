/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uid.c - one file for each number that was ever given out, named after it: it
 * says to which machine, and is locked while that machine runs.
 */
#include "launch/uid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/place.h"

enum { NAME_ROOM = 128 };

/* FNV-1a, 32 bits. */
static u32 hash_of(const char *text)
{
	u32 hash = 2166136261u;

	while (*text)
		hash = (hash ^ (u8)*text++) * 16777619u;
	return hash;
}

static int open_slot(int folder, u32 slot, int how)
{
	char name[16];
	int fd;

	snprintf(name, sizeof(name), "%u", UID_FIRST + slot);
	fd = openat(folder, name, how | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* By another descriptor than the one that is given away. */
static int set_owner(int folder, u32 slot, const char *machine)
{
	size_t size = strlen(machine);
	int fd = open_slot(folder, slot, O_WRONLY | O_TRUNC), rc;

	if (fd < 0)
		return fd;
	rc = write(fd, machine, size) == (ssize_t)size ? 0 : -EIO;
	close(fd);
	return rc;
}

/* A number may be taken from a machine that does not run only where all are
 * somebody's: steal says so. */
static int try_slot(int folder, u32 slot, const char *machine, bool steal)
{
	char owner[NAME_ROOM] = "";
	int fd = open_slot(folder, slot, O_RDONLY | O_CREAT), rc = -EBUSY;
	ssize_t n;

	if (fd < 0)
		return fd;
	n = pread(fd, owner, sizeof(owner) - 1, 0);
	if (n < 0)
		rc = -errno;
	else if ((n == 0 || steal || strcmp(owner, machine) == 0) &&
	         flock(fd, LOCK_EX | LOCK_NB) == 0)
		rc = 0;
	/* Somebody else may have had it first. */
	if (rc == 0 && n == 0 && pread(fd, owner, sizeof(owner) - 1, 0) > 0 &&
	    strcmp(owner, machine) != 0)
		rc = -EBUSY;
	if (rc == 0 && strcmp(owner, machine) != 0)
		rc = set_owner(folder, slot, machine);
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

static int search(int folder, const char *machine, u32 *uid)
{
	u32 slot, first = hash_of(machine) % UID_COUNT;
	int rc;

	for (u32 i = 0; i < 2 * UID_COUNT; i++) {
		slot = (first + i) % UID_COUNT;
		rc = try_slot(folder, slot, machine, i >= UID_COUNT);
		if (rc == -EBUSY)
			continue;
		if (rc >= 0)
			*uid = UID_FIRST + slot;
		return rc;
	}
	return -EUSERS;
}

int uid_take(const char *path, const char *machine, u32 *uid, struct error *err)
{
	int rc = place_make(path, err), folder;
	struct stat st;

	if (rc < 0)
		return rc;
	if (strlen(machine) >= NAME_ROOM)
		return error_set(err, -ENAMETOOLONG, "%.40s...: too long",
		                 machine);
	folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (folder < 0 || fstat(folder, &st) < 0)
		rc = -errno;
	else if (st.st_uid != geteuid() || (st.st_mode & 022))
		rc = -EPERM; /* who writes there says who is who */
	else
		rc = search(folder, machine, uid);
	if (folder >= 0)
		close(folder);
	if (rc < 0)
		return error_set(err, rc, "no user id for %s in %s: %s",
		                 machine, path, strerror(-rc));
	return rc;
}
