/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recorder.h - a disk in memory that remembers what was not flushed.
 *
 * A struct block whose power can be cut: what had been flushed stays, of
 * every 512-byte sector written since then any of its versions may be what is
 * found afterwards. It can also fail requests now and then.
 */
#pragma once

#include "base/types.h"

struct block;

struct recorder;

struct recorder *recorder_create(u32 seed);
void recorder_destroy(struct recorder *r);

/* A block over it; several may be open. Closing it keeps the contents. */
struct block *recorder_open(struct recorder *r);

/* Cut the power after so many more writes and flushes (0: never). From then
 * on everything fails with -EIO. */
void recorder_cut_after(struct recorder *r, u64 operations);
bool recorder_was_cut(const struct recorder *r);
/* Fail one request in so many with error (0: none). */
void recorder_fail(struct recorder *r, u32 one_in, int error);
/* The same of requests that change something. */
void recorder_fail_writes(struct recorder *r, u32 one_in, int error);

/* Power is back (no block is open): the disk is one that the cut could have
 * left. Also legal without a cut. */
void recorder_power_up(struct recorder *r);
/* Contents as a file. */
void recorder_save(struct recorder *r, const char *path);
void recorder_load(struct recorder *r, const char *path);
u64 recorder_operations(const struct recorder *r);
