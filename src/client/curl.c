/* SPDX-License-Identifier: Apache-2.0 */
#include "client/curl.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/types.h"

/* The one whose functions curl/curl.h declares. */
static const char library[] = "libcurl.so.4";

#define SYMBOL(name)                                                           \
	{                                                                      \
		"curl_" #name, offsetof(struct curl, name)                     \
	}
static const struct {
	const char *name;
	size_t at;
} symbols[] = {
	SYMBOL(global_init),    SYMBOL(easy_init),     SYMBOL(easy_cleanup),
	SYMBOL(easy_reset),     SYMBOL(easy_setopt),   SYMBOL(easy_getinfo),
	SYMBOL(easy_perform),   SYMBOL(easy_strerror), SYMBOL(slist_append),
	SYMBOL(slist_free_all),
};

static int find_all(struct curl *c, void *handle, struct error *err)
{
	void *symbol;

	for (size_t i = 0; i < ARRAY_SIZE(symbols); i++) {
		symbol = dlsym(handle, symbols[i].name);
		if (!symbol)
			return error_set(err, -ENOTSUP, "%s has no %s", library,
			                 symbols[i].name);
		memcpy((char *)c + symbols[i].at, &symbol, sizeof(symbol));
	}
	return 0;
}

const struct curl *curl_load(struct error *err)
{
	static struct curl loaded;
	static bool done;
	void *handle;

	if (done)
		return &loaded;
	handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		error_set(err, -ENOTSUP, "HTTP needs libcurl: %s", dlerror());
		error_hint(err, "Debian: apt-get install libcurl4");
		return NULL;
	}
	if (find_all(&loaded, handle, err) < 0) {
		dlclose(handle);
		return NULL;
	}
	loaded.global_init(CURL_GLOBAL_DEFAULT);
	done = true;
	return &loaded;
}
