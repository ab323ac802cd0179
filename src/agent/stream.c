/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/agent.h"
#include "base/alloc.h"
#include "base/error.h"

enum { FLUSH = 0xff, ROOM_FIRST = 4096, WORDS_MAX = 300 };

void agent_stream_init(struct agent_stream *s)
{
	memset(s, 0, sizeof(*s));
}

void agent_stream_fini(struct agent_stream *s)
{
	free(s->data);
	memset(s, 0, sizeof(*s));
}

static void drop_line(struct agent_stream *s)
{
	s->used = 0;
	/* Memory for a large answer is not kept. */
	if (s->room > AGENT_ANSWER_USUAL) {
		free(s->data);
		s->data = NULL;
		s->room = 0;
	}
}

static char *open_line(struct agent_stream *s, json_t *message, size_t most,
                       bool flush, size_t *size)
{
	char *text = json_dumps(message, JSON_COMPACT);
	char *line = xasprintf("%s%s\n", flush ? "\xff" : "", text);

	free(text);
	json_decref(message);
	*size = strlen(line);
	drop_line(s);
	s->most = most;
	s->open = true;
	s->syncing = false;
	return line;
}

char *agent_sync(struct agent_stream *s, size_t *size)
{
	u32 id = 0;
	char *line;

	if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
		id = (u32)s->sync_id * 2654435761u + 1;
	line = open_line(s,
	                 json_pack("{s:s, s:{s:I}}", "execute",
	                           "guest-sync-delimited", "arguments", "id",
	                           (json_int_t)id),
	                 AGENT_ANSWER_USUAL, true, size);
	s->syncing = true;
	s->sync_id = id;
	return line;
}

char *agent_question(struct agent_stream *s, const char *command,
                     json_t *arguments, size_t most, size_t *size)
{
	json_t *message = json_pack("{s:s}", "execute", command);

	if (arguments)
		json_object_set_new(message, "arguments", arguments);
	return open_line(s, message, most, false, size);
}

void agent_abandon(struct agent_stream *s)
{
	s->open = s->syncing = false;
	drop_line(s);
}

/* The guest's words, made harmless for a terminal. */
static void guest_words(json_t *error, struct error *err)
{
	const char *words = json_string_value(json_object_get(error, "desc"));
	char clean[WORDS_MAX];
	size_t n = 0;

	for (; words && words[n] && n + 1 < sizeof(clean); n++)
		clean[n] = words[n] >= ' ' && words[n] < 0x7f ? words[n] : '?';
	clean[n] = '\0';
	error_set(err, -EREMOTEIO, "the guest's agent: %s",
	          n ? clean : "it failed");
}

static enum agent_input end_of_sync(struct agent_stream *s, json_t *message)
{
	json_t *id = json_object_get(message, "return");

	/* Of an earlier asker: the right one is still to come. */
	if (!json_is_integer(id) || json_integer_value(id) != s->sync_id)
		return AGENT_MORE;
	s->open = s->syncing = false;
	return AGENT_ANSWER;
}

static enum agent_input end_of_line(struct agent_stream *s, json_t **answer,
                                    struct error *err)
{
	json_t *message = json_loadb((const char *)s->data, s->used,
	                             JSON_REJECT_DUPLICATES, NULL);
	json_t *error = json_object_get(message, "error"), *value;
	enum agent_input what = AGENT_ANSWER;

	drop_line(s);
	if (s->syncing) {
		what = end_of_sync(s, message);
	} else if (json_is_object(error)) {
		guest_words(error, err);
		s->open = false;
	} else if ((value = json_object_get(message, "return"))) {
		*answer = json_incref(value);
		s->open = false;
	} else {
		error_set(err, -EPROTO, "the guest's agent talks nonsense");
		s->open = false;
		what = AGENT_BROKEN;
	}
	json_decref(message);
	return what;
}

static bool make_room(struct agent_stream *s)
{
	size_t room = s->room ? s->room * 2 : ROOM_FIRST;
	u8 *data;

	if (s->used < s->room)
		return true;
	data = realloc(s->data, MIN(room, s->most));
	if (!data)
		return false;
	s->data = data;
	s->room = MIN(room, s->most);
	return true;
}

enum agent_input agent_take(struct agent_stream *s, const u8 *data, size_t size,
                            json_t **answer, struct error *err)
{
	*answer = NULL;
	for (size_t i = 0; s->open && i < size; i++) {
		enum agent_input what;

		if (data[i] == FLUSH) {
			/* What came before it is of nobody. */
			s->used = 0;
			continue;
		}
		if (data[i] == '\n') {
			if (s->used == 0)
				continue;
			what = end_of_line(s, answer, err);
			if (what != AGENT_MORE)
				return what;
			continue;
		}
		if (s->used >= s->most || !make_room(s)) {
			error_set(err, -EPROTO,
			          "the guest's agent says more than an answer "
			          "may have");
			agent_abandon(s);
			return AGENT_BROKEN;
		}
		s->data[s->used++] = data[i];
	}
	return AGENT_MORE;
}
