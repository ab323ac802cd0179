/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/revoked.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"

struct revoked {
	const char *path;           /* borrowed */
	struct stat seen;           /* the file that lists are of */
	STACK_OF(X509_CRL) * lists; /* NULL: it holds none */
};

static STACK_OF(X509_CRL) * read_lists(const char *path)
{
	STACK_OF(X509_CRL) *lists = sk_X509_CRL_new_null();
	BIO *file = BIO_new_file(path, "r");
	X509_CRL *one = NULL;
	bool whole;

	ERR_clear_error();
	while (file && lists &&
	       (one = PEM_read_bio_X509_CRL(file, NULL, NULL, NULL)) &&
	       sk_X509_CRL_push(lists, one) > 0)
		one = NULL;
	/* Only the file's end may end it. */
	whole = file && lists && !one && sk_X509_CRL_num(lists) > 0 &&
	        ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	ERR_clear_error();
	BIO_free(file);
	X509_CRL_free(one);
	if (whole)
		return lists;
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	return NULL;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
	       a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* One that is written to just now is looked at again the next time: its size or
 * its time are others then. */
static void look(struct revoked *r)
{
	struct stat now;

	if (stat(r->path, &now) < 0)
		memset(&now, 0, sizeof(now));
	if (is_same(&now, &r->seen))
		return;
	sk_X509_CRL_pop_free(r->lists, X509_CRL_free);
	r->lists = read_lists(r->path);
	r->seen = now;
	if (!r->lists)
		log_error("daemon",
		          "%s holds no list of revoked certificates: nobody is "
		          "let in by one",
		          r->path);
}

int revoked_verify(struct revoked *r, X509_STORE_CTX *chain)
{
	look(r);
	if (!r->lists) {
		X509_STORE_CTX_set_error(chain, X509_V_ERR_UNABLE_TO_GET_CRL);
		return 0;
	}
	X509_STORE_CTX_set0_crls(chain, r->lists);
	X509_STORE_CTX_set_flags(chain, X509_V_FLAG_CRL_CHECK);
	return X509_verify_cert(chain);
}

bool revoked_has(struct revoked *r, X509 *certificate)
{
	X509_REVOKED *entry;

	look(r);
	for (int i = 0; i < sk_X509_CRL_num(r->lists); i++) {
		X509_CRL *list = sk_X509_CRL_value(r->lists, i);

		if (X509_NAME_cmp(X509_CRL_get_issuer(list),
		                  X509_get_issuer_name(certificate)) == 0 &&
		    X509_CRL_get0_by_cert(list, &entry, certificate) > 0)
			return true;
	}
	return !r->lists;
}

int revoked_open(struct revoked **out, const char *path, struct error *err)
{
	struct revoked *r = xalloc(sizeof(*r));

	r->path = path;
	look(r);
	if (r->lists) {
		*out = r;
		return 0;
	}
	free(r);
	return error_set(err, -EINVAL,
	                 "%s holds no list of revoked certificates", path);
}

void revoked_close(struct revoked *r)
{
	if (!r)
		return;
	sk_X509_CRL_pop_free(r->lists, X509_CRL_free);
	free(r);
}
