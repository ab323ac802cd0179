/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_tests.h - the groups that kvm_test.c runs after its own; each returns
 * how many of its tests failed.
 */
#pragma once

int kvm_state_tests(void);
int kvm_tsc_tests(void);
int kvm_irq_tests(void);
