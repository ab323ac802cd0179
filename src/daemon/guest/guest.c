/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/guest/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/guest/identity.h"
#include "daemon/guest/news.h"

enum { SYNC_S = 5, NEWS_TIMEOUT_S = 10, QUESTIONS_MAX = 32 };
enum { PIECE = 16384, SHUTDOWN_S = 5, RETRY_S = 20 };

struct question {
	struct question *next;
	char *command;
	json_t *arguments;
	size_t most;
	unsigned timeout_s;
	guest_fn *fn;
	void *ctx;
};

struct guest {
	struct vm *vm;
	int fd; /* -1: not yet */
	struct loop_fd *watch;
	struct loop_timer timer; /* of the question under way */
	struct agent_stream stream;
	char *out; /* what is not written yet */
	size_t out_size, out_used;
	struct question *queue;
	unsigned count;
	bool asked_line, synced, asking;
	bool leaving; /* was asked to shut down: not to be asked again */
	u64 heard_ns, silent_ns;
	struct news news;
	unsigned cpus_from; /* guest_online() */
	struct identity identity;
	json_t *interfaces;
	char *hostname, *os;
};

static void pump(struct guest *g);

/* ---- questions ---- */

static void answer_first(struct guest *g, json_t *answer,
                         const struct error *err)
{
	struct question *q = g->queue;

	g->queue = q->next;
	g->count--;
	g->asking = false;
	q->fn(q->ctx, answer, err);
	json_decref(q->arguments);
	free(q->command);
	free(q);
}

static void fail_all(struct guest *g, const char *words)
{
	struct error err = { 0 };

	error_set(&err, -ENOTCONN, "%s", words);
	while (g->queue)
		answer_first(g, NULL, &err);
}

static void put(struct guest *g, char *line, size_t size, unsigned timeout_s)
{
	free(g->out);
	g->out = line;
	g->out_size = size;
	g->out_used = 0;
	loop_fd_set(g->watch, LOOP_READ | LOOP_WRITE);
	loop_timer_arm(&g->timer, loop_now_ns() + timeout_s * NSEC_PER_SEC);
}

static void pump(struct guest *g)
{
	struct question *q = g->queue;
	size_t size;
	char *line;

	if (g->fd < 0 || g->asking || g->stream.open || !q)
		return;
	if (!g->synced) {
		line = agent_sync(&g->stream, &size);
		put(g, line, size, SYNC_S);
		return;
	}
	g->asking = true;
	line = agent_question(&g->stream, q->command, json_incref(q->arguments),
	                      q->most, &size);
	put(g, line, size, q->timeout_s);
}

static void out_of_time(void *ctx)
{
	struct guest *g = ctx;
	struct error err = { 0 };
	bool syncing = g->stream.syncing;

	agent_abandon(&g->stream);
	g->synced = false;
	/* Bytes that are half out must go, or the next line is none. */
	if (syncing) {
		g->heard_ns = 0;
		g->silent_ns = loop_now_ns();
		fail_all(g, "the guest's agent does not answer");
	} else if (g->queue && g->asking) {
		error_set(&err, -ETIMEDOUT,
		          "the guest's agent did not answer in time");
		answer_first(g, NULL, &err);
	}
	pump(g);
}

void guest_ask(struct vm *vm, const char *command, json_t *arguments,
               size_t most, unsigned timeout_s, guest_fn *fn, void *ctx)
{
	struct guest *g = vm->guest;
	struct question *q, **at;
	struct error err = { 0 };

	if (!g || g->fd < 0 || g->count >= QUESTIONS_MAX) {
		error_set(&err, -ENOTCONN,
		          g && g->fd >= 0
		              ? "too many questions wait for the guest's agent"
		              : "no agent has been heard of in the guest");
		error_hint(&err, "it needs the package qemu-guest-agent");
		json_decref(arguments);
		fn(ctx, NULL, &err);
		return;
	}
	q = xalloc(sizeof(*q));
	q->command = xstrdup(command);
	q->arguments = arguments ? arguments : json_object();
	q->most = most;
	q->timeout_s = timeout_s;
	q->fn = fn;
	q->ctx = ctx;
	for (at = &g->queue; *at;)
		at = &(*at)->next;
	*at = q;
	g->count++;
	pump(g);
}

/* ---- the line ---- */

static void write_some(struct guest *g)
{
	ssize_t n =
	    write(g->fd, g->out + g->out_used, g->out_size - g->out_used);

	if (n > 0)
		g->out_used += (size_t)n;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		g->out_used = g->out_size; /* its end is heard of elsewhere */
	if (g->out_used == g->out_size) {
		free(g->out);
		g->out = NULL;
		g->out_size = g->out_used = 0;
		loop_fd_set(g->watch, LOOP_READ);
	}
}

static void heard(struct guest *g, json_t *answer, const struct error *err)
{
	loop_timer_cancel(&g->timer);
	g->heard_ns = loop_now_ns();
	if (!g->synced)
		g->synced = true;
	else if (g->queue && g->asking)
		answer_first(g, answer, err);
	pump(g);
}

static void read_some(struct guest *g)
{
	struct error err = { 0 };
	json_t *answer = NULL;
	u8 data[PIECE];
	ssize_t n = read(g->fd, data, sizeof(data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		loop_fd_set(g->watch, 0);
		return;
	}
	switch (agent_take(&g->stream, data, (size_t)n, &answer, &err)) {
	case AGENT_MORE:
		break;
	case AGENT_ANSWER:
		heard(g, answer, &err);
		break;
	case AGENT_BROKEN:
		g->synced = false;
		loop_timer_cancel(&g->timer);
		if (g->queue && g->asking)
			answer_first(g, NULL, &err);
		pump(g);
		break;
	}
	json_decref(answer);
}

static void line_ready(void *ctx, unsigned events)
{
	struct guest *g = ctx;

	if (events & LOOP_WRITE && g->out)
		write_some(g);
	if (events & (LOOP_READ | LOOP_HANGUP))
		read_some(g);
}

void guest_line(struct vm *vm, int fd)
{
	struct guest *g = vm->guest;

	if (!g || g->fd >= 0) {
		close(fd);
		return;
	}
	g->fd = fd;
	g->watch = loop_fd_add(vm->daemon->loop, fd, LOOP_READ, line_ready, g);
}

void guest_gone(struct vm *vm)
{
	struct guest *g = vm->guest;

	if (!g)
		return;
	vm->guest = NULL;
	fail_all(g, "the machine has ended");
	guest_still_forget(vm);
	loop_timer_fini(&g->timer);
	loop_fd_remove(g->watch);
	if (g->fd >= 0)
		close(g->fd);
	agent_stream_fini(&g->stream);
	json_decref(g->interfaces);
	free(g->hostname);
	free(g->os);
	free(g->out);
	free(g);
}

/* ---- news ---- */

static void take_interfaces(void *ctx, json_t *answer, const struct error *err)
{
	struct guest *g = ctx;
	json_t *interfaces = answer ? agent_interfaces(answer) : NULL;

	(void)err;
	if (!interfaces)
		return;
	if (!json_equal(interfaces, g->interfaces))
		news_changed(&g->news);
	json_decref(g->interfaces);
	g->interfaces = interfaces;
}

static void take_hostname(void *ctx, json_t *answer, const struct error *err)
{
	struct guest *g = ctx;
	char *hostname = answer ? agent_text(answer, "host-name", 64) : NULL;

	(void)err;
	if (!answer)
		return;
	if (!hostname != !g->hostname ||
	    (hostname && strcmp(hostname, g->hostname) != 0))
		news_changed(&g->news);
	free(g->hostname);
	g->hostname = hostname;
}

static void take_os(void *ctx, json_t *answer, const struct error *err)
{
	struct guest *g = ctx;

	(void)err;
	if (!answer)
		return;
	free(g->os);
	g->os = agent_text(answer, "pretty-name", 128);
}

static void ignore(void *ctx, json_t *answer, const struct error *err)
{
	(void)ctx;
	(void)answer;
	(void)err;
}

/* A daemon that died while file systems stood still left them so. */
static void take_frozen(void *ctx, json_t *answer, const struct error *err)
{
	struct guest *g = ctx;
	const char *state = json_string_value(answer);

	(void)err;
	if (state && strcmp(state, "frozen") == 0) {
		log_warn("daemon", "%s: its file systems were frozen",
		         g->vm->name);
		guest_ask(g->vm, "guest-fsfreeze-thaw", NULL,
		          AGENT_ANSWER_USUAL, NEWS_TIMEOUT_S, ignore, NULL);
	}
}

static void ask_news(struct guest *g, const char *command, guest_fn *fn)
{
	guest_ask(g->vm, command, NULL, AGENT_ANSWER_USUAL, NEWS_TIMEOUT_S, fn,
	          g);
}

static void ask_line(struct guest *g)
{
	if (g->asked_line)
		return;
	g->asked_line = true;
	/* The descriptor comes through guest_line(). */
	holder_request(g->vm, json_pack("{s:s}", "op", "agent"), NULL, NULL);
}

void guest_round(struct vm *vm, bool open)
{
	struct guest *g = vm->guest;
	u64 now = loop_now_ns();
	bool first;

	if (!g && open) {
		g = vm->guest = xalloc(sizeof(*g));
		g->vm = vm;
		g->fd = -1;
		agent_stream_init(&g->stream);
		loop_timer_init(&g->timer, vm->daemon->loop, out_of_time, g);
	}
	if (!g)
		return;
	if (!open) {
		/* Its program let go of the port: nobody is there. */
		g->heard_ns = 0;
		g->synced = false;
		return;
	}
	if (g->fd < 0) {
		ask_line(g);
		return;
	}
	first = g->news.asked_ns == 0;
	if (g->queue || g->leaving || vm->state != VM_RUNNING ||
	    (g->silent_ns && now - g->silent_ns < RETRY_S * NSEC_PER_SEC))
		return;
	identity_round(&g->identity, vm);
	guest_clock_round(vm);
	if (!news_due(&g->news, now))
		return;
	news_asked(&g->news, now);
	if (first)
		ask_news(g, "guest-fsfreeze-status", take_frozen);
	ask_news(g, "guest-network-get-interfaces", take_interfaces);
	ask_news(g, "guest-get-host-name", take_hostname);
	if (!g->os)
		ask_news(g, "guest-get-osinfo", take_os);
}

bool guest_there(const struct vm *vm)
{
	return vm->guest && vm->guest->fd >= 0 && vm->guest->heard_ns;
}

void guest_shutdown(struct vm *vm)
{
	if (!guest_there(vm) || vm->guest->leaving)
		return;
	vm->guest->leaving = true;
	guest_ask(vm, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"),
	          AGENT_ANSWER_USUAL, SHUTDOWN_S, ignore, NULL);
}

/* Who asked may be gone by the time of the answer: it is asked by the guest. */
static void take_cpus(void *ctx, json_t *answer, const struct error *err)
{
	struct guest *g = ctx;
	json_t *wish = answer ? agent_online(answer, g->cpus_from) : NULL;

	(void)err;
	if (wish)
		guest_ask(g->vm, "guest-set-vcpus", wish, AGENT_ANSWER_USUAL,
		          NEWS_TIMEOUT_S, ignore, NULL);
}

void guest_online(struct vm *vm, unsigned from)
{
	if (!guest_there(vm))
		return;
	vm->guest->cpus_from = from;
	ask_news(vm->guest, "guest-get-vcpus", take_cpus);
}

json_t *guest_json(const struct vm *vm)
{
	struct guest *g = vm->guest;

	if (g)
		g->news.wanted = true;
	return json_pack(
	    "{s:b, s:o, s:o, s:o}", "connected", guest_there(vm), "hostname",
	    g && g->hostname ? json_string(g->hostname) : json_null(), "os",
	    g && g->os ? json_string(g->os) : json_null(), "interfaces",
	    g && g->interfaces ? json_incref(g->interfaces) : json_array());
}
