/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.h - a list of system calls, made into a program for the kernel when
 * Atoll was built (base/filter_make.h): to make it takes milliseconds, which a
 * process that is started often has better use for.
 */
#pragma once

#include <linux/filter.h>

#include "base/types.h"

/* Stands for the process's own number where the program is made. */
#define FILTER_OWN_PID 0x7f0a70ffu

struct filter {
	const struct sock_filter *code;
	u16 count;
	u16 pid_at; /* which instruction compares with the process's number */
};

/* For all threads of this process, for good. It must have no_new_privs. */
int filter_enter(const struct filter *filter) MUST_CHECK;
