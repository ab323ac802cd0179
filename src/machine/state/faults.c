/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults - userfaultfd over all of a machine's memory, and the thread that
 * reads it.
 *
 * The kernel is not to make huge pages meanwhile: before Linux 6.5 it takes
 * what is missing between two pages for zeroes as it does so.
 */
#include "machine/state/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/userfault.h"

enum { HIGH_FD = 512, MESSAGES = 16 };

struct faults {
	int fd, stop;
	bool huge_pages; /* were allowed */
	bool threaded;
	pthread_t thread;
	fault_fn *fn;
	void *ctx;
	u64 answered;
};

/* ---- the thread ---- */

static struct uffdio_range page_at(u64 address)
{
	return (struct uffdio_range){ .start = address, .len = PAGE_SIZE };
}

/* Zeroes, or who waits is told that it is there: when the fault was told of,
 * somebody else may have brought it in between. */
static void settle(const struct faults *f, u64 address)
{
	struct uffdio_range range = page_at(address);
	struct uffdio_zeropage zero = { .range = range };
	int rc;

	do
		rc = ioctl(f->fd, UFFDIO_ZEROPAGE, &zero);
	while (rc < 0 && errno == EAGAIN);
	/* Who waits for a page that can't be had tries again. */
	if (rc < 0)
		ioctl(f->fd, UFFDIO_WAKE, &range);
}

static void answer(struct faults *f, const struct uffd_msg *m)
{
	u64 address;

	if (m->event != UFFD_EVENT_PAGEFAULT)
		return;
	address = m->arg.pagefault.address & PAGE_MASK;
	f->fn(f->ctx, (u8 *)(uintptr_t)address);
	settle(f, address);
	f->answered++;
}

static void *serve(void *ctx)
{
	struct faults *f = ctx;
	struct pollfd ready[] = { { .fd = f->fd, .events = POLLIN },
		                  { .fd = f->stop, .events = POLLIN } };

	while (!ready[1].revents) {
		struct uffd_msg m[MESSAGES];
		ssize_t n;

		if (poll(ready, ARRAY_SIZE(ready), -1) < 0)
			continue;
		n = ready[0].revents ? read(f->fd, m, sizeof(m)) : 0;
		for (ssize_t i = 0; i * (ssize_t)sizeof(*m) < n; i++)
			answer(f, &m[i]);
	}
	return NULL;
}

/* ---- begin and end ---- */

/* When a process dies, its descriptors are let go from the highest down, and
 * the kernel's own threads may be waiting in a fault for the machine's vCPUs:
 * the vCPUs can go when nothing holds faults any more. */
static int high(int fd)
{
	int to = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	if (to < 0)
		return fd;
	close(fd);
	return to;
}

static int watch(const struct faults *f, const struct layout *l)
{
	const u64 needed = (u64)1 << _UFFDIO_COPY | (u64)1 << _UFFDIO_ZEROPAGE;
	struct uffdio_api api = { .api = UFFD_API,
		                  .features = UFFD_FEATURE_MISSING_SHMEM };

	if (ioctl(f->fd, UFFDIO_API, &api) < 0)
		return -errno;
	for (unsigned i = 0; i < l->count; i++) {
		struct uffdio_register r = {
			.range = { .start = (uintptr_t)l->part[i].host,
			           .len = l->part[i].pages * PAGE_SIZE },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (ioctl(f->fd, UFFDIO_REGISTER, &r) < 0)
			return -errno;
		if ((r.ioctls & needed) != needed)
			return -ENOTSUP;
		/* Zeroes that somebody looked at. */
		if (madvise(l->part[i].host, r.range.len, MADV_REMOVE) < 0)
			return -errno;
	}
	return 0;
}

int faults_open(struct faults **out, const struct layout *l)
{
	struct faults *f;
	int fd = userfault_open(), rc;

	if (fd < 0)
		return fd;
	f = xalloc(sizeof(*f));
	f->fd = high(fd);
	f->stop = eventfd(0, EFD_CLOEXEC);
	f->huge_pages = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 &&
	                prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
	rc = f->stop < 0 ? -errno : watch(f, l);
	if (rc < 0) {
		faults_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

int faults_answer(struct faults *f, fault_fn *fn, void *ctx, struct error *err)
{
	int rc;

	f->fn = fn;
	f->ctx = ctx;
	rc = thread_start(&f->thread, 0, serve, f);
	if (rc < 0)
		return error_set(err, rc, "cannot start a thread: %s",
		                 strerror(-rc));
	f->threaded = true;
	return 0;
}

int faults_put(struct faults *f, u8 *host, const u8 *contents)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)host,
		                    .src = (uintptr_t)contents,
		                    .len = PAGE_SIZE };

	while (ioctl(f->fd, UFFDIO_COPY, &copy) < 0) {
		if (errno != EAGAIN)
			return -errno;
		copy.copy = 0;
	}
	return 0;
}

void faults_close(struct faults *f)
{
	const u64 one = 1;

	if (!f)
		return;
	if (f->threaded && write(f->stop, &one, sizeof(one)) == sizeof(one))
		pthread_join(f->thread, NULL);
	log_debug("state", "%" PRIu64 " faults were answered", f->answered);
	/* Who waits goes on. */
	close(f->fd);
	if (f->stop >= 0)
		close(f->stop);
	if (f->huge_pages)
		prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	free(f);
}
