/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/virtio/net_filter.h"

#include <string.h>

enum {
	ETHERTYPE_IP4 = 0x0800,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IP6 = 0x86dd,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
};

static u16 be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

void net_filter_reset(struct net_filter *f, const u8 mac[6])
{
	memset(f, 0, sizeof(*f));
	memcpy(f->own, mac, 6);
}

static bool in_table(const u8 *table, unsigned count, const u8 mac[6])
{
	for (unsigned i = 0; i < count; i++)
		if (!memcmp(table + i * 6, mac, 6))
			return true;
	return false;
}

static bool vlan_pass(const struct net_filter *f, const u8 *frame, size_t len)
{
	unsigned id;

	if (!f->vlan_filter || len < 16 || be16(frame + 12) != ETHERTYPE_VLAN)
		return true;
	id = be16(frame + 14) & 0xfff;
	return f->vlans[id / 8] >> (id % 8) & 1;
}

bool net_filter_pass(const struct net_filter *f, const u8 *frame, size_t len)
{
	static const u8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (len < 14)
		return false;
	if (!f->enabled)
		return true;
	if (!vlan_pass(f, frame, len))
		return false;
	if (f->promisc)
		return true;
	if (!memcmp(frame, broadcast, 6))
		return !f->no_broadcast;
	if (frame[0] & 1)
		return !f->no_multi &&
		       (f->all_multi || f->multi_overflow ||
		        in_table(f->multi, f->multi_count, frame));
	if (f->no_uni)
		return false;
	return f->all_uni || f->uni_overflow || !memcmp(frame, f->own, 6) ||
	       in_table(f->uni, f->uni_count, frame);
}

bool net_filter_mode(struct net_filter *f, u8 command, bool on)
{
	u8 *const modes[] = { &f->promisc,  &f->all_multi, &f->all_uni,
		              &f->no_multi, &f->no_uni,    &f->no_broadcast };

	if (command >= ARRAY_SIZE(modes))
		return false;
	*modes[command] = on;
	return true;
}

/* One list: a count, then addresses. Bytes eaten; 0 if it is cut short. */
static size_t read_list(const u8 *body, size_t len, const u8 **macs, u32 *count)
{
	if (len < 4)
		return 0;
	memcpy(count, body, 4);
	if (*count > (len - 4) / 6)
		return 0;
	*macs = body + 4;
	return 4 + (size_t)*count * 6;
}

bool net_filter_table(struct net_filter *f, const u8 *body, size_t len)
{
	const u8 *uni, *multi;
	u32 unis, multis;
	size_t n = read_list(body, len, &uni, &unis);

	if (!n || !read_list(body + n, len - n, &multi, &multis))
		return false;
	f->uni_overflow = unis > NET_MACS_MAX;
	f->multi_overflow = multis > NET_MACS_MAX;
	f->uni_count = f->uni_overflow ? 0 : (u8)unis;
	f->multi_count = f->multi_overflow ? 0 : (u8)multis;
	memcpy(f->uni, uni, f->uni_count * 6u);
	memcpy(f->multi, multi, f->multi_count * 6u);
	return true;
}

bool net_filter_vlan(struct net_filter *f, unsigned id, bool on)
{
	u8 bit = (u8)(1 << (id % 8));

	if (id >= 4096)
		return false;
	f->vlans[id / 8] =
	    (u8)(on ? f->vlans[id / 8] | bit : f->vlans[id / 8] & ~bit);
	return true;
}

/* XOR of both ends, so that either direction gives the same. */
static u32 ends(const u8 *p, size_t size)
{
	u32 sum = 0;

	for (size_t i = 0; i < size; i++)
		sum ^= (u32)(p[i] ^ p[size + i]) << (i % 4 * 8);
	return sum;
}

unsigned net_flow(const u8 *frame, size_t len)
{
	size_t at = 12, ports = 0;
	u32 hash = 0;
	u16 type;

	if (len < 18)
		return 0;
	type = be16(frame + at);
	if (type == ETHERTYPE_VLAN) {
		at += 4;
		type = be16(frame + at);
	}
	at += 2;
	if (type == ETHERTYPE_IP4 && len >= at + 20) {
		bool fragment = be16(frame + at + 6) & 0x3fff;
		u8 protocol = frame[at + 9];

		hash = ends(frame + at + 12, 4);
		if (!fragment &&
		    (protocol == PROTO_TCP || protocol == PROTO_UDP))
			ports = at + (frame[at] & 0xfu) * 4;
	} else if (type == ETHERTYPE_IP6 && len >= at + 40) {
		u8 protocol = frame[at + 6];

		hash = ends(frame + at + 8, 16);
		if (protocol == PROTO_TCP || protocol == PROTO_UDP)
			ports = at + 40;
	}
	if (ports && len >= ports + 4)
		hash ^= ends(frame + ports, 2) * 0x10001;
	hash *= 0x9e3779b1u;
	return hash >> 24;
}
