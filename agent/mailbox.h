// SPDX-License-Identifier: Apache-2.0
/* Items handed by other threads to the loop's thread, in order. Unlike a posted
 * call they can be taken back: what is left when the mailbox goes is freed. */
#ifndef POLLUX_AGENT_MAILBOX_H
#define POLLUX_AGENT_MAILBOX_H

#include <sys/queue.h>

#include "base/base.h"

struct mail {
	STAILQ_ENTRY(mail) entry;
};

struct mailbox;
/* take() and drop() own the item that they are given. */
int mailbox_create(struct loop *l, void (*take)(void *ctx, struct mail *m),
		   void (*drop)(struct mail *m), void *ctx, struct mailbox **out) MUST_CHECK;
void mailbox_put(struct mailbox *box, struct mail *m); /* any thread */
/* Nobody puts any more. */
void mailbox_destroy(struct mailbox *box);

#endif
