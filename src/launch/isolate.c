/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isolate.c - clone, then a short talk: we say who the child is in its user
 * namespace, and let it go on; it takes its user id, asks to be killed when we
 * die, and says so; then it becomes another program, which closes the line, or
 * says what failed.
 *
 *	we: 'g' (go)   child: 'c' (changed)   we: 'g'   child: errno, or the end
 *
 * So there is no moment at which we could die and leave it.
 *
 * The child has our memory until it becomes that program: to copy what a large
 * process has mapped, and throw it away, takes longer than all the rest. It has
 * a stack and signal handlers of its own; of the two one always waits for the
 * other, as errno is common.
 *
 * Inside, the machine's user is 0: the namespace's root can set up its mounts,
 * and owns what is in /proc of itself. Outside it is nobody.
 */
#include "launch/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/kernel_file.h"
#include "base/log.h"
#include "launch/helper.h"

enum {
	STACK_BYTES = 64 * 1024,
	OWN = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
	      CLONE_NEWUTS
};

/* ---- in the child: system calls alone, as after any fork with threads ---- */

/* Without a user namespace: what its root may do inside is to be kept over the
 * change of user and over exec, until atoll-vm drops it. */
static int keep_mounting(void)
{
	static const int kept[] = { CAP_SYS_ADMIN, CAP_SYS_CHROOT };
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		data[0].permitted |= 1u << kept[i];
	data[0].effective = data[0].inheritable = data[0].permitted;
	if (syscall(SYS_capset, &head, data) < 0)
		return errno;
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0) <
		    0)
			return errno;
	return 0;
}

static int set_ids(u32 id)
{
	if (syscall(SYS_setgroups, 0, NULL) < 0 ||
	    syscall(SYS_setresgid, id, id, id) < 0 ||
	    syscall(SYS_setresuid, id, id, id) < 0)
		return errno;
	return 0;
}

static int change_user(const struct isolate *how)
{
	bool user = how->kind == ISOLATE_ALL;
	int rc;

	if (how->own_uid && !user && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return errno;
	rc = how->own_uid ? set_ids(user ? 0 : how->uid) : 0;
	if (rc == 0 && how->own_uid && how->kind == ISOLATE_ROOT)
		rc = keep_mounting();
	return rc;
}

/* No handler of ours runs in it. What is between the two kinds of signals is
 * the C library's: it has no calls here that fail. */
static void reset_signals(void)
{
	const struct sigaction usual = { .sa_handler = SIG_DFL };
	struct sigaction now;
	sigset_t none;

	for (int i = 1; i <= SIGRTMAX; i++) {
		if (i > SIGSYS && i < SIGRTMIN)
			continue;
		sigaction(i, NULL, &now);
		if ((i == SIGPIPE || now.sa_handler != SIG_IGN) &&
		    now.sa_handler != SIG_DFL)
			sigaction(i, &usual, NULL);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

struct start {
	const struct isolate *how;
	int ours, line;
};

static int child(void *arg)
{
	const struct start *s = arg;
	const struct isolate *how = s->how;
	int line = s->line, rc;
	char byte;

	reset_signals();
	close(s->ours);
	if (read(line, &byte, 1) != 1)
		_exit(127);
	rc = change_user(how);
	/* After it: a change of user forgets this. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	byte = (char)rc;
	if (rc == 0 && write(line, "c", 1) == 1 && read(line, &byte, 1) == 1)
		byte = (char)how->become(how->ctx, how->kind);
	if (write(line, &byte, 1) != 1)
		_exit(126);
	_exit(127);
}

/* ---- in the parent ---- */

static int write_proc(pid_t pid, const char *file, const char *text)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return kernel_file_write(AT_FDCWD, path, text);
}

static int write_maps(pid_t pid, struct isolate *how)
{
	struct error err = { 0 };
	char text[32];
	int rc = 0;

	if (how->own_uid && how->helper >= 0) {
		rc = helper_map(how->helper, pid, how->machine, &err);
		if (rc < 0)
			log_warn("launch", "%s", err.text);
		how->held = rc;
		return MIN(rc, 0);
	}
	snprintf(text, sizeof(text), "0 %u 1\n",
	         how->own_uid ? how->uid : geteuid());
	rc = write_proc(pid, "uid_map", text);
	/* Only root may let groups be set. */
	if (rc == 0 && !how->own_uid)
		rc = write_proc(pid, "setgroups", "deny");
	snprintf(text, sizeof(text), "0 %u 1\n",
	         how->own_uid ? how->uid : getegid());
	return rc == 0 ? write_proc(pid, "gid_map", text) : rc;
}

static bool hear(int line, char what)
{
	char byte = 0;

	return read(line, &byte, 1) == 1 && byte == what;
}

static bool say(int line)
{
	return send(line, "g", 1, MSG_NOSIGNAL) == 1;
}

static int talk(pid_t pid, struct isolate *how, int line)
{
	ssize_t n;
	u8 why;
	int rc = how->kind == ISOLATE_ALL ? write_maps(pid, how) : 0;

	if (rc == 0 && !say(line))
		rc = -ECHILD;
	if (rc == 0 && !hear(line, 'c'))
		rc = -EPERM;
	if (rc == 0 && !say(line))
		rc = -ECHILD;
	if (rc < 0)
		return rc;
	n = read(line, &why, 1);
	if (n == 0)
		return 0;
	return n == 1 && why ? -(int)why : -ECHILD;
}

/* TSan's run time has its own state of a thread in the memory, and would find
 * the child's there: with it, the child has a copy. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define SHARED 0
#endif
#endif
#ifndef SHARED
#define SHARED CLONE_VM
#endif

static pid_t start_child(struct start *s, u8 *stack)
{
	static const int flags[ISOLATE_KINDS] = {
		[ISOLATE_ALL] = OWN | CLONE_NEWUSER,
		[ISOLATE_ROOT] = OWN,
	};
	sigset_t all, before;
	pid_t pid;

	/* Until it has none of our handlers. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = clone(child, stack + STACK_BYTES,
	            SHARED | flags[s->how->kind] | SIGCHLD, s);
	if (pid < 0)
		pid = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid;
}

/* 0 once it is another program and has left our memory. */
static int bring_up(pid_t pid, struct isolate *how, int line)
{
	/* A process that changes its user makes its memory, which is ours, one
	 * that nobody may look into. */
	int dumpable = prctl(PR_GET_DUMPABLE);
	int rc = talk(pid, how, line);

	if (rc < 0) {
		if (how->held >= 0)
			close(how->held);
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	return rc;
}

pid_t isolate_start(struct isolate *how)
{
	struct start s = { .how = how };
	int pair[2], rc;
	u8 *stack;
	pid_t pid;

	how->held = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	s.ours = pair[0];
	s.line = pair[1];
	stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
	             MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pid = stack == MAP_FAILED ? -ENOMEM : start_child(&s, stack);
	close(pair[1]);
	rc = pid < 0 ? pid : bring_up(pid, how, pair[0]);
	close(pair[0]);
	if (stack != MAP_FAILED)
		munmap(stack, STACK_BYTES);
	return rc < 0 ? rc : pid;
}
