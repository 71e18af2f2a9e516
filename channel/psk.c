// SPDX-License-Identifier: Apache-2.0
/* External PSK with ephemeral Diffie-Hellman, RFC 8446 section 4.2.11: whoever has the
 * session's key, and asks for this session and this stream, and nobody else. */
#include "channel/tls.h"

#include <string.h>

/* TLS_AES_128_GCM_SHA256: a PSK is tied to its hash. */
static const unsigned char cipher_id[2] = {0x13, 0x01};
#define PSK_CIPHERSUITES "TLS_AES_128_GCM_SHA256"

static SSL_SESSION *session_make(SSL *ssl, const struct channel *c)
{
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, cipher_id);
	SSL_SESSION *s = SSL_SESSION_new();

	if (s && cipher && SSL_SESSION_set1_master_key(s, c->psk_key, sizeof(c->psk_key)) &&
	    SSL_SESSION_set_cipher(s, cipher) &&
	    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

static int psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_len,
		   SSL_SESSION **out)
{
	struct channel *c = SSL_get_app_data(ssl);

	*out = session_make(ssl, c);
	*id = c->psk_identity;
	*id_len = c->psk_identity_len;
	return *out != NULL;
}

static int psk_find(SSL *ssl, const unsigned char *id, size_t id_len, SSL_SESSION **out)
{
	struct channel *c = SSL_get_app_data(ssl);

	*out = NULL;
	if (id_len != c->psk_identity_len || memcmp(id, c->psk_identity, id_len) != 0)
		return 0;
	*out = session_make(ssl, c);
	return *out != NULL;
}

SSL_CTX *psk_context(bool server)
{
	SSL_CTX *ctx = tls_context(server, PSK_CIPHERSUITES);

	if (!ctx)
		return NULL;
	/* Without a certificate of its own and without a trusted CA a side has nothing
	 * to fall back upon: it is the PSK or no handshake. */
	if (server) {
		SSL_CTX_set_psk_find_session_callback(ctx, psk_find);
	} else {
		SSL_CTX_set_psk_use_session_callback(ctx, psk_use);
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	}
	return ctx;
}

void psk_setup(struct channel *c, const struct channel_auth *a)
{
	static const char label[] = "pollux/1";
	uint8_t *at = c->psk_identity;

	memcpy(at, label, sizeof(label) - 1);
	at += sizeof(label) - 1;
	memcpy(at, a->session, SESSION_ID_SIZE);
	at += SESSION_ID_SIZE;
	*at++ = (uint8_t)a->stream;
	*at++ = (uint8_t)(a->stream >> 8);
	c->psk_identity_len = (size_t)(at - c->psk_identity);
	memcpy(c->psk_key, a->key, SESSION_KEY_SIZE);
}
