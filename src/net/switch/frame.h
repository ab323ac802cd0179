/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - what is in an Ethernet frame, as far as a switch looks.
 *
 * Everything is a guest's: frame_parse() finds where things are and checks
 * that they are there; who looks further stays inside those bounds.
 */
#pragma once

#include "base/types.h"

enum { MAC_SIZE = 6, IP6_SIZE = 16, ETHERNET_HEADER = 14 };
enum { ETH_IP4 = 0x0800, ETH_ARP = 0x0806, ETH_IP6 = 0x86dd };
enum { ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8 };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMP6 = 58 };
enum { ARP_REQUEST = 1, ARP_REPLY = 2 };

enum frame_kind { FRAME_OTHER, FRAME_ARP, FRAME_IP4, FRAME_IP6, FRAME_TAGGED };

struct frame {
	const u8 *data; /* the Ethernet header */
	size_t len;
	const u8 *to, *from; /* addresses of cards */
	enum frame_kind kind;

	/* FRAME_ARP */
	u16 arp_op;
	const u8 *arp_mac;        /* of its sender */
	u32 arp_from, arp_target; /* IPv4 addresses are in host order */

	/* FRAME_IP4 */
	u32 ip_from, ip_to;
	bool fragment; /* one that does not hold the transport's header */

	/* FRAME_IP6 */
	const u8 *ip6_from;

	/* Both: 0 when what follows is hidden or cut short. */
	u8 protocol;
	const u8 *payload; /* of the IP packet, or of UDP */
	size_t payload_len;

	bool udp; /* whole: the ports are true, payload is what it carries */
	u16 from_port, to_port;
};

/* 0, or -EINVAL: a packet of a kind that we look into is malformed. */
int frame_parse(struct frame *f, const u8 *data, size_t len) MUST_CHECK;

static inline bool mac_group(const u8 *mac)
{
	return mac[0] & 1;
}

static inline u32 get_be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

static inline void put_be32(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 24);
	p[1] = (u8)(v >> 16);
	p[2] = (u8)(v >> 8);
	p[3] = (u8)v;
}

/* "52:54:00:12:34:56": of one card. 0 or -EINVAL. */
int mac_parse(const char *text, u8 mac[MAC_SIZE]) MUST_CHECK;
/* Into at least 18 bytes. */
char *mac_format(const u8 mac[MAC_SIZE], char *text);
int ip4_parse(const char *text, u32 *ip) MUST_CHECK;
/* Into at least 16 bytes. */
char *ip4_format(u32 ip, char *text);

/*
 * A UDP packet in an Ethernet frame, with its checksums; payload is at
 * frame + UDP_HEADERS already. The frame's length.
 */
enum { UDP_HEADERS = ETHERNET_HEADER + 20 + 8 };
struct udp_head {
	const u8 *to, *from; /* addresses of cards */
	u32 ip_to, ip_from;
	u16 to_port, from_port;
};
size_t frame_make_udp(u8 *frame, const struct udp_head *head, size_t payload);
