/* SPDX-License-Identifier: Apache-2.0 */
/* Who comes first, as a test has it: loaded into a command by LD_PRELOAD, this
 * acts before each call that takes, makes or removes a name, writes a file out,
 * or says something to another process (at_once.py, turns.py).
 *
 * TURNS_STOP=CALL:TEXT: before the first CALL with TEXT in its name, or the one
 * after TURNS_AFTER of them, it stops (SIGCONT).
 * TURNS_SEED=N: now and then it waits, up to TURNS_MS.
 * TURNS_KILL=N: before the Nth it is killed.
 * TURNS_OF=NAME: whom this is for (atoll); what it starts is not.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool wanted;
static const char *stop_text;
static char stop_call[16];
static uint64_t seed, most_ms, kill_at, stop_after;
static _Atomic uint64_t calls;
static _Atomic uint64_t matches;

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : 0;
}

__attribute__((constructor)) static void begin(void)
{
	const char *stop = getenv("TURNS_STOP"), *of = getenv("TURNS_OF");
	const char *colon = stop ? strchr(stop, ':') : NULL;

	wanted = !strcmp(program_invocation_short_name, of ? of : "atoll");
	if (colon && (size_t)(colon - stop) < sizeof(stop_call)) {
		memcpy(stop_call, stop, (size_t)(colon - stop));
		stop_text = colon + 1;
	}
	seed = number("TURNS_SEED");
	most_ms = number("TURNS_MS");
	kill_at = number("TURNS_KILL");
	stop_after = number("TURNS_AFTER");
}

/* The nth call waits for as long each time. */
static void wait_some(uint64_t n)
{
	uint64_t x = (seed + n) * 0x9e3779b97f4a7c15u;
	struct timespec t;

	x ^= x >> 31;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 29;
	if (x % 3)
		return;
	x = (x >> 8) % (most_ms * 1000 + 1);
	t.tv_sec = (time_t)(x / 1000000);
	t.tv_nsec = (long)(x % 1000000 * 1000);
	nanosleep(&t, NULL);
}

static void turn(const char *call, const void *text, size_t size)
{
	int saved = errno;
	uint64_t n;

	if (!wanted)
		return;
	n = atomic_fetch_add(&calls, 1) + 1;
	if (stop_text && !strcmp(call, stop_call) &&
	    memmem(text, size, stop_text, strlen(stop_text)) &&
	    atomic_fetch_add(&matches, 1) == stop_after)
		raise(SIGSTOP);
	if (kill_at && n == kill_at)
		raise(SIGKILL);
	if (seed && most_ms)
		wait_some(n);
	errno = saved;
}

#define REAL(name)                                                             \
	static __typeof__(name) *real;                                         \
	if (!real)                                                             \
	real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void named(const char *call, const char *path)
{
	turn(call, path, strlen(path));
}

int link(const char *from, const char *to)
{
	REAL(link);
	named("link", to);
	return real(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags)
{
	REAL(linkat);
	named("linkat", to);
	return real(a, from, b, to, flags);
}

int symlink(const char *from, const char *to)
{
	REAL(symlink);
	named("symlink", to);
	return real(from, to);
}

int rename(const char *from, const char *to)
{
	REAL(rename);
	named("rename", to);
	return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to)
{
	REAL(renameat);
	named("renameat", to);
	return real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	REAL(renameat2);
	named("renameat2", to);
	return real(a, from, b, to, flags);
}

int unlink(const char *path)
{
	REAL(unlink);
	named("unlink", path);
	return real(path);
}

int unlinkat(int at, const char *path, int flags)
{
	REAL(unlinkat);
	named("unlinkat", path);
	return real(at, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
	REAL(mkdir);
	named("mkdir", path);
	return real(path, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;
	REAL(open64);

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	named("open", path);
	return real(path, flags, mode);
}

int fsync(int fd)
{
	REAL(fsync);
	named("fsync", "");
	return real(fd);
}

int flock(int fd, int how)
{
	REAL(flock);
	named("flock", "");
	return real(fd, how);
}

int connect(int fd, const struct sockaddr *at, socklen_t size)
{
	REAL(connect);
	turn("connect", at, size);
	return real(fd, at, size);
}

/* The head of a message; who gets it waits for the rest. */
ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	REAL(sendmsg);
	named("sendmsg", "");
	return real(fd, m, flags);
}
