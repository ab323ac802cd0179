/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The throttle: rates over many requests, order, flushes, cancel. Time is
 * only compared with time that the limits ask for, from below.
 */
#include "support.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/loop.h"
#include "storage/throttle.h"

struct fixture {
	char *path;
	struct block *b;
	u8 buf[4096];
};

static struct fixture *begin(const struct throttle_limits *limits)
{
	struct fixture *f = xalloc(sizeof(*f));
	struct block_open how = { .fd = -1 };
	struct block *raw;
	struct error err;

	f->path = scratch_file(".raw", MIB);
	how.path = f->path;
	assert_int_equal(block_open(&raw, &how, &err), 0);
	f->b = throttle_open(raw, limits);
	return f;
}

static void end(struct fixture *f)
{
	block_close(f->b);
	unlink(f->path);
	free(f->path);
	free(f);
}

static double seconds(void)
{
	return (double)loop_now_ns() / NSEC_PER_SEC;
}

static void test_requests(void **state)
{
	struct throttle_limits limits = { .iops = 200, .iops_burst = 20 };
	struct fixture *f = begin(&limits);
	double start = seconds(), burst;

	(void)state;
	for (int i = 0; i < 20; i++)
		assert_int_equal(block_sync(f->b, BLOCK_WRITE, 0, f->buf, 512),
		                 0);
	burst = seconds() - start;
	for (int i = 0; i < 60; i++)
		assert_int_equal(block_sync(f->b, BLOCK_READ, 0, f->buf, 4096),
		                 0);
	/* 60 more at 200 a second. */
	assert_true(seconds() - start >= 0.28);
	assert_true(burst < seconds() - start);
	end(f);
}

static void test_bytes(void **state)
{
	struct throttle_limits limits = { .bytes = 40 * KIB,
		                          .bytes_burst = 4 * KIB };
	struct fixture *f = begin(&limits);
	double start = seconds();

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(block_sync(f->b, BLOCK_WRITE, 0, f->buf, 4096),
		                 0);
	/* A flush passes what waits. */
	assert_int_equal(block_sync(f->b, BLOCK_FLUSH, 0, NULL, 0), 0);
	assert_true(seconds() - start >= 0.25);
	/* Limits can be lifted. */
	limits = (struct throttle_limits){ 0 };
	throttle_set(f->b, &limits);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(block_sync(f->b, BLOCK_WRITE, 0, f->buf, 4096),
		                 0);
	end(f);
}

/* What goes through in half a second, of what the limits allow for it. */
static double share(const struct throttle_limits *limits, u32 bytes,
                    double rate, double burst)
{
	struct fixture *f = begin(limits);
	double start = seconds(), spent;
	u8 *buf = xalloc(bytes);
	unsigned n = 0;

	do {
		assert_int_equal(block_sync(f->b, BLOCK_WRITE, 0, buf, bytes),
		                 0);
		n++;
		spent = seconds() - start;
	} while (spent < 0.5);
	free(buf);
	end(f);
	/* One more may overdraw each bucket. */
	return (n - 1) / (rate * spent + burst);
}

static void test_rates(void **state)
{
	const struct throttle_limits requests = { .iops = 300,
		                                  .iops_burst = 10 };
	const struct throttle_limits bytes = { .bytes = 8 * MIB,
		                               .bytes_burst = 128 * KIB };
	double a = share(&requests, 512, 300, 10);
	double b = share(&bytes, 64 * KIB, 128, 2);

	(void)state;
	print_message("%.2f of the requests, %.2f of the bytes\n", a, b);
	assert_true(a <= 1.05 && b <= 1.05);
	/* Hosts are busy, but not that busy. */
	assert_true(a > 0.25 && b > 0.25);
}

struct job {
	struct block_request req;
	struct iovec iov;
	sem_t done;
	int result;
};

static void job_done(struct block_request *req, int result)
{
	struct job *j = req->ctx;

	j->result = result;
	sem_post(&j->done);
}

static void submit(struct fixture *f, struct job *j)
{
	sem_init(&j->done, 0, 0);
	j->iov = (struct iovec){ f->buf, 4096 };
	j->req = (struct block_request){ .op = BLOCK_READ,
		                         .length = 4096,
		                         .iov = &j->iov,
		                         .iov_count = 1,
		                         .done = job_done,
		                         .ctx = j };
	block_submit(f->b, &j->req);
}

static void test_cancel(void **state)
{
	/* The first goes through; the next would wait for ten seconds. */
	struct throttle_limits limits = { .bytes = 400, .bytes_burst = 1 };
	struct fixture *f = begin(&limits);
	double start = seconds();
	struct job first, second;

	(void)state;
	submit(f, &first);
	submit(f, &second);
	assert_true(block_cancel(f->b, &second.req));
	sem_wait(&second.done);
	assert_int_equal(second.result, -ECANCELED);
	sem_wait(&first.done);
	assert_int_equal(first.result, 0);
	/* A refused request doesn't wait, either. */
	assert_int_equal(block_sync(f->b, BLOCK_READ, MIB, f->buf, 512),
	                 -EINVAL);
	assert_true(seconds() - start < 9);
	sem_destroy(&first.done);
	sem_destroy(&second.done);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_cancel),
	};

	return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
