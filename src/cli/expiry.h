/* SPDX-License-Identifier: Apache-2.0 */
/*
 * expiry.h - until when something lasts, as people say it: "30d" from now on,
 * "2026-12-31", "2026-12-31T12:00:00Z", or "never".
 */
#pragma once

#include "base/types.h"

struct error;

enum { EXPIRY_TEXT = 32 };

/* Seconds since 1970 of the host's clock in *at, 0: never. text: how the API
 * is told, "" for never; dates stay as they were written. 0, or -EINVAL with
 * words. */
int expiry_parse(const char *value, s64 *at, char text[EXPIRY_TEXT],
                 struct error *err) MUST_CHECK;
