// SPDX-License-Identifier: Apache-2.0
#include "migrate/converge.h"

#define STUCK_ROUNDS   2u /* before the first step; one is proven too little by one round */
#define THROTTLE_FIRST 20u
#define THROTTLE_STEP  15u
#define PAGES_SHARE    4u   /* of the limit is theirs, whatever the rest of a pause takes */
#define PAGES_TELLING  256u /* a round of fewer says little about speed */
#define IDLE_LEAST_NS  (100 * NS_PER_MS)

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

uint64_t converge_page_ns(const struct converge_view *v)
{
	uint64_t pages = 0, ns = 0;

	for (unsigned i = v->count; i > 0 && pages < PAGES_TELLING; i--) {
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

/* What the pages that are dirty now would cost. */
static uint64_t pages_ns(const struct converge_view *v)
{
	return newest(v)->dirty * converge_page_ns(v);
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

/* What disks have given and the link has not taken. */
static uint64_t queue_ns(const struct migrate_config *c, const struct converge_view *v)
{
	uint64_t link = c->link_bytes_per_second;

	return bytes_ns(newest(v)->queued, link ? link : rounds_rate(v));
}

/* And what both may cost. The rest of a pause no round makes shorter: where that alone is beyond
 * the limit the guest is not slowed down for it. */
static uint64_t pages_limit(const struct migrate_config *c)
{
	uint64_t left = c->downtime_ns > c->fixed_ns ? c->downtime_ns - c->fixed_ns : 0;
	uint64_t least = c->downtime_ns / PAGES_SHARE;

	return left > least ? left : least;
}

/* A round is worth another one when it leaves clearly less than it had, of pages or of what
 * disks give. */
static bool shrinks(const struct converge_view *v)
{
	const struct converge_round *r = newest(v);
	uint64_t queued = v->count > 1 ? v->rounds[v->count - 2].queued : 0;

	return r->dirty < r->pages - r->pages / 4 || r->queued < queued - queued / 4;
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

/* Nothing more helps the precopy. */
static void policy_apply(const struct migrate_config *c, const struct converge_view *v,
			 struct converge_verdict *out)
{
	if (!v->members_synced) {
		out->next = NEXT_ROUND; /* disks need their time in any case */
	} else if (c->stuck == STUCK_POSTCOPY) {
		out->next = NEXT_SEAL;
		out->postcopy = true;
		out->why = "the guest writes faster than the link carries: postcopy";
	} else if (c->stuck == STUCK_STOP && out->forecast_ns <= c->most_downtime_ns) {
		out->next = NEXT_SEAL;
		out->why = "the guest writes faster than the link carries: a longer pause";
	} else if (c->stuck == STUCK_STOP) {
		stop(out, "the guest writes faster than the link carries, and the pause would be "
			  "longer than allowed");
	} else {
		stop(out, "the guest writes faster than the link carries");
	}
}

static bool out_of_patience(const struct migrate_config *c, const struct converge_view *v)
{
	return v->settled >= c->rounds_max || (c->most_ns && v->elapsed_ns >= c->most_ns);
}

void converge_decide(const struct migrate_config *c, const struct converge_view *v,
		     struct converge_verdict *out)
{
	const struct converge_round *r = newest(v);
	uint64_t pages = pages_ns(v), queue = queue_ns(c, v), limit = pages_limit(c);

	*out = (struct converge_verdict){
		.next = NEXT_ROUND,
		.throttle = r->throttle,
		/* What disks give goes before a round's pages, and makes it long. */
		.stuck = shrinks(v) || !v->members_synced ? 0 : v->stuck + 1,
		.forecast_ns = c->fixed_ns + pages + queue,
	};
	if (!v->members_synced && pages <= limit) {
		out->stuck = 0;
		out->next = NEXT_WAIT; /* disks that are copied fill the queue */
	} else if (v->members_synced && pages + queue <= limit) {
		out->stuck = 0;
		out->next = NEXT_SEAL;
	} else if (c->postcopy_after && v->round >= c->postcopy_after && v->members_synced &&
		   queue <= limit) {
		out->next = NEXT_SEAL;
		out->postcopy = true;
	} else if (v->members_synced && out_of_patience(c, v)) {
		policy_apply(c, v, out);
	} else if (out->stuck >= STUCK_ROUNDS && r->throttle >= c->throttle_max) {
		policy_apply(c, v, out);
	} else if (is_stuck(out->stuck, r->throttle) && r->throttle < c->throttle_max) {
		out->throttle = throttle_next(c, r->throttle);
		out->stuck = 0;
	}
}
