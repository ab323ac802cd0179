/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunks - a body whose length was not said (RFC 9112 section 7.1): pieces,
 * each with its size before it, and one of no size at the end. Extensions and
 * trailers are read over. Lines end in CRLF and in nothing else: what somebody
 * before us ends otherwise would be another body to him.
 */
#include "daemon/http/internal.h"

enum { DIGITS_MAX = 8, LINES_MAX = 4096 };

enum {
	SIZE, /* digits */
	EXTENSION,
	SIZE_LF,
	DATA,
	DATA_CR,
	DATA_LF,
	TRAILER, /* where a line begins */
	TRAILER_LINE,
	TRAILER_LF,
	LAST_LF,
};

static int digit(u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum chunks_end take_size(struct chunks *c, u8 byte)
{
	int n = digit(byte);

	if (n >= 0 && c->digits++ < DIGITS_MAX)
		c->left = c->left << 4 | (u64)n;
	else if (n >= 0 || c->digits == 0)
		return CHUNKS_BAD;
	else if (byte == '\r')
		c->state = SIZE_LF;
	else if (byte == ';' || byte == ' ' || byte == '\t')
		c->state = EXTENSION;
	else
		return CHUNKS_BAD;
	return CHUNKS_MORE;
}

static enum chunks_end expect(struct chunks *c, u8 byte, u8 wanted, int next)
{
	c->state = next;
	return byte == wanted ? CHUNKS_MORE : CHUNKS_BAD;
}

/* To the end of what is read over, which has its bounds. */
static enum chunks_end skip(struct chunks *c, u8 byte, int next)
{
	if (byte == '\r')
		c->state = next;
	return byte == '\n' || ++c->skipped > LINES_MAX ? CHUNKS_BAD
	                                                : CHUNKS_MORE;
}

static enum chunks_end take_byte(struct chunks *c, u8 byte)
{
	switch (c->state) {
	case SIZE:
		return take_size(c, byte);
	case EXTENSION:
		return skip(c, byte, SIZE_LF);
	case SIZE_LF:
		return expect(c, byte, '\n', c->left ? DATA : TRAILER);
	case DATA_CR:
		return expect(c, byte, '\r', DATA_LF);
	case DATA_LF:
		c->digits = 0;
		return expect(c, byte, '\n', SIZE);
	case TRAILER:
		c->state = TRAILER_LINE;
		return skip(c, byte, LAST_LF);
	case TRAILER_LINE:
		return skip(c, byte, TRAILER_LF);
	case TRAILER_LF:
		return expect(c, byte, '\n', TRAILER);
	default: /* LAST_LF */
		return byte == '\n' ? CHUNKS_END : CHUNKS_BAD;
	}
}

enum chunks_end chunks_take(struct chunks *c, const u8 *data, size_t size,
                            chunks_fn *fn, void *ctx)
{
	enum chunks_end end = CHUNKS_MORE;
	size_t n;

	for (size_t at = 0; at < size && end == CHUNKS_MORE; at += n) {
		n = 1;
		if (c->state != DATA) {
			end = take_byte(c, data[at]);
			continue;
		}
		n = MIN(size - at, c->left);
		fn(ctx, data + at, n);
		c->left -= n;
		if (c->left == 0)
			c->state = DATA_CR;
	}
	return end;
}
