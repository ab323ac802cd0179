/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - networks that the daemon keeps, for other verbs.
 */
#pragma once

#include <jansson.h>

struct error;
struct remote;

int command_net(int argc, char **argv);

/* As the API shows it; NULL with words. */
json_t *net_find(const char *name, struct error *err);
/* Until it has started. An exit code; words were printed. */
int net_wait(struct remote *r, const char *name);
