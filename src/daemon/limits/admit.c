/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admit - a machine starts only where what it was promised can be kept.
 */
#include <errno.h>

#include "daemon/limits/limits.h"

int admit(const struct host_policy *policy, u64 host_memory,
          unsigned processors, const struct demand *running,
          const struct demand *wanted, struct error *err)
{
	u64 room = host_memory > policy->headroom_bytes
	               ? host_memory - policy->headroom_bytes
	               : 0;
	u64 promised = running->memory_reservation + wanted->memory_reservation;
	u64 most = (u64)((double)room * (double)policy->overcommit / 100);

	if (wanted->memory && running->memory + wanted->memory > most) {
		error_set(err, -ENOSPC,
		          "the host has no room for %" PRIu64
		          " MiB: machines that run have %" PRIu64 " of %" PRIu64
		          " MiB",
		          wanted->memory / MIB, running->memory / MIB,
		          most / MIB);
		return error_hint(err,
		                  "stop another machine, or allow overcommit: "
		                  "atoll host policy --overcommit PERCENT");
	}
	if (wanted->memory_reservation && promised > room)
		return error_set(err, -ENOSPC,
		                 "%" PRIu64 " MiB can't be reserved: %" PRIu64
		                 " of %" PRIu64
		                 " MiB are, for machines that run",
		                 wanted->memory_reservation / MIB,
		                 running->memory_reservation / MIB, room / MIB);
	if (wanted->cpu_reservation &&
	    running->cpu_reservation + wanted->cpu_reservation >
	        (u64)processors * 100)
		return error_set(
		    err, -ENOSPC,
		    "%" PRIu64 " %% of a processor can't be reserved: "
		    "%" PRIu64 " of %u %% are, for machines that run",
		    wanted->cpu_reservation, running->cpu_reservation,
		    processors * 100);
	return 0;
}
