/* SPDX-License-Identifier: Apache-2.0 */
/* The registry's file, the console log, definitions. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "daemon/console_log.h"
#include "daemon/daemon.h"
#include "daemon/store.h"

static char folder[] = "/tmp/atoll-daemon-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	char *command = xasprintf("rm -rf %s", folder);
	int rc = system(command);

	(void)state;
	free(command);
	return rc;
}

/* ---- the store ---- */

static int count(void *ctx, struct row *row)
{
	(void)row;
	++*(int *)ctx;
	return 0;
}

static void test_store(void **state)
{
	char *path = xasprintf("%s/registry.db", folder);
	struct error err = { 0 };
	struct store *s = NULL;
	int rows = 0;

	(void)state;
	assert_int_equal(store_open(&s, path, &err), 0);
	assert_int_equal(store_run(s, &err,
	                           "INSERT INTO meta(key, value) VALUES(?, ?)",
	                           "tt", "a", "1"),
	                 0);
	assert_int_equal(store_run(s, &err,
	                           "INSERT INTO meta(key, value) VALUES(?, ?)",
	                           "tt", "a", "2"),
	                 -EEXIST);
	assert_int_equal(store_begin(s, &err), 0);
	assert_int_equal(store_run(s, &err, "DELETE FROM meta", ""), 0);
	store_rollback(s);
	store_close(s);
	/* It is all there for the next one. */
	assert_int_equal(store_open(&s, path, &err), 0);
	assert_int_equal(
	    store_query(s, count, &rows, &err, "SELECT * FROM meta", ""), 0);
	assert_int_equal(rows, 1);
	assert_int_equal(store_number(s, 7,
	                              "SELECT value FROM meta"
	                              " WHERE key = ?",
	                              "t", "none"),
	                 7);
	store_close(s);
	store_close(NULL);
	free(path);
}

/* ---- the console log ---- */

static u8 byte_at(u64 offset)
{
	return (u8)(offset * 31 >> 3);
}

static void test_console_log(void **state)
{
	enum { LIMIT = 4096, PIECE = 100, PIECES = 300 };
	int dir = open(folder, O_RDONLY | O_DIRECTORY);
	struct console_log log;
	struct error err = { 0 };
	u64 begin, end, offset;
	u8 data[PIECE];
	ssize_t n;

	(void)state;
	console_log_range(dir, &begin, &end);
	assert_int_equal(end, 0);
	assert_int_equal(console_log_read(dir, 0, data, PIECE), 0);
	for (u64 i = 0; i < PIECES; i++) {
		/* Opened anew each time: it goes on where it was. */
		assert_int_equal(console_log_open(&log, dir, LIMIT, &err), 0);
		assert_int_equal(log.end, i * PIECE);
		for (u64 b = 0; b < PIECE; b++)
			data[b] = byte_at(i * PIECE + b);
		assert_int_equal(console_log_write(&log, data, PIECE), 0);
		console_log_close(&log);
	}
	console_log_range(dir, &begin, &end);
	assert_int_equal(end, PIECES * PIECE);
	assert_true(begin > 0 && end - begin >= LIMIT / 2);
	assert_true(end - begin <= 2 * LIMIT);
	for (offset = begin; offset < end; offset += (u64)n) {
		n = console_log_read(dir, offset, data, sizeof(data));
		assert_true(n > 0);
		for (ssize_t b = 0; b < n; b++)
			assert_int_equal(data[b], byte_at(offset + (u64)b));
	}
	assert_int_equal(console_log_read(dir, end, data, PIECE), 0);
	close(dir);
}

/* ---- definitions ---- */

static void test_spec_patch(void **state)
{
	struct error err = { 0 };
	json_t *sent = json_pack("{s:s, s:{s:s}, s:i}", "name", "a", "boot",
	                         "kernel", "/k", "cpus", 4);
	json_t *spec = spec_parse(sent, &err), *patch, *next;

	(void)state;
	assert_non_null(spec);
	/* What was parsed parses to itself. */
	next = spec_parse(spec, &err);
	assert_true(json_equal(spec, next));
	json_decref(next);
	patch = json_pack("{s:n, s:{s:s}}", "cpus", "boot", "cmdline", "x");
	next = spec_patch(spec, patch, &err);
	assert_non_null(next);
	assert_int_equal(json_integer_value(json_object_get(next, "cpus")), 1);
	/* The old one is as it was. */
	assert_int_equal(json_integer_value(json_object_get(spec, "cpus")), 4);
	json_decref(next);
	json_decref(patch);
	/* Deeper than anything that has a meaning. */
	patch = json_object();
	for (int i = 0; i < 100; i++)
		patch = json_pack("{s:o}", "boot", patch);
	assert_null(spec_patch(spec, patch, &err));
	json_decref(patch);
	json_decref(spec);
	json_decref(sent);
}

static void test_spec_fill(void **state)
{
	struct error err = { 0 };
	json_t *sent =
	    json_pack("{s:s, s:s, s:[{}, {s:s}]}", "name", "a", "image", "i",
	              "nics", "mac", "52:54:00:00:00:01");
	json_t *spec = spec_parse(sent, &err), *nics;

	(void)state;
	assert_non_null(spec);
	assert_false(spec_touches_host(spec));
	assert_int_equal(spec_fill(spec, &err), 0);
	nics = json_object_get(spec, "nics");
	assert_int_equal(
	    json_string_length(json_object_get(json_array_get(nics, 0), "mac")),
	    17);
	assert_string_equal(
	    json_string_value(json_object_get(json_array_get(nics, 1), "mac")),
	    "52:54:00:00:00:01");
	json_decref(spec);
	json_decref(sent);
}

static void test_names(void **state)
{
	char id[ID_SIZE], other[ID_SIZE];

	(void)state;
	assert_int_equal(id_new(id, NULL), 0);
	assert_int_equal(id_new(other, NULL), 0);
	assert_string_not_equal(id, other);
	assert_true(id_looks_like(id));
	assert_false(spec_name_valid(id));
	assert_false(id_looks_like("../../etc/passwd"));
	assert_true(spec_name_valid("web-1.example_x"));
	assert_false(spec_name_valid(".."));
	assert_false(spec_name_valid("a/b"));
	assert_false(spec_name_valid("a\x1b[m"));
	assert_false(spec_name_valid(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_store),
		cmocka_unit_test(test_console_log),
		cmocka_unit_test(test_spec_patch),
		cmocka_unit_test(test_spec_fill),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
