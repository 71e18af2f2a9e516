// SPDX-License-Identifier: Apache-2.0
/* When to stop: over traces of dirty rates, as a replicator would bring them. */
#include "migrate/converge.h"

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
};

static uint64_t written(const struct trace *t, uint64_t ns, unsigned throttle)
{
	double slow = 1.0 - t->obeys * throttle / 100.0;
	uint64_t n = (uint64_t)((double)t->rate * slow * (double)ns / 1e9);

	return n < t->hot ? n : t->hot;
}

static struct outcome play(const struct migrate_config *c, const struct trace *t)
{
	struct converge_round rounds[CONVERGE_RECENT];
	struct converge_verdict v = {0};
	unsigned count = 0, stuck = 0;
	uint64_t send = t->pages, elapsed = 0;

	for (unsigned round = 1; round < 1000; round++) {
		uint64_t ns = send * PAGE_NS + 100000;
		struct converge_view view;

		if (count == CONVERGE_RECENT)
			memmove(rounds, rounds + 1, --count * sizeof(*rounds));
		rounds[count++] = (struct converge_round){
			send, ns, send * 4096, written(t, ns, v.throttle), v.throttle, 0, 0};
		elapsed += ns;
		view = (struct converge_view){rounds, count, round, round, stuck, elapsed, true};
		converge_decide(c, &view, &v);
		stuck = v.stuck;
		send = rounds[count - 1].dirty;
		if (v.next == NEXT_SEAL || v.next == NEXT_STOP)
			return (struct outcome){v.next,     v.postcopy,    round,
						v.throttle, v.forecast_ns, send};
	}
	fail_msg("it never ends");
	return (struct outcome){0};
}

static struct migrate_config defaults(void)
{
	struct migrate_config c;

	migrate_config_defaults(&c);
	return c;
}

static void test_idle(void **state)
{
	struct migrate_config c = defaults();
	struct outcome o = play(&c, &(struct trace){1u << 20, 50, 1000, 1});

	assert_int_equal(o.next, NEXT_SEAL);
	assert_true(o.rounds <= 2);
	assert_int_equal(o.throttle, 0);
	assert_true(o.forecast_ns <= c.downtime_ns);
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
	c.most_ns = 0;
	c.rounds_max = 1;
	o = play(&c, &t);
	assert_int_equal(o.rounds, 1);
}

/* A disk that is still being copied keeps the guest from being stopped, whatever the policy. */
static void test_waits_for_disks(void **state)
{
	struct migrate_config c = defaults();
	struct converge_round r = {1000, 1000 * PAGE_NS, 4096000, 10, 0, 0, 0};
	struct converge_view view = {&r, 1, 0, c.rounds_max, 5, 1, false};
	struct converge_verdict v;

	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_WAIT);
	r.dirty = 1u << 20;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_ROUND);
	assert_int_equal(v.throttle, 0);
	assert_int_equal(v.stuck, 0);
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
}

/* ---- recorded: bench-migrate on two busy CPUs, 256 MiB, 2 streams --------------- */

struct recorded {
	uint64_t pages;
	double ms;
	uint64_t dirty;
};

static struct outcome replay(const struct migrate_config *c, const struct recorded *t, unsigned n)
{
	struct converge_round rounds[CONVERGE_RECENT];
	struct converge_verdict v = {0};
	unsigned count = 0, stuck = 0;
	uint64_t elapsed = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t ns = (uint64_t)(t[i].ms * 1e6);
		struct converge_view view;

		if (count == CONVERGE_RECENT)
			memmove(rounds, rounds + 1, --count * sizeof(*rounds));
		rounds[count++] =
			(struct converge_round){t[i].pages, ns, 0, t[i].dirty, v.throttle, 0, 0};
		elapsed += ns;
		view = (struct converge_view){rounds, count, i + 1, i + 1, stuck, elapsed, true};
		converge_decide(c, &view, &v);
		stuck = v.stuck;
		if (v.next != NEXT_ROUND)
			return (struct outcome){v.next,     v.postcopy,    i + 1,
						v.throttle, v.forecast_ns, t[i].dirty};
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
	struct migrate_config c = defaults();
	struct converge_round r = {5000, 5000 * 10 * PAGE_NS, 5000 * 4096, 3000, 0, 0, 0};
	struct converge_view view = {&r, 1, 1, 1, 0, r.ns, true};
	struct converge_verdict v;

	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_ROUND);
	assert_int_equal(v.forecast_ns, c.fixed_ns + r.dirty * 10 * PAGE_NS);
	r.paced_ns = r.ns - 5000 * PAGE_NS;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_SEAL);
	assert_int_equal(v.forecast_ns, c.fixed_ns + r.dirty * PAGE_NS);
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
	struct migrate_config c = defaults();
	struct converge_round r[2] = {{1000, 1000 * PAGE_NS, 4096000, 10, 0, 0, 0},
				      {10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20}};
	struct converge_view view = {r, 2, 2, 2, 0, 1, true};
	struct converge_verdict v;

	converge_decide(&c, &view, &v); /* 16 ms, as the rounds went */
	assert_int_equal(v.next, NEXT_SEAL);
	assert_in_range(v.forecast_ns, c.fixed_ns + 16 * NS_PER_MS, c.fixed_ns + 18 * NS_PER_MS);
	c.link_bytes_per_second = 125000000;
	converge_decide(&c, &view, &v); /* 134 ms */
	assert_int_equal(v.next, NEXT_ROUND);
	assert_in_range(v.forecast_ns, 134 * NS_PER_MS, 140 * NS_PER_MS);
	c.postcopy_after = 1;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_ROUND);
	r[1].queued = 1u << 20;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_SEAL);
	assert_false(v.postcopy);
	view.members_synced = false; /* they are being copied */
	r[1].queued = 16u << 20;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_WAIT);
}

/* A guest that writes its disks faster than the link carries is slowed down, and one whose
 * queue is worked off is not. */
static void test_queue_that_stays(void **state)
{
	struct migrate_config c = defaults();
	struct converge_round r[2] = {{10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20},
				      {10, 10 * PAGE_NS, 40960, 10, 0, 0, 16u << 20}};
	struct converge_view view = {r, 2, 2, 2, 1, 1, true};
	struct converge_verdict v;

	c.link_bytes_per_second = 125000000;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_ROUND);
	assert_true(v.throttle > 0);
	r[1].queued = 8u << 20;
	converge_decide(&c, &view, &v);
	assert_int_equal(v.next, NEXT_ROUND);
	assert_int_equal(v.throttle, 0);
	assert_int_equal(v.stuck, 0);
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
		cmocka_unit_test(test_slow_stores),
		cmocka_unit_test(test_recorded),
		cmocka_unit_test(test_paced),
		cmocka_unit_test(test_paced_by_how_much),
		cmocka_unit_test(test_what_disks_may_take),
		cmocka_unit_test(test_queue_of_disks),
		cmocka_unit_test(test_queue_that_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
