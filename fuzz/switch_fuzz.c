/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's frames, and its uplink's, into a switch: guards, DHCP, DNS, ARP
 * and learning. The input is frames, each after a byte that says who sends it
 * and two of its length.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "net/link.h"
#include "net/switch/internal.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { SENDERS = 3, FRAME_MOST = 2048 };

struct rig {
	struct loop *loop;
	struct switch_ *sw;
	struct port *ports[SENDERS];
	int ends[SENDERS];
};

static int cable(int *end)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	*end = pair[0];
	return pair[1];
}

static void make(struct rig *r)
{
	static const struct plug plugs[] = {
		{ .machine = "web", .mac = "02:00:00:00:00:01" },
		{ .machine = "db",
		  .mac = "02:00:00:00:00:02",
		  .trusted = true },
	};
	struct switch_config config = { .name = "lan",
		                        .cidr = "10.9.0.0/24",
		                        .uplink = UPLINK_STACK,
		                        .mtu = 1500 };
	struct error err;

	if (loop_create(&r->loop, &err) < 0)
		abort();
	config.loop = r->loop;
	if (switch_create(&r->sw, &config, &err) < 0)
		abort();
	for (size_t i = 0; i < ARRAY_SIZE(plugs); i++)
		if (switch_plug(r->sw, &r->ports[i], &plugs[i],
		                cable(&r->ends[i]), &err) < 0)
			abort();
	if (switch_set_uplink(r->sw, cable(&r->ends[2]), &err) < 0)
		abort();
	r->ports[2] = r->sw->uplink;
}

static void drain(struct rig *r)
{
	static u8 in[PORT_SLOT];

	for (int i = 0; i < SENDERS; i++)
		while (recv(r->ends[i], in, sizeof(in), MSG_DONTWAIT) > 0)
			;
}

static void send_one(struct rig *r, unsigned who, const u8 *data, size_t size)
{
	/* Of its very size, so that a byte too far is seen. */
	u8 *slot = calloc(1, LINK_HDR + size);

	if (!slot)
		abort();
	memcpy(slot + LINK_HDR, data, size);
	if (size >= ETHERNET_HEADER)
		switch_frame(r->sw, r->ports[who], slot, LINK_HDR + size);
	switch_flush(r->sw);
	free(slot);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct rig rig;
	size_t n;

	if (!rig.sw)
		make(&rig);
	while (size >= 3) {
		unsigned who = data[0] % SENDERS;

		n = (size_t)(data[1] << 8 | data[2]) % FRAME_MOST;
		data += 3;
		size -= 3;
		n = MIN(n, size);
		send_one(&rig, who, data, n);
		data += n;
		size -= n;
	}
	drain(&rig);
	return 0;
}
