/* SPDX-License-Identifier: Apache-2.0 */
/*
 * confine.h - what atoll-net gives up before it sees the first frame.
 *
 * It parses packets of a hostile guest, so it keeps the right to use
 * sockets and to read the resolver's configuration, and nothing else: no new
 * privileges, no capabilities but raw ICMP, no files (Landlock), no programs,
 * and a list of system calls.
 */
#pragma once

#include "base/types.h"

struct error;

int confine(struct error *err) MUST_CHECK;
