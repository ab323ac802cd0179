/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - what a machine's process and whoever started it say.
 *
 * A Unix stream socket carries messages: a 4-byte little-endian length (at
 * most CONTROL_MESSAGE_MAX), a 4-byte count of descriptors (at most
 * CONTROL_FDS_MAX; they ride on the first byte), then that many bytes of JSON
 * (one object, UTF-8).
 *
 * First, the starter sends {"op":"start","machine":{...}}: the machine file,
 * in which every file is the index of a descriptor sent along
 * (docs/machine-file.md). Later requests: powerdown, reset, quit, pause,
 * resume, status, figures, balloon, cpus, resize, save, snapshot,
 * snapshot-progress, snapshot-cancel, fork; each
 * may carry an "id", given back in the answer. The machine sends
 * {"event":"started"},
 * {"event":"console", ...},
 * {"event":"stopped","cause":...,"code":N,"words":...,"hint":...} and then
 * closes.
 *
 * With "listen" in the machine file, the index of a listening Unix socket,
 * others may connect and ask the same; when one of them goes, the machine
 * stays. An answer is {"ok":true,...} or {"ok":false,"words":...,"hint":...}.
 *
 * save   {"op":"save","file":I,"memory":"packed"|"plain","stay":BOOL,
 *        "sync":BOOL}: I is the index of a descriptor sent along, an empty
 *        file open for reading and writing, which then holds the machine
 *        (docs/state-file.md) and is on the disk unless "sync" is false; its
 *        name is the asker's affair. The answer has "pages",
 *        "zero", "duplicate", "stored_bytes", "ms", and "disks": for each disk
 *        that is written to {"disk":N,"fd":I,"private":BOOL,"path":...,
 *        "format":...}, with its descriptor. With "stay" nothing runs
 * afterwards, disks stand still, until this peer says "go" or "quit", or
 * closes: then the file, which is no moment to go back to any more, is made
 * empty before the machine goes on.
 * go     ends the standstill that this peer's save with "stay" began.
 * snapshot  {"op":"snapshot","file":I,"memory":..., "disks":[{"disk":N,
 *        "target":I,"scratch":I},...]}: as save, but of one moment, and the
 *        machine goes on: the answer comes when all is written, with
 *        "pause_us", its longest standstill. target: an image as large
 *        as the disk that reads as zeroes, of "format" (raw), which gets its
 *        contents; scratch: an empty file. Instead of both "share":I, a
 *        file that gets what a raw disk holds as fork has it.
 *        Who asked sees to it that all is on stable storage. "stay" as in
 *        save. Of save and snapshot: if who asked goes away before the answer,
 *        nothing more is written, and the machine goes on. Meanwhile anybody
 *        may ask for snapshot-progress, which is answered with "done" and
 *        "total" bytes (0, 0: none is being written), and for snapshot-cancel.
 * fork   {"op":"fork","file":I,"watch":I,"disks":[{"disk":N,"overlay":I,
 *        "name":...},...]}: what another process needs to be a copy of the
 *        machine. file: empty, gets the state (a machine file's "restore");
 *        watch: the reading end of a pipe of which those who map the memory
 *        hold the other; each disk that is written to goes on in its overlay,
 *        an empty qcow2 image that names `name` as its backing file ("base":I
 *        is that file, and refused if it is not what the disk lies in); with
 *        "share":I instead, an empty file, a raw disk stays where it is, and
 *        that gets what it holds (reflinks), to lie below its copies. The
 *        answer has "pause_us", "machine" (the machine file), and with
 *        indices of descriptors "boot", "layers" (for "restore") and "disks":
 *        {"disk":N,"below":[{"fd":I,"path":...,"format":...},...]}. It comes
 *        later if the guest stored to much since the last fork or snapshot; if
 *        who asked goes away before, nothing is copied.
 * quit   with "suspended":true the cause is "suspended" and the code 0.
 * Requests about disks are in docs/machine-file.md; record.h has what the
 * starter does for them.
 * figures gives "figures": sums since the start (src/machine/figures.c).
 * cpus   {"op":"cpus","count":N}: at least so many vCPUs are there from now on.
 * balloon {"op":"balloon","bytes":N}: how much the guest is to lend back.
 * status also says "name" and "origin", what "origin" was in the machine file.
 */
#pragma once

#include <jansson.h>

#include "base/end.h" /* what "code" in "stopped" may be */
#include "base/types.h"

struct error;

enum { CONTROL_MESSAGE_MAX = 1 << 20, CONTROL_FDS_MAX = 128 };

/* Blocking. 0 or -errno. fds stay the caller's. */
int control_send(int sock, json_t *message, const int *fds, size_t count,
                 struct error *err) MUST_CHECK;
/* A message as it is sent, for where nothing can be made any more; freed by
 * the caller. NULL: no memory. */
u8 *control_bytes(const json_t *message, size_t *size);
/*
 * Blocking, one message; *message and the descriptors (close-on-exec) are the
 * caller's. -EPIPE: the peer closed. -EPROTO: it sent something else.
 */
int control_receive(int sock, json_t **message, int *fds, size_t room,
                    size_t *count, struct error *err) MUST_CHECK;
