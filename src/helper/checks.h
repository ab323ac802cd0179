/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checks.h - what a request may name. Each reads what is not the kernel's once,
 * and answers 0 or -errno with words.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;
struct helper_request;

/* Whole, of a known kind, all text ended, every number within its bounds. */
int check_request(const void *message, size_t size, struct helper_request *out,
                  struct error *err) MUST_CHECK;

/* A bridge of this host, and one that allowed, a file of names, has: where
 * there is no such file all are allowed. */
int check_bridge(const char *name, const char *allowed,
                 struct error *err) MUST_CHECK;

/*
 * A descriptor of /proc/PID for a process that peer has the say over: its own,
 * or one in a user namespace that it made directly below ours. What is opened
 * below the descriptor is of that process, whoever gets its number later.
 */
int check_process(pid_t pid, uid_t peer, struct error *err) MUST_CHECK;
/* The same, and it must be in such a namespace. */
int check_namespace(pid_t pid, uid_t peer, struct error *err) MUST_CHECK;
