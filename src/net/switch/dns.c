/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/dns.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "net/switch/frame.h"
#include "net/vnet.h"

enum { HEADER = 12, LABEL_MAX = 63, QUESTION_END = 4, TTL_S = 5 };
enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_ANY = 255, CLASS_IN = 1 };
enum { NO_ERROR = 0, NOT_IMPLEMENTED = 4, NAME_ERROR = 3, REFUSED = 5 };
enum { QR = 0x8000, OPCODE = 0x7800, AA = 0x0400, RD = 0x0100, RA = 0x0080 };

struct question {
	char name[DNS_NAME_MAX]; /* lower case, with dots, without the last */
	unsigned labels;
	u16 type, class;
	size_t end; /* in the query */
};

/* False: it is cut short, or plays tricks. A dot inside a label is none of a
 * machine's name, so such a name is made one that nobody has. */
static bool read_question(struct question *q, const u8 *query, size_t len)
{
	size_t at = HEADER, used = 0, size;

	while (at < len && query[at]) {
		size = query[at++];
		if (size > LABEL_MAX || at + size > len ||
		    used + size + 2 > sizeof(q->name))
			return false;
		if (used)
			q->name[used++] = '.';
		for (size_t i = 0; i < size; i++) {
			u8 c = query[at + i];

			if (c >= 'A' && c <= 'Z')
				c = (u8)(c - 'A' + 'a');
			if (c <= ' ' || c >= 0x7f || c == '.')
				c = '?';
			q->name[used++] = (char)c;
		}
		q->labels++;
		at += size;
	}
	if (at + 1 + QUESTION_END > len)
		return false;
	q->name[used] = '\0';
	q->type = vnet_be16(query + at + 1);
	q->class = vnet_be16(query + at + 3);
	q->end = at + 1 + QUESTION_END;
	return true;
}

/* Cuts suffix, with the dot before it, off name. */
static bool cut(char *name, const char *suffix)
{
	size_t n = strlen(name), s = strlen(suffix);

	if (n <= s + 1 || name[n - s - 1] != '.' ||
	    strcasecmp(name + n - s, suffix))
		return false;
	name[n - s - 1] = '\0';
	return true;
}

/* "4.3.2.1.in-addr.arpa" */
static bool reverse(const char *name, u32 *ip)
{
	unsigned a, b, c, d;
	int used = 0;

	if (sscanf(name, "%3u.%3u.%3u.%3u.in-addr.arpa%n", &d, &c, &b, &a,
	           &used) != 4 ||
	    !used || name[used] || a > 255 || b > 255 || c > 255 || d > 255)
		return false;
	*ip = a << 24 | b << 16 | c << 8 | d;
	return true;
}

static size_t put_name(u8 *at, const char *name)
{
	u8 *begin = at;
	size_t n;

	while (*name) {
		n = strcspn(name, ".");
		*at++ = (u8)n;
		memcpy(at, name, n);
		at += n;
		name += n + (name[n] == '.');
	}
	*at++ = 0;
	return (size_t)(at - begin);
}

/* The question with its header: what every answer begins with. */
static size_t begin(u8 *out, const u8 *query, const struct question *q,
                    unsigned flags, bool uplink)
{
	u16 asked = vnet_be16(query + 2);

	memset(out, 0, HEADER);
	memcpy(out, query, 2);
	vnet_put_be16(out + 2, QR | (asked & (OPCODE | RD)) |
	                           (uplink ? (unsigned)RA : 0) | flags);
	if (!q)
		return HEADER;
	vnet_put_be16(out + 4, 1);
	memcpy(out + HEADER, query + HEADER, q->end - HEADER);
	return q->end;
}

static size_t add_record(u8 *out, size_t at, u16 type, const u8 *data,
                         size_t size)
{
	vnet_put_be16(out + 6, 1);
	vnet_put_be16(out + at, 0xc000 | HEADER); /* the question's name */
	vnet_put_be16(out + at + 2, type);
	vnet_put_be16(out + at + 4, CLASS_IN);
	put_be32(out + at + 6, TTL_S);
	vnet_put_be16(out + at + 10, (unsigned)size);
	memcpy(out + at + 12, data, size);
	return at + 12 + size;
}

static size_t answer_address(const struct dns_names *names, const u8 *query,
                             const struct question *q, u32 ip, u8 *out)
{
	size_t at = begin(out, query, q, AA | (ip ? NO_ERROR : NAME_ERROR),
	                  names->uplink);
	u8 bytes[4];

	put_be32(bytes, ip);
	if (ip && (q->type == TYPE_A || q->type == TYPE_ANY))
		at = add_record(out, at, TYPE_A, bytes, sizeof(bytes));
	return at;
}

static size_t answer_name(const struct dns_names *names, const u8 *query,
                          const struct question *q, u32 ip, u8 *out)
{
	const char *name = names->name(names->ctx, ip);
	size_t at = begin(out, query, q, AA | (name ? NO_ERROR : NAME_ERROR),
	                  names->uplink);
	char whole[192];
	u8 bytes[200];

	if (!name || (q->type != TYPE_PTR && q->type != TYPE_ANY))
		return at;
	snprintf(whole, sizeof(whole), "%s.%s.internal", name, names->network);
	return add_record(out, at, TYPE_PTR, bytes, put_name(bytes, whole));
}

int dns_answer(const struct dns_names *names, const u8 *query, size_t len,
               u8 *out)
{
	struct question q = { 0 };
	bool ours;
	u32 ip;

	if (len < HEADER || vnet_be16(query + 2) & QR)
		return DNS_DROP;
	if (vnet_be16(query + 2) & OPCODE)
		return (int)begin(out, query, NULL, NOT_IMPLEMENTED,
		                  names->uplink);
	if (vnet_be16(query + 4) != 1 || !read_question(&q, query, len))
		return DNS_DROP;
	/* What is echoed must leave room for a record. */
	if (q.end > DNS_ANSWER_MAX - 12 - 200)
		return names->uplink ? DNS_FORWARD : DNS_DROP;
	if (q.class == CLASS_IN && reverse(q.name, &ip) &&
	    names->holds(names->ctx, ip))
		return (int)answer_name(names, query, &q, ip, out);
	ours = cut(q.name, "internal");
	ours = cut(q.name, names->network) || ours || q.labels == 1;
	/* A machine called like somebody's domain does not take its place. */
	ip = ours && q.class == CLASS_IN ? names->address(names->ctx, q.name)
	                                 : 0;
	if (ours)
		return (int)answer_address(names, query, &q, ip, out);
	if (names->uplink)
		return DNS_FORWARD;
	return (int)begin(out, query, &q, REFUSED, false);
}
