// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "replicate/core.h"

static const struct primary_config usual = {
	.mode = REPLICATE_INTERVAL,
	.policy = STANDBY_LOSS_CONTINUE,
	.interval_ns = 20,
	.heartbeat_ns = 25,
	.loss_ns = 100,
	.ack_ns = 400,
	.bye_ns = 400,
	.window = 2,
};

/* ---- a small language: feed an event, compare the actions as words ------------ */

static struct core_actions actions;

static int feed(struct primary_core *c, enum primary_event type, uint64_t now, uint64_t epoch)
{
	return primary_core_event(
		c, &(struct primary_input){.type = type, .now = now, .epoch = epoch}, &actions);
}

static const char *words(void)
{
	static char text[300];
	size_t n = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < actions.count; i++)
		n += (size_t)snprintf(
			text + n, sizeof(text) - n, "%s%s", i ? " " : "",
			primary_action_name((enum primary_action)actions.item[i].type));
	return text;
}

#define EXPECT(c, event, now, epoch, text)                                                         \
	do {                                                                                       \
		assert_int_equal(feed(c, event, now, epoch), 0);                                   \
		assert_string_equal(words(), text);                                                \
	} while (0)

static struct primary_core core_of(const struct primary_config *config)
{
	struct primary_core c;

	assert_int_equal(primary_core_init(&c, config), 0);
	return c;
}

static struct primary_core syncing(const struct primary_config *config)
{
	struct primary_core c = core_of(config);

	EXPECT(&c, PRIMARY_EV_START, 1000, 0,
	       config->held ? "hold report connect" : "report connect");
	EXPECT(&c, PRIMARY_EV_CONNECTED, 1001, 0, "report copy");
	return c;
}

static struct primary_core protected_at_2(const struct primary_config *config)
{
	struct primary_core c = syncing(config);

	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	assert_int_equal(actions.item[0].epoch, 1);
	assert_true(actions.item[0].hold == !config->held);
	EXPECT(&c, PRIMARY_EV_SEALED, 1003, 1, "send");
	EXPECT(&c, PRIMARY_EV_ACK, 1004, 1,
	       config->held ? "release resume report" : "release report");
	assert_int_equal(primary_core_report(&c), REPLICATOR_PROTECTED);
	return c;
}

/* ---- tests ----------------------------------------------------------------------- */

static void bad_settings_are_refused(void **state)
{
	struct primary_core c;
	struct primary_config bad[] = {usual, usual, usual, usual, usual, usual};

	bad[0].window = 0;
	bad[1].window = CORE_WINDOW_MAX + 1;
	bad[2].loss_ns = 0;
	bad[3].heartbeat_ns = bad[3].loss_ns;
	bad[4].ack_ns = 0;
	bad[5].bye_ns = 0;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(primary_core_init(&c, &bad[i]), -EINVAL);
}

static void put_in(struct primary_core *c, enum primary_state s)
{
	*c = core_of(&usual);
	c->state = s;
	c->sealing = true;
	c->sealed = 3;
	c->acknowledged = c->sent = 1;
	c->exposed = c->holding = true;
	c->heard_at = c->seen_at = c->asked_at = 1000;
	for (int i = 0; i < CORE_WINDOW_MAX; i++)
		c->sealed_at[i] = 1000;
}

static uint64_t fitting_epoch(enum primary_event e)
{
	return e == PRIMARY_EV_ACK || e == PRIMARY_EV_SENT ? 2 : 4;
}

/* Every event in every state: refused leaves all as it was; accepted moves only along
 * the table. */
static void every_event_in_every_state_keeps_to_the_tables(void **state)
{
	for (int s = 0; s < PRIMARY_STATES; s++) {
		for (int e = 0; e < PRIMARY_EVENTS; e++) {
			struct primary_core c, before;
			int rc;

			put_in(&c, (enum primary_state)s);
			before = c;
			rc = feed(&c, (enum primary_event)e, 1001,
				  fitting_epoch((enum primary_event)e));
			if (!primary_core_allows((enum primary_state)s, (enum primary_event)e)) {
				assert_int_equal(rc, -EPROTO);
				assert_int_equal(actions.count, 0);
				assert_memory_equal(&c, &before, sizeof(c));
				continue;
			}
			assert_int_equal(rc, 0);
			assert_true(c.state == (enum primary_state)s ||
				    primary_core_may_become((enum primary_state)s, c.state));
		}
	}
}

static void every_state_can_be_reached_and_only_fenced_is_the_end(void **state)
{
	for (int to = 1; to < PRIMARY_STATES; to++) {
		bool reached = false;

		for (int from = 0; from < PRIMARY_STATES; from++)
			reached |= primary_core_may_become((enum primary_state)from,
							   (enum primary_state)to);
		assert_true(reached);
		assert_true(to == PRIMARY_FENCED ||
			    primary_core_may_become((enum primary_state)to, PRIMARY_FENCED));
		assert_false(primary_core_may_become(PRIMARY_FENCED, (enum primary_state)to));
	}
}

static void output_leaves_by_acknowledgement_alone(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_OUTPUT, 1005, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 1023, 0, "seal");
	assert_int_equal(actions.item[0].epoch, 2);
	assert_false(actions.item[0].hold);
	EXPECT(&c, PRIMARY_EV_SEALED, 1024, 2, "send");
	EXPECT(&c, PRIMARY_EV_SENT, 1025, 2, "");
	EXPECT(&c, PRIMARY_EV_ACK, 1026, 2, "release");
	assert_int_equal(actions.item[0].epoch, 2);
}

static void acknowledgements_of_what_was_not_sealed_are_refused(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	assert_int_equal(feed(&c, PRIMARY_EV_ACK, 1005, 1), -EINVAL);
	assert_int_equal(feed(&c, PRIMARY_EV_ACK, 1005, 2), -EINVAL);
	assert_int_equal(feed(&c, PRIMARY_EV_SEALED, 1005, 2), -EINVAL);
}

static void the_window_bounds_what_is_in_flight(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_TICK, 1030, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1031, 2, "send");
	EXPECT(&c, PRIMARY_EV_TICK, 1060, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1061, 3, "send");
	EXPECT(&c, PRIMARY_EV_TICK, 1090, 0, "");
	EXPECT(&c, PRIMARY_EV_ACK, 1091, 2, "release seal");
}

static void event_mode_seals_when_output_waits(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.mode = REPLICATE_EVENT;
	c = protected_at_2(&config);
	EXPECT(&c, PRIMARY_EV_TICK, 1005, 0, "");
	EXPECT(&c, PRIMARY_EV_OUTPUT, 1006, 0, "seal");
}

static void loss_before_anything_was_sent_passes(void **state)
{
	struct primary_core c = syncing(&usual);

	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1002, 0, "close pass report");
	assert_int_equal(primary_core_report(&c), REPLICATOR_UNPROTECTED);
}

static void loss_after_the_first_epoch_was_sent_holds_and_asks(void **state)
{
	struct primary_core c = syncing(&usual);

	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1003, 1, "send");
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1004, 0, "close report ask");
	EXPECT(&c, PRIMARY_EV_ACK, 1005, 1, ""); /* too late: releases nothing */
	EXPECT(&c, PRIMARY_EV_OWNED, 1006, 0, "pass report");
}

static void a_seal_that_ends_after_the_session_leaves_nothing_held(void **state)
{
	struct primary_core c = syncing(&usual);

	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1003, 0, "close pass report");
	EXPECT(&c, PRIMARY_EV_SEALED, 1004, 1, "pass");
}

static void policy_stall_waits_for_the_standby_or_an_operator(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.policy = STANDBY_LOSS_STALL;
	c = protected_at_2(&config);
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1005, 0, "close stall report ask");
	EXPECT(&c, PRIMARY_EV_OWNED, 1006, 0, "report");
	EXPECT(&c, PRIMARY_EV_OWNED, 1006, 0, "");
	assert_int_equal(primary_core_report(&c), REPLICATOR_LOST);
	EXPECT(&c, PRIMARY_EV_OWNED_FORCED, 1007, 0, "pass resume report");
}

static void a_stalled_vm_comes_back_with_the_next_session(void **state)
{
	struct primary_config config = usual;

	config.policy = STANDBY_LOSS_STALL;
	config.held = true;
	protected_at_2(&config);
}

static void a_held_vm_is_not_let_go_by_a_session_that_fails(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.policy = STANDBY_LOSS_STALL;
	config.held = true;
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1002, 0, "close stall report ask");
}

static void a_newer_term_stops_for_good(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1005, 0, "close report ask");
	EXPECT(&c, PRIMARY_EV_DISOWNED, 1006, 0, "close stop-vcpus report");
	assert_int_equal(feed(&c, PRIMARY_EV_OWNED, 1007, 0), -EPROTO);
	assert_int_equal(feed(&c, PRIMARY_EV_OWNED_FORCED, 1007, 0), -EPROTO);
}

static void a_refusal_for_a_newer_term_holds_at_once(void **state)
{
	struct primary_core c = core_of(&usual);
	struct primary_input refused = {
		.type = PRIMARY_EV_REFUSED, .now = 1001, .newer_term = true};

	EXPECT(&c, PRIMARY_EV_START, 1000, 0, "report connect");
	assert_int_equal(primary_core_event(&c, &refused, &actions), 0);
	assert_string_equal(words(), "close hold report ask");
}

static void a_good_end_is_confirmed_before_output_passes(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_STOP, 1005, 0, "bye");
	EXPECT(&c, PRIMARY_EV_TICK, 1050, 0, ""); /* nothing is sealed any more */
	EXPECT(&c, PRIMARY_EV_BYE_ACKED, 1051, 0, "close pass report");
}

static void a_good_end_that_nobody_confirms_asks(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_GUEST_ENDED, 1005, 0, "bye");
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1006, 0, "close report ask");
	EXPECT(&c, PRIMARY_EV_OWNED, 1007, 0, "pass report");
}

static void a_failed_seal_merges_and_the_third_ends_the_session(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_TICK, 1030, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEAL_FAILED, 1031, 2, "merge");
	EXPECT(&c, PRIMARY_EV_TICK, 1040, 0, ""); /* not at once again */
	EXPECT(&c, PRIMARY_EV_TICK, 1051, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEAL_FAILED, 1052, 2, "merge");
	EXPECT(&c, PRIMARY_EV_TICK, 1080, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEAL_FAILED, 1081, 2, "merge bye");
	EXPECT(&c, PRIMARY_EV_BYE_ACKED, 1082, 0, "close pass report");
}

/* The last action reports a state with this reason. */
static void expect_reason(struct primary_core *c, enum primary_event type, const char *why,
			  const char *reported)
{
	struct primary_input in = {
		.type = type, .now = c->seen_at + 1, .epoch = c->sealed + 1, .why = why};
	struct core_actions out;

	assert_int_equal(primary_core_event(c, &in, &out), 0);
	assert_int_equal(out.item[out.count - 1].type, PRIMARY_REPORT);
	assert_string_equal(out.item[out.count - 1].why, reported);
}

static struct primary_core unable_to_seal(void)
{
	struct primary_config config = usual;
	struct primary_core c;
	struct core_actions out;

	config.handover = true;
	c = syncing(&config);
	while (c.state == PRIMARY_SYNCING) {
		struct primary_input in = {.type = PRIMARY_EV_SYNCED,
					   .now = c.seen_at + config.interval_ns};

		assert_int_equal(primary_core_event(&c, &in, &out), 0);
		assert_int_equal(out.item[0].type, PRIMARY_SEAL);
		in = (struct primary_input){.type = PRIMARY_EV_SEAL_FAILED,
					    .now = in.now,
					    .epoch = 1,
					    .why = "no memory"};
		assert_int_equal(primary_core_event(&c, &in, &out), 0);
		assert_int_equal(out.item[0].type, PRIMARY_MERGE);
	}
	assert_int_equal(c.state, PRIMARY_STOPPING);
	return c;
}

static void what_made_it_stop_is_the_reason(void **state)
{
	struct primary_core c = unable_to_seal();

	EXPECT(&c, PRIMARY_EV_STOP, c.seen_at, 0, "");
	expect_reason(&c, PRIMARY_EV_BYE_ACKED, NULL, "no memory");
	c = unable_to_seal();
	expect_reason(&c, PRIMARY_EV_LINK_LOST, "closed", "no memory");
}

static struct primary_core idle_in_event_mode(void)
{
	struct primary_config config = usual;

	config.mode = REPLICATE_EVENT;
	config.interval_ns = 1000000;
	return protected_at_2(&config);
}

static void silence_is_a_loss(void **state)
{
	struct primary_core c = idle_in_event_mode();

	for (uint64_t t = 1029; t < 1104; t += 25)
		EXPECT(&c, PRIMARY_EV_TICK, t, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 1104, 0, "close report ask");
}

static void a_late_tick_is_forgiven_once(void **state)
{
	struct primary_core c = idle_in_event_mode();

	EXPECT(&c, PRIMARY_EV_TICK, 5000, 0, "");
	assert_true(primary_core_deadline(&c) <= 5025);
	EXPECT(&c, PRIMARY_EV_TICK, 5024, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 5090, 0, "close report ask"); /* late again, no mercy */
}

static void what_arrived_before_the_late_tick_counts(void **state)
{
	struct primary_core c = idle_in_event_mode();

	EXPECT(&c, PRIMARY_EV_HEARD, 5000, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 5001, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 5030, 0, "");
	assert_int_equal(primary_core_report(&c), REPLICATOR_PROTECTED);
}

static void an_epoch_that_is_never_acknowledged_is_a_loss(void **state)
{
	struct primary_core c = protected_at_2(&usual);
	uint64_t t;

	EXPECT(&c, PRIMARY_EV_TICK, 1030, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1031, 2, "send");
	EXPECT(&c, PRIMARY_EV_TICK, 1051, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1052, 3, "send");
	for (t = 1060; t < 1031 + usual.ack_ns; t += 20) {
		EXPECT(&c, PRIMARY_EV_HEARD, t, 0, "");
		EXPECT(&c, PRIMARY_EV_TICK, t, 0, "");
	}
	EXPECT(&c, PRIMARY_EV_TICK, 1031 + usual.ack_ns, 0, "close report ask");
}

static void time_that_goes_back_counts_as_now(void **state)
{
	struct primary_core c = protected_at_2(&usual);

	EXPECT(&c, PRIMARY_EV_HEARD, 900, 0, "");
	assert_int_equal(c.seen_at, 1004);
}

static void no_deadline_after_the_end(void **state)
{
	struct primary_core c = syncing(&usual);

	assert_true(primary_core_deadline(&c) <= 1001 + usual.loss_ns / 4);
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1002, 0, "close pass report");
	assert_true(primary_core_deadline(&c) == UINT64_MAX);
}

/* ---- a handover ------------------------------------------------------------------- */

static struct primary_core frozen(void)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.handover = true;
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1003, 1, "send report");
	assert_int_equal(primary_core_report(&c), REPLICATOR_FREEZING);
	return c;
}

static void a_handover_ends_standing_still(void **state)
{
	struct primary_core c = frozen();

	EXPECT(&c, PRIMARY_EV_ACK, 1004, 1, "report");
	assert_int_equal(primary_core_report(&c), REPLICATOR_HANDED);
	assert_true(primary_core_deadline(&c) == UINT64_MAX);
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1005, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 9000, 0, "");
	EXPECT(&c, PRIMARY_EV_STOP, 9001, 0, "");
	EXPECT(&c, PRIMARY_EV_OWNED_FORCED, 9002, 0, "close pass resume report");
	assert_int_equal(c.state, PRIMARY_UNPROTECTED);
}

static void a_handover_that_is_lost_stands_still_until_it_is_answered(void **state)
{
	struct primary_core c = frozen();

	c.config.policy = STANDBY_LOSS_STALL;
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1004, 0, "close stall report ask");
	EXPECT(&c, PRIMARY_EV_ACK, 1005, 1, "");
	/* The policy is not about migrations. */
	EXPECT(&c, PRIMARY_EV_OWNED, 1006, 0, "pass resume report");
}

/* Somebody else decides when: a guest that stands still again and again does not get on. */
static void a_handover_is_not_sealed_again_by_itself(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.handover = true;
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEAL_FAILED, 1003, 1, "merge");
	EXPECT(&c, PRIMARY_EV_HEARD, 1099, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 1100, 0, "");
	EXPECT(&c, PRIMARY_EV_SYNCED, 1101, 0, "seal");
	EXPECT(&c, PRIMARY_EV_SEALED, 1102, 1, "send report");
}

static void a_handover_can_be_cancelled_until_it_is_whole(void **state)
{
	struct primary_core c = frozen();

	EXPECT(&c, PRIMARY_EV_STOP, 1004, 0, "bye");
	EXPECT(&c, PRIMARY_EV_ACK, 1005, 1, "");
	EXPECT(&c, PRIMARY_EV_BYE_ACKED, 1006, 0, "close pass resume report");
	assert_int_equal(c.state, PRIMARY_UNPROTECTED);
}

/* Silent or not: it has a time of its own to answer, and what it holds is lost but ours. */
static void a_cancel_does_not_wait_for_the_target(void **state)
{
	for (unsigned beats = 0; beats < 2; beats++) {
		struct primary_core c = frozen();

		c.config.bye_ns = 60;
		EXPECT(&c, PRIMARY_EV_STOP, 1004, 0, "bye");
		EXPECT(&c, PRIMARY_EV_TICK, 1025, 0, "");
		if (beats)
			EXPECT(&c, PRIMARY_EV_HEARD, 1050, 0, "");
		assert_true(primary_core_deadline(&c) <= 1064);
		EXPECT(&c, PRIMARY_EV_TICK, 1063, 0, "");
		assert_true(primary_core_deadline(&c) == 1064);
		EXPECT(&c, PRIMARY_EV_TICK, 1064, 0, "close report ask");
		EXPECT(&c, PRIMARY_EV_OWNED_FORCED, 1065, 0, "pass resume report");
		assert_int_equal(c.state, PRIMARY_UNPROTECTED);
	}
}

static void a_cancel_before_the_last_epoch_asks_nobody(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.handover = true;
	config.bye_ns = 60;
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_STOP, 1004, 0, "bye");
	EXPECT(&c, PRIMARY_EV_HEARD, 1050, 0, "");
	EXPECT(&c, PRIMARY_EV_TICK, 1064, 0, "close pass report");
}

static void a_seal_that_ends_after_a_cancelled_handover_lets_the_guest_go(void **state)
{
	struct primary_config config = usual;
	struct primary_core c;

	config.handover = true;
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_LINK_LOST, 1003, 0, "close pass report");
	EXPECT(&c, PRIMARY_EV_SEALED, 1004, 1, "pass resume");
	c = syncing(&config);
	EXPECT(&c, PRIMARY_EV_SYNCED, 1002, 0, "seal");
	EXPECT(&c, PRIMARY_EV_STOP, 1003, 0, "bye");
	EXPECT(&c, PRIMARY_EV_SEALED, 1004, 1, "");
	EXPECT(&c, PRIMARY_EV_BYE_ACKED, 1005, 0, "close pass resume report");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_settings_are_refused),
		cmocka_unit_test(every_event_in_every_state_keeps_to_the_tables),
		cmocka_unit_test(every_state_can_be_reached_and_only_fenced_is_the_end),
		cmocka_unit_test(output_leaves_by_acknowledgement_alone),
		cmocka_unit_test(acknowledgements_of_what_was_not_sealed_are_refused),
		cmocka_unit_test(the_window_bounds_what_is_in_flight),
		cmocka_unit_test(event_mode_seals_when_output_waits),
		cmocka_unit_test(loss_before_anything_was_sent_passes),
		cmocka_unit_test(loss_after_the_first_epoch_was_sent_holds_and_asks),
		cmocka_unit_test(a_seal_that_ends_after_the_session_leaves_nothing_held),
		cmocka_unit_test(policy_stall_waits_for_the_standby_or_an_operator),
		cmocka_unit_test(a_stalled_vm_comes_back_with_the_next_session),
		cmocka_unit_test(a_held_vm_is_not_let_go_by_a_session_that_fails),
		cmocka_unit_test(a_newer_term_stops_for_good),
		cmocka_unit_test(a_refusal_for_a_newer_term_holds_at_once),
		cmocka_unit_test(a_good_end_is_confirmed_before_output_passes),
		cmocka_unit_test(a_good_end_that_nobody_confirms_asks),
		cmocka_unit_test(a_failed_seal_merges_and_the_third_ends_the_session),
		cmocka_unit_test(silence_is_a_loss),
		cmocka_unit_test(a_late_tick_is_forgiven_once),
		cmocka_unit_test(what_arrived_before_the_late_tick_counts),
		cmocka_unit_test(an_epoch_that_is_never_acknowledged_is_a_loss),
		cmocka_unit_test(time_that_goes_back_counts_as_now),
		cmocka_unit_test(no_deadline_after_the_end),
		cmocka_unit_test(what_made_it_stop_is_the_reason),
		cmocka_unit_test(a_handover_is_not_sealed_again_by_itself),
		cmocka_unit_test(a_handover_ends_standing_still),
		cmocka_unit_test(a_handover_that_is_lost_stands_still_until_it_is_answered),
		cmocka_unit_test(a_handover_can_be_cancelled_until_it_is_whole),
		cmocka_unit_test(a_cancel_does_not_wait_for_the_target),
		cmocka_unit_test(a_cancel_before_the_last_epoch_asks_nobody),
		cmocka_unit_test(a_seal_that_ends_after_a_cancelled_handover_lets_the_guest_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
