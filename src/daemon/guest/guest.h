/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - the daemon's talk with the agents inside of guests.
 *
 * The line is a descriptor that the machine's holder keeps and gives out.
 * Questions of one machine go one after another; a guest that does not answer
 * in time has the line synced before the next one.
 */
#pragma once

#include <jansson.h>

#include "agent/agent.h"
#include "base/error.h"
#include "base/types.h"

struct task;
struct vm;

/* answer is borrowed; NULL, and err says why. */
typedef void guest_fn(void *ctx, json_t *answer, const struct error *err);

/* fn is always called once, from inside when there is nobody to ask. arguments
 * are taken over. */
void guest_ask(struct vm *vm, const char *command, json_t *arguments,
               size_t most, unsigned timeout_s, guest_fn *fn, void *ctx);
/* It answered not long ago. */
bool guest_there(const struct vm *vm);
/* Asks it to shut down, if it is there; nothing is waited for. */
void guest_shutdown(struct vm *vm);
/* vCPUs that were added, from that number on, are set on line; a guest that
 * does so by itself is left alone. Nothing is waited for. */
void guest_online(struct vm *vm, unsigned from);
/* {"connected":..., "hostname":..., "os":..., "interfaces":[...]} */
json_t *guest_json(const struct vm *vm);

/* ---- still.c ---- */

/* err: the guest's file systems do not stand still, and why; NULL: they do. */
typedef void still_fn(struct task *t, const struct error *err);
/* begin is called once, from inside when there is no agent, and not at all when
 * the task ends before. What it begins is t->job, which has a machine's job on
 * that disk begin. Until then they stand still. */
void guest_hold_still(struct task *t, int disk, still_fn *begin);
/* They need not any longer; nothing is waited for. */
void guest_go_on(struct vm *vm);
/* The machine has ended, or the daemon does. */
void guest_still_forget(struct vm *vm);

/* ---- of a machine's life ---- */

/* From holder.c: the line, taken over. */
void guest_line(struct vm *vm, int fd);
/* Every two seconds: open says that a program in the guest has the port. */
void guest_round(struct vm *vm, bool open);
/* clock.c: as the round of one that may be asked. */
void guest_clock_round(struct vm *vm);
/* The machine has ended. */
void guest_gone(struct vm *vm);
