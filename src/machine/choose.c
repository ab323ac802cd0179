/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose - which engine a machine gets.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "machine/internal.h"

static const struct engine_type *choose_best(struct error *err)
{
	char why[400] = "";
	size_t used = 0;

	for (size_t i = 0; engine_types[i]; i++) {
		const struct engine_type *type = engine_types[i];
		struct error refusal = { 0 };

		if (type->probe(&refusal) == 0)
			return type;
		log_debug("machine", "engine %s: %s", type->name, refusal.text);
		used += (size_t)snprintf(why + used, sizeof(why) - used,
		                         "%s%s: %s", used ? "; " : "",
		                         type->name, refusal.text);
		used = MIN(used, sizeof(why) - 1);
	}
	error_set(err, -ENODEV, "no engine runs on this host (%s)", why);
	return NULL;
}

const struct engine_type *choose_engine(const char *name, struct error *err)
{
	const struct engine_type *type;

	if (!name || !strcmp(name, "auto"))
		return choose_best(err);
	type = engine_find(name);
	if (!type) {
		error_set(err, -EINVAL, "there is no engine named \"%s\"",
		          name);
		error_hint(err, "auto chooses the best that this host can run");
		return NULL;
	}
	if (type->probe(err) < 0) {
		error_prefix(err, "engine %s cannot be used", name);
		if (err && !err->hint[0])
			error_hint(err, "--engine auto chooses one that works");
		return NULL;
	}
	return type;
}
