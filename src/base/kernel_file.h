/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel_file.h - the kernel's files of a few lines: /proc, /sys, control
 * groups.
 *
 * The kernel makes such a file's text when it is read, and takes a text whole
 * when it is written: one call each. Paths are as of openat().
 */
#pragma once

#include "base/types.h"

/* At most size - 1 bytes, ended by a 0. False, and "": it can't be read. */
bool kernel_file_read(int folder, const char *path, char *text, size_t size);

/* 0 or -errno, which may be ignored where the kernel may lack the file. */
int kernel_file_write(int folder, const char *path, const char *text);
