/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client - the certificates that callers show.
 */
#include "daemon/http/internal.h"

#include <openssl/ssl.h>
#include <string.h>

#include "base/error.h"
#include "daemon/revoked.h"

/* The one common name in a certificate; false: none, several, or one that is
 * too long or has a NUL in it. */
static bool common_name(X509 *certificate, char *to, size_t size)
{
	const X509_NAME *name = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1), n;
	unsigned char *text = NULL;
	bool good;

	if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
		return false;
	n = ASN1_STRING_to_UTF8(
	    &text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
	good = n > 0 && (size_t)n < size && !memchr(text, 0, (size_t)n);
	if (good) {
		memcpy(to, text, (size_t)n);
		to[n] = '\0';
	}
	OPENSSL_free(text);
	return good;
}

/* Of one that OpenSSL has found good in the handshake. */
void clients_name(const struct clients *clients, struct lws *wsi, char *to,
                  size_t size)
{
	SSL *ssl = clients->ca && lws_is_ssl(wsi) ? lws_get_ssl(wsi) : NULL;
	X509 *certificate = ssl ? SSL_get1_peer_certificate(ssl) : NULL;

	if (certificate && SSL_get_verify_result(ssl) == X509_V_OK &&
	    !(clients->revoked && revoked_has(clients->revoked, certificate)) &&
	    !common_name(certificate, to, size))
		to[0] = '\0';
	X509_free(certificate);
}

static int verify(X509_STORE_CTX *chain, void *revoked)
{
	return revoked_verify(revoked, chain);
}

/*
 * Whose certificates are taken. Not by libwebsockets' own option: it has its
 * caller decide over each certificate, whatever OpenSSL said. No session is
 * taken up again, so that every connection shows its certificate.
 */
void clients_require(struct clients *clients, SSL_CTX *ctx)
{
	static const u8 id[] = "atolld";

	clients->checked =
	    SSL_CTX_load_verify_locations(ctx, clients->ca, NULL) == 1 &&
	    SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1) == 1 &&
	    SSL_CTX_set_num_tickets(ctx, 0) == 1;
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(clients->ca));
	SSL_CTX_set_verify(
	    ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (clients->revoked)
		SSL_CTX_set_cert_verify_callback(ctx, verify, clients->revoked);
}
