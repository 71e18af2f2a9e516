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

static const struct standby_config usual = {
	.heartbeat_ns = 25, .loss_ns = 100, .streams = 2, .window = 2, .term = 7};

static struct core_actions actions;

static int feed(struct standby_core *c, enum standby_event type, unsigned stream, uint64_t epoch)
{
	return standby_core_event(
		c,
		&(struct standby_input){
			.type = type, .now = 1000, .stream = stream, .epoch = epoch, .term = 8},
		&actions);
}

static const char *words(void)
{
	static char text[300];
	size_t n = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < actions.count; i++) {
		const struct core_action *a = &actions.item[i];

		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s", i ? " " : "",
				      standby_action_name((enum standby_action)a->type));
		if (a->type <= STANDBY_DISCARD)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "-%llu",
					      (unsigned long long)a->epoch);
	}
	return text;
}

#define EXPECT(c, event, stream, epoch, text)                                                      \
	do {                                                                                       \
		assert_int_equal(feed(c, event, stream, epoch), 0);                                \
		assert_string_equal(words(), text);                                                \
	} while (0)

static struct standby_core syncing(void)
{
	struct standby_core c;

	assert_int_equal(standby_core_init(&c, &usual), 0);
	EXPECT(&c, STANDBY_EV_CONNECTED, 0, 0, "report");
	return c;
}

static void stream_brings(struct standby_core *c, unsigned stream, uint64_t epoch, const char *then)
{
	EXPECT(c, STANDBY_EV_BEGIN, stream, epoch, "");
	EXPECT(c, STANDBY_EV_DATA, stream, epoch, "");
	EXPECT(c, STANDBY_EV_END, stream, epoch, then);
}

static struct standby_core ready(void)
{
	struct standby_core c = syncing();

	stream_brings(&c, 0, 1, "");
	assert_true(standby_core_direct(&c, 1));
	stream_brings(&c, 1, 1, "report ack-1 commit-1");
	assert_false(standby_core_direct(&c, 1));
	EXPECT(&c, STANDBY_EV_COMMITTED, 0, 1, "");
	return c;
}

/* ---- tests -------------------------------------------------------------------- */

static void bad_settings_are_refused(void **state)
{
	struct standby_core c;
	struct standby_config bad[] = {usual, usual, usual, usual};

	bad[0].streams = 0;
	bad[1].streams = CHANNEL_STREAMS_MAX + 1;
	bad[2].window = 0;
	bad[3].loss_ns = 0;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(standby_core_init(&c, &bad[i]), -EINVAL);
}

static void put_in(struct standby_core *c, enum standby_state s, enum standby_event e)
{
	assert_int_equal(standby_core_init(c, &usual), 0);
	c->state = s;
	c->whole = c->acknowledged = c->committed = c->ended[0] = c->ended[1] = 3;
	c->begun[0] = e == STANDBY_EV_BEGIN ? 3 : 4;
	c->begun[1] = 3;
	c->seen_at = c->heard_at = 1000;
	if (e == STANDBY_EV_COMMITTED || e == STANDBY_EV_COMMIT_FAILED) {
		c->whole = 4;
		c->committing = 4;
	}
}

static void every_event_in_every_state_keeps_to_the_tables(void **state)
{
	for (int s = 0; s < STANDBY_STATES; s++) {
		for (int e = 0; e < STANDBY_EVENTS; e++) {
			struct standby_core c, before;
			int rc;

			put_in(&c, (enum standby_state)s, (enum standby_event)e);
			before = c;
			rc = feed(&c, (enum standby_event)e, 0, 4);
			if (!standby_core_allows((enum standby_state)s, (enum standby_event)e)) {
				assert_true(rc < 0);
				assert_int_equal(actions.count, 0);
				assert_memory_equal(&c, &before, sizeof(c));
				continue;
			}
			assert_int_equal(rc, 0);
			assert_true(c.state == (enum standby_state)s ||
				    standby_core_may_become((enum standby_state)s, c.state));
		}
	}
}

static void released_broken_and_promoted_are_the_end(void **state)
{
	for (int to = 0; to < STANDBY_STATES; to++) {
		assert_false(standby_core_may_become(STANDBY_RELEASED, (enum standby_state)to));
		assert_false(standby_core_may_become(STANDBY_BROKEN, (enum standby_state)to));
		assert_false(standby_core_may_become(STANDBY_PROMOTED, (enum standby_state)to));
	}
}

static void an_epoch_is_whole_when_all_streams_ended_it(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 1, 2, "");
	stream_brings(&c, 1, 3, ""); /* one stream may be ahead */
	stream_brings(&c, 0, 2, "ack-2 commit-2");
	stream_brings(&c, 0, 3, "ack-3");
	EXPECT(&c, STANDBY_EV_COMMITTED, 0, 2, "commit-3");
}

static void records_out_of_order_are_refused(void **state)
{
	struct standby_core c = ready();

	assert_int_equal(feed(&c, STANDBY_EV_BEGIN, 0, 1), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_BEGIN, 0, 3), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_BEGIN, 2, 2), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_DATA, 0, 2), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_END, 0, 2), -EINVAL);
	EXPECT(&c, STANDBY_EV_BEGIN, 0, 2, "");
	assert_int_equal(feed(&c, STANDBY_EV_BEGIN, 0, 2), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_DATA, 0, 3), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_DATA, 1, 2), -EINVAL);
	assert_int_equal(feed(&c, STANDBY_EV_COMMITTED, 0, 2), -EINVAL);
}

static void one_stream_cannot_run_away(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 1, 2, "");
	stream_brings(&c, 1, 3, "");
	assert_int_equal(feed(&c, STANDBY_EV_BEGIN, 1, 4), -EINVAL);
}

static void a_slow_disk_withholds_acknowledgements(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 0, 2, "");
	stream_brings(&c, 1, 2, "ack-2 commit-2");
	stream_brings(&c, 0, 3, "");
	stream_brings(&c, 1, 3, "ack-3");
	stream_brings(&c, 0, 4, "");
	stream_brings(&c, 1, 4, "");
	EXPECT(&c, STANDBY_EV_COMMITTED, 0, 2, "ack-4 commit-3");
}

static void promotion_discards_what_is_not_whole(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 0, 2, "");
	EXPECT(&c, STANDBY_EV_LINK_LOST, 0, 0, "close discard-1 report");
	assert_int_equal(feed(&c, STANDBY_EV_DATA, 1, 2), -EPROTO);
	EXPECT(&c, STANDBY_EV_PROMOTE, 0, 0, "close discard-1 load");
	EXPECT(&c, STANDBY_EV_LOADED, 0, 0, "report");
	assert_int_equal(standby_core_report(&c), REPLICA_PROMOTED);
}

static void promotion_waits_for_what_was_acknowledged(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 0, 2, "");
	stream_brings(&c, 1, 2, "ack-2 commit-2");
	stream_brings(&c, 0, 3, "");
	stream_brings(&c, 1, 3, "ack-3");
	EXPECT(&c, STANDBY_EV_PROMOTE, 0, 0, "close discard-3");
	EXPECT(&c, STANDBY_EV_COMMITTED, 0, 2, "commit-3");
	EXPECT(&c, STANDBY_EV_COMMITTED, 0, 3, "load");
}

static void promotion_is_refused_where_it_must_be(void **state)
{
	struct standby_core c = syncing();
	struct standby_input stale = {.type = STANDBY_EV_PROMOTE, .now = 1000, .term = 7};

	assert_int_equal(feed(&c, STANDBY_EV_PROMOTE, 0, 0), -EAGAIN);
	EXPECT(&c, STANDBY_EV_LINK_LOST, 0, 0, "close discard-0 report");
	assert_int_equal(feed(&c, STANDBY_EV_PROMOTE, 0, 0), -EAGAIN);
	c = ready();
	assert_int_equal(standby_core_event(&c, &stale, &actions), -ESTALE);
	EXPECT(&c, STANDBY_EV_BYE, 0, 0, "bye-ack close discard-1 report");
	assert_int_equal(feed(&c, STANDBY_EV_PROMOTE, 0, 0), -EPERM);
	c = ready();
	EXPECT(&c, STANDBY_EV_BAD_INPUT, 0, 0, "close discard-1 report");
	assert_int_equal(feed(&c, STANDBY_EV_PROMOTE, 0, 0), -EPERM);
	c = ready();
	EXPECT(&c, STANDBY_EV_PROMOTE, 0, 0, "close discard-1 load");
	assert_int_equal(feed(&c, STANDBY_EV_PROMOTE, 0, 0), -EALREADY);
}

static void a_failed_commit_breaks_also_a_promotion(void **state)
{
	struct standby_core c = ready();

	stream_brings(&c, 0, 2, "");
	stream_brings(&c, 1, 2, "ack-2 commit-2");
	EXPECT(&c, STANDBY_EV_PROMOTE, 0, 0, "close discard-2");
	EXPECT(&c, STANDBY_EV_COMMIT_FAILED, 0, 2, "close discard-2 report");
	assert_int_equal(standby_core_report(&c), REPLICA_BROKEN);
}

static void bad_input_after_the_end_of_the_link_changes_nothing(void **state)
{
	struct standby_core c = ready();

	EXPECT(&c, STANDBY_EV_LINK_LOST, 0, 0, "close discard-1 report");
	EXPECT(&c, STANDBY_EV_BAD_INPUT, 0, 0, "");
	assert_int_equal(standby_core_report(&c), REPLICA_LOST);
}

static int tick(struct standby_core *c, uint64_t now)
{
	return standby_core_event(c, &(struct standby_input){.type = STANDBY_EV_TICK, .now = now},
				  &actions);
}

static void silence_is_a_loss_and_a_late_tick_is_not(void **state)
{
	struct standby_core c = ready();

	for (uint64_t t = 1025; t < 1100; t += 25)
		assert_int_equal(tick(&c, t), 0);
	assert_int_equal(standby_core_report(&c), REPLICA_READY);
	assert_int_equal(tick(&c, 1100), 0);
	assert_int_equal(standby_core_report(&c), REPLICA_LOST);
	c = ready();
	assert_int_equal(tick(&c, 9000), 0);
	assert_int_equal(standby_core_report(&c), REPLICA_READY);
	assert_int_equal(tick(&c, 9025), 0);
	assert_int_equal(standby_core_report(&c), REPLICA_LOST);
	assert_true(standby_core_deadline(&c) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_settings_are_refused),
		cmocka_unit_test(every_event_in_every_state_keeps_to_the_tables),
		cmocka_unit_test(released_broken_and_promoted_are_the_end),
		cmocka_unit_test(an_epoch_is_whole_when_all_streams_ended_it),
		cmocka_unit_test(records_out_of_order_are_refused),
		cmocka_unit_test(one_stream_cannot_run_away),
		cmocka_unit_test(a_slow_disk_withholds_acknowledgements),
		cmocka_unit_test(promotion_discards_what_is_not_whole),
		cmocka_unit_test(promotion_waits_for_what_was_acknowledged),
		cmocka_unit_test(promotion_is_refused_where_it_must_be),
		cmocka_unit_test(a_failed_commit_breaks_also_a_promotion),
		cmocka_unit_test(bad_input_after_the_end_of_the_link_changes_nothing),
		cmocka_unit_test(silence_is_a_loss_and_a_late_tick_is_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
