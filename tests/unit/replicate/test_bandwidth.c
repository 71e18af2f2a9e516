// SPDX-License-Identifier: Apache-2.0
/* One limit for memory and all disks of a first copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "replicate/replicate.h"

#define GIB (UINT64_C(1) << 30)
#define MB  UINT64_C(1000000)

static void test_no_limit(void **state)
{
	assert_int_equal(bandwidth_of_memory(0, GIB, 10 * GIB), 0);
	assert_int_equal(bandwidth_of_member(0, GIB, 10 * GIB, GIB), 0);
}

static void test_memory_alone(void **state)
{
	assert_int_equal(bandwidth_of_memory(100 * MB, GIB, 0), 100 * MB);
}

static void test_by_size(void **state)
{
	assert_int_equal(bandwidth_of_memory(100 * MB, GIB, GIB), 50 * MB);
	assert_int_equal(bandwidth_of_member(100 * MB, GIB, GIB, GIB), 50 * MB);
	/* A small memory beside large disks keeps an eighth. */
	assert_int_equal(bandwidth_of_memory(80 * MB, GIB, 100 * GIB), 10 * MB);
	assert_int_equal(bandwidth_of_member(80 * MB, GIB, 100 * GIB, 50 * GIB), 35 * MB);
}

/* When no memory goes beside them the limit is theirs. */
static void test_members_alone(void **state)
{
	assert_int_equal(bandwidth_of_member(100 * MB, 0, GIB, GIB), 100 * MB);
	assert_int_equal(bandwidth_of_member(100 * MB, 0, 4 * GIB, GIB), 25 * MB);
	assert_int_equal(bandwidth_of_member(0, 0, GIB, GIB), 0);
}

/* However many there are, together they keep to the limit. */
static void test_sum(void **state)
{
	for (uint64_t limit = MB; limit <= 10000 * MB; limit *= 10)
		for (unsigned disks = 1; disks <= 8; disks++) {
			uint64_t all = 0, sum;

			for (unsigned i = 0; i < disks; i++)
				all += (i + 1) * 3 * GIB;
			sum = bandwidth_of_memory(limit, 2 * GIB, all);
			for (unsigned i = 0; i < disks; i++)
				sum += bandwidth_of_member(limit, 2 * GIB, all, (i + 1) * 3 * GIB);
			assert_in_range(sum, limit - 16, limit);
		}
}

/* None is ever without a limit, or without any rate at all. */
static void test_least(void **state)
{
	assert_in_range(bandwidth_of_member(1, GIB, GIB, 1), 1, 4096);
	assert_in_range(bandwidth_of_member(MB, GIB, 100 * GIB, 512), 1, 4096);
	assert_true(bandwidth_of_memory(1, 4096, GIB) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_limit), cmocka_unit_test(test_memory_alone),
		cmocka_unit_test(test_by_size),  cmocka_unit_test(test_sum),
		cmocka_unit_test(test_least),    cmocka_unit_test(test_members_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
