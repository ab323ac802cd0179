/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk - the table of its verbs, and what they share.
 */
#include "cli/disk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/live.h"
#include "cli/options.h"
#include "cli/say.h"

static const struct command verbs[] = {
	{ "create", "make an empty disk", disk_create },
	{ "info", "tell what an image is", disk_info },
	{ "check", "find and repair damage", disk_check },
	{ "convert", "copy to another format", disk_convert },
	{ "resize", "give a disk another size", disk_resize },
	{ "map", "show where the data is", disk_map },
	{ "compare", "tell whether two disks hold the same", disk_compare },
	{ "rebase", "change the backing file", disk_rebase },
	{ "commit", "write changes into the backing file", disk_commit },
	{ "snapshot", "list, create, apply, delete snapshots", disk_snapshot },
	{ "export", "let NBD clients read a disk", disk_export },
	{ "bitmap", "list, create, clear, delete bitmaps", disk_bitmap },
	{ "mirror", "copy a disk in use, and keep up with it",
	  live_mirror_verb },
	{ "backup", "copy a moment of a disk in use", live_backup_verb },
	{ "throttle", "limit the speed of a disk in use", live_throttle_verb },
	{ "jobs", "long work on a machine's disks", live_jobs_verb },
	{ 0 },
};

int cmd_disk(int argc, char **argv)
{
	int (*live)(int argc, char **argv);
	const struct command *c;

	if (argc < 2 || (argc == 2 && options_want_help(argc, argv))) {
		puts("usage: atoll disk VERB [OPTION]... FILE...\n"
		     "       atoll disk VERB [OPTION]... NAME:DISK...\n\n"
		     "Disk images as files; disks of a running machine, as "
		     "web:vda.\n\nVerbs:");
		command_list(verbs);
		return argc < 2 ? END_USAGE : 0;
	}
	live = live_verb(argc - 1, argv + 1);
	if (live)
		return live(argc - 1, argv + 1);
	c = command_find(verbs, "disk verb", argv[1]);
	return c ? c->fn(argc - 1, argv + 1) : END_USAGE;
}

int disk_arg(struct disk_args *args, int id, const char *value,
             struct error *err)
{
	switch (id) {
	case OPT_IMAGE_FORMAT:
		args->format = value;
		return 0;
	case OPT_JSON:
		args->json = true;
		return 0;
	case OPT_NO_PROGRESS:
		args->quiet = true;
		return 0;
	case OPT_FORCE:
		args->force = true;
		return 0;
	default:
		if (args->name_count == ARRAY_SIZE(args->names))
			return error_set(err, -EINVAL,
			                 "'%s' is one argument too many",
			                 value);
		args->names[args->name_count++] = value;
		return 0;
	}
}

bool disk_format_foreign(const char *format)
{
	return strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0;
}

const char *disk_format_by(const char *path, const char *said,
                           const char *option, struct error *err)
{
	const char *format = said ? said : image_format_named(path);

	if (format)
		return format;
	error_set(err, -EINVAL, "%s: its format is not clear from its name",
	          path);
	error_hint(err, "say it with --%s raw or --%s qcow2%s", option, option,
	           strchr(path, ':') ? "; disks of machines are NAME:vda, "
	                               "NAME:vdb, ..."
	                             : "");
	return NULL;
}

const char *disk_format(const char *path, const char *said, struct error *err)
{
	return disk_format_by(path, said, "format", err);
}

int disk_open(struct block **out, const char *path, const char *format,
              unsigned flags, struct error *err)
{
	struct block_open how = { .path = path,
		                  .fd = -1,
		                  .format = disk_format(path, format, err),
		                  .flags = flags,
		                  .opener = &block_opener_paths };

	return how.format ? block_open(out, &how, err) : -EINVAL;
}

static void show_progress(void *ctx, u64 done, u64 total)
{
	struct disk_progress *p = ctx;
	int percent = total ? (int)(done * 100.0 / total) : 100;
	char bar[41], size[32];

	if (percent == p->percent)
		return;
	p->percent = percent;
	for (int i = 0; i < 40; i++)
		bar[i] = i < percent * 40 / 100 ? '#' : '.';
	bar[40] = '\0';
	/* What is found to be empty on the way is counted no more. */
	p->total = MAX(p->total, total);
	fprintf(stderr, "\r%s [%s] %3d%% of %s", p->what, bar, percent,
	        format_size(p->total, size, sizeof(size)));
}

void disk_progress_begin(struct disk_progress *p, const char *what, bool quiet)
{
	*p = (struct disk_progress){ .what = what, .percent = -1 };
	p->shown = !quiet && isatty(STDERR_FILENO);
	p->progress.ctx = p;
	p->progress.step = p->shown ? show_progress : NULL;
}

void disk_progress_end(struct disk_progress *p)
{
	if (p->shown && p->percent >= 0)
		fputc('\n', stderr);
}
