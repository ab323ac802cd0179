/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.h - opening what a person named, with words for all that goes wrong.
 * All descriptors are close-on-exec.
 */
#pragma once

#include "base/types.h"

struct error;

/* A regular file to read; what is "kernel", "initrd". fd or -errno. */
int file_open_input(const char *what, const char *path,
                    struct error *err) MUST_CHECK;
/* A disk image or block device, not in use by another process. */
int file_open_disk(const char *path, bool readonly,
                   struct error *err) MUST_CHECK;
/* The same, as launch_chain() asks for what lies below; ctx is not used. */
int file_open_layer(void *ctx, const char *path, bool readonly,
                    struct error *err) MUST_CHECK;
/* Do both names lead to one file? */
bool file_same(const char *a, const char *b);
/* A file to write from its beginning. */
int file_open_output(const char *what, const char *path,
                     struct error *err) MUST_CHECK;

/* A listening TCP socket for "[ADDRESS]:PORT" or "PORT"; without an address
 * on 127.0.0.1 only. */
int socket_listen(const char *what, const char *where,
                  struct error *err) MUST_CHECK;
