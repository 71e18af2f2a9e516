// SPDX-License-Identifier: Apache-2.0
/* What the decisions of a precopy wait for: the link for memory that follows, and the rehearsal of
 * a handover. */
#include <poll.h>

#include "tests/unit/migrate/postlink.h"

#define MEMORY     (UINT64_C(8) << 20)
#define LINK_TRIES 3u

struct world {
	struct loop *io;
	struct post post;
	struct precopy *precopy;
};

/* The guest writes more than can be sent: so it is postcopy after one round. */
static const struct replicate_round hopeless = {
	.round = 1,
	.pages = 2048,
	.ns = NS_PER_SEC,
	.bytes = UINT64_C(8) << 20,
	.dirty = 2048,
	.elapsed_ns = NS_PER_SEC,
	.members_synced = true,
};

static void world_make(struct world *w)
{
	const struct postcopy_events events = {post_state, &w->post.at_source};
	struct migrate_config c;
	struct error e = {0};

	assert_int_equal(loop_create(&w->io), 0);
	post_setup(&w->post, post_machine(w->io, MEMORY), NULL, 2);
	if (postcopy_source_create(w->post.from, &w->post.config, &events, &w->post.source, &e))
		fail_msg("%s", e.text);
	migrate_config_defaults(&c);
	c.postcopy_after = 1;
	c.stuck = STUCK_POSTCOPY;
	assert_int_equal(precopy_create(w->post.from, &c, w->post.source, &w->precopy), 0);
}

static void world_end(struct world *w)
{
	precopy_destroy(w->precopy);
	postcopy_source_destroy(w->post.source);
	close(w->post.listener);
	free(w->post.ram);
	free(w->post.missing);
	pthread_cond_destroy(&w->post.changed);
	pthread_mutex_destroy(&w->post.lock);
	vm_destroy(w->post.from);
	loop_destroy(w->io);
}

/* Asked again and again, as the thread that decides does it. */
static enum replicate_next next(struct world *w)
{
	enum replicate_next n;

	while ((n = precopy_next(w->precopy, &hopeless)) == NEXT_LINK)
		usleep(1000);
	return n;
}

/* A target that takes the connection and says nothing: neither those who decide wait for it, nor
 * those who end it. The link has 5 s; that they are not over is seen by the answer. */
static void a_link_that_hangs_holds_nobody_up(void **state)
{
	struct world w;
	struct pollfd p = {.events = POLLIN};
	struct migrate_progress m;

	world_make(&w);
	p.fd = w.post.listener;
	assert_int_equal(precopy_next(w.precopy, &hopeless), NEXT_LINK);
	assert_int_equal(poll(&p, 1, 60000), 1);
	assert_int_equal(precopy_next(w.precopy, &hopeless), NEXT_LINK);
	precopy_progress(w.precopy, &m);
	assert_false(m.gave_up);
	precopy_unlink(w.precopy);
	assert_int_equal(next(&w), NEXT_STOP);
	precopy_progress(w.precopy, &m);
	assert_true(m.gave_up);
	assert_non_null(strstr(m.why, strerror(ESHUTDOWN)));
	world_end(&w);
}

static void no_link_is_begun_after_the_end(void **state)
{
	struct world w;

	world_make(&w);
	precopy_unlink(w.precopy);
	postcopy_source_destroy(w.post.source);
	w.post.source = NULL;
	assert_int_equal(precopy_next(w.precopy, &hopeless), NEXT_STOP);
	world_end(&w);
}

static void where_nobody_listens_it_stops(void **state)
{
	struct world w;
	struct migrate_progress m;

	world_make(&w);
	shutdown(w.post.listener, SHUT_RDWR);
	assert_int_equal(next(&w), NEXT_STOP);
	precopy_progress(w.precopy, &m);
	assert_true(m.gave_up);
	assert_non_null(strstr(m.why, "postcopy is not possible: connect to 127.0.0.1"));
	world_end(&w);
}

/* Whether the guest goes; else why not. */
static bool link_goes(char why[256])
{
	struct world w;
	struct migrate_progress m;
	enum replicate_next n;
	const struct postcopy_events at_target = {post_state, &w.post.at_target};
	struct error e = {0};
	struct vm *to;

	world_make(&w);
	to = post_machine(w.io, MEMORY);
	if (vm_lazy_prepare(to, &e)) {
		print_message("%s\n", e.text);
		vm_destroy(to);
		world_end(&w);
		skip();
	}
	if (postcopy_target_create(to, &w.post.config, &at_target, &w.post.target, &e))
		fail_msg("%s", e.text);
	assert_int_equal(thread_start(&w.post.acceptor, "accept", post_accept_main, &w.post), 0);
	n = next(&w);
	if (n == NEXT_POSTCOPY)
		post_wait(&w.post.at_source, POSTCOPY_READY);
	precopy_progress(w.precopy, &m);
	snprintf(why, 256, "%u: %s", n, m.why ? m.why : "");
	precopy_destroy(w.precopy);
	post_end(&w.post);
	vm_destroy(to);
	vm_destroy(w.post.from);
	loop_destroy(w.io);
	return n == NEXT_POSTCOPY;
}

/* The 5 s that the link has may be too few on a busy machine. */
static void with_a_link_the_guest_goes(void **state)
{
	unsigned tries = 1;
	char why[256];

	while (!link_goes(why))
		if (!strstr(why, strerror(ETIMEDOUT)) || tries++ == LINK_TRIES)
			fail_msg("%s", why);
}

/* ---- the rehearsal ------------------------------------------------------------------------ */

struct stage {
	struct loop *io;
	struct vm *vm;
	struct precopy *precopy;
	struct migrate_config config;
	unsigned rehearsals;
};

static void rehearse(void *ctx)
{
	((struct stage *)ctx)->rehearsals++;
}

static void stage_config(struct stage *s)
{
	*s = (struct stage){0};
	migrate_config_defaults(&s->config);
}

static void stage_make(struct stage *s)
{
	assert_int_equal(loop_create(&s->io), 0);
	s->vm = post_machine(s->io, MEMORY);
	assert_int_equal(precopy_create(s->vm, &s->config, NULL, &s->precopy), 0);
	precopy_rehearsal(s->precopy, rehearse, s);
}

static void stage_end(struct stage *s)
{
	precopy_destroy(s->precopy);
	vm_destroy(s->vm);
	loop_destroy(s->io);
}

/* At 10 us a page, so that 2500 of them fit the 25 ms that are theirs. */
static enum replicate_next round_of(struct stage *s, unsigned n, uint64_t pages, uint64_t dirty)
{
	return precopy_next(s->precopy, &(struct replicate_round){.round = n,
								  .pages = pages,
								  .ns = pages * 10000,
								  .bytes = pages * VM_PAGE_SIZE,
								  .dirty = dirty,
								  .members_synced = true});
}

/* The wait for the rehearsal comes to its end; `now` are dirty by then. */
static enum replicate_next round_counted(struct stage *s, unsigned n, uint64_t pages,
					 uint64_t dirty, uint64_t now)
{
	enum replicate_next next;

	while ((next = round_of(s, n, pages, dirty)) == NEXT_LINK)
		usleep(1000);
	assert_int_equal(next, NEXT_COUNT);
	return round_of(s, n, pages, now);
}

static uint64_t forecast(struct stage *s)
{
	struct migrate_progress m;

	precopy_progress(s->precopy, &m);
	return m.forecast_ns;
}

static void the_pause_waits_for_its_rehearsal(void **state)
{
	struct stage s;

	stage_config(&s);
	stage_make(&s);
	assert_int_equal(round_of(&s, 1, 1000000, 50000), NEXT_ROUND);
	assert_int_equal(s.rehearsals, 0);
	assert_int_equal(round_of(&s, 2, 50000, 100), NEXT_LINK);
	assert_int_equal(s.rehearsals, 1);
	precopy_fixed(s.precopy, 9 * NS_PER_MS, true);
	assert_int_equal(round_of(&s, 2, 50000, 100), NEXT_COUNT);
	assert_int_equal(round_of(&s, 2, 50000, 200), NEXT_ROUND);
	/* It took 10 us a page, and there is no trip. */
	assert_int_equal(round_of(&s, 3, 100, 5), NEXT_SEAL);
	assert_int_equal(forecast(&s), 9 * NS_PER_MS + 5 * 10000);
	assert_int_equal(s.rehearsals, 1);
	stage_end(&s);
}

/* What was measured before it is not what it waits for. */
static void an_older_forecast_is_none(void **state)
{
	struct stage s;
	uint64_t began;

	stage_config(&s);
	stage_make(&s);
	precopy_fixed(s.precopy, 7 * NS_PER_MS, true);
	began = clock_ns();
	assert_int_equal(round_of(&s, 1, 1000000, 100), NEXT_LINK);
	precopy_fixed(s.precopy, 8 * NS_PER_MS, false);
	assert_int_equal(round_counted(&s, 1, 1000000, 100, 100), NEXT_ROUND);
	assert_true(clock_ns() - began >= 50 * NS_PER_MS);
	assert_int_equal(round_of(&s, 2, 100, 5), NEXT_SEAL);
	assert_int_equal(forecast(&s), 8 * NS_PER_MS + 5 * 10000);
	assert_int_equal(s.rehearsals, 1);
	stage_end(&s);
}

/* To ask again is no round: of those there are at most so many. */
static void waiting_is_no_round(void **state)
{
	struct stage s;

	stage_config(&s);
	s.config.rounds_max = 4;
	stage_make(&s);
	assert_int_equal(round_of(&s, 1, 1000000, 500000), NEXT_ROUND);
	assert_int_equal(round_of(&s, 2, 500000, 2000), NEXT_LINK);
	assert_int_equal(round_counted(&s, 2, 500000, 2000, 2000), NEXT_SEAL);
	assert_int_equal(round_of(&s, 3, 2000, 500000), NEXT_ROUND); /* its seal has failed */
	assert_int_equal(round_of(&s, 4, 500000, 500000), NEXT_STOP);
	assert_int_equal(s.rehearsals, 1);
	stage_end(&s);
}

static enum replicate_next round_with_disks(struct stage *s, unsigned n, uint64_t queued)
{
	return precopy_next(s->precopy, &(struct replicate_round){.round = n,
								  .pages = 1000000,
								  .ns = 10 * NS_PER_SEC,
								  .bytes = 4096000000,
								  .dirty = 600,
								  .members_synced = true,
								  .queued = queued});
}

/* So does what it has written to its disks. */
static void what_disks_gave_meanwhile_counts(void **state)
{
	struct stage s;

	stage_config(&s);
	s.config.link_bytes_per_second = 125000000;
	stage_make(&s);
	assert_int_equal(round_with_disks(&s, 1, 0), NEXT_LINK);
	precopy_fixed(s.precopy, 9 * NS_PER_MS, true);
	assert_int_equal(round_with_disks(&s, 1, 0), NEXT_COUNT);
	assert_int_equal(round_with_disks(&s, 1, 12500000), NEXT_ROUND);
	assert_true(forecast(&s) > 109 * NS_PER_MS);
	stage_end(&s);
}

/* A guest that has filled the pause meanwhile is not stopped for it, however fast it wrote before,
 * and not rehearsed again. */
static void what_came_meanwhile_counts(void **state)
{
	struct stage s;

	stage_config(&s);
	stage_make(&s);
	assert_int_equal(round_of(&s, 1, 1000000, 600), NEXT_LINK);
	assert_int_equal(round_counted(&s, 1, 1000000, 600, 2600), NEXT_ROUND);
	assert_int_equal(round_of(&s, 2, 2600, 2400), NEXT_SEAL);
	assert_int_equal(s.rehearsals, 1);
	stage_end(&s);
}

/* Nor is a guest sent round for what it might have written. */
static void what_did_not_come_does_not(void **state)
{
	struct stage s;

	stage_config(&s);
	stage_make(&s);
	assert_int_equal(round_of(&s, 1, 1000, 2400), NEXT_LINK);
	assert_int_equal(round_counted(&s, 1, 1000, 2400, 2450), NEXT_SEAL);
	assert_int_equal(forecast(&s), s.config.fixed_ns + 2450 * 10000);
	stage_end(&s);
}

/* A guest that could go is not made one that is stuck by what it writes while it waits. */
static void no_rehearsal_in_the_last_round(void **state)
{
	struct stage s;

	for (unsigned max = 2; max <= 4; max++) {
		stage_config(&s);
		s.config.rounds_max = max;
		stage_make(&s);
		assert_int_equal(round_of(&s, 1, 1000000, 500000), NEXT_ROUND);
		assert_int_equal(round_of(&s, 2, 500000, 2000), max < 4 ? NEXT_SEAL : NEXT_LINK);
		assert_int_equal(s.rehearsals, max < 4 ? 0 : 1);
		stage_end(&s);
	}
}

static void no_rehearsal_at_the_end_of_the_time(void **state)
{
	/* 50 ms, and two rounds of 20. */
	static const struct {
		uint64_t left;
		enum replicate_next next;
	} cases[] = {
		{NS_PER_MS, NEXT_SEAL}, {85 * NS_PER_MS, NEXT_SEAL}, {95 * NS_PER_MS, NEXT_LINK}};
	struct replicate_round r = {.round = 1,
				    .pages = 1000000,
				    .ns = 10 * NS_PER_SEC,
				    .dirty = 2000,
				    .elapsed_ns = 10 * NS_PER_SEC,
				    .members_synced = true};
	struct stage s;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		stage_config(&s);
		s.config.most_ns = r.elapsed_ns + cases[i].left;
		stage_make(&s);
		assert_int_equal(precopy_next(s.precopy, &r), cases[i].next);
		assert_int_equal(s.rehearsals, cases[i].next == NEXT_LINK);
		stage_end(&s);
	}
}

static void a_policy_loses_no_time(void **state)
{
	struct stage s;

	stage_config(&s);
	s.config.stuck = STUCK_STOP;
	s.config.rounds_max = 1;
	stage_make(&s);
	assert_int_equal(round_of(&s, 1, 1000000, 20000), NEXT_SEAL);
	assert_int_equal(s.rehearsals, 0);
	stage_end(&s);
}

static void postcopy_is_not_rehearsed(void **state)
{
	struct world w;
	struct stage s = {0};

	world_make(&w);
	precopy_rehearsal(w.precopy, rehearse, &s);
	shutdown(w.post.listener, SHUT_RDWR);
	assert_int_equal(next(&w), NEXT_STOP);
	assert_int_equal(s.rehearsals, 0);
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_link_that_hangs_holds_nobody_up),
		cmocka_unit_test(no_link_is_begun_after_the_end),
		cmocka_unit_test(where_nobody_listens_it_stops),
		cmocka_unit_test(with_a_link_the_guest_goes),
		cmocka_unit_test(the_pause_waits_for_its_rehearsal),
		cmocka_unit_test(an_older_forecast_is_none),
		cmocka_unit_test(waiting_is_no_round),
		cmocka_unit_test(what_came_meanwhile_counts),
		cmocka_unit_test(what_did_not_come_does_not),
		cmocka_unit_test(what_disks_gave_meanwhile_counts),
		cmocka_unit_test(no_rehearsal_in_the_last_round),
		cmocka_unit_test(no_rehearsal_at_the_end_of_the_time),
		cmocka_unit_test(a_policy_loses_no_time),
		cmocka_unit_test(postcopy_is_not_rehearsed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
