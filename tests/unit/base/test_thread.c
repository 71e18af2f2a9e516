// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

static void *thread_report(void *ctx)
{
	sigset_t *blocked = ctx;

	pthread_sigmask(SIG_SETMASK, NULL, blocked);
	return ctx;
}

static void test_runs_with_signals_blocked(void **state)
{
	sigset_t blocked, mine;
	pthread_t t;
	void *result;

	assert_int_equal(thread_start(&t, "reporter", thread_report, &blocked), 0);
	assert_int_equal(pthread_join(t, &result), 0);
	assert_ptr_equal(result, &blocked);
	assert_true(sigismember(&blocked, SIGTERM));
	assert_true(sigismember(&blocked, SIGALRM));
	assert_false(sigismember(&blocked, SIGSEGV));
	pthread_sigmask(SIG_SETMASK, NULL, &mine);
	assert_false(sigismember(&mine, SIGTERM));
}

static void *name_copy(void *ctx)
{
	pthread_getname_np(pthread_self(), ctx, 16);
	return NULL;
}

static void test_long_name_is_cut(void **state)
{
	pthread_t t;
	char name[16];

	assert_int_equal(thread_start(&t, "a-name-of-more-than-15", name_copy, name), 0);
	pthread_join(t, NULL);
	assert_string_equal(name, "a-name-of-more-");
}

static void *detached(void *ctx)
{
	pthread_detach(pthread_self());
	atomic_fetch_add((atomic_int *)ctx, 1);
	return NULL;
}

/* They may be gone before thread_start() returns. */
static void test_threads_that_detach(void **state)
{
	static atomic_int ended;
	pthread_t t;

	for (int i = 0; i < 200; i++)
		assert_int_equal(thread_start(&t, "detached", detached, &ended), 0);
	while (atomic_load(&ended) < 200)
		sched_yield();
}

static void test_clock_moves_forward(void **state)
{
	uint64_t before = clock_ns(), after = clock_ns();

	assert_true(before > 0 && after >= before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs_with_signals_blocked),
		cmocka_unit_test(test_long_name_is_cut),
		cmocka_unit_test(test_threads_that_detach),
		cmocka_unit_test(test_clock_moves_forward),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
