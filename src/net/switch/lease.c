/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/lease.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"

/* The first addresses are the router's, ours, and the uplink's resolver's. */
enum { BITS_MIN = 16, BITS_MAX = 28, RESERVED = 10, RESERVED_SMALL = 4 };
enum { SMALL = 27 }; /* bits from which few are reserved */

int leases_init(struct leases *l, const char *cidr, struct error *err)
{
	const char *slash = strchr(cidr, '/');
	char text[16] = "";
	u64 bits;

	memset(l, 0, sizeof(*l));
	if (slash && (size_t)(slash - cidr) < sizeof(text))
		memcpy(text, cidr, (size_t)(slash - cidr));
	if (ip4_parse(text, &l->network) < 0 ||
	    parse_u64(slash + 1, BITS_MIN, BITS_MAX, &bits, NULL) < 0)
		return error_set(err, -EINVAL,
		                 "%s is not a network such as 10.77.0.0/24, of "
		                 "%d to %d bits",
		                 cidr, BITS_MIN, BITS_MAX);
	l->mask = ~(u32)0 << (32 - bits);
	if (l->network & ~l->mask)
		return error_set(err, -EINVAL,
		                 "%s has bits set beyond its first %d", cidr,
		                 (int)bits);
	l->first = l->network + (bits >= SMALL ? RESERVED_SMALL : RESERVED);
	l->last = (l->network | ~l->mask) - 1;
	return 0;
}

void leases_fini(struct leases *l)
{
	free(l->all);
	memset(l, 0, sizeof(*l));
}

struct lease *lease_of_mac(struct leases *l, const u8 *mac)
{
	for (size_t i = 0; i < l->count; i++)
		if (memcmp(l->all[i].mac, mac, MAC_SIZE) == 0)
			return &l->all[i];
	return NULL;
}

struct lease *lease_of_ip(struct leases *l, u32 ip)
{
	for (size_t i = 0; i < l->count; i++)
		if (l->all[i].ip == ip)
			return &l->all[i];
	return NULL;
}

struct lease *lease_of_name(struct leases *l, const char *name)
{
	struct lease *found = NULL;

	for (size_t i = 0; i < l->count; i++) {
		struct lease *e = &l->all[i];

		if (!e->name[0] || strcasecmp(e->name, name))
			continue;
		if (!found || (e->live && !found->live) ||
		    (e->live == found->live && e->seen > found->seen))
			found = e;
	}
	return found;
}

/* The lowest that nobody has; 0: none. */
static u32 free_ip(struct leases *l)
{
	for (u32 ip = l->first; ip <= l->last; ip++)
		if (!lease_of_ip(l, ip))
			return ip;
	return 0;
}

static struct lease *longest_unused(struct leases *l)
{
	struct lease *best = NULL;

	for (size_t i = 0; i < l->count; i++)
		if (!l->all[i].live && (!best || l->all[i].seen < best->seen))
			best = &l->all[i];
	return best;
}

static struct lease *append(struct leases *l)
{
	if (l->count == l->room) {
		l->room = l->room ? 2 * l->room : 16;
		l->all = xrealloc(l->all, l->room * sizeof(*l->all));
	}
	memset(&l->all[l->count], 0, sizeof(*l->all));
	return &l->all[l->count++];
}

/* A new one for ip, or any. */
static struct lease *make(struct leases *l, u32 wanted, struct error *err)
{
	struct lease *e = NULL;
	u32 ip = wanted;

	if (!ip && l->count < SWITCH_LEASES_MAX)
		ip = free_ip(l);
	if (wanted)
		e = lease_of_ip(l, wanted);
	if (!e && (!ip || l->count == SWITCH_LEASES_MAX))
		e = longest_unused(l);
	if (e) {
		ip = wanted ? wanted : e->ip;
	} else if (!ip || l->count == SWITCH_LEASES_MAX) {
		error_set(err, -ENOSPC,
		          "all addresses of the network are in use");
		return NULL;
	} else {
		e = append(l);
	}
	memset(e, 0, sizeof(*e));
	e->ip = ip;
	return e;
}

static int check_wanted(struct leases *l, const u8 *mac, u32 wanted,
                        struct error *err)
{
	struct lease *other = lease_of_ip(l, wanted);
	char text[16];

	ip4_format(wanted, text);
	if (wanted < l->first || wanted > l->last)
		return error_set(err, -EINVAL,
		                 "%s is not an address for machines of this "
		                 "network",
		                 text);
	if (other && other->live && memcmp(other->mac, mac, MAC_SIZE))
		return error_set(err, -EADDRINUSE, "%s is %s's", text,
		                 other->name[0] ? other->name : "another");
	return 0;
}

struct lease *lease_get(struct leases *l, const u8 *mac, u32 wanted,
                        const char *name, struct error *err)
{
	struct lease *e = lease_of_mac(l, mac);

	if (wanted && check_wanted(l, mac, wanted, err) < 0)
		return NULL;
	if (e && wanted && e->ip != wanted) {
		/* It moves: what it had is free. */
		*e = l->all[--l->count];
		e = NULL;
	}
	if (!e) {
		e = make(l, wanted, err);
		if (!e)
			return NULL;
		memcpy(e->mac, mac, MAC_SIZE);
		l->changed = true;
	}
	if (name && strcmp(e->name, name)) {
		snprintf(e->name, sizeof(e->name), "%s", name);
		l->changed = true;
	}
	e->live = true;
	e->seen = time(NULL);
	return e;
}

void lease_release(struct leases *l, const u8 *mac)
{
	struct lease *e = lease_of_mac(l, mac);

	if (!e)
		return;
	e->live = false;
	e->seen = time(NULL);
	l->changed = true;
}

json_t *leases_json(const struct leases *l)
{
	json_t *list = json_array();
	char mac[18], ip[16];

	for (size_t i = 0; i < l->count; i++) {
		const struct lease *e = &l->all[i];

		json_array_append_new(
		    list,
		    json_pack("{s:s, s:s, s:s, s:b, s:I}", "mac",
		              mac_format(e->mac, mac), "address",
		              ip4_format(e->ip, ip), "name", e->name, "live",
		              e->live, "seen", (json_int_t)e->seen));
	}
	return list;
}

void leases_load(struct leases *l, json_t *list)
{
	const char *mac, *address, *name;
	json_int_t seen;
	struct lease e, *to;
	json_t *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		memset(&e, 0, sizeof(e));
		if (json_unpack(one, "{s:s, s:s, s:s, s:I}", "mac", &mac,
		                "address", &address, "name", &name, "seen",
		                &seen) < 0 ||
		    mac_parse(mac, e.mac) < 0 || ip4_parse(address, &e.ip) < 0)
			continue;
		if (e.ip < l->first || e.ip > l->last ||
		    l->count == SWITCH_LEASES_MAX || lease_of_ip(l, e.ip) ||
		    lease_of_mac(l, e.mac))
			continue;
		snprintf(e.name, sizeof(e.name), "%s", name);
		e.seen = seen;
		to = append(l);
		*to = e;
	}
}
