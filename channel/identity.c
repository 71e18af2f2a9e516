// SPDX-License-Identifier: Apache-2.0
#include "channel/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#define CERT_CIPHERSUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define KEY_GROUPS        "X25519:P-256"

SSL_CTX *tls_context(bool server, const char *ciphersuites)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	if (!ctx)
		return NULL;
	if (!SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, ciphersuites) ||
	    !SSL_CTX_set1_groups_list(ctx, KEY_GROUPS) || !SSL_CTX_set_num_tickets(ctx, 0)) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_set_options(ctx,
			    SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return ctx;
}

int tls_errno(void)
{
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);

	if (!code || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return -ECONNRESET;
	if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED || reason == SSL_R_BAD_PSK ||
	    reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ||
	    reason == SSL_R_BINDER_DOES_NOT_VERIFY || reason > SSL_AD_REASON_OFFSET)
		return -EACCES;
	return -EPROTO;
}

int tls_error(struct error *e, const char *what)
{
	unsigned long code = ERR_peek_error();
	const char *reason = ERR_reason_error_string(code);

	return error_set(e, tls_errno(), "%s: %s", what,
			 reason ? reason : "the connection was cut");
}

static int identity_fill(SSL_CTX *ctx, const char *ca, const char *cert, const char *key,
			 struct error *e)
{
	if (!SSL_CTX_load_verify_file(ctx, ca))
		return error_set(e, -EINVAL, "%s: cannot be read as a CA certificate", ca);
	if (!SSL_CTX_use_certificate_chain_file(ctx, cert))
		return error_set(e, -EINVAL, "%s: cannot be read as a certificate", cert);
	if (!SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM))
		return error_set(e, -EINVAL, "%s: cannot be read as the private key of %s", key,
				 cert);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_verify_depth(ctx, 2);
	return 0;
}

int channel_identity_load(const char *ca_file, const char *cert_file, const char *key_file,
			  struct channel_identity **out, struct error *e)
{
	struct channel_identity *id = calloc(1, sizeof(*id));
	int rc = -ENOMEM;

	if (!id)
		return error_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&id->lock, NULL);
	ERR_clear_error();
	id->client = tls_context(false, CERT_CIPHERSUITES);
	id->server = tls_context(true, CERT_CIPHERSUITES);
	if (!id->client || !id->server) {
		rc = error_set(e, rc, "OpenSSL cannot make a TLS 1.3 context");
		goto fail;
	}
	rc = identity_fill(id->client, ca_file, cert_file, key_file, e);
	if (rc)
		goto fail;
	rc = identity_fill(id->server, ca_file, cert_file, key_file, e);
	if (rc)
		goto fail;
	*out = id;
	return 0;
fail:
	channel_identity_free(id);
	ERR_clear_error();
	return rc;
}

int channel_identity_reload(struct channel_identity *id, const char *ca_file, const char *cert_file,
			    const char *key_file, struct error *e)
{
	struct channel_identity *new;
	SSL_CTX *client, *server;
	int rc = channel_identity_load(ca_file, cert_file, key_file, &new, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&id->lock);
	client = id->client;
	server = id->server;
	id->client = new->client;
	id->server = new->server;
	pthread_mutex_unlock(&id->lock);
	new->client = client;
	new->server = server;
	channel_identity_free(new);
	return 0;
}

SSL *identity_ssl(struct channel_identity *id, bool server)
{
	SSL *ssl;

	pthread_mutex_lock(&id->lock);
	ssl = SSL_new(server ? id->server : id->client);
	pthread_mutex_unlock(&id->lock);
	return ssl;
}

void channel_identity_free(struct channel_identity *id)
{
	if (!id)
		return;
	SSL_CTX_free(id->client);
	SSL_CTX_free(id->server);
	pthread_mutex_destroy(&id->lock);
	free(id);
}

/* Copy an IA5String that is printable and fits; a NUL inside is an attack. */
static bool name_copy(const ASN1_IA5STRING *from, size_t skip, char out[TLS_NAME_MAX + 1])
{
	const unsigned char *at = ASN1_STRING_get0_data(from);
	size_t n = (size_t)ASN1_STRING_length(from) - skip;

	if (!n || n > TLS_NAME_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (at[skip + i] <= ' ' || at[skip + i] > '~')
			return false;
	memcpy(out, at + skip, n);
	out[n] = '\0';
	return true;
}

static bool is_role(const ASN1_IA5STRING *uri)
{
	size_t prefix = sizeof(TLS_ROLE_URI) - 1;

	return (size_t)ASN1_STRING_length(uri) > prefix &&
	       memcmp(ASN1_STRING_get0_data(uri), TLS_ROLE_URI, prefix) == 0;
}

static void name_take(struct channel *c, const GENERAL_NAME *g)
{
	if (g->type == GEN_DNS && !*c->peer_name && !name_copy(g->d.dNSName, 0, c->peer_name))
		*c->peer_name = '\0';
	if (g->type == GEN_URI && !*c->peer_role && is_role(g->d.uniformResourceIdentifier) &&
	    !name_copy(g->d.uniformResourceIdentifier, sizeof(TLS_ROLE_URI) - 1, c->peer_role))
		*c->peer_role = '\0';
}

int identity_peer(struct channel *c, bool server, struct error *e)
{
	X509 *cert = SSL_get0_peer_certificate(c->ssl);
	GENERAL_NAMES *names;

	if (!cert)
		return error_set(e, -EACCES, "the other side has shown no certificate");
	names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
		name_take(c, sk_GENERAL_NAME_value(names, i));
	GENERAL_NAMES_free(names);
	if (!*c->peer_name || !*c->peer_role)
		return error_set(e, -EACCES,
				 "the other side's certificate lacks a name or a Pollux role; "
				 "issue it with 'pollux pki'");
	if (!server && strcmp(c->peer_role, "peer") != 0)
		return error_set(e, -EACCES, "%s has the role '%s', a host needs the role 'peer'",
				 c->peer_name, c->peer_role);
	return 0;
}
