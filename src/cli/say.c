/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/say.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/remote.h"

enum { WORD_MAX = 32 };

void say_words(const char *words, const char *hint)
{
	fprintf(stderr, "error: %s\n", words);
	if (hint[0])
		fprintf(stderr, "hint: %s\n", hint);
}

int say_error(const struct error *err)
{
	say_words(err->text, err->hint);
	switch (err->code) {
	case -EINVAL:
	case -ERANGE:
		return CODE_USAGE;
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return CODE_NOT_FOUND;
	case -EEXIST:
	case -EBUSY:
	case -EADDRINUSE:
		return CODE_CONFLICT;
	case -EACCES:
	case -EPERM:
	case -EROFS:
		return CODE_DENIED;
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
	case -ENOMEM:
		return CODE_NO_CAPACITY;
	default:
		return CODE_FAILED;
	}
}

int say_usage(const char *fmt, ...)
{
	va_list ap;

	fputs("error: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return CODE_USAGE;
}

int say_confirm(bool yes, const char *question, ...)
{
	char answer[16];
	va_list ap;

	if (yes || !isatty(STDIN_FILENO))
		return 0;
	va_start(ap, question);
	vfprintf(stderr, question, ap);
	va_end(ap);
	fputs(" [y/N] ", stderr);
	if (fgets(answer, sizeof(answer), stdin) &&
	    (answer[0] == 'y' || answer[0] == 'Y'))
		return 0;
	fputs("nothing was done\n", stderr);
	return CODE_FAILED;
}

/* Edits (insert, delete, replace) that make b of a. */
static size_t distance(const char *a, const char *b)
{
	size_t row[WORD_MAX + 1], la = strlen(a), lb = strlen(b), diagonal, up;

	if (la > WORD_MAX || lb > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			up = row[j];
			row[j] = MIN(MIN(up, row[j - 1]) + 1,
			             diagonal + (a[i - 1] != b[j - 1]));
			diagonal = up;
		}
	}
	return row[lb];
}

const char *nearest(const char *word, const char *const *first, size_t count,
                    size_t stride)
{
	const char *best = NULL, *name;
	size_t best_edits = WORD_MAX, edits;

	for (size_t i = 0; i < count; i++) {
		name = *(const char *const *)((const char *)first + i * stride);
		if (!name)
			continue;
		edits = distance(word, name);
		/* What was cut short counts as near: --mem. */
		if (strlen(word) >= 3 && strncmp(word, name, strlen(word)) == 0)
			edits = MIN(edits, (size_t)1);
		if (edits < best_edits) {
			best_edits = edits;
			best = name;
		}
	}
	/* Two letters swapped are two edits. */
	return best_edits <= MAX((size_t)2, strlen(word) / 3) ? best : NULL;
}
