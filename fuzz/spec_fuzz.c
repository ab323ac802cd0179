/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec_fuzz - bytes as the body of a request that defines or changes a
 * machine. What is taken must parse to itself, and be whole.
 */
#include <stdlib.h>

#include "daemon/daemon.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	json_t *body =
	    json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	json_t *base = json_pack("{s:s, s:s}", "name", "a", "image", "i");
	struct error err = { 0 };
	json_t *whole = spec_parse(base, &err), *spec, *again;

	for (int patch = 0; body && patch < 2; patch++) {
		spec = patch ? spec_patch(whole, body, &err)
		             : spec_parse(body, &err);
		if (!spec)
			continue;
		again = spec_parse(spec, &err);
		if (!again || !json_equal(spec, again) ||
		    !json_object_get(spec, "restart") ||
		    spec_fill(spec, &err) < 0)
			abort();
		spec_touches_host(spec);
		json_decref(again);
		json_decref(spec);
	}
	json_decref(whole);
	json_decref(base);
	json_decref(body);
	return 0;
}
