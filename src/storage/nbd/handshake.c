/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handshake - what a client wants, before it asks for data.
 *
 * Options come one at a time; each is read whole (up to a bound), checked and
 * answered. NBD_OPT_GO or the old NBD_OPT_EXPORT_NAME lead on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd/protocol.h"

/* A client that only asks questions is told to go at some point. */
enum { OPTIONS_MAX = 1000, QUERIES_MAX = 64 };

static const char context_name[] = "base:allocation";
enum { CONTEXT_ID = 1 };

int nbd_skip(struct nbd_session *s, u64 size)
{
	u8 nothing[4096];
	int rc = 0;

	while (size > 0 && rc == 0) {
		size_t n = MIN(size, sizeof(nothing));

		rc = nbd_read(s, nothing, n);
		size -= n;
	}
	return rc;
}

static int reply(struct nbd_session *s, u32 option, u32 type, const void *data,
                 u32 length)
{
	u8 head[20];
	int rc;

	nbd_put(head, 8, NBD_REPLY_MAGIC);
	nbd_put(head + 8, 4, option);
	nbd_put(head + 12, 4, type);
	nbd_put(head + 16, 4, length);
	rc = nbd_write(s, head, sizeof(head));
	return rc == 0 && length ? nbd_write(s, data, length) : rc;
}

static int refuse(struct nbd_session *s, u32 option, u32 type,
                  const char *words)
{
	return reply(s, option, type, words, (u32)strlen(words));
}

static u16 transmission_flags(const struct nbd_session *s)
{
	return NBD_HAS_FLAGS | NBD_READ_ONLY | NBD_SEND_FLUSH | NBD_MULTI_CONN |
	       NBD_SEND_CACHE | (s->structured ? NBD_SEND_DF : 0);
}

static bool is_ours(const struct nbd_session *s, const u8 *name, size_t length)
{
	const char *ours = s->export->name ? s->export->name : "";

	return length == 0 ||
	       (length == strlen(ours) && memcmp(name, ours, length) == 0);
}

static int list(struct nbd_session *s)
{
	const char *name = s->export->name ? s->export->name : "";
	const char *words = s->export->description;
	size_t n = strlen(name), d = words ? strlen(words) : 0;
	u8 *data = malloc(4 + n + d);
	int rc;

	if (!data)
		return -ENOMEM;
	nbd_put(data, 4, n);
	memcpy(data + 4, name, n);
	if (d)
		memcpy(data + 4 + n, words, d);
	rc = reply(s, NBD_OPT_LIST, NBD_REP_SERVER, data, (u32)(4 + n + d));
	free(data);
	return rc == 0 ? reply(s, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0) : rc;
}

/* u32 length of the name, the name, u16 count, count * u16 */
static bool info_valid(const u8 *data, u32 length, u32 *name)
{
	if (length < 6)
		return false;
	*name = (u32)nbd_get(data, 4);
	if (*name > NBD_NAME_MAX || *name > length - 6)
		return false;
	return nbd_get(data + 4 + *name, 2) * 2 == length - 6 - *name;
}

static int info(struct nbd_session *s, u32 option, const u8 *data, u32 length)
{
	struct block_info disk;
	u8 export[12], sizes[14];
	u32 name;
	int rc;

	if (!info_valid(data, length, &name))
		return refuse(s, option, NBD_REP_ERR_INVALID,
		              "lengths that do not add up");
	if (!is_ours(s, data + 4, name))
		return refuse(s, option, NBD_REP_ERR_UNKNOWN,
		              "there is no export of that name");
	block_info(s->export->block, &disk);
	nbd_put(export, 2, NBD_INFO_EXPORT);
	nbd_put(export + 2, 8, s->size);
	nbd_put(export + 10, 2, transmission_flags(s));
	nbd_put(sizes, 2, NBD_INFO_BLOCK_SIZE);
	nbd_put(sizes + 2, 4, 1);
	nbd_put(sizes + 6, 4, MAX(disk.cluster, 4096u));
	nbd_put(sizes + 10, 4, NBD_PAYLOAD_MAX);
	rc = reply(s, option, NBD_REP_INFO, export, sizeof(export));
	if (rc == 0)
		rc = reply(s, option, NBD_REP_INFO, sizes, sizeof(sizes));
	if (rc == 0)
		rc = reply(s, option, NBD_REP_ACK, NULL, 0);
	return rc == 0 && option == NBD_OPT_GO ? 1 : rc;
}

/* Whether a query asks for our context; the namespace alone lists it. */
static bool query_matches(const u8 *query, u32 length, bool listing)
{
	u32 n = (u32)strlen(context_name);

	if (length == n && memcmp(query, context_name, n) == 0)
		return true;
	return listing && length == 5 && memcmp(query, "base:", 5) == 0;
}

/* name as above, u32 count, then u32 length and the query each. */
static int parse_queries(struct nbd_session *s, const u8 *data, u32 length,
                         bool listing, bool *known, bool *match)
{
	u32 at, name, count;

	if (length < 8)
		return -EINVAL;
	name = (u32)nbd_get(data, 4);
	if (name > NBD_NAME_MAX || name > length - 8)
		return -EINVAL;
	*known = is_ours(s, data + 4, name);
	at = 4 + name;
	count = (u32)nbd_get(data + at, 4);
	at += 4;
	*match = listing && count == 0;
	for (u32 i = 0; i < count; i++) {
		u32 n;

		if (i == QUERIES_MAX || length - at < 4)
			return -EINVAL;
		n = (u32)nbd_get(data + at, 4);
		at += 4;
		if (n > length - at)
			return -EINVAL;
		*match |= query_matches(data + at, n, listing);
		at += n;
	}
	return at == length ? 0 : -EINVAL;
}

static int meta(struct nbd_session *s, u32 option, const u8 *data, u32 length)
{
	u8 context[4 + sizeof(context_name)];
	u32 n = (u32)strlen(context_name);
	bool known, match, setting = option == NBD_OPT_SET_META;
	int rc;

	if (setting)
		s->allocation = false;
	if (!s->structured ||
	    parse_queries(s, data, length, !setting, &known, &match) < 0)
		return refuse(s, option, NBD_REP_ERR_INVALID,
		              s->structured ? "lengths that do not add up"
		                            : "structured replies come first");
	if (!known)
		return refuse(s, option, NBD_REP_ERR_UNKNOWN,
		              "there is no export of that name");
	nbd_put(context, 4, setting ? CONTEXT_ID : 0);
	memcpy(context + 4, context_name, n);
	rc = match ? reply(s, option, NBD_REP_META, context, 4 + n) : 0;
	if (setting)
		s->allocation = match;
	return rc == 0 ? reply(s, option, NBD_REP_ACK, NULL, 0) : rc;
}

/* The old way: no answer but the disk itself, or the connection ends. */
static int export_name(struct nbd_session *s, const u8 *data, u32 length)
{
	u8 answer[8 + 2 + 124] = { 0 };
	int rc;

	if (!is_ours(s, data, length))
		return -ENOENT;
	nbd_put(answer, 8, s->size);
	nbd_put(answer + 8, 2, transmission_flags(s));
	rc = nbd_write(s, answer, s->no_zeroes ? 10 : sizeof(answer));
	return rc == 0 ? 1 : rc;
}

/* 0: next; 1: to the transmission; 2: the client leaves. */
static int one_option(struct nbd_session *s, u32 option, const u8 *data,
                      u32 length)
{
	int rc;

	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		return export_name(s, data, length);
	case NBD_OPT_ABORT:
		rc = reply(s, option, NBD_REP_ACK, NULL, 0);
		return rc == 0 ? 2 : rc;
	case NBD_OPT_LIST:
		return length ? refuse(s, option, NBD_REP_ERR_INVALID,
		                       "a list takes no data")
		              : list(s);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return info(s, option, data, length);
	case NBD_OPT_STRUCTURED:
		if (length)
			return refuse(s, option, NBD_REP_ERR_INVALID,
			              "no data belongs here");
		s->structured = true;
		return reply(s, option, NBD_REP_ACK, NULL, 0);
	case NBD_OPT_LIST_META:
	case NBD_OPT_SET_META:
		return meta(s, option, data, length);
	default:
		return refuse(s, option, NBD_REP_ERR_UNSUP,
		              "this server has no such option");
	}
}

static int next_option(struct nbd_session *s)
{
	u8 head[16];
	u32 option, length;
	int rc = nbd_read(s, head, sizeof(head));

	if (rc < 0)
		return rc;
	if (nbd_get(head, 8) != NBD_OPTION_MAGIC)
		return -EPROTO;
	option = (u32)nbd_get(head + 8, 4);
	length = (u32)nbd_get(head + 12, 4);
	if (length > NBD_PAYLOAD_MAX ||
	    (length > NBD_OPTION_MAX && option == NBD_OPT_EXPORT_NAME))
		return -EPROTO;
	if (length > NBD_OPTION_MAX) {
		rc = nbd_skip(s, length);
		return rc == 0 ? refuse(s, option, NBD_REP_ERR_TOO_BIG,
		                        "too much data")
		               : rc;
	}
	rc = nbd_read(s, s->buf, length);
	return rc == 0 ? one_option(s, option, s->buf, length) : rc;
}

int nbd_handshake(struct nbd_session *s)
{
	u8 hello[18], flags[4];
	int rc;

	nbd_put(hello, 8, NBD_MAGIC);
	nbd_put(hello + 8, 8, NBD_OPTION_MAGIC);
	nbd_put(hello + 16, 2, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
	rc = nbd_write(s, hello, sizeof(hello));
	if (rc == 0)
		rc = nbd_read(s, flags, sizeof(flags));
	if (rc < 0)
		return rc;
	if (nbd_get(flags, 4) & ~(u64)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
		return -EPROTO;
	s->no_zeroes = nbd_get(flags, 4) & NBD_NO_ZEROES;
	for (int i = 0; i < OPTIONS_MAX; i++) {
		rc = next_option(s);
		if (rc != 0)
			return rc == 1 ? 0 : rc == 2 ? 1 : rc;
	}
	return -EPROTO;
}
