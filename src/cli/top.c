/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll top - machines as they run: on a terminal a view that is drawn anew
 * every two seconds, else (--batch) one table after another.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/terminal.h"
#include "cli/watch.h"

enum { OPT_BATCH = OPT_OWN, OPT_COUNT, OPT_DELAY, OPT_ORDER, OPT_VCPUS };
enum { LINE = 512, NAME_WIDTH = 16 };

static const struct {
	const char *name, *path;
	char key;
} sorts[] = {
	{ "cpu", "cpu.process", 'c' },
	{ "ready", "cpu.ready", 'r' },
	{ "memory", "memory.resident_bytes", 'm' },
	{ "disk", "disk.write_bytes_per_s", 'd' },
	{ "net", "net.sent_bytes_per_s", 'n' },
	{ "name", NULL, 'a' },
};

struct top {
	struct remote remote;
	bool batch, vcpus, color;
	u64 count, delay_ns; /* count 0: for ever */
	size_t sort;
	unsigned rows, columns;
	FILE *to;           /* a screen is written at once */
	unsigned line, cut; /* lines written, and those there was no room for */
};

/* ---- values ---- */

static double ratio(json_t *o, const char *path)
{
	return json_number_value(remote_at(o, path));
}

/* "1.2G", five characters at most. */
static const char *brief(double n, char *room, size_t size)
{
	static const char units[] = " KMGTP";
	size_t u = 0;

	while (n >= 1000 && units[u + 1]) {
		n /= 1024;
		u++;
	}
	if (n < 1 && n > 0 && u > 0)
		n = 1;
	if (u == 0)
		snprintf(room, size, "%.0f", n);
	else
		snprintf(room, size, n < 10 ? "%.1f%c" : "%.0f%c", n, units[u]);
	return room;
}

static const char *bytes(json_t *vm, const char *path, char *room, size_t size)
{
	return brief(ratio(vm, path), room, size);
}

/* ---- lines ---- */

static void put_line(struct top *t, const char *text)
{
	/* On a screen nothing wraps, and nothing scrolls. */
	if (!t->batch && t->line + 1 >= t->rows) {
		t->cut++;
		return;
	}
	t->line++;
	if (t->batch)
		fprintf(t->to, "%s\n", text);
	else
		fprintf(t->to, "%.*s\033[K\r\n", (int)t->columns, text);
}

static void put_host(struct top *t, json_t *host)
{
	char line[LINE], now[32], used[16], all[16], swap[16];
	double total = ratio(host, "memory_bytes");
	time_t seconds = time(NULL);
	struct tm tm;

	localtime_r(&seconds, &tm);
	strftime(now, sizeof(now), "%H:%M:%S", &tm);
	snprintf(line, sizeof(line),
	         "%s  host: CPU %.0f%%  memory %s of %s  swap %s  pressure: "
	         "cpu %.1f%% memory %.1f%% io %.1f%%",
	         now, ratio(host, "cpu") * 100,
	         brief(total - ratio(host, "memory_available_bytes"), used,
	               sizeof(used)),
	         brief(total, all, sizeof(all)),
	         bytes(host, "swap_used_bytes", swap, sizeof(swap)),
	         ratio(host, "pressure.cpu"), ratio(host, "pressure.memory"),
	         ratio(host, "pressure.io"));
	put_line(t, line);
}

static void put_titles(struct top *t)
{
	char line[LINE];

	snprintf(line, sizeof(line),
	         "%-*s %-8s %6s %6s %6s %6s %6s %6s %6s %5s %6s %6s %6s %6s "
	         "%6s %6s %6s",
	         NAME_WIDTH, "NAME", "STATE", "CPU%", "READY%", "WAIT%",
	         "STEAL%", "RES", "SIZE", "BALLN", "SHARED", "SWAP", "READ/s",
	         "WRIT/s", "R-ms", "W-ms", "TX/s", "RX/s");
	if (t->color)
		fputs("\033[7m", t->to);
	put_line(t, line);
	if (t->color)
		fputs("\033[0m", t->to);
}

static void put_vcpus(struct top *t, json_t *vm)
{
	json_t *cpus = json_object_get(json_object_get(vm, "cpu"), "vcpus");
	json_t *one;
	char line[LINE];
	size_t i;

	json_array_foreach(cpus, i, one)
	{
		snprintf(line, sizeof(line),
		         "  vcpu %-*zu %14.1f %6.1f %6.1f %6.1f",
		         NAME_WIDTH - 7, i, ratio(one, "run") * 100,
		         ratio(one, "ready") * 100, ratio(one, "wait") * 100,
		         ratio(one, "steal") * 100);
		put_line(t, line);
	}
}

static void put_vm(struct top *t, json_t *vm)
{
	char line[LINE], v[9][16];

	snprintf(line, sizeof(line),
	         "%-*.*s %-8s %6.1f %6.1f %6.1f %6.1f %6s %6s %6s %6s %5s %6s "
	         "%6s %6.1f %6.1f %6s %6s",
	         NAME_WIDTH, NAME_WIDTH, remote_text(vm, "name"),
	         remote_text(vm, "state"), ratio(vm, "cpu.process") * 100,
	         ratio(vm, "cpu.ready") * 100, ratio(vm, "cpu.wait") * 100,
	         ratio(vm, "cpu.steal") * 100,
	         bytes(vm, "memory.resident_bytes", v[0], sizeof(v[0])),
	         bytes(vm, "memory.size_bytes", v[1], sizeof(v[1])),
	         bytes(vm, "memory.balloon.actual_bytes", v[2], sizeof(v[2])),
	         bytes(vm, "memory.merged_bytes", v[8], sizeof(v[8])),
	         bytes(vm, "memory.swap_bytes", v[3], sizeof(v[3])),
	         bytes(vm, "disk.read_bytes_per_s", v[4], sizeof(v[4])),
	         bytes(vm, "disk.write_bytes_per_s", v[5], sizeof(v[5])),
	         ratio(vm, "disk.read_us") / 1000,
	         ratio(vm, "disk.write_us") / 1000,
	         bytes(vm, "net.sent_bytes_per_s", v[6], sizeof(v[6])),
	         bytes(vm, "net.received_bytes_per_s", v[7], sizeof(v[7])));
	put_line(t, line);
	if (t->vcpus)
		put_vcpus(t, vm);
}

/* ---- a round ---- */

static int by_sort(const void *a, const void *b, void *ctx)
{
	json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	const char *path = sorts[*(const size_t *)ctx].path;
	double m, n;

	if (path) {
		m = ratio(x, path);
		n = ratio(y, path);
		if (m != n)
			return m < n ? 1 : -1;
	}
	return strcmp(remote_text(x, "name"), remote_text(y, "name"));
}

static void put_all(struct top *t, json_t *whole)
{
	json_t *list = json_object_get(whole, "vms"), *one, **vms;
	size_t n = json_array_size(list), i;

	vms = try_alloc(n + 1, sizeof(json_t *));
	if (!vms)
		return;
	json_array_foreach(list, i, one)
	{
		vms[i] = one;
	}
	qsort_r(vms, n, sizeof(json_t *), by_sort, &t->sort);
	t->line = t->cut = 0;
	put_host(t, json_object_get(whole, "host"));
	put_titles(t);
	for (i = 0; i < n; i++)
		put_vm(t, vms[i]);
	free(vms);
}

/* The last line, which a narrow screen has a part of. */
static void put_keys(struct top *t)
{
	char line[LINE], more[48] = "";

	if (t->cut)
		snprintf(more, sizeof(more), "%u lines more  ", t->cut);
	snprintf(line, sizeof(line),
	         "%s[%s]  q quit  v vCPUs  sort by: c cpu r ready m memory "
	         "d disk n net a name",
	         more, sorts[t->sort].name);
	fprintf(t->to, "\033[J\033[%u;1H%.*s\033[K", t->rows,
	        (int)t->columns - 1, line);
}

static void draw(struct top *t, json_t *whole)
{
	char *text = NULL;
	size_t size = 0;

	if (t->remote.format == FORMAT_YAML || t->remote.format == FORMAT_CSV) {
		remote_print_value(&t->remote, whole);
		fflush(stdout);
		return;
	}
	if (t->remote.format != FORMAT_TABLE) {
		json_dumpf(whole, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
		return;
	}
	t->to = open_memstream(&text, &size);
	if (!t->to)
		return;
	if (!t->batch)
		fputs("\033[H", t->to);
	put_all(t, whole);
	if (!t->batch)
		put_keys(t);
	fclose(t->to);
	fwrite(text, 1, size, stdout);
	fflush(stdout);
	free(text);
}

static volatile sig_atomic_t resized;

static void note_size(int number)
{
	(void)number;
	resized = 1;
}

static void measure(struct top *t)
{
	struct winsize w = { 0 };

	resized = 0;

	t->rows = 24;
	t->columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 2 &&
	    w.ws_col > 10) {
		t->rows = w.ws_row;
		t->columns = w.ws_col;
	}
}

/* True: it was the key to leave. */
static bool take_key(struct top *t, char key)
{
	if (key == 'v')
		t->vcpus = !t->vcpus;
	for (size_t i = 0; i < ARRAY_SIZE(sorts); i++)
		if (sorts[i].key == key)
			t->sort = i;
	return key == 'q' || key == 3 || key == 4;
}

/* True: leave. A key that changes the view ends the wait, and so does a screen
 * of another size. */
static bool wait_for_key(struct top *t)
{
	u64 until = loop_now_ns() + t->delay_ns, now;
	struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
	char key;

	if (t->batch)
		p.fd = -1;
	while ((now = loop_now_ns()) < until) {
		int rc = poll(&p, 1, (int)((until - now) / NSEC_PER_MSEC) + 1);

		if (rc < 0 && errno != EINTR)
			return true;
		if (rc < 0 && resized)
			return false;
		if (rc <= 0)
			continue;
		if (read(STDIN_FILENO, &key, 1) != 1 || take_key(t, key))
			return true;
		return false;
	}
	return false;
}

static int rounds(struct top *t)
{
	int code = CODE_OK;

	for (u64 i = 0; !t->count || i < t->count; i++) {
		json_t *whole;

		if (i && wait_for_key(t))
			break;
		whole = remote_get(&t->remote, "/v1/figures", &code);
		if (!whole)
			return code;
		measure(t);
		draw(t, whole);
		json_decref(whole);
	}
	return CODE_OK;
}

static int live(struct top *t)
{
	struct terminal terminal;
	int code;

	/* Without SA_RESTART: it is to end a wait. */
	sigaction(SIGWINCH, &(struct sigaction){ .sa_handler = note_size },
	          NULL);
	t->color = !getenv("NO_COLOR");
	terminal_open(&terminal, STDIN_FILENO);
	fputs("\033[?1049h\033[?25l", stdout);
	code = rounds(t);
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	terminal_close(&terminal);
	return code;
}

static int set_sort(struct top *t, const char *value, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(sorts); i++)
		if (strcmp(sorts[i].name, value) == 0) {
			t->sort = i;
			return 0;
		}
	return error_set(err, -EINVAL,
	                 "--sort %s is none of cpu, ready, memory, disk, net, "
	                 "name",
	                 value);
}

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct top *t = ctx;

	switch (id) {
	case OPT_BATCH:
		t->batch = true;
		return 0;
	case OPT_VCPUS:
		t->vcpus = true;
		return 0;
	case OPT_ORDER:
		return set_sort(t, value, err);
	case OPT_COUNT:
		return parse_u64(value, 1, UINT32_MAX, &t->count, err);
	default:
		return parse_duration(value, &t->delay_ns, err);
	}
}

int command_top(int argc, char **argv)
{
	static const struct option_spec specs[] = {
		{ "batch", NULL, "tables, one after another, as for a file",
		  OPT_BATCH },
		{ "count", "N", "that many, then end", OPT_COUNT },
		{ "delay", "TIME", "between two [2s]", OPT_DELAY },
		{ "sort", "COLUMN",
		  "cpu, ready, memory, disk, net or name [cpu]", OPT_ORDER },
		{ "vcpus", NULL, "a line for each vCPU too", OPT_VCPUS },
		REMOTE_OPTIONS,
		{ 0 },
	};
	struct top t = { .delay_ns = 2 * NSEC_PER_SEC };
	int code;

	t.remote.own = take_option;
	t.remote.own_ctx = &t;
	code =
	    remote_open(&t.remote, "atoll top [OPTION]...",
	                "What machines use, as it happens.", specs, argc, argv);
	if (code < 0 && t.remote.name_count)
		code = say_usage("atoll top takes no argument");
	if (code < 0) {
		t.batch |= t.remote.format != FORMAT_TABLE ||
		           !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO);
		t.delay_ns = MAX(t.delay_ns, 100 * NSEC_PER_MSEC);
		code = t.batch ? rounds(&t) : live(&t);
	}
	remote_close(&t.remote);
	return code;
}
