/* SPDX-License-Identifier: Apache-2.0 */
/*
 * answer - what is believed of an answer: values of the right type, in range,
 * and texts that do no harm where they are shown.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "base/alloc.h"
#include "base/error.h"

enum { INTERFACES_MAX = 32, ADDRESSES_MAX = 16, NAME_MAX_BYTES = 64 };
enum { CPUS_MAX = 1024 };

char *agent_text(json_t *answer, const char *key, size_t max)
{
	json_t *value = key ? json_object_get(answer, key) : answer;
	const char *text = json_string_value(value);
	size_t n = text ? json_string_length(value) : 0;

	if (!n || n > max || strlen(text) != n)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (text[i] < ' ' || text[i] >= 0x7f)
			return NULL;
	return xstrdup(text);
}

s64 agent_number(json_t *answer, const char *key)
{
	json_t *value = key ? json_object_get(answer, key) : answer;

	return json_is_integer(value) && json_integer_value(value) >= 0
	           ? json_integer_value(value)
	           : -1;
}

/* ---- addresses ---- */

/* "10.0.2.15/24" when it is one; loopback and link-local ones say nothing. */
static json_t *address_of(json_t *one)
{
	char *text = agent_text(one, "ip-address", INET6_ADDRSTRLEN);
	s64 prefix = agent_number(one, "prefix");
	struct in6_addr raw;
	char *shown = NULL;
	json_t *found = NULL;
	bool v4;

	if (!text)
		return NULL;
	v4 = inet_pton(AF_INET, text, &raw) == 1;
	if ((v4 || inet_pton(AF_INET6, text, &raw) == 1) && prefix >= 0 &&
	    prefix <= (v4 ? 32 : 128)) {
		shown = xasprintf("%s/%" PRId64, text, prefix);
		found = json_string(shown);
	}
	free(shown);
	free(text);
	return found;
}

static json_t *addresses_of(json_t *interface)
{
	json_t *list = json_array(), *one, *address;
	size_t i;

	json_array_foreach(json_object_get(interface, "ip-addresses"), i, one)
	{
		if (json_array_size(list) == ADDRESSES_MAX)
			break;
		address = address_of(one);
		if (address)
			json_array_append_new(list, address);
	}
	return list;
}

static bool mac_valid(const char *text)
{
	return text && strlen(text) == 17 &&
	       strspn(text, "0123456789abcdefABCDEF:") == 17;
}

json_t *agent_interfaces(json_t *answer)
{
	json_t *list = json_array(), *one, *shown;
	size_t i;

	json_array_foreach(answer, i, one)
	{
		char *name = agent_text(one, "name", NAME_MAX_BYTES), *mac;

		if (json_array_size(list) == INTERFACES_MAX) {
			free(name);
			break;
		}
		if (!name || strcmp(name, "lo") == 0) {
			free(name);
			continue;
		}
		mac = agent_text(one, "hardware-address", 17);
		shown =
		    json_pack("{s:s, s:o, s:o}", "name", name, "mac",
		              mac_valid(mac) ? json_string(mac) : json_null(),
		              "addresses", addresses_of(one));
		json_array_append_new(list, shown);
		free(name);
		free(mac);
	}
	return list;
}

/* ---- programs ---- */

bool agent_base64(const char *text)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				       "abcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = strspn(text, alphabet), pads = strspn(text + n, "=");

	return pads <= 2 && !text[n + pads] && (n + pads) % 4 == 0;
}

static int data_of(json_t *answer, const char *key, const char **out,
                   struct error *err)
{
	json_t *value = json_object_get(answer, key);
	const char *text = json_string_value(value);

	*out = "";
	if (!value)
		return 0;
	if (!text || strlen(text) != json_string_length(value) ||
	    !agent_base64(text))
		return error_set(err, -EPROTO,
		                 "the guest's agent: %s is not base64", key);
	*out = text;
	return 0;
}

json_t *agent_online(json_t *answer, s64 from)
{
	json_t *list = json_array(), *one;
	size_t i;

	json_array_foreach(answer, i, one)
	{
		s64 id = agent_number(one, "logical-id");

		if (id < from || id >= CPUS_MAX ||
		    !json_is_false(json_object_get(one, "online")) ||
		    json_array_size(list) == CPUS_MAX)
			continue;
		json_array_append_new(list,
		                      json_pack("{s:I, s:b}", "logical-id",
		                                (json_int_t)id, "online", 1));
	}
	if (json_array_size(list))
		return json_pack("{s:o}", "vcpus", list);
	json_decref(list);
	return NULL;
}

int agent_program(json_t *answer, struct agent_program *p, struct error *err)
{
	json_t *exited = json_object_get(answer, "exited");
	s64 code = agent_number(answer, "exitcode");
	s64 signal = agent_number(answer, "signal");
	int rc;

	memset(p, 0, sizeof(*p));
	p->out = p->err = "";
	if (!json_is_boolean(exited))
		return error_set(err, -EPROTO,
		                 "the guest's agent does not say whether the "
		                 "program has ended");
	p->exited = json_is_true(exited);
	if (!p->exited)
		return 0;
	p->code = signal >= 0 ? 128 + (int)(signal & 127)
	                      : (int)(MAX(code, (s64)0) & 255);
	p->truncated = json_is_true(json_object_get(answer, "out-truncated")) ||
	               json_is_true(json_object_get(answer, "err-truncated"));
	rc = data_of(answer, "out-data", &p->out, err);
	return rc < 0 ? rc : data_of(answer, "err-data", &p->err, err);
}
