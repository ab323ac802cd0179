/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_root.h - a file system of the machine's own: next to nothing.
 */
#pragma once

struct error;

/*
 * In a mount namespace of our own (launch/isolate.h), and nowhere else. What
 * is left is read-only: /proc/self, and /dev/kvm where the host has it. Nothing
 * of the host's can be named any more, whatever the sandbox lets through.
 * -errno and words where the host does not let us; then all is as it was.
 */
int own_root_enter(struct error *err) __attribute__((warn_unused_result));

/* Gives up all that root may do, in a namespace or out of it. */
int own_root_drop(struct error *err) __attribute__((warn_unused_result));
