/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/claims.h"

#include <errno.h>

#include "base/error.h"

int claims_check(const struct claims *c, unsigned disk, u64 asker,
                 struct error *err)
{
	if (c->asker[disk] == 0 || c->asker[disk] == asker)
		return 0;
	error_set(err, -EAGAIN, "another command is at work on this disk");
	return error_hint(err, "ask again");
}

void claims_take(struct claims *c, unsigned disk, u64 asker)
{
	c->asker[disk] = asker;
}

void claims_drop(struct claims *c, u64 asker)
{
	for (unsigned i = 0; i < ARRAY_SIZE(c->asker); i++)
		if (c->asker[i] == asker)
			c->asker[i] = 0;
}
