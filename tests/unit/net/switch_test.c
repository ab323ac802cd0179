/* SPDX-License-Identifier: Apache-2.0 */
/* The switch of a network, with machines that are sockets: who gets a frame,
 * who may send one, addresses, names, rates, what is written down. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "frames.h"
#include "net/link.h"
#include "net/switch/dhcp.h"
#include "net/switch/dns.h"
#include "net/switch/frame.h"
#include "net/switch/switch.h"
#include "net/switch/table.h"

enum { MACHINES = 3, UP = 3, ENDS = 4 };
enum { IP = ETHERNET_HEADER, UDP = IP + 20, BOOTP = UDP + 8 };

static const char *const macs[] = { "02:00:00:00:00:01", "02:00:00:00:00:02",
	                            "02:00:00:00:00:03" };
static const char *const names[] = { "web", "app", "db" };
static const u8 everyone[] = { 255, 255, 255, 255, 255, 255 };
static const u8 our_card[] = { 0x52, 0x55, 10, 9, 0, 2 };

struct fixture {
	struct loop *loop;
	struct switch_ *sw;
	struct port *ports[MACHINES];
	int ends[ENDS]; /* the machines', and the uplink's */
	u8 mac[MACHINES][6];
	struct loop_timer timer;
	int unplugged, changed;
	u8 in[LINK_HDR + LINK_FRAME_MAX];
	u8 *frame; /* of in */
};

static void on_timer(void *ctx)
{
	loop_quit(((struct fixture *)ctx)->loop, 0);
}

static void turn(struct fixture *f, u64 ms)
{
	loop_timer_arm(&f->timer, loop_now_ns() + ms * NSEC_PER_MSEC);
	loop_run(f->loop);
}

static void on_unplugged(void *ctx, struct port *port)
{
	struct fixture *f = ctx;

	(void)port;
	f->unplugged++;
}

static void on_changed(void *ctx)
{
	((struct fixture *)ctx)->changed++;
}

static int cable(int *end)
{
	int pair[2];

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	*end = pair[0];
	return pair[1];
}

static void plug(struct fixture *f, int i, const struct plug *more)
{
	struct plug plug = *more;
	struct error err = { 0 };

	plug.machine = names[i];
	plug.mac = macs[i];
	assert_int_equal(mac_parse(macs[i], f->mac[i]), 0);
	assert_int_equal(
	    switch_plug(f->sw, &f->ports[i], &plug, cable(&f->ends[i]), &err),
	    0);
}

static void make(struct fixture *f, enum uplink uplink)
{
	struct switch_config config = {
		.loop = f->loop,
		.name = "lan",
		.cidr = "10.9.0.0/24",
		.uplink = uplink,
		.mtu = 1400,
		.unplugged = on_unplugged,
		.leases_changed = on_changed,
		.ctx = f,
	};
	struct error err = { 0 };

	assert_int_equal(switch_create(&f->sw, &config, &err), 0);
}

static int setup(void **state)
{
	static const struct plug plain;
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	assert_non_null(f);
	f->frame = f->in + LINK_HDR;
	assert_int_equal(loop_create(&f->loop, &err), 0);
	loop_timer_init(&f->timer, f->loop, on_timer, f);
	make(f, UPLINK_STACK);
	for (int i = 0; i < MACHINES; i++)
		plug(f, i, &plain);
	assert_int_equal(switch_set_uplink(f->sw, cable(&f->ends[UP]), &err),
	                 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	switch_destroy(f->sw);
	for (int i = 0; i < ENDS; i++)
		if (f->ends[i] >= 0)
			close(f->ends[i]);
	loop_timer_fini(&f->timer);
	loop_destroy(f->loop);
	free(f);
	return 0;
}

/* What came; 0: nothing. */
static size_t take(struct fixture *f, int who)
{
	ssize_t n = recv(f->ends[who], f->in, sizeof(f->in), MSG_DONTWAIT);

	return n > LINK_HDR ? (size_t)n - LINK_HDR : 0;
}

static void put(struct fixture *f, int who, const struct vnet_header *h,
                const u8 *frame, size_t len)
{
	u8 head[LINK_HDR] = { 0 };
	struct iovec iov[2] = { { head, LINK_HDR },
		                { (u8 *)(uintptr_t)frame, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (h)
		vnet_encode(head, h);
	assert_true(sendmsg(f->ends[who], &msg, 0) > 0);
}

/* A UDP packet of a machine's, to another or to the switch. */
static size_t udp(struct fixture *f, int who, u8 *out, const u8 *to, u32 ip_to,
                  u16 from_port, u16 to_port, size_t payload)
{
	struct udp_head head = { .to = to,
		                 .from = f->mac[who],
		                 .ip_to = ip_to,
		                 .ip_from = 0x0a09000a + (u32)who,
		                 .from_port = from_port,
		                 .to_port = to_port };

	return frame_make_udp(out, &head, payload);
}

static void count_taken(struct fixture *f, const int *expected)
{
	for (int i = 0; i < ENDS; i++) {
		int n = 0;

		while (take(f, i))
			n++;
		if (n != expected[i])
			fail_msg("end %d has %d frames, not %d", i, n,
			         expected[i]);
	}
}

/* ---- who gets a frame ---- */

static void test_one_and_all(void **state)
{
	struct fixture *f = *state;
	u8 frame[200] = { 0 };
	size_t n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);

	put(f, 0, NULL, frame, n);
	turn(f, 20);
	count_taken(f, (int[]){ 0, 1, 0, 0 });
	n = udp(f, 0, frame, everyone, 0xffffffff, 1, 2, 10);
	put(f, 0, NULL, frame, n);
	turn(f, 20);
	count_taken(f, (int[]){ 0, 1, 1, 1 });
	/* A card that nobody has is not behind a guarded port. */
	n = udp(f, 0, frame, (const u8[]){ 2, 9, 9, 9, 9, 9 }, 0x01020304, 1, 2,
	        10);
	put(f, 0, NULL, frame, n);
	turn(f, 20);
	count_taken(f, (int[]){ 0, 0, 0, 1 });
	/* To itself: to nobody. */
	n = udp(f, 0, frame, f->mac[0], 0x0a09000a, 1, 2, 10);
	put(f, 0, NULL, frame, n);
	turn(f, 20);
	count_taken(f, (int[]){ 0, 0, 0, 0 });
}

/* What a card would have done passes as it is, header and all. */
static void test_large_frames_pass_whole(void **state)
{
	struct fixture *f = *state;
	struct vnet_header h = test_header4(1360);
	u8 *frame = calloc(1, LINK_FRAME_MAX), head[LINK_HDR];
	size_t n;

	assert_non_null(frame);
	n = test_frame4(frame, 60000);
	memcpy(frame, f->mac[1], 6);
	memcpy(frame + 6, f->mac[0], 6);
	memcpy(frame + IP + 12, "\x0a\x09\x00\x0a\x0a\x09\x00\x0b", 8);
	put(f, 0, &h, frame, n);
	turn(f, 20);
	assert_int_equal(take(f, 1), n);
	assert_memory_equal(f->frame, frame, n);
	vnet_encode(head, &h);
	assert_memory_equal(f->in, head, LINK_HDR);
	free(frame);
}

static void test_slow_taker(void **state)
{
	struct fixture *f = *state;
	u8 *frame = calloc(1, 61000);
	u8 small[100] = { 0 };
	int got = 0;
	size_t n;
	json_t *status, *port;

	assert_non_null(frame);
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 60000);
	for (int i = 0; i < 500; i++) {
		put(f, 0, NULL, frame, n);
		turn(f, 2);
	}
	/* One that does not read holds up nobody else. */
	put(f, 0, NULL, small,
	    udp(f, 0, small, f->mac[2], 0x0a09000c, 1, 2, 10));
	turn(f, 20);
	assert_true(take(f, 2) > 0);
	status = switch_status(f->sw);
	port = json_array_get(json_object_get(status, "ports"), 1);
	assert_true(json_integer_value(json_object_get(port, "dropped")) > 0);
	json_decref(status);
	/* What was kept for it comes once it reads. */
	for (int i = 0; i < 500; i++) {
		while (take(f, 1))
			got++;
		turn(f, 1);
	}
	assert_in_range(got, 50, 499);
	free(frame);
}

static void test_table_bounds(void **state)
{
	struct table *t = table_create();
	u8 mac[6] = { 2, 0, 0, 0, 0, 0 }, pinned[6] = { 2, 1, 1, 1, 1, 1 };
	u64 now = NSEC_PER_SEC;
	int known = 0;

	(void)state;
	table_pin(t, pinned, 7);
	table_learn(t, pinned, 3, now);
	assert_int_equal(table_find(t, pinned, now), 7);
	for (unsigned i = 0; i < 100000; i++) {
		mac[3] = (u8)(i >> 16);
		mac[4] = (u8)(i >> 8);
		mac[5] = (u8)i;
		table_learn(t, mac, 3, now);
	}
	assert_in_range(table_count(t), 2, TABLE_PORT_MAX + 1);
	for (unsigned i = 0; i < 256; i++) {
		mac[5] = (u8)i;
		table_learn(t, mac, 4, now);
		known += table_find(t, mac, now) == 4;
	}
	assert_in_range(known, 200, 256);
	/* It ages; what is pinned does not. */
	now += (TABLE_AGE_S + 1) * NSEC_PER_SEC;
	assert_int_equal(table_find(t, mac, now), -1);
	assert_int_equal(table_find(t, pinned, now), 7);
	table_forget_port(t, 7);
	assert_int_equal(table_find(t, pinned, now), -1);
	table_destroy(t);
}

/* ---- who may send one ---- */

static s64 refused(struct fixture *f, int who, const char *why)
{
	json_t *status = switch_status(f->sw);
	json_t *port =
	    json_array_get(json_object_get(status, "ports"), (size_t)who);
	s64 n = json_integer_value(
	    json_object_get(json_object_get(port, "refused"), why));

	json_decref(status);
	return n;
}

static void refuse(struct fixture *f, const u8 *frame, size_t n,
                   const char *why)
{
	s64 before = refused(f, 0, why);

	put(f, 0, NULL, frame, n);
	turn(f, 10);
	assert_int_equal(refused(f, 0, why), before + 1);
	count_taken(f, (int[]){ 0, 0, 0, 0 });
}

static size_t arp(u8 *frame, const u8 *from, const u8 *sender, u32 sender_ip,
                  u32 target)
{
	static const u8 kind[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, ARP_REQUEST };

	memset(frame, 0, 42);
	memset(frame, 255, 6);
	memcpy(frame + 6, from, 6);
	memcpy(frame + 12, kind, sizeof(kind));
	memcpy(frame + 22, sender, 6);
	put_be32(frame + 28, sender_ip);
	put_be32(frame + 38, target);
	return 42;
}

static void test_lies_about_ip4(void **state)
{
	struct fixture *f = *state;
	u8 frame[400] = { 0 };
	size_t n;

	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);
	memcpy(frame + 6, f->mac[2], 6);
	refuse(f, frame, n, "mac");
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);
	put_be32(frame + IP + 12, 0x0a09000c);
	refuse(f, frame, n, "ip");
	put_be32(frame + IP + 12, 0);
	refuse(f, frame, n, "ip");
	n = udp(f, 0, frame, everyone, 0xffffffff, 67, 68, 300);
	refuse(f, frame, n, "server");
	n = arp(frame, f->mac[0], f->mac[0], 0x0a09000c, 0x0a09000b);
	refuse(f, frame, n, "arp");
	n = arp(frame, f->mac[0], f->mac[2], 0x0a09000a, 0x0a09000b);
	refuse(f, frame, n, "arp");
	n = arp(frame, f->mac[0], f->mac[0], 0x0a09000a, 0x0a09000b);
	refuse(f, frame, n - 1, "malformed");
	vnet_put_be16(frame + 12, ETH_VLAN);
	refuse(f, frame, n, "tagged");
	frame[6] |= 1;
	refuse(f, frame, n, "malformed");
	/* The truth passes, and a probe. */
	n = arp(frame, f->mac[0], f->mac[0], 0x0a09000a, 0x0a09000b);
	put(f, 0, NULL, frame, n);
	n = arp(frame, f->mac[0], f->mac[0], 0, 0x0a09000a);
	put(f, 0, NULL, frame, n);
	turn(f, 10);
	count_taken(f, (int[]){ 0, 2, 2, 2 });
}

static size_t icmp6(u8 *frame, const u8 *from, const u8 *ip6, u8 type,
                    const u8 *target, const u8 *card, bool hidden)
{
	u8 *p = frame + ETHERNET_HEADER, *icmp = p + 40 + (hidden ? 8 : 0);

	memset(frame, 0, 120);
	memset(frame, 255, 6);
	memcpy(frame + 6, from, 6);
	vnet_put_be16(frame + 12, ETH_IP6);
	p[0] = 0x60;
	p[6] = hidden ? 0 : PROTO_ICMP6;
	if (hidden)
		p[40] = PROTO_ICMP6;
	memcpy(p + 8, ip6, 16);
	icmp[0] = type;
	memcpy(icmp + 8, target, 16);
	icmp[24] = 2;
	icmp[25] = 1;
	memcpy(icmp + 26, card, 6);
	return (size_t)(icmp + 32 - frame);
}

static void test_lies_about_ip6(void **state)
{
	static const u8 mine[16] = { 0xfe, 0x80, [15] = 1 };
	static const u8 world[16] = { 0x20, 0x01, [15] = 1 };
	struct fixture *f = *state;
	u8 frame[200], other[16];
	size_t n;

	n = icmp6(frame, f->mac[0], world, 136, world, f->mac[0], false);
	refuse(f, frame, n, "ip6");
	n = icmp6(frame, f->mac[0], mine, 134, mine, f->mac[0], false);
	refuse(f, frame, n, "server");
	n = icmp6(frame, f->mac[0], mine, 134, mine, f->mac[0], true);
	refuse(f, frame, n, "server");
	n = icmp6(frame, f->mac[0], mine, 136, mine, f->mac[1], false);
	refuse(f, frame, n, "ip6");
	n = icmp6(frame, f->mac[0], mine, 136, world, f->mac[0], false);
	refuse(f, frame, n, "ip6");
	n = icmp6(frame, f->mac[0], mine, 136, mine, f->mac[0], false);
	put(f, 0, NULL, frame, n);
	turn(f, 10);
	count_taken(f, (int[]){ 0, 1, 1, 1 });
	/* It is that one's now. */
	n = icmp6(frame, f->mac[1], mine, 136, mine, f->mac[1], false);
	put(f, 1, NULL, frame, n);
	turn(f, 10);
	assert_int_equal(refused(f, 1, "ip6"), 1);
	/* A few, not any number. */
	memcpy(other, mine, 16);
	for (u8 i = 2; i < 7; i++) {
		other[15] = i;
		n = icmp6(frame, f->mac[0], other, 136, other, f->mac[0],
		          false);
		put(f, 0, NULL, frame, n);
	}
	turn(f, 10);
	count_taken(f, (int[]){ 0, 3, 3, 3 });
}

static void test_trusted(void **state)
{
	struct fixture *f = *state;
	const struct plug trusted = { .trusted = true };
	u8 frame[200] = { 0 }, behind[6] = { 2, 7, 7, 7, 7, 7 };
	size_t n;

	close(f->ends[0]);
	plug(f, 0, &trusted);
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);
	memcpy(frame + 6, behind, 6);
	put(f, 0, NULL, frame, n);
	turn(f, 10);
	count_taken(f, (int[]){ 0, 1, 0, 0 });
	n = udp(f, 1, frame, behind, 0x01020304, 1, 2, 10);
	put(f, 1, NULL, frame, n);
	turn(f, 10);
	count_taken(f, (int[]){ 1, 0, 0, 0 });
}

/* ---- addresses ---- */

static size_t ask_dhcp(struct fixture *f, int who, u8 *frame, u8 type,
                       u32 wanted)
{
	u8 *p = frame + UDP_HEADERS;
	size_t n;

	memset(frame, 0, 600);
	p[0] = 1;
	p[1] = 1;
	p[2] = 6;
	memcpy(p + 4, "\x12\x34\x56\x78", 4);
	memcpy(p + 28, f->mac[who], 6);
	memcpy(p + 236, "\x63\x82\x53\x63\x35\x01", 6);
	p[242] = type;
	p[243] = 50;
	p[244] = 4;
	put_be32(p + 245, wanted);
	p[249] = 255;
	n = udp(f, who, frame, everyone, 0xffffffff, 68, 67, 300);
	put_be32(frame + IP + 12, 0);
	return n;
}

static void expect_dhcp(struct fixture *f, int who, u8 type, u32 ip)
{
	struct dhcp_message m;
	size_t n;

	turn(f, 10);
	n = take(f, who);
	assert_true(n > BOOTP);
	assert_int_equal(dhcp_parse(&m, f->frame + BOOTP, n - BOOTP, true), 0);
	assert_int_equal(m.type, type);
	assert_int_equal(m.yours, ip);
	assert_int_equal(m.server, 0x0a090002);
	count_taken(f, (int[]){ 0, 0, 0, 0 });
}

static void test_dhcp(void **state)
{
	struct fixture *f = *state;
	u8 frame[700];

	put(f, 1, NULL, frame, ask_dhcp(f, 1, frame, DHCP_DISCOVER, 0));
	expect_dhcp(f, 1, DHCP_OFFER, 0x0a09000b);
	put(f, 1, NULL, frame, ask_dhcp(f, 1, frame, DHCP_REQUEST, 0x0a09000b));
	expect_dhcp(f, 1, DHCP_ACK, 0x0a09000b);
	put(f, 1, NULL, frame, ask_dhcp(f, 1, frame, DHCP_REQUEST, 0x0a09000c));
	expect_dhcp(f, 1, DHCP_NAK, 0);
	/* For another's card, and noise: silence. */
	ask_dhcp(f, 1, frame, DHCP_DISCOVER, 0);
	frame[BOOTP + 28 + 5] = 99;
	put(f, 1, NULL, frame, UDP_HEADERS + 300);
	for (size_t n = UDP_HEADERS; n < UDP_HEADERS + 260; n++) {
		ask_dhcp(f, 1, frame, DHCP_DISCOVER, 0);
		vnet_put_be16(frame + IP + 2, (unsigned)(n - IP));
		vnet_put_be16(frame + UDP + 4, (unsigned)(n - UDP));
		frame[BOOTP + 244] = 200;
		if (n == UDP_HEADERS + 243)
			continue; /* whole, before what is wrong */
		put(f, 1, NULL, frame, n);
		turn(f, 0);
	}
	turn(f, 10);
	count_taken(f, (int[]){ 0, 0, 0, 0 });
}

static void test_leases_stay(void **state)
{
	static const struct plug plain;
	struct fixture *f = *state;
	json_t *leases;
	struct error err = { 0 };
	struct plug taken = { .machine = "x",
		              .mac = macs[2],
		              .address = "10.9.0.11" };
	struct port *port;
	int end;

	assert_true(f->changed > 0);
	leases = switch_leases(f->sw);
	switch_destroy(f->sw);
	make(f, UPLINK_STACK);
	switch_load_leases(f->sw, leases);
	json_decref(leases);
	/* In another order, and after a restart. */
	for (int i = MACHINES - 1; i >= 0; i--) {
		char text[16];

		close(f->ends[i]);
		plug(f, i, &plain);
		snprintf(text, sizeof(text), "10.9.0.%d", 10 + i);
		assert_string_equal(port_address(f->ports[i]), text);
	}
	/* One that is taken is refused, one of another network, too. */
	assert_true(switch_plug(f->sw, &port, &taken, cable(&end), &err) < 0);
	assert_non_null(strstr(err.text, "app"));
	close(end);
	taken.address = "10.8.0.11";
	assert_true(switch_plug(f->sw, &port, &taken, cable(&end), &err) < 0);
	close(end);
	taken.address = "10.9.0.99";
	assert_int_equal(switch_plug(f->sw, &port, &taken, cable(&end), &err),
	                 0);
	assert_string_equal(port_address(port), "10.9.0.99");
	close(end);
}

/* As many as there are, and then those that are away give theirs up. */
static void test_addresses_run_out(void **state)
{
	struct fixture *f = *state;
	struct switch_config config = {
		.loop = f->loop, .name = "s", .cidr = "10.1.0.0/28", .ctx = f
	};
	struct switch_ *sw;
	struct error err = { 0 };
	struct port *ports[12];
	int ends[12];
	char mac[18];

	assert_int_equal(switch_create(&sw, &config, &err), 0);
	for (int i = 0; i < 12; i++) {
		struct plug p = { .machine = "m", .mac = mac };
		int rc;

		snprintf(mac, sizeof(mac), "02:00:00:00:01:%02x", i);
		rc = switch_plug(sw, &ports[i], &p, cable(&ends[i]), &err);
		assert_int_equal(rc < 0, i == 11);
	}
	switch_unplug(sw, ports[4]);
	assert_int_equal(
	    switch_plug(sw, &ports[11],
	                &(struct plug){ .machine = "n", .mac = mac },
	                cable(&ends[11]), &err),
	    0);
	assert_string_equal(port_address(ports[11]), "10.1.0.8");
	switch_destroy(sw);
	for (int i = 0; i < 12; i++)
		close(ends[i]);
}

/* ---- names ---- */

static size_t question(u8 *p, const char *name, u16 type)
{
	u8 *at = p + 12;

	memset(p, 0, 12);
	memcpy(p, "\xab\xcd\x01\x00\x00\x01", 6);
	while (*name) {
		size_t n = strcspn(name, ".");

		*at++ = (u8)n;
		memcpy(at, name, n);
		at += n;
		name += n + (name[n] == '.');
	}
	*at++ = 0;
	vnet_put_be16(at, type);
	vnet_put_be16(at + 2, 1);
	return (size_t)(at + 4 - p);
}

/* The answer's code, and the address in it (0: none). */
static int ask_name(struct fixture *f, const char *name, u16 type, u32 *ip)
{
	u8 frame[700] = { 0 };
	size_t n = question(frame + UDP_HEADERS, name, type);

	*ip = 0;
	put(f, 0, NULL, frame,
	    udp(f, 0, frame, our_card, 0x0a090002, 4000, 53, n));
	turn(f, 10);
	n = take(f, 0);
	if (!n)
		return -1;
	assert_memory_equal(f->frame, f->mac[0], 6);
	assert_memory_equal(f->frame + BOOTP, "\xab\xcd", 2);
	if (vnet_be16(f->frame + BOOTP + 6) && type == 1)
		*ip = get_be32(f->frame + n - 4);
	return f->frame[BOOTP + 3] & 15;
}

static void test_names(void **state)
{
	struct fixture *f = *state;
	u32 ip;

	for (size_t i = 0; i < MACHINES; i++) {
		assert_int_equal(ask_name(f, names[i], 1, &ip), 0);
		assert_int_equal(ip, 0x0a09000a + i);
	}
	assert_int_equal(ask_name(f, "APP.lan", 1, &ip), 0);
	assert_int_equal(ip, 0x0a09000b);
	assert_int_equal(ask_name(f, "db.lan.internal", 1, &ip), 0);
	assert_int_equal(ip, 0x0a09000c);
	assert_int_equal(ask_name(f, "web", 28, &ip), 0); /* no IPv6 */
	assert_int_equal(ask_name(f, "nobody", 1, &ip), 3);
	assert_int_equal(ask_name(f, "nobody.lan.internal", 1, &ip), 3);
	assert_int_equal(ask_name(f, "11.0.9.10.in-addr.arpa", 12, &ip), 0);
	assert_int_equal(ask_name(f, "99.0.9.10.in-addr.arpa", 12, &ip), 3);
	/* Somebody else's: the uplink is asked. */
	assert_int_equal(ask_name(f, "web.example.com", 1, &ip), -1);
}

static void test_names_of_others(void **state)
{
	struct fixture *f = *state;
	struct udp_head back = { .to = our_card,
		                 .ip_to = 0x0a090002,
		                 .ip_from = 0x0a090003,
		                 .from_port = 53 };
	u8 reply[700] = { 0 }, card[6];
	size_t n;
	u32 ip;

	assert_int_equal(ask_name(f, "example.com", 1, &ip), -1);
	n = take(f, UP);
	assert_true(n > BOOTP + 12);
	assert_int_equal(get_be32(f->frame + IP + 12), 0x0a090002);
	assert_int_equal(get_be32(f->frame + IP + 16), 0x0a090003);
	memcpy(card, f->frame, 6);
	back.from = card;
	back.to_port = vnet_be16(f->frame + UDP);
	memcpy(reply + UDP_HEADERS, f->frame + BOOTP, n - BOOTP);
	reply[UDP_HEADERS + 2] |= 0x80;
	/* A wrong number is not taken; the right one once. */
	reply[UDP_HEADERS] ^= 1;
	put(f, UP, NULL, reply, frame_make_udp(reply, &back, n - BOOTP));
	reply[UDP_HEADERS] ^= 1;
	put(f, UP, NULL, reply, frame_make_udp(reply, &back, n - BOOTP));
	put(f, UP, NULL, reply, frame_make_udp(reply, &back, n - BOOTP));
	turn(f, 10);
	assert_true(take(f, 0) > 0);
	assert_memory_equal(f->frame + BOOTP, "\xab\xcd", 2);
	assert_int_equal(vnet_be16(f->frame + UDP + 2), 4000);
	count_taken(f, (int[]){ 0, 0, 0, 0 });
}

static void test_names_hostile(void **state)
{
	struct fixture *f = *state;
	u8 frame[700] = { 0 }, *p = frame + UDP_HEADERS;

	/* Cut anywhere, labels that point beyond, pointers: no answer, and no
	 * harm. */
	for (size_t cut = 0; cut < 40; cut++)
		for (int bad = 0; bad < 256; bad += 5) {
			size_t n = question(p, "web.lan.internal", 1);

			p[12] = bad ? (u8)bad : 3;
			n = n > cut ? n - cut : 0;
			put(f, 0, NULL, frame,
			    udp(f, 0, frame, our_card, 0x0a090002, 4000, 53,
			        n));
			turn(f, 0);
			while (take(f, 0))
				;
			while (take(f, UP))
				;
		}
	assert_int_equal(question(p, "web", 1), 21);
}

/* ---- rates, captures, cables ---- */

static void test_rates(void **state)
{
	struct fixture *f = *state;
	const struct plug slow = { .send_bytes_per_s = 200000 };
	u8 frame[1100] = { 0 };
	u64 start = loop_now_ns(), ms;
	int got = 0;
	size_t n;

	close(f->ends[0]);
	plug(f, 0, &slow);
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 958);
	/* 80 KB: 20 of them are saved up, 60 take 0.3 s. */
	for (int i = 0; i < 80; i++)
		put(f, 0, NULL, frame, n);
	while (got < 80 && loop_now_ns() - start < 100 * NSEC_PER_SEC) {
		turn(f, 2);
		while (take(f, 1))
			got++;
	}
	ms = (loop_now_ns() - start) / NSEC_PER_MSEC;
	assert_int_equal(got, 80); /* held back, not lost */
	assert_true(ms > 200);
}

static void test_capture(void **state)
{
	struct fixture *f = *state;
	u8 frame[200] = { 0 }, in[4096];
	struct error err = { 0 };
	int pair[2];
	u32 word;
	size_t n;
	ssize_t got;

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(switch_capture(f->sw, "app", 2, pair[1], &err), 0);
	n = udp(f, 0, frame, f->mac[2], 0x0a09000c, 1, 2, 10); /* not its */
	put(f, 0, NULL, frame, n);
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);
	put(f, 0, NULL, frame, n);
	put(f, 1, NULL, frame,
	    udp(f, 1, frame, f->mac[0], 0x0a09000a, 1, 2, 9));
	put(f, 0, NULL, frame, n);
	turn(f, 20);
	got = recv(pair[0], in, sizeof(in), 0);
	assert_int_equal(got, 24 + 2 * 16 + (ssize_t)n + (ssize_t)n - 1);
	memcpy(&word, in, 4);
	assert_int_equal(word, 0xa1b23c4d);
	memcpy(&word, in + 24 + 8, 4);
	assert_int_equal(word, n);
	/* Two were wanted: it has ended. */
	assert_int_equal(recv(pair[0], in, sizeof(in), 0), 0);
	close(pair[0]);
}

static size_t captures(struct fixture *f)
{
	json_t *status = switch_status(f->sw);
	size_t n = json_array_size(json_object_get(status, "captures"));

	json_decref(status);
	return n;
}

/* Who reads hangs up, and no frame passes by which that is noticed. */
static void test_capture_of_silence(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	int pair[2];

	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(switch_capture(f->sw, "", 0, pair[1], &err), 0);
	turn(f, 20);
	assert_int_equal(captures(f), 1);
	/* What it says is of no matter. */
	assert_int_equal(send(pair[0], "abc", 3, 0), 3);
	turn(f, 20);
	assert_int_equal(captures(f), 1);
	close(pair[0]);
	turn(f, 20);
	assert_int_equal(captures(f), 0);
}

static void test_unplug(void **state)
{
	static const struct plug plain;
	struct fixture *f = *state;
	u8 frame[200] = { 0 };
	int old = f->ends[0];
	size_t n;

	/* Its card again, before its former cable was seen to end. */
	plug(f, 0, &plain);
	assert_int_equal(f->unplugged, 1);
	assert_string_equal(port_address(f->ports[0]), "10.9.0.10");
	close(old);
	close(f->ends[1]);
	f->ends[1] = -1;
	turn(f, 20);
	assert_int_equal(f->unplugged, 2);
	f->ends[1] = dup(f->ends[2]);
	n = udp(f, 0, frame, f->mac[1], 0x0a09000b, 1, 2, 10);
	put(f, 0, NULL, frame, n);
	turn(f, 20);
	/* Nobody behind a guarded port has that card. */
	count_taken(f, (int[]){ 0, 0, 0, 1 });
}

static void test_noise(void **state)
{
	struct fixture *f = *state;
	u8 frame[300];
	unsigned seed = 1;

	for (int i = 0; i < 20000; i++) {
		size_t n = (size_t)(rand_r(&seed) % 200) + 1;

		for (size_t k = 0; k < n; k++)
			frame[k] = (u8)rand_r(&seed);
		if (i % 2)
			memcpy(frame + 6, f->mac[0], n > 12 ? 6 : 0);
		if (i % 3 && n > 14)
			vnet_put_be16(frame + 12, i % 4   ? ETH_IP4
			                          : i % 5 ? ETH_IP6
			                                  : ETH_ARP);
		if (i % 7 && n > 40) {
			frame[14] = 0x45;
			frame[23] = PROTO_UDP;
		}
		put(f, 0, NULL, frame, n);
		if (i % 16 == 0)
			turn(f, 0);
		for (int k = 0; k < ENDS; k++)
			while (take(f, k))
				;
	}
	turn(f, 10);
	assert_int_equal(f->unplugged, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_and_all),    TEST(test_large_frames_pass_whole),
		TEST(test_slow_taker),     cmocka_unit_test(test_table_bounds),
		TEST(test_lies_about_ip4), TEST(test_lies_about_ip6),
		TEST(test_trusted),        TEST(test_dhcp),
		TEST(test_leases_stay),    TEST(test_addresses_run_out),
		TEST(test_names),          TEST(test_names_of_others),
		TEST(test_names_hostile),  TEST(test_rates),
		TEST(test_capture),        TEST(test_capture_of_silence),
		TEST(test_unplug),         TEST(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
