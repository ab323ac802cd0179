/* SPDX-License-Identifier: Apache-2.0 */
/*
 * saved.h - a saved machine as a file: how it was started, and its disk.
 *
 * Disks that no path leads to lie beside the state: an image's at FILE.disk,
 * and what a copy (atoll fork) wrote to its nth one, which another machine
 * has at a path, at FILE.diskN. The state says which those are; the command
 * that it is started with again names the other machine's.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct error;
struct image_progress;
struct run_options;

struct saved {
	int fd; /* -1: none */
	char *path, *disk;
	json_t *about;
	char **argv; /* how it was started; the strings are about's */
	int argc;
};

/* The text at a key of a document; "": none. */
const char *saved_text(json_t *o, const char *key);

int saved_open(struct saved *s, const char *path, struct error *err) MUST_CHECK;
void saved_fini(struct saved *s);
/* Whether it is still what stands at that path. */
bool saved_is_at(const struct saved *s, const char *path);
/* What it was started with, and after that what argv says (its first element
 * is the verb). Freed with free(); the strings are both owners'. */
char **saved_command(const struct saved *s, int argc, char **argv, int *count);
/* The MAC of the nth network card, or NULL. */
const char *saved_mac(const struct saved *s, unsigned nic);
/* The path of an image's disk that was kept; NULL: it lies beside. */
const char *saved_kept_disk(const struct saved *s);
/* Of that, or of the one beside: "raw" or "qcow2". */
const char *saved_disk_format(const struct saved *s);
/* Whether the nth disk is one of those at FILE.diskN. */
bool saved_lies_beside(const struct saved *s, unsigned n);
/* origin: what a machine was started with. Its first disk is an image's. */
bool saved_has_image(json_t *origin);
/* disk: as the machine lists it, and private. */
bool saved_is_image(json_t *disk, json_t *origin);
/* Where the nth disk of the machine that is saved at path lies. Freed by the
 * caller. */
char *saved_disk_path(const char *path, unsigned n, bool image);
/* All of them, if they are there. */
void saved_forget_disks(const char *path);
/* Whether a machine is saved at path. What is left of one that went on after
 * all, since who saved it died before it was to end, is removed. */
bool saved_is_there(const char *path);
/* Relative paths in the command are meant from there. */
int saved_enter_folder(const struct saved *s, struct error *err) MUST_CHECK;

/*
 * Ask the machine behind sock to save itself to path, by way of a file beside
 * it that gets its name when it is whole. With stay, nothing runs until sock
 * is closed; while it stays, disk is called for each disk that the machine
 * writes to, with its descriptor. figures is the answer; freed by the caller;
 * may be NULL.
 */
struct saved_how {
	bool plain, stay;
	const struct image_progress *progress; /* or NULL */
	int (*disk)(void *ctx, json_t *disk, int fd, struct error *err);
	void *ctx;
};
int saved_write(int sock, const char *path, const struct saved_how *how,
                json_t **figures, struct error *err) MUST_CHECK;

/*
 * The same of one moment of a machine that goes on, unless it is to stay: it
 * stands still for "pause_us" of figures. Each disk of the list gets a copy in
 * a file of its own, "copy", of the format "stored".
 */
int saved_moment(int sock, const char *path, const struct saved_how *how,
                 json_t *disks, json_t **figures, struct error *err) MUST_CHECK;
/* Which format a copy of the disk is to have, so that it can take the disk's
 * place when the machine is restored. status: the machine's. */
const char *saved_stored(json_t *disk, json_t *status);
/* A saved_how.disk for a machine that ends: a private disk without a name gets
 * one, beside the state. */
struct saved_place {
	const char *path;
	bool image;
};
int saved_keep_disk(void *ctx, json_t *disk, int fd,
                    struct error *err) MUST_CHECK;
/* One request, one answer; events are passed over. */
int saved_request(int sock, json_t *message, const int *fds, size_t count,
                  json_t **answer, int *got, size_t *got_count,
                  struct error *err) MUST_CHECK;
/* A file in the folder of path, without a name where the file system knows
 * such: then nothing is left of it if we end here. temp is what it is called,
 * or what it will be; owned. -1 and errno. */
int saved_open_unnamed(const char *path, char **temp) MUST_CHECK;
/* It becomes path, and that is on the disk. */
int saved_give_name(int fd, const char *temp, const char *path,
                    struct error *err) MUST_CHECK;
