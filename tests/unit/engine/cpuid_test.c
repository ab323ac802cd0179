/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid_test.c - a guest is shown nothing that the host lacks.
 */
#include "engine/x86/cpuid.h"

#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guest/cpu.h"

static struct cpuid_model *model(unsigned cpus, bool baseline)
{
	struct cpuid_config config = { .cpus = cpus,
		                       .tsc_hz = 2445426000,
		                       .kvm_leaves = true,
		                       .kvm_features = 0x1000009,
		                       .baseline = baseline };

	return cpuid_model_create(&config);
}

static struct cpuid_regs query(const struct cpuid_model *m, u32 leaf, u32 sub)
{
	struct cpuid_regs r;

	cpuid_query(m, 3, CR4_OSXSAVE, 7, leaf, sub, &r);
	return r;
}

static struct cpuid_regs host(u32 leaf, u32 sub)
{
	struct cpuid_regs r = { 0, 0, 0, 0 };

	__get_cpuid_count(leaf, sub, &r.eax, &r.ebx, &r.ecx, &r.edx);
	return r;
}

static void no_more_than_host(void **state)
{
	/* x2APIC, deadline timer and hypervisor bit are the machine's. */
	const u32 machine = 1u << 21 | 1u << 24 | 1u << 31;
	struct cpuid_model *m = model(1, false);
	struct cpuid_regs g, h;

	(void)state;
	g = query(m, 1, 0);
	h = host(1, 0);
	assert_int_equal(g.ecx & ~h.ecx & ~machine, 0);
	assert_int_equal(g.edx & ~h.edx, 0);
	assert_int_equal(g.eax, h.eax);
	g = query(m, 7, 0);
	h = host(7, 0);
	/* Bit 13 says that something is not there. */
	assert_int_equal(g.ebx & ~h.ebx & ~(1u << 13), 0);
	assert_int_equal(g.ecx & ~h.ecx, 0);
	assert_int_equal(g.edx & ~h.edx, 0);
	g = query(m, 0xd, 1);
	h = host(0xd, 1);
	assert_int_equal(g.eax & ~h.eax, 0);
	g = query(m, 0x80000001, 0);
	h = host(0x80000001, 0);
	assert_int_equal(g.ecx & ~h.ecx & ~(1u << 22 | 1u << 1), 0);
	assert_int_equal(g.edx & ~h.edx, 0);
	g = query(m, 0x80000007, 0);
	h = host(0x80000007, 0);
	assert_int_equal(g.edx & ~h.edx, 0);
	g = query(m, 0x80000008, 0);
	h = host(0x80000008, 0);
	assert_int_equal(g.ebx & ~h.ebx, 0);
	assert_true((g.eax & 0xff) <= (h.eax & 0xff));
	assert_int_equal(g.eax >> 8 & 0xff, 48);
	cpuid_model_destroy(m);
}

/* EVEX, MPX, CET, TSX, SVM, VMX, MONITOR, PMU: in no leaf. */
static void nothing_unimplemented(void **state)
{
	struct cpuid_model *m = model(1, false);

	(void)state;
	assert_int_equal(query(m, 1, 0).ecx & (1u << 3 | 1u << 5), 0);
	assert_int_equal(query(m, 7, 0).ebx & (0xd0210810u | 1u << 14), 0);
	assert_int_equal(query(m, 7, 0).ecx & (1u << 5 | 1u << 7), 0);
	assert_int_equal(query(m, 0xa, 0).eax, 0);
	assert_int_equal(query(m, 0x80000001, 0).ecx & 1u << 2, 0);
	assert_int_equal(query(m, 0x1f, 0).ebx, 0);
	assert_int_equal(query(m, 0xd, 0).eax & ~0x207u, 0);
	cpuid_model_destroy(m);
}

/* What is emulated is there whatever the host has, if one asks for it. */
static void protection_keys(void **state)
{
	struct cpuid_config config = { .cpus = 1, .emulated = true };
	struct cpuid_model *m = cpuid_model_create(&config);
	struct cpuid_regs r;
	u32 at = cpuid_pkru_offset(m);

	(void)state;
	if (!cpuid_has(m, FEATURE_XSAVE))
		skip();
	assert_true(cpuid_has(m, FEATURE_PKU) && cpuid_has(m, FEATURE_PKS));
	r = query(m, 7, 0);
	assert_int_equal(r.ecx & (1u << 3 | 1u << 4 | 1u << 31),
	                 1u << 3 | 1u << 31);
	cpuid_query(m, 0, CR4_PKE, 1, 7, 0, &r);
	assert_true(r.ecx & 1u << 4);
	r = query(m, 0xd, 9);
	assert_int_equal(r.eax, 8);
	assert_int_equal(r.ebx, at);
	cpuid_query(m, 0, CR4_OSXSAVE, 0x207, 0xd, 0, &r);
	assert_true(r.eax & 0x200);
	assert_int_equal(r.ebx, at + 8);
	assert_int_equal(r.ecx, at + 8);
	if (cpuid_has(m, FEATURE_XSAVEC)) {
		cpuid_query(m, 0, CR4_OSXSAVE, 0x203, 0xd, 1, &r);
		assert_int_equal(r.ebx, 576 + 8);
	}
	cpuid_model_destroy(m);
	config.emulated = false;
	m = cpuid_model_create(&config);
	assert_int_equal(cpuid_has(m, FEATURE_PKU), host(7, 0).ecx >> 3 & 1);
	assert_int_equal(cpuid_has(m, FEATURE_PKS), host(7, 0).ecx >> 31);
	cpuid_model_destroy(m);
}

static void topology(void **state)
{
	struct cpuid_model *m = model(6, false);
	struct cpuid_regs r;

	(void)state;
	r = query(m, 1, 0);
	assert_int_equal(r.ebx >> 24, 3);
	assert_int_equal(r.ebx >> 16 & 0xff, 6);
	assert_true(r.edx & 1u << 28);
	assert_true(r.ecx & 1u << 31);
	r = query(m, 0xb, 0);
	assert_int_equal(r.eax, 0);
	assert_int_equal(r.ebx, 1);
	assert_int_equal(r.ecx, 0x100);
	assert_int_equal(r.edx, 3);
	r = query(m, 0xb, 1);
	assert_int_equal(r.eax, 3);
	assert_int_equal(r.ebx, 6);
	assert_int_equal(r.ecx, 0x201);
	r = query(m, 0xb, 2);
	assert_int_equal(r.ebx, 0);
	assert_int_equal(r.ecx, 2);
	cpuid_model_destroy(m);
	m = model(1, false);
	assert_int_equal(query(m, 1, 0).edx & 1u << 28, 0);
	cpuid_model_destroy(m);
}

static void dynamic_bits(void **state)
{
	struct cpuid_model *m = model(1, false);
	struct cpuid_regs r;

	(void)state;
	if (!cpuid_has(m, FEATURE_XSAVE))
		skip();
	cpuid_query(m, 0, 0, 1, 1, 0, &r);
	assert_false(r.ecx & 1u << 27);
	cpuid_query(m, 0, CR4_OSXSAVE, 1, 1, 0, &r);
	assert_true(r.ecx & 1u << 27);
	cpuid_query(m, 0, CR4_OSXSAVE, 1, 0xd, 0, &r);
	assert_int_equal(r.ebx, 576);
	if (cpuid_has(m, FEATURE_AVX)) {
		cpuid_query(m, 0, CR4_OSXSAVE, 7, 0xd, 0, &r);
		assert_int_equal(r.ebx, 832);
		assert_int_equal(r.ecx, 832);
	}
	cpuid_model_destroy(m);
}

static void baseline(void **state)
{
	struct cpuid_model *m = model(1, true);

	(void)state;
	assert_true(cpuid_has(m, FEATURE_SSE42));
	assert_true(cpuid_has(m, FEATURE_POPCNT));
	assert_false(cpuid_has(m, FEATURE_AVX));
	assert_false(cpuid_has(m, FEATURE_AES));
	assert_false(cpuid_has(m, FEATURE_XSAVE));
	assert_true((query(m, 0x80000008, 0).eax & 0xff) <= 40);
	cpuid_model_destroy(m);
}

static void frequencies(void **state)
{
	struct cpuid_model *m = model(1, false);
	struct cpuid_regs r = query(m, 0x15, 0);

	(void)state;
	assert_int_equal((u64)r.ecx * r.ebx / r.eax, 2445426000);
	assert_int_equal(query(m, 0x16, 0).eax, 2445);
	assert_int_equal(query(m, 0x40000010, 0).eax, 2445426);
	assert_int_equal(query(m, 0x40000001, 0).eax, 0x1000009);
	assert_memory_equal(&(u32){ query(m, 0x40000000, 0).ebx }, "KVMK", 4);
	cpuid_model_destroy(m);
}

static void every_leaf(void **state)
{
	struct cpuid_model *m = model(2, false);
	struct cpuid_regs r;
	u32 leaf, sub, last = 0;
	bool has_sub;
	size_t i;

	(void)state;
	for (i = 0; cpuid_leaf_at(m, i, &leaf, &sub, &has_sub, &r); i++) {
		assert_true(leaf >= last);
		assert_true(has_sub || sub == 0);
		last = leaf;
	}
	assert_true(i > 30);
	cpuid_model_destroy(m);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_more_than_host),
		cmocka_unit_test(nothing_unimplemented),
		cmocka_unit_test(protection_keys),
		cmocka_unit_test(topology),
		cmocka_unit_test(dynamic_bits),
		cmocka_unit_test(baseline),
		cmocka_unit_test(frequencies),
		cmocka_unit_test(every_leaf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
