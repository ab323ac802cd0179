/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.h - what a daemon that is not root asks of atoll-helper, which is.
 *
 * A request and its answer are one message each, of fixed size, on a
 * SOCK_SEQPACKET socket; nothing in them is parsed. Who connects must be the
 * daemon's user. What is given (a device, a user id) is a descriptor, and given
 * back when that is closed: it outlives the helper.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct cgroup_limits;
struct cgroups;
struct error;

enum { HELPER_VERSION = 3, HELPER_NAME = 64, HELPER_PIN = 256 };

enum helper_op {
	HELPER_HELLO,  /* is it there, and of this version: pid */
	HELPER_BRIDGE, /* name, mtu: a tap device on it, as a descriptor */
	/* name, pid: user 0 of that process's namespace becomes the user id of
	 * the machine of that name, for as long as the descriptor is open */
	HELPER_MAP,
	HELPER_CGROUPS_OPEN, /* name */
	HELPER_CGROUPS_WEIGH,
	HELPER_CGROUP_APPLY, /* name, pid, limits */
	HELPER_CGROUP_REMOVE,
	HELPER_OPS,
};

struct helper_request {
	u32 version, op;
	s32 pid;
	u32 mtu;
	char name[HELPER_NAME];
	u64 weight, cpu_percent, memory_min, memory_high, memory_max;
	u64 io_weight;
	char pin[HELPER_PIN];
};

struct helper_answer {
	s32 rc; /* 0 or -errno, with words */
	s32 pid;
	u32 uid;
	u32 kind, cpuset; /* of struct cgroups */
	char words[512], hint[256];
	char cpu[512], memory[512], io[512]; /* paths; "": none */
};

/* To the one that ATOLL_HELPER names. -ENOENT: it names none. */
int helper_connect(struct error *err) MUST_CHECK;

/* One request; fd: what the answer brought, NULL where nothing is expected. */
int helper_ask(int helper, const struct helper_request *request,
               struct helper_answer *answer, int *fd,
               struct error *err) MUST_CHECK;

/* It answers: its process. */
pid_t helper_hello(int helper, struct error *err) MUST_CHECK;
int helper_bridge(int helper, const char *bridge, u64 mtu,
                  struct error *err) MUST_CHECK;
/* A descriptor that holds the user id. */
int helper_map(int helper, pid_t pid, const char *machine,
               struct error *err) MUST_CHECK;

/* As launch/cgroup.h has them. */
void helper_cgroups_open(int helper, const char *name, struct cgroups *g);
void helper_cgroups_weigh(int helper, u64 weight);
int helper_cgroup_apply(int helper, const char *machine, pid_t pid,
                        const struct cgroup_limits *limits,
                        struct error *err) MUST_CHECK;
void helper_cgroup_remove(int helper, const char *machine);
