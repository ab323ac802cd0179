/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, LARGE = 4 * PAGE };

static void *must(void *p)
{
	if (p)
		return p;
	fputs("atoll: out of memory\n", stderr);
	abort();
}

void alloc_clear(void *p, size_t size)
{
	u8 *end = (u8 *)p + size;
	u8 *from = (u8 *)ALIGN_UP((uintptr_t)p, (uintptr_t)PAGE);
	u8 *to = (u8 *)ALIGN_DOWN((uintptr_t)end, (uintptr_t)PAGE);

	if (size < LARGE ||
	    madvise(from, (size_t)(to - from), MADV_DONTNEED) < 0) {
		memset(p, 0, size);
		return;
	}
	memset(p, 0, (size_t)(from - (u8 *)p));
	memset(to, 0, (size_t)(end - to));
}

/* Where something was freed, calloc() would write zeroes to all of it. */
void *xalloc(size_t size)
{
	void *p;

	if (size < LARGE)
		return must(calloc(1, size ? size : 1));
	p = must(malloc(size));
	alloc_clear(p, size);
	return p;
}

void *xrealloc(void *old, size_t size)
{
	return must(realloc(old, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return must(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return must(n < 0 ? NULL : s);
}

void *try_alloc(size_t count, size_t size)
{
	return calloc(count ? count : 1, size ? size : 1);
}
