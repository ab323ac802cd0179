/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/say.h"

enum { LEFT_WIDTH = 26 };

static size_t spec_count(const struct option_spec *specs)
{
	size_t n = 0;

	while (specs[n].name)
		n++;
	return n;
}

static const struct option_spec *find(const struct option_spec *specs,
                                      const char *name, size_t len)
{
	for (; specs->name; specs++)
		if (strlen(specs->name) == len &&
		    memcmp(specs->name, name, len) == 0)
			return specs;
	return NULL;
}

static int unknown(const struct option_spec *specs, const char *name,
                   size_t len, struct error *err)
{
	const char *near;
	char word[64];

	snprintf(word, sizeof(word), "%.*s", (int)MIN(len, (size_t)63), name);
	near = nearest(word, &specs->name, spec_count(specs), sizeof(*specs));
	error_set(err, -EINVAL, "there is no option --%s", word);
	if (near)
		return error_hint(err, "did you mean --%s?", near);
	return error_hint(err, "--help lists the options");
}

static const struct option_spec *find_letter(const struct option_spec *specs,
                                             char letter)
{
	while (specs->name && specs->letter != letter)
		specs++;
	return specs->name ? specs : NULL;
}

/* One option; *at is moved when its value is the next argument. */
static int parse_one(const struct option_spec *specs, int argc, char **argv,
                     int *at, option_fn *fn, void *ctx, struct error *err)
{
	bool is_short = argv[*at][1] != '-';
	const char *name = argv[*at] + (is_short ? 1 : 2), *value = NULL;
	const struct option_spec *spec;
	size_t len = strlen(name);
	int rc;

	if (is_short) {
		spec = find_letter(specs, name[0]);
		value = len > 1 ? name : NULL;
	} else {
		value = strchr(name, '=');
		len = value ? (size_t)(value - name) : len;
		spec = find(specs, name, len);
	}
	if (!spec)
		return unknown(specs, name, len, err);
	if (!spec->value)
		return value ? error_set(err, -EINVAL, "--%s takes no value",
		                         spec->name)
		             : fn(ctx, spec->id, NULL, err);
	if (!value && *at + 1 >= argc)
		return error_set(err, -EINVAL, "--%s needs a value: %s",
		                 spec->name, spec->value);
	rc = fn(ctx, spec->id, value ? value + 1 : argv[++*at], err);
	/* Whose value it is that is wrong. */
	if ((rc == -EINVAL || rc == -ERANGE) && !strstr(err->text, "--"))
		error_prefix(err, "--%s", spec->name);
	return rc;
}

/* No option begins with a digit: -50M is an amount. */
static bool is_option(const char *arg)
{
	return arg[0] == '-' && arg[1] != '\0' &&
	       !(arg[1] >= '0' && arg[1] <= '9');
}

int options_parse(const struct option_spec *specs, int argc, char **argv,
                  option_fn *fn, void *ctx, struct error *err)
{
	bool only_arguments = false, named = false;
	int rc = 0;

	for (int i = 1; i < argc && rc >= 0; i++) {
		const char *arg = argv[i];

		if (only_arguments || !is_option(arg)) {
			/* A variable that is not set: of nothing, nothing is
			 * done. */
			if (!named && !arg[0])
				return error_set(err, -EINVAL,
				                 "the first argument is empty");
			named = true;
			rc = fn(ctx, 0, arg, err);
		} else if (strcmp(arg, "--") == 0)
			only_arguments = true;
		else
			rc = parse_one(specs, argc, argv, &i, fn, ctx, err);
	}
	return rc;
}

void options_help(const char *usage, const char *summary,
                  const struct option_spec *specs)
{
	char left[64];

	printf("usage: %s\n\n%s\n", usage, summary);
	if (specs->name)
		putchar('\n');
	for (; specs->name; specs++) {
		if (!specs->help)
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", specs->name,
		         specs->value ? " " : "",
		         specs->value ? specs->value : "");
		if (specs->letter)
			snprintf(left + strlen(left),
			         sizeof(left) - strlen(left), ", -%c",
			         specs->letter);
		/* What is too wide has its words on a line of their own. */
		if (strlen(left) > LEFT_WIDTH)
			printf("  %s\n%*s %s\n", left, LEFT_WIDTH + 2, "",
			       specs->help);
		else
			printf("  %-*s %s\n", LEFT_WIDTH, left, specs->help);
	}
}

bool options_want_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") == 0)
			return false;
		if (strcmp(argv[i], "--help") == 0 ||
		    strcmp(argv[i], "-h") == 0)
			return true;
	}
	return false;
}
