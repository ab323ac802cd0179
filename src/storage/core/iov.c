/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/core/iov.h"

#include <string.h>

int iov_slice(struct iovec *out, const struct iovec *iov, int count, u64 from,
              u64 length)
{
	int n = 0;

	for (int i = 0; i < count && length > 0; i++) {
		u64 len = iov[i].iov_len;

		if (from >= len) {
			from -= len;
			continue;
		}
		len = MIN(len - from, length);
		out[n].iov_base = (char *)iov[i].iov_base + from;
		out[n++].iov_len = len;
		length -= len;
		from = 0;
	}
	return n;
}

enum walk { TO_VECTOR, FROM_VECTOR, ZERO };

static void walk(enum walk how, const struct iovec *iov, int count, u64 from,
                 char *data, u64 length)
{
	for (int i = 0; i < count && length > 0; i++) {
		u64 len = iov[i].iov_len;
		char *p;

		if (from >= len) {
			from -= len;
			continue;
		}
		len = MIN(len - from, length);
		p = (char *)iov[i].iov_base + from;
		if (how == TO_VECTOR)
			memcpy(p, data, len);
		else if (how == FROM_VECTOR)
			memcpy(data, p, len);
		else
			memset(p, 0, len);
		if (how != ZERO)
			data += len;
		length -= len;
		from = 0;
	}
}

void iov_copy_in(const struct iovec *iov, int count, u64 from, const void *data,
                 u64 length)
{
	union {
		const void *in;
		char *p;
	} src = { .in = data }; /* only read from */

	walk(TO_VECTOR, iov, count, from, src.p, length);
}

void iov_copy_out(const struct iovec *iov, int count, u64 from, void *data,
                  u64 length)
{
	walk(FROM_VECTOR, iov, count, from, data, length);
}

void iov_zero(const struct iovec *iov, int count, u64 from, u64 length)
{
	walk(ZERO, iov, count, from, NULL, length);
}
