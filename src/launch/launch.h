/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.h - the processes of a machine, started and ended.
 *
 * They die with the thread that started them, so that a starter that was
 * killed leaves nothing behind. All descriptors made here are close-on-exec.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct error;

struct launch {
	const char *program; /* "atoll-vm": found by place_program() */
	char *const *argv;   /* from argv[0] on, ending with NULL */
	const int *keep;     /* descriptors that it inherits */
	size_t keep_count;
	int error_fd;   /* its standard error; -1: ours */
	bool own_group; /* signals of the terminal do not reach it */
	/*
	 * A machine's name or id: it gets namespaces of its own and, when we
	 * are root, a user id of its own, as far as the host allows. Where it
	 * has its own mounts, --own-root is added to its arguments. NULL: none
	 * of this.
	 */
	const char *machine;
};

/* pid, or -errno. */
pid_t launch_start(const struct launch *l, struct error *err) MUST_CHECK;
/* Waits for a child, a while, then ends it. Its wait status. */
int launch_end(pid_t pid, unsigned wait_ms);

struct launch_vm {
	const char *machine; /* as in struct launch */
	int error_fd;
	bool own_group;
};
/* atoll-vm; *control is our end of its control socket. */
pid_t launch_vm(const struct launch_vm *how, int *control,
                struct error *err) MUST_CHECK;

/* A user-mode network of one machine. */
struct launch_net {
	const char *hostname;
	u64 mtu;                    /* 0: the usual */
	const char *const *publish; /* what atoll-net's --publish takes */
	size_t publish_count;
	bool own_group;
	/* For a switch: the network behind it, and where it asks for ports. */
	const char *network; /* NULL: of one machine */
	int control;
};

/* Waits until it is ready; *link is the cable's far end. -EINVAL: it found
 * what it was told to be wrong. */
pid_t launch_net(const struct launch_net *net, int *link,
                 struct error *err) MUST_CHECK;
/* The same without the wait: what it says is read from *ready_fd, and the cable
 * may be used before that. */
pid_t launch_net_begin(const struct launch_net *net, int *link, int *ready_fd,
                       struct error *err) MUST_CHECK;
/*
 * What an atoll-net says when it is set up: "ok", or an exit code, the words
 * and the hint, a line each. 0, -EINVAL (bad use) or another -errno.
 */
int launch_read_ready(int fd, struct error *err) MUST_CHECK;

/* A tap device by name, opened as net/link.h needs it. */
int launch_tap(const char *name, struct error *err) MUST_CHECK;

/* A tap device of our own on a bridge of the host: CAP_NET_ADMIN is needed, or
 * a helper. */
int launch_bridge(const char *bridge, u64 mtu, struct error *err) MUST_CHECK;

/* What is done with the further files of a disk: opened, and given on. */
struct launch_files {
	int (*open)(void *ctx, const char *path, bool readonly,
	            struct error *err); /* a descriptor, or -errno */
	/* The descriptor is taken over, whatever comes of it, but stays open
	 * until launch_chain() returns. */
	int (*add)(void *ctx, const char *path, const char *format, int fd,
	           struct error *err);
	void *ctx;
};
/* The open disk is what stands at its path, and its lock is taken before that
 * is looked at: who has something else take its place asks for the lock first,
 * or has done it by now. -EBUSY: it is another. A lock that can't be had is for
 * who opens the image to tell of. */
int launch_hold_disk(int fd, const char *path, bool readonly,
                     struct error *err) MUST_CHECK;
/* Those that the qcow2 image at path, open as fd, and those below it name. */
int launch_chain(const struct launch_files *files, int fd, const char *path,
                 bool readonly, struct error *err) MUST_CHECK;
