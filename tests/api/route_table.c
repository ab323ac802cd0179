/* SPDX-License-Identifier: Apache-2.0 */
/* The routes that the daemon has, a line each: what the authorization matrix
 * holds api/openapi.yaml against. */
#include <stdio.h>

#include "daemon/api.h"

int main(void)
{
	for (const struct route *r = routes; r->method; r++)
		printf("%s %s\n", r->method, r->pattern);
	return 0;
}
