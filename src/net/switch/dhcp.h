/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dhcp.h - the messages of RFC 2131 that give a machine its address.
 */
#pragma once

#include "net/switch/frame.h"

enum {
	DHCP_DISCOVER = 1,
	DHCP_OFFER,
	DHCP_REQUEST,
	DHCP_DECLINE,
	DHCP_ACK,
	DHCP_NAK,
	DHCP_RELEASE,
	DHCP_INFORM,
};
enum { DHCP_SERVER_PORT = 67, DHCP_CLIENT_PORT = 68, DHCP_REPLY_MAX = 576 };

struct dhcp_message {
	u8 type;
	u8 mac[MAC_SIZE];
	u8 id[4];
	bool broadcast; /* it can't be reached by its new address yet */
	u32 client, yours, requested, server; /* 0: absent */
};

/* 0, or -EINVAL. reply: of a server, to be looked into on its way. */
int dhcp_parse(struct dhcp_message *m, const u8 *data, size_t len, bool reply);

struct dhcp_answer {
	u8 type;
	u32 yours, server, mask;
	u32 router, resolver; /* 0: none */
	u16 mtu;
	u32 lease_s; /* 0: not said */
	const char *host, *domain;
};

/* Into at least DHCP_REPLY_MAX bytes. Its size. */
size_t dhcp_write(u8 *out, const struct dhcp_message *to,
                  const struct dhcp_answer *a);
