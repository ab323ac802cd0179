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

struct error;
struct loop;
struct machine;

enum {
	MACHINE_CPUS_MAX = 64,
	MACHINE_DISKS_MAX = 16,
	MACHINE_NICS_MAX = 8,
	MACHINE_SERIALS_MAX = 4
};

struct machine_disk {
	int fd;           /* taken over */
	const char *path; /* for messages */
	const char *format;
	const char *serial;
	bool readonly;
};

struct machine_nic {
	int fd;           /* taken over */
	const char *type; /* "socket" or "tap", see net/link.h */
	u8 mac[6];
	u16 mtu; /* 0: 1500 */
};

struct machine_serial {
	int in, out; /* borrowed; -1: none */
};

struct machine_config {
	const char *name;
	const char *engine; /* "auto", "kvm", "bt", "interp" */
	const char *engine_options;
	unsigned cpus;
	u64 memory_bytes;

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
	bool testdev, debug_exit;
	/* Unpack a compressed kernel on the host (machine/boot/boot.h). */
	enum { UNPACK_AUTO, UNPACK_YES, UNPACK_NO } unpack;

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

void machine_power_button(struct machine *m); /* ACPI */
void machine_reset(struct machine *m, const char *why);
void machine_quit(struct machine *m, int code, const char *cause,
                  const char *words);
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);
/* The terminal behind the console changed its size. */
void machine_console_resize(struct machine *m, u16 columns, u16 rows);

/* Figures for --report, as JSON text; freed by the caller. */
char *machine_report(struct machine *m);
