// SPDX-License-Identifier: Apache-2.0
/* How a migration will go, from what was measured before it. */
#include "tests/unit/migrate/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PAGES  (UINT64_C(1) << 18) /* 1 GiB */
#define MS     NS_PER_MS
#define LINK   UINT64_C(1000000000)
#define A_PAGE 4104u

/* A guest that writes `rate` pages a second, `hot` different ones, as samples would see it. */
static struct migrate_measured guest(uint64_t rate, uint64_t hot)
{
	static const uint64_t times[MIGRATE_SAMPLES] = {10 * MS, 40 * MS, 160 * MS};
	struct migrate_measured m = {.ram_pages = PAGES,
				     .pages = PAGES,
				     .encode_ns = 300,
				     .wire_bytes = A_PAGE,
				     .bytes_per_second = LINK,
				     .streams = 2};

	for (unsigned i = 0; i < MIGRATE_SAMPLES; i++) {
		uint64_t n = rate * times[i] / NS_PER_SEC;

		m.dirty[i] = (struct migrate_sample){times[i], n < hot ? n : hot};
	}
	return m;
}

/* A migration of such a guest, and what was foreseen of it last. */
struct look {
	struct migrate_config c;
	struct migrate_measured m;
	struct migrate_forecast f;
};

static struct look look(uint64_t rate, uint64_t hot)
{
	return (struct look){.c = defaults(), .m = guest(rate, hot)};
}

static void foresee(struct look *l)
{
	migrate_foresee(&l->c, &l->m, &l->f);
}

static void ends(struct look *l, enum migrate_end end)
{
	foresee(l);
	assert_int_equal(l->f.end, end);
}

static void near(uint64_t got, double wanted, double off)
{
	if ((double)got < wanted * (1 - off) || (double)got > wanted * (1 + off))
		fail_msg("%llu in place of about %.0f", (unsigned long long)got, wanted);
}

static void test_idle(void **state)
{
	struct look l = look(0, 0);

	ends(&l, END_PRECOPY);
	assert_int_equal(l.f.rounds, 1);
	assert_int_equal(l.f.throttle, 0);
	assert_null(l.f.why);
	assert_int_equal(l.f.downtime_ns, l.c.fixed_ns);
	near(l.f.total_ns, (double)PAGES * A_PAGE + 5e6, 0.01);
}

/* Nothing was sampled, or there is nothing to send: still an end. */
static void test_nothing(void **state)
{
	struct look l = {.c = defaults(), .m = {.ram_pages = PAGES}};

	ends(&l, END_PRECOPY);
	assert_int_equal(l.f.downtime_ns, l.c.fixed_ns);
}

/* What takes longest decides: the link, or encoding, by as many streams as there are. */
static void test_slowest(void **state)
{
	struct look l = look(0, 0);

	l.m.encode_ns = 20000;
	l.m.streams = 1;
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * 20000, 0.01);
	l.m.streams = 4;
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * 5000, 0.01);
	l.m.bytes_per_second = LINK / 10;
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * A_PAGE * 10, 0.01);
}

static void test_shrinks(void **state)
{
	struct look l = look(50000, PAGES);

	ends(&l, END_PRECOPY);
	assert_int_equal(l.f.throttle, 0);
	assert_in_range(l.f.rounds, 3, 10);
	assert_true(l.f.downtime_ns <= l.c.downtime_ns);
	/* Each round is a fifth of the one before. */
	near(l.f.total_ns, (double)PAGES * A_PAGE / (1 - 50000 * A_PAGE / 1e9), 0.05);
}

/* Written over and over, a small set is no more than itself, however long a round is. */
static void test_small_hot_set(void **state)
{
	struct look l = look(400000, 4000);

	ends(&l, END_PRECOPY);
	assert_int_equal(l.f.throttle, 0);
	assert_int_equal(l.f.downtime_ns, l.c.fixed_ns + 4000 * A_PAGE);
}

static void test_too_fast(void **state)
{
	struct look l = look(20000000, PAGES);

	ends(&l, END_GIVE_UP);
	assert_int_equal(l.f.throttle, l.c.throttle_max);
	assert_int_equal(l.f.late, LATE_NOT);
	assert_non_null(l.f.why);
	l.c.stuck = STUCK_POSTCOPY;
	ends(&l, END_POSTCOPY);
	assert_int_equal(l.f.downtime_ns, l.c.fixed_ns);
	l.c.stuck = STUCK_STOP;
	ends(&l, END_PAUSE);
	assert_true(l.f.downtime_ns > l.c.downtime_ns && l.f.downtime_ns <= l.c.most_downtime_ns);
	assert_non_null(l.f.why);
	l.c.most_downtime_ns = l.c.downtime_ns;
	ends(&l, END_GIVE_UP);
}

static void test_throttled(void **state)
{
	struct look l = look(400000, PAGES);

	ends(&l, END_PRECOPY);
	assert_in_range(l.f.throttle, 1, l.c.throttle_max);
}

/* A limit makes rounds longer, and not the pause, which does not keep to it. */
static void test_limit(void **state)
{
	struct look l = look(1000, PAGES);

	l.m.bytes_per_second_allowed = LINK / 10;
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * A_PAGE * 10, 0.1);
	/* The second round takes 0.44 s, and the guest writes 1000 pages a second. */
	assert_int_equal(l.f.rounds, 2);
	near(l.f.downtime_ns - l.c.fixed_ns, 450 * A_PAGE, 0.1);
	l.m.bytes_per_second_allowed = 10 * LINK; /* none that counts */
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * A_PAGE, 0.1);
}

static void test_disks(void **state)
{
	struct look l = look(1000, PAGES);

	l.m.disk_bytes = UINT64_C(10) << 30;
	foresee(&l);
	near(l.f.total_ns, (double)PAGES * A_PAGE + (double)l.m.disk_bytes, 0.05);
	assert_true(l.f.downtime_ns <= l.c.downtime_ns);
}

static void test_postcopy_only(void **state)
{
	struct look l = look(1000, PAGES);

	l.c.stuck = STUCK_POSTCOPY;
	l.c.postcopy_after = 1;
	l.c.postcopy_only = true;
	ends(&l, END_POSTCOPY);
	assert_int_equal(l.f.rounds, 0);
	assert_int_equal(l.f.downtime_ns, l.c.fixed_ns);
	near(l.f.total_ns, (double)PAGES * A_PAGE, 0.05);
}

/* Its time is over in the middle of the first round, which would take 1 s of memory alone. */
static void test_time_is_up(void **state)
{
	struct look l = look(1000, PAGES);

	l.c.most_ns = NS_PER_SEC / 4;
	ends(&l, END_GIVE_UP);
	assert_int_equal(l.f.rounds, 1);
	near(l.f.total_ns, NS_PER_SEC / 4, 0.01);
	l.c.stuck = STUCK_STOP;
	ends(&l, END_PAUSE);
	near(l.f.downtime_ns, (double)PAGES * A_PAGE - NS_PER_SEC / 4, 0.05);
	l.c.stuck = STUCK_POSTCOPY;
	ends(&l, END_POSTCOPY);
	l.m.disk_bytes = UINT64_C(10) << 30;
	ends(&l, END_GIVE_UP);
	assert_non_null(strstr(l.f.why, "disks"));
}

/* What a disk takes beside memory: half of the link, or its part of a limit. */
static void test_disks_before_time_is_up(void **state)
{
	struct look l = look(1000, PAGES);

	l.c.most_ns = NS_PER_SEC / 2;
	l.c.stuck = STUCK_POSTCOPY;
	l.m.disk_bytes = LINK / 10; /* 0.2 s, and memory takes 1 s */
	ends(&l, END_POSTCOPY);
	assert_int_equal(l.f.late, LATE_NOT);
	l.c.stuck = STUCK_GIVE_UP;
	foresee(&l);
	assert_int_equal(l.f.late, LATE_MEMORY);
	l.c.stuck = STUCK_POSTCOPY;
	l.m.disk_bytes = LINK * 3 / 10;
	ends(&l, END_GIVE_UP);
	assert_int_equal(l.f.late, LATE_DISKS);
	assert_non_null(strstr(l.f.why, "disks"));
	l.c.most_ns = 5 * NS_PER_SEC;
	l.m.disk_bytes = PAGES * VM_PAGE_SIZE;
	l.m.bytes_per_second_allowed = LINK * 4 / 10; /* half of it is 5.4 s for 1 GiB */
	ends(&l, END_GIVE_UP);
	assert_non_null(strstr(l.f.why, "disks"));
	l.m.disk_bytes /= 4;
	l.m.bytes_per_second_allowed = LINK / 2; /* a fifth of it is 2.7 s */
	l.m.encode_ns = 40000;                   /* and memory takes 5.2 s */
	l.c.most_ns = 3 * NS_PER_SEC;
	ends(&l, END_POSTCOPY);
}

/* Disks go first, and have their time. */
static void test_postcopy_only_with_disks(void **state)
{
	struct look l = look(1000, PAGES);

	l.c.stuck = STUCK_POSTCOPY;
	l.c.postcopy_after = 1;
	l.c.postcopy_only = true;
	l.c.most_ns = NS_PER_SEC / 2;
	l.m.disk_bytes = LINK * 4 / 10; /* alone: memory waits */
	ends(&l, END_POSTCOPY);
	l.m.disk_bytes = LINK * 2 / 10;
	l.m.bytes_per_second_allowed = LINK / 2; /* all of it: 0.4 s */
	ends(&l, END_POSTCOPY);
	l.m.bytes_per_second_allowed = 0;
	l.m.disk_bytes = LINK;
	ends(&l, END_GIVE_UP);
	assert_int_equal(l.f.total_ns, l.c.most_ns);
	assert_int_equal(l.f.rounds, 0);
	assert_int_equal(l.f.late, LATE_DISKS);
	assert_non_null(strstr(l.f.why, "disks"));
	l.c.most_ns = 0;
	ends(&l, END_POSTCOPY);
}

/* No figures keep it from ending. */
static void test_ends(void **state)
{
	static const uint64_t numbers[] = {0, 1, 1000, 1 << 20, UINT64_C(1) << 40};
	size_t n = ARRAY_LEN(numbers);

	for (size_t i = 0; i < n * n * n * n; i++) {
		struct look l = look(numbers[i % n], PAGES);

		l.m.encode_ns = numbers[i / n % n];
		l.m.bytes_per_second = numbers[i / n / n % n];
		l.m.bytes_per_second_allowed = numbers[i / n / n / n];
		l.m.dirty[1].pages = 0; /* as it may be, between two others */
		foresee(&l);
		assert_true(l.f.rounds <= l.c.rounds_max);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_slowest),
		cmocka_unit_test(test_shrinks),
		cmocka_unit_test(test_small_hot_set),
		cmocka_unit_test(test_too_fast),
		cmocka_unit_test(test_throttled),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_time_is_up),
		cmocka_unit_test(test_postcopy_only),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_disks_before_time_is_up),
		cmocka_unit_test(test_postcopy_only_with_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
