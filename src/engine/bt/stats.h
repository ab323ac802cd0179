/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - figures of a vCPU's translator, for who tunes it.
 */
#pragma once

#include <jansson.h>

#include "engine/bt/bt.h"

/* Host code came back; with bt.count_fallbacks alone. */
void bt_count_exit(struct bt *bt, const struct bt_exit *out);
json_t *bt_figures(const struct bt *bt) MUST_CHECK;
