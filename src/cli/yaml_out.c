/* SPDX-License-Identifier: Apache-2.0 */
/*
 * yaml_out - blocks for objects and arrays; texts that could be read as
 * something else are quoted as in JSON, which YAML 1.2 takes.
 */
#include "cli/yaml_out.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/types.h"

/* Nothing but a text in any version of YAML. */
static bool is_plain(const char *text)
{
	/* 1.1 has all of these as booleans or nothing. */
	static const char *const words[] = { "true", "false", "null",
		                             "yes",  "no",    "on",
		                             "off",  "y",     "n" };

	if (!isalpha((u8)text[0]))
		return false;
	for (const char *c = text; *c; c++)
		if (!isalnum((u8)*c) && !strchr("_-./", *c))
			return false;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasecmp(words[i], text) == 0)
			return false;
	return true;
}

static void put_scalar(json_t *value, FILE *to)
{
	if (json_is_string(value) && is_plain(json_string_value(value)))
		fputs(json_string_value(value), to);
	else /* {} and [] as well */
		json_dumpf(value, to, JSON_COMPACT | JSON_ENCODE_ANY);
	fputc('\n', to);
}

static void put_key(const char *key, FILE *to)
{
	json_t *quoted = is_plain(key) ? NULL : json_string(key);

	if (quoted)
		json_dumpf(quoted, to, JSON_ENCODE_ANY);
	else
		fputs(key, to);
	json_decref(quoted);
	fputc(':', to);
}

static bool is_block(json_t *value)
{
	return json_object_size(value) || json_array_size(value);
}

static void put_block(json_t *value, int indent, bool begun, FILE *to)
{
	const char *key;
	json_t *below;
	size_t i;

	/* The first line of a block in a list follows its dash. */
	json_object_foreach(value, key, below)
	{
		fprintf(to, "%*s", begun ? 0 : indent, "");
		begun = false;
		put_key(key, to);
		fputc(is_block(below) ? '\n' : ' ', to);
		if (is_block(below))
			put_block(below, indent + 2, false, to);
		else
			put_scalar(below, to);
	}
	json_array_foreach(value, i, below)
	{
		fprintf(to, "%*s- ", begun ? 0 : indent, "");
		begun = false;
		if (is_block(below))
			put_block(below, indent + 2, true, to);
		else
			put_scalar(below, to);
	}
}

void yaml_print(json_t *value, FILE *to)
{
	if (is_block(value))
		put_block(value, 0, false, to);
	else
		put_scalar(value, to);
}
