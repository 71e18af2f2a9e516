// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/base.h"

static int faults_clear(void **state)
{
	fault_disarm_all();
	unsetenv("POLLUX_FAULTS");
	return 0;
}

static void test_quiet_by_default(void **state)
{
	assert_int_equal(fault_point("a"), 0);
}

static void test_fires_once_at_the_nth_call(void **state)
{
	fault_arm("a", 3, ENOSPC);
	assert_int_equal(fault_point("a"), 0);
	assert_int_equal(fault_point("b"), 0);
	assert_int_equal(fault_point("a"), 0);
	assert_int_equal(fault_point("a"), -ENOSPC);
	assert_int_equal(fault_point("a"), 0);
}

static void test_one_name_armed_twice(void **state)
{
	fault_arm("a", 1, EIO);
	fault_arm("a", 2, ENOSPC);
	assert_int_equal(fault_point("a"), -EIO);
	assert_int_equal(fault_point("a"), -ENOSPC);
	assert_int_equal(fault_point("a"), 0);
}

static void test_disarm(void **state)
{
	fault_arm("a", 1, EIO);
	fault_disarm_all();
	assert_int_equal(fault_point("a"), 0);
}

static void test_environment(void **state)
{
	struct error e = {0};

	setenv("POLLUX_FAULTS", "mirror.write,send:2,fsync:1:28", 1);
	assert_int_equal(fault_setup(&e), 0);
	assert_int_equal(fault_point("mirror.write"), -EIO);
	assert_int_equal(fault_point("send"), 0);
	assert_int_equal(fault_point("send"), -EIO);
	assert_int_equal(fault_point("fsync"), -ENOSPC);
}

static void test_bad_environment(void **state)
{
	static const char *const bad[] = {
		",",
		"a,",
		"a,,b",
		":1",
		"a:",
		"a:0",
		"a:x",
		"a:1:",
		"a:1:0",
		"a:1x",
		"a:-1",
		"a:1:2:3",
		"a:1:4096",
		"a: 1",
		"a:99999999999999999999",
		"a b,:",
		"a.name.that.is.much.too.long.to.be.one.of.our.own.fault.points",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct error e = {0};

		fault_disarm_all();
		setenv("POLLUX_FAULTS", bad[i], 1);
		assert_int_equal(fault_setup(&e), -EINVAL);
		assert_int_equal(e.code, -EINVAL);
		assert_non_null(e.text[0] ? e.text : NULL);
	}
}

static void test_table_full(void **state)
{
	struct error e = {0};

	setenv("POLLUX_FAULTS", "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a", 1);
	assert_int_equal(fault_setup(&e), -ENOSPC);
}

static atomic_int fired;

static void *many_calls(void *ctx)
{
	for (int i = 0; i < 10000; i++)
		if (fault_point("shared"))
			atomic_fetch_add(&fired, 1);
	return NULL;
}

static void test_threads_share_one_count(void **state)
{
	pthread_t threads[4];

	fault_arm("shared", 25000, EIO);
	fault_arm("shared", 40000, EIO);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(thread_start(&threads[i], "faults", many_calls, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&fired), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_quiet_by_default, faults_clear),
		cmocka_unit_test_teardown(test_fires_once_at_the_nth_call, faults_clear),
		cmocka_unit_test_teardown(test_one_name_armed_twice, faults_clear),
		cmocka_unit_test_teardown(test_disarm, faults_clear),
		cmocka_unit_test_teardown(test_environment, faults_clear),
		cmocka_unit_test_teardown(test_bad_environment, faults_clear),
		cmocka_unit_test_teardown(test_table_full, faults_clear),
		cmocka_unit_test_teardown(test_threads_share_one_count, faults_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
