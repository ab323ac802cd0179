/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net/csum.h"
#include "net/vnet.h"

enum { ARP_SIZE = 28, IP4_MIN = 20, IP6_HEADER = 40, UDP_HEADER = 8 };
enum { IP6_HOPS = 0, IP6_ROUTING = 43, IP6_FRAGMENT = 44, IP6_OPTIONS = 60 };
enum { EXTENSIONS_MAX = 8, HOPS = 64 };

static int parse_arp(struct frame *f, const u8 *p, size_t len)
{
	/* RFC 826: Ethernet, IPv4, and the lengths of their addresses. */
	static const u8 kind[] = { 0, 1, 8, 0, 6, 4 };

	if (len < ARP_SIZE || memcmp(p, kind, sizeof(kind)))
		return -EINVAL;
	f->kind = FRAME_ARP;
	f->arp_op = vnet_be16(p + 6);
	f->arp_mac = p + 8;
	f->arp_from = get_be32(p + 14);
	f->arp_target = get_be32(p + 24);
	return 0;
}

static void parse_udp(struct frame *f)
{
	size_t len;

	if (f->protocol != PROTO_UDP || f->payload_len < UDP_HEADER)
		return;
	len = vnet_be16(f->payload + 4);
	if (len < UDP_HEADER || len > f->payload_len)
		return;
	f->from_port = vnet_be16(f->payload);
	f->to_port = vnet_be16(f->payload + 2);
	f->payload += UDP_HEADER;
	f->payload_len = len - UDP_HEADER;
	f->udp = true;
}

static int parse_ip4(struct frame *f, const u8 *p, size_t len)
{
	size_t header, total;

	if (len < IP4_MIN || p[0] >> 4 != 4)
		return -EINVAL;
	header = (size_t)(p[0] & 15) * 4;
	total = vnet_be16(p + 2);
	if (header < IP4_MIN || header > len || total < header || total > len)
		return -EINVAL;
	f->kind = FRAME_IP4;
	f->ip_from = get_be32(p + 12);
	f->ip_to = get_be32(p + 16);
	f->fragment = vnet_be16(p + 6) & 0x1fff;
	f->payload = p + header;
	f->payload_len = total - header;
	f->protocol = f->fragment ? 0 : p[9];
	/* What came in pieces is nobody's of ours: only whole UDP counts. */
	if (!(vnet_be16(p + 6) & 0x3fff))
		parse_udp(f);
	return 0;
}

/* Past the extension headers (RFC 8200 section 4) to what they hide. */
static void find_protocol6(struct frame *f, const u8 *p, size_t len)
{
	size_t at = IP6_HEADER, size;
	u8 next = p[6];

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (next == IP6_FRAGMENT)
			size = 8;
		else if (next == IP6_HOPS || next == IP6_ROUTING ||
		         next == IP6_OPTIONS)
			size = at + 2 <= len ? (size_t)p[at + 1] * 8 + 8 : len;
		else
			break;
		if (at + size > len)
			return;
		if (next == IP6_FRAGMENT)
			f->fragment = true;
		next = p[at];
		at += size;
	}
	f->protocol = next;
	f->payload = p + at;
	f->payload_len = len - at;
}

static int parse_ip6(struct frame *f, const u8 *p, size_t len)
{
	if (len < IP6_HEADER || p[0] >> 4 != 6)
		return -EINVAL;
	f->kind = FRAME_IP6;
	f->ip6_from = p + 8;
	find_protocol6(f, p, len);
	return 0;
}

int frame_parse(struct frame *f, const u8 *data, size_t len)
{
	const u8 *p = data + ETHERNET_HEADER;

	memset(f, 0, sizeof(*f));
	if (len < ETHERNET_HEADER)
		return -EINVAL;
	f->data = data;
	f->len = len;
	f->to = data;
	f->from = data + MAC_SIZE;
	len -= ETHERNET_HEADER;
	switch (vnet_be16(data + 12)) {
	case ETH_ARP:
		return parse_arp(f, p, len);
	case ETH_IP4:
		return parse_ip4(f, p, len);
	case ETH_IP6:
		return parse_ip6(f, p, len);
	case ETH_VLAN:
	case ETH_QINQ:
		f->kind = FRAME_TAGGED;
		return 0;
	default:
		return 0;
	}
}

int mac_parse(const char *text, u8 mac[MAC_SIZE])
{
	unsigned b[MAC_SIZE];
	int used = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2],
	           &b[3], &b[4], &b[5], &used) != MAC_SIZE ||
	    text[used] || b[0] & 1)
		return -EINVAL;
	for (int i = 0; i < MAC_SIZE; i++)
		mac[i] = (u8)b[i];
	return 0;
}

char *mac_format(const u8 mac[MAC_SIZE], char *text)
{
	sprintf(text, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
	        mac[3], mac[4], mac[5]);
	return text;
}

int ip4_parse(const char *text, u32 *ip)
{
	struct in_addr a;

	if (inet_pton(AF_INET, text, &a) != 1)
		return -EINVAL;
	*ip = ntohl(a.s_addr);
	return 0;
}

char *ip4_format(u32 ip, char *text)
{
	sprintf(text, "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255,
	        ip & 255);
	return text;
}

size_t frame_make_udp(u8 *frame, const struct udp_head *head, size_t payload)
{
	u8 *ip = frame + ETHERNET_HEADER, *udp = ip + IP4_MIN;
	size_t udp_len = UDP_HEADER + payload;
	u8 pseudo[4] = { 0, PROTO_UDP, (u8)(udp_len >> 8), (u8)udp_len };
	u16 sum;

	memcpy(frame, head->to, MAC_SIZE);
	memcpy(frame + MAC_SIZE, head->from, MAC_SIZE);
	vnet_put_be16(frame + 12, ETH_IP4);
	memset(ip, 0, IP4_MIN);
	ip[0] = 0x45;
	vnet_put_be16(ip + 2, (unsigned)(IP4_MIN + udp_len));
	ip[8] = HOPS;
	ip[9] = PROTO_UDP;
	put_be32(ip + 12, head->ip_from);
	put_be32(ip + 16, head->ip_to);
	sum = csum_fold(csum_add(0, ip, IP4_MIN));
	memcpy(ip + 10, &sum, 2);
	vnet_put_be16(udp, head->from_port);
	vnet_put_be16(udp + 2, head->to_port);
	vnet_put_be16(udp + 4, (unsigned)udp_len);
	memset(udp + 6, 0, 2);
	sum = csum_fold(csum_add(csum_add(csum_add(0, ip + 12, 8), pseudo, 4),
	                         udp, udp_len));
	if (sum == 0)
		sum = 0xffff; /* RFC 768: zero means that there is none */
	memcpy(udp + 6, &sum, 2);
	return UDP_HEADERS + payload;
}
