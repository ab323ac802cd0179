/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the instruction test: the host's CPU against an engine.
 *
 *	isa [--engine NAME[,OPTIONS]] [--seed N] [--count N] [--only MNEMONIC]
 *	    [--insns N] [--no-32] [--keep-going N] [--forms]
 *
 * The engine "hostop" is engine/interp/hostop.c alone. Prints the seed, the
 * instructions run and the forms met; ends with 1 at the first difference.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "engine/interp/hostop.h"
#include "tests/isa/isa.h"

enum { SKIPPED = 77 }; /* what meson takes for a skip */

struct options {
	const char *engine, *engine_options;
	u64 seed, count;
	const char *only;
	unsigned insns, keep_going;
	bool with32, list;
};

struct test {
	struct options o;
	struct isa_forms forms;
	struct isa_rng rng;
	u32 *order;
	size_t orders, next;
	u8 *host_data;
	struct isa_machine *machine;
	struct hostop_pool *pool;
	u8 *guest_data;
	u8 alone_data[ISA_DATA_WRITABLE];
	u64 insns, snippets, faults, failures;
};

static void add_order(struct test *t, bool mode32)
{
	size_t i, first = t->orders;

	for (i = 0; i < t->forms.count; i++) {
		const struct isa_form *f = &t->forms.form[i];

		if (f->mode32 != mode32)
			continue;
		if (t->o.only &&
		    strcmp(ZydisMnemonicGetString(f->mnemonic), t->o.only) != 0)
			continue;
		t->order[t->orders++] = (u32)i;
	}
	/* Shuffled, the modes apart, so that a snippet is of one mode. */
	for (i = t->orders; i > first + 1; i--) {
		size_t j = first + isa_below(&t->rng, i - first);
		u32 swap = t->order[i - 1];

		t->order[i - 1] = t->order[j];
		t->order[j] = swap;
	}
}

static void shuffle(struct test *t)
{
	t->orders = 0;
	t->next = 0;
	add_order(t, false);
	add_order(t, true);
}

/* Runs both; NULL if they agree. left_out: the engine can't run it. */
static const char *run_both(struct test *t, const struct isa_snippet *s,
                            const struct isa_state *in, const u8 *before,
                            struct isa_state *host, struct isa_state *guest,
                            bool *left_out)
{
	*left_out = false;
	memcpy(t->host_data, before, ISA_DATA_WRITABLE);
	memcpy(t->guest_data, before, ISA_DATA_WRITABLE);
	if (t->machine)
		isa_machine_run(t->machine, s, in, guest);
	else if (!isa_hostop_run(t->pool, &t->forms, s, t->guest_data, in,
	                         guest)) {
		*left_out = true;
		return NULL;
	}
	isa_native_run(s, in, host);
	return isa_compare(s, host, t->host_data, guest, t->guest_data);
}

/*
 * A difference counts if it comes again: the host's kernel may drop x87
 * pointers in the middle of a snippet, when it switches to another program.
 */
static bool differs(struct test *t, const struct isa_snippet *s,
                    const struct isa_state *in, const u8 *before,
                    struct isa_state *host, bool *left_out)
{
	struct isa_snippet again = *s;
	struct isa_state guest;
	unsigned i;

	for (i = 0; i < 3; i++) {
		again.exact = i > 0;
		if (!run_both(t, &again, in, before, host, &guest, left_out))
			return false;
	}
	return true;
}

/* The shortest head of the snippet that still differs. */
static void shorten(struct test *t, struct isa_snippet *s,
                    const struct isa_state *in, const u8 *before)
{
	struct isa_state host;
	struct isa_snippet head;
	size_t i;
	bool left_out;

	for (i = 1; i < s->count; i++) {
		if (s->insn[i].glued)
			continue;
		head = *s;
		head.count = i;
		head.length = s->insn[i].at;
		head.undefined = s->insn[i].undefined;
		if (differs(t, &head, in, before, &host, &left_out)) {
			*s = head;
			return;
		}
	}
}

static void report(struct test *t, struct isa_snippet *s,
                   const struct isa_state *in, const u8 *before)
{
	struct isa_state host, guest;
	const char *what;
	bool left_out;

	shorten(t, s, in, before);
	what = run_both(t, s, in, before, &host, &guest, &left_out);
	printf("MISMATCH %s\n", what ? what : "(not again)");
	isa_print_snippet(s);
	isa_print_states(in, &host, &guest);
	fflush(stdout);
}

static void count(struct test *t, const struct isa_snippet *s,
                  const struct isa_state *host)
{
	u64 reached = host->rip - s->start;
	size_t i;

	t->snippets++;
	t->faults += host->vector != ISA_NO_VECTOR;
	for (i = 0; i < s->count; i++) {
		if (s->insn[i].at > reached ||
		    (s->insn[i].at == reached && host->vector == ISA_NO_VECTOR))
			break;
		t->insns++;
		if (s->insn[i].form != ISA_NO_FORM)
			t->forms.form[s->insn[i].form].hits++;
	}
}

static void run(struct test *t)
{
	static u8 before[ISA_DATA_WRITABLE];
	struct isa_snippet s;
	struct isa_state in, host;
	bool left_out;

	isa_random_data(&t->rng, before, true);
	while (t->insns < t->o.count && t->failures <= t->o.keep_going) {
		if (t->next >= t->orders)
			shuffle(t);
		isa_generate(&t->forms, t->order, t->orders, &t->next, &t->rng,
		             t->o.insns, &s);
		isa_random_state(&t->rng, &s, &in);
		if (isa_once_in(&t->rng, 64))
			isa_random_data(&t->rng, before, true);
		if (differs(t, &s, &in, before, &host, &left_out)) {
			t->failures++;
			report(t, &s, &in, before);
			continue;
		}
		if (left_out) {
			t->insns++; /* so that the loop ends */
			continue;
		}
		memcpy(before, t->host_data, sizeof(before));
		isa_random_data(&t->rng, before, false);
		count(t, &s, &host);
	}
}

static void print_figures(const struct test *t)
{
	size_t met = 0, i;

	for (i = 0; i < t->forms.count; i++) {
		const struct isa_form *f = &t->forms.form[i];

		met += f->hits != 0;
		if (t->o.list)
			printf("form %s %s map %u opcode %02x prefixes %u "
			       "w %u l %u reg %d rm %d %s: %" PRIu64 "\n",
			       ZydisMnemonicGetString(f->mnemonic),
			       f->mode32 ? "32" : "64", f->map, f->opcode,
			       f->prefixes, f->rex_w | f->vex_w, f->vex_l,
			       f->reg, f->rm, f->memory ? "mem" : "reg",
			       f->hits);
	}
	printf("isa: engine %s, seed %" PRIu64 ": %" PRIu64
	       " instructions in %" PRIu64 " snippets (%" PRIu64
	       " ended by exceptions), forms met %zu of %zu, %.1f s CPU\n",
	       t->o.engine, t->o.seed, t->insns, t->snippets, t->faults, met,
	       t->forms.count, (double)clock() / CLOCKS_PER_SEC);
	printf("%u passed, %" PRIu64 " failed\n", t->failures == 0,
	       t->failures);
}

static u64 number(const char *text)
{
	char *end;
	u64 v;

	errno = 0;
	v = strtoull(text ? text : "", &end, 0);
	if (errno || !text || end == text || *end) {
		fprintf(stderr, "isa: a number is wanted: %s\n",
		        text ? text : "");
		exit(2);
	}
	return v;
}

static void parse(struct options *o, int argc, char **argv)
{
	static char engine[64];
	int i;

	*o = (struct options){ .engine = "interp",
		               .seed = 1,
		               .count = 2000000,
		               .insns = 12,
		               .with32 = true };
	for (i = 1; i < argc; i++) {
		const char *a = argv[i], *v = argv[i + 1];

		if (!strcmp(a, "--no-32")) {
			o->with32 = false;
			continue;
		} else if (!strcmp(a, "--forms")) {
			o->list = true;
			continue;
		}
		i++;
		if (!strcmp(a, "--engine") && v) {
			char *comma;

			snprintf(engine, sizeof(engine), "%s", v);
			comma = strchr(engine, ',');
			if (comma) {
				*comma = '\0';
				o->engine_options = comma + 1;
			}
			o->engine = engine;
		} else if (!strcmp(a, "--seed")) {
			o->seed = v && !strcmp(v, "time") ? (u64)time(NULL)
			                                  : number(v);
		} else if (!strcmp(a, "--count")) {
			o->count = number(v);
		} else if (!strcmp(a, "--insns")) {
			o->insns = (unsigned)number(v);
		} else if (!strcmp(a, "--keep-going")) {
			o->keep_going = (unsigned)number(v);
		} else if (!strcmp(a, "--only") && v) {
			o->only = v;
		} else {
			fprintf(stderr, "isa: unknown option %s\n", a);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	static struct test t;
	struct error err;

	parse(&t.o, argc, argv);
	printf("isa: seed %" PRIu64 "\n", t.o.seed);
	fflush(stdout);
	if (!isa_native_init(&t.host_data))
		return SKIPPED;
	if (hostop_install_signals(&err)) {
		fprintf(stderr, "isa: %s\n", err.text);
		return 1;
	}
	isa_seed(&t.rng, t.o.seed);
	isa_forms_build(&t.forms, t.o.with32);
	t.order = calloc(t.forms.count, sizeof(*t.order));
	if (!t.order)
		return 1;
	if (!strcmp(t.o.engine, "hostop")) {
		if (hostop_pool_create(&t.pool, 1 << 20, &err))
			return 1;
		t.guest_data = t.alone_data;
	} else {
		t.machine = isa_machine_create(t.o.engine, t.o.engine_options);
		if (!t.machine)
			return 1;
		t.guest_data = isa_machine_data(t.machine);
	}
	if (!isa_native_catch()) {
		perror("isa: cannot catch signals");
		return 1;
	}
	shuffle(&t);
	if (t.orders == 0) {
		fprintf(stderr, "isa: no form of that name\n");
		return 2;
	}
	run(&t);
	print_figures(&t);
	isa_machine_destroy(t.machine);
	hostop_pool_destroy(t.pool);
	isa_forms_free(&t.forms);
	free(t.order);
	return t.failures != 0;
}
