// SPDX-License-Identifier: Apache-2.0
/* Time, and who had the processors meanwhile. */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

/* No more than there was in all of them; the kernel counts each of them in ticks, now and then. */
static void test_idle_time(void **state)
{
	unsigned cpus = 0, again = 0;
	uint64_t began = clock_ns(), before = cpus_idle_ns(&cpus), idle, passed;

	assert_true(before > 0);
	assert_int_equal(cpus, sysconf(_SC_NPROCESSORS_ONLN));
	usleep(200000);
	idle = cpus_idle_ns(&again) - before;
	passed = clock_ns() - began;
	assert_int_equal(again, cpus);
	print_message("%u CPUs, %.0f ms: idle for %.0f ms\n", cpus, (double)passed / 1e6,
		      (double)idle / 1e6);
	assert_true(idle <= cpus * (passed + 100 * NS_PER_MS));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_idle_time)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
