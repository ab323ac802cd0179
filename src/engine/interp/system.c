/* SPDX-License-Identifier: Apache-2.0 */
/*
 * system.c - what the vCPUs of one machine share.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/interp/hostop.h"
#include "engine/interp/icpu.h"
#include "engine/x86/cpuid.h"
#include "engine/x86/decode.h"

enum { CODE_BYTES = 16 * MIB, HOSTOP_BYTES = 16 * MIB };

static void code_written(void *ctx, gpa_t gpa, u64 len)
{
	isystem_code_written(ctx, NULL, gpa, len);
}

/* An alias shares its target's page of notes, as it does the page flags. */
static int slot_meta(struct isystem *sys, size_t n)
{
	struct isystem_slot *s = &sys->slot[n];

	for (size_t i = 0; i < n; i++) {
		struct isystem_slot *t = &sys->slot[i];

		if (s->page >= t->page &&
		    s->page < t->page + (t->size >> PAGE_SHIFT)) {
			s->meta = t->meta + (s->page - t->page);
			return 0;
		}
	}
	s->meta = try_alloc(s->size >> PAGE_SHIFT, sizeof(*s->meta));
	s->meta_owned = true;
	return s->meta ? 0 : -ENOMEM;
}

/* Largest first: an alias comes after its target, and RAM is found soon. */
static int by_size(const void *a, const void *b)
{
	u64 x = ((const struct isystem_slot *)a)->size;
	u64 y = ((const struct isystem_slot *)b)->size;

	return x < y ? 1 : x > y ? -1 : 0;
}

static int copy_slots(struct isystem *sys, struct error *err)
{
	sys->slot_count = memory_slot_count(sys->memory);
	if (sys->slot_count > ISYSTEM_SLOTS)
		return error_set(err, -E2BIG, "too many memory slots (%zu)",
		                 sys->slot_count);
	for (size_t i = 0; i < sys->slot_count; i++) {
		const struct memory_slot *m = memory_slot_at(sys->memory, i);

		sys->slot[i] = (struct isystem_slot){
			.base = m->base,
			.size = m->size,
			.host = m->host,
			.page = m->page,
			.rom = m->kind == MEMORY_ROM,
		};
	}
	qsort(sys->slot, sys->slot_count, sizeof(sys->slot[0]), by_size);
	for (size_t i = 0; i < sys->slot_count; i++)
		if (slot_meta(sys, i) < 0)
			return error_set(err, -ENOMEM,
			                 "no memory for the code map");
	return 0;
}

int isystem_create(struct isystem **out, const struct engine_config *config,
                   struct error *err)
{
	struct isystem *sys;
	struct cpuid_regs vendor;
	int r;

	if (!config->cpus || config->cpus > ISYSTEM_CPUS)
		return error_set(err, -EINVAL, "1 to %d vCPUs, not %u",
		                 ISYSTEM_CPUS, config->cpus);
	sys = xalloc(sizeof(*sys));
	sys->memory = config->memory;
	sys->incomplete = memory_incomplete(config->memory);
	sys->cpuid = config->cpuid;
	sys->cpus = config->cpus;
	sys->code_bytes = CODE_BYTES;
	if (config->code_cache_bytes)
		sys->code_bytes = config->code_cache_bytes / config->cpus;
	sys->cpu = xalloc(sizeof(sys->cpu[0]) * config->cpus);
	sys->decoder = xalloc(sizeof(*sys->decoder));
	cpuid_query(config->cpuid, 0, 0, 0, 0, 0, &vendor);
	insn_decoder_init(sys->decoder, icpu_vendor_amd(vendor.ebx));
	pthread_mutex_init(&sys->code_lock, NULL);
	pthread_mutex_init(&sys->world_lock, NULL);
	r = copy_slots(sys, err);
	if (!r)
		r = hostop_install_signals(err);
	if (!r)
		r = hostop_pool_create(&sys->hostops, HOSTOP_BYTES, err);
	if (r) {
		isystem_destroy(sys);
		return r;
	}
	memory_set_code_watch(config->memory, code_written, sys);
	*out = sys;
	return 0;
}

/*
 * Nobody has decoded code, so that there is nothing to note of it. Pages keep
 * PAGE_CODE: after some stores to one it goes, as if they had missed.
 */
static void forget_meta(struct isystem *sys)
{
	pthread_mutex_lock(&sys->code_lock);
	for (size_t i = 0; i < sys->slot_count; i++) {
		struct isystem_slot *s = &sys->slot[i];

		if (s->meta_owned)
			alloc_clear(s->meta,
			            (s->size >> PAGE_SHIFT) * sizeof(*s->meta));
	}
	pthread_mutex_unlock(&sys->code_lock);
}

void isystem_let_go(struct isystem *sys)
{
	for (unsigned i = 0; i < sys->cpus; i++)
		if (sys->cpu[i])
			icpu_let_go(sys->cpu[i]);
	forget_meta(sys);
}

void isystem_destroy(struct isystem *sys)
{
	if (!sys)
		return;
	memory_set_code_watch(sys->memory, NULL, NULL);
	for (size_t i = 0; i < sys->slot_count; i++)
		if (sys->slot[i].meta_owned)
			free(sys->slot[i].meta);
	hostop_pool_destroy(sys->hostops);
	pthread_mutex_destroy(&sys->code_lock);
	pthread_mutex_destroy(&sys->world_lock);
	free(sys->decoder);
	free(sys->cpu);
	free(sys);
}
