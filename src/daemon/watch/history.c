/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history - points in a file of their own, which may be lost without harm: it
 * is not flushed at each change, and when it is damaged a new one begins.
 *
 *	level 0   a point every 10 s,    kept 6 hours
 *	level 1   a point every 5 min,   kept 14 days
 *	level 2   a point every hour,    kept 400 days
 *
 * A coarser point holds the mean and the largest of the finer ones. It is made
 * out of the file when its span is over, so that it does not matter how many
 * daemons saw the span.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/store.h"
#include "daemon/watch/watch.h"

enum { LEVELS = 3, POINTS_MAX = 2000 };

static const struct {
	s64 step_s, keep_s;
} levels[LEVELS] = {
	{ 10, 6 * 3600 },
	{ 300, 14 * 86400 },
	{ 3600, 400 * 86400 },
};

const char *const metric_names[METRIC_COUNT] = {
	"cpu",      "ready",   "steal",     "memory_used",
	"resident", "balloon", "disk_read", "disk_write",
	"disk_ops", "disk_us", "net_sent",  "net_received",
};

struct history {
	struct store *store;
	s64 made[LEVELS]; /* up to when a level's points are made */
	bool open;        /* a transaction */
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS points(vm TEXT NOT NULL,"
    " level INTEGER NOT NULL, at INTEGER NOT NULL,"
    " m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11,"
    " x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11,"
    " PRIMARY KEY(vm, level, at)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS points_at ON points(level, at);";

enum metric metric_find(const char *name)
{
	int i = 0;

	while (i < METRIC_COUNT && strcmp(metric_names[i], name))
		i++;
	return (enum metric)i;
}

void metric_values(const struct vm_rates *r, u64 v[METRIC_COUNT])
{
	u64 ops = r->disk_reads + r->disk_writes;

	v[METRIC_CPU] = r->process / 1000;
	v[METRIC_READY] = r->ready / 1000;
	v[METRIC_STEAL] = r->steal / 1000;
	v[METRIC_USED] = watch_used_bytes(r);
	v[METRIC_RESIDENT] = r->resident_bytes;
	v[METRIC_BALLOON] = r->balloon_bytes;
	v[METRIC_DISK_READ] = r->disk_read_bytes;
	v[METRIC_DISK_WRITE] = r->disk_write_bytes;
	v[METRIC_DISK_OPS] = ops;
	v[METRIC_DISK_US] = ops ? (r->disk_read_us * r->disk_reads +
	                           r->disk_write_us * r->disk_writes) /
	                              ops
	                        : 0;
	v[METRIC_NET_SENT] = r->net_sent_bytes;
	v[METRIC_NET_RECEIVED] = r->net_received_bytes;
}

static int try_open(struct history *h, const char *path, struct error *err)
{
	return store_open_tables(&h->store, path, schema, err);
}

int history_open(struct history **out, const char *path, struct error *err)
{
	struct history *h = xalloc(sizeof(*h));
	char *aside;
	int rc = try_open(h, path, err);

	if (rc == -EBADMSG) {
		aside = xasprintf("%s.damaged", path);
		log_warn("daemon", "%s: %s; a new history begins", path,
		         err->text);
		if (rename(path, aside) == 0)
			rc = try_open(h, path, err);
		free(aside);
	}
	if (rc < 0) {
		free(h);
		return rc;
	}
	*out = h;
	return 0;
}

void history_close(struct history *h)
{
	if (!h)
		return;
	store_close(h->store);
	free(h);
}

void history_begin(struct history *h)
{
	h->open = store_begin(h->store, NULL) == 0;
}

void history_add(struct history *h, const char *vm, s64 at,
                 const u64 v[METRIC_COUNT])
{
	struct error err = { 0 };

	if (!h->open)
		return;
	if (store_run(h->store, &err,
	              "INSERT OR REPLACE INTO points VALUES(?1, 0, ?2,"
	              " ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
	              " ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	              "tiiiiiiiiiiiii", vm, at, (s64)v[0], (s64)v[1], (s64)v[2],
	              (s64)v[3], (s64)v[4], (s64)v[5], (s64)v[6], (s64)v[7],
	              (s64)v[8], (s64)v[9], (s64)v[10], (s64)v[11]) < 0)
		log_warn("daemon", "history: %s", err.text);
}

/* Each metric's mean and most, of the level below. */
static const char coarser_points[] =
    "INSERT OR REPLACE INTO points SELECT vm, ?1, at - at % ?2,"
    " CAST(avg(m0) AS INTEGER), CAST(avg(m1) AS INTEGER),"
    " CAST(avg(m2) AS INTEGER), CAST(avg(m3) AS INTEGER),"
    " CAST(avg(m4) AS INTEGER), CAST(avg(m5) AS INTEGER),"
    " CAST(avg(m6) AS INTEGER), CAST(avg(m7) AS INTEGER),"
    " CAST(avg(m8) AS INTEGER), CAST(avg(m9) AS INTEGER),"
    " CAST(avg(m10) AS INTEGER), CAST(avg(m11) AS INTEGER),"
    " max(x0), max(x1), max(x2), max(x3), max(x4), max(x5),"
    " max(x6), max(x7), max(x8), max(x9), max(x10), max(x11)"
    " FROM points WHERE level = ?1 - 1 AND at >= ?3 AND at < ?4"
    " GROUP BY vm, at / ?2";

/* Points of a level whose span is over. */
static void make_coarser(struct history *h, int level, s64 now)
{
	s64 step = levels[level].step_s, end = now - now % step;

	if (h->made[level] >= end)
		return;
	if (!h->made[level])
		h->made[level] = store_number(
		    h->store, 0,
		    "SELECT coalesce(max(at), 0) FROM points WHERE level = ?",
		    "i", (s64)level);
	store_run(h->store, NULL, coarser_points, "iiii", (s64)level, step,
	          h->made[level], end);
	h->made[level] = end;
	store_run(h->store, NULL,
	          "DELETE FROM points WHERE level = ? AND at < ?", "ii",
	          (s64)level - 1, now - levels[level - 1].keep_s);
	store_run(h->store, NULL,
	          "DELETE FROM points WHERE level = ? AND at < ?", "ii",
	          (s64)level, now - levels[level].keep_s);
}

void history_end(struct history *h, s64 now)
{
	struct error err = { 0 };

	if (!h->open)
		return;
	for (int level = 1; level < LEVELS; level++)
		make_coarser(h, level, now);
	if (store_commit(h->store, &err) < 0) {
		log_warn("daemon", "history: %s", err.text);
		store_rollback(h->store);
	}
	h->open = false;
}

void history_forget(struct history *h, const char *vm)
{
	store_run(h->store, NULL, "DELETE FROM points WHERE vm = ?", "t", vm);
}

/* ---- questions ---- */

static int take_point(void *ctx, struct row *row)
{
	json_t *point = json_array();

	for (int i = 0; i < 1 + 2 * METRIC_COUNT; i++)
		json_array_append_new(point, json_integer(row_int(row, i)));
	json_array_append_new(ctx, point);
	return 0;
}

/* The finest that goes back that far and is not too many. */
static int level_for(s64 since, s64 until)
{
	s64 span = until - since;
	int level = 0;

	while (level < LEVELS - 1 && (span > levels[level].keep_s ||
	                              span / levels[level].step_s > POINTS_MAX))
		level++;
	return level;
}

json_t *history_points(struct history *h, const char *vm, s64 since, s64 until,
                       struct error *err)
{
	int level = level_for(since, until), rc;
	json_t *points = json_array(), *names = json_array();

	rc = store_query(h->store, take_point, points, err,
	                 "SELECT at, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9,"
	                 " m10, m11, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9,"
	                 " x10, x11 FROM points WHERE vm = ? AND level = ?"
	                 " AND at >= ? AND at <= ? ORDER BY at LIMIT ?",
	                 "tiiii", vm, (s64)level, since, until,
	                 (s64)POINTS_MAX * 2);
	for (int i = 0; i < METRIC_COUNT; i++)
		json_array_append_new(names, json_string(metric_names[i]));
	if (rc < 0) {
		json_decref(points);
		json_decref(names);
		return NULL;
	}
	return json_pack("{s:I, s:o, s:o}", "step_s",
	                 (json_int_t)levels[level].step_s, "metrics", names,
	                 "points", points);
}

static int take_usage(void *ctx, struct row *row)
{
	struct usage *u = ctx;

	u->points = (u64)row_int(row, 0);
	u->cpu_mean = (u64)row_int(row, 1);
	u->cpu_max = (u64)row_int(row, 2);
	u->ready_mean = (u64)row_int(row, 3);
	u->used_mean = (u64)row_int(row, 4);
	u->used_max = (u64)row_int(row, 5);
	return 0;
}

void history_usage(struct history *h, const char *vm, s64 since,
                   struct usage *u)
{
	memset(u, 0, sizeof(*u));
	store_query(h->store, take_usage, u, NULL,
	            "SELECT count(*), CAST(avg(m0) AS INTEGER), max(m0),"
	            " CAST(avg(m1) AS INTEGER), CAST(avg(m3) AS INTEGER),"
	            " max(x3) FROM points WHERE vm = ? AND level = 1"
	            " AND at >= ?",
	            "ti", vm, since);
}
