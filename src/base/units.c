/* SPDX-License-Identifier: Apache-2.0 */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"

/* A plain decimal: strtod alone would take "inf", "0x1p3" and " 5" too. */
static bool decimal(const char *text, double *value, const char **end)
{
	char *stop;

	if (!isdigit((unsigned char)text[0]))
		return false;
	if (text[0] == '0' && tolower((unsigned char)text[1]) == 'x')
		return false;
	*value = strtod(text, &stop);
	*end = stop;
	return isfinite(*value);
}

int parse_size(const char *text, u64 default_unit, u64 *bytes,
               struct error *err)
{
	static const char letters[] = "KMGTPE";
	const char *end, *letter;
	u64 unit = default_unit;
	double value;

	if (!decimal(text, &value, &end))
		goto bad;
	if (*end) {
		letter = strchr(letters, toupper((unsigned char)*end));
		if (letter) {
			unit = (u64)1 << (10 * (letter - letters + 1));
			end++;
			if (*end == 'i')
				end++;
		} else {
			unit = 1;
		}
		if (*end == 'B' || *end == 'b')
			end++;
		if (*end)
			goto bad;
	}
	value *= (double)unit;
	if (value >= 0x1p63)
		return error_set(err, -ERANGE, "size '%s' is too large", text);
	*bytes = (u64)value;
	return 0;
bad:
	error_set(err, -EINVAL, "'%s' is not a size", text);
	error_hint(err, "write it as 512M, 4G or 1.5GiB");
	return -EINVAL;
}

int parse_u64(const char *text, u64 min, u64 max, u64 *value, struct error *err)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(text, &end, strncasecmp(text, "0x", 2) ? 10 : 16);
	if (!isdigit((unsigned char)text[0]) || *end || errno)
		return error_set(err, -EINVAL, "'%s' is not a number", text);
	if (v < min || v > max)
		return error_set(err, -ERANGE,
		                 "%s is out of range: %" PRIu64 " to %" PRIu64,
		                 text, min, max);
	*value = v;
	return 0;
}

int parse_duration(const char *text, u64 *ns, struct error *err)
{
	static const struct {
		const char *name;
		double ns;
	} units[] = { { "", 1e9 },    { "s", 1e9 },  { "ms", 1e6 },
		      { "us", 1e3 },  { "m", 6e10 }, { "h", 36e11 },
		      { "d", 864e11 } };
	const char *end;
	double value;

	if (decimal(text, &value, &end))
		for (size_t i = 0; i < ARRAY_SIZE(units); i++)
			if (!strcmp(end, units[i].name) &&
			    value * units[i].ns < 0x1p63) {
				*ns = (u64)(value * units[i].ns);
				return 0;
			}
	error_set(err, -EINVAL, "'%s' is not a duration", text);
	error_hint(err, "write it as 90, 1.5s, 250ms, 2m or 1h");
	return -EINVAL;
}

char *format_size(u64 bytes, char *buf, size_t size)
{
	static const char *const names[] = { "B",   "KiB", "MiB", "GiB",
		                             "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	size_t i = 0;

	while (value >= 1024 && i + 1 < ARRAY_SIZE(names)) {
		value /= 1024;
		i++;
	}
	snprintf(buf, size, value < 10 && i ? "%.1f %s" : "%.0f %s", value,
	         names[i]);
	return buf;
}

int parse_disk(const char *text)
{
	if (strncmp(text, "vd", 2) == 0 && text[2] >= 'a' && text[2] <= 'p' &&
	    !text[3])
		return text[2] - 'a';
	if (text[0] >= '0' && text[0] <= '9' && !text[1])
		return text[0] - '0';
	return -1;
}
