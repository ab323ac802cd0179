/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_networks - networks, what is plugged into them, what passes.
 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/network.h"
#include "daemon/store.h"

enum { FRAMES_MAX = 100000000 };

/* The network of the path; NULL, and the call has failed. */
static struct network *call_network(struct call *c)
{
	struct network *n = network_find(c->daemon, c->params[0]);
	char words[200];

	if (n)
		return n;
	snprintf(words, sizeof(words), "there is no network %s", c->params[0]);
	call_fail(c, "not-found", words, "");
	return NULL;
}

void api_network_list(struct call *c)
{
	json_t *list = json_array();

	for (struct network *n = c->daemon->networks; n; n = n->next)
		if (caller_rights(&c->caller, network_project(n)) & RIGHT_READ)
			json_array_append_new(list, network_json(n));
	c->status = 200;
	c->reply = json_pack("{s:o}", "networks", list);
}

void api_network_get(struct call *c)
{
	struct network *n = call_network(c);

	if (!n)
		return;
	c->status = 200;
	c->reply = network_json(n);
}

static void insert_network(struct call *c, void *ctx)
{
	struct network *n = ctx;

	network_insert(n);
	event_emit_in(c->daemon, network_project(n), "network.created",
	              json_pack("{s:s}", "network", n->name));
}

static void drop_network(void *ctx)
{
	network_free(ctx);
}

/* A typing error is found now, and not by a network that can't begin. One that
 * goes away later is another matter. */
static bool bridge_there(struct call *c, const char *bridge)
{
	static const char all[] = "/sys/class/net";
	char path[64], words[96];

	snprintf(path, sizeof(path), "%s/%.*s/bridge", all, IFNAMSIZ, bridge);
	/* Without these files it shows when the network begins. */
	if (access(path, F_OK) == 0 || access(all, F_OK) < 0)
		return true;
	snprintf(words, sizeof(words), "there is no bridge %.*s", IFNAMSIZ,
	         bridge);
	call_fail(c, "not-found", words,
	          "ip link show type bridge shows those of the daemon's host");
	return false;
}

void api_network_create(struct call *c)
{
	json_t *spec = network_spec_parse(c->daemon, c->body, &c->err);
	const char *bridge = json_string_value(json_object_get(spec, "bridge"));
	struct network *n;
	char words[128];
	int rc;

	if (!spec) {
		call_fail_error(c, c->err.code);
		return;
	}
	n = network_new(c->daemon, spec);
	c->apply = insert_network;
	c->drop = drop_network;
	c->ctx = n;
	if (!call_may(c, network_project(n), RIGHT_DEFINE))
		return;
	if (bridge && !(caller_rights(&c->caller, NULL) & RIGHT_HOST)) {
		call_fail(c, "denied",
		          "your role may not name interfaces of the host", "");
		return;
	}
	if (bridge && !bridge_there(c, bridge))
		return;
	if (network_find(c->daemon, n->name)) {
		snprintf(words, sizeof(words), "there is a network %s already",
		         n->name);
		call_fail(c, "conflict", words, "");
		return;
	}
	rc = id_new(n->id, &c->err);
	if (rc == 0)
		rc = store_run(c->daemon->store, &c->err,
		               "INSERT INTO networks(id, name, spec, created)"
		               " VALUES(?, ?, ?, ?)",
		               "ttjt", n->id, n->name, spec, n->created);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->status = 201;
	c->reply = network_json(n);
	snprintf(words, sizeof(words), "/v1/networks/%s", n->id);
	call_header(c, "location", words);
}

static void remove_network(struct call *c, void *ctx)
{
	(void)c;
	network_remove(ctx);
}

static void keep_network(void *ctx)
{
	(void)ctx;
}

void api_network_delete(struct call *c)
{
	struct network *n = call_network(c);
	char words[200];
	json_t *users;
	int rc;

	if (!n)
		return;
	users = network_users(n);
	if (json_array_size(users)) {
		snprintf(words, sizeof(words),
		         "%zu machines are in the network, %.63s among them",
		         json_array_size(users),
		         json_string_value(json_array_get(users, 0)));
		call_fail(c, "conflict", words, "delete them first");
		json_decref(users);
		return;
	}
	json_decref(users);
	rc = store_run(c->daemon->store, &c->err,
	               "DELETE FROM networks WHERE id = ?", "t", n->id);
	if (rc < 0) {
		call_fail_error(c, rc);
		return;
	}
	c->apply = remove_network;
	c->drop = keep_network;
	c->ctx = n;
	c->status = 204;
}

/* ---- what its switch says ---- */

static void status_answered(void *ctx, json_t *reply)
{
	struct http_request *http = ctx;

	if (!json_is_true(json_object_get(reply, "ok"))) {
		api_reply_error(http, "conflict",
		                "the network's switch does not answer", "");
		return;
	}
	json_object_del(reply, "ok");
	api_reply(http, 200, json_incref(reply));
}

void api_network_status(struct call *c)
{
	struct network *n = call_network(c);

	if (!n)
		return;
	if (n->state != NETWORK_RUNNING) {
		call_fail(c, "conflict", "the network's switch does not run",
		          n->why.text);
		return;
	}
	c->deferred = true;
	network_ask(n, json_pack("{s:s}", "op", "status"), -1, status_answered,
	            c->http);
}

void api_network_capture(struct call *c)
{
	struct network *n = call_network(c);
	s64 frames = call_number(c, "frames", 0, FRAMES_MAX, 0);
	char room[PARAM_MAX];
	const char *machine = call_query(c, "machine", room, sizeof(room));

	if (!n || c->status >= 400)
		return;
	if (n->state != NETWORK_RUNNING) {
		call_fail(c, "conflict", "the network's switch does not run",
		          n->why.text);
		return;
	}
	network_capture(c, n, machine, frames);
}
