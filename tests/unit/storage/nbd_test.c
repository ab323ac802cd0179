/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server: clients that lie, and independent ones (qemu-img, nbdinfo,
 * where they are installed) that read one moment of a disk while it is
 * written to.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "storage/image.h"
#include "storage/live.h"
#include "storage/nbd/protocol.h"

#define SIZE (6 * MIB + 512)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned rounds = 3000;

static int run(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int run(const char *fmt, ...)
{
	char line[1024], command[1200];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	snprintf(command, sizeof(command), "{ %s; } >nbd-test.log 2>&1", line);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool have(const char *program)
{
	return run("%s --version", program) == 0;
}

static int listen_at(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static int scratch(void)
{
	char *path = scratch_path(".scratch");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	unlink(path);
	free(path);
	return fd;
}

struct fixture {
	char *image, *copy, *expected, *socket;
	struct block *live, *point;
	struct nbd_server *server;
	struct error err;
	_Atomic bool stop;
	pthread_t writer;
};

static void *write_on(void *arg)
{
	struct fixture *f = arg;
	u8 *buf = xalloc(64 * KIB);
	u32 random = 99;

	while (!atomic_load(&f->stop)) {
		u64 at = random_next(&random) % (SIZE / 512 - 128) * 512;

		memset(buf, (int)random, 64 * KIB);
		if (block_sync(f->live, BLOCK_WRITE, at, buf, 64 * KIB) < 0)
			break;
	}
	free(buf);
	return NULL;
}

static struct fixture *begin(void)
{
	struct fixture *f = xalloc(sizeof(*f));
	struct image_create make = { .format = "qcow2",
		                     .size = SIZE,
		                     .replace = true };
	struct block_open how = { .fd = -1, .format = "qcow2" };
	struct nbd_export export = { .name = "disk",
		                     .description = "one moment" };
	u8 *data = xalloc(MIB);
	struct block *b;
	FILE *out;

	f->image = scratch_path(".qcow2");
	f->copy = scratch_path(".copy");
	f->expected = scratch_path(".raw");
	f->socket = scratch_path(".sock");
	make.path = how.path = f->image;
	assert_int_equal(image_create(&make, &f->err), 0);
	assert_int_equal(block_open(&b, &how, &f->err), 0);
	f->live = live_open(b);
	out = fopen(f->expected, "wb");
	assert_non_null(out);
	/* The first, the third, the fifth MiB. */
	for (u64 at = 0; at + MIB <= SIZE; at += 2 * MIB) {
		pattern_fill(data, at, MIB, 5);
		assert_int_equal(
		    block_sync(f->live, BLOCK_WRITE, at, data, MIB), 0);
		fseek(out, (long)at, SEEK_SET);
		assert_int_equal(fwrite(data, 1, MIB, out), MIB);
	}
	fclose(out);
	assert_int_equal(truncate(f->expected, SIZE), 0);
	assert_int_equal(point_open(&f->point, f->live, scratch(), &f->err), 0);
	export.block = f->point;
	assert_int_equal(nbd_server_start(&f->server, listen_at(f->socket),
	                                  &export, &f->err),
	                 0);
	free(data);
	return f;
}

static void end(struct fixture *f)
{
	char **paths[] = { &f->image, &f->copy, &f->expected, &f->socket };

	nbd_server_stop(f->server);
	block_close(f->point);
	block_close(f->live);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		unlink(*paths[i]);
		free(*paths[i]);
	}
	unlink("nbd-test.log");
	free(f);
}

static void test_moment(void **state)
{
	struct fixture *f;
	unsigned now;
	u64 ever;

	(void)state;
	if (!have("qemu-img"))
		skip();
	f = begin();
	/* What is known to be zero, as another program understands it. */
	assert_int_equal(run("qemu-img map --output=json -f raw "
	                     "nbd:unix:%s:exportname=disk >%s && grep -q "
	                     "'\"start\": 1048576, \"length\": 1048576, "
	                     "\"depth\": 0, .*\"zero\": true' %s",
	                     f->socket, f->copy, f->copy),
	                 0);
	atomic_store(&f->stop, false);
	assert_int_equal(pthread_create(&f->writer, NULL, write_on, f), 0);
	assert_int_equal(run("qemu-img compare -f raw -F raw %s "
	                     "nbd:unix:%s:exportname=disk",
	                     f->expected, f->socket),
	                 0);
	assert_int_equal(run("qemu-img convert -f raw -O raw nbd:unix:%s %s && "
	                     "cmp %s %s",
	                     f->socket, f->copy, f->copy, f->expected),
	                 0);
	atomic_store(&f->stop, true);
	pthread_join(f->writer, NULL);
	/* Everything has been written over by now, or may have been. */
	assert_int_equal(run("qemu-img compare -f raw -F raw %s "
	                     "nbd:unix:%s:exportname=disk",
	                     f->expected, f->socket),
	                 0);
	assert_int_not_equal(run("qemu-img info -f raw "
	                         "nbd:unix:%s:exportname=other",
	                         f->socket),
	                     0);
	/* Nobody writes to it. */
	assert_int_not_equal(run("qemu-io -f raw -c 'write 0 512' "
	                         "nbd:unix:%s:exportname=disk",
	                         f->socket),
	                     0);
	nbd_server_clients(f->server, &now, &ever);
	assert_true(ever >= 5);
	end(f);
}

static void test_nbdinfo(void **state)
{
	struct fixture *f;

	(void)state;
	if (!have("nbdinfo") || !have("nbdcopy"))
		skip();
	f = begin();
	assert_int_equal(run("nbdinfo --json 'nbd+unix:///disk?socket=%s' "
	                     ">%s && grep -q '\"export-size\": %llu' %s && "
	                     "grep -q '\"is_read_only\": true' %s && "
	                     "grep -q 'base:allocation' %s",
	                     f->socket, f->copy, (unsigned long long)SIZE,
	                     f->copy, f->copy, f->copy),
	                 0);
	assert_int_equal(run("nbdinfo --list 'nbd+unix://?socket=%s' | grep -q "
	                     "'export=\"disk\"'",
	                     f->socket),
	                 0);
	/* Four connections at once. */
	assert_int_equal(pthread_create(&f->writer, NULL, write_on, f), 0);
	assert_int_equal(run("nbdcopy --connections=4 "
	                     "'nbd+unix:///disk?socket=%s' %s && cmp %s %s",
	                     f->socket, f->copy, f->copy, f->expected),
	                 0);
	atomic_store(&f->stop, true);
	pthread_join(f->writer, NULL);
	end(f);
}

/* More clients than places, one that says nothing, and a stop meanwhile. */
static void test_crowd(void **state)
{
	struct fixture *f = begin();
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fds[NBD_CLIENTS_MAX + 1];
	u8 hello[18];

	(void)state;
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", f->socket);
	for (int i = 0; i <= NBD_CLIENTS_MAX; i++) {
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(
		    connect(fds[i], (struct sockaddr *)&at, sizeof(at)), 0);
		assert_int_equal(
		    recv(fds[i], hello, sizeof(hello), MSG_WAITALL),
		    i < NBD_CLIENTS_MAX ? (ssize_t)sizeof(hello) : 0);
	}
	end(f);
	for (int i = 0; i <= NBD_CLIENTS_MAX; i++)
		close(fds[i]);
}

/* ---- clients that lie ---- */

static size_t add(u8 *p, size_t at, unsigned bytes, u64 value)
{
	nbd_put(p + at, bytes, value);
	return at + bytes;
}

static size_t option(u8 *p, size_t at, u32 number, const void *data, u32 n)
{
	at = add(p, at, 8, NBD_OPTION_MAGIC);
	at = add(p, at, 4, number);
	at = add(p, at, 4, n);
	if (n > 0)
		memcpy(p + at, data, n);
	return at + n;
}

static size_t request(u8 *p, size_t at, u16 flags, u16 type, u64 offset,
                      u32 length)
{
	at = add(p, at, 4, NBD_REQUEST_MAGIC);
	at = add(p, at, 2, flags);
	at = add(p, at, 2, type);
	at = add(p, at, 8, at);
	at = add(p, at, 8, offset);
	return add(p, at, 4, length);
}

/* A session that is all right, with something of everything. */
static size_t good_session(u8 *p)
{
	static const u8 go[] = { 0, 0, 0, 4, 'd', 'i', 's', 'k', 0, 1, 0, 3 };
	u8 meta[64];
	size_t n = 0, at = add(p, 0, 4, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);

	at = option(p, at, NBD_OPT_LIST, NULL, 0);
	at = option(p, at, NBD_OPT_STRUCTURED, NULL, 0);
	n = add(meta, n, 4, 0);
	n = add(meta, n, 4, 1);
	n = add(meta, n, 4, 15);
	memcpy(meta + n, "base:allocation", 15);
	at = option(p, at, NBD_OPT_LIST_META, meta, (u32)n + 15);
	at = option(p, at, NBD_OPT_SET_META, meta, (u32)n + 15);
	at = option(p, at, 77, "what", 4);
	at = option(p, at, NBD_OPT_INFO, go, sizeof(go));
	at = option(p, at, NBD_OPT_GO, go, sizeof(go));
	at = request(p, at, 0, NBD_CMD_READ, 5, 70000);
	at = request(p, at, NBD_CMD_FLAG_DF, NBD_CMD_READ, 1024, 5000);
	at = request(p, at, 0, NBD_CMD_BLOCK_STATUS, 100, 900000);
	at = request(p, at, NBD_CMD_FLAG_ONE, NBD_CMD_BLOCK_STATUS, 0, 4096);
	at = request(p, at, 0, NBD_CMD_WRITE, 0, 16);
	memset(p + at, 1, 16);
	at += 16;
	at = request(p, at, 0, NBD_CMD_READ, 1024 * 1024, 513);
	at = request(p, at, 0, NBD_CMD_FLUSH, 0, 0);
	at = request(p, at, 0, NBD_CMD_TRIM, 0, 512);
	return request(p, at, 0, NBD_CMD_DISC, 0, 0);
}

static void test_hostile(void **state)
{
	static u8 good[2048], bad[2048];
	size_t size = good_session(good);
	u32 random = 4711;

	(void)state;
	assert_true(size < sizeof(good));
	for (unsigned i = 0; i < rounds; i++) {
		size_t n = size;

		memcpy(bad, good, sizeof(bad));
		for (u32 k = random_next(&random) % 4; k < 4; k++)
			bad[random_next(&random) % size] =
			    random_next(&random) % 4 ? 0xff : (u8)(random >> 9);
		if (random_next(&random) % 4 == 0)
			n = random_next(&random) % size;
		LLVMFuzzerTestOneInput(bad, n);
	}
}

struct canned {
	const u8 *in;
	size_t size;
	u8 out[200000];
	size_t used;
};

static int canned_read(void *ctx, void *buf, size_t size)
{
	struct canned *c = ctx;

	if (size > c->size)
		return -ECONNRESET;
	memcpy(buf, c->in, size);
	c->in += size;
	c->size -= size;
	return 0;
}

static int canned_write(void *ctx, const void *buf, size_t size)
{
	struct canned *c = ctx;

	assert_true(size <= sizeof(c->out) - c->used);
	memcpy(c->out + c->used, buf, size);
	c->used += size;
	return 0;
}

/* Errors have the protocol's numbers, and the session goes on after them. */
static void test_errors(void **state)
{
	static const struct {
		u16 type;
		u64 offset;
		u32 length, error;
	} bad[] = {
		{ NBD_CMD_READ, SIZE, 512, NBD_EINVAL },
		{ NBD_CMD_READ, UINT64_MAX - 100, 512, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, NBD_EINVAL },
		{ NBD_CMD_READ, 0, NBD_PAYLOAD_MAX + 1, NBD_EINVAL },
		{ NBD_CMD_TRIM, 0, 512, NBD_EPERM },
		{ NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EPERM },
		{ NBD_CMD_BLOCK_STATUS, 0, 512, NBD_EINVAL },
		{ 99, 0, 512, NBD_EINVAL },
	};
	struct canned *c = xalloc(sizeof(*c));
	const struct nbd_pipe pipe = { canned_read, canned_write, c };
	struct nbd_export export = { .name = "disk" };
	struct fixture *f = begin();
	u8 in[1024], want[100];
	size_t n = add(in, 0, 4, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES), at;

	(void)state;
	export.block = f->point;
	n = option(in, n, NBD_OPT_EXPORT_NAME, "disk", 4);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		n = request(in, n, 0, bad[i].type, bad[i].offset,
		            bad[i].length);
	n = request(in, n, 0, NBD_CMD_READ, 3, 100);
	n = request(in, n, 0, NBD_CMD_DISC, 0, 0);
	c->in = in;
	c->size = n;
	assert_int_equal(nbd_session_run(&pipe, &export), 0);
	at = 18 + 10; /* the greeting, and the disk */
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++, at += 16) {
		assert_int_equal(nbd_get(c->out + at, 4), NBD_SIMPLE_MAGIC);
		assert_int_equal(nbd_get(c->out + at + 4, 4), bad[i].error);
	}
	assert_int_equal(nbd_get(c->out + at + 4, 4), 0);
	pattern_fill(want, 3, 100, 5);
	assert_memory_equal(c->out + at + 16, want, 100);
	assert_int_equal(c->used, at + 116);
	free(c);
	end(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moment), cmocka_unit_test(test_nbdinfo),
		cmocka_unit_test(test_crowd),  cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_errors),
	};

	if (argc > 1)
		rounds = (unsigned)atoi(argv[1]);
	return cmocka_run_group_tests_name("nbd", tests, NULL, NULL);
}
