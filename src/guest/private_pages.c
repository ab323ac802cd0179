/* SPDX-License-Identifier: Apache-2.0 */
/*
 * private_pages - which pages of a private mapping of a file were stored to:
 * the kernel has given them copies of their own. Asked of /proc/self/pagemap
 * (Linux Documentation/admin-guide/mm/pagemap.rst), by its scan where there
 * is one, else an entry a page.
 */
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest/memory_internal.h"

enum { REGIONS = 256, ENTRIES = 512 };

/* Linux 6.7: newer than Debian 12's headers. */
struct scan_region {
	u64 start, end, categories;
};
struct scan {
	u64 size, flags, start, end, walk_end;
	u64 vec, vec_len, max_pages;
	u64 inverted, mask, any_of, returned;
};
#define PAGEMAP_SCAN_CALL _IOWR('f', 16, struct scan)

enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4 };
#define ENTRY_PRESENT BIT(63)
#define ENTRY_SWAPPED BIT(62)
#define ENTRY_FILE BIT(61)

/* -ENOTTY or -EINVAL: not by this kernel. */
static int scan(int pagemap, u64 start, u64 end, u64 most, private_run_fn *fn,
                void *ctx)
{
	const u64 origin = start;
	struct scan_region region[REGIONS];

	while (start < end) {
		struct scan arg = {
			.size = sizeof(arg),
			.start = start,
			.end = end,
			.vec = (u64)(uintptr_t)region,
			.vec_len = REGIONS,
			.max_pages = most,
			.inverted = IS_FILE,
			.mask = IS_FILE,
			.any_of = IS_PRESENT | IS_SWAPPED,
			.returned = IS_FILE,
		};
		int n = ioctl(pagemap, PAGEMAP_SCAN_CALL, &arg);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			u64 bytes = region[i].end - region[i].start;
			int rc = fn(ctx, (region[i].start - origin) / PAGE_SIZE,
			            bytes / PAGE_SIZE);

			if (rc)
				return rc;
		}
		if (arg.walk_end <= start)
			return -EIO;
		start = arg.walk_end;
	}
	return 0;
}

static bool is_private(u64 entry)
{
	return entry & (ENTRY_PRESENT | ENTRY_SWAPPED) && !(entry & ENTRY_FILE);
}

static int read_entries(int pagemap, u64 page, u64 pages, private_run_fn *fn,
                        void *ctx)
{
	u64 entry[ENTRIES], from = 0, run = 0;

	for (u64 at = 0; at < pages;) {
		u64 n = MIN(pages - at, (u64)ENTRIES);
		ssize_t got = pread(pagemap, entry, n * sizeof(*entry),
		                    (off_t)((page + at) * sizeof(*entry)));

		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		n = (u64)got / sizeof(*entry);
		for (u64 i = 0; i < n; i++) {
			int rc = 0;

			if (is_private(entry[i]) && run++ == 0)
				from = at + i;
			else if (!is_private(entry[i]) && run) {
				rc = fn(ctx, from, run);
				run = 0;
			}
			if (rc)
				return rc;
		}
		at += n;
	}
	return run ? fn(ctx, from, run) : 0;
}

int private_pages(struct memory_layers *l, const u8 *host, u64 pages, u64 most,
                  private_run_fn *fn, void *ctx)
{
	u64 start = (u64)(uintptr_t)host;
	int rc = -ENOTTY;

	if (l->pagemap < 0)
		return -ENOTSUP;
	if (!l->no_scan)
		rc = scan(l->pagemap, start, start + pages * PAGE_SIZE,
		          MIN(most, pages), fn, ctx);
	if (rc != -ENOTTY && rc != -EINVAL)
		return rc;
	l->no_scan = true;
	return read_entries(l->pagemap, start / PAGE_SIZE, pages, fn, ctx);
}
