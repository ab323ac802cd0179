/* SPDX-License-Identifier: Apache-2.0 */
/*
 * curl.h - what we use of libcurl, which is loaded when a daemon is spoken to.
 *
 * It brings thirty libraries along, whose loading takes four times as long as
 * all else that a verb on a file or a machine on this terminal does to start.
 */
#pragma once

#include <curl/curl.h>

struct error;

struct curl {
	__typeof__(curl_global_init) *global_init;
	__typeof__(curl_easy_init) *easy_init;
	__typeof__(curl_easy_cleanup) *easy_cleanup;
	__typeof__(curl_easy_reset) *easy_reset;
	CURLcode (*easy_setopt)(CURL *curl, CURLoption option, ...);
	CURLcode (*easy_getinfo)(CURL *curl, CURLINFO info, ...);
	__typeof__(curl_easy_perform) *easy_perform;
	__typeof__(curl_easy_strerror) *easy_strerror;
	__typeof__(curl_slist_append) *slist_append;
	__typeof__(curl_slist_free_all) *slist_free_all;
};

/* Ready to be used, for as long as we run. NULL with words. */
const struct curl *curl_load(struct error *err);
