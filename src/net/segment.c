/* SPDX-License-Identifier: Apache-2.0 */
#include "net/segment.h"

#include <errno.h>
#include <string.h>

#include "net/csum.h"
#include "net/vnet.h"

enum {
	ETH_HEADER = 14,
	ETH_IPV4 = 0x0800,
	ETH_IPV6 = 0x86dd,
	ETH_VLAN = 0x8100,
	ETH_QINQ = 0x88a8
};
enum { IPV4_MIN = 20, IPV6_HEADER = 40, TCP_MIN = 20, PROTO_TCP = 6 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

static u32 be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static void put_be32(u8 *p, u32 v)
{
	vnet_put_be16(p, v >> 16);
	vnet_put_be16(p + 2, v & 0xffff);
}

/* Where the network header starts, past at most two VLAN tags. */
static size_t find_ip(const u8 *frame, size_t len, u16 *type)
{
	size_t at = ETH_HEADER;

	if (len < ETH_HEADER)
		return 0;
	*type = vnet_be16(frame + at - 2);
	for (int tags = 0; tags < 2; tags++) {
		if (*type != ETH_VLAN && *type != ETH_QINQ)
			break;
		at += 4;
		if (at > len)
			return 0;
		*type = vnet_be16(frame + at - 2);
	}
	return at;
}

static int check_ip(const struct segmenter *s, u16 type)
{
	const u8 *ip = s->frame + s->ip;
	size_t room = s->end - s->ip, header;

	if (s->ipv6) {
		/* Extension headers may lie before csum_start: kept as is. */
		if (type != ETH_IPV6 || room < IPV6_HEADER || ip[0] >> 4 != 6)
			return -EINVAL;
		header = IPV6_HEADER;
		return s->tcp >= s->ip + header ? 0 : -EINVAL;
	}
	if (type != ETH_IPV4 || room < IPV4_MIN || ip[0] >> 4 != 4)
		return -EINVAL;
	header = (size_t)(ip[0] & 15) * 4;
	if (header < IPV4_MIN || ip[9] != PROTO_TCP)
		return -EINVAL;
	/* A fragment has no TCP header to repeat. */
	if (vnet_be16(ip + 6) & 0x3fff)
		return -EINVAL;
	return s->tcp == s->ip + header ? 0 : -EINVAL;
}

int segment_begin(struct segmenter *s, const struct vnet_header *h,
                  const u8 *frame, size_t len)
{
	unsigned kind = h->gso_type & ~(unsigned)VNET_GSO_ECN;
	u16 type = 0;
	const u8 *tcp;

	memset(s, 0, sizeof(*s));
	if (kind != VNET_GSO_TCP4 && kind != VNET_GSO_TCP6)
		return -EINVAL;
	if (!(h->flags & VNET_NEEDS_CSUM) || h->csum_offset != 16)
		return -EINVAL;
	s->frame = frame;
	s->end = len;
	s->ipv6 = kind == VNET_GSO_TCP6;
	s->ip = find_ip(frame, len, &type);
	s->tcp = h->csum_start;
	s->size = h->gso_size;
	s->first = true;
	if (!s->ip || !s->size || s->tcp + TCP_MIN > len)
		return -EINVAL;
	if (check_ip(s, type) < 0)
		return -EINVAL;
	tcp = frame + s->tcp;
	s->payload = s->tcp + (size_t)(tcp[12] >> 4) * 4;
	if (s->payload < s->tcp + TCP_MIN || s->payload >= len ||
	    s->payload > SEGMENT_HEADERS_MAX)
		return -EINVAL;
	s->at = s->payload;
	s->sequence = be32(tcp + 4);
	s->id = s->ipv6 ? 0 : vnet_be16(frame + s->ip + 4);
	return 0;
}

static void finish_ip(const struct segmenter *s, u8 *out, size_t len, u16 id)
{
	u8 *ip = out + s->ip;
	u16 sum;

	if (s->ipv6) {
		vnet_put_be16(ip + 4, (unsigned)(len - s->ip - IPV6_HEADER));
		return;
	}
	vnet_put_be16(ip + 2, (unsigned)(len - s->ip));
	vnet_put_be16(ip + 4, id);
	memset(ip + 10, 0, 2);
	sum = csum_fold(csum_add(0, ip, s->tcp - s->ip));
	memcpy(ip + 10, &sum, 2);
}

/* RFC 9293 section 3.1; RFC 8200 section 8.1. */
static void finish_tcp(const struct segmenter *s, u8 *out, size_t len)
{
	size_t tcp_len = len - s->tcp;
	const u8 *ip = out + s->ip;
	u8 tail[4] = { 0, PROTO_TCP, (u8)(tcp_len >> 8), (u8)tcp_len };
	u64 sum;
	u16 folded;

	memset(out + s->tcp + 16, 0, 2);
	sum = s->ipv6 ? csum_add(0, ip + 8, 32) : csum_add(0, ip + 12, 8);
	sum = csum_add(sum, tail, sizeof(tail));
	sum = csum_add(sum, out + s->tcp, tcp_len);
	folded = csum_fold(sum);
	memcpy(out + s->tcp + 16, &folded, 2);
}

ssize_t segment_next(struct segmenter *s, u8 *out, size_t room)
{
	size_t n = MIN((size_t)s->size, s->end - s->at), len = s->payload + n;
	bool last = s->at + n == s->end, first = s->first;
	u32 sequence = s->sequence;
	u8 *flags = out + s->tcp + 13;
	u16 id = s->id;

	if (n == 0)
		return 0;
	s->at += n;
	s->sequence += (u32)n;
	s->id++;
	s->first = false;
	if (len > room || len - s->ip > 65535)
		return -EMSGSIZE;
	memcpy(out, s->frame, s->payload);
	memcpy(out + s->payload, s->frame + s->at - n, n);
	put_be32(out + s->tcp + 4, sequence);
	/* FIN and PSH belong to the last byte, CWR to the first segment
	 * (RFC 3168, 6.1.2). */
	if (!last)
		*flags &= (u8) ~(TCP_FIN | TCP_PSH);
	if (!first)
		*flags &= (u8)~TCP_CWR;
	finish_ip(s, out, len, id);
	finish_tcp(s, out, len);
	return (ssize_t)len;
}
