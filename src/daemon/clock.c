/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.c - times and identities as the API spells them.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "daemon/daemon.h"

s64 time_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (s64)ts.tv_sec * (s64)NSEC_PER_SEC + ts.tv_nsec;
}

void time_now(char *text)
{
	struct timespec ts;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(text, TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, TIME_SIZE - n, ".%03uZ",
	         (unsigned)(ts.tv_nsec / 1000000) % 1000);
}

void time_text(s64 seconds, char *text)
{
	time_t t = (time_t)seconds;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, TIME_SIZE, "%Y-%m-%dT%H:%M:%S.000Z", &tm);
}

/* RFC 4122 section 4.4: version 4. */
int id_new(char *id, struct error *err)
{
	u8 b[16];

	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return error_set(err, -EIO, "no random numbers");
	b[6] = (u8)((b[6] & 0x0f) | 0x40);
	b[8] = (u8)((b[8] & 0x3f) | 0x80);
	snprintf(id, ID_SIZE,
	         "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
	         "%02x%02x%02x%02x%02x%02x",
	         b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9],
	         b[10], b[11], b[12], b[13], b[14], b[15]);
	return 0;
}

bool id_looks_like(const char *text)
{
	return strlen(text) == ID_SIZE - 1 &&
	       strspn(text, "0123456789abcdef-") == ID_SIZE - 1 &&
	       text[8] == '-' && text[13] == '-' && text[18] == '-' &&
	       text[23] == '-';
}

s64 time_parse(const char *text)
{
	struct tm tm = { 0 };
	const char *end = text ? strptime(text, "%Y-%m-%d", &tm) : NULL;

	if (end && *end == 'T') {
		end = strptime(end, "T%H:%M:%S", &tm);
		if (end && *end == '.')
			end += 1 + strspn(end + 1, "0123456789");
		end = end && strcmp(end, "Z") == 0 ? end + 1 : NULL;
	}
	return end && !*end ? (s64)timegm(&tm) : -1;
}
