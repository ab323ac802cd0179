/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - cmocka, with the includes that it needs.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
