// SPDX-License-Identifier: Apache-2.0
/*
 * One TLS connection to another polluxd. A thread of its own connects or accepts,
 * shakes hands and receives; a second one sends what is queued, and a heartbeat
 * when there was nothing to send, so that neither a busy loop nor a full socket
 * delays the other's view of this host.
 *
 * Either host may have dialed, or both. The one whose name sorts first chooses: it has the other's
 * hello at once, and its own is its verdict, sent by link_welcome().
 */
#ifndef POLLUX_AGENT_LINK_H
#define POLLUX_AGENT_LINK_H

#include "agent/json_text.h"
#include "agent/mailbox.h"
#include "channel/channel.h"

#define PEER_RECORD_MESSAGE   1u
#define PEER_RECORD_HEARTBEAT 2u
#define PEER_MESSAGE_MAX      (256u * 1024)

struct link;

enum link_event_kind {
	LINK_UP,      /* message: the other side's hello; it comes before all other messages */
	LINK_MESSAGE, /* message */
	LINK_ENDED,   /* why; the last event of a link: link_free() may be called */
};
struct link_event {
	struct mail mail;
	struct link *link;
	enum link_event_kind kind;
	json_t *message;
	char why[256];
};
void link_event_free(struct link_event *event);

struct link_config {
	struct mailbox *box; /* gets struct link_event */
	struct channel_identity *identity;
	uint64_t heartbeat_ns, loss_ns, hello_ns; /* hello_ns: for the other side's, at most */
	json_t *hello; /* the first message that is sent, with this host's "name"; taken over also
			  on failure */
};

int link_dial(const struct link_config *c, const char *address, uint16_t port, const char *name,
	      struct link **out) MUST_CHECK;
/* The preamble of `fd` has been read; fd is taken over, also on failure. */
int link_accept(const struct link_config *c, int fd, struct link **out) MUST_CHECK;
/* Loop's thread. Queues and never waits; a queue that overflows ends the link. */
void link_send(struct link *k, json_t *message);
/* After LINK_UP, and before anything is sent: this link is chosen. */
void link_welcome(struct link *k);
void link_shutdown(struct link *k, const char *why);
void link_free(struct link *k); /* ends it if need be, waits for its threads */
/* From LINK_UP on: what the certificate proved. */
const char *link_peer_name(const struct link *k);
const char *link_peer_role(const struct link *k);
bool link_dialed(const struct link *k);

/* One record to one message: UTF-8 JSON object with a "type". Pure. */
int link_message_parse(const uint8_t *data, size_t n, json_t **out, struct error *e) MUST_CHECK;

#endif
