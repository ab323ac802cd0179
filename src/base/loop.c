/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - epoll, one timerfd for the earliest timer, one eventfd to wake it.
 *
 * Timers sit in a binary heap under a lock, since any thread arms them. The
 * timerfd is only set again when the earliest time changes.
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"

struct post {
	struct post *next;
	loop_fn *fn;
	void *ctx;
};

struct loop_fd {
	struct loop *loop;
	int fd;
	bool removed, added;
	unsigned events;
	loop_fd_fn *fn;
	void *ctx;
	struct loop_fd *next_dead;
};

struct loop {
	int epoll, timerfd, wake;
	pthread_t thread;
	bool running;
	_Atomic bool quit;
	_Atomic int code;
	struct loop_fd *dead; /* removed; freed after the current round */

	pthread_mutex_t lock; /* all below */
	pthread_cond_t fired; /* a callback ended */
	struct post *posts, **posts_end;
	struct loop_timer **heap; /* 1-based */
	size_t used, room;
	u64 timerfd_ns; /* what it is set to; 0: not */
	struct loop_timer *firing;
};

u64 loop_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static int watch_internal(struct loop *loop, int fd, void *tag)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = tag };

	return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &ev);
}

int loop_create(struct loop **out, struct error *err)
{
	struct loop *loop = xalloc(sizeof(*loop));

	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->fired, NULL);
	loop->posts_end = &loop->posts;
	loop->timerfd = loop->wake = -1;
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll < 0)
		goto fail;
	loop->timerfd =
	    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	loop->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->timerfd < 0 || loop->wake < 0 ||
	    watch_internal(loop, loop->timerfd, &loop->timerfd) ||
	    watch_internal(loop, loop->wake, &loop->wake))
		goto fail;
	*out = loop;
	return 0;
fail:
	error_set(err, -errno, "cannot make an event loop: %s",
	          strerror(errno));
	loop_destroy(loop);
	return err ? err->code : -ENOMEM;
}

static void free_dead(struct loop *loop)
{
	struct loop_fd *watch;

	while ((watch = loop->dead)) {
		loop->dead = watch->next_dead;
		free(watch);
	}
}

void loop_destroy(struct loop *loop)
{
	struct post *post;

	if (!loop)
		return;
	free_dead(loop);
	while ((post = loop->posts)) {
		loop->posts = post->next;
		free(post);
	}
	for (size_t i = 1; i <= loop->used; i++)
		loop->heap[i]->index = 0;
	free(loop->heap);
	if (loop->epoll >= 0)
		close(loop->epoll);
	if (loop->timerfd >= 0)
		close(loop->timerfd);
	if (loop->wake >= 0)
		close(loop->wake);
	pthread_cond_destroy(&loop->fired);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

/* ---- descriptors ---- */

static void watch_apply(struct loop_fd *watch)
{
	struct epoll_event ev = { .data.ptr = watch };
	bool want = watch->events && !watch->removed;

	if (watch->events & LOOP_READ)
		ev.events |= EPOLLIN;
	if (watch->events & LOOP_WRITE)
		ev.events |= EPOLLOUT;
	/* A paused watch is taken out: epoll reports hang-ups unasked. */
	if (want)
		epoll_ctl(watch->loop->epoll,
		          watch->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD,
		          watch->fd, &ev);
	else if (watch->added)
		epoll_ctl(watch->loop->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->added = want;
}

struct loop_fd *loop_fd_add(struct loop *loop, int fd, unsigned events,
                            loop_fd_fn *fn, void *ctx)
{
	struct loop_fd *watch = xalloc(sizeof(*watch));

	watch->loop = loop;
	watch->fd = fd;
	watch->events = events;
	watch->fn = fn;
	watch->ctx = ctx;
	watch_apply(watch);
	return watch;
}

void loop_fd_set(struct loop_fd *watch, unsigned events)
{
	if (watch->events == events)
		return;
	watch->events = events;
	watch_apply(watch);
}

void loop_fd_remove(struct loop_fd *watch)
{
	if (!watch)
		return;
	watch->removed = true;
	watch_apply(watch);
	/* Events of this round may still point at it. */
	watch->next_dead = watch->loop->dead;
	watch->loop->dead = watch;
}

static void watch_fire(struct loop_fd *watch, u32 ev)
{
	unsigned events = 0;

	if (ev & (EPOLLIN | EPOLLHUP | EPOLLERR))
		events |= LOOP_READ;
	if (ev & (EPOLLOUT | EPOLLERR))
		events |= LOOP_WRITE;
	events &= watch->events;
	if (ev & (EPOLLHUP | EPOLLERR))
		events |= LOOP_HANGUP;
	if (!watch->removed && watch->events && events)
		watch->fn(watch->ctx, events);
}

/* ---- calls from other threads ---- */

static void wake(struct loop *loop)
{
	u64 one = 1;

	/* Full means a wake-up is under way already. */
	if (write(loop->wake, &one, sizeof(one)) < 0)
		return;
}

void loop_post(struct loop *loop, loop_fn *fn, void *ctx)
{
	struct post *post = xalloc(sizeof(*post));

	post->fn = fn;
	post->ctx = ctx;
	pthread_mutex_lock(&loop->lock);
	*loop->posts_end = post;
	loop->posts_end = &post->next;
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
}

static void run_posts(struct loop *loop)
{
	struct post *post, *list;

	pthread_mutex_lock(&loop->lock);
	list = loop->posts;
	loop->posts = NULL;
	loop->posts_end = &loop->posts;
	pthread_mutex_unlock(&loop->lock);
	while ((post = list)) {
		list = post->next;
		post->fn(post->ctx);
		free(post);
	}
}

void loop_quit(struct loop *loop, int code)
{
	loop->code = code;
	loop->quit = true;
	wake(loop);
}

/* ---- timers ---- */

static void heap_put(struct loop *loop, size_t i, struct loop_timer *t)
{
	loop->heap[i] = t;
	t->index = i;
}

static void heap_up(struct loop *loop, size_t i)
{
	struct loop_timer *t = loop->heap[i];

	for (; i > 1 && loop->heap[i / 2]->when_ns > t->when_ns; i /= 2)
		heap_put(loop, i, loop->heap[i / 2]);
	heap_put(loop, i, t);
}

static void heap_down(struct loop *loop, size_t i)
{
	struct loop_timer *t = loop->heap[i];
	size_t child;

	while ((child = 2 * i) <= loop->used) {
		if (child < loop->used &&
		    loop->heap[child + 1]->when_ns < loop->heap[child]->when_ns)
			child++;
		if (loop->heap[child]->when_ns >= t->when_ns)
			break;
		heap_put(loop, i, loop->heap[child]);
		i = child;
	}
	heap_put(loop, i, t);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
	size_t i = t->index;
	struct loop_timer *last;

	if (!i)
		return;
	t->index = 0;
	last = loop->heap[loop->used--];
	if (last == t)
		return;
	heap_put(loop, i, last);
	heap_up(loop, i);
	heap_down(loop, last->index);
}

static void set_timerfd(struct loop *loop)
{
	u64 when = loop->used ? MAX(loop->heap[1]->when_ns, (u64)1) : 0;
	struct itimerspec its = {
		.it_value = { (time_t)(when / NSEC_PER_SEC),
		              (long)(when % NSEC_PER_SEC) },
	};

	if (when == loop->timerfd_ns)
		return;
	loop->timerfd_ns = when;
	timerfd_settime(loop->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

void loop_timer_init(struct loop_timer *timer, struct loop *loop, loop_fn *fn,
                     void *ctx)
{
	*timer = (struct loop_timer){ .loop = loop, .fn = fn, .ctx = ctx };
}

void loop_timer_arm(struct loop_timer *t, u64 when_ns)
{
	struct loop *loop = t->loop;

	pthread_mutex_lock(&loop->lock);
	heap_remove(loop, t);
	/* Beyond 292 years timerfd would see a negative time. */
	t->when_ns = MIN(when_ns, (u64)INT64_MAX);
	if (++loop->used >= loop->room) {
		loop->room = loop->room ? loop->room * 2 : 64;
		loop->heap =
		    xrealloc(loop->heap, loop->room * sizeof(*loop->heap));
	}
	heap_put(loop, loop->used, t);
	heap_up(loop, loop->used);
	set_timerfd(loop);
	pthread_mutex_unlock(&loop->lock);
}

void loop_timer_cancel(struct loop_timer *t)
{
	/* The timerfd is left: an early wake-up finds nothing to do, and
	 * costs less than a system call for each cancel. */
	pthread_mutex_lock(&t->loop->lock);
	heap_remove(t->loop, t);
	pthread_mutex_unlock(&t->loop->lock);
}

void loop_timer_fini(struct loop_timer *t)
{
	struct loop *loop = t->loop;

	if (!loop)
		return;
	pthread_mutex_lock(&loop->lock);
	heap_remove(loop, t);
	while (loop->firing == t &&
	       !(loop->running && pthread_equal(loop->thread, pthread_self())))
		pthread_cond_wait(&loop->fired, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

static void run_timers(struct loop *loop)
{
	u64 now = loop_now_ns();
	struct loop_timer *t;

	pthread_mutex_lock(&loop->lock);
	while (loop->used && loop->heap[1]->when_ns <= now) {
		t = loop->heap[1];
		heap_remove(loop, t);
		loop->firing = t;
		pthread_mutex_unlock(&loop->lock);
		t->fn(t->ctx);
		pthread_mutex_lock(&loop->lock);
		loop->firing = NULL;
		pthread_cond_broadcast(&loop->fired);
	}
	loop->timerfd_ns = 0;
	set_timerfd(loop);
	pthread_mutex_unlock(&loop->lock);
}

/* ---- the loop ---- */

static void drain_counter(int fd)
{
	u64 count;

	if (read(fd, &count, sizeof(count)) < 0)
		return; /* another round took it */
}

int loop_run(struct loop *loop)
{
	struct epoll_event events[32];

	loop->thread = pthread_self();
	loop->running = true;
	while (!loop->quit) {
		int n = epoll_wait(loop->epoll, events, ARRAY_SIZE(events), -1);

		for (int i = 0; i < n; i++) {
			void *tag = events[i].data.ptr;

			if (tag == &loop->timerfd) {
				drain_counter(loop->timerfd);
				run_timers(loop);
			} else if (tag == &loop->wake) {
				drain_counter(loop->wake);
				run_posts(loop);
			} else {
				watch_fire(tag, events[i].events);
			}
		}
		free_dead(loop);
	}
	run_posts(loop);
	loop->running = false;
	loop->quit = false;
	return loop->code;
}
