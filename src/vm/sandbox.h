/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.h - the confinement of a machine's process.
 */
#pragma once

struct error;
struct filter;

/*
 * From here on this process and all its threads, those to come too: no new
 * privileges, no path can be opened (Landlock, where the kernel has it),
 * and system calls outside a list end the process (seccomp). -errno and words
 * where the kernel refuses, which is then fatal: nothing runs unconfined.
 */
int sandbox_enter(struct error *err) __attribute__((warn_unused_result));

/* The list, as make_filter.c makes it. */
extern const struct filter vm_filter;
