/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.h - atoll disk: disk images as files.
 *
 * The verbs work on images directly, without a daemon. Formats are what the
 * person says, or what the file's name ends with; never what the file holds,
 * which a guest may have written. Exit codes are those of all nouns: 1
 * failure, 2 usage, 3 not found, 4 conflict, 5 denied, 6 no room.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"
#include "cli/partial.h"
#include "storage/image.h"

struct error;
struct option_spec;

int cmd_disk(int argc, char **argv);

/* What every verb takes. */
struct disk_args {
	const char *format;   /* --format, else from the name */
	const char *names[3]; /* arguments that are no options */
	unsigned name_count;
	bool json, quiet, force;
};

enum { OPT_IMAGE_FORMAT = 900, OPT_JSON, OPT_NO_PROGRESS, OPT_FORCE };
#define DISK_OPT_FORMAT                                                        \
	{                                                                      \
		"format", "F", "raw or qcow2; usually clear from the name",    \
		    OPT_IMAGE_FORMAT                                           \
	}
#define DISK_OPT_JSON                                                          \
	{                                                                      \
		"json", NULL, "print JSON", OPT_JSON                           \
	}
#define DISK_OPT_QUIET                                                         \
	{                                                                      \
		"quiet", NULL, "no progress", OPT_NO_PROGRESS                  \
	}

/* Take a common option or an argument; -EINVAL with words if too many. */
int disk_arg(struct disk_args *args, int id, const char *value,
             struct error *err);

/* The format of a file by its name, unless said. NULL with words. */
const char *disk_format(const char *path, const char *said, struct error *err);
/* The same where another option says it. */
const char *disk_format_by(const char *path, const char *said,
                           const char *option, struct error *err);
bool disk_format_foreign(const char *format);

int disk_open(struct block **out, const char *path, const char *format,
              unsigned flags, struct error *err) MUST_CHECK;

/* An image that is being made: it gets its name, as its data file does, when it
 * is whole (partial.h). */
struct disk_new {
	struct image_create how; /* first; its by and data_by are ours */
	struct partial file, data;
};
/* Empty, and without a name; nothing is left when it fails. */
int disk_make(struct disk_new *d, struct error *err) MUST_CHECK;
int disk_keep(struct disk_new *d, struct error *err) MUST_CHECK;
/* After disk_keep(), too. */
void disk_drop(struct disk_new *d);

/* As info --json has them; whose image it is of stays the caller's. */
json_t *disk_snapshots_json(const struct image_details *d);
json_t *disk_bitmaps_json(const struct image_details *d);
/* Prints o, and lets it go. */
void disk_print_json(json_t *o);

/* A bar on standard error, if that is a terminal and not quiet. */
struct disk_progress {
	struct image_progress progress; /* give &this to the work */
	const char *what;
	int percent;
	u64 total;
	bool shown;
};
void disk_progress_begin(struct disk_progress *p, const char *what, bool quiet);
void disk_progress_end(struct disk_progress *p);

/* source, of another program's format, to how, or to such a one. */
int disk_convert_foreign(const struct image_create *how, const char *source,
                         const char *from, bool compress, bool sync, bool quiet,
                         struct error *err) MUST_CHECK;

/* The verbs, a few a file. */
int disk_create(int argc, char **argv);
int disk_info(int argc, char **argv);
int disk_map(int argc, char **argv);
int disk_check(int argc, char **argv);
int disk_convert(int argc, char **argv);
int disk_compare(int argc, char **argv);
int disk_rebase(int argc, char **argv);
int disk_commit(int argc, char **argv);
int disk_resize(int argc, char **argv);
int disk_snapshot(int argc, char **argv);
int disk_bitmap(int argc, char **argv);
int disk_export(int argc, char **argv);
