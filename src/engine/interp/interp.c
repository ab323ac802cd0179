/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interp.c - the engine's face: engine.h over the soft vCPU.
 */
#include "engine/interp/interp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/interp/icpu.h"
#include "engine/x86/paging.h"

/* A vcpu is its icpu. */
static struct icpu *icpu_of(struct vcpu *v)
{
	return (struct icpu *)v;
}

static int interp_probe(struct error *err)
{
	(void)err;
	return 0;
}

static int interp_create(struct engine **out,
                         const struct engine_config *config, struct error *err)
{
	struct engine *e = xalloc(sizeof(*e));
	int r = isystem_create(&e->sys, config, err);

	if (r) {
		free(e);
		return r;
	}
	*out = e;
	return 0;
}

static void interp_destroy(struct engine *e)
{
	if (!e)
		return;
	isystem_destroy(e->sys);
	free(e);
}

static int interp_vcpu_create(struct engine *e, unsigned index,
                              const struct vcpu_host *host, struct vcpu **out,
                              struct error *err)
{
	struct icpu *cpu;
	int r = icpu_create(&cpu, e->sys, index, host, err);

	if (!r)
		*out = (struct vcpu *)cpu;
	return r;
}

static void interp_vcpu_destroy(struct vcpu *v)
{
	icpu_destroy(icpu_of(v));
}

static void interp_vcpu_run(struct vcpu *v, struct vcpu_exit *exit)
{
	icpu_run(icpu_of(v), exit);
}

u64 interp_vcpu_rest(struct vcpu *v)
{
	return icpu_rest(icpu_of(v));
}

void interp_let_go(struct engine *e)
{
	isystem_let_go(e->sys);
}

void interp_vcpu_kick(struct vcpu *v)
{
	icpu_attend(icpu_of(v), ATTEND_KICK);
}

void interp_vcpu_attention(struct vcpu *v)
{
	icpu_attend(icpu_of(v), ATTEND_IRQ);
}

void interp_vcpu_nmi(struct vcpu *v)
{
	icpu_post_nmi(icpu_of(v));
}

void interp_vcpu_get(struct vcpu *v, struct cpu_state *state)
{
	icpu_get(icpu_of(v), state);
}

int interp_vcpu_set(struct vcpu *v, const struct cpu_state *state,
                    struct error *err)
{
	return icpu_set(icpu_of(v), state, err);
}

u64 interp_vcpu_stat(struct vcpu *v, enum vcpu_stat stat)
{
	const struct icpu *cpu = icpu_of(v);

	if (stat == STAT_INSTRUCTIONS)
		return cpu->icount;
	return stat < STAT_COUNT ? cpu->stats[stat] : 0;
}

int interp_vcpu_debug(struct vcpu *v, const struct vcpu_breakpoint *points,
                      size_t count, bool step)
{
	struct icpu *cpu = icpu_of(v);
	struct vcpu_breakpoint *copy = NULL;

	if (count) {
		copy = try_alloc(count, sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, points, count * sizeof(*copy));
	}
	free(cpu->points);
	cpu->points = copy;
	cpu->point_count = count;
	cpu->stepping = step;
	icpu_tlb_flush(cpu, true);
	icpu_update(cpu);
	return 0;
}

bool interp_vcpu_translate(struct vcpu *v, gva_t gva, gpa_t *gpa)
{
	struct icpu *cpu = icpu_of(v);
	struct paging_result r;

	if (!icpu_canonical(gva))
		return false;
	if (!paging_walk(cpu, gva, ACCESS_READ, cpu->priv, false, &r))
		return false;
	*gpa = r.gpa;
	return true;
}

u64 interp_vcpu_tsc_offset_get(struct vcpu *v)
{
	return atomic_load_explicit(&icpu_of(v)->tsc_offset,
	                            memory_order_relaxed);
}

void interp_vcpu_tsc_offset_set(struct vcpu *v, u64 offset)
{
	icpu_of(v)->tsc_offset = offset;
}

/*
 * Every write tag is withheld until its page's flag is set, always: the log
 * only has to take the tags back.
 */
int interp_dirty_start(struct engine *e)
{
	icpu_untag_others(e->sys, NULL, NULL);
	return 0;
}

void interp_dirty_sync(struct engine *e)
{
	icpu_untag_others(e->sys, NULL, NULL);
}

void interp_dirty_stop(struct engine *e)
{
	(void)e;
}

const struct engine_type interp_engine = {
	.name = "interp",
	.about = "the reference interpreter: any host, every mode, slow",
	.memory_on_demand = true,
	.probe = interp_probe,
	.create = interp_create,
	.destroy = interp_destroy,
	.vcpu_create = interp_vcpu_create,
	.vcpu_destroy = interp_vcpu_destroy,
	.vcpu_run = interp_vcpu_run,
	.vcpu_rest = interp_vcpu_rest,
	.let_go = interp_let_go,
	.vcpu_kick = interp_vcpu_kick,
	.vcpu_attention = interp_vcpu_attention,
	.vcpu_nmi = interp_vcpu_nmi,
	.vcpu_get = interp_vcpu_get,
	.vcpu_set = interp_vcpu_set,
	.vcpu_stat = interp_vcpu_stat,
	.vcpu_tsc_offset_get = interp_vcpu_tsc_offset_get,
	.vcpu_tsc_offset_set = interp_vcpu_tsc_offset_set,
	.vcpu_debug = interp_vcpu_debug,
	.vcpu_translate = interp_vcpu_translate,
	.dirty_start = interp_dirty_start,
	.dirty_sync = interp_dirty_sync,
	.dirty_stop = interp_dirty_stop,
};
