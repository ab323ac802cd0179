/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll-net - networks in user space: with --link-fd a TCP/IP stack for one
 * machine, or for one switch; with --switch the switch of a network.
 *
 * A stack is started with one end of a cable; it ends when the other end
 * closes. Whoever starts it learns from the ready descriptor how it went:
 * "ok", or an exit code, the words and the hint, a line each.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "net/apart.h"
#include "net/confine.h"
#include "net/switch/serve.h"
#include "net/user/stack.h"

enum { MTU_MIN = 576, MTU_MAX = 65521, PUBLISH_MAX = 64 };
enum { EXIT_BAD_USE = 2 };

struct options {
	int link_fd, ready_fd, control_fd;
	bool is_switch;
	u64 mtu;
	const char *network;
	bool restricted;
	const char *hostname;
	const char *publish[PUBLISH_MAX];
	size_t publish_count;
};

static const char usage[] =
    "usage: atoll-net --link-fd N [--ready-fd N] [--mtu BYTES]\n"
    "                 [--publish [ADDRESS:]PORT:PORT[/udp]]...\n"
    "                 [--hostname NAME] [--restrict]\n"
    "                 [--network CIDR] [--control-fd N]\n"
    "       atoll-net --switch --control-fd N\n"
    "Started by atoll run and atoll-hold; see atoll-net(8).\n";

static const struct option long_options[] = {
	{ "link-fd", required_argument, NULL, 'l' },
	{ "ready-fd", required_argument, NULL, 'r' },
	{ "publish", required_argument, NULL, 'p' },
	{ "mtu", required_argument, NULL, 'm' },
	{ "hostname", required_argument, NULL, 'n' },
	{ "network", required_argument, NULL, 'N' },
	{ "control-fd", required_argument, NULL, 'c' },
	{ "switch", no_argument, NULL, 's' },
	{ "restrict", no_argument, NULL, 'R' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

static int parse_fd(const char *text, int *fd, struct error *err)
{
	u64 n;

	if (parse_u64(text, 0, 65535, &n, err) < 0)
		return -EINVAL;
	*fd = (int)n;
	return 0;
}

static int parse_option(struct options *o, int c, struct error *err)
{
	switch (c) {
	case 'l':
		return parse_fd(optarg, &o->link_fd, err);
	case 'r':
		return parse_fd(optarg, &o->ready_fd, err);
	case 'm':
		return parse_u64(optarg, MTU_MIN, MTU_MAX, &o->mtu, err);
	case 'n':
		o->hostname = optarg;
		return 0;
	case 'N':
		o->network = optarg;
		return 0;
	case 'c':
		return parse_fd(optarg, &o->control_fd, err);
	case 's':
		o->is_switch = true;
		return 0;
	case 'R':
		o->restricted = true;
		return 0;
	case 'p':
		if (o->publish_count == PUBLISH_MAX)
			return error_set(err, -EINVAL,
			                 "more than %d published ports",
			                 PUBLISH_MAX);
		o->publish[o->publish_count++] = optarg;
		return 0;
	case 'h':
		fputs(usage, stdout);
		exit(EXIT_SUCCESS);
	case 'V':
		puts("atoll-net " ATOLL_VERSION);
		exit(EXIT_SUCCESS);
	default:
		fputs(usage, stderr);
		exit(EXIT_BAD_USE);
	}
}

static int parse_options(struct options *o, int argc, char **argv,
                         struct error *err)
{
	int c, rc;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		rc = parse_option(o, c, err);
		if (rc < 0) {
			err->code = -EINVAL;
			return rc;
		}
	}
	if ((o->is_switch ? o->control_fd : o->link_fd) < 0 || optind != argc)
		return error_set(err, -EINVAL,
		                 "atoll-net needs --link-fd, or --switch and "
		                 "--control-fd, and takes no other arguments");
	return 0;
}

static int set_up(struct stack **out, const struct options *o,
                  struct error *err)
{
	struct stack_config config = {
		.fd = o->link_fd,
		.mtu = (unsigned)o->mtu,
		.restricted = o->restricted,
		.hostname = o->hostname,
		.network = o->network,
		.control = o->control_fd,
	};
	struct stack *s;
	int rc;

	rc = stack_create(&s, &config, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < o->publish_count && rc >= 0; i++)
		rc = stack_publish(s, o->publish[i], err);
	if (rc >= 0) {
		/* Ports are open already. */
		apart_stack();
		rc = confine_stack(err);
	}
	if (rc < 0)
		stack_destroy(s);
	else
		*out = s;
	return rc;
}

/* Tell the starter; without one, the terminal. */
static int fail(const struct options *o, const struct error *err)
{
	int code = err->code == -EINVAL ? EXIT_BAD_USE : EXIT_FAILURE;

	if (o->ready_fd >= 0) {
		dprintf(o->ready_fd, "%d\n%s\n%s\n", code, err->text,
		        err->hint);
		return code;
	}
	fprintf(stderr, "error: %s\n", err->text);
	if (err->hint[0])
		fprintf(stderr, "hint: %s\n", err->hint);
	return code;
}

int main(int argc, char **argv)
{
	struct options o = {
		.link_fd = -1,
		.ready_fd = -1,
		.control_fd = -1,
		.mtu = 1500,
		.hostname = "atoll",
	};
	struct error err = { 0 };
	struct stack *s = NULL;

	log_setup(STDERR_FILENO, LOG_WARN, "atoll-net");
	signal(SIGPIPE, SIG_IGN);
	if (parse_options(&o, argc, argv, &err) < 0)
		return fail(&o, &err);
	if (o.is_switch)
		return switch_serve(o.control_fd);
	if (set_up(&s, &o, &err) < 0)
		return fail(&o, &err);
	if (o.ready_fd >= 0) {
		dprintf(o.ready_fd, "ok\n");
		close(o.ready_fd);
	}
	stack_run(s);
	stack_destroy(s);
	return 0;
}
