/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fields.h - what the handlers of access/ read out of bodies, and how they
 * answer.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct call;

/* A name that must be there; NULL: the call has failed. */
const char *field_name(struct call *c, const char *key);
/* A text that may be absent, or null, and leaves *text as it is then; false:
 * the call has failed. */
bool field_text(struct call *c, const char *key, size_t max, const char **text);
/* True or false; not there: false. false: the call has failed. */
bool field_switch(struct call *c, const char *key, bool *on);
/* False: it failed, and so has the call; there: in words, what is there
 * already when a value must be unique. */
bool field_written(struct call *c, int rc, const char *there);
/* What deletes one thing: false, and the call has failed, if there was none. */
bool field_removed(struct call *c, int rc, const char *none);
/* 404 with "there is no NOUN NAME". */
void field_none(struct call *c, const char *noun, const char *name);
