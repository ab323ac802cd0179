/* SPDX-License-Identifier: Apache-2.0 */
/*
 * body.h - a body of the API under way: options put their keys into it.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;

enum body_value {
	BODY_TEXT,
	BODY_NAME,   /* or "none": null */
	BODY_NUMBER, /* or "none": null */
	BODY_SIZE,   /* of bytes, or "none" */
	BODY_TRUE,   /* a switch */
	BODY_FALSE,
	BODY_LIST, /* of texts: may be repeated */
};

struct body_key {
	int option;
	const char *key;
	enum body_value value;
	const char *below; /* the object that the key is in; NULL: the body */
};

/* keys ends with a NULL key. */
struct body {
	json_t *json;
	const struct body_key *keys;
};

/* An option_fn (options.h) for a struct body. */
int body_option(void *ctx, int id, const char *value, struct error *err);
