/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/expiry.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/units.h"

/* A date, or one with a time of day in UTC. */
static bool parse_date(const char *value, s64 *at)
{
	struct tm tm = { 0 };
	const char *end = strptime(value, "%Y-%m-%d", &tm);

	if (end && *end == 'T') {
		end = strptime(end, "T%H:%M:%S", &tm);
		end = end && strcmp(end, "Z") == 0 ? end + 1 : NULL;
	}
	if (!end || *end)
		return false;
	*at = (s64)timegm(&tm);
	return true;
}

/* With a unit: of a bare number nobody knows what it means. */
static bool parse_from_now(const char *value, s64 *at)
{
	size_t n = strlen(value);
	struct error ignored = { 0 };
	u64 ns;

	if (n == 0 || !isalpha((u8)value[n - 1]) ||
	    parse_duration(value, &ns, &ignored) < 0)
		return false;
	*at = (s64)time(NULL) + (s64)(ns / NSEC_PER_SEC);
	return true;
}

int expiry_parse(const char *value, s64 *at, char text[EXPIRY_TEXT],
                 struct error *err)
{
	struct tm tm;
	time_t when;

	*at = 0;
	text[0] = '\0';
	if (strcmp(value, "never") == 0 || strcmp(value, "none") == 0)
		return 0;
	if (parse_from_now(value, at)) {
		when = (time_t)*at;
		strftime(text, EXPIRY_TEXT, "%Y-%m-%dT%H:%M:%SZ",
		         gmtime_r(&when, &tm));
	} else if (parse_date(value, at)) {
		snprintf(text, EXPIRY_TEXT, "%s", value);
	} else {
		error_set(err, -EINVAL, "--expires %s is no time", value);
		return error_hint(err, "write it as 30d, 12h, 2026-12-31, "
		                       "2026-12-31T12:00:00Z or never");
	}
	return 0;
}
