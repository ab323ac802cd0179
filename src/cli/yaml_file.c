/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/yaml_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/error.h"
#include "base/types.h"

/* Aliases may lead in a circle, or multiply: both have an end here. */
enum { DEPTH_MAX = 32, NODES_MAX = 100000 };

struct reading {
	const char *path;
	yaml_document_t document;
	unsigned nodes;
	struct error *err;
};

static json_t *fail(struct reading *r, const yaml_node_t *node,
                    const char *words)
{
	error_set(r->err, -EINVAL, "%s, line %zu: %s", r->path,
	          node->start_mark.line + 1, words);
	return NULL;
}

static json_t *scalar(struct reading *r, const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;
	json_t *value;
	char *end;
	long long n;

	if (strlen(text) != node->data.scalar.length)
		return fail(r, node, "a NUL in a string");
	if (node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE) {
		if (!*text || !strcmp(text, "~") || !strcmp(text, "null"))
			return json_null();
		if (!strcmp(text, "true") || !strcmp(text, "false"))
			return json_boolean(text[0] == 't');
		errno = 0;
		n = strtoll(text, &end, 10);
		if (!*end && !errno)
			return json_integer(n);
	}
	value = json_string(text);
	return value ? value : fail(r, node, "not UTF-8");
}

static json_t *convert(struct reading *r, int index, int depth);

static json_t *sequence(struct reading *r, const yaml_node_t *node, int depth)
{
	json_t *list = json_array(), *value;

	for (yaml_node_item_t *i = node->data.sequence.items.start;
	     i < node->data.sequence.items.top; i++) {
		value = convert(r, *i, depth + 1);
		if (!value) {
			json_decref(list);
			return NULL;
		}
		json_array_append_new(list, value);
	}
	return list;
}

static json_t *mapping(struct reading *r, const yaml_node_t *node, int depth)
{
	json_t *object = json_object(), *value = NULL;
	const yaml_node_t *key;
	const char *name;

	for (yaml_node_pair_t *p = node->data.mapping.pairs.start;
	     p < node->data.mapping.pairs.top; p++) {
		key = yaml_document_get_node(&r->document, p->key);
		name = key->type == YAML_SCALAR_NODE
		           ? (const char *)key->data.scalar.value
		           : NULL;
		if (!name)
			value = fail(r, key, "a key that is not a string");
		else if (json_object_get(object, name))
			value = fail(r, key, "a key that is there twice");
		else
			value = convert(r, p->value, depth + 1);
		if (!value || json_object_set_new(object, name, value) < 0) {
			json_decref(object);
			return value ? fail(r, key, "not UTF-8") : NULL;
		}
	}
	return object;
}

static json_t *convert(struct reading *r, int index, int depth)
{
	const yaml_node_t *node = yaml_document_get_node(&r->document, index);

	if (depth > DEPTH_MAX || ++r->nodes > NODES_MAX)
		return fail(r, node, "too deep, or too much");
	switch (node->type) {
	case YAML_SCALAR_NODE:
		return scalar(r, node);
	case YAML_SEQUENCE_NODE:
		return sequence(r, node, depth);
	case YAML_MAPPING_NODE:
		return mapping(r, node, depth);
	default:
		return fail(r, node, "not understood");
	}
}

static json_t *read_document(struct reading *r, yaml_parser_t *parser)
{
	json_t *value = NULL;

	if (!yaml_parser_load(parser, &r->document)) {
		error_set(r->err, -EINVAL, "%s, line %zu: %s", r->path,
		          parser->problem_mark.line + 1,
		          parser->problem ? parser->problem : "not YAML");
		return NULL;
	}
	if (yaml_document_get_root_node(&r->document))
		value = convert(r, 1, 0);
	else
		error_set(r->err, -EINVAL, "%s is empty", r->path);
	yaml_document_delete(&r->document);
	return value;
}

json_t *yaml_file_read(const char *path, struct error *err)
{
	struct reading r = { .path = path, .err = err };
	FILE *file = fopen(path, "re");
	yaml_parser_t parser;
	json_t *value;

	if (!file) {
		error_set(err, -errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	if (!yaml_parser_initialize(&parser)) {
		fclose(file);
		error_set(err, -ENOMEM, "no memory for YAML");
		return NULL;
	}
	yaml_parser_set_input_file(&parser, file);
	value = read_document(&r, &parser);
	yaml_parser_delete(&parser);
	fclose(file);
	return value;
}
