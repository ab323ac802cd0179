/* SPDX-License-Identifier: Apache-2.0 */
/* The option parser, and what it thinks was meant. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "cli/options.h"
#include "cli/say.h"

enum { OPT_CPUS = 1, OPT_KEEP, OPT_MEMORY, OPT_NAME, OPT_UNSAID };

static const struct option_spec specs[] = {
	{ "cpus", "N", "how many", OPT_CPUS },
	{ "keep", NULL, "a switch", OPT_KEEP },
	{ "memory", "SIZE", "how much", OPT_MEMORY, 'm' },
	{ "name", "NAME", "who", OPT_NAME },
	{ "unsaid", "N", NULL, OPT_UNSAID },
	{ 0 },
};

struct seen {
	char text[256];
	int fail_at;
};

static int note(void *ctx, int id, const char *value, struct error *err)
{
	struct seen *seen = ctx;
	size_t at = strlen(seen->text);

	if (id == seen->fail_at && id)
		return error_set(err, -ERANGE, "refused");
	snprintf(seen->text + at, sizeof(seen->text) - at, "%d=%s;", id,
	         value ? value : "-");
	return 0;
}

static int parse(struct seen *seen, struct error *err, const char *a,
                 const char *b, const char *c)
{
	const char *words[] = { "run", a, b, c, NULL };
	char *argv[5] = { 0 };
	int argc = 0, rc;

	for (; words[argc]; argc++)
		argv[argc] = strdup(words[argc]);
	rc = options_parse(specs, argc, argv, note, seen, err);
	for (int i = 0; i < argc; i++)
		free(argv[i]);
	return rc;
}

static void in_any_order(void **state)
{
	struct seen seen = { 0 };
	struct error err;

	(void)state;
	assert_int_equal(parse(&seen, &err, "image", "--cpus=4", "--keep"), 0);
	assert_string_equal(seen.text, "0=image;1=4;2=-;");
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "--name", "--keep", "-"), 0);
	assert_string_equal(seen.text, "4=--keep;0=-;");
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "--", "--keep", "-x"), 0);
	assert_string_equal(seen.text, "0=--keep;0=-x;");
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "--name=", NULL, NULL), 0);
	assert_string_equal(seen.text, "4=;");
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "-m", "1G", "-m2G"), 0);
	assert_string_equal(seen.text, "3=1G;3=2G;");
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "--unsaid=1", NULL, NULL), 0);
	assert_string_equal(seen.text, "5=1;");
}

static void refuses(void **state)
{
	static const struct {
		const char *arg, *words, *hint;
	} cases[] = {
		{ "--memry", "--memry", "--memory" },
		{ "--mem", "--mem", "--memory" },
		{ "--cpsu", "--cpsu", "--cpus" },
		{ "--xylophone", "--xylophone", "--help" },
		{ "-k", "--k", "--help" },
		{ "-m", "needs a value", "" },
		{ "--keep=1", "takes no value", "" },
		{ "--cpus", "needs a value", "" },
		{ "--c", "--c", "" },
	};
	struct seen seen = { 0 };
	struct error err;
	char huge[5000];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(parse(&seen, &err, cases[i].arg, NULL, NULL),
		                 -EINVAL);
		assert_non_null(strstr(err.text, cases[i].words));
		assert_non_null(strstr(err.hint, cases[i].hint));
	}
	memset(huge, '-', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	assert_int_equal(parse(&seen, &err, huge, NULL, NULL), -EINVAL);
	assert_string_equal(seen.text, "");
	/* What the caller refuses ends the parse with the caller's code. */
	seen.fail_at = OPT_NAME;
	assert_int_equal(parse(&seen, &err, "--name=x", "--keep", NULL),
	                 -ERANGE);
	assert_string_equal(seen.text, "");
	/* It is said whose value that was. */
	assert_string_equal(err.text, "--name: refused");
	/* What a script's variable that is not set makes of a command. */
	assert_int_equal(parse(&seen, &err, "--keep", "", "x"), -EINVAL);
	assert_non_null(strstr(err.text, "empty"));
	seen = (struct seen){ 0 };
	assert_int_equal(parse(&seen, &err, "x", "", NULL), 0);
	assert_string_equal(seen.text, "0=x;0=;");
}

static void wants_help(void **state)
{
	char *yes[] = { (char[]){ "run" }, (char[]){ "-h" } };
	char *no[] = { (char[]){ "run" }, (char[]){ "--" },
		       (char[]){ "--help" } };

	(void)state;
	assert_true(options_want_help(2, yes));
	assert_false(options_want_help(3, no));
	assert_false(options_want_help(1, yes));
}

static void finds_the_nearest(void **state)
{
	static const char *const words[] = { "run", "image", "host", "disk" };

	(void)state;
	assert_string_equal(nearest("rnu", words, 4, sizeof(*words)), "run");
	assert_string_equal(nearest("imgae", words, 4, sizeof(*words)),
	                    "image");
	assert_string_equal(nearest("im", words, 4, sizeof(*words)) ?: "none",
	                    "none");
	assert_null(nearest("completely", words, 4, sizeof(*words)));
	assert_null(nearest("x", words, 0, sizeof(*words)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_any_order),
		cmocka_unit_test(refuses),
		cmocka_unit_test(wants_help),
		cmocka_unit_test(finds_the_nearest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
