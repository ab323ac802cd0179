/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio disk on a rig's bus. */
#pragma once

#include "rig.h"

struct block;

/* The rig begins with it. The disk lies on the block and is at the first slot,
 * where d has found it. */
struct device *rig_disk_init(struct rig *rig, struct block *block,
                             unsigned queues, const char *serial,
                             struct driver *d);
/* With the block and the rig. */
void rig_disk_fini(struct rig *rig, struct block *block, struct device *dev);
