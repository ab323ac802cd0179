/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a cable over a socket: delivery, offloads, stopping, loss. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "frames.h"
#include "net/link.h"

struct fixture {
	struct loop *loop;
	struct link *link;
	int peer;
	int readable, writable, carrier_lost;
	int frames;     /* received by the callback */
	int stop_after; /* frames; then want_read(false) */
	int quit_at;    /* frames */
	struct loop_timer timer;
	u8 buf[LINK_HDR + LINK_FRAME_MAX];
};

static void on_readable(void *ctx)
{
	struct fixture *f = ctx;

	f->readable++;
	while (link_receive(f->link, f->buf, sizeof(f->buf)) > 0) {
		f->frames++;
		if (f->frames == f->quit_at)
			loop_quit(f->loop, 1);
		if (f->frames == f->stop_after) {
			link_want_read(f->link, false);
			return;
		}
	}
}

static void on_writable(void *ctx)
{
	struct fixture *f = ctx;

	f->writable++;
	loop_quit(f->loop, 2);
}

static void on_carrier(void *ctx, bool up)
{
	struct fixture *f = ctx;

	assert_false(up);
	f->carrier_lost++;
	loop_quit(f->loop, 3);
}

static void on_timer(void *ctx)
{
	loop_quit(((struct fixture *)ctx)->loop, 99);
}

static int run(struct fixture *f, u64 ms)
{
	int code;

	loop_timer_arm(&f->timer, loop_now_ns() + ms * NSEC_PER_MSEC);
	code = loop_run(f->loop);
	loop_timer_cancel(&f->timer);
	return code;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct link_config config = { on_readable, on_writable, on_carrier, f };
	struct error err;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(loop_create(&f->loop, &err), 0);
	assert_int_equal(link_open(&f->link, "socket", pair[0], f->loop, &err),
	                 0);
	f->peer = pair[1];
	loop_timer_init(&f->timer, f->loop, on_timer, f);
	link_attach(f->link, &config);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_timer_fini(&f->timer);
	link_close(f->link);
	loop_destroy(f->loop);
	close(f->peer);
	free(f);
	return 0;
}

static void put(struct fixture *f, const struct vnet_header *h, const u8 *frame,
                size_t len)
{
	u8 bytes[LINK_HDR];
	struct iovec iov[2] = { { bytes, LINK_HDR },
		                { (void *)(uintptr_t)frame, len } };

	vnet_encode(bytes, h);
	assert_int_equal(writev(f->peer, iov, 2), LINK_HDR + len);
}

static int put_in_parts(struct fixture *f, const struct vnet_header *h,
                        u8 *frame, size_t len)
{
	u8 bytes[LINK_HDR];
	/* The header itself may lie in several buffers. */
	struct iovec iov[4] = { { bytes, 5 },
		                { bytes + 5, LINK_HDR - 5 },
		                { frame, 1 },
		                { frame + 1, len - 1 } };

	vnet_encode(bytes, h);
	return link_send(f->link, iov, 4);
}

static void passes_frames(void **state)
{
	struct fixture *f = *state;
	struct vnet_header plain = { 0 }, h;
	u8 frame[100], got[200];

	for (u8 i = 0; i < 100; i++)
		frame[i] = i;
	assert_int_equal(put_in_parts(f, &plain, frame, sizeof(frame)), 0);
	assert_int_equal(read(f->peer, got, sizeof(got)), LINK_HDR + 100);
	assert_memory_equal(got + LINK_HDR, frame, 100);

	put(f, &plain, frame, sizeof(frame));
	assert_int_equal(link_receive(f->link, f->buf, sizeof(f->buf)),
	                 LINK_HDR + 100);
	assert_memory_equal(f->buf + LINK_HDR, frame, 100);
	vnet_decode(&h, f->buf);
	assert_int_equal(h.num_buffers, 1);
	assert_int_equal(link_receive(f->link, f->buf, sizeof(f->buf)),
	                 -EAGAIN);
	put(f, &plain, frame, sizeof(frame));
	assert_int_equal(link_receive(f->link, f->buf, 50), -EMSGSIZE);
}

static void large_frames_leave_whole(void **state)
{
	struct fixture *f = *state;
	struct vnet_header h = test_header4(1460), seen;
	u8 *frame = malloc(LINK_FRAME_MAX), *got = malloc(2 * LINK_FRAME_MAX);
	size_t len = test_frame4(frame, 60000);

	assert_true(link_peer_offloads(f->link) & LINK_TSO4);
	assert_int_equal(put_in_parts(f, &h, frame, len), 0);
	assert_int_equal(read(f->peer, got, 2 * LINK_FRAME_MAX),
	                 LINK_HDR + len);
	vnet_decode(&seen, got);
	assert_int_equal(seen.gso_type, VNET_GSO_TCP4);
	assert_int_equal(seen.gso_size, 1460);
	assert_memory_equal(got + LINK_HDR, frame, len);
	free(frame);
	free(got);
}

static void work_not_accepted_is_done(void **state)
{
	struct fixture *f = *state;
	struct vnet_header h = test_header4(1460), seen;
	u8 frame[5000];
	size_t len = test_frame4(frame, 4000), total = 0;
	ssize_t n;

	/* We accept nothing: the frame is cut, the checksums are full. */
	link_set_offloads(f->link, LINK_TSO4);
	put(f, &h, frame, len);
	while ((n = link_receive(f->link, f->buf, sizeof(f->buf))) > 0) {
		vnet_decode(&seen, f->buf);
		assert_int_equal(seen.flags, 0);
		assert_int_equal(seen.gso_type, 0);
		assert_int_equal(seen.num_buffers, 1);
		assert_true(n - LINK_HDR <= TEST_HEADERS4 + 1460);
		assert_true(
		    test_sums4(f->buf + LINK_HDR, (size_t)n - LINK_HDR));
		total += (size_t)n - LINK_HDR - TEST_HEADERS4;
	}
	assert_int_equal(total, 4000);
	h = test_header4(0);
	put(f, &h, frame, len);
	n = link_receive(f->link, f->buf, sizeof(f->buf));
	assert_true(test_sums4(f->buf + LINK_HDR, (size_t)n - LINK_HDR));

	/* We accept all: it comes as it is. */
	link_set_offloads(f->link, LINK_CSUM | LINK_TSO4);
	h = test_header4(1460);
	len = test_frame4(frame, 4000);
	put(f, &h, frame, len);
	n = link_receive(f->link, f->buf, sizeof(f->buf));
	assert_int_equal(n, LINK_HDR + len);
	assert_memory_equal(f->buf + LINK_HDR, frame, len);
}

static void refuses_nonsense(void **state)
{
	struct fixture *f = *state;
	u8 frame[200];
	size_t len = test_frame4(frame, 100);
	struct vnet_header h = test_header4(0);
	struct iovec none = { NULL, 0 };

	assert_int_equal(link_send(f->link, &none, 0), -EINVAL);
	assert_int_equal(link_send(f->link, &none, 1), -EINVAL);
	assert_int_equal(put_in_parts(f, &h, frame, 5), -EINVAL);
	h.csum_start = 199;
	assert_int_equal(put_in_parts(f, &h, frame, len), -EINVAL);
	h = test_header4(0);
	h.gso_type = VNET_GSO_ECN;
	assert_int_equal(put_in_parts(f, &h, frame, len), -EINVAL);
	h.gso_type = 99;
	assert_int_equal(put_in_parts(f, &h, frame, len), -EINVAL);
	h.gso_type = VNET_GSO_TCP4;
	h.gso_size = 0;
	assert_int_equal(put_in_parts(f, &h, frame, len), -EINVAL);
	h = test_header4(100);
	h.flags = 0;
	assert_int_equal(put_in_parts(f, &h, frame, len), -EINVAL);
	/* The far end's nonsense is dropped, and what follows is not. */
	h.gso_type = 99;
	put(f, &h, frame, len);
	assert_int_equal(send(f->peer, frame, 3, 0), 3);
	h = (struct vnet_header){ 0 };
	put(f, &h, frame, len);
	assert_int_equal(link_receive(f->link, f->buf, sizeof(f->buf)),
	                 -EINVAL);
	assert_int_equal(link_receive(f->link, f->buf, sizeof(f->buf)),
	                 -EBADMSG);
	assert_int_equal(link_receive(f->link, f->buf, sizeof(f->buf)),
	                 LINK_HDR + len);
}

static void stops_and_goes_on(void **state)
{
	struct fixture *f = *state;
	struct vnet_header plain = { 0 };
	u8 frame[60] = { 1 };

	for (int i = 0; i < 40; i++)
		put(f, &plain, frame, sizeof(frame));
	f->stop_after = 3;
	assert_int_equal(run(f, 50), 99);
	assert_int_equal(f->frames, 3);
	/* Most of them were taken off the socket with the first batch: they
	 * must be announced again without a new event. */
	f->stop_after = 0;
	f->quit_at = 40;
	link_want_read(f->link, true);
	assert_int_equal(run(f, 5000), 1);
	assert_int_equal(f->frames, 40);
}

static void says_when_there_is_room(void **state)
{
	struct fixture *f = *state;
	struct vnet_header plain = { 0 };
	u8 frame[1500] = { 1 }, got[2000];
	int sent = 0, rc;

	while ((rc = put_in_parts(f, &plain, frame, sizeof(frame))) == 0)
		sent++;
	assert_int_equal(rc, -EAGAIN);
	assert_true(sent > 10);
	assert_int_equal(run(f, 50), 99);
	for (int i = 0; i < sent; i++)
		assert_true(read(f->peer, got, sizeof(got)) > 0);
	assert_int_equal(run(f, 5000), 2);
	assert_int_equal(f->writable, 1);
	assert_int_equal(put_in_parts(f, &plain, frame, sizeof(frame)), 0);
}

static void notices_a_lost_peer(void **state)
{
	struct fixture *f = *state;
	struct vnet_header plain = { 0 };
	u8 frame[60] = { 1 };

	assert_true(link_carrier(f->link));
	close(f->peer);
	f->peer = -1;
	assert_int_equal(run(f, 5000), 3);
	assert_false(link_carrier(f->link));
	assert_int_equal(f->carrier_lost, 1);
	assert_int_equal(put_in_parts(f, &plain, frame, sizeof(frame)),
	                 -ENETDOWN);
}

static void wrong_descriptors(void **state)
{
	struct error err = { 0 };
	struct loop *loop;
	struct link *link = NULL;
	int fds[2];

	(void)state;
	assert_int_equal(loop_create(&loop, &err), 0);
	assert_int_equal(pipe(fds), 0);
	assert_true(link_open(&link, "socket", fds[0], loop, &err) < 0);
	assert_true(link_open(&link, "tap", fds[1], loop, &err) < 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
	assert_true(link_open(&link, "wet string", fds[0], loop, &err) < 0);
	assert_true(strlen(err.text) > 0);
	assert_null(link);
	close(fds[1]);
	loop_destroy(loop);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(passes_frames),
		WITH(large_frames_leave_whole),
		WITH(work_not_accepted_is_done),
		WITH(refuses_nonsense),
		WITH(stops_and_goes_on),
		WITH(says_when_there_is_room),
		WITH(notices_a_lost_peer),
		cmocka_unit_test(wrong_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
