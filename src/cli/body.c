/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/body.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"

/* The object that a key goes into, made if it is not there. */
static json_t *place(struct body *b, const struct body_key *k)
{
	json_t *to = k->below ? json_object_get(b->json, k->below) : b->json;

	if (to)
		return to;
	to = json_object();
	json_object_set_new(b->json, k->below, to);
	return to;
}

static int number(const struct body_key *k, const char *value, json_t **to,
                  struct error *err)
{
	u64 n;
	int rc;

	if (strcmp(value, "none") == 0) {
		*to = json_null();
		return 0;
	}
	rc = k->value == BODY_SIZE ? parse_size(value, 1, &n, err)
	                           : parse_u64(value, 0, INT64_MAX, &n, err);
	if (rc < 0)
		return error_prefix(err, "%s", k->key);
	*to = json_integer((json_int_t)n);
	return 0;
}

int body_option(void *ctx, int id, const char *value, struct error *err)
{
	struct body *b = ctx;
	const struct body_key *k = b->keys;
	json_t *to = NULL, *list;

	while (k->key && k->option != id)
		k++;
	if (!k->key)
		return -EINVAL;
	if (k->value == BODY_TRUE || k->value == BODY_FALSE)
		to = json_boolean(k->value == BODY_TRUE);
	else if (k->value == BODY_NUMBER || k->value == BODY_SIZE) {
		if (number(k, value, &to, err) < 0)
			return -EINVAL;
	} else if (k->value == BODY_NAME && strcmp(value, "none") == 0) {
		to = json_null();
	} else {
		to = json_string(value);
	}
	if (!to)
		return error_set(err, -EINVAL, "%s is not UTF-8", k->key);
	if (k->value != BODY_LIST) {
		json_object_set_new(place(b, k), k->key, to);
		return 0;
	}
	list = json_object_get(b->json, k->key);
	if (!list) {
		list = json_array();
		json_object_set_new(b->json, k->key, list);
	}
	json_array_append_new(list, to);
	return 0;
}
