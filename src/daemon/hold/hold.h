/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold.h - the process that stands between one machine and the daemon.
 *
 *	main.c     arguments, the start document
 *	files.c    everything opened, the machine file with its descriptors
 *	work.c     disks copied, folders removed
 *	hold.c     the machine while it runs: requests, events, its start and
 *end console.c  what the guest prints, and what is typed end.c      how the
 *machine ended network.c  instead of a machine: a network's switch and uplink
 *
 * All on one thread, one loop.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/types.h"

struct cable;
struct error;

enum { HOLD_FDS_MAX = 120, HOLD_NETS_MAX = 8 };

/* In the machine's folder (moment/moment.h says what they are). */
#define HOLD_SAVED "suspended.state"
#define HOLD_SAVING "saving.state"
#define HOLD_RESUMING "resuming.state"

/* What goes to atoll-vm, and what is kept of it. */
struct hold_files {
	json_t *file; /* the machine file */
	int fds[HOLD_FDS_MAX];
	unsigned fd_count;
	int console_in, console_out; /* our ends; -1: none */
	int agent;   /* our end of the guest agent's line; -1: none */
	int records; /* where atoll-vm asks for control/record.h; -1: none */
	pid_t nets[HOLD_NETS_MAX];
	unsigned net_count;
	struct cable *cables[HOLD_NETS_MAX]; /* in switches of networks */
	unsigned cable_count;
	bool restores;
};

/* Opens all that the definition names and starts the networks. On failure
 * nothing is left. */
int hold_files_open(struct hold_files *f, json_t *machine,
                    struct error *err) MUST_CHECK;
struct hold_config;
/* It is to go on from what was saved. */
int hold_files_restore(struct hold_files *f, const struct hold_config *config,
                       struct error *err) MUST_CHECK;
/* From what another one gave, which came along with how: its "fd", "hold" and
 * "layers" are indices. */
int hold_files_adopt(struct hold_files *f, json_t *how, const int *fds,
                     size_t count, struct error *err) MUST_CHECK;
/* Closes what was to be sent: atoll-vm has it. */
void hold_files_sent(struct hold_files *f);
void hold_files_fini(struct hold_files *f);

struct hold_config {
	const char *id;   /* of the machine: its folder's name */
	int folder;       /* of the machine */
	int listener;     /* a listening socket, non-blocking */
	json_t *document; /* borrowed */
};

/* What takes long: work.c. Exit codes; words on standard error. */
int hold_prepare(const char *image, const char *folder, bool full);
int hold_remove(const char *folder);

/* Keeps a network instead, until its switch is told to quit. */
void hold_network(const struct hold_config *config);

/* Until the machine has ended and that is written down. */
void hold_run(const struct hold_config *config);
