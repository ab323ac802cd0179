/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/dhcp.h"

#include <errno.h>
#include <string.h>

#include "net/vnet.h"

/* RFC 951 and RFC 2131 section 2. */
enum { OP, KIND, ADDRESS_SIZE, ID = 4, FLAGS = 10, CLIENT = 12, YOURS = 16 };
enum { RELAY = 24, CARD = 28, COOKIE = 236, OPTIONS = 240, REPLY_LEAST = 300 };
enum { BROADCAST = 0x8000 };
enum { /* RFC 2132 */
       OPT_PAD = 0,
       OPT_MASK = 1,
       OPT_ROUTER = 3,
       OPT_RESOLVER = 6,
       OPT_HOST = 12,
       OPT_DOMAIN = 15,
       OPT_MTU = 26,
       OPT_BROADCAST = 28,
       OPT_REQUESTED = 50,
       OPT_LEASE = 51,
       OPT_TYPE = 53,
       OPT_SERVER = 54,
       OPT_END = 255,
};

static const u8 cookie[] = { 99, 130, 83, 99 };

static void take_option(struct dhcp_message *m, u8 code, const u8 *p, u8 size)
{
	if (code == OPT_TYPE && size == 1)
		m->type = p[0];
	else if (code == OPT_REQUESTED && size == 4)
		m->requested = get_be32(p);
	else if (code == OPT_SERVER && size == 4)
		m->server = get_be32(p);
}

int dhcp_parse(struct dhcp_message *m, const u8 *data, size_t len, bool reply)
{
	size_t at = OPTIONS;

	memset(m, 0, sizeof(*m));
	if (len < OPTIONS || data[OP] != (reply ? 2 : 1) || data[KIND] != 1 ||
	    data[ADDRESS_SIZE] != MAC_SIZE || get_be32(data + RELAY) ||
	    memcmp(data + COOKIE, cookie, sizeof(cookie)))
		return -EINVAL;
	memcpy(m->mac, data + CARD, MAC_SIZE);
	memcpy(m->id, data + ID, sizeof(m->id));
	m->broadcast = vnet_be16(data + FLAGS) & BROADCAST;
	m->client = get_be32(data + CLIENT);
	m->yours = get_be32(data + YOURS);
	while (at < len && data[at] != OPT_END) {
		if (data[at] == OPT_PAD) {
			at++;
			continue;
		}
		if (at + 2 > len || at + 2 + data[at + 1] > len)
			return -EINVAL;
		take_option(m, data[at], data + at + 2, data[at + 1]);
		at += 2 + (size_t)data[at + 1];
	}
	return m->type ? 0 : -EINVAL;
}

static u8 *put(u8 *at, u8 code, const void *data, size_t size)
{
	*at++ = code;
	*at++ = (u8)size;
	memcpy(at, data, size);
	return at + size;
}

static u8 *put_address(u8 *at, u8 code, u32 ip)
{
	u8 bytes[4];

	put_be32(bytes, ip);
	return put(at, code, bytes, sizeof(bytes));
}

static u8 *put_lease(u8 *at, const struct dhcp_answer *a)
{
	u8 mtu[2] = { (u8)(a->mtu >> 8), (u8)a->mtu };

	if (a->lease_s)
		at = put_address(at, OPT_LEASE, a->lease_s);
	at = put_address(at, OPT_MASK, a->mask);
	if (a->router)
		at = put_address(at, OPT_ROUTER, a->router);
	if (a->resolver)
		at = put_address(at, OPT_RESOLVER, a->resolver);
	if (a->host && a->host[0])
		at = put(at, OPT_HOST, a->host, MIN(strlen(a->host), 63));
	at = put(at, OPT_DOMAIN, a->domain, MIN(strlen(a->domain), 100));
	at = put(at, OPT_MTU, mtu, sizeof(mtu));
	return put_address(at, OPT_BROADCAST, a->server | ~a->mask);
}

size_t dhcp_write(u8 *out, const struct dhcp_message *to,
                  const struct dhcp_answer *a)
{
	u8 *at = out + OPTIONS;

	memset(out, 0, DHCP_REPLY_MAX);
	out[OP] = 2;
	out[KIND] = 1;
	out[ADDRESS_SIZE] = MAC_SIZE;
	memcpy(out + ID, to->id, sizeof(to->id));
	if (to->broadcast)
		vnet_put_be16(out + FLAGS, BROADCAST);
	if (a->type != DHCP_NAK) {
		put_be32(out + CLIENT, to->client);
		put_be32(out + YOURS, a->yours);
	}
	memcpy(out + CARD, to->mac, MAC_SIZE);
	memcpy(out + COOKIE, cookie, sizeof(cookie));
	at = put(at, OPT_TYPE, &a->type, 1);
	at = put_address(at, OPT_SERVER, a->server);
	if (a->type != DHCP_NAK)
		at = put_lease(at, a);
	*at++ = OPT_END;
	return (size_t)MAX(at - out, (ptrdiff_t)REPLY_LEAST);
}
