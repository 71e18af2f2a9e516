// SPDX-License-Identifier: Apache-2.0
/* What both cores need: the action list, and judging silence fairly. */
#ifndef POLLUX_REPLICATE_CORE_UTIL_H
#define POLLUX_REPLICATE_CORE_UTIL_H

#include <assert.h>

#include "replicate/core.h"

#define BIT(n) (1u << (n))

static inline struct core_action *core_act(struct core_actions *out, int type)
{
	struct core_action *a = &out->item[out->count++];

	assert(out->count <= CORE_ACTIONS_MAX);
	*a = (struct core_action){.type = type};
	return a;
}

static inline void core_act_epoch(struct core_actions *out, int type, uint64_t epoch)
{
	core_act(out, type)->epoch = epoch;
}

static inline uint64_t core_earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t core_later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/*
 * Silence is measured by ticks, and a host that is late itself must not take its
 * own absence for the other side's. A core asks for ticks at least every quarter of
 * loss_ns; a tick that comes more than half of loss_ns after the last event was late,
 * and once in each silence it is forgiven: what has arrived meanwhile gets one
 * heartbeat's time to be fed.
 */
struct core_silence {
	uint64_t loss_ns, heartbeat_ns;
	uint64_t *seen_at, *forgive_until;
	bool *indulged;
};

/* May this tick be followed by a verdict? */
static inline bool core_tick_judges(struct core_silence s, uint64_t now)
{
	bool late = now - *s.seen_at > s.loss_ns / 2;

	if (late && !*s.indulged) {
		*s.indulged = true;
		*s.forgive_until = now + s.heartbeat_ns;
	}
	return now >= *s.forgive_until;
}

#endif
