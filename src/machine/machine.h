/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - one virtual machine: built, run, stopped.
 *
 * The front door of the hypervisor proper. A machine is built from a config
 * whose descriptors are open already; it opens nothing itself. machine_run
 * runs on the caller's thread, which becomes the loop's; vCPUs get threads of
 * their own. The other calls may come from any thread unless they say not.
 */
#pragma once

#include "base/end.h"
#include "base/types.h"
#include "engine/engine.h"

struct block;
struct error;
struct loop;
struct machine;
struct throttle_limits;

enum {
	MACHINE_CPUS_MAX = 64,
	MACHINE_DISKS_MAX = 16,
	MACHINE_CHAIN_MAX = 32, /* further files of one disk */
	MACHINE_NICS_MAX = 8,
	MACHINE_SERIALS_MAX = 4
};

/* A backing or data file, under the path by which its image names it. */
struct machine_disk_file {
	int fd; /* taken over */
	const char *path, *format;
};

/* How a disk's files are read and written. */
enum machine_cache {
	CACHE_WRITEBACK, /* through the host's page cache */
	CACHE_NONE,      /* O_DIRECT, with io_uring where the host has it */
	CACHE_UNSAFE,    /* the page cache; what the guest flushes is not */
};

struct machine_disk {
	int fd;           /* taken over */
	const char *path; /* for messages, and the base of relative names */
	const char *format;
	const char *serial;
	bool readonly;
	enum machine_cache cache;
	struct machine_disk_file chain[MACHINE_CHAIN_MAX];
	unsigned chain_count;
	u64 iops, iops_burst; /* 0: no limit, see storage/throttle.h */
	u64 bytes_per_s, bytes_burst;
};

struct machine_nic {
	int fd;           /* taken over */
	const char *type; /* "socket" or "tap", see net/link.h */
	u8 mac[6];
	u16 mtu;          /* 0: 1500 */
	bool own_network; /* nobody else is on it */
};

struct machine_serial {
	int in, out; /* borrowed; -1: none */
};

struct machine_config {
	const char *name;
	const char *engine; /* "auto", "kvm", "bt", "interp" */
	const char *engine_options;
	unsigned cpus;         /* that there may ever be */
	unsigned cpus_present; /* that there are at first; 0: all */
	u64 memory_bytes;
	bool share_memory; /* equal pages with other such machines (KSM) */

	int kernel_fd; /* borrowed until machine_create returns; -1: none */
	int initrd_fd;
	const char *kernel_path, *initrd_path; /* for messages */
	const char *cmdline;
	int module_fds[8]; /* multiboot */
	unsigned module_count;

	struct machine_disk disks[MACHINE_DISKS_MAX];
	unsigned disk_count;
	struct machine_nic nics[MACHINE_NICS_MAX];
	unsigned nic_count;
	struct machine_serial serials[MACHINE_SERIALS_MAX];
	unsigned serial_count;
	/* A virtio console port on the same terminal as serial 0, if set. */
	bool virtio_console;
	bool rng;
	bool balloon;
	/* A stream socket on which the guest's agent speaks, taken over. */
	bool has_agent;
	int agent_fd;
	bool testdev, debug_exit;
	/* Unpack a compressed kernel on the host (machine/boot/boot.h). */
	enum { UNPACK_AUTO, UNPACK_YES, UNPACK_NO } unpack;

	/* As it was saved, instead of booted: the kernel is for resets. */
	bool restore;
	int restore_fd;      /* borrowed until machine_create returns */
	bool restore_verify; /* check all of its memory first */
	/* Files that a copy of a running machine shares memory with; taken
	 * over. */
	int restore_layers[16];
	unsigned restore_layer_count;
	/* Another machine may go on from the same state: this one is told that
	 * it is a copy. */
	bool restore_copy;
	const char *origin; /* JSON that a saved machine carries; NULL: none */
	bool cpu_baseline;  /* x86-64-v2 and no more */
	bool cpu_max;       /* also what the host lacks and an engine has */

	int gdb_fd;     /* listening socket, taken over; -1: none */
	u64 timeout_ns; /* 0: none */
};

struct machine_outcome {
	int code;         /* enum machine_end, or the debug-exit code */
	char cause[32];   /* "power-off", "reset", "triple-fault", ... */
	char words[2048]; /* for a person; where the guest stood */
};

/* Builds everything; no vCPU runs yet. Sandboxing goes between this and
 * machine_run. The loop is borrowed. */
int machine_create(struct machine **out, const struct machine_config *config,
                   struct loop *loop, struct error *err) MUST_CHECK;
void machine_destroy(struct machine *m); /* NULL is legal */

/* Runs the loop until the machine ends. */
void machine_run(struct machine *m, struct machine_outcome *outcome);

/* Another cable for a network card; fd is taken over. On the loop's thread. */
int machine_replug(struct machine *m, unsigned nic, int fd,
                   struct error *err) MUST_CHECK;
/* The file of a saved machine that memory is mapped from; -1: none. */
int machine_mapped_file(const struct machine *m);
/* Memory of a saved machine that is read while it runs can't be read. fn does
 * not return, and is called on any thread. Before machine_run(). */
typedef void machine_lost_fn(void *ctx, const char *words);
void machine_when_lost(struct machine *m, machine_lost_fn *fn, void *ctx);
/* Is p in guest memory? Signal handlers may ask. */
bool machine_owns(const struct machine *m, const void *p);
void machine_power_button(struct machine *m); /* ACPI */
void machine_reset(struct machine *m, const char *why);
void machine_quit(struct machine *m, int code, const char *cause,
                  const char *words);
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/* How a machine's memory lies in its state (docs/state-file.md). */
enum machine_memory_form {
	MACHINE_MEMORY_PACKED, /* small */
	MACHINE_MEMORY_PLAIN,  /* sparse, and mapped when it is restored */
};
struct machine_saved {
	u64 pages, zero, duplicate, stored_bytes;
};
/*
 * A moment of a machine: it stands still for as long as it takes to note where
 * everything is (pause_ns, the longest standstill), and what was noted is
 * written meanwhile, or shared. One at a time; the loop's thread.
 */
struct machine_moment_disk {
	unsigned disk;
	struct block *target; /* as large, reads as zeroes; taken over */
	int scratch;          /* see point_open(); taken over */
};
struct machine_moment_result {
	int rc;
	const struct error *err;
	struct machine_saved saved;
	u64 pause_ns;
	/* With share: the files that memory lies in (-1: none of that number),
	 * borrowed. It counts as looked at until machine_unshare(). */
	const int *layers;
	unsigned layer_count;
};
struct machine_moment_config {
	int fd; /* taken over: an empty file, for the state */
	enum machine_memory_form form;
	bool share; /* memory stays where it is, for others to map */
	bool still; /* the machine is frozen, and ends: its disks are flushed */
	bool sync;  /* the state is on stable storage when it is done */
	struct machine_moment_disk disks[MACHINE_DISKS_MAX];
	unsigned disk_count;
	/* While it runs, some time before; may be NULL, and not come: for
	 * what then need not be done in the standstill. */
	void (*soon)(void *ctx);
	/* In the standstill; may be NULL. Negative: it comes to nothing. */
	int (*disks_now)(void *ctx, struct error *err);
	/* On the loop's thread; with share it may come before machine_moment
	 * returns. */
	void (*done)(void *ctx, const struct machine_moment_result *result);
	void *ctx;
};
/* What is to be taken over is, if this succeeds. */
int machine_moment(struct machine *m,
                   const struct machine_moment_config *config,
                   struct error *err) MUST_CHECK;
/* Bytes of memory and disks, of the moment that is being written; 0, 0: there
 * is none. The loop's thread. */
void machine_moment_progress(struct machine *m, u64 *done, u64 *total);
/* It comes to nothing (-ECANCELED), unless it is as good as written. */
void machine_moment_cancel(struct machine *m);
/* Nobody looks at memory that was shared any more. */
void machine_unshare(struct machine *m);
/* Which engine it is that runs it. */
const char *machine_engine(const struct machine *m);
/* Nothing runs between the two, and disks stand still. They count, and the
 * loop's thread alone calls them. */
void machine_freeze(struct machine *m);
void machine_thaw(struct machine *m);
/*
 * A disk while the machine runs: live (storage/live.h), for storage/jobs.h;
 * borrowed. NULL: there is none of that number.
 */
struct block *machine_disk(struct machine *m, unsigned disk);
/* BLOCK_OPEN_*: how its cache= has an image opened that is to take its place.
 */
unsigned machine_disk_flags(const struct machine *m, unsigned disk);
/* How fast it may be; the loop's thread. */
void machine_disk_limits(struct machine *m, unsigned disk,
                         struct throttle_limits *limits);
void machine_disk_throttle(struct machine *m, unsigned disk,
                           const struct throttle_limits *limits);
/* A larger size, which the guest is told. Waits for requests under way. */
int machine_disk_grow(struct machine *m, unsigned disk, u64 size,
                      struct error *err) MUST_CHECK;
/* The terminal behind the console changed its size. */
void machine_console_resize(struct machine *m, u16 columns, u16 rows);

/* At least count vCPUs are there from now on; the loop's thread. -ENOSPC: so
 * many may never be. */
int machine_add_cpus(struct machine *m, unsigned count,
                     struct error *err) MUST_CHECK;
/* How much the balloon is to take from the guest. -ENODEV: there is none. */
int machine_balloon(struct machine *m, u64 bytes, struct error *err) MUST_CHECK;
/* What is counted while it runs - vCPUs, balloon, disks, networks - as JSON
 * text; freed by the caller. */
char *machine_figures(struct machine *m);
/* Figures for --report, as JSON text; freed by the caller. */
char *machine_report(struct machine *m);
