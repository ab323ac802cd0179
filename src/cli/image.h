/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - operating systems ready to run, kept below
 * $XDG_DATA_HOME/atoll/images.
 *
 *	ID/disk.raw  ID/vmlinuz  ID/initrd  ID/packages  ID/manifest.json
 *	names/debian:12 -> ../ID
 *
 * ID is the hash of what the image was made from. An image is never written
 * to once it is there: a machine gets a copy.
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
};

/* A private copy of the image's disk, gone when its descriptor closes unless
 * keep says otherwise. name: "debian:12", or an ID or its beginning. */
int image_use(struct image_use *use, const char *name, bool keep,
              struct error *err) MUST_CHECK;

/* The same with another disk than the image's: its copy, or, for a machine
 * that goes on with it, itself. */
int image_use_disk(struct image_use *use, const char *name, const char *disk,
                   bool move, bool keep, struct error *err) MUST_CHECK;
/* Shares the blocks where the file system can; else copies what is data. */
int image_copy_sparse(int from, int to, off_t size) MUST_CHECK;

/* ---- the store (image_store.c) ---- */

/* The folder of images, made when absent. */
char *image_store(struct error *err) MUST_CHECK;
/* "debian:12": letters, digits and ".-_:", not starting with a dot. */
bool image_name_valid(const char *name);
/* Folder of the image of that name or ID. */
char *image_find(const char *name, struct error *err) MUST_CHECK;
/* Its manifest.json; NULL with words when it is missing or damaged. */
json_t *image_manifest(const char *folder, struct error *err) MUST_CHECK;

/* ---- verbs ---- */

int image_build(int argc, char **argv);
