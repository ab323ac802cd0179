/* SPDX-License-Identifier: Apache-2.0 */
/*
 * perf_map.h - the names of host code for perf: a line for each block in
 * /tmp/perf-PID.map, where perf looks for what a process makes at run time.
 */
#pragma once

#include <stdio.h>

#include "base/types.h"
#include "engine/bt/bt.h"

/* Opens what is written later: the process may open nothing then. */
int perf_map_open(FILE **out, struct error *err) MUST_CHECK;
/* Each does nothing without a map. */
void perf_map_add(const struct bt *bt, const struct bt_code *code);
void perf_map_add_stubs(const struct bt *bt);
