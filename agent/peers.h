// SPDX-License-Identifier: Apache-2.0
/*
 * The other hosts. Each configured peer is dialed, and may dial us; of two links
 * to the same peer one is kept, the same one on both sides. All on the loop's thread.
 */
#ifndef POLLUX_AGENT_PEERS_H
#define POLLUX_AGENT_PEERS_H

#include "agent/agent.h"
#include "agent/json_text.h"
#include "channel/channel.h"

#define PEER_NOT_YET "the first attempt has not ended yet"

struct peers;
struct peer;

struct peers_events {
	void (*up)(void *ctx, struct peer *p);
	void (*down)(void *ctx, struct peer *p, const char *why);
	void (*message)(void *ctx, struct peer *p, const json_t *message);
	json_t *(*hello)(void *ctx); /* what to add to our hello; a new object */
	void *ctx;
};

int peers_create(const struct agent_config *c, struct channel_identity *identity, struct loop *l,
		 const struct peers_events *events, struct peers **out, struct error *e) MUST_CHECK;
void peers_destroy(struct peers *all);
void peers_dial(struct peers *all);           /* begin */
void peers_accept(struct peers *all, int fd); /* preamble read; fd is taken over */

unsigned peers_count(const struct peers *all);
struct peer *peers_at(struct peers *all, unsigned index);
struct peer *peers_find(struct peers *all, const char *name); /* NULL: not configured */

const struct peer_config *peer_config(const struct peer *p);
bool peer_is_up(const struct peer *p);
const json_t *peer_hello(const struct peer *p); /* the other side's; NULL when down */
/* Takes over `message`. -ENOTCONN: there is no link. 0 is no promise that it arrives. */
int peer_send(struct peer *p, json_t *message) MUST_CHECK;
json_t *peer_json(const struct peer *p);
const char *peer_why(const struct peer *p); /* why the last link, or attempt, ended */

#endif
