/* SPDX-License-Identifier: Apache-2.0 */
/*
 * confine.h - what atoll-net gives up before it sees the first frame.
 *
 * It parses packets of hostile guests. The user-mode stack keeps the right to
 * use sockets and to read the resolver's configuration; the switch makes no
 * sockets at all, and keeps one folder. Nothing else: no new privileges, no
 * capabilities (raw ICMP aside, for the stack), no other files (Landlock), no
 * programs, and a list of system calls.
 */
#pragma once

#include "base/types.h"

struct error;
struct filter;

int confine_stack(struct error *err) MUST_CHECK;
/* folder: a descriptor of where it keeps its addresses. */
int confine_switch(int folder, struct error *err) MUST_CHECK;

/* The lists of system calls, as make_filter.c makes them. */
extern const struct filter stack_filter, switch_filter;
