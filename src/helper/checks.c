/* SPDX-License-Identifier: Apache-2.0 */
#include "helper/checks.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "launch/helper.h"

enum { WEIGHT_MAX = 10000, PERCENT_MAX = 1024 * 100 };
enum { MTU_MIN = 576, MTU_MAX = 65521 };

/* ---- messages ---- */

static bool is_ended(const char *text, size_t size)
{
	return memchr(text, '\0', size) != NULL;
}

/* It becomes a file's name, in /run/atoll/uids and in control groups. */
static bool is_name(const char *name)
{
	if (!isalnum((u8)name[0]))
		return false;
	for (; *name; name++)
		if (!isalnum((u8)*name) && !strchr("._-", *name))
			return false;
	return true;
}

static bool is_interface(const char *name)
{
	return name[0] && strlen(name) < IFNAMSIZ && strcmp(name, ".") &&
	       strcmp(name, "..") && !strpbrk(name, "/ %:");
}

static bool is_pin(const char *pin)
{
	return pin[strspn(pin, "0123456789,-")] == '\0';
}

static bool is_sound(const struct helper_request *r)
{
	switch (r->op) {
	case HELPER_HELLO:
		return true;
	case HELPER_BRIDGE:
		return is_interface(r->name) && r->mtu >= MTU_MIN &&
		       r->mtu <= MTU_MAX;
	case HELPER_MAP:
		return is_name(r->name) && r->pid > 1;
	case HELPER_CGROUPS_WEIGH:
		return r->weight > 0;
	case HELPER_CGROUP_APPLY:
		return is_name(r->name) && r->pid > 1 && r->weight > 0 &&
		       r->weight <= WEIGHT_MAX &&
		       r->cpu_percent <= PERCENT_MAX && r->io_weight > 0 &&
		       r->io_weight <= WEIGHT_MAX && is_pin(r->pin);
	case HELPER_CGROUPS_OPEN:
	case HELPER_CGROUP_REMOVE:
		return is_name(r->name);
	default:
		return false;
	}
}

int check_request(const void *message, size_t size, struct helper_request *out,
                  struct error *err)
{
	struct helper_request r;

	if (size != sizeof(r))
		return error_set(err, -EMSGSIZE, "not a request");
	memcpy(&r, message, sizeof(r));
	if (r.version != HELPER_VERSION)
		return error_set(err, -EPROTO,
		                 "atoll-helper speaks version %d, not %u",
		                 HELPER_VERSION, r.version);
	if (!is_ended(r.name, sizeof(r.name)) ||
	    !is_ended(r.pin, sizeof(r.pin)) || !is_sound(&r))
		return error_set(err, -EINVAL, "a request that makes no sense");
	*out = r;
	return 0;
}

/* ---- bridges ---- */

static bool is_listed(const char *name, FILE *f)
{
	char line[128];
	bool found = false;

	while (!found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, " \t\r\n#")] = '\0';
		found = strcmp(line, name) == 0;
	}
	return found;
}

int check_bridge(const char *name, const char *allowed, struct error *err)
{
	char path[64];
	FILE *f = fopen(allowed, "re");
	bool listed = f ? is_listed(name, f) : errno == ENOENT;

	if (f)
		fclose(f);
	if (!listed) {
		error_set(err, -EPERM, "the bridge %s is not for machines",
		          name);
		return error_hint(err, "%s has the names of those that are",
		                  allowed);
	}
	snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", name);
	if (access(path, F_OK) == 0)
		return 0;
	error_set(err, -ENODEV, "there is no bridge %s", name);
	return error_hint(err, "ip link show type bridge shows those of this "
	                       "host");
}

/* ---- processes ---- */

static bool same_file(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Made by peer, right below our own. */
static bool is_namespace_of(int process, uid_t peer)
{
	int ns = openat(process, "ns/user", O_RDONLY | O_CLOEXEC), parent;
	uid_t owner;
	bool good;

	if (ns < 0)
		return false;
	good = ioctl(ns, NS_GET_OWNER_UID, &owner) == 0 && owner == peer;
	parent = good ? ioctl(ns, NS_GET_PARENT) : -1;
	good = parent >= 0 && same_file(parent, "/proc/self/ns/user");
	if (parent >= 0)
		close(parent);
	close(ns);
	return good;
}

static bool is_user_of(int process, uid_t peer)
{
	int fd = openat(process, "status", O_RDONLY | O_CLOEXEC);
	unsigned real, effective, saved;
	char text[2048];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *at;

	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = '\0';
	/* The name, which comes first, has its newlines escaped. */
	at = strstr(text, "\nUid:");
	return at &&
	       sscanf(at + 5, "%u %u %u", &real, &effective, &saved) == 3 &&
	       real == peer && effective == peer && saved == peer;
}

static int open_process(pid_t pid, struct error *err)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0
	           ? error_set(err, -ESRCH, "there is no process %d", (int)pid)
	           : fd;
}

static int not_yours(int process, pid_t pid, struct error *err)
{
	close(process);
	return error_set(err, -EPERM, "process %d is not one of the daemon's",
	                 (int)pid);
}

int check_process(pid_t pid, uid_t peer, struct error *err)
{
	int fd = open_process(pid, err);

	if (fd < 0 || is_user_of(fd, peer) || is_namespace_of(fd, peer))
		return fd;
	return not_yours(fd, pid, err);
}

int check_namespace(pid_t pid, uid_t peer, struct error *err)
{
	int fd = open_process(pid, err);

	return fd < 0 || is_namespace_of(fd, peer) ? fd
	                                           : not_yours(fd, pid, err);
}
