/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/discard.h"

#include <sys/mman.h>

/* A hole in the file where the mapping is shared with it. A private mapping (of
 * a saved machine's file, or of memory that others have too) refuses that: only
 * our own copies of its pages go. */
static bool drop(const struct memory_slot *s, u64 at, u64 len)
{
	if (madvise(s->host + at, len, MADV_REMOVE) == 0)
		return true;
	return madvise(s->host + at, len, MADV_DONTNEED) == 0;
}

u64 memory_discard(struct memory *mem, gpa_t gpa, u64 len)
{
	gpa_t end = gpa + len, next;
	u64 dropped = 0;

	if (end < gpa)
		return 0;
	gpa = ALIGN_UP(gpa, (u64)PAGE_SIZE);
	end &= PAGE_MASK;
	for (; gpa < end; gpa = next) {
		const struct memory_slot *s = memory_find(mem, gpa);

		if (!s)
			return dropped;
		next = MIN(end, s->base + s->size);
		/* What comes later would fill the hole. */
		memory_need(mem, gpa, next - gpa);
		if (s->kind != MEMORY_RAM ||
		    !drop(s, gpa - s->base, next - gpa))
			continue;
		memory_written(mem, gpa, next - gpa);
		dropped += next - gpa;
	}
	return dropped;
}
