/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network_spec - a network's definition, as clients send it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "daemon/network.h"

enum { MTU_MIN = 576, MTU_MAX = 65521, WORDS_BYTES = 4096, TAGS_MAX = 64 };
enum { BITS_MIN = 16, BITS_MAX = 28 };

static int bad(struct error *err, const char *key, const char *what)
{
	return error_set(err, -EINVAL, "%s %s", key, what);
}

static int check_keys(json_t *sent, struct error *err)
{
	static const char *const keys[] = { "name", "description", "tags",
		                            "cidr", "isolated",    "bridge",
		                            "mtu",  "project" };
	const char *key;
	json_t *value;
	size_t i;

	if (!json_is_object(sent))
		return error_set(err, -EINVAL,
		                 "the definition is not an object");
	json_object_foreach(sent, key, value)
	{
		for (i = 0; i < ARRAY_SIZE(keys) && strcmp(keys[i], key);)
			i++;
		if (i == ARRAY_SIZE(keys))
			return bad(err, key, "is not known");
	}
	return 0;
}

static int text_of(json_t *sent, const char *key, size_t max, const char **out,
                   struct error *err)
{
	json_t *value = json_object_get(sent, key);
	const char *s = json_string_value(value);

	*out = NULL;
	if (!value || json_is_null(value))
		return 0;
	if (!s || strlen(s) != json_string_length(value) || strlen(s) > max)
		return bad(err, key, "is not a string, or too long");
	for (size_t i = 0; s[i]; i++)
		if ((u8)s[i] < ' ' || s[i] == 0x7f)
			return bad(err, key, "holds control characters");
	*out = s;
	return 0;
}

/* ---- address ranges ---- */

struct range {
	u32 network, mask;
};

static int range_of(const char *cidr, struct range *r)
{
	const char *slash = strchr(cidr, '/');
	char text[16] = "";
	struct in_addr a;
	u64 bits;

	if (slash && (size_t)(slash - cidr) < sizeof(text))
		memcpy(text, cidr, (size_t)(slash - cidr));
	if (inet_pton(AF_INET, text, &a) != 1 ||
	    parse_u64(slash + 1, BITS_MIN, BITS_MAX, &bits, NULL) < 0)
		return -EINVAL;
	r->network = ntohl(a.s_addr);
	r->mask = ~(u32)0 << (32 - bits);
	return r->network & ~r->mask ? -EINVAL : 0;
}

static bool overlap(const struct range *a, const struct range *b)
{
	u32 common = a->mask & b->mask;

	return (a->network & common) == (b->network & common);
}

static bool taken_here(struct daemon *d, const struct range *r)
{
	struct range other;
	const char *cidr;

	for (struct network *n = d->networks; n; n = n->next) {
		cidr = json_string_value(json_object_get(n->spec, "cidr"));
		if (cidr && range_of(cidr, &other) == 0 && overlap(r, &other))
			return true;
	}
	return false;
}

/* What the host itself can reach so, machines could not: proc(5). */
static bool taken_by_host(const struct range *r)
{
	FILE *f = fopen("/proc/net/route", "re");
	unsigned network, mask;
	struct range other;
	bool taken = false;
	char line[256];

	while (f && !taken && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %x %*x %*x %*x %*x %*x %x", &network,
		           &mask) != 2 ||
		    !mask)
			continue;
		other.network = ntohl(network);
		other.mask = ntohl(mask);
		taken = overlap(r, &other);
	}
	if (f)
		fclose(f);
	return taken;
}

static int choose(struct daemon *d, char *cidr, size_t size, struct error *err)
{
	struct range r;

	for (unsigned i = 0; i < 256; i++) {
		snprintf(cidr, size, "10.77.%u.0/24", i);
		if (range_of(cidr, &r) == 0 && !taken_here(d, &r) &&
		    !taken_by_host(&r))
			return 0;
	}
	error_set(err, -ENOSPC, "all of 10.77.0.0/16 is in use");
	return error_hint(err, "say which range is to be used: cidr");
}

/* ---- the parts ---- */

static int read_tags(json_t *sent, json_t *to, struct error *err)
{
	json_t *tags = json_object_get(sent, "tags"), *copy, *value;
	const char *key;

	if (!tags || json_is_null(tags)) {
		json_object_set_new(to, "tags", json_object());
		return 0;
	}
	if (!json_is_object(tags) || json_object_size(tags) > TAGS_MAX)
		return bad(err, "tags", "is not an object, or too large");
	copy = json_object();
	json_object_set_new(to, "tags", copy);
	json_object_foreach(tags, key, value)
	{
		const char *s;

		if (!spec_name_valid(key) ||
		    text_of(tags, key, 256, &s, err) < 0 || !s)
			return bad(err, "tags",
			           "holds a key that is not a name, or a "
			           "value that is not a string");
		json_object_set(copy, key, value);
	}
	return 0;
}

static int read_range(struct daemon *d, json_t *sent, json_t *to,
                      struct error *err)
{
	const char *cidr, *bridge;
	char chosen[32];
	struct range r;
	bool isolated = json_is_true(json_object_get(sent, "isolated"));
	json_t *said = json_object_get(sent, "isolated");

	if (said && !json_is_null(said) && !json_is_boolean(said))
		return bad(err, "isolated", "is neither true nor false");
	if (text_of(sent, "cidr", 31, &cidr, err) < 0 ||
	    text_of(sent, "bridge", IFNAMSIZ - 1, &bridge, err) < 0)
		return -EINVAL;
	if (bridge && (isolated || cidr))
		return bad(err, "bridge",
		           "can't be together with isolated or cidr: the "
		           "bridge's network has its own");
	if (bridge && (!bridge[0] || strpbrk(bridge, "/ %")))
		return bad(err, "bridge", "is not the name of an interface");
	json_object_set_new(to, "isolated", json_boolean(isolated));
	if (bridge) {
		json_object_set_new(to, "bridge", json_string(bridge));
		return 0;
	}
	if (cidr && range_of(cidr, &r) < 0)
		return bad(err, "cidr",
		           "is not a network such as 10.77.0.0/24, of 16 to "
		           "28 bits");
	if (!cidr && choose(d, chosen, sizeof(chosen), err) < 0)
		return err->code;
	json_object_set_new(to, "cidr", json_string(cidr ? cidr : chosen));
	return 0;
}

static int read_all(struct daemon *d, json_t *sent, json_t *to,
                    struct error *err)
{
	json_t *mtu;
	const char *name, *words, *project;
	json_int_t n;

	if (check_keys(sent, err) < 0 ||
	    text_of(sent, "name", 63, &name, err) < 0 ||
	    text_of(sent, "project", 63, &project, err) < 0 ||
	    text_of(sent, "description", WORDS_BYTES, &words, err) < 0)
		return -EINVAL;
	if (!name || !spec_name_valid(name) || strchr(name, '.'))
		return bad(err, "name",
		           "is not a name: letters, digits, and then also _ -");
	/* --net says these of other kinds. */
	if (strcmp(name, "user") == 0 || strcmp(name, "none") == 0 ||
	    strcmp(name, "tap") == 0)
		return bad(err, "name", "has a meaning of its own");
	if (project && !spec_name_valid(project))
		return bad(err, "project", "is not a name");
	json_object_set_new(to, "name", json_string(name));
	json_object_set_new(to, "project",
	                    json_string(project ? project : "default"));
	json_object_set_new(to, "description", json_string(words ? words : ""));
	mtu = json_object_get(sent, "mtu");
	n = mtu && !json_is_null(mtu) ? json_integer_value(mtu) : 1500;
	if (n < MTU_MIN || n > MTU_MAX)
		return bad(err, "mtu",
		           "is not a whole number from 576 to 65521");
	json_object_set_new(to, "mtu", json_integer(n));
	if (read_tags(sent, to, err) < 0)
		return -EINVAL;
	return read_range(d, sent, to, err);
}

json_t *network_spec_parse(struct daemon *d, json_t *sent, struct error *err)
{
	json_t *to = json_object();

	if (read_all(d, sent, to, err) == 0)
		return to;
	json_decref(to);
	return NULL;
}
