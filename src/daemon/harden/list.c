/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/harden/harden.h"

void harden_add(struct harden *h, const struct harden_check *check,
                enum harden_state state, const char *fmt, ...)
{
	static const char *const states[] = { "pass", "fail",
		                              "not-applicable" };
	char reason[512];
	json_t *reason_json;
	va_list args;

	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	/* Names of files and modules need not be UTF-8. */
	for (char *c = reason; *c; c++)
		if ((u8)*c >= 0x80 || (u8)*c < ' ')
			*c = '?';
	reason_json = json_string(reason);
	if (!h->checks)
		h->checks = json_array();
	json_array_append_new(
	    h->checks,
	    json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "name", check->name,
	              "area", check->area, "title", check->title, "state",
	              states[state], "reason", reason_json, "hint",
	              state == HARDEN_FAIL ? check->hint : ""));
	h->count[state]++;
}

void harden_if(struct harden *h, const struct harden_check *check, bool good,
               const char *yes, const char *no)
{
	harden_add(h, check, good ? HARDEN_PASS : HARDEN_FAIL, "%s",
	           good ? yes : no);
}

bool harden_read(const struct harden *h, const char *path, char *text,
                 size_t size)
{
	int fd = openat(h->root, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = '\0';
	if (n > 0 && text[n - 1] == '\n')
		text[n - 1] = '\0';
	return n >= 0;
}

json_t *harden_json(struct harden *h)
{
	json_t *checks = h->checks ? h->checks : json_array();

	h->checks = NULL;
	return json_pack(
	    "{s:i, s:i, s:i, s:o}", "passed", (int)h->count[HARDEN_PASS],
	    "failed", (int)h->count[HARDEN_FAIL], "not_applicable",
	    (int)h->count[HARDEN_NOT_APPLICABLE], "checks", checks);
}

void harden_name(struct harden_names *n, const char *name)
{
	size_t used = strlen(n->text), size = strlen(name);

	n->count++;
	if (used + size + sizeof(" ...") < sizeof(n->text) - 1) {
		n->text[used] = ' ';
		memcpy(n->text + used + 1, name, size + 1);
	} else if (!strstr(n->text, " ...")) {
		memcpy(n->text + used, " ...", sizeof(" ..."));
	}
}

void harden_verdict(struct harden *h, const struct harden_check *check,
                    const struct harden_names *bad, const char *good)
{
	if (bad->count)
		harden_add(h, check, HARDEN_FAIL, "%u:%s", bad->count,
		           bad->text);
	else
		harden_add(h, check, HARDEN_PASS, "%s", good);
}
