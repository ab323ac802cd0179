/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main - atolld: the machines of one host.
 *
 * It needs no configuration. When it ends, however it ends, its machines go
 * on; the next one finds them.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/kernel_file.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/backup/backup.h"
#include "daemon/backup/schedule.h"
#include "daemon/image/image.h"
#include "daemon/limits/limits.h"
#include "daemon/network.h"
#include "daemon/privileges.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum { END_FAILED = 1, END_BAD_USE = 2, BACKLOG = 128, FDS_MOST = 16384 };
enum { LISTEN_FDS_START = 3, LISTEN_FDS_MOST = 6 };
enum { ENDING_US = 2000000, STEP_US = 10000 };

struct options {
	const char *listen, *certificate, *key, *client_ca, *client_crl, *user;
	int ready_fd;
	bool verbose;
};

struct program {
	struct daemon d;
	struct options options;
	int lock, signals, helper;
	struct loop_fd *signal_watch;
	bool own_socket;
};

static const char usage_text[] =
    "usage: atolld [OPTION]...\n\n"
    "Keeps the machines of this host, and serves the REST API on a socket.\n\n"
    "  --listen ADDRESS:PORT  serve the API there too, with TLS and tokens\n"
    "  --certificate FILE     of that (PEM)\n"
    "  --key FILE             its private key (PEM)\n"
    "  --client-ca FILE       who signs certificates of callers there, which "
    "they\n"
    "                         then need (PEM)\n"
    "  --client-crl FILE      which of those are revoked (PEM); read again "
    "when it\n"
    "                         is another\n"
    "  --user NAME            as root: be that user, with atoll-helper's "
    "help\n"
    "  --ready-fd N           write a byte there once requests are taken\n"
    "  --verbose              say more on standard error\n"
    "  --version, --help\n\n"
    "ATOLL_STATE_DIR and ATOLL_RUNTIME_DIR move where it keeps things.\n";

/* ---- options ---- */

static int parse(struct options *o, int argc, char **argv)
{
	const char *ready = NULL;
	struct {
		const char *name, **value;
	} values[] = { { "--listen", &o->listen },
		       { "--certificate", &o->certificate },
		       { "--key", &o->key },
		       { "--client-ca", &o->client_ca },
		       { "--client-crl", &o->client_crl },
		       { "--user", &o->user },
		       { "--ready-fd", &ready } };
	size_t n;

	o->ready_fd = -1;
	for (int i = 1; i < argc; i++) {
		for (n = 0;
		     n < ARRAY_SIZE(values) && strcmp(values[n].name, argv[i]);)
			n++;
		if (n < ARRAY_SIZE(values) && i + 1 < argc) {
			*values[n].value = argv[++i];
		} else if (strcmp(argv[i], "--verbose") == 0) {
			o->verbose = true;
		} else {
			fprintf(stderr, "error: %s is not known%s\n", argv[i],
			        n < ARRAY_SIZE(values) ? " without a value"
			                               : "");
			return -1;
		}
	}
	if (ready)
		o->ready_fd = atoi(ready);
	if (o->listen && (!o->certificate || !o->key)) {
		fputs("error: --listen needs --certificate and --key\n",
		      stderr);
		return -1;
	}
	if (o->client_crl && !o->client_ca) {
		fputs("error: --client-crl needs --client-ca\n", stderr);
		return -1;
	}
	return 0;
}

/* ---- one daemon for a state ---- */

/* One that was killed is not gone at once: it or a process that it was about
 * to start has the lock until it is. */
static bool lock_state(int fd)
{
	for (unsigned us = 0; us < ENDING_US; us += STEP_US) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		usleep(STEP_US);
	}
	return false;
}

static int take_state(struct program *p, struct error *err)
{
	struct place *place = &p->d.place;
	char *path;
	int rc = place_make(place->state, err);

	if (rc == 0)
		rc = place_make(place->runtime, err);
	if (rc < 0)
		return rc;
	path = xasprintf("%s/lock", place->state);
	p->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (p->lock < 0) {
		rc = error_set(err, -errno, "%s: %s", path, strerror(errno));
	} else if (!lock_state(p->lock)) {
		rc = error_set(err, -EBUSY,
		               "another atolld keeps the machines "
		               "in %s",
		               place->state);
		error_hint(err, "one is enough; ATOLL_STATE_DIR moves this one "
		                "elsewhere");
	}
	free(path);
	return rc;
}

static int open_registry(struct program *p, struct error *err)
{
	char *path = xasprintf("%s/registry.db", p->d.place.state);
	int rc = store_open(&p->d.store, path, err);

	free(path);
	if (rc < 0 && !err->hint[0])
		error_hint(err,
		           "nothing was changed; the machines' disks are "
		           "in %s/machines",
		           p->d.place.state);
	return rc;
}

/* ---- listeners ---- */

static int open_socket(struct program *p, struct error *err)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd, code, folder;

	folder = open(p->d.place.runtime, O_PATH | O_DIRECTORY | O_CLOEXEC);
	/* By its folder's descriptor a path of any length fits. */
	snprintf(name.sun_path, sizeof(name.sun_path),
	         "/proc/self/fd/%d/atolld.sock", folder);
	/* Whoever bound it before is gone: we have the lock. */
	unlink(name.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ||
	    chmod(name.sun_path, 0666) < 0 || listen(fd, BACKLOG) < 0) {
		code = errno;
		if (fd >= 0)
			close(fd);
		close(folder);
		return error_set(err, -code, "%s: %s", p->d.place.socket,
		                 strerror(code));
	}
	close(folder);
	p->own_socket = true;
	http_listen(p->d.http, fd);
	return 0;
}

/* Sockets that systemd opened for us: sd_listen_fds(3). */
static unsigned passed_sockets(struct program *p)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int n = fds ? atoi(fds) : 0;

	if (!pid || atoi(pid) != getpid() || n < 1 || n > LISTEN_FDS_MOST)
		return 0;
	for (int i = 0; i < n; i++) {
		fcntl(LISTEN_FDS_START + i, F_SETFD, FD_CLOEXEC);
		fcntl(LISTEN_FDS_START + i, F_SETFL, O_NONBLOCK);
		http_listen(p->d.http, LISTEN_FDS_START + i);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	return (unsigned)n;
}

static int open_tcp(const char *where, struct error *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
		                  .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	const char *colon = strrchr(where, ':');
	struct addrinfo *found = NULL;
	int fd = -1, one = 1, code;
	char host[128];

	if (!colon || (size_t)(colon - where) >= sizeof(host))
		return error_set(err, -EINVAL,
		                 "--listen %s is not ADDRESS:PORT", where);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
	if (host[0] == '[' && host[strlen(host) - 1] == ']') {
		host[strlen(host) - 1] = '\0';
		memmove(host, host + 1, strlen(host));
	}
	code = getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, &found);
	if (code)
		return error_set(err, -EINVAL, "--listen %s: %s", where,
		                 gai_strerror(code));
	fd = socket(found->ai_family,
	            SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		code = errno;
		if (fd >= 0)
			close(fd);
		fd = error_set(err, -code, "cannot listen on %s: %s", where,
		               strerror(code));
	}
	freeaddrinfo(found);
	return fd;
}

static int open_http(struct program *p, struct error *err)
{
	struct http_config config = { .loop = p->d.loop,
		                      .request = api_request,
		                      .gone = api_gone,
		                      .ctx = &p->d };
	int fd, rc = http_create(&p->d.http, &config, err);

	p->d.listen = p->options.listen;
	if (rc == 0 && p->options.listen) {
		rc = fd = open_tcp(p->options.listen, err);
		if (fd >= 0)
			rc = http_listen_tls(
			    p->d.http, fd,
			    &(struct http_tls){
				p->options.certificate, p->options.key,
				p->options.client_ca, p->options.client_crl },
			    err);
	}
	if (rc == 0 && passed_sockets(p) == 0)
		rc = open_socket(p, err);
	if (rc == 0)
		rc = http_start(p->d.http, err);
	return rc;
}

/* ---- what an earlier daemon left ---- */

static int take_text(void *ctx, struct row *row)
{
	snprintf(ctx, 64, "%s", row_text(row, 0));
	return 0;
}

/* True once in each boot of the host. */
static bool host_booted(struct daemon *d)
{
	char now[64] = "", before[64] = "";

	kernel_file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", now,
	                 sizeof(now));
	now[strcspn(now, "\n")] = '\0';
	store_query(d->store, take_text, before, NULL,
	            "SELECT value FROM meta WHERE key = 'boot_id'", "");
	store_run(d->store, NULL,
	          "INSERT OR REPLACE INTO meta(key, value)"
	          " VALUES('boot_id', ?)",
	          "t", now);
	return strcmp(now, before) != 0;
}

/* Folders whose machine is not in the registry: of a deletion cut short. */
static void remove_leftovers(struct daemon *d)
{
	char *machines = xasprintf("%s/machines", d->place.state);
	char *trash = xasprintf("%s/trash", d->place.state), *path;
	DIR *dir = opendir(machines);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (id_looks_like(entry->d_name) && !vm_find(d, entry->d_name))
			vm_discard_folder(d, entry->d_name);
	if (dir)
		closedir(dir);
	dir = opendir(trash);
	while (dir && (entry = readdir(dir)))
		if (id_looks_like(entry->d_name)) {
			path = xasprintf("%s/%s", trash, entry->d_name);
			job_remove_folder(path);
			free(path);
		}
	if (dir)
		closedir(dir);
	free(machines);
	free(trash);
	backups_tidy(d);
	image_tidy(d);
}

static int take_over(struct program *p, struct error *err)
{
	struct daemon *d = &p->d;
	bool booted;
	int rc = limits_start(d, err);

	if (rc == 0)
		rc = vm_load_all(d, err);
	if (rc == 0)
		rc = watch_start(d, err);
	if (rc < 0)
		return rc;
	rc = network_load_all(d, err);
	if (rc < 0)
		return rc;
	booted = host_booted(d);
	remove_leftovers(d);
	for (struct vm *vm = d->vms; vm; vm = vm->next)
		holder_find(vm);
	rc = backup_schedules_start(d, err);
	if (rc == 0)
		rc = task_load_all(d, err);
	if (rc == 0)
		vm_autostart(d, booted);
	event_emit(d, "daemon.started", NULL, 0,
	           json_pack("{s:s}", "version", ATOLL_VERSION));
	return rc;
}

/* ---- the whole ---- */

static void signal_ready(void *ctx, unsigned events)
{
	struct program *p = ctx;
	struct signalfd_siginfo info;

	(void)events;
	if (read(p->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		loop_quit(p->d.loop, 0);
}

/* Before there is a second thread, so that all inherit the mask. */
static void watch_signals(struct program *p)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a write that is too much is an error */
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	p->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	p->signal_watch =
	    loop_fd_add(p->d.loop, p->signals, LOOP_READ, signal_ready, p);
}

static void limit_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)FDS_MOST);
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* To whoever started us, and to systemd: sd_notify(3). */
static void say_ready(const struct options *o)
{
	const char *to = getenv("NOTIFY_SOCKET");
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd;

	if (o->ready_fd >= 0) {
		if (write(o->ready_fd, "", 1) != 1)
			log_debug("daemon", "nobody waits for us");
		close(o->ready_fd);
	}
	if (!to || (to[0] != '/' && to[0] != '@') ||
	    strlen(to) >= sizeof(name.sun_path))
		return;
	memcpy(name.sun_path, to, strlen(to));
	if (to[0] == '@')
		name.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&name,
	           (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
	                       strlen(to))) < 0)
		log_warn("daemon", "NOTIFY_SOCKET: %s", strerror(errno));
	close(fd);
}

static void program_fini(struct program *p)
{
	streams_end(&p->d);
	backup_schedules_stop(&p->d);
	network_free_all(&p->d);
	watch_stop(&p->d);
	vm_free_all(&p->d);
	limits_stop(&p->d);
	http_destroy(p->d.http);
	if (p->own_socket)
		unlink(p->d.place.socket);
	store_close(p->d.store);
	loop_fd_remove(p->signal_watch);
	if (p->signals >= 0)
		close(p->signals);
	loop_destroy(p->d.loop);
	if (p->helper >= 0)
		close(p->helper);
	if (p->lock >= 0)
		close(p->lock);
	place_fini(&p->d.place);
}

static int run(struct program *p)
{
	struct error err = { 0 };
	int rc = place_find(&p->d.place, &err);

	p->lock = p->signals = p->helper = -1;
	limit_files();
	umask(077);
	if (rc == 0)
		rc = take_state(p, &err);
	if (rc == 0 && p->options.user)
		rc = privileges_give_up(&p->d.place, p->options.user,
		                        &p->helper, &err);
	if (rc == 0)
		rc = open_registry(p, &err);
	if (rc == 0)
		rc = loop_create(&p->d.loop, &err);
	if (rc == 0) {
		watch_signals(p);
		p->d.started_ns = loop_now_ns();
		rc = open_http(p, &err);
	}
	if (rc == 0)
		rc = take_over(p, &err);
	if (rc == 0) {
		say_ready(&p->options);
		loop_run(p->d.loop);
	}
	program_fini(p);
	if (rc == 0)
		return 0;
	fprintf(stderr, "error: %s\n", err.text);
	if (err.hint[0])
		fprintf(stderr, "hint: %s\n", err.hint);
	return END_FAILED;
}

int main(int argc, char **argv)
{
	struct program p = { 0 };

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("atolld " ATOLL_VERSION);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		fputs(usage_text, stdout);
		return 0;
	}
	if (parse(&p.options, argc, argv) < 0)
		return END_BAD_USE;
	log_setup(STDERR_FILENO,
	          getenv("ATOLL_DEBUG") ? LOG_DEBUG
	          : p.options.verbose   ? LOG_INFO
	                                : LOG_WARN,
	          "atolld");
	return run(&p);
}
