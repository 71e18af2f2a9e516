// SPDX-License-Identifier: Apache-2.0
/*
 * When a precopy has converged, and what to do when it does not: a pure function of
 * the rounds so far. No clock, no I/O; tests feed it recorded traces of dirty rates.
 *
 *   forecast = fixed + dirty x time a page + queued / link + trip   (were the pause to come now)
 *
 * A precopy has converged when pages and what is queued fit what the rest leaves of the limit, and
 * in any case a share of it. Queued is what the guest has written to its disks and the link has not
 * taken yet: it goes before the last pages.
 *
 * The time a page takes is that of the recent rounds: encoding, encryption and the link
 * together, without what they waited for a limit of bandwidth. Of a round of few pages that is not
 * most of its time: after greater ones it tells what a round takes besides, the trip, which no
 * other round makes shorter. While rounds shrink, they go on.
 * When they do not, the guest is throttled, step by step, as each step has proven too little; at
 * the last step the policy decides: postcopy, one longer pause within its own limit, or giving up.
 * Private to migrate/.
 */
#ifndef POLLUX_MIGRATE_CONVERGE_H
#define POLLUX_MIGRATE_CONVERGE_H

#include "migrate/migrate.h"

#define CONVERGE_RECENT 4u /* rounds that are looked at */

struct converge_round {
	uint64_t pages, ns, bytes; /* sent, taken, on the wire */
	uint64_t dirty;            /* pages written meanwhile */
	unsigned throttle;         /* percent, while it ran */
	uint64_t paced_ns; /* of `ns`: lost to a limit of bandwidth, which no pause keeps to */
	uint64_t queued;   /* bytes of disks that waited to be sent when it was over */
};

struct converge_view {
	const struct converge_round *rounds; /* the last ones, newest last */
	unsigned count;                      /* of them, 1..CONVERGE_RECENT */
	unsigned settled;                    /* rounds since disks had been copied */
	unsigned round;                      /* number of the newest, from 1 */
	unsigned stuck; /* rounds in a row that did not shrink at this throttle */
	uint64_t elapsed_ns;
	bool members_synced, members_copied; /* as in replicate.h */
};

struct converge_verdict {
	enum replicate_next next;
	bool postcopy;        /* with NEXT_SEAL: the rest is sent afterwards */
	bool policy;          /* what there is for a guest that is stuck: no time to be lost */
	unsigned throttle;    /* from now on */
	unsigned stuck;       /* for the next view */
	uint64_t forecast_ns; /* downtime, if the guest was stopped now; 0 = not known */
	const char *why;      /* NEXT_STOP, a policy that was applied, a pause that is longer than
				 allowed: static */
};

void converge_decide(const struct migrate_config *c, const struct converge_view *view,
		     struct converge_verdict *out);
/* Of a round's time, what a limit of bandwidth made of it. Its batches found an empty socket, each
 * time, so that only the rate of the link, measured before, tells what they take without a
 * pause between them; where that is not known, 0: the limit is taken for the link. */
uint64_t converge_paced_ns(const struct migrate_config *c, const struct replicate_round *r);
/* Nanoseconds that a page takes, of the recent rounds; 0 = not known yet. */
uint64_t converge_page_ns(const struct converge_view *view);

#endif
