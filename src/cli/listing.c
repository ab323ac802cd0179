/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listing - what a daemon answered, as a table or as data: columns chosen,
 * elements filtered and sorted.
 */
#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/units.h"
#include "cli/remote.h"
#include "cli/say.h"
#include "cli/yaml_out.h"

enum { COLUMNS_MAX = 24, CELL = 1024, KEY_MAX = 64 };

json_t *remote_at(json_t *element, const char *path)
{
	char key[KEY_MAX];
	size_t n;

	while (element && *path) {
		n = strcspn(path, ".");
		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		element = json_object_get(element, key);
		path += n + (path[n] == '.');
	}
	return element;
}

const char *remote_text(json_t *element, const char *path)
{
	const char *text = json_string_value(remote_at(element, path));

	return text ? text : "";
}

s64 remote_number(json_t *element, const char *path)
{
	return json_integer_value(remote_at(element, path));
}

/* ---- cells ---- */

static void put_list(json_t *list, char *text, size_t size)
{
	size_t i, used = 0;
	json_t *one;

	json_array_foreach(list, i, one)
	{
		const char *word = json_string_value(one);
		int n = snprintf(text + used, size - used, "%s%s",
		                 i ? ", " : "", word ? word : "");

		if (n < 0 || (size_t)n >= size - used)
			return;
		used += (size_t)n;
	}
}

/* Texts bare, all else as JSON; nothing of what is not there. */
static void put_raw(json_t *value, char *text, size_t size)
{
	char *dumped;

	text[0] = '\0';
	if (json_is_string(value)) {
		snprintf(text, size, "%s", json_string_value(value));
	} else if (value && !json_is_null(value)) {
		dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		snprintf(text, size, "%s", dumped ? dumped : "");
		free(dumped);
	}
}

static json_t *value_of(json_t *element, const struct column *c);

static const char *cell(json_t *element, const struct column *c, char *text,
                        size_t size)
{
	json_t *value;

	if (c->text)
		return c->text(element, text, size);
	value = value_of(element, c);
	snprintf(text, size, "-");
	if (c->kind == CELL_TEXT && json_string_length(value))
		snprintf(text, size, "%s", json_string_value(value));
	else if (c->kind == CELL_TEXT && json_is_boolean(value))
		snprintf(text, size, "%s", json_is_true(value) ? "yes" : "no");
	else if (c->kind == CELL_NUMBER && json_is_integer(value))
		snprintf(text, size, "%" JSON_INTEGER_FORMAT,
		         json_integer_value(value));
	else if (c->kind == CELL_NUMBER && json_is_real(value))
		snprintf(text, size, "%.2f", json_real_value(value));
	else if (c->kind == CELL_SIZE && json_is_integer(value))
		format_size((u64)json_integer_value(value), text, size);
	else if (c->kind == CELL_TIME && json_is_string(value))
		snprintf(text, size, "%.19s", json_string_value(value));
	else if (c->kind == CELL_LIST && json_array_size(value))
		put_list(value, text, size);
	else if (c->kind == CELL_ANY && value)
		put_raw(value, text, size);
	return text;
}

/* As a program wants it: bytes are bytes, times whole, nothing is "-". */
static const char *raw_cell(json_t *element, const struct column *c, char *text,
                            size_t size)
{
	const char *shown;

	if (!c->text && c->kind != CELL_LIST) {
		put_raw(value_of(element, c), text, size);
		return text;
	}
	shown = cell(element, c, text, size);
	return strcmp(shown, "-") ? shown : "";
}

/* ---- keys ---- */

/* A column by its title, or one for a path; paths begin in the element or in
 * its "spec". False: neither looks like it. */
static bool find_key(const struct column *columns, const char *key,
                     struct column *out)
{
	for (const struct column *c = columns; c && c->title; c++)
		if (strcasecmp(c->title, key) == 0) {
			*out = *c;
			return true;
		}
	*out = (struct column){ key, .path = key, .kind = CELL_ANY };
	return key[0] != '\0';
}

/* Of a path that was typed, "spec." may be left out. */
static json_t *value_of(json_t *element, const struct column *c)
{
	char below[KEY_MAX + 8];
	json_t *value = remote_at(element, c->path);

	if (value || c->kind != CELL_ANY)
		return value;
	snprintf(below, sizeof(below), "spec.%s", c->path);
	return remote_at(element, below);
}

/* ---- filters ---- */

/* "tag=KEY" and "tag=KEY=GLOB". */
static bool tag_matches(json_t *element, const char *wanted)
{
	json_t *tags = remote_at(element, "spec.tags");
	const char *glob = strchr(wanted, '='), *value;
	char key[KEY_MAX];

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(wanted, "="), wanted);
	value = json_string_value(json_object_get(tags, key));
	return value && (!glob || fnmatch(glob + 1, value, 0) == 0);
}

static bool one_matches(json_t *element, const struct column *columns,
                        const char *filter)
{
	const char *equals = strchr(filter, '=');
	bool not = equals[-1] == '!', found;
	char key[KEY_MAX], room[CELL];
	const char *text = room;
	struct column c;

	snprintf(key, sizeof(key), "%.*s", (int)(equals - filter - not ),
	         filter);
	if (strcmp(key, "tag") == 0)
		return tag_matches(element, equals + 1) != not ;
	find_key(columns, key, &c);
	if (c.text)
		text = c.text(element, room, sizeof(room));
	else
		put_raw(value_of(element, &c), room, sizeof(room));
	found = fnmatch(equals + 1, text, 0) == 0;
	return found != not ;
}

static bool in_project(json_t *element, const char *project)
{
	const char *of = remote_text(element, "project");

	return strcmp(of[0] ? of : remote_text(element, "spec.project"),
	              project) == 0;
}

bool remote_matches(const struct remote *r, json_t *element,
                    const struct column *columns)
{
	if (r->project && !in_project(element, r->project))
		return false;
	for (size_t i = 0; i < r->filter_count; i++)
		if (!one_matches(element, columns, r->filters[i]))
			return false;
	return true;
}

/* ---- order ---- */

struct order {
	struct column key;
	int sign;
};

static int compare(const void *a, const void *b, void *ctx)
{
	const struct order *o = ctx;
	json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
	json_t *v, *w;
	char left[CELL], right[CELL];
	double d;

	if (!o->key.text) {
		v = value_of(x, &o->key);
		w = value_of(y, &o->key);
		if (json_is_number(v) && json_is_number(w)) {
			d = json_number_value(v) - json_number_value(w);
			return o->sign * ((d > 0) - (d < 0));
		}
		put_raw(v, left, sizeof(left));
		put_raw(w, right, sizeof(right));
		return o->sign * strverscmp(left, right);
	}
	return o->sign * strverscmp(o->key.text(x, left, sizeof(left)),
	                            o->key.text(y, right, sizeof(right)));
}

/* What is let through, in the order that was asked for; owned. */
static json_t *choose(const struct remote *r, json_t *list,
                      const struct column *columns)
{
	size_t count = 0, i;
	json_t **all = xalloc((json_array_size(list) + 1) * sizeof(json_t *));
	json_t *one, *out = json_array();
	struct order order = { .sign = 1 };

	json_array_foreach(list, i, one)
	{
		if (remote_matches(r, one, columns))
			all[count++] = one;
	}
	if (r->sort) {
		order.sign = r->sort[0] == '-' ? -1 : 1;
		find_key(columns, r->sort + (order.sign < 0), &order.key);
		qsort_r(all, count, sizeof(*all), compare, &order);
	}
	for (i = 0; i < count; i++)
		json_array_append(out, all[i]);
	free(all);
	return out;
}

/* ---- tables ---- */

/* Signs of UTF-8, each taken to be as wide as the others. */
static size_t width_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((u8)*text & 0xc0) != 0x80;
	return n;
}

/* What came from elsewhere moves no cursor: control characters, of ASCII and
 * of Latin-1 (c2 80 to c2 9f in UTF-8), are shown as question marks. */
static void put_plain(const char *text)
{
	for (; *text; text++) {
		u8 c = (u8)*text, next = (u8)text[1];

		if (c == 0xc2 && next >= 0x80 && next < 0xa0) {
			putchar('?');
			text++;
		} else {
			putchar(c < ' ' || c == 0x7f ? '?' : c);
		}
	}
}

/* Filled up with blanks, unless it is the last of its line. */
static void put_cell(const char *text, size_t width, bool last)
{
	size_t n = width_of(text);

	put_plain(text);
	if (last)
		putchar('\n');
	else
		printf("%*s", (int)(width - MIN(n, width) + 2), "");
}

static void print_table(json_t *list, const struct column *columns)
{
	size_t width[COLUMNS_MAX] = { 0 }, count = 0, i;
	const char *text;
	json_t *one;
	char room[CELL];

	for (; columns[count].title; count++)
		width[count] = width_of(columns[count].title);
	json_array_foreach(list, i, one)
	{
		for (size_t n = 0; n < count; n++) {
			text = cell(one, &columns[n], room, sizeof(room));
			width[n] = MAX(width[n], width_of(text));
		}
	}
	for (size_t n = 0; n < count; n++)
		put_cell(columns[n].title, width[n], n + 1 == count);
	json_array_foreach(list, i, one)
	{
		for (size_t n = 0; n < count; n++) {
			text = cell(one, &columns[n], room, sizeof(room));
			put_cell(text, width[n], n + 1 == count);
		}
	}
}

/* RFC 4180, with the line ends of this system. */
static void put_csv(const char *text, bool last)
{
	bool quoted = strpbrk(text, ",\"\r\n") != NULL;

	if (quoted)
		putchar('"');
	for (; *text; text++) {
		if (*text == '"')
			putchar('"');
		putchar(*text);
	}
	if (quoted)
		putchar('"');
	putchar(last ? '\n' : ',');
}

static void print_csv(json_t *list, const struct column *columns)
{
	char room[CELL];
	json_t *one;
	size_t i;

	for (const struct column *c = columns; c->title; c++)
		put_csv(c->title, !c[1].title);
	json_array_foreach(list, i, one)
	{
		for (const struct column *c = columns; c->title; c++)
			put_csv(raw_cell(one, c, room, sizeof(room)),
			        !c[1].title);
	}
}

/* Those that are shown: the ones named, or the usual ones. names holds what
 * the new ones point to. */
static int pick(const struct remote *r, const struct column *all, char *names,
                struct column *out)
{
	char *rest = names, *name;
	size_t count = 0;

	for (; !r->columns && all->title; all++)
		if (!all->wide || r->wide)
			out[count++] = *all;
	while (r->columns && (name = strsep(&rest, ","))) {
		if (count == COLUMNS_MAX - 1)
			return say_usage("more than %d columns",
			                 COLUMNS_MAX - 1);
		if (!find_key(all, name, &out[count]))
			return say_usage("--columns %s has an empty name",
			                 r->columns);
		if (out[count++].kind == CELL_ANY)
			for (char *c = name; *c; c++)
				if (isspace((u8)*c))
					return say_usage("'%s' is no column",
					                 name);
	}
	out[count] = (struct column){ NULL };
	return CODE_OK;
}

static int print_columns(const struct remote *r, json_t *list,
                         const struct column *all)
{
	struct column columns[COLUMNS_MAX];
	char *names = xstrdup(r->columns ? r->columns : "");
	int code = pick(r, all, names, columns);

	if (code == CODE_OK && r->format == FORMAT_CSV)
		print_csv(list, columns);
	else if (code == CODE_OK)
		print_table(list, columns);
	free(names);
	return code;
}

/* ---- data ---- */

bool remote_wants_data(const struct remote *r)
{
	return r->format != FORMAT_TABLE && r->format != FORMAT_NAME;
}

/* A line for each value in it: its path, and what is there. */
static void print_paths(json_t *value, const char *path)
{
	const char *key;
	json_t *below;
	char *text, *name;
	size_t i;

	json_object_foreach(value, key, below)
	{
		name = xasprintf("%s%s%s", path, *path ? "." : "", key);
		print_paths(below, name);
		free(name);
	}
	json_array_foreach(value, i, below)
	{
		name = xasprintf("%s%s%zu", path, *path ? "." : "", i);
		print_paths(below, name);
		free(name);
	}
	if (json_is_object(value) || json_is_array(value))
		return;
	put_csv(path, false);
	text = json_is_string(value)
	           ? NULL
	           : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	put_csv(text ? text : json_string_value(value), true);
	free(text);
}

void remote_print_value(const struct remote *r, json_t *value)
{
	if (r->format == FORMAT_YAML) {
		yaml_print(value, stdout);
		return;
	}
	if (r->format == FORMAT_CSV) {
		print_paths(value, "");
		return;
	}
	json_dumpf(value, stdout,
	           (r->format == FORMAT_JSONL ? JSON_COMPACT : JSON_INDENT(2)) |
	               JSON_ENCODE_ANY);
	putchar('\n');
}

/* Whole, with chosen where the list was; owned. */
static json_t *with_list(json_t *whole, json_t *list, json_t *chosen)
{
	json_t *copy = json_copy(whole), *value;
	const char *key;

	json_object_foreach(whole, key, value)
	{
		if (value == list)
			json_object_set(copy, key, chosen);
	}
	return copy;
}

int remote_print(struct remote *r, json_t *whole, json_t *list,
                 const struct column *columns)
{
	json_t *chosen = choose(r, list, columns), *shown, *one;
	int code = CODE_OK;
	char room[CELL];
	size_t i;

	if (r->format == FORMAT_TABLE || r->format == FORMAT_CSV) {
		code = print_columns(r, chosen, columns);
	} else if (r->format == FORMAT_JSON || r->format == FORMAT_YAML) {
		shown = with_list(whole, list, chosen);
		remote_print_value(r, shown);
		json_decref(shown);
	} else {
		json_array_foreach(chosen, i, one)
		{
			if (r->format == FORMAT_NAME)
				puts(
				    cell(one, &columns[0], room, sizeof(room)));
			else
				remote_print_value(r, one);
		}
	}
	json_decref(chosen);
	return code;
}

int remote_show(struct remote *r, const char *path,
                const struct column *columns)
{
	int code = CODE_OK;
	json_t *one = remote_get(r, path, &code), *list;

	if (!one)
		return code;
	list = json_pack("[O]", one);
	code = remote_print(r, one, list, columns);
	json_decref(list);
	json_decref(one);
	return code;
}

int remote_list(struct remote *r, const char *path, const char *key,
                const struct column *columns)
{
	int code = CODE_OK;
	json_t *whole = remote_get(r, path, &code);

	if (whole)
		code = remote_print(r, whole, json_object_get(whole, key),
		                    columns);
	json_decref(whole);
	return code;
}
