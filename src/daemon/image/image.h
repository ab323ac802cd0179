/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - the images of the store that the daemon's machines are made from,
 * and whose they are. They are put there by `atoll image`, beside the daemon.
 */
#pragma once

#include "base/types.h"
#include "daemon/access/rights.h"

struct call;
struct daemon;

/* Does it belong to a project? */
bool image_project(struct daemon *d, const char *name,
                   char project[PROJECT_SIZE]);

void api_image_tag(struct call *c);
void api_image_delete(struct call *c);
