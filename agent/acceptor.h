// SPDX-License-Identifier: Apache-2.0
/*
 * The listening port. A connection has two seconds to say with its preamble what it
 * is for; then it goes to the peers or, if some standby here expects its session, to
 * that VM process. Nobody waits for anybody: with all places taken by connections
 * that say nothing, the oldest of them gives way.
 */
#ifndef POLLUX_AGENT_ACCEPTOR_H
#define POLLUX_AGENT_ACCEPTOR_H

#include "base/base.h"
#include "channel/channel.h"

struct acceptor;

/* The socket becomes the callee's. */
typedef void acceptor_fn(void *ctx, const struct preamble *p, int fd);

int acceptor_create(struct loop *l, const char *address, uint16_t port, acceptor_fn *fn, void *ctx,
		    struct acceptor **out, struct error *e) MUST_CHECK;
void acceptor_destroy(struct acceptor *a);
unsigned acceptor_waiting(const struct acceptor *a);
uint64_t acceptor_refused(const struct acceptor *a);

#endif
