/* SPDX-License-Identifier: Apache-2.0 */
/*
 * live - finding a machine's disk, asking, following a job.
 */
#include "cli/live.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/claim.h"
#include "cli/named.h"
#include "cli/options.h"
#include "cli/saved.h"
#include "cli/say.h"
#include "cli/untaken.h"
#include "control/control.h"

enum { TICK_MIN_MS = 2, TICK_MAX_MS = 100 };

/* ---- which machine, which disk ---- */

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
	bool only_live; /* no verb for files has this name */
} verbs[] = {
	{ "snapshot", live_snapshot_verb, false },
	{ "commit", live_commit_verb, false },
	{ "rebase", live_rebase_verb, false },
	{ "mirror", live_mirror_verb, true },
	{ "backup", live_backup_verb, true },
	{ "export", live_export_verb, false },
	{ "resize", live_resize_verb, false },
	{ "throttle", live_throttle_verb, true },
	{ "bitmap", live_bitmap_verb, false },
	{ "jobs", live_jobs_verb, true },
	{ "info", live_info_verb, false },
};

static bool names_a_disk(const char *word)
{
	const char *colon = strrchr(word, ':');
	char name[64];

	if (!colon || colon == word || (size_t)(colon - word) >= sizeof(name))
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)(colon - word), word);
	return named_valid(name) && parse_disk(colon + 1) >= 0 &&
	       access(word, F_OK) < 0;
}

int (*live_verb(int argc, char **argv))(int argc, char **argv)
{
	for (size_t v = 0; v < ARRAY_SIZE(verbs); v++) {
		if (strcmp(verbs[v].name, argv[0]) != 0)
			continue;
		if (verbs[v].only_live)
			return verbs[v].fn;
		for (int i = 1; i < argc; i++)
			if (names_a_disk(argv[i]))
				return verbs[v].fn;
	}
	return NULL;
}

int live_arg(struct live_args *a, int id, const char *value, struct error *err)
{
	switch (id) {
	case LIVE_OPT_RATE:
		return parse_size(value, 1, &a->rate, err);
	case LIVE_OPT_LINES:
		a->lines = true;
		return 0;
	case LIVE_OPT_SOCKET:
		a->socket = value;
		return 0;
	case LIVE_OPT_PATH:
		a->path = value;
		return 0;
	case LIVE_OPT_DISK_FORMAT:
		a->disk_format = value;
		return 0;
	case LIVE_OPT_DETACH:
		a->detach = true;
		return 0;
	default:
		return disk_arg(&a->args, id, value, err);
	}
}

/* By its folder a path of any length fits. */
int live_connect(const char *path, struct error *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	const char *slash = strrchr(path, '/');
	char *folder = slash ? xasprintf("%.*s", (int)(slash - path) + 1, path)
	                     : xstrdup(".");
	int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/%.64s",
	         dir, slash ? slash + 1 : path);
	if (dir < 0 || fd < 0 ||
	    connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		rc = error_set(err, -errno, "cannot reach %s: %s", path,
		               strerror(errno));
	if (dir >= 0)
		close(dir);
	if (rc < 0 && fd >= 0)
		close(fd);
	free(folder);
	return rc < 0 ? rc : fd;
}

static void take_path(struct live_disk *d, const char *path, const char *format)
{
	d->path = path && path[0] ? realpath(path, NULL) : NULL;
	d->format = xstrdup(format ? format : "raw");
}

static int connected(struct live_args *a, struct error *err)
{
	if (a->disk.sock < 0)
		return a->disk.sock;
	return a->turn ? claim_disks(a->disk.sock, (int)a->disk.number, err)
	               : 0;
}

/* To where its path leads can change until it is our turn. */
static int open_named_disk(struct live_args *a, struct error *err)
{
	struct live_disk *d = &a->disk;
	json_t *list = named_disks(d->machine, err), *disk;
	const char *path = NULL, *format = "raw";
	int readonly = 0, rc;

	if (!list)
		return err->code;
	disk = json_array_get(list, d->number);
	json_unpack(disk, "{s?s, s?s, s?b}", "path", &path, "format", &format,
	            "readonly", &readonly);
	d->readonly = readonly;
	/* The machine was found: nobody else is asked. */
	if (!disk) {
		rc = error_set(err, -ENXIO, "%s has no disk vd%c", d->machine,
		               'a' + d->number);
	} else {
		d->sock = named_connect(d->machine, err);
		rc = connected(a, err);
	}
	if (rc == 0)
		take_path(d, path, format);
	json_decref(list);
	return rc;
}

int live_open_disk(struct live_args *a, struct error *err)
{
	struct live_disk *d = &a->disk;
	const char *word = a->args.names[0];
	const char *colon = word ? strrchr(word, ':') : NULL;
	int rc;

	d->sock = -1;
	if (!colon || parse_disk(colon + 1) < 0)
		return error_set(err, -EINVAL,
		                 "say which disk of which machine: NAME:vda");
	d->machine = xasprintf("%.*s", (int)(colon - word), word);
	d->number = (unsigned)parse_disk(colon + 1);
	if (!a->socket) {
		rc = open_named_disk(a, err);
	} else {
		d->sock = live_connect(a->socket, err);
		rc = connected(a, err);
		if (rc == 0)
			take_path(d, a->path, a->disk_format);
	}
	if (rc == 0 && a->turn && d->path)
		d->foreign =
		    !untaken_put_right(d->sock, d->number, d->path, d->format);
	return rc;
}

void live_close_disk(struct live_args *a)
{
	struct live_disk *d = &a->disk;

	/* It holds the target's file open as we do, and so its lock. */
	if (a->guard && !a->left && write(a->guard, "", 1) == 1)
		waitpid(a->guard_pid, NULL, 0);
	if (d->machine && d->sock >= 0)
		close(d->sock);
	free(d->machine);
	free(d->path);
	free(d->format);
	*d = (struct live_disk){ .sock = -1 };
}

/* It was not found here: the daemon may have it. */
static int ask_daemon(const struct live_verb *verb, void *ctx,
                      struct live_args *a, const struct error *local)
{
	struct error err = { 0 };
	json_t *body;
	int code;

	if (!verb->remote)
		return say_error(local);
	body = verb->remote(ctx, &err);
	if (err.code < 0)
		return say_error(&err);
	code = live_remote(a, body, verb->stopped ? NULL : local);
	json_decref(body);
	return code;
}

int live_main(const struct live_verb *verb, int argc, char **argv, void *ctx,
              struct live_args *a)
{
	struct error err = { 0 };
	bool found;
	int rc, code;

	if (options_want_help(argc, argv)) {
		options_help(verb->usage, verb->summary, verb->specs);
		return 0;
	}
	a->verb = argv[0];
	a->turn = verb->turn;
	rc = options_parse(verb->specs, argc, argv, verb->option, ctx, &err);
	if (rc < 0)
		return say_error(&err);
	rc = live_open_disk(a, &err);
	found = rc == 0;
	if (rc == 0)
		rc = verb->fn(ctx, &err);
	code = rc == 0 ? 0
	       : !found && rc == -ENOENT && !a->socket
	           ? ask_daemon(verb, ctx, a, &err)
	           : say_error(&err);
	live_close_disk(a);
	return code;
}

int live_no_agent(struct error *err)
{
	error_set(err, -ENOTSUP,
	          "--freeze: the daemon asks agents, for machines that it "
	          "keeps");
	return error_hint(err, "atoll vm create, or do without");
}

/* ---- asking ---- */

int live_ask(struct live_args *a, json_t *message, const int *fds, size_t count,
             json_t **answer, struct error *err)
{
	int got[CONTROL_FDS_MAX], rc;
	size_t got_count = 0;
	json_t *said = NULL;

	json_object_set_new(message, "disk", json_integer(a->disk.number));
	rc = saved_request(a->disk.sock, message, fds, count, &said, got,
	                   &got_count, err);
	while (got_count)
		close(got[--got_count]);
	if (rc < 0)
		return rc;
	if (answer)
		*answer = said;
	else
		json_decref(said);
	return 0;
}

/* ---- following ---- */

struct follower {
	struct disk_progress bar;
	bool lines;
	json_int_t said;
};

static void show(struct follower *f, json_int_t done, json_int_t total)
{
	if (f->bar.progress.step)
		f->bar.progress.step(f->bar.progress.ctx, (u64)done,
		                     (u64)total);
	if (f->lines && done != f->said)
		fprintf(stderr,
		        "progress %" JSON_INTEGER_FORMAT
		        " %" JSON_INTEGER_FORMAT "\n",
		        done, total);
	f->said = done;
}

/* Signals end the waiting, not the job. False: one came. */
static bool wait_a_tick(const sigset_t *signals, long *ms)
{
	const struct timespec tick = { .tv_nsec = *ms * 1000000 };

	*ms = MIN(*ms * 2, TICK_MAX_MS);

	return sigtimedwait(signals, NULL, &tick) < 0;
}

static int outcome(struct live_args *a, json_t *job, struct error *err)
{
	const char *state = "", *words = "it failed";
	int code = -EIO;

	json_unpack(job, "{s:s, s?s, s?i}", "state", &state, "words", &words,
	            "code", &code);
	a->ready = a->ready || strcmp(state, "ready") == 0;
	a->failed =
	    strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0;
	/* The machine's words are all that it says. */
	if (strcmp(state, "failed") == 0) {
		int full = error_no_room(words);

		return error_set(err,
		                 full             ? full
		                 : code == -EBUSY ? code
		                                  : -EIO,
		                 "%s", words);
	}
	if (strcmp(state, "cancelled") == 0)
		return error_set(err, -ECANCELED, "the job was cancelled");
	return strcmp(state, "done") == 0 ? 1 : 0;
}

static int look(struct live_args *a, json_int_t id, struct follower *f,
                struct error *err)
{
	json_t *answer = NULL, *job;
	json_int_t done = 0, total = 0;
	int rc = live_ask(a, json_pack("{s:s, s:I}", "op", "job", "job", id),
	                  NULL, 0, &answer, err);

	if (rc < 0)
		return rc;
	job = json_object_get(answer, "job");
	json_unpack(job, "{s:I, s:I}", "done", &done, "total", &total);
	show(f, done, total);
	rc = outcome(a, job, err);
	if (rc == 1 && a->args.json) {
		json_dumpf(job, stdout, JSON_COMPACT);
		putchar('\n');
	}
	json_decref(answer);
	return rc;
}

int live_follow(struct live_args *a, const char *what, json_int_t id,
                bool *left, struct error *err)
{
	struct follower f = { .lines = a->lines, .said = -1 };
	long tick_ms = TICK_MIN_MS;
	sigset_t set;
	int rc;

	*left = false;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	disk_progress_begin(&f.bar, what, a->args.quiet || a->lines);
	while ((rc = look(a, id, &f, err)) == 0)
		if (!wait_a_tick(&set, &tick_ms)) {
			*left = true;
			break;
		}
	disk_progress_end(&f.bar);
	return rc < 0 ? rc : 0;
}

/* Nothing of who began it is held, nor its terminal, its folder. */
static void let_go(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (chdir("/") < 0 || null < 0)
		_exit(0);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
}

/* One that was killed says nothing on its way out. */
static bool is_let_down(int from)
{
	char done;
	ssize_t n;

	do
		n = read(from, &done, 1);
	while (n < 0 && errno == EINTR);
	close(from);
	return n != 1;
}

/* Of the daemon's processes none outlives it: what it began is begun again. */
static void be_guarded(struct live_args *a, const int *fds, size_t count)
{
	int ends[2];
	pid_t pid;

	if (!a->guarded || a->socket || pipe2(ends, O_CLOEXEC) < 0)
		return;
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		close(ends[1]);
		let_go();
		/* They are the machine's: its locks last as long as they do. */
		for (size_t i = 0; i < count; i++)
			dup2(STDIN_FILENO, fds[i]);
		if (!is_let_down(ends[0]))
			_exit(0);
		a->alone = a->args.quiet = true;
		a->detach = false;
		/* What was said on the other's connection is not known. */
		close(a->disk.sock);
		a->disk.sock = named_connect(a->disk.machine, NULL);
		return;
	}
	close(ends[0]);
	if (pid < 0) {
		close(ends[1]);
		return;
	}
	a->guard = ends[1];
	a->guard_pid = pid;
}

static int ask_of_own(struct live_args *a, json_t *message, const int *given,
                      size_t count, json_t **answer, struct error *err)
{
	int fds[CONTROL_FDS_MAX], own = -1, rc;

	if (a->renames && a->disk.path && count < CONTROL_FDS_MAX)
		own = open(a->disk.path, O_RDONLY | O_CLOEXEC);
	if (count)
		memcpy(fds, given, count * sizeof(*fds));
	if (own >= 0) {
		json_object_set_new(message, "own", json_integer((int)count));
		fds[count++] = own;
	}
	rc = live_ask(a, message, fds, count, answer, err);
	if (own >= 0)
		close(own);
	return rc;
}

int live_work(struct live_args *a, const char *what, json_t *message,
              const int *fds, size_t count, bool *left, struct error *err)
{
	json_t *answer = NULL;
	json_int_t id;
	int rc;

	if (a->renames && a->disk.foreign) {
		json_decref(message);
		return untaken_refuse(a->disk.path, err);
	}
	if (a->rate)
		json_object_set_new(message, "rate",
		                    json_integer((json_int_t)a->rate));
	rc = ask_of_own(a, message, fds, count, &answer, err);
	if (rc < 0)
		return rc;
	id = json_integer_value(json_object_get(answer, "job"));
	json_decref(answer);
	a->job = id;
	be_guarded(a, fds, count);
	if (a->alone && a->disk.sock < 0)
		return error_set(err, -ECONNRESET, "the machine has ended");
	*left = a->detach;
	if (!a->detach)
		rc = live_follow(a, what, id, left, err);
	a->left = *left;
	if (rc == 0 && *left)
		printf("job %" JSON_INTEGER_FORMAT " goes on\n", id);
	return rc;
}
