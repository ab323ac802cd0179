/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - a machine from the start message to its end.
 */
#pragma once

#include <jansson.h>

/* sock is taken over, and what was given (base/given.h). The process's exit
 * status: enum machine_end, or what the guest gave to debug-exit. */
int vm_session(int sock);

/* Words may hold what a guest or a file put there: made valid UTF-8. */
json_t *session_words(const char *words);
