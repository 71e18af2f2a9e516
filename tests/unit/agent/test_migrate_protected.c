// SPDX-License-Identifier: Apache-2.0
/*
 * What was protected when it is migrated or upgraded: it is so again afterwards, wherever it runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/agent/migration_flows.h"

static void test_protected_moves(void **state)
{
	protect_whole("hold-1", "continue");
	migrate_held("hold-1");
	assert_true(vm_says(0, "hold-1", "unprotected", "NOT protected while"));
	copy_end(0, "hold-1");
	WAIT_STATE(1, "hold-1", "protected");
	WAIT_STATE(0, "hold-1", "standby");
	assert_true(vm_says(1, "hold-1", "unprotected", "null"));
	assert_false(guest_at(1, "hold-1")->again.owed);
	/* An operator's word ends that for good, also for a later polluxd. */
	assert_int_equal(vm_call(1, "hold-1", "unprotect", NULL), 202);
	WAIT_STATE(1, "hold-1", "running");
	restart(1);
	rounds(20);
	assert_string_equal(state_at(1, "hold-1"), "running");
	assert_true(vm_says(1, "hold-1", "unprotected", "null"));
}

/* ---- what was protected, and goes on in a new process -------------------------------------- */

static void upgrade_protected(const char *vm)
{
	protect_whole(vm, "continue");
	assert_int_equal(vm_call(0, vm, "upgrade", NULL), 409);
	assert_int_equal(vm_call(0, vm, "upgrade", json_pack("{s:b}", "protect_again", true)), 202);
	WAIT_FOR(guest_at(0, vm)->operation.state != OPERATION_RUNNING, vm);
}

static void test_protected_upgraded(void **state)
{
	pid_t before;
	struct guest *g;

	WAIT_FOR(connected(0) && connected(1), "vm1");
	upgrade_protected("vm1");
	g = guest_at(0, "vm1");
	assert_int_equal(g->operation.state, OPERATION_DONE);
	assert_string_equal(state_at(0, "vm1"), "protected");
	assert_string_equal(g->peer, "hostb");
	WAIT_STATE(1, "vm1", "standby");
	assert_int_equal(timeline_has(0, "vm1", "upgraded"), 1);
	assert_int_equal(timeline_has(0, "vm1", "unprotected"), 1);
	assert_false(g->again.owed || g->chain.then.wanted);
	assert_true(vm_says(0, "vm1", "unprotected", "null"));
	/* Once more: nothing of the first time is in the way. */
	before = vm_pid(0, "vm1");
	assert_int_equal(vm_call(0, "vm1", "upgrade", json_pack("{s:b}", "protect_again", true)),
			 202);
	WAIT_FOR(g->operation.state != OPERATION_RUNNING, "vm1");
	assert_int_equal(g->operation.state, OPERATION_DONE);
	assert_string_equal(state_at(0, "vm1"), "protected");
	assert_int_not_equal(vm_pid(0, "vm1"), before);
}

/* In the old process it is protected again all the same. */
static void test_protected_not_upgraded(void **state)
{
	pid_t before;

	WAIT_FOR(connected(0) && connected(1), "bad-adopt");
	upgrade_protected("bad-adopt");
	before = vm_pid(0, "bad-adopt");
	assert_int_equal(guest_at(0, "bad-adopt")->ended.state == OPERATION_FAILED ||
				 guest_at(0, "bad-adopt")->operation.state == OPERATION_FAILED,
			 true);
	WAIT_STATE(0, "bad-adopt", "protected");
	WAIT_STATE(1, "bad-adopt", "standby");
	assert_int_equal(timeline_has(0, "bad-adopt", "upgrade failed"), 1);
	assert_int_equal(vm_pid(0, "bad-adopt"), before);
	assert_false(guest_at(0, "bad-adopt")->again.owed);
}

/* What fails then is its protection, and that it is upgraded is said. */
static void test_upgraded_not_protected(void **state)
{
	struct guest *g;
	pid_t old;

	protect_whole("vm1", "continue");
	g = guest_at(0, "vm1");
	old = vm_pid(0, "vm1");
	assert_int_equal(vm_call(0, "vm1", "upgrade", json_pack("{s:b}", "protect_again", true)),
			 202);
	WAIT_FOR(g->upgrade, "vm1");
	kill(old, SIGSTOP);
	host_down(&hosts[1]);
	WAIT_FOR(!connected(0), "vm1");
	kill(old, SIGCONT);
	operation_ended(0, "vm1", OPERATION_FAILED, -ENOTCONN);
	assert_string_equal(g->operation.what, "protect");
	assert_int_equal(timeline_has(0, "vm1", "upgraded"), 1);
	assert_int_not_equal(vm_pid(0, "vm1"), old);
	assert_true(g->again.owed);
	host_up(&hosts[1]);
	WAIT_STATE(0, "vm1", "protected");
}

/* Until the other process has ended, what is owed is known by nothing else. */
static void test_not_upgraded_then_moved(void **state)
{
	struct guest *g;

	WAIT_FOR(connected(0) && connected(1), "bad-adopt");
	upgrade_protected("bad-adopt");
	g = guest_at(0, "bad-adopt");
	assert_non_null(g->upgrade);
	assert_true(g->chain.then.wanted);
	assert_false(migrate_taken(0, "bad-adopt"));
	WAIT_FOR(!g->upgrade, "bad-adopt");
	WAIT_STATE(0, "bad-adopt", "protected");
}

/* It did not come to that: what is wanted now is nothing that a later upgrade would do. */
static void test_lost_before_upgraded(void **state)
{
	struct guest *g;

	protect_whole("late-1", "continue");
	g = guest_at(0, "late-1");
	assert_int_equal(vm_call(0, "late-1", "upgrade", json_pack("{s:b}", "protect_again", true)),
			 202);
	WAIT_FOR(timeline_has(0, "late-1", "unprotect asked") == 1, "late-1");
	assert_true(g->chain.then.wanted);
	guest_feed(g, &(struct ownership_input){.type = OWN_EV_SESSION_LOST,
						.term = g->own.record.term});
	operation_ended(0, "late-1", OPERATION_FAILED, -EIO);
	assert_string_equal(g->operation.what, "upgrade");
	assert_false(g->chain.then.wanted);
	assert_true(g->again.wanted);
	guest_vm_stats(g); /* the answer comes all the same */
	rounds(20);
	assert_true(g->again.wanted);
}

static void test_protected_restarted_cancelled(void **state)
{
	protect_whole("hold-1", "stall");
	migrate_held("hold-1");
	restart(0);
	WAIT_STATE(0, "hold-1", "migrating");
	assert_true(vm_says(0, "hold-1", "unprotected", "\"hostb\""));
	assert_int_equal(vm_call(0, "hold-1", "migrate/cancel", NULL), 202);
	WAIT_STATE(0, "hold-1", "protected");
	WAIT_STATE(1, "hold-1", "standby");
	assert_string_equal(guest_at(0, "hold-1")->session.options.policy, "stall");
	assert_true(vm_says(0, "hold-1", "unprotected", "null"));
}

/* Both polluxds, one after the other: what was taken away is owed wherever the VM is. */
static void test_protected_restarted_arrives(void **state)
{
	protect_whole("hold-1", "continue");
	migrate_held("hold-1");
	restart(0);
	copy_end(0, "hold-1");
	WAIT_FOR(guest_at(1, "hold-1")->own.state == OWN_ALONE && guest_at(1, "hold-1")->again.owed,
		 "hold-1");
	loop_timer_set(guest_at(1, "hold-1")->again_timer, 0); /* or "none" may be over at once */
	WAIT_STATE(0, "hold-1", "none");
	host_down(&hosts[0]);
	host_down(&hosts[1]);
	host_up(&hosts[1]);
	WAIT_STATE(1, "hold-1", "running");
	assert_true(vm_says(1, "hold-1", "unprotected", "\"hosta\""));
	assert_true(vm_says(1, "hold-1", "unprotected", "NOT protected"));
	host_up(&hosts[0]);
	WAIT_STATE(1, "hold-1", "protected");
	WAIT_STATE(0, "hold-1", "standby");
}

/* polluxd ended when the protection was being taken away, and nothing else had begun. */
static void test_restarted_between(void **state)
{
	protect_whole("late-1", "continue");
	migrate_ask(0, "late-1");
	WAIT_FOR(timeline_has(0, "late-1", "unprotect asked") == 1, "late-1");
	host_down(&hosts[0]);
	WAIT_STATE(1, "late-1", "none");
	host_up(&hosts[0]);
	WAIT_STATE(0, "late-1", "running");
	assert_true(vm_says(0, "late-1", "unprotected", "NOT protected"));
	WAIT_STATE(0, "late-1", "protected");
	WAIT_STATE(1, "late-1", "standby");
	assert_true(vm_says(0, "late-1", "unprotected", "null"));
}

/* The answer to its end is still to come: what begins before that would forget what is owed. */
static void test_protected_cancelled_first(void **state)
{
	struct guest *g;

	protect_whole("late-1", "continue");
	g = guest_at(0, "late-1");
	migrate_ask(0, "late-1");
	WAIT_FOR(timeline_has(0, "late-1", "unprotect asked") == 1, "late-1");
	assert_int_equal(vm_call(0, "late-1", "migrate/cancel", NULL), 202);
	operation_ended(0, "late-1", OPERATION_FAILED, -ECANCELED);
	assert_false(migrate_taken(0, "late-1"));
	/* It does not ask twice within a moment. */
	WAIT_FOR((guest_vm_stats(g), timeline_has(0, "late-1", "unprotected") == 1), "late-1");
	assert_true(g->again.owed);
	WAIT_STATE(0, "late-1", "protected");
}

/* An operator's force took the place of the migration; its protection is owed all the same. */
static void test_protected_forced_back(void **state)
{
	struct guest *g;

	protect_whole("hold-1", "continue");
	g = guest_at(0, "hold-1");
	migrate_held("hold-1");
	copy_end(0, "hold-1");
	WAIT_FOR(g->own.state == OWN_HANDED, "hold-1");
	host_down(&hosts[1]);
	assert_int_equal(vm_call(0, "hold-1", "failover", json_pack("{s:b}", "force", 1)), 202);
	operation_ended(0, "hold-1", OPERATION_DONE, 0);
	WAIT_STATE(0, "hold-1", "running"); /* its process may obey only now */
	assert_true(g->again.owed);
	host_up(&hosts[1]);
	WAIT_STATE(0, "hold-1", "protected");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_protected_moves),
		FLOW(test_protected_upgraded),
		FLOW(test_protected_not_upgraded),
		FLOW(test_upgraded_not_protected),
		FLOW(test_not_upgraded_then_moved),
		FLOW(test_lost_before_upgraded),
		FLOW(test_protected_restarted_cancelled),
		FLOW(test_protected_restarted_arrives),
		FLOW(test_restarted_between),
		FLOW(test_protected_cancelled_first),
		FLOW(test_protected_forced_back),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}
