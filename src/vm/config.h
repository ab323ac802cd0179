/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h - from the machine file, as the start message brings it, to what
 * machine/ builds from. docs/machine-file.md is the reference.
 */
#pragma once

#include <jansson.h>

#include "machine/machine.h"

struct error;

/* Every file that a disk is made of, the image first. Of a disk with a path,
 * which others change, only while nobody may write to it. */
struct vm_disk_chain {
	struct {
		int fd;
		char *path, *format;
	} file[MACHINE_CHAIN_MAX + 1];
	unsigned count;
};

struct vm_config {
	struct machine_config machine;
	int report_fd;  /* -1: none */
	int listen_fd;  /* -1: none */
	int records_fd; /* where works.c talks to the starter; -1: none */
	/* Of disks that are written to, for who saves the machine; -1: none. */
	int disk_fds[MACHINE_DISKS_MAX];
	bool disk_private[MACHINE_DISKS_MAX]; /* no path leads there */
	bool disk_shared[MACHINE_DISKS_MAX];  /* what it lies on, by a fork */
	struct vm_disk_chain chains[MACHINE_DISKS_MAX];
	char *origin; /* what machine.origin points to */
	json_t *json; /* the strings in machine live here */
};

/*
 * Check everything, refuse what is unknown. fds came with the message; those
 * that the file names are in *out afterwards, and every other is closed. On
 * failure all are.
 */
int vm_config_parse(json_t *file, int *fds, size_t fd_count,
                    struct vm_config *out, struct error *err) MUST_CHECK;
void vm_config_fini(struct vm_config *config);
/*
 * Another image, a qcow2, has taken the disk's place, and has what was the disk
 * below it by that name. fd is taken over.
 */
int vm_config_switch_disk(struct vm_config *config, unsigned disk, int fd,
                          const char *name, struct error *err) MUST_CHECK;
/* The disk lies on that image of its chain now (0: on none). */
void vm_config_rebase_disk(struct vm_config *config, unsigned disk,
                           unsigned layer);
