// SPDX-License-Identifier: Apache-2.0
/* The link for memory that follows, as the decisions of a precopy see it. */
#include <poll.h>

#include "tests/unit/migrate/postlink.h"

#define MEMORY (UINT64_C(8) << 20)

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

static void with_a_link_the_guest_goes(void **state)
{
	struct world w;
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
	assert_int_equal(next(&w), NEXT_POSTCOPY);
	post_wait(&w.post.at_source, POSTCOPY_READY);
	precopy_destroy(w.precopy);
	post_end(&w.post);
	vm_destroy(to);
	vm_destroy(w.post.from);
	loop_destroy(w.io);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_link_that_hangs_holds_nobody_up),
		cmocka_unit_test(no_link_is_begun_after_the_end),
		cmocka_unit_test(where_nobody_listens_it_stops),
		cmocka_unit_test(with_a_link_the_guest_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
