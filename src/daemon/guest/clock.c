/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock - a guest that stood still is told the time.
 *
 * The machine's own clocks are right when its guest goes on, but a system reads
 * them when it boots and counts from there: it is late by as long as it stood
 * still. Its agent is asked what it believes, and told better if that is late;
 * a guest that is ahead means it. Agents set the time by themselves, or, where
 * they lack a program for that, by a shell.
 */
#include <stdio.h>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"

enum { TIMEOUT_S = 10 };

#define LATE_NS NSEC_PER_SEC /* less is left to who keeps the guest's clock */

static void told(void *ctx, json_t *answer, const struct error *err)
{
	struct vm *vm = ctx;

	if (answer)
		log_info("daemon", "%s: its guest was told the time", vm->name);
	else
		log_warn("daemon",
		         "%s: its guest's clock is late and can't be set: %s",
		         vm->name, err->text);
}

/* The shell's error is nobody's: an agent that can do neither has no better. */
static void take_set(void *ctx, json_t *answer, const struct error *err)
{
	struct vm *vm = ctx;
	char date[48];

	if (answer) {
		told(vm, answer, err);
		return;
	}
	snprintf(date, sizeof(date), "date -u -s @%" PRId64 " >/dev/null",
	         (time_ns() + (s64)NSEC_PER_SEC / 2) / (s64)NSEC_PER_SEC);
	guest_ask(vm, "guest-exec",
	          json_pack("{s:s, s:[s, s], s:b}", "path", "/bin/sh", "arg",
	                    "-c", date, "capture-output", 1),
	          AGENT_ANSWER_USUAL, TIMEOUT_S, told, vm);
}

static void take_time(void *ctx, json_t *answer, const struct error *err)
{
	struct vm *vm = ctx;
	s64 now = time_ns(), said = json_integer_value(answer);

	(void)err;
	/* It may say anything. */
	if (!json_is_integer(answer) || said < 0 || said > now ||
	    now - said < (s64)LATE_NS)
		return;
	guest_ask(vm, "guest-set-time",
	          json_pack("{s:I}", "time", (json_int_t)now),
	          AGENT_ANSWER_USUAL, TIMEOUT_S, take_set, vm);
}

void guest_clock_round(struct vm *vm)
{
	if (!vm->clock_late)
		return;
	vm->clock_late = false;
	guest_ask(vm, "guest-get-time", NULL, AGENT_ANSWER_USUAL, TIMEOUT_S,
	          take_time, vm);
}
