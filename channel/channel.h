// SPDX-License-Identifier: Apache-2.0
/*
 * channel/: encrypted, authenticated connections that carry records.
 *
 * A connection begins with a preamble in the clear that says which session and
 * stream it is for, so that one listening port serves a host; then TLS 1.3.
 * polluxd peers use certificates on both sides; data connections of a session
 * use an external PSK (with ephemeral Diffie-Hellman) that polluxd made for that
 * session alone. There is no plaintext mode. Octets: docs/protocol.md.
 *
 * Threads. One thread may receive while others send; senders take turns.
 *          channel_shutdown() may be called from any thread and ends all waits.
 * Time.    Every operation has a deadline in clock_ns() time, UINT64_MAX = none; past it
 *          -ETIMEDOUT. A send that ends so leaves half a record behind: the channel can
 *          then only be closed. A receive may be repeated, nothing is lost.
 */
#ifndef POLLUX_CHANNEL_H
#define POLLUX_CHANNEL_H

#include <sys/uio.h>

#include "base/base.h"

#define SESSION_ID_SIZE     16
#define SESSION_KEY_SIZE    32
#define RECORD_HEADER_SIZE  8
#define CHANNEL_RECORD_MAX  (8u << 20) /* payload bytes of one record */
#define CHANNEL_STREAMS_MAX 17         /* control and 16 bulk streams */
#define CHANNEL_LATER_FIRST 32         /* postcopy: as many streams, numbered from here */
#define CHANNEL_BURST       64         /* the one stream on which a link is measured */

/* ---- before TLS ------------------------------------------------------- */

enum preamble_kind { PREAMBLE_PEER = 1, PREAMBLE_DATA = 2 };
struct preamble {
	enum preamble_kind kind;
	uint16_t stream;                  /* PREAMBLE_DATA: 0 = control, 1.. = bulk; 32.., 64 */
	uint8_t session[SESSION_ID_SIZE]; /* PREAMBLE_PEER: zero */
};
#define PREAMBLE_SIZE 32
void preamble_encode(const struct preamble *p, uint8_t out[PREAMBLE_SIZE]);
int preamble_decode(const uint8_t in[PREAMBLE_SIZE], struct preamble *out,
		    struct error *e) MUST_CHECK;

int channel_listen(const char *address, uint16_t port, int *fd, struct error *e) MUST_CHECK;
/* Connect (TCP_NODELAY, non-blocking) and send the preamble. */
int channel_dial(const char *address, uint16_t port, const struct preamble *p, uint64_t deadline,
		 int *fd, struct error *e) MUST_CHECK;

/* ---- TLS -------------------------------------------------------------- */

struct channel;

/* Certificates and key of this host, for any number of channels at a time. */
struct channel_identity;
int channel_identity_load(const char *ca_file, const char *cert_file, const char *key_file,
			  struct channel_identity **out, struct error *e) MUST_CHECK;
/* Any thread. 0: handshakes that begin from now on use these files; channels that there are go on.
 * An error leaves it as it was. */
int channel_identity_reload(struct channel_identity *id, const char *ca_file, const char *cert_file,
			    const char *key_file, struct error *e) MUST_CHECK;
void channel_identity_free(struct channel_identity *id); /* channels that there are go on */

struct channel_auth {
	struct channel_identity *identity; /* certificates, or NULL for a PSK: */
	const char *expect_peer; /* client: the name (DNS SAN) that the server must prove; its
				    role must be "peer". A server checks the role itself. */
	uint8_t session[SESSION_ID_SIZE];
	uint16_t stream; /* bound into the PSK identity: a stream cannot pose as another */
	uint8_t key[SESSION_KEY_SIZE];
};

/* Handshake on a connected socket, which is taken over and closed also on failure. */
int channel_connect(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		    struct error *e) MUST_CHECK;
int channel_accept(int fd, const struct channel_auth *a, uint64_t deadline, struct channel **out,
		   struct error *e) MUST_CHECK;
/* Certificates only: the peer's proven name and its role ("peer", "operator", "viewer"). */
const char *channel_peer_name(const struct channel *c);
const char *channel_peer_role(const struct channel *c);

/* A stream of a session that has a key: channel_dial(), with the preamble that says so, and
 * channel_connect(). -ESHUTDOWN as soon as `stop_fd` is readable; -1 = there is none. A name
 * in place of an address is looked up before that. */
int channel_dial_stream(const char *address, uint16_t port, const struct channel_auth *a,
			int stop_fd, uint64_t deadline, struct channel **out,
			struct error *e) MUST_CHECK;

/* ---- records ----------------------------------------------------------- */

#define RECORD_MANDATORY 1u /* flag: a reader that does not know this type must refuse it */
struct record {
	uint16_t type, flags;
	uint32_t len;
	const uint8_t *payload; /* valid until the next receive on this channel */
};

int channel_send(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		 int iov_count, uint64_t deadline) MUST_CHECK;
/* The same, but it may wait here for the next channel_send(), which must follow: small
 * records then share one TLS record and one packet. */
int channel_send_more(struct channel *c, uint16_t type, uint16_t flags, const struct iovec *iov,
		      int iov_count, uint64_t deadline) MUST_CHECK;
/* -EPIPE: the peer closed in good order (close_notify) between two records;
 * -ECONNRESET: it did not; -EACCES: it refused us (a TLS alert). With deadline 0 it
 * does not wait: -EAGAIN when no whole record has come yet. */
int channel_receive(struct channel *c, struct record *out, uint64_t deadline) MUST_CHECK;
int channel_fd(const struct channel *c);              /* for an event loop: the socket */
uint64_t channel_bytes_sent(const struct channel *c); /* on the wire, encrypted */
uint64_t channel_bytes_received(const struct channel *c);
uint64_t channel_key_updates(const struct channel *c); /* either side's: RFC 8446, 4.6.3 */
uint64_t channel_send_waited(const struct channel *c); /* ns that sends waited for room */

/* Wake everyone and tell the peer (close_notify, unless a record is cut short or it would
 * block); all later calls fail with -ESHUTDOWN. */
void channel_shutdown(struct channel *c);
void channel_close(struct channel *c); /* the same, and free */

/* Decode one record header and payload from bytes: the parser that receive uses,
 * for fuzzing and for captured streams. Returns bytes used, 0 = need more, or
 * -EBADMSG (type 0, unknown flag), -EMSGSIZE (longer than CHANNEL_RECORD_MAX). */
int64_t record_decode(const uint8_t *data, size_t n, struct record *out);

/* ---- certificates (pollux pki) ----------------------------------------- */

/* Make a CA, or a certificate signed by it, as PEM files of mode 0600/0644 in `dir`:
 * ca.crt ca.key, NAME.crt NAME.key. Refuses to overwrite. */
int pki_create_ca(const char *dir, const char *name, unsigned days, struct error *e) MUST_CHECK;
int pki_issue(const char *dir, const char *name, const char *role, unsigned days,
	      struct error *e) MUST_CHECK;

#endif
