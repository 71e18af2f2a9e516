// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/agent/ownership_words.h"

static struct ownership migrating(void)
{
	struct ownership o = with_peer(ROLE_OWNER, 4, true);

	EXPECT(&o, "store primary 5; ", .type = OWN_EV_PROTECT, .handover = true);
	EXPECT(&o, "tell offer 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "start-session; ", WORD(WORD_ACCEPT, 5), .can_fence = true);
	return o;
}

static struct ownership freezing(void)
{
	struct ownership o = migrating();

	EXPECT(&o, "store released 5; ", .type = OWN_EV_FREEZING, .term = 5);
	EXPECT(&o, "", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_FREEZING);
	return o;
}

static struct ownership handed(void)
{
	struct ownership o = freezing();

	EXPECT(&o, "tell released 5; ", .type = OWN_EV_HANDED, .term = 5);
	assert_int_equal(o.state, OWN_HANDED);
	assert_false(ownership_may_run(&o));
	return o;
}

static struct ownership incoming_ready(void)
{
	struct ownership o = with_peer(ROLE_NONE, 1, false);

	EXPECT(&o, "store standby 5; ", WORD(WORD_OFFER, 5), .handover = true);
	EXPECT(&o, "create-replica; tell accept 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "load; ", .type = OWN_EV_REPLICA_READY, .term = 5);
	return o;
}

static void a_migration_hands_over_and_retires_the_source(void **state)
{
	struct ownership o = handed();

	later_by(o.config.retry_ns);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_TICK);
	EXPECT(&o, "retire-vm; store none 7; ", WORD(WORD_OWN, 7));
	EXPECT(&o, "tell dropped 7; ", .type = OWN_EV_STORED);
}

static void released_is_not_said_before_the_target_holds_all(void **state)
{
	struct ownership o = freezing();

	EXPECT(&o, "tell alive 5; end-session; ", WORD(WORD_ASK, 5));
	EXPECT(&o, "", .type = OWN_EV_PEER_UP);
	later_by(100 * NS_PER_SEC);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	assert_true(ownership_may_run(&o));
}

static void a_source_that_does_not_store_early_hands_over_too(void **state)
{
	struct ownership o = migrating();

	EXPECT(&o, "store released 5; ", .type = OWN_EV_HANDED, .term = 5);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_HANDED);
}

static void a_lost_migration_goes_on_at_the_source_unasked(void **state)
{
	struct ownership o = migrating();

	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_LOST, .term = 5);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
	o = freezing();
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_LOST, .term = 5);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_ALONE);
}

static void a_cancelled_migration_is_over_at_the_source(void **state)
{
	struct ownership o = freezing();

	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_OVER, .term = 5);
	EXPECT(&o, "tell own 6; ", .type = OWN_EV_STORED);
}

static void without_a_peer_to_tell_nothing_is_handed_over(void **state)
{
	struct ownership o = freezing();

	EXPECT(&o, "", .type = OWN_EV_PEER_DOWN);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_HANDED, .term = 5);
	/* It may be on the disk: nothing else is tried, or said, from now on. */
	EXPECT(&o, "", .type = OWN_EV_STORE_FAILED);
	EXPECT(&o, "", .type = OWN_EV_PEER_UP);
	EXPECT(&o, "tell alive 5; end-session; ", WORD(WORD_ASK, 5));
	later_by(o.config.retry_ns);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
}

static void a_release_that_cannot_be_stored_ends_the_migration(void **state)
{
	struct ownership o = migrating();

	EXPECT(&o, "store released 5; ", .type = OWN_EV_HANDED, .term = 5);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_STORE_FAILED);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
	o = migrating();
	EXPECT(&o, "store released 5; ", .type = OWN_EV_FREEZING, .term = 5);
	EXPECT(&o, "end-session; ", .type = OWN_EV_STORE_FAILED);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_HANDED, .term = 5);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
}

/* The guest stands still already: it does not wait until all of its last epoch is there. */
static void a_release_that_cannot_be_stored_ends_the_migration_at_once(void **state)
{
	struct ownership o = migrating();

	EXPECT(&o, "store released 5; ", .type = OWN_EV_FREEZING, .term = 5);
	EXPECT(&o, "end-session; ", .type = OWN_EV_STORE_FAILED);
	assert_int_equal(ownership_deadline(&o), now + o.config.retry_ns);
	later_by(o.config.retry_ns);
	EXPECT(&o, "end-session; ", .type = OWN_EV_TICK);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_LOST, .term = 5);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_ALONE);
}

static void a_source_that_has_said_released_waits_for_an_answer(void **state)
{
	struct ownership o = handed();

	EXPECT(&o, "", .type = OWN_EV_PEER_DOWN);
	EXPECT(&o, "", .type = OWN_EV_SESSION_LOST, .term = 5);
	later_by(1000 * NS_PER_SEC);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	assert_int_equal(o.state, OWN_HANDED);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_PEER_UP);
	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
}

static void a_frozen_copy_yields_to_one_that_has_died_since(void **state)
{
	struct ownership o = handed();

	EXPECT(&o, "retire-vm; store none 8; ", WORD(WORD_RELEASED, 8));
	EXPECT(&o, "tell dropped 8; ", .type = OWN_EV_STORED);
}

static void an_operator_may_take_back_what_was_handed_over(void **state)
{
	struct ownership o = handed();

	EXPECT(&o, "store owner 4294967301; ", .type = OWN_EV_GO_ON);
	EXPECT(&o, "confirm-forced; tell own 4294967301; ", .type = OWN_EV_STORED);
	assert_true(actions.item[1].forced);
}

static void a_frozen_copy_that_dies_leaves_the_vm_to_the_twin(void **state)
{
	struct ownership o = freezing();

	EXPECT(&o, "store released 5; ", .type = OWN_EV_VM_DEAD);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_STORED);
	o = handed();
	EXPECT(&o, "", .type = OWN_EV_VM_DEAD);
	assert_int_equal(o.state, OWN_RELEASED);
}

static struct ownership restarted_released(void)
{
	struct ownership o = with_peer(ROLE_RELEASED, 5, true);

	assert_int_equal(o.state, OWN_HANDED);
	assert_string_equal(words(), "");
	return o;
}

/* Its process may be anywhere before that: nobody is told until it says how far it is. */
static void a_restarted_source_releases_when_its_process_has_handed_over(void **state)
{
	struct ownership o = restarted_released();

	assert_int_equal(ownership_deadline(&o), UINT64_MAX);
	later_by(100 * NS_PER_SEC);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	EXPECT(&o, "", WORD(WORD_RELEASED, 4));
	EXPECT(&o, "tell alive 5; end-session; ", WORD(WORD_ASK, 5));
	EXPECT(&o, "", .type = OWN_EV_FREEZING, .term = 5);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_HANDED, .term = 5);
	EXPECT(&o, "tell released 5; ", WORD(WORD_ASK, 5));
	later_by(o.config.retry_ns);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_TICK);
	/* The request that began it was not answered, which proves nothing. */
	EXPECT(&o, "", .type = OWN_EV_SESSION_LOST, .term = 5);
	assert_int_equal(o.state, OWN_HANDED);
	EXPECT(&o, "retire-vm; store none 7; ", WORD(WORD_OWN, 7));
}

static void a_restarted_source_whose_session_was_lost_has_told_nobody(void **state)
{
	struct ownership o = restarted_released();

	EXPECT(&o, "", .type = OWN_EV_SESSION_LOST, .term = 4);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_LOST, .term = 5);
	EXPECT(&o, "", .type = OWN_EV_STORE_FAILED);
	EXPECT(&o, "", .type = OWN_EV_HANDED, .term = 5);
	later_by(o.config.retry_ns);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_ALONE);
}

static void a_restarted_source_is_answered_or_dies(void **state)
{
	struct ownership o = restarted_released();

	/* Its session had ended well, with nobody to hear of it: the twin is gone. */
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_OVER, .term = 5);
	EXPECT(&o, "tell own 6; ", .type = OWN_EV_STORED);
	o = restarted_released();
	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	o = restarted_released();
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_VM_DEAD);
	assert_int_equal(o.state, OWN_RELEASED);
}

static void a_restarted_source_learns_what_its_session_is_for(void **state)
{
	struct ownership o = with_peer(ROLE_PRIMARY, 5, true);

	EXPECT(&o, "store owner 6; ", .type = OWN_EV_SESSION_LOST, .term = 5, .handover = true);
	o = with_peer(ROLE_PRIMARY, 5, true);
	EXPECT(&o, "store released 5; ", .type = OWN_EV_HANDED, .term = 5);
}

static void a_guest_that_stands_still_for_nobody_is_answered_again(void **state)
{
	struct ownership o = with_peer(ROLE_OWNER, 6, true);

	EXPECT(&o, "confirm-forced; ", .type = OWN_EV_HANDED, .term = 5);
	EXPECT(&o, "", .type = OWN_EV_HANDED, .term = 6);
}

static void a_migrated_twin_is_loaded_before_it_is_owned(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "", WORD(WORD_RELEASED, 5));
	assert_int_equal(o.state, OWN_LOADING);
	EXPECT(&o, "", WORD(WORD_RELEASED, 5));
	EXPECT(&o, "store owner 7; ", .type = OWN_EV_LOADED, .term = 5);
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
	EXPECT(&o, "tell own 7; ", .type = OWN_EV_PROMOTED, .term = 5);
	assert_true(ownership_may_run(&o));
}

static void a_loaded_twin_is_owned_when_it_is_released(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "", .type = OWN_EV_LOADED, .term = 5);
	assert_int_equal(o.state, OWN_STANDBY);
	assert_false(ownership_may_run(&o));
	EXPECT(&o, "store owner 7; ", WORD(WORD_RELEASED, 5));
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
}

static void a_loaded_twin_asks_a_source_that_is_silent(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "", .type = OWN_EV_LOADED, .term = 5);
	assert_int_equal(ownership_deadline(&o), now + o.config.reset_ns);
	later_by(o.config.reset_ns);
	EXPECT(&o, "tell ask 5; ", .type = OWN_EV_TICK);
	assert_int_equal(o.state, OWN_DECIDING);
	EXPECT(&o, "store owner 7; ", WORD(WORD_RELEASED, 5));
}

static void a_loaded_twin_is_dropped_as_any_other(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "", .type = OWN_EV_LOADED, .term = 5);
	EXPECT(&o, "drop-replica; store none 6; ", WORD(WORD_OWN, 6));
	EXPECT(&o, "tell dropped 6; ", .type = OWN_EV_STORED);
	/* The next one is loaded anew. */
	EXPECT(&o, "store standby 7; ", WORD(WORD_OFFER, 7), .handover = true);
	EXPECT(&o, "create-replica; tell accept 7; ", .type = OWN_EV_STORED);
	EXPECT(&o, "load; ", .type = OWN_EV_REPLICA_READY, .term = 7);
}

static void a_twin_that_is_loading_may_be_forced(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "store owner 4294967301; ", .type = OWN_EV_PROMOTE);
	EXPECT(&o, "", .type = OWN_EV_LOADED, .term = 5);
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
}

static void a_twin_that_does_not_load_is_given_back(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "store none 5; ", .type = OWN_EV_REPLICA_GONE, .term = 5);
	EXPECT(&o, "tell dropped 5; ", .type = OWN_EV_STORED);
	o = incoming_ready();
	EXPECT(&o, "", WORD(WORD_RELEASED, 5));
	EXPECT(&o, "store none 5; ", .type = OWN_EV_REPLICA_GONE, .term = 5);
	EXPECT(&o, "tell dropped 5; ", .type = OWN_EV_STORED);
}

static void a_migrated_twin_that_does_not_start_is_given_back(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "", WORD(WORD_RELEASED, 5));
	EXPECT(&o, "store owner 7; ", .type = OWN_EV_LOADED, .term = 5);
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
	EXPECT(&o, "store none 7; ", .type = OWN_EV_REPLICA_GONE, .term = 5);
	EXPECT(&o, "tell dropped 7; ", .type = OWN_EV_STORED);
}

static void a_migrated_twin_is_not_fenced_for(void **state)
{
	struct ownership o = incoming_ready();

	EXPECT(&o, "tell ask 5; ", .type = OWN_EV_REPLICA_LOST, .term = 5);
	EXPECT(&o, "", .type = OWN_EV_PEER_DOWN);
	assert_int_equal(ownership_deadline(&o), UINT64_MAX);
	later_by(1000 * NS_PER_SEC);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	EXPECT(&o, "tell ask 5; ", .type = OWN_EV_PEER_UP);
	EXPECT(&o, "drop-replica; store none 6; ", WORD(WORD_OWN, 6));
}

static void released_may_overtake_the_news_of_a_whole_twin(void **state)
{
	struct ownership o = with_peer(ROLE_NONE, 1, false);

	EXPECT(&o, "store standby 5; ", WORD(WORD_OFFER, 5), .handover = true);
	EXPECT(&o, "create-replica; tell accept 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "", WORD(WORD_RELEASED, 5));
	assert_int_equal(ownership_deadline(&o), now + o.config.reset_ns);
	EXPECT(&o, "load; ", .type = OWN_EV_REPLICA_READY, .term = 5);
	o.state = OWN_STANDBY;
	o.replica_ready = false;
	later_by(o.config.reset_ns);
	EXPECT(&o, "drop-replica; store none 5; ", .type = OWN_EV_TICK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_migration_hands_over_and_retires_the_source),
		cmocka_unit_test(released_is_not_said_before_the_target_holds_all),
		cmocka_unit_test(a_source_that_does_not_store_early_hands_over_too),
		cmocka_unit_test(a_lost_migration_goes_on_at_the_source_unasked),
		cmocka_unit_test(a_cancelled_migration_is_over_at_the_source),
		cmocka_unit_test(without_a_peer_to_tell_nothing_is_handed_over),
		cmocka_unit_test(a_release_that_cannot_be_stored_ends_the_migration),
		cmocka_unit_test(a_release_that_cannot_be_stored_ends_the_migration_at_once),
		cmocka_unit_test(a_source_that_has_said_released_waits_for_an_answer),
		cmocka_unit_test(a_frozen_copy_yields_to_one_that_has_died_since),
		cmocka_unit_test(an_operator_may_take_back_what_was_handed_over),
		cmocka_unit_test(a_frozen_copy_that_dies_leaves_the_vm_to_the_twin),
		cmocka_unit_test(a_restarted_source_releases_when_its_process_has_handed_over),
		cmocka_unit_test(a_restarted_source_whose_session_was_lost_has_told_nobody),
		cmocka_unit_test(a_restarted_source_is_answered_or_dies),
		cmocka_unit_test(a_restarted_source_learns_what_its_session_is_for),
		cmocka_unit_test(a_guest_that_stands_still_for_nobody_is_answered_again),
		cmocka_unit_test(a_migrated_twin_is_loaded_before_it_is_owned),
		cmocka_unit_test(a_loaded_twin_is_owned_when_it_is_released),
		cmocka_unit_test(a_loaded_twin_asks_a_source_that_is_silent),
		cmocka_unit_test(a_loaded_twin_is_dropped_as_any_other),
		cmocka_unit_test(a_twin_that_is_loading_may_be_forced),
		cmocka_unit_test(a_twin_that_does_not_load_is_given_back),
		cmocka_unit_test(a_migrated_twin_that_does_not_start_is_given_back),
		cmocka_unit_test(a_migrated_twin_is_not_fenced_for),
		cmocka_unit_test(released_may_overtake_the_news_of_a_whole_twin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
