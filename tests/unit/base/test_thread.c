// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* ---- real-time priority -------------------------------------------------------------- */

#define TOO_LONG_NS (20 * NS_PER_SEC)

static void *priority_refused(void *ctx)
{
	int *rc = ctx;

	if (sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 1}))
		*rc = errno;
	return NULL;
}

/* Asked of a thread of its own, which ends with what it got. */
static void need_priority(void)
{
	pthread_t t;
	int rc = 0;

	assert_int_equal(pthread_create(&t, NULL, priority_refused, &rc), 0);
	pthread_join(t, NULL);
	if (!rc)
		return;
	printf("no thread has real-time priority here: %s\n", strerror(rc));
	skip();
}

/* As a process of its own, for what is raised stays. */
static bool may_raise(void)
{
	struct rlimit priority = {1, 1};
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(setrlimit(RLIMIT_RTPRIO, &priority) != 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return !status;
}

static void test_permits_least_priority_alone(void **state)
{
	struct rlimit priority, time;
	bool may = may_raise();

	assert_int_equal(getrlimit(RLIMIT_RTTIME, &time), 0);
	thread_urge_permit();
	if (time.rlim_max < 500000) {
		printf("rttime: the limit here is shorter\n");
		skip();
	}
	assert_int_equal(getrlimit(RLIMIT_RTPRIO, &priority), 0);
	assert_int_equal(getrlimit(RLIMIT_RTTIME, &time), 0);
	assert_int_equal(time.rlim_cur, 500000);
	if (!may) {
		printf("rtprio: neither CAP_SYS_RESOURCE nor a limit permits it here\n");
		skip();
	}
	assert_int_equal(priority.rlim_cur, 1);
	assert_int_equal(priority.rlim_max, 1);
}

struct policies {
	int urged, child, priority, at_last;
};

static void *policy_report(void *ctx)
{
	*(int *)ctx = sched_getscheduler(0);
	return NULL;
}

static void *urged(void *ctx)
{
	struct policies *p = ctx;
	struct sched_param param;
	pthread_t child;

	thread_urge();
	p->urged = sched_getscheduler(0);
	if (!sched_getparam(0, &param))
		p->priority = param.sched_priority;
	if (!thread_start(&child, "child", policy_report, &p->child))
		pthread_join(child, NULL);
	return NULL;
}

static void test_urged_thread_is_real_time(void **state)
{
	struct policies p = {.child = -1};
	pthread_t t;

	need_priority();
	assert_int_equal(thread_start(&t, "urged", urged, &p), 0);
	pthread_join(t, NULL);
	assert_int_equal(p.urged, SCHED_RR | SCHED_RESET_ON_FORK);
	assert_int_equal(p.priority, 1);
	assert_int_equal(p.child, SCHED_OTHER);
}

static void *urged_for_ever(void *ctx)
{
	uint64_t until = clock_ns() + TOO_LONG_NS;
	struct policies *p = ctx;

	thread_urge();
	p->urged = sched_getscheduler(0);
	do
		p->at_last = sched_getscheduler(0);
	while (p->at_last == p->urged && clock_ns() < until);
	return NULL;
}

/* It is not to have a CPU for ever before all others. */
static void test_urged_thread_that_never_waits(void **state)
{
	struct policies p = {0};
	struct rlimit time;
	pthread_t t;

	need_priority();
	thread_urge_permit();
	assert_int_equal(thread_start(&t, "urged", urged_for_ever, &p), 0);
	pthread_join(t, NULL);
	assert_int_equal(getrlimit(RLIMIT_RTTIME, &time), 0);
	assert_int_equal(time.rlim_cur, 500000); /* for the next one, too */
	assert_int_equal(p.urged, SCHED_RR | SCHED_RESET_ON_FORK);
	assert_int_equal(p.at_last, SCHED_OTHER | SCHED_RESET_ON_FORK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs_with_signals_blocked),
		cmocka_unit_test(test_long_name_is_cut),
		cmocka_unit_test(test_threads_that_detach),
		cmocka_unit_test(test_clock_moves_forward),
		cmocka_unit_test(test_permits_least_priority_alone),
		cmocka_unit_test(test_urged_thread_is_real_time),
		cmocka_unit_test(test_urged_thread_that_never_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
