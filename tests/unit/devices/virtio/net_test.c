/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio network card, with the test at the far end of the cable. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/virtio/net.h"
#include "fake_link.h"
#include "rig.h"

#define F_GUEST_CSUM BIT(1)
#define F_GUEST_OFFLOADS BIT(2)
#define F_MAC BIT(5)
#define F_GUEST_TSO4 BIT(7)
#define F_MRG_RXBUF BIT(15)
#define F_STATUS BIT(16)
#define F_CTRL_VQ BIT(17)
#define F_CTRL_RX BIT(18)
#define F_CTRL_VLAN BIT(19)
#define F_ANNOUNCE BIT(21)
#define F_MQ BIT(22)
#define F_CTRL_MAC BIT(23)
#define EVENT_IDX BIT(29)
#define ALL                                                                    \
	(F_GUEST_CSUM | F_GUEST_OFFLOADS | F_MAC | F_GUEST_TSO4 |              \
	 F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN |        \
	 F_ANNOUNCE | F_MQ | F_CTRL_MAC | EVENT_IDX)

enum { SLOT = PCI_DEVFN(1, 0), PAIRS = 3, QUEUES = 2 * PAIRS + 1 };
enum { CTRL = 2 * PAIRS, HDR = 12 };

static const u8 mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct fixture {
	struct rig rig;
	struct link *link;
	struct device *dev;
	struct driver d;
	gpa_t scratch, ack;
};

static int make(void **state, bool own_network)
{
	struct fixture *f = xalloc(sizeof(*f));
	struct virtio_net_config config = { .mtu = 1400,
		                            .pairs = PAIRS,
		                            .own_network = own_network,
		                            .devfn = PCI_SLOT_ANY };

	rig_init(&f->rig);
	f->link = fake_link_create();
	config.link = f->link;
	memcpy(config.mac, mac, 6);
	assert_int_equal(
	    virtio_net_create(&f->dev, &f->rig.host, f->rig.pci, &config, NULL),
	    0);
	pci_assign_resources(f->rig.pci);
	driver_probe(&f->d, &f->rig, SLOT);
	f->scratch = rig_alloc(&f->rig, 128 << 10);
	f->ack = rig_alloc(&f->rig, 1);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return make(state, false);
}

static int setup_alone(void **state)
{
	return make(state, true);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(f->dev);
	fake_link_destroy(f->link);
	rig_fini(&f->rig);
	free(f);
	return 0;
}

/* An Ethernet frame to `to`, filled with a pattern. */
static size_t frame(u8 *p, const u8 to[6], size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (u8)(i * 13);
	memcpy(p, to, 6);
	p[12] = 0x88;
	p[13] = 0xb5;
	return len;
}

static void give(struct fixture *f, const u8 to[6], size_t len)
{
	u8 *p = xalloc(LINK_FRAME_MAX);

	fake_link_give(f->link, p, frame(p, to, len));
	free(p);
}

static void post_rx(struct fixture *f, unsigned queue, unsigned count, u32 len)
{
	for (unsigned i = 0; i < count; i++) {
		struct buffer b = { rig_alloc(&f->rig, len), len };

		driver_add(&f->d, queue, NULL, 0, &b, 1);
	}
	driver_notify(&f->d, queue);
}

static void send_frame(struct fixture *f, unsigned queue, const void *bytes,
                       size_t len)
{
	u8 *p = rig_ptr(&f->rig, f->scratch, HDR + len);
	struct buffer out[2] = { { f->scratch, HDR },
		                 { f->scratch + HDR, (u32)len } };

	memset(p, 0, HDR);
	memcpy(p + HDR, bytes, len);
	driver_add(&f->d, queue, out, 2, NULL, 0);
	driver_notify(&f->d, queue);
}

static u8 control(struct fixture *f, u8 class, u8 command, const void *body,
                  u32 len)
{
	u8 *p = rig_ptr(&f->rig, f->scratch, len + 2);
	struct buffer out[2] = { { f->scratch, 2 }, { f->scratch + 2, len } };
	struct buffer in = { f->ack, 1 };
	u8 *ack = rig_ptr(&f->rig, f->ack, 1);

	p[0] = class;
	p[1] = command;
	memcpy(p + 2, body, len);
	*ack = 0x5a;
	driver_add(&f->d, CTRL, out, len ? 2 : 1, &in, 1);
	driver_notify(&f->d, CTRL);
	assert_true(driver_used(&f->d, CTRL, NULL, NULL));
	return *ack;
}

static u8 control_u8(struct fixture *f, u8 class, u8 command, u8 value)
{
	return control(f, class, command, &value, 1);
}

static u8 control_u16(struct fixture *f, u8 class, u8 command, u16 value)
{
	return control(f, class, command, &value, 2);
}

static u8 control_u64(struct fixture *f, u8 class, u8 command, u64 value)
{
	return control(f, class, command, &value, 8);
}

static bool received(struct fixture *f, unsigned queue)
{
	return driver_used(&f->d, queue, NULL, NULL);
}

static void start(struct fixture *f, u64 features)
{
	driver_start(&f->d, features, QUEUES);
}

static void test_config(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rig_config_read(&f->rig, SLOT, 2, 2), 0x1041);
	assert_true((driver_offered(&f->d) & ALL) == ALL);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(rig_mmio_read(&f->rig, f->d.device + i, 1),
		                 mac[i]);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 1);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 8, 2), PAIRS);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 10, 2), 1400);
}

static void test_send(void **state)
{
	struct fixture *f = *state;
	const struct fake_frame *sent;
	u8 bytes[200], *huge;
	u32 len;

	start(f, ALL);
	frame(bytes, mac, sizeof(bytes));
	send_frame(f, 1, bytes, sizeof(bytes));
	sent = fake_link_sent(f->link, 0);
	assert_non_null(sent);
	assert_int_equal(sent->len, HDR + sizeof(bytes));
	assert_memory_equal(sent->bytes + HDR, bytes, sizeof(bytes));
	assert_true(driver_used(&f->d, 1, NULL, &len));
	assert_int_equal(len, 0);
	assert_int_equal(f->rig.msi_count[0x42], 1);
	/* No frame at all, and one that is too long: lost, answered. */
	send_frame(f, 1, bytes, 0);
	assert_true(driver_used(&f->d, 1, NULL, NULL));
	huge = xalloc(70000);
	send_frame(f, 1, huge, 70000);
	free(huge);
	assert_true(driver_used(&f->d, 1, NULL, NULL));
	assert_null(fake_link_sent(f->link, 1));
	assert_int_equal(driver_status(&f->d), 0xf);
}

static void test_send_blocked(void **state)
{
	struct fixture *f = *state;
	u8 bytes[60];

	start(f, ALL);
	fake_link_full(f->link, true);
	for (unsigned i = 0; i < 5; i++) {
		frame(bytes, mac, sizeof(bytes));
		bytes[20] = (u8)i;
		send_frame(f, 1, bytes, sizeof(bytes));
	}
	assert_false(received(f, 1));
	fake_link_full(f->link, false);
	for (unsigned i = 0; i < 5; i++) {
		assert_true(received(f, 1));
		assert_non_null(fake_link_sent(f->link, i));
	}
}

static void test_receive(void **state)
{
	struct fixture *f = *state;
	u8 *p;
	u16 head;
	u32 len;

	start(f, ALL & ~F_MRG_RXBUF);
	give(f, mac, 100);
	assert_int_equal(fake_link_waiting(f->link), 0); /* held by the card */
	post_rx(f, 0, 2, 2048);
	assert_true(driver_used(&f->d, 0, &head, &len));
	assert_int_equal(len, HDR + 100);
	p = rig_ptr(&f->rig, f->rig.bump - 2 * 4096, HDR + 100);
	assert_memory_equal(p + HDR, mac, 6);
	assert_true(p[10] == 1 && p[11] == 0); /* num_buffers */
	assert_int_equal(f->rig.msi_count[0x41], 1);
	assert_true(
	    *memory_page_flags(f->rig.host.memory, f->rig.bump - 2 * 4096) &
	    PAGE_DIRTY);
	give(f, mac, 60);
	assert_true(received(f, 0));
	/* Too long for its buffer: dropped, the buffer is still there. */
	post_rx(f, 0, 1, 100);
	give(f, mac, 100);
	assert_false(received(f, 0));
	give(f, mac, 60);
	assert_true(received(f, 0));
}

static void test_hold(void **state)
{
	struct fixture *f = *state;

	start(f, ALL);
	assert_true(fake_link_wanted(f->link));
	for (unsigned i = 0; i < 10; i++)
		give(f, mac, 60);
	assert_false(fake_link_wanted(f->link));
	assert_int_equal(fake_link_waiting(f->link), 9);
	post_rx(f, 0, 12, 200);
	assert_int_equal(fake_link_waiting(f->link), 0);
	for (unsigned i = 0; i < 10; i++)
		assert_true(received(f, 0));
	assert_true(fake_link_wanted(f->link));
}

static void test_mergeable(void **state)
{
	struct fixture *f = *state;
	gpa_t first = f->rig.bump;
	u32 len, total = 0, chains = 0;

	start(f, ALL);
	first = f->rig.bump;
	/* Too few: nothing is given away yet. */
	post_rx(f, 0, 4, 1000);
	give(f, mac, 5000);
	assert_false(received(f, 0));
	post_rx(f, 0, 1, 1000);
	assert_false(received(f, 0));
	post_rx(f, 0, 2, 1000);
	while (driver_used(&f->d, 0, NULL, &len)) {
		total += len;
		chains++;
	}
	assert_int_equal(chains, 6);
	assert_int_equal(total, HDR + 5000);
	assert_int_equal(*(u8 *)rig_ptr(&f->rig, first + 10, 1), 6);
	/* The bytes, across the seams. */
	for (unsigned i = 14; i < 5000; i++) {
		unsigned at = HDR + i;
		u8 *p =
		    rig_ptr(&f->rig, first + at / 1000 * 4096 + at % 1000, 1);

		assert_int_equal(*p, (u8)(i * 13));
	}
	give(f, mac, 900);
	assert_true(received(f, 0));
}

static void test_event_after_shortage(void **state)
{
	struct fixture *f = *state;

	start(f, ALL);
	post_rx(f, 0, 3, 1000);
	give(f, mac, 5000);
	/* The driver is to tell of the fourth buffer, not the first. */
	assert_int_equal(driver_avail_event(&f->d, 0), 3);
}

static void test_hopeless(void **state)
{
	struct fixture *f = *state;

	/* 64 buffers of one byte never hold a frame: it is dropped. */
	start(f, ALL);
	post_rx(f, 0, 1, 12);
	for (unsigned i = 0; i < 63; i++) {
		struct buffer b = { f->scratch + i, 1 };

		driver_add(&f->d, 0, NULL, 0, &b, 1);
	}
	driver_notify(&f->d, 0);
	give(f, mac, 100);
	assert_int_equal(fake_link_waiting(f->link), 0);
	assert_false(received(f, 0));
	assert_true(fake_link_wanted(f->link));
}

static void test_filter(void **state)
{
	static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
	static const u8 group[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	static const u8 broadcast[6] = { 255, 255, 255, 255, 255, 255 };
	struct fixture *f = *state;
	u8 table[4 + 6 + 4 + 6] = { 1 };

	start(f, ALL);
	post_rx(f, 0, 40, 256);
	give(f, other, 60);
	give(f, group, 60);
	assert_false(received(f, 0));
	give(f, broadcast, 60);
	assert_true(received(f, 0));
	give(f, mac, 60);
	assert_true(received(f, 0));
	assert_int_equal(control_u8(f, 0, 0, 1), 0); /* promiscuous */
	give(f, other, 60);
	assert_true(received(f, 0));
	assert_int_equal(control_u8(f, 0, 0, 0), 0);
	assert_int_equal(control_u8(f, 0, 1, 1), 0); /* all multicast */
	give(f, group, 60);
	give(f, other, 60);
	assert_true(received(f, 0));
	assert_false(received(f, 0));
	assert_int_equal(control_u8(f, 0, 1, 0), 0);
	assert_int_equal(control_u8(f, 0, 5, 1), 0); /* no broadcast */
	give(f, broadcast, 60);
	assert_false(received(f, 0));
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, group, 6);
	assert_int_equal(control(f, 1, 0, table, sizeof(table)), 0);
	give(f, other, 60);
	give(f, group, 60);
	assert_true(received(f, 0));
	assert_true(received(f, 0));
	/* Malformed tables change nothing. */
	assert_int_equal(control(f, 1, 0, table, 9), 1);
	table[0] = 0xff;
	table[3] = 0xff;
	assert_int_equal(control(f, 1, 0, table, sizeof(table)), 1);
	give(f, other, 60);
	assert_true(received(f, 0));
	/* Another address of its own. */
	assert_int_equal(control(f, 1, 1, group + 0, 5), 1);
	assert_int_equal(control(f, 1, 1, "\x52\x54\1\1\1\1", 6), 0);
	give(f, mac, 60);
	assert_false(received(f, 0));
	give(f, (const u8 *)"\x52\x54\1\1\1\1", 60);
	assert_true(received(f, 0));
	/* A reset brings the machine's back. */
	start(f, ALL);
	post_rx(f, 0, 4, 256);
	give(f, mac, 60);
	assert_true(received(f, 0));
}

static void test_vlan(void **state)
{
	struct fixture *f = *state;
	u8 bytes[64];

	start(f, ALL);
	post_rx(f, 0, 4, 256);
	frame(bytes, mac, sizeof(bytes));
	memcpy(bytes + 12, "\x81\x00\x20\x05", 4);
	fake_link_give(f->link, bytes, sizeof(bytes));
	assert_false(received(f, 0));
	assert_int_equal(control_u16(f, 2, 0, 5), 0);
	fake_link_give(f->link, bytes, sizeof(bytes));
	assert_true(received(f, 0));
	assert_int_equal(control_u16(f, 2, 1, 5), 0);
	fake_link_give(f->link, bytes, sizeof(bytes));
	assert_false(received(f, 0));
	assert_int_equal(control_u16(f, 2, 0, 4096), 1);
	assert_int_equal(control_u16(f, 2, 2, 1), 1);
}

static void test_offloads(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fake_link_offloads(f->link), 0);
	start(f, ALL);
	assert_int_equal(fake_link_offloads(f->link), LINK_CSUM | LINK_TSO4);
	assert_int_equal(control_u64(f, 5, 0, F_GUEST_CSUM), 0);
	assert_int_equal(fake_link_offloads(f->link), LINK_CSUM);
	/* Not agreed on, or not an offload. */
	assert_int_equal(control_u64(f, 5, 0, BIT(8)), 1);
	assert_int_equal(control_u64(f, 5, 0, F_MAC), 1);
	assert_int_equal(fake_link_offloads(f->link), LINK_CSUM);
	driver_set_status(&f->d, 0);
	assert_int_equal(fake_link_offloads(f->link), 0);
}

static void test_control_garbage(void **state)
{
	struct fixture *f = *state;
	u8 body[300] = { 0 };
	struct buffer b = { f->scratch, 1 }, in = { f->ack, 1 };

	start(f, ALL);
	for (unsigned class = 0; class < 8; class ++)
		for (unsigned command = 0; command < 8; command++)
			for (unsigned len = 0; len < 20; len++)
				control(f, (u8) class, (u8)command, body, len);
	assert_int_equal(control(f, 0, 0, body, sizeof(body)), 1);
	assert_int_equal(driver_status(&f->d), 0xf);
	driver_add(&f->d, CTRL, &b, 1, &in, 1);
	driver_notify(&f->d, CTRL);
	assert_int_equal(driver_status(&f->d), 0x4f);
}

/* An IPv4/TCP frame between two ports. */
static void tcp_frame(u8 *p, u16 from, u16 to, bool back)
{
	frame(p, mac, 80);
	memset(p + 12, 0, 68);
	p[12] = 8;
	p[14] = 0x45;
	p[23] = 6;
	memcpy(p + (back ? 30 : 26), "\x0a\0\0\1", 4);
	memcpy(p + (back ? 26 : 30), "\x0a\0\0\2", 4);
	p[back ? 36 : 34] = (u8)(from >> 8);
	p[back ? 37 : 35] = (u8)from;
	p[back ? 34 : 36] = (u8)(to >> 8);
	p[back ? 35 : 37] = (u8)to;
}

static void test_multi_queue(void **state)
{
	struct fixture *f = *state;
	u8 bytes[80];

	start(f, ALL);
	for (unsigned i = 0; i < PAIRS; i++)
		post_rx(f, i * 2, 30, 256);
	assert_int_equal(control_u16(f, 4, 0, 0), 1);
	assert_int_equal(control_u16(f, 4, 0, PAIRS + 1), 1);
	assert_int_equal(control_u16(f, 4, 0, PAIRS), 0);
	/* An answer comes in where the question went out. */
	for (unsigned i = 0; i < 20; i++) {
		unsigned pair = i % PAIRS;

		tcp_frame(bytes, (u16)(1000 + i), 80, false);
		send_frame(f, pair * 2 + 1, bytes, sizeof(bytes));
		assert_true(received(f, pair * 2 + 1));
		tcp_frame(bytes, (u16)(1000 + i), 80, true);
		fake_link_give(f->link, bytes, sizeof(bytes));
		assert_true(received(f, pair * 2));
	}
	/* A queue without buffers does not hold up the others. */
	for (unsigned i = 0; i < 60; i++)
		fake_link_give(f->link, bytes, sizeof(bytes));
	assert_int_equal(fake_link_waiting(f->link), 0);
	assert_true(fake_link_wanted(f->link));
}

static void test_control_queue_without_mq(void **state)
{
	struct fixture *f = *state;
	u8 *p = rig_ptr(&f->rig, f->scratch, 3);
	struct buffer out = { f->scratch, 3 }, in = { f->ack, 1 };

	/* Then it is queue 2 (section 5.1.2). */
	start(f, ALL & ~F_MQ);
	memcpy(p, "\0\0\1", 3);
	driver_add(&f->d, 2, &out, 1, &in, 1);
	driver_notify(&f->d, 2);
	assert_true(received(f, 2));
	assert_int_equal(*(u8 *)rig_ptr(&f->rig, f->ack, 1), 0);
}

static void test_status(void **state)
{
	struct fixture *f = *state;

	start(f, ALL);
	fake_link_carrier(f->link, false);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 0);
	assert_int_equal(f->rig.msi_count[0x40], 1);
	fake_link_carrier(f->link, true);
	virtio_net_announce(f->dev);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 3);
	assert_int_equal(f->rig.msi_count[0x40], 3);
	assert_int_equal(control(f, 3, 0, "", 0), 0);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 1);
}

static bool has_link(void *ctx)
{
	struct fixture *f = ctx;

	return rig_mmio_read(&f->rig, f->d.device + 6, 2) & 1;
}

/* Its card's address is read anew, and its link was away. */
static void test_copy(void **state)
{
	static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
	struct fixture *f = *state;
	unsigned told;

	start(f, ALL);
	assert_int_equal(control(f, 1, 1, other, 6), 0);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device, 2), 0x5452);
	told = f->rig.msi_count[0x40];
	virtio_net_new_address(f->dev);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 5, 1), mac[5]);
	assert_false(has_link(f));
	assert_int_equal(f->rig.msi_count[0x40], told + 1);
	rig_wait(&f->rig, has_link, f);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 3);
	assert_int_equal(f->rig.msi_count[0x40], told + 2);
	/* What was sent to the old one still arrives. */
	post_rx(f, 0, 4, 256);
	give(f, other, 60);
	assert_true(received(f, 0));
	/* A reset in between: the link is there. */
	virtio_net_new_address(f->dev);
	driver_set_status(&f->d, 0);
	assert_true(has_link(f));
	/* And the end: teardown comes while it is down. */
	virtio_net_new_address(f->dev);
	assert_false(has_link(f));
}

/* With nobody to whom it would be news, its link stays. */
static void test_copy_alone(void **state)
{
	static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
	struct fixture *f = *state;

	start(f, ALL);
	assert_int_equal(control(f, 1, 1, other, 6), 0);
	virtio_net_new_address(f->dev);
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 5, 1), mac[5]);
	assert_true(has_link(f));
	assert_int_equal(rig_mmio_read(&f->rig, f->d.device + 6, 2), 1);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	start(f, ALL);
	post_rx(f, 0, 4, 256);
	driver_set_status(&f->d, 0);
	assert_false(fake_link_wanted(f->link));
	give(f, mac, 60);
	assert_int_equal(fake_link_waiting(f->link), 1);
	assert_false(received(f, 0));
}

static void test_bad_receive_buffer(void **state)
{
	struct fixture *f = *state;
	struct buffer b = { f->scratch, 64 };

	start(f, ALL);
	driver_add(&f->d, 0, &b, 1, NULL, 0);
	driver_notify(&f->d, 0);
	give(f, mac, 60);
	assert_int_equal(driver_status(&f->d), 0x4f);
	start(f, ALL);
	b.len = 11;
	driver_add(&f->d, 0, NULL, 0, &b, 1);
	driver_notify(&f->d, 0);
	give(f, mac, 60);
	assert_int_equal(driver_status(&f->d), 0x4f);
}

static void test_state(void **state)
{
	static const u8 other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct state_writer w = { 0 };
	struct state_reader r;

	start(f, ALL);
	control_u8(f, 0, 2, 1); /* all unicast */
	control_u64(f, 5, 0, F_GUEST_CSUM);
	control_u16(f, 4, 0, 2);
	post_rx(f, 0, 4, 256);
	type->quiesce(f->dev);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	type->reset(f->dev);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, type->name, "x", 1, type->state, f->dev, NULL), 0);
	assert_int_equal(type->loaded(f->dev, NULL), 0);
	assert_int_equal(fake_link_offloads(f->link), LINK_CSUM);
	give(f, other, 60);
	assert_true(received(f, 0));
	state_writer_fini(&w);
}

/* A saved state is input too: altered anywhere, it loads or is refused, and
 * the card works after the next reset. */
static void test_altered_state(void **state)
{
	struct fixture *f = *state;
	const struct device_type *type = f->dev->type;
	struct state_writer w = { 0 };
	u32 seed = 7;

	start(f, ALL);
	type->quiesce(f->dev);
	state_save(&w, type->name, "x", 1, 0, type->state, f->dev);
	for (unsigned i = 0; i < 3000; i++) {
		struct state_reader r = { w.data, w.used, 0 };
		size_t at = (seed >> 4) % w.used;
		u8 old = w.data[at];

		seed = seed * 1664525 + 1013904223;
		w.data[at] = (u8)(seed >> 24);
		if (!state_load(&r, type->name, "x", 1, type->state, f->dev,
		                NULL) &&
		    !type->loaded(f->dev, NULL)) {
			give(f, mac, 60);
			driver_notify(&f->d, 1);
		}
		type->reset(f->dev);
		w.data[at] = old;
	}
	pci_assign_resources(f->rig.pci);
	start(f, ALL);
	post_rx(f, 0, 20, 256);
	give(f, mac, 60);
	assert_true(received(f, 0));
	state_writer_fini(&w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_config),
		TEST(test_send),
		TEST(test_send_blocked),
		TEST(test_receive),
		TEST(test_hold),
		TEST(test_mergeable),
		TEST(test_event_after_shortage),
		TEST(test_hopeless),
		TEST(test_filter),
		TEST(test_vlan),
		TEST(test_offloads),
		TEST(test_control_garbage),
		TEST(test_multi_queue),
		TEST(test_control_queue_without_mq),
		TEST(test_status),
		TEST(test_copy),
		cmocka_unit_test_setup_teardown(test_copy_alone, setup_alone,
		                                teardown),
		TEST(test_reset),
		TEST(test_bad_receive_buffer),
		TEST(test_state),
		TEST(test_altered_state),
	};

	return cmocka_run_group_tests_name("virtio net", tests, NULL, NULL);
}
