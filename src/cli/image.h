/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - operating systems ready to run, kept below
 * $XDG_DATA_HOME/atoll/images.
 *
 *	ID/disk.raw  ID/vmlinuz  ID/initrd  ID/packages  ID/manifest.json
 *	names/debian:12 -> ../ID
 *
 * ID is the hash of what the image was made from. An image is never written
 * to once it is there: a machine's disk is a qcow2 image that lies on it (a
 * linked clone), or a copy.
 *
 *	ID/clones/NUMBER -> the path of a clone's disk
 *
 * As long as one of those is there, the image is in use.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/types.h"

struct error;

/* What a machine needs of an image; strings are the caller's. */
struct image_use {
	char *kernel, *initrd, *cmdline;
	char
	    *disk_path; /* the private copy; for messages when it is unlinked */
	int disk_fd;
	const char *disk_format; /* static */
};

/* A private disk over the image's (full: a copy of it), gone when its
 * descriptor closes unless keep says otherwise. name: "debian:12", or an ID or
 * its beginning. */
int image_use(struct image_use *use, const char *name, bool full, bool keep,
              struct error *err) MUST_CHECK;

/* The same with another disk than the image's: its copy, or, for a machine
 * that goes on with it, itself. */
int image_use_disk(struct image_use *use, const char *name, const char *disk,
                   const char *format, bool move, bool keep,
                   struct error *err) MUST_CHECK;

/* A disk that is no image's, likewise. Its descriptor; path is for messages. */
int image_take(const char *disk, bool move, char **path,
               struct error *err) MUST_CHECK;

/* ---- the store (image_store.c) ---- */

/* The folder of images, made when absent. */
char *image_store(struct error *err) MUST_CHECK;
/* "debian:12": letters, digits and ".-_:", not starting with a dot. */
bool image_name_valid(const char *name);
/* Folder of the image of that name or ID. */
char *image_find(const char *name, struct error *err) MUST_CHECK;
/* Its manifest.json; NULL with words when it is missing or damaged. */
json_t *image_manifest(const char *folder, struct error *err) MUST_CHECK;
/* Whether its files are there, as long as the manifest says. */
int image_check_files(const char *folder, json_t *manifest,
                      struct error *err) MUST_CHECK;

/* ---- clones (image_clone.c) ---- */

/* A new qcow2 image in folder over base, which is named by its absolute path.
 * Its descriptor; without keep it has no name, and *path is for messages. */
int image_overlay(const char *folder, const char *base, const char *format,
                  bool keep, char **path, struct error *err) MUST_CHECK;
/* A qcow2 image over folder's disk, in the store's folder of disks. Without
 * keep it has no name. */
int image_clone(const char *store, const char *folder, bool keep, char **path,
                struct error *err) MUST_CHECK;
/* The qcow2 image at path, if it lies on one of the store, keeps that from
 * being deleted. */
int image_claim(const char *path, struct error *err) MUST_CHECK;
/* -EBUSY with words if a machine or a clone needs the image. */
int image_check_unused(const char *folder, struct error *err) MUST_CHECK;

/* ---- putting images there (image_keep.c) ---- */

enum { IMAGE_HEX = 2 * 32 + 1 };
/* What an image in the folder is to its machine, as hexadecimal digits: its
 * disk's contents where they are, its size, kernel, initial RAM disk, command
 * line. Holes and zeroes are the same. */
int image_hash_content(const char *folder, const char *cmdline,
                       char hex[IMAGE_HEX], struct error *err) MUST_CHECK;
/* SHA-256 over the files, one after the other, as hexadecimal digits. */
int image_hash(const char *const *paths, size_t count, char hex[IMAGE_HEX],
               struct error *err) MUST_CHECK;
/* What manifest.json says of a file. A disk is mostly holes: gigabytes of
 * zeros are not worth hashing. */
int image_note_file(json_t *files, const char *folder, const char *name,
                    bool hashed, struct error *err) MUST_CHECK;
/* One change at a time. The lock goes with the process. What one that was
 * killed left is removed. */
int image_lock(const char *store, struct error *err) MUST_CHECK;
/* That alone, if nobody has the lock. */
void image_tidy(const char *store);
/* Turn the name to the image, in one step for whoever looks. */
int image_set_name(const char *store, const char *name, const char *id,
                   struct error *err) MUST_CHECK;
/* Move the work to its ID. An image that is there already stays. */
int image_settle(const char *store, const char *work, const char *id,
                 struct error *err) MUST_CHECK;
void image_remove_tree(const char *folder);
/* A program, to its end; quiet: what it says is not shown. */
int image_run(char *const *argv, bool quiet, struct error *err) MUST_CHECK;

/* ---- verbs ---- */

int image_import(int argc, char **argv);
int image_export(int argc, char **argv);
int image_tag(int argc, char **argv);
int image_seed(int argc, char **argv);

int image_build(int argc, char **argv);
