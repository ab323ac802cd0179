/* SPDX-License-Identifier: Apache-2.0 */
/*
 * units.h - numbers as people write them.
 */
#pragma once

#include "base/types.h"

struct error;

/*
 * "512M", "4GiB", "1.5G", "4096": bytes, IEC (K = 1024). A bare number is in
 * bytes times default_unit. 0, or -EINVAL with words.
 */
int parse_size(const char *text, u64 default_unit, u64 *bytes,
               struct error *err) MUST_CHECK;

/* A whole decimal (or 0x hexadecimal) number in [min, max], nothing after. */
int parse_u64(const char *text, u64 min, u64 max, u64 *value,
              struct error *err) MUST_CHECK;

/* "90", "1.5", "250ms", "2m", "1h": nanoseconds; bare numbers are seconds. */
int parse_duration(const char *text, u64 *ns, struct error *err) MUST_CHECK;

/* "512 MiB", "1.5 GiB": buf is always ended; returns buf. */
char *format_size(u64 bytes, char *buf, size_t size);

/* "vda", "vdb" or "0", "1": a machine's nth disk, or -1. */
int parse_disk(const char *text);
