/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats - figures of a vCPU's translator.
 *
 * What costs nothing is always counted. bt,stats adds why host code came back
 * to the interpreter: an instruction that it does not do, a probe of memory
 * that missed the TLB, a link or a target that was not known.
 */
#include "engine/bt/stats.h"

#include "base/units.h"
#include "engine/bt/lockstep.h"
#include "engine/interp/ops.h"
#include "engine/x86/decode.h"

static void count_instruction(struct bt *bt, const struct bt_out *out)
{
	const struct block *b = out->block;
	u8 bytes[15];
	size_t n = MIN(sizeof(bytes), (size_t)PAGE_SIZE - out->off);
	struct insn in;

	bt->stats.left_op++;
	guest_copy(bytes, b->page->host + out->off, n);
	if (insn_decode(bt->decoder, INSN_64, bytes, n, &in) == INSN_OK)
		bt->stats.left[in.z.mnemonic]++;
}

void bt_count_exit(struct bt *bt, const struct bt_exit *exit)
{
	const struct bt_out *out;

	switch ((enum bt_exit_kind)exit->kind) {
	case BT_EXIT_OP:
		out = (const void *)(bt->meta + exit->value);
		if (out->span)
			bt->stats.left_probe++;
		else
			count_instruction(bt, out);
		break;
	case BT_EXIT_LINK:
		bt->stats.left_link++;
		break;
	case BT_EXIT_RIP:
		bt->stats.left_target++;
		break;
	}
}

static void set(json_t *o, const char *name, u64 value)
{
	json_object_set_new(o, name, json_integer((json_int_t)value));
}

static json_t *by_mnemonic(const u64 *count)
{
	json_t *o = json_object();

	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
		if (count[m])
			set(o, ZydisMnemonicGetString((ZydisMnemonic)m),
			    count[m]);
	return o;
}

static void add_fallbacks(json_t *o, const struct bt *bt)
{
	const struct bt_stats *s = &bt->stats;
	json_t *left = json_object();

	/* Misses of slots are counted down from sample to sample. */
	set(o, "slot_misses",
	    bt->area->miss_samples * MISS_SAMPLE +
	        (MISS_SAMPLE - bt->area->miss_count));
	set(left, "instruction", s->left_op);
	set(left, "probe", s->left_probe);
	set(left, "link", s->left_link);
	set(left, "target", s->left_target);
	json_object_set_new(o, "fallbacks", left);
	json_object_set_new(o, "fallback_instructions", by_mnemonic(s->left));
	json_object_set_new(o, "untranslated", by_mnemonic(s->fallback));
}

static json_t *compared(const struct lockstep *l)
{
	const struct lockstep_figures f = lockstep_figures(l);
	json_t *o = json_object();

	set(o, "compared", f.blocks);
	set(o, "unseen", f.unseen);
	set(o, "foreign_writes", f.foreign);
	return o;
}

json_t *bt_figures(const struct bt *bt)
{
	const struct bt_stats *s = &bt->stats;
	json_t *o = json_object();

	set(o, "blocks", s->translated);
	set(o, "guest_bytes", s->translated_bytes);
	set(o, "host_bytes", s->host_bytes);
	set(o, "probes", s->probes);
	set(o, "entries", s->entries);
	set(o, "again", s->again);
	set(o, "traces", s->traces);
	set(o, "links", s->links);
	set(o, "target_misses", s->target_misses);
	set(o, "deaths", s->deaths);
	set(o, "flushes", s->flushes);
	set(o, "context_switches", s->switches);
	set(o, "slot_clears", s->slot_clears);
	set(o, "translation_us", s->translate_ns / NSEC_PER_USEC);
	if (bt->count_fallbacks)
		add_fallbacks(o, bt);
	if (bt->lockstep)
		json_object_set_new(o, "lockstep", compared(bt->lockstep));
	return o;
}
