/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session - talks to the starter, and does what it says.
 */
#include "vm/session.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/given.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/control.h"
#include "machine/machine.h"
#include "vm/claims.h"
#include "vm/config.h"
#include "vm/disks.h"
#include "vm/lost.h"
#include "vm/moments.h"
#include "vm/sandbox.h"
#include "vm/shorten.h"
#include "vm/works.h"

/* A peer that stalls in the middle of a message must not stall us. */
enum { PEER_WAIT_S = 5 };

enum { PEERS_MAX = 16 }; /* the first is who started us */

struct session;

enum stay {
	STAY_NOT,
	STAY_WHILE_SAVING,
	STAY_IF_SAVED,
	STAY, /* until it says go */
};

/* Whoever may ask for things. */
struct peer {
	struct session *session;
	int sock; /* -1: none */
	struct loop_fd *watch;
	enum stay stays; /* the machine stands still for it */
	int saved_fd;    /* what it was saved to meanwhile; -1: nothing */
};

struct session {
	struct peer peers[PEERS_MAX];
	int signal_fd;
	struct loop *loop;
	struct machine *machine;
	struct loop_fd *signal_watch, *listen_watch;
	struct vm_config config;
	struct works *works;
	struct claims claims;
	struct shorten shorten;
	struct moments moments;
	bool paused, quits;
};

static void send_to(struct peer *p, json_t *message, const int *fds,
                    size_t count)
{
	struct error err = { 0 };

	if (p->sock >= 0 &&
	    control_send(p->sock, message, fds, count, &err) < 0)
		log_debug("vm", "%s", err.text);
}

/* To everyone. */
static void send_json(struct session *s, json_t *message)
{
	for (unsigned i = 0; message && i < PEERS_MAX; i++)
		send_to(&s->peers[i], message, NULL, 0);
	json_decref(message);
}

json_t *session_words(const char *words)
{
	char clean[2048];
	size_t n = 0;

	for (; words[n] && n + 1 < sizeof(clean); n++)
		clean[n] = (u8)words[n] < 0x80 ? words[n] : '?';
	clean[n] = 0;
	return json_string(clean);
}

static void send_stopped(struct session *s, const char *cause, int code,
                         const char *words, const char *hint)
{
	send_json(s,
	          json_pack("{s:s,s:s,s:i,s:o,s:o}", "event", "stopped",
	                    "cause", cause, "code", code, "words",
	                    session_words(words), "hint", session_words(hint)));
}

static int failed(struct session *s, const struct error *err)
{
	send_stopped(s, "failure", END_FAILURE, err->text, err->hint);
	return END_FAILURE;
}

/* ---- requests while it runs ---- */

static void stay(struct peer *p, enum stay stays)
{
	bool was = p->stays;

	p->stays = stays;
	if (stays && !was)
		machine_freeze(p->session->machine);
	else if (!stays && was)
		machine_thaw(p->session->machine);
}

/* The file is held until it is known what comes after. */
static void hold_saved(struct peer *p, json_t *message,
                       const struct brought *brought)
{
	int fd = brought_fd(brought, json_object_get(message, "file"));

	if (p->saved_fd >= 0)
		close(p->saved_fd);
	p->saved_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* Who had the machine saved and stand still is gone without a word: it goes
 * on, away from what the file holds, which may have its name already. To go
 * on from there would put old memory over newer disks. */
static void void_saved(struct peer *p)
{
	if (p->stays == STAY && !p->session->quits && p->saved_fd >= 0 &&
	    (ftruncate(p->saved_fd, 0) < 0 || fdatasync(p->saved_fd) < 0))
		log_warn("vm", "a saved state that is none: %s",
		         strerror(errno));
	if (p->saved_fd >= 0)
		close(p->saved_fd);
	p->saved_fd = -1;
}

static bool is_saved(const struct session *s)
{
	for (unsigned i = 0; i < PEERS_MAX; i++)
		if (s->peers[i].stays)
			return true;
	return false;
}

static bool may_shorten(void *ctx)
{
	const struct session *s = ctx;

	return !is_saved(s) && !s->moments.busy;
}

/* What it was to stand still for is over. */
static void stay_is_decided(struct peer *p, bool saved)
{
	if (p->stays == STAY_IF_SAVED && saved)
		p->stays = STAY;
	else if (p->stays != STAY)
		stay(p, STAY_NOT);
}

static void answer(struct peer *p, json_t *id, struct reply *reply)
{
	if (id)
		json_object_set(reply->body, "id", id);
	send_to(p, reply->body, reply->fds, reply->fd_count);
}

static void answer_saved(void *asker, json_t *id, struct reply *reply)
{
	struct peer *p = asker;

	stay_is_decided(p, json_is_true(json_object_get(reply->body, "ok")));
	answer(p, id, reply);
}

static json_t *ok(void)
{
	return json_pack("{s:b}", "ok", 1);
}

static json_t *refusal(const char *words)
{
	return json_pack("{s:b,s:s}", "ok", 0, "words", words);
}

/* It would do it at another time. */
static json_t *busy(const char *words)
{
	return json_pack("{s:b,s:i,s:s}", "ok", 0, "code", -EBUSY, "words",
	                 words);
}

static json_t *do_status(struct session *s)
{
	char *report = machine_report(s->machine);
	json_t *figures = json_loads(report, 0, NULL);

	free(report);
	return json_pack("{s:b,s:s,s:s,s:o,s:O*}", "ok", 1, "state",
	                 s->paused ? "paused" : "running", "name",
	                 s->config.machine.name, "report",
	                 figures ? figures : json_object(), "origin",
	                 json_object_get(s->config.json, "origin"));
}

static json_t *do_figures(struct session *s)
{
	char *text = machine_figures(s->machine);
	json_t *figures = json_loads(text, 0, NULL);

	free(text);
	return json_pack("{s:b,s:o}", "ok", 1, "figures",
	                 figures ? figures : json_object());
}

static json_t *do_balloon(struct session *s, json_t *message)
{
	json_t *bytes = json_object_get(message, "bytes");
	struct error err = { 0 };

	if (!json_is_integer(bytes) || json_integer_value(bytes) < 0)
		return refusal("balloon needs bytes");
	if (machine_balloon(s->machine, (u64)json_integer_value(bytes), &err) <
	    0)
		return refusal(err.text);
	return ok();
}

static json_t *do_cpus(struct session *s, json_t *message)
{
	json_int_t count =
	    json_integer_value(json_object_get(message, "count"));
	struct error err = { 0 };

	if (count < 1 || count > MACHINE_CPUS_MAX)
		return refusal("cpus needs a count");
	if (machine_add_cpus(s->machine, (unsigned)count, &err) < 0)
		return json_pack("{s:b,s:s,s:s}", "ok", 0, "words", err.text,
		                 "hint", err.hint);
	return ok();
}

static json_t *do_resize(struct session *s, json_t *message)
{
	json_t *columns = json_object_get(message, "columns");
	json_t *rows = json_object_get(message, "rows");
	json_int_t c = json_integer_value(columns);
	json_int_t r = json_integer_value(rows);

	if (c < 1 || c > UINT16_MAX || r < 1 || r > UINT16_MAX)
		return refusal("resize needs columns and rows");
	machine_console_resize(s->machine, (u16)c, (u16)r);
	return ok();
}

int brought_fd(const struct brought *b, json_t *index)
{
	json_int_t i = json_integer_value(index);

	return json_is_integer(index) && i >= 0 && (size_t)i < b->count
	           ? b->fds[i]
	           : -1;
}

/* Who started us may ask for others, each of which it has a number for. */
static u64 asker_of(const struct peer *p, json_t *message)
{
	u64 number = (u64)(p - p->session->peers) + 1;
	json_t *client = json_object_get(message, "client");

	return number == 1 && json_integer_value(client) > 0
	           ? PEERS_MAX + (u64)json_integer_value(client)
	           : number;
}

static struct disks session_disks(struct peer *p, json_t *message)
{
	struct session *s = p->session;

	return (struct disks){ s->machine,  &s->config, s->works,
		               &s->shorten, &s->claims, asker_of(p, message) };
}

static void asker_left(struct session *s, u64 asker)
{
	works_left(s->works, asker);
	claims_drop(&s->claims, asker);
}

static json_t *do_save(struct peer *p, json_t *message,
                       const struct brought *brought)
{
	const struct disks disks = session_disks(p, message);
	bool stays = json_is_true(json_object_get(message, "stay"));
	json_t *refused;

	/* Whoever it stands still for is not to lose that by our refusal. */
	if (p->session->moments.busy)
		return busy("the machine is being saved already");
	if (disks_in_the_way(&disks))
		return busy(disks_in_the_way(&disks));
	if (!p->stays)
		stay(p, stays ? STAY_IF_SAVED : STAY_WHILE_SAVING);
	refused = moments_save(&p->session->moments, p, message, brought);
	if (refused)
		stay_is_decided(p, false);
	else if (stays)
		hold_saved(p, message, brought);
	return refused;
}

/* Another cable for a network card: the switch of its network is another. */
static json_t *do_cable(struct session *s, json_t *message,
                        const struct brought *brought)
{
	json_int_t nic = json_integer_value(json_object_get(message, "nic"));
	int fd = brought_fd(brought, json_object_get(message, "fd"));
	struct error err = { 0 };

	/* What came along is closed by whoever received it. */
	fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || nic < 0)
		return refusal("cable needs a card and a descriptor");
	if (machine_replug(s->machine, (unsigned)nic, fd, &err) < 0)
		return refusal(err.text);
	return ok();
}

static json_t *do_snapshot(struct peer *p, json_t *message,
                           const struct brought *brought)
{
	struct session *s = p->session;
	const struct disks disks = session_disks(p, message);
	bool stays = json_is_true(json_object_get(message, "stay"));
	json_t *refused;

	if (s->moments.busy)
		return busy("the machine is being saved already");
	if (disks_in_the_way(&disks))
		return busy(disks_in_the_way(&disks));
	if (stays && !p->stays)
		stay(p, STAY_IF_SAVED);
	refused = moments_snapshot(&s->moments, p, message, brought);
	if (refused)
		stay_is_decided(p, false);
	else if (stays)
		hold_saved(p, message, brought);
	return refused;
}

static json_t *do_fork(struct peer *p, json_t *message,
                       const struct brought *brought, struct reply *reply)
{
	const struct disks disks = session_disks(p, message);

	if (disks_in_the_way(&disks))
		return busy(disks_in_the_way(&disks));
	if (disks_claimed(&disks))
		return busy("another command is at work on a disk");
	shorten_soon(&p->session->shorten);
	return moments_fork(&p->session->moments, p, message, brought, reply);
}

static void do_quit(struct session *s, json_t *message)
{
	s->quits = true;
	if (json_is_true(json_object_get(message, "suspended")))
		machine_quit(s->machine, END_POWER_OFF, "suspended",
		             "the machine was suspended");
	else
		machine_quit(s->machine, END_QUIT, "quit",
		             "the machine was told to quit");
}

/* While the machine stands still for somebody, so do its disks. */
static json_t *do_disks(struct peer *p, const char *op, json_t *message,
                        const struct brought *brought)
{
	struct session *s = p->session;
	const struct disks disks = session_disks(p, message);
	json_t *answer;

	if (is_saved(s) || s->moments.forks)
		return busy(s->moments.forks ? "the machine is being copied"
		                             : "the machine is being saved");
	/* Its moment waits for the disks on our thread, which work that
	 * replaces an image needs meanwhile. */
	if (s->moments.busy && disks_alone(op))
		return busy("the machine is being saved");
	answer = disks_request(&disks, op, message, brought);
	return answer ? answer : refusal("no such request");
}

static json_t *do_op(struct peer *p, const char *op, json_t *message,
                     const struct brought *brought, struct reply *reply)
{
	struct session *s = p->session;

	if (!strcmp(op, "powerdown")) {
		machine_power_button(s->machine);
	} else if (!strcmp(op, "reset")) {
		machine_reset(s->machine, "asked for");
	} else if (!strcmp(op, "pause")) {
		machine_pause(s->machine);
		s->paused = true;
	} else if (!strcmp(op, "resume")) {
		machine_resume(s->machine);
		s->paused = false;
	} else if (!strcmp(op, "quit")) {
		do_quit(s, message);
	} else if (!strcmp(op, "save")) {
		return do_save(p, message, brought);
	} else if (!strcmp(op, "cable")) {
		return do_cable(s, message, brought);
	} else if (!strcmp(op, "snapshot")) {
		return do_snapshot(p, message, brought);
	} else if (!strcmp(op, "snapshot-progress")) {
		return moments_progress(&s->moments);
	} else if (!strcmp(op, "snapshot-cancel")) {
		moments_cancel(&s->moments);
	} else if (!strcmp(op, "fork")) {
		return do_fork(p, message, brought, reply);
	} else if (!strcmp(op, "go")) {
		stay(p, STAY_NOT);
	} else if (!strcmp(op, "status")) {
		return do_status(s);
	} else if (!strcmp(op, "figures")) {
		return do_figures(s);
	} else if (!strcmp(op, "balloon")) {
		return do_balloon(s, message);
	} else if (!strcmp(op, "cpus")) {
		return do_cpus(s, message);
	} else if (!strcmp(op, "resize")) {
		return do_resize(s, message);
	} else if (!strcmp(op, "left") && p == &s->peers[0]) {
		asker_left(s, asker_of(p, message));
		return NULL; /* it waits for no answer */
	} else {
		return do_disks(p, op, message, brought);
	}
	return ok();
}

static void peer_close(struct peer *p)
{
	loop_fd_remove(p->watch);
	p->watch = NULL;
	if (p->sock >= 0)
		close(p->sock);
	p->sock = -1;
}

static void peer_gone(struct peer *p)
{
	struct session *s = p->session;

	moments_forget(&s->moments, p);
	peer_close(p);
	void_saved(p);
	stay(p, STAY_NOT);
	asker_left(s, asker_of(p, NULL));
	if (p == &s->peers[0]) {
		machine_quit(s->machine, END_QUIT, "quit",
		             "whoever started the machine has gone");
	}
}

static void sock_ready(void *ctx, unsigned events)
{
	struct peer *p = ctx;
	struct error err = { 0 };
	int fds[CONTROL_FDS_MAX];
	struct brought brought = { .fds = fds };
	struct reply reply = { 0 };
	json_t *message;
	const char *op;

	(void)events;
	if (control_receive(p->sock, &message, fds, CONTROL_FDS_MAX,
	                    &brought.count, &err) < 0) {
		log_debug("vm", "%s", err.text);
		peer_gone(p);
		return;
	}
	op = json_string_value(json_object_get(message, "op"));
	reply.body = do_op(p, op ? op : "", message, &brought, &reply);
	/* They bear locks, and who hears of a refusal may lock the files. */
	for (size_t i = 0; i < brought.count; i++)
		close(fds[i]);
	/* What is asked may be answered when it is done. */
	if (reply.body)
		answer(p, json_object_get(message, "id"), &reply);
	json_decref(reply.body);
	while (reply.fd_count)
		close(reply.fds[--reply.fd_count]);
	json_decref(message);
}

static void peer_open(struct session *s, struct peer *p, int sock)
{
	struct timeval wait = { PEER_WAIT_S, 0 };

	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	p->sock = sock;
	p->watch = loop_fd_add(s->loop, sock, LOOP_READ, sock_ready, p);
}

static void listen_ready(void *ctx, unsigned events)
{
	struct session *s = ctx;
	int sock = accept4(s->config.listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	for (unsigned i = 1; sock >= 0 && i < PEERS_MAX; i++)
		if (s->peers[i].sock < 0) {
			peer_open(s, &s->peers[i], sock);
			return;
		}
	if (sock >= 0)
		close(sock);
}

static void signal_ready(void *ctx, unsigned events)
{
	struct session *s = ctx;

	(void)events;
	loop_fd_set(s->signal_watch, 0);
	machine_quit(s->machine, END_QUIT, "quit",
	             "the machine's process was told to end");
}

/* ---- start and end ---- */

/* Before any thread exists, so that all inherit the mask. */
static int watch_signals(struct session *s, struct error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return error_set(err, -errno, "signals: %s", strerror(errno));
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0)
		return error_set(err, -errno, "signals: %s", strerror(errno));
	return 0;
}

static int receive_start(struct session *s, struct error *err)
{
	int fds[CONTROL_FDS_MAX];
	size_t count = 0;
	json_t *message = NULL;
	const char *op;
	int rc = control_receive(s->peers[0].sock, &message, fds,
	                         CONTROL_FDS_MAX, &count, err);

	if (rc < 0)
		return rc;
	op = json_string_value(json_object_get(message, "op"));
	if (!op || strcmp(op, "start"))
		rc = error_set(err, -EPROTO,
		               "the first message is not a "
		               "start message");
	else
		rc = vm_config_parse(json_object_get(message, "machine"), fds,
		                     count, &s->config, err);
	json_decref(message);
	return rc;
}

static int build(struct session *s, struct error *err)
{
	struct stat saved = { 0 };
	int rc = receive_start(s, err);

	if (rc == 0 && s->config.machine.restore &&
	    fstat(s->config.machine.restore_fd, &saved) < 0)
		rc = error_set(err, -errno, "the saved machine: %s",
		               strerror(errno));
	if (rc == 0)
		rc = watch_signals(s, err);
	if (rc == 0)
		rc = loop_create(&s->loop, err);
	if (rc < 0)
		return rc;
	log_setup(STDERR_FILENO, log_level(), s->config.machine.name);
	rc = machine_create(&s->machine, &s->config.machine, s->loop, err);
	/* Who needs one of them has its own now. */
	given_close();
	if (rc < 0)
		return rc;
	if (s->config.machine.restore)
		close(s->config.machine.restore_fd);
	s->works = works_create(s->loop, &s->config, s->machine);
	s->moments = (struct moments){ .loop = s->loop,
		                       .machine = s->machine,
		                       .config = &s->config,
		                       .answer = answer_saved };
	moments_init(&s->moments);
	s->shorten = (struct shorten){ .loop = s->loop,
		                       .config = &s->config,
		                       .works = s->works,
		                       .may = may_shorten,
		                       .ctx = s };
	shorten_init(&s->shorten);
	peer_open(s, &s->peers[0], s->peers[0].sock);
	rc = lost_watch(s->machine, s->loop, s->peers[0].sock, &saved, err);
	if (rc < 0)
		return rc;
	if (s->config.listen_fd >= 0)
		s->listen_watch = loop_fd_add(s->loop, s->config.listen_fd,
		                              LOOP_READ, listen_ready, s);
	s->signal_watch =
	    loop_fd_add(s->loop, s->signal_fd, LOOP_READ, signal_ready, s);
	/* No core: it would hold the guest's memory. */
	prctl(PR_SET_DUMPABLE, 0);
	return sandbox_enter(err);
}

static void write_report(struct session *s)
{
	char *text;
	size_t size, done = 0;

	if (s->config.report_fd < 0)
		return;
	text = machine_report(s->machine);
	size = strlen(text);
	text[size] = '\n'; /* in place of the NUL */
	while (done <= size) {
		ssize_t n =
		    write(s->config.report_fd, text + done, size + 1 - done);

		if (n < 0 && errno != EINTR) {
			log_warn("vm", "report: %s", strerror(errno));
			break;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	free(text);
}

static int run(struct session *s)
{
	struct machine_outcome outcome;

	send_json(s, json_pack("{s:s}", "event", "started"));
	/* What building a machine took is not needed to run it. */
	malloc_trim(0);
	machine_run(s->machine, &outcome);
	works_end(s->works);
	write_report(s);
	send_stopped(s, outcome.cause, outcome.code, outcome.words, "");
	return outcome.code;
}

/* Peers hear of the end last: who waits for it may use the disks then. */
static void session_fini(struct session *s)
{
	for (unsigned i = 0; i < PEERS_MAX; i++) {
		loop_fd_remove(s->peers[i].watch);
		s->peers[i].watch = NULL;
	}
	loop_fd_remove(s->listen_watch);
	loop_fd_remove(s->signal_watch);
	shorten_fini(&s->shorten);
	works_end(s->works);
	lost_unwatch();
	moments_fini(&s->moments);
	machine_destroy(s->machine);
	loop_destroy(s->loop);
	works_destroy(s->works);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	vm_config_fini(&s->config);
	for (unsigned i = 0; i < PEERS_MAX; i++)
		peer_close(&s->peers[i]);
}

int vm_session(int sock)
{
	struct session s = { .signal_fd = -1, .config = { .listen_fd = -1 } };
	struct error err = { 0 };
	int code;

	for (unsigned i = 0; i < PEERS_MAX; i++)
		s.peers[i] =
		    (struct peer){ .session = &s, .sock = -1, .saved_fd = -1 };
	s.peers[0].sock = sock;
	if (build(&s, &err) < 0)
		code = failed(&s, &err);
	else
		code = run(&s);
	session_fini(&s);
	return code;
}
