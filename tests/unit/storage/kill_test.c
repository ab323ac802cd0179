/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that writes is killed, again and again: each time the image opens,
 * has everything that had been flushed, and checks clean.
 *
 * The child says after each flush, through shared memory, what it had written
 * by then. A killed process loses nothing that the host had taken, so what is
 * found is at least that; each sector holds this write or a later one.
 * Arguments: how many times, and the first seed.
 */
#include "support.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "model.h"
#include "storage/image.h"

enum { SECTOR = 512, SECTORS = 16 * 1024, DEPTH = 8, SPAN = 24 };

/* What both processes know; the child writes, the parent reads after it. */
struct shared {
	_Atomic u32 writes;    /* begun, of all children */
	_Atomic u32 flushes;   /* ended */
	u32 begun[SECTORS];    /* the last write begun */
	u32 complete[SECTORS]; /* the last one that ended */
	u32 durable[SECTORS];  /* as of the last flush that ended */
};

struct round {
	const char *path;
	const struct image_create *how;
	struct shared *s;
	u32 random;
};

static unsigned times = 10;
static u32 first_seed = 1;

static struct block *open_image(const char *path, unsigned flags)
{
	const struct block_open how = { .path = path,
		                        .fd = -1,
		                        .format = "qcow2",
		                        .flags = flags,
		                        .cache_bytes = 64 * KIB,
		                        .opener = &block_opener_paths };
	struct error err;
	struct block *b;

	if (block_open(&b, &how, &err) < 0)
		fail_msg("%s", err.text);
	return b;
}

/* ---- the child ---- */

struct slot {
	struct block_request req;
	struct iovec iov;
	u8 data[SPAN * SECTOR];
	u32 stamp;
	sem_t *done;
};

static void slot_done(struct block_request *req, int result)
{
	struct slot *slot = req->ctx;

	if (result < 0)
		_exit(3);
	sem_post(slot->done);
}

static void begin_write(struct round *r, struct block *b, struct slot *slot,
                        u32 first, u32 n)
{
	slot->stamp = atomic_fetch_add(&r->s->writes, 1) + 1;
	for (u32 i = 0; i < n; i++) {
		r->s->begun[first + i] = slot->stamp;
		pattern_fill(slot->data + i * SECTOR, (first + i) * SECTOR,
		             SECTOR, slot->stamp);
	}
	slot->iov = (struct iovec){ slot->data, (size_t)n * SECTOR };
	slot->req = (struct block_request){ .op = BLOCK_WRITE,
		                            .offset = (u64)first * SECTOR,
		                            .length = (u64)n * SECTOR,
		                            .iov = &slot->iov,
		                            .iov_count = 1,
		                            .done = slot_done,
		                            .ctx = slot };
	block_submit(b, &slot->req);
}

/* Some writes at once, that do not overlap: one in each part of the disk. */
static void write_some(struct round *r, struct block *b, struct slot *slots,
                       sem_t *done)
{
	u32 part = SECTORS / DEPTH;

	for (u32 i = 0; i < DEPTH; i++) {
		u32 n = 1 + random_next(&r->random) % SPAN;
		u32 at = random_next(&r->random) % (part - n);

		slots[i].done = done;
		begin_write(r, b, &slots[i], i * part + at, n);
	}
	for (u32 i = 0; i < DEPTH; i++)
		sem_wait(done);
	block_drain(b);
	for (u32 i = 0; i < DEPTH; i++)
		for (u64 s = 0; s < slots[i].req.length / SECTOR; s++)
			r->s->complete[slots[i].req.offset / SECTOR + s] =
			    slots[i].stamp;
}

static NORETURN void child(struct round *r)
{
	struct slot *slots = xalloc(DEPTH * sizeof(*slots));
	struct block *b = open_image(r->path, 0);
	struct error err;
	sem_t done;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sem_init(&done, 0, 0);
	for (u32 i = 0;; i++) {
		write_some(r, b, slots, &done);
		if (i % 16 == 5 && image_snapshot_create(b, "s", &err) < 0)
			_exit(4);
		if (i % 16 == 9 && image_snapshot_delete(b, "s", &err) < 0)
			_exit(5);
		if (random_next(&r->random) % 3)
			continue;
		if (block_sync(b, BLOCK_FLUSH, 0, NULL, 0) < 0)
			_exit(6);
		memcpy(r->s->durable, r->s->complete, sizeof(r->s->durable));
		atomic_fetch_add(&r->s->flushes, 1);
	}
}

/* ---- the parent ---- */

static void check_clean(struct round *r)
{
	struct block *b = open_image(r->path, IMAGE_OPEN_NO_BACKING);
	struct image_details d;
	struct error err;

	/* The next child makes it anew. */
	image_details(b, &d);
	while (d.snapshot_count > 0) {
		assert_int_equal(
		    image_snapshot_delete(b, d.snapshots[0].id, &err), 0);
		image_details_free(&d);
		image_details(b, &d);
	}
	image_details_free(&d);
	block_close(b);
	if (model_have_oracle()) {
		int rc = model_oracle("check -f qcow2 %s", r->path);

		if (rc != 0 && rc != 3) /* 3: only leaks */
			fail_msg("qemu-img check says %d", rc);
	}
}

static void check_contents(struct round *r)
{
	static u8 data[SECTORS * SECTOR];
	struct block *b = open_image(r->path, 0);

	assert_int_equal(block_sync(b, BLOCK_READ, 0, data, sizeof(data)), 0);
	block_close(b);
	for (u32 i = 0; i < SECTORS; i++) {
		u32 stamp = r->s->durable[i];
		bool ok = false;

		for (; !ok && stamp <= r->s->begun[i]; stamp++)
			ok = stamp
			         ? pattern_holds(data + i * SECTOR,
			                         (u64)i * SECTOR, SECTOR, stamp)
			         : !memcmp(data + i * SECTOR, (u8[SECTOR]){ 0 },
			                   SECTOR);
		if (!ok)
			fail_msg("sector %u: neither write %u nor a later one",
			         i, r->s->durable[i]);
		/* From here on this is what it holds. */
		r->s->durable[i] = r->s->complete[i] = r->s->begun[i] =
		    stamp - 1;
	}
}

static void kill_one(struct round *r)
{
	u32 before = atomic_load(&r->s->flushes);
	struct timespec wait = { 0 };
	int status;
	pid_t pid = fork();

	if (pid == 0)
		child(r);
	assert_true(pid > 0);
	/* It works, and then it dies at some moment. */
	for (int i = 0; i < 99999 && atomic_load(&r->s->flushes) == before; i++)
		usleep(1000);
	wait.tv_nsec = random_next(&r->random) % 40000000;
	nanosleep(&wait, NULL);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status))
		fail_msg("the writer ended by itself: %d", WEXITSTATUS(status));
	assert_true(atomic_load(&r->s->flushes) > before);
	check_clean(r);
	check_contents(r);
}

static void test_kills(void **state)
{
	struct image_create how = *(const struct image_create *)*state;
	struct round r = { .how = &how, .random = first_seed * 7919 | 1 };
	char *path = scratch_path(".qcow2");
	struct error err;

	how.path = r.path = path;
	how.replace = true;
	how.size = SECTORS * SECTOR;
	r.s = mmap(NULL, sizeof(*r.s), PROT_READ | PROT_WRITE,
	           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(r.s != MAP_FAILED);
	assert_int_equal(image_create(&how, &err), 0);
	for (unsigned i = 0; i < times; i++) {
		random_next(&r.random);
		kill_one(&r);
	}
	print_message("%u writers killed after %u writes, %u flushes\n", times,
	              atomic_load(&r.s->writes), atomic_load(&r.s->flushes));
	munmap(r.s, sizeof(*r.s));
	unlink(path);
	free(path);
}

int main(int argc, char **argv)
{
	static struct image_create plain = { .format = "qcow2" },
				   small = { .format = "qcow2",
		                             .cluster_bytes = 4096 },
				   lazy = { .format = "qcow2",
		                            .lazy_refcounts = true,
		                            .extended_l2 = true };
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(test_kills, &plain),
		cmocka_unit_test_prestate(test_kills, &small),
		cmocka_unit_test_prestate(test_kills, &lazy),
	};

	if (argc > 1)
		times = (unsigned)atoi(argv[1]);
	if (argc > 2)
		first_seed = (u32)atoi(argv[2]);
	return cmocka_run_group_tests_name("kill", tests, NULL, NULL);
}
