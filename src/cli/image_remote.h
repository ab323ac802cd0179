/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "base/types.h"

/* Another daemon is meant: --remote, or ATOLL_REMOTE. */
bool image_is_remote(int argc, char **argv);
/* argv[0] is the verb; the exit code. */
int image_remote(int argc, char **argv);
