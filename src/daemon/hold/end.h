/* SPDX-License-Identifier: Apache-2.0 */
/*
 * end.h - how a machine ended: end.json in its folder.
 */
#pragma once

#include <jansson.h>

json_t *end_of(const char *cause, int code, const char *words,
               const char *hint);
/* Of a process that ended with this status of wait(), without a word. */
json_t *end_of_status(int status);
/* There is all of it or none. */
void end_write(int folder, json_t *end);
