/* SPDX-License-Identifier: Apache-2.0 */
/*
 * revoked.h - certificates of callers that are not taken any more: lists in a
 * file of PEM, read again whenever it is another.
 *
 * Lists are of those who sign certificates, and for a time. Without a good one
 * nobody is let in. All on one thread.
 */
#pragma once

#include <openssl/x509.h>

#include "base/types.h"

struct error;
struct revoked;

/* path is borrowed. -errno with words: it holds no list. */
int revoked_open(struct revoked **out, const char *path,
                 struct error *err) MUST_CHECK;
void revoked_close(struct revoked *r); /* NULL is legal */

/* In the place of X509_verify_cert(): that, and its last certificate is on no
 * list of its signer's. */
int revoked_verify(struct revoked *r, X509_STORE_CTX *chain) MUST_CHECK;
/* One that was taken before: is it on a list by now? */
bool revoked_has(struct revoked *r, X509 *certificate);
