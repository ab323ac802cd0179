/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_filter.h - which frames a card hands to its guest, and on which queue
 * (virtio 1.2 sections 5.1.6.5.1 to 5.1.6.5.6).
 */
#pragma once

#include "base/types.h"

enum {
	NET_MACS_MAX = 64, /* of each kind; more counts as "all of them" */
	NET_FLOWS = 256,
	NET_HEADERS = 96, /* enough of a frame for all that is looked at */
};

struct net_filter {
	u8 enabled; /* 0: everything passes */
	u8 promisc, all_multi, all_uni, no_multi, no_uni, no_broadcast;
	u8 vlan_filter;
	u8 own[6];
	u8 uni_count, multi_count;
	u8 uni_overflow, multi_overflow;
	u8 uni[NET_MACS_MAX * 6];
	u8 multi[NET_MACS_MAX * 6];
	u8 vlans[4096 / 8];
	u8 flow[NET_FLOWS]; /* queue pair that last sent on this flow */
};

void net_filter_reset(struct net_filter *f, const u8 mac[6]);

/* frame: its first len bytes, Ethernet header first. */
bool net_filter_pass(const struct net_filter *f, const u8 *frame, size_t len);

/* VIRTIO_NET_CTRL_RX: one of the six switches. false: no such command. */
bool net_filter_mode(struct net_filter *f, u8 command, bool on);
/* VIRTIO_NET_CTRL_MAC_TABLE_SET, body of len bytes. false: malformed. */
bool net_filter_table(struct net_filter *f, const u8 *body, size_t len);
/* false: no such VLAN. */
bool net_filter_vlan(struct net_filter *f, unsigned id, bool on);

/* The flow that a frame belongs to, the same both ways: below NET_FLOWS. */
unsigned net_flow(const u8 *frame, size_t len);
