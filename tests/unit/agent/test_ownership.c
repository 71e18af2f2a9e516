// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/agent/ownership_words.h"

#define FORCED (UINT64_C(1) << 32)

static struct ownership asking(bool standby_fences)
{
	struct ownership o = with_peer(ROLE_OWNER, 4, true);

	EXPECT(&o, "store primary 5; ", .type = OWN_EV_PROTECT);
	EXPECT(&o, "tell offer 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "start-session; ", WORD(WORD_ACCEPT, 5), .can_fence = standby_fences);
	EXPECT(&o, "tell drop 5; ", .type = OWN_EV_SESSION_LOST, .term = 5);
	assert_int_equal(o.state, OWN_ASKING);
	return o;
}

static struct ownership standby_ready(void)
{
	struct ownership o = with_peer(ROLE_NONE, 1, false);

	EXPECT(&o, "store standby 5; ", WORD(WORD_OFFER, 5));
	EXPECT(&o, "create-replica; tell accept 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "", .type = OWN_EV_REPLICA_READY, .term = 5);
	return o;
}

static struct ownership deciding(void)
{
	struct ownership o = standby_ready();

	EXPECT(&o, "tell ask 5; ", .type = OWN_EV_REPLICA_LOST, .term = 5);
	assert_int_equal(o.state, OWN_DECIDING);
	return o;
}

/* ---- tables ------------------------------------------------------------------------ */

static struct ownership in_state(enum ownership_state s)
{
	static const enum ownership_role roles[OWN_STATES] = {
		[OWN_UNSURE] = ROLE_OWNER,    [OWN_IDLE] = ROLE_OWNER,
		[OWN_ALONE] = ROLE_OWNER,     [OWN_PRIMARY] = ROLE_PRIMARY,
		[OWN_ASKING] = ROLE_PRIMARY,  [OWN_RELEASED] = ROLE_RELEASED,
		[OWN_STANDBY] = ROLE_STANDBY, [OWN_DECIDING] = ROLE_STANDBY,
		[OWN_PROMOTING] = ROLE_OWNER, [OWN_FREEZING] = ROLE_RELEASED,
		[OWN_HANDED] = ROLE_RELEASED, [OWN_LOADING] = ROLE_STANDBY,
	};
	struct ownership_config c = usual();
	struct ownership o;

	ownership_init(&o, &c);
	o.state = s;
	o.record = (struct ownership_record){5, roles[s]};
	o.handover = s == OWN_FREEZING || s == OWN_HANDED || s == OWN_LOADING;
	o.vm_alive = s == OWN_ALONE || s == OWN_PRIMARY || s == OWN_ASKING || s == OWN_FREEZING ||
		     s == OWN_HANDED;
	o.session_started = o.vm_alive;
	o.replica = o.replica_ready =
		s == OWN_STANDBY || s == OWN_DECIDING || s == OWN_LOADING || s == OWN_PROMOTING;
	o.peer_up = true;
	now = NS_PER_SEC;
	return o;
}

static bool is_operators(int e)
{
	return e == OWN_EV_RUN || e == OWN_EV_PROTECT || e == OWN_EV_PROMOTE || e == OWN_EV_GO_ON;
}

static void every_event_in_every_state_keeps_to_the_tables(void **state)
{
	for (int s = 0; s < OWN_STATES; s++) {
		for (int e = 0; e < OWN_EVENTS; e++) {
			struct ownership o = in_state((enum ownership_state)s), before = o;
			struct ownership_input in = {.type = (enum ownership_event)e,
						     .term = 5,
						     .word = WORD_ASK,
						     .record = {5, ROLE_OWNER}};
			int rc = feed(&o, in);

			if (rc) {
				assert_int_equal(actions.count, 0);
				assert_memory_equal(&o, &before, sizeof(o));
				if (!ownership_allows((enum ownership_state)s, in.type))
					assert_int_equal(rc, is_operators(e) && e != OWN_EV_RUN
								     ? -EPERM
								     : -EPROTO);
				continue;
			}
			assert_true(ownership_allows((enum ownership_state)s, in.type));
			assert_true(o.state == (enum ownership_state)s ||
				    ownership_may_become((enum ownership_state)s, o.state));
		}
	}
}

static void every_word_in_every_state_is_survived(void **state)
{
	for (int s = OWN_NONE; s < OWN_STATES; s++)
		for (int w = 0; w < WORD_COUNT; w++)
			for (uint64_t term = 4; term <= 6; term++) {
				struct ownership o = in_state((enum ownership_state)s);

				assert_int_equal(feed(&o, (struct ownership_input){WORD(
								  (enum ownership_word)w, term)}),
						 0);
				assert_true(!o.storing || o.pending.term >= 5);
			}
}

static void values_that_cannot_be_are_refused(void **state)
{
	struct ownership o = in_state(OWN_NONE);

	assert_int_equal(feed(&o, (struct ownership_input){WORD(WORD_COUNT, 1)}), -EINVAL);
	assert_int_equal(feed(&o, (struct ownership_input){WORD(WORD_ASK, 0)}), -EINVAL);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EVENTS}), -EINVAL);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_STORED}), -EPROTO);
	assert_false(ownership_record_valid(&(struct ownership_record){0, ROLE_OWNER}));
	assert_false(ownership_record_valid(&(struct ownership_record){1, ROLE_COUNT}));
	assert_true(ownership_record_valid(&(struct ownership_record){0, ROLE_NONE}));
}

/* ---- primary --------------------------------------------------------------------------- */

static void a_vm_starts_when_its_term_is_stored(void **state)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, ROLE_NONE, 0, false);

	EXPECT(&o, "store owner 1; ", .type = OWN_EV_RUN);
	assert_false(ownership_may_run(&o));
	EXPECT(&o, "start-vm; ", .type = OWN_EV_STORED);
	assert_true(ownership_may_run(&o));
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_RUN}), -EBUSY);
}

static void silence_alone_confirms_nothing(void **state)
{
	struct ownership o = asking(true);

	o.config.can_fence = false;
	for (int i = 0; i < 100; i++) {
		later_by(NS_PER_SEC);
		EXPECT(&o, "tell drop 5; ", .type = OWN_EV_TICK);
	}
	assert_int_equal(o.state, OWN_ASKING);
}

static void dropped_confirms_once_stored(void **state)
{
	struct ownership o = asking(true);

	EXPECT(&o, "", WORD(WORD_DROPPED, 4)); /* of another session */
	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	EXPECT(&o, "confirm; tell own 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_ALONE);
}

static void a_confirmed_fence_confirms_after_the_delay(void **state)
{
	struct ownership o = asking(true);

	later_by(o.config.fence_delay_ns - 1);
	EXPECT(&o, "tell drop 5; ", .type = OWN_EV_TICK);
	later_by(1);
	EXPECT(&o, "fence; ", .type = OWN_EV_TICK);
	EXPECT(&o, "", .type = OWN_EV_FENCED, .id = o.fence_id + 1, .ok = true); /* not this one */
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_FENCED, .id = o.fence_id, .ok = true);
	EXPECT(&o, "confirm; tell own 6; ", .type = OWN_EV_STORED);
}

static void a_failed_fence_is_repeated_with_back_off(void **state)
{
	struct ownership o = asking(true);
	uint64_t wait = o.config.retry_ns;

	o.peer_up = false;
	later_by(o.config.fence_delay_ns);
	for (int i = 0; i < 10; i++) {
		EXPECT(&o, "fence; ", .type = OWN_EV_TICK);
		EXPECT(&o, "", .type = OWN_EV_FENCED, .id = o.fence_id, .ok = false);
		assert_int_equal(ownership_deadline(&o), now + wait);
		later_by(wait);
		wait = wait * 2 < o.config.retry_max_ns ? wait * 2 : o.config.retry_max_ns;
	}
}

static void policy_stall_does_not_fence(void **state)
{
	struct ownership o = asking(true);

	o.config.continue_alone = false;
	later_by(10 * o.config.fence_delay_ns);
	EXPECT(&o, "tell drop 5; ", .type = OWN_EV_TICK);
}

static void a_standby_without_a_fence_is_given_a_moment(void **state)
{
	struct ownership o = asking(false);

	later_by(o.config.ask_ns - 1);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	later_by(1);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
}

static void an_operator_may_go_on(void **state)
{
	struct ownership o = asking(true);

	EXPECT(&o, "store owner 6; ", .type = OWN_EV_GO_ON);
	EXPECT(&o, "confirm-forced; tell own 6; ", .type = OWN_EV_STORED);
}

static void a_newer_owner_wins_also_while_storing(void **state)
{
	struct ownership o = asking(true);

	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	EXPECT(&o, "", WORD(WORD_OWN, 9));
	EXPECT(&o, "kill-vm; store none 9; ", .type = OWN_EV_STORED);
	assert_false(ownership_may_run(&o));
	EXPECT(&o, "tell dropped 9; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_NONE);
}

static void a_dead_vm_is_released_to_the_standby(void **state)
{
	struct ownership o = asking(true);

	EXPECT(&o, "store released 5; ", .type = OWN_EV_VM_DEAD);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_STORED);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_RUN}), -EPERM);
	EXPECT(&o, "tell released 5; ", WORD(WORD_ASK, 5));
	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	EXPECT(&o, "tell own 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_IDLE);
	EXPECT(&o, "store owner 7; ", .type = OWN_EV_RUN);
}

static void an_answer_lost_in_a_restart_is_given_again(void **state)
{
	struct ownership o = with_peer(ROLE_OWNER, 6, true);

	EXPECT(&o, "confirm; ", .type = OWN_EV_SESSION_LOST, .term = 5);
}

static const char *first_reason(void)
{
	for (unsigned i = 0; i < actions.count; i++)
		if (actions.item[i].type == OWN_REPORT && actions.item[i].why)
			return actions.item[i].why;
	return "";
}

static struct ownership offering(void)
{
	struct ownership o = with_peer(ROLE_OWNER, 4, true);

	EXPECT(&o, "store primary 5; ", .type = OWN_EV_PROTECT);
	EXPECT(&o, "tell offer 5; ", .type = OWN_EV_STORED);
	return o;
}

/* To make a replica may take a peer that is there long: its memory is filled. */
static void an_offer_that_nobody_takes_ends(void **state)
{
	struct ownership o = offering();

	later_by(o.config.ready_ns - 1);
	EXPECT(&o, "tell offer 5; ", .type = OWN_EV_TICK);
	assert_int_equal(ownership_deadline(&o), now + 1);
	later_by(1);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
	assert_non_null(strstr(first_reason(), "did not get ready"));
}

static void an_offer_to_a_peer_that_is_gone_ends_sooner(void **state)
{
	struct ownership o = offering();

	later_by(o.config.ready_ns / 2);
	EXPECT(&o, "tell offer 5; ", .type = OWN_EV_TICK);
	EXPECT(&o, "", .type = OWN_EV_PEER_DOWN);
	later_by(o.config.retry_max_ns);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	assert_int_equal(ownership_deadline(&o), now + o.config.retry_ns);
	later_by(o.config.retry_ns);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
	assert_non_null(strstr(first_reason(), "was lost before"));
}

/* ---- standby --------------------------------------------------------------------------- */

static void contact_lost_alone_never_promotes(void **state)
{
	struct ownership o = deciding();

	o.config.can_fence = false;
	for (int i = 0; i < 100; i++) {
		later_by(NS_PER_SEC);
		EXPECT(&o, "tell ask 5; ", .type = OWN_EV_TICK);
	}
	assert_int_equal(o.state, OWN_DECIDING);
}

static void a_silent_primary_is_fenced_and_then_succeeded(void **state)
{
	struct ownership o = deciding();

	assert_int_equal(ownership_deadline(&o), now + o.config.ask_ns);
	later_by(o.config.ask_ns);
	EXPECT(&o, "fence; ", .type = OWN_EV_TICK);
	EXPECT(&o, "store owner 7; ", .type = OWN_EV_FENCED, .id = o.fence_id, .ok = true);
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
	EXPECT(&o, "tell own 7; ", .type = OWN_EV_PROMOTED, .term = 5);
	assert_true(ownership_may_run(&o));
}

static void without_a_link_the_fence_is_not_delayed(void **state)
{
	struct ownership o = standby_ready();

	EXPECT(&o, "", .type = OWN_EV_PEER_DOWN);
	EXPECT(&o, "fence; ", .type = OWN_EV_REPLICA_LOST, .term = 5);
	o = deciding();
	EXPECT(&o, "fence; ", .type = OWN_EV_PEER_DOWN);
}

static void a_primary_that_answers_is_not_fenced(void **state)
{
	struct ownership o = deciding();

	EXPECT(&o, "", WORD(WORD_ALIVE, 5));
	later_by(o.config.ask_ns);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	EXPECT(&o, "drop-replica; store none 5; ", WORD(WORD_DROP, 5));
	EXPECT(&o, "tell dropped 5; ", .type = OWN_EV_STORED);
}

static void a_released_vm_is_promoted_without_a_fence(void **state)
{
	struct ownership o = standby_ready();

	EXPECT(&o, "store owner 7; ", WORD(WORD_RELEASED, 5));
	o = deciding();
	EXPECT(&o, "store owner 7; ", WORD(WORD_RELEASED, 5));
}

static void the_primarys_wish_waits_for_a_fence_under_way(void **state)
{
	struct ownership o = deciding();

	later_by(o.config.ask_ns);
	EXPECT(&o, "fence; ", .type = OWN_EV_TICK);
	EXPECT(&o, "", WORD(WORD_DROP, 5));
	EXPECT(&o, "drop-replica; store none 5; ", .type = OWN_EV_FENCED, .id = o.fence_id);
}

static void a_stale_twin_is_not_promoted_even_after_a_fence(void **state)
{
	struct ownership o = deciding();

	later_by(o.config.ask_ns);
	EXPECT(&o, "fence; ", .type = OWN_EV_TICK);
	EXPECT(&o, "drop-replica; store none 6; ", WORD(WORD_OWN, 6));
	EXPECT(&o, "", .type = OWN_EV_FENCED, .id = o.fence_id, .ok = true);
	EXPECT(&o, "tell dropped 6; ", .type = OWN_EV_STORED);
	assert_int_equal(o.state, OWN_NONE);
}

static void what_was_dropped_is_not_taken_again(void **state)
{
	struct ownership o = standby_ready();

	EXPECT(&o, "drop-replica; store none 5; ", WORD(WORD_DROP, 5));
	EXPECT(&o, "tell dropped 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "tell dropped 5; tell refuse 5; ", WORD(WORD_OFFER, 5));
	EXPECT(&o, "store standby 6; ", WORD(WORD_OFFER, 6));
}

static void an_operator_forces_a_term_far_ahead(void **state)
{
	struct ownership o = deciding();

	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PROMOTE}), 0);
	assert_string_equal(words(), "store owner 4294967301; ");
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
}

static void a_forced_promotion_that_fails_gives_way(void **state)
{
	struct ownership o = deciding();

	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PROMOTE}), 0);
	EXPECT(&o, "promote; ", .type = OWN_EV_STORED);
	EXPECT(&o, "", WORD(WORD_DROP, 5)); /* nothing is said before it is known */
	EXPECT(&o, "store none 4294967301; ", .type = OWN_EV_REPLICA_GONE, .term = 5);
	EXPECT(&o, "tell dropped 4294967301; ", .type = OWN_EV_STORED);
	EXPECT(&o, "tell dropped 5; ", WORD(WORD_DROP, 5));
}

static void force_needs_a_whole_epoch(void **state)
{
	struct ownership o = with_peer(ROLE_NONE, 1, false);

	EXPECT(&o, "store standby 5; ", WORD(WORD_OFFER, 5));
	EXPECT(&o, "create-replica; tell accept 5; ", .type = OWN_EV_STORED);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PROMOTE}), -EAGAIN);
}

static void a_lost_replica_without_an_epoch_is_dropped(void **state)
{
	struct ownership o = with_peer(ROLE_NONE, 1, false);

	EXPECT(&o, "store standby 5; ", WORD(WORD_OFFER, 5));
	EXPECT(&o, "create-replica; tell accept 5; ", .type = OWN_EV_STORED);
	EXPECT(&o, "drop-replica; store none 5; ", .type = OWN_EV_REPLICA_LOST, .term = 5);
	EXPECT(&o, "tell dropped 5; ", .type = OWN_EV_STORED);
}

static void news_of_an_older_replica_is_ignored(void **state)
{
	struct ownership o = standby_ready();

	EXPECT(&o, "", .type = OWN_EV_REPLICA_LOST, .term = 3);
	EXPECT(&o, "", .type = OWN_EV_REPLICA_GONE, .term = 3);
	assert_int_equal(o.state, OWN_STANDBY);
}

/* ---- restarts ---------------------------------------------------------------------------- */

static void a_primary_that_restarted_releases(void **state)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, ROLE_PRIMARY, 5, false);

	assert_string_equal(words(), "store released 5; ");
	EXPECT(&o, "", .type = OWN_EV_STORED);
	EXPECT(&o, "tell released 5; ", .type = OWN_EV_PEER_UP);
	EXPECT(&o, "store none 7; ", WORD(WORD_OWN, 7));
}

static void an_owner_that_restarted_asks_before_it_runs(void **state)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, ROLE_OWNER, 6, false);

	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_RUN}), -EAGAIN);
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PEER_UP}), 0);
	EXPECT(&o, "", WORD(WORD_DROPPED, 6));
	assert_int_equal(o.state, OWN_IDLE);
	EXPECT(&o, "store owner 7; ", .type = OWN_EV_RUN);
}

static void a_replica_does_not_survive_its_polluxd(void **state)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, ROLE_STANDBY, 5, false);

	assert_string_equal(words(), "store none 5; ");
	assert_int_equal(feed(&o, (struct ownership_input){.type = OWN_EV_PROMOTE}), -EBUSY);
}

static void a_vm_goes_on_when_its_polluxd_restarts(void **state)
{
	struct ownership_config c = usual();
	struct ownership o = started(&c, ROLE_PRIMARY, 5, true);

	assert_string_equal(words(), "");
	assert_true(ownership_may_run(&o));
	o = started(&c, ROLE_NONE, 5, true); /* power failed between the record and the kill */
	assert_string_equal(words(), "kill-vm; ");
}

static void a_store_that_fails_is_tried_again_and_nothing_rests_on_it(void **state)
{
	struct ownership o = asking(true);

	EXPECT(&o, "store owner 6; ", WORD(WORD_DROPPED, 5));
	EXPECT(&o, "", .type = OWN_EV_STORE_FAILED);
	assert_int_equal(o.record.term, 5);
	EXPECT(&o, "", .type = OWN_EV_TICK);
	later_by(o.config.retry_ns);
	EXPECT(&o, "store owner 6; ", .type = OWN_EV_TICK);
	EXPECT(&o, "confirm; tell own 6; ", .type = OWN_EV_STORED);
}

static void of_two_forced_terms_the_senior_stays(void **state)
{
	struct ownership o = with_peer(ROLE_OWNER, FORCED, true);

	EXPECT(&o, "tell own 4294967296; ", WORD(WORD_OWN, FORCED));
	assert_int_equal(o.state, OWN_ALONE);
	o = with_peer(ROLE_OWNER, FORCED, true);
	o.config.senior = false;
	EXPECT(&o, "kill-vm; store none 4294967296; ", WORD(WORD_OWN, FORCED));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_event_in_every_state_keeps_to_the_tables),
		cmocka_unit_test(every_word_in_every_state_is_survived),
		cmocka_unit_test(values_that_cannot_be_are_refused),
		cmocka_unit_test(a_vm_starts_when_its_term_is_stored),
		cmocka_unit_test(silence_alone_confirms_nothing),
		cmocka_unit_test(dropped_confirms_once_stored),
		cmocka_unit_test(a_confirmed_fence_confirms_after_the_delay),
		cmocka_unit_test(a_failed_fence_is_repeated_with_back_off),
		cmocka_unit_test(policy_stall_does_not_fence),
		cmocka_unit_test(a_standby_without_a_fence_is_given_a_moment),
		cmocka_unit_test(an_operator_may_go_on),
		cmocka_unit_test(a_newer_owner_wins_also_while_storing),
		cmocka_unit_test(a_dead_vm_is_released_to_the_standby),
		cmocka_unit_test(an_answer_lost_in_a_restart_is_given_again),
		cmocka_unit_test(an_offer_that_nobody_takes_ends),
		cmocka_unit_test(an_offer_to_a_peer_that_is_gone_ends_sooner),
		cmocka_unit_test(contact_lost_alone_never_promotes),
		cmocka_unit_test(a_silent_primary_is_fenced_and_then_succeeded),
		cmocka_unit_test(without_a_link_the_fence_is_not_delayed),
		cmocka_unit_test(a_primary_that_answers_is_not_fenced),
		cmocka_unit_test(a_released_vm_is_promoted_without_a_fence),
		cmocka_unit_test(the_primarys_wish_waits_for_a_fence_under_way),
		cmocka_unit_test(a_stale_twin_is_not_promoted_even_after_a_fence),
		cmocka_unit_test(what_was_dropped_is_not_taken_again),
		cmocka_unit_test(an_operator_forces_a_term_far_ahead),
		cmocka_unit_test(a_forced_promotion_that_fails_gives_way),
		cmocka_unit_test(force_needs_a_whole_epoch),
		cmocka_unit_test(a_lost_replica_without_an_epoch_is_dropped),
		cmocka_unit_test(news_of_an_older_replica_is_ignored),
		cmocka_unit_test(a_primary_that_restarted_releases),
		cmocka_unit_test(an_owner_that_restarted_asks_before_it_runs),
		cmocka_unit_test(a_replica_does_not_survive_its_polluxd),
		cmocka_unit_test(a_vm_goes_on_when_its_polluxd_restarts),
		cmocka_unit_test(a_store_that_fails_is_tried_again_and_nothing_rests_on_it),
		cmocka_unit_test(of_two_forced_terms_the_senior_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
