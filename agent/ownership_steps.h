// SPDX-License-Identifier: Apache-2.0
/* Between ownership.c (events become facts) and ownership_steps.c (what follows). */
#ifndef POLLUX_AGENT_OWNERSHIP_STEPS_H
#define POLLUX_AGENT_OWNERSHIP_STEPS_H

#include <assert.h>

#include "agent/ownership.h"

#define TERM_SESSION     1
#define TERM_UNPROTECTED 1
#define TERM_PROMOTED    2
#define TERM_FORCED      (UINT64_C(1) << 32)

static inline struct ownership_action *ownership_act(struct ownership_actions *out,
						     enum ownership_act type)
{
	struct ownership_action *a = &out->item[out->count++];

	assert(out->count <= OWN_ACTIONS_MAX);
	*a = (struct ownership_action){.type = type};
	return a;
}

/* The record says RELEASED, and this polluxd was started since: the frozen process has not yet
 * said that it handed over. Before it has, no polluxd may have told anybody. */
static inline bool ownership_unsaid(const struct ownership *o)
{
	return o->state == OWN_HANDED && !o->handed;
}

void ownership_tell(struct ownership *o, struct ownership_actions *out, enum ownership_word word,
		    uint64_t term);
void ownership_enter(struct ownership *o, enum ownership_state next, struct ownership_actions *out,
		     const char *why);
void ownership_store(struct ownership *o, enum ownership_role role, uint64_t term,
		     enum ownership_state next, struct ownership_actions *out);
/* Until when an offer may be taken. */
uint64_t ownership_offer_end(const struct ownership *o);
/* Nothing good can come of the session. */
bool ownership_session_is_vain(const struct ownership *o);
/* Work out what follows from the facts, until nothing more does. */
void ownership_pursue(struct ownership *o, uint64_t now, struct ownership_actions *out);
/* The record is durable: what waited for that. */
void ownership_stored(struct ownership *o, uint64_t now, struct ownership_actions *out);

#endif
