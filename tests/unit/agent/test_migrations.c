// SPDX-License-Identifier: Apache-2.0
/*
 * Migrations, as two polluxds see them, and what is left of one when a polluxd is restarted in
 * the middle: it goes on, or what it took away is given back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/agent/migration_flows.h"

/* ---- tests ---------------------------------------------------------------------------------- */

static void test_moves(void **state)
{
	run_alone("vm1");
	for (int i = 0; i < 2; i++) {
		migrate_ask(i, "vm1");
		WAIT_STATE(!i, "vm1", "running");
		WAIT_STATE(i, "vm1", "none");
		operation_ended(i, "vm1", OPERATION_DONE, 0);
	}
	/* It has come back: that it went is of the past. */
	assert_int_equal(guest_at(0, "vm1")->operation.state, OPERATION_NONE);
	assert_string_equal(guest_at(0, "vm1")->ended.what, "migrate");
	assert_string_equal(guest_at(0, "vm1")->why, "arrived from hostb");
	assert_int_equal(timeline_has(0, "vm1", "promoting"), 0);
	assert_false(fence_ran("hosta") || fence_ran("hostb"));
}

/* What is lost is the primary of a protection then, whatever was before. */
static void test_protected_back(void **state)
{
	file_write("fence-result", "1", 0600);
	run_alone("vm1");
	migrate_ask(0, "vm1");
	WAIT_STATE(1, "vm1", "running");
	WAIT_STATE(0, "vm1", "none");
	operation_ended(0, "vm1", OPERATION_DONE, 0);
	assert_int_equal(vm_protect(1, "vm1", "continue"), 202);
	WAIT_STATE(0, "vm1", "standby");
	host_kill(1, "vm1");
	WAIT_STATE(0, "vm1", "deciding");
	assert_true(vm_says(0, "vm1", "why", "the primary is lost"));
}

/* An answer that is on its way when they are forgotten is of the session before. */
static void test_stats_of_the_past(void **state)
{
	struct guest *g;

	run_alone("vm1");
	g = guest_at(0, "vm1");
	WAIT_FOR(!g->stats_asked, "vm1");
	g->stats_ns = 0;
	guest_vm_stats(g);
	assert_true(g->stats_asked);
	guest_stats_forget(g);
	WAIT_FOR(!g->stats_asked, "vm1");
	assert_null(g->stats);
	guest_vm_stats(g);
	WAIT_FOR(g->stats, "vm1");
}

static void test_cancelled(void **state)
{
	run_alone("hold-1");
	migrate_held("hold-1");
	assert_true(vm_says(0, "hold-1", "operation", "\"phase\":\"copying\""));
	assert_int_equal(vm_call(0, "hold-1", "migrate/cancel", NULL), 202);
	operation_ended(0, "hold-1", OPERATION_FAILED, -ECANCELED);
	assert_string_equal(state_at(0, "hold-1"), "running");
	WAIT_FOR(!strcmp(guest_at(0, "hold-1")->child_why, "ended in good order"), "hold-1");
	assert_string_equal(guest_at(0, "hold-1")->why, "");
	WAIT_STATE(1, "hold-1", "none");
	assert_int_equal(vm_call(0, "hold-1", "migrate/cancel", NULL), 409);
}

/* Its host is named, in place of what the sessions of a protection call it. */
static void test_ended_there(void **state)
{
	json_t *released =
		json_pack("{s:s, s:s, s:s}", "event", "state", "state", "released", "why", "");

	run_alone("hold-early");
	migrate_held("hold-early");
	WAIT_FOR(guest_at(1, "hold-early")->child_role == CHILD_REPLICA, "hold-early");
	guest_replica_event(guest_at(1, "hold-early"), released);
	json_decref(released);
	assert_true(vm_says(1, "hold-early", "timeline", "hosta ended the session"));
	operation_ended(0, "hold-early", OPERATION_FAILED, -EIO);
	assert_true(vm_says(0, "hold-early", "operation", "hostb's control stream: "));
	assert_true(vm_says(0, "hold-early", "why", "hostb's control stream: "));
	WAIT_STATE(0, "hold-early", "running");
}

/* The last epoch may be whole there: no good end is acknowledged, and yet it stayed. */
static void test_cancelled_late(void **state)
{
	run_alone("hold-mute");
	migrate_held("hold-mute");
	assert_int_equal(vm_call(0, "hold-mute", "migrate/cancel", NULL), 202);
	operation_ended(0, "hold-mute", OPERATION_FAILED, -ECANCELED);
	assert_true(vm_says(0, "hold-mute", "operation", "it was cancelled"));
	assert_true(vm_says(0, "hold-mute", "why", "does not answer in time"));
	WAIT_STATE(0, "hold-mute", "running");
}

static void test_powered_off(void **state)
{
	run_alone("hold-1");
	migrate_held("hold-1");
	kill(vm_pid(0, "hold-1"), SIGUSR1);
	operation_ended(0, "hold-1", OPERATION_FAILED, -EIO);
	assert_true(vm_says(0, "hold-1", "operation", "powered off"));
	assert_false(vm_says(0, "hold-1", "operation", "runs on"));
	WAIT_STATE(0, "hold-1", "stopped");
}

static void test_restarted_then_moves(void **state)
{
	run_alone("hold-1");
	migrate_held("hold-1");
	restart(0);
	WAIT_FOR(!strcmp(guest_at(0, "hold-1")->child_state, "syncing"), "hold-1");
	assert_string_equal(state_at(0, "hold-1"), "migrating");
	assert_true(vm_says(0, "hold-1", "operation", "\"running\""));
	assert_true(vm_says(0, "hold-1", "migration", "\"to\":\"hostb\""));
	assert_true(vm_says(0, "hold-1", "migration", "\"downtime_ms\":17"));
	assert_int_equal(vm_protect(0, "hold-1", "continue"), 409);
	copy_end(0, "hold-1");
	WAIT_STATE(1, "hold-1", "running");
	WAIT_STATE(0, "hold-1", "none");
	operation_ended(0, "hold-1", OPERATION_DONE, 0);
}

static void test_restarted_then_cancelled(void **state)
{
	run_alone("hold-1");
	migrate_held("hold-1");
	restart(0);
	WAIT_STATE(0, "hold-1", "migrating");
	assert_int_equal(vm_call(0, "hold-1", "migrate/cancel", NULL), 202);
	operation_ended(0, "hold-1", OPERATION_FAILED, -ECANCELED);
	WAIT_STATE(0, "hold-1", "running");
	WAIT_STATE(1, "hold-1", "none");
}

/* The last epoch was whole over there while no polluxd listened, and the one that comes has no
 * link yet by which to say so: nobody was told, and it goes on here. */
static void test_handed_meanwhile(void **state)
{
	struct agent_config linked = hosts[0].config;
	pid_t pid;

	run_alone("hold-1");
	migrate_held("hold-1");
	pid = vm_pid(0, "hold-1");
	host_down(&hosts[0]);
	kill(pid, SIGWINCH);
	rounds(20);
	hosts[0].config.port = port_choose();
	hosts[0].config.peers[0].port = port_choose();
	host_up(&hosts[0]);
	operation_ended(0, "hold-1", OPERATION_FAILED, -EIO);
	assert_true(vm_says(0, "hold-1", "operation", "hostb could not be told: "));
	WAIT_STATE(0, "hold-1", "running");
	assert_int_equal(timeline_has(0, "hold-1", "goes on"), 1);
	hosts[0].config = linked;
	restart(0);
	WAIT_STATE(1, "hold-1", "none");
}

/* Its end came while no polluxd listened: it is not called a protection that was lost. */
static void test_lost_meanwhile(void **state)
{
	pid_t pid;

	run_alone("hold-1");
	migrate_held("hold-1");
	pid = vm_pid(0, "hold-1");
	host_down(&hosts[0]);
	kill(pid, SIGUSR2);
	rounds(20);
	host_up(&hosts[0]);
	operation_ended(0, "hold-1", OPERATION_FAILED, -EIO);
	WAIT_STATE(0, "hold-1", "running");
	assert_int_equal(timeline_has(0, "hold-1", "goes on"), 1);
	assert_int_equal(timeline_has(0, "hold-1", "unprotected"), 0);
	assert_int_equal(timeline_has(0, "hold-1", "ownership forced"), 0);
}

/* polluxd ended between the record of "goes on here" and the word to the VM process. */
static void test_lost_unconfirmed(void **state)
{
	struct error e = {0};
	struct guest *g;
	pid_t pid;

	run_alone("hold-1");
	migrate_held("hold-1");
	g = guest_at(0, "hold-1");
	pid = vm_pid(0, "hold-1");
	assert_int_equal(guest_store(g,
				     &(struct ownership_record){.term = g->own.record.term + 1,
								.role = ROLE_OWNER},
				     &e),
			 0);
	host_down(&hosts[0]);
	kill(pid, SIGUSR2);
	rounds(20);
	host_up(&hosts[0]);
	WAIT_FOR(timeline_has(0, "hold-1", "goes on") == 1, "hold-1");
	assert_int_equal(timeline_has(0, "hold-1", "unprotected"), 0);
	assert_null(strstr(guest_at(0, "hold-1")->why, "UNPROTECTED"));
	WAIT_FOR(!strcmp(guest_at(0, "hold-1")->child_state, "unprotected"), "hold-1");
}

static void test_restarted_before_it_is_handed_over(void **state)
{
	migrate_ripe("ripe-1");
	restart(0);
	WAIT_FOR(!strcmp(guest_at(0, "ripe-1")->child_state, "freezing"), "ripe-1");
	rounds(50);
	assert_true(nobody_was_told("ripe-1"));
	copy_end(0, "ripe-1");
	WAIT_STATE(1, "ripe-1", "running");
	WAIT_STATE(0, "ripe-1", "none");
	operation_ended(0, "ripe-1", OPERATION_DONE, 0);
}

/* Whoever was told of it would have the guest run twice, or end the copy that has its memory. */
static void restarted_then_lost(bool meanwhile)
{
	pid_t pid;

	migrate_ripe("ripe-1");
	pid = vm_pid(0, "ripe-1");
	if (!meanwhile)
		restart(0);
	else
		host_down(&hosts[0]);
	kill(pid, SIGUSR2);
	rounds(20);
	if (meanwhile)
		host_up(&hosts[0]);
	WAIT_STATE(0, "ripe-1", "running");
	WAIT_STATE(1, "ripe-1", "none");
	operation_ended(0, "ripe-1", OPERATION_FAILED, -EIO);
	assert_int_equal(vm_pid(0, "ripe-1"), pid);
	assert_int_equal(timeline_has(0, "ripe-1", "goes on"), 1);
}

static void test_restarted_then_lost(void **state)
{
	restarted_then_lost(false);
}

static void test_lost_before_it_was_handed_over(void **state)
{
	restarted_then_lost(true);
}

/* ---- until it goes on ------------------------------------------------------------------------ */

/* Who waits hears that it runs on here when it does. */
static void test_goes_on_first(void **state)
{
	run_alone("hold-torpid");
	migrate_held("hold-torpid");
	session_cut("hold-torpid");
	assert_string_equal(state_at(0, "hold-torpid"), "migrating");
	assert_int_equal(guest_at(0, "hold-torpid")->operation.state, OPERATION_RUNNING);
	assert_false(migrate_taken(0, "hold-torpid"));
	kill(vm_pid(0, "hold-torpid"), SIGWINCH);
	operation_ended(0, "hold-torpid", OPERATION_FAILED, -EIO);
	assert_string_equal(state_at(0, "hold-torpid"), "running");
	assert_string_equal(guest_at(0, "hold-torpid")->operation.hint, "the VM runs on here");
	assert_true(vm_says(0, "hold-torpid", "operation", "hostb is lost: "));
	/* Why stays. */
	assert_true(vm_says(0, "hold-torpid", "why", "hostb is lost: "));
	migrate_ask(0, "hold-torpid");
}

static void test_cannot_go_on(void **state)
{
	const char *vm = "hold-claims";

	run_alone(vm);
	migrate_held(vm);
	session_cut(vm);
	operation_ended(0, vm, OPERATION_FAILED, -EIO);
	assert_string_equal(state_at(0, vm), "stalled");
	assert_true(vm_says(0, vm, "operation", "hostb is lost: "));
	assert_true(vm_says(0, vm, "operation", "stand still"));
	assert_false(vm_says(0, vm, "operation", "runs on"));
	assert_int_equal(vm_call(0, vm, "failover", json_pack("{s:b}", "force", 1)), 202);
	operation_ended(0, vm, OPERATION_FAILED, -EIO);
	assert_string_equal(state_at(0, vm), "stalled");
	kill(vm_pid(0, vm), SIGWINCH);
	WAIT_STATE(0, vm, "running");
	assert_true(vm_says(0, vm, "why", "it goes on here"));
}

/* Its standby is gone for certain: nor is it called stalled for a moment. */
static void test_protected_goes_on(void **state)
{
	protect_whole("torpid-1", "continue");
	kill(vm_pid(1, "torpid-1"), SIGKILL);
	WAIT_FOR(guest_at(0, "torpid-1")->own.state == OWN_ALONE, "torpid-1");
	rounds(20);
	assert_string_equal(state_at(0, "torpid-1"), "asking");
	kill(vm_pid(0, "torpid-1"), SIGWINCH);
	WAIT_STATE(0, "torpid-1", "running");
	assert_true(vm_says(0, "torpid-1", "why", "UNPROTECTED: the standby is lost"));
}

/* Its target's host says what was wrong; that the session is cut for it says nothing. */
static void test_dropped_says_why(void **state)
{
	json_t *word;

	run_alone("hold-1");
	migrate_held("hold-1");
	word = json_pack("{s:s, s:s, s:s, s:I, s:b, s:s}", "type", "word", "vm", "hold-1", "word",
			 "dropped", "term", (json_int_t)guest_at(0, "hold-1")->own.record.term,
			 "can_fence", false, "why", "no room for it");
	guest_message(hosts[0].agent, peers_at(hosts[0].agent->peers, 0), word);
	json_decref(word);
	operation_ended(0, "hold-1", OPERATION_FAILED, -EIO);
	assert_true(vm_says(0, "hold-1", "operation", "hostb refuses: no room for it"));
	WAIT_STATE(0, "hold-1", "running");
	WAIT_STATE(1, "hold-1", "none");
}

/* It was offered, and had not begun. */
static void test_restarted_before_it_began(void **state)
{
	run_alone("vm1");
	migrate_ask(0, "vm1");
	WAIT_FOR(guest_at(0, "vm1")->own.state == OWN_PRIMARY, "vm1");
	restart(0);
	operation_ended(0, "vm1", OPERATION_FAILED, -EIO);
	assert_string_equal(state_at(0, "vm1"), "running");
	migrate_ask(0, "vm1");
	WAIT_STATE(1, "vm1", "running");
}

/* ---- answers of before --------------------------------------------------------------------- */

/* That the session of before has ended says nothing of the one that took its place. */
static void test_late_answer(void **state)
{
	struct guest *g;

	protect_whole("late-1", "continue");
	g = guest_at(0, "late-1");
	assert_int_equal(vm_call(0, "late-1", "unprotect", NULL), 202);
	WAIT_STATE(0, "late-1", "running");
	operation_ended(0, "late-1", OPERATION_DONE, 0);
	assert_int_equal(vm_protect(0, "late-1", "continue"), 202);
	assert_int_equal(g->own.state, OWN_PRIMARY);
	guest_vm_stats(g);
	WAIT_FOR(!g->stats_asked, "late-1");
	WAIT_STATE(0, "late-1", "protected");
	rounds(20);
	assert_string_equal(state_at(0, "late-1"), "protected");
	assert_int_equal(g->operation.state, OPERATION_DONE);
}

/* ---- memory that follows ------------------------------------------------------------------- */

/* The guest runs at hostb, has all of its memory, and hosta has not heard of it: its link was cut.
 */
static void arrived_unheard(const char *vm)
{
	run_alone(vm);
	migrate_ask(0, vm);
	WAIT_STATE(1, vm, "running");
	WAIT_STATE(0, vm, "serving");
	kill(vm_pid(1, vm), SIGWINCH);
	WAIT_FOR(timeline_has(1, vm, "complete") == 1, vm);
	kill(vm_pid(0, vm), SIGUSR2);
	WAIT_STATE(0, vm, "memory-held");
	operation_ended(0, vm, OPERATION_FAILED, -ENOTCONN);
}

/* Then that is the answer to `--recover`, and nothing is sent again; whoever was restarted. */
static void test_recovered_when_all_has_come(void **state)
{
	static const bool restarts[][2] = {
		{false, false}, {false, true}, {true, false}, {true, true}};
	char vm[16];

	for (size_t i = 0; i < ARRAY_LEN(restarts); i++) {
		snprintf(vm, sizeof(vm), "tail-%zu", i);
		arrived_unheard(vm);
		for (int host = 0; host < 2; host++)
			if (restarts[i][host])
				restart(host);
		WAIT_STATE(0, vm, "memory-held");
		WAIT_STATE(1, vm, "running");
		WAIT_FOR(vm_call(0, vm, "migrate/recover", NULL) == 202, vm);
		operation_ended(0, vm, OPERATION_DONE, 0);
		WAIT_STATE(0, vm, "none");
		assert_int_equal(timeline_has(0, vm, "served"), 1);
		assert_string_equal(state_at(1, vm), "running");
	}
}

/* As the target answers who asks again, when the link between the polluxds was replaced. */
static void recovered_again(const char *vm, bool ok)
{
	json_t *m = json_pack("{s:s, s:s, s:b, s:s}", "type", "recovered", "vm", vm, "ok", ok,
			      "why", ok ? "" : "there is a link already");

	guest_message(hosts[0].agent, peers_at(hosts[0].agent->peers, 0), m);
	json_decref(m);
	rounds(20);
	assert_string_equal(state_at(0, vm), "serving");
	assert_int_equal(guest_at(0, vm)->operation.state, OPERATION_RUNNING);
	assert_string_equal(guest_at(0, vm)->why, "");
}

/* Before the guest went, and after it: as the fake says. */
#define SENT                                                                                       \
	"\"sent\":{\"bytes\":104000,\"disk_bytes\":300,\"rounds\":2,\"throttle_most\":20,"         \
	"\"postcopy_bytes\":4000}"

/* Some pages are still missing there: they are served over a new link. */
static void test_recovered_before(void **state)
{
	run_alone("tail-1");
	migrate_ask(0, "tail-1");
	WAIT_STATE(1, "tail-1", "running");
	WAIT_STATE(0, "tail-1", "serving");
	kill(vm_pid(0, "tail-1"), SIGUSR2);
	WAIT_STATE(0, "tail-1", "memory-held");
	guest_at(0, "tail-1")->copies = 5;
	assert_int_equal(vm_call(0, "tail-1", "migrate/recover", NULL), 202);
	WAIT_STATE(0, "tail-1", "serving");
	assert_int_equal(guest_at(0, "tail-1")->copies, 5); /* keys say nothing of disks */
	rounds(20);
	assert_int_equal(timeline_has(0, "tail-1", "served"), 0);
	assert_int_equal(guest_at(0, "tail-1")->operation.state, OPERATION_RUNNING);
	assert_true(vm_says(0, "tail-1", "operation", "\"phase\":\"postcopy\""));
	recovered_again("tail-1", true);
	recovered_again("tail-1", false);
	kill(vm_pid(0, "tail-1"), SIGWINCH);
	operation_ended(0, "tail-1", OPERATION_DONE, 0);
	WAIT_STATE(0, "tail-1", "none");
	assert_true(vm_says(0, "tail-1", "migration", SENT));
}

static void cut_while_it_follows(const char *vm)
{
	run_alone(vm);
	migrate_ask(0, vm);
	WAIT_STATE(1, vm, "running");
	WAIT_STATE(0, vm, "serving");
	for (int host = 0; host < 2; host++)
		kill(vm_pid(host, vm), SIGUSR2);
	WAIT_STATE(0, vm, "memory-held");
	WAIT_STATE(1, vm, "memory-missing");
}

static void stop_by_force(int host, const char *vm)
{
	assert_int_equal(vm_call(host, vm, "stop", json_pack("{s:b}", "force", 1)), 202);
	WAIT_STATE(host, vm, "stopped");
}

/* A guest that stands still heeds no power button: none is kept for later. Stopped by force, it
 * leaves nothing to hold. */
static void test_stopped_without_its_memory(void **state)
{
	const char *vm = "tail-1";

	cut_while_it_follows(vm);
	assert_true(vm_says(0, vm, "operation", "`pollux migrate tail-1 --recover` on hosta"));
	assert_int_not_equal(vm_call(1, vm, "stop", NULL), 202);
	assert_int_equal(timeline_has(1, vm, "stop asked"), 0);
	assert_string_equal(state_at(1, vm), "memory-missing");
	stop_by_force(1, vm);
	WAIT_STATE(0, vm, "none");
	assert_int_equal(timeline_has(0, vm, "let go"), 1);
	assert_int_equal(timeline_has(0, vm, "served"), 0);
}

/* The source could not be told at once. */
static void test_stopped_unheard(void **state)
{
	const char *vm = "tail-1";

	cut_while_it_follows(vm);
	host_down(&hosts[0]);
	stop_by_force(1, vm);
	host_up(&hosts[0]);
	WAIT_STATE(0, vm, "memory-held");
	WAIT_FOR(vm_call(0, vm, "migrate/recover", NULL) == 202, vm);
	operation_ended(0, vm, OPERATION_FAILED, -ESHUTDOWN);
	assert_true(vm_says(0, vm, "operation", "nothing of its memory is left to recover"));
	WAIT_STATE(0, vm, "none");
}

/* ---- keys ------------------------------------------------------------------------------------ */

static bool is_all(const uint8_t *bytes, size_t n, uint8_t value)
{
	for (size_t i = 0; i < n; i++)
		if (bytes[i] != value)
			return false;
	return true;
}

/* Both processes have it: no polluxd keeps it. */
static void test_keys_are_wiped(void **state)
{
	protect_whole("vm1", "continue");
	for (int i = 0; i < 2; i++)
		assert_true(is_all(guest_at(i, "vm1")->session.key, SESSION_KEY_SIZE, 0));
	assert_true(is_all(guest_at(1, "vm1")->offer->session.key, SESSION_KEY_SIZE, 0));
	assert_false(is_all(guest_at(1, "vm1")->session.id, SESSION_ID_SIZE, 0));
}

/* What cannot be read, or is refused, leaves the session of now alone. */
static void test_recover_refused(void **state)
{
	static const char id[] = "00112233445566778899aabbccddeeff";
	static const char *const keys[] = {
		"half a key", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};
	struct guest *g;

	run_alone("vm1");
	migrate_ask(0, "vm1");
	WAIT_STATE(1, "vm1", "running");
	g = guest_at(1, "vm1");
	memset(g->session.id, 7, SESSION_ID_SIZE);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		json_t *m =
			json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "type", "recover", "vm", "vm1",
				  "session", id, "key", keys[i], "term", 9, "streams", 1);

		guest_message(hosts[1].agent, peers_at(hosts[1].agent->peers, 0), m);
		json_decref(m);
		WAIT_FOR(!g->recovery.term, "vm1");
		assert_true(is_all(g->session.id, SESSION_ID_SIZE, 7));
		assert_true(is_all(g->recovery.key, SESSION_KEY_SIZE, 0));
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FLOW(test_moves),
		FLOW(test_protected_back),
		FLOW(test_stats_of_the_past),
		FLOW(test_cancelled),
		FLOW(test_ended_there),
		FLOW(test_cancelled_late),
		FLOW(test_powered_off),
		FLOW(test_restarted_then_moves),
		FLOW(test_restarted_then_cancelled),
		FLOW(test_handed_meanwhile),
		FLOW(test_lost_meanwhile),
		FLOW(test_lost_unconfirmed),
		FLOW(test_goes_on_first),
		FLOW(test_cannot_go_on),
		FLOW(test_protected_goes_on),
		FLOW(test_restarted_before_it_is_handed_over),
		FLOW(test_restarted_then_lost),
		FLOW(test_lost_before_it_was_handed_over),
		FLOW(test_dropped_says_why),
		FLOW(test_restarted_before_it_began),
		FLOW(test_late_answer),
		FLOW(test_recovered_when_all_has_come),
		FLOW(test_recovered_before),
		FLOW(test_stopped_without_its_memory),
		FLOW(test_stopped_unheard),
		FLOW(test_keys_are_wiped),
		FLOW(test_recover_refused),
	};
	int rc = role_run(argc, argv);

	return rc < 0 ? cmocka_run_group_tests(tests, NULL, NULL) : rc;
}
