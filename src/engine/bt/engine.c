/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - the translator's face: engine.h over the soft vCPU with host
 * code.
 *
 * Options, after "bt,": tier=0 (interpret only), tier=1 (blocks), tier=2
 * (and traces, trace.c), stats, code-cache=SIZE (of all vCPUs together), hot=N
 * (translate a block when it runs for the Nth time), eager (make traces of what
 * is not hot: for tests), exact (status flags are right at every fault,
 * docs/decisions/0010), lockstep and lockstep=strict (lockstep.h), and perf-map
 * (perf_map.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/units.h"
#include "engine/bt/bt.h"
#include "engine/bt/lockstep.h"
#include "engine/bt/perf_map.h"
#include "engine/bt/stats.h"
#include "engine/interp/interp.h"
#include "engine/x86/decode.h"

enum { DEFAULT_CODE_BYTES = 32 << 20 };

struct bt_engine {
	struct engine engine;
	struct insn_decoder decoder;
	u64 cache_bytes; /* of all vCPUs; 0: the default */
	unsigned tier;
	u64 hot;    /* runs before a block is translated */
	bool exact; /* see bt.h */
	bool eager; /* likewise */
	bool stats;
	bool lockstep, strict;
	bool wants_map;
	FILE *perf_map; /* NULL: none */
	unsigned cpus;
	struct bt **bt; /* by vCPU; NULL at tier 0 */
};

static struct bt_engine *bt_engine_of(struct engine *e)
{
	return container_of(e, struct bt_engine, engine);
}

static struct bt *bt_of_vcpu(struct vcpu *v)
{
	const struct icpu *cpu = (struct icpu *)v;

	return ((const struct bt_area *)(const void *)cpu->area)->bt;
}

static int parse_options(struct bt_engine *e, const char *text,
                         struct error *err)
{
	char *copy = xstrdup(text), *rest = copy, *word;
	int rc = 0;

	while (!rc && (word = strsep(&rest, ","))) {
		if (!strcmp(word, "tier=0"))
			e->tier = 0;
		else if (!strcmp(word, "tier=1"))
			e->tier = 1;
		else if (!strcmp(word, "tier=2"))
			e->tier = 2;
		else if (!strcmp(word, "eager"))
			e->eager = true;
		else if (!strncmp(word, "code-cache=", 11))
			rc = parse_size(word + 11, 1, &e->cache_bytes, err);
		else if (!strncmp(word, "hot=", 4))
			rc = parse_u64(word + 4, 1, 1000000, &e->hot, err);
		else if (!strcmp(word, "exact"))
			e->exact = true;
		else if (!strcmp(word, "stats"))
			e->stats = true;
		else if (!strcmp(word, "lockstep"))
			e->lockstep = true;
		else if (!strcmp(word, "lockstep=strict"))
			e->lockstep = e->strict = true;
		else if (!strcmp(word, "perf-map"))
			e->wants_map = true;
		else if (*word)
			rc = error_set(err, -EINVAL,
			               "engine bt has no option '%s'", word);
	}
	if (rc)
		error_hint(err, "it has tier=0, tier=1, tier=2, hot=N, eager, "
		                "code-cache=SIZE, exact, stats, lockstep and "
		                "perf-map");
	free(copy);
	return rc;
}

static int bt_probe(struct error *err)
{
	if (!__builtin_cpu_supports("bmi2"))
		return error_set(err, -ENOTSUP,
		                 "this processor is older than x86-64-v3");
	return 0;
}

static void bt_destroy_engine(struct engine *engine)
{
	struct bt_engine *e;

	if (!engine)
		return;
	e = bt_engine_of(engine);
	isystem_destroy(engine->sys);
	if (e->perf_map)
		fclose(e->perf_map);
	free(e->bt);
	free(e);
}

/* What the vCPUs share; lockstep has one more than the machine knows. */
static int create_system(struct bt_engine *e,
                         const struct engine_config *config, struct error *err)
{
	struct engine_config all = *config;

	if (e->lockstep && config->cpus > 1)
		return error_set(err, -EINVAL,
		                 "lockstep compares one vCPU, not %u",
		                 config->cpus);
	all.cpus += e->lockstep;
	all.code_cache_bytes = e->cache_bytes;
	return isystem_create(&e->engine.sys, &all, err);
}

static int bt_create_engine(struct engine **out,
                            const struct engine_config *config,
                            struct error *err)
{
	struct bt_engine *e = xalloc(sizeof(*e));
	int rc = 0;

	e->tier = 2;
	e->hot = HOT_RUNS;
	e->cpus = config->cpus;
	e->bt = xalloc(config->cpus * sizeof(struct bt *));
	e->cache_bytes = config->code_cache_bytes;
	insn_decoder_init(&e->decoder, __builtin_cpu_is("amd"));
	if (config->options)
		rc = parse_options(e, config->options, err);
	if (!rc)
		rc = bt_install_signals(err);
	if (!rc && e->wants_map)
		rc = perf_map_open(&e->perf_map, err);
	if (!rc)
		rc = create_system(e, config, err);
	if (rc) {
		bt_destroy_engine(&e->engine);
		return rc;
	}
	*out = &e->engine;
	return 0;
}

static int create_translator(struct bt_engine *e, unsigned index,
                             struct icpu *cpu, struct error *err)
{
	u64 bytes =
	    e->cache_bytes ? e->cache_bytes / e->cpus : DEFAULT_CODE_BYTES;
	struct bt *bt;
	int rc = bt_create(&bt, cpu, bytes, &e->decoder, err);

	if (rc)
		return rc;
	bt->count_fallbacks = e->stats;
	bt->exact = e->exact;
	bt->eager = e->eager;
	bt->tier = e->tier;
	bt->hot = (u32)e->hot;
	bt->perf_map = e->perf_map;
	perf_map_add_stubs(bt);
	if (e->lockstep)
		rc = lockstep_create(&bt->lockstep, bt, e->strict, err);
	if (rc)
		bt_destroy(bt);
	else
		e->bt[index] = bt;
	return rc;
}

static int bt_vcpu_create(struct engine *engine, unsigned index,
                          const struct vcpu_host *host, struct vcpu **out,
                          struct error *err)
{
	struct bt_engine *e = bt_engine_of(engine);
	struct icpu *cpu;
	int rc = icpu_create(&cpu, engine->sys, index, host, err);

	if (rc)
		return rc;
	if (e->tier > 0)
		rc = create_translator(e, index, cpu, err);
	if (rc)
		icpu_destroy(cpu);
	else
		*out = (struct vcpu *)cpu;
	return rc;
}

static void bt_vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	bt_destroy(bt_of_vcpu(v));
	icpu_destroy((struct icpu *)v);
}

static void bt_vcpu_run(struct vcpu *v, struct vcpu_exit *exit)
{
	struct bt *bt = bt_of_vcpu(v);

	if (bt)
		bt_attach_thread(bt);
	icpu_run((struct icpu *)v, exit);
}

/* ---- figures ---- */

/* Host code does not count the instructions that it runs. */
static u64 bt_vcpu_stat(struct vcpu *v, enum vcpu_stat stat)
{
	if (stat == STAT_INSTRUCTIONS && bt_of_vcpu(v))
		return 0;
	return interp_vcpu_stat(v, stat);
}

static char *bt_stats_json(struct engine *engine)
{
	struct bt_engine *e = bt_engine_of(engine);
	json_t *o = json_object(), *list = json_array();
	char *text;

	for (unsigned i = 0; i < e->cpus; i++)
		if (e->bt[i])
			json_array_append_new(list, bt_figures(e->bt[i]));
	json_object_set_new(o, "vcpus", list);
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

const struct engine_type bt_engine = {
	.name = "bt",
	.about = "the binary translator: any x86-64-v3 host, no privileges",
	.memory_on_demand = true,
	.probe = bt_probe,
	.create = bt_create_engine,
	.destroy = bt_destroy_engine,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.vcpu_run = bt_vcpu_run,
	.vcpu_rest = interp_vcpu_rest,
	.let_go = interp_let_go,
	.vcpu_kick = interp_vcpu_kick,
	.vcpu_attention = interp_vcpu_attention,
	.vcpu_nmi = interp_vcpu_nmi,
	.vcpu_get = interp_vcpu_get,
	.vcpu_set = interp_vcpu_set,
	.vcpu_stat = bt_vcpu_stat,
	.vcpu_debug = interp_vcpu_debug,
	.vcpu_translate = interp_vcpu_translate,
	.vcpu_tsc_offset_get = interp_vcpu_tsc_offset_get,
	.vcpu_tsc_offset_set = interp_vcpu_tsc_offset_set,
	.dirty_start = interp_dirty_start,
	.dirty_sync = interp_dirty_sync,
	.dirty_stop = interp_dirty_stop,
	.stats_json = bt_stats_json,
};
