// SPDX-License-Identifier: Apache-2.0
/*
 * The inside of a channel. OpenSSL never sees the socket: it reads from and writes
 * to two buffers of ciphertext (wire.c), so that a system call carries many TLS
 * records, SIGPIPE cannot happen, and all waiting is done in one place.
 * Private to channel/.
 */
#ifndef POLLUX_CHANNEL_TLS_H
#define POLLUX_CHANNEL_TLS_H

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "channel/channel.h"

#define TLS_RECORD_MAX 16384u /* plaintext bytes of one TLS record, RFC 8446 section 5.1 */
#define TLS_ROLE_URI   "urn:pollux:role:"
#define TLS_NAME_MAX   63

/* Bytes [start, end) of `data` are waiting. */
struct wire_buffer {
	uint8_t *data;
	size_t cap, start, end;
};

/*
 * `lock` guards everything but the plaintext buffer, which belongs to the receiver,
 * and `chunk`, which belongs to whoever has the turn to send. It is never held
 * while waiting for the socket.
 */
struct channel {
	int fd, wake_fd;
	int stop_fd; /* ends the handshake; -1 = none */
	SSL *ssl;
	pthread_mutex_t lock;
	pthread_cond_t turn;
	bool sending; /* somebody is in the middle of a record */
	bool eof, established, goodbye;
	atomic_bool stopped;
	int send_error, receive_error; /* first error of each direction; it stays */
	struct wire_buffer cipher_in, cipher_out;
	struct wire_buffer plain;
	size_t consumed; /* bytes of `plain` that the last receive handed out */
	uint8_t *chunk;
	size_t chunk_used; /* of records that wait for one more */
	bool unsent;       /* OpenSSL has a TLS record that did not fit into cipher_out */
	uint64_t tls_records, tls_records_per_key;
	_Atomic uint64_t bytes_sent, bytes_received, key_updates, send_waited;
	char peer_name[TLS_NAME_MAX + 1], peer_role[TLS_NAME_MAX + 1];
	uint8_t psk_identity[32];
	size_t psk_identity_len;
	uint8_t psk_key[SESSION_KEY_SIZE];
	/* Tests only: every plaintext byte that is sent. */
	void (*tap)(void *ctx, const void *data, size_t n);
	void *tap_ctx;
};

struct channel_identity {
	pthread_mutex_t lock; /* of the two; each SSL that was made of them holds its own */
	SSL_CTX *client, *server;
};

/* A context that allows TLS 1.3 only, without tickets, early data or renegotiation. */
SSL_CTX *tls_context(bool server, const char *ciphersuites);
/* The reason of the last OpenSSL failure on this thread, as -errno. */
int tls_errno(void);
/* Record it in `e` as "what: reason"; returns tls_errno(). */
int tls_error(struct error *e, const char *what);

/* NULL: out of memory. */
SSL *identity_ssl(struct channel_identity *id, bool server);
/* After the handshake: name and role out of the peer's certificate. */
int identity_peer(struct channel *c, bool server, struct error *e) MUST_CHECK;

SSL_CTX *psk_context(bool server);
void psk_setup(struct channel *c, const struct channel_auth *a);

int wire_attach(struct channel *c) MUST_CHECK;
void wire_detach(struct channel *c);
/* With `lock`: one non-blocking step. 0, -EAGAIN or -errno. */
int wire_flush(struct channel *c) MUST_CHECK;
int wire_fill(struct channel *c) MUST_CHECK;
/* Without `lock`: 0 when the socket is ready, -ETIMEDOUT, -ESHUTDOWN. */
int wire_wait(struct channel *c, short events, uint64_t deadline) MUST_CHECK;

/* As channel_connect() and channel_accept(), with the stop_fd of channel_dial_stream(). */
int handshake_run(int fd, const struct channel_auth *a, bool server, int stop_fd, uint64_t deadline,
		  struct channel **out, struct error *e) MUST_CHECK;

/* Certificates valid from now + `from` to now + `to` seconds. */
int pki_issue_between(const char *dir, const char *name, const char *role, long from, long to,
		      struct error *e) MUST_CHECK;

#endif
