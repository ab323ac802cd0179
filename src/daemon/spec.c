/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec - a machine's definition, as clients send it: every key is known, of
 * its type and in its range, or the whole is refused with the place's name.
 * What comes out is whole: nothing after this asks whether a key is there.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/daemon.h"
#include "daemon/limits/limits.h"
#include "storage/image.h"

enum { PATH_BYTES = 4095, WORDS_BYTES = 4096, CMDLINE_BYTES = 65535 };
enum { DISKS_MAX = 15, NICS_MAX = 8, MODULES_MAX = 8, PUBLISH_MAX = 32 };
enum { TAGS_MAX = 64, NAME_BYTES = 63, NEST_MAX = 16 };

/* An object being read into another. The first failure stays in err. */
struct reader {
	json_t *from, *to;
	char where[96];
	int rc;
	struct error *err;
};

static void fail(struct reader *r, const char *key, const char *what)
{
	if (r->rc == 0)
		r->rc = error_set(r->err, -EINVAL, "%s%s%s %s", r->where,
		                  r->where[0] && key[0] ? "." : "", key, what);
}

static void check_keys(struct reader *r, const char *const *keys)
{
	const char *const *known;
	const char *key;
	json_t *value;

	if (!json_is_object(r->from)) {
		fail(r, "", "is not an object");
		return;
	}
	json_object_foreach(r->from, key, value)
	{
		for (known = keys; *known && strcmp(*known, key);)
			known++;
		if (!*known)
			fail(r, key, "is not known");
	}
}

static json_t *find(struct reader *r, const char *key)
{
	json_t *value = json_object_get(r->from, key);

	return r->rc < 0 || json_is_null(value) ? NULL : value;
}

static bool clean(const char *s, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if ((u8)s[i] < ' ' || s[i] == 0x7f)
			return false;
	return true;
}

static const char *check_text(struct reader *r, const char *key, json_t *value,
                              size_t max)
{
	if (!json_is_string(value)) {
		fail(r, key, "is not a string");
		return NULL;
	}
	if (json_string_length(value) > max) {
		fail(r, key, "is too long");
		return NULL;
	}
	if (!clean(json_string_value(value), json_string_length(value))) {
		fail(r, key, "holds control characters");
		return NULL;
	}
	return json_string_value(value);
}

/* fallback NULL: the key stays absent. */
static const char *text(struct reader *r, const char *key, size_t max,
                        const char *fallback)
{
	json_t *value = find(r, key);
	const char *s = fallback;

	if (value)
		s = check_text(r, key, value, max);
	if (s && r->rc == 0)
		json_object_set_new(r->to, key, json_string(s));
	return r->rc == 0 ? s : NULL;
}

static const char *path(struct reader *r, const char *key, bool required)
{
	const char *s = text(r, key, PATH_BYTES, NULL);

	if (required && !s)
		fail(r, key, "is missing");
	if (s && s[0] != '/')
		fail(r, key, "is not a path that begins with /");
	return r->rc == 0 ? s : NULL;
}

static void choice(struct reader *r, const char *key, const char *const *names)
{
	const char *s = text(r, key, 64, names[0]);
	char words[160] = "is none of", *at = words + strlen(words);

	for (size_t i = 0; s && names[i]; i++) {
		if (strcmp(s, names[i]) == 0)
			return;
		at += snprintf(at, (size_t)(words + sizeof(words) - at),
		               "%s %s", i ? "," : "", names[i]);
	}
	fail(r, key, words);
}

static s64 number(struct reader *r, const char *key, s64 min, s64 max,
                  s64 fallback)
{
	json_t *value = find(r, key);
	s64 n = value ? json_integer_value(value) : fallback;
	char words[96];

	if (value && !json_is_integer(value)) {
		fail(r, key, "is not a whole number");
	} else if (n < min || n > max) {
		snprintf(words, sizeof(words),
		         "is not from %" PRId64 " to %" PRId64, min, max);
		fail(r, key, words);
	} else if (r->rc == 0) {
		json_object_set_new(r->to, key, json_integer(n));
	}
	return n;
}

/* As a machine file takes them (vm/config.c). Absent: no limit. */
static void read_disk_limits(struct reader *r)
{
	for (size_t i = 0; disk_limit_keys[i]; i++)
		if (find(r, disk_limit_keys[i]))
			number(r, disk_limit_keys[i], 0, DISK_LIMIT_MAX, 0);
}

static void boolean(struct reader *r, const char *key, bool fallback)
{
	json_t *value = find(r, key);

	if (value && !json_is_boolean(value))
		fail(r, key, "is neither true nor false");
	else if (r->rc == 0)
		json_object_set_new(
		    r->to, key,
		    json_boolean(value ? json_is_true(value) : fallback));
}

/* An object below; absent is as empty. fn reads it. */
static void object(struct reader *r, const char *key,
                   void (*fn)(struct reader *r))
{
	struct reader below = { .err = r->err, .to = json_object() };
	json_t *value = find(r, key), *empty = json_object();

	snprintf(below.where, sizeof(below.where), "%s", key);
	below.from = value ? value : empty;
	if (r->rc == 0) {
		fn(&below);
		r->rc = below.rc;
	}
	json_object_set_new(r->to, key, below.to);
	json_decref(empty);
}

static void objects(struct reader *r, const char *key, size_t max,
                    void (*fn)(struct reader *r))
{
	json_t *value = find(r, key), *list = json_array(), *one;
	size_t i;

	json_object_set_new(r->to, key, list);
	if (value && !json_is_array(value))
		fail(r, key, "is not an array");
	if (json_array_size(value) > max)
		fail(r, key, "has too many elements");
	json_array_foreach(value, i, one)
	{
		struct reader below = { .err = r->err, .from = one };

		if (r->rc < 0)
			return;
		below.to = json_object();
		snprintf(below.where, sizeof(below.where), "%s[%zu]", key, i);
		json_array_append_new(list, below.to);
		fn(&below);
		r->rc = below.rc;
	}
}

static void texts(struct reader *r, const char *key, size_t max_count,
                  size_t max, bool (*valid)(const char *s), const char * not )
{
	json_t *value = find(r, key), *list = json_array(), *one;
	size_t i;

	json_object_set_new(r->to, key, list);
	if (value && !json_is_array(value))
		fail(r, key, "is not an array");
	if (json_array_size(value) > max_count)
		fail(r, key, "has too many elements");
	json_array_foreach(value, i, one)
	{
		if (r->rc < 0 || !check_text(r, key, one, max))
			return;
		if (!valid(json_string_value(one)))
			fail(r, key, not );
		json_array_append(list, one);
	}
}

/* ---- what is said of a machine ---- */

static bool absolute(const char *s)
{
	return s[0] == '/';
}

static bool device(const char *s)
{
	return strcmp(s, "testdev") == 0 || strcmp(s, "debug-exit") == 0;
}

/* [ADDRESS:]PORT:PORT[/udp]; atoll-net reads it with all its rules. */
static bool published(const char *s)
{
	return s[0] && strspn(s, "0123456789.:/udtcp") == strlen(s);
}

static bool mac_valid(const char *s)
{
	unsigned b[6];
	int used = 0;

	return sscanf(s, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2],
	              &b[3], &b[4], &b[5], &used) == 6 &&
	       used == 17 && !s[used] && !(b[0] & 1);
}

static bool interface_valid(const char *s)
{
	return s[0] && strlen(s) < IFNAMSIZ && !strpbrk(s, "/ %") &&
	       strcmp(s, ".") && strcmp(s, "..");
}

static void read_boot(struct reader *r)
{
	static const char *const keys[] = { "kernel", "initrd", "modules",
		                            "cmdline", NULL };

	check_keys(r, keys);
	path(r, "kernel", false);
	path(r, "initrd", false);
	texts(r, "modules", MODULES_MAX, PATH_BYTES, absolute,
	      "holds a path that does not begin with /");
	text(r, "cmdline", CMDLINE_BYTES, "");
}

static void read_disk(struct reader *r)
{
	static const char *const keys[] = {
		"path", "format",     "serial",      "readonly",    "cache",
		"iops", "iops_burst", "bytes_per_s", "bytes_burst", NULL
	};
	/* The first is what it is without being said. */
	static const char *const formats[] = { "raw", "qcow2", NULL };
	static const char *const qcow2[] = { "qcow2", "raw", NULL };
	static const char *const caches[] = { "writeback", "none", "unsafe",
		                              NULL };
	const char *name, *named;

	check_keys(r, keys);
	path(r, "path", true);
	name = json_string_value(find(r, "path"));
	named = name ? image_format_named(name) : NULL;
	if (named && !find(r, "format") && strcmp(named, "raw") != 0 &&
	    strcmp(named, "qcow2") != 0)
		fail(r, "path", "is a disk of other programs: convert it");
	choice(r, "format",
	       named && strcmp(named, "qcow2") == 0 ? qcow2 : formats);
	text(r, "serial", 20, NULL);
	boolean(r, "readonly", false);
	choice(r, "cache", caches);
	read_disk_limits(r);
}

static void read_image_disk(struct reader *r)
{
	check_keys(r, disk_limit_keys);
	read_disk_limits(r);
}

static void read_limits(struct reader *r)
{
	static const char *const keys[] = { "send_bytes_per_s",
		                            "receive_bytes_per_s",
		                            "send_frames_per_s", NULL };

	check_keys(r, keys);
	for (size_t i = 0; keys[i]; i++)
		number(r, keys[i], 0, (s64)1 << 40, 0);
}

/* What only a card in a network of ours has. */
static void read_plug(struct reader *r, const char *type)
{
	bool plugged = type && strcmp(type, "network") == 0;
	const char *name, *address;
	u8 ip[4];

	if (!plugged && (find(r, "network") || find(r, "address") ||
	                 find(r, "trusted") || find(r, "limits"))) {
		fail(r, "type",
		     "is not network, but network, address, trusted "
		     "or limits are given");
		return;
	}
	if (!plugged)
		return;
	name = text(r, "network", NAME_BYTES, NULL);
	if (!name || !spec_name_valid(name))
		fail(r, "network", "is not the name of a network");
	address = text(r, "address", 15, NULL);
	if (address && inet_pton(AF_INET, address, ip) != 1)
		fail(r, "address", "is not an IPv4 address");
	boolean(r, "trusted", false);
	object(r, "limits", read_limits);
}

static void read_nic(struct reader *r)
{
	static const char *const keys[] = { "type",    "tap",     "mac",
		                            "mtu",     "publish", "network",
		                            "address", "trusted", "limits",
		                            NULL };
	static const char *const types[] = { "user", "tap", "network", NULL };
	const char *type, *tap, *mac;

	check_keys(r, keys);
	choice(r, "type", types);
	type = json_string_value(json_object_get(r->to, "type"));
	read_plug(r, type);
	tap = text(r, "tap", IFNAMSIZ, NULL);
	if (type && strcmp(type, "tap") == 0 && (!tap || !interface_valid(tap)))
		fail(r, "tap", "is not the name of an interface");
	if (type && strcmp(type, "tap") && tap)
		fail(r, "tap", "is for the type tap");
	mac = text(r, "mac", 17, NULL);
	if (mac && !mac_valid(mac))
		fail(r, "mac", "is not the address of one network card");
	number(r, "mtu", 68, 65535, 1500);
	texts(r, "publish", PUBLISH_MAX, 64, published,
	      "holds something that is not [ADDRESS:]PORT:PORT[/udp]");
}

static void read_autostart(struct reader *r)
{
	static const char *const keys[] = { "enabled", "order", NULL };

	check_keys(r, keys);
	boolean(r, "enabled", false);
	number(r, "order", 0, 1000000, 0);
}

static void read_restart(struct reader *r)
{
	static const char *const keys[] = { "policy", "max_attempts", NULL };
	static const char *const policies[] = { "no", "on-failure", "always",
		                                NULL };

	check_keys(r, keys);
	choice(r, "policy", policies);
	number(r, "max_attempts", 0, 1000000, 0);
}

static bool list_valid(const char *s)
{
	u64 set[16];

	return cpu_list_parse(s, set, NULL) == 0;
}

/* Below that no machine comes up. */
#define HARD_LIMIT_MIN (16 * MIB)

static void read_resources(struct reader *r)
{
	static const char *const keys[] = { "cpu_weight",
		                            "cpu_limit",
		                            "cpu_reservation",
		                            "cpu_pin",
		                            "memory_reservation_bytes",
		                            "memory_limit_bytes",
		                            "memory_target_bytes",
		                            "memory_hard_limit_bytes",
		                            "io_weight",
		                            NULL };
	const char *pin;
	s64 least, hard;

	check_keys(r, keys);
	number(r, "cpu_weight", 1, 10000, 100);
	number(r, "cpu_limit", 0, 100 * 1024, 0);
	number(r, "cpu_reservation", 0, 100 * 64, 0);
	pin = text(r, "cpu_pin", 256, "");
	if (pin && !list_valid(pin))
		fail(r, "cpu_pin", "is not a list of processors, as 0-3,6");
	least = number(r, "memory_reservation_bytes", 0, (s64)1 << 46, 0);
	number(r, "memory_limit_bytes", 0, (s64)1 << 46, 0);
	number(r, "memory_target_bytes", 0, (s64)1 << 46, 0);
	hard = number(r, "memory_hard_limit_bytes", 0, (s64)1 << 46, 0);
	if (hard && hard < MAX(least, (s64)HARD_LIMIT_MIN))
		fail(r, "memory_hard_limit_bytes",
		     "is less than the reservation, or than 16 MiB");
	number(r, "io_weight", 1, 10000, 100);
}

static void read_ownership(struct reader *r)
{
	const char *project = text(r, "project", NAME_BYTES, "default");
	const char *expires = text(r, "expires", 32, NULL);

	text(r, "owner", 128, "");
	if (project && !spec_name_valid(project))
		fail(r, "project", "is not a name");
	if (expires && time_parse(expires) < 0)
		fail(r, "expires", "is not a time, as 2026-12-31T00:00:00Z");
}

static void read_tags(struct reader *r)
{
	const char *key;
	json_t *value;

	if (!json_is_object(r->from))
		fail(r, "", "is not an object");
	if (json_object_size(r->from) > TAGS_MAX)
		fail(r, "", "has too many elements");
	json_object_foreach(r->from, key, value)
	{
		if (!spec_name_valid(key))
			fail(r, "", "holds a key that is not a name");
		else if (check_text(r, key, value, 256))
			json_object_set(r->to, key, value);
	}
}

static void read_machine(struct reader *r)
{
	static const char *const keys[] = { "name",
		                            "description",
		                            "tags",
		                            "engine",
		                            "cpus",
		                            "max_cpus",
		                            "engine_options",
		                            "image",
		                            "full_copy",
		                            "image_disk",
		                            "memory_bytes",
		                            "boot",
		                            "disks",
		                            "nics",
		                            "virtio_console",
		                            "rng",
		                            "devices",
		                            "autostart",
		                            "restart",
		                            "stop_timeout_s",
		                            "project",
		                            "owner",
		                            "expires",
		                            "resources",
		                            "memory_max_bytes",
		                            "balloon",
		                            "agent",
		                            "share_memory",
		                            "disposable",
		                            NULL };
	static const char *const engines[] = { "auto", "kvm", "bt", "interp",
		                               NULL };
	const char *name, *image;

	check_keys(r, keys);
	name = text(r, "name", NAME_BYTES, NULL);
	if (!name)
		fail(r, "name", "is missing");
	else if (!spec_name_valid(name))
		fail(r, "name",
		     "is not a name: letters, digits, and then also . _ -");
	text(r, "description", WORDS_BYTES, "");
	object(r, "tags", read_tags);
	choice(r, "engine", engines);
	text(r, "engine_options", WORDS_BYTES, "");
	number(r, "cpus", 1, 64, 1);
	number(r, "max_cpus", 0, 64, 0);
	if (number(r, "memory_bytes", 32 << 20, (s64)1 << 46, 512 << 20) % 4096)
		fail(r, "memory_bytes", "is not whole pages of 4096");
	image = text(r, "image", 127, NULL);
	if (image && (image[0] == '.' || strchr(image, '/')))
		fail(r, "image", "is not the name of an image");
	boolean(r, "full_copy", false);
	if (find(r, "image_disk")) {
		if (!image)
			fail(r, "image_disk", "is said, and there is no image");
		object(r, "image_disk", read_image_disk);
	}
	object(r, "boot", read_boot);
	if (r->rc == 0 && !image &&
	    !json_object_get(json_object_get(r->to, "boot"), "kernel"))
		fail(r, "boot.kernel", "is missing, and there is no image");
	objects(r, "disks", DISKS_MAX, read_disk);
	objects(r, "nics", NICS_MAX, read_nic);
	boolean(r, "virtio_console", false);
	boolean(r, "rng", true);
	boolean(r, "balloon", true);
	boolean(r, "share_memory", false);
	boolean(r, "disposable", false);
	boolean(r, "agent", true);
	object(r, "resources", read_resources);
	read_ownership(r);
	if (number(r, "memory_max_bytes", 0, (s64)1 << 46, 0) % 4096)
		fail(r, "memory_max_bytes", "is not whole pages of 4096");
	texts(r, "devices", 8, 32, device, "holds a device that is not known");
	object(r, "autostart", read_autostart);
	object(r, "restart", read_restart);
	number(r, "stop_timeout_s", 1, 86400, 60);
}

json_t *spec_parse(json_t *sent, struct error *err)
{
	struct reader r = { .from = sent, .err = err };

	r.to = json_object();
	read_machine(&r);
	if (r.rc == 0)
		return r.to;
	json_decref(r.to);
	return NULL;
}

/* ---- changes ---- */

static int merge(json_t *to, json_t *patch, int depth)
{
	const char *key;
	json_t *value, *below;

	if (depth > NEST_MAX)
		return -EINVAL;
	json_object_foreach(patch, key, value)
	{
		if (json_is_null(value)) {
			json_object_del(to, key);
		} else if (json_is_object(value)) {
			below = json_object_get(to, key);
			if (!json_is_object(below)) {
				below = json_object();
				json_object_set_new(to, key, below);
			}
			if (merge(below, value, depth + 1) < 0)
				return -EINVAL;
		} else {
			json_object_set(to, key, value);
		}
	}
	return 0;
}

json_t *spec_patch(json_t *spec, json_t *patch, struct error *err)
{
	json_t *copy, *parsed = NULL;

	if (!json_is_object(patch)) {
		error_set(err, -EINVAL, "the change is not an object");
		return NULL;
	}
	copy = json_deep_copy(spec);
	if (merge(copy, patch, 0) < 0)
		error_set(err, -EINVAL, "the change is nested too deep");
	else
		parsed = spec_parse(copy, err);
	json_decref(copy);
	return parsed;
}

/* ---- questions ---- */

bool spec_name_valid(const char *name)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t size = strlen(name);

	if (size == 0 || size > NAME_BYTES || !strchr(first, name[0]) ||
	    id_looks_like(name))
		return false;
	for (size_t i = 1; i < size; i++)
		if (!strchr(first, name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

bool spec_touches_host(json_t *spec)
{
	json_t *boot = json_object_get(spec, "boot"), *nic;
	size_t i;

	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		if (json_object_get(nic, "tap") ||
		    json_is_true(json_object_get(nic, "trusted")) ||
		    json_array_size(json_object_get(nic, "publish")))
			return true;
	}
	return json_object_get(boot, "kernel") ||
	       json_object_get(boot, "initrd") ||
	       json_array_size(json_object_get(boot, "modules")) ||
	       json_array_size(json_object_get(spec, "disks"));
}

/* An address stays a card's own, or the guest would see a new card at each
 * start. IEEE 802: locally administered, of one station. */
int spec_fill(json_t *spec, struct error *err)
{
	json_t *nic;
	char text_[18];
	u8 mac[6];
	size_t i;

	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		if (json_object_get(nic, "mac"))
			continue;
		if (getrandom(mac, sizeof(mac), 0) != (ssize_t)sizeof(mac))
			return error_set(err, -EIO, "no random numbers");
		mac[0] = (u8)((mac[0] & 0xfc) | 0x02);
		snprintf(text_, sizeof(text_), "%02x:%02x:%02x:%02x:%02x:%02x",
		         mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
		json_object_set_new(nic, "mac", json_string(text_));
	}
	return 0;
}
