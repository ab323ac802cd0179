/* SPDX-License-Identifier: Apache-2.0 */
/* Moments of memory against copies of it: random stores, moments kept and
 * dropped, memory made whole, copies of copies. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/types.h"
#include "guest/memory_internal.h"

enum { LOW = 64, HIGH = 1500, PAGES = LOW + HIGH, MOMENTS = 5 };
#define HIGH_BASE (4 * GIB)

struct moment {
	struct memory_view view;
	u8 *copy;
};

static u64 seed = 88172645463325252;

static u64 below(u64 n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

static struct memory *make(void)
{
	struct error err = { 0 };
	struct memory *mem;

	assert_int_equal(memory_create(&mem, &err), 0);
	assert_int_equal(
	    memory_add(mem, 0, LOW * PAGE_SIZE, MEMORY_RAM, "low", &err), 0);
	assert_int_equal(memory_add(mem, HIGH_BASE, HIGH * PAGE_SIZE,
	                            MEMORY_RAM, "high", &err),
	                 0);
	assert_int_equal(
	    memory_alias(mem, 1 * GIB, 4 * PAGE_SIZE, 2 * PAGE_SIZE, &err), 0);
	return mem;
}

static gpa_t address(u64 page)
{
	return page < LOW ? page * PAGE_SIZE
	                  : HIGH_BASE + (page - LOW) * PAGE_SIZE;
}

static void store(struct memory *mem, u8 *model)
{
	u64 page = below(PAGES), count = below(4) ? 1 : below(40) + 1;

	for (; count && page < PAGES; count--, page++) {
		u8 value[64];

		memset(value, below(3) ? (int)below(256) : 0, sizeof(value));
		memcpy(model + page * PAGE_SIZE + 128, value, sizeof(value));
		assert_true(memory_write(mem, address(page) + 128, value,
		                         sizeof(value)));
	}
}

static void look(struct memory *mem, const u8 *model)
{
	static u8 page[PAGE_SIZE];

	for (u64 i = 0; i < PAGES; i++) {
		assert_true(memory_read(mem, address(i), page, PAGE_SIZE));
		assert_memory_equal(page, model + i * PAGE_SIZE, PAGE_SIZE);
	}
	/* The alias goes along. */
	assert_true(memory_read(mem, 1 * GIB, page, PAGE_SIZE));
	assert_memory_equal(page, model + 4 * PAGE_SIZE, PAGE_SIZE);
}

static void look_at_moment(const struct moment *m)
{
	struct error err = { 0 };
	const u8 *map = memory_view_map(&m->view, &err);
	u8 *holes = memory_view_holes(&m->view);

	assert_non_null(map);
	assert_non_null(holes);
	for (u64 i = 0; i < PAGES; i++)
		if (holes[i / 8] & 1u << i % 8)
			assert_int_equal(m->copy[i * PAGE_SIZE + 128], 0);
	assert_memory_equal(map, m->copy, PAGES * PAGE_SIZE);
	free(holes);
	memory_view_unmap(&m->view, map);
}

static void drop(struct memory *mem, struct moment *m)
{
	look_at_moment(m);
	memory_view_fini(&m->view);
	free(m->copy);
	m->copy = NULL;
	memory_unview(mem);
}

/* A copy of the machine: goes its own way, and has copies itself. */
static void copy_of(const struct moment *m)
{
	struct memory *mem = make();
	struct error err = { 0 };
	struct moment own = { 0 };
	u8 *model = malloc(PAGES * PAGE_SIZE);
	u64 from = 0;

	assert_int_equal(memory_adopt(mem, &m->view, &err), 0);
	memcpy(model, m->copy, PAGES * PAGE_SIZE);
	look(mem, model);
	store(mem, model);
	assert_true(memory_stash(mem, &from, ~(u64)0) > 0);
	store(mem, model);
	assert_int_equal(memory_freeze(mem, &own.view, &err), 0);
	own.copy = malloc(PAGES * PAGE_SIZE);
	memcpy(own.copy, model, PAGES * PAGE_SIZE);
	store(mem, model);
	drop(mem, &own);
	/* What is not its own is not written to; in the end, nothing is. */
	assert_true(memory_settle(mem, 1) || memory_adopted(mem) < 0);
	look(mem, model);
	free(model);
	memory_destroy(mem);
}

static void model_based(bool scan, bool merges)
{
	struct moment moments[MOMENTS] = { 0 };
	struct memory *mem = make();
	struct error err = { 0 };
	u8 *model = calloc(PAGES, PAGE_SIZE);
	unsigned settled = 0, taken = 0;
	u64 from;

	mem->layers.no_scan = !scan;
	mem->layers.aside_tried = !scan; /* and does not work */
	if (merges && memory_merge_equal(mem, &err) < 0) {
		assert_int_equal(err.code, -ENOTSUP);
		memory_destroy(mem);
		free(model);
		skip();
	}
	for (unsigned step = 0; step < 1500; step++) {
		struct moment *m = &moments[below(MOMENTS)];

		switch (below(9)) {
		case 0:
			if (m->copy)
				break;
			assert_int_equal(memory_freeze(mem, &m->view, &err), 0);
			m->copy = malloc(PAGES * PAGE_SIZE);
			memcpy(m->copy, model, PAGES * PAGE_SIZE);
			taken++;
			break;
		case 1:
			if (m->copy)
				drop(mem, m);
			break;
		case 2:
			/* Sometimes all of them, to be whole again. */
			if (below(4))
				break;
			for (unsigned i = 0; i < MOMENTS; i++)
				if (moments[i].copy)
					drop(mem, &moments[i]);
			while (below(20) && !memory_settle(mem, 100))
				store(mem, model);
			settled += memory_settle(mem, 1);
			break;
		case 3:
			from = below(PAGES);
			assert_int_equal(memory_freeze_ahead(mem, &from, 0), 0);
			memory_drop_aside(mem, below(300));
			break;
		case 4:
			if (m->copy && !below(10))
				copy_of(m);
			break;
		case 5:
			from = below(PAGES);
			assert_true((below(2)
			                 ? memory_drop_same
			                 : memory_stash)(mem, &from, 0) >= 0);
			break;
		default:
			store(mem, model);
		}
		if (step % 16 == 0)
			look(mem, model);
	}
	assert_true(taken > 50);
	assert_true(settled > 2);
	assert_int_equal(memory_merges(mem), merges);
	for (unsigned i = 0; i < MOMENTS; i++)
		if (moments[i].copy)
			drop(mem, &moments[i]);
	while (!memory_settle(mem, 100))
		;
	look(mem, model);
	memory_destroy(mem);
	free(model);
}

static void by_scan(void **state)
{
	(void)state;
	model_based(true, false);
}

/* As kernels before 6.7 have it; with page tables that are taken down, as
 * before 5.13. */
static void by_entries(void **state)
{
	(void)state;
	model_based(false, false);
}

/* Private for good, for the kernel to share what is equal. */
static void merging(void **state)
{
	(void)state;
	model_based(true, true);
}

/* Of all mappings of an address, "mg" in the flags of the one that holds it
 * (proc_pid_smaps(5)). */
static bool is_mergeable(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	u64 at = (u64)(uintptr_t)p, from, to;
	bool here = false, found = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
			here = at >= from && at < to;
		else if (here && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, " mg") != NULL;
	}
	fclose(f);
	return found;
}

static void merging_stays(void **state)
{
	struct memory *mem = make();
	struct error err = { 0 };
	struct memory_view view;
	const u8 *low = memory_ptr(mem, address(3), 1);
	const u8 *high = memory_ptr(mem, address(LOW + 7), 1);

	(void)state;
	if (memory_merge_equal(mem, &err) < 0) {
		memory_destroy(mem);
		skip();
	}
	assert_int_equal(memory_private_bytes(mem), 0);
	assert_true(memory_write(mem, address(3), "x", 1));
	assert_true(memory_write(mem, address(LOW + 7), "y", 1));
	assert_int_equal(memory_private_bytes(mem), 2 * PAGE_SIZE);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(memory_freeze(mem, &view, &err), 0);
		assert_true(memory_write(mem, address(3), "z", 1));
		memory_view_fini(&view);
		memory_unview(mem);
		assert_true(memory_settle(mem, 1));
		assert_true(is_mergeable(low) && is_mergeable(high));
	}
	assert_int_equal(*low, 'z');
	assert_int_equal(*high, 'y');
	memory_destroy(mem);
}

/* Of what was stored to that alone which is as it was. */
static void as_before(void **state)
{
	struct memory *mem = make(), *copy = make();
	struct error err = { 0 };
	struct memory_view view;
	u64 page = 0;

	(void)state;
	for (u64 i = 0; i < 200; i++)
		assert_true(memory_write(mem, address(i), "abc", 3));
	assert_int_equal(memory_drop_same(mem, &page, ~(u64)0), 0);
	assert_int_equal(page, PAGES);
	assert_int_equal(memory_freeze(mem, &view, &err), 0);
	assert_int_equal(memory_adopt(copy, &view, &err), 0);
	for (u64 i = 0; i < 200; i++)
		assert_true(memory_write(copy, address(i) + 1, "x", 1));
	for (u64 i = 0; i < 200; i++)
		if (i % 3)
			assert_true(memory_write(copy, address(i) + 1, "b", 1));
	/* Zeroes, of which there are none in a file. */
	assert_true(memory_write(copy, address(1000), "\0", 1));
	assert_int_equal(memory_private_bytes(copy), 201 * PAGE_SIZE);
	page = 0;
	/* Late already: a little at a time. */
	assert_in_range(memory_drop_same(copy, &page, 0), 1, 20);
	assert_in_range(page, 1, LOW);
	while (page < PAGES)
		assert_true(memory_drop_same(copy, &page, 0) >= 0);
	assert_int_equal(memory_private_bytes(copy), 67 * PAGE_SIZE);
	for (u64 i = 0; i < 200; i++) {
		char text[4] = "";

		assert_true(memory_read(copy, address(i), text, 3));
		assert_string_equal(text, i % 3 ? "abc" : "axc");
	}
	memory_destroy(copy);
	memory_view_fini(&view);
	memory_unview(mem);
	memory_destroy(mem);
}

/* A little in each of many pages; in every tenth what nothing makes small. */
static void store_to_copy(struct memory *copy, u8 *model)
{
	for (u64 i = 0; i < 300; i++) {
		u64 n = i % 10 ? 8 : PAGE_SIZE;

		for (u64 k = 0; k < n; k++)
			model[i * PAGE_SIZE + k] = (u8)below(256);
		assert_true(
		    memory_write(copy, address(i), model + i * PAGE_SIZE, n));
	}
}

struct lookers {
	struct memory *mem;
	const u8 *model;
	_Atomic unsigned wrong;
};

static void *look_alone(void *ctx)
{
	struct lookers *l = ctx;
	u8 page[PAGE_SIZE];

	for (u64 i = 0; i < 300; i++)
		l->wrong += !memory_read(l->mem, address(i), page, PAGE_SIZE) ||
		            memcmp(page, l->model + i * PAGE_SIZE, PAGE_SIZE);
	return NULL;
}

static void look_together(struct memory *mem, const u8 *model)
{
	struct lookers l = { .mem = mem, .model = model };
	pthread_t thread[3];

	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, look_alone, &l), 0);
	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(l.wrong, 0);
}

static void stash_all(struct memory *mem)
{
	u64 page = 0;

	/* Late already: a little at a time. */
	while (page < PAGES)
		assert_true(memory_stash(mem, &page, 0) >= 0);
}

/* What was stored to is kept small, and is there for who asks. */
static void stashed(void **state)
{
	struct memory *mem = make(), *copy = make();
	struct memory_stash_figures f;
	struct error err = { 0 };
	struct memory_view view;
	u8 *model = calloc(PAGES, PAGE_SIZE);
	const u8 *kept;

	(void)state;
	/* Where nothing lies below, nothing happens. */
	store(mem, model);
	stash_all(mem);
	assert_false(atomic_load(memory_incomplete(mem)));
	assert_int_equal(memory_freeze(mem, &view, &err), 0);
	assert_int_equal(memory_adopt(copy, &view, &err), 0);
	store_to_copy(copy, model);
	memory_keep(copy, address(7), 5000);
	kept = memory_ptr(copy, address(7), 2 * PAGE_SIZE);
	for (unsigned i = 0; i < 2; i++) {
		stash_all(copy);
		assert_int_equal(memory_private_bytes(copy), 32 * PAGE_SIZE);
		memory_stash_figures(copy, &f);
		assert_int_equal(f.pages, 268);
		assert_in_range(f.bytes, 268 * 8, 268 * 40);
		assert_memory_equal(kept, model + 7 * PAGE_SIZE, 2 * PAGE_SIZE);
		look_together(copy, model);
		memory_stash_figures(copy, &f);
		assert_int_equal(f.pages + f.bytes, 0);
		assert_int_equal(f.asked, (i + 1) * 268);
		assert_false(atomic_load(memory_incomplete(copy)));
	}
	stash_all(copy);
	memory_unstash(copy);
	assert_int_equal(memory_private_bytes(copy), 300 * PAGE_SIZE);
	look(copy, model);
	stash_all(copy);
	memory_destroy(copy);
	memory_view_fini(&view);
	memory_unview(mem);
	memory_destroy(mem);
	free(model);
}

/* So many scattered stores that each by itself would be a mapping. */
static void scattered(void **state)
{
	struct memory *mem = make();
	struct error err = { 0 };
	struct moment first = { 0 }, second = { 0 };
	u8 *model = calloc(PAGES, PAGE_SIZE);

	(void)state;
	store(mem, model);
	first.copy = malloc(PAGES * PAGE_SIZE);
	memcpy(first.copy, model, PAGES * PAGE_SIZE);
	assert_int_equal(memory_freeze(mem, &first.view, &err), 0);
	for (u64 page = 1; page < PAGES; page += 2) {
		model[page * PAGE_SIZE + 128] = 7;
		assert_true(memory_write(mem, address(page) + 128,
		                         model + page * PAGE_SIZE + 128, 1));
	}
	second.copy = malloc(PAGES * PAGE_SIZE);
	memcpy(second.copy, model, PAGES * PAGE_SIZE);
	assert_int_equal(memory_freeze(mem, &second.view, &err), 0);
	assert_true(second.view.run_count < 1100);
	look_at_moment(&first);
	drop(mem, &second);
	drop(mem, &first);
	look(mem, model);
	memory_destroy(mem);
	free(model);
}

/* More moments than there may be files: all of memory goes to one, and comes
 * back to those of its slots, whose numbers others had meanwhile. */
static void many(void **state)
{
	enum { ALL = 3 * MEMORY_LAYERS_MAX };
	struct memory *mem = make();
	struct error err = { 0 };
	struct moment *moments = calloc(ALL, sizeof(*moments));
	u8 *model = calloc(PAGES, PAGE_SIZE);

	(void)state;
	for (unsigned i = 0; i < ALL; i++) {
		u64 from = 0;

		for (int k = 0; k < 20; k++)
			store(mem, model);
		while (i % 3 == 1 && from < memory_pages(mem))
			assert_int_equal(memory_freeze_ahead(mem, &from, 0), 0);
		store(mem, model);
		moments[i].copy = malloc(PAGES * PAGE_SIZE);
		memcpy(moments[i].copy, model, PAGES * PAGE_SIZE);
		assert_int_equal(memory_freeze(mem, &moments[i].view, &err), 0);
	}
	for (unsigned i = 0; i < ALL; i++)
		drop(mem, &moments[i]);
	while (!memory_settle(mem, 100)) {
		look(mem, model);
		store(mem, model);
	}
	assert_null(mem->layers.runs);
	look(mem, model);
	memory_destroy(mem);
	free(moments);
	free(model);
}

static void fill(struct memory *mem, u8 *model, u8 value)
{
	for (u64 page = 0; page < PAGES; page++) {
		model[page * PAGE_SIZE + 128] = value;
		assert_true(memory_write(mem, address(page) + 128, &value, 1));
	}
}

static void take(struct memory *mem, const u8 *model, struct moment *m)
{
	struct error err = { 0 };

	assert_int_equal(memory_freeze(mem, &m->view, &err), 0);
	m->copy = malloc(PAGES * PAGE_SIZE);
	memcpy(m->copy, model, PAGES * PAGE_SIZE);
}

/* How many pages a standstill would have to move. */
static u64 left(struct memory *mem)
{
	u64 page = 0, sum = 0;

	while (page < PAGES) {
		s64 n = memory_freeze_count(mem, &page, PAGES);

		assert_true(n >= 0);
		sum += (u64)n;
	}
	return sum;
}

static void go_ahead(struct memory *mem)
{
	for (u64 page = 0; page < PAGES;)
		assert_int_equal(memory_freeze_ahead(mem, &page, 0), 0);
}

/* What is done ahead is not left for the standstill, whatever was stored to and
 * whoever looks; also when memory lies in as many files as there may be. */
static void ahead(void **state)
{
	enum { ALL = MEMORY_LAYERS_MAX + 4 };
	struct memory *mem = make();
	struct moment *moments = calloc(ALL, sizeof(*moments));
	u8 *model = calloc(PAGES, PAGE_SIZE);
	unsigned wholes = 0;
	u64 page = 0;

	(void)state;
	fill(mem, model, 1);
	assert_int_equal(left(mem), 0);
	for (unsigned i = 0; i < ALL; i++) {
		take(mem, model, &moments[i]);
		model[(i + 5) * PAGE_SIZE + 128] = 2;
		assert_true(memory_write(mem, address(i + 5) + 128, "\2", 1));
		/* All of memory, if it is to go to one file; without a look,
		 * that alone is known. */
		wholes += left(mem) >= PAGES;
		assert_int_equal(memory_freeze_count(mem, &page, 0),
		                 left(mem) >= PAGES ? PAGES : 0);
		assert_true(left(mem) >= 1);
		go_ahead(mem);
		assert_int_equal(left(mem), 0);
	}
	assert_true(wholes >= 1);
	fill(mem, model, 3);
	assert_true(left(mem) >= PAGES - ALL);
	go_ahead(mem);
	assert_int_equal(left(mem), 0);
	for (unsigned i = 0; i < ALL; i++)
		drop(mem, &moments[i]);
	/* Nobody looks: pages come home instead. */
	fill(mem, model, 4);
	go_ahead(mem);
	assert_int_equal(left(mem), 0);
	look(mem, model);
	memory_destroy(mem);
	free(moments);
	free(model);
}

/* Few pages here and there take hardly more than themselves with them. */
static void sparse(void **state)
{
	struct memory *mem = make();
	struct moment first = { 0 }, second = { 0 };
	u8 *model = calloc(PAGES, PAGE_SIZE);
	u64 stored = 0, moved = 0;

	(void)state;
	fill(mem, model, 1);
	take(mem, model, &first);
	for (u64 page = 3; page < PAGES; page += 9, stored++) {
		model[page * PAGE_SIZE + 128] = 2;
		assert_true(memory_write(mem, address(page) + 128, "\2", 1));
	}
	take(mem, model, &second);
	for (u32 i = 0; i < second.view.run_count; i++)
		if (second.view.runs[i].layer != 0 &&
		    second.view.runs[i].layer != 1)
			moved += second.view.runs[i].pages;
	assert_true(moved >= stored && moved <= 2 * stored);
	drop(mem, &first);
	drop(mem, &second);
	memory_destroy(mem);
	free(model);
}

/* A file that nothing lies in any more is not let go of in a standstill, which
 * takes as long as what is in it is long. */
static void left_for_later(void **state)
{
	struct memory *mem = make();
	struct moment m[3] = { 0 };
	u8 *model = calloc(PAGES, PAGE_SIZE);

	(void)state;
	fill(mem, model, 1);
	take(mem, model, &m[0]);
	fill(mem, model, 2);
	take(mem, model, &m[1]);
	drop(mem, &m[1]);
	while (!memory_drop_aside(mem, 100))
		;
	assert_false(memory_has_aside(mem));
	fill(mem, model, 3);
	go_ahead(mem);
	take(mem, model, &m[2]);
	/* That of the second moment goes with the next file that is made. */
	fill(mem, model, 4);
	go_ahead(mem);
	assert_true(memory_has_aside(mem));
	while (!memory_drop_aside(mem, 100))
		;
	drop(mem, &m[2]);
	drop(mem, &m[0]);
	while (!memory_settle(mem, 100))
		;
	assert_true(memory_has_aside(mem));
	look(mem, model);
	memory_destroy(mem);
	free(model);
}

/* What is handed over is checked before it is mapped. */
static void hostile(void **state)
{
	struct memory *mem = make(), *other = make();
	struct error err = { 0 };
	struct memory_view view;

	(void)state;
	assert_int_equal(memory_freeze(mem, &view, &err), 0);
	assert_int_equal(view.run_count, 2);
	view.runs[1].at = 1;
	assert_int_equal(memory_adopt(other, &view, &err), -EPROTO);
	view.runs[1].at = ~(u64)0 / 2;
	assert_int_equal(memory_adopt(other, &view, &err), -EPROTO);
	view.runs[1].at = 0;
	view.runs[1].layer = 7;
	assert_int_equal(memory_adopt(other, &view, &err), -EPROTO);
	view.runs[1].layer = 1;
	view.runs[0].pages++;
	assert_int_equal(memory_adopt(other, &view, &err), -EPROTO);
	view.runs[0].pages--;
	view.run_count = 1;
	assert_int_equal(memory_adopt(other, &view, &err), -EPROTO);
	view.run_count = 2;
	assert_int_equal(memory_adopt(other, &view, &err), 0);
	memory_view_fini(&view);
	memory_destroy(other);
	memory_destroy(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_scan),   cmocka_unit_test(by_entries),
		cmocka_unit_test(merging),   cmocka_unit_test(merging_stays),
		cmocka_unit_test(as_before), cmocka_unit_test(scattered),
		cmocka_unit_test(many),      cmocka_unit_test(ahead),
		cmocka_unit_test(sparse),    cmocka_unit_test(left_for_later),
		cmocka_unit_test(hostile),   cmocka_unit_test(stashed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
