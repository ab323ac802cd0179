/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/access/fields.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/store.h"

const char *field_name(struct call *c, const char *key)
{
	json_t *value = json_object_get(c->body, key);
	const char *name = json_string_value(value);
	char words[64];

	if (name && strlen(name) == json_string_length(value) &&
	    spec_name_valid(name))
		return name;
	snprintf(words, sizeof(words), "%s is not a name", key);
	call_fail(c, "bad-request", words, "");
	return NULL;
}

static bool printable(const char *text)
{
	while ((u8)*text >= ' ' && *text != 0x7f)
		text++;
	return !*text;
}

bool field_text(struct call *c, const char *key, size_t max, const char **text)
{
	json_t *value = json_object_get(c->body, key);
	const char *found = json_string_value(value);
	char words[96];

	if (!value || json_is_null(value))
		return true;
	if (found && strlen(found) == json_string_length(value) &&
	    strlen(found) <= max && printable(found)) {
		*text = found;
		return true;
	}
	snprintf(words, sizeof(words),
	         "%s is not a text, too long, or holds control characters",
	         key);
	call_fail(c, "bad-request", words, "");
	return false;
}

bool field_switch(struct call *c, const char *key, bool *on)
{
	json_t *value = json_object_get(c->body, key);
	char words[96];

	*on = json_is_true(value);
	if (!value || json_is_boolean(value))
		return true;
	snprintf(words, sizeof(words), "%s is neither true nor false", key);
	call_fail(c, "bad-request", words, "");
	return false;
}

bool field_written(struct call *c, int rc, const char *there)
{
	if (rc == -EEXIST)
		call_fail(c, "conflict", there, "");
	else if (rc < 0)
		call_fail_error(c, rc);
	return rc == 0;
}

bool field_removed(struct call *c, int rc, const char *none)
{
	if (rc < 0)
		call_fail_error(c, rc);
	else if (store_changes(c->daemon->store) == 0)
		call_fail(c, "not-found", none, "");
	else
		return true;
	return false;
}

void field_none(struct call *c, const char *noun, const char *name)
{
	char words[200];

	snprintf(words, sizeof(words), "there is no %s %s", noun, name);
	call_fail(c, "not-found", words, "");
}
