/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types.h - the scalar types and the few macros that every room uses.
 */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

typedef u64 gpa_t; /* guest physical address */
typedef u64 gva_t; /* guest virtual (linear) address */

#define KIB ((u64)1 << 10)
#define MIB ((u64)1 << 20)
#define GIB ((u64)1 << 30)

#define NSEC_PER_SEC ((u64)1000000000)
#define NSEC_PER_MSEC ((u64)1000000)
#define NSEC_PER_USEC ((u64)1000)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define BIT(n) ((u64)1 << (n))
/* Alignments are powers of two. */
#define ALIGN_DOWN(x, a) ((x) & ~((a)-1))
#define ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((a)-1))
#define IS_ALIGNED(x, a) (((x) & ((a)-1)) == 0)

#define container_of(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define MUST_CHECK __attribute__((warn_unused_result))
#define NORETURN __attribute__((noreturn))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/*
 * For our own bugs only, and kept in release builds. Never on a value that a
 * guest, an image, a peer or a client can choose.
 */
#define ASSERT(cond)                                                           \
	do {                                                                   \
		if (unlikely(!(cond)))                                         \
			assert_failed(#cond, __FILE__, __LINE__);              \
	} while (0)

NORETURN void assert_failed(const char *cond, const char *file, int line);
