// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

static int loop_setup(void **state)
{
	return loop_create((struct loop **)state);
}

static int loop_teardown(void **state)
{
	loop_destroy(*state);
	return 0;
}

struct source {
	struct loop *loop;
	int fd;
	struct loop_watch *watch;
	struct source *other;
	unsigned calls;
	uint32_t events;
};

static void source_open(struct source *s, struct loop *l, loop_fd_fn *fn)
{
	*s = (struct source){.loop = l, .fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)};
	assert_true(s->fd >= 0);
	assert_int_equal(loop_watch(l, s->fd, EPOLLIN, fn, s, &s->watch), 0);
}

static void source_close(struct source *s)
{
	loop_unwatch(s->watch);
	s->watch = NULL;
	close(s->fd);
}

static void count_event(void *ctx, uint32_t events)
{
	struct source *s = ctx;

	s->calls++;
	s->events = events;
}

static void test_watch_and_rewatch(void **state)
{
	struct source s;

	source_open(&s, *state, count_event);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(s.calls, 1);
	assert_int_equal(s.events, EPOLLIN);
	assert_int_equal(loop_rewatch(s.watch, EPOLLOUT), 0);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(s.events, EPOLLOUT);
	assert_int_equal(loop_rewatch(s.watch, 0), 0);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(s.calls, 2);
	source_close(&s);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(s.calls, 2);
}

static void test_watch_refuses_a_bad_fd(void **state)
{
	struct loop_watch *w = NULL;

	assert_int_equal(loop_watch(*state, -1, EPOLLIN, count_event, NULL, &w), -EBADF);
	assert_null(w);
	loop_unwatch(NULL);
	loop_timer_free(NULL);
	loop_destroy(NULL);
}

static void unwatch_both(void *ctx, uint32_t events)
{
	struct source *s = ctx;

	s->calls++;
	source_close(s->other);
	source_close(s);
}

/* Both are ready in the same round; whichever comes first, the other must not run. */
static void test_unwatch_inside_a_callback(void **state)
{
	struct source a, b;

	source_open(&a, *state, unwatch_both);
	source_open(&b, *state, unwatch_both);
	a.other = &b;
	b.other = &a;
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(a.calls + b.calls, 1);
}

static void replace_other(void *ctx, uint32_t events)
{
	struct source *s = ctx, *other = s->other;
	int was = other->fd;

	s->calls++;
	loop_unwatch(s->watch);
	source_close(other);
	other->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(other->fd, was);
	assert_int_equal(loop_watch(s->loop, other->fd, EPOLLIN, count_event, other, &other->watch),
			 0);
}

/* The event of a closed descriptor must not reach the new one of the same number. */
static void test_reused_descriptor(void **state)
{
	struct source a, b, *later;

	source_open(&a, *state, replace_other);
	source_open(&b, *state, replace_other);
	a.other = &b;
	b.other = &a;
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(a.calls + b.calls, 1);
	later = a.calls ? &b : &a;
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(later->calls, 0);
	source_close(later);
	close(later->other->fd);
}

struct ticker {
	struct loop *loop;
	struct loop_timer *timer, *other;
	unsigned calls, order;
	uint64_t again_at;
};

static unsigned order;

static void tick(void *ctx)
{
	struct ticker *t = ctx;

	t->calls++;
	t->order = ++order;
	if (t->again_at)
		loop_timer_set(t->timer, t->again_at);
	if (t->other)
		loop_timer_set(t->other, 0);
}

static void ticker_open(struct ticker *t, struct loop *l)
{
	*t = (struct ticker){.loop = l};
	assert_int_equal(loop_timer(l, tick, t, &t->timer), 0);
}

static void test_timers_run_in_order(void **state)
{
	struct ticker t[4];

	order = 0;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		ticker_open(&t[i], *state);
	loop_timer_set(t[0].timer, 30);
	loop_timer_set(t[1].timer, 10);
	loop_timer_set(t[2].timer, 30);
	loop_timer_set(t[3].timer, 20);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_true(t[1].order == 1 && t[3].order == 2 && t[0].order == 3 && t[2].order == 4);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_int_equal(order, 4);
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		loop_timer_free(t[i].timer);
}

static void test_timer_never_early(void **state)
{
	uint64_t at = clock_ns() + 3 * NS_PER_MS;
	struct ticker t;

	ticker_open(&t, *state);
	loop_timer_set(t.timer, at + NS_PER_SEC * 1000);
	loop_timer_set(t.timer, at);
	while (!t.calls)
		assert_int_equal(loop_step(*state, 0), 0);
	assert_true(clock_ns() >= at);
	assert_int_equal(t.calls, 1);
	loop_timer_free(t.timer);
}

static void test_timer_ends_a_wait(void **state)
{
	uint64_t at = clock_ns() + 3 * NS_PER_MS;
	struct ticker t;

	ticker_open(&t, *state);
	loop_timer_set(t.timer, at);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(t.calls, 1);
	assert_true(clock_ns() >= at);
	loop_timer_free(t.timer);
}

static void test_timer_set_again_waits_for_the_next_round(void **state)
{
	struct ticker t;

	ticker_open(&t, *state);
	t.again_at = 1;
	loop_timer_set(t.timer, 1);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(t.calls, 1);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(t.calls, 2);
	loop_timer_free(t.timer);
}

static void test_due_timer_switched_off_by_another(void **state)
{
	struct ticker a, b;

	ticker_open(&a, *state);
	ticker_open(&b, *state);
	a.other = b.timer;
	loop_timer_set(a.timer, 1);
	loop_timer_set(b.timer, 2);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(loop_step(*state, 0), 0);
	assert_true(a.calls == 1 && b.calls == 0);
	loop_timer_free(a.timer);
	loop_timer_free(b.timer);
}

static void free_both(void *ctx)
{
	struct ticker *t = ctx;

	t->calls++;
	loop_timer_free(t->timer);
	loop_timer_free(t->other);
}

static void test_timers_freed_by_a_timer(void **state)
{
	struct ticker a = {.loop = *state}, b = {.loop = *state};

	assert_int_equal(loop_timer(*state, free_both, &a, &a.timer), 0);
	assert_int_equal(loop_timer(*state, free_both, &b, &b.timer), 0);
	a.other = b.timer;
	loop_timer_set(a.timer, 1);
	loop_timer_set(b.timer, 1);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_true(a.calls == 1 && b.calls == 0);
}

/* Random sets and resets against a plain array of times, the clock far in the past. */
static void test_many_timers(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	struct ticker t[50];
	uint64_t at[50];

	print_message("seed %u\n", seed);
	srandom(seed);
	order = 0;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		ticker_open(&t[i], *state);
	for (int i = 0; i < 2000; i++) {
		size_t one = (size_t)random() % ARRAY_LEN(t);

		at[one] = (uint64_t)random() % 1000;
		loop_timer_set(t[one].timer, at[one]);
	}
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		loop_timer_set(t[i].timer, at[i] = (uint64_t)random() % 100);
	assert_int_equal(loop_step(*state, 0), 0);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		assert_int_equal(t[i].calls, at[i] ? 1 : 0);
		for (size_t j = 0; at[i] && j < ARRAY_LEN(t); j++)
			if (at[j] > at[i])
				assert_true(t[j].order > t[i].order);
		loop_timer_free(t[i].timer);
	}
}

struct posts {
	struct loop *loop;
	unsigned calls, last;
};

static void post_again(void *ctx)
{
	struct posts *p = ctx;

	p->calls++;
	if (p->calls < 3)
		assert_int_equal(loop_post(p->loop, post_again, p), 0);
}

static void test_posted_call_that_posts(void **state)
{
	struct posts p = {.loop = *state};

	assert_int_equal(loop_post(*state, post_again, &p), 0);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(p.calls, 1);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(loop_step(*state, -1), 0);
	assert_int_equal(p.calls, 3);
}

static void test_unrun_posts_are_dropped(void **state)
{
	struct posts p = {0};

	assert_int_equal(loop_post(*state, post_again, &p), 0);
	loop_destroy(*state);
	*state = NULL;
	assert_int_equal(p.calls, 0);
}

#define POSTERS    3
#define POSTS_EACH 20000

struct poster {
	struct loop *loop;
	pthread_t thread;
	unsigned next, seen;
	bool disordered;
	unsigned *total;
};

struct numbered {
	struct poster *from;
	unsigned number;
};

static void numbered_run(void *ctx)
{
	struct numbered *n = ctx;
	struct poster *p = n->from;

	p->disordered |= n->number != p->seen++;
	free(n);
	if (++*p->total == POSTERS * POSTS_EACH)
		loop_stop(p->loop);
}

static void *poster_run(void *ctx)
{
	struct poster *p = ctx;

	for (unsigned i = 0; i < POSTS_EACH; i++) {
		struct numbered *n = malloc(sizeof(*n));

		*n = (struct numbered){.from = p, .number = i};
		if (loop_post(p->loop, numbered_run, n))
			abort();
	}
	return NULL;
}

static void test_posts_from_many_threads(void **state)
{
	struct poster p[POSTERS];
	unsigned total = 0;

	for (size_t i = 0; i < POSTERS; i++) {
		p[i] = (struct poster){.loop = *state, .total = &total};
		assert_int_equal(thread_start(&p[i].thread, "poster", poster_run, &p[i]), 0);
	}
	assert_int_equal(loop_run(*state), 0);
	for (size_t i = 0; i < POSTERS; i++) {
		pthread_join(p[i].thread, NULL);
		assert_int_equal(p[i].seen, POSTS_EACH);
		assert_false(p[i].disordered);
	}
}

static void *stopper(void *ctx)
{
	loop_stop(ctx);
	return NULL;
}

static void test_stop_from_another_thread(void **state)
{
	pthread_t t;

	assert_int_equal(thread_start(&t, "stopper", stopper, *state), 0);
	assert_int_equal(loop_run(*state), 0);
	pthread_join(t, NULL);
}

static void stop_when_run(void *ctx)
{
	struct posts *p = ctx;

	p->calls++;
	loop_stop(p->loop);
}

static void test_early_stop_counts_once(void **state)
{
	struct posts p = {.loop = *state};

	assert_int_equal(loop_post(*state, stop_when_run, &p), 0);
	loop_stop(*state);
	assert_int_equal(loop_run(*state), 0);
	assert_int_equal(p.calls, 0);
	assert_int_equal(loop_run(*state), 0);
	assert_int_equal(p.calls, 1);
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, loop_setup, loop_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_watch_and_rewatch),
		LOOP_TEST(test_watch_refuses_a_bad_fd),
		LOOP_TEST(test_unwatch_inside_a_callback),
		LOOP_TEST(test_reused_descriptor),
		LOOP_TEST(test_timers_run_in_order),
		LOOP_TEST(test_timer_never_early),
		LOOP_TEST(test_timer_ends_a_wait),
		LOOP_TEST(test_timer_set_again_waits_for_the_next_round),
		LOOP_TEST(test_due_timer_switched_off_by_another),
		LOOP_TEST(test_timers_freed_by_a_timer),
		LOOP_TEST(test_many_timers),
		LOOP_TEST(test_posted_call_that_posts),
		LOOP_TEST(test_unrun_posts_are_dropped),
		LOOP_TEST(test_posts_from_many_threads),
		LOOP_TEST(test_stop_from_another_thread),
		LOOP_TEST(test_early_stop_counts_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
