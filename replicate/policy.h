// SPDX-License-Identifier: Apache-2.0
/*
 * When does an epoch end? Pure functions of what is known at the time.
 *
 * interval  every interval_ns, whatever the guest does (Remus, NSDI 2008)
 * event     as soon as output waits in the open epoch (Kemari, 2008), and after
 *           interval_ns in any case, so that a failover never loses more than that
 */
#ifndef POLLUX_REPLICATE_POLICY_H
#define POLLUX_REPLICATE_POLICY_H

#include "replicate/replicate.h"

#define POLICY_NEVER UINT64_MAX

struct policy_view {
	uint64_t interval_ns;
	uint64_t opened_at; /* when the open epoch began */
	bool output;        /* output waits in the open epoch */
	unsigned in_flight; /* epochs sealed and not acknowledged */
	unsigned window;    /* as many may be */
};

/* The time at which the open epoch is to be sealed: 0 = now, POLICY_NEVER = not before
 * something else happens (an acknowledgement makes room). */
uint64_t policy_seal_at(enum replicate_mode mode, const struct policy_view *v);

#endif
