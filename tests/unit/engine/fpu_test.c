/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu_test.c - x87 environments in the layouts of real mode, which the
 * instruction test cannot compare with the host, and the XSAVE areas' checks.
 */
#include "engine/interp/fpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guest/cpu.h"

static void fresh(u8 *xsave)
{
	memset(xsave, 0, CPU_XSAVE_SIZE);
	fpu_state_expand(xsave);
}

static u16 get16(const u8 *p)
{
	u16 v;

	memcpy(&v, p, 2);
	return v;
}

static u32 get32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, 4);
	return v;
}

static void put64(u8 *p, u64 v)
{
	memcpy(p, &v, 8);
}

static void expand_gives_initial_state(void **state)
{
	_Alignas(64) u8 x[CPU_XSAVE_SIZE];

	(void)state;
	fresh(x);
	assert_int_equal(get16(x), 0x37f);
	assert_int_equal(get32(x + 24), 0x1f80);
	assert_int_equal(fpu_in_use(x, 0), 0);
	x[CPU_XSAVE_XMM] = 1;
	assert_int_equal(fpu_in_use(x, 0), XCR0_SSE);
	assert_int_equal(fpu_in_use(x, 4), XCR0_SSE | XCR0_PKRU);
	/* What no register can hold goes. */
	memset(x, 0xff, sizeof(x));
	fpu_state_expand(x);
	assert_int_equal(get32(x + 24), 0xffff);
	assert_int_equal(get16(x), 0x1f7f);
}

static void environments_round_trip(void **state)
{
	static const struct fpu_layout layouts[] = {
		{ false, false },
		{ false, true },
		{ true, false },
		{ true, true },
	};
	_Alignas(64) u8 x[CPU_XSAVE_SIZE], y[CPU_XSAVE_SIZE];
	u8 buf[FPU_SAVE_MAX], again[FPU_SAVE_MAX];
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(layouts); i++) {
		fresh(x);
		fresh(y);
		x[2] = 0x41;
		x[3] = 0x28; /* top 5 */
		x[4] = 0xe1;
		x[32 + 7] = 0x80;
		x[32 + 9] = 0x40;
		fpu_record(x, 0x12345, 0x5d9);
		fpu_record_data(x, 0xabcde);
		fpu_save(x, layouts[i], buf);
		fpu_restore(y, layouts[i], buf);
		fpu_save(y, layouts[i], again);
		assert_memory_equal(buf, again, fpu_save_size(layouts[i]));
		assert_memory_equal(x, y, 6);
	}
}

static void real_mode_splits_addresses(void **state)
{
	_Alignas(64) u8 x[CPU_XSAVE_SIZE];
	u8 buf[FPU_ENV_MAX];

	(void)state;
	fresh(x);
	fpu_record(x, 0xf1234, 0x5d9);
	fpu_record_data(x, 0xab678);
	fpu_env_store(x, (struct fpu_layout){ false, true }, buf);
	assert_int_equal(get16(buf + 6), 0x1234);
	assert_int_equal(get16(buf + 8), 0xf5d9);
	assert_int_equal(get16(buf + 10), 0xb678);
	assert_int_equal(get16(buf + 12), 0xa000);
	fpu_env_store(x, (struct fpu_layout){ true, true }, buf);
	assert_int_equal(get16(buf + 12), 0x1234);
	assert_int_equal(get32(buf + 16), 0xf5d9);
	assert_int_equal(get16(buf + 20), 0xb678);
	assert_int_equal(get32(buf + 24), 0xa000);
	fpu_env_store(x, (struct fpu_layout){ true, false }, buf);
	assert_int_equal(get32(buf + 12), 0xf1234);
	assert_int_equal(get16(buf + 18), 0x5d9);
}

static void tags_follow_contents(void **state)
{
	_Alignas(64) u8 x[CPU_XSAVE_SIZE];
	u8 buf[FPU_ENV_MAX];

	(void)state;
	fresh(x);
	x[4] = 0x07;      /* R0 to R2; top 0, so ST0 to ST2 */
	x[32 + 7] = 0x80; /* ST0: 1.0 */
	x[32 + 8] = 0xff;
	x[32 + 9] = 0x3f;
	x[64 + 9] = 0x7f; /* ST2: special */
	x[64 + 8] = 0xff;
	fpu_env_store(x, (struct fpu_layout){ true, false }, buf);
	assert_int_equal(get16(buf + 8), 0xffe4);
}

static void restore_checks_the_header(void **state)
{
	const struct fpu_mode mode = { .long_mode = true, .rex_w = true };
	_Alignas(64) u8 x[CPU_XSAVE_SIZE], area[CPU_XSAVE_SIZE] = { 0 };
	struct fpu_pkru pkru = { 0 };
	u8 *bv = area + 512, *comp = area + 520;

	(void)state;
	fresh(x);
	area[24] = 0x80;
	area[25] = 0x1f;
	assert_true(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	put64(bv, 8); /* not in XCR0 */
	assert_false(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	put64(bv, 0);
	put64(comp, 1); /* standard form with bits in XCOMP_BV */
	assert_false(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	put64(comp, BIT(63) | 3);
	assert_true(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	assert_false(fpu_xrstor(x, &pkru, mode, false, false, 7, 7, area));
	put64(bv, 4); /* a component that is not in the area */
	assert_false(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	put64(bv, 0);
	area[560] = 1;
	assert_false(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	area[560] = 0;
	put64(comp, 0); /* XRSTORS wants it compacted */
	assert_false(fpu_xrstor(x, &pkru, mode, true, true, 7, 7, area));
	area[26] = 1; /* a reserved bit of MXCSR */
	assert_false(fpu_xrstor(x, &pkru, mode, false, true, 7, 7, area));
	assert_true(fpu_xrstor(x, &pkru, mode, false, true, 1, 7, area));
}

static void save_and_restore(void **state)
{
	static const enum fpu_xsave_kind kinds[] = { FPU_XSAVE, FPU_XSAVEOPT,
		                                     FPU_XSAVEC, FPU_XSAVES };
	/* With PKRU behind AVX, behind a gap, and where there is no AVX. */
	static const struct {
		u16 pkru_at, compact_at;
		u64 parts;
	} forms[] = { { 832, 832, 7 | XCR0_PKRU },
		      { 2688, 832, 7 | XCR0_PKRU },
		      { 2688, 576, 3 | XCR0_PKRU },
		      { 832, 832, 7 } };
	const struct fpu_mode mode = { .long_mode = true, .rex_w = true };
	_Alignas(64) u8 x[CPU_XSAVE_SIZE], y[CPU_XSAVE_SIZE];
	_Alignas(64) u8 area[FPU_AREA_MAX], seen[FPU_AREA_MAX];
	_Alignas(64) u8 read[FPU_AREA_MAX];
	struct fpu_range r[FPU_RANGES];
	size_t i, j, n, end;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(kinds) * ARRAY_SIZE(forms); i++) {
		enum fpu_xsave_kind kind = kinds[i % ARRAY_SIZE(kinds)];
		bool compact = kind == FPU_XSAVEC || kind == FPU_XSAVES;
		u64 parts = forms[i / ARRAY_SIZE(kinds)].parts;
		u16 at = forms[i / ARRAY_SIZE(kinds)].pkru_at;
		struct fpu_pkru pkru = { 0x55555554, at };
		struct fpu_pkru other = { 0x1234, at };

		fresh(x);
		fresh(y);
		memset(x + CPU_XSAVE_XMM, 0x5a, 256);
		x[24] = 0xa0;
		if (parts & XCR0_AVX)
			y[CPU_XSAVE_YMMH] = 1; /* becomes initial again */
		memset(area, 0, sizeof(area));
		memset(seen, 0, sizeof(seen));
		memset(read, 0xee, sizeof(read));
		n = fpu_xsave(x, pkru, mode, kind, parts, area, r);
		assert_true(n <= FPU_RANGES);
		end = fpu_xsave_extent(pkru, kind, parts);
		for (j = 0; j < n; j++) {
			memcpy(seen + r[j].offset, area + r[j].offset,
			       r[j].size);
			assert_true(r[j].offset + r[j].size <= end);
		}
		if (compact)
			at = forms[i / ARRAY_SIZE(kinds)].compact_at;
		assert_int_equal(get32(seen + at),
		                 parts & XCR0_PKRU ? 0x55555554 : 0);
		memcpy(read, seen, FPU_HEADER_END);
		n = fpu_xrstor_ranges(other, seen, parts, r);
		for (j = 0; j < n; j++)
			memcpy(read + r[j].offset, seen + r[j].offset,
			       r[j].size);
		assert_true(fpu_xrstor(y, &other, mode, kind == FPU_XSAVES,
		                       true, parts, parts, read));
		assert_memory_equal(x, y, sizeof(x));
		assert_int_equal(other.value,
		                 parts & XCR0_PKRU ? 0x55555554 : 0x1234);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(expand_gives_initial_state),
		cmocka_unit_test(environments_round_trip),
		cmocka_unit_test(real_mode_splits_addresses),
		cmocka_unit_test(tags_follow_contents),
		cmocka_unit_test(restore_checks_the_header),
		cmocka_unit_test(save_and_restore),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
