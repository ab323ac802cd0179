/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll net - networks that machines talk to each other on.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "base/units.h"
#include "cli/net.h"
#include "cli/remote.h"
#include "cli/resource.h"
#include "cli/say.h"
#include "cli/vm.h"

enum {
	OPT_CIDR = OPT_OWN,
	OPT_ISOLATED,
	OPT_BRIDGE,
	OPT_MTU,
	OPT_WORDS,
	OPT_PROJECT
};
enum { OPT_MACHINE = OPT_OWN, OPT_COUNT, OPT_DURATION, OPT_OUTPUT };
enum { START_MS = 15000, STEP_MS = 20 };

static char *path_of(const char *name, const char *tail)
{
	char *part = client_escape(name);
	char *path = xasprintf("/v1/networks/%s%s", part, tail);

	free(part);
	return path;
}

/* ---- list ---- */

static const char *uplink_of(json_t *e, char *room, size_t size)
{
	json_t *spec = json_object_get(e, "spec");

	if (json_object_get(spec, "bridge"))
		snprintf(room, size, "bridge %s", remote_text(spec, "bridge"));
	else
		snprintf(room, size, "%s",
		         json_is_true(json_object_get(spec, "isolated"))
		             ? "none"
		             : "nat");
	return room;
}

static const char *machines_of(json_t *e, char *room, size_t size)
{
	snprintf(room, size, "%zu",
	         json_array_size(json_object_get(e, "machines")));
	return room;
}

static const struct column columns[] = {
	{ "NAME", .path = "name" },      { "STATE", .path = "state" },
	{ "CIDR", .path = "spec.cidr" }, { "UPLINK", uplink_of },
	{ "MACHINES", machines_of },     { NULL },
};

static int net_list(int argc, char **argv)
{
	return resource_list_of_projects(
	    "atoll net list [OPTION]...", "The networks there are.",
	    "/v1/networks", "networks", columns, argc, argv);
}

/* ---- create ---- */

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	json_t *body = ctx;
	u64 n;

	switch (id) {
	case OPT_ISOLATED:
		json_object_set_new(body, "isolated", json_true());
		return 0;
	case OPT_MTU:
		if (parse_u64(value, 576, 65521, &n, err) < 0)
			return error_prefix(err, "--mtu");
		json_object_set_new(body, "mtu", json_integer((json_int_t)n));
		return 0;
	default:
		json_object_set_new(body,
		                    id == OPT_CIDR      ? "cidr"
		                    : id == OPT_BRIDGE  ? "bridge"
		                    : id == OPT_PROJECT ? "project"
		                                        : "description",
		                    json_string(value));
		return 0;
	}
}

static void pause_ms(long ms)
{
	struct timespec t = { .tv_nsec = ms * 1000000 };

	nanosleep(&t, NULL);
}

int net_wait(struct remote *r, const char *name)
{
	char *path = path_of(name, "");
	int code = CODE_OK;
	json_t *n = NULL;

	for (int ms = 0; ms < START_MS; ms += STEP_MS) {
		json_decref(n);
		n = remote_get(r, path, &code);
		if (!n || strcmp(remote_text(n, "state"), "starting"))
			break;
		pause_ms(STEP_MS);
	}
	if (n && strcmp(remote_text(n, "state"), "running")) {
		const char *words = remote_text(n, "error.message");
		const char *hint = remote_text(n, "error.hint");

		fprintf(stderr, "error: the network %s does not run: %s\n",
		        name, words[0] ? words : "it is still starting");
		if (hint[0])
			fprintf(stderr, "hint: %s\n", hint);
		code = CODE_FAILED;
	}
	json_decref(n);
	free(path);
	return code;
}

static int create(struct remote *r, json_t *body)
{
	struct error err = { 0 };
	json_t *reply = NULL;
	int code;

	json_object_set_new(body, "name", json_string(r->names[0]));
	if (client_call(r->client, "POST", "/v1/networks", body, &reply, &err) <
	    0)
		return remote_failed(r, &err);
	code = net_wait(r, r->names[0]);
	if (r->format != FORMAT_TABLE)
		remote_print_value(r, reply);
	else if (code == CODE_OK && !r->quiet)
		printf("%s %s\n", r->names[0], remote_text(reply, "spec.cidr"));
	json_decref(reply);
	return code;
}

static int net_create(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "cidr", "A.B.C.D/N", "its addresses (one of 10.77.*.0/24)",
		  OPT_CIDR },
		{ "isolated", NULL, "no way out of it", OPT_ISOLATED },
		{ "bridge", "NAME", "join a bridge of the host instead",
		  OPT_BRIDGE },
		{ "mtu", "BYTES", "of its frames (1500)", OPT_MTU },
		{ "description", "WORDS", "for people", OPT_WORDS },
		{ "project", "PROJECT", "whose it is (default)", OPT_PROJECT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	json_t *body = json_object();
	struct remote r = { .own = take_option, .own_ctx = body };
	int code =
	    remote_open(&r, "atoll net create NAME [OPTION]...",
	                "Make a network for machines.", specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll net create takes one name");
	if (code < 0)
		code = create(&r, body);
	json_decref(body);
	remote_close(&r);
	return code;
}

/* ---- inspect ---- */

static void print_port(json_t *p)
{
	json_t *refused = json_object_get(p, "refused"), *count;
	char sent[32], received[32];
	const char *why;

	format_size((u64)remote_number(p, "sent_bytes"), sent, sizeof(sent));
	format_size((u64)remote_number(p, "received_bytes"), received,
	            sizeof(received));
	printf("  %-16s %-15s %-17s sent %s in %" PRId64
	       " frames, received %s in %" PRId64,
	       remote_text(p, "machine"), remote_text(p, "address"),
	       remote_text(p, "mac"), sent, remote_number(p, "sent_frames"),
	       received, remote_number(p, "received_frames"));
	if (remote_number(p, "dropped"))
		printf(", dropped %" PRId64, remote_number(p, "dropped"));
	json_object_foreach(refused, why, count)
	{
		printf(", refused for %s %" PRId64, why,
		       (s64)json_integer_value(count));
	}
	putchar('\n');
}

static void print_network(json_t *n, json_t *status)
{
	char room[64];
	json_t *one;
	size_t i;

	printf("name     %s\nstate    %s\ncidr     %s\nuplink   %s\nmtu      "
	       "%" PRId64 "\n",
	       remote_text(n, "name"), remote_text(n, "state"),
	       remote_text(n, "spec.cidr"), uplink_of(n, room, sizeof(room)),
	       remote_number(n, "spec.mtu"));
	if (remote_text(n, "error.message")[0])
		printf("error    %s\n", remote_text(n, "error.message"));
	if (!status)
		return;
	puts("ports");
	json_array_foreach(json_object_get(status, "ports"), i, one)
	    print_port(one);
	one = json_object_get(status, "uplink");
	if (json_is_object(one))
		print_port(one);
	puts("addresses");
	json_array_foreach(json_object_get(status, "leases"), i, one)
	    printf("  %-15s %-17s %s%s\n", remote_text(one, "address"),
	           remote_text(one, "mac"), remote_text(one, "name"),
	           json_is_true(json_object_get(one, "live")) ? "" : " (away)");
}

static int inspect(struct remote *r, const char *name)
{
	char *path = path_of(name, ""), *below = path_of(name, "/status");
	json_t *status = NULL;
	int code = CODE_OK;
	json_t *n = remote_get(r, path, &code);
	struct error err;

	/* A switch that does not run has nothing to say. */
	if (n && strcmp(remote_text(n, "state"), "running") == 0 &&
	    client_call(r->client, "GET", below, NULL, &status, &err) < 0)
		status = NULL;
	if (n && r->format == FORMAT_TABLE) {
		print_network(n, status);
	} else if (n) {
		json_object_set(n, "status", status ? status : json_null());
		remote_print_value(r, n);
	}
	json_decref(n);
	json_decref(status);
	free(path);
	free(below);
	return code;
}

static int net_inspect(int argc, char **argv)
{
	static const struct option_spec specs[] = { REMOTE_OPTIONS, { 0 } };
	struct remote r = { 0 };
	int code =
	    remote_open(&r, "atoll net inspect NAME... [OPTION]...",
	                "A network, its machines, addresses and counters.",
	                specs, argc, argv);
	int last = CODE_OK, one;
	size_t failed = 0;

	if (code < 0 && r.name_count == 0)
		code = say_usage("which network?");
	for (size_t i = 0; code < 0 && i < r.name_count; i++) {
		one = inspect(&r, r.names[i]);
		failed += one != CODE_OK;
		last = one != CODE_OK ? one : last;
	}
	if (code < 0)
		code = remote_sum(r.name_count, failed, last);
	remote_close(&r);
	return code;
}

static int net_delete(int argc, char **argv)
{
	return resource_delete("atoll net delete NAME... [OPTION]...",
	                       "Delete networks that no machine is in.",
	                       "/v1/networks", "network", argc, argv);
}

/* ---- capture ---- */

struct capturing {
	const char *machine, *output;
	u64 count, until_ns;
	int fd;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static bool enough(void *ctx)
{
	const struct capturing *c = ctx;

	return interrupted || (c->until_ns && loop_now_ns() >= c->until_ns);
}

static int write_out(void *ctx, const void *data, size_t size)
{
	const struct capturing *c = ctx;
	const char *at = data;
	ssize_t n;

	while (size) {
		n = write(c->fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -errno;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

static int capture_option(void *ctx, int id, const char *value,
                          struct error *err)
{
	struct capturing *c = ctx;
	u64 ns;

	if (id == OPT_MACHINE) {
		c->machine = value;
	} else if (id == OPT_OUTPUT) {
		c->output = value;
	} else if (id == OPT_COUNT) {
		return parse_u64(value, 1, 100000000, &c->count, err);
	} else {
		if (parse_duration(value, &ns, err) < 0)
			return err->code;
		c->until_ns = loop_now_ns() + ns;
	}
	return 0;
}

static int open_output(struct capturing *c)
{
	struct error err = { 0 };

	c->fd = STDOUT_FILENO;
	if (!c->output && isatty(STDOUT_FILENO))
		return say_usage("frames are not for a terminal: --output "
		                 "FILE, or a pipe to tcpdump -r -");
	if (!c->output || strcmp(c->output, "-") == 0)
		return CODE_OK;
	c->fd = open(c->output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (c->fd >= 0)
		return CODE_OK;
	error_set(&err, -errno, "cannot open %s: %s", c->output,
	          strerror(errno));
	return say_error(&err);
}

static int capture(struct remote *r, struct capturing *c)
{
	char *part = client_escape(c->machine ? c->machine : "");
	char *tail = xasprintf("/capture?frames=%" PRIu64 "%s%s", c->count,
	                       c->machine ? "&machine=" : "", part);
	char *path = path_of(r->names[0], tail);
	struct sigaction act = { .sa_handler = on_interrupt };
	struct error err = { 0 };
	int code = open_output(c);

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	if (code == CODE_OK &&
	    client_stream(r->client, path, NULL, write_out, enough, c, &err) <
	        0 &&
	    !enough(c))
		code = remote_failed(r, &err);
	if (c->fd > STDERR_FILENO)
		close(c->fd);
	free(part);
	free(tail);
	free(path);
	return code;
}

static int net_capture(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "machine", "NAME", "only what that one sends and is sent",
		  OPT_MACHINE },
		{ "count", "N", "end after so many frames", OPT_COUNT },
		{ "duration", "TIME", "end after so long", OPT_DURATION },
		{ "output", "FILE", "write there (standard output)",
		  OPT_OUTPUT },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct capturing c = { 0 };
	struct remote r = { .own = capture_option, .own_ctx = &c };
	int code = remote_open(&r, "atoll net capture NAME [OPTION]...",
	                       "Write down the frames that pass, as pcap.",
	                       specs, argc, argv);

	if (code < 0 && r.name_count != 1)
		code = say_usage("atoll net capture takes one network");
	if (code < 0)
		code = capture(&r, &c);
	remote_close(&r);
	return code;
}

/* ---- for atoll run ---- */

json_t *net_find(const char *name, struct error *err)
{
	struct client *client = NULL;
	char *path = path_of(name, "");
	json_t *n = NULL;
	int rc = client_open(&client, NULL, err);

	if (rc == 0)
		rc = client_call(client, "GET", path, NULL, &n, err);
	if (rc < 0)
		error_prefix(err, "--net %s", name);
	client_close(client);
	free(path);
	return n;
}

int command_net(int argc, char **argv)
{
	static const struct command verbs[] = {
		{ "list", "the networks there are", net_list },
		{ "create", "make one", net_create },
		{ "show", "one with its machines and counters", net_inspect },
		{ "inspect", "the same", net_inspect },
		{ "delete", "delete those that no machine is in", net_delete },
		{ "capture", "write down what passes", net_capture },
		{ 0 },
	};

	return command_noun(verbs, "Networks of machines.", argc, argv);
}
