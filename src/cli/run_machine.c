/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_machine.c - open everything, and say in the machine file
 * (docs/machine-file.md) which descriptor is what. The worker opens nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/files.h"
#include "cli/net.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "control/cable.h"
#include "launch/launch.h"

int run_machine_add_fd(struct run_machine *m, int fd)
{
	if (m->fd_count == RUN_FDS_MAX) {
		close(fd);
		return -1;
	}
	m->fds[m->fd_count] = fd;
	return (int)m->fd_count++;
}

void run_machine_set_fd(struct run_machine *m, json_t *object, const char *key,
                        int fd)
{
	json_object_set_new(object, key,
	                    json_integer(run_machine_add_fd(m, fd)));
}

static void set_string(json_t *object, const char *key, const char *value)
{
	if (value)
		json_object_set_new(object, key, json_string(value));
}

/* ---- boot ---- */

static int open_modules(struct run_machine *m, const struct run_options *o,
                        json_t *boot, struct error *err)
{
	json_t *list = json_array();
	int fd;

	json_object_set_new(boot, "modules", list);
	for (unsigned i = 0; i < o->module_count; i++) {
		fd = file_open_input("module", o->modules[i], err);
		if (fd < 0)
			return fd;
		json_array_append_new(list,
		                      json_integer(run_machine_add_fd(m, fd)));
	}
	return 0;
}

/*
 * The image's words, with its console moved to the virtio one if that is
 * wanted: on both, each line would come twice to the one terminal. What the
 * kernel says before it has the driver goes out by the serial port.
 */
static char *image_words(const struct run_machine *m,
                         const struct run_options *o)
{
	static const char serial[] = "console=ttyS0";
	const char *words = m->cmdline ? m->cmdline : "";
	const char *at = o->virtio_console ? strstr(words, serial) : NULL;

	if (!at)
		return xstrdup(words);
	return xasprintf("%.*searlycon=uart8250,io,0x3f8 console=hvc0%s",
	                 (int)(at - words), words, at + strlen(serial));
}

/* The image's words, what we know of the terminal, and --append. */
static char *command_line(const struct run_machine *m,
                          const struct run_options *o)
{
	bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	char where[128] = "", host[128] = "", *image, *line;
	const char *term = getenv("TERM");
	struct winsize size = { 0 };

	if (!o->image)
		return xstrdup(o->append ? o->append : "");
	if (o->name)
		snprintf(host, sizeof(host), " systemd.hostname=%s", o->name);
	if (!terminal && !o->interactive)
		snprintf(where, sizeof(where), " atoll.report");
	else if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 &&
	         term && strlen(term) < 32 && !strpbrk(term, " \"'$`\\"))
		snprintf(where, sizeof(where),
		         " atoll.term=%s atoll.size=%ux%u", term, size.ws_col,
		         size.ws_row);
	image = image_words(m, o);
	line = xasprintf("%s%s%s%s%s", image, host, where, o->append ? " " : "",
	                 o->append ? o->append : "");
	free(image);
	return line;
}

static int open_boot(struct run_machine *m, const struct run_options *o,
                     struct error *err)
{
	const char *kernel = o->kernel ? o->kernel : m->kernel;
	/* A kernel given has its own initrd or none. */
	const char *initrd = o->initrd || o->kernel ? o->initrd : m->initrd;
	json_t *boot = json_object();
	char *cmdline;
	int fd;

	json_object_set_new(m->file, "boot", boot);
	fd = file_open_input("kernel", kernel, err);
	if (fd < 0)
		return fd;
	run_machine_set_fd(m, boot, "kernel", fd);
	set_string(boot, "kernel_path", kernel);
	if (initrd) {
		fd = file_open_input("initrd", initrd, err);
		if (fd < 0)
			return fd;
		run_machine_set_fd(m, boot, "initrd", fd);
		set_string(boot, "initrd_path", initrd);
	}
	cmdline = command_line(m, o);
	set_string(boot, "cmdline", cmdline);
	free(cmdline);
	return open_modules(m, o, boot, err);
}

/* ---- networks ---- */

int run_machine_mac(char *text, size_t size, struct error *err)
{
	u8 mac[6];

	if (getrandom(mac, sizeof(mac), 0) != (ssize_t)sizeof(mac))
		return error_set(err, -EIO, "no random numbers");
	/* IEEE 802: locally administered, one station. */
	mac[0] = (u8)((mac[0] & 0xfc) | 0x02);
	snprintf(text, size, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
	         mac[2], mac[3], mac[4], mac[5]);
	return 0;
}

/* Ports lead to the first user network. */
static pid_t start_user_net(const struct run_options *o, bool first, int *link,
                            struct error *err)
{
	const struct launch_net net = {
		.hostname = "atoll",
		.mtu = o->mtu,
		.publish = o->publish,
		.publish_count = first ? o->publish_count : 0,
		.own_group = true,
	};

	return launch_net(&net, link, err);
}

/* A cable into a network's switch; what the network says of cards, too. */
static int plug_in(struct run_machine *m, const struct run_options *o,
                   unsigned i, json_t *nic, struct error *err)
{
	bool first = m->net_count + m->cable_count == 0;
	json_t *network = net_find(o->nets[i], err), *publish, *card;
	struct cable_config config = { .machine = o->name ? o->name : "",
		                       .nic = i };
	int fd, rc;

	if (!network)
		return err->code;
	publish = json_array();
	for (unsigned k = 0; first && k < o->publish_count; k++)
		json_array_append_new(publish, json_string(o->publish[k]));
	card = json_pack("{s:O, s:o}", "mac", json_object_get(nic, "mac"),
	                 "publish", publish);
	config.socket = json_string_value(json_object_get(network, "socket"));
	config.card = card;
	rc = cable_plug(&m->cables[m->cable_count], &config, &fd, err);
	if (rc == 0) {
		m->cable_count++;
		if (!o->mtu)
			json_object_set(
			    nic, "mtu",
			    json_object_get(json_object_get(network, "spec"),
			                    "mtu"));
	}
	json_decref(card);
	json_decref(network);
	return rc < 0 ? error_prefix(err, "--net %s", o->nets[i]) : fd;
}

static int open_net(struct run_machine *m, const struct run_options *o,
                    unsigned i, json_t *nic, struct error *err)
{
	int fd;
	pid_t pid;

	if (strncmp(o->nets[i], "tap:", 4) == 0) {
		set_string(nic, "type", "tap");
		return launch_tap(o->nets[i] + 4, err);
	}
	set_string(nic, "type", "socket");
	if (strcmp(o->nets[i], "user"))
		return plug_in(m, o, i, nic, err);
	pid = start_user_net(o, m->net_count + m->cable_count == 0, &fd, err);
	if (pid < 0)
		return pid;
	m->nets[m->net_count++] = pid;
	return fd;
}

static int open_nets(struct run_machine *m, const struct run_options *o,
                     struct error *err)
{
	json_t *list = json_array(), *nic;
	char mac[18];
	int fd, rc;

	json_object_set_new(m->file, "nics", list);
	for (unsigned i = 0; i < o->net_count; i++) {
		nic = json_object();
		json_array_append_new(list, nic);
		json_object_set_new(nic, "mtu",
		                    json_integer(o->mtu ? (int)o->mtu : 1500));
		if (o->saved && saved_mac(o->saved, i)) {
			set_string(nic, "mac", saved_mac(o->saved, i));
		} else {
			rc = run_machine_mac(mac, sizeof(mac), err);
			if (rc < 0)
				return rc;
			set_string(nic, "mac", mac);
		}
		fd = open_net(m, o, i, nic, err);
		if (fd < 0)
			return fd;
		run_machine_set_fd(m, nic, "fd", fd);
	}
	return 0;
}

/* ---- serial ports ---- */

static int add_pipes(struct run_machine *m, json_t *port, struct error *err)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	run_machine_set_fd(m, port, "in", in[0]);
	m->console_in = in[1];
	if (pipe2(out, O_CLOEXEC) < 0)
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	run_machine_set_fd(m, port, "out", out[1]);
	m->console_out = out[0];
	return 0;
}

static int open_serials(struct run_machine *m, const struct run_options *o,
                        struct error *err)
{
	json_t *list = json_array(), *port;
	int fd, rc = 0;

	json_object_set_new(m->file, "serials", list);
	for (unsigned i = 0; i < o->serial_count && rc == 0; i++) {
		port = json_object();
		json_array_append_new(list, port);
		if (strcmp(o->serials[i], "stdio") == 0) {
			rc = add_pipes(m, port, err);
		} else if (strncmp(o->serials[i], "file:", 5) == 0) {
			fd = file_open_output("serial log", o->serials[i] + 5,
			                      err);
			if (fd < 0)
				return fd;
			run_machine_set_fd(m, port, "out", fd);
		}
	}
	return rc;
}

/* ---- the whole ---- */

static int open_rest(struct run_machine *m, const struct run_options *o,
                     struct error *err)
{
	int fd;

	if (o->report) {
		fd = file_open_output("report", o->report, err);
		if (fd < 0)
			return fd;
		run_machine_set_fd(m, m->file, "report", fd);
	}
	if (o->gdb) {
		fd = socket_listen("--gdb", o->gdb, err);
		if (fd < 0)
			return fd;
		run_machine_set_fd(m, m->file, "gdb", fd);
	}
	return 0;
}

static int open_saved(struct run_machine *m, const struct run_options *o,
                      struct error *err)
{
	struct stat st;
	json_t *restore;
	int fd;

	if (!o->saved)
		return 0;
	fd = fcntl(o->saved->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(err, -errno, "%s: %s", o->saved->path,
		                 strerror(errno));
	/* One with a second name is a snapshot's too. */
	restore =
	    json_pack("{s:b,s:b}", "copy", !o->restore_move || st.st_nlink > 1,
	              "verify", o->restore_verify);
	json_object_set_new(m->file, "restore", restore);
	run_machine_set_fd(m, restore, "fd", fd);
	return 0;
}

/* An option of argv at i that says how a saved machine is used, and not what
 * the machine is, or that is said anew: how many words it is long. */
static int not_origin(char *const *argv, int i)
{
	if (strcmp(argv[i], "--restore") == 0 ||
	    strcmp(argv[i], "--console") == 0)
		return 2;
	return strncmp(argv[i], "--restore=", 10) == 0 ||
	       strncmp(argv[i], "--console=", 10) == 0 ||
	       strcmp(argv[i], "--verify") == 0 ||
	       strcmp(argv[i], "--move") == 0;
}

/* For whoever saves the machine: how it is started again. */
static void set_origin(struct run_machine *m, const struct run_options *o)
{
	json_t *origin = json_object(), *argv = json_array(),
	       *macs = json_array(), *nic;
	char *cwd = getcwd(NULL, 0);
	size_t n;

	for (int i = 1; i < o->argc; i++) {
		int skip = not_origin(o->argv, i);

		if (skip)
			i += skip - 1;
		else
			json_array_append_new(argv, json_string(o->argv[i]));
	}
	/* Which one depended on the terminal. */
	json_array_append_new(argv, json_string("--console"));
	json_array_append_new(
	    argv, json_string(o->virtio_console ? "virtio" : "serial"));
	json_array_foreach(json_object_get(m->file, "nics"), n, nic)
	    json_array_append(macs, json_object_get(nic, "mac"));
	json_object_set_new(origin, "argv", argv);
	json_object_set_new(origin, "macs", macs);
	set_string(origin, "cwd", cwd);
	if (json_array_size(m->beside))
		json_object_set(origin, "beside", m->beside);
	set_string(origin, "image_disk", m->image_disk);
	set_string(origin, "image_format", m->image_format);
	json_object_set_new(m->file, "origin", origin);
	free(cwd);
}

int run_machine_prepare(struct run_machine *m, const struct run_options *o,
                        struct error *err)
{
	int rc;

	memset(m, 0, sizeof(*m));
	m->console_in = m->console_out = -1;
	m->file =
	    json_pack("{s:s, s:s, s:i, s:I, s:b, s:b, s:O}", "name",
	              o->name ? o->name : "machine", "engine", o->engine,
	              "cpus", (int)o->cpus, "memory_bytes",
	              (json_int_t)o->memory_bytes, "virtio_console",
	              o->virtio_console, "rng", true, "devices", o->devices);
	if (o->share_memory)
		json_object_set_new(m->file, "share_memory", json_true());
	if (o->max_cpus)
		json_object_set_new(m->file, "max_cpus",
		                    json_integer((json_int_t)o->max_cpus));
	set_string(m->file, "engine_options", o->engine_options);
	set_string(m->file, "cpu", o->cpu);
	if (o->timeout_ns)
		json_object_set_new(
		    m->file, "timeout_s",
		    json_integer(
			(json_int_t)((o->timeout_ns + NSEC_PER_SEC - 1) /
		                     NSEC_PER_SEC)));
	rc = run_disks_open(m, o, err);
	if (rc == 0)
		rc = open_boot(m, o, err);
	if (rc == 0)
		rc = open_serials(m, o, err);
	if (rc == 0)
		rc = open_rest(m, o, err);
	if (rc == 0)
		rc = open_saved(m, o, err);
	if (rc == 0)
		rc = open_nets(m, o, err);
	if (rc == 0)
		set_origin(m, o);
	else
		run_machine_fini(m);
	return rc;
}

void run_machine_fini(struct run_machine *m)
{
	json_decref(m->file);
	for (unsigned i = 0; i < m->fd_count; i++)
		close(m->fds[i]);
	if (m->console_in >= 0)
		close(m->console_in);
	if (m->console_out >= 0)
		close(m->console_out);
	for (unsigned i = 0; i < m->cable_count; i++)
		cable_destroy(m->cables[i]);
	/* Their cables are out now: they end by themselves. */
	for (unsigned i = 0; i < m->net_count; i++)
		launch_end(m->nets[i], 2000);
	for (unsigned i = 0; i < m->disk_count; i++)
		free(m->disk_paths[i]);
	json_decref(m->beside);
	free(m->image_disk);
	free(m->kernel);
	free(m->initrd);
	free(m->cmdline);
	memset(m, 0, sizeof(*m));
	m->console_in = m->console_out = -1;
}
