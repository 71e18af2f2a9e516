// SPDX-License-Identifier: Apache-2.0
#include "migrate/converge.h"

#define STUCK_ROUNDS   2u /* before the first step; one is proven too little by one round */
#define THROTTLE_FIRST 20u
#define THROTTLE_STEP  15u
#define PAGES_TELLING  512u /* a round of fewer says little about speed */
#define IDLE_LEAST_NS  (100 * NS_PER_MS)
#define UNKNOWN_NS     (UINT64_C(1) << 60) /* more than any limit */

void migrate_config_defaults(struct migrate_config *c)
{
	*c = (struct migrate_config){
		.downtime_ns = 30 * NS_PER_MS,
		.most_downtime_ns = 2 * NS_PER_SEC,
		.fixed_ns = 5 * NS_PER_MS,
		.throttle_max = 95,
		.rounds_max = 60,
		.stuck = STUCK_GIVE_UP,
	};
}

uint64_t migrate_idle_ns(const struct migrate_config *c)
{
	uint64_t most = c->downtime_ns;

	if (c->stuck == STUCK_STOP && c->most_downtime_ns > most)
		most = c->most_downtime_ns;
	if (most < IDLE_LEAST_NS)
		return IDLE_LEAST_NS;
	return most < VM_PAUSE_IDLE_NS ? most : VM_PAUSE_IDLE_NS;
}

static const struct converge_round *newest(const struct converge_view *v)
{
	return &v->rounds[v->count - 1];
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Few pages, after others: most of its time is that of one trip. */
static bool newest_is_trip(const struct converge_view *v)
{
	return v->count > 1 && newest(v)->pages < PAGES_TELLING;
}

uint64_t converge_page_ns(const struct converge_view *v)
{
	unsigned first = newest_is_trip(v) ? v->count - 1 : v->count;
	uint64_t pages = 0, ns = 0;

	for (unsigned i = first; i > 0 && pages < PAGES_TELLING; i--) {
		pages += v->rounds[i - 1].pages;
		ns += v->rounds[i - 1].ns - v->rounds[i - 1].paced_ns;
	}
	return pages ? ns / pages : 0;
}

static uint64_t bytes_ns(uint64_t bytes, uint64_t per_second)
{
	return per_second ? (uint64_t)((double)bytes * 1e9 / (double)per_second) : 0;
}

uint64_t converge_paced_ns(const struct migrate_config *c, const struct replicate_round *r)
{
	uint64_t link, work = r->ns > r->paced_ns ? r->ns - r->paced_ns : 0;

	if (!c->link_bytes_per_second || !r->paced_ns)
		return 0;
	link = bytes_ns(r->bytes, c->link_bytes_per_second);
	work = work > link ? work : link;
	return r->ns > work ? r->ns - work : 0;
}

/* What the pages that are dirty now would cost; before any was sent that is not known. */
static uint64_t pages_ns(const struct converge_view *v)
{
	uint64_t dirty = newest(v)->dirty, page = converge_page_ns(v);

	return dirty && !page ? UNKNOWN_NS : dirty * page;
}

/* What the recent rounds made of the link; 0 = not known. */
static uint64_t rounds_rate(const struct converge_view *v)
{
	uint64_t bytes = 0, ns = 0;

	for (unsigned i = 0; i < v->count; i++) {
		bytes += v->rounds[i].bytes;
		ns += v->rounds[i].ns - v->rounds[i].paced_ns;
	}
	return ns ? (uint64_t)((double)bytes * 1e9 / (double)ns) : 0;
}

/* What disks have given by the end of a round and the link has not taken. */
static uint64_t queue_ns(const struct migrate_config *c, const struct converge_view *v,
			 const struct converge_round *r)
{
	uint64_t link = c->link_bytes_per_second;

	return bytes_ns(r->queued, link ? link : rounds_rate(v));
}

/* What the last epoch takes however few its pages are. What was queued before the round went
 * with it. */
static uint64_t trip_ns(const struct migrate_config *c, const struct converge_view *v)
{
	const struct converge_round *r = newest(v);

	if (!newest_is_trip(v))
		return 0;
	return less(r->ns - r->paced_ns, r->pages * converge_page_ns(v) + queue_ns(c, v, r - 1));
}

/* And what both may cost. The rest of a pause no round makes shorter: where that alone is beyond
 * the limit the guest is not slowed down for it. */
static uint64_t pages_limit(const struct migrate_config *c, uint64_t trip_ns)
{
	uint64_t left = less(c->downtime_ns, c->fixed_ns + trip_ns);
	uint64_t least = c->downtime_ns / MIGRATE_PAGES_SHARE;

	return left > least ? left : least;
}

/* 0 asks for as short a pause as can be. What is copied fits its limit: if that is too much in all
 * the limit was a share, and the rest has left no more. */
static const char *why_longer(const struct migrate_config *c, uint64_t forecast_ns)
{
	return c->downtime_ns && forecast_ns > c->downtime_ns
		       ? "the pause is longer than wished for: handing over takes most of that, "
			 "and no copying makes it shorter"
		       : NULL;
}

static bool clearly_less(uint64_t now, uint64_t before)
{
	return now < before - before / MIGRATE_SHRINKS_BY;
}

/* A round is worth another one when it leaves clearly less than it had, of pages or of what
 * disks give. */
static bool shrinks(const struct converge_view *v)
{
	const struct converge_round *r = newest(v);
	uint64_t queued = v->count > 1 ? v->rounds[v->count - 2].queued : 0;

	return clearly_less(r->dirty, r->pages) || clearly_less(r->queued, queued);
}

/* What disks give goes before a round's pages, and makes it long; one without pages is not there
 * to shrink. */
static unsigned stuck_next(const struct migrate_config *c, const struct converge_view *v)
{
	return shrinks(v) || !v->members_synced || c->postcopy_only ? 0 : v->stuck + 1;
}

static bool later_is_due(const struct migrate_config *c, const struct converge_view *v)
{
	return c->postcopy_after && v->round >= c->postcopy_after && v->members_synced;
}

/* A guest may never stop writing its disks; where no page is copied no other policy is asked. */
static bool later_is_overdue(const struct migrate_config *c, const struct converge_view *v)
{
	return c->postcopy_only && v->settled >= c->rounds_max;
}

static unsigned throttle_next(const struct migrate_config *c, unsigned now)
{
	unsigned next = now ? now + THROTTLE_STEP : THROTTLE_FIRST;

	return next < c->throttle_max ? next : c->throttle_max;
}

static bool is_stuck(unsigned rounds, unsigned throttle)
{
	return rounds >= (throttle ? 1 : STUCK_ROUNDS);
}

static void stop(struct converge_verdict *out, const char *why)
{
	out->next = NEXT_STOP;
	out->why = why;
}

struct policy_words {
	const char *postcopy, *pause, *too_long, *stop;
};
static const struct policy_words too_fast = {
	"the guest writes faster than the link carries: postcopy",
	"the guest writes faster than the link carries: a longer pause",
	"the guest writes faster than the link carries, and the pause would be longer than allowed",
	"the guest writes faster than the link carries",
};
static const struct policy_words too_late = {
	"copying took all the time that it was allowed: postcopy",
	"copying took all the time that it was allowed: a longer pause",
	"copying took all the time that it was allowed, and the pause would be longer than allowed",
	"copying took all the time that it was allowed",
};

/* Nothing more helps the precopy. */
static void policy_apply(const struct migrate_config *c, const struct policy_words *words,
			 struct converge_verdict *out)
{
	bool pause = c->stuck == STUCK_STOP && out->forecast_ns &&
		     out->forecast_ns <= c->most_downtime_ns;

	out->policy = true;
	if (c->stuck == STUCK_POSTCOPY || pause) {
		out->next = NEXT_SEAL;
		out->postcopy = !pause;
		out->why = pause ? words->pause : words->postcopy;
	} else {
		stop(out, c->stuck == STUCK_STOP ? words->too_long : words->stop);
	}
}

static bool out_of_time(const struct migrate_config *c, const struct converge_view *v)
{
	return c->most_ns && v->elapsed_ns >= c->most_ns;
}

/* Without its disks a guest goes nowhere, by no policy. What they have given takes a round. */
static void disks_late(const struct converge_view *v, struct converge_verdict *out)
{
	out->stuck = 0;
	if (!v->members_copied)
		stop(out, "copying the disks took all the time that it was allowed");
}

void converge_decide(const struct migrate_config *c, const struct converge_view *v,
		     struct converge_verdict *out)
{
	const struct converge_round *r = newest(v);
	uint64_t pages = pages_ns(v), queue = queue_ns(c, v, r), trip = trip_ns(c, v);
	uint64_t limit = pages_limit(c, trip);

	*out = (struct converge_verdict){
		.next = NEXT_ROUND,
		.throttle = r->throttle,
		.stuck = stuck_next(c, v),
		.forecast_ns = pages < UNKNOWN_NS ? c->fixed_ns + pages + queue + trip : 0,
	};
	if (!v->members_synced && out_of_time(c, v)) {
		disks_late(v, out);
	} else if (!v->members_synced && (pages <= limit || c->postcopy_only)) {
		out->stuck = 0;
		out->next = NEXT_WAIT; /* disks that are copied fill the queue */
	} else if (v->members_synced && pages + queue <= limit) {
		out->stuck = 0;
		out->next = NEXT_SEAL;
		out->why = why_longer(c, out->forecast_ns);
	} else if (later_is_due(c, v) && (queue <= limit || later_is_overdue(c, v))) {
		out->next = NEXT_SEAL;
		out->postcopy = true;
	} else if (v->members_synced && out_of_time(c, v)) {
		policy_apply(c, &too_late, out);
	} else if (v->members_synced && v->settled >= c->rounds_max) {
		policy_apply(c, &too_fast, out);
	} else if (out->stuck >= STUCK_ROUNDS && r->throttle >= c->throttle_max) {
		policy_apply(c, &too_fast, out);
	} else if (is_stuck(out->stuck, r->throttle) && r->throttle < c->throttle_max) {
		out->throttle = throttle_next(c, r->throttle);
		out->stuck = 0;
	}
}
