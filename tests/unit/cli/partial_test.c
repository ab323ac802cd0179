/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are being made: on a file system that knows files without a name,
 * and on one that does not, which unnamed_open() here can say it is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unnamed.h"
#include "cli/partial.h"
#include "storage/block.h"

#define PREFIX ".atoll-part-"

static bool unnamed_known;
static char folder[64], path[80];
static struct error err;

int unnamed_open(int dir, mode_t mode)
{
	errno = EOPNOTSUPP;
	return unnamed_known
	           ? openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode)
	           : -1;
}

int unnamed_give(int fd, int dir, const char *name)
{
	char proc[32];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno
	                                                                : 0;
}

static int set_up(void **state)
{
	unnamed_known = *state != NULL;
	strcpy(folder, "/tmp/partial-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/target", folder);
	return 0;
}

static int tear_down(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* Names in the folder; *part is set to one that begins as ours do. */
static unsigned names(char *part)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	unsigned count = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		count +=
		    strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
		if (part && strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
			strcpy(part, entry->d_name);
	}
	closedir(dir);
	return count;
}

static void put(const char *to, const char *text, int flags)
{
	int fd = open(to, O_WRONLY | O_CLOEXEC | flags, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static bool holds(const char *at, const char *text)
{
	char got[32] = "";
	int fd = open(at, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof(got) - 1);

	if (fd >= 0)
		close(fd);
	return n >= 0 && strcmp(got, text) == 0;
}

static void begin(struct partial *p, unsigned flags, const char *text)
{
	assert_int_equal(partial_begin(p, path, flags, &err), 0);
	put(p->by, text, flags & PARTIAL_ALIKE ? O_CREAT : 0);
}

static void gets_its_name(void **state)
{
	static const unsigned kinds[] = { 0, PARTIAL_BESIDE, PARTIAL_ALIKE };
	struct partial p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		begin(&p, kinds[i], "new");
		assert_int_equal(access(path, F_OK), -1);
		assert_int_equal(partial_end(&p, &err), 0);
		assert_true(holds(path, "new"));
		assert_int_equal(names(NULL), 1);
		partial_discard(&p);
		assert_int_equal(unlink(path), 0);
	}
}

static void goes(void **state)
{
	static const unsigned kinds[] = { 0, PARTIAL_BESIDE, PARTIAL_ALIKE };
	struct partial p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		begin(&p, kinds[i], "new");
		partial_discard(&p);
		partial_discard(&p);
		assert_int_equal(names(NULL), 0);
	}
}

static void is_there(void **state)
{
	struct partial p;

	(void)state;
	put(path, "old", O_CREAT);
	assert_int_equal(partial_begin(&p, path, 0, &err), -EEXIST);
	assert_non_null(strstr(err.hint, "--force"));
	partial_discard(&p);
	unlink(path);
	/* It comes while the other is made. */
	begin(&p, 0, "new");
	put(path, "old", O_CREAT);
	assert_int_equal(partial_end(&p, &err), -EEXIST);
	assert_true(holds(path, "old"));
	assert_int_equal(names(NULL), 1);
}

static void takes_its_place(void **state)
{
	char link[96];
	struct partial p;
	struct stat st;

	(void)state;
	put(path, "old", O_CREAT);
	chmod(path, 0640);
	snprintf(link, sizeof(link), "%s/link", folder);
	assert_int_equal(symlink("target", link), 0);
	assert_int_equal(partial_begin(&p, link, PARTIAL_REPLACE, &err), 0);
	put(p.by, "new", 0);
	assert_true(holds(path, "old"));
	assert_int_equal(partial_end(&p, &err), 0);
	assert_true(holds(path, "new"));
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(names(NULL), 2);
	unlink(path);
	assert_int_equal(partial_begin(&p, link, PARTIAL_REPLACE, &err),
	                 -ENOENT);
	assert_int_equal(names(NULL), 1);
}

static void is_in_use(void **state)
{
	const struct block_open how = { .path = path, .fd = -1 };
	struct partial p, other;
	struct block *b;

	(void)state;
	put(path, "old", O_CREAT);
	assert_int_equal(block_open(&b, &how, &err), 0);
	assert_int_equal(partial_begin(&p, path, PARTIAL_REPLACE, &err),
	                 -EBUSY);
	block_close(b);
	/* By another that is to take its place, too. */
	begin(&p, PARTIAL_REPLACE, "new");
	assert_int_equal(partial_begin(&other, path, PARTIAL_REPLACE, &err),
	                 -EBUSY);
	partial_discard(&p);
	assert_true(holds(path, "old"));
	assert_int_equal(names(NULL), 1);
}

static void a_device(void **state)
{
	struct partial p;

	(void)state;
	assert_int_equal(partial_begin(&p, "/dev/null", PARTIAL_REPLACE, &err),
	                 0);
	assert_string_equal(p.by, "/dev/null");
	assert_int_equal(partial_end(&p, &err), 0);
}

/* A process that makes one; it says when it has begun. */
static pid_t maker(unsigned flags)
{
	int ends[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	if (pid == 0) {
		struct partial p;

		if (partial_begin(&p, path, flags, NULL) == 0) {
			put(p.by, "part", O_CREAT);
			(void)!write(ends[1], "", 1);
			pause();
		}
		_exit(1);
	}
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	close(ends[1]);
	return pid;
}

static void ends_by(pid_t pid, int signal)
{
	int status;

	assert_int_equal(kill(pid, signal), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signal);
}

static void is_killed(void **state)
{
	static const unsigned kinds[] = { 0, PARTIAL_BESIDE, PARTIAL_ALIKE };
	struct partial p;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		bool named = !unnamed_known || kinds[i];
		pid_t alive = maker(kinds[i]), dead = maker(kinds[i]);

		assert_int_equal(names(NULL), named ? 2 : 0);
		ends_by(dead, SIGKILL);
		assert_int_equal(names(NULL), named ? 2 : 0);
		/* The next one finds it; the one that goes on stays. */
		assert_int_equal(partial_begin(&p, path, 0, &err), 0);
		partial_discard(&p);
		assert_int_equal(names(NULL), named ? 1 : 0);
		ends_by(alive, SIGTERM);
		assert_int_equal(names(NULL), 0);
	}
}

static void others_stay(void **state)
{
	char name[64] = "", at[160];
	struct partial p;
	pid_t pid;

	(void)state;
	/* Almost such a name, and a link by such a name to what is not ours. */
	snprintf(at, sizeof(at), "%s/" PREFIX "0123456789abcdef", folder);
	put(at, "mine", O_CREAT);
	pid = maker(PARTIAL_BESIDE);
	names(name);
	while (strcmp(name, PREFIX "0123456789abcdef") == 0) {
		unlink(at);
		names(name);
		put(at, "mine", O_CREAT);
	}
	ends_by(pid, SIGTERM);
	snprintf(at, sizeof(at), "%s/%s", folder, name);
	assert_int_equal(symlink(path, at), 0);
	put(path, "mine", O_CREAT);
	assert_int_equal(partial_begin(&p, path, PARTIAL_REPLACE, &err), 0);
	partial_discard(&p);
	assert_true(holds(path, "mine"));
	assert_int_equal(names(NULL), 3);
}

#define TEST(fn, state)                                                        \
	{                                                                      \
#fn, fn, set_up, tear_down, state                              \
	}

int main(void)
{
	static int known;
	const struct CMUnitTest tests[] = {
		TEST(gets_its_name, &known),
		TEST(gets_its_name, NULL),
		TEST(goes, &known),
		TEST(goes, NULL),
		TEST(is_there, &known),
		TEST(is_there, NULL),
		TEST(takes_its_place, &known),
		TEST(takes_its_place, NULL),
		TEST(is_in_use, &known),
		TEST(is_in_use, NULL),
		TEST(a_device, &known),
		TEST(is_killed, &known),
		TEST(is_killed, NULL),
		TEST(others_stay, &known),
		TEST(others_stay, NULL),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
