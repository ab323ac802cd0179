/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isolate.h - a process in namespaces of its own, under a user id of its own.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;

/* How much of it. */
enum isolate_kind {
	ISOLATE_ALL,  /* user, mount, network, process, IPC, host name */
	ISOLATE_ROOT, /* the same without the user's: for root */
	ISOLATE_NOTHING,
	ISOLATE_KINDS,
};

struct isolate {
	enum isolate_kind kind;
	bool own_uid; /* another than ours: that takes root, or a helper */
	u32 uid;      /* for root */
	int helper;   /* launch/helper.h: knows it by the machine; -1: none */
	const char *machine;
	int held; /* out: holds the id that the helper gave; -1: none */
	/* In the child, once all is done; returns an errno. It has our memory
	 * and a small stack: system calls alone. */
	int (*become)(void *ctx, enum isolate_kind kind);
	void *ctx;
};

/*
 * The child's pid once become() has put another program in its place. The
 * child dies with us, whenever that is. -errno: nothing is left of it.
 */
pid_t isolate_start(struct isolate *how) MUST_CHECK;
