/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll disk check
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/disk.h"
#include "cli/disk_options.h"
#include "cli/options.h"
#include "cli/say.h"

enum { FINDINGS_SHOWN = 20, EXIT_DAMAGED = 1, EXIT_LEAKS = 9 };

enum { OPT_REPAIR = OPT_OWN, OPT_REPAIR_LEAKS };

static const struct option_spec options[] = {
	DISK_OPT_FORMAT,
	{ "repair", NULL, "mend all that can be", OPT_REPAIR },
	{ "repair-leaks", NULL, "only give back space that is lost",
	  OPT_REPAIR_LEAKS },
	DISK_OPT_JSON,
	DISK_OPT_QUIET,
	{ 0 },
};

struct check {
	struct disk_args args;
	struct disk_progress bar;
	unsigned repair;
	unsigned shown;
};

static int take_option(void *ctx, int id, const char *value, struct error *err)
{
	struct check *c = ctx;

	if (id == OPT_REPAIR)
		c->repair |= IMAGE_REPAIR_ALL | IMAGE_REPAIR_LEAKS;
	else if (id == OPT_REPAIR_LEAKS)
		c->repair |= IMAGE_REPAIR_LEAKS;
	else
		return disk_arg(&c->args, id, value, err);
	return 0;
}

static void show(void *ctx, const char *words)
{
	struct check *c = ctx;

	disk_progress_end(&c->bar);
	c->bar.percent = -1;
	if (c->shown++ < FINDINGS_SHOWN)
		fprintf(stderr, "%s\n", words);
	else if (c->shown == FINDINGS_SHOWN + 1)
		fprintf(stderr, "and more\n");
}

static void print_json(const struct image_check *r)
{
	json_t *o = json_pack(
	    "{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "version", 1,
	    "corruptions", (json_int_t)r->corruptions, "leaks",
	    (json_int_t)r->leaks, "corruptions_fixed",
	    (json_int_t)r->corruptions_fixed, "leaks_fixed",
	    (json_int_t)r->leaks_fixed, "clusters", (json_int_t)r->clusters,
	    "allocated", (json_int_t)r->allocated, "compressed",
	    (json_int_t)r->compressed, "fragmented", (json_int_t)r->fragmented,
	    "file_bytes", (json_int_t)r->file_bytes);

	disk_print_json(o);
}

static const char *s(u64 n)
{
	return n == 1 ? "" : "s";
}

static void print_text(const struct image_check *r)
{
	if (r->corruptions_fixed)
		printf("%" PRIu64 " corruption%s repaired\n",
		       r->corruptions_fixed, s(r->corruptions_fixed));
	if (r->leaks_fixed)
		printf("%" PRIu64 " lost cluster%s given back\n",
		       r->leaks_fixed, s(r->leaks_fixed));
	if (r->corruptions)
		printf("%" PRIu64 " corruption%s\n", r->corruptions,
		       s(r->corruptions));
	if (r->leaks)
		printf("%" PRIu64 " cluster%s lost: no harm but to space\n",
		       r->leaks, r->leaks == 1 ? " is" : "s are");
	if (!r->corruptions && !r->leaks)
		puts("no damage");
	printf("%" PRIu64 " of %" PRIu64 " clusters in use", r->allocated,
	       r->clusters);
	if (r->compressed)
		printf(", %" PRIu64 " compressed", r->compressed);
	if (r->fragmented)
		printf(", %" PRIu64 " fragments", r->fragmented);
	putchar('\n');
}

int disk_check(int argc, char **argv)
{
	struct check c = { 0 };
	struct image_check result = { .finding = show, .ctx = &c };
	struct error err;
	struct block *b;
	int rc;

	if (options_want_help(argc, argv)) {
		options_help("atoll disk check FILE [OPTION]...",
		             "Find and repair damage. Exits with 1 if any is"
		             " left, 9 if only space is lost.",
		             options);
		return 0;
	}
	rc = options_parse(options, argc, argv, take_option, &c, &err);
	if (rc == 0 && c.args.name_count != 1)
		rc = error_set(&err, -EINVAL, "say one FILE");
	if (rc == 0)
		rc = disk_open(&b, c.args.names[0], c.args.format,
		               IMAGE_OPEN_NO_BACKING | IMAGE_OPEN_AS_IS |
		                   (c.repair ? 0 : BLOCK_OPEN_READONLY),
		               &err);
	if (rc < 0)
		return say_error(&err);
	disk_progress_begin(&c.bar, "checking", c.args.quiet);
	result.progress = &c.bar.progress;
	rc = image_check(b, c.repair, &result, &err);
	disk_progress_end(&c.bar);
	block_close(b);
	if (rc < 0)
		return say_error(&err);
	if (c.args.json)
		print_json(&result);
	else
		print_text(&result);
	if (!c.repair && (result.corruptions || result.leaks))
		fprintf(stderr, "hint: atoll disk check --repair%s %s\n",
		        result.corruptions ? "" : "-leaks", c.args.names[0]);
	return result.corruptions ? EXIT_DAMAGED
	       : result.leaks     ? EXIT_LEAKS
	                          : 0;
}
