/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work - tasks on images: made, and written to files, by `atoll image` in a
 * process of its own. It gives an image its name when all of it is there, and
 * waits for others that change the store; so a task that a daemon died in is
 * begun again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/alloc.h"
#include "daemon/api.h"
#include "daemon/image/image.h"
#include "daemon/words.h"

/* Out of the way while nobody makes one; that is who has the lock. */
static void put_away(const char *store, const char *name)
{
	char *from = xasprintf("%s/.%s", store, name);
	char *to = xasprintf("%s/.dead-%s", store, name);

	(void)rename(from, to);
	if (access(to, F_OK) == 0)
		job_remove_folder(to);
	free(from);
	free(to);
}

void image_tidy(struct daemon *d)
{
	char *path = xasprintf("%s/.lock", d->place.images);
	int lock = open(path, O_RDWR | O_CLOEXEC);

	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) {
		put_away(d->place.images, "importing");
		put_away(d->place.images, "exporting");
	}
	if (lock >= 0)
		close(lock);
	free(path);
}

static const char *text(const struct task *t, const char *key)
{
	return json_string_value(json_object_get(t->params, key));
}

static void add_option(struct words *w, const struct task *t, const char *key)
{
	if (text(t, key))
		words_add(w, xasprintf("--%s=%s", key, text(t, key)));
}

static void over(void *ctx, const struct error *failed)
{
	struct task *t = ctx;
	struct error err = { 0 };
	bool made = strcmp(t->kind, "image-export") != 0;

	t->job = NULL;
	if (failed && t->cancelling)
		task_cancelled(t, "cancelled; nothing was kept");
	else if (failed)
		task_fail_job(t, failed);
	else if (made && image_give(t->daemon, text(t, "name"),
	                            text(t, "project"), &err) < 0)
		task_fail_error(t, &err);
	else
		task_succeed(t, json_pack("{s:s}", "image", text(t, "name")));
}

static void start(struct task *t, struct words *w)
{
	struct error err = { 0 };

	t->job = words_start(w, t->daemon->loop, over, t, &err);
	if (!t->job)
		task_fail_error(t, &err);
}

static void begin_words(struct words *w, const char *verb)
{
	words_add(w, xstrdup("atoll"));
	words_add(w, xstrdup("image"));
	words_add(w, xstrdup(verb));
}

void image_import_begin(struct task *t)
{
	static const char *const options[] = { "name", "kernel", "initrd",
		                               "cmdline", "format" };
	struct words w = { .count = 0 };

	begin_words(&w, "import");
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		add_option(&w, t, options[i]);
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(text(t, "path")));
	task_progress(t, 10, "reading what it is made of");
	start(t, &w);
}

void image_build_begin(struct task *t)
{
	struct words w = { .count = 0 };

	begin_words(&w, "build");
	add_option(&w, t, "size");
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(text(t, "name")));
	task_progress(t, 10, "building it from packages");
	start(t, &w);
}

void image_export_begin(struct task *t)
{
	bool force = json_is_true(json_object_get(t->params, "force"));
	/* What is there may be an earlier daemon's work. */
	bool again = json_is_true(json_object_get(t->params, "begun"));
	struct words w = { .count = 0 };
	struct error err = { 0 };

	json_object_set_new(t->params, "begun", json_true());
	if (task_write_params(t, &err) < 0) {
		task_fail_error(t, &err);
		return;
	}
	begin_words(&w, "export");
	if (force || again)
		words_add(&w, xstrdup("--force"));
	words_add(&w, xstrdup("--"));
	words_add(&w, xstrdup(text(t, "name")));
	words_add(&w, xstrdup(text(t, "path")));
	task_progress(t, 10, "writing it to a file");
	start(t, &w);
}

void image_changed(struct task *t)
{
	(void)t; /* moved on by its process alone */
}

void image_cancel(struct task *t)
{
	job_end(t->job);
}
