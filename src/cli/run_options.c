/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/run.h"
#include "storage/image.h"

enum { CPUS_MAX = 64 };

enum {
	OPT_APPEND = 1,
	OPT_CODE_CACHE,
	OPT_CONSOLE,
	OPT_CPU,
	OPT_CPUS,
	OPT_MAX_CPUS,
	OPT_DEVICE,
	OPT_DISK,
	OPT_ENGINE,
	OPT_GDB,
	OPT_INITRD,
	OPT_INTERACTIVE,
	OPT_FULL,
	OPT_HOSTNAME,
	OPT_KEEP,
	OPT_RM,
	OPT_SSH_KEY,
	OPT_USER,
	OPT_USER_DATA,
	OPT_KERNEL,
	OPT_MEMORY,
	OPT_MODULE,
	OPT_MOVE,
	OPT_MTU,
	OPT_NAME,
	OPT_NET,
	OPT_PERF_MAP,
	OPT_PUBLISH,
	OPT_REPORT,
	OPT_RESTORE,
	OPT_SERIAL,
	OPT_SHARE_MEMORY,
	OPT_TIMEOUT,
	OPT_VERIFY,
};

static const struct option_spec specs[] = {
	{ "name", "NAME", "what the machine is called", OPT_NAME },
	{ "engine", "ENGINE", "auto, kvm, bt or interp (bt,OPTIONS)",
	  OPT_ENGINE },
	{ "cpus", "N", "virtual CPUs (1)", OPT_CPUS },
	{ "max-cpus", "N", "what they may grow to while it runs",
	  OPT_MAX_CPUS },
	{ "cpu", "host|baseline|max", "baseline: resumes on any host",
	  OPT_CPU },
	{ "memory", "SIZE", "guest memory, as 512M or 2G (512M)", OPT_MEMORY },
	{ "share-memory", NULL, "equal pages with other such machines (KSM)",
	  OPT_SHARE_MEMORY },
	{ "kernel", "FILE", "bzImage, PVH or multiboot ELF", OPT_KERNEL },
	{ "initrd", "FILE", "initial RAM disk", OPT_INITRD },
	{ "module", "FILE", "multiboot module; may be repeated", OPT_MODULE },
	{ "append", "WORDS", "added to the kernel command line", OPT_APPEND },
	{ "disk", "FILE[,OPTION]...",
	  "format=, readonly, cache=, iops=, rate=, ...", OPT_DISK },
	{ "net", "user|tap:T|NAME|none", "network cards (user); repeatable",
	  OPT_NET },
	{ "publish", "[A:]PORT:PORT[/udp]", "forward a host port to the guest",
	  OPT_PUBLISH },
	{ "mtu", "BYTES", "of the network cards (1500)", OPT_MTU },
	{ "serial", "stdio|file:F|none", "serial ports (stdio); repeatable",
	  OPT_SERIAL },
	{ "console", "serial|virtio",
	  "virtio: add a console that knows its size", OPT_CONSOLE },
	{ "device", "NAME", "testdev or debug-exit; repeatable", OPT_DEVICE },
	{ "timeout", "TIME", "stop the machine after 90, 1.5m, 1h",
	  OPT_TIMEOUT },
	{ "report", "json:FILE", "figures about the run", OPT_REPORT },
	{ "gdb", "[ADDRESS]:PORT", "wait for a debugger there", OPT_GDB },
	{ "code-cache", "SIZE", "of the bt engine", OPT_CODE_CACHE },
	{ "perf-map", NULL, "name translated code for perf (bt engine)",
	  OPT_PERF_MAP },
	{ "keep", NULL, "keep the machine's disk over the image", OPT_KEEP },
	{ "full", NULL, "a disk of its own: a copy of the image", OPT_FULL },
	{ "rm", NULL, "nothing that it writes is left, on --disk either",
	  OPT_RM },
	SEED_OPTIONS(OPT_USER, OPT_SSH_KEY, OPT_USER_DATA, OPT_HOSTNAME),
	{ "restore", "FILE", "go on from a saved machine", OPT_RESTORE },
	{ "verify", NULL, "check all of its memory first", OPT_VERIFY },
	{ "move", NULL, "the saved machine is used up by it", OPT_MOVE },
	{ "interactive", NULL, "standard input is typed into the console",
	  OPT_INTERACTIVE },
	{ 0 },
};

static int too_many(const char *what, int max, struct error *err)
{
	return error_set(err, -EINVAL, "more than %d %s", max, what);
}

/* The next part of a list with commas, in place; NULL at its end. */
static char *next_part(char **rest)
{
	char *part = *rest, *comma;

	if (!part)
		return NULL;
	comma = strchr(part, ',');
	*rest = comma ? comma + 1 : NULL;
	if (comma)
		*comma = '\0';
	return part;
}

static int disk_limit(const char *part, size_t name, u64 *value,
                      struct error *err)
{
	int rc = parse_size(part + name, 1, value, err);

	if (rc == 0 && (*value == 0 || *value > BIT(53)))
		rc = error_set(err, -EINVAL, "no rate is that");
	return rc < 0 ? (error_prefix(err, "--disk: %s", part), rc) : 0;
}

static int disk_option(struct run_disk *d, const char *part, struct error *err)
{
	if (strcmp(part, "readonly") == 0) {
		d->readonly = true;
	} else if (strncmp(part, "format=", 7) == 0) {
		free(d->format);
		d->format = xstrdup(part + 7);
	} else if (strncmp(part, "cache=", 6) == 0) {
		free(d->cache);
		d->cache = xstrdup(part + 6);
	} else if (strncmp(part, "iops=", 5) == 0) {
		return disk_limit(part, 5, &d->iops, err);
	} else if (strncmp(part, "iops-burst=", 11) == 0) {
		return disk_limit(part, 11, &d->iops_burst, err);
	} else if (strncmp(part, "rate-burst=", 11) == 0) {
		return disk_limit(part, 11, &d->bytes_burst, err);
	} else if (strncmp(part, "rate=", 5) == 0) {
		return disk_limit(part, 5, &d->bytes_per_s, err);
	} else if (strncmp(part, "serial=", 7) == 0) {
		/* virtio 1.1 section 5.2.6: 20 bytes. */
		if (strlen(part + 7) > 20)
			return error_set(err, -EINVAL,
			                 "--disk: serial=%s has more than 20 "
			                 "characters",
			                 part + 7);
		free(d->serial);
		d->serial = xstrdup(part + 7);
	} else {
		error_set(err, -EINVAL, "--disk: there is no option %s", part);
		return error_hint(err, "there are format=, readonly, cache=, "
		                       "iops=, iops-burst=, rate=, rate-burst= "
		                       "and serial=TEXT");
	}
	return 0;
}

/* As atoll disk takes it: what was made as web.qcow2 is no raw disk, whose
 * first write would be the end of the image. */
static int disk_format_said(struct run_disk *d, struct error *err)
{
	const char *named = image_format_named(d->path);

	if (!d->format)
		d->format = xstrdup(named ? named : "raw");
	if (strcmp(d->format, "raw") == 0 || strcmp(d->format, "qcow2") == 0)
		return 0;
	error_set(err, -EINVAL, "--disk: no machine can use a %s disk",
	          d->format);
	return error_hint(err, "atoll disk convert %s DISK.qcow2", d->path);
}

static int add_disk(struct run_options *o, const char *value, struct error *err)
{
	struct run_disk *d = &o->disks[o->disk_count];
	char *copy, *rest, *part;
	int rc = 0;

	if (o->disk_count == RUN_DISKS_MAX)
		return too_many("disks", RUN_DISKS_MAX, err);
	copy = rest = xstrdup(value);
	o->disk_count++;
	d->path = xstrdup(next_part(&rest));
	while (rc == 0 && (part = next_part(&rest)))
		rc = disk_option(d, part, err);
	free(copy);
	if (rc == 0 && !d->path[0])
		rc = error_set(err, -EINVAL, "--disk needs a file");
	return rc < 0 ? rc : disk_format_said(d, err);
}

static int set_engine(struct run_options *o, const char *value,
                      struct error *err)
{
	static const char *const known[] = { "auto", "bt", "interp", "kvm" };
	const char *comma = strchr(value, ',');
	size_t len = comma ? (size_t)(comma - value) : strlen(value);
	char *options;

	free(o->engine);
	o->engine = xasprintf("%.*s", (int)len, value);
	if (comma) {
		options = xasprintf("%s%s%s",
		                    o->engine_options ? o->engine_options : "",
		                    o->engine_options ? "," : "", comma + 1);
		free(o->engine_options);
		o->engine_options = options;
	}
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(o->engine, known[i]) == 0)
			return 0;
	error_set(err, -EINVAL, "there is no engine %s", o->engine);
	return error_hint(err, "the engines are auto, kvm, bt and interp");
}

static void add_engine_option(struct run_options *o, const char *name,
                              const char *value)
{
	const char *old = o->engine_options;
	char *all = xasprintf("%s%s%s%s%s", old ? old : "", old ? "," : "",
	                      name, value ? "=" : "", value ? value : "");

	free(o->engine_options);
	o->engine_options = all;
}

static int add_net(struct run_options *o, const char *value, struct error *err)
{
	o->net_given = true;
	if (strcmp(value, "none") == 0)
		return 0;
	if (strncmp(value, "tap:", 4) == 0
	        ? !value[4]
	        : !value[0] || strchr(value, ':') || !strcmp(value, "tap")) {
		error_set(err, -EINVAL,
		          "--net %s: not user, tap:NAME, a network's name or "
		          "none",
		          value);
		return err->code;
	}
	if (o->net_count == RUN_NETS_MAX)
		return too_many("network cards", RUN_NETS_MAX, err);
	o->nets[o->net_count++] = value;
	return 0;
}

static int add_serial(struct run_options *o, const char *value,
                      struct error *err)
{
	if (strcmp(value, "stdio") && strcmp(value, "none") &&
	    (strncmp(value, "file:", 5) || !value[5]))
		return error_set(err, -EINVAL,
		                 "--serial %s: not stdio, file:NAME or none",
		                 value);
	if (o->serial_count == RUN_SERIALS_MAX)
		return too_many("serial ports", RUN_SERIALS_MAX, err);
	for (unsigned i = 0; i < o->serial_count; i++)
		if (strcmp(value, "stdio") == 0 &&
		    strcmp(o->serials[i], "stdio") == 0)
			return error_set(err, -EINVAL,
			                 "only one --serial can be stdio");
	o->serials[o->serial_count++] = value;
	return 0;
}

static int add_device(struct run_options *o, const char *value,
                      struct error *err)
{
	if (strcmp(value, "testdev") && strcmp(value, "debug-exit")) {
		error_set(err, -EINVAL, "there is no device %s to add", value);
		return error_hint(err, "there are testdev and debug-exit");
	}
	json_array_append_new(o->devices, json_string(value));
	return 0;
}

static int set_console(struct run_options *o, const char *value,
                       struct error *err)
{
	o->console_given = true;
	o->virtio_console = strcmp(value, "virtio") == 0;
	if (!o->virtio_console && strcmp(value, "serial") != 0)
		return error_set(err, -EINVAL,
		                 "--console %s: not serial or virtio", value);
	return 0;
}

static int set_report(struct run_options *o, const char *value,
                      struct error *err)
{
	if (strncmp(value, "json:", 5) != 0 || !value[5]) {
		error_set(err, -EINVAL, "--report %s: not json:FILE", value);
		return error_hint(err, "write --report json:%s", value);
	}
	o->report = value + 5;
	return 0;
}

static int set_name(struct run_options *o, const char *value, struct error *err)
{
	if (!named_valid(value))
		return error_set(err, -EINVAL,
		                 "--name %s: not 1 to 63 letters, digits and "
		                 "dashes",
		                 value);
	o->name = value;
	return 0;
}

static int parse_number(const char *name, const char *value, u64 min, u64 max,
                        u64 *number, struct error *err)
{
	int rc = parse_u64(value, min, max, number, err);

	return rc < 0 ? (error_prefix(err, "--%s", name), rc) : 0;
}

static int set_cpus(const char *name, unsigned *cpus, const char *value,
                    struct error *err)
{
	u64 n;
	int rc = parse_number(name, value, 1, CPUS_MAX, &n, err);

	if (rc == 0)
		*cpus = (unsigned)n;
	return rc;
}

static int set_cpu(struct run_options *o, const char *value, struct error *err)
{
	if (strcmp(value, "host") != 0 && strcmp(value, "baseline") != 0 &&
	    strcmp(value, "max") != 0)
		return error_set(err, -EINVAL,
		                 "--cpu %s: not host, baseline or max", value);
	o->cpu = value;
	return 0;
}

static int set_memory(struct run_options *o, const char *value,
                      struct error *err)
{
	char least[32];
	int rc = parse_size(value, 1, &o->memory_bytes, err);

	if (rc < 0) {
		error_prefix(err, "--memory");
		return rc;
	}
	/* Whole pages; a machine needs some to have its tables in. */
	if (o->memory_bytes < 32 * MIB) {
		error_set(err, -EINVAL,
		          "--memory %s: a machine has at least "
		          "%s",
		          value, format_size(32 * MIB, least, sizeof(least)));
		/* Most likely meant as MiB. */
		return strspn(value, "0123456789") == strlen(value)
		           ? error_hint(err,
		                        "a bare number is in bytes: write %sM",
		                        value)
		           : -EINVAL;
	}
	o->memory_bytes = ALIGN_UP(o->memory_bytes, 2 * MIB);
	return 0;
}

static int set_timeout(struct run_options *o, const char *value,
                       struct error *err)
{
	int rc = parse_duration(value, &o->timeout_ns, err);

	return rc < 0 ? (error_prefix(err, "--timeout"), rc) : 0;
}

static int add_publish(struct run_options *o, const char *value,
                       struct error *err)
{
	if (o->publish_count == RUN_PUBLISH_MAX)
		return too_many("published ports", RUN_PUBLISH_MAX, err);
	o->publish[o->publish_count++] = value;
	return 0;
}

static int add_module(struct run_options *o, const char *value,
                      struct error *err)
{
	if (o->module_count == RUN_MODULES_MAX)
		return too_many("modules", RUN_MODULES_MAX, err);
	o->modules[o->module_count++] = value;
	return 0;
}

static int set_image(struct run_options *o, const char *value,
                     struct error *err)
{
	if (o->image)
		return error_set(err, -EINVAL, "one image at a time: %s or %s",
		                 o->image, value);
	o->image = value;
	return 0;
}

static int one_option(void *ctx, int id, const char *value, struct error *err)
{
	struct run_options *o = ctx;

	switch (id) {
	case 0:
		return set_image(o, value, err);
	case OPT_APPEND:
		o->append = value;
		return 0;
	case OPT_CODE_CACHE:
		add_engine_option(o, "code-cache", value);
		return 0;
	case OPT_CONSOLE:
		return set_console(o, value, err);
	case OPT_CPU:
		return set_cpu(o, value, err);
	case OPT_CPUS:
		return set_cpus("cpus", &o->cpus, value, err);
	case OPT_MAX_CPUS:
		return set_cpus("max-cpus", &o->max_cpus, value, err);
	case OPT_DEVICE:
		return add_device(o, value, err);
	case OPT_DISK:
		return add_disk(o, value, err);
	case OPT_ENGINE:
		return set_engine(o, value, err);
	case OPT_GDB:
		o->gdb = value;
		return 0;
	case OPT_INITRD:
		o->initrd = value;
		return 0;
	case OPT_INTERACTIVE:
		o->interactive = true;
		return 0;
	case OPT_KEEP:
		o->keep = true;
		return 0;
	case OPT_FULL:
		o->full = true;
		return 0;
	case OPT_RM:
		o->disposable = true;
		return 0;
	case OPT_USER:
		o->seed.user = value;
		return 0;
	case OPT_SSH_KEY:
		return seed_add_key(&o->seed, value, err);
	case OPT_USER_DATA:
		o->seed.user_data = value;
		return 0;
	case OPT_HOSTNAME:
		o->seed.hostname = value;
		return 0;
	case OPT_KERNEL:
		o->kernel = value;
		return 0;
	case OPT_MEMORY:
		return set_memory(o, value, err);
	case OPT_MODULE:
		return add_module(o, value, err);
	case OPT_MOVE:
		o->restore_move = true;
		return 0;
	case OPT_MTU:
		return parse_number("mtu", value, 576, 65521, &o->mtu, err);
	case OPT_NAME:
		return set_name(o, value, err);
	case OPT_NET:
		return add_net(o, value, err);
	case OPT_PERF_MAP:
		add_engine_option(o, "perf-map", NULL);
		return 0;
	case OPT_PUBLISH:
		return add_publish(o, value, err);
	case OPT_REPORT:
		return set_report(o, value, err);
	case OPT_RESTORE:
		o->restore = value;
		return 0;
	case OPT_SHARE_MEMORY:
		o->share_memory = true;
		return 0;
	case OPT_VERIFY:
		o->restore_verify = true;
		return 0;
	case OPT_SERIAL:
		return add_serial(o, value, err);
	default:
		return set_timeout(o, value, err); /* OPT_TIMEOUT */
	}
}

static int check_together(struct run_options *o, struct error *err)
{
	bool can_publish = false;

	/* The saved machine says the rest. */
	if (o->restore && !o->image && !o->kernel)
		return 0;
	if (!o->image && !o->kernel) {
		error_set(err, -EINVAL,
		          "nothing to run: name an image or a "
		          "--kernel");
		return error_hint(err, "atoll image build debian:12 && atoll "
		                       "run debian:12");
	}
	if (o->initrd && !o->kernel && !o->image)
		return error_set(err, -EINVAL, "--initrd needs a --kernel");
	if (!o->net_given)
		o->nets[o->net_count++] = "user";
	for (unsigned i = 0; i < o->net_count; i++)
		can_publish |= strncmp(o->nets[i], "tap:", 4) != 0;
	if (o->publish_count && !can_publish)
		return error_set(err, -EINVAL,
		                 "--publish needs --net user or a network");
	/* It learns the size of the terminal; an image knows how to use it. */
	if (!o->console_given && o->image && !o->serial_count)
		o->virtio_console =
		    isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	if (!o->serial_count)
		o->serials[o->serial_count++] = "stdio";
	if (o->keep && !o->image)
		return error_set(err, -EINVAL, "--keep needs an image");
	if (o->full && !o->image)
		return error_set(err, -EINVAL, "--full needs an image");
	if (o->disposable && o->keep)
		return error_set(err, -EINVAL, "--keep and --rm are opposites");
	if (seed_wanted(&o->seed) && o->disk_count == RUN_DISKS_MAX)
		return too_many("disks and a seed", RUN_DISKS_MAX, err);
	return 0;
}

int run_options_parse(struct run_options *o, int argc, char **argv,
                      struct error *err)
{
	int rc;

	memset(o, 0, sizeof(*o));
	if (options_want_help(argc, argv)) {
		options_help("atoll run [OPTION]... IMAGE\n"
		             "       atoll run [OPTION]... --kernel FILE",
		             "Run a machine on this terminal. Ctrl-] opens "
		             "its menu.",
		             specs);
		return 1;
	}
	o->engine = xstrdup("auto");
	o->cpu = "host";
	o->argc = argc;
	o->argv = argv;
	o->cpus = 1;
	o->memory_bytes = 512 * MIB;
	o->devices = json_array();
	rc = options_parse(specs, argc, argv, one_option, o, err);
	return rc < 0 ? rc : check_together(o, err);
}

void run_options_fini(struct run_options *o)
{
	free(o->engine);
	free(o->engine_options);
	for (unsigned i = 0; i < o->disk_count; i++) {
		free(o->disks[i].path);
		free(o->disks[i].format);
		free(o->disks[i].serial);
		free(o->disks[i].cache);
	}
	json_decref(o->devices);
}
