/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/globals.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static const struct global {
	const char *name;
	bool value;
} globals[] = {
	{ "format", true },   { "columns", true }, { "filter", true },
	{ "sort", true },     { "remote", true },  { "project", true },
	{ "timeout", true },  { "if-rev", true },  { "async", false },
	{ "dry-run", false }, { "yes", false },    { "quiet", false },
};

/* How many arguments it takes, itself included; 0: it is none of them. */
static int length_of(const char *arg)
{
	const char *name = arg + 2;
	size_t n = strcspn(name, "=");

	if (strncmp(arg, "-o", 2) == 0)
		return arg[2] ? 1 : 2;
	if (strncmp(arg, "--", 2) != 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(globals); i++)
		if (strlen(globals[i].name) == n &&
		    strncmp(globals[i].name, name, n) == 0)
			return globals[i].value && !name[n] ? 2 : 1;
	return 0;
}

static bool has_verbs(const struct command *nouns, const char *name)
{
	for (; nouns->name; nouns++)
		if (strcmp(nouns->name, name) == 0)
			return nouns->has_verbs;
	return false;
}

char **globals_behind(const struct command *nouns, int argc, char **argv)
{
	char **out = xalloc(((size_t)argc + 1) * sizeof(*out));
	char **options = xalloc(((size_t)argc + 1) * sizeof(*options));
	int words = 0, wanted = 1, count = 0, n, at = 1;

	out[0] = argv[0];
	while (at < argc && words < wanted) {
		if (argv[at][0] != '-') {
			out[++words] = argv[at++];
			wanted = has_verbs(nouns, out[1]) ? 2 : 1;
			continue;
		}
		n = length_of(argv[at]);
		if (!n)
			break;
		for (; n && at < argc; n--)
			options[count++] = argv[at++];
	}
	memcpy(out + 1 + words, options, (size_t)count * sizeof(*out));
	memcpy(out + 1 + words + count, argv + at,
	       (size_t)(argc - at) * sizeof(*out));
	free(options);
	return out;
}
