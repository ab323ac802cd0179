/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/state_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/state_file.h"
#include "storage/state_packed.h"

enum {
	PAGE_BYTES = STATE_PAGE_BYTES,
	AT_ONCE = 64, /* pages of plain memory */
};

static const u8 zeroes[PAGE_BYTES];

static u64 sum_of(const u8 *page)
{
	u64 sum;

	if (!memcmp(page, zeroes, PAGE_BYTES))
		return 0;
	sum = XXH64(page, PAGE_BYTES, 0);
	return sum ? sum : 1;
}

/* ---- plain ---- */

/* The next page that is no hole, or the end. */
static u64 skip_hole(const struct state_file *f, u64 base, u64 page, u64 pages)
{
	off_t at = lseek(f->fd, (off_t)(base + page * PAGE_BYTES), SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? pages : page;
	return MAX(page, MIN(((u64)at - base) / PAGE_BYTES, pages));
}

static int read_plain(struct state_pages *p, const struct state_file *f,
                      const struct state_section *s, struct error *err)
{
	u8 *buf = try_alloc(AT_ONCE, PAGE_BYTES);
	int rc = buf ? 0 : -ENOMEM;

	p->count = s->size / PAGE_BYTES;
	p->sum = try_alloc(MAX(p->count, (u64)1), sizeof(*p->sum));
	if (!p->sum)
		rc = -ENOMEM;
	for (u64 page = 0; rc == 0 && page < p->count;) {
		u64 n;

		page = skip_hole(f, s->offset, page, p->count);
		n = MIN((u64)AT_ONCE, p->count - page);
		rc = state_file_pread(f->fd, buf, n * PAGE_BYTES,
		                      s->offset + page * PAGE_BYTES);
		for (u64 i = 0; rc == 0 && i < n; i++)
			p->sum[page + i] = sum_of(buf + i * PAGE_BYTES);
		page += n;
	}
	free(buf);
	if (rc < 0)
		return error_set(err, rc, "cannot read the saved memory: %s",
		                 strerror(-rc));
	return 0;
}

/* ---- packed ---- */

/* Of each contents. */
static int sum_contents(const struct state_packed *packed, u64 *sum)
{
	struct state_room room = { 0 };
	int rc = 0;

	for (u64 i = 0; rc == 0 && i < packed->count; i++) {
		u64 c, end = state_packed_range(packed, i, &c);

		rc = state_packed_read(packed, i, &room);
		for (; rc == 0 && c < end; c++)
			sum[c] = sum_of(state_contents(&room, c));
	}
	state_room_fini(&room);
	return rc;
}

static int read_packed(struct state_pages *p, const struct state_file *f,
                       struct error *err)
{
	struct state_packed packed;
	int rc = state_packed_open(&packed, f, err);
	u64 *sum = NULL;

	if (rc == 0) {
		sum = try_alloc(packed.contents + 1, sizeof(*sum));
		p->count = packed.pages;
		p->sum = try_alloc(p->count + 1, sizeof(*p->sum));
		rc = sum && p->sum ? sum_contents(&packed, sum) : -ENOMEM;
		if (rc < 0)
			state_packed_failed(rc, err);
	}
	for (u64 i = 0; rc == 0 && i < p->count; i++)
		p->sum[i] = packed.map[i] ? sum[packed.map[i] - 1] : 0;
	free(sum);
	state_packed_close(&packed);
	return rc;
}

int state_pages_read(struct state_pages *p, const struct state_file *f,
                     struct error *err)
{
	const struct state_section *plain = state_file_find(f, "plain");
	int rc;

	*p = (struct state_pages){ 0 };
	if (state_file_find(f, "layers"))
		return error_set(err, -ENOTSUP,
		                 "the memory of a fork is in other files");
	rc = plain ? read_plain(p, f, plain, err) : read_packed(p, f, err);
	if (rc < 0)
		state_pages_fini(p);
	return rc;
}

void state_pages_fini(struct state_pages *p)
{
	free(p->sum);
	*p = (struct state_pages){ 0 };
}
