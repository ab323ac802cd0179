/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/lost.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/loop.h"
#include "control/control.h"
#include "machine/machine.h"

/* A vCPU that holds what the loop waits for does it by itself after that. */
enum { LOOP_WAIT_S = 2 };
/* Between two looks at the file. */
enum { LOOK_MS = 500 };

/* A handler of signals has no context of its own. */
static struct {
	const struct machine *machine;
	int sock, wake;
	struct loop_fd *watch;
	struct loop_timer timer;
	struct stat was;
	u8 *message; /* made before there is need of it */
	size_t size;
	struct sigaction old;
} lost = { .sock = -1, .wake = -1 };

static _Noreturn void say_and_end(void)
{
	size_t done = 0;

	while (done < lost.size) {
		ssize_t n = send(lost.sock, lost.message + done,
		                 lost.size - done, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	_exit(END_MEMORY_LOST);
}

static void told(void *ctx, unsigned events)
{
	(void)ctx;
	(void)events;
	say_and_end();
}

static void make_message(const char *words)
{
	json_t *stopped = json_pack(
	    "{s:s,s:s,s:i,s:s,s:s}", "event", "stopped", "cause", "memory-lost",
	    "code", END_MEMORY_LOST, "words", words, "hint",
	    "start it again from a whole copy of that file; the disks are as "
	    "after a power cut");

	free(lost.message);
	lost.message = control_bytes(stopped, &lost.size);
	json_decref(stopped);
}

/* Cut short is what a SIGBUS tells. */
static void look(void *ctx)
{
	struct stat now;

	(void)ctx;
	if (fstat(machine_mapped_file(lost.machine), &now) == 0 &&
	    (now.st_mtim.tv_sec != lost.was.st_mtim.tv_sec ||
	     now.st_mtim.tv_nsec != lost.was.st_mtim.tv_nsec) &&
	    now.st_size >= lost.was.st_size) {
		make_message("memory of the machine is not what it was: the "
		             "file of a saved machine was written to while "
		             "this one ran from it");
		say_and_end();
	}
	loop_timer_arm(&lost.timer, loop_now_ns() + LOOK_MS * NSEC_PER_MSEC);
}

/* The loop's thread alone sends on the socket, and may be in the middle of a
 * message: others ask it, and touch the guest's memory no more. */
static _Noreturn void end_here(void)
{
	const struct timespec wait = { .tv_sec = LOOP_WAIT_S };
	const u64 one = 1;

	if (syscall(SYS_gettid) != getpid() &&
	    write(lost.wake, &one, sizeof(one)) == sizeof(one))
		clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
	say_and_end();
}

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
	if (info->si_code == BUS_ADRERR &&
	    machine_owns(lost.machine, info->si_addr))
		end_here();
	if (lost.old.sa_flags & SA_SIGINFO && lost.old.sa_sigaction)
		lost.old.sa_sigaction(sig, info, context);
	else
		sigaction(sig, &lost.old, NULL); /* and it comes again */
}

/* The same, of a page that could not be read when it was asked for. The first
 * to come says so. */
static void on_lost(void *ctx, const char *words)
{
	static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;

	(void)ctx;
	pthread_mutex_lock(&first);
	make_message(words);
	end_here();
}

int lost_watch(struct machine *m, struct loop *loop, int sock,
               const struct stat *was, struct error *err)
{
	struct sigaction sa = {
		.sa_sigaction = on_bus_error,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};

	lost.machine = m;
	lost.sock = sock;
	make_message("memory of the machine is gone: the file of a saved "
	             "machine was cut short while this one ran from it");
	lost.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (lost.wake < 0 || !lost.message)
		return error_set(err, -errno, "cannot watch the memory: %s",
		                 strerror(errno));
	lost.watch = loop_fd_add(loop, lost.wake, LOOP_READ, told, NULL);
	loop_timer_init(&lost.timer, loop, look, NULL);
	lost.was = *was;
	machine_when_lost(m, on_lost, NULL);
	if (machine_mapped_file(m) >= 0)
		look(NULL);
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGBUS, &sa, &lost.old))
		return error_set(err, -errno, "cannot catch SIGBUS: %s",
		                 strerror(errno));
	return 0;
}

void lost_unwatch(void)
{
	if (!lost.machine)
		return;
	sigaction(SIGBUS, &lost.old, NULL);
	loop_fd_remove(lost.watch);
	loop_timer_fini(&lost.timer);
	if (lost.wake >= 0)
		close(lost.wake);
	free(lost.message);
	lost.message = NULL;
	lost.machine = NULL;
}
