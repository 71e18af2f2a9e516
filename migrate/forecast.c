// SPDX-License-Identifier: Apache-2.0
/* The rounds of a migration, played through before it begins. */
#include <string.h>

#include "migrate/converge.h"

#define ROUND_NS   (200 * NS_PER_US) /* of each round, whatever is sent: harvest, wake-ups */
#define ROUNDS_END 100000u

/* What the guest dirties within a time: a line through the samples, since what it writes again
 * and again counts once; beyond the last one as between the last two. */
static double written(const struct migrate_measured *m, double ns)
{
	double from_ns = 0, from = 0, slope = 0;

	for (unsigned i = 0; i < MIGRATE_SAMPLES && m->dirty[i].ns; i++) {
		double to_ns = (double)m->dirty[i].ns, to = (double)m->dirty[i].pages;

		if (to_ns <= from_ns)
			continue;
		slope = to > from ? (to - from) / (to_ns - from_ns) : 0;
		if (ns <= to_ns)
			break;
		from_ns = to_ns;
		from = to > from ? to : from;
	}
	return from + slope * (ns - from_ns);
}

static uint64_t dirty_after(const struct migrate_measured *m, uint64_t ns, unsigned throttle)
{
	double n = written(m, (double)ns * (100.0 - throttle) / 100.0);

	return n < (double)m->ram_pages ? (uint64_t)n : m->ram_pages;
}

static uint64_t link_ns(uint64_t bytes, uint64_t rate)
{
	return rate ? (uint64_t)((double)bytes * 1e9 / (double)rate) : 0;
}

/* Streams encode side by side, while the link carries what they have made before. */
static uint64_t send_ns(const struct migrate_measured *m, uint64_t pages, uint64_t disk_bytes,
			uint64_t rate)
{
	uint64_t encode = pages * m->encode_ns / (m->streams ? m->streams : 1);
	uint64_t link = link_ns(pages * m->wire_bytes + disk_bytes, rate);

	return encode > link ? encode : link;
}

static struct converge_round round_play(const struct migrate_measured *m, uint64_t pages,
					uint64_t disk_bytes, unsigned throttle)
{
	uint64_t limit = m->bytes_per_second_allowed, rate = m->bytes_per_second, full, ns;

	full = ns = send_ns(m, pages, disk_bytes, rate);
	if (limit && limit < rate)
		ns = send_ns(m, pages, disk_bytes, limit);
	return (struct converge_round){
		.pages = pages,
		.ns = ns + ROUND_NS,
		.bytes = pages * m->wire_bytes + disk_bytes,
		.dirty = dirty_after(m, ns + ROUND_NS, throttle),
		.throttle = throttle,
		.paced_ns = ns - full,
	};
}

/* Disks count for the time until all is there, and not for that of a page. */
static struct converge_round first_play(const struct migrate_measured *m)
{
	struct converge_round all = round_play(m, m->pages, m->disk_bytes, 0);
	struct converge_round memory = round_play(m, m->pages, 0, 0);

	all.paced_ns = all.ns - (memory.ns - memory.paced_ns);
	return all;
}

/* When disks are copied: beside memory they have their part of a limit, and half of the link. */
static uint64_t disks_ns(const struct migrate_measured *m, bool beside_memory)
{
	uint64_t limit = m->bytes_per_second_allowed;
	uint64_t memory = beside_memory ? m->ram_pages * VM_PAGE_SIZE : 0;
	uint64_t rate = beside_memory ? m->bytes_per_second / 2 : m->bytes_per_second;
	uint64_t allowed = bandwidth_of_member(limit, memory, m->disk_bytes, m->disk_bytes);

	return link_ns(m->disk_bytes, limit && allowed < rate ? allowed : rate);
}

/* The time that copying has may be over in the middle of a round: what that has not sent is dirty.
 */
static bool round_cut(const struct migrate_config *c, const struct migrate_measured *m,
		      uint64_t elapsed, struct converge_round *r)
{
	uint64_t time = c->most_ns > elapsed ? c->most_ns - elapsed : 0, pages = r->pages;
	double part = (double)time / (double)r->ns;

	if (!c->most_ns || r->ns <= time)
		return false;
	r->pages = (uint64_t)((double)pages * part);
	r->bytes = (uint64_t)((double)r->bytes * part);
	r->paced_ns = (uint64_t)((double)r->paced_ns * part);
	r->dirty = dirty_after(m, time, r->throttle) + pages - r->pages;
	if (r->dirty > m->ram_pages)
		r->dirty = m->ram_pages;
	r->ns = time;
	return true;
}

static enum migrate_late late_of(const struct migrate_config *c, uint64_t elapsed, bool synced)
{
	if (!c->most_ns || elapsed < c->most_ns)
		return LATE_NOT;
	return synced ? LATE_MEMORY : LATE_DISKS;
}

static void end_note(const struct migrate_config *c, const struct converge_verdict *v,
		     uint64_t elapsed, bool synced, struct migrate_forecast *out)
{
	*out = (struct migrate_forecast){.rounds = out->rounds,
					 .throttle = v->throttle,
					 .downtime_ns = v->forecast_ns,
					 .total_ns = elapsed + v->forecast_ns,
					 .why = v->why};
	if (v->next == NEXT_STOP) {
		out->end = END_GIVE_UP;
		out->late = late_of(c, elapsed, synced);
		out->total_ns = elapsed;
	} else if (v->postcopy) {
		out->end = END_POSTCOPY;
		out->downtime_ns = c->fixed_ns;
	} else {
		out->end = v->why ? END_PAUSE : END_PRECOPY;
	}
}

/* Time is up, and they are not copied. */
static void disks_late(const struct migrate_config *c, struct migrate_forecast *out)
{
	struct converge_round r = {.ns = c->most_ns};
	struct converge_view view = {
		.rounds = &r, .count = 1, .round = 1, .elapsed_ns = c->most_ns};
	struct converge_verdict v;

	converge_decide(c, &view, &v);
	*out = (struct migrate_forecast){0};
	end_note(c, &v, c->most_ns, false, out);
}

/* Disks go before the guest, and all of its memory after it. */
static void postcopy_foresee(const struct migrate_config *c, const struct migrate_measured *m,
			     struct migrate_forecast *out)
{
	struct converge_round all = round_play(m, m->pages, m->disk_bytes, 0);

	if (c->most_ns && disks_ns(m, false) > c->most_ns) {
		disks_late(c, out);
		return;
	}
	*out = (struct migrate_forecast){
		.end = END_POSTCOPY, .downtime_ns = c->fixed_ns, .total_ns = c->fixed_ns + all.ns};
}

/* As precopy_next() does, round by round. The decisions end it: at rounds_max at the latest. */
void migrate_foresee(const struct migrate_config *c, const struct migrate_measured *m,
		     struct migrate_forecast *out)
{
	struct converge_round rounds[CONVERGE_RECENT] = {first_play(m)};
	struct converge_verdict v = {.next = NEXT_ROUND};
	unsigned count = 1, stuck = 0;
	bool synced = !round_cut(c, m, 0, rounds) || disks_ns(m, true) <= c->most_ns;
	uint64_t elapsed = rounds[0].ns;

	if (c->postcopy_only) {
		postcopy_foresee(c, m, out);
		return;
	}
	*out = (struct migrate_forecast){.rounds = 1};
	for (;; out->rounds++) {
		struct converge_view view = {rounds, count,   out->rounds, out->rounds,
					     stuck,  elapsed, synced,      synced};

		converge_decide(c, &view, &v);
		stuck = v.stuck;
		if (v.next == NEXT_SEAL || v.next == NEXT_STOP || out->rounds == ROUNDS_END)
			break;
		if (count == CONVERGE_RECENT)
			memmove(rounds, rounds + 1, --count * sizeof(*rounds));
		rounds[count] = round_play(m, rounds[count - 1].dirty, 0, v.throttle);
		round_cut(c, m, elapsed, &rounds[count]);
		elapsed += rounds[count++].ns;
	}
	end_note(c, &v, elapsed, synced, out);
}
