/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - what atoll run was asked for, and the steps it takes.
 *
 *	run_options.c  the command line
 *	run_machine.c  files opened, the machine file with its descriptors
 *	run_disks.c    the same for disks and what they are made of
 *	launch.c       the processes
 *	session.c      the machine while it runs
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/types.h"
#include "cli/seed.h"

struct cable;
struct error;
struct saved;

enum {
	RUN_DISKS_MAX = 15,
	RUN_NETS_MAX = 8,
	RUN_SERIALS_MAX = 4,
	RUN_MODULES_MAX = 8,
	RUN_PUBLISH_MAX = 64,
	RUN_FDS_MAX = 120, /* of CONTROL_FDS_MAX */
};

struct run_disk {
	char *path, *format, *serial, *cache; /* owned; NULL: the default */
	bool readonly;
	u64 iops, bytes_per_s; /* 0: no limit */
	u64 iops_burst, bytes_burst;
};

struct run_options {
	const char *image;
	const char *name;
	char *engine, *engine_options; /* owned */
	unsigned cpus, max_cpus;       /* max_cpus 0: as many as at first */
	bool share_memory;
	u64 memory_bytes;
	const char *kernel, *initrd, *append;
	const char *modules[RUN_MODULES_MAX];
	unsigned module_count;
	struct run_disk disks[RUN_DISKS_MAX];
	unsigned disk_count;
	const char *nets[RUN_NETS_MAX]; /* "user", "tap:NAME", "NAME" */
	unsigned net_count;
	bool net_given;
	u64 mtu;
	const char *publish[RUN_PUBLISH_MAX];
	unsigned publish_count;
	const char *serials[RUN_SERIALS_MAX];
	unsigned serial_count;
	bool virtio_console, console_given;
	u64 timeout_ns;
	const char *report; /* path */
	const char *gdb;
	json_t *devices; /* array of names; owned */
	bool keep, interactive;
	bool full;        /* a copy of the image, not a clone */
	bool disposable;  /* nothing that it wrote is left */
	struct seed seed; /* what it is told at its first start */

	const char *cpu;     /* "host", "baseline", "max" */
	const char *restore; /* a saved machine */
	/* It is the same machine, and the file is gone when it runs. */
	bool restore_move;
	bool restore_verify;
	const struct saved *saved; /* borrowed; set after the parse */
	int argc;                  /* what all this was read from; borrowed */
	char **argv;
};

/* 0, or -EINVAL with words. 1: only help was wanted, and printed. */
int run_options_parse(struct run_options *o, int argc, char **argv,
                      struct error *err) MUST_CHECK;
void run_options_fini(struct run_options *o);

/* Everything that goes to the worker, and what atoll keeps of it. */
struct run_machine {
	json_t *file; /* the machine file */
	int fds[RUN_FDS_MAX];
	unsigned fd_count;
	char *kernel, *initrd, *cmdline; /* when they come from an image */
	int console_in, console_out; /* our ends of serial "stdio"; -1: none */
	char *image_disk;            /* one that was kept; NULL: none */
	json_t *beside;              /* disks as saved_lies_beside() */
	const char *image_format;    /* of the machine's disk of it; static */
	char *disk_paths[RUN_DISKS_MAX + 2]; /* "": none leads there */
	unsigned disk_count;
	pid_t nets[RUN_NETS_MAX];
	unsigned net_count;
	struct cable *cables[RUN_NETS_MAX]; /* in networks of the daemon's */
	unsigned cable_count;
};

/* Opens all files and starts the networks. On failure nothing is left. */
int run_machine_prepare(struct run_machine *m, const struct run_options *o,
                        struct error *err) MUST_CHECK;
/* Whether each path still leads to the file that was opened; none that is
 * written to can be replaced any more by who looks at its lock. */
int run_machine_check_disks(const struct run_machine *m,
                            struct error *err) MUST_CHECK;
/* Closes and ends what is left; NULL-safe on zeroed structs. */
void run_machine_fini(struct run_machine *m);
/* Adds fd to what is sent; taken over. Its index, or -1: too many. */
int run_machine_add_fd(struct run_machine *m, int fd);
/* The same, and says so in object. */
void run_machine_set_fd(struct run_machine *m, json_t *object, const char *key,
                        int fd);

/* A random address for a network card: 17 characters. */
int run_machine_mac(char *text, size_t size, struct error *err) MUST_CHECK;
/* run_disks.c: all disks with their chains, into m->file. */
int run_disks_open(struct run_machine *m, const struct run_options *o,
                   struct error *err) MUST_CHECK;

struct worker {
	pid_t pid;
	int control;  /* socket */
	int messages; /* its standard error */
};

/* Apart from the host as machine; NULL: as one of our own processes. */
int worker_start(struct worker *w, const char *machine,
                 struct error *err) MUST_CHECK;

struct session_config {
	struct worker worker;
	int console_in, console_out; /* taken over; -1: none */
	int records; /* taken over: an image takes a disk's place; -1: none */
	const char *name;
	u64 timeout_ns; /* the worker keeps it; past it by far, we do */
	/* What a machine that goes on leaves behind: a file that is unlinked
	 * when it runs, and a state whose disks are when it has run, unless it
	 * is suspended again. NULL: none. */
	const char *unlink_started, *disks_ended;
	const struct saved *saved; /* what stands at the first of them */
	/* Of the disks, as the worker counts them; "": none. Borrowed. */
	char *const *disk_paths;
	unsigned disk_count;
};

/* Until the machine has ended. The exit code of atoll. */
int session_run(const struct session_config *config);
