/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - a machine in the foreground: its console, its menu, its end.
 *
 * One poll loop moves bytes: the keyboard to the guest, the guest to the
 * terminal, the worker's messages to standard error, signals and menu keys to
 * the control socket. poll and not epoll, since standard input may be a plain
 * file. A full terminal stops the reading of the guest's pipe, never the
 * menu; at the end everything that the guest wrote is written out first.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "cli/terminal.h"
#include "control/control.h"
#include "control/record.h"
#include "launch/launch.h"

enum { ESCAPE = 0x1d /* Ctrl-] */, BUFFER = 64 * 1024 };
enum {
	AT_SIGNAL,
	AT_CONTROL,
	AT_RECORDS,
	AT_KEYS,
	AT_GUEST_IN,
	AT_GUEST_OUT,
	AT_SCREEN,
	AT_MESSAGES,
	AT_COUNT
};
/* After the worker's last words: how long its pipes may stay open. */
enum { LAST_BYTES_MS = 3000, GRACE_MS = 5000 };

struct buffer {
	u8 data[BUFFER];
	size_t at, end;
};

struct session {
	const struct session_config *config;
	struct terminal terminal;
	int fds[AT_COUNT];    /* -1: closed */
	struct buffer keys;   /* to the guest */
	struct buffer screen; /* from the guest */
	bool screen_owned, screen_gone;
	bool keys_ended, in_menu, paused;
	bool overdue;    /* the worker missed its own timeout */
	unsigned quits;  /* times we were told to stop */
	u64 deadline_ns; /* 0: none */

	bool stopped; /* the worker said how it ended */
	bool started, suspended;
	bool quiet; /* and it needs no words */
	int code;
	struct error words;
	char last[2048]; /* the machine's own, where they are longer */
};

/* ---- words to the person ---- */

static void put_text(struct session *s, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n' && s->terminal.raw)
			fputc('\r', stderr);
		fputc(text[i], stderr);
	}
	fflush(stderr);
}

static void say(struct session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void say(struct session *s, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put_text(s, text, strlen(text));
}

/* ---- requests to the worker ---- */

static void request(struct session *s, json_t *message)
{
	struct error err;

	/* A worker that is gone is noticed by its socket's end. */
	if (s->fds[AT_CONTROL] >= 0 &&
	    control_send(s->fds[AT_CONTROL], message, NULL, 0, &err) < 0)
		say(s, "\natoll: %s\n", err.text);
	json_decref(message);
}

static void request_op(struct session *s, const char *op)
{
	request(s, json_pack("{s:s}", "op", op));
}

static void quit(struct session *s, const char *why)
{
	/* Asked twice, we do not wait for the worker's good will. */
	if (s->quits++ > 0) {
		kill(s->config->worker.pid, SIGKILL);
		return;
	}
	request(s, json_pack("{s:s, s:s}", "op", "quit", "why", why));
	s->deadline_ns = loop_now_ns() + GRACE_MS * NSEC_PER_MSEC;
}

static void send_size(struct session *s)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
		request(s,
		        json_pack("{s:s, s:i, s:i}", "op", "resize", "columns",
		                  size.ws_col, "rows", size.ws_row));
}

/* ---- the menu ---- */

static const char menu_text[] =
    "\n[atoll] q quit   p power button   r reset   s pause/resume   ? help\n"
    "        Ctrl-] sends Ctrl-] to the guest; any other key goes back\n";
static const char help_text[] =
    "\n[atoll] This terminal is the machine's console.\n"
    "  Ctrl-] q   end the machine at once, as pulling the plug does\n"
    "  Ctrl-] p   press the power button: the guest shuts down by itself\n"
    "  Ctrl-] r   reset\n"
    "  Ctrl-] s   pause, and go on\n"
    "  Ctrl-] Ctrl-]   send one Ctrl-] to the guest\n";

static void menu_key(struct session *s, u8 key)
{
	s->in_menu = false;
	switch (key) {
	case 'q':
	case 'Q':
		say(s, "[atoll] quit\n");
		quit(s, "quit from the console");
		break;
	case 'p':
	case 'P':
		say(s, "[atoll] power button pressed\n");
		request_op(s, "powerdown");
		break;
	case 'r':
	case 'R':
		say(s, "[atoll] reset\n");
		request_op(s, "reset");
		break;
	case 's':
	case 'S':
		s->paused = !s->paused;
		say(s, "[atoll] %s\n", s->paused ? "paused" : "running");
		request_op(s, s->paused ? "pause" : "resume");
		break;
	case '?':
	case 'h':
	case 'H':
		put_text(s, help_text, strlen(help_text));
		break;
	case ESCAPE:
		s->keys.data[s->keys.end++] = ESCAPE;
		break;
	default:
		say(s, "[atoll] back\n");
		break;
	}
}

static void typed(struct session *s, const u8 *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (s->in_menu) {
			menu_key(s, bytes[i]);
		} else if (bytes[i] == ESCAPE && s->terminal.fd >= 0) {
			s->in_menu = true;
			put_text(s, menu_text, strlen(menu_text));
		} else {
			s->keys.data[s->keys.end++] = bytes[i];
		}
	}
}

/* ---- bytes ---- */

static void buffer_pack(struct buffer *b)
{
	memmove(b->data, b->data + b->at, b->end - b->at);
	b->end -= b->at;
	b->at = 0;
}

static void close_at(struct session *s, int at)
{
	if (s->fds[at] >= 0)
		close(s->fds[at]);
	s->fds[at] = -1;
}

static void read_keys(struct session *s)
{
	u8 bytes[4096];
	size_t room;
	ssize_t n;

	buffer_pack(&s->keys);
	room = MIN(sizeof(s->keys.data) - s->keys.end, sizeof(bytes));
	n = read(STDIN_FILENO, bytes, room);
	if (n > 0)
		typed(s, bytes, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		s->keys_ended = true;
}

static void feed_guest(struct session *s)
{
	struct buffer *b = &s->keys;
	ssize_t n = write(s->fds[AT_GUEST_IN], b->data + b->at, b->end - b->at);

	if (n > 0)
		b->at += (size_t)n;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		close_at(s, AT_GUEST_IN);
}

static void read_guest(struct session *s)
{
	struct buffer *b = &s->screen;
	ssize_t n;

	buffer_pack(b);
	n = read(s->fds[AT_GUEST_OUT], b->data + b->end,
	         sizeof(b->data) - b->end);
	if (n > 0)
		b->end += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_at(s, AT_GUEST_OUT);
	if (s->screen_gone)
		b->at = b->end = 0;
}

static void write_screen(struct session *s)
{
	struct buffer *b = &s->screen;
	ssize_t n = write(s->fds[AT_SCREEN], b->data + b->at, b->end - b->at);

	if (n > 0) {
		b->at += (size_t)n;
	} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
		/* Nobody reads any more; the guest goes on. */
		s->screen_gone = true;
		b->at = b->end = 0;
	}
}

static void read_messages(struct session *s)
{
	char text[2048];
	ssize_t n = read(s->fds[AT_MESSAGES], text, sizeof(text));

	if (n > 0)
		put_text(s, text, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_at(s, AT_MESSAGES);
}

/* ---- events ---- */

static void stop_event(struct session *s, json_t *message)
{
	const char *words = "", *hint = "", *cause = "";
	int code = END_FAILURE;

	if (json_unpack(message, "{s?s, s?i, s?s, s?s}", "cause", &cause,
	                "code", &code, "words", &words, "hint", &hint) < 0)
		words = "the machine's process said something unreadable";
	s->stopped = true;
	s->suspended = strcmp(cause, "suspended") == 0;
	s->code = code;
	/* A code that the guest chose is its own affair. */
	s->quiet = code == END_POWER_OFF || strcmp(cause, "guest-exit") == 0;
	error_set(&s->words, -EIO, "%s", words[0] ? words : cause);
	snprintf(s->last, sizeof(s->last), "%s", words);
	error_hint(&s->words, "%s", hint);
	s->deadline_ns = loop_now_ns() + LAST_BYTES_MS * NSEC_PER_MSEC;
}

/* It may have been put away again before we hear that it runs: then another
 * state stands there, and stays. */
static void forget_saved(const struct session_config *c)
{
	char *aside = xasprintf("%s.used", c->unlink_started);

	if (rename(c->unlink_started, aside) == 0 &&
	    (saved_is_at(c->saved, aside) ||
	     renameat2(AT_FDCWD, aside, AT_FDCWD, c->unlink_started,
	               RENAME_NOREPLACE) < 0))
		unlink(aside);
	free(aside);
}

static void started(struct session *s)
{
	s->started = true;
	if (s->config->unlink_started)
		forget_saved(s->config);
	send_size(s);
}

/* Another image is about to take a disk's place. */
static json_t *record(struct session *s, json_t *message)
{
	const struct session_config *c = s->config;
	struct error err = { 0 };
	const char *name = "";
	int disk = -1, rc;

	if (json_unpack(message, "{s:i, s:s}", "disk", &disk, "name", &name) <
	        0 ||
	    disk < 0 || (unsigned)disk >= c->disk_count ||
	    !c->disk_paths[disk][0])
		rc = error_set(&err, -EPERM, "no path leads to this disk");
	else
		rc = record_take(c->disk_paths[disk], name, &err);
	if (rc < 0)
		say(s, "\natoll: %s\n", err.text);
	return json_pack("{s:i}", "result", rc);
}

static void read_records(struct session *s)
{
	int fds[CONTROL_FDS_MAX], fd = s->fds[AT_RECORDS];
	json_t *message, *answer;
	size_t count = 0;

	if (control_receive(fd, &message, fds, ARRAY_SIZE(fds), &count, NULL) <
	    0) {
		close_at(s, AT_RECORDS);
		return;
	}
	while (count)
		close(fds[--count]);
	answer = record(s, message);
	if (control_send(fd, answer, NULL, 0, NULL) < 0)
		close_at(s, AT_RECORDS);
	json_decref(answer);
	json_decref(message);
}

static void read_control(struct session *s)
{
	const char *event = "";
	json_t *message;
	struct error err;
	int fds[CONTROL_FDS_MAX];
	size_t count = 0;

	if (control_receive(s->fds[AT_CONTROL], &message, fds, ARRAY_SIZE(fds),
	                    &count, &err) < 0) {
		/* Gone; with or without its last words. */
		close_at(s, AT_CONTROL);
		s->deadline_ns = loop_now_ns() + LAST_BYTES_MS * NSEC_PER_MSEC;
		return;
	}
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	if (json_unpack(message, "{s:s}", "event", &event) == 0) {
		if (strcmp(event, "stopped") == 0)
			stop_event(s, message);
		else if (strcmp(event, "started") == 0)
			started(s);
	}
	json_decref(message);
}

/* Job control: the shell gets its terminal back while we are stopped. */
static void suspend(struct session *s)
{
	terminal_restore(&s->terminal);
	kill(getpid(), SIGSTOP);
	terminal_resume(&s->terminal);
	send_size(s);
}

static void read_signal(struct session *s)
{
	struct signalfd_siginfo info;
	char why[64];

	if (read(s->fds[AT_SIGNAL], &info, sizeof(info)) !=
	    (ssize_t)sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGWINCH:
		send_size(s);
		break;
	case SIGTSTP:
		suspend(s);
		break;
	default:
		snprintf(why, sizeof(why), "ended by a signal: %s",
		         strsignal((int)info.ssi_signo));
		quit(s, why);
	}
}

/* ---- the loop ---- */

/* What is not wanted is left out of the poll: it would report its end again
 * and again. */
static struct pollfd want(const struct session *s, int at, bool wanted,
                          short events)
{
	return (struct pollfd){ .fd = wanted ? s->fds[at] : -1,
		                .events = events };
}

static bool has_room(const struct buffer *b)
{
	/* A byte typed may become two with the menu's Ctrl-]. */
	return b->end - b->at < sizeof(b->data) - 4096;
}

static int round_timeout(struct session *s)
{
	u64 now = loop_now_ns();

	if (!s->deadline_ns)
		return -1;
	if (now >= s->deadline_ns)
		return 0;
	return (int)((s->deadline_ns - now) / NSEC_PER_MSEC) + 1;
}

static bool finished(const struct session *s)
{
	return s->fds[AT_CONTROL] < 0 && s->fds[AT_GUEST_OUT] < 0 &&
	       s->fds[AT_MESSAGES] < 0 && s->screen.at == s->screen.end;
}

/* The worker is gone, and so are its ends of the pipes. */
static bool worker_gone(const struct session *s)
{
	return s->fds[AT_CONTROL] < 0 && s->fds[AT_GUEST_OUT] < 0;
}

/* The worker did not end in time: end it. Its pipes close by that. */
static void out_of_time(struct session *s)
{
	s->deadline_ns = 0;
	if (worker_gone(s)) {
		/* A screen that takes nothing is waited for, unless somebody
		 * asked us to stop. */
		if (s->quits)
			s->screen.at = s->screen.end;
		return;
	}
	s->overdue = !s->stopped && !s->quits;
	kill(s->config->worker.pid, SIGKILL);
	if (s->quits)
		s->deadline_ns = loop_now_ns() + GRACE_MS * NSEC_PER_MSEC;
}

static void prepare_round(struct session *s, struct pollfd *polls)
{
	bool ended = s->stopped || s->fds[AT_CONTROL] < 0;
	bool can_type = s->fds[AT_GUEST_IN] >= 0 || s->terminal.fd >= 0;

	/* All that was typed has been sent: say that there is no more. */
	if (s->keys_ended && s->keys.at == s->keys.end)
		close_at(s, AT_GUEST_IN);
	polls[AT_SIGNAL] = want(s, AT_SIGNAL, true, POLLIN);
	polls[AT_CONTROL] = want(s, AT_CONTROL, true, POLLIN);
	polls[AT_RECORDS] = want(s, AT_RECORDS, true, POLLIN);
	polls[AT_MESSAGES] = want(s, AT_MESSAGES, true, POLLIN);
	polls[AT_KEYS] = want(
	    s, AT_KEYS,
	    !ended && !s->keys_ended && can_type && has_room(&s->keys), POLLIN);
	polls[AT_GUEST_IN] =
	    want(s, AT_GUEST_IN, s->keys.at != s->keys.end, POLLOUT);
	polls[AT_GUEST_OUT] =
	    want(s, AT_GUEST_OUT, has_room(&s->screen), POLLIN);
	polls[AT_SCREEN] =
	    want(s, AT_SCREEN, s->screen.at != s->screen.end, POLLOUT);
}

static void handle_round(struct session *s, const struct pollfd *polls)
{
	static void (*const handlers[AT_COUNT])(struct session *) = {
		[AT_SIGNAL] = read_signal,     [AT_CONTROL] = read_control,
		[AT_KEYS] = read_keys,         [AT_GUEST_IN] = feed_guest,
		[AT_GUEST_OUT] = read_guest,   [AT_SCREEN] = write_screen,
		[AT_MESSAGES] = read_messages, [AT_RECORDS] = read_records,
	};

	for (int i = 0; i < AT_COUNT; i++)
		if (polls[i].fd >= 0 && polls[i].revents && s->fds[i] >= 0)
			handlers[i](s);
}

static void loop(struct session *s)
{
	struct pollfd polls[AT_COUNT];
	int n;

	for (;;) {
		prepare_round(s, polls);
		if (finished(s))
			return;
		n = poll(polls, AT_COUNT, round_timeout(s));
		if (n < 0 && errno != EINTR)
			return;
		if (n > 0)
			handle_round(s, polls);
		if (s->deadline_ns && loop_now_ns() >= s->deadline_ns)
			out_of_time(s);
	}
}

/* ---- begin and end ---- */

static int open_signals(void)
{
	static const int ours[] = { SIGINT,  SIGTERM,  SIGHUP,
		                    SIGQUIT, SIGWINCH, SIGTSTP };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		sigaddset(&set, ours[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* A description of our own may be non-blocking without changing the shell's.
 * A plain file is not opened again: its position would be lost. */
static void open_screen(struct session *s)
{
	int fd = -1;

	if (isatty(STDOUT_FILENO))
		fd = open("/proc/self/fd/1",
		          O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	s->screen_owned = fd >= 0;
	s->fds[AT_SCREEN] = fd >= 0 ? fd : STDOUT_FILENO;
}

static void set_nonblock(int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void open_polls(struct session *s)
{
	const struct session_config *c = s->config;

	s->fds[AT_KEYS] = STDIN_FILENO;
	s->fds[AT_SIGNAL] = open_signals();
	s->fds[AT_CONTROL] = c->worker.control;
	s->fds[AT_RECORDS] = c->records;
	s->fds[AT_MESSAGES] = c->worker.messages;
	s->fds[AT_GUEST_IN] = c->console_in;
	s->fds[AT_GUEST_OUT] = c->console_out;
	set_nonblock(c->console_in);
	set_nonblock(c->console_out);
	set_nonblock(c->worker.messages);
}

static int died(struct session *s, int status)
{
	if (s->quits)
		return END_QUIT;
	if (s->overdue) {
		error_set(&s->words, -ETIME,
		          "the machine did not stop at its timeout and was "
		          "ended");
		return END_TIMEOUT;
	}
	if (WIFSIGNALED(status))
		error_set(&s->words, -EIO,
		          "the machine's process was ended by signal %d (%s)",
		          WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		error_set(&s->words, -EIO,
		          "the machine's process ended with code %d, without "
		          "a word",
		          WEXITSTATUS(status));
	error_hint(&s->words, "this is a fault of Atoll's, not of the guest");
	return END_WORKER_DIED;
}

static int conclude(struct session *s, int status)
{
	if (!s->stopped)
		s->code = died(s, status);
	if (!s->quiet && s->words.text[0])
		fprintf(stderr, "error: %s\n",
		        s->last[0] ? s->last : s->words.text);
	if (!s->quiet && s->words.hint[0])
		fprintf(stderr, "hint: %s\n", s->words.hint);
	return s->code;
}

int session_run(const struct session_config *config)
{
	struct session *s = calloc(1, sizeof(*s));
	int status, code;

	if (!s) {
		launch_end(config->worker.pid, 0);
		return END_FAILURE;
	}
	s->config = config;
	open_polls(s);
	terminal_open(&s->terminal, STDIN_FILENO);
	open_screen(s);
	if (config->timeout_ns)
		s->deadline_ns = loop_now_ns() + config->timeout_ns +
		                 GRACE_MS * NSEC_PER_MSEC;
	loop(s);
	status = launch_end(config->worker.pid, GRACE_MS);
	terminal_close(&s->terminal);
	code = conclude(s, status);
	if (s->suspended)
		fprintf(stderr, "[atoll] suspended\n");
	else if (s->started && config->disks_ended)
		saved_forget_disks(config->disks_ended);
	for (int i = 0; i < AT_COUNT; i++)
		if (i != AT_KEYS && i != AT_SCREEN)
			close_at(s, i);
	if (s->screen_owned)
		close_at(s, AT_SCREEN);
	free(s);
	return code;
}
