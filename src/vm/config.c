/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config - reads a machine file.
 */
#include "vm/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

enum { STRING_MAX = 4096, CMDLINE_MAX = 65535, NAME_MAX_BYTES = 64 };
enum { MTU_MIN = 68, MTU_MAX = 65535 };
#define LIMIT_MAX BIT(53) /* what JSON's numbers hold exactly */
enum { TIMEOUT_MAX_S = 10 * 365 * 24 * 3600 };

/* An object being read. The first failure stays in err. */
struct reader {
	json_t *object;
	char where[64]; /* "disks[0]", for messages */
	struct fd_table *fds;
	struct error *err;
};

struct fd_table {
	int *fd;
	size_t count;
	u8 uses[128];
	u8 takes[128]; /* by those who close it themselves */
};

static int fail(const struct reader *r, const char *key, const char *what)
{
	return error_set(r->err, -EINVAL, "machine file: %s%s%s %s", r->where,
	                 r->where[0] ? "." : "", key, what);
}

static int check_keys(const struct reader *r, const char *const *keys)
{
	const char *key;
	json_t *value;

	if (!json_is_object(r->object))
		return error_set(r->err, -EINVAL,
		                 "machine file: %s is not an "
		                 "object",
		                 r->where[0] ? r->where : "it");
	json_object_foreach(r->object, key, value)
	{
		const char *const *known = keys;

		while (*known && strcmp(*known, key))
			known++;
		if (!*known)
			return fail(r, key, "is not known");
	}
	return 0;
}

/* NULL if absent or null. */
static json_t *find(const struct reader *r, const char *key)
{
	json_t *v = json_object_get(r->object, key);

	return json_is_null(v) ? NULL : v;
}

static int get_string(const struct reader *r, const char *key, size_t max,
                      const char **out)
{
	json_t *v = find(r, key);
	const char *s;

	if (!v)
		return 0;
	if (!json_is_string(v))
		return fail(r, key, "is not a string");
	s = json_string_value(v);
	if (json_string_length(v) > max)
		return fail(r, key, "is too long");
	for (const char *p = s; *p; p++)
		if ((u8)*p < ' ' || *p == 0x7f)
			return fail(r, key, "holds control characters");
	if (strlen(s) != json_string_length(v))
		return fail(r, key, "holds control characters");
	*out = s;
	return 0;
}

static int get_number(const struct reader *r, const char *key, u64 min, u64 max,
                      u64 *out)
{
	json_t *v = find(r, key);
	char words[80];
	json_int_t n;

	if (!v)
		return 0;
	if (!json_is_integer(v))
		return fail(r, key, "is not a whole number");
	n = json_integer_value(v);
	if (n < 0 || (u64)n < min || (u64)n > max) {
		snprintf(words, sizeof(words),
		         "is not from %" PRIu64 " to %" PRIu64, min, max);
		return fail(r, key, words);
	}
	*out = (u64)n;
	return 0;
}

static int get_bool(const struct reader *r, const char *key, bool *out)
{
	json_t *v = find(r, key);

	if (v && !json_is_boolean(v))
		return fail(r, key, "is neither true nor false");
	if (v)
		*out = json_is_true(v);
	return 0;
}

/* The index of a descriptor; taken: its user will close it. */
static int get_fd(const struct reader *r, const char *key, bool taken, int *out)
{
	u64 index = UINT64_MAX;
	int rc = get_number(r, key, 0, INT32_MAX, &index);

	if (rc < 0 || index == UINT64_MAX)
		return rc;
	if (index >= r->fds->count)
		return fail(r, key, "names a descriptor that was not sent");
	r->fds->uses[index]++;
	r->fds->takes[index] |= taken;
	if (r->fds->takes[index] && r->fds->uses[index] > 1)
		return fail(r, key, "names a descriptor that is used twice");
	*out = r->fds->fd[index];
	return 0;
}

/* Opens the nth object of an array. */
static struct reader element(const struct reader *r, const char *key,
                             json_t *array, size_t i)
{
	struct reader e = *r;

	e.object = json_array_get(array, i);
	snprintf(e.where, sizeof(e.where), "%.24s%s%.24s[%u]", r->where,
	         r->where[0] ? "." : "", key, (unsigned)i);
	return e;
}

typedef int element_fn(struct reader *r, void *out);

static int get_array(const struct reader *r, const char *key, size_t max,
                     size_t size, element_fn *fn, void *out, unsigned *count)
{
	json_t *array = find(r, key);
	size_t n = json_array_size(array);

	if (!array)
		return 0;
	if (!json_is_array(array))
		return fail(r, key, "is not an array");
	if (n > max)
		return fail(r, key, "has too many elements");
	for (size_t i = 0; i < n; i++) {
		struct reader e = element(r, key, array, i);
		int rc = fn(&e, (u8 *)out + i * size);

		if (rc < 0)
			return rc;
	}
	*count = (unsigned)n;
	return 0;
}

/* One of a few words; *which is the default before. */
struct choice {
	const char *key;
	size_t max; /* characters */
	const char *refusal;
	const char *names[3];
};

static int get_choice(const struct reader *r, const struct choice *c,
                      unsigned *which)
{
	const char *text = c->names[*which];
	int rc = get_string(r, c->key, c->max, &text);

	for (unsigned i = 0; rc == 0 && i < ARRAY_SIZE(c->names); i++)
		if (c->names[i] && strcmp(text, c->names[i]) == 0) {
			*which = i;
			return 0;
		}
	return rc < 0 ? rc : fail(r, c->key, c->refusal);
}

/* ---- the parts ---- */

static int read_chain_file(struct reader *r, void *out)
{
	static const char *const keys[] = { "fd", "path", "format", NULL };
	struct machine_disk_file *f = out;
	int rc = check_keys(r, keys);

	f->fd = -1;
	if (rc == 0)
		rc = get_fd(r, "fd", true, &f->fd);
	if (rc == 0 && f->fd < 0)
		rc = fail(r, "fd", "is missing");
	if (rc == 0)
		rc = get_string(r, "path", STRING_MAX, &f->path);
	if (rc == 0 && !f->path)
		rc = fail(r, "path", "is missing");
	if (rc == 0)
		rc = get_string(r, "format", 32, &f->format);
	if (rc == 0 && !f->format)
		rc = fail(r, "format", "is missing");
	return rc;
}

static int read_limits(struct reader *r, struct machine_disk *d)
{
	int rc = get_number(r, "iops", 0, LIMIT_MAX, &d->iops);

	if (rc == 0)
		rc = get_number(r, "iops_burst", 0, LIMIT_MAX, &d->iops_burst);
	if (rc == 0)
		rc =
		    get_number(r, "bytes_per_s", 0, LIMIT_MAX, &d->bytes_per_s);
	if (rc == 0)
		rc =
		    get_number(r, "bytes_burst", 0, LIMIT_MAX, &d->bytes_burst);
	return rc;
}

static int read_cache(struct reader *r, struct machine_disk *d)
{
	static const struct choice cache = { "cache",
		                             32,
		                             "is not writeback, none or unsafe",
		                             { [CACHE_WRITEBACK] = "writeback",
		                               [CACHE_NONE] = "none",
		                               [CACHE_UNSAFE] = "unsafe" } };
	unsigned which = CACHE_WRITEBACK;
	int rc = get_choice(r, &cache, &which);

	d->cache = (enum machine_cache)which;
	return rc;
}

static int read_disk(struct reader *r, void *out)
{
	static const char *const keys[] = {
		"fd",      "path",   "format",     "serial",      "readonly",
		"chain",   "iops",   "iops_burst", "bytes_per_s", "bytes_burst",
		"private", "shared", "cache",      NULL
	};
	struct machine_disk *d = out;
	int rc = check_keys(r, keys);

	d->fd = -1;
	d->path = "disk";
	d->format = "raw";
	if (rc == 0)
		rc = get_fd(r, "fd", true, &d->fd);
	if (rc == 0 && d->fd < 0)
		rc = fail(r, "fd", "is missing");
	if (rc == 0)
		rc = get_string(r, "path", STRING_MAX, &d->path);
	if (rc == 0)
		rc = get_string(r, "format", 32, &d->format);
	if (rc == 0)
		rc = get_string(r, "serial", 20, &d->serial);
	if (rc == 0)
		rc = get_bool(r, "readonly", &d->readonly);
	if (rc == 0)
		rc = read_cache(r, d);
	if (rc == 0)
		rc = get_array(r, "chain", ARRAY_SIZE(d->chain),
		               sizeof(d->chain[0]), read_chain_file, d->chain,
		               &d->chain_count);
	return rc == 0 ? read_limits(r, d) : rc;
}

/* "52:54:00:12:34:56": a unicast address. */
static int parse_mac(const struct reader *r, const char *text, u8 *mac)
{
	unsigned b[6];
	int used = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2],
	           &b[3], &b[4], &b[5], &used) != 6 ||
	    used != 17 || text[used])
		return fail(r, "mac",
		            "is not six hexadecimal bytes with "
		            "colons between them");
	if (b[0] & 1)
		return fail(r, "mac", "is a multicast address");
	for (int i = 0; i < 6; i++)
		mac[i] = (u8)b[i];
	return 0;
}

static int read_nic(struct reader *r, void *out)
{
	static const char *const keys[] = { "fd",  "type",        "mac",
		                            "mtu", "own_network", NULL };
	struct machine_nic *n = out;
	const char *mac = NULL;
	u64 mtu = 0;
	int rc = check_keys(r, keys);

	n->fd = -1;
	n->type = "socket";
	if (rc == 0)
		rc = get_fd(r, "fd", true, &n->fd);
	if (rc == 0 && n->fd < 0)
		rc = fail(r, "fd", "is missing");
	if (rc == 0)
		rc = get_string(r, "type", 16, &n->type);
	if (rc == 0 && strcmp(n->type, "socket") && strcmp(n->type, "tap"))
		rc = fail(r, "type", "is neither socket nor tap");
	if (rc == 0)
		rc = get_number(r, "mtu", MTU_MIN, MTU_MAX, &mtu);
	if (rc == 0)
		rc = get_bool(r, "own_network", &n->own_network);
	if (rc == 0)
		rc = get_string(r, "mac", 17, &mac);
	if (rc == 0 && !mac)
		rc = fail(r, "mac", "is missing");
	if (rc == 0)
		rc = parse_mac(r, mac, n->mac);
	n->mtu = (u16)mtu;
	return rc;
}

static int read_serial(struct reader *r, void *out)
{
	static const char *const keys[] = { "in", "out", NULL };
	struct machine_serial *s = out;
	int rc = check_keys(r, keys);

	s->in = s->out = -1;
	if (rc == 0)
		rc = get_fd(r, "in", false, &s->in);
	if (rc == 0)
		rc = get_fd(r, "out", false, &s->out);
	return rc;
}

static int read_unpack(const struct reader *r, struct machine_config *m)
{
	static const struct choice unpack = { "unpack",
		                              8,
		                              "is none of auto, yes and no",
		                              { [UNPACK_AUTO] = "auto",
		                                [UNPACK_YES] = "yes",
		                                [UNPACK_NO] = "no" } };
	unsigned which = UNPACK_AUTO;
	int rc = get_choice(r, &unpack, &which);

	m->unpack = which;
	return rc;
}

static int read_modules(const struct reader *r, struct machine_config *m)
{
	json_t *array = find(r, "modules");

	if (!array)
		return 0;
	if (!json_is_array(array))
		return fail(r, "modules", "is not an array");
	if (json_array_size(array) > ARRAY_SIZE(m->module_fds))
		return fail(r, "modules", "has too many elements");
	for (size_t i = 0; i < json_array_size(array); i++) {
		json_t *holder =
		    json_pack("{s:O}", "fd", json_array_get(array, i));
		struct reader e = *r;
		int fd = -1;
		int rc;

		e.object = holder;
		snprintf(e.where, sizeof(e.where), "boot.modules[%zu]", i);
		rc = get_fd(&e, "fd", false, &fd);
		json_decref(holder);
		if (rc == 0 && fd < 0)
			rc = fail(&e, "fd", "is missing");
		if (rc < 0)
			return rc;
		m->module_fds[m->module_count++] = fd;
	}
	return 0;
}

static int read_boot(const struct reader *top, struct machine_config *m)
{
	static const char *const keys[] = { "kernel",  "kernel_path",
		                            "initrd",  "initrd_path",
		                            "cmdline", "modules",
		                            "unpack",  NULL };
	struct reader r = *top;
	int rc;

	r.object = find(top, "boot");
	if (!r.object)
		return fail(top, "boot", "is missing");
	snprintf(r.where, sizeof(r.where), "boot");
	rc = check_keys(&r, keys);
	if (rc == 0)
		rc = get_fd(&r, "kernel", false, &m->kernel_fd);
	if (rc == 0)
		rc = get_fd(&r, "initrd", false, &m->initrd_fd);
	if (rc == 0)
		rc = get_string(&r, "kernel_path", STRING_MAX, &m->kernel_path);
	if (rc == 0)
		rc = get_string(&r, "initrd_path", STRING_MAX, &m->initrd_path);
	if (rc == 0)
		rc = get_string(&r, "cmdline", CMDLINE_MAX, &m->cmdline);
	if (rc == 0)
		rc = read_unpack(&r, m);
	return rc == 0 ? read_modules(&r, m) : rc;
}

static int read_devices(const struct reader *r, struct machine_config *m)
{
	json_t *array = find(r, "devices"), *v;
	size_t i;

	if (array && !json_is_array(array))
		return fail(r, "devices", "is not an array");
	json_array_foreach(array, i, v)
	{
		const char *name = json_string_value(v);

		if (name && !strcmp(name, "testdev"))
			m->testdev = true;
		else if (name && !strcmp(name, "debug-exit"))
			m->debug_exit = true;
		else
			return fail(r, "devices",
			            "names something that is "
			            "neither testdev nor debug-exit");
	}
	return 0;
}

static int read_cpu(const struct reader *r, struct machine_config *m)
{
	static const struct choice cpu = { "cpu",
		                           16,
		                           "is none of host, baseline, max",
		                           { "host", "baseline", "max" } };
	unsigned which = 0;
	int rc = get_choice(r, &cpu, &which);

	m->cpu_baseline = which == 1;
	m->cpu_max = which == 2;
	return rc;
}

static int read_machine(const struct reader *r, struct machine_config *m)
{
	u64 cpus = 1, cpus_max = 0, timeout_s = 0;
	int rc = get_string(r, "name", NAME_MAX_BYTES, &m->name);

	if (rc == 0)
		rc = get_string(r, "engine", 32, &m->engine);
	if (rc == 0)
		rc = get_string(r, "engine_options", STRING_MAX,
		                &m->engine_options);
	if (rc == 0)
		rc = get_number(r, "cpus", 1, MACHINE_CPUS_MAX, &cpus);
	if (rc == 0)
		rc = get_number(r, "max_cpus", 0, MACHINE_CPUS_MAX, &cpus_max);
	if (rc == 0)
		rc =
		    get_number(r, "memory_bytes", 1, BIT(46), &m->memory_bytes);
	if (rc == 0)
		rc = get_number(r, "timeout_s", 0, TIMEOUT_MAX_S, &timeout_s);
	if (rc == 0)
		rc = get_bool(r, "virtio_console", &m->virtio_console);
	if (rc == 0)
		rc = get_bool(r, "rng", &m->rng);
	if (rc == 0)
		rc = get_bool(r, "balloon", &m->balloon);
	if (rc == 0)
		rc = get_bool(r, "share_memory", &m->share_memory);
	if (rc == 0)
		rc = read_cpu(r, m);
	m->cpus_present = (unsigned)cpus;
	m->cpus = (unsigned)MAX(cpus, cpus_max);
	m->timeout_ns = timeout_s * NSEC_PER_SEC;
	return rc;
}

/* null: there is none of that number. */
static int read_layers(const struct reader *r, struct machine_config *m)
{
	json_t *array = find(r, "layers"), *index;
	size_t i;

	if (array && !json_is_array(array))
		return fail(r, "layers", "is not an array");
	if (json_array_size(array) > ARRAY_SIZE(m->restore_layers))
		return fail(r, "layers", "has too many elements");
	json_array_foreach(array, i, index)
	{
		json_t *holder = json_pack("{s:O}", "layers", index);
		struct reader e = *r;
		int rc;

		e.object = holder;
		m->restore_layers[i] = -1;
		rc = get_fd(&e, "layers", true, &m->restore_layers[i]);
		json_decref(holder);
		if (rc < 0)
			return rc;
		m->restore_layer_count++;
	}
	return 0;
}

static int read_restore(const struct reader *top, struct machine_config *m)
{
	static const char *const keys[] = { "fd",     "copy", "verify",
		                            "layers", "hold", NULL };
	struct reader r = *top;
	int rc, hold; /* that one stays open is all that it is for */

	r.object = find(top, "restore");
	if (!r.object)
		return 0;
	snprintf(r.where, sizeof(r.where), "restore");
	rc = check_keys(&r, keys);
	m->restore_fd = -1;
	if (rc == 0)
		rc = get_fd(&r, "fd", true, &m->restore_fd);
	if (rc == 0 && m->restore_fd < 0)
		rc = fail(&r, "fd", "is missing");
	if (rc == 0)
		rc = read_layers(&r, m);
	if (rc == 0)
		rc = get_fd(&r, "hold", false, &hold);
	if (rc == 0)
		rc = get_bool(&r, "copy", &m->restore_copy);
	if (rc == 0)
		rc = get_bool(&r, "verify", &m->restore_verify);
	m->restore = rc == 0;
	return rc;
}

static int chain_keep(struct vm_disk_chain *c, int fd, const char *path,
                      const char *format)
{
	unsigned i = c->count;

	c->file[i].fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (c->file[i].fd < 0)
		return -errno;
	c->file[i].path = xstrdup(path);
	c->file[i].format = xstrdup(format);
	c->count++;
	return 0;
}

static int keep_chain(struct vm_disk_chain *c, const struct machine_disk *d)
{
	int rc = chain_keep(c, d->fd, d->path, d->format);

	for (unsigned k = 0; rc == 0 && k < d->chain_count; k++)
		rc = chain_keep(c, d->chain[k].fd, d->chain[k].path,
		                d->chain[k].format);
	return rc;
}

/* Those from `from` up to `to` go. */
static void chain_drop(struct vm_disk_chain *c, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		close(c->file[i].fd);
		free(c->file[i].path);
		free(c->file[i].format);
	}
	memmove(&c->file[from], &c->file[to],
	        (c->count - to) * sizeof(c->file[0]));
	c->count -= to - from;
}

void vm_config_rebase_disk(struct vm_config *config, unsigned disk,
                           unsigned layer)
{
	struct vm_disk_chain *c = &config->chains[disk];

	if (layer < c->count)
		chain_drop(c, 1, layer ? layer : c->count);
}

int vm_config_switch_disk(struct vm_config *config, unsigned disk, int fd,
                          const char *name, struct error *err)
{
	struct vm_disk_chain *c = &config->chains[disk];
	int keep = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (keep < 0 || c->count == ARRAY_SIZE(c->file)) {
		if (keep >= 0)
			close(keep);
		return error_set(err, -E2BIG,
		                 "disk %u has too many images on top of "
		                 "each other",
		                 disk);
	}
	free(c->file[0].path);
	c->file[0].path = xstrdup(name);
	memmove(&c->file[1], &c->file[0], c->count * sizeof(c->file[0]));
	c->file[0].fd = keep;
	c->file[0].path = xstrdup(config->machine.disks[disk].path);
	c->file[0].format = xstrdup("qcow2");
	c->count++;
	config->machine.disks[disk].format = c->file[0].format;
	config->disk_shared[disk] = true;
	close(config->disk_fds[disk]);
	config->disk_fds[disk] = fd;
	return 0;
}

/* What the disks hold belongs to a saved machine as well. */
static int keep_disks(const struct reader *r, struct vm_config *out)
{
	json_t *disks = find(r, "disks");

	for (unsigned i = 0; i < out->machine.disk_count; i++) {
		const struct machine_disk *d = &out->machine.disks[i];

		out->disk_private[i] = json_is_true(
		    json_object_get(json_array_get(disks, i), "private"));
		out->disk_shared[i] = json_is_true(
		    json_object_get(json_array_get(disks, i), "shared"));
		if ((d->readonly || out->disk_private[i]) &&
		    keep_chain(&out->chains[i], d) < 0)
			return fail(r, "disks", "are too many");
		if (d->readonly)
			continue;
		out->disk_fds[i] = fcntl(d->fd, F_DUPFD_CLOEXEC, 3);
		if (out->disk_fds[i] < 0)
			return fail(r, "disks", "are too many");
	}
	return 0;
}

static int read_origin(const struct reader *r, struct vm_config *out)
{
	json_t *origin = find(r, "origin");

	if (!origin)
		return 0;
	if (!json_is_object(origin))
		return fail(r, "origin", "is not an object");
	out->origin = json_dumps(origin, JSON_COMPACT);
	out->machine.origin = out->origin;
	return 0;
}

static int read_all(const struct reader *r, struct vm_config *out)
{
	static const char *const keys[] = {
		"name",     "engine",       "engine_options", "cpus",
		"max_cpus", "memory_bytes", "share_memory",   "boot",
		"disks",    "nics",         "serials",        "virtio_console",
		"rng",      "balloon",      "agent",          "devices",
		"gdb",      "cpu",          "listen",         "records",
		"origin",   "restore",      "timeout_s",      "report",
		NULL
	};
	struct machine_config *m = &out->machine;
	int rc = check_keys(r, keys);

	if (rc == 0)
		rc = read_machine(r, m);
	if (rc == 0)
		rc = read_boot(r, m);
	if (rc == 0)
		rc = get_array(r, "disks", MACHINE_DISKS_MAX,
		               sizeof(m->disks[0]), read_disk, m->disks,
		               &m->disk_count);
	if (rc == 0)
		rc = get_array(r, "nics", MACHINE_NICS_MAX, sizeof(m->nics[0]),
		               read_nic, m->nics, &m->nic_count);
	if (rc == 0)
		rc = get_array(r, "serials", MACHINE_SERIALS_MAX,
		               sizeof(m->serials[0]), read_serial, m->serials,
		               &m->serial_count);
	if (rc == 0)
		rc = read_devices(r, m);
	if (rc == 0)
		rc = get_fd(r, "gdb", true, &m->gdb_fd);
	if (rc == 0)
		rc = get_fd(r, "agent", true, &m->agent_fd);
	m->has_agent = m->agent_fd >= 0;
	if (rc == 0)
		rc = get_fd(r, "report", false, &out->report_fd);
	if (rc == 0)
		rc = get_fd(r, "listen", true, &out->listen_fd);
	if (rc == 0)
		rc = get_fd(r, "records", true, &out->records_fd);
	if (rc == 0)
		rc = read_restore(r, m);
	if (rc == 0)
		rc = keep_disks(r, out);
	return rc == 0 ? read_origin(r, out) : rc;
}

int vm_config_parse(json_t *file, int *fds, size_t fd_count,
                    struct vm_config *out, struct error *err)
{
	struct fd_table table = { .fd = fds, .count = fd_count };
	struct reader r = { .object = file, .fds = &table, .err = err };
	int rc;

	ASSERT(fd_count <= ARRAY_SIZE(table.uses));
	*out = (struct vm_config){
		.machine = { .name = "machine",
		             .engine = "auto",
		             .kernel_fd = -1,
		             .initrd_fd = -1,
		             .gdb_fd = -1,
		             .agent_fd = -1,
		             .memory_bytes = 512 * MIB },
		.report_fd = -1,
		.listen_fd = -1,
		.records_fd = -1,
	};
	for (size_t i = 0; i < ARRAY_SIZE(out->disk_fds); i++)
		out->disk_fds[i] = -1;
	rc = read_all(&r, out);
	for (size_t i = 0; i < fd_count; i++)
		if (rc < 0 || !table.uses[i])
			close(fds[i]);
	if (rc == 0)
		out->json = json_incref(file);
	else
		out->listen_fd = out->records_fd = -1;
	return rc;
}

void vm_config_fini(struct vm_config *config)
{
	for (size_t i = 0; i < ARRAY_SIZE(config->disk_fds); i++)
		if (config->disk_fds[i] > 0)
			close(config->disk_fds[i]);
	for (size_t i = 0; i < ARRAY_SIZE(config->chains); i++)
		chain_drop(&config->chains[i], 0, config->chains[i].count);
	if (config->listen_fd >= 0)
		close(config->listen_fd);
	if (config->records_fd >= 0)
		close(config->records_fd);
	free(config->origin);
	json_decref(config->json);
	*config = (struct vm_config){ .listen_fd = -1, .records_fd = -1 };
}
