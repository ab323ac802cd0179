/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll fork - copies of a running machine, which goes on.
 *
 * The copies' processes are started first, and wait. Then the machine is asked
 * for a moment of itself, and each copy is sent what it needs to go on from
 * that: so the time between the two is short.
 */
#include "cli/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/units.h"
#include "cli/claim.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "launch/launch.h"

struct wish {
	const char *machine, *prefix, *document;
	struct snapshot_of of;
	struct snapshot_remote remote;
	u64 count;
	bool remove, json;
};

struct forking {
	const struct wish *wish;
	struct fork_source source;
	struct fork_copy *copies;
	struct fork_disks disks;
	char moment[17];
	int sock;
	u64 asked_ns;
};

enum { OPT_COUNT = 1, OPT_NAME, OPT_RM, OPT_DOCUMENT };

static int one(void *ctx, int id, const char *value, struct error *err)
{
	struct wish *w = ctx;

	switch (id) {
	case OPT_COUNT:
		return parse_u64(value, 1, FORKS_MAX, &w->count, err);
	case OPT_NAME:
		w->prefix = value;
		return named_valid(value) && strlen(value) < 58
		           ? 0
		           : error_set(err, -EINVAL,
		                       "%s: not 1 to 57 letters, digits and "
		                       "dashes",
		                       value);
	case OPT_RM:
		w->remove = true;
		return 0;
	case OPT_DOCUMENT:
		w->document = value;
		return 0;
	default:
		break;
	}
	if (id)
		return snapshot_where_option(&w->of, &w->remote, id, value,
		                             err);
	if (w->machine)
		return error_set(err, -EINVAL, "%s: one machine at a time",
		                 value);
	w->machine = value;
	return 0;
}

/* ---- the moment ---- */

/* Copies are not to be trusted with each other's memory. */
static int make_readonly(struct fork_source *s, struct error *err)
{
	for (size_t i = 0; i < s->count; i++) {
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fds[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return error_set(err, -errno, "%s: %s", path,
			                 strerror(errno));
		close(s->fds[i]);
		s->fds[i] = fd;
	}
	return 0;
}

int fork_ask(struct fork_source *s, int sock, struct fork_disks *d,
             struct error *err)
{
	int fds[CONTROL_FDS_MAX], pair[2], rc;
	json_t *message;
	size_t count = 2;

	s->state = memfd_create("state", MFD_CLOEXEC);
	if (s->state < 0 || pipe2(pair, O_CLOEXEC) < 0)
		return error_set(err, -errno, "cannot make a file: %s",
		                 strerror(errno));
	s->hold = pair[1];
	fds[0] = s->state;
	fds[1] = pair[0];
	message =
	    json_pack("{s:s,s:i,s:i,s:o}", "op", "fork", "file", 0, "watch", 1,
	              "disks", fork_disks_message(d, fds, &count));
	rc = saved_request(sock, message, fds, count, &s->answer, s->fds,
	                   &s->count, err);
	close(pair[0]);
	return rc == 0 ? make_readonly(s, err) : rc;
}

/* ---- copies ---- */

static int prepare(struct forking *f, struct fork_copy *c, unsigned i,
                   const char *folder, struct error *err)
{
	int rc;

	*c = (struct fork_copy){ .console_in = -1,
		                 .console_out = -1,
		                 .named = { .lock_fd = -1, .listen_fd = -1 } };
	for (size_t k = 0; k < ARRAY_SIZE(c->overlays); k++)
		c->overlays[k] = -1;
	for (size_t k = 0; k < RUN_NETS_MAX; k++)
		c->net_link[k] = c->net_ready[k] = -1;
	c->name = xasprintf("%s-%u", f->wish->prefix, i + 1);
	rc = named_claim(&c->named, c->name, err);
	if (rc == 0)
		rc = named_fresh(c->name, err);
	if (rc == 0)
		rc = fork_disks_overlays(&f->disks, c->overlays, folder, err);
	return rc < 0 ? rc : worker_start(&c->worker, c->name, err);
}

static int prepare_all(struct forking *f, struct error *err)
{
	char *folder = named_folder(f->wish->machine, true, err);
	int rc = folder ? fork_disks_list(&f->disks, f->sock, f->wish->machine,
	                                  f->moment, err)
	                : err->code;

	for (unsigned i = 0; rc == 0 && i < f->wish->count; i++)
		rc = prepare(f, &f->copies[i], i, folder, err);
	/* Last: disks with a path are other files from then on. */
	if (rc == 0)
		rc = fork_disks_take(&f->disks, f->sock, folder, err);
	free(folder);
	return rc;
}

/* Only what it needs of us: the far end of its cables and pipes is its own. */
static void let_go(struct fork_copy *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(c->overlays); i++)
		if (c->overlays[i] >= 0)
			close(c->overlays[i]);
	for (size_t i = 0; i < ARRAY_SIZE(c->overlays); i++)
		c->overlays[i] = -1;
	for (unsigned i = 0; i < c->net_count; i++)
		if (c->net_link[i] >= 0)
			close(c->net_link[i]);
	for (unsigned i = 0; i < c->net_count; i++)
		c->net_link[i] = -1;
	if (c->console_out >= 0)
		close(c->console_out);
	c->console_out = -1;
	if (c->named.listen_fd >= 0)
		close(c->named.listen_fd);
	c->named.listen_fd = -1;
	fcntl(c->worker.messages, F_SETFL, O_NONBLOCK);
}

static int start_all(struct forking *f, struct error *err)
{
	unsigned count = (unsigned)f->wish->count;
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < count; i++) {
		rc = fork_machine_start(&f->copies[i], &f->source, f->moment,
		                        err);
		let_go(&f->copies[i]);
	}
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		rc = fork_wait_started(&f->copies[i], err);
		f->copies[i].started_ns = loop_now_ns();
	}
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		struct fork_copy *c = &f->copies[i];

		for (unsigned k = 0; rc == 0 && k < c->net_count; k++) {
			rc = launch_read_ready(c->net_ready[k], err);
			close(c->net_ready[k]);
			c->net_ready[k] = -1;
		}
	}
	return rc;
}

int fork_new_moment(char moment[17], struct error *err)
{
	u8 random[8];

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return error_set(err, -EIO, "no random numbers");
	for (int i = 0; i < 8; i++)
		sprintf(moment + 2 * i, "%02x", random[i]);
	return 0;
}

static int fork_all(struct forking *f, struct error *err)
{
	int rc;

	f->copies = xalloc(f->wish->count * sizeof(*f->copies));
	f->sock = named_connect(f->wish->machine, err);
	if (f->sock < 0)
		return f->sock;
	rc = claim_disks(f->sock, CLAIM_ALL, err);
	if (rc == 0)
		rc = fork_new_moment(f->moment, err);
	if (rc == 0)
		rc = prepare_all(f, err);
	f->asked_ns = loop_now_ns();
	if (rc == 0)
		rc = fork_ask(&f->source, f->sock, &f->disks, err);
	if (rc == 0)
		rc = fork_disks_below(&f->disks, &f->source, err);
	return rc == 0 ? start_all(f, err) : rc;
}

void fork_source_fini(struct fork_source *s)
{
	for (size_t i = 0; i < s->count; i++)
		close(s->fds[i]);
	if (s->state >= 0)
		close(s->state);
	if (s->hold >= 0)
		close(s->hold);
	json_decref(s->answer);
	*s = (struct fork_source){ .state = -1, .hold = -1 };
}

static void asked_fini(struct forking *f)
{
	fork_source_fini(&f->source);
	fork_disks_fini(&f->disks);
	if (f->sock >= 0)
		close(f->sock);
	f->sock = -1;
}

/* ---- the two processes ---- */

static json_t *report(const struct forking *f)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < f->wish->count; i++)
		json_array_append_new(
		    list,
		    json_pack("{s:s,s:i,s:f}", "name", f->copies[i].name, "pid",
		              (int)f->copies[i].worker.pid, "ms",
		              (double)(f->copies[i].started_ns - f->asked_ns) /
		                  1e6));
	return json_pack("{s:O,s:o}", "pause_us",
	                 json_object_get(f->source.answer, "pause_us"),
	                 "copies", list);
}

static void send_words(int fd, json_t *words)
{
	char *text = json_dumps(words, JSON_COMPACT);

	if (text && write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "%s\n", text);
	free(text);
	json_decref(words);
}

void fork_allow_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void give_up(struct forking *f)
{
	const struct wish *w = f->wish;

	asked_fini(f);
	for (unsigned i = 0; f->copies && i < (unsigned)w->count; i++)
		if (f->copies[i].name)
			fork_copy_fini(&f->copies[i], w->remove);
}

/* The process that stays. */
static void hold(const struct wish *w, int tell)
{
	struct forking f = { .wish = w,
		             .sock = -1,
		             .source = { .state = -1, .hold = -1 } };
	struct error err = { 0 };
	unsigned count = (unsigned)w->count;
	int null, rc;

	/* Nobody waits for us, or for what we start, to close those. */
	setsid();
	null = open("/dev/null", O_RDWR);
	for (int i = 0; null >= 0 && i < 3; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
	fork_allow_files();
	rc = fork_all(&f, &err);
	if (rc < 0) {
		/* First: who is refused may use the names at once. */
		give_up(&f);
		send_words(tell,
		           json_pack("{s:i,s:s,s:s}", "code", err.code, "error",
		                     err.text, "hint", err.hint));
	} else {
		send_words(tell, report(&f));
		asked_fini(&f);
		close(tell);
		fork_hold(f.copies, count, w->remove);
	}
	free(f.copies);
}

static int tell(json_t *words, const struct wish *w)
{
	json_t *copies = json_object_get(words, "copies"), *copy;
	double last = 0;
	size_t i;

	if (w->json) {
		json_dumpf(words, stdout, JSON_INDENT(2));
		putchar('\n');
		return 0;
	}
	json_array_foreach(copies, i, copy)
	{
		puts(json_string_value(json_object_get(copy, "name")));
		last = MAX(last, json_real_value(json_object_get(copy, "ms")));
	}
	fprintf(stderr, "%s stood still for %.1f ms; %.1f ms a copy\n",
	        w->machine,
	        (double)json_integer_value(json_object_get(words, "pause_us")) /
	            1e3,
	        last / (double)w->count);
	return 0;
}

static int listen_to(int fd, const struct wish *w)
{
	FILE *f = fdopen(fd, "r");
	json_t *words = f ? json_loadf(f, 0, NULL) : NULL;
	const char *text = "the process that holds the copies ended",
		   *hint = "";
	struct error err = { 0 };
	int code = -EIO;

	if (json_object_get(words, "copies")) {
		code = tell(words, w);
	} else {
		json_unpack(words, "{s:i,s:s,s:s}", "code", &code, "error",
		            &text, "hint", &hint);
		error_set(&err, code, "%s", text);
		error_hint(&err, "%s", hint);
		code = say_error(&err);
	}
	json_decref(words);
	if (f)
		fclose(f);
	return code;
}

static int fork_here(const struct wish *w)
{
	struct error err = { 0 };
	int pair[2];
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return say_usage("no more files");
	signal(SIGPIPE, SIG_IGN);
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		hold(w, pair[1]);
		_exit(0);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		error_set(&err, -errno, "cannot start a process: %s",
		          strerror(errno));
		return say_error(&err);
	}
	return listen_to(pair[0], w);
}

int command_fork(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "count", "N", "how many copies (1)", OPT_COUNT },
		{ "name", "PREFIX",
		  "they are PREFIX-1, PREFIX-2, ... (the machine's name)",
		  OPT_NAME },
		{ "rm", NULL, "when one ends, nothing is left of it", OPT_RM },
		{ "json", NULL, "print JSON, with the time that they took",
		  SNAPSHOT_JSON },
		SNAPSHOT_OPT_TASK,
		{ "remote", "WHERE",
		  "a daemon's: unix:PATH or https://HOST:PORT",
		  SNAPSHOT_REMOTE },
		/* The daemon's, which says there of what and where. */
		{ "machine-document", "FILE", NULL, OPT_DOCUMENT },
		{ 0 },
	};
	struct wish w = { .count = 1 };
	struct error err = { 0 };
	bool remote;

	if (options_want_help(argc, argv)) {
		options_help("atoll fork [OPTION]... NAME",
		             "Make copies of a running machine that share its "
		             "memory and disk until they write.",
		             specs);
		return 0;
	}
	if (options_parse(specs, argc, argv, one, &w, &err) < 0)
		return say_error(&err);
	if (w.document)
		return fork_kept(w.document);
	if (!w.machine)
		return say_usage("which machine?");
	w.of.machine = w.machine;
	w.json = w.remote.json;
	if (snapshot_is_remote(&w.of, &w.remote, &remote, &err) < 0)
		return say_error(&err);
	if (remote)
		return fork_remote(&w.of, &w.remote,
		                   json_pack("{s:I, s:s*, s:b}", "count",
		                             (json_int_t)w.count, "name",
		                             w.prefix, "disposable", w.remove));
	if (!w.prefix)
		w.prefix = w.machine;
	return fork_here(&w);
}
