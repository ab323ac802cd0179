/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/harden/harden.h"

enum { FILE_MAX = 64 * 1024 };

static bool is_there(const struct harden *h, const char *path)
{
	return faccessat(h->root, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool any_there(const struct harden *h, const char *const *paths)
{
	for (; *paths; paths++)
		if (is_there(h, *paths))
			return true;
	return false;
}

/* A line that is no comment has the word. */
static bool file_says(const struct harden *h, const char *path,
                      const char *word)
{
	char *text = malloc(FILE_MAX), *line, *rest = NULL;
	bool found = false;

	if (text && harden_read(h, path, text, FILE_MAX))
		for (line = strtok_r(text, "\n", &rest); line && !found;
		     line = strtok_r(NULL, "\n", &rest)) {
			line += strspn(line, " \t");
			found =
			    *line != '#' && *line != ';' && strstr(line, word);
		}
	free(text);
	return found;
}

/* ---- what else can be reached ---- */

/* /proc/net/tcp: "sl local:port remote:port st"; 0A listens. */
static bool listens(const struct harden *h, const char *table, unsigned port)
{
	char *text = malloc(FILE_MAX), *line, *rest = NULL;
	unsigned local, state;
	bool found = false;

	if (text && harden_read(h, table, text, FILE_MAX))
		for (line = strtok_r(text, "\n", &rest); line && !found;
		     line = strtok_r(NULL, "\n", &rest))
			found = sscanf(line, " %*d: %*[0-9A-F]:%x %*s %x",
			               &local, &state) == 2 &&
			        local == port && state == 0x0a;
	free(text);
	return found;
}

static void check_shell(struct harden *h)
{
	static const struct harden_check check = {
		"remote-shell", HARDEN_CIS, "No remote shell is open",
		"stop it while it is not needed: systemctl disable --now ssh"
	};

	harden_if(h, &check,
	          !listens(h, "proc/net/tcp", 22) &&
	              !listens(h, "proc/net/tcp6", 22),
	          "nothing listens on port 22", "port 22 is open");
}

#define WANTED_BY(target) "etc/systemd/system/" target ".target.wants/"

static void check_firewall(struct harden *h)
{
	static const struct harden_check check = {
		"host-firewall", HARDEN_PLATFORM,
		"A firewall guards the host itself",
		"systemctl enable --now nftables, with rules for who may "
		"manage this host"
	};
	static const char *const units[] = {
		WANTED_BY("sysinit") "nftables.service",
		WANTED_BY("multi-user") "ufw.service",
		WANTED_BY("multi-user") "firewalld.service",
		WANTED_BY("multi-user") "netfilter-persistent.service", NULL
	};

	harden_if(h, &check, any_there(h, units), "one starts with the host",
	          "nftables, ufw, firewalld and netfilter-persistent do not "
	          "start with the host");
}

/* ---- records ---- */

static void check_remote_log(struct harden *h)
{
	static const struct harden_check check = {
		"remote-log", HARDEN_CIS, "Logs are kept on another host, too",
		"systemd-journal-upload, or a line with @@HOST in "
		"/etc/rsyslog.conf"
	};

	harden_if(h, &check,
	          file_says(h, "etc/systemd/journal-upload.conf", "URL=") ||
	              file_says(h, "etc/rsyslog.conf", "@"),
	          "they are sent away",
	          "neither systemd-journal-upload nor rsyslog sends them away");
}

static void check_local_log(struct harden *h)
{
	static const struct harden_check check = {
		"persistent-log", HARDEN_CIS, "Logs outlive a boot",
		"mkdir /var/log/journal && systemctl restart systemd-journald"
	};
	static const char *const places[] = { "var/log/journal",
		                              "var/log/syslog", NULL };

	harden_if(h, &check, any_there(h, places), "they are on a disk",
	          "the journal is in memory alone");
}

static void check_updates(struct harden *h)
{
	static const struct harden_check check = {
		"updates", HARDEN_PLATFORM, "The host is patched in time",
		"apt install unattended-upgrades, and dpkg-reconfigure it"
	};

	if (!is_there(h, "etc/apt"))
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "this is not a Debian host");
	else
		harden_if(h, &check,
		          file_says(h, "etc/apt/apt.conf.d/20auto-upgrades",
		                    "Unattended-Upgrade \"1\""),
		          "unattended-upgrades is on",
		          "nothing installs security updates by itself");
}

/* ---- memory on disk ---- */

static void check_swap(struct harden *h)
{
	static const struct harden_check check = {
		"swap", HARDEN_PLATFORM,
		"Memory of machines is not on a disk in clear",
		"encrypt it (crypttab(5), a random key), use zram, or turn it "
		"off: swapoff -a"
	};
	struct harden_names bad = { "" };
	char text[4096], *line, *rest = NULL, name[256];

	if (!harden_read(h, "proc/swaps", text, sizeof(text))) {
		harden_add(h, &check, HARDEN_NOT_APPLICABLE,
		           "this kernel has no swap");
		return;
	}
	strtok_r(text, "\n", &rest); /* the headings */
	while ((line = strtok_r(NULL, "\n", &rest)))
		if (sscanf(line, "%255s", name) == 1 &&
		    strncmp(name, "/dev/zram", 9) &&
		    strncmp(name, "/dev/dm-", 8) &&
		    strncmp(name, "/dev/mapper/", 12))
			harden_name(&bad, name);
	harden_verdict(h, &check, &bad, "none is in clear");
}

void harden_system(struct harden *h)
{
	check_shell(h);
	check_firewall(h);
	check_local_log(h);
	check_remote_log(h);
	check_updates(h);
	check_swap(h);
}
