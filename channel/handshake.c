// SPDX-License-Identifier: Apache-2.0
#include "channel/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* AES-GCM is good for 2^24.5 full records under one key (RFC 8446 section 5.5). */
#define RECORDS_PER_KEY (UINT64_C(1) << 22)

static void socket_setup(int fd)
{
	int on = 1;

	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	/* Fails on a unix socket, where there is no delay to be avoided. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int locks_setup(struct channel *c)
{
	pthread_condattr_t attr;
	int rc;

	rc = pthread_condattr_init(&attr);
	if (rc)
		return -rc;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	rc = pthread_cond_init(&c->turn, &attr);
	pthread_condattr_destroy(&attr);
	if (rc)
		return -rc;
	rc = pthread_mutex_init(&c->lock, NULL);
	if (rc)
		pthread_cond_destroy(&c->turn);
	return -rc;
}

/* Every message of the handshake protocol, sent or received. */
static void message_note(int sent, int version, int type, const void *data, size_t n, SSL *ssl,
			 void *ctx)
{
	struct channel *c = ctx;

	if (type == SSL3_RT_HANDSHAKE && n && *(const uint8_t *)data == SSL3_MT_KEY_UPDATE)
		atomic_fetch_add_explicit(&c->key_updates, 1, memory_order_relaxed);
}

static int ssl_setup(struct channel *c, const struct channel_auth *a, bool server)
{
	SSL_CTX *psk = a->identity ? NULL : psk_context(server);

	if (a->identity)
		c->ssl = identity_ssl(a->identity, server);
	else
		c->ssl = psk ? SSL_new(psk) : NULL;
	SSL_CTX_free(psk);
	if (!c->ssl)
		return -ENOMEM;
	SSL_set_app_data(c->ssl, c);
	SSL_set_msg_callback(c->ssl, message_note);
	SSL_set_msg_callback_arg(c->ssl, c);
	if (a->identity && !server) {
		SSL_set_hostflags(c->ssl, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT |
						  X509_CHECK_FLAG_NO_WILDCARDS);
		if (!a->expect_peer || !*a->expect_peer || !SSL_set1_host(c->ssl, a->expect_peer))
			return -EINVAL;
	}
	if (!a->identity)
		psk_setup(c, a);
	if (server)
		SSL_set_accept_state(c->ssl);
	else
		SSL_set_connect_state(c->ssl);
	return wire_attach(c);
}

/* Takes `fd` over, also on failure. */
static int channel_make(int fd, const struct channel_auth *a, bool server, struct channel **out)
{
	struct channel *c = calloc(1, sizeof(*c));
	int rc;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	rc = locks_setup(c);
	if (rc) {
		close(fd);
		free(c);
		return rc;
	}
	socket_setup(fd);
	c->fd = fd;
	c->stop_fd = -1;
	c->tls_records_per_key = RECORDS_PER_KEY;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->chunk = malloc(TLS_RECORD_MAX);
	rc = c->wake_fd < 0 ? -errno : c->chunk ? 0 : -ENOMEM;
	if (!rc)
		rc = ssl_setup(c, a, server);
	if (rc) {
		channel_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

/* One turn: 0 = finished, -EAGAIN = again after waiting for `events`. */
static int handshake_step(struct channel *c, short *events, struct error *e)
{
	int n, why, rc;

	ERR_clear_error();
	n = SSL_do_handshake(c->ssl);
	why = SSL_get_error(c->ssl, n);
	if (n != 1 && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
		long verified = SSL_get_verify_result(c->ssl);

		rc = tls_error(e, "TLS handshake");
		if (verified != X509_V_OK && e && e->code == rc)
			error_context(e, "the other side's certificate: %s",
				      X509_verify_cert_error_string(verified));
		if (wire_flush(c)) /* an alert that cannot be sent is lost with the connection */
			return rc;
		return rc;
	}
	*events = POLLOUT;
	rc = wire_flush(c);
	if (rc || n == 1)
		return rc;
	*events = POLLIN;
	rc = wire_fill(c);
	return rc ? rc : -EINPROGRESS;
}

static int handshake_loop(struct channel *c, uint64_t deadline, struct error *e)
{
	short events = POLLIN;
	int rc;

	for (;;) {
		rc = handshake_step(c, &events, e);
		if (rc == -EAGAIN)
			rc = wire_wait(c, events, deadline);
		else if (!rc)
			return 0;
		if (rc && rc != -EINPROGRESS)
			return error_set(e, rc, "TLS handshake: %s", strerror(-rc));
	}
}

static int peer_check(struct channel *c, const struct channel_auth *a, bool server, struct error *e)
{
	if (a->identity)
		return identity_peer(c, server, e);
	if (!SSL_session_reused(c->ssl))
		return error_set(e, -EACCES, "the other side does not have the session's key");
	return 0;
}

int handshake_run(int fd, const struct channel_auth *a, bool server, int stop_fd, uint64_t deadline,
		  struct channel **out, struct error *e)
{
	struct channel *c;
	int rc;

	rc = channel_make(fd, a, server, &c);
	if (rc)
		return error_set(e, rc, "set up TLS: %s", strerror(-rc));
	c->stop_fd = stop_fd;
	rc = handshake_loop(c, deadline, e);
	c->stop_fd = -1;
	if (!rc)
		rc = peer_check(c, a, server, e);
	OPENSSL_cleanse(c->psk_key, sizeof(c->psk_key));
	ERR_clear_error();
	if (rc) {
		channel_close(c);
		return rc;
	}
	c->established = true;
	*out = c;
	return 0;
}
