// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replicate/policy.h"

static const struct policy_view open_epoch = {
	.interval_ns = 100, .opened_at = 1000, .in_flight = 1, .window = 2};

static void interval_ends_at_its_time_whatever_happens(void **state)
{
	struct policy_view v = open_epoch;

	assert_int_equal(policy_seal_at(REPLICATE_INTERVAL, &v), 1100);
	v.output = true;
	assert_int_equal(policy_seal_at(REPLICATE_INTERVAL, &v), 1100);
}

static void event_ends_with_output_or_at_the_longest(void **state)
{
	struct policy_view v = open_epoch;

	assert_int_equal(policy_seal_at(REPLICATE_EVENT, &v), 1100);
	v.output = true;
	assert_int_equal(policy_seal_at(REPLICATE_EVENT, &v), 0);
}

static void full_window_waits_in_both_modes(void **state)
{
	struct policy_view v = open_epoch;

	v.output = true;
	v.in_flight = v.window;
	assert_true(policy_seal_at(REPLICATE_INTERVAL, &v) == POLICY_NEVER);
	assert_true(policy_seal_at(REPLICATE_EVENT, &v) == POLICY_NEVER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(interval_ends_at_its_time_whatever_happens),
		cmocka_unit_test(event_ends_with_output_or_at_the_longest),
		cmocka_unit_test(full_window_waits_in_both_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
