/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/network.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "control/control.h"
#include "daemon/held.h"
#include "daemon/store.h"

enum { RETRY_FIRST_MS = 20, RETRY_MOST_MS = 60000, ASK_S = 5 };

/* ---- where things are ---- */

static char *folder_path(const struct daemon *d, const char *id)
{
	return xasprintf("%s/networks/%s", d->place.state, id);
}

static char *sockets(const struct daemon *d)
{
	return xasprintf("%s/networks", d->place.runtime);
}

static int connect_to(const struct daemon *d, const char *id)
{
	char *where = sockets(d);
	int fd = held_connect(where, id);

	free(where);
	return fd;
}

static int open_folder(const struct network *n, struct error *err)
{
	char *path = folder_path(n->daemon, n->id);
	int fd = -1, rc = place_make(path, err);

	if (rc == 0) {
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			rc = error_set(err, -errno, "%s: %s", path,
			               strerror(errno));
	}
	free(path);
	return rc < 0 ? rc : fd;
}

/* ---- its state ---- */

static const char *state_name(enum network_state state)
{
	static const char *const names[] = { "starting", "running", "failed" };

	return names[state];
}

const char *network_project(const struct network *n)
{
	const char *name =
	    json_string_value(json_object_get(n->spec, "project"));

	return name ? name : "default"; /* of a registry from before */
}

static void set_state(struct network *n, enum network_state state)
{
	if (n->state == state)
		return;
	n->state = state;
	time_now(n->since);
	event_emit_in(n->daemon, network_project(n), "network.state",
	              json_pack("{s:s, s:s}", "network", n->name, "state",
	                        state_name(state)));
}

static void again(struct network *n)
{
	u64 wait_ms = RETRY_FIRST_MS;

	for (unsigned i = 0; i < n->failures && wait_ms < RETRY_MOST_MS; i++)
		wait_ms *= 2;
	n->failures++;
	loop_timer_arm(&n->retry,
	               loop_now_ns() +
	                   MIN(wait_ms, (u64)RETRY_MOST_MS) * NSEC_PER_MSEC);
}

static void failed(struct network *n, const struct error *err)
{
	if (strcmp(n->why.text, err->text))
		log_warn("daemon", "network %s: %s", n->name, err->text);
	n->why = *err;
	set_state(n, NETWORK_FAILED);
	again(n);
}

static void disconnect(struct network *n)
{
	loop_fd_remove(n->watch);
	n->watch = NULL;
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
	n->pid = 0;
}

/* ---- finding it, starting it ---- */

/* It may have run before this daemon did. A switch reads what machines send,
 * and a moment that is yet to come would be its own invention. */
static void take_since(struct network *n, json_t *hello)
{
	json_int_t since = json_integer_value(json_object_get(hello, "since"));

	if (since > 0 && since <= (json_int_t)time(NULL))
		time_text(since, n->since);
}

static void readable(void *ctx, unsigned events)
{
	struct network *n = ctx;
	int fds[CONTROL_FDS_MAX];
	struct error err;
	json_t *message;
	size_t count;

	(void)events;
	if (control_receive(n->fd, &message, fds, CONTROL_FDS_MAX, &count,
	                    &err) < 0) {
		disconnect(n);
		if (n->state == NETWORK_RUNNING)
			set_state(n, NETWORK_STARTING);
		again(n);
		return;
	}
	while (count)
		close(fds[--count]);
	n->pid = (pid_t)json_integer_value(json_object_get(message, "pid"));
	n->failures = 0;
	set_state(n, NETWORK_RUNNING);
	take_since(n, message);
	json_decref(message);
}

/* Why the one before ended, if it said so. */
static bool read_why(int folder, struct error *err)
{
	int fd = openat(folder, "why.json", O_RDONLY | O_CLOEXEC);
	const char *words, *hint;
	json_t *why;
	bool said;

	if (fd < 0)
		return false;
	why = json_loadfd(fd, 0, NULL);
	close(fd);
	unlinkat(folder, "why.json", 0);
	said =
	    json_unpack(why, "{s:s, s:s}", "words", &words, "hint", &hint) == 0;
	if (said) {
		error_set(err, -EIO, "%s", words);
		error_hint(err, "%s", hint);
	}
	json_decref(why);
	return said;
}

static json_t *document(const struct network *n)
{
	json_t *network = json_copy(n->spec);
	const char *uplink = "nat";

	if (json_object_get(n->spec, "bridge"))
		uplink = "bridge";
	else if (json_is_true(json_object_get(n->spec, "isolated")))
		uplink = "none";
	json_object_set_new(network, "uplink", json_string(uplink));
	return json_pack("{s:o}", "network", network);
}

/* lock is taken over. */
static int start(struct network *n, int folder, int lock, struct error *err)
{
	char *path = folder_path(n->daemon, n->id), *where = sockets(n->daemon);
	json_t *what = document(n);
	const struct held_start how = {
		.mode = "--network",
		.path = path,
		.folder = folder,
		.lock = lock,
		.sockets = where,
		.id = n->id,
		.document = what,
	};
	int rc = held_start(&how, err);

	json_decref(what);
	free(path);
	free(where);
	return rc;
}

static void attach(void *ctx)
{
	json_t *hello = json_pack("{s:s}", "op", "hello");
	struct error err = { 0 };
	struct network *n = ctx;
	int folder, lock, rc;

	n->fd = connect_to(n->daemon, n->id);
	if (n->fd >= 0 && control_send(n->fd, hello, NULL, 0, &err) == 0) {
		n->watch =
		    loop_fd_add(n->daemon->loop, n->fd, LOOP_READ, readable, n);
		json_decref(hello);
		return;
	}
	json_decref(hello);
	disconnect(n);
	rc = folder = open_folder(n, &err);
	lock = folder < 0 ? folder : held_lock(folder);
	if (lock == -EWOULDBLOCK) {
		again(
		    n); /* between its lock and its socket, or on its way out */
	} else if (folder >= 0 && lock >= 0 && read_why(folder, &err)) {
		close(lock);
		failed(n, &err);
	} else {
		if (lock < 0 && rc >= 0)
			rc = error_set(&err, lock, "its lock: %s",
			               strerror(-lock));
		if (rc >= 0)
			rc = start(n, folder, lock, &err);
		if (rc < 0)
			failed(n, &err);
		else
			again(n);
	}
	if (folder >= 0)
		close(folder);
}

/* ---- the list ---- */

struct network *network_new(struct daemon *d, json_t *spec)
{
	struct network *n = xalloc(sizeof(*n));

	n->daemon = d;
	n->spec = spec;
	n->name = xstrdup(json_string_value(json_object_get(spec, "name")));
	n->fd = -1;
	time_now(n->created);
	memcpy(n->since, n->created, TIME_SIZE);
	loop_timer_init(&n->retry, d->loop, attach, n);
	return n;
}

void network_free(struct network *n)
{
	if (!n)
		return;
	disconnect(n);
	loop_timer_fini(&n->retry);
	json_decref(n->spec);
	free(n->name);
	free(n);
}

void network_insert(struct network *n)
{
	struct network **at = &n->daemon->networks;

	while (*at && strcmp((*at)->name, n->name) < 0)
		at = &(*at)->next;
	n->next = *at;
	*at = n;
	loop_timer_arm(&n->retry, loop_now_ns());
}

static void quit_switch(struct daemon *d, const char *id)
{
	json_t *message = json_pack("{s:s}", "op", "quit");
	int fd = connect_to(d, id);
	struct error err;

	if (fd >= 0 && control_send(fd, message, NULL, 0, &err) < 0)
		log_warn("daemon", "%s", err.text);
	if (fd >= 0)
		close(fd);
	json_decref(message);
}

static void discard(struct daemon *d, const char *id)
{
	char *path = folder_path(d, id), *where = sockets(d);
	char *sock = xasprintf("%s/%s.sock", where, id);

	quit_switch(d, id);
	unlink(sock);
	job_remove_folder(path);
	free(sock);
	free(path);
	free(where);
}

void network_remove(struct network *n)
{
	struct network **at = &n->daemon->networks;

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	event_emit_in(n->daemon, network_project(n), "network.deleted",
	              json_pack("{s:s}", "network", n->name));
	discard(n->daemon, n->id);
	network_free(n);
}

struct network *network_find(struct daemon *d, const char *name)
{
	for (struct network *n = d->networks; n; n = n->next)
		if (strcmp(n->name, name) == 0 || strcmp(n->id, name) == 0)
			return n;
	return NULL;
}

static int load_one(void *ctx, struct row *row)
{
	struct daemon *d = ctx;
	json_t *spec = row_json(row, 1);
	struct network *n;

	if (!spec || !json_string_value(json_object_get(spec, "name"))) {
		log_error("daemon", "network %s in the registry is damaged",
		          row_text(row, 0));
		json_decref(spec);
		return 0;
	}
	n = network_new(d, spec);
	snprintf(n->id, ID_SIZE, "%s", row_text(row, 0));
	snprintf(n->created, TIME_SIZE, "%s", row_text(row, 2));
	network_insert(n);
	return 0;
}

/* Of a deletion that was cut short. */
static void remove_leftovers(struct daemon *d)
{
	char *path = xasprintf("%s/networks", d->place.state);
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (id_looks_like(entry->d_name) &&
		    !network_find(d, entry->d_name))
			discard(d, entry->d_name);
	if (dir)
		closedir(dir);
	free(path);
}

int network_load_all(struct daemon *d, struct error *err)
{
	int rc =
	    store_run(d->store, err,
	              "CREATE TABLE IF NOT EXISTS networks(id TEXT PRIMARY KEY,"
	              " name TEXT UNIQUE NOT NULL, spec TEXT NOT NULL,"
	              " created TEXT NOT NULL)",
	              "");

	if (rc == 0)
		rc = store_query(d->store, load_one, d, err,
		                 "SELECT id, spec, created FROM networks", "");
	if (rc == 0)
		remove_leftovers(d);
	return rc;
}

void network_free_all(struct daemon *d)
{
	struct network *n;

	network_captures_end(d);
	while ((n = d->networks)) {
		d->networks = n->next;
		network_free(n);
	}
}

json_t *network_json(const struct network *n)
{
	json_t *o = json_pack(
	    "{s:s, s:s, s:s, s:s, s:s, s:O, s:o}", "id", n->id, "name", n->name,
	    "state", state_name(n->state), "since", n->since, "created",
	    n->created, "spec", n->spec, "machines", network_users(n));
	char *where = sockets(n->daemon);

	json_object_set_new(o, "pid",
	                    n->pid ? json_integer(n->pid) : json_null());
	json_object_set_new(o, "error",
	                    n->state == NETWORK_FAILED
	                        ? json_pack("{s:s, s:s}", "message",
	                                    n->why.text, "hint", n->why.hint)
	                        : json_null());
	json_object_set_new(o, "socket",
	                    json_sprintf("%s/%s.sock", where, n->id));
	free(where);
	return o;
}

/* ---- machines in it ---- */

/* The network that a card is in; NULL: another kind. */
static const char *of_card(json_t *nic)
{
	return json_string_value(json_object_get(nic, "network"));
}

json_t *network_users(const struct network *n)
{
	json_t *list = json_array(), *nic;
	size_t i;

	for (struct vm *vm = n->daemon->vms; vm; vm = vm->next) {
		json_array_foreach(json_object_get(vm->spec, "nics"), i, nic)
		{
			const char *name = of_card(nic);

			if (vm->deleted || !name || strcmp(name, n->name))
				continue;
			json_array_append_new(list, json_string(vm->name));
			break;
		}
	}
	return list;
}

int network_resolve(struct daemon *d, json_t *machine, struct error *err)
{
	int rc = network_check(d, machine, err);
	char *where = sockets(d);
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(machine, "nics"), i, nic)
	{
		const char *name = of_card(nic);
		struct network *n = name ? network_find(d, name) : NULL;

		if (n)
			json_object_set_new(
			    nic, "socket",
			    json_sprintf("%s/%s.sock", where, n->id));
	}
	free(where);
	return rc;
}

int network_check(struct daemon *d, json_t *spec, struct error *err)
{
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(spec, "nics"), i, nic)
	{
		const char *name = of_card(nic);
		struct network *n = name ? network_find(d, name) : NULL;

		if (name && !n) {
			error_set(err, -ENOENT, "there is no network %s", name);
			return error_hint(err, "atoll net create %s makes it",
			                  name);
		}
		if (n && json_array_size(json_object_get(nic, "publish")) &&
		    (json_object_get(n->spec, "bridge") ||
		     json_is_true(json_object_get(n->spec, "isolated"))))
			return error_set(err, -EINVAL,
			                 "the network %s has no uplink of its "
			                 "own to publish ports on",
			                 name);
	}
	return 0;
}

/* ---- asking a switch ---- */

struct ask {
	int fd;
	struct loop_fd *watch;
	struct loop_timer timer;
	network_answer_fn *fn;
	void *ctx;
};

static void answered(struct ask *a, json_t *reply)
{
	network_answer_fn *fn = a->fn;
	void *ctx = a->ctx;

	loop_fd_remove(a->watch);
	loop_timer_fini(&a->timer);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
	fn(ctx, reply);
	json_decref(reply);
}

static void ask_late(void *ctx)
{
	answered(ctx, NULL);
}

static void ask_readable(void *ctx, unsigned events)
{
	struct ask *a = ctx;
	int fds[CONTROL_FDS_MAX];
	json_t *reply = NULL;
	struct error err;
	size_t count = 0;

	(void)events;
	if (control_receive(a->fd, &reply, fds, CONTROL_FDS_MAX, &count, &err) <
	    0)
		reply = NULL;
	while (count)
		close(fds[--count]);
	answered(a, reply);
}

void network_ask(struct network *n, json_t *message, int fd,
                 network_answer_fn *fn, void *ctx)
{
	struct ask *a = xalloc(sizeof(*a));
	u64 now = loop_now_ns();
	struct error err;

	a->fn = fn;
	a->ctx = ctx;
	a->fd = n->state == NETWORK_RUNNING ? connect_to(n->daemon, n->id) : -1;
	loop_timer_init(&a->timer, n->daemon->loop, ask_late, a);
	if (a->fd >= 0 &&
	    control_send(a->fd, message, &fd, fd >= 0, &err) == 0) {
		a->watch = loop_fd_add(n->daemon->loop, a->fd, LOOP_READ,
		                       ask_readable, a);
		now += ASK_S * NSEC_PER_SEC;
	}
	loop_timer_arm(&a->timer, now);
	json_decref(message);
}
