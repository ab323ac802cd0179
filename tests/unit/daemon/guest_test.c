/* SPDX-License-Identifier: Apache-2.0 */
/* The guest agent's protocol: split and garbled streams, answers that lie,
 * silence, and the daemon's queue of questions against a scripted guest. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/agent.h"
#include "base/alloc.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"
#include "daemon/guest/identity.h"
#include "daemon/guest/news.h"

/* ---- the stream ---- */

static enum agent_input feed(struct agent_stream *s, const char *text,
                             json_t **answer, struct error *err)
{
	return agent_take(s, (const u8 *)text, strlen(text), answer, err);
}

static void ask(struct agent_stream *s, size_t most)
{
	size_t size;
	char *line = agent_question(s, "guest-x", NULL, most, &size);

	assert_int_equal(size, strlen(line));
	assert_int_equal(line[size - 1], '\n');
	free(line);
}

static void test_stream(void **state)
{
	struct agent_stream s;
	struct error err = { 0 };
	json_t *answer;
	char text[128];
	size_t size;

	(void)state;
	agent_stream_init(&s);
	/* Nobody asked. */
	assert_int_equal(feed(&s, "{\"return\":1}\n", &answer, &err),
	                 AGENT_MORE);
	/* A sync looks past rests of others. */
	free(agent_sync(&s, &size));
	snprintf(text, sizeof(text), "rest}\n\xff{\"return\": 1}\n{\"retu\xff");
	assert_int_equal(feed(&s, text, &answer, &err), AGENT_MORE);
	snprintf(text, sizeof(text), "{\"return\": %" PRId64 "}\n", s.sync_id);
	assert_int_equal(feed(&s, text, &answer, &err), AGENT_ANSWER);
	assert_null(answer);
	/* Byte by byte. */
	ask(&s, AGENT_ANSWER_USUAL);
	for (const char *c = "{\"return\":{\"a\":5}}"; *c; c++)
		assert_int_equal(
		    agent_take(&s, (const u8 *)c, 1, &answer, &err),
		    AGENT_MORE);
	assert_int_equal(feed(&s, "\n", &answer, &err), AGENT_ANSWER);
	assert_int_equal(agent_number(answer, "a"), 5);
	json_decref(answer);
	/* The guest's words are shown, but not its escapes. */
	ask(&s, AGENT_ANSWER_USUAL);
	assert_int_equal(feed(&s,
	                      "{\"error\":{\"desc\":\"no\\u001b[2Jway\"}}\n",
	                      &answer, &err),
	                 AGENT_ANSWER);
	assert_null(answer);
	assert_non_null(strstr(err.text, "no?[2Jway"));
	/* Nonsense of all kinds. */
	static const char *const bad[] = {
		"nonsense\n",          "[]\n", "5\n", "{\"return\"\n",
		"{\"a\":1,\"a\":2}\n", "{}\n"
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ask(&s, AGENT_ANSWER_USUAL);
		assert_int_equal(feed(&s, bad[i], &answer, &err), AGENT_BROKEN);
		assert_false(s.open);
	}
	/* More than an answer may have: nothing of it is kept. */
	ask(&s, 1000);
	for (int i = 0; i < 11; i++) {
		memset(text, 'x', 99);
		text[99] = '\0';
		if (feed(&s, text, &answer, &err) == AGENT_BROKEN)
			break;
		assert_in_range(i, 0, 9);
		assert_true(s.used <= 1000);
	}
	assert_false(s.open);
	agent_stream_fini(&s);
}

/* Any bytes at all, with questions of all kinds open. */
static void test_random_bytes(void **state)
{
	static const char alphabet[] = "{}[]\":,\\n\n\xff"
				       "return0123 error";
	struct agent_stream s;
	u64 seed = 88172645463325252;
	size_t size;

	(void)state;
	agent_stream_init(&s);
	for (int round = 0; round < 20000; round++) {
		u8 data[64];
		json_t *answer = NULL;
		struct error err = { 0 };

		for (size_t i = 0; i < sizeof(data); i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			data[i] =
			    round % 2
				? (u8)seed
				: (u8)alphabet[seed % (sizeof(alphabet) - 1)];
		}
		if (!s.open && round % 3 == 0)
			free(agent_sync(&s, &size));
		else if (!s.open)
			ask(&s, 512);
		agent_take(&s, data, 1 + seed % sizeof(data), &answer, &err);
		json_decref(answer);
	}
	agent_stream_fini(&s);
}

static json_t *parse(const char *text)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(json);
	return json;
}

static void test_answers(void **state)
{
	json_t *a = parse(
	    "[{\"name\":\"lo\",\"ip-addresses\":[]},"
	    "{\"name\":\"eth0\",\"hardware-address\":\"52:54:00:12:34:56\","
	    "\"ip-addresses\":[{\"ip-address\":\"10.0.2.15\",\"prefix\":24},"
	    "{\"ip-address\":\"10.0.2.300\",\"prefix\":24},"
	    "{\"ip-address\":\"10.0.2.1\",\"prefix\":33},"
	    "{\"ip-address\":\"fec0::1\",\"prefix\":64},"
	    "{\"ip-address\":\"$(reboot)\",\"prefix\":1}, 7, null]},"
	    "{\"name\":\"\\u001b]0;x\"}, {}, \"x\","
	    "{\"name\":\"eth1\",\"hardware-address\":\"<script>aaaaaaaaa\"}]");
	json_t *list = agent_interfaces(a), *first;
	struct agent_program p;
	struct error err;

	(void)state;
	assert_int_equal(json_array_size(list), 2);
	first = json_array_get(list, 0);
	assert_int_equal(json_array_size(json_object_get(first, "addresses")),
	                 2);
	assert_string_equal(json_string_value(json_array_get(
				json_object_get(first, "addresses"), 1)),
	                    "fec0::1/64");
	assert_true(
	    json_is_null(json_object_get(json_array_get(list, 1), "mac")));
	json_decref(a);
	json_decref(list);
	a = parse("[{\"logical-id\":0,\"online\":true,\"can-offline\":false},"
	          "{\"logical-id\":1,\"online\":false},"
	          "{\"logical-id\":2,\"online\":false},"
	          "{\"logical-id\":3,\"online\":\"no\"},"
	          "{\"logical-id\":-1,\"online\":false},"
	          "{\"logical-id\":99999,\"online\":false},"
	          "{\"online\":false}, 5, null]");
	list = agent_online(a, 2);
	first = json_object_get(list, "vcpus");
	assert_int_equal(json_array_size(first), 1);
	assert_int_equal(agent_number(json_array_get(first, 0), "logical-id"),
	                 2);
	json_decref(list);
	assert_null(agent_online(a, 3));
	json_decref(a);
	a = parse("{\"vcpus\":[]}");
	assert_null(agent_online(a, 0));
	json_decref(a);
	a = parse("{\"exited\":true,\"exitcode\":3,\"out-data\":\"aGk=\"}");
	assert_int_equal(agent_program(a, &p, &err), 0);
	assert_true(p.exited && p.code == 3);
	assert_string_equal(p.out, "aGk=");
	json_decref(a);
	a = parse("{\"exited\":true,\"signal\":9}");
	assert_int_equal(agent_program(a, &p, &err), 0);
	assert_int_equal(p.code, 137);
	json_decref(a);
	a = parse("{\"exited\":true,\"out-data\":\"a\"}");
	assert_int_equal(agent_program(a, &p, &err), -EPROTO);
	json_decref(a);
	a = parse("{\"exited\":\"yes\"}");
	assert_int_equal(agent_program(a, &p, &err), -EPROTO);
	json_decref(a);
	a = parse("{\"exited\":true,\"exitcode\":99999999999}");
	assert_int_equal(agent_program(a, &p, &err), 0);
	assert_in_range(p.code, 0, 255);
	json_decref(a);
	assert_true(agent_base64("") && agent_base64("YQ=="));
	assert_false(agent_base64("YQ=") || agent_base64("Y Q=") ||
	             agent_base64("YQ==YQ=="));
}

/* ---- the daemon's side ---- */

struct scene {
	struct daemon d;
	struct vm vm;
	int guest; /* the far end */
	unsigned answers, failures;
	char words[512];
	s64 number;
};

static void answered(void *ctx, json_t *answer, const struct error *err)
{
	struct scene *s = ctx;

	if (answer) {
		s->answers++;
		s->number = agent_number(answer, NULL);
	} else {
		s->failures++;
		snprintf(s->words, sizeof(s->words), "%s", err->text);
	}
	if (s->answers + s->failures == 2)
		loop_quit(s->d.loop, 0);
}

static int begin(void **state)
{
	static char name[] = "g";
	struct scene *s = xalloc(sizeof(*s));
	int pair[2];

	assert_int_equal(loop_create(&s->d.loop, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX,
	                            SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
	                            0, pair),
	                 0);
	s->vm.daemon = &s->d;
	s->vm.name = name;
	s->vm.state = VM_PAUSED; /* no news are asked for by itself */
	guest_round(&s->vm, true);
	guest_line(&s->vm, pair[0]);
	s->guest = pair[1];
	*state = s;
	return 0;
}

static int end(void **state)
{
	struct scene *s = *state;

	guest_gone(&s->vm);
	loop_destroy(s->d.loop);
	close(s->guest);
	free(s);
	return 0;
}

static void say(struct scene *s, const char *text)
{
	assert_int_equal(write(s->guest, text, strlen(text)),
	                 (ssize_t)strlen(text));
}

/* The guest of the test: answers a sync, then questions with 1, 2, ... */
static void play(void *ctx, unsigned events)
{
	static unsigned count;
	struct scene *s = ctx;
	char data[4096], text[64];
	ssize_t n = read(s->guest, data, sizeof(data) - 1);
	const char *id;

	(void)events;
	if (n <= 0)
		return;
	data[n] = '\0';
	id = strstr(data, "\"id\":");
	if (id) {
		count = 0;
		snprintf(text, sizeof(text), "old rests\xff{\"return\":%lld}\n",
		         atoll(id + 5));
	} else {
		snprintf(text, sizeof(text), "{\"return\":%u}\n", ++count);
	}
	say(s, text);
}

static void test_questions(void **state)
{
	struct scene *s = *state;
	struct loop_fd *watch =
	    loop_fd_add(s->d.loop, s->guest, LOOP_READ, play, s);

	assert_false(guest_there(&s->vm));
	guest_ask(&s->vm, "guest-a", NULL, 1000, 30, answered, s);
	guest_ask(&s->vm, "guest-b", NULL, 1000, 30, answered, s);
	loop_run(s->d.loop);
	assert_int_equal(s->answers, 2);
	assert_int_equal(s->number, 2);
	assert_true(guest_there(&s->vm));
	loop_fd_remove(watch);
}

/* Nobody is there: all are told so, within the time of a sync. */
static void test_silence(void **state)
{
	struct scene *s = *state;

	guest_ask(&s->vm, "guest-a", NULL, 1000, 30, answered, s);
	guest_ask(&s->vm, "guest-b", NULL, 1000, 30, answered, s);
	loop_run(s->d.loop);
	assert_int_equal(s->failures, 2);
	assert_non_null(strstr(s->words, "does not answer"));
	assert_false(guest_there(&s->vm));
}

/* The machine ends with questions open. */
static void test_end(void **state)
{
	struct scene *s = *state;

	guest_ask(&s->vm, "guest-a", NULL, 1000, 30, answered, s);
	guest_gone(&s->vm);
	assert_int_equal(s->failures, 1);
	guest_ask(&s->vm, "guest-b", NULL, 1000, 30, answered, s);
	assert_int_equal(s->failures, 2);
}

/* A flood that nobody asked for, and one in place of an answer. */
static void flood(void *ctx, unsigned events)
{
	struct scene *s = ctx;
	char data[8192];

	(void)events;
	if (read(s->guest, data, sizeof(data)) < 0)
		return;
	memset(data, 'x', sizeof(data));
	while (write(s->guest, data, sizeof(data)) > 0)
		;
}

static void test_flood(void **state)
{
	struct scene *s = *state;
	struct loop_fd *watch =
	    loop_fd_add(s->d.loop, s->guest, LOOP_READ, flood, s);

	guest_ask(&s->vm, "guest-a", NULL, 1000, 2, answered, s);
	guest_ask(&s->vm, "guest-b", NULL, 1000, 2, answered, s);
	loop_run(s->d.loop);
	assert_int_equal(s->failures, 2);
	loop_fd_remove(watch);
}

/* ---- a copy is told who it is ---- */

struct told {
	struct scene *s;
	struct identity id;
	struct loop_timer timer;
	unsigned starts, fail; /* so many times it goes wrong */
	char shell[8192];      /* what was to be run, as JSON */
};

/* Rounds as the daemon makes them, but quick. */
static void next_round(void *ctx)
{
	struct told *t = ctx;

	identity_round(&t->id, &t->s->vm);
	if (t->id.step == IDENTITY_OVER)
		loop_quit(t->s->d.loop, 0);
	loop_timer_arm(&t->timer, loop_now_ns() + 2 * NSEC_PER_MSEC);
}

static void play_agent(void *ctx, unsigned events)
{
	struct told *t = ctx;
	char data[8192], text[96];
	ssize_t n = read(t->s->guest, data, sizeof(data) - 1);
	const char *id;

	(void)events;
	if (n <= 0)
		return;
	data[n] = '\0';
	id = strstr(data, "\"id\":");
	if (id) {
		snprintf(text, sizeof(text), "\xff{\"return\":%lld}\n",
		         atoll(id + 5));
	} else if (strstr(data, "guest-exec-status")) {
		snprintf(text, sizeof(text),
		         "{\"return\":{\"exited\":true,\"exitcode\":%d}}\n",
		         t->starts <= t->fail);
	} else {
		memcpy(t->shell, data, (size_t)n + 1);
		t->starts++;
		/* Refused outright, too. */
		snprintf(text, sizeof(text), "%s",
		         t->starts <= t->fail && t->starts & 1
		             ? "{\"error\":{\"desc\":\"disabled\"}}\n"
		             : "{\"return\":{\"pid\":9}}\n");
	}
	say(t->s, text);
}

/* Is the file still there that says that it is to be told? */
static bool tell_it(struct scene *s, struct told *t)
{
	char folder[] = "/tmp/atoll-told-XXXXXX", *path, *file;
	struct loop_fd *watch;
	struct error err;
	bool left;

	assert_non_null(mkdtemp(folder));
	s->d.place.state = folder;
	strcpy(s->vm.id, "x");
	s->vm.spec =
	    json_pack("{s:[{s:s}]}", "nics", "mac", "02:00:00:00:00:07");
	file = xasprintf("%s/machines", folder);
	mkdir(file, 0700);
	path = vm_folder_path(&s->vm);
	mkdir(path, 0700);
	assert_int_equal(identity_want(&s->vm, &err), 0);
	t->s = s;
	watch = loop_fd_add(s->d.loop, s->guest, LOOP_READ, play_agent, t);
	loop_timer_init(&t->timer, s->d.loop, next_round, t);
	loop_timer_arm(&t->timer, loop_now_ns());
	loop_run(s->d.loop);
	loop_timer_fini(&t->timer);
	loop_fd_remove(watch);
	left = rmdir(path) < 0;
	if (left) {
		char *rest = xasprintf("%s/identity.new", path);

		assert_int_equal(unlink(rest), 0);
		free(rest);
		assert_int_equal(rmdir(path), 0);
	}
	rmdir(file);
	rmdir(folder);
	free(path);
	free(file);
	json_decref(s->vm.spec);
	s->vm.spec = NULL;
	return left;
}

static void test_identity(void **state)
{
	struct told t = { .fail = 3 };
	json_t *asked, *words = NULL;

	assert_false(tell_it(*state, &t));
	assert_int_equal(t.starts, 4);
	asked = json_loads(t.shell, 0, NULL);
	assert_int_equal(
	    json_unpack(asked, "{s:{s:o}}", "arguments", "arg", &words), 0);
	assert_int_equal(json_array_size(words), 5);
	assert_string_equal(json_string_value(json_array_get(words, 3)), "g");
	assert_string_equal(json_string_value(json_array_get(words, 4)),
	                    "02:00:00:00:00:07");
	/* A shell understands it; what it does, tests/e2e/fork_identity.py. */
	assert_int_equal(
	    setenv("WORDS", json_string_value(json_array_get(words, 1)), 1), 0);
	assert_int_equal(system("echo \"$WORDS\" | sh -n"), 0);
	json_decref(asked);
}

/* It is asked a few times, and again at the machine's next start. */
static void test_identity_refused(void **state)
{
	struct told t = { .fail = 100 };

	assert_true(tell_it(*state, &t));
	assert_int_equal(t.starts, 5);
}

/* Times that it is asked in an hour of rounds, of which some see it change and
 * some have somebody look. */
static unsigned asked_in_an_hour(u64 change_s, u64 look_s)
{
	struct news n = { 0 };
	unsigned times = 0;

	for (u64 s = 2; s <= 3600; s += 2) {
		if (look_s && s % look_s == 0)
			n.wanted = true;
		if (!news_due(&n, s * NSEC_PER_SEC))
			continue;
		news_asked(&n, s * NSEC_PER_SEC);
		if (!times || (change_s && s % change_s < NEWS_S))
			news_changed(&n);
		times++;
	}
	return times;
}

static void test_news(void **state)
{
	(void)state;
	assert_in_range(asked_in_an_hour(0, 0), 3600 / NEWS_RARE_S,
	                3600 / NEWS_RARE_S + 5);
	assert_in_range(asked_in_an_hour(1, 0), 200, 3600 / NEWS_S);
	assert_in_range(asked_in_an_hour(0, 2), 200, 3600 / NEWS_S);
	assert_in_range(asked_in_an_hour(0, 600), 30, 50);
}

#define SCENE(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stream),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_answers),
		SCENE(test_questions),
		SCENE(test_silence),
		SCENE(test_end),
		SCENE(test_flood),
		SCENE(test_identity),
		SCENE(test_identity_refused),
		cmocka_unit_test(test_news),
	};

	return cmocka_run_group_tests_name("guest agent", tests, NULL, NULL);
}
