// SPDX-License-Identifier: Apache-2.0
/* What is asked before a migration, as two polluxds see it, when many ask at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <semaphore.h>

#include "tests/unit/agent/flows.h"

static void run_alone(const char *vm)
{
	WAIT_FOR(connected(0) && connected(1), vm);
	assert_int_equal(guest_run(0, vm, false), 202);
	WAIT_STATE(0, vm, "running");
}

static bool check_taken(const char *vm)
{
	return vm_call(0, vm, "migrate",
		       json_pack("{s:s, s:b}", "to", hosts[1].config.name, "check", true)) == 202;
}

static void check_ask(const char *vm)
{
	WAIT_FOR(check_taken(vm), vm);
}

static void check_ended(const char *vm)
{
	WAIT_FOR(guest_at(0, vm)->operation.state != OPERATION_RUNNING, vm);
	assert_int_equal(guest_at(0, vm)->operation.state, OPERATION_DONE);
}

/* ---- jobs that take long ------------------------------------------------------------------ */

struct slow {
	struct job job;
	sem_t *gate;
};

static void slow_run(struct job *j)
{
	while (sem_wait(((struct slow *)j)->gate))
		;
}

static void slow_end(struct job *j)
{
	free(j);
}

/* All threads are taken until the gate opens. */
static void jobs_fill(int host, sem_t *gate)
{
	for (unsigned i = 0; i < JOBS_MAX; i++) {
		struct slow *s = calloc(1, sizeof(*s));

		assert_non_null(s);
		*s = (struct slow){.job = {.run = slow_run, .done = slow_end, .drop = slow_end},
				   .gate = gate};
		assert_int_equal(jobs_start(hosts[host].agent->jobs, &s->job), 0);
	}
}

static void asked_while_busy(int host)
{
	sem_t gate;

	assert_int_equal(sem_init(&gate, 0, 0), 0);
	jobs_fill(host, &gate);
	check_ask("vm1");
	rounds(20);
	assert_int_equal(guest_at(0, "vm1")->operation.state, OPERATION_RUNNING);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	check_ended("vm1");
	sem_destroy(&gate);
}

static void test_source_is_busy(void **state)
{
	run_alone("vm1");
	asked_while_busy(0);
}

static void test_target_is_busy(void **state)
{
	run_alone("vm1");
	asked_while_busy(1);
}

/* More than a target can have waiting: it says so at once. */
static void test_target_is_full(void **state)
{
	sem_t gate;

	run_alone("vm1");
	assert_int_equal(sem_init(&gate, 0, 0), 0);
	for (unsigned i = 0; i <= JOBS_WAITING_MAX / JOBS_MAX; i++)
		jobs_fill(1, &gate);
	check_ask("vm1");
	WAIT_FOR(guest_at(0, "vm1")->operation.state == OPERATION_FAILED, "vm1");
	assert_int_equal(guest_at(0, "vm1")->operation.code, -EBADMSG);
	assert_non_null(strstr(guest_at(0, "vm1")->operation.error, strerror(EBUSY)));
	for (unsigned i = 0; i < JOBS_WAITING_MAX + JOBS_MAX; i++)
		assert_int_equal(sem_post(&gate), 0);
	host_down(&hosts[1]); /* waits for those that have begun */
	sem_destroy(&gate);
}

/* ---- bursts -------------------------------------------------------------------------------- */

/* The link is not measured then, and nothing fails for it; nor is one that was announced
 * forgotten for another. */
static void test_more_bursts_than_expected(void **state)
{
	struct burst_key k = {0};
	unsigned expected = 0;

	run_alone("vm1");
	while (!host_burst_expect(hosts[1].agent, &k))
		expected++;
	assert_int_equal(expected, BURSTS_MAX);
	check_ask("vm1");
	check_ended("vm1");
	assert_string_equal(guest_at(0, "vm1")->forecast.link_why,
			    "the other host is being asked by too many");
	for (unsigned i = 0; i < BURSTS_MAX; i++)
		assert_memory_equal(&hosts[1].agent->bursts[i].key, &k, sizeof(k));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_source_is_busy),
		FLOW(test_target_is_busy),
		FLOW(test_target_is_full),
		FLOW(test_more_bursts_than_expected),
	};
	int rc = role_run(argc, argv);

	if (rc >= 0)
		return rc;
	signal(SIGPIPE, SIG_IGN);
	log_setup("test", getenv("VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR - 1);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
