/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.h - a copy of a machine that ran is told who it is now.
 *
 * Its guest goes on with the host name and the card addresses of the machine
 * that it is a copy of. What may be changed of that from outside is changed by
 * the generation and by the cards themselves; the rest takes a program in the
 * guest, which its agent runs. That it is still to be done is a file in the
 * machine's folder, so that it outlives daemons and waits for an agent.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct vm;

enum identity_step {
	IDENTITY_UNKNOWN, /* nobody has looked for the file */
	IDENTITY_WANTED,
	IDENTITY_ASKED, /* the agent, which has yet to answer */
	IDENTITY_RUNS,
	IDENTITY_OVER,
};

/* Of one run of a machine; all zeroes at first. */
struct identity {
	struct vm *vm; /* borrowed */
	enum identity_step step;
	s64 program; /* in the guest */
	unsigned tries, looks;
};

/* Of a copy that is being made: once its agent is heard of, it is told. */
int identity_want(const struct vm *vm, struct error *err) MUST_CHECK;
/* Every two seconds, while the machine runs and its agent may be asked. */
void identity_round(struct identity *id, struct vm *vm);
