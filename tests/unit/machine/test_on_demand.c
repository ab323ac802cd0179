/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_on_demand - packed memory that is read while others look at it and store
 * to it: everybody sees what was saved until somebody stored something else,
 * and what was altered in the file is seen by nobody.
 *
 * test_on_demand asked: all ask before they look. touched: nobody does, and
 * they look by loads and stores and by the kernel's copies, as vCPUs under KVM
 * and KVM itself do.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/userfault.h"
#include "guest/discard.h"
#include "guest/freeze.h"
#include "guest/memory.h"
#include "machine/state/pages.h"
#include "two_slots.h"

enum {
	LOW_PAGES = 16 * MIB / PAGE_SIZE,
	PAGES = LOW_PAGES + 2 * MIB / PAGE_SIZE,
	THREADS = 3,
	STEPS = 6000,
	TOLD = 7,
	SKIP = 77,
};

static enum pages_when when;

static gpa_t gpa_of(u64 page)
{
	return page < LOW_PAGES ? page * PAGE_SIZE
	                        : 4 * GIB + (page - LOW_PAGES) * PAGE_SIZE;
}

/* Zeroes, contents of its own, of a few pages, of very many. */
static u64 first_word(u64 page)
{
	switch (page % 4) {
	case 0:
		return 0;
	case 1:
		return page * 0x9e3779b97f4a7c15;
	case 2:
		return 1000 + page / 32;
	default:
		return 5;
	}
}

/* The file of a memory that holds those. */
static int save(struct state_file *f)
{
	struct memory *mem = make_memory();
	struct pages_work work = { 0 };
	struct pages_figures figures;
	struct memory_view view;
	struct error err = { 0 };
	int fd = memfd_create("pages", MFD_CLOEXEC);
	u64 word[PAGE_SIZE / 8];

	for (u64 page = 0; page < PAGES; page++) {
		for (unsigned i = 0; i < ARRAY_SIZE(word); i++)
			word[i] = first_word(page) * (i + 1);
		assert_true(
		    memory_write(mem, gpa_of(page), word, sizeof(word)));
	}
	assert_int_equal(memory_freeze(mem, &view, &err), 0);
	assert_int_equal(state_file_begin(f, fd, &err), 0);
	assert_int_equal(
	    pages_save(f, &view, PAGES_PACKED, &work, &figures, &err), 0);
	assert_int_equal(state_file_finish(f, false, &err), 0);
	memory_view_fini(&view);
	memory_unview(mem);
	memory_destroy(mem);
	assert_int_equal(state_file_open(f, fd, &err), 0);
	return fd;
}

static struct memory *load(const struct state_file *f,
                           struct pages_source **source)
{
	struct memory *mem = make_memory();
	struct error err = { 0 };

	/* Who made it has looked at it. */
	assert_int_equal(*(u64 *)memory_ptr(mem, gpa_of(1), 8), 0);
	assert_int_equal(pages_load(f, mem, NULL, 0, when, source, &err), 0);
	assert_non_null(*source);
	assert_false(pages_source_done(*source));
	assert_true(*memory_incomplete(mem));
	return mem;
}

static u8 *at(const struct memory *mem, gpa_t gpa)
{
	const struct memory_slot *s = memory_find(mem, gpa);

	return when == PAGES_TOUCHED ? s->host + (gpa - s->base)
	                             : memory_ptr(mem, gpa, 8);
}

static u64 word_at(const struct memory *mem, gpa_t gpa)
{
	return *(volatile u64 *)(void *)at(mem, gpa);
}

static void never(void *ctx, const char *words)
{
	(void)ctx;
	(void)words;
	abort();
}

static void wait_for(const struct pages_source *s)
{
	while (!pages_source_done(s))
		usleep(1000);
}

/* ---- many who look and store ---- */

struct user {
	struct memory *mem;
	unsigned index, seed;
	u64 wrong, word[PAGES]; /* what each of its pages begins with */
	int pipe[2];
	pthread_t thread;
};

/* By a copy of the kernel's. */
static u64 read_word(struct user *u, gpa_t gpa)
{
	u64 word = 0;

	if (when == PAGES_TOUCHED)
		u->wrong += write(u->pipe[1], at(u->mem, gpa), 8) != 8 ||
		            read(u->pipe[0], &word, 8) != 8;
	else
		memory_read(u->mem, gpa, &word, sizeof(word));
	return word;
}

static void write_word(struct user *u, gpa_t gpa, u64 word)
{
	if (when == PAGES_ASKED_FOR)
		memory_write(u->mem, gpa, &word, sizeof(word));
	else if (word % 2)
		*(volatile u64 *)(void *)at(u->mem, gpa) = word;
	else
		u->wrong += write(u->pipe[1], &word, 8) != 8 ||
		            read(u->pipe[0], at(u->mem, gpa), 8) != 8;
}

static void look(struct user *u, u64 page)
{
	u64 i = (u64)rand_r(&u->seed) % (PAGE_SIZE / 8), word;

	if (rand_r(&u->seed) % 2)
		u->wrong += word_at(u->mem, gpa_of(page)) != u->word[page];
	word = read_word(u, gpa_of(page) + 8 * i);
	u->wrong += i && word != first_word(page) * (i + 1) &&
	            !(word == 0 && u->word[page] == 0);
}

/* Each has pages of its own, that lie between those of others. */
static void *use(void *ctx)
{
	struct user *u = ctx;

	for (unsigned i = 0; i < STEPS; i++) {
		u64 page = (u64)rand_r(&u->seed) % (PAGES / THREADS) * THREADS +
		           u->index;
		unsigned what = (unsigned)rand_r(&u->seed) % 32;

		if (what == 0) {
			u->wrong += memory_discard(u->mem, gpa_of(page),
			                           PAGE_SIZE) != PAGE_SIZE;
			u->word[page] = 0;
		} else if (what < 8 && u->word[page]) {
			u->word[page] = i;
			write_word(u, gpa_of(page), i);
		}
		look(u, page);
	}
	return NULL;
}

static void everybody_sees_what_was_saved(void **state)
{
	static struct user users[THREADS];
	struct state_file f;
	int fd = save(&f);
	struct pages_source *source;
	struct memory *mem = load(&f, &source);
	struct error err = { 0 };

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		users[i] = (struct user){ .mem = mem, .index = i, .seed = i };
		for (u64 page = 0; page < PAGES; page++)
			users[i].word[page] = first_word(page);
		assert_int_equal(pipe(users[i].pipe), 0);
	}
	/* Alone, then beside who reads the rest. */
	use(&users[0]);
	assert_int_equal(pages_source_check(source, &err), 0);
	assert_false(pages_source_done(source));
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(
		    pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
	pages_source_tell(source, never, NULL);
	pages_source_run(source);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(users[i].thread, NULL);
	wait_for(source);
	assert_false(*memory_incomplete(mem));
	for (unsigned i = 0; i < THREADS; i++) {
		for (u64 page = i; page < PAGES; page += THREADS)
			look(&users[i], page);
		assert_int_equal(users[i].wrong, 0);
		close(users[i].pipe[0]);
		close(users[i].pipe[1]);
	}
	pages_source_destroy(source);
	memory_destroy(mem);
	close(fd);
}

/* It holds nothing of the file any more, and one that is not wanted to its end
 * leaves nothing either. */
static void ends_at_any_time(void **state)
{
	struct state_file f;
	int fd = save(&f);

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		struct pages_source *source;
		struct memory *mem = load(&f, &source);

		pages_source_tell(source, never, NULL);
		if (i % 4)
			pages_source_run(source);
		if (i % 4 > 1)
			assert_true(word_at(mem, gpa_of(17)) == first_word(17));
		if (i % 4 == 3)
			wait_for(source);
		pages_source_destroy(source);
		memory_destroy(mem);
	}
	close(fd);
}

static void *look_at_all(void *ctx)
{
	struct user *u = ctx;

	for (u64 page = 0; page < PAGES; page++) {
		u64 word = read_word(u, gpa_of(page));

		u->wrong += word && word != first_word(page);
	}
	return NULL;
}

/* Whoever waits in a fault when it ends goes on. */
static void nobody_waits_for_ever(void **state)
{
	struct state_file f;
	int fd = save(&f);

	(void)state;
	for (unsigned i = 0; when == PAGES_TOUCHED && i < 20; i++) {
		struct pages_source *source;
		struct user u = { .mem = load(&f, &source) };

		assert_int_equal(pipe(u.pipe), 0);
		assert_int_equal(
		    pthread_create(&u.thread, NULL, look_at_all, &u), 0);
		pages_source_tell(source, never, NULL);
		if (i % 2)
			pages_source_run(source);
		while (i % 4 < 2 && word_at(u.mem, gpa_of(PAGES / 2 + 1)) == 0)
			;
		pages_source_destroy(source);
		pthread_join(u.thread, NULL);
		assert_int_equal(u.wrong, 0);
		close(u.pipe[0]);
		close(u.pipe[1]);
		memory_destroy(u.mem);
	}
	close(fd);
}

/* ---- a file that was altered ---- */

static void alter(const struct state_file *f, int fd)
{
	const struct state_section *s = state_file_find(f, "packed");
	u8 byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)(s->offset + s->size - 9)),
	                 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(s->offset + s->size - 9)),
	                 1);
}

static void what_is_asked_for_early_is_checked_early(void **state)
{
	struct state_file f;
	int fd = save(&f);
	struct pages_source *source;
	struct error err = { 0 };
	struct memory *mem;
	unsigned zero = 0;

	(void)state;
	alter(&f, fd);
	mem = load(&f, &source);
	assert_true(word_at(mem, gpa_of(1)) == first_word(1));
	assert_int_equal(pages_source_check(source, &err), 0);
	for (u64 page = 0; page < PAGES; page++) {
		u64 word = word_at(mem, gpa_of(page));

		assert_true(!word || word == first_word(page));
		zero += !word && first_word(page);
	}
	assert_in_range(zero, 1, 64 * 512);
	assert_int_equal(pages_source_check(source, &err), -EPROTO);
	assert_non_null(strstr(err.text, "damaged"));
	pages_source_destroy(source);
	memory_destroy(mem);
	close(fd);
}

static void told(void *ctx, const char *words)
{
	(void)ctx;
	_exit(strstr(words, "another sum") ? TOLD : 1);
}

/* Whoever asks for the page waits for it, and the others end the process. */
static void later_the_owner_is_told(void **state)
{
	struct state_file f;
	int fd = save(&f), status;
	pid_t pid;

	(void)state;
	alter(&f, fd);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct pages_source *source;
		struct memory *mem = load(&f, &source);

		pages_source_tell(source, told, NULL);
		pages_source_run(source);
		for (u64 page = 0; page < PAGES; page++)
			if (word_at(mem, gpa_of(page)) != first_word(page))
				_exit(2);
		wait_for(source);
		_exit(3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), TOLD);
	close(fd);
}

/* Where nobody sees what is touched, all of it is read at once. */
static void without_it_all_comes_first(void **state)
{
	struct memory *mem = make_memory();
	struct pages_source *source;
	struct error err = { 0 };
	struct state_file f;
	int fd = save(&f), status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		const struct rlimit none = { 3, 3 };
		u64 wrong = 0;

		/* No further descriptor. */
		setrlimit(RLIMIT_NOFILE, &none);
		if (userfault_open() >= 0 ||
		    pages_load(&f, mem, NULL, 0, PAGES_TOUCHED, &source, &err))
			_exit(1);
		for (u64 page = 0; page < PAGES; page++)
			wrong += *(u64 *)memory_ptr(mem, gpa_of(page), 8) !=
			         first_word(page);
		_exit(wrong || source || *memory_incomplete(mem) ? 2 : TOLD);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), TOLD);
	memory_destroy(mem);
	close(fd);
}

/* Whether it can be tried; if not, that is said. */
static bool may_touch(void)
{
	int fd = userfault_open();

	if (fd >= 0)
		close(fd);
	else
		printf("skipped: userfaultfd for faults of the kernel: %s (try "
		       "as root, or with vm.unprivileged_userfaultfd=1)\n",
		       strerror(-fd));
	return fd >= 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everybody_sees_what_was_saved),
		cmocka_unit_test(ends_at_any_time),
		cmocka_unit_test(nobody_waits_for_ever),
		cmocka_unit_test(what_is_asked_for_early_is_checked_early),
		cmocka_unit_test(later_the_owner_is_told),
		cmocka_unit_test(without_it_all_comes_first),
	};

	when = argc > 1 && !strcmp(argv[1], "touched") ? PAGES_TOUCHED
	                                               : PAGES_ASKED_FOR;
	if (when == PAGES_TOUCHED && !may_touch())
		return SKIP;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
