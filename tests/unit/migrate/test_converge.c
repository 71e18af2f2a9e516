// SPDX-License-Identifier: Apache-2.0
/* When to stop: over traces of dirty rates, as a replicator would bring them. */
#include "migrate/converge.h"
#include "tests/unit/migrate/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PAGE_NS 4000u /* 1 GB/s */

/* A guest of so many pages that writes `rate` pages a second, to `hot` of them. */
struct trace {
	uint64_t pages, rate, hot;
	double obeys; /* how much of a throttle slows it: 1 = wholly */
};

struct outcome {
	enum replicate_next next;
	bool postcopy;
	unsigned rounds, throttle;
	uint64_t forecast_ns, dirty;
	const char *why;
};

static uint64_t written(const struct trace *t, uint64_t ns, unsigned throttle)
{
	double slow = 1.0 - t->obeys * throttle / 100.0;
	uint64_t n = (uint64_t)((double)t->rate * slow * (double)ns / 1e9);

	return n < t->hot ? n : t->hot;
}

/* Rounds, one after the other, each with what was decided at the end of the one before. */
struct course {
	struct converge_round rounds[CONVERGE_RECENT];
	struct converge_verdict v;
	unsigned count, round;
	uint64_t elapsed;
};

static void course_add(struct course *k, const struct migrate_config *c, uint64_t pages,
		       uint64_t ns, uint64_t bytes, uint64_t dirty)
{
	struct converge_view view;

	if (k->count == CONVERGE_RECENT)
		memmove(k->rounds, k->rounds + 1, --k->count * sizeof(*k->rounds));
	k->rounds[k->count++] =
		(struct converge_round){pages, ns, bytes, dirty, k->v.throttle, 0, 0};
	k->round++;
	k->elapsed += ns;
	view = (struct converge_view){k->rounds,  k->count,   k->round, k->round,
				      k->v.stuck, k->elapsed, true,     true};
	converge_decide(c, &view, &k->v);
}

static struct outcome course_end(const struct course *k)
{
	return (struct outcome){k->v.next,     k->v.postcopy,    k->round,
				k->v.throttle, k->v.forecast_ns, k->rounds[k->count - 1].dirty,
				k->v.why};
}

static struct outcome play_slowly(const struct migrate_config *c, const struct trace *t,
				  uint64_t trip_ns)
{
	struct course k = {0};
	uint64_t send = t->pages;

	while (k.round < 1000) {
		uint64_t ns = send * PAGE_NS + 100000 + trip_ns;

		course_add(&k, c, send, ns, send * 4096, written(t, ns, k.v.throttle));
		send = k.rounds[k.count - 1].dirty;
		if (k.v.next == NEXT_SEAL || k.v.next == NEXT_STOP)
			return course_end(&k);
	}
	fail_msg("it never ends");
	return (struct outcome){0};
}

static struct outcome play(const struct migrate_config *c, const struct trace *t)
{
	return play_slowly(c, t, 0);
}

/* One round or two, looked at when the last of them is over, and what was decided then. */
struct look {
	struct migrate_config c;
	struct converge_round r[2];
	struct converge_view view;
	struct converge_verdict v;
};

/* r is there. */
static void look_begin(struct look *l, unsigned rounds)
{
	l->c = defaults();
	l->view = (struct converge_view){l->r, rounds, rounds, rounds, 0, 1, true, true};
}

/* Disks are still to be copied. */
static void look_at_disks(struct look *l)
{
	l->view.settled = 0;
	l->view.members_synced = l->view.members_copied = false;
}

static void decide(struct look *l)
{
	converge_decide(&l->c, &l->view, &l->v);
}

static void decides(struct look *l, enum replicate_next next)
{
	decide(l);
	assert_int_equal(l->v.next, next);
}

static void test_idle(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = play(&c, &(struct trace){1u << 20, 50, 1000, 1});

	assert_int_equal(o.next, NEXT_SEAL);
	assert_true(o.rounds <= 2);
	assert_int_equal(o.throttle, 0);
	assert_true(o.forecast_ns <= c.downtime_ns);
	assert_null(o.why);
}

/* Writes at a third of what the link carries: rounds shrink, nobody is throttled. */
static void test_shrinks(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = play(&c, &(struct trace){1u << 20, 80000, 1u << 19, 1});

	assert_int_equal(o.next, NEXT_SEAL);
	assert_int_equal(o.throttle, 0);
}

/* Writes faster than the link carries, but to few pages: they fit a pause. */
static void test_small_hot_set(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = play(&c, &(struct trace){1u << 20, 400000, 4000, 1});

	assert_int_equal(o.next, NEXT_SEAL);
	assert_int_equal(o.throttle, 0);
}

static void test_throttled(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = play(&c, &(struct trace){1u << 20, 400000, 1u << 19, 1});

	assert_int_equal(o.next, NEXT_SEAL);
	assert_true(o.throttle > 0 && o.throttle <= c.throttle_max);
	assert_true(o.forecast_ns <= c.downtime_ns);
}

/* Each step is given time to prove itself, and none goes beyond the limit. */
static void test_throttle_has_a_limit(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o;

	c.throttle_max = 30;
	o = play(&c, &(struct trace){1u << 20, 900000, 1u << 19, 1});
	assert_int_equal(o.next, NEXT_STOP);
	assert_int_equal(o.throttle, 30);
	c.throttle_max = 0;
	o = play(&c, &(struct trace){1u << 20, 900000, 1u << 19, 1});
	assert_int_equal(o.throttle, 0);
}

/* A guest that no throttle slows: by policy. */
static void test_policies(void **state)
{
	struct migrate_config c = defaults();
	struct trace t = {1u << 20, 900000, 1u << 19, 0};
	struct outcome o = play(&c, &t);

	assert_int_equal(o.next, NEXT_STOP);
	c.stuck = STUCK_POSTCOPY;
	o = play(&c, &t);
	assert_int_equal(o.next, NEXT_SEAL);
	assert_true(o.postcopy);
	c.stuck = STUCK_STOP;
	c.most_downtime_ns = 3 * NS_PER_SEC;
	o = play(&c, &t);
	assert_int_equal(o.next, NEXT_SEAL);
	assert_false(o.postcopy);
	assert_true(o.forecast_ns > c.downtime_ns && o.forecast_ns <= c.most_downtime_ns);
	c.most_downtime_ns = NS_PER_SEC / 10;
	o = play(&c, &t);
	assert_int_equal(o.next, NEXT_STOP);
}

static void test_patience(void **state)
{
	struct migrate_config c = defaults();
	struct trace t = {1u << 20, 230000, 1u << 19, 0};
	struct outcome o;

	c.most_ns = 5 * NS_PER_SEC;
	o = play(&c, &t);
	assert_int_equal(o.next, NEXT_STOP);
	assert_non_null(strstr(o.why, "all the time"));
	c.most_ns = 0;
	c.rounds_max = 1;
	o = play(&c, &t);
	assert_int_equal(o.rounds, 1);
	assert_non_null(strstr(o.why, "faster"));
}

/* Time is up for disks as well: no policy moves a guest without them. What they have given is sent
 * with one more round. */
static void test_disks_are_late(void **state)
{
	static const enum migrate_stuck policies[] = {STUCK_GIVE_UP, STUCK_STOP, STUCK_POSTCOPY};

	for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
		struct look l = {.r = {{1000, 1000 * PAGE_NS, 4096000, 10, 0, 0, 0}}};

		look_begin(&l, 1);
		look_at_disks(&l);
		l.view.elapsed_ns = 5 * NS_PER_SEC;
		l.c.stuck = policies[i];
		l.c.most_ns = 6 * NS_PER_SEC;
		decides(&l, NEXT_WAIT);
		l.c.most_ns = 5 * NS_PER_SEC;
		decides(&l, NEXT_STOP);
		assert_non_null(strstr(l.v.why, "disks"));
		l.view.members_copied = true;
		decides(&l, NEXT_ROUND);
		assert_null(l.v.why);
	}
}

/* Of a round that was cut short most is dirty. */
static void test_time_is_up_in_a_round(void **state)
{
	struct look l = {.r = {{1000, 1000 * PAGE_NS, 4096000, 1u << 20, 0, 0, 0}}};

	look_begin(&l, 1);
	l.view.elapsed_ns = 5 * NS_PER_SEC;
	l.c.most_ns = 5 * NS_PER_SEC;
	decides(&l, NEXT_STOP);
	l.c.stuck = STUCK_POSTCOPY;
	decides(&l, NEXT_SEAL);
	assert_true(l.v.postcopy && l.v.policy);
	l.c.stuck = STUCK_STOP;
	decides(&l, NEXT_STOP); /* 4 s */
	l.c.most_downtime_ns = 5 * NS_PER_SEC;
	decides(&l, NEXT_SEAL);
	assert_false(l.v.postcopy);
	l.r[0].dirty = 10; /* time is up, and all is well */
	decides(&l, NEXT_SEAL);
	assert_null(l.v.why);
}

/* A disk that is still being copied keeps the guest from being stopped, whatever the policy. */
static void test_waits_for_disks(void **state)
{
	struct look l = {.r = {{1000, 1000 * PAGE_NS, 4096000, 10, 0, 0, 0}}};

	look_begin(&l, 1);
	look_at_disks(&l);
	l.view.round = l.c.rounds_max;
	l.view.stuck = 5;
	decides(&l, NEXT_WAIT);
	l.r[0].dirty = 1u << 20;
	decides(&l, NEXT_ROUND);
	assert_int_equal(l.v.throttle, 0);
	assert_int_equal(l.v.stuck, 0);
}

/* A guest that never stops writing its disks, and a pause without any wait for what it writes: no
 * throttle is tried, no page is to blame, and it goes all the same. */
static void test_postcopy_only_with_a_busy_disk(void **state)
{
	struct look l = {.r = {{0, NS_PER_MS, 4096, 1u << 20, 0, 0, 4096},
			       {0, NS_PER_MS, 4096, 1u << 20, 0, 0, 4096}},
			 .v = {.next = NEXT_ROUND}};
	unsigned round;

	look_begin(&l, 2);
	l.c.stuck = STUCK_POSTCOPY;
	l.c.postcopy_after = 1;
	l.c.postcopy_only = true;
	l.c.downtime_ns = 0;
	for (round = 1; l.v.next == NEXT_ROUND; round++) {
		assert_true(round <= l.c.rounds_max);
		l.view.settled = l.view.round = round;
		l.view.stuck = l.v.stuck;
		l.view.elapsed_ns = round;
		decide(&l);
		assert_int_equal(l.v.throttle, 0);
		assert_int_equal(l.v.stuck, 0);
	}
	assert_int_equal(round - 1, l.c.rounds_max);
	assert_int_equal(l.v.next, NEXT_SEAL);
	assert_true(l.v.postcopy);
	assert_null(l.v.why);
}

/* Nothing is copied: it waits for disks, but for no page. */
static void test_postcopy_only(void **state)
{
	struct look l = {.r = {{0, NS_PER_MS, 0, 1u << 20, 0, 0, 0}}};

	look_begin(&l, 1);
	look_at_disks(&l);
	l.view.elapsed_ns = NS_PER_MS;
	l.c.stuck = STUCK_POSTCOPY;
	l.c.postcopy_after = 1;
	l.c.postcopy_only = true;
	decides(&l, NEXT_WAIT);
	l.view.members_synced = l.view.members_copied = true;
	decides(&l, NEXT_SEAL);
	assert_true(l.v.postcopy);
	assert_null(l.v.why);
}

/* Time was up before any page was sent: what they take is not known, and is not nothing. */
static void test_nothing_was_sent(void **state)
{
	struct look l = {.r = {{0, NS_PER_SEC, 0, 1000, 0, 0, 0}}};

	look_begin(&l, 1);
	l.view.elapsed_ns = NS_PER_SEC;
	l.c.stuck = STUCK_STOP;
	decides(&l, NEXT_ROUND);
	assert_int_equal(l.v.forecast_ns, 0);
	l.c.most_ns = NS_PER_SEC;
	decides(&l, NEXT_STOP);
	l.r[0].dirty = 0;
	decides(&l, NEXT_SEAL);
}

/* A pause that is too long without any page: no throttle helps, and none is tried. */
static void test_slow_stores(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o;

	c.fixed_ns = 3 * c.downtime_ns;
	o = play(&c, &(struct trace){1u << 20, 80000, 1u << 19, 1});
	assert_int_equal(o.next, NEXT_SEAL);
	assert_int_equal(o.throttle, 0);
	assert_true(o.forecast_ns > c.fixed_ns && o.forecast_ns < c.fixed_ns + c.downtime_ns);
	assert_non_null(strstr(o.why, "longer than wished for"));
	c.fixed_ns = c.downtime_ns / 2; /* then it is memory that takes as long */
	o = play(&c, &(struct trace){1u << 20, 80000, 1u << 19, 1});
	assert_int_equal(o.next, NEXT_SEAL);
	assert_null(o.why);
	c.fixed_ns = c.downtime_ns;
	c.downtime_ns = 0; /* as short as can be, whatever that is */
	o = play(&c, &(struct trace){1u << 20, 0, 0, 1});
	assert_int_equal(o.next, NEXT_SEAL);
	assert_null(o.why);
}

/* ---- recorded: bench-migrate on two busy CPUs, 256 MiB, 2 streams --------------- */

struct recorded {
	uint64_t pages;
	double ms;
	uint64_t dirty;
};

static struct outcome replay(const struct migrate_config *c, const struct recorded *t, unsigned n)
{
	struct course k = {0};

	for (unsigned i = 0; i < n; i++) {
		course_add(&k, c, t[i].pages, (uint64_t)(t[i].ms * 1e6), 0, t[i].dirty);
		if (k.v.next != NEXT_ROUND)
			return course_end(&k);
	}
	fail_msg("it goes on after its end");
	return (struct outcome){0};
}

/* 50,000 pages a second, to 16,384: the link carries more, and nobody is throttled. */
static const struct recorded steady[] = {
	{57398, 4339.2, 16386}, {16386, 1018.4, 16386}, {16386, 214.8, 8536}, {8536, 64.8, 2512}};
/* The same pages as fast as can be: no throttle helps before the last step. */
static const struct recorded flat_out[] = {
	{57398, 2307.7, 16385}, {16385, 673.2, 16385}, {16385, 157.8, 16384}, {16384, 129.3, 16384},
	{16384, 186.6, 16384},  {16384, 149.4, 16384}, {16384, 169.3, 16384}, {16384, 141.3, 16384},
	{16384, 119.1, 10696},  {10696, 126.6, 3492},  {3492, 16.7, 0}};

static void test_recorded(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = replay(&c, steady, ARRAY_LEN(steady));

	assert_int_equal(o.next, NEXT_SEAL);
	assert_int_equal(o.rounds, ARRAY_LEN(steady));
	assert_int_equal(o.throttle, 0);
	o = replay(&c, flat_out, ARRAY_LEN(flat_out));
	assert_int_equal(o.next, NEXT_SEAL);
	assert_int_equal(o.rounds, ARRAY_LEN(flat_out));
	assert_int_equal(o.throttle, 95);
}

/* A limit of bandwidth makes a round long, and not the pause. */
static void test_paced(void **state)
{
	struct look l = {.r = {{5000, 5000 * 10 * PAGE_NS, 5000 * 4096, 3000, 0, 0, 0}}};

	look_begin(&l, 1);
	l.view.elapsed_ns = l.r[0].ns;
	decides(&l, NEXT_ROUND);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + l.r[0].dirty * 10 * PAGE_NS);
	l.r[0].paced_ns = l.r[0].ns - 5000 * PAGE_NS;
	decides(&l, NEXT_SEAL);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + l.r[0].dirty * PAGE_NS);
}

/* Few pages after many: what a page takes is known from those, and the rest is the trip. */
static void test_trip(void **state)
{
	struct look l = {.r = {{10000, 10000 * PAGE_NS, 0, 100, 0, 0, 0},
			       {100, 100 * PAGE_NS, 0, 20, 0, 0, 0}}};

	look_begin(&l, 2);
	decide(&l);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS);
	l.r[1].ns += 3 * NS_PER_MS;
	decides(&l, NEXT_SEAL);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS + 3 * NS_PER_MS);
	l.r[1].paced_ns = 2 * NS_PER_MS;
	decide(&l);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS + NS_PER_MS);
	l.r[1].ns = 50 * PAGE_NS; /* faster than the others */
	l.r[1].paced_ns = 0;
	decide(&l);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS);
}

/* No round makes a trip shorter: a long one does not keep the guest from being stopped. Where
 * there is nothing but few pages, they tell all there is. */
static void test_long_trip(void **state)
{
	struct look l = {.r = {{10000, 10000 * PAGE_NS, 0, 100, 0, 0, 0},
			       {100, 80 * NS_PER_MS, 0, 20, 0, 0, 0}}};

	look_begin(&l, 2);
	decides(&l, NEXT_SEAL);
	l.r[0] = l.r[1];
	look_begin(&l, 1);
	decide(&l);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 16 * NS_PER_MS);
}

/* With a trip less is left for pages, as long as that is more than their share. */
static void test_trip_takes_from_the_limit(void **state)
{
	struct look l = {.r = {{10000, 10000 * 50 * NS_PER_US, 0, 480, 0, 0, 0},
			       {480, 32 * NS_PER_MS, 0, 320, 0, 0, 0}}};

	look_begin(&l, 2);
	decides(&l, NEXT_SEAL); /* 5 + 8 + 16 ms */
	assert_int_equal(l.v.forecast_ns, 29 * NS_PER_MS);
	l.r[1].dirty = 359; /* 31 ms, and it shrinks */
	decides(&l, NEXT_ROUND);
	assert_int_equal(l.v.stuck, 0);
	assert_null(l.v.why);
	l.r[1].ns = 42 * NS_PER_MS; /* a trip of 18 ms leaves 7 ms, and a quarter is theirs */
	l.r[1].dirty = 145;
	decides(&l, NEXT_SEAL);
	assert_non_null(l.v.why);
	l.r[1].dirty = 151;
	decides(&l, NEXT_ROUND);
	assert_null(l.v.why);
}

/* Guests of all kinds, over links with a trip of any length: it comes to an end. */
static void test_trips_end(void **state)
{
	static const uint64_t trips[] = {0, NS_PER_MS, 8 * NS_PER_MS, 20 * NS_PER_MS, NS_PER_SEC};

	for (size_t i = 0; i < ARRAY_LEN(trips); i++)
		for (uint64_t hot = 1; hot < 1u << 20; hot *= 2)
			for (uint64_t rate = 100; rate < 1u << 20; rate *= 4) {
				struct migrate_config c = defaults();
				struct trace t = {1u << 20, rate, hot, 1};
				struct outcome o = play_slowly(&c, &t, trips[i]);

				assert_true(o.rounds <= c.rounds_max);
				if (o.next == NEXT_SEAL && !o.why)
					assert_true(o.forecast_ns <= c.downtime_ns);
			}
}

static void test_paced_by_how_much(void **state)
{
	struct migrate_config c = defaults();
	struct replicate_round r = {
		.pages = 1000, .ns = 10000000, .bytes = 4000000, .paced_ns = 9500000};

	assert_int_equal(converge_paced_ns(&c, &r), 0);
	c.link_bytes_per_second = UINT64_C(1000000000); /* 4 ms for these */
	assert_int_equal(converge_paced_ns(&c, &r), 6000000);
	c.link_bytes_per_second = UINT64_C(100000000000); /* they took 0.5 ms as it was */
	assert_int_equal(converge_paced_ns(&c, &r), 9500000);
	c.link_bytes_per_second = UINT64_C(100000000); /* the limit is beyond the link */
	assert_int_equal(converge_paced_ns(&c, &r), 0);
	r.paced_ns = 0;
	c.link_bytes_per_second = UINT64_C(100000000000);
	assert_int_equal(converge_paced_ns(&c, &r), 0);
}

static void test_what_disks_may_take(void **state)
{
	struct migrate_config c = defaults();

	c.downtime_ns = 0;
	assert_int_equal(migrate_idle_ns(&c), 100 * NS_PER_MS);
	c.downtime_ns = 400 * NS_PER_MS;
	c.most_downtime_ns = 900 * NS_PER_MS;
	assert_int_equal(migrate_idle_ns(&c), 400 * NS_PER_MS);
	c.stuck = STUCK_STOP;
	assert_int_equal(migrate_idle_ns(&c), 900 * NS_PER_MS);
	c.most_downtime_ns = 3600 * NS_PER_SEC;
	assert_int_equal(migrate_idle_ns(&c), VM_PAUSE_IDLE_NS);
}

/* What a guest has written to its disks goes before its last pages. */
static void test_queue_of_disks(void **state)
{
	struct look l = {.r = {{1000, 1000 * PAGE_NS, 4096000, 10, 0, 0, 0},
			       {10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20}}};

	look_begin(&l, 2);
	decides(&l, NEXT_SEAL); /* 16 ms, as the rounds went */
	assert_in_range(l.v.forecast_ns, l.c.fixed_ns + 16 * NS_PER_MS,
			l.c.fixed_ns + 18 * NS_PER_MS);
	l.c.link_bytes_per_second = 125000000;
	decides(&l, NEXT_ROUND); /* 134 ms */
	assert_in_range(l.v.forecast_ns, 134 * NS_PER_MS, 140 * NS_PER_MS);
	l.c.postcopy_after = 1;
	decides(&l, NEXT_ROUND);
	l.r[1].queued = 1u << 20;
	decides(&l, NEXT_SEAL);
	assert_false(l.v.postcopy);
	l.view.members_synced = false; /* they are being copied */
	l.r[1].queued = 16u << 20;
	decides(&l, NEXT_WAIT);
}

/* Few pages behind much of disks: what these took is no trip. */
static void test_flushed_is_no_trip(void **state)
{
	struct look l = {.r = {{10000, 10000 * PAGE_NS, 40960000, 100, 0, 0, 25000000},
			       {100, 201 * NS_PER_MS + 100 * PAGE_NS, 25000000, 20, 0, 0, 0}}};

	look_begin(&l, 2);
	l.c.link_bytes_per_second = 125000000; /* 200 ms for them */
	decides(&l, NEXT_SEAL);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS + NS_PER_MS);
	assert_null(l.v.why);
	l.r[1].ns = 150 * NS_PER_MS; /* faster than that */
	decide(&l);
	assert_int_equal(l.v.forecast_ns, l.c.fixed_ns + 20 * PAGE_NS);
	l.r[0].queued = 0; /* then a trip it is */
	decide(&l);
	assert_true(l.v.forecast_ns > 150 * NS_PER_MS);
}

/* A guest that writes its disks faster than the link carries is slowed down, and one whose
 * queue is worked off is not. */
static void test_queue_that_stays(void **state)
{
	struct look l = {.r = {{10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20},
			       {10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20}}};

	look_begin(&l, 2);
	l.view.stuck = 1;
	l.c.link_bytes_per_second = 125000000;
	decides(&l, NEXT_ROUND);
	assert_true(l.v.throttle > 0);
	l.r[1].queued = 8u << 20;
	decides(&l, NEXT_ROUND);
	assert_int_equal(l.v.throttle, 0);
	assert_int_equal(l.v.stuck, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_shrinks),
		cmocka_unit_test(test_small_hot_set),
		cmocka_unit_test(test_throttled),
		cmocka_unit_test(test_throttle_has_a_limit),
		cmocka_unit_test(test_policies),
		cmocka_unit_test(test_patience),
		cmocka_unit_test(test_waits_for_disks),
		cmocka_unit_test(test_disks_are_late),
		cmocka_unit_test(test_nothing_was_sent),
		cmocka_unit_test(test_postcopy_only),
		cmocka_unit_test(test_postcopy_only_with_a_busy_disk),
		cmocka_unit_test(test_time_is_up_in_a_round),
		cmocka_unit_test(test_slow_stores),
		cmocka_unit_test(test_recorded),
		cmocka_unit_test(test_paced),
		cmocka_unit_test(test_trip),
		cmocka_unit_test(test_long_trip),
		cmocka_unit_test(test_trip_takes_from_the_limit),
		cmocka_unit_test(test_trips_end),
		cmocka_unit_test(test_paced_by_how_much),
		cmocka_unit_test(test_what_disks_may_take),
		cmocka_unit_test(test_queue_of_disks),
		cmocka_unit_test(test_flushed_is_no_trip),
		cmocka_unit_test(test_queue_that_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
