// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/hypervisor/soft_chips.h"

#define LVT      0x320
#define INITIAL  0x380
#define CURRENT  0x390
#define DIVIDE   0x3e0
#define PERIODIC 0x20000
#define DEADLINE 0x40000
#define MASKED   0x10000
#define BY_1     0xb
#define BY_16    3

static int ready(void **state)
{
	setup(state);
	lapics_on();
	return 0;
}
static void acknowledge(int vector)
{
	assert_int_equal(take(0), vector);
	wr(0, 0xb0, 0);
}

static void one_shot_fires_once_and_on_time(void **state)
{
	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x40);
	wr(0, INITIAL, 1000);
	assert_int_equal(soft_chips_deadline(chips), now + 1000);
	pass(400);
	assert_int_equal(rd(0, CURRENT), 600);
	pass(599);
	assert_int_equal(rd(0, CURRENT), 1);
	assert_int_equal(pending(0), -1);
	pass(1);
	assert_int_equal(rd(0, CURRENT), 0);
	assert_int_equal(attention, 1);
	acknowledge(0x40);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	pass(MS);
	assert_int_equal(pending(0), -1);
	assert_int_equal(rd(0, INITIAL), 1000);
}

static void divisors_are_all_eight(void **state)
{
	static const uint8_t code[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa};

	wr(0, LVT, 0x40);
	for (unsigned i = 0; i < ARRAY_LEN(code); i++) {
		wr(0, DIVIDE, code[i]);
		wr(0, INITIAL, UINT32_MAX);
		assert_true(soft_chips_deadline(chips) == now + ((uint64_t)UINT32_MAX << i));
	}
	wr(0, DIVIDE, UINT32_MAX);
	assert_int_equal(rd(0, DIVIDE), 0xb);
}

static void a_new_divisor_keeps_the_count(void **state)
{
	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x40);
	wr(0, INITIAL, 1000);
	pass(400);
	wr(0, DIVIDE, BY_16);
	assert_int_equal(rd(0, CURRENT), 600);
	assert_int_equal(soft_chips_deadline(chips), now + 600 * 16);
}

static void periods_do_not_drift(void **state)
{
	uint64_t start = now, period = 16 * 20000;

	wr(0, DIVIDE, BY_16);
	wr(0, LVT, 0x41 | PERIODIC);
	wr(0, INITIAL, 20000);
	for (unsigned i = 1; i < 50; i++) {
		pass(start + i * period - now + i * 31 % 1000); /* late, by various times */
		acknowledge(0x41);
		assert_int_equal(soft_chips_deadline(chips), start + (i + 1) * period);
	}
}

static void missed_periods_make_one_interrupt(void **state)
{
	uint64_t start = now;

	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x41 | PERIODIC);
	wr(0, INITIAL, 1000000);
	pass(UINT64_C(1000000000000000) + 17); /* 11 days */
	acknowledge(0x41);
	assert_int_equal(pending(0), -1);
	assert_int_equal(soft_chips_deadline(chips), start + UINT64_C(1000000001000000));
}

static void tiny_periods_are_stretched(void **state)
{
	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x41 | PERIODIC);
	wr(0, INITIAL, 1);
	assert_int_equal(soft_chips_deadline(chips), now + 200 * US);
	assert_int_equal(rd(0, CURRENT), 1);
	pass(MS);
	acknowledge(0x41);
	wr(0, INITIAL, 0);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
}

static void a_masked_timer_runs_silently(void **state)
{
	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x41 | PERIODIC | MASKED);
	wr(0, INITIAL, 1000000);
	pass(1500 * US);
	assert_int_equal(pending(0), -1);
	assert_int_equal(rd(0, CURRENT), 500000);
	wr(0, LVT, 0x41 | PERIODIC);
	pass(500 * US);
	acknowledge(0x41);
}

static void the_deadline_fires_when_the_tsc_is_there(void **state)
{
	uint64_t at = now + 700;

	wr(0, LVT, 0x42 | DEADLINE);
	assert_int_equal(msr_set(0, 0x6e0, 3 * at), 0);
	assert_int_equal(soft_chips_deadline(chips), at);
	assert_int_equal(msr_get(0, 0x6e0), 3 * at);
	assert_int_equal(rd(0, CURRENT), 0);
	pass(699);
	assert_int_equal(pending(0), -1);
	pass(1);
	acknowledge(0x42);
	assert_int_equal(msr_get(0, 0x6e0), 0);
	assert_int_equal(msr_set(0, 0x6e0, 1), 0); /* long past: at once */
	acknowledge(0x42);
	assert_int_equal(msr_set(0, 0x6e0, 3 * at + 3000), 0);
	assert_int_equal(msr_set(0, 0x6e0, 0), 0);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
}

static void modes_exclude_each_other(void **state)
{
	assert_int_equal(msr_set(0, 0x6e0, 3 * (now + 1000)), 0); /* not in that mode: ignored */
	assert_int_equal(msr_get(0, 0x6e0), 0);
	wr(0, LVT, 0x42 | DEADLINE);
	wr(0, INITIAL, 1000);
	assert_int_equal(rd(0, INITIAL), 0);
	assert_int_equal(msr_set(0, 0x6e0, 3 * (now + 1000)), 0);
	wr(0, LVT, 0x42);
	assert_int_equal(msr_get(0, 0x6e0), 0);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	wr(0, INITIAL, 1000);
	wr(0, LVT, 0x42 | DEADLINE);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	assert_int_equal(rd(0, INITIAL), 0);
}

static void each_vcpu_has_its_own(void **state)
{
	for (unsigned v = 0; v < CPUS; v++) {
		wr(v, DIVIDE, BY_1);
		wr(v, LVT, 0x50 + v);
		wr(v, INITIAL, 4000 - 1000 * v);
	}
	for (unsigned v = CPUS; v-- > 0;) {
		assert_int_equal(soft_chips_deadline(chips), now + 1000);
		pass(1000);
		assert_int_equal(attention, 1u << v);
		assert_int_equal(take(v), 0x50 + v);
		attention = 0;
	}
}

static void init_and_reset_stop_it(void **state)
{
	wr(1, LVT, 0x50);
	wr(1, INITIAL, 4000);
	wr(0, LVT, 0x50 | DEADLINE);
	assert_int_equal(msr_set(0, 0x6e0, 30 * now), 0);
	soft_chips_cpu_init(chips, 1);
	assert_int_equal(soft_chips_deadline(chips), 10 * now);
	soft_chips_reset(chips);
	assert_true(soft_chips_deadline(chips) == UINT64_MAX);
	assert_int_equal(msr_get(0, 0x6e0), 0);
}

/* An access sees what is due before it. */
static void accesses_come_after_what_is_due(void **state)
{
	wr(0, DIVIDE, BY_1);
	wr(0, LVT, 0x40);
	wr(0, INITIAL, 1000);
	now += 1000;
	wr(0, INITIAL, 1000);
	acknowledge(0x40);
	assert_int_equal(soft_chips_deadline(chips), now + 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ready, teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_shot_fires_once_and_on_time),
		TEST(divisors_are_all_eight),
		TEST(a_new_divisor_keeps_the_count),
		TEST(periods_do_not_drift),
		TEST(missed_periods_make_one_interrupt),
		TEST(tiny_periods_are_stretched),
		TEST(a_masked_timer_runs_silently),
		TEST(the_deadline_fires_when_the_tsc_is_there),
		TEST(modes_exclude_each_other),
		TEST(each_vcpu_has_its_own),
		TEST(init_and_reset_stop_it),
		TEST(accesses_come_after_what_is_due),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
